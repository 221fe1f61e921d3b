//! Rolls a new version out over a fleet that exists only here, and shows how it would go.
//!
//! `cargo run --release -p orchestrator-core --example simulate -- --nodes 10000 --strategy canary
//! --failure-rate 0.02 --seed 7`

use std::process::ExitCode;

use orchestrator_core::sim::{Curve, Network, Outcome, Settings, Violation, Wave, run};
use orchestrator_core::spec::{Canaries, HealthCheck, OnFailure, RolloutSpec, Strategy};
use orchestrator_core::{DeploymentState, Span};

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

/// How wide the bar of a wave is.
const BAR: usize = 20;

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
            print!("{}", shown(&settings, &outcome));
            ExitCode::SUCCESS
        }
        Err(violation) => {
            eprintln!("{}", broken(&violation));
            ExitCode::FAILURE
        }
    }
}

fn settings(words: &[String]) -> Result<Settings, String> {
    let mut settings = Settings {
        seed: 1,
        nodes: 1000,
        heal: false,
        quiet: true,
        grid_millis: 1000,
        recheck_every: 0,
        ..Settings::default()
    };
    let (mut strategy, mut canaries, mut auto_promote) = ("canary".to_owned(), None, false);
    let mut max_parallel = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word.as_str(), None),
        };
        let mut take = || {
            value
                .take()
                .or_else(|| words.next().map(String::as_str))
                .ok_or_else(|| format!("{name} needs a value"))
        };
        match name {
            "--nodes" => settings.nodes = count(name, take()?, 1, 1_000_000)?,
            "--zones" => settings.zones = count(name, take()?, 0, 1000)?,
            "--lost" => settings.faults.lost_share = share(name, take()?)?,
            "--strategy" => {
                strategy = one_of(name, take()?, &["immediate", "rolling", "canary"])?;
            }
            "--max-parallel" => max_parallel = Some(count(name, take()?, 0, u32::MAX)?),
            "--canaries" => {
                let value = take()?;
                canaries = Some(match value.strip_suffix('%') {
                    Some(percent) => Canaries::Percent(percentage(name, value, percent)?),
                    None => Canaries::Count(count(name, value, 1, u32::MAX)?),
                });
            }
            "--auto-promote" => auto_promote = true,
            "--spread" => settings.rollout.spread = Some(one_of(name, take()?, &["zone"])?),
            "--on-failure" => {
                settings.rollout.on_failure =
                    match &*one_of(name, take()?, &["rollback", "pause", "fail"])? {
                        "pause" => OnFailure::Pause,
                        "fail" => OnFailure::Fail,
                        _ => OnFailure::Rollback,
                    };
            }
            "--max-failed" => {
                settings.rollout.max_failed_nodes = count(name, take()?, 0, u32::MAX)?;
            }
            "--max-failed-percent" => {
                let percent = number(name, take()?, 100.0, "a number from 0 to 100")?;
                settings.rollout.max_failed_nodes_percent = percent;
            }
            "--failure-rate" => settings.version.start_failure = share(name, take()?)?,
            "--error-rate" => settings.version.errors = Curve::Constant(share(name, take()?)?),
            "--flapping" => settings.version.flapping = share(name, take()?)?,
            "--seed" => {
                let value = take()?;
                settings.seed = value.parse().map_err(|_| {
                    format!(
                        "--seed {value}: allowed are whole numbers from 0 to {}",
                        u64::MAX
                    )
                })?;
            }
            "--chaos" => chaos(&mut settings),
            _ => return Err(format!("there is no option {name}")),
        }
        if let Some(value) = value {
            return Err(format!("{name} takes no value, and was given {value}"));
        }
    }
    if settings.rollout.spread.is_some() && settings.zones == 0 {
        return Err("--spread zone needs --zones: nodes have no zone without it".to_owned());
    }
    if strategy != "canary" && (canaries.is_some() || auto_promote) {
        return Err(format!(
            "--canaries and --auto-promote are for the strategy canary, not for {strategy}"
        ));
    }
    if strategy == "immediate" && max_parallel.is_some() {
        return Err("--max-parallel: the strategy immediate starts all at once".to_owned());
    }
    // A person who is asked to look at a pause decides nothing in here.
    settings.resume = settings.rollout.on_failure != OnFailure::Pause;
    settings.rollout = RolloutSpec {
        max_parallel: match &*strategy {
            "immediate" => 0,
            _ => max_parallel.unwrap_or_else(|| settings.nodes.div_ceil(10)),
        },
        strategy: strategy_of(
            &strategy,
            canaries.unwrap_or(Canaries::Count(1)),
            auto_promote,
        ),
        ..settings.rollout
    };
    Ok(settings)
}

