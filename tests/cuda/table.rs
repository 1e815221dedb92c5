//! The program that measures a GPU, at its small shapes: every part of its table is there, and says what it was taken on.

use crate::emulator;
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// Names the program of benches/gpu: whoever runs these tests has built it.
const TABLE: &str = "STAGELINE_GPU_TABLE";
/// Every part, and how each of its lines begins, in any order.
const PARTS: [(&str, &[&str]); 6] = [
    ("copies", &["device to device", "page-locked host to device", "device to page-locked host"]),
    (
        "kernels",
        &[
            "embed",
            "add_rms_norm",
            "rope_kv",
            "silu_mul",
            "gemv, qkv",
            "gemv, out",
            "gemv, gate_up",
            "gemv, down",
            "gemv, head",
            "sample, greedy",
            "sample, temperature",
            "sample, top-p",
            "sample, top-k",
            "decode_attention, 1 row",
            "decode_attention, 2 rows",
            "prefill_attention",
        ],
    ),
    ("products", &["toy, qkv", "toy, out", "toy, gate_up", "toy, down"]),
    ("decode", &["toy, batch 1,", "toy, batch 8,", "toy, batch 32,", "toy, batch 64,"]),
    ("prefill", &["toy, 24 rows"]),
    // A cold load needs a folder on a disk.
    ("load", &["toy, from the page cache"]),
];

#[test]
fn every_part_of_the_table_is_there() {
    let program = std::env::var_os(TABLE).expect("STAGELINE_GPU_TABLE is set: run these tests with scripts/test-cuda");
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("table.json");
    let mut command = Command::new(program);
    command.arg("--small").arg("--json").arg(&json).arg("--folder").arg(folder.path());
    let output = command.output().expect("the program starts");
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let table: Value = serde_json::from_slice(&std::fs::read(&json).expect("the JSON")).expect("JSON");

    let emulated = emulator::find(c"emu_counters").is_some();
    assert_eq!(table["emulated"], emulated);
    for (part, beginnings) in PARTS {
        let lines = table[part].as_array().unwrap_or_else(|| panic!("no part {part} in {said}"));
        let what = |line: &Value| line["what"].as_str().expect("what a line is of").to_owned();
        for beginning in beginnings {
            assert!(lines.iter().any(|line| what(line).starts_with(beginning)), "{part}: no {beginning} in {said}");
        }
        let names: BTreeSet<Vec<&String>> =
            lines.iter().map(|line| line.as_object().expect("an object").keys().collect()).collect();
        assert_eq!(names.len(), 1, "{part}: lines of other figures than the rest's");
        for line in lines {
            for (name, figure) in line.as_object().expect("an object").iter().filter(|(name, _)| *name != "what") {
                let sound = figure.as_f64().is_some_and(|figure| figure.is_finite() && figure > 0.0);
                assert!(sound, "{part}, {}: {name} is {figure}", what(line));
            }
            assert!(said.contains(&what(line)), "{} is not printed", what(line));
        }
        // Whoever cuts a part out of the output has the word with it.
        let head = said
            .lines()
            .find(|line| line.split(' ').next() == Some(part))
            .unwrap_or_else(|| panic!("no head of {part}: {said}"));
        assert_eq!(head.contains("EMULATED"), emulated, "{head}");
    }
    assert_eq!(said.starts_with("EMULATED"), emulated, "{said}");
    let left: Vec<_> =
        folder.path().read_dir().expect("the folder").map(|entry| entry.expect("a file").path()).collect();
    assert_eq!(left, [json], "the shard is still there");
}
