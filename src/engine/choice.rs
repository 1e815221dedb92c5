//! Which executor runs a stage, in which numbers: what was asked for, or a refusal; never something else.

use crate::fake::Script;
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
        let word = Self::ALL.iter().find(|(_, numbers)| numbers == self).map(|(word, _)| *word);
        f.write_str(word.unwrap_or_default())
    }
}

/// What runs a stage's layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// [`super::CandleExecutor`], in f32.
    Candle,
    /// The decode engine, in bf16 or f16 (never f32).
    Engine(Numbers),
    /// [`super::fake::FakeExecutor`], without a model: for measurements of all else.
    Fake(Script),
}

impl fmt::Display for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Candle => write!(f, "executor candle, f32"),
            Self::Engine(numbers) => write!(f, "executor cuda, {numbers}"),
            Self::Fake(_) => write!(f, "executor fake"),
        }
    }
}

/// What the choice hangs on.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// `--dtype`, if it was given.
    pub numbers: Option<Numbers>,
    /// Whether the device is a CUDA device.
    pub on_cuda: bool,
    /// Whether the model is a decoder; the engine runs no other.
    pub decoder: bool,
}

/// The runner for `wishes`: bf16 and f16 are the engine's, f32 is candle's. Where nothing was said: bf16 for a decoder on a GPU, else
/// f32.
///
/// # Errors
/// `InvalidRequest` for what nothing here runs, saying what there is.
pub fn choose(wishes: Wishes) -> Result<Runner, Fault> {
    let able = wishes.on_cuda && wishes.decoder;
    match wishes.numbers {
        None if able => Ok(Runner::Engine(Numbers::Bf16)),
        None | Some(Numbers::F32) => Ok(Runner::Candle),
        Some(half) if able => Ok(Runner::Engine(half)),
        Some(half) => {
            let lacks = if wishes.on_cuda { "an encoder" } else { "the CPU" };
            Err(Fault::invalid(format!(
                "--dtype {half} is not for {lacks}: there are --dtype f32, on every device and for every model, and --dtype bf16 \
                 or f16, for decoders on a CUDA device"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_runs_as_asked_or_is_refused() {
        for (on_cuda, decoder, numbers, want) in [
            (false, true, None, "executor candle, f32"),
            (false, false, None, "executor candle, f32"),
            (true, true, None, "executor cuda, bf16"),
            (true, false, None, "executor candle, f32"),
            (true, true, Some(Numbers::F32), "executor candle, f32"),
            (true, true, Some(Numbers::F16), "executor cuda, f16"),
            (true, true, Some(Numbers::Bf16), "executor cuda, bf16"),
            (true, false, Some(Numbers::F16), "--dtype f16 is not for an encoder"),
            (false, true, Some(Numbers::Bf16), "--dtype bf16 is not for the CPU"),
            (false, true, Some(Numbers::F32), "executor candle, f32"),
        ] {
            let chosen = match choose(Wishes { numbers, on_cuda, decoder }) {
                Ok(runner) => runner.to_string(),
                Err(fault) => fault.message.split(':').next().unwrap_or_default().to_owned(),
            };
            assert_eq!(chosen, want, "{numbers:?} {on_cuda} {decoder}");
        }
    }
}
