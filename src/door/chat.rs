//! Lays a conversation out as the model was trained on it: the chat template of the model's folder.
//!
//! Templates are written for Jinja2 as the Hugging Face tokenizers set it up; this is the same set-up in minijinja.
//! A template comes with the model, not from a client; still its steps and its output are bounded.

use crate::base::limits::{MAX_PROMPT_BYTES, MAX_TEMPLATE_STEPS};
use crate::base::{Fault, FaultClass};
use crate::door::ChatMessage;
use minijinja::{Environment, Error, ErrorKind, Value};
use std::collections::BTreeMap;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

mod json;
mod strftime;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// What the template sees besides the messages: `bos_token` and so on.
    tokens: BTreeMap<String, String>,
}

const NAME: &str = "chat_template";

impl ChatTemplate {
    /// Compiles `source`; `tokens` are the special tokens by name (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    /// What is wrong with the template, and in which line.
    pub fn new(source: String, tokens: BTreeMap<String, String>) -> Result<Self, Error> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(MAX_TEMPLATE_STEPS));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
            strftime::strftime(&format, now)
        });
        environment.add_template_owned(NAME, without_generation_marks(&source))?;
        Ok(Self { environment, tokens })
    }

    /// The prompt that ends where the model is to answer `messages`.
    ///
    /// # Errors
    /// `InvalidRequest` if the template refuses the conversation, `TooLarge` if the prompt would be.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, Fault> {
        // Unused by now, but templates ask whether they are there.
        let none = [("tools", Value::from(())), ("documents", Value::from(()))];
        let tokens = self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str())));
        let conversation =
            [("messages", Value::from_serialize(messages)), ("add_generation_prompt", Value::from(true))];
        let sees: Value = none.into_iter().chain(tokens).chain(conversation).collect();
        let mut prompt = Bounded(Vec::new());
        let template = self.environment.get_template(NAME).map_err(|e| Fault::internal(e.to_string()))?;
        match template.render_captured_to(sees, &mut prompt) {
            Ok(_) => String::from_utf8(prompt.0).map_err(|e| Fault::internal(e.to_string())),
            Err(error) => Err(fault(&error)),
        }
    }
}

/// What a client is told of a template's error.
fn fault(error: &Error) -> Fault {
    match error.kind() {
        ErrorKind::OutOfFuel => Fault::new(
            FaultClass::TooLarge,
            format!("the chat template took more than {MAX_TEMPLATE_STEPS} steps: send fewer messages"),
        ),
        ErrorKind::WriteFailure => Fault::new(
            FaultClass::TooLarge,
            format!("the conversation is longer than {MAX_PROMPT_BYTES} bytes: send less text"),
        ),
        _ => {
            // Templates put their own words here, which may quote a message: one line, no more than is needed.
            let words: String = error.detail().unwrap_or("it failed").chars().take(200).collect();
            Fault::invalid(format!("the chat template refuses the messages: {}", words.escape_debug()))
        }
    }
}

/// Jinja2 extensions mark what the assistant said with `{% generation %}`, which only training needs: here it is a block that
/// is always shown.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Takes in at most [`MAX_PROMPT_BYTES`].
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(io::Error::other("the prompt is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
