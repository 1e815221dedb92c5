//! Model folders of strangers that try to end the process that serves them: by its stack, its memory, its time or a panic, when
//! they are opened and at each request.

use crate::patience::soon;
use crate::programs::Program;
use crate::support::{Reply, exchange, post};
use crate::tiny;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

/// What the process may take beside what it takes for plain requests.
const MORE_BYTES: u64 = 160 << 20;

/// A tokenizer of single letters and some words; the model has 40 tokens.
fn tokenizer() -> Value {
    let letters: Vec<String> = ('a'..='z').map(String::from).collect();
    let vocab: serde_json::Map<String, Value> = ["?"]
        .into_iter()
        .chain(letters.iter().map(String::as_str))
        .zip(0..)
        .map(|(t, id)| (t.into(), json!(id)))
        .collect();
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "unk_token": "?", "vocab": vocab, "merges": []}})
}

fn folder(tokenizer: &Value, template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::write(folder.path(), &tiny::llama_config(), &tiny::file(&tiny::llama()));
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    folder
}

fn up(folder: &Path) -> Program {
    let fixed = ["--http", "127.0.0.1:0", "--healthcheck-interval", "0s"];
    Program::fake(&[&["up", folder.to_str().unwrap()], &fixed[..]].concat())
}

async fn send(address: SocketAddr, body: &Value) -> Reply {
    let request = post("content-type: application/json\r\n", &body.to_string());
    soon("a reply", exchange(address, request.as_bytes())).await
}

async fn say(address: SocketAddr, words: &str) -> Reply {
    send(address, &json!({"messages": [{"role": "user", "content": words}], "max_tokens": 1})).await
}

