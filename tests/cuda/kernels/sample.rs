//! `kernels/sample.cu`: its tokens are those of the specification, whatever the logits are.

use crate::device;
use stageline_base::prng::Prng;
use stageline_core::Sampling;
use stageline_cuda::kernels::sample::{NO_NUMBER, Sample, SampleRow, work_len};
use stageline_ops::sample;

/// Tokens that a block takes at a time, and how many are gathered at most.
const PART: usize = 2048;

/// A row to sample: logits, how, and the ids before it.
struct Row {
    logits: Vec<f32>,
    sampling: Sampling,
    position: u32,
    history: Vec<u32>,
}

/// Samples the rows in one launch, and holds tokens and penalised logits against the specification. Then again, with few
/// blocks, which find in the work space what the others have left.
fn check(vocab: usize, mut rows: Vec<Row>) {
    let device = device();
    let (mut given, mut history, mut asked, mut drawn) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for row in &mut rows {
        assert_eq!(row.logits.len(), vocab);
        given.extend(&row.logits);
        let begin = history.len() as u32;
        history.extend(&row.history);
        asked.push(SampleRow::new(&row.sampling, row.position, begin..history.len() as u32));
        drawn.push(sample(&mut row.logits, &row.sampling, row.position, Some(&row.history)));
    }
    let (mut logits, asked, history) = (device.array(&given), device.array(&asked), device.array(&history));
    let work = device.unset::<u64>(rows.len() * work_len(vocab));
    let parts = vocab.div_ceil(PART);
    for blocks in [parts, parts.min(3)] {
        logits.write(&given);
        let tokens = device.unset::<u32>(rows.len());
        let launch = Sample {
            logits: logits.slice(),
            rows: asked.slice(),
            history: history.slice(),
            tokens: tokens.slice(),
            work: work.slice(),
            vocab,
            blocks,
        };
        launch.launch(device.kernels, &device.stream).expect("a launch");
        let (tokens, penalised) = (tokens.read(), logits.read());
        for (i, row) in rows.iter().enumerate() {
            let what = format!("row {i} of {vocab} at {} in {blocks} blocks: {:?}", row.position, row.sampling);
            let chosen = row.logits.iter().any(|logit| *logit > f32::NEG_INFINITY);
            assert_eq!(tokens[i], drawn[i] | if chosen { 0 } else { NO_NUMBER }, "{what}");
            let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
            assert!(penalised[i * vocab..].iter().zip(&row.logits).all(same), "{what}: the penalty differs");
        }
    }
}

/// Rows of every kind: peaked, flat, tied, with what is no number, of one number.
fn logits(vocab: usize, kind: u64, prng: &mut Prng) -> Vec<f32> {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 0.0, f32::MAX, f32::MIN, 1e-40, -1e-40];
    let number = |prng: &mut Prng, spread: f32| (prng.unit() as f32 - 0.5) * 2.0 * spread;
    let mut row: Vec<f32> = match kind {
        0 => (0..vocab).map(|_| number(prng, 8.0) + number(prng, 8.0)).collect(),
        1 => (0..vocab).map(|_| number(prng, 0.01)).collect(),
        2 => (0..vocab).map(|_| number(prng, 6.0).round()).collect(),
        3 => (0..vocab).map(|_| f32::from_bits(prng.next_u64() as u32)).collect(),
        4 => vec![number(prng, 4.0); vocab],
        5 => vec![f32::NEG_INFINITY; vocab],
        6 => vec![f32::NAN; vocab],
        7 => (0..vocab).map(|_| [0.0, -0.0, -0.5][prng.below(3) as usize]).collect(),
        _ => (0..vocab).map(|i| i as f32 * -1e-3).collect(),
    };
    // Some rows of the first kinds have a few odd ones among them.
    if kind < 3 && prng.chance(400) {
        for _ in 0..1 + prng.below(4) {
            row[prng.below(vocab as u64) as usize] = odd[prng.below(odd.len() as u64) as usize];
        }
    }
    row
}

const KINDS: u64 = 9;

