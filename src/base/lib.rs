//! Floor 0: ids, time as a value, tensors, faults, limits, random numbers. Uses nothing of the other floors.

pub mod border;
pub mod fault;
pub mod hex;
pub mod ids;
pub mod limits;
pub mod prng;
pub mod sampling;
pub mod task;
pub mod tensor;
pub mod tensor_name;
pub mod tick;
pub mod trace;

pub use border::{Border, Dim, TensorSpec};
pub use fault::{Fault, FaultClass, with_causes};
pub use hex::hex;
pub use ids::{Attempt, Position, ReplicaId, SequenceId, StageIndex, TokenId};
pub use sampling::{AskedSampling, Sampling};
pub use task::{Course, Gives, Takes, Task};
pub use tensor::{Element, HostTensor, NamedTensor, Shape, Tensors};
pub use tensor_name::TensorName;
pub use tick::Tick;
pub use trace::Trace;
