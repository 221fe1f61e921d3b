//! The agent, where tests find it.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_agent::cli::main()
}
