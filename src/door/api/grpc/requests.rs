//! From the calls' messages to a [`Request`], and to rows for a stage.

use super::pb;
use crate::call::Call;
use crate::conversation::ROLES;
use crate::{ChatMessage, Conversation, Input, Request};
use stageline_base::sampling::check_top_logits;
use stageline_base::{Element, Fault, HostTensor, NamedTensor, Shape, TensorName, Tensors};
use stageline_core::{DirectRun, Observed};

/// What a Generate asks for.
///
/// # Errors
/// `InvalidRequest`, naming the field.
pub(super) fn generate(asked: pb::GenerateRequest) -> Result<Request, Fault> {
    use pb::generate_request::Input as Asked;
    let sampling = asked.sampling();
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
        sampling,
        stop: asked.stop,
        manifest: named(asked.manifest),
        // The call knows its id.
        ..Request::new("", input)
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
pub(super) fn embed(asked: pb::EmbedRequest) -> Result<Request, Fault> {
    use pb::embed_request::Given as Asked;
    let input = match asked.given {
        Some(Asked::Input(text)) => Input::Text(text),
        Some(Asked::Tokens(tokens)) => Input::Tokens(tokens.ids),
        None => return Err(Fault::invalid("there is nothing to embed: send one of `input` or `tokens`")),
    };
    Ok(Request { manifest: named(asked.manifest), ..Request::new("", input) })
}

/// What an Infer asks for.
///
/// # Errors
/// As [`run`].
pub(super) fn infer(asked: pb::InferRequest) -> Result<Request, Fault> {
    let input = Input::Tensors(inputs(asked.inputs)?);
    Ok(Request { manifest: named(asked.manifest), ..Request::new("", input) })
}

/// Tensors that are to be worked on.
fn inputs(tensors: Vec<pb::Tensor>) -> Result<Tensors, Fault> {
    if tensors.is_empty() {
        return Err(Fault::invalid("there are no `inputs`: send the tensors to be run"));
    }
    let inputs: Tensors = tensors.into_iter().map(host_tensor).collect::<Result<_, _>>()?;
    all_numbers(&inputs).map_err(|at| Fault::invalid(format!("`data` of `inputs` holds no number at element {at}")))?;
    Ok(inputs)
}

/// What a Run asks for.
///
/// # Errors
/// `InvalidRequest` for a tensor whose bytes do not fit its shape, or a number out of its range.
pub(super) fn run(asked: pb::RunRequest, call: &Call) -> Result<DirectRun, Fault> {
    check_top_logits(asked.top_logits)?;
    let input = inputs(asked.inputs)?;
    Ok(DirectRun { call_id: call.id.clone(), trace: call.trace, input, top_logits: asked.top_logits })
}

fn host_tensor(tensor: pb::Tensor) -> Result<(TensorName, HostTensor), Fault> {
    let element = Element::of_number(tensor.element);
    let element =
        element.ok_or_else(|| Fault::invalid("`element` of `inputs` must be F32, U32 or another of the list"))?;
    let old = [u64::from(tensor.rows), u64::from(tensor.columns)];
    let extents = if tensor.shape.is_empty() && old != [0, 0] { &old[..] } else { &tensor.shape };
    let extents: Option<Vec<usize>> = extents.iter().map(|extent| usize::try_from(*extent).ok()).collect();
    let shape = extents.and_then(|extents| Shape::new(&extents));
    let bytes = tensor.data.len();
    let host = shape.and_then(|shape| HostTensor::new(element, shape, tensor.data));
    let words = || {
        format!(
            "`data` of `inputs` must hold all elements of its shape, of {} bytes each, not {bytes}",
            element.bytes()
        )
    };
    Ok((tensor.name.into(), host.ok_or_else(|| Fault::invalid(words()))?))
}

/// Whether every element is one of its type and a number, which NaN and infinities are not; where the first is that is none, if not.
pub(super) fn all_numbers(tensors: &Tensors) -> Result<(), usize> {
    tensors.iter().try_for_each(|named| first_that_is_none(&named.tensor).map_or(Ok(()), Err))
}

fn first_that_is_none(tensor: &HostTensor) -> Option<usize> {
    // All bits of the exponent are set in what is no number.
    let halves = |exponent: u16| {
        let is_none = move |bytes: &[u8; 2]| u16::from_le_bytes(*bytes) & exponent == exponent;
        tensor.bytes().as_chunks().0.iter().position(is_none)
    };
    match tensor.element() {
        Element::F32 => tensor.words().position(|bits| !f32::from_bits(bits).is_finite()),
        Element::F16 => halves(0x7c00),
        Element::Bf16 => halves(0x7f80),
        Element::Bool => tensor.bytes().iter().position(|byte| *byte > 1),
        _ => None,
    }
}

/// Tensors as messages.
pub(super) fn tensors(tensors: Tensors) -> Vec<pb::Tensor> {
    let one = |NamedTensor { name, tensor }: NamedTensor| {
        let shape: Vec<u64> = tensor.shape().iter().map(|extent| *extent as u64).collect();
        let (rows, columns) = match shape[..] {
            [rows, columns] => (rows as u32, columns as u32),
            [columns] => (1, columns as u32),
            _ => (0, 0),
        };
        let element = tensor.element().number();
        pb::Tensor { element, rows, columns, data: tensor.into_bytes(), name: name.to_string(), shape }
    };
    tensors.into_iter().map(one).collect()
}

/// Logits as a message.
pub(super) fn top(observed: Observed) -> pb::TopLogits {
    let (ids, logits) = observed.top.into_iter().unzip();
    pb::TopLogits { digest: observed.digest, ids, logits }
}
