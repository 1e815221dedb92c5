//! Tests: which of a model's files counts where they disagree, and what is said about it.

use super::tests::{MANY, decoder, encoder, open, user};
use super::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stageline_base::hex;
use stageline_model::ModelSpec;
use stageline_plan::FileEntry;
use std::path::Path;

/// A folder with a tokenizer of words, in which `<s>` is 3, `</s>` 4 and `<x>` 5.
pub(super) fn folder(files: &[(&str, Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), TOKENIZER, &tokenizer(&["<s>", "</s>", "<x>"], Value::Null));
    for (name, value) in files {
        write(dir.path(), name, value);
    }
    dir
}

/// Writes JSON, or a text as it is.
fn write(dir: &Path, name: &str, value: &Value) {
    let text = if name.ends_with(".json") { value.to_string() } else { value.as_str().unwrap().to_string() };
    std::fs::write(dir.join(name), text).unwrap();
}

pub(super) fn tokenizer(added: &[&str], post: Value) -> Value {
    let words = ["?", "hi", "a", "<s>", "</s>", "<x>"];
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).into(), json!(id))).collect();
    let token = |token: &&str| {
        let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false});
        let mut entry = json!({"id": vocab[*token], "content": token, "special": true});
        entry.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        entry
    };
    json!({
        "version": "1.0", "added_tokens": added.iter().map(token).collect::<Value>(), "post_processor": post,
        "pre_tokenizer": {"type": "Whitespace"},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "?"},
    })
}

fn around(before: &[(&str, u32)], after: &[(&str, u32)]) -> Value {
    let special = |(token, _): &(&str, u32)| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
    let single: Vec<Value> = before.iter().map(special).chain([text("A")]).chain(after.iter().map(special)).collect();
    let tokens: serde_json::Map<String, Value> = before
        .iter()
        .chain(after)
        .map(|(token, id)| ((*token).into(), json!({"id": token, "ids": [id], "tokens": [token]})))
        .collect();
    let pair = [single.clone(), vec![text("B")]].concat();
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens})
}

/// A decoder of six tokens whose config.json names `eos`.
pub(super) fn small(eos: &[u32]) -> ModelSpec {
    let decoder = decoder(eos.to_vec());
    stageline_model::LlamaSpec { vocab: 6, ..decoder.engine_decoder().unwrap().clone() }.into()
}

fn opened(files: &[(&str, Value)]) -> TextModel {
    open(folder(files).path(), &small(&[4])).unwrap()
}

/// Warned of once, in words that hold all of `said`.
#[track_caller]
fn warned(model: &TextModel, said: &[&str]) {
    let hits = model.warnings().iter().filter(|warning| said.iter().all(|word| warning.contains(word))).count();
    assert_eq!((hits, model.warnings().len()), (1, 1), "{said:?}: {:?}", model.warnings());
}

/// Warned of nothing.
#[track_caller]
fn agreed(model: &TextModel) {
    assert_eq!(model.warnings(), [""; 0]);
}

const SHOW: &str = "{{ bos_token }} {{ eos_token }}";

fn shown(model: &TextModel) -> Vec<TokenId> {
    model.encode(&user("hi"), MANY).unwrap()
}

