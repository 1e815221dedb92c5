//! Makes the executor that was chosen.

use stageline_base::Fault;
use stageline_engine::{CandleExecutor, Executor, Runner, Setup};
use stageline_model::{LayerRange, ModelSpec, TensorSource};

/// Loads layers `range` of the model `spec` from `source` into the executor that `setup` names. An executor that reads the
/// tensors by itself tells `progress` how many bytes have come so far.
///
/// # Errors
/// Whatever `source` says; `InvalidRequest` if a tensor is not what `spec` asks for, or the device is not one that this build
/// and machine have; `DeviceFailed` if the device has not the memory.
pub fn load_executor(
    source: &dyn TensorSource,
    spec: &ModelSpec,
    range: LayerRange,
    setup: Setup,
    progress: &mut dyn FnMut(u64),
) -> Result<Box<dyn Executor>, Fault> {
    match setup.runner {
        Runner::Candle => Ok(Box::new(CandleExecutor::load(source, spec, range, setup)?)),
        Runner::Engine(numbers) => engine(source, (spec, range), &setup, numbers, progress),
        Runner::Fake(_) => Err(Fault::internal("the executor without a model was asked to load one")),
    }
}

#[cfg(feature = "cuda")]
use stageline_cuda::load as engine;

#[cfg(not(feature = "cuda"))]
fn engine(
    _: &dyn TensorSource,
    _: (&ModelSpec, LayerRange),
    _: &Setup,
    numbers: stageline_engine::Numbers,
    _: &mut dyn FnMut(u64),
) -> Result<Box<dyn Executor>, Fault> {
    Err(Fault::invalid(format!(
        "executor cuda, {numbers}: this binary was built without CUDA; build it with --features cuda"
    )))
}
