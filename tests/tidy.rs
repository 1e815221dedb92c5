//! The house rules, as a test: what ARCHITECTURE.md says is absent is looked for here.
//!
//! Each rule is a function from a file to what it finds there, and has a test of its own with a planted violation.

#[path = "tidy/floors.rs"]
mod floors;
#[path = "tidy/lexer.rs"]
mod lexer;
#[path = "tidy/safety.rs"]
mod safety;
#[path = "tidy/style.rs"]
mod style;
#[path = "tidy/tree.rs"]
mod tree;

use tree::File;

/// A rule: what it finds in a file, each with its line (from 1).
type Rule = fn(&File) -> Vec<Finding>;

/// What a rule found.
#[derive(Debug, PartialEq)]
struct Finding {
    line: usize,
    what: String,
}

fn found(line: usize, what: impl Into<String>) -> Finding {
    Finding { line, what: what.into() }
}

const RULES: [(&str, Rule); 14] = [
    ("a package uses its own floor and those below", floors::packages_use_no_higher_floor),
    ("the core is pure", floors::pure_floors_are_pure),
    ("a file fits a sitting", style::is_short),
    ("names mean something", style::names_mean_something),
    ("nothing is left to do", style::nothing_is_left_to_do),
    ("no test is ignored or sleeps", style::tests_neither_sleep_nor_hide),
    ("no path of one machine", style::no_path_of_one_machine),
    ("unsafe code has its places", safety::unsafe_has_its_places),
    ("every unsafe block has its proof", safety::unsafe_has_its_proof),
    ("no channel without a bound", safety::channels_are_bounded),
    ("every biased select explains itself", safety::biased_selects_explain_themselves),
    ("scripts can be run", style::scripts_can_be_run),
    ("no trailing blanks, one newline at the end", style::lines_end_cleanly),
    ("every module is said in a sentence", style::modules_are_introduced),
];

#[test]
fn the_house_is_tidy() {
    let files = tree::files();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "the tree was not read");
    let mut all = Vec::new();
    for file in &files {
        for (rule, check) in RULES {
            all.extend(check(file).into_iter().map(|f| format!("{}:{}: {rule}: {}", file.path, f.line, f.what)));
        }
    }
    all.extend(floors::circles(&files).into_iter().map(|module| format!("{module}: is part of a circle of modules")));
    assert!(all.is_empty(), "{} findings:\n{}", all.len(), all.join("\n"));
}

/// A file as if it were in the tree, for planted violations.
fn planted(path: &str, text: &str) -> File {
    File::new(path, text, false)
}

/// The lines at which `rule` finds something in `text`.
fn lines(rule: Rule, path: &str, text: &str) -> Vec<usize> {
    rule(&planted(path, text)).into_iter().map(|f| f.line).collect()
}
