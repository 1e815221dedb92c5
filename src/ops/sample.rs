//! Turns a row of logits into a token: repetition penalty, temperature, top-k, top-p, then one draw.
//!
//! This header is the specification: every implementation of it, on whatever device, gives the same token for the same
//! logits, parameters, seed and position. Floating point is used only for single operations that IEEE 754 defines to the
//! bit (round to nearest even, never fused); from the exponential on everything is an integer, so that sums depend neither
//! on their order nor on the device.
//!
//! 1. **Penalty.** For each distinct id in `history` that the row has: `l < 0 ? l * penalty : l / penalty`.
//! 2. **Cleaning.** NaN becomes −∞, +∞ becomes the largest finite number, −0 becomes +0.
//! 3. **Order.** Tokens are ordered by falling logit, equal logits by rising id. The first one is the *best*, its logit `m`.
//! 4. **Greedy.** If not `temperature > 0`, or `top_k == 1`: the best token. Of an empty row: 0.
//! 5. **Weights.** `c = log2(e) / temperature` (both f32); for each token `d = m - l`, `t = d > 0 ? d * c : 0` (f32; NaN is
//!    not above 0). The weight is 2^-t in units of 2^-40, an integer in `0..=2^40`, by `weight`; 0 from t = 41 on.
//!    A row of nothing but −∞ thus weighs all tokens alike. Tokens of weight 0 are out.
//! 6. **Top-k.** If `top_k > 0`: the first `top_k` tokens in the order of step 3.
//! 7. **Top-p.** If `top_p < 1`: with W the sum of the weights that are left and P = ceil(top_p · 2^24), at least 1, the
//!    shortest prefix in that order whose weights sum to at least ceil(W · P / 2^24).
//! 8. **Draw.** With S the sum of the weights that are left and R the 64 random bits of (seed, position), `r = floor(R · S
//!    / 2^64)`. The token is the first, by rising id, at which the running sum of weights exceeds r.
//!
//! A token's probability is thus within 2^-64 of its weight's share, and the weight within 4e-8 of the exponential of step
//! 5's `t`, or within half a unit. Sums stay below 2^63 for vocabularies of up to 2^23 tokens.

use stageline_base::{Position, TokenId, prng};
use stageline_core::Sampling;

/// Minimax polynomial of 2^-x on 0..1, exact at 0, in units of 2^-32; its signs alternate. Largest error 1.5e-9.
const EXP2: [u32; 6] = [2_977_044_080, 1_031_757_278, 238_337_602, 41_155_296, 5_486_705, 472_172];

/// From this many halvings on a weight is 0.
const OUT: f32 = 41.0;

/// A token that may be drawn.
#[derive(Clone, Copy)]
struct Candidate {
    /// Its logit as an integer that orders alike.
    key: u32,
    id: TokenId,
    /// Halvings of the weight, t of step 5.
    halvings: f32,
    weight: u64,
}

/// Turns `logits` (one row; the penalty is written into it) into the token that takes `position`.
///
/// `history` holds the ids before it, in any order; the penalty counts each once and ignores those the row does not have.
/// Defined for every input, NaN and ±∞ included: see the head of this file.
pub fn sample(logits: &mut [f32], sampling: &Sampling, position: Position, history: Option<&[TokenId]>) -> TokenId {
    penalise(logits, sampling.repetition_penalty, history.unwrap_or(&[]));
    let Some((best, max)) = likeliest(logits) else { return 0 };
    let hot = sampling.temperature > 0.0;
    if !hot || sampling.top_k == 1 {
        return best;
    }
    draw(&candidates(logits, max, sampling), prng::at(sampling.seed, position))
}

