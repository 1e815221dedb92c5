//! Rules on how code, scripts and documents are written.

use crate::{Finding, found, tree::File};

/// Most lines of a file that somebody must read.
const MAX_LINES: usize = 400;

pub fn is_short(file: &File) -> Vec<Finding> {
    let read = [".rs", ".py", ".proto", ".cu"].iter().any(|end| file.path.ends_with(end));
    let lines = file.text.lines().count();
    (read && lines > MAX_LINES)
        .then(|| found(MAX_LINES, format!("{lines} lines, more than {MAX_LINES}")))
        .into_iter()
        .collect()
}

/// Words that say nothing about what a thing is.
const EMPTY_WORDS: [&str; 8] = ["util", "helper", "manager", "handler", "processor", "context", "data", "info"];

/// Names that a trait of another crate demands.
const FOREIGN: [&str; 2] = ["ConnectInfo", "Data"];

fn is_empty_word(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    EMPTY_WORDS.iter().any(|empty| word.strip_prefix(empty).is_some_and(|rest| rest.is_empty() || rest == "s"))
}

pub fn names_mean_something(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let parts = file.path.split(['/', '.', '_', '-']);
    if file.is_rust() && parts.into_iter().any(is_empty_word) {
        findings.push(found(1, format!("the path {} says nothing", file.path)));
    }
    for (line, code) in file.code_lines() {
        let mut words = code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            if ["struct", "enum", "trait", "type", "mod", "union"].contains(&word)
                && let Some(name) = words.next().filter(|name| !FOREIGN.contains(name))
                && name_parts(name).iter().any(|part| is_empty_word(part))
            {
                findings.push(found(line, format!("the name {name} says nothing")));
            }
        }
    }
    findings
}

/// The words of a name in snake or camel case.
fn name_parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            parts.push(String::new());
        }
        if let (Some(part), true) = (parts.last_mut(), c != '_') {
            part.push(c);
        }
    }
    parts
}

pub fn nothing_is_left_to_do(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in (1..).zip(file.comments.lines()).chain(file.code_lines()) {
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        if words.any(|word| ["TODO", "FIXME", "XXX", "HACK"].contains(&word)) {
            findings.push(found(line, "something is left to do"));
        }
        if ["todo!", "unimplemented!", "dbg!"].iter().any(|name| file.is_rust() && text.contains(name)) {
            findings.push(found(line, "a macro that is for drafts"));
        }
    }
    findings
}

pub fn tests_neither_sleep_nor_hide(file: &File) -> Vec<Finding> {
    let tests = file.tests_begin();
    let mut findings = Vec::new();
    for (line, code) in file.code_lines() {
        if code.contains("#[ignore") {
            findings.push(found(line, "an ignored test"));
        }
        let sleeps = ["sleep(", "sleep_until(", "sleep_ms("].iter().any(|call| code.contains(call));
        if line >= tests && sleeps {
            findings.push(found(line, "a test that sleeps: wait for what it waits for"));
        }
    }
    findings
}

pub fn no_path_of_one_machine(file: &File) -> Vec<Finding> {
    let of_one_machine = |line: &str| {
        ["root", "work", "home", "Users"].into_iter().any(|name| {
            let path = format!("/{name}/");
            let mut hits = line.match_indices(&path);
            hits.any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-~}*/$".contains(c)))
        })
    };
    let lines = (1..).zip(file.text.lines()).filter(|(_, line)| of_one_machine(line));
    lines.map(|(line, _)| found(line, "a path of one machine")).collect()
}

pub fn scripts_can_be_run(file: &File) -> Vec<Finding> {
    let script = file.text.starts_with("#!") && !file.text.starts_with("#![");
    let text = match (script, file.runs) {
        (true, false) => "begins with #! but has no run bit: chmod +x",
        (false, true) if cfg!(unix) => "has a run bit but does not begin with #!",
        _ => return Vec::new(),
    };
    vec![found(1, text)]
}

