//! Text to tokens and back, as the model's own files say: tokenizer.json, the chat template, the end tokens.

use crate::Input;
use crate::apart::apart;
use crate::chat::ChatTemplate;
use crate::conversation::Conversation;
use bound::Bound;
use ends::Ends;
use pieces::{Pieces, Unfolding};
use special::SpecialTokens;
use stageline_base::limits::MAX_TOKENIZER_BYTES;
use stageline_base::{Fault, TokenId};
use stageline_core::requests::FinishReason;
use stageline_model::ModelSpec;
use stageline_shard::Files;
use std::sync::Arc;
use stops::Stops;
use templates::Found;
use tokenizer::Failure;
use tokenizers::Tokenizer;

mod agree;
mod bound;
mod ends;
mod pieces;
mod special;
mod stops;
mod templates;
mod tokenizer;

const TOKENIZER: &str = "tokenizer.json";

pub use stops::Piece;

/// How many times longer than its layout a conversation may be.
const MAY_BE_LEFT_OUT: usize = 16;

/// A model's text side.
#[derive(Debug)]
pub struct TextModel {
    tokenizer: Tokenizer,
    bound: Bound,
    /// Or why conversations are refused.
    template: Result<ChatTemplate, String>,
    /// Absent where the model encodes: then there is no text to make.
    pieces: Option<Pieces>,
    eos: Vec<TokenId>,
    vocab: usize,
    warnings: Vec<String>,
}

impl TextModel {
    /// Opens the text files of a model or a pipeline: tokenizer.json, and if they are there tokenizer_config.json,
    /// special_tokens_map.json, generation_config.json and those with the chat template. A tokenizer's padding and
    /// truncation are switched off. Where two files disagree, [`Self::warnings`] says which is used.
    ///
    /// # Errors
    /// `InvalidRequest`, naming the file and what is wrong with it.
    pub fn open(files: &Files, spec: &ModelSpec) -> Result<Self, Fault> {
        let file = files.bytes(TOKENIZER, MAX_TOKENIZER_BYTES)?.ok_or_else(|| files.absent(TOKENIZER))?;
        let unusable =
            |what: String| files.wrong(TOKENIZER, &format!("cannot be used: {what}; fetch it again, or mend it"));
        let mut tokenizer = tokenizer::open(&file).map_err(unusable)?;

        let mut warnings = Vec::new();
        let config = files.object(special::CONFIG)?.unwrap_or_default();
        let special = SpecialTokens::read(files, &config, |token| tokenizer.token_to_id(token).is_some())?;
        apart("comparing the tokenizer's files", || {
            agree::add_tokens(&mut tokenizer, &special, &config, &mut warnings)?;
            warnings.extend(agree::disputes(&tokenizer, &special, &config));
            Ok::<(), Fault>(())
        })??;
        let (pieces, eos) = if spec.task().generates() {
            let (config, vocab) = (spec.eos(), spec.vocab());
            let ends = Ends { files, tokenizer: &tokenizer, special: &special, config, vocab };
            let pieces = apart("reading the vocabulary", || Pieces::new(&tokenizer));
            let pieces = pieces.unwrap_or_else(|fault| Err(fault.message)).map_err(unusable)?;
            (Some(pieces), ends.choose(&mut warnings)?)
        } else {
            (None, Vec::new())
        };
        let bound = Bound::of(&tokenizer);
        let template = match templates::find(files, &config, &mut warnings)? {
            Found::Nothing(why) => {
                warnings.extend(special.disputes(""));
                Err(why)
            }
            Found::Template(source, for_tools, file) => {
                warnings.extend(special.disputes(&source));
                let compiled = ChatTemplate::new(source, file, special.by_name());
                let compiled = match &for_tools {
                    Some(source) => compiled.and_then(|template| template.with_one_for_tools(source)),
                    None => compiled,
                };
                Ok(compiled.map_err(|error| files.wrong(file, &format!("cannot be used: {error}")))?)
            }
        };
        Ok(Self { tokenizer, bound, template, pieces, eos, vocab: spec.vocab(), warnings })
    }

    /// Where the model's files disagree on something that changes tokens, which is used: a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The tokens of `input`, if they can be no more than `most`; a little more than that may come back all the same. Text gets
    /// the special tokens that tokenizer.json adds; a conversation those of the template alone. It may take a second for long
    /// texts: not on a thread that serves others.
    ///
    /// # Errors
    /// `InvalidRequest` if there is nothing to encode, far too much, a token is not the model's, the tokenizer has none for the
    /// text, or the template refuses the conversation; `Internal`, naming the file, where the model's own files are at fault.
    pub fn encode(&self, input: &Input, most: usize) -> Result<Vec<TokenId>, Fault> {
        let ids = match input {
            Input::Text(text) => self.encode_text(text, most, true).map_err(|failure| self.of_text(text, failure))?,
            Input::Chat(conversation) => {
                let template = self.template.as_ref().map_err(|why| Fault::invalid(why.as_str()))?;
                let laid_out = template.render(conversation)?;
                self.encode_text(&laid_out, most, false).map_err(|failure| self.of_chat(conversation, failure))?
            }
            Input::Tensors(_) => return Err(Fault::invalid("this pipeline takes text or tokens, not tensors")),
            Input::Tokens(ids) if ids.len() > most => {
                let count = ids.len();
                let words = format!("the prompt has {count} tokens and the pipeline takes {most} in all: shorten it");
                return Err(Fault::invalid(words));
            }
            Input::Tokens(ids) => ids.clone(),
        };
        if ids.is_empty() {
            return Err(Fault::invalid("the prompt has no tokens: send some text"));
        }
        let Some(i) = ids.iter().position(|id| *id as usize >= self.vocab) else { return Ok(ids) };
        let (id, vocab) = (ids[i], self.vocab);
        Err(match input {
            Input::Tokens(_) => {
                Fault::invalid(format!("token {id} at place {i} is not one of the model's {vocab} tokens"))
            }
            _ => Fault::internal(format!(
                "tokenizer.json makes token {id} of this text, and the model has {vocab} tokens alone: mend the model's folder"
            )),
        })
    }

