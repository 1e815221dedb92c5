use super::*;
use crate::{ChatMessage, Conversation};
use proptest::prelude::*;
use serde_json::Value;
use stageline_base::FaultClass;
use stageline_model::{BertSpec, LlamaSpec};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// More tokens than any of these texts has.
pub(super) const MANY: usize = 1 << 20;

/// The folder of a real model.
fn model_dir(name: &str) -> PathBuf {
    let home = std::env::var("HOME").unwrap_or_default();
    let root = std::env::var("STAGELINE_MODELS").unwrap_or(format!("{home}/.cache/stageline/models"));
    let dir = Path::new(&root).join(name);
    assert!(dir.is_dir(), "{} is not there: run scripts/test, which fetches the models", dir.display());
    dir
}

pub(super) fn decoder(eos: Vec<u32>) -> ModelSpec {
    ModelSpec::from(LlamaSpec {
        layers: 1,
        hidden: 8,
        intermediate: 8,
        heads: 1,
        kv_heads: 1,
        head_dim: 8,
        vocab: 49_152,
        max_positions: 8192,
        norm_eps: 1e-5,
        rope_theta: 1e5,
        rope_scaling: None,
        tied: true,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        head_norms: false,
        sliding: None,
        eos,
    })
}

pub(super) fn encoder() -> ModelSpec {
    ModelSpec::from(BertSpec {
        layers: 1,
        hidden: 8,
        intermediate: 8,
        heads: 1,
        vocab: 30_522,
        type_vocab: 2,
        max_positions: 512,
        norm_eps: 1e-12,
        length_one: true,
    })
}

pub(super) fn open(dir: &Path, spec: &ModelSpec) -> Result<TextModel, Fault> {
    TextModel::open(&Files::of_model(dir)?, spec)
}

static SMOLLM: LazyLock<Arc<TextModel>> =
    LazyLock::new(|| Arc::new(open(&model_dir("smollm2-135m-instruct"), &decoder(vec![])).unwrap()));

fn golden(name: &str) -> Vec<Value> {
    let path = Path::new(env!("STAGELINE_ROOT")).join("tests/golden").join(name);
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["cases"].as_array().unwrap().clone()
}

fn ids(value: &Value) -> Vec<TokenId> {
    serde_json::from_value(value.clone()).unwrap()
}

pub(super) fn user(text: &str) -> Input {
    Input::Chat(Conversation::of(vec![ChatMessage::new("user", text)]))
}

#[test]
fn a_decoders_prompts_are_the_references() {
    let cases = golden("smollm2-135m-instruct.json");
    assert!(cases.iter().any(|c| c["kind"] == "chat") && cases.iter().any(|c| c["kind"] == "plain"));
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let input = if case["kind"] == "chat" { user(text) } else { Input::Text(text.to_string()) };
        if let Input::Chat(messages) = &input {
            let prompt = SMOLLM.template.as_ref().unwrap().render(messages).unwrap();
            assert_eq!(prompt, case["prompt"].as_str().unwrap());
        }
        assert_eq!(SMOLLM.encode(&input, MANY).unwrap(), ids(&case["input_ids"]), "{text}");
        // The reference shows the end token, which is special.
        let want = case["greedy_text"].as_str().unwrap().replace("<|im_end|>", "");
        assert_eq!(streamed(&SMOLLM, &ids(&case["greedy_ids"]), &[]).0, want);
    }
}

#[test]
fn an_encoders_tokens_are_the_references_without_padding_or_a_cut() {
    let model = open(&model_dir("all-minilm-l6-v2"), &encoder()).unwrap();
    for case in golden("all-minilm-l6-v2.json") {
        let sentence = case["sentence"].as_str().unwrap();
        assert_eq!(
            model.encode(&Input::Text(sentence.to_string()), MANY).unwrap(),
            ids(&case["input_ids"]),
            "{sentence}"
        );
    }
    let long = model.encode(&Input::Text("word ".repeat(300)), MANY).unwrap();
    assert_eq!((long.len(), long[0], long[301]), (302, 101, 102));
    let fault = model.encode(&user("hello"), MANY).unwrap_err();
    assert!(fault.message.contains("no chat template"), "{fault}");
}

