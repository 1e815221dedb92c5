//! The messages of a body: role and content, and what else templates ask for, as it is.

use crate::conversation::ROLES;
use crate::{ChatMessage, Content};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use stageline_template::{Json, Reader};
use std::cell::{Cell, RefCell};
use std::fmt;

/// What messages must be.
pub(super) const EXPECTED: &str = r#"a list of {"role": "user", "content": a text}"#;

/// Reads the list of messages.
#[derive(Clone, Copy)]
pub(super) struct Messages<'a> {
    /// How many JSON values there may still be beside the texts.
    pub left: &'a Cell<usize>,
    /// Where to say what is wrong.
    pub wrong: &'a RefCell<Option<String>>,
}

impl Messages<'_> {
    fn fails<E: Error>(self, words: String) -> E {
        self.wrong.replace(Some(words));
        E::custom("refused")
    }

    /// Takes one value of those that there may be.
    fn one<E: Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.ok_or_else(|| self.fails("`messages` has too many values".to_string()))?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Messages<'_> {
    type Value = Option<Vec<ChatMessage>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Messages<'_> {
    type Value = Option<Vec<ChatMessage>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut messages = Vec::new();
        while let Some(message) = list.next_element_seed(Message { of: self, place: messages.len() })? {
            messages.push(message);
        }
        Ok(Some(messages))
    }
}

/// Reads the message at `place`.
#[derive(Clone, Copy)]
struct Message<'a> {
    of: Messages<'a>,
    place: usize,
}

impl<'de> DeserializeSeed<'de> for Message<'_> {
    type Value = ChatMessage;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ChatMessage, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Message<'_> {
    type Value = ChatMessage;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ChatMessage, A::Error> {
        let (of, place) = (self.of, self.place);
        let mut role: Option<String> = None;
        let mut content = None;
        let mut more: Vec<(String, Json)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            of.one::<A::Error>()?;
            let there = match name.as_str() {
                "role" => role.is_some(),
                "content" => content.is_some(),
                name => more.iter().any(|(known, _)| known == name),
            };
            if there {
                let name: String = name.chars().take(40).collect();
                return Err(of.fails(format!("`{}` of message {place} is there twice", name.escape_debug())));
            }
            match name.as_str() {
                "role" => role = Some(map.next_value()?),
                "content" => content = Some(map.next_value_seed(ContentOf(self))?),
                _ if more.len() == MAX_FIELDS => {
                    return Err(of.fails(format!("message {place} has more than {MAX_FIELDS} fields")));
                }
                _ => more.push((name, map.next_value_seed(Reader(of.left))?)),
            }
        }
        let Some(role) = role.filter(|role| ROLES.contains(&role.as_str())) else {
            return Err(of.fails(format!("`role` of message {place} must be one of {}", ROLES.join(", "))));
        };
        let calls = more.iter().any(|(name, value)| name == "tool_calls" && *value != Json::Null);
        if content.is_none() && !calls {
            return Err(of.fails(format!("message {place} has no `content`: send a text, a list of parts, or null")));
        }
        Ok(ChatMessage { role, content, more })
    }
}

/// Most fields of a message beside role and content.
const MAX_FIELDS: usize = 32;

/// Reads the content of the message.
struct ContentOf<'a>(Message<'a>);

impl<'de> DeserializeSeed<'de> for ContentOf<'_> {
    type Value = Content;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ContentOf<'_> {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a list of parts or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
        Ok(Content::Text(text.to_string()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
        Ok(Content::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let Message { of, place } = self.0;
        let mut parts = Vec::new();
        while let Some(part) = list.next_element::<Part>()? {
            of.one::<A::Error>()?;
            let kind = part.kind.as_deref().unwrap_or("text");
            if kind != "text" {
                let kind: String = kind.chars().take(40).collect();
                let words = format!("the content of message {place} has a part of type `{}`", kind.escape_debug());
                return Err(of.fails(format!("{words}: only `text` is taken")));
            }
            let Some(text) = part.text else {
                return Err(
                    of.fails(format!("the content of message {place} has a part of type `text` without `text`"))
                );
            };
            parts.push(text);
        }
        Ok(Content::Parts(parts))
    }
}

/// One part of a content. What else it has is left out: a part of another type is refused by its type.
#[derive(serde::Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
}