#[test]
fn special_tokens_come_from_either_file() {
    let template = ("chat_template.jinja", json!(SHOW));
    let config = |value: Value| (special::CONFIG, value);
    let map = |value: Value| ("special_tokens_map.json", value);
    let (s, e) = (json!({"content": "<s>", "lstrip": false}), json!("</s>"));

    let model = opened(&[template.clone(), map(json!({"bos_token": s, "eos_token": e}))]);
    agreed(&model);
    assert_eq!(shown(&model), [3, 4]);
    let model = opened(&[template.clone(), config(json!({"bos_token": "<s>"})), map(json!({"eos_token": e}))]);
    agreed(&model);
    assert_eq!(shown(&model), [3, 4]);

    // Both name one: the map's, unless tokenizer_config.json says what tokens there are.
    let both = |more: Value| {
        let mut file = json!({"bos_token": "<x>", "eos_token": "</s>"});
        file.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        opened(&[template.clone(), config(file), map(json!({"bos_token": s}))])
    };
    let model = both(json!({}));
    warned(&model, &["special_tokens_map.json has bos_token = \"<s>\"", "tokenizer_config.json", "\"<s>\" is used"]);
    assert_eq!(shown(&model), [3, 4]);
    let model = both(json!({"added_tokens_decoder": {"3": s}}));
    warned(&model, &["special_tokens_map.json has bos_token = \"<s>\"", "tokenizer_config.json", "\"<x>\" is used"]);
    assert_eq!(shown(&model), [5, 4]);
    let nothing =
        [template.clone(), config(json!({"bos_token": "<s>", "eos_token": "</s>"})), map(json!({"bos_token": null}))];
    let model = opened(&nothing);
    warned(&model, &["special_tokens_map.json has bos_token = null, tokenizer_config.json \"<s>\": null is used"]);
    assert_eq!(shown(&model), [4]);
    let config_alone = json!({"eos_token": "</s>", "added_tokens_decoder": {}});
    let model = opened(&[template.clone(), config(config_alone), map(json!({"bos_token": "<s>"}))]);
    warned(&model, &["special_tokens_map.json has bos_token = \"<s>\", tokenizer_config.json none: null is used"]);
    assert_eq!(shown(&model), [4]);
    // What no template shows is no matter.
    let pads = [config(json!({"eos_token": "</s>", "pad_token": "<x>"})), map(json!({"pad_token": "</s>"}))];
    agreed(&opened(&pads));

    // A null is a token that is not there; a silent file leaves it to the tokenizer's class.
    let model = opened(&[template.clone(), config(json!({"bos_token": null, "eos_token": "</s>"}))]);
    assert_eq!(shown(&model), [4]);
    let model = opened(&[
        (TOKENIZER, tokenizer(&["<s>", "</s>"], around(&[("<s>", 3)], &[]))),
        template,
        config(json!({"tokenizer_class": "LlamaTokenizerFast"})),
    ]);
    agreed(&model);
    assert_eq!(shown(&model), [3, 4]);

    let fault = open(folder(&[config(json!({"bos_token": 3}))]).path(), &small(&[4])).unwrap_err();
    assert!(fault.message.contains("tokenizer_config.json has a bos_token that is no text"), "{fault}");
}

#[test]
fn tokens_that_only_the_configuration_knows_are_control_tokens_too() {
    let plain = (TOKENIZER, tokenizer(&[], Value::Null));
    let say = |name: &str| Input::Text(name.to_string());
    assert_eq!(opened(std::slice::from_ref(&plain)).encode(&say("<s>"), MANY).unwrap(), [0, 0, 0]);
    let listed = json!({"eos_token": "</s>", "added_tokens_decoder": {"3": {"content": "<s>", "special": true}}});
    let model = opened(&[plain.clone(), (special::CONFIG, listed)]);
    agreed(&model);
    assert_eq!(
        (model.encode(&say("<s>"), MANY).unwrap(), model.encode(&say("</s>"), MANY).unwrap()),
        (vec![3], vec![4])
    );
    let wrong =
        json!({"eos_token": "</s>", "added_tokens_decoder": {"9": {"content": "<x>"}, "7": {"content": "<y>"}}});
    let model = opened(&[plain, (special::CONFIG, wrong)]);
    warned(&model, &["tokenizer_config.json", "tokenizer.json", "[\"<x>\", \"<y>\"]"]);
}

#[test]
fn who_adds_tokens_around_a_text_is_said_where_two_files_differ() {
    let (s, e) = (("<s>", 3), ("</s>", 4));
    let with = |post: &Value, config: Value| {
        let mut file = json!({"bos_token": "<s>", "eos_token": "</s>"});
        file.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        opened(&[(TOKENIZER, tokenizer(&["<s>", "</s>", "<x>"], post.clone())), (special::CONFIG, file)])
    };
    let (none, bos, both) = (Value::Null, around(&[s], &[]), around(&[s], &[e]));
    let add = |bos: bool, eos: bool| json!({"add_bos_token": bos, "add_eos_token": eos});
    for (post, config) in [
        (&none, add(false, false)),
        (&bos, add(true, false)),
        (&both, add(true, true)),
        (&bos, json!({"tokenizer_class": "LlamaTokenizer"})),
        (&bos, json!({})),
        (&none, json!({"tokenizer_class": "Qwen2Tokenizer"})),
    ] {
        agreed(&with(post, config));
    }
    for (post, config, said) in [
        (&none, json!({"add_bos_token": true}), "has add_bos_token = true"),
        (&bos, json!({"add_bos_token": false}), "has add_bos_token = false"),
        (&bos, add(true, true), "has add_eos_token = true"),
        (&both, add(true, false), "has add_eos_token = false"),
        (&none, json!({"tokenizer_class": "LlamaTokenizer"}), "class of tokenizer with add_bos_token = true"),
        (&both, json!({"tokenizer_class": "LlamaTokenizerFast"}), "class of tokenizer with add_eos_token = false"),
        (&around(&[("<x>", 5)], &[]), add(true, false), "has add_bos_token = true"),
    ] {
        warned(&with(post, config), &[said, "tokenizer_config.json", "tokenizer.json is used"]);
    }
    let model = with(&none, add(true, false));
    assert_eq!(model.encode(&Input::Text("hi".into()), MANY).unwrap(), [1]);
}

