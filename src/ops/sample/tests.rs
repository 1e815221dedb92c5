use super::*;
use proptest::prelude::*;
use stageline_base::prng::Prng;

fn hot(temperature: f32) -> Sampling {
    Sampling { temperature, seed: 7, ..Sampling::GREEDY }
}

/// The specification once more, the slow way: a sort and a walk.
fn kept_by_sorting(logits: &[f32], s: &Sampling) -> Vec<(TokenId, u64)> {
    let clean: Vec<f32> = logits.iter().map(|&l| clean(l)).collect();
    let mut order: Vec<usize> = (0..clean.len()).collect();
    order.sort_by(|&a, &b| clean[b].partial_cmp(&clean[a]).unwrap().then(a.cmp(&b)));
    let max = clean[order[0]];
    let scale = std::f32::consts::LOG2_E / s.temperature;
    let weigh = |i: usize| weight(if max - clean[i] > 0.0 { (max - clean[i]) * scale } else { 0.0 });
    let mut kept: Vec<(TokenId, u64)> = order.iter().map(|&i| (i as TokenId, weigh(i))).collect();
    if s.top_k > 0 {
        kept.truncate(s.top_k as usize);
    }
    kept.retain(|k| k.1 > 0);
    if s.top_p < 1.0 {
        let total: u128 = kept.iter().map(|k| u128::from(k.1)).sum();
        let parts = ((f64::from(s.top_p) * 16_777_216.0).ceil() as u128).max(1);
        let mut sum = 0;
        let enough = kept.iter().position(|k| {
            sum += u128::from(k.1);
            sum << 24 >= total * parts
        });
        kept.truncate(enough.unwrap() + 1);
    }
    kept.sort();
    kept
}

fn kept(logits: &[f32], s: &Sampling) -> Vec<(TokenId, u64)> {
    let (_, max) = likeliest(logits).unwrap();
    candidates(logits, max, s).iter().map(|c| (c.id, c.weight)).collect()
}

#[test]
fn weights_of_whole_halvings_are_exact() {
    for n in 0..=40u32 {
        assert_eq!(weight(n as f32), 1 << (40 - n), "2^-{n}");
    }
    assert_eq!(weight(0.5) >> 10, 759_250_125);
    assert_eq!([weight(41.0), weight(f32::INFINITY), weight(f32::NAN)], [0, 0, 0]);
}

#[test]
fn every_weight_is_near_the_exponential_and_none_rises() {
    // All 2^24 fractions of the first halving, then one in 2^12 of the others.
    let steps = (0..1u32 << 24).chain((1 << 24..41 << 24).step_by(1 << 12));
    let mut before = u64::MAX;
    let mut worst = 0f64;
    for fixed in steps {
        let t = fixed as f32 / 16_777_216.0;
        let got = weight(t);
        assert!(got <= before, "the weight rises at t = {t}");
        before = got;
        let exact = (40.0 - f64::from(t)).exp2();
        let error = ((got as f64 - exact).abs() - 0.5).max(0.0) / exact;
        worst = worst.max(error);
    }
    assert!(worst < 4e-8, "relative error {worst:e}");
}

#[test]
fn greedy_takes_the_lowest_of_equals_and_never_nan() {
    let cases: [(&[f32], TokenId); 8] = [
        (&[1.0, 3.0, 3.0, 2.0], 1),
        (&[-0.0, 0.0], 0),
        (&[f32::NAN, -5.0, f32::NAN], 1),
        (&[f32::NAN, f32::NAN], 0),
        (&[f32::NEG_INFINITY, f32::NEG_INFINITY], 0),
        (&[0.0, f32::INFINITY, f32::INFINITY], 1),
        (&[f32::MAX, f32::INFINITY], 0),
        (&[], 0),
    ];
    for (logits, want) in cases {
        assert_eq!(sample(&mut logits.to_vec(), &Sampling::GREEDY, 0, None), want, "{logits:?}");
        let top1 = Sampling { top_k: 1, ..hot(0.7) };
        assert_eq!(sample(&mut logits.to_vec(), &top1, 0, None), want, "top_k = 1: {logits:?}");
    }
}