/// Step 1. A penalty of 1 changes nothing.
fn penalise(logits: &mut [f32], penalty: f32, history: &[TokenId]) {
    if penalty == 1.0 || history.is_empty() {
        return;
    }
    let mut seen = vec![0u64; logits.len().div_ceil(64)];
    for &id in history {
        let id = id as usize;
        let Some(logit) = logits.get_mut(id) else { continue };
        let (word, bit) = (id / 64, 1 << (id % 64));
        if seen[word] & bit == 0 {
            seen[word] |= bit;
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Step 2.
fn clean(logit: f32) -> f32 {
    if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) + 0.0 }
}

/// Steps 2 and 3: the best token and its logit.
fn likeliest(logits: &[f32]) -> Option<(TokenId, f32)> {
    let mut best = (0, clean(*logits.first()?));
    for (id, &logit) in logits.iter().enumerate() {
        // NaN is never above anything; +∞ must not beat an earlier largest number.
        if logit > best.1 && best.1 < f32::MAX {
            best = (id as TokenId, clean(logit));
        }
    }
    Some(best)
}

/// Steps 5 to 7: what may be drawn, by rising id. Top-k comes before the exponentials, which it spares.
fn candidates(logits: &[f32], max: f32, sampling: &Sampling) -> Vec<Candidate> {
    let scale = std::f32::consts::LOG2_E / sampling.temperature;
    let mut left = Vec::with_capacity(logits.len());
    for (id, &logit) in logits.iter().enumerate() {
        let logit = clean(logit);
        let distance = max - logit;
        let halvings = if distance > 0.0 { distance * scale } else { 0.0 };
        if halvings < OUT {
            left.push(Candidate { key: ordered(logit), id: id as TokenId, halvings, weight: 0 });
        }
    }
    if sampling.top_k > 0 {
        keep_prefix(&mut left, u64::from(sampling.top_k), |_| 1);
    }
    for candidate in &mut left {
        candidate.weight = weight(candidate.halvings);
    }
    if sampling.top_p < 1.0 {
        let total: u64 = left.iter().map(|c| c.weight).sum();
        let parts = ((sampling.top_p * 16_777_216.0).ceil() as u32).max(1);
        let enough = (u128::from(total) * u128::from(parts)).div_ceil(1 << 24) as u64;
        keep_prefix(&mut left, enough, |c| c.weight);
    }
    left
}

/// 2^-t in units of 2^-40, rounded half up: 2^40 at t = 0, 0 from [`OUT`] on and for NaN; never rises with t.
///
/// t · 2^24 is cut to an integer, its high bits the whole halvings n and its low 24 bits the rest x; then 2^-x by
/// [`EXP2`] in units of 2^-32, each product cut to such units, at least 2^31, shifted by n.
fn weight(t: f32) -> u64 {
    let within = t < OUT;
    if !within {
        return 0;
    }
    let fixed = (t * 16_777_216.0) as u32;
    let (whole, rest) = (fixed >> 24, u64::from(fixed << 8));
    let sum = EXP2.iter().rev().fold(0, |sum, &coefficient| u64::from(coefficient) - ((rest * sum) >> 32));
    let power = ((1 << 32) - ((rest * sum) >> 32)).max(1 << 31);
    (((power << 9) >> whole) + 1) >> 1
}

/// A number's bits, changed so that they order as the number does (of NaNs there are none here).
fn ordered(logit: f32) -> u32 {
    let bits = logit.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

/// Keeps the shortest prefix, in the order of step 3, whose measures sum to at least `enough`; all if there is none.
///
/// Finds the cut's key digit by digit, from the highest: one pass sums the measures by digit, and the sums say in which
/// digit the cut lies. No sort; three passes whatever the logits are. `left` is by rising id and stays so.
fn keep_prefix(left: &mut Vec<Candidate>, enough: u64, measure: impl Fn(&Candidate) -> u64) {
    const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)];
    let (mut known, mut cut, mut missing) = (0u32, 0u32, enough);
    for (shift, bits) in DIGITS {
        let mut sums = [0u64; 1 << 11];
        let digit_mask = (1u32 << bits) - 1;
        for candidate in left.iter().filter(|c| c.key & known == cut) {
            sums[(candidate.key >> shift & digit_mask) as usize] += measure(candidate);
        }
        let Some(digit) = (0..=digit_mask).rev().find(|&digit| {
            let sum = sums[digit as usize];
            let here = sum >= missing;
            missing -= if here { 0 } else { sum };
            here
        }) else {
            return;
        };
        cut |= digit << shift;
        known |= digit_mask << shift;
    }
    left.retain(|candidate| {
        let tied = candidate.key == cut && missing > 0;
        if tied {
            missing = missing.saturating_sub(measure(candidate));
        }
        tied || candidate.key > cut
    });
}

/// Step 8.
fn draw(left: &[Candidate], random: u64) -> TokenId {
    let total: u64 = left.iter().map(|c| c.weight).sum();
    let target = ((u128::from(random) * u128::from(total)) >> 64) as u64;
    let mut sum = 0;
    let drawn = left.iter().find(|candidate| {
        sum += candidate.weight;
        sum > target
    });
    // Weights sum to more than the target, so one is found unless there is none at all.
    drawn.map_or(0, |candidate| candidate.id)
}

#[cfg(test)]
mod tests;
