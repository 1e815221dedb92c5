//! The `stageline` program. What it does is in the library: see `stageline::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    stageline::cli::main()
}
