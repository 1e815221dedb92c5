//! Floor 4: the load harness. It sends requests at times that a seed decides, whatever the answers do, and says what came
//! of them.
//!
//! Time flows one way: `arrival` makes a schedule, the `pacer` hands each request over when it is due, `driver` sends it to
//! a `target`, `record` keeps what was seen, `report` says it. A latency counts from the *scheduled* send: a server that
//! stalls cannot make the harness ask less, and a harness that is late says so (`Report::lag`).

pub mod arrival;
pub mod compare;
pub mod driver;
pub mod histogram;
pub mod knee;
pub mod lengths;
pub mod objective;
pub mod pacer;
pub mod page;
pub mod proxy;
pub mod record;
pub mod replay;
pub mod report;
pub mod scenario;
pub mod stages;
pub mod sweep;
pub mod target;
pub mod usage;
pub mod vocabulary;
pub mod workload;

pub use arrival::Arrivals;
pub use driver::drive;
pub use lengths::Lengths;
pub use objective::Objective;
pub use report::{Document, Report};
pub use scenario::{Amount, Scenario, Shape};
pub use target::{Failure, Progress, Target};
pub use workload::{Ask, Prompt, Workload};
