//! The ids of requests and of their traces: what log lines and clients know them by.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use stageline_base::limits::MAX_CALL_ID_BYTES;
use stageline_base::trace::TRACEPARENT;
use stageline_base::{Trace, prng};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

/// The header that carries a request's id.
pub(crate) const CALL_ID: &str = "x-call-id";

/// The header of an answer that carries the id of a durable request, and of a callback.
pub(crate) const REQUEST: HeaderName = HeaderName::from_static("x-stageline-request");

/// Has the headers of an answer name the durable request that it is of, if it is of one.
pub(crate) fn name_request(headers: &mut HeaderMap, request: Option<&str>) {
    // Of hexadecimal digits.
    if let Some(id) = request.and_then(|request| HeaderValue::from_str(request).ok()) {
        headers.insert(REQUEST, id);
    }
}

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

    /// The trace that the request says it belongs to, or a new one. What is malformed, or there twice, counts as absent.
    pub(crate) fn trace_of(&self, headers: &HeaderMap) -> Trace {
        let mut brought = headers.get_all(TRACEPARENT).iter();
        let brought = brought.next().filter(|_| brought.next().is_none());
        brought.and_then(|value| Trace::parse(value.as_bytes())).unwrap_or_else(|| {
            let [high, low, parent] = self.random();
            Trace::begun((u128::from(high) << 64) | u128::from(low), parent)
        })
    }

    fn random(&self) -> [u64; 3] {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        [0, 1, 2].map(|part| prng::at(self.seed.wrapping_add(part), number))
    }

    /// The id that the request brings, as far as it may be shown in a log line and sent back, or a new one.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        let legal = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '_' };
        let brought = headers.get(CALL_ID).map(|id| id.as_bytes().iter().take(MAX_CALL_ID_BYTES).map(legal).collect());
        brought.filter(|id: &String| !id.is_empty()).unwrap_or_else(|| {
            let [high, low, _] = self.random();
            format!("{high:016x}{low:016x}")
        })
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
    fn a_trace_is_kept_if_it_is_one_and_the_only_one() {
        let ids = CallIds::new();
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(TRACEPARENT, HeaderValue::from_static(value));
            }
            ids.trace_of(&headers).to_string()
        };
        let (one, other) = (
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01",
        );
        assert_eq!(of(&[one]), one);
        let begun: HashSet<String> = [&[][..], &["00-x"], &[one, other], &[one, one]].map(of).into_iter().collect();
        assert!(begun.len() == 4 && begun.iter().all(|trace| trace.ends_with("-00")), "{begun:?}");
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
