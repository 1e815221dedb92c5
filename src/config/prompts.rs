//! The prompts of `run` and `embed`, and the requests made of them.

use crate::config::checked::{AnswerConfig, PromptFile, PromptsConfig};
use anyhow::{Context, ensure};
use stageline_door::{Input, Request};
use std::io::Read;

impl PromptsConfig {
    /// Every prompt: those given, then a line each of the file. Lines with nothing but blanks are left out.
    ///
    /// # Errors
    /// If the file cannot be read, or there is no prompt at all.
    pub fn read(&self) -> anyhow::Result<Vec<String>> {
        let mut text = String::new();
        match &self.file {
            None => {}
            Some(PromptFile::StandardInput) => {
                std::io::stdin().read_to_string(&mut text).context("cannot read the prompts on standard input")?;
            }
            Some(PromptFile::Path(path)) => {
                text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            }
        }
        let lines = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned);
        let prompts: Vec<String> = self.given.iter().cloned().chain(lines).collect();
        ensure!(!prompts.is_empty(), "there is no prompt: every line of the prompt file is empty");
        Ok(prompts)
    }
}

impl AnswerConfig {
    /// A request for an answer to `input`.
    pub fn request(&self, call_id: impl Into<String>, input: Input) -> Request {
        Request {
            max_tokens: Some(self.max_tokens),
            sampling: self.sampling,
            stop: self.stop.clone(),
            ..Request::new(call_id, input)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_those_given_and_then_the_lines_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "two\r\n\n  \n three\n").unwrap();
        let prompts =
            |given: &[&str], file| PromptsConfig { given: given.iter().map(|p| (*p).into()).collect(), file }.read();
        let file = Some(PromptFile::Path(path.clone()));
        assert_eq!(prompts(&["one\nand more"], file.clone()).unwrap(), ["one\nand more", "two", " three"]);
        assert_eq!(prompts(&["one"], None).unwrap(), ["one"]);
        std::fs::write(&path, "\n\n").unwrap();
        assert!(prompts(&[], file).is_err());
        assert!(prompts(&[], Some(PromptFile::Path(folder.path().join("none")))).is_err());
    }
}
