//! Which ids random prompts may be made of: those of the model, as far as somebody says how many it has.

use crate::Scenario;
use crate::proxy::Way;
use crate::target::grpc::Channels;
use stageline_base::Fault;
use stageline_proto::inference::StatusRequest;
use std::time::Duration;

/// How long a server may take to say how many tokens its model has. One that does not say so is no reason not to begin.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many tokens the model has, as the first of `places` says that answers `Status`; `None` if none does.
pub async fn told_by(places: impl IntoIterator<Item = &str>) -> Option<u32> {
    for place in places {
        let Some((_, rest)) = place.split_once("://") else { continue };
        let server = format!("http://{}", rest.split('/').next().unwrap_or_default());
        // `Status` is gRPC, which goes through no proxy.
        if Way::to(&server).is_ok_and(|way| way.proxy.is_some()) {
            continue;
        }
        let asking = async {
            let channels = Channels::connect(&server).await.ok()?;
            let status = channels.client().status(StatusRequest {}).await.ok()?;
            Some(status.into_inner().vocab).filter(|vocab| *vocab > 0)
        };
        if let Ok(Some(vocab)) = tokio::time::timeout(PATIENCE, asking).await {
            return Some(vocab);
        }
    }
    None
}

/// The range of ids to use where `asked` is what the settings say and the model has `vocab` tokens.
///
/// # Errors
/// `InvalidRequest` if somebody asked for ids that the model has not.
pub fn within(asked: (u32, u32), vocab: u32) -> Result<(u32, u32), Fault> {
    let usual = Scenario::default().token_ids;
    match asked.1 <= vocab {
        true => Ok(asked),
        // The lowest ids are often control tokens: they are left out where there are others.
        false if asked == usual => Ok((if vocab > 2 * usual.0 { usual.0 } else { 0 }, vocab)),
        false => Err(Fault::invalid(format!(
            "--token-ids is {}..{}, and the model has {vocab} tokens: give a range within 0..{vocab}",
            asked.0, asked.1
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_range_shrinks_to_the_model_and_one_that_was_asked_for_is_refused() {
        for (vocab, want) in
            [(40, (0, 40)), (200, (0, 200)), (201, (100, 201)), (1000, (100, 1000)), (50_000, (100, 1000))]
        {
            assert_eq!(within((100, 1000), vocab), Ok(want), "{vocab}");
        }
        assert_eq!(within((3, 40), 40), Ok((3, 40)));
        assert!(within((3, 41), 40).unwrap_err().message.contains("within 0..40"));
    }
}
