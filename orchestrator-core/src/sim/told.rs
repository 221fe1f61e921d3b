//! A run as people read it: the waves as they went, how it ended, and how far it reached.

use super::report::{Outcome, Wave};
use super::settings::Settings;
use crate::event::DeploymentState;
use crate::spec::Strategy;

/// How wide the bar of a wave is.
const BAR: usize = 20;

impl Outcome {
    /// The whole run, in lines of at most eighty columns or so.
    pub fn told(&self, settings: &Settings) -> String {
        told(settings, self)
    }
}

fn told(settings: &Settings, outcome: &Outcome) -> String {
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
