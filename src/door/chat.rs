//! Lays a conversation out as the model was trained on it: the chat template of the model's folder.
//!
//! A template comes with the model, from strangers: reading and rendering it are bounded ([`stageline_template`]), and happen on a
//! thread with the stack that they may need.

use crate::apart::apart;
use crate::conversation::{ChatMessage, Content, Conversation};
use stageline_base::limits::{
    MAX_PROMPT_BYTES, MAX_TEMPLATE_BYTES, MAX_TEMPLATE_STEPS, TEMPLATE_BYTES, TEMPLATE_BYTES_A_BYTE,
};
use stageline_base::{Fault, FaultClass};
use stageline_template::{self as template, Args, Budget, Error, ErrorKind, Limits, Template, Value};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

mod strftime;

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    template: Template,
    /// The one for conversations with tools, where the model has one of its own for them.
    for_tools: Option<Template>,
    /// The file that they are from.
    file: &'static str,
    /// Whether it fails on the plainest conversation; looked at when it first fails on another.
    broken: OnceLock<bool>,
    /// What the template sees besides the messages: `bos_token` and so on.
    tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Reads `source`, which is from `file`; `tokens` are the special tokens by name (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    /// What is wrong with the template, and in which line.
    pub fn new(source: String, file: &'static str, tokens: BTreeMap<String, String>) -> Result<Self, Error> {
        Ok(Self { template: read(&source)?, for_tools: None, file, broken: OnceLock::new(), tokens })
    }

    /// The same, with `source` for conversations that come with tools.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_one_for_tools(self, source: &str) -> Result<Self, Error> {
        Ok(Self { for_tools: Some(read(source)?), ..self })
    }

    /// The prompt that ends where the model is to answer `conversation`.
    ///
    /// # Errors
    /// `InvalidRequest` if the template refuses the conversation, `TooLarge` if the prompt would be; `Internal`, naming the file, if
    /// the template fails whatever it is given.
    pub fn render(&self, conversation: &Conversation) -> Result<String, Fault> {
        let (file, what) = (self.file, format!("{}: rendering the chat template", self.file));
        apart(&what, || {
            self.render_here(conversation).map_err(|error| match error.kind != ErrorKind::Raised && self.is_broken() {
                true => Fault::internal(format!(
                    "{file}: the chat template fails, and on the plainest conversation, too: {}",
                    shown(&error.to_string())
                )),
                false => fault(&error),
            })
        })?
    }

    fn is_broken(&self) -> bool {
        *self.broken.get_or_init(|| {
            let plainest = Conversation::of(vec![ChatMessage::new("user", "Hello")]);
            self.render_here(&plainest).is_err_and(|error| error.kind != ErrorKind::Raised)
        })
    }

    fn render_here(&self, conversation: &Conversation) -> Result<String, Error> {
        let tools = conversation.tools.as_ref();
        let template = self.for_tools.as_ref().filter(|_| tools.is_some()).unwrap_or(&self.template);
        let has_parts = template.asks_for("text");
        let budget = Budget::new(Limits {
            steps: MAX_TEMPLATE_STEPS,
            bytes: TEMPLATE_BYTES + TEMPLATE_BYTES_A_BYTE * conversation.bytes(),
            output_bytes: MAX_PROMPT_BYTES,
        });
        let messages = conversation.messages.iter().map(|message| message_value(message, has_parts, &budget));
        let messages = template::list(messages.collect::<Result<_, _>>()?, &budget)?;
        let mut sees = vec![
            ("messages", messages),
            ("add_generation_prompt", Value::Bool(true)),
            ("tools", tools.map_or(Ok(Value::None), |tools| tools.value(&budget))?),
            // Unused by now, but templates ask whether they are there.
            ("documents", Value::None),
            template::function("raise_exception", raise),
            template::function("strftime_now", strftime_now),
        ];
        for (name, token) in &self.tokens {
            sees.push((name, template::text(token, &budget)?));
        }
        template.render(sees, &budget)
    }
}