/// What a template may try, by what the user says.
fn attempts() -> Vec<String> {
    let nested = |begin: &str, middle: &str, end: &str| format!("{}{middle}{}", begin.repeat(80), end.repeat(80));
    let mut attempts: Vec<String> = [
        "{{ '%1000000000d' | format(1) }}",
        "{{ 'a' * 10**10 }}{{ [1] * 10**10 }}",
        "{{ 'a' | indent(10**9) }}",
        "{{ 'a'.zfill(10**12) }}{{ 'a' | center(10**9) }}",
        "{{ ('a' * 10000) | replace('a', 'b' * 100000) }}",
        "{{ ('a' * 10000) | join('b' * 100000) }}",
        "{{ [1] | batch(10**9, 1) | list }}{{ [1] | slice(10**9) | list }}",
        "{{ range(10**9) | list }}{{ 2 ** 10 ** 10 }}",
        "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns.me == ns }}{{ ns | tojson }}{{ 'a' * 10**10 }}",
        "{% set ns = namespace(v=1) %}{% for i in range(90000) %}{% set ns.v = [ns.v] %}{% endfor %}{{ ns.v }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{% if 'b' in x %}{% endif %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
        "{{ raise_exception('no' * 100000) }}",
        "{{ strftime_now('%Y' * 100000) }}{{ 'a' * 10**10 }}",
        "{{ messages[7].content.x }}",
        "\u{1f600}",
    ]
    .map(String::from)
    .into();
    for (begin, middle, end) in [("(", "1", ")"), ("[", "", "]"), ("not ", "1", ""), ("{1:", "1", "}")] {
        attempts.push(format!("{{{{ {} }}}}{{{{ 'a' * 10**10 }}}}", nested(begin, middle, end)));
    }
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_template_costs_its_own_request_alone() {
    let attempts = attempts();
    let choose: String = attempts.iter().zip(0..).map(|(it, n)| format!("{{% elif said == 'x{n}' %}}{it}")).collect();
    let template = format!("{{% set said = messages[0].content %}}{{% if said == 'good' %}}good{choose}{{% endif %}}");
    let folder = folder(&tokenizer(), &template);
    let mut program = up(folder.path());
    let address: SocketAddr = program.ready(0, 1).await.parse().unwrap();
    assert_eq!(say(address, "good").await.status, 200);
    let before = program.peak_bytes();
    let mut refused = 0;
    // Each alone, then all at once; after each the next good request is answered.
    for (attempt, number) in attempts.iter().zip(0..) {
        let reply = say(address, &format!("x{number}")).await;
        assert!(matches!(reply.status, 200 | 400 | 413), "{}: {reply:?}", attempt);
        refused += u32::from(reply.status != 200);
        assert_eq!(say(address, "good").await.status, 200, "after {}", attempt);
    }
    // The others came to nothing by themselves.
    assert!(refused >= 19, "{refused} of {} were refused", attempts.len());
    let all = (0..attempts.len()).map(|number| async move { say(address, &format!("x{number}")).await.status });
    let (_, good) = tokio::join!(futures::future::join_all(all), say(address, "good"));
    assert_eq!(good.status, 200);
    let more = program.peak_bytes().saturating_sub(before);
    assert!(more < MORE_BYTES, "it took {} MiB more", more >> 20);
    program.terminate();
    assert!(program.exit().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_fails_whatever_it_is_given_is_named_as_the_one_at_fault() {
    let folder = folder(&tokenizer(), "{% for a in range(99999) %}{{ 'a' * 1000 }}{% endfor %}");
    let program = up(folder.path());
    let address: SocketAddr = program.ready(0, 1).await.parse().unwrap();
    for _ in 0..3 {
        let reply = say(address, "hi").await;
        let (class, message) = reply.error();
        assert_eq!((reply.status, class.as_str()), (500, "internal"), "{message}");
        assert!(message.starts_with("chat_template.jinja: "), "{message}");
        assert_eq!(send(address, &json!({"prompt": "hi", "max_tokens": 1})).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tokenizer_that_fails_at_a_text_costs_that_request_alone() {
    let mut strict = tokenizer();
    strict["model"] = json!({"type": "WordLevel", "unk_token": "none", "vocab": {"good": 1}});
    // A table that leads out of itself at the character U+0001 alone: the library panics there.
    let mut panics = tokenizer();
    let table = format!("AAQAAAAAAAABAQBA{}", "AAAA".repeat(339));
    panics["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": table});
    // A pattern that tries in vain for ever, were it not for a limit of the library's, where it panics.
    let mut repeats = tokenizer();
    let pattern = json!({"Regex": "q*q*q*q*q*q*q*q*q*$"});
    repeats["pre_tokenizer"] = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
    let many = "q".repeat(50) + "b";
    for (file, status, words, texts) in [
        (strict, 400, "the text cannot be encoded", ["better", "good \u{1}", "\u{fdfa}"]),
        (panics, 500, "tokenizer.json: the tokenizer", ["\u{1}\u{7f}", "abc \u{1}", "\u{1}"]),
        (repeats, 500, "tokenizer.json: the tokenizer", [many.as_str(), &many[2..], &many[3..]]),
    ] {
        let folder = folder(&file, "{{ messages[0].content }}");
        let program = up(folder.path());
        let address: SocketAddr = program.ready(0, 1).await.parse().unwrap();
        for text in texts {
            let reply = send(address, &json!({"prompt": text, "max_tokens": 1})).await;
            assert_eq!(reply.status, status, "{reply:?}");
            assert!(reply.error().1.contains(words), "{reply:?}");
            let good = send(address, &json!({"prompt": "good", "max_tokens": 1})).await;
            assert_eq!(good.status, 200, "after {text}: {good:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_opened_ends_the_start_with_words() {
    let with = |part: &str, value: Value| {
        let mut file = tokenizer();
        *file.pointer_mut(part).unwrap() = value;
        (file, String::from("{{ messages[0].content }}"), "tokenizer.json")
    };
    let template = |source: String| (tokenizer(), source, "chat_template.jinja");
    let many = |part: &str| template(format!("{{{{ {}1 }}}}", part.repeat(50_000)));
    let starts = [
        with("/model/vocab", json!({"?": 0, "a": 4_000_000_000u64})),
        with("/normalizer", json!({"type": "Prepend", "prepend": "x".repeat(1 << 20)})),
        with(
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": false}),
        ),
        with("/model/merges", json!([["ab", "ab"]])),
        with("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA/wBj"})),
        many("not "),
        many("("),
        many("- "),
        template("{% if 1 %}".repeat(50_000)),
    ];
    let starting = starts.iter().map(|(file, source, name)| async move {
        let folder = folder(file, source);
        let mut program = up(folder.path());
        let status = program.exit().await;
        let brief: String = source.chars().take(20).collect();
        assert_eq!(status.code(), Some(1), "{name} {brief}: {status}");
        let named = |lines: &[String]| lines.iter().any(|line| line.contains(name)).then_some(());
        program.logged("words", named).await;
    });
    futures::future::join_all(starting).await;
}
