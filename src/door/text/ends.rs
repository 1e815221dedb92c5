//! The tokens that end an answer: `eos_token_id` of generation_config.json; where that names none, of config.json, whose
//! silence means what its model's class has; where that has none, the tokenizer's `eos_token`.

use super::special::SpecialTokens;
use serde_json::Value;
use stageline_base::{Fault, TokenId};
use stageline_shard::Files;
use tokenizers::Tokenizer;

const GENERATION: &str = "generation_config.json";

/// What the files together say of a decoder.
pub(super) struct Ends<'a> {
    pub files: &'a Files,
    pub tokenizer: &'a Tokenizer,
    pub special: &'a SpecialTokens,
    /// `eos_token_id` by config.json.
    pub config: &'a [TokenId],
    /// Size of the vocabulary.
    pub vocab: usize,
}

impl Ends<'_> {
    /// The end tokens. Says in `warnings` what another file has instead.
    pub(super) fn choose(&self, warnings: &mut Vec<String>) -> Result<Vec<TokenId>, Fault> {
        let named = self.special.with_file("eos_token");
        let own = named.and_then(|(token, _)| self.tokenizer.token_to_id(token));
        let (ends, file) = match self.generation()? {
            Some(ends) => (ends, GENERATION),
            None if !self.config.is_empty() => (self.config.to_vec(), "config.json"),
            None => (own.into_iter().collect(), named.map_or("", |(_, file)| file)),
        };
        if self.config.iter().any(|id| !ends.contains(id)) {
            let config = self.config;
            warnings.push(format!(
                "{file} has eos_token_id = {ends:?}, config.json {config:?}: an answer ends at those of {file}"
            ));
        }
        if let (Some((token, from)), Some(id)) = (named, own)
            && !ends.contains(&id)
        {
            warnings.push(format!(
                "{from} has eos_token = {token:?} (token {id}), {file} eos_token_id = {ends:?}: an answer ends at those of \
                 {file}"
            ));
        }
        if ends.is_empty() {
            warnings.push(format!(
                "neither {GENERATION} nor config.json nor tokenizer_config.json names an end token that tokenizer.json \
                 has: an answer ends at its max_tokens or a stop string"
            ));
        }
        if let Some(id) = ends.iter().find(|id| **id as usize >= self.vocab) {
            let vocab = self.vocab;
            warnings.push(format!("{file} has eos_token_id {id}, which never comes: the model has {vocab} tokens"));
        }
        Ok(ends)
    }

    /// `eos_token_id` of generation_config.json: one, several, or `None` if it names none.
    fn generation(&self) -> Result<Option<Vec<TokenId>>, Fault> {
        let value = self.files.object(GENERATION)?.and_then(|mut config| config.remove("eos_token_id"));
        let one = |id: &Value| id.as_u64().and_then(|id| TokenId::try_from(id).ok());
        let ids: Option<Vec<TokenId>> = match value {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Array(ids)) => ids.iter().map(one).collect(),
            Some(id) => one(&id).map(|id| vec![id]),
        };
        let what = "has an `eos_token_id` that is neither a token's number nor a list of them: mend or remove it";
        let ids = ids.ok_or_else(|| self.files.wrong(GENERATION, what))?;
        Ok(Some(ids).filter(|ids| !ids.is_empty()))
    }
}