/// Rows of one vocabulary: each kind with each way of sampling that numbers make, `times` times.
fn rows(vocab: usize, times: usize, seed: u64) -> Vec<Row> {
    let mut prng = Prng::new(seed);
    let mut rows = Vec::new();
    for _ in 0..times {
        for kind in 0..KINDS {
            let pick = |from: &[f32], prng: &mut Prng| from[prng.below(from.len() as u64) as usize];
            let sampling = Sampling {
                temperature: pick(&[0.0, 0.7, 0.7, 1.3, 1.3, 50.0, 0.01, f32::INFINITY, 1e-42], &mut prng),
                top_k: pick(&[0.0, 0.0, 1.0, 5.0, 50.0, 2.0, 1e9], &mut prng) as u32,
                top_p: pick(&[0.1, 0.9, 1.0, 0.5, 0.0, 0.99999994], &mut prng),
                repetition_penalty: pick(&[1.0, 1.3, 0.5], &mut prng),
                seed: prng.next_u64(),
                top_logits: 0,
            };
            // Ids that repeat, and some that the row does not have.
            let known = prng.below(80);
            let history = (0..known).map(|_| prng.below(vocab as u64 + 2) as u32).collect();
            let position = prng.below(1 << 20) as u32;
            rows.push(Row { logits: logits(vocab, kind, &mut prng), sampling, position, history });
        }
    }
    rows
}

#[test]
fn tokens_are_the_specifications() {
    for vocab in [1, 2, 31, 32, 33, 64, 127, 128, 129, 1000, 1023, 1024, 1025, 1056, 4099] {
        check(vocab, rows(vocab, 4, vocab as u64));
    }
    check(32_000, rows(32_000, 1, 1));
    check(1000, Vec::new());
}

#[test]
fn the_largest_vocabularies_are_sampled() {
    check(128_256, rows(128_256, 1, 2));
    // Histories of ids of many parts.
    let vocab = 131_072 * 2 + 3;
    let mut large = rows(vocab, 1, 3);
    large.truncate(3);
    for (i, row) in large.iter_mut().enumerate() {
        row.sampling.repetition_penalty = 1.7;
        row.history = (0..3000).map(|n| (n * 397 + i) as u32 % (vocab as u32 + 9)).collect();
        row.history.extend([131_071, 131_072, 131_073, 262_143, 262_144, 262_146]);
        row.history.extend_from_within(..1500);
    }
    check(vocab, large);
}

/// The tokens that count are all in one part, which may be the second or the third that a block takes.
#[test]
fn tokens_of_every_part_are_found() {
    let mut prng = Prng::new(13);
    let (mut all, parts) = (Vec::new(), 7);
    let vocab = (parts - 1) * PART + 100;
    for part in 0..parts {
        for (temperature, top_k, top_p) in [(0.0, 0, 1.0), (1.0, 0, 1.0), (1.0, 20, 1.0), (1.0, 0, 0.9)] {
            let mut logits = vec![-1000.0; vocab];
            for _ in 0..40 {
                logits[part * PART + prng.below(100) as usize] = prng.unit() as f32;
            }
            let sampling = Sampling { temperature, top_k, top_p, seed: prng.next_u64(), ..Sampling::GREEDY };
            all.push(Row { logits, sampling, position: 7, history: Vec::new() });
        }
    }
    check(vocab, all);
}

/// A block penalises the ids of two parts, many of which come more than once.
#[test]
fn penalties_are_the_specifications() {
    let mut prng = Prng::new(14);
    let mut all = Vec::new();
    let vocab = 3 * PART + 40;
    for (temperature, repetition_penalty) in [(0.0, 1.7), (0.7, 0.5)] {
        let mut history: Vec<u32> = (0..1000).map(|_| prng.below(vocab as u64 + 9) as u32).collect();
        history.extend_from_within(300..);
        let sampling = Sampling { temperature, repetition_penalty, seed: 4, ..Sampling::GREEDY };
        all.push(Row { logits: logits(vocab, 0, &mut prng), sampling, position: 1700, history });
    }
    check(vocab, all);
}

/// The named ways of sampling, each of them on a row with ties at every cut, long enough for a draw in two rounds.
#[test]
fn each_way_of_sampling_is_the_specifications() {
    let mut prng = Prng::new(9);
    let mut all = Vec::new();
    for temperature in [0.0, 0.7, 1.3] {
        for top_k in [0, 1, 5, 50, 1000] {
            for top_p in [0.1, 0.9, 1.0] {
                for kind in [0, 2] {
                    let sampling = Sampling { temperature, top_k, top_p, seed: prng.next_u64(), ..Sampling::GREEDY };
                    all.push(Row { logits: logits(1100, kind, &mut prng), sampling, position: 5, history: Vec::new() });
                }
            }
        }
    }
    check(1100, all);
}

/// A draw must reach every kept token, and no other: not a tie too many before a better token, nor one at the end.
#[test]
fn draws_reach_the_first_and_the_last_token_that_are_kept() {
    let mut all = Vec::new();
    for position in 0..60 {
        let mut logits = vec![-1000.0; 300];
        for id in [0, 170, 171, 180, 299] {
            logits[id] = 1.0;
        }
        logits[185] = 1.5;
        let sampling = Sampling { temperature: 1.0, top_k: 4, seed: 1, ..Sampling::GREEDY };
        all.push(Row { logits, sampling, position, history: Vec::new() });
    }
    let drawn: std::collections::BTreeSet<u32> =
        all.iter().map(|row| sample(&mut row.logits.clone(), &row.sampling, row.position, None)).collect();
    assert_eq!(drawn, [0, 170, 171, 185].into(), "the oracle draws what this test is about");
    check(300, all);
}

