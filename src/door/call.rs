//! One request from its arrival to its end: its id, its log lines, its count.

use axum::http::HeaderMap;
use stageline_base::limits::MAX_CALL_ID_BYTES;
use stageline_base::{FaultClass, prng};
use stageline_metrics::Metrics;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tracing::{Span, info, info_span};

/// The header that carries a request's id.
pub(crate) const CALL_ID: &str = "x-call-id";

/// Makes ids for requests that bring none.
pub(crate) struct CallIds {
    /// Differs from process to process.
    seed: u64,
    made: AtomicU32,
}

impl CallIds {
    pub(crate) fn new() -> Self {
        Self { seed: RandomState::new().hash_one("call ids"), made: AtomicU32::new(0) }
    }

    /// The id that the request brings, as far as it may be shown in a log line and sent back, or a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        let legal = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '_' };
        let brought = headers.get(CALL_ID).map(|id| id.as_bytes().iter().take(MAX_CALL_ID_BYTES).map(legal).collect());
        brought.filter(|id: &String| !id.is_empty()).unwrap_or_else(|| {
            let number = self.made.fetch_add(1, Ordering::Relaxed);
            format!("{:016x}{:016x}", prng::at(self.seed, number), prng::at(!self.seed, number))
        })
    }
}

/// A request while it is served. Dropped before it is ended, it was the client that went away.
pub(crate) struct Call {
    pub id: String,
    pub span: Span,
    pub prompt_tokens: u32,
    /// Tokens handed out so far.
    pub answer_tokens: u64,
    metrics: Arc<Metrics>,
    began: Instant,
    /// How it ended: well, or by a fault of that class.
    end: Option<Option<FaultClass>>,
}

impl Call {
    pub(crate) fn new(id: String, metrics: Arc<Metrics>) -> Self {
        let span = info_span!("request", call_id = %id);
        metrics.door.requests_in_flight.inc();
        Self { id, span, prompt_tokens: 0, answer_tokens: 0, metrics, began: Instant::now(), end: None }
    }

    /// It was admitted with that many tokens of prompt.
    pub(crate) fn admitted(&mut self, prompt_tokens: u32) {
        self.prompt_tokens = prompt_tokens;
        self.metrics.door.prompt_tokens.inc_by(u64::from(prompt_tokens));
    }

    /// A token is handed out.
    pub(crate) fn token(&mut self) {
        if self.answer_tokens == 0 {
            self.metrics.door.first_token_seconds.observe(self.took().as_secs_f64());
        }
        self.answer_tokens += 1;
        self.metrics.door.answer_tokens.inc();
    }

    /// It ends: well, or by a fault of that class. The first end counts.
    pub(crate) fn ends(&mut self, fault: Option<FaultClass>) {
        self.end.get_or_insert(fault);
    }

    /// Time since it arrived.
    pub(crate) fn took(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let end = self.end.unwrap_or(Some(FaultClass::Cancelled));
        // In this order: who sees that nothing is in flight sees how it ended.
        self.metrics.door.ended(end, self.took());
        self.metrics.door.requests_in_flight.dec();
        let outcome = end.map_or("ok", |class| class.row().name);
        let (prompt_tokens, answer_tokens, took_ms) = (self.prompt_tokens, self.answer_tokens, self.took().as_millis());
        self.span.in_scope(|| info!(outcome, prompt_tokens, answer_tokens, took_ms, "request ended"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::collections::HashSet;

    #[test]
    fn an_id_is_kept_as_far_as_a_log_line_can_show_it() {
        let ids = CallIds::new();
        let of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(CALL_ID, HeaderValue::from_bytes(value).unwrap());
            ids.of(&headers)
        };
        assert_eq!(of(b"a-1.b"), "a-1.b");
        assert_eq!(of(b"a b\tc\xc3\xa9"), "a_b_c__");
        assert_eq!(of(&[b'x'; 1000]).len(), MAX_CALL_ID_BYTES);
        assert_eq!(of(b"").len(), 32);
    }

    #[test]
    fn made_ids_differ() {
        let made: HashSet<String> = [CallIds::new(), CallIds::new()]
            .iter()
            .flat_map(|ids| (0..100).map(|_| ids.of(&HeaderMap::new())))
            .collect();
        assert_eq!(made.len(), 200);
    }
}
