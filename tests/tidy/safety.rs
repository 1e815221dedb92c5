//! Rules on what can hurt: unsafe code, growing queues, unexplained orders of waiting.

use crate::{Finding, found, tree::File};

/// Where unsafe code may stand: maths, the device, aligned buffers, shared memory, and one place that sets a variable before any thread.
const UNSAFE_PLACES: [&str; 11] = [
    "src/ops/",
    "src/engine/",
    "src/shard/",
    // Memory that two processes share, and the futex in it.
    "src/transport/shm/",
    "src/cli/threads.rs",
    // kill(2): the standard library sends no SIGTERM.
    "src/cli/children.rs",
    // malloc_trim(3).
    "src/door/workroom/",
    // Allocators that count, to bound what hostile input makes the reader allocate.
    "tests/net/allocations.rs",
    "tests/split/largest.rs",
    // Device memory, given to kernels by its address.
    "tests/cuda/",
    "benches/gpu/",
];

pub fn unsafe_has_its_places(file: &File) -> Vec<Finding> {
    if UNSAFE_PLACES.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    unsafe_lines(file)
        .map(|line| found(line, "unsafe code stands only in ops, engine, shard and transport/shm"))
        .collect()
}

/// Lines with `unsafe` as a word of the code.
fn unsafe_lines(file: &File) -> impl Iterator<Item = usize> + '_ {
    let is_word = |code: &str| code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
    file.code_lines().filter(move |(_, code)| is_word(code)).map(|(line, _)| line)
}

pub fn unsafe_has_its_proof(file: &File) -> Vec<Finding> {
    let comments: Vec<&str> = file.comments.lines().collect();
    let code: Vec<&str> = file.code.lines().collect();
    let has_proof = |line: usize| {
        let above = (0..line - 1).rev().take_while(|i| !code[*i].trim_end().ends_with([';', '}']));
        above.chain([line - 1]).any(|i| comments.get(i).is_some_and(|text| text.contains("SAFETY")))
    };
    // A proof for many blocks at once stands above the attribute that spares each its own.
    let spared = file.code_lines().find(|(_, line)| line.contains("allow(clippy::undocumented_unsafe_blocks)"));
    if let Some((line, _)) = spared {
        return if has_proof(line) {
            Vec::new()
        } else {
            vec![found(line, "no `// SAFETY:` above, for all blocks at once")]
        };
    }
    // An unsafe fn states its conditions in its docs, which clippy sees to.
    let needs_proof = |line: &usize| !["unsafe fn", "unsafe extern"].iter().any(|f| code[line - 1].contains(f));
    let lines = unsafe_lines(file).filter(needs_proof).filter(|line| !has_proof(*line));
    lines.map(|line| found(line, "no `// SAFETY:` above this unsafe block")).collect()
}

pub fn channels_are_bounded(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, code) in file.code_lines() {
        if code.contains("unbounded") {
            findings.push(found(line, "a channel without a bound"));
        }
        // std's mpsc::channel() takes no bound; tokio's takes one, and its oneshot::channel() needs none.
        for (at, name) in code.match_indices("mpsc::channel") {
            let rest = &code[at + name.len()..];
            let arguments =
                if rest.starts_with("::<") { rest.rfind(">(").map_or("", |i| &rest[i + 1..]) } else { rest };
            if arguments.starts_with("()") {
                findings.push(found(line, "a channel without a bound: use sync_channel"));
            }
        }
    }
    findings
}

pub fn biased_selects_explain_themselves(file: &File) -> Vec<Finding> {
    let comments: Vec<&str> = file.comments.lines().collect();
    let code: Vec<&str> = file.code.lines().collect();
    let said = |i: usize| comments.get(i).is_some_and(|text| !text.trim().is_empty());
    let biased = (0..code.len()).filter(|i| code[*i].trim() == "biased;" || code[*i].contains("{ biased;"));
    let unexplained = biased.filter(|i| {
        let select = (0..=*i).rev().find(|j| code[*j].contains("select!")).unwrap_or(*i);
        !(select.saturating_sub(1)..*i).any(said)
    });
    unexplained.map(|i| found(i + 1, "no comment above says why this order")).collect()
}

#[test]
fn unsafe_code_is_found_outside_its_places() {
    use crate::lines;
    let text = "unsafe { f() }\n// unsafe\nlet unsafely = \"unsafe\";";
    assert_eq!(lines(unsafe_has_its_places, "src/door/http.rs", text), [1]);
    assert_eq!(lines(unsafe_has_its_places, "src/ops/matmul.rs", text), [0; 0]);
}

#[test]
fn unsafe_code_without_proof_is_found() {
    use crate::lines;
    let proved = "// SAFETY: it is.\nlet x =\n    unsafe { f() };\nlet y = unsafe { g() }; // SAFETY: so is this.";
    assert_eq!(lines(unsafe_has_its_proof, "src/ops/a.rs", proved), [0; 0]);
    let bare = "// SAFETY: of another.\nlet x = 1;\nunsafe { f() };\nunsafe impl Send for X {}\nunsafe fn f() {}";
    assert_eq!(lines(unsafe_has_its_proof, "src/ops/a.rs", bare), [3, 4]);
    let at_once = "#[allow(clippy::undocumented_unsafe_blocks)]\nimpl X {\n    unsafe { f() }\n}";
    assert_eq!(lines(unsafe_has_its_proof, "src/ops/a.rs", at_once), [1]);
    assert_eq!(lines(unsafe_has_its_proof, "src/ops/a.rs", &format!("// SAFETY: all.\n{at_once}")), [0; 0]);
}

#[test]
fn channels_without_a_bound_are_found() {
    use crate::lines;
    let text = "mpsc::unbounded_channel();\nstd::sync::mpsc::channel();\nmpsc::channel::<Vec<u8>>();\nmpsc::channel(1);\n\
                oneshot::channel();\nmpsc::channel::<Vec<u8>>(8);\nmpsc::sync_channel(1);";
    assert_eq!(lines(channels_are_bounded, "src/server/pump.rs", text), [1, 2, 3]);
}

#[test]
fn biased_selects_without_a_reason_are_found() {
    use crate::lines;
    let text = "// Stop first.\ntokio::select! {\n    biased;\n}\nx();\nselect! {\n    // Stop first.\n    biased;\n}\ny();\n\
                select! {\n    biased;\n}\n";
    assert_eq!(lines(biased_selects_explain_themselves, "src/server/pump.rs", text), [12]);
}