#[test]
fn how_letters_are_read_is_said_where_two_files_differ() {
    let bert = |lower: bool, config: Value| {
        let mut file = tokenizer(&[], Value::Null);
        file["normalizer"] = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": lower});
        open(folder(&[(TOKENIZER, file), (special::CONFIG, config)]).path(), &encoder()).unwrap()
    };
    agreed(&bert(true, json!({"do_lower_case": true, "strip_accents": null, "tokenize_chinese_chars": true})));
    agreed(&bert(false, json!({})));
    for (setting, asked) in [("do_lower_case", true), ("tokenize_chinese_chars", false), ("strip_accents", true)] {
        let model = bert(false, json!({ setting: asked }));
        warned(&model, &["tokenizer_config.json has", setting, "tokenizer.json is used"]);
    }
}

#[test]
fn the_end_of_an_answer_is_said_where_files_differ() {
    let ends = |config: &[u32], files: &[(&str, Value)]| open(folder(files).path(), &small(config)).unwrap();
    let generation = |value: Value| ("generation_config.json", value);
    let named = |token: &str| (special::CONFIG, json!({"eos_token": token}));

    let model = ends(&[4], &[generation(json!({"eos_token_id": [5, 4]})), named("</s>")]);
    agreed(&model);
    assert_eq!(model.eos(), [5, 4]);
    let model = ends(&[4], &[generation(json!({"eos_token_id": 5}))]);
    warned(&model, &["generation_config.json has eos_token_id = [5]", "config.json [4]", "ends at those of gen"]);
    assert_eq!(model.eos(), [5]);
    for silent in [json!({}), json!({"eos_token_id": null}), json!({"eos_token_id": []})] {
        let model = ends(&[4], &[generation(silent), named("</s>")]);
        agreed(&model);
        assert_eq!(model.eos(), [4]);
    }
    let model = ends(&[4], &[named("<x>")]);
    warned(&model, &["tokenizer_config.json has eos_token = \"<x>\" (token 5)", "config.json eos_token_id = [4]"]);
    assert_eq!(model.eos(), [4]);
    // The last that can be asked is the tokenizer.
    for file in [special::CONFIG, "special_tokens_map.json"] {
        let model = ends(&[], &[(file, json!({"eos_token": "<x>"}))]);
        agreed(&model);
        assert_eq!(model.eos(), [5]);
    }
    let model = ends(&[], &[]);
    warned(&model, &["neither generation_config.json nor config.json nor tokenizer_config.json names an end token"]);
    assert_eq!(model.eos(), [0_u32; 0]);
    warned(&ends(&[6], &[]), &["config.json has eos_token_id 6, which never comes: the model has 6 tokens"]);
}

