//! Who may use whom: between packages, by what their manifests ask for; inside a package, by what its modules name.

use crate::{Finding, found, tree::File};

/// The floor of each package, by its folder.
const FLOORS: [(&str, u8); 17] = [
    ("src/base", 0),
    ("src/core", 1),
    ("src/plan", 1),
    ("src/template", 1),
    ("proto", 2),
    ("src/ops", 2),
    ("src/model", 2),
    ("src/wire", 2),
    ("src/shard", 2),
    ("src/engine", 3),
    ("src/engine/cuda", 3),
    ("src/transport", 3),
    ("src/metrics", 3),
    ("src/door", 4),
    ("src/server", 4),
    ("src/load", 4),
    ("", 5),
];

/// Two packages of one floor that never use each other, in either order.
const STRANGERS: [(&str, &str); 2] = [("src/engine", "src/transport"), ("src/engine/cuda", "src/transport")];

/// The folder of a package by the end of its name: `stageline-cuda` is `src/engine/cuda`.
fn folder_of(name: &str) -> Option<&'static str> {
    let ends_so = |folder: &str| folder.rsplit('/').next() == Some(name);
    FLOORS.iter().map(|(folder, _)| *folder).find(|folder| ends_so(folder))
}

fn floor_of(folder: &str) -> Option<u8> {
    FLOORS.iter().find(|(other, _)| *other == folder).map(|(_, floor)| *floor)
}

/// What a package is made of stands on its own floor or below; its tests may use what they like.
pub fn packages_use_no_higher_floor(file: &File) -> Vec<Finding> {
    let Some(own) = file.path.strip_suffix("Cargo.toml").map(|folder| folder.trim_end_matches('/')) else {
        return Vec::new();
    };
    if own == "benches/candle-llama" {
        return Vec::new();
    }
    let Some(own_floor) = floor_of(own) else {
        return vec![found(1, format!("{own} has no floor: give it one in tests/tidy/floors.rs"))];
    };
    let (mut findings, mut counts) = (Vec::new(), false);
    for (line, text) in (1..).zip(file.text.lines()) {
        if text.starts_with('[') {
            counts = text == "[dependencies]";
        }
        let Some(name) = text.strip_prefix("stageline-").filter(|_| counts) else { continue };
        let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
        let Some(used) = folder_of(&name) else { continue };
        if floor_of(used) > Some(own_floor) {
            findings.push(found(line, format!("{own} (floor {own_floor}) uses {used}, which stands above it")));
        }
        if STRANGERS.contains(&(own, used)) || STRANGERS.contains(&(used, own)) {
            findings.push(found(line, format!("{own} uses {used}: they never use each other")));
        }
    }
    findings
}

/// Modules that decide: values in, values out.
const PURE: [&str; 5] = ["base", "core", "flow", "plan", "template"];
/// Clocks, I/O and threads, which they take no part in.
const IMPURE: [&str; 14] = [
    "tokio",
    "futures",
    "rayon",
    "candle_core",
    "candle_nn",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "async",
    "tracing",
];

pub fn pure_floors_are_pure(file: &File) -> Vec<Finding> {
    match file.module() {
        Some(module) if PURE.contains(&module) => mentions(file, &IMPURE, |_| true),
        _ => Vec::new(),
    }
}

/// Where the code mentions a word of `words`, and what follows it is as `follows` wants.
fn mentions(file: &File, words: &[&str], follows: fn(&str) -> bool) -> Vec<Finding> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut findings = Vec::new();
    for (line, code) in file.code_lines() {
        for word in words {
            let hit = code.match_indices(word).any(|(at, _)| {
                let rest = &code[at + word.len()..];
                !code[..at].ends_with(part) && !rest.starts_with(part) && follows(rest)
            });
            if hit {
                findings.push(found(line, format!("{} mentions {word}", file.module().unwrap_or("it"))));
            }
        }
    }
    findings
}

#[test]
fn a_higher_floor_is_found_in_a_manifest() {
    use crate::lines;
    let text = "[dependencies]\nstageline-door.workspace = true\nstageline-cuda = { workspace = true }\n\
                [dev-dependencies]\nstageline-server.workspace = true\n";
    assert_eq!(lines(packages_use_no_higher_floor, "src/plan/Cargo.toml", text), [2, 3]);
    assert_eq!(lines(packages_use_no_higher_floor, "src/server/Cargo.toml", text), [0; 0]);
    assert_eq!(lines(packages_use_no_higher_floor, "src/plan/cost.rs", text), [0; 0]);
    let hops = "[dependencies]\nstageline-transport.workspace = true\n";
    assert_eq!(lines(packages_use_no_higher_floor, "src/engine/Cargo.toml", hops), [2]);
    assert_eq!(lines(packages_use_no_higher_floor, "src/attic/Cargo.toml", ""), [1]);
}

#[test]
fn impure_words_are_found_in_pure_code_only() {
    use crate::lines;
    let text =
        "use std::fs::File;\nasync fn f() {}\n// an async word\nlet instant = Instant::now();\nfn asynchronous() {}";
    assert_eq!(lines(pure_floors_are_pure, "src/core/machine.rs", text), [1, 2, 4]);
    assert_eq!(lines(pure_floors_are_pure, "src/server/pump.rs", text), [0; 0]);
}
