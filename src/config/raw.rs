//! The settings as text, from the command line, the environment and the file, and which of them counts.

use crate::config::problem::{Origin, Problems};
use crate::config::setting::Setting;
use crate::config::verbs::VERBS;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Variables of our prefix that are not settings: the scripts' and the tests'.
const OTHER_VARIABLES: [&str; 5] =
    ["STAGELINE_CACHE", "STAGELINE_CONFIG", "STAGELINE_MODELS", "STAGELINE_NATS_SERVER", "STAGELINE_PYTHON"];

/// What people wrote, unread.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// Values by key, from the command line.
    pub flags: BTreeMap<String, Vec<String>>,
    /// The environment, by name. An empty variable counts as none.
    pub env: BTreeMap<String, String>,
    /// The settings' file, if there is one: where it is and what it holds.
    pub file: Option<(PathBuf, String)>,
}

/// The settings of one command as they are read: values on demand, problems kept until all have been found.
#[derive(Debug)]
pub struct Reader<'a> {
    written: &'a Written,
    file: BTreeMap<String, Vec<String>>,
    /// What was wrong up to now.
    pub problems: Problems,
}

impl<'a> Reader<'a> {
    /// Reads the file of `written` and looks for names that mean nothing.
    pub fn new(written: &'a Written) -> Self {
        let mut problems = Problems::default();
        let keys: BTreeSet<&str> = VERBS.iter().flat_map(|verb| verb.settings()).map(|s| s.key).collect();
        let mut file = BTreeMap::new();
        if let Some((path, text)) = &written.file {
            file = read_file(path, text, &keys, &mut problems);
        }
        for name in written.env.keys() {
            if let Some(meant) = misspelt_variable(name, &keys) {
                problems.0.push(format!("{name}: there is no such setting; did you mean {meant}?"));
            }
        }
        Self { written, file, problems }
    }

    /// The values of `setting` and where they come from: flag, else variable, else file, else default.
    fn find(&self, setting: &Setting) -> Option<(Origin, Vec<String>)> {
        if let Some(values) = self.written.flags.get(setting.key) {
            return Some((Origin::Flag(setting.on_command_line()), values.clone()));
        }
        let names = [Some(setting.env()), setting.also_env.map(str::to_owned)];
        let variable = |name: String| {
            let value = self.written.env.get(&name).filter(|value| !value.is_empty())?;
            Some((Origin::Env(name), vec![value.clone()]))
        };
        if let Some(found) = names.into_iter().flatten().find_map(variable) {
            return Some(found);
        }
        if let (Some(values), Some((path, _))) = (self.file.get(setting.key), &self.written.file) {
            return Some((Origin::File(path.clone(), setting.key.into()), values.clone()));
        }
        setting.default.map(|text| (Origin::Default(setting.on_command_line()), vec![text.into()]))
    }

    /// Whether anybody set `setting`, or it has a default.
    pub fn is_set(&self, setting: &Setting) -> bool {
        self.find(setting).is_some()
    }

    /// Whether `setting` is on the command line: there, unlike elsewhere, it is meant for this one command.
    pub fn is_flag(&self, setting: &Setting) -> bool {
        self.written.flags.contains_key(setting.key)
    }

    /// Where the value of `setting` comes from, for a message.
    pub fn origin(&self, setting: &Setting) -> String {
        self.find(setting).map_or_else(|| setting.on_command_line(), |(origin, _)| origin.to_string())
    }

    /// Every value of `setting`, read by `parse`.
    pub fn all<T>(&mut self, setting: &Setting, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((origin, texts)) = self.find(setting) else { return Vec::new() };
        let mut values = Vec::new();
        for text in texts {
            match parse(&text) {
                Ok(value) => values.push(value),
                Err(allowed) => self.problems.value(&origin, &text, allowed),
            }
        }
        values
    }

    /// The value of `setting`, if it is set and right.
    pub fn optional<T>(&mut self, setting: &Setting, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if let Some((origin @ Origin::File(..), texts)) = self.find(setting)
            && texts.len() != 1
        {
            self.problems.value(&origin, &texts.join(", "), "one value is expected, not a list");
            return None;
        }
        self.all(setting, parse).pop()
    }

    /// The value of a setting that must be set or has a default. What it gives for a wrong one is never used, since a
    /// problem is then kept.
    pub fn value<T: Default>(&mut self, setting: &Setting, parse: impl Fn(&str) -> Result<T, String>) -> T {
        if self.find(setting).is_none() {
            let name = setting.on_command_line();
            let file = self.written.file.as_ref().map_or(Path::new("stageline.toml"), |(path, _)| path);
            self.problems.0.push(format!(
                "{name} is missing: {}. Give {name}, the variable {}, or {} in {}",
                setting.help,
                setting.env(),
                setting.key,
                file.display()
            ));
        }
        self.optional(setting, parse).unwrap_or_default()
    }

    /// Whether a switch is on.
    pub fn switch(&mut self, setting: &Setting) -> bool {
        self.optional(setting, crate::config::parse::switch).unwrap_or(false)
    }
}

/// The values of the file `path` by key, each as text.
fn read_file(path: &Path, text: &str, keys: &BTreeSet<&str>, problems: &mut Problems) -> BTreeMap<String, Vec<String>> {
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(error) => {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            problems.0.push(format!("{}: line {line}: {}", path.display(), error.message().replace('\n', " ")));
            return BTreeMap::new();
        }
    };
    let mut values = BTreeMap::new();
    for (key, value) in table {
        if !keys.contains(key.as_str()) {
            let meant = nearest(&key.replace('-', "_"), keys).map(|near| format!("; did you mean {near}?"));
            let meant = meant.unwrap_or_default();
            problems.0.push(format!("{}: {key}: there is no such setting{meant}", path.display()));
            continue;
        }
        let texts = match value {
            toml::Value::Array(items) => items.into_iter().map(scalar).collect(),
            single => scalar(single).map(|text| vec![text]),
        };
        match texts {
            Some(texts) => drop(values.insert(key, texts)),
            None => problems.0.push(format!(
                "{}: {key}: a text, a number, true, false or a list of them is expected",
                path.display()
            )),
        }
    }
    values
}

/// A single value of the file as the text that a flag would have.
fn scalar(value: toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(on) => Some(on.to_string()),
        _ => None,
    }
}

/// The variable that was probably meant by `name`, if `name` is none of ours but nearly is.
///
/// Not every unknown name is refused: Kubernetes sets `…_PORT`, `…_SERVICE_HOST` and the like for each Service.
fn misspelt_variable(name: &str, keys: &BTreeSet<&str>) -> Option<String> {
    let key = name.strip_prefix("STAGELINE_")?.to_ascii_lowercase();
    let kubernetes = key == "port" || ["_port", "_service_host", "service_host"].iter().any(|end| key.ends_with(end));
    if kubernetes || keys.contains(key.as_str()) || OTHER_VARIABLES.contains(&name) {
        return None;
    }
    nearest(&key, keys).map(|near| format!("STAGELINE_{}", near.to_ascii_uppercase()))
}

/// The name in `names` that is at most two edits, and less than half of itself, away from `word`.
fn nearest<'n>(word: &str, names: &BTreeSet<&'n str>) -> Option<&'n str> {
    let near = names.iter().map(|name| (edits(word, name), *name)).min()?;
    (near.0 <= 2 && near.0 * 2 < near.1.len()).then_some(near.1)
}

/// Levenshtein's distance between two words.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
