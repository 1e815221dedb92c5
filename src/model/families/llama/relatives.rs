//! What tells the relatives of Llama apart. Names, defaults and rules are those of transformers'
//! `configuration_{llama,mistral,qwen2,qwen3}.py`.

use super::spec::Sliding;
use crate::settings::{MAX_WIDTH, Settings, shown};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// `sliding_window` where a configuration is silent.
const UNSAID_WINDOW: usize = 4096;
/// `max_window_layers` where a configuration is silent.
const UNSAID_FULL_LAYERS: usize = 28;

/// A kind of Llama-type decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relative {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

impl Relative {
    /// `max_position_embeddings` where a configuration is silent.
    pub(super) fn unsaid_positions(self) -> usize {
        match self {
            Self::Llama => 2048,
            Self::Mistral => 131_072,
            Self::Qwen2 | Self::Qwen3 => 32_768,
        }
    }

    /// `eos_token_id` where a configuration is silent; one that says `null` has none.
    pub(super) fn unsaid_eos(self) -> &'static [u32] {
        match self {
            Self::Llama | Self::Mistral => &[2],
            Self::Qwen2 | Self::Qwen3 => &[],
        }
    }

    /// `num_key_value_heads` where a configuration is silent; `None`: as many as there are heads.
    pub(super) fn unsaid_kv_heads(self) -> Option<usize> {
        match self {
            Self::Llama => None,
            Self::Mistral => Some(8),
            Self::Qwen2 | Self::Qwen3 => Some(32),
        }
    }

    /// `head_dim` where a configuration is silent; `None`: what the heads' share of `hidden_size` is.
    pub(super) fn unsaid_head_dim(self) -> Option<usize> {
        (self == Self::Qwen3).then_some(128)
    }

    /// Which of the flags for biases the family has.
    pub(super) fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Llama => &["attention_bias", "mlp_bias"],
            Self::Qwen3 => &["attention_bias"],
            Self::Mistral | Self::Qwen2 => &[],
        }
    }
}

/// Which of `layers` layers see how far back, of `positions` at most.
pub(super) fn sliding(
    settings: &mut Settings<'_>,
    relative: Relative,
    (layers, positions): (usize, usize),
) -> Option<Sliding> {
    let (window, full) = match relative {
        Relative::Qwen2 | Relative::Qwen3 => {
            let used = settings.flag("use_sliding_window", false);
            (window(settings).filter(|_| used), full_layers(settings))
        }
        Relative::Llama | Relative::Mistral => {
            settings.inert(&["max_window_layers"]);
            (one_window(settings, relative, positions), 0)
        }
    };
    let layers = match settings.take("layer_types") {
        Some(types) => typed(settings, types, layers),
        None => (full..layers).filter(|_| window.is_some()).collect(),
    };
    if window.is_none() && !layers.is_empty() {
        settings.problem("layer_types has a sliding_attention, but no other setting asks for a window");
    }
    window.filter(|_| !layers.is_empty()).map(|window| Sliding { window, layers })
}

/// The window of every layer of a family that has no flag for it. Where a flag is set all the same, and contradicts the
/// reference, which does not look at it, only a window that no sequence reaches is neither.
fn one_window(settings: &mut Settings<'_>, relative: Relative, positions: usize) -> Option<usize> {
    let flag = settings.take("use_sliding_window").map(|_| settings.flag("use_sliding_window", true));
    if relative == Relative::Mistral {
        let window = window(settings);
        if flag == Some(false) && window.is_some_and(|window| window < positions) {
            settings.problem("use_sliding_window = false, but sliding_window is set, and what decides in Mistral");
        }
        return window;
    }
    let window = settings.count_if_set("sliding_window", MAX_WIDTH);
    if flag == Some(true) {
        settings.refuse("use_sliding_window", &json!(true), "only false");
    }
    if let Some(window) = window.filter(|window| flag != Some(false) && *window < positions) {
        settings.refuse("sliding_window", &json!(window), "only unset: Llama has no window");
    }
    None
}

/// `sliding_window`; null is none.
fn window(settings: &mut Settings<'_>) -> Option<usize> {
    let unsaid = !settings.says("sliding_window");
    settings.count_if_set("sliding_window", MAX_WIDTH).or(unsaid.then_some(UNSAID_WINDOW))
}

/// `max_window_layers`: in spite of its name, how many of the first layers see everything.
fn full_layers(settings: &mut Settings<'_>) -> usize {
    let Some(value) = settings.take("max_window_layers") else { return UNSAID_FULL_LAYERS };
    value.as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_else(|| {
        settings.refuse("max_window_layers", value, "a whole number");
        0
    })
}

/// The sliding layers of `layer_types`.
fn typed(settings: &mut Settings<'_>, types: &Value, layers: usize) -> BTreeSet<usize> {
    let sliding = |one: &Value| match one.as_str() {
        Some("sliding_attention") => Some(true),
        Some("full_attention") => Some(false),
        _ => None,
    };
    let read: Option<Vec<bool>> = types.as_array().and_then(|list| list.iter().map(sliding).collect());
    match read.filter(|read| read.len() == layers) {
        Some(read) => (0..layers).filter(|layer| read[*layer]).collect(),
        None => {
            settings.problem(format_args!(
                "layer_types = {} is not full_attention or sliding_attention for each of {layers} layers",
                shown(types)
            ));
            BTreeSet::new()
        }
    }
}
