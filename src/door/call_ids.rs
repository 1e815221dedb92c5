//! The ids of requests: what log lines and clients know them by.

use axum::http::HeaderMap;
use stageline_base::limits::MAX_CALL_ID_BYTES;
use stageline_base::prng;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, Ordering};

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
