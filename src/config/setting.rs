//! What a setting is: one key, and with it a flag, an environment variable and a key of stageline.toml.

/// How a setting is written on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `--key VALUE`; the text names the value in `--help`.
    Value(&'static str),
    /// `--key VALUE`, as often as wanted; an array in the file.
    List(&'static str),
    /// `--key`; `true` or `false` elsewhere.
    Switch,
}

/// A setting. Its key is snake case: `max_num_seqs` is `--max-num-seqs` and `STAGELINE_MAX_NUM_SEQS` too.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub key: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// One or two sentences for `--help`.
    pub help: &'static str,
    /// The text it has if nobody sets it.
    pub default: Option<&'static str>,
    /// An environment variable, known elsewhere, that is read after its own.
    pub also_env: Option<&'static str>,
    /// Written without a flag.
    pub positional: bool,
    /// Left out of `--help`.
    pub hidden: bool,
}

impl Setting {
    const fn new(key: &'static str, shape: Shape, help: &'static str) -> Self {
        Self { key, shape, help, default: None, also_env: None, positional: false, hidden: false }
    }

    /// A setting with one value, called `name` in `--help`.
    pub const fn value(key: &'static str, name: &'static str, help: &'static str) -> Self {
        Self::new(key, Shape::Value(name), help)
    }

    /// A setting with any number of values.
    pub const fn list(key: &'static str, name: &'static str, help: &'static str) -> Self {
        Self::new(key, Shape::List(name), help)
    }

    /// A setting that is on or off, and off if nobody sets it.
    pub const fn switch(key: &'static str, help: &'static str) -> Self {
        Self::new(key, Shape::Switch, help)
    }

    /// The same setting with a default.
    pub const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    /// The same setting, also read from the environment variable `name`.
    pub const fn also(self, name: &'static str) -> Self {
        Self { also_env: Some(name), ..self }
    }

    /// The same setting, written without its flag.
    pub const fn positional(self) -> Self {
        Self { positional: true, ..self }
    }

    /// The same setting, left out of `--help`.
    pub const fn hidden(self) -> Self {
        Self { hidden: true, ..self }
    }

    /// Its flag, without the dashes.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// How a message names it on the command line.
    pub fn on_command_line(&self) -> String {
        match self.shape {
            Shape::Value(name) if self.positional => name.to_owned(),
            Shape::List(name) if self.positional => format!("[{name}]"),
            _ => format!("--{}", self.flag()),
        }
    }

    /// Its environment variable.
    pub fn env(&self) -> String {
        format!("STAGELINE_{}", self.key.to_ascii_uppercase())
    }
}

/// Settings that belong together, under one heading of `--help`.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading.
    pub heading: &'static str,
    /// Its settings, in the order of `--help`.
    pub settings: &'static [Setting],
}

/// A subcommand.
#[derive(Clone, Copy, Debug)]
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// Another name that it answers to.
    pub alias: Option<&'static str>,
    /// One line on what it does.
    pub about: &'static str,
    /// Examples, as they stand at the end of its `--help`.
    pub examples: &'static str,
    /// Its settings, by heading.
    pub groups: &'static [Group],
}

impl Verb {
    /// All its settings.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.groups.iter().flat_map(|group| group.settings)
    }
}
