use super::*;
use serde_json::{Value, json};

/// A small tokenizer of single letters.
fn plain() -> Value {
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "unk_token": "?", "vocab": {"?": 0, "a": 1, "b": 2, "ab": 3}, "merges": ["a b"]}})
}

/// `plain` with another value at `path`.
fn with(path: &str, value: Value) -> Value {
    let mut file = plain();
    if let (Some(part), Some(name)) = path.rsplit_once('/').map_or((Some(""), Some(path)), |(a, b)| (Some(a), Some(b)))
    {
        let part = if part.is_empty() { Some(&mut file) } else { file.pointer_mut(&format!("/{part}")) };
        part.unwrap()[name] = value;
    }
    file
}

fn outcome(file: &Value) -> Result<usize, String> {
    let tokenizer = open(file.to_string().as_bytes())?;
    let text = "ab aaaa \u{fdfa} b".repeat(200);
    encode(&tokenizer, &text, true).map(|ids| ids.len()).map_err(|failure| format!("{failure:?}"))
}

fn sequence(of: &str, step: Value, count: usize) -> Value {
    json!({"type": "Sequence", of: vec![step; count]})
}

#[test]
fn a_plain_tokenizer_opens() {
    assert_eq!(outcome(&plain()), Ok(1400));
    for file in [
        with("normalizer", json!({"type": "Prepend", "prepend": "\u{2581}"})),
        with("normalizer", json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"})),
        with(
            "padding",
            json!({"strategy": {"Fixed": 1_000_000_000u64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"}),
        ),
        with("truncation", json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0})),
        with(
            "added_tokens",
            json!([{"id": 4, "content": "", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}]),
        ),
        with("model/vocab", json!({"?": 0, "a": 1, "b": 1, "ab": 1})),
    ] {
        let seen = outcome(&file);
        assert!(matches!(seen, Ok(600..=8000)), "{file}: {seen:?}");
    }
}

#[test]
fn what_would_cost_too_much_is_refused_in_words() {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": false});
    let replace =
        |from: &str, to: usize| json!({"type": "Replace", "pattern": {"String": from}, "content": "b".repeat(to)});
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let added = |id: u64| json!([{"id": id, "content": "x", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false}]);
    let template = |pieces: usize, ids: usize| {
        json!({"type": "TemplateProcessing", "pair": [],
        "single": vec![json!({"SpecialToken": {"id": "a", "type_id": 0}}); pieces],
        "special_tokens": {"a": {"id": "a", "ids": vec![1; ids], "tokens": vec!["a"; ids]}}})
    };
    let again = json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {},
        "single": vec![json!({"Sequence": {"id": "A", "type_id": 0}}); 30]});
    let many: Vec<Value> = (0..6000)
        .map(|i| {
            json!({"id": 10 + i, "content": format!("{i}{}", "y".repeat(1000)), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    for (file, words) in [
        (with("added_tokens", json!(many)), "its added tokens have"),
        (with("pre_tokenizer", split("(a|a)*b")), "repeats"),
        (with("pre_tokenizer", split("(?:a?){30}a{30}")), "repeats"),
        (with("normalizer", json!({"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": "b"})), "repeats"),
        (with("model/vocab", json!({"?": 0, "a": 4_000_000_000u64})), "token 4000000000 is higher"),
        (with("model/vocab", json!({"?": 0, "a": 40_000_000_000u64})), "token 40000000000 is higher"),
        (with("added_tokens", added(4_000_000_000)), "token 4000000000 is higher"),
        (with("model/vocab", json!({"?": 0, "a".repeat(5000): 1})), "a token has 5000 bytes"),
        (with("normalizer", json!({"type": "Prepend", "prepend": "x".repeat(100_000)})), "100000 bytes more"),
        (
            with("normalizer", sequence("normalizers", json!({"type": "Prepend", "prepend": "x".repeat(1000)}), 30)),
            "bytes more",
        ),
        (with("normalizer", replace("a", 100)), "100 times as long"),
        (with("normalizer", replace("", 100)), "101 times as long"),
        (with("normalizer", sequence("normalizers", replace("b", 2), 30)), "times as long"),
        (with("normalizer", sequence("normalizers", json!({"type": "NFC"}), 100)), "more than 64 steps"),
        (
            with("normalizer", json!({"type": "Replace", "pattern": {"Regex": "a*"}, "content": "b".repeat(99)})),
            "100 times",
        ),
        (with("normalizer", json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"})), "repeats"),
        (with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA/wBj"})), "is broken"),
        (with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA!!"})), "not base64"),
        (
            with(
                "normalizer",
                json!({"type": "Precompiled", "precompiled_charsmap": format!("AAAAAG{}", "Fh".repeat(100))}),
            ),
            "a text of more",
        ),
        (with("pre_tokenizer", sequence("pretokenizers", byte_level, 30)), "times as long"),
        (with("pre_tokenizer", split("(a+)+$")), "repeats"),
        (with("pre_tokenizer", split(&"(".repeat(60_000))), "more than 16384 bytes"),
        (with("pre_tokenizer", split("(")), "parenthesis"),
        (with("pre_tokenizer", json!({"type": "FixedLength", "length": 0})), "it failed"),
        (with("post_processor", template(1000, 1)), "post-processor"),
        (with("post_processor", template(1, 1000)), "post-processor"),
        (with("post_processor", again), "repeats the text"),
        (with("model/merges", json!(["a x"])), "`x`"),
        (with("model/merges", json!([["ab", "ab"]])), "failed"),
        (with("model/continuing_subword_prefix", json!("##")), "continuing_subword_prefix"),
        (
            with(
                "model",
                json!({"type": "WordPiece", "unk_token": "?", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1_000_000_000u64, "vocab": {"?": 0}}),
            ),
            "max_input_chars_per_word",
        ),
        (with("model", json!({"type": "Unigram", "unk_id": 7, "vocab": [["a", 0.0]]})), "UnkId"),
        (with("model", json!({"type": "Nothing", "vocab": {}})), ""),
        (json!({}), "model"),
        (json!([]), ""),
    ] {
        let said = open(file.to_string().as_bytes()).err();
        let brief: String = file.to_string().chars().take(300).collect();
        assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{brief}: {said:?}, not {words}");
    }
    let nested =
        format!("{}{}", "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[".repeat(500), "]}}".repeat(500));
    assert!(open(nested.as_bytes()).unwrap_err().contains("recursion limit"));
    assert!(open(br#"{"model": {"type": "Unigram", "vocab": [["a", 1e999]]}}"#).is_err());
    assert!(open(br#"{"model": {"type": "Unigram", "vocab": [["a", NaN]]}}"#).is_err());
}

#[test]
fn a_panic_at_a_request_is_a_fault() {
    // A table that is in place but leads out of itself.
    for map in ["BAAAAP////8A", "BAAAAAH///8A", "CAAAAAAE//8ABP//AA=="] {
        let file = with("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": map}));
        if let Ok(tokenizer) = open(file.to_string().as_bytes()) {
            let _ = encode(&tokenizer, "\u{1}\u{7f}\u{fdfa}abc", true);
        }
    }
}

#[test]
fn what_has_no_token_is_found_where_it_begins() {
    let words =
        |unknown: Value| json!({"type": "WordLevel", "unk_token": unknown, "vocab": {"?": 0, "ab": 1, "\u{e9}": 2}});
    let known = open(with("model", words(json!("?"))).to_string().as_bytes()).unwrap();
    assert_eq!(encode(&known, "ab x", true).unwrap(), [1, 0]);
    let strict = open(with("model", words(json!("none"))).to_string().as_bytes()).unwrap();
    assert_eq!(encode(&strict, "ab \u{e9}", true).unwrap(), [1, 2]);
    for (text, at) in [("x", 0), ("ab \u{e9} x ab", 6), ("ab \u{65e5}", 3)] {
        assert!(matches!(encode(&strict, text, true), Err(Failure::Unknown(_))), "{text}");
        assert_eq!(unknown_at(&strict, text), Some(at), "{text}");
    }
    assert_eq!(unknown_at(&strict, &"x ".repeat(SHORT_BYTES)), None);
}

#[test]
fn what_a_tokenizer_leaves_open_costs_little() {
    let added = |count: u64, more: Value| {
        let token = |id: u64| {
            let mut token = json!({"id": 4 + id, "content": format!("<{id}>"), "single_word": true, "lstrip": true,
                "rstrip": true, "normalized": true, "special": id.is_multiple_of(2)});
            token.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            token
        };
        (0..count).map(token).collect::<Value>()
    };
    let single =
        |id: &str| json!([{"SpecialToken": {"id": id, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    let template = |id: &str, special: Value| {
        with(
            "post_processor",
            json!({"type": "TemplateProcessing", "single": single(id), "pair": single(id), "special_tokens": special}),
        )
    };
    let split = |pattern: Value, behavior: &str| json!({"type": "Split", "pattern": pattern, "behavior": behavior, "invert": true});
    let unigram = |vocab: Value, fallback: bool| {
        with("model", json!({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": fallback}))
    };
    let mut files = vec![
        with("added_tokens", added(5000, json!({}))),
        with("added_tokens", added(50, json!({"content": "a"}))),
        with("added_tokens", added(50, json!({"content": " "}))),
        with("added_tokens", added(3, json!({"id": 1}))),
        with("added_tokens", added(3, json!({"id": 4_000_000}))),
        template("absent", json!({})),
        template("a", json!({"a": {"id": "a", "ids": [], "tokens": []}})),
        template("a", json!({"a": {"id": "a", "ids": [4_294_967_295u64], "tokens": ["a"]}})),
        template("a", json!({"a": {"id": "b", "ids": [1, 2], "tokens": ["a"]}})),
        with("post_processor", json!({"type": "BertProcessing", "sep": ["x", 4_000_000_000u64], "cls": ["y", 7]})),
        with("post_processor", json!({"type": "Sequence", "processors": []})),
        with("model/merges", json!(["a b", "a b", "a b"])),
        with("model/merges", json!(["a"])),
        with("model/merges", json!(["a b c"])),
        with("model/merges", json!(["", " "])),
        with("model/vocab", json!({})),
        with("model/unk_token", json!("absent")),
        with("model/byte_fallback", json!(true)),
        with("model/fuse_unk", json!(true)),
        with("model/dropout", json!(0.5)),
        with("model/dropout", json!(7.0)),
        with("model/end_of_word_suffix", json!("</w>")),
        unigram(json!([["?", 0.0], ["a", -1.0], ["aa", 1e30]]), false),
        unigram(json!([["?", -1e308], ["a", -1e308]]), true),
        unigram(json!([["?", 0.0]]), true),
        unigram(json!([["", 0.0], ["a", 0.0]]), false),
        with("model", json!({"type": "WordLevel", "unk_token": "absent", "vocab": {"a": 0}})),
        with(
            "model",
            json!({"type": "WordPiece", "unk_token": "absent", "vocab": {"a": 0}, "max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}),
        ),
        with(
            "model",
            json!({"type": "WordPiece", "unk_token": "?", "vocab": {"?": 0, "##": 1}, "max_input_chars_per_word": 100, "continuing_subword_prefix": ""}),
        ),
        with(
            "decoder",
            json!({"type": "Sequence", "decoders": vec![json!({"type": "Strip", "content": " ", "start": 1_000_000, "stop": 1_000_000}); 20]}),
        ),
        with("decoder", json!({"type": "Replace", "pattern": {"String": ""}, "content": "x"})),
        with("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": ""})),
        with("normalizer", json!({"type": "Replace", "pattern": {"Regex": ""}, "content": ""})),
        with("normalizer", json!({"type": "Replace", "pattern": {"Regex": "(?=a)"}, "content": ""})),
        with("normalizer", json!({"type": "Replace", "pattern": {"Regex": "."}, "content": ""})),
        with("normalizer", json!({"type": "Strip", "strip_left": true, "strip_right": true})),
        with("normalizer", json!({"type": "StripAccents"})),
        with("normalizer", json!({"type": "NFKD"})),
        with("normalizer", json!({"type": "Nmt"})),
        with("normalizer", json!({"type": "Sequence", "normalizers": []})),
        with("pre_tokenizer", json!({"type": "Sequence", "pretokenizers": []})),
        with("pre_tokenizer", json!({"type": "Digits", "individual_digits": true})),
        with("pre_tokenizer", json!({"type": "Punctuation", "behavior": "MergedWithNext"})),
        with("pre_tokenizer", json!({"type": "CharDelimiterSplit", "delimiter": "a"})),
        with(
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": true}),
        ),
        with("pre_tokenizer", json!({"type": "UnicodeScripts"})),
    ];
    for behavior in ["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"] {
        for pattern in [json!({"Regex": ""}), json!({"Regex": "(?=)"}), json!({"String": ""}), json!({"Regex": "\\b"})]
        {
            files.push(with("pre_tokenizer", split(pattern, behavior)));
        }
    }
    assert!(files.len() >= 60, "{}", files.len());
    for file in files {
        // Refused, a fault at the request, or tokens; never more than a few a byte.
        if let Ok(count) = outcome(&file) {
            assert!(count < 40_000, "{file}: {count}");
        }
    }
}