#[test]
fn the_penalty_counts_each_known_id_once() {
    let mut logits = vec![2.0, -2.0, 1.5, 0.0];
    let penalty = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
    assert_eq!(sample(&mut logits, &penalty, 0, Some(&[0, 1, 0, 0, 3, 1, 99])), 2);
    assert_eq!(logits, [1.0, -4.0, 1.5, 0.0]);
}

#[test]
fn top_k_and_top_p_keep_what_one_computes_by_hand() {
    // At temperature log2(e) a logit is one bit: weights 8, 4, 4, 2, 1 of 19.
    let logits = [1.0, 3.0, 2.0, 0.0, 2.0];
    let ids = |s: Sampling| kept(&logits, &s).iter().map(|k| k.0).collect::<Vec<_>>();
    let bit = hot(std::f32::consts::LOG2_E);
    assert_eq!(ids(bit), [0, 1, 2, 3, 4]);
    assert_eq!(ids(Sampling { top_k: 2, ..bit }), [1, 2], "of two equal logits the lower id is the likelier");
    assert_eq!(ids(Sampling { top_k: 3, ..bit }), [1, 2, 4]);
    assert_eq!(ids(Sampling { top_k: 99, ..bit }), [0, 1, 2, 3, 4]);
    assert_eq!(ids(Sampling { top_p: 0.42, ..bit }), [1], "8 of 19 is 0.4211");
    assert_eq!(ids(Sampling { top_p: 0.43, ..bit }), [1, 2]);
    assert_eq!(ids(Sampling { top_p: 0.9, ..bit }), [0, 1, 2, 4], "18 of 19 is 0.947, 16 of 19 is 0.842");
    assert_eq!(ids(Sampling { top_p: 1e-30, ..bit }), [1]);
    // Exactly half of the two that top-k leaves... 8 of 12 is 0.667.
    assert_eq!(ids(Sampling { top_k: 2, top_p: 0.66, ..bit }), [1], "top-p counts what top-k left");
    assert_eq!(ids(Sampling { top_k: 2, top_p: 0.67, ..bit }), [1, 2]);
}

#[test]
fn draws_are_the_ones_of_the_specification() {
    // What another implementation must reproduce: 16 positions of one row.
    let row: Vec<f32> = (0..64).map(|i| ((i * 37) % 64) as f32 / 8.0).collect();
    let s = Sampling { temperature: 0.8, top_k: 20, top_p: 0.9, repetition_penalty: 1.2, seed: 42, top_logits: 0 };
    let tokens: Vec<TokenId> = (0..16).map(|p| sample(&mut row.clone(), &s, p, Some(&[45, 19]))).collect();
    assert_eq!(tokens, [5, 62, 12, 57, 57, 38, 50, 38, 38, 50, 19, 19, 38, 57, 24, 62]);
}

/// Chi-square of `draws` tokens against the exact probabilities, over the tokens expected at least five times.
fn chi_square(logits: &[f32], s: &Sampling, draws: u32) -> (f64, usize) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let allowed: Vec<TokenId> = kept_by_sorting(logits, s).iter().map(|k| k.0).collect();
    let share = |id: usize| (f64::from(logits[id] - max) / f64::from(s.temperature)).exp();
    let total: f64 = allowed.iter().map(|&id| share(id as usize)).sum();
    let mut counts = vec![0u32; logits.len()];
    for position in 0..draws {
        counts[sample(&mut logits.to_vec(), s, position, None) as usize] += 1;
    }
    let (mut sum, mut cells, mut rest) = (0.0, 0, (0.0, 0u32));
    for (id, &count) in counts.iter().enumerate() {
        let expected = if allowed.contains(&(id as TokenId)) { share(id) / total * f64::from(draws) } else { 0.0 };
        assert!(expected > 0.0 || count == 0, "token {id} is cut off, but was drawn");
        if expected < 5.0 {
            rest = (rest.0 + expected, rest.1 + count);
        } else {
            sum += (f64::from(count) - expected).powi(2) / expected;
            cells += 1;
        }
    }
    if rest.0 >= 5.0 {
        sum += (f64::from(rest.1) - rest.0).powi(2) / rest.0;
        cells += 1;
    }
    (sum, cells - 1)
}

