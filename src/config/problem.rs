//! What is wrong with the settings, all of it at once.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// A key of the settings' file.
    File(PathBuf, String),
    /// The default.
    Default(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => f.write_str(flag),
            Self::Env(name) => f.write_str(name),
            Self::File(path, key) => write!(f, "{}: {key}", path.display()),
            Self::Default(flag) => write!(f, "{flag} (the default)"),
        }
    }
}

/// Everything that is wrong with the settings: at least one line, each naming where the value came from and what is
/// allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl Problems {
    /// The exit status of a program whose settings are wrong: EX_USAGE of sysexits.h.
    pub const EXIT_CODE: u8 = 64;

    /// Adds `value` of `origin`, which is not what is `allowed`.
    pub fn value(&mut self, origin: &Origin, value: &str, allowed: impl fmt::Display) {
        self.0.push(format!("{origin}: `{}`: {allowed}", shown(value)));
    }

    /// `Ok(value)` if nothing is wrong.
    ///
    /// # Errors
    /// Itself, if something is.
    pub fn or<T>(self, value: T) -> Result<T, Problems> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [one] => write!(f, "{one}"),
            all => {
                write!(f, "{} things are wrong with the settings:", all.len())?;
                all.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
        }
    }
}

impl std::error::Error for Problems {}

/// `value` as a message may show it: short, on one line, and without the password of a URL.
fn shown(value: &str) -> String {
    let line: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect();
    match (line.split_once("://"), line.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &line[at..]),
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_show_no_password_and_no_second_line() {
        assert_eq!(shown("nats://user:secret@host:4222"), "nats://…@host:4222");
        assert_eq!(shown("a\nb"), "a b");
        assert_eq!(shown(&"x".repeat(1000)).len(), 80);
    }

    #[test]
    fn one_problem_is_one_line_and_more_are_a_list() {
        let mut problems = Problems::default();
        assert_eq!(problems.clone().or(1), Ok(1));
        problems.value(&Origin::Flag("--threads".into()), "x", "a whole number");
        assert_eq!(problems.to_string(), "--threads: `x`: a whole number");
        problems.value(&Origin::Env("STAGELINE_STAGE".into()), "y", "a whole number");
        let lines: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "2 things are wrong with the settings:");
        assert_eq!(lines[2], "  STAGELINE_STAGE: `y`: a whole number");
        assert_eq!(problems.clone().or(1), Err(problems));
    }
}
