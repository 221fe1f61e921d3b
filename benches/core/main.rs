//! What the core costs, from a thousand nodes to a million: `cargo bench -p orchestrator-benches
//! --bench core`. Nothing here fails on time; everything fails when a rollout does not do what it
//! should.

mod baseline;
mod fleet;
mod memory;
mod moves;
mod options;
mod replay;
mod steps;
mod whole;

use std::process::ExitCode;

use options::{Options, Run};

fn main() -> ExitCode {
    match Options::read(std::env::args().skip(1)) {
        Ok(Run::Tables(options)) => {
            steps::print(&options);
            moves::print(&options);
            whole::print(&options);
            memory::print(&options);
            replay::print(&options);
            fleet::print(&options);
            ExitCode::SUCCESS
        }
        Ok(Run::Memory { nodes, of }) => {
            memory::child(nodes, of);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}\nusage: core [--quick] [--sizes 1k,10k,100k,1m]");
            ExitCode::FAILURE
        }
    }
}
