//! `orchestrator simulate`: a rollout over a fleet that exists only here.

use clap::ValueEnum;
use orchestrator_core::sim::{Pace, Sketch, run as play};
use orchestrator_core::spec::{Canaries, OnFailure};
use serde_json::json;

use super::error::Error;
use super::show::Out;

#[derive(clap::Args)]
pub(super) struct Options {
    /// How many nodes there are
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "The fleet")]
    nodes: u32,
    /// Over how many zones they lie
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000), help_heading = "The fleet")]
    zones: u32,
    /// Share of the nodes that fall silent on the way
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share, help_heading = "The fleet")]
    lost: f64,
    /// In which order
    #[arg(long, default_value = "canary", help_heading = "The rollout")]
    strategy: Strategy,
    /// Most targets in flight, 0 = all; a tenth of the nodes, if nothing is said
    #[arg(long, value_name = "N", help_heading = "The rollout")]
    max_parallel: Option<u32>,
    /// How many canaries; 1, if nothing is said
    #[arg(long, value_name = "N or N%", value_parser = canaries, help_heading = "The rollout")]
    canaries: Option<Canaries>,
    /// Promote by itself; else a person does after 1 min
    #[arg(long, help_heading = "The rollout")]
    auto_promote: bool,
    /// Spread canaries and waves over this label
    #[arg(long, value_name = "LABEL", help_heading = "The rollout")]
    spread: Option<Spread>,
    /// What happens when too many nodes fail
    #[arg(
        long,
        default_value = "rollback",
        value_name = "WHAT",
        help_heading = "The rollout"
    )]
    on_failure: Then,
    /// Most failed nodes that are tolerated
    #[arg(
        long,
        default_value_t = 10,
        value_name = "N",
        help_heading = "The rollout"
    )]
    max_failed: u32,
    /// The same in percent
    #[arg(long, default_value_t = 10.0, value_name = "P", value_parser = percent, help_heading = "The rollout")]
    max_failed_percent: f64,
    /// Share of the nodes on which it cannot start
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share, help_heading = "The new version")]
    failure_rate: f64,
    /// Share of the requests that fail on it
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share, help_heading = "The new version")]
    error_rate: f64,
    /// Chance that a check fails, each interval
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", value_parser = share, help_heading = "The new version")]
    flapping: f64,
    /// Every draw comes from it
    #[arg(long, default_value_t = 1, value_name = "N", help_heading = "The run")]
    seed: u64,
    /// Messages are lost, the driver dies, clocks jump
    #[arg(long, help_heading = "The run")]
    chaos: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Strategy {
    Immediate,
    Rolling,
    Canary,
}

#[derive(Clone, Copy, ValueEnum)]
enum Spread {
    Zone,
}

#[derive(Clone, Copy, ValueEnum)]
enum Then {
    Rollback,
    Pause,
    Fail,
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 1.0, "a number from 0 to 1, such as 0.02")
}

fn percent(text: &str) -> Result<f64, String> {
    number(text, 100.0, "a number from 0 to 100")
}

fn number(text: &str, most: f64, allowed: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|n| (0.0..=most).contains(n));
    number.ok_or_else(|| format!("allowed is {allowed}"))
}

fn canaries(text: &str) -> Result<Canaries, String> {
    let found = match text.strip_suffix('%') {
        Some(percent) => {
            let percent = percent.parse().ok().filter(|n| (1..=100).contains(n));
            percent.map(Canaries::Percent)
        }
        None => text.parse().ok().filter(|n| *n > 0).map(Canaries::Count),
    };
    found.ok_or_else(|| "allowed are 1% to 100%, or a number of nodes".to_owned())
}

pub(super) fn run(options: &Options, out: &Out) -> Result<u8, Error> {
    let sketch = Sketch {
        nodes: options.nodes,
        zones: options.zones,
        lost: options.lost,
        strategy: match options.strategy {
            Strategy::Immediate => Pace::Immediate,
            Strategy::Rolling => Pace::Rolling,
            Strategy::Canary => Pace::Canary,
        },
        max_parallel: options.max_parallel,
        canaries: options.canaries,
        auto_promote: options.auto_promote,
        spread: options.spread.is_some(),
        on_failure: match options.on_failure {
            Then::Rollback => OnFailure::Rollback,
            Then::Pause => OnFailure::Pause,
            Then::Fail => OnFailure::Fail,
        },
        max_failed: options.max_failed,
        max_failed_percent: options.max_failed_percent,
        failure_rate: options.failure_rate,
        error_rate: options.error_rate,
        flapping: options.flapping,
        seed: options.seed,
        chaos: options.chaos,
    };
    let settings = sketch.settings();
    let settings = settings.map_err(|why| Error::Usage(why.to_owned()))?;
    let outcome = play(&settings).map_err(|why| Error::Law(why.to_string()))?;
    match out.json {
        true => out.line(&json!(outcome))?,
        false => out.say(&outcome.told(&settings))?,
    }
    Ok(0)
}
