//! Rolls a new version out over a fleet that exists only here, and shows how it would go.
//!
//! `cargo run --release -p orchestrator-core --example simulate -- --nodes 10000 --strategy canary
//! --failure-rate 0.02 --seed 7`

use std::collections::BTreeSet;
use std::process::ExitCode;

use orchestrator_core::sim::{Pace, Settings, Sketch, Violation, run};
use orchestrator_core::spec::{Canaries, OnFailure};

const HELP: &str = "\
Rolls a new version out over a simulated fleet, and shows how it would go.

usage: simulate [OPTION VALUE | OPTION=VALUE]...

the fleet
  --nodes N               how many nodes there are                            (1000)
  --zones N               over how many zones they lie                        (0)
  --lost SHARE            share of the nodes that fall silent on the way      (0)
the rollout
  --strategy NAME         immediate, rolling or canary                        (canary)
  --max-parallel N        most targets in flight, 0 = all                     (10 % of the nodes)
  --canaries N or N%      how many canaries                                   (1)
  --auto-promote          promote by itself; else a person does after 1 min
  --spread LABEL          spread canaries and waves over this label: zone
  --on-failure NAME       rollback, pause or fail                             (rollback)
  --max-failed N          most failed nodes that are tolerated                (10)
  --max-failed-percent P  the same in percent                                 (10)
the new version
  --failure-rate SHARE    share of the nodes on which it cannot start         (0)
  --error-rate SHARE      share of the requests that fail on it               (0)
  --flapping SHARE        chance that a check fails, each interval            (0)
the run
  --seed N                every draw comes from it                            (1)
  --chaos                 messages are lost, the driver dies, clocks jump
  --help                  this text

A SHARE is a number from 0 to 1. The same options show the same run on every machine.";

#[expect(
    clippy::disallowed_methods,
    reason = "what to simulate is said from outside"
)]
fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help" || word == "-h") {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let settings = match settings(&words) {
        Ok(settings) => settings,
        Err(why) => {
            eprintln!("simulate: {why}\n          --help tells of every option");
            return ExitCode::from(2);
        }
    };
    match run(&settings) {
        Ok(outcome) => {
            print!("{}", outcome.told(&settings));
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{}", broken(&violation));
            ExitCode::FAILURE
        }
    }
}

fn settings(words: &[String]) -> Result<Settings, String> {
    let mut sketch = Sketch::default();
    let mut given = BTreeSet::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        if !given.insert(name) {
            return Err(format!("{name} is given twice"));
        }
        let mut take = || {
            value
                .take()
                .or_else(|| words.next().map(String::as_str))
                .ok_or_else(|| format!("{name} needs a value"))
        };
        match name {
            "--nodes" => sketch.nodes = count(name, take()?, 1, 1_000_000)?,
            "--zones" => sketch.zones = count(name, take()?, 0, 1000)?,
            "--lost" => sketch.lost = share(name, take()?)?,
            "--strategy" => {
                let allowed = ["immediate", "rolling", "canary"];
                sketch.strategy = match &*one_of(name, take()?, &allowed)? {
                    "immediate" => Pace::Immediate,
                    "rolling" => Pace::Rolling,
                    _ => Pace::Canary,
                };
            }
            "--max-parallel" => sketch.max_parallel = Some(count(name, take()?, 0, u32::MAX)?),
            "--canaries" => {
                let value = take()?;
                sketch.canaries = Some(match value.strip_suffix('%') {
                    Some(percent) => Canaries::Percent(percentage(name, value, percent)?),
                    None => Canaries::Count(count(name, value, 1, u32::MAX)?),
                });
            }
            "--auto-promote" => sketch.auto_promote = true,
            "--spread" => {
                one_of(name, take()?, &["zone"])?;
                sketch.spread = true;
            }
            "--on-failure" => {
                sketch.on_failure = match &*one_of(name, take()?, &["rollback", "pause", "fail"])? {
                    "pause" => OnFailure::Pause,
                    "fail" => OnFailure::Fail,
                    _ => OnFailure::Rollback,
                };
            }
            "--max-failed" => {
                sketch.max_failed = count(name, take()?, 0, u32::MAX)?;
            }
            "--max-failed-percent" => {
                let percent = number(name, take()?, 100.0, "a number from 0 to 100")?;
                sketch.max_failed_percent = percent;
            }
            "--failure-rate" => sketch.failure_rate = share(name, take()?)?,
            "--error-rate" => sketch.error_rate = share(name, take()?)?,
            "--flapping" => sketch.flapping = share(name, take()?)?,
            "--seed" => {
                let value = take()?;
                sketch.seed = value.parse().map_err(|_| {
                    format!(
                        "--seed {value}: allowed are whole numbers from 0 to {}",
                        u64::MAX
                    )
                })?;
            }
            "--chaos" => sketch.chaos = true,
            _ => return Err(format!("there is no option {name}")),
        }
        if let Some(value) = value {
            return Err(format!("{name} takes no value, and was given {value}"));
        }
    }
    sketch.settings().map_err(str::to_owned)
}

fn count(name: &str, value: &str, least: u32, most: u32) -> Result<u32, String> {
    let found = value.parse().ok().filter(|n| (least..=most).contains(n));
    found.ok_or_else(|| format!("{name} {value}: allowed are whole numbers from {least} to {most}"))
}

fn percentage(name: &str, value: &str, percent: &str) -> Result<u32, String> {
    let found = percent.parse().ok().filter(|n| (1..=100).contains(n));
    found.ok_or_else(|| format!("{name} {value}: allowed are 1% to 100%, or a number of nodes"))
}

fn share(name: &str, value: &str) -> Result<f64, String> {
    number(name, value, 1.0, "a number from 0 to 1, such as 0.02")
}

fn number(name: &str, value: &str, most: f64, allowed: &str) -> Result<f64, String> {
    let found = value.parse().ok().filter(|n| (0.0..=most).contains(n));
    found.ok_or_else(|| format!("{name} {value}: allowed is {allowed}"))
}

fn one_of(name: &str, value: &str, allowed: &[&str]) -> Result<String, String> {
    if allowed.contains(&value) {
        return Ok(value.to_owned());
    }
    Err(format!("{name} {value}: allowed is {}", allowed.join(", ")))
}

fn broken(violation: &Violation) -> String {
    format!("simulate: a law is broken, which is a bug of the core\n{violation}")
}
