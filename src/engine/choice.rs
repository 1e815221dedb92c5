//! Which executor runs a stage, in which numbers: what was asked for, or a refusal; never something else.

use stageline_base::Fault;
use std::fmt;

/// The numbers that layers are computed with. What adds up is f32 in all of them, and so are activations between stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// f32, whatever type the weights are stored in.
    F32,
    /// Weights, keys and values, and the inputs of matrix products in bf16.
    Bf16,
    /// The same in f16.
    F16,
}

impl Numbers {
    /// Each, as it is written on the command line.
    pub const ALL: [(&str, Self); 3] = [("f32", Self::F32), ("bf16", Self::Bf16), ("f16", Self::F16)];
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&Self::ALL, self))
    }
}

/// An executor, as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutorKind {
    /// The model, with candle's tensors.
    Candle,
    /// The model, on the decode engine for GPUs.
    Cuda,
    /// Nothing: rows go through at once, for measuring the server itself.
    Fake,
}

impl ExecutorKind {
    /// Each, as it is written on the command line.
    pub const ALL: [(&str, Self); 3] = [("candle", Self::Candle), ("cuda", Self::Cuda), ("fake", Self::Fake)];
}

impl fmt::Display for ExecutorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&Self::ALL, self))
    }
}

/// The word that stands for `value` among `all`.
fn word<T: PartialEq>(all: &[(&'static str, T)], value: &T) -> &'static str {
    all.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word)
}

/// What runs a stage's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// [`super::CandleExecutor`], in f32.
    Candle,
    /// The decode engine, in bf16 or f16 (never f32).
    Engine(Numbers),
    /// [`super::fake::FakeExecutor`], without a model.
    Fake,
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Candle => write!(f, "executor candle, f32"),
            Self::Engine(numbers) => write!(f, "executor cuda, {numbers}"),
            Self::Fake => write!(f, "executor fake"),
        }
    }
}

/// What the choice hangs on.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// `--dtype`, if it was given.
    pub numbers: Option<Numbers>,
    /// `--executor`, if it was given.
    pub executor: Option<ExecutorKind>,
    /// Whether the device is a CUDA device.
    pub on_cuda: bool,
    /// Whether the model is a decoder; the engine runs no other.
    pub decoder: bool,
}

/// The runner for `wishes`. Where nothing was said: f32 by candle on the CPU and for encoders, bf16 by the engine for a
/// decoder on a GPU.
///
/// # Errors
/// `InvalidRequest` for a pair that nothing here runs, saying which there are.
pub fn choose(wishes: Wishes) -> Result<Runner, Fault> {
    let refuse = |why: &str| {
        Err(Fault::invalid(format!(
            "{why}: there are --dtype f32 with --executor candle, on every device and for every model, and --dtype bf16 or \
             f16 with --executor cuda, for decoders on a CUDA device"
        )))
    };
    let half = wishes.numbers.filter(|numbers| *numbers != Numbers::F32);
    let able = wishes.on_cuda && wishes.decoder;
    match (wishes.numbers, wishes.executor) {
        (_, Some(ExecutorKind::Fake)) => Ok(Runner::Fake),
        (Some(numbers), Some(ExecutorKind::Candle)) if half.is_some() => {
            refuse(&format!("executor candle does not run in {numbers}"))
        }
        (Some(Numbers::F32), Some(ExecutorKind::Cuda)) => refuse("executor cuda does not run in f32"),
        (_, wanted) if !able && (half.is_some() || wanted == Some(ExecutorKind::Cuda)) => {
            let what = half.map_or("executor cuda".into(), |numbers| format!("--dtype {numbers}"));
            let lacks = if wishes.on_cuda { "an encoder" } else { "the CPU" };
            refuse(&format!("{what} is not for {lacks}"))
        }
        (_, Some(ExecutorKind::Cuda)) => Ok(Runner::Engine(half.unwrap_or(Numbers::Bf16))),
        (None, None) if able => Ok(Runner::Engine(Numbers::Bf16)),
        _ => Ok(half.map_or(Runner::Candle, Runner::Engine)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runner, or the beginning of the refusal.
    fn chosen(numbers: Option<Numbers>, executor: Option<ExecutorKind>, on_cuda: bool, decoder: bool) -> String {
        match choose(Wishes { numbers, executor, on_cuda, decoder }) {
            Ok(runner) => runner.to_string(),
            Err(fault) => fault.message.split(':').next().unwrap_or_default().to_owned(),
        }
    }

    #[test]
    fn every_pair_runs_as_asked_or_is_refused() {
        let none = (None, None);
        let (candle, cuda) = (Some(ExecutorKind::Candle), Some(ExecutorKind::Cuda));
        for (on_cuda, decoder, (numbers, executor), want) in [
            (false, true, none, "executor candle, f32"),
            (false, false, none, "executor candle, f32"),
            (true, true, none, "executor cuda, bf16"),
            (true, false, none, "executor candle, f32"),
            (true, true, (Some(Numbers::F32), None), "executor candle, f32"),
            (true, true, (Some(Numbers::F16), None), "executor cuda, f16"),
            (true, true, (Some(Numbers::Bf16), cuda), "executor cuda, bf16"),
            (true, true, (None, candle), "executor candle, f32"),
            (true, true, (None, cuda), "executor cuda, bf16"),
            (true, true, (Some(Numbers::F32), cuda), "executor cuda does not run in f32"),
            (true, true, (Some(Numbers::Bf16), candle), "executor candle does not run in bf16"),
            (true, false, (Some(Numbers::F16), None), "--dtype f16 is not for an encoder"),
            (true, false, (None, cuda), "executor cuda is not for an encoder"),
            (false, true, (Some(Numbers::Bf16), None), "--dtype bf16 is not for the CPU"),
            (false, true, (None, cuda), "executor cuda is not for the CPU"),
            (false, true, (Some(Numbers::F32), candle), "executor candle, f32"),
            (false, true, (Some(Numbers::F16), Some(ExecutorKind::Fake)), "executor fake"),
        ] {
            assert_eq!(
                chosen(numbers, executor, on_cuda, decoder),
                want,
                "{numbers:?} {executor:?} {on_cuda} {decoder}"
            );
        }
    }
}