#[test]
fn tokens_are_drawn_as_often_as_their_probability_says() {
    let mut random = Prng::new(1);
    let logits: Vec<f32> = (0..200).map(|_| random.below(1 << 20) as f32 / 131_072.0).collect();
    let shapes = [
        hot(1.0),
        hot(0.5),
        hot(3.0),
        Sampling { top_k: 12, ..hot(1.0) },
        Sampling { top_p: 0.6, ..hot(1.5) },
        Sampling { top_k: 50, top_p: 0.8, ..hot(2.0) },
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        let (sum, freedom) = chi_square(&logits, &Sampling { seed: i as u64, ..shape }, 20_000);
        // Wilson-Hilferty: about 4.3 standard deviations, one in 100,000.
        let k = freedom as f64;
        let limit = k * (1.0 - 2.0 / (9.0 * k) + 4.3 * (2.0 / (9.0 * k)).sqrt()).powi(3);
        assert!(sum < limit, "{shape:?}: chi-square {sum:.1} over {freedom} degrees, limit {limit:.1}");
    }
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        8 => -30f32..30.0,
        2 => (-8i8..8).prop_map(f32::from),
        1 => any::<u32>().prop_map(f32::from_bits),
        1 => Just(f32::NEG_INFINITY),
    ];
    proptest::collection::vec(logit, 1..300)
}

fn any_sampling() -> impl Strategy<Value = Sampling> {
    let temperature = prop_oneof![4 => 0.05f32..4.0, 1 => any::<u32>().prop_map(f32::from_bits)];
    let top_p = prop_oneof![2 => Just(1.0f32), 4 => 0.0f32..1.0, 1 => any::<u32>().prop_map(f32::from_bits)];
    (temperature, prop_oneof![Just(0u32), 1u32..40, any::<u32>()], top_p, any::<u64>())
        .prop_map(|(temperature, top_k, top_p, seed)| Sampling { temperature, top_k, top_p, seed, ..Sampling::GREEDY })
}

proptest! {
    #[test]
    fn the_radix_cut_is_the_sorted_cut(logits in any_logits(), s in any_sampling()) {
        prop_assume!(s.temperature > 0.0 && !s.top_p.is_nan());
        prop_assert_eq!(kept(&logits, &s), kept_by_sorting(&logits, &s));
    }

    #[test]
    fn nothing_panics_and_the_token_is_of_the_row(
        logits in any_logits(), s in any_sampling(), penalty in any::<u32>(), history in proptest::collection::vec(0u32..400, 0..20),
    ) {
        let s = Sampling { repetition_penalty: f32::from_bits(penalty), ..s };
        let token = sample(&mut logits.clone(), &s, 3, Some(&history));
        prop_assert!((token as usize) < logits.len());
    }

    #[test]
    fn a_masked_token_is_never_drawn_beside_another(logits in any_logits(), s in any_sampling()) {
        prop_assume!(logits.iter().any(|l| *l > f32::NEG_INFINITY));
        let token = sample(&mut logits.clone(), &s, 0, None) as usize;
        prop_assert!(logits[token] > f32::NEG_INFINITY);
    }

    #[test]
    fn weights_follow_their_tokens_through_a_permutation(
        (logits, shuffled) in proptest::collection::btree_set(-4000i32..4000, 2..200)
            .prop_map(|set| set.into_iter().enumerate().map(|(i, l)| (i, l as f32 / 64.0)).collect::<Vec<_>>())
            .prop_flat_map(|row| (Just(row.clone()), Just(row).prop_shuffle())),
        s in any_sampling(),
    ) {
        prop_assume!(s.temperature > 0.0);
        let row = |tokens: &[(usize, f32)]| tokens.iter().map(|t| t.1).collect::<Vec<_>>();
        let straight = kept(&row(&logits), &s);
        let mut back: Vec<(TokenId, u64)> =
            kept(&row(&shuffled), &s).into_iter().map(|(id, w)| (shuffled[id as usize].0 as TokenId, w)).collect();
        back.sort();
        prop_assert_eq!(straight, back);
    }

    #[test]
    fn a_seed_and_a_position_decide(logits in any_logits(), s in any_sampling(), position in any::<u32>()) {
        let once = sample(&mut logits.clone(), &s, position, None);
        prop_assert_eq!(once, sample(&mut logits.clone(), &s, position, None));
    }
}