#[test]
fn one_chat_template_of_several_places_counts() {
    let config = |template: Value| (special::CONFIG, json!({"eos_token": "</s>", "chat_template": template}));
    let legacy = |template: Value| ("chat_template.json", json!({"chat_template": template}));
    let list = |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name, "template": "a"})).collect() };

    for alone in [legacy(json!("a")), legacy(list(&["tool_use", "default"])), config(json!({"default": "a"}))] {
        let model = opened(&[alone]);
        agreed(&model);
        assert_eq!(shown(&model), [2]);
    }
    let model = opened(&[("chat_template.jinja", json!("hi\n")), config(json!("hi")), legacy(json!("hi"))]);
    agreed(&model);
    let model = opened(&[("chat_template.jinja", json!("hi")), config(json!("a"))]);
    warned(&model, &["chat_template.jinja and tokenizer_config.json have different chat templates: that of chat_t"]);
    assert_eq!(shown(&model), [1]);
    let model = opened(&[legacy(json!("hi")), config(json!("a"))]);
    warned(&model, &["tokenizer_config.json and chat_template.json have different", "that of tokenizer_config.json"]);
    assert_eq!(shown(&model), [2]);

    // One of nothing counts as none.
    let model = opened(&[("chat_template.jinja", json!(" \n")), config(json!("a"))]);
    warned(&model, &["chat_template.jinja has an empty chat template, which does not count"]);
    assert_eq!(shown(&model), [2]);
    assert!(!opened(&[config(json!(""))]).has_chat_template());

    // One of a list is for conversations with tools, as few as they may be.
    let both = json!([{"name": "default", "template": "a"}, {"name": "tool_use", "template": "hi"}]);
    let model = opened(&[config(both)]);
    agreed(&model);
    assert_eq!(shown(&model), [2]);
    let Input::Chat(mut conversation) = user("hi") else { panic!("a conversation") };
    conversation.tools = Some(stageline_template::Json::List(Vec::new()));
    assert_eq!(model.encode(&Input::Chat(conversation), MANY).unwrap(), [1]);

    // Without a default the model serves, and conversations are refused.
    let model = opened(&[config(list(&["rag", "tool_use"]))]);
    warned(&model, &["tokenizer_config.json has chat templates (rag, tool_use)", "none is called default"]);
    assert!(!model.has_chat_template());
    let fault = model.encode(&user("hi"), MANY).unwrap_err();
    assert!(fault.message.contains("(rag, tool_use) is called default: send `prompt`"), "{fault}");
    assert_eq!(model.encode(&Input::Text("hi".into()), MANY).unwrap(), [1]);

    for (name, broken) in [config(json!([{"name": "default"}])), legacy(json!(3))] {
        let fault = open(folder(&[(name, broken)]).path(), &small(&[4])).unwrap_err();
        assert!(fault.message.contains(name), "{fault}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_not_absent() {
    for name in [
        TOKENIZER,
        special::CONFIG,
        "special_tokens_map.json",
        "generation_config.json",
        "chat_template.jinja",
        "chat_template.json",
    ] {
        type Break = fn(&Path);
        let breaks: [Break; 3] = [
            |path| std::fs::create_dir(path).unwrap(),
            |path| std::os::unix::fs::symlink("../../blobs/gone", path).unwrap(),
            |path| std::fs::write(path, b"\xff\xfe").unwrap(),
        ];
        for (number, wrong) in breaks.iter().enumerate() {
            let dir = folder(&[]);
            let path = dir.path().join(name);
            if name == TOKENIZER {
                std::fs::remove_file(&path).unwrap();
            }
            wrong(&path);
            let fault = open(dir.path(), &small(&[4])).unwrap_err();
            assert!(fault.message.contains(name), "{number} of {name}: {fault}");
        }
    }
}

#[test]
fn in_a_pipeline_the_manifests_files_count_and_no_others() {
    let eos = ("generation_config.json", json!({"eos_token_id": 4}));
    let dir = folder(&[(special::CONFIG, json!({"eos_token": "</s>", "chat_template": "a"})), eos]);
    let entry = |name: &str| {
        let bytes = std::fs::read(dir.path().join(name)).unwrap();
        FileEntry { file: name.into(), bytes: bytes.len() as u64, sha256: hex(&Sha256::digest(&bytes)) }
    };
    let listed = [TOKENIZER, special::CONFIG, "generation_config.json"].map(entry);
    let open = || TextModel::open(&Files::of_manifest(dir.path(), &listed), &small(&[4]));
    write(dir.path(), "chat_template.jinja", &json!("hi"));
    write(dir.path(), "special_tokens_map.json", &json!({"eos_token": "<x>"}));
    let model = open().unwrap();
    agreed(&model);
    assert_eq!((shown(&model), model.eos()), (vec![2], [4].as_slice()));
    for entry in &listed {
        let path = dir.path().join(&entry.file);
        let bytes = std::fs::read(&path).unwrap();
        // As valid and as long as before: nothing but the digest can tell.
        let altered = String::from_utf8(bytes.clone()).unwrap().replacen("4", "5", 1).replacen("</s>", "</t>", 1);
        assert!(altered.len() == bytes.len() && altered.as_bytes() != bytes);
        std::fs::write(&path, altered).unwrap();
        let fault = open().unwrap_err();
        assert!(fault.message.contains(&entry.file) && fault.message.contains("pipeline.json lists"), "{fault}");
        std::fs::write(&path, bytes).unwrap();
    }
    open().unwrap();
}
