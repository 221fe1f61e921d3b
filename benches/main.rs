//! What it costs: `cargo bench -p orchestrator-benches`. Nothing here fails on time; everything fails when a rollout does
//! not do what it should.

mod agent;
mod core;
mod options;
mod server;

use std::process::ExitCode;
use std::time::Duration;

use orchestrator_benches::measured::Measured;

use options::{Options, Process, Run};

const USAGE: &str = "usage: cargo bench -p orchestrator-benches [-- [core] [server] [agent] [--full] [--sizes 1k,100k] [--keep]]
  a short round of everything if nothing is said; --full takes minutes, about 2 GB of memory and 3 GB of disk, and 10k agents want
  `ulimit -n 20000`; --keep writes the tables of a full round into benches/ and README.md";

fn main() -> ExitCode {
    match Options::read(std::env::args().skip(1)) {
        Ok(Run::Tables(options)) => measure(options),
        Ok(Run::Process { what, on }) => match what {
            Process::MemoryOfCore | Process::MemoryOfBaseline => core::memory(what, &on),
            Process::Serve => server::serve(&on),
            Process::Bare => server::bare(&on),
        },
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: Options) -> ExitCode {
    let quick = options.quick;
    let mut measured = Measured::new(quick);
    if let Some(sizes) = options.core {
        core::measure(&core::Extent { sizes, quick }, &mut measured);
    }
    if let Some(sizes) = options.server {
        let time = Duration::from_millis(if quick { 300 } else { 3000 });
        let lists = if quick {
            [1000, 10_000]
        } else {
            [10_000, 1_000_000]
        };
        server::measure(&sizes, lists, time, &mut measured);
    }
    if options.agent {
        agent::measure(quick, &mut measured);
    }
    let written = measured.write().and_then(|mut paths| {
        if options.keep {
            paths.extend(measured.keep()?);
        }
        Ok(paths)
    });
    match written {
        Ok(paths) => {
            let paths: Vec<String> = paths
                .iter()
                .map(|path| path.display().to_string())
                .collect();
            println!("\nwritten to {}", paths.join(", "));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("the tables cannot be written: {why}");
            ExitCode::FAILURE
        }
    }
}
