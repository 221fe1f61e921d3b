//! A run as people read it: the waves as they went, how it ended, and how far it reached.

use super::report::{Blast, Outcome, Wave};
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
    } else if !outcome.state.is_final() {
        let watched = span(settings.watch.as_millis());
        text += &format!("              it was not over when it had been watched for {watched}\n");
    }
    if let Some(followed) = &outcome.followed {
        text += &format!(
            "rollback      {}, took {}\n",
            followed.message,
            span(followed.duration_millis)
        );
    }
    text += &format!(
        "blast radius  {} of {} ({:.1} %) ran the new version{}\n",
        blast.nodes,
        nodes(outcome.nodes),
        blast.share_percent,
        how_long(blast)
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
    text += &match outcome.checked {
        0 => "              the laws were checked at its end only\n".to_owned(),
        n if n == outcome.steps => {
            "              the laws were checked after each step\n".to_owned()
        }
        n => format!("              the laws were checked after {n} of the steps\n"),
    };
    text
}

/// What became of it there.
fn how_long(blast: &Blast) -> String {
    let of_them = if blast.nodes > 1 {
        "the longest of them "
    } else {
        ""
    };
    let longest = format!("{of_them}for {}", span(blast.longest_millis));
    let runs = if blast.still == 1 { "runs" } else { "run" };
    match blast.still {
        0 => format!(", {longest}"),
        n if n == blast.nodes => format!(" and still {runs} it,\n              {longest} so far"),
        n => format!(", {n} of them still {runs} it,\n              {longest} so far"),
    }
}

fn nodes(count: u32) -> String {
    if count == 1 {
        "1 node".to_owned()
    } else {
        format!("{count} nodes")
    }
}

/// Waves, one a line; those that went alike are one line, with the time of the longest of them.
fn table(waves: &[Wave]) -> String {
    let mut text = format!(
        "{:<12} {:>9} {:>11} {:>8} {:>8} {:>8}  {}\n",
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
        let longest = span(group.iter().map(|w| w.duration_millis).max().unwrap_or(0));
        let took = if group.len() == 1 {
            longest
        } else {
            format!("max {longest}")
        };
        let size = if group.len() == 1 {
            first.size.to_string()
        } else {
            format!("{}x {}", group.len(), first.size)
        };
        let filled = BAR * first.updated as usize / first.size.max(1) as usize;
        let spoilt = (BAR * first.failed as usize).div_ceil(first.size.max(1) as usize);
        let spoilt = spoilt.min(BAR - filled);
        text += &format!(
            "{name:<12} {:>9} {took:>11} {size:>8} {:>8} {:>8}  {}{}{}\n",
            span(first.start_millis),
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

#[cfg(test)]
mod tests {
    use super::super::{Pace, Sketch, run};
    use crate::spec::OnFailure;

    fn told_of(sketch: &Sketch) -> String {
        let settings = sketch.settings().expect("it goes together");
        run(&settings).expect("no law is broken").told(&settings)
    }

    #[test]
    fn nodes_that_stay_on_the_new_version_are_told_of() {
        let mut sketch = Sketch {
            nodes: 10,
            strategy: Pace::Immediate,
            on_failure: OnFailure::Fail,
            max_failed: 0,
            failure_rate: 1.0,
            ..Sketch::default()
        };
        let stay = "10 of 10 nodes (100.0 %) ran the new version and still run it,\n";
        for on_failure in [OnFailure::Fail, OnFailure::Pause] {
            sketch.on_failure = on_failure;
            let told = told_of(&sketch);
            assert!(told.contains(stay) && told.contains(" so far\n"), "{told}");
        }
        sketch.on_failure = OnFailure::Rollback;
        let told = told_of(&sketch);
        assert!(!told.contains("still"), "{told}");
    }

    #[test]
    fn the_time_of_waves_in_one_line_is_the_longest() {
        let told = told_of(&Sketch {
            nodes: 40,
            ..Sketch::default()
        });
        let line = told.lines().find(|line| line.starts_with("2.."));
        assert!(line.is_some_and(|line| line.contains(" max ")), "{told}");
        assert!(told.ends_with("the laws were checked after each step\n"));
    }
}
