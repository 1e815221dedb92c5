//! What tokenizer_config.json says of the tokenizer, held against tokenizer.json, which alone makes the tokens.
//!
//! transformers 5 does the same. transformers 4, by which many models were made, has classes of tokenizers that go by
//! tokenizer_config.json instead: where that would make other tokens, it is said.

use super::special::{CONFIG, SpecialTokens, class};
use serde_json::{Map, Value};
use stageline_base::{Fault, TokenId};
use std::collections::BTreeSet;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

/// Most tokens named in one warning.
const MAX_NAMED: usize = 4;

/// Has `tokenizer` know as control tokens those that `config`, tokenizer_config.json, names and its vocabulary has, which
/// tokenizer.json may leave out. Says in `warnings` which it does not have.
pub(super) fn add_tokens(
    tokenizer: &mut Tokenizer,
    special: &SpecialTokens,
    config: &Map<String, Value>,
    warnings: &mut Vec<String>,
) -> Result<(), Fault> {
    let known = tokenizer.get_added_tokens_decoder();
    let mut asked: Vec<(Option<u64>, AddedToken)> = Vec::new();
    let listed = config.get("added_tokens_decoder").and_then(Value::as_object);
    for (id, token) in listed.into_iter().flatten() {
        let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
        let Some(content) = token.get("content").and_then(Value::as_str) else { continue };
        let added = AddedToken::from(content, flag("special"))
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized"));
        asked.push((id.parse().ok(), added));
    }
    let named = special.by_name().into_values();
    asked.extend(named.map(|token| (None, AddedToken::from(token, true).normalized(false))));
    let (mut new, mut absent) = (Vec::new(), BTreeSet::new());
    for (id, token) in asked {
        match tokenizer.token_to_id(&token.content) {
            Some(own) if id.is_none_or(|id| id == u64::from(own)) => {
                if !known.contains_key(&own) {
                    new.push(token);
                }
            }
            _ => _ = absent.insert(token.content),
        }
    }
    if !absent.is_empty() {
        let more = absent.len().saturating_sub(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named: Vec<String> = absent.into_iter().take(MAX_NAMED).collect();
        warnings.push(format!(
            "{CONFIG} has tokens that tokenizer.json has not, or by another number: {named:?}{more}; tokenizer.json is used"
        ));
    }
    let added = tokenizer.add_tokens(new);
    added.map(|_| ()).map_err(|error| Fault::invalid(format!("tokenizer.json takes no added tokens: {error}")))
}

/// Where `config` asks for other special tokens around a text than `tokenizer` adds, or for other letters.
pub(super) fn disputes(tokenizer: &Tokenizer, special: &SpecialTokens, config: &Map<String, Value>) -> Vec<String> {
    let mut disputes = Vec::new();
    let (before, after) = around(tokenizer);
    // Of these classes, the second by default.
    let by_class = |adds: bool| (class(config) == "LlamaTokenizer").then_some(adds);
    for (setting, name, added, unsaid) in
        [("add_bos_token", "bos_token", before, by_class(true)), ("add_eos_token", "eos_token", after, by_class(false))]
    {
        let said = config.get(setting).and_then(Value::as_bool);
        let Some(asked) = said.or(unsaid) else { continue };
        let token = special.token(name);
        let wanted: Option<Vec<TokenId>> = match (asked, token) {
            (false, _) => Some(Vec::new()),
            (true, token) => token.and_then(|token| tokenizer.token_to_id(token)).map(|id| vec![id]),
        };
        if wanted.is_some_and(|wanted| wanted == added) {
            continue;
        }
        let how = if said.is_some() { "has" } else { "is of a class of tokenizer with" };
        let of = token.map_or(String::new(), |token| format!(" ({name} is {token:?})"));
        let place = if name == "bos_token" { "before" } else { "after" };
        disputes.push(format!(
            "{CONFIG} {how} {setting} = {asked}{of}, tokenizer.json adds {} {place} a text: tokenizer.json is used; where \
             the model was made by the other, change tokenizer.json's post_processor",
            if added.is_empty() { "no token".into() } else { format!("tokens {added:?}") }
        ));
    }
    if let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() {
        let flag = |name: &str| config.get(name).and_then(Value::as_bool);
        for (setting, asked, used) in [
            ("do_lower_case", flag("do_lower_case"), Some(normalizer.lowercase)),
            ("tokenize_chinese_chars", flag("tokenize_chinese_chars"), Some(normalizer.handle_chinese_chars)),
            ("strip_accents", flag("strip_accents"), normalizer.strip_accents),
        ] {
            if let Some(asked) = asked
                && used != Some(asked)
            {
                let used = used.map_or("nothing".into(), |used| used.to_string());
                disputes.push(format!(
                    "{CONFIG} has {setting} = {asked}, the normalizer of tokenizer.json {used}: tokenizer.json is used"
                ));
            }
        }
    }
    disputes
}

/// The special tokens that `tokenizer` puts before and after a text.
fn around(tokenizer: &Tokenizer) -> (Vec<TokenId>, Vec<TokenId>) {
    // A tokenizer that fails here fails at every request, which is told so.
    let Ok(encoding) = tokenizer.encode_fast("a", true) else { return Default::default() };
    let (ids, mask) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let before = mask.iter().take_while(|special| **special == 1).count();
    let after = mask[before..].iter().rev().take_while(|special| **special == 1).count();
    (ids[..before].to_vec(), ids[ids.len() - after..].to_vec())
}
