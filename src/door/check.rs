//! The ranges of a request's numbers, whichever way it came. Every refusal names the field, what it may be and what it is.

use crate::Request;
use stageline_base::limits::{DIGEST_DIGITS, MAX_STOP_BYTES, MAX_STOP_STRINGS};
use stageline_base::{Fault, FaultClass};

/// Checks all that can be checked without the model.
///
/// # Errors
/// `InvalidRequest`, naming the first field that is out of its range.
pub fn check(request: &Request) -> Result<(), Fault> {
    request.sampling.or(0).check()?;
    if request.max_tokens == Some(0) {
        return Err(Fault::invalid("`max_tokens` may be 1 or more, not 0"));
    }
    if request.deadline.is_some_and(|d| d.is_zero()) {
        return Err(Fault::invalid("the deadline may be 1 ms or more, not 0"));
    }
    if request.stop.len() > MAX_STOP_STRINGS {
        let count = request.stop.len();
        return Err(Fault::invalid(format!("`stop` may hold at most {MAX_STOP_STRINGS} texts, not {count}")));
    }
    if let Some(stop) = request.stop.iter().find(|s| s.is_empty() || s.len() > MAX_STOP_BYTES) {
        let bytes = stop.len();
        return Err(Fault::invalid(format!("a text of `stop` may be 1 to {MAX_STOP_BYTES} bytes long, not {bytes}")));
    }
    Ok(())
}

/// Checks that a request that names a digest is meant for this one, the manifest's that is `served`.
///
/// # Errors
/// `InvalidRequest` for what is no beginning of a digest, `Misdirected` for another digest's.
pub fn check_manifest(named: Option<&str>, served: &str) -> Result<(), Fault> {
    let Some(named) = named else { return Ok(()) };
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if !DIGEST_DIGITS.contains(&named.len()) || !named.bytes().all(digit) {
        let (least, most) = DIGEST_DIGITS.into_inner();
        let words = format!("the first {least} to {most} digits, 0-9 and a-f, of a manifest's SHA-256");
        return Err(Fault::invalid(format!("`manifest` may be {words}")));
    }
    if served.starts_with(named) {
        return Ok(());
    }
    let words = format!(
        "manifest {named} is asked for, and this door serves {served}: send the request to a door of {named}, ask for {served}, \
         or leave `manifest` out"
    );
    Err(Fault::new(FaultClass::Misdirected, words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Input;
    use stageline_base::Sampling;
    use std::time::Duration;

    fn ask(change: impl FnOnce(&mut Request)) -> Result<(), String> {
        let mut request = Request::new("id", Input::Text("x".into()));
        change(&mut request);
        check(&request).map_err(|fault| fault.message)
    }

    #[test]
    fn numbers_in_range_pass() {
        assert_eq!(Request::new("id", Input::Tokens(vec![])).sampling.or(0), Sampling::GREEDY);
        let edges = |low: bool| {
            ask(|r| {
                r.sampling.temperature = Some(if low { 0.0 } else { 100.0 });
                r.sampling.top_p = Some(if low { f32::MIN_POSITIVE } else { 1.0 });
                r.sampling.repetition_penalty = Some(if low { 0.01 } else { 100.0 });
                r.max_tokens = Some(if low { 1 } else { u32::MAX });
                r.sampling.top_logits = Some(if low { 0 } else { 20 });
                r.stop = vec!["x".repeat(if low { 1 } else { 256 }); if low { 0 } else { 16 }];
            })
        };
        assert_eq!((edges(true), edges(false)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_digest_is_known_by_its_beginning() {
        let served = "00112233aa".to_owned() + &"f".repeat(54);
        let class = |named: &str| check_manifest(Some(named), &served).map_err(|fault| fault.class);
        for right in ["00112233", "00112233aaff", served.as_str()] {
            assert_eq!(class(right), Ok(()), "{right}");
        }
        assert_eq!(check_manifest(None, &served), Ok(()));
        for other in ["10112233", "00112233ab"] {
            assert_eq!(class(other), Err(FaultClass::Misdirected), "{other}");
        }
        assert!(check_manifest(Some("10112233"), &served).unwrap_err().message.contains(&served));
        for none in ["", "0011223", "0011223G", "00112233AA", &"0".repeat(65)] {
            assert_eq!(class(none), Err(FaultClass::InvalidRequest), "{none}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        let refused = |field: &str, change: fn(&mut Request)| {
            let message = ask(change).unwrap_err();
            assert!(message.contains(field), "{message}");
        };
        refused("`temperature`", |r| r.sampling.temperature = Some(-0.1));
        refused("`temperature`", |r| r.sampling.temperature = Some(100.1));
        refused("`temperature`", |r| r.sampling.temperature = Some(f32::NAN));
        refused("`top_p`", |r| r.sampling.top_p = Some(0.0));
        refused("`top_p`", |r| r.sampling.top_p = Some(1.01));
        refused("`top_p`", |r| r.sampling.top_p = Some(f32::NAN));
        refused("`repetition_penalty`", |r| r.sampling.repetition_penalty = Some(0.0));
        refused("`repetition_penalty`", |r| r.sampling.repetition_penalty = Some(f32::INFINITY));
        refused("`repetition_penalty`", |r| r.sampling.repetition_penalty = Some(f32::NAN));
        refused("`repetition_penalty`", |r| r.sampling.repetition_penalty = Some(1e-45));
        refused("`repetition_penalty`", |r| r.sampling.repetition_penalty = Some(0.0099));
        refused("`repetition_penalty`", |r| r.sampling.repetition_penalty = Some(100.1));
        refused("`max_tokens`", |r| r.max_tokens = Some(0));
        refused("deadline", |r| r.deadline = Some(Duration::ZERO));
        refused("`top_logits`", |r| r.sampling.top_logits = Some(21));
        refused("`stop`", |r| r.stop = vec![String::new()]);
        refused("`stop`", |r| r.stop = vec!["x".repeat(257)]);
        refused("`stop`", |r| r.stop = vec!["x".to_string(); 17]);
    }
}
