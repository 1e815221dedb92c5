//! Who may use whom: between packages, by what their manifests ask for; inside a package, by what its modules name.

use crate::{Finding, found, tree::File};
use std::collections::{BTreeMap, BTreeSet};

/// The floor of each package, by its folder.
const FLOORS: [(&str, u8); 20] = [
    ("src/base", 0),
    ("src/core", 1),
    ("src/flow", 1),
    ("src/plan", 1),
    ("src/template", 1),
    ("proto", 2),
    ("src/ops", 2),
    ("src/model", 2),
    ("src/wire", 2),
    ("src/metrics", 2),
    ("src/shard", 2),
    ("src/engine", 3),
    ("src/engine/cuda", 3),
    ("src/store", 3),
    ("src/transport", 3),
    ("src/door", 4),
    ("src/runner", 4),
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

/// The modules of one package that use each other in a circle. A module is a file beside `lib.rs` together with the folder
/// of its name: what is inside it is its own affair.
pub fn circles(files: &[File]) -> Vec<String> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let Some((package, module)) = module_of(&file.path) else { continue };
        let end = file.tests_begin();
        let named =
            file.code_lines().take_while(|(line, _)| *line < end).flat_map(|(_, code)| named_in(code, &file.path));
        let own = format!("{package}/{module}");
        uses.entry(own.clone())
            .or_default()
            .extend(named.map(|name| format!("{package}/{name}")).filter(|n| *n != own));
    }
    let known: BTreeSet<String> = uses.keys().cloned().collect();
    let reaches = |from: &String, to: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(at) = next.pop() {
            for used in uses[at].iter().filter(|used| known.contains(*used)) {
                if used == to {
                    return true;
                }
                if seen.insert(used) {
                    next.push(used);
                }
            }
        }
        false
    };
    known.iter().filter(|module| reaches(module, module)).cloned().collect()
}

/// The package of a file of Rust code and its module there; none for `lib.rs`, which names them all.
fn module_of(path: &str) -> Option<(&str, &str)> {
    let mut packages: Vec<&str> = FLOORS.iter().map(|(folder, _)| *folder).filter(|f| f.starts_with("src/")).collect();
    packages.sort_by_key(|folder| std::cmp::Reverse(folder.len()));
    let package =
        packages.into_iter().find(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/')));
    let package = package.unwrap_or("src");
    let inside = path.strip_prefix(package)?.strip_prefix('/')?.strip_suffix(".rs")?;
    let module = inside.split('/').next()?;
    (!["lib", "main", "build"].contains(&module) && !inside.ends_with("tests")).then_some((package, module))
}

/// The modules of its own package that a line of `path` names: `crate::module`, or as many `super::` as lead there.
fn named_in(code: &str, path: &str) -> Vec<String> {
    let depth = module_of(path)
        .map_or(0, |(package, _)| path[package.len()..].trim_end_matches("/mod.rs").matches('/').count());
    let up = "super::".repeat(depth);
    let after = |prefix: &str| {
        let starts = code.match_indices(prefix).map(|(at, _)| at);
        let alone = starts.filter(|at| !code[..*at].ends_with(|c: char| c == ':' || c.is_alphanumeric() || c == '_'));
        alone.map(|at| code[at + prefix.len()..].to_owned()).collect::<Vec<_>>()
    };
    let words = after("crate::").into_iter().chain(after(&up));
    words.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
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
fn modules_in_a_circle_are_found() {
    use crate::planted;
    let of =
        |files: &[(&str, &str)]| circles(&files.iter().map(|(path, text)| planted(path, text)).collect::<Vec<_>>());
    let (a, b) = (("src/core/a.rs", "use crate::b::B;"), ("src/core/b/deep.rs", "use super::super::c::C;"));
    assert_eq!(of(&[a, b, ("src/core/c.rs", "use super::a::A;")]), ["src/core/a", "src/core/b", "src/core/c"]);
    assert_eq!(of(&[a, b, ("src/core/c.rs", "use super::d::A;")]), [""; 0]);
    // Another package's module of the same name is another one, a test may look at all, and so may lib.rs.
    assert_eq!(of(&[a, b, ("src/plan/c.rs", "use crate::a::A;")]), [""; 0]);
    assert_eq!(of(&[a, b, ("src/core/c.rs", "#[cfg(test)]\nuse crate::a::A;")]), [""; 0]);
    assert_eq!(of(&[a, b, ("src/core/lib.rs", "use crate::c::C;\nuse crate::a::A;")]), [""; 0]);
}

#[test]
fn impure_words_are_found_in_pure_code_only() {
    use crate::lines;
    let text =
        "use std::fs::File;\nasync fn f() {}\n// an async word\nlet instant = Instant::now();\nfn asynchronous() {}";
    assert_eq!(lines(pure_floors_are_pure, "src/core/machine.rs", text), [1, 2, 4]);
    assert_eq!(lines(pure_floors_are_pure, "src/server/pump.rs", text), [0; 0]);
}
