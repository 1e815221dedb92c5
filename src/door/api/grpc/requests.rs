//! From the calls' messages to a [`Request`], and to rows for a stage.

use super::pb;
use crate::conversation::ROLES;
use crate::{ChatMessage, Conversation, Input, Request};
use stageline_base::limits::MAX_TOP_LOGITS;
use stageline_base::{Fault, HostDType, HostTensor};
use stageline_core::{DirectRun, Observed};

/// What a Generate asks for.
///
/// # Errors
/// `InvalidRequest`, naming the field.
pub(super) fn generate(asked: pb::GenerateRequest, call_id: &str) -> Result<Request, Fault> {
    use pb::generate_request::Input as Asked;
    let input = match asked.input {
        Some(Asked::Prompt(text)) => Input::Text(text),
        Some(Asked::Tokens(tokens)) => Input::Tokens(tokens.ids),
        Some(Asked::Chat(chat)) if chat.messages.is_empty() => {
            return Err(Fault::invalid("`chat` is empty: send at least one message"));
        }
        Some(Asked::Chat(chat)) => {
            let messages = chat.messages.into_iter().map(message).collect::<Result<_, _>>()?;
            Input::Chat(Conversation::of(messages))
        }
        None => return Err(Fault::invalid("there is nothing to answer: send one of `prompt`, `chat` or `tokens`")),
    };
    Ok(Request {
        max_tokens: asked.max_tokens,
        temperature: asked.temperature,
        top_k: asked.top_k,
        top_p: asked.top_p,
        repetition_penalty: asked.repetition_penalty,
        seed: asked.seed,
        stop: asked.stop,
        top_logits: asked.top_logits,
        manifest: named(asked.manifest),
        ..Request::new(call_id, input)
    })
}

/// A text that is absent where it is empty.
fn named(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn message(pb::ChatMessage { role, content }: pb::ChatMessage) -> Result<ChatMessage, Fault> {
    match ROLES.contains(&role.as_str()) {
        true => Ok(ChatMessage::new(role, content)),
        false => Err(Fault::invalid(format!("`role` of a message must be one of {}", ROLES.join(", ")))),
    }
}

/// What an Embed asks for.
///
/// # Errors
/// `InvalidRequest` if it asks for nothing.
pub(super) fn embed(asked: pb::EmbedRequest, call_id: &str) -> Result<Request, Fault> {
    use pb::embed_request::Input as Asked;
    let input = match asked.input {
        Some(Asked::Text(text)) => Input::Text(text),
        Some(Asked::Tokens(tokens)) => Input::Tokens(tokens.ids),
        None => return Err(Fault::invalid("there is nothing to embed: send one of `text` or `tokens`")),
    };
    Ok(Request { manifest: named(asked.manifest), ..Request::new(call_id, input) })
}

/// What a Run asks for.
///
/// # Errors
/// `InvalidRequest` for a tensor whose bytes do not fit its shape, or a number out of its range.
pub(super) fn run(asked: pb::RunRequest, call_id: &str) -> Result<DirectRun, Fault> {
    let tensor = asked.input.ok_or_else(|| Fault::invalid("there is no `input`: send the rows to be run"))?;
    let dtype = match tensor.element() {
        pb::tensor::Element::F32 => HostDType::F32,
        pb::tensor::Element::U32 => HostDType::U32,
        pb::tensor::Element::Unknown => return Err(Fault::invalid("`element` of `input` must be F32 or U32")),
    };
    let (rows, columns, bytes) = (tensor.rows as usize, tensor.columns as usize, tensor.data.len());
    if rows.checked_mul(columns).and_then(|elements| elements.checked_mul(4)) != Some(bytes) {
        let words = format!("`data` of `input` must hold rows * columns * 4 bytes, not {bytes} for {rows} x {columns}");
        return Err(Fault::invalid(words));
    }
    if asked.top_logits > MAX_TOP_LOGITS {
        let words = format!("`top_logits` may be at most {MAX_TOP_LOGITS}, not {}", asked.top_logits);
        return Err(Fault::invalid(words));
    }
    let input = HostTensor { dtype, shape: [rows, columns], bytes: tensor.data };
    all_numbers(&input).map_err(|at| Fault::invalid(format!("`data` of `input` holds no number at element {at}")))?;
    Ok(DirectRun { call_id: call_id.to_owned(), input, top_logits: asked.top_logits })
}

/// Whether every element is a number, which NaN and infinities are not; where the first is that is none, if not.
pub(super) fn all_numbers(tensor: &HostTensor) -> Result<(), usize> {
    let (elements, _) = tensor.bytes.as_chunks::<4>();
    let is_none = |bytes: &[u8; 4]| !f32::from_le_bytes(*bytes).is_finite();
    let none = elements.iter().position(is_none).filter(|_| tensor.dtype == HostDType::F32);
    none.map_or(Ok(()), Err)
}

/// A tensor as a message.
pub(super) fn tensor(tensor: HostTensor) -> pb::Tensor {
    let element = match tensor.dtype {
        HostDType::F32 => pb::tensor::Element::F32,
        HostDType::U32 => pb::tensor::Element::U32,
    };
    let [rows, columns] = tensor.shape.map(|n| n as u32);
    pb::Tensor { element: element.into(), rows, columns, data: tensor.bytes }
}

/// Logits as a message.
pub(super) fn top(observed: Observed) -> pb::TopLogits {
    let (ids, logits) = observed.top.into_iter().unzip();
    pb::TopLogits { digest: observed.digest, ids, logits }
}
