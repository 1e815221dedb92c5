use super::*;
use proptest::prelude::*;
use stageline_template::Json;

const FILE: &str = "chat_template.jinja";

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage::new(role, content)
}

fn render_all(source: &str, conversation: &Conversation) -> Result<String, Fault> {
    let tokens =
        BTreeMap::from([("bos_token".to_string(), "<s>".to_string()), ("eos_token".to_string(), "</s>".to_string())]);
    ChatTemplate::new(source.to_string(), FILE, tokens).unwrap().render(conversation)
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, Fault> {
    render_all(source, &Conversation::of(messages.to_vec()))
}

#[test]
fn templates_see_what_they_see_elsewhere() {
    let hello = [message("user", " <b>\"é\" & 'x'</b> ")];
    let check = |source: &str, want: &str| assert_eq!(render(source, &hello).unwrap(), want, "{source}");
    check(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'].strip() }}{% endfor %}{{ eos_token }}",
        "<s>user:<b>\"é\" & 'x'</b></s>",
    );
    check("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " <b>\"é\" & 'x'</b> "}"#);
    check("{% if tools is not none or documents is not none or not (tools is defined) %}x{% endif %}", "");
    check("{% if add_generation_prompt %}go{% endif %}", "go");
    check("{% if tools is iterable and tools | length > 0 %}TOOLS{% endif %}{{ messages | length }}", "1");
    assert_eq!(render("{{ strftime_now('%Y') }}", &[]).unwrap().len(), 4);
}

#[test]
fn a_message_has_what_its_client_sent() {
    let calls: Json = serde_json::from_str(r#"[{"function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]"#).unwrap();
    let silent = ChatMessage { content: Some(Content::Null), ..message("assistant", "") };
    let calling =
        ChatMessage { content: None, more: vec![("tool_calls".to_string(), calls.clone())], ..silent.clone() };
    let parts = ChatMessage { content: Some(Content::Parts(vec!["a".into(), "b".into()])), ..message("user", "") };
    let check = |source: &str, message: &ChatMessage, want: &str| {
        assert_eq!(render(source, std::slice::from_ref(message)).as_deref(), Ok(want), "{source}");
    };
    check("{{ messages[0].content is none }}{{ messages[0].content is defined }}", &silent, "TrueTrue");
    check("{{ messages[0].content is defined }}{{ messages[0].tool_calls | tojson }}", &calling, {
        r#"False[{"function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]"#
    });
    check("{{ messages[0].content }}", &parts, "a\nb");
    check("{% for p in messages[0].content %}{{ p.type }}:{{ p['text'] }};{% endfor %}", &parts, "text:a;text:b;");
    let with_tools = Conversation { messages: vec![message("developer", "d")], tools: Some(calls) };
    let seen = render_all("{{ messages[0].role }} {{ tools[0].function.name }}", &with_tools);
    assert_eq!(seen.as_deref(), Ok("developer f"));
}

#[test]
fn a_refusal_is_told_in_the_templates_words() {
    let fault = render("{{ raise_exception('roles must\nalternate') }}", &[]).unwrap_err();
    assert_eq!(fault, Fault::invalid("the chat template refuses the messages: roles must\\nalternate"));
}

#[test]
fn a_fault_is_the_clients_or_the_files() {
    let parts = ChatMessage { content: Some(Content::Null), ..message("user", "") };
    let fault = render("\n{{ messages[0].content + 'x' }}", &[parts]).unwrap_err();
    assert_eq!(fault.class, FaultClass::InvalidRequest);
    assert!(fault.message.contains("line 2: "), "{fault}");
    for broken in ["\n{{ 1 / 'x' }}", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "{{ 'x' * 10**9 }}"] {
        let fault = render(broken, &[message("user", "x"), message("assistant", "y")]).unwrap_err();
        assert_eq!(fault.class, FaultClass::Internal, "{broken}");
        assert!(fault.message.starts_with(FILE), "{fault}");
    }
}

#[test]
fn a_broken_template_is_refused_when_it_is_opened() {
    let error = |source: &str| ChatTemplate::new(source.to_string(), FILE, BTreeMap::new()).unwrap_err();
    assert_eq!(error("a\n{% for %}").line, 2);
    assert_eq!(error("a\n\n{{ x | no_such_filter }}").to_string(), "line 3: there is no filter `no_such_filter`");
    let long = error(&"x".repeat(MAX_TEMPLATE_BYTES + 1));
    assert!(long.to_string().contains("262145 bytes, more than the 262144"), "{long}");
}

#[test]
fn what_is_too_large_says_so() {
    let each = "{% for a in messages %}{% for b in range(99999) %}{% set c = 1 %}{% endfor %}{% endfor %}";
    assert_eq!(render(each, &vec![message("user", ""); 100]).unwrap_err().class, FaultClass::TooLarge);
    let recursive = "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(messages | length) }}";
    let deep = render(recursive, &vec![message("user", ""); 600]).unwrap_err();
    assert_eq!(deep.class, FaultClass::InvalidRequest);
    assert!(deep.message.contains("500 calls deep"), "{deep}");
    let long = "{% for i in range(2000) %}{{ messages[0].content }}{% endfor %}";
    let fault = render(long, &[message("user", &"x".repeat(10_000))]).unwrap_err();
    assert_eq!(fault.class, FaultClass::TooLarge);
    assert!(fault.message.contains("bytes"), "{fault}");
    // What a conversation may cost grows with it.
    let much = "{% set ns = namespace(s='') %}{% for m in messages %}{% set ns.s = m.content | trim ~ m.content %}{% endfor %}ok";
    let messages = vec![message("user", &"x".repeat(1 << 20)); 16];
    assert_eq!(render(much, &messages).as_deref(), Ok("ok"));
}

proptest! {
    #[test]
    fn no_template_and_no_message_panics(source in "(\\{%|%\\}|\\{\\{|\\}\\}|-|generation|if|endif|[a-z ]){0,12}", content in ".*") {
        if let Ok(template) = ChatTemplate::new(source, FILE, BTreeMap::new()) {
            let _ = template.render(&Conversation::of(vec![message("user", &content)]));
        }
    }
}
