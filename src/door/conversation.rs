//! A conversation as a client sends it, for the model's own chat template.

use stageline_template::Json;

/// What was said so far, and what the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Descriptions of tools, as they are handed to the template; `None` if the client sends none.
    pub tools: Option<Json>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatMessage {
    /// One of [`ROLES`].
    pub role: String,
    /// What was said; `None` if the message has no content at all, as one that only calls tools.
    pub content: Option<Content>,
    /// What else the message has, by name (`tool_calls`, `tool_call_id`, `name`, …): templates ask for it.
    pub more: Vec<(String, Json)>,
}

/// Who may say something. What a template has no place for it refuses itself.
pub const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// What was said.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// `null`.
    Null,
    /// A text.
    Text(String),
    /// Texts, each a part of its own.
    Parts(Vec<String>),
}

impl Conversation {
    /// These messages, without tools.
    pub fn of(messages: Vec<ChatMessage>) -> Self {
        Self { messages, tools: None }
    }

    /// The texts that its client wrote, as far as they are plain contents of messages.
    pub(super) fn texts(&self) -> Vec<&str> {
        let contents = self.messages.iter().filter_map(|message| message.content.as_ref());
        let texts = contents.map(|content| match content {
            Content::Null => Vec::new(),
            Content::Text(text) => vec![text.as_str()],
            Content::Parts(parts) => parts.iter().map(String::as_str).collect(),
        });
        texts.flatten().collect()
    }

    /// How many bytes of text it has.
    pub(super) fn bytes(&self) -> usize {
        self.messages.iter().map(ChatMessage::bytes).sum::<usize>() + self.tools.as_ref().map_or(0, bytes_of)
    }
}

impl ChatMessage {
    /// A message that is a text.
    pub fn new(role: impl Into<String>, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Content::Text(text.into())), more: Vec::new() }
    }

    fn bytes(&self) -> usize {
        let content = match &self.content {
            None | Some(Content::Null) => 0,
            Some(Content::Text(text)) => text.len(),
            Some(Content::Parts(parts)) => parts.iter().map(String::len).sum(),
        };
        self.role.len() + content + self.more.iter().map(|(name, value)| name.len() + bytes_of(value)).sum::<usize>()
    }
}

/// How many bytes of text `json` has.
fn bytes_of(json: &Json) -> usize {
    match json {
        Json::Text(text) => text.len(),
        Json::List(items) => items.iter().map(bytes_of).sum(),
        Json::Object(entries) => entries.iter().map(|(key, value)| key.len() + bytes_of(value)).sum(),
        _ => 0,
    }
}
