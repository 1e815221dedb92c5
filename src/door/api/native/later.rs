//! What makes a request durable: its client wants the answer later, may send it again, or is OpenFaaS' queue worker, which does.

use crate::api::idempotency;
use crate::call::Call;
use crate::call_ids::CALL_ID;
use crate::durable::{Api, Asking, Declined, Keeper, Kept, Key};
use crate::http::kinds;
use crate::http::refusal::Refusal;
use crate::site::{Limits, NoStore, Site};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use stageline_base::{Fault, FaultClass};
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const CALLBACK_URL: HeaderName = HeaderName::from_static("x-callback-url");
/// How the User-Agent of OpenFaaS' queue worker begins. It calls again what outlasts its patience, with the same id.
const QUEUE_WORKER: &str = "openfaas-ce/nats-queue-worker";

/// Who keeps the durable requests of `site`.
///
/// # Errors
/// 501 where the door was started without a store, 503 where that cannot be used.
pub(super) fn keeper_of(site: &Site) -> Result<&Arc<Keeper>, Refusal> {
    site.setup.keeper.as_ref().map_err(|none| match none {
        NoStore::Unasked => Refusal::with_status(StatusCode::NOT_IMPLEMENTED, none.words()),
        NoStore::Unusable(_) => Fault::new(FaultClass::Unavailable, none.words()).into(),
    })
}

/// How a request is to be kept.
pub(super) struct Durably {
    keeper: Arc<Keeper>,
    /// The client's key, or else the call's id counts.
    key: Option<String>,
    /// Its client does not wait for the answer.
    pub later: bool,
    callback: Option<String>,
}

impl Durably {
    /// What `headers` ask for; `None` for a request that is not to be kept.
    ///
    /// # Errors
    /// 501 where the answer is wanted later and there is no store, 400 for a header that is wrong.
    pub(super) fn of(site: &Site, headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let (later, key) = (is_async(headers), idempotency::key(headers)?);
        let keeper = match keeper_of(site) {
            Ok(keeper) => Arc::clone(keeper),
            // Whoever relies on a key must not have its request run twice since the store is away.
            Err(refusal) if later || (key.is_some() && !is_unasked(site)) => return Err(refusal),
            Err(_) => {
                if key.is_some() {
                    warn_once();
                }
                return Ok(None);
            }
        };
        let setup = keeper.setup();
        let agent =
            headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(QUEUE_WORKER.as_bytes()));
        let joins = headers.contains_key(CALL_ID) && (agent || setup.join_always);
        if !later && key.is_none() && !joins {
            return Ok(None);
        }
        let named = kinds::single(headers, &CALLBACK_URL)?;
        let callback = match (later, named) {
            (true, Some(url)) => {
                let text = url.to_str().map_err(|_| Fault::invalid("X-Callback-Url is no URL"))?;
                Some(setup.outgoing.check("X-Callback-Url", text)?.to_string())
            }
            (true, None) => setup.callback_url.clone(),
            // Whoever is named there, the queue worker tells.
            (false, None) if joins => setup.callback_url.clone(),
            (false, _) => None,
        };
        Ok(Some(Self { keeper, key, later, callback }))
    }

    /// What such a request may take: it has its own deadlines, and how long its client waits is not one.
    pub(super) fn limits(&self, limits: &Limits) -> Limits {
        let time = self.keeper.setup().timeout;
        Limits { default_deadline: time, max_deadline: time, ..limits.clone() }
    }

    /// Who keeps it.
    pub(super) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    /// Has it kept.
    ///
    /// # Errors
    /// 422 where the key was used for another body, and what the keeper says.
    pub(super) async fn kept(
        &self,
        call: &Call,
        (headers, body): (&HeaderMap, &[u8]),
        time: Duration,
    ) -> Result<Kept, Refusal> {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let key = self.key.as_deref().map_or(Key::Call(&call.id), Key::Idempotency);
        let asking = Asking {
            principal: call.principal()?,
            key,
            call_id: &call.id,
            trace: call.trace,
            api: Api::Http,
            content_type,
            body,
            time,
            callback: self.callback.as_deref(),
        };
        self.keeper.accept(asking).await.map_err(|declined| match declined {
            Declined::OtherBody => {
                let what = if self.key.is_some() { "Idempotency-Key" } else { "X-Call-Id" };
                let words = format!("this {what} was used for another body: send another one with this body");
                Refusal::with_status(StatusCode::UNPROCESSABLE_ENTITY, words)
            }
            Declined::Fault(fault) => fault.into(),
        })
    }
}

/// Whether the door was started without a store.
fn is_unasked(site: &Site) -> bool {
    matches!(site.setup.keeper, Err(NoStore::Unasked))
}

/// Whether the client wants its answer later (RFC 7240).
pub(in crate::api) fn is_async(headers: &HeaderMap) -> bool {
    let preferences =
        headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut names = preferences.map(|preference| preference.split(';').next().unwrap_or("").trim());
    names.any(|name| name.eq_ignore_ascii_case("respond-async"))
}

fn warn_once() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "an Idempotency-Key counts for nothing here, since nothing is kept: start with --store FILE, or with --nats"
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn an_answer_is_wanted_later_however_that_is_written() {
        let wanted = |values: &[&str]| is_async(&headers(PREFER, values));
        assert!(
            wanted(&["respond-async"])
                && wanted(&["wait=10, Respond-Async"])
                && wanted(&["return=minimal", "respond-async; x=1"])
        );
        assert!(
            !wanted(&[])
                && !wanted(&["respond-sync"])
                && !wanted(&["x=respond-async"])
                && !wanted(&["respond-async-not"])
        );
    }
}
