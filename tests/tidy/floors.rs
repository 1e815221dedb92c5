//! Who may use whom.

use crate::{Finding, found, tree::File};

/// The floor of each module under `src`.
const FLOORS: [(&str, u8); 16] = [
    ("base", 0),
    ("core", 1),
    ("flow", 1),
    ("plan", 1),
    ("ops", 2),
    ("model", 2),
    ("wire", 2),
    ("shard", 2),
    ("template", 2),
    ("engine", 3),
    ("transport", 3),
    ("server", 4),
    ("door", 4),
    ("load", 4),
    ("cli", 5),
    ("config", 5),
];

/// Two modules of one floor that never use each other.
const STRANGERS: [(&str, &str); 2] = [("engine", "transport"), ("transport", "engine")];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

pub fn uses_no_higher_floor(file: &File) -> Vec<Finding> {
    let Some(own) = file.module() else { return Vec::new() };
    let Some(own_floor) = floor(own) else {
        return vec![found(1, format!("src/{own} has no floor: give it one in tests/tidy/floors.rs"))];
    };
    let mut findings = Vec::new();
    for (line, module) in used_modules(&file.code) {
        match floor(&module) {
            Some(floor) if floor > own_floor => {
                findings.push(found(line, format!("{own} (floor {own_floor}) uses {module} (floor {floor})")));
            }
            Some(_) if STRANGERS.contains(&(own, &module)) => {
                findings.push(found(line, format!("{own} uses {module}: they never use each other")));
            }
            _ => {}
        }
    }
    findings
}

/// The modules named as `crate::module` or in `crate::{…}`, with their lines.
fn used_modules(code: &str) -> Vec<(usize, String)> {
    let mut modules = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        let line = 1 + code[..at].matches('\n').count();
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(first_words(group).map(|word| (line, word))),
            None => modules.push((line, word(rest))),
        }
    }
    modules
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first word of each item of a `use` group, whose opening brace is already read.
fn first_words(group: &str) -> impl Iterator<Item = String> {
    let mut depth = 1;
    let end = group.char_indices().find(|(_, c)| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    });
    let inside = &group[..end.map_or(group.len(), |(i, _)| i)];
    let mut depth = 0;
    let items = inside.split(move |c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0 && c == ','
    });
    items.map(|item| word(item.trim_start())).collect::<Vec<_>>().into_iter()
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

/// Crates, and the only modules that may name them.
const AT_HOME: [(&str, &[&str]); 9] = [
    ("tokio", &["engine", "transport", "server", "door", "load", "cli"]),
    ("candle_core", &["ops", "model", "engine"]),
    ("candle_nn", &["ops", "model", "engine"]),
    ("cudarc", &["ops", "model", "engine"]),
    ("prost", &["wire"]),
    ("pb", &["wire", "door", "load", "cli"]),
    ("axum", &["door", "server", "cli"]),
    ("clap", &["cli"]),
    ("anyhow", &["cli", "config"]),
];

pub fn crates_stay_on_their_floors(file: &File) -> Vec<Finding> {
    let Some(module) = file.module() else { return Vec::new() };
    let strangers: Vec<&str> =
        AT_HOME.iter().filter(|(_, homes)| !homes.contains(&module)).map(|(name, _)| *name).collect();
    mentions(file, &strangers, |path| path.starts_with("::"))
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
fn a_higher_floor_is_found_however_it_is_named() {
    use crate::lines;
    let text = "use crate::base::Tick;\nuse crate::{core::{A, engine}, transport::B};\nlet x = crate::door::f();\n\
                // crate::cli\n\"crate::cli\"";
    assert_eq!(lines(uses_no_higher_floor, "src/plan/cost.rs", text), [2, 3]);
    assert_eq!(lines(uses_no_higher_floor, "src/server/pump.rs", text), [0; 0]);
    assert_eq!(lines(uses_no_higher_floor, "src/lib.rs", text), [0; 0]);
    assert_eq!(lines(uses_no_higher_floor, "src/engine/thread.rs", "use crate::transport::T;"), [1]);
    assert_eq!(lines(uses_no_higher_floor, "src/attic/mod.rs", ""), [1]);
}

#[test]
fn impure_words_are_found_in_pure_code_only() {
    use crate::lines;
    let text =
        "use std::fs::File;\nasync fn f() {}\n// an async word\nlet instant = Instant::now();\nfn asynchronous() {}";
    assert_eq!(lines(pure_floors_are_pure, "src/core/machine.rs", text), [1, 2, 4]);
    assert_eq!(lines(pure_floors_are_pure, "src/server/pump.rs", text), [0; 0]);
}

#[test]
fn crates_are_found_away_from_home() {
    use crate::lines;
    let text = "use candle_core::Tensor;\nuse crate::wire::pb::Parcel;\nlet pb = 1;";
    assert_eq!(lines(crates_stay_on_their_floors, "src/server/pump.rs", text), [1, 2]);
    assert_eq!(lines(crates_stay_on_their_floors, "src/ops/norm.rs", text), [2]);
    assert_eq!(lines(crates_stay_on_their_floors, "src/wire/parcel.rs", text), [1]);
}
