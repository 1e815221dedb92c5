//! Subcommands that this build does not have yet.

use anyhow::bail;
use std::process::ExitCode;

/// Says so.
pub async fn missing(verb: &str) -> anyhow::Result<ExitCode> {
    bail!("this build cannot `{verb}` yet");
}