/// Rows of which more tokens may be drawn than are gathered: their cuts lie among tokens that differ, in the middle of ties, and
/// among so many alike that not even those of one digit are gathered.
#[test]
fn flat_rows_are_the_specifications() {
    let mut prng = Prng::new(11);
    let vocab = 3 * PART + 5;
    let mut all = Vec::new();
    for kind in [0, 1, 2, 4, 5, 7, 8] {
        for (top_k, top_p) in
            [(0, 0.1), (0, 0.5), (0, 0.97), (0, 1.0), (50, 0.9), (3000, 0.5), (5000, 1.0), (u32::MAX, 0.3)]
        {
            let sampling = Sampling { temperature: 6.0, top_k, top_p, seed: prng.next_u64(), ..Sampling::GREEDY };
            all.push(Row { logits: logits(vocab, kind, &mut prng), sampling, position: 9, history: Vec::new() });
        }
    }
    check(vocab, all);
}

/// Few tokens that may be drawn, each so far from the next that more tiles have one than are listed.
#[test]
fn tokens_of_many_tiles_are_gathered() {
    let mut prng = Prng::new(12);
    let mut all = Vec::new();
    let vocab = 1100 * 64;
    for (top_k, top_p) in [(1000, 1.0), (1000, 0.9), (0, 0.9), (1090, 1.0)] {
        let mut logits = vec![-1000.0; vocab];
        for tile in 0..1100 {
            logits[tile * 64 + prng.below(64) as usize] = prng.unit() as f32;
        }
        let sampling = Sampling { temperature: 1.0, top_k, top_p, seed: prng.next_u64(), ..Sampling::GREEDY };
        all.push(Row { logits, sampling, position: 3, history: Vec::new() });
    }
    check(vocab, all);
}

/// One token of the least weight decides how many of the others top-p keeps: its share is rounded up.
#[test]
fn the_least_weight_counts_in_a_share() {
    let mut all = Vec::new();
    for position in 0..60 {
        let mut logits = vec![-1000.0; 40];
        (logits[3], logits[17], logits[31]) = (0.0, 0.0, -28.1);
        let sampling = Sampling { temperature: 1.0, top_p: 0.5, seed: 2, ..Sampling::GREEDY };
        all.push(Row { logits, sampling, position, history: Vec::new() });
    }
    let second = |row: &Row| sample(&mut row.logits.clone(), &row.sampling, row.position, None) == 17;
    assert!(all.iter().any(second), "the oracle draws what this test is about");
    check(40, all);
}

#[test]
fn slices_that_do_not_fit_are_refused() {
    let device = device();
    let logits = device.array(&[0f32; 20]);
    let rows = device.array(&[SampleRow::new(&Sampling::GREEDY, 0, 0..0); 2]);
    let (history, tokens) = (device.array::<u32>(&[]), device.unset::<u32>(3));
    let part = |range| logits.slice().part(range).expect("a part");
    let work = device.unset::<u64>(3 * work_len(9));
    let work_part = |rows: usize, vocab| work.slice().part(0..rows * work_len(vocab)).expect("a part");
    let fits = Sample {
        logits: part(0..16),
        rows: rows.slice(),
        history: history.slice(),
        tokens: tokens.slice().part(0..2).expect("a part"),
        work: work_part(2, 8),
        vocab: 8,
        blocks: 1,
    };
    let launch = |sample: Sample| sample.launch(device.kernels, &device.stream);
    launch(fits).expect("what fits is launched");
    let odd = Sample { logits: part(1..19), work: work_part(2, 9), vocab: 9, ..fits };
    launch(odd).expect("an odd vocabulary needs no alignment");
    let unfit = [
        Sample { logits: part(0..8), ..fits },
        Sample { logits: part(1..17), ..fits },
        Sample { tokens: tokens.slice(), ..fits },
        Sample { rows: rows.slice().part(0..1).expect("a part"), ..fits },
        Sample { work: work_part(3, 8), ..fits },
        Sample { blocks: 0, ..fits },
        Sample { blocks: 2, ..fits },
        Sample { vocab: 0, ..fits },
        Sample { vocab: (1 << 23) + 1, ..fits },
    ];
    for sample in unfit {
        let refused = launch(sample).expect_err("what does not fit is refused").to_string();
        assert!(refused.starts_with("sample: "), "{refused}");
    }
}