fn strategy_of(name: &str, canaries: Canaries, auto_promote: bool) -> Strategy {
    let health_check = HealthCheck {
        deadline: Span::from_secs(300),
        min_healthy_time: Span::from_secs(30),
        max_error_rate: 0.1,
        interval: Span::from_secs(10),
        failure_threshold: 3,
        min_samples: 10,
    };
    match name {
        "immediate" => Strategy::Immediate { health_check: None },
        "rolling" => Strategy::Rolling { health_check },
        _ => Strategy::Canary {
            health_check,
            canaries,
            auto_promote,
        },
    }
}

fn chaos(settings: &mut Settings) {
    let faults = &mut settings.faults;
    faults.network = Network {
        delay_millis: (20, 2000),
        drop: 0.1,
        duplicate: 0.1,
    };
    (faults.cuts, faults.crashes, faults.restarts) = (60, 30, 30);
    (faults.torn, faults.deaf) = (0.02, 0.02);
    (faults.clock_jumps, faults.clock_jump_millis) = (20, 60_000);
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

fn shown(settings: &Settings, outcome: &Outcome) -> String {
    let strategy = match settings.rollout.strategy {
        Strategy::Immediate { .. } => "immediate",
        Strategy::Rolling { .. } => "rolling",
        Strategy::Canary { .. } => "canary",
    };
    let mut text = format!(
        "version 1 to version 2 over {}, {strategy}, {}, seed {}\n\n",
        nodes(settings.nodes),
        match settings.rollout.max_parallel {
            0 => "all at once".to_owned(),
            n => format!("{n} at a time"),
        },
        settings.seed
    );
    text += &table(&outcome.waves);
    let blast = &outcome.blast;
    text += &format!("\noutcome       {}\n", outcome.message);
    if outcome.state == DeploymentState::Completed || outcome.followed.is_some() {
        text += &format!("took          {}\n", span(outcome.duration_millis));
    }
    if let Some(followed) = &outcome.followed {
        text += &format!(
            "rollback      {}, took {}\n",
            followed.message,
            span(followed.duration_millis)
        );
    }
    text += &format!(
        "blast radius  {} of {} ({:.1} %) ran the new version, {}for {}\n",
        blast.nodes,
        nodes(outcome.nodes),
        blast.share_percent,
        if blast.nodes > 1 {
            "the longest of them "
        } else {
            ""
        },
        span(blast.longest_millis)
    );
    if blast.failed_requests > 0 {
        text += &format!(
            "              {} requests failed on it\n",
            blast.failed_requests
        );
    }
    text += &format!(
        "the run       {} steps, {} entries, {} reports, {} restarts of the driver\n",
        outcome.steps, outcome.entries, outcome.reports, outcome.restarts
    );
    text
}

fn nodes(count: u32) -> String {
    if count == 1 {
        "1 node".to_owned()
    } else {
        format!("{count} nodes")
    }
}

/// Waves, one a line; those that went alike are one line.
fn table(waves: &[Wave]) -> String {
    let mut text = format!(
        "{:<12} {:>9} {:>9} {:>8} {:>8} {:>8}  {}\n",
        "wave", "at", "took", "nodes", "updated", "failed", "updated of nodes"
    );
    let alike = |a: &Wave, b: &Wave| {
        (a.canary, a.size, a.updated, a.failed) == (b.canary, b.size, b.updated, b.failed)
            && !a.canary
    };
    for group in waves.chunk_by(alike) {
        let (first, last) = (&group[0], &group[group.len() - 1]);
        let name = match (first.canary, group.len()) {
            (true, _) => format!("{} canary", first.wave),
            (false, 1) => first.wave.to_string(),
            (false, _) => format!("{}..{}", first.wave, last.wave),
        };
        let longest = group.iter().map(|w| w.duration_millis).max().unwrap_or(0);
        let size = if group.len() == 1 {
            first.size.to_string()
        } else {
            format!("{}x {}", group.len(), first.size)
        };
        let filled = BAR * first.updated as usize / first.size.max(1) as usize;
        let spoilt = (BAR * first.failed as usize).div_ceil(first.size.max(1) as usize);
        let spoilt = spoilt.min(BAR - filled);
        text += &format!(
            "{name:<12} {:>9} {:>9} {size:>8} {:>8} {:>8}  {}{}{}\n",
            span(first.start_millis),
            span(longest),
            first.updated,
            first.failed,
            "#".repeat(filled),
            "x".repeat(spoilt),
            ".".repeat(BAR - filled - spoilt)
        );
    }
    text
}

/// In whole seconds, the two largest parts.
fn span(millis: u64) -> String {
    let seconds = (millis + 500) / 1000;
    let (hours, minutes, rest) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m {rest:02}s"),
        _ => format!("{hours}h {minutes:02}m"),
    }
}

fn broken(violation: &Violation) -> String {
    format!("simulate: a law is broken, which is a bug of the core\n{violation}")
}