#[test]
fn the_end_tokens_are_generation_configs_or_else_configs() {
    assert_eq!(SMOLLM.eos(), [2]);
    let dir = tempfile::tempdir().unwrap();
    let source = model_dir("smollm2-135m-instruct");
    std::fs::copy(source.join("tokenizer.json"), dir.path().join("tokenizer.json")).unwrap();
    let open = || open(dir.path(), &decoder(vec![7, 8]));
    assert_eq!(open().unwrap().eos(), [7, 8]);
    let write = |text: &str| std::fs::write(dir.path().join("generation_config.json"), text).unwrap();
    for (text, want) in [
        (r#"{"eos_token_id": [0, 2]}"#, Some(vec![0, 2])),
        (r#"{"eos_token_id": 5}"#, Some(vec![5])),
        (r#"{"eos_token_id": null}"#, Some(vec![7, 8])),
        ("{}", Some(vec![7, 8])),
        (r#"{"eos_token_id": "2"}"#, None),
        (r#"{"eos_token_id": -1}"#, None),
        ("[", None),
    ] {
        write(text);
        match (open(), want) {
            (Ok(model), Some(want)) => assert_eq!(model.eos(), want, "{text}"),
            (Err(fault), None) => assert!(fault.message.contains("generation_config.json"), "{fault}"),
            (got, want) => panic!("{text}: {got:?}, not {want:?}"),
        }
    }
}

#[test]
fn chat_templates_are_found_where_models_keep_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = model_dir("smollm2-135m-instruct").join("tokenizer.json");
    std::fs::copy(file, dir.path().join("tokenizer.json")).unwrap();
    let prompt = || -> Result<Option<String>, Fault> {
        let model = open(dir.path(), &decoder(vec![2]))?;
        model.template.as_ref().ok().map(|t| t.render(&Conversation::of(vec![]))).transpose()
    };
    assert_eq!(prompt(), Ok(None));
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<B>"}, "eos_token": null, "chat_template": "{{ bos_token }}{{ eos_token }}"}"#,
    );
    assert_eq!(prompt(), Ok(Some("<B>".to_string())));
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "x", "template": "x"}, {"name": "default", "template": "d"}]}"#,
    );
    assert_eq!(prompt(), Ok(Some("d".to_string())));
    write("chat_template.jinja", "jinja");
    assert_eq!(prompt(), Ok(Some("jinja".to_string())));
    write("chat_template.jinja", "{% for %}");
    assert!(prompt().unwrap_err().message.contains("chat_template.jinja"));
    std::fs::remove_file(dir.path().join("chat_template.jinja")).unwrap();
    write("tokenizer_config.json", r#"{"chat_template": 3}"#);
    assert!(prompt().unwrap_err().message.contains("tokenizer_config.json"));
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let refused = |input| SMOLLM.encode(&input, MANY).unwrap_err();
    assert_eq!(refused(Input::Text(String::new())).class, FaultClass::InvalidRequest);
    assert_eq!(refused(Input::Tokens(vec![])).class, FaultClass::InvalidRequest);
    let fault = refused(Input::Tokens(vec![0, 49_151, 49_152]));
    assert!(fault.message.contains("token 49152 at place 2"), "{fault}");
    assert_eq!(SMOLLM.encode(&Input::Tokens(vec![49_151, 0]), MANY), Ok(vec![49_151, 0]));
}

#[test]
fn a_missing_or_broken_tokenizer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for text in [None, Some("{"), Some("{}")] {
        if let Some(text) = text {
            std::fs::write(dir.path().join("tokenizer.json"), text).unwrap();
        }
        let fault = open(dir.path(), &decoder(vec![])).unwrap_err();
        assert!(fault.message.contains("tokenizer.json"), "{fault}");
    }
}

/// All pieces of an answer joined, and whether a stop string ended it.
fn streamed(model: &Arc<TextModel>, tokens: &[TokenId], stop: &[String]) -> (String, bool) {
    let mut stream = model.stream(stop.to_vec());
    let mut text = String::new();
    let mut stopped = false;
    for token in tokens {
        let piece = stream.push(*token);
        text += &piece.text;
        stopped = piece.stopped;
        if stopped {
            break;
        }
    }
    text += &stream.finish();
    (text, stopped)
}

#[test]
fn a_stop_string_that_spans_tokens_is_cut_where_it_begins() {
    let tokens = SMOLLM.encode(&Input::Text("one two, three four".to_string()), MANY).unwrap();
    let stop = ["o, thr".to_string(), "four".to_string()];
    assert_eq!(streamed(&SMOLLM, &tokens, &stop), ("one tw".to_string(), true));
}

proptest! {
    #[test]
    fn the_pieces_join_to_the_whole_answer(tokens in proptest::collection::vec(0u32..49_200, 0..60)) {
        let whole = SMOLLM.tokenizer.decode(&tokens, true).unwrap();
        prop_assert_eq!(streamed(&SMOLLM, &tokens, &[]), (whole, false));
    }

    #[test]
    fn bytes_in_any_order_join_to_the_whole_answer(tokens in proptest::collection::vec(17u32..280, 0..60)) {
        // The single bytes of the vocabulary come first: most of these break characters.
        let whole = SMOLLM.tokenizer.decode(&tokens, true).unwrap();
        prop_assert_eq!(streamed(&SMOLLM, &tokens, &[]), (whole, false));
    }

    #[test]
    fn any_text_comes_back(text in "[ -~\n\t\u{a0}-\u{24f}\u{3040}-\u{30ff}😀-😏]{1,80}") {
        let tokens = SMOLLM.encode(&Input::Text(text.clone()), MANY).unwrap();
        prop_assert_eq!(streamed(&SMOLLM, &tokens, &[]).0, text);
    }

    #[test]
    fn stop_strings_cut_the_whole_answer(tokens in proptest::collection::vec(0u32..49_152, 1..40), at in any::<prop::sample::Index>(), len in 1usize..12) {
        let whole = SMOLLM.tokenizer.decode(&tokens, true).unwrap();
        prop_assume!(!whole.is_empty());
        let chars: Vec<char> = whole.chars().collect();
        let from = at.index(chars.len());
        let stop: String = chars[from..(from + len).min(chars.len())].iter().collect();
        let (text, _) = streamed(&SMOLLM, &tokens, std::slice::from_ref(&stop));
        prop_assert_eq!(text.as_str(), whole.split_once(stop.as_str()).unwrap().0);
    }
}
