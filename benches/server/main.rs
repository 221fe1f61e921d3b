//! What the server bears, over real HTTP on this machine's loopback: `cargo bench -p orchestrator-benches --bench
//! server`. Simulated agents are tasks of this process; the server is a process of its own, on a store on disk.
//! Nothing here fails on time; everything fails when a rollout does not do what it should.

mod agents;
mod child;
mod client;
mod reads;
mod rollout;

use std::process::ExitCode;
use std::time::Duration;

use orchestrator_benches::table::{read_size, size};

/// How much is measured.
struct Options {
    /// Numbers of agents, in the order of the rows.
    sizes: Vec<usize>,
    /// How long a rate is measured.
    time: Duration,
}

enum Run {
    Tables(Options),
    /// The server that is measured, on this directory.
    Serve(String),
    /// The one that it is compared to: it answers everything with what is in this file.
    Bare(String),
}

fn read(mut words: impl Iterator<Item = String>) -> Result<Run, String> {
    let (mut sizes, mut quick) = (None, false);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            // Cargo says so to every benchmark.
            "--bench" => {}
            "--quick" => quick = true,
            "--sizes" => {
                sizes = Some(
                    value()?
                        .split(',')
                        .map(read_size)
                        .collect::<Result<_, _>>()?,
                );
            }
            "--serve" => return value().map(Run::Serve),
            "--bare" => return value().map(Run::Bare),
            _ => return Err(format!("unknown option {word}")),
        }
    }
    let usual: &[usize] = if quick { &[100] } else { &[100, 1000, 10_000] };
    Ok(Run::Tables(Options {
        sizes: sizes.unwrap_or_else(|| usual.to_vec()),
        time: Duration::from_millis(if quick { 300 } else { 3000 }),
    }))
}

fn main() -> ExitCode {
    match read(std::env::args().skip(1)) {
        Ok(Run::Serve(dir)) => child::serve(&dir),
        Ok(Run::Bare(file)) => child::bare(&file),
        Ok(Run::Tables(options)) => {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(tables(&options));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("{why}\nusage: server [--quick] [--sizes 100,1k,10k]");
            ExitCode::FAILURE
        }
    }
}

async fn tables(options: &Options) {
    let mut table = rollout::table();
    for &count in &options.sizes {
        eprintln!("{} agents …", size(count));
        table.row(rollout::row(count, options.time).await);
    }
    println!("{table}");
    println!("{}", reads::table(options.time).await);
}