/// Reads the tools of a body: a list of objects, or null.
pub(super) struct Tools<'a>(pub Messages<'a>);

impl<'de> DeserializeSeed<'de> for Tools<'_> {
    type Value = Option<Json>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Json>, D::Error> {
        match Reader(self.0.left).deserialize(deserializer)? {
            Json::Null => Ok(None),
            Json::List(tools) if tools.iter().all(|tool| matches!(tool, Json::Object(_))) => {
                Ok(Some(Json::List(tools)))
            }
            _ => Err(D::Error::custom("no list of tools")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields;
    use crate::{ChatMessage, Content};

    fn read(messages: &str) -> Result<Vec<ChatMessage>, String> {
        let body = format!("{{\"messages\": {messages}}}");
        fields::read(body.as_bytes()).map(|fields| fields.messages.unwrap()).map_err(|fault| fault.message)
    }

    #[test]
    fn what_templates_ask_for_is_kept_as_it_was_sent() {
        let messages = read(
            r#"[{"role": "developer", "content": "d"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [{"function": {"z": 1, "a": {"y": 18446744073709551615}}}], "name": null},
            {"role": "assistant", "tool_calls": [{}]}, {"role": "tool", "content": "", "tool_call_id": "x"}]"#,
        )
        .unwrap();
        let roles: Vec<&str> = messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["developer", "user", "assistant", "assistant", "tool"]);
        assert_eq!(messages[1].content, Some(Content::Parts(vec!["a".into(), "b".into()])));
        assert_eq!((&messages[2].content, &messages[3].content), (&Some(Content::Null), &None));
        let names: Vec<&str> = messages[2].more.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tool_calls", "name"]);
        let calls = format!("{:?}", messages[2].more[0].1);
        assert!(calls.find("\"z\"") < calls.find("\"a\"") && calls.contains("18446744073709551615"), "{calls}");
    }

    #[test]
    fn what_is_wrong_with_a_message_is_said() {
        let many = format!("[{}]", ["{\"role\": \"user\", \"content\": \"\"}"; 50_001].join(","));
        let deep = format!("[{{\"role\": \"user\", \"content\": \"\", \"x\": {}", "[".repeat(100_000));
        for (messages, words) in [
            ("[{}]", "`role` of message 0 must be one of system, developer, user, assistant, tool"),
            (r#"[{"role": "ipython", "content": ""}]"#, "`role` of message 0"),
            (r#"[{"role": "user"}]"#, "message 0 has no `content`"),
            (r#"[{"role": "user", "tool_calls": null}]"#, "message 0 has no `content`"),
            (
                r#"[{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "image_url"}]}]"#,
                "message 1 has a part of type `image_url`",
            ),
            (r#"[{"role": "user", "content": [{"type": "text"}]}]"#, "without `text`"),
            (r#"[{"role": "user", "role": "user", "content": ""}]"#, "`role` of message 0 is there twice"),
            (r#"[{"role": "user", "content": "", "x": 1, "x": 2}]"#, "`x` of message 0 is there twice"),
            (r#"[{"role": "user", "content": 1}]"#, "`messages` must be a list"),
            ("[1]", "`messages` must be a list"),
            (&many, "`messages` has too many values"),
            (&deep, "not valid JSON"),
        ] {
            let said = read(messages).unwrap_err();
            assert!(said.contains(words), "{messages:.80}: {said}");
        }
        let tools =
            |json: &str| fields::read(format!("{{\"tools\": {json}}}").as_bytes()).map(|fields| fields.tools.is_some());
        assert_eq!((tools("null"), tools("[]"), tools("[{}]")), (Ok(false), Ok(true), Ok(true)));
        assert!(tools("[1]").is_err() && tools("{}").is_err());
    }
}
