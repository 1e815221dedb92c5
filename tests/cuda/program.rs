//! The program itself on the device: what it says at start, and what it answers.

use crate::real_models::{SMOLLM2, golden_cases, ids, model_dir};
use std::process::{Command, Output};

/// Tokens of an answer.
const TOKENS: usize = 24;

/// `stageline run` of SmolLM2 with `settings`, for the prompt of golden case `case`.
fn run(case: usize, settings: &[&str]) -> Output {
    let cases = golden_cases(SMOLLM2);
    let prompt = cases[case]["prompt"].as_str().expect("a prompt");
    let tokens = TOKENS.to_string();
    // Small limits: the emulated device has 4 GiB.
    let limits = ["--max-num-seqs", "2", "--max-model-len", "128", "--max-batch-tokens", "64", "--log-level", "info"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_stageline"));
    command.arg("run").arg(model_dir(SMOLLM2)).args(["--prompt", prompt, "--json", "--max-tokens", &tokens]);
    command.args(limits).args(settings).output().expect("the program starts")
}

/// The plain-text case, which the engine answers as the reference does: see the margins that tests/cuda/engine.rs prints.
const PLAIN: usize = 2;

fn assert_answers(settings: &[&str], says: &str) {
    let output = run(PLAIN, settings);
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{settings:?}: {log}");
    assert!(log.contains(says), "{settings:?} does not say {says:?}: {log}");
    let answer: serde_json::Value = serde_json::from_str(said.trim()).expect("JSON");
    let want = ids(&golden_cases(SMOLLM2)[PLAIN]["greedy_ids"]);
    assert_eq!(ids(&answer["token_ids"]), want[..TOKENS], "{settings:?}");
}

#[test]
fn a_decoder_runs_on_the_engine_in_bf16_and_says_so() {
    assert_answers(&["--device", "cuda:0"], "executor cuda, bf16");
}

#[test]
fn stages_share_a_device_in_f16() {
    assert_answers(&["--device", "cuda:0", "--dtype", "f16", "--stages", "3"], "executor cuda, f16");
}

#[test]
fn what_nothing_runs_is_refused() {
    for (settings, says) in [
        (["--device", "cuda:0", "--dtype", "bf16", "--executor", "candle"], "executor candle does not run in bf16"),
        (["--device", "cuda:0", "--dtype", "f32", "--executor", "cuda"], "executor cuda does not run in f32"),
        (["--device", "cpu", "--dtype", "f16", "--executor", "cuda"], "--dtype f16 is not for the CPU"),
        (["--device", "cuda:7", "--dtype", "bf16", "--executor", "cuda"], "cannot use CUDA device 7"),
    ] {
        let output = run(PLAIN, &settings);
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains(says), "{settings:?}: {log}");
    }
}
