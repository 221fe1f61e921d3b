//! The one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_api::cli::main()
}
