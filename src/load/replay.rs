//! A file of arrivals to send again.

use serde::Deserialize;
use stageline_base::Fault;
use std::time::Duration;

/// Most lines that are kept.
const MAX_LINES: usize = 1_000_000;

/// One line: when, and as far as it says so, what.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// Since the start.
    pub at: Duration,
    /// The prompt.
    pub prompt: Option<String>,
    /// The length of a prompt that is made up.
    pub prompt_tokens: Option<u32>,
    /// Most tokens of the answer.
    pub output_tokens: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    at_ms: f64,
    prompt: Option<String>,
    prompt_tokens: Option<u32>,
    output_tokens: Option<u32>,
}

/// Reads lines that are a number of seconds, or a JSON object with `at_ms` and if wanted `prompt`, `prompt_tokens` and
/// `output_tokens`. Empty lines and those that begin with `#` are left out; the rest is put in order of time.
///
/// # Errors
/// `InvalidRequest`, naming the first line that is neither.
pub fn read(text: &str) -> Result<Vec<Replayed>, Fault> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |why: String| {
            Fault::invalid(format!(
                "line {number} is no arrival: {why}. Write seconds since the start, as in 1.25, or an object as in \
                 {{\"at_ms\": 1250, \"prompt\": \"…\", \"output_tokens\": 32}}"
            ))
        };
        let line = if line.starts_with('{') {
            serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?
        } else {
            let seconds: f64 = line.parse().map_err(|_| wrong(format!("`{line}` is no number")))?;
            Line { at_ms: seconds * 1e3, prompt: None, prompt_tokens: None, output_tokens: None }
        };
        let at = Duration::try_from_secs_f64(line.at_ms / 1e3).map_err(|error| wrong(error.to_string()))?;
        all.push(Replayed {
            at,
            prompt: line.prompt,
            prompt_tokens: line.prompt_tokens,
            output_tokens: line.output_tokens,
        });
        if all.len() > MAX_LINES {
            return Err(Fault::invalid(format!("more than {MAX_LINES} arrivals: cut the file")));
        }
    }
    if all.is_empty() {
        return Err(Fault::invalid("there is no arrival in it: write a number of seconds a line"));
    }
    all.sort_by_key(|line| line.at);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbers_or_objects_in_any_order() {
        let lines = read("# seconds\n0.5\n\n{\"at_ms\": 250, \"prompt\": \"p\", \"output_tokens\": 3}\n").unwrap();
        let ms: Vec<u128> = lines.iter().map(|line| line.at.as_millis()).collect();
        assert_eq!(ms, [250, 500]);
        assert_eq!((lines[0].prompt.as_deref(), lines[0].output_tokens), (Some("p"), Some(3)));
    }

    #[test]
    fn what_is_no_arrival_is_named_by_its_line() {
        for bad in ["1\nx", "1\n-1", "1\nnan", "1\n{\"at\": 1}", "1\n{\"at_ms\": \"1\"}"] {
            let message = read(bad).unwrap_err().message;
            assert!(message.starts_with("line 2 is no arrival"), "{message}");
        }
        assert!(read("\n# nothing\n").is_err());
    }
}
