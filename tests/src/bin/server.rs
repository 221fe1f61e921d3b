//! The server and its command line, where tests find them.

use std::process::ExitCode;

fn main() -> ExitCode {
    orchestrator_api::cli::main()
}
