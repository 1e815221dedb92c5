//! The files of the project, without what a build or git keeps beside them.

use crate::lexer;
use std::fs;
use std::path::Path;

/// A text file of the project.
pub struct File {
    /// From the project's folder, with `/` between.
    pub path: String,
    /// All of it.
    pub text: String,
    /// Rust: the code alone, comments and the insides of strings blanked; other files: empty.
    pub code: String,
    /// Rust: the comments alone; other files: empty.
    pub comments: String,
    /// Whether its owner may run it.
    pub runs: bool,
}

impl File {
    /// A file of this path and text.
    pub fn new(path: &str, text: &str, runs: bool) -> Self {
        let (code, comments) = if path.ends_with(".rs") { lexer::separate(text) } else { Default::default() };
        Self { path: path.into(), text: text.into(), code, comments, runs }
    }

    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The module under `src` that it belongs to: `plan` for `src/plan/cost.rs`; none for `src/lib.rs`.
    pub fn module(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split_once('/').map(|(module, _)| module)
    }

    /// Its code by line, from 1. Where its unit tests begin is told by `#[cfg(test)]`.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    /// Line of the first `#[cfg(test)]`, after which only tests are taken to stand; a file of tests has none before 1.
    pub fn tests_begin(&self) -> usize {
        let whole = self.path.starts_with("tests/") || self.path.ends_with("/tests.rs");
        let inside = || self.code_lines().find(|(_, line)| line.contains("#[cfg(test)]")).map(|(n, _)| n);
        if whole { 1 } else { inside().unwrap_or(usize::MAX) }
    }
}

/// Every text file of the project.
pub fn files() -> Vec<File> {
    let mut files = Vec::new();
    walk(Path::new(env!("STAGELINE_ROOT")), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// What .gitignore leaves out, and git's own.
const LEFT_OUT: [&str; 4] = [".git", "target", "models", ".venv"];

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("the project's folders can be read") {
        let entry = entry.expect("an entry can be read");
        let name = entry.file_name().into_string().expect("names are UTF-8");
        let path = format!("{prefix}{name}");
        let about = entry.metadata().expect("an entry can be looked at");
        if LEFT_OUT.contains(&path.as_str()) || name == "__pycache__" {
            continue;
        }
        if about.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files);
        } else if about.is_file()
            && let Ok(text) = String::from_utf8(fs::read(entry.path()).expect("a file can be read"))
        {
            files.push(File::new(&path, &text, runs(&about)));
        }
    }
}

#[cfg(unix)]
fn runs(about: &fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt;
    about.permissions().mode() & 0o100 != 0
}

/// Where there are no run bits, every file has one.
#[cfg(not(unix))]
fn runs(_: &fs::Metadata) -> bool {
    true
}