/// Reads a template's `source`.
fn read(source: &str) -> Result<Template, Error> {
    if source.len() > MAX_TEMPLATE_BYTES {
        let (bytes, words) =
            (source.len(), format!("more than the {MAX_TEMPLATE_BYTES} that a chat template may have"));
        return Err(Error::new(ErrorKind::Syntax, format!("it has {bytes} bytes, {words}")));
    }
    let read = apart("reading the chat template", || Template::new(source));
    read.unwrap_or_else(|fault| Err(Error::new(ErrorKind::Syntax, fault.message)))
}

/// A message as a template sees it that takes parts or not.
fn message_value(message: &ChatMessage, has_parts: bool, budget: &Budget) -> Result<Value, Error> {
    let mut entries = vec![("role", template::text(&message.role, budget)?)];
    if let Some(content) = &message.content {
        entries.push(("content", content_value(content, has_parts, budget)?));
    }
    for (name, value) in &message.more {
        entries.push((name, value.value(budget)?));
    }
    template::dict(entries, budget)
}

/// Parts are handed over as parts to a template that asks something for its `text`; for others they are lines of one text.
fn content_value(content: &Content, has_parts: bool, budget: &Budget) -> Result<Value, Error> {
    match content {
        Content::Null => Ok(Value::None),
        Content::Text(text) => template::text(text, budget),
        Content::Parts(parts) if has_parts => {
            let part = |text: &String| {
                let entries = vec![("type", template::text("text", budget)?), ("text", template::text(text, budget)?)];
                template::dict(entries, budget)
            };
            template::list(parts.iter().map(part).collect::<Result<_, _>>()?, budget)
        }
        Content::Parts(parts) => template::text(&parts.join("\n"), budget),
    }
}

/// `raise_exception(message)`: the template refuses the conversation.
fn raise(args: Args, _: &Budget) -> Result<Value, Error> {
    let [message] = args.bind("raise_exception", ["message"])?;
    let words = match &message {
        Some(Value::Text(words)) => words,
        _ => "it gives no reason",
    };
    Err(Error::new(ErrorKind::Raised, words))
}

/// Longest format of a time, in bytes: each of its codes may become a wide field.
const MAX_TIME_FORMAT: usize = 4096;

/// `strftime_now(format)`: the time now, in UTC.
fn strftime_now(args: Args, budget: &Budget) -> Result<Value, Error> {
    let [format] = args.bind("strftime_now", ["format"])?;
    let Some(Value::Text(format)) = format else { return Err(Error::invalid("strftime_now needs a format")) };
    if format.len() > MAX_TIME_FORMAT {
        return Err(Error::invalid(format!("strftime_now takes a format of at most {MAX_TIME_FORMAT} bytes")));
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    template::text(&strftime::strftime(&format, now), budget)
}

/// What a client is told of a template's error.
fn fault(error: &Error) -> Fault {
    let too_large = |what: String| Fault::new(FaultClass::TooLarge, what);
    match error.kind {
        ErrorKind::Steps => {
            too_large(format!("the chat template took more than {MAX_TEMPLATE_STEPS} steps: send fewer messages"))
        }
        ErrorKind::Memory => too_large(format!("the chat template: {}: send less text", error.what)),
        ErrorKind::Output => {
            too_large(format!("the conversation is longer than {MAX_PROMPT_BYTES} bytes: send less text"))
        }
        // Templates put their own words here, which may quote a message: one line, no more than is needed.
        ErrorKind::Raised => refused(&error.what),
        _ => refused(&error.to_string()),
    }
}

fn refused(words: &str) -> Fault {
    Fault::invalid(format!("the chat template refuses the messages: {}", shown(words)))
}

/// As much of a template's words as an error may show, in one line.
fn shown(words: &str) -> String {
    let words: String = words.chars().take(200).collect();
    words.escape_debug().to_string()
}

#[cfg(test)]
mod engine;
#[cfg(test)]
mod tests;
