use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::sync::LazyLock;

/// A tokenizer of `words`, with one special token and one added token, decoded by `decoder`.
fn tokenizer(words: &[&str], decoder: Value) -> Tokenizer {
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(i, w)| (w.to_string(), json!(i))).collect();
    let added = |id: usize, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder,
        "added_tokens": [added(words.len(), "<end>", true), added(words.len() + 1, "<tool> é", false)],
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": words[0]},
    });
    Tokenizer::from_bytes(file.to_string()).unwrap()
}

const LLAMA: &[&str] =
    &["▁", "▁a", "b▁", "▁▁c", "é", "<0x20>", "<0xC3>", "<0xA9>", "<0xF0>", "<0xFF>", "<0x41>", " ", ""];
const BYTES: &[&str] = &["a", "Ġb", "Ã", "©", "Ċ", "ðŁ", "ĺ", "Ģ", "not é all", "ÿ", ""];

static SHAPES: LazyLock<Vec<(Tokenizer, Pieces)>> = LazyLock::new(|| {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let strip = |start: usize| json!({"type": "Strip", "content": " ", "start": start, "stop": 0});
    let metaspace =
        |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let chain = |steps: Vec<&Value>| json!({"type": "Sequence", "decoders": steps});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let shapes = [
        (BYTES, byte_level.clone()),
        (BYTES, chain(vec![&byte_level])),
        (LLAMA, chain(vec![&replace, &fallback, &fuse, &strip(1)])),
        (LLAMA, chain(vec![&replace, &fallback, &fuse, &strip(3)])),
        (LLAMA, chain(vec![&replace, &fallback, &fuse])),
        (LLAMA, metaspace("always")),
        (LLAMA, metaspace("never")),
    ];
    let pair = |(words, decoder): (&[&str], Value)| {
        let tokenizer = tokenizer(words, decoder);
        let pieces = Pieces::new(&tokenizer).unwrap();
        (tokenizer, pieces)
    };
    shapes.into_iter().map(pair).collect()
});

fn unfold(pieces: &Pieces, tokens: &[u32]) -> String {
    let mut unfolding = Unfolding::default();
    let mut text: String = tokens.iter().map(|t| unfolding.push(pieces, *t)).collect();
    text += &unfolding.finish(pieces);
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_pieces_join_to_what_the_tokenizer_decodes(shape in 0usize..7, tokens in proptest::collection::vec(0u32..18, 0..12)) {
        let (tokenizer, pieces) = &SHAPES[shape];
        prop_assert_eq!(unfold(pieces, &tokens), tokenizer.decode(&tokens, true).unwrap());
    }
}

#[test]
fn a_character_is_shown_as_soon_as_it_is_whole() {
    let (_, pieces) = &SHAPES[0];
    let mut unfolding = Unfolding::default();
    let shown: Vec<String> = [0, 2, 3, 5, 6, 7, 9, 5].iter().map(|t| unfolding.push(pieces, *t)).collect();
    assert_eq!(shown, ["a", "", "é", "", "", "😀", "\u{fffd}", ""]);
    assert_eq!(unfolding.finish(pieces), "\u{fffd}");
}

#[test]
fn a_decoder_that_cannot_be_followed_is_refused_by_name() {
    let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let refused = Pieces::new(&tokenizer(LLAMA, word_piece)).unwrap_err();
    assert!(refused.contains("WordPiece"), "{refused}");
    assert!(Pieces::new(&tokenizer(LLAMA, Value::Null)).is_err());
    let cut_back = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 1}]});
    assert!(Pieces::new(&tokenizer(LLAMA, cut_back)).is_err());
}
