use super::*;
use proptest::prelude::*;

fn message(role: &str, content: &str) -> ChatMessage {
    ChatMessage { role: role.to_string(), content: content.to_string() }
}

fn render(source: &str, messages: &[ChatMessage]) -> Result<String, Fault> {
    let tokens =
        BTreeMap::from([("bos_token".to_string(), "<s>".to_string()), ("eos_token".to_string(), "</s>".to_string())]);
    ChatTemplate::new(source.to_string(), tokens).unwrap().render(messages)
}

#[test]
fn templates_see_what_they_see_elsewhere() {
    let hello = [message("user", " <b>\"é\" & 'x'</b> ")];
    let check = |source: &str, want: &str| assert_eq!(render(source, &hello).unwrap(), want, "{source}");
    check(
        "{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m['content'].strip() }}{% endfor %}{{ eos_token }}",
        "<s>user:<b>\"é\" & 'x'</b></s>",
    );
    // Blocks take their line with them; a trailing newline is dropped.
    check("{% if true %}\n  {% set a = 1 %}\n  x\n{% endif %}\ny\n", "  x\ny");
    check("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " <b>\"é\" & 'x'</b> "}"#);
    check("{{ [1, {'a': none}, []] | tojson(indent=1) }}", "[\n 1,\n {\n  \"a\": null\n },\n []\n]");
    check("{% if tools is not none or documents is not none or not (tools is defined) %}x{% endif %}", "");
    check("{{ undefined_thing }}{% if undefined_thing %}x{% endif %}{% for x in undefined_thing %}x{% endfor %}", "");
    check("{% if add_generation_prompt %}go{% endif %}", "go");
    check("a {%- generation -%} b {%- endgeneration %} c {% set generation = 1 %}{{ generation }}", "ab c 1");
    check("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01");
    check("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "1");
    check("{{ messages[0].content.split('b>')[0].upper() ~ messages[::-1] | length }}", " <1");
    assert_eq!(render("{{ strftime_now('%Y') }}", &[]).unwrap().len(), 4);
}

#[test]
fn a_refusal_is_told_in_the_templates_words() {
    let fault = render("{{ raise_exception('roles must\nalternate') }}", &[]).unwrap_err();
    assert_eq!(fault, Fault::invalid("the chat template refuses the messages: roles must\\nalternate"));
    let fault = render("{{ 1 / 'x' }}", &[]).unwrap_err();
    assert_eq!(fault.class, FaultClass::InvalidRequest);
}

#[test]
fn a_broken_template_is_refused_when_it_is_opened() {
    let error = ChatTemplate::new("a\n{% for %}".to_string(), BTreeMap::new()).unwrap_err();
    assert_eq!(error.line(), Some(2));
}

#[test]
fn a_hostile_template_ends() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% set c = 1 %}{% endfor %}{% endfor %}";
    assert_eq!(render(endless, &[]).unwrap_err().class, FaultClass::TooLarge);
    let recursive = "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}";
    assert!(render(recursive, &[]).is_err());
    let long = "{% for i in range(9999) %}{{ messages[0].content }}{% endfor %}";
    let fault = render(long, &[message("user", &"x".repeat(10_000))]).unwrap_err();
    assert_eq!(fault.class, FaultClass::TooLarge);
    assert!(fault.message.contains("bytes"), "{fault}");
}

proptest! {
    #[test]
    fn no_template_and_no_message_panics(source in "(\\{%|%\\}|\\{\\{|\\}\\}|-|generation|if|endif|[a-z ]){0,12}", content in ".*") {
        if let Ok(template) = ChatTemplate::new(source, BTreeMap::new()) {
            let _ = template.render(&[message("user", &content)]);
        }
    }

    #[test]
    fn a_template_without_marks_is_left_alone(source in "(\\{%|%\\}|[a-z %{}-]){0,20}") {
        prop_assume!(!source.contains("generation"));
        prop_assert_eq!(without_generation_marks(&source), source);
    }
}
