//! The agent of a node. All of it is in the library, so that other programs can be one, too.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_agent::cli::main()
}
