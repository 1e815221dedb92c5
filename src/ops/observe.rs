//! What a request asked to see of a row's logits.

use sha2::{Digest, Sha256};
use stageline_base::TokenId;
use stageline_core::Observed;
use std::cmp::Ordering;

/// The digest of `logits` and the `top` largest of them, all if there are fewer, or `None` if `top` is 0.
pub fn observe(logits: &[f32], top: u32) -> Option<Observed> {
    let count = logits.len().min(top as usize);
    (top > 0).then(|| Observed { digest: digest(logits), top: largest(logits, count) })
}

fn digest(logits: &[f32]) -> u64 {
    let mut hash = Sha256::new();
    let mut bytes = [0u8; 4096];
    for logits in logits.chunks(bytes.len() / 4) {
        for (bytes, logit) in bytes.chunks_exact_mut(4).zip(logits) {
            bytes.copy_from_slice(&logit.to_le_bytes());
        }
        hash.update(&bytes[..logits.len() * 4]);
    }
    let hash = hash.finalize();
    hash[..8].iter().rev().fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}

/// Largest first, equal ones by lower id; a NaN counts as larger than every number, so that it is seen.
fn largest(logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
    let order = |a: &(TokenId, f32), b: &(TokenId, f32)| {
        let falling = b.1.is_nan().cmp(&a.1.is_nan()).then(b.1.partial_cmp(&a.1).unwrap_or(Ordering::Equal));
        falling.then(a.0.cmp(&b.0))
    };
    let mut top: Vec<(TokenId, f32)> = logits.iter().enumerate().map(|(id, logit)| (id as TokenId, *logit)).collect();
    if count < top.len() {
        top.select_nth_unstable_by(count, order);
        top.truncate(count);
    }
    top.sort_unstable_by(order);
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_come_first_and_equal_ones_by_id() {
        let observed = observe(&[1.0, 3.0, -2.0, 3.0, f32::NEG_INFINITY, 2.5], 4).expect("asked for");
        assert_eq!(observed.top, [(1, 3.0), (3, 3.0), (5, 2.5), (0, 1.0)]);
        assert_eq!(observe(&[1.0], 0), None);
        assert_eq!(observe(&[0.0; 100], u32::MAX).expect("asked for").top.len(), 100);
    }

    #[test]
    fn a_nan_is_seen() {
        let observed = observe(&[1.0, f32::NAN, 2.0], 1).expect("asked for");
        assert!(observed.top[0].1.is_nan());
    }

    #[test]
    fn the_digest_is_that_of_all_bits_in_order() {
        // printf '\0\0\x80\x3f\0\0\0\xc0' | sha256sum
        assert_eq!(digest(&[1.0, -2.0]).to_le_bytes(), [0xee, 0x4a, 0xc7, 0x3c, 0x2b, 0xd2, 0x77, 0x56]);
        let many: Vec<f32> = (0..3000).map(|i| i as f32).collect();
        let mut other = many.clone();
        other[2999] = f32::from_bits(other[2999].to_bits() ^ 1);
        assert_ne!(digest(&many), digest(&other));
    }
}
