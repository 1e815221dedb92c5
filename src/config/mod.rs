//! Floor 5: the settings. Text from the command line, the environment and stageline.toml becomes a checked config once,
//! and everything that is wrong with it is said at once.
//!
//! `setting` says what a setting is, `settings` and `verbs` list them all, `raw` finds the text that counts, `parse`
//! reads it, `check` puts it together as `checked`.

mod check;
pub mod checked;
mod door;
mod flow;
pub mod load;
mod parse;
mod problem;
mod prompts;
mod raw;
pub mod requests;
mod setting;
mod settings;
mod verbs;

pub use check::check;
pub use checked::*;
pub use flow::{FlowConfig, FlowOrder, FlowShape};
pub use load::{LoadConfig, LoadRun, TargetConfig};
pub use problem::{Origin, Problems};
pub use raw::Written;
pub use requests::{RequestsConfig, RequestsOrder, RequestsSource};
pub use setting::{Group, Setting, Shape, Verb};
pub use settings::CONFIG;
pub use verbs::VERBS;

#[cfg(test)]
mod tests;
