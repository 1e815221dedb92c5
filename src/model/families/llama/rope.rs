//! How a decoder's queries and keys turn.

use super::spec::RopeScaling;
use crate::settings::{MAX_WIDTH, Settings, shown};
use serde_json::{Value, json};
use stageline_base::Fault;

/// `rope_theta` and `rope_scaling`, or `rope_parameters`, which newer configurations have in place of both. Where several
/// are there they must agree.
pub(super) fn read(settings: &mut Settings<'_>) -> (f64, Option<RopeScaling>) {
    let outer = settings.take("rope_theta").is_some();
    let theta = settings.positive("rope_theta", 10_000.0);
    let mut found = None;
    for key in ["rope_parameters", "rope_scaling"] {
        let Some(value) = settings.take(key) else { continue };
        let (inner, scaling) = nested(settings, key, value, theta);
        if outer && inner != theta {
            settings.problem(format_args!("rope_theta = {theta} and {key}.rope_theta = {inner} differ"));
        }
        match &found {
            None => found = Some((inner, scaling)),
            Some((_, first)) if *first != scaling => {
                settings.problem(format_args!("rope_scaling = {} and rope_parameters differ", shown(value)));
            }
            Some(_) => {}
        }
    }
    let (theta, scaling) = found.unwrap_or((theta, None));
    repeated(settings, theta, scaling.as_ref());
    (theta, scaling)
}

/// Settings beside those that count, which older and other programs write: they must say the same.
fn repeated(settings: &mut Settings<'_>, theta: f64, scaling: Option<&RopeScaling>) {
    settings.only("rotary_emb_base", &[json!(theta)]);
    settings.only("rope_type", &[json!(kind(scaling))]);
    if let Some(RopeScaling::Llama3 { original_max_positions, .. }) = scaling {
        settings.only("original_max_position_embeddings", &[json!(original_max_positions)]);
    }
    // What scales nothing, or all alike, does not ask from where.
    settings.inert(&["original_max_position_embeddings"]);
}

fn kind(scaling: Option<&RopeScaling>) -> &'static str {
    match scaling {
        None => "default",
        Some(RopeScaling::Linear { .. }) => "linear",
        Some(RopeScaling::Llama3 { .. }) => "llama3",
    }
}

/// The settings inside `rope_scaling` or `rope_parameters`.
fn nested(settings: &mut Settings<'_>, key: &str, value: &Value, theta: f64) -> (f64, Option<RopeScaling>) {
    let read = || -> Result<_, Fault> {
        let mut inner = Settings::of(key, value)?;
        let theta = inner.positive("rope_theta", theta);
        inner.only("partial_rotary_factor", &[json!(1)]);
        // `type` is the older name; where both are set they must agree.
        let (new, old) = (inner.take("rope_type"), inner.take("type"));
        if new.is_some() && old.is_some() && new != old {
            inner.problem("rope_type and type differ");
        }
        let kind = new.or(old);
        let scaling = match kind.map_or(Some("default"), Value::as_str) {
            Some("default") => {
                // A type that scales nothing leaves nothing to how much.
                if kind.is_some() {
                    inner.inert(&["factor", "original_max_position_embeddings"]);
                }
                None
            }
            Some("linear") => {
                inner.inert(&["original_max_position_embeddings"]);
                Some(RopeScaling::Linear { factor: factor(&mut inner) })
            }
            Some("llama3") => Some(llama3(&mut inner)),
            _ => {
                // What else it sets belongs to that type, and would only repeat the complaint.
                let fault = format!(
                    "{key}: rope_type = {} is not supported (default, linear or llama3)",
                    shown(kind.unwrap_or(&Value::Null))
                );
                return Err(Fault::invalid(fault));
            }
        };
        inner.finish()?;
        Ok((theta, scaling))
    };
    read().unwrap_or_else(|fault| {
        settings.problem(fault.message);
        (theta, None)
    })
}

fn required(settings: &mut Settings<'_>, key: &str) -> f64 {
    let number = settings.positive(key, 0.0);
    if settings.take(key).is_none() {
        settings.problem(format_args!("{key} is missing"));
    }
    number
}

fn factor(settings: &mut Settings<'_>) -> f64 {
    let factor = required(settings, "factor");
    if factor > 0.0 && factor < 1.0 {
        settings.problem(format_args!("factor = {factor} is below 1"));
    }
    factor
}

fn llama3(settings: &mut Settings<'_>) -> RopeScaling {
    let factor = factor(settings);
    let (low, high) = (required(settings, "low_freq_factor"), required(settings, "high_freq_factor"));
    if low >= high {
        settings.problem(format_args!("low_freq_factor = {low} is not below high_freq_factor = {high}"));
    }
    let original_max_positions = settings.count("original_max_position_embeddings", MAX_WIDTH);
    RopeScaling::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_positions }
}
