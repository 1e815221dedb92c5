//! Tests: whose fault it is where a text or a conversation cannot be encoded, its client's or the model folder's.

use super::choices::{folder, small, tokenizer};
use super::tests::{MANY, open, user};
use super::*;
use crate::{ChatMessage, Content};
use serde_json::{Value, json};
use stageline_base::FaultClass;

/// A model of six words that has no token for others, with `template`.
fn strict(template: &str) -> TextModel {
    let mut file = tokenizer(&["<s>", "</s>", "<x>"], Value::Null);
    file["model"]["unk_token"] = json!("none");
    open(folder(&[(TOKENIZER, file), ("chat_template.jinja", json!(template))]).path(), &small(&[4])).unwrap()
}

#[track_caller]
fn blamed(model: &TextModel, input: &Input, class: FaultClass, said: &[&str]) {
    let fault = model.encode(input, MANY).unwrap_err();
    assert_eq!(fault.class, class, "{fault}");
    assert!(said.iter().all(|words| fault.message.contains(words)), "{said:?}: {fault}");
}

#[test]
fn a_text_without_tokens_is_its_clients() {
    let model = strict("{{ messages[0].content }}");
    assert_eq!(model.encode(&Input::Text("hi a".into()), MANY), Ok(vec![1, 2]));
    let text = Input::Text("hi hello a".into());
    blamed(&model, &text, FaultClass::InvalidRequest, &["cannot be encoded", "at byte 3", "leave that word out"]);
    // Nothing of it is shown: it would get into the log.
    assert!(!model.encode(&text, MANY).unwrap_err().message.contains("hello"));
    blamed(&model, &user("hello"), FaultClass::InvalidRequest, &["at byte 0"]);
    let parts = ChatMessage {
        content: Some(Content::Parts(vec!["a".into(), "hi hello".into()])),
        ..ChatMessage::new("user", "")
    };
    let parts = Input::Chat(Conversation::of(vec![parts]));
    blamed(&strict("{{ messages[0].content[1].text }}"), &parts, FaultClass::InvalidRequest, &["at byte 3"]);
    // Longer than is looked through.
    blamed(&model, &Input::Text("hello ".repeat(20_000)), FaultClass::InvalidRequest, &["a word of it, nor"]);
}

#[test]
fn what_the_template_writes_around_it_is_the_folders() {
    let said = ["the chat template writes", "tokenizer.json"];
    blamed(&strict("<|user|> {{ messages[0].content }}"), &user("hi"), FaultClass::Internal, &said);
    blamed(
        &strict("{{ messages[0].nothing.more }}"),
        &user("hi"),
        FaultClass::Internal,
        &["chat_template.jinja", "line 1"],
    );
    let nobody = strict("{{ messages[1].content.more }}");
    blamed(&nobody, &user("hi"), FaultClass::Internal, &["chat_template.jinja"]);
    let picky = strict("{% if messages | length > 1 %}{{ messages[1].content.strip() }}{% endif %}hi");
    assert_eq!(picky.encode(&user("hi"), MANY), Ok(vec![1]));
    let silent = ChatMessage { content: Some(Content::Null), ..ChatMessage::new("assistant", "") };
    let silent = Input::Chat(Conversation::of(vec![ChatMessage::new("user", "hi"), silent]));
    blamed(&picky, &silent, FaultClass::InvalidRequest, &["refuses the messages"]);
}

#[test]
fn a_token_that_the_model_has_not_is_whose_it_is() {
    let mut file = tokenizer(&["<s>", "</s>", "<x>"], Value::Null);
    file["model"]["vocab"]["more"] = json!(6);
    let model = open(folder(&[(TOKENIZER, file)]).path(), &small(&[4])).unwrap();
    blamed(&model, &Input::Text("hi more".into()), FaultClass::Internal, &["tokenizer.json makes token 6"]);
    blamed(&model, &Input::Tokens(vec![1, 6]), FaultClass::InvalidRequest, &["token 6 at place 1"]);
}