pub fn lines_end_cleanly(file: &File) -> Vec<Finding> {
    if !["LICENSE", "Cargo.lock"].iter().all(|name| !file.path.ends_with(name)) || file.path.ends_with(".json") {
        return Vec::new();
    }
    let blank = |line: &str| line.ends_with([' ', '\t', '\r']);
    let mut findings: Vec<Finding> = (1..)
        .zip(file.text.split('\n'))
        .filter(|(_, l)| blank(l))
        .map(|(n, _)| found(n, "blanks at the end"))
        .collect();
    if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
        findings.push(found(file.text.lines().count(), "one newline is expected at the end"));
    }
    findings
}

pub fn modules_are_introduced(file: &File) -> Vec<Finding> {
    let introduced = !file.is_rust() || file.text.starts_with("//!") || file.path.ends_with("/tests.rs");
    (!introduced)
        .then(|| found(1, "the first line is expected to say what the file is, after //!"))
        .into_iter()
        .collect()
}

#[test]
fn long_files_are_found() {
    use crate::lines;
    assert_eq!(lines(is_short, "src/a/b.rs", &"x\n".repeat(400)), [0; 0]);
    assert_eq!(lines(is_short, "src/a/b.rs", &"x\n".repeat(401)), [400]);
    assert_eq!(lines(is_short, "Cargo.lock", &"x\n".repeat(401)), [0; 0]);
}

#[test]
fn empty_names_are_found() {
    use crate::lines;
    let text =
        "struct RequestHandler;\nenum Database {}\ntype Infos = u8;\nmod kv_context {}\n// struct Data\nlet data = 1;";
    assert_eq!(lines(names_mean_something, "src/a/b.rs", text), [1, 3, 4]);
    assert_eq!(lines(names_mean_something, "src/a/utils.rs", ""), [1]);
    assert_eq!(lines(names_mean_something, "src/info/mod.rs", ""), [1]);
}

#[test]
fn what_is_left_to_do_is_found() {
    use crate::lines;
    let marker = concat!("TO", "DO");
    let text = format!("// {marker}: later\nlet x = \"{marker}\";\ntodo!()\ndbg!(x);\nlet {marker}S = 1;");
    assert_eq!(lines(nothing_is_left_to_do, "src/a/b.rs", &text), [1, 3, 4]);
}

#[test]
fn ignored_and_sleeping_tests_are_found() {
    use crate::lines;
    let text =
        "thread::sleep(d);\n#[ignore = \"slow\"]\n#[cfg(test)]\nmod tests {\n    tokio::time::sleep(d).await;\n}";
    assert_eq!(lines(tests_neither_sleep_nor_hide, "src/a/b.rs", text), [2, 5]);
    assert_eq!(lines(tests_neither_sleep_nor_hide, "tests/a.rs", text), [1, 2, 5]);
}

#[test]
fn paths_of_one_machine_are_found() {
    use crate::lines;
    let (root, home) = (concat!("/ro", "ot/x"), concat!("/ho", "me/me/x"));
    let text = format!("cd {root}\n'{home}'\nopenfaas{root}\n${{x}}{root}\n/rootless/\n");
    assert_eq!(lines(no_path_of_one_machine, "README.md", &text), [1, 2]);
}

#[test]
fn scripts_without_a_run_bit_are_found() {
    let rule = |text, runs| scripts_can_be_run(&File::new("scripts/a", text, runs)).len();
    assert_eq!((rule("#!/bin/sh\n", false), rule("#!/bin/sh\n", true)), (1, 0));
    assert_eq!((rule("# sourced\n", false), rule("# sourced\n", true)), (0, 1));
    assert_eq!(rule("#![allow(x)]\n", false), 0);
}

#[test]
fn unclean_lines_are_found() {
    use crate::lines;
    assert_eq!(lines(lines_end_cleanly, "a.md", "a \nb\t\nc\n"), [1, 2]);
    assert_eq!(lines(lines_end_cleanly, "a.md", "a\nb"), [2]);
    assert_eq!(lines(lines_end_cleanly, "a.md", "a\n\n"), [2]);
}

#[test]
fn files_without_an_introduction_are_found() {
    use crate::lines;
    assert_eq!(lines(modules_are_introduced, "src/a/b.rs", "use x;\n"), [1]);
    assert_eq!(lines(modules_are_introduced, "src/a/b.rs", "//! What it is.\n"), [0; 0]);
    assert_eq!(lines(modules_are_introduced, "src/a/b/tests.rs", "use super::*;\n"), [0; 0]);
}