    fn encode_text(&self, text: &str, most: usize, add_special_tokens: bool) -> Result<Vec<TokenId>, Failure> {
        self.bound.check(text.len(), most)?;
        let encode = |text: &str, special| tokenizer::encode(&self.tokenizer, text, special);
        Bound::count(text, most, |piece| match encode(piece, false) {
            // A piece may end within a word, and half of it may have no token.
            Err(Failure::Unknown(_)) => Ok(0),
            ids => ids.map(|ids| ids.len()),
        })?;
        encode(text, add_special_tokens)
    }

    /// What a client is told whose `text` has no tokens.
    fn of_text(&self, text: &str, failure: Failure) -> Fault {
        let words = match failure {
            Failure::Unknown(words) => words,
            Failure::Other(fault) => return fault,
        };
        let at = tokenizer::unknown_at(&self.tokenizer, text);
        if at == Some(text.len()) {
            return Fault::internal(format!(
                "tokenizer.json: the tokenizer fails at a text whose words have tokens each ({words}): mend the model's folder"
            ));
        }
        let place = at.map_or(String::new(), |at| format!(" at byte {at}"));
        Fault::invalid(format!(
            "the text cannot be encoded: the model has no token for a word of it{place}, nor one for the unknown ({words}): \
             leave that word out"
        ))
    }

    /// What a client is told whose conversation has no tokens once it is laid out: something in its own texts has none, or
    /// something that the template put around them.
    fn of_chat(&self, conversation: &Conversation, failure: Failure) -> Fault {
        let words = match failure {
            Failure::Unknown(words) => words,
            Failure::Other(fault) => return fault,
        };
        let has_none = |text: &&str| tokenizer::encode(&self.tokenizer, text, false).is_err();
        match conversation.texts().into_iter().find(has_none) {
            Some(text) => self.of_text(text, Failure::Unknown(words)),
            None => Fault::internal(format!(
                "the chat template writes what tokenizer.json has no token for ({words}): mend the model's folder"
            )),
        }
    }

    /// Refuses what is longer than any prompt of `most` tokens, at no cost.
    ///
    /// # Errors
    /// `InvalidRequest`, with the longest that a text may be.
    pub fn fits(&self, input: &Input, most: usize) -> Result<(), Fault> {
        match input {
            Input::Text(text) => self.bound.check(text.len(), most),
            // A template may leave some of a conversation out: it is measured again once it is laid out.
            Input::Chat(conversation) => self.bound.check(conversation.bytes() / MAY_BE_LEFT_OUT, most),
            Input::Tokens(_) | Input::Tensors(_) => Ok(()),
        }
    }

    /// The tokens that end an answer.
    pub fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    /// Whether conversations are taken.
    pub fn has_chat_template(&self) -> bool {
        self.template.is_ok()
    }

    /// The text of one answer, which ends before the first of `stop`. Of an encoder's "answer" it makes nothing.
    pub fn stream(self: &Arc<Self>, stop: Vec<String>) -> TextStream {
        TextStream { model: Arc::clone(self), unfolding: Unfolding::default(), stops: Stops::new(stop) }
    }
}

/// The text of an answer, token by token: never half a character, nor text that a stop string may still swallow.
///
/// Special tokens add nothing. Without stop strings, the pieces and the end together are what the tokenizer makes of all the
/// tokens at once. A token's cost does not depend on the answer's length.
#[derive(Debug)]
pub struct TextStream {
    model: Arc<TextModel>,
    unfolding: Unfolding,
    stops: Stops,
}

impl TextStream {
    /// What the answer's next `token` adds, and whether the answer ends with it: a token that ends answers, or a stop string.
    pub fn token(&mut self, token: TokenId) -> (String, Option<FinishReason>) {
        if self.model.eos.contains(&token) {
            return (String::new(), Some(FinishReason::Stop));
        }
        let piece = self.push(token);
        (piece.text, piece.stopped.then_some(FinishReason::Stop))
    }

    /// What `token` adds. After a stop string nothing is added any more.
    pub fn push(&mut self, token: TokenId) -> Piece {
        let text = self.model.pieces.as_ref().map(|pieces| self.unfolding.push(pieces, token));
        self.stops.push(text.as_deref().unwrap_or(""))
    }

    /// The answer ends here: what was held back. Half a character becomes U+FFFD; a stop string that this completes is cut.
    pub fn finish(&mut self) -> String {
        let rest = self.model.pieces.as_ref().map(|pieces| self.unfolding.finish(pieces));
        let mut text = self.stops.push(rest.as_deref().unwrap_or("")).text;
        text += &self.stops.finish();
        text
    }
}

#[cfg(test)]
mod blame;
#[cfg(test)]
mod choices;
#[cfg(test)]
mod tests;
