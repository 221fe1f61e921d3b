//! A run in a few numbers: what somebody types who wants to see how a rollout would go.

use super::settings::{Curve, Network, Settings};
use crate::spec::{Canaries, HealthCheck, OnFailure, RolloutSpec, Strategy};
use crate::time::Span;

/// A fleet of no more nodes has every step checked.
const CHECKED_WHOLLY: u32 = 1000;
/// About so many targets are counted again in the run of a larger one, which takes some seconds.
const COUNTED_MAX: u64 = 20_000_000;

/// What is asked for; all else is as it usually is.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch {
    /// How many nodes there are.
    pub nodes: u32,
    /// Over how many zones they lie; 0 = they have none.
    pub zones: u32,
    /// Share of the nodes that fall silent on the way.
    pub lost: f64,
    /// In which order.
    pub strategy: Pace,
    /// Most targets in flight, 0 = all; a tenth of the nodes where nothing is said.
    pub max_parallel: Option<u32>,
    /// How many canaries; one where nothing is said.
    pub canaries: Option<Canaries>,
    /// Promote by itself; else a person does after a minute.
    pub auto_promote: bool,
    /// Spread canaries and waves over the zones.
    pub spread: bool,
    /// What happens when too many nodes fail.
    pub on_failure: OnFailure,
    /// Most failed nodes that are tolerated.
    pub max_failed: u32,
    /// The same in percent.
    pub max_failed_percent: f64,
    /// Share of the nodes on which the new version cannot start.
    pub failure_rate: f64,
    /// Share of the requests that fail on it.
    pub error_rate: f64,
    /// Chance that a check of it fails, each interval.
    pub flapping: f64,
    /// Every draw comes from it.
    pub seed: u64,
    /// Messages are lost, the driver dies, clocks jump.
    pub chaos: bool,
}

/// A strategy without what belongs to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Everything at once, whatever its health.
    Immediate,
    /// Waves, each healthy before the next.
    Rolling,
    /// A first wave of canaries, then waves.
    Canary,
}

impl Default for Sketch {
    fn default() -> Self {
        Self {
            nodes: 1000,
            zones: 0,
            lost: 0.0,
            strategy: Pace::Canary,
            max_parallel: None,
            canaries: None,
            auto_promote: false,
            spread: false,
            on_failure: OnFailure::Rollback,
            max_failed: 10,
            max_failed_percent: 10.0,
            failure_rate: 0.0,
            error_rate: 0.0,
            flapping: 0.0,
            seed: 1,
            chaos: false,
        }
    }
}

impl Sketch {
    /// All of it, or the sentence that says what does not go together.
    pub fn settings(&self) -> Result<Settings, &'static str> {
        if self.spread && self.zones == 0 {
            return Err("--spread zone needs --zones: nodes have no zone without it");
        }
        if self.strategy != Pace::Canary && (self.canaries.is_some() || self.auto_promote) {
            return Err("--canaries and --auto-promote are for the strategy canary only");
        }
        if self.strategy == Pace::Immediate && self.max_parallel.is_some() {
            return Err("--max-parallel: the strategy immediate starts all at once");
        }
        let mut settings = Settings {
            seed: self.seed,
            nodes: self.nodes,
            zones: self.zones,
            rollout: RolloutSpec {
                strategy: self.strategy(),
                max_parallel: match self.strategy {
                    Pace::Immediate => 0,
                    _ => self.max_parallel.unwrap_or_else(|| self.nodes.div_ceil(10)),
                },
                max_failed_nodes: self.max_failed,
                max_failed_nodes_percent: self.max_failed_percent,
                on_failure: self.on_failure,
                spread: self.spread.then(|| "zone".to_owned()),
                ..RolloutSpec::default()
            },
            // A person who is asked to look at a pause decides nothing in here.
            resume: self.on_failure != OnFailure::Pause,
            heal: false,
            quiet: true,
            grid_millis: 1000,
            recheck_every: 1,
            ..Settings::default()
        };
        settings.version.start_failure = self.failure_rate;
        settings.version.errors = Curve::Constant(self.error_rate);
        settings.version.flapping = self.flapping;
        settings.faults.lost_share = self.lost;
        if self.chaos {
            chaos(&mut settings);
        }
        settings.recheck_every = self.recheck_every(settings.rollout.max_parallel);
        Ok(settings)
    }

    /// Every step of a small fleet. A check counts every target again, so of the steps of a large one only so many are
    /// checked that the run does not take several times as long.
    fn recheck_every(&self, max_parallel: u32) -> u32 {
        if self.nodes <= CHECKED_WHOLLY {
            return 1;
        }
        let waves = match max_parallel {
            0 => 1,
            n => self.nodes.div_ceil(n),
        };
        let steps = (u64::from(waves) + 1) * if self.chaos { 90 } else { 15 };
        let checks = (COUNTED_MAX / u64::from(self.nodes)).max(1);
        u32::try_from(steps.div_ceil(checks)).unwrap_or(u32::MAX)
    }

    fn strategy(&self) -> Strategy {
        let health_check = HealthCheck {
            deadline: Span::from_secs(300),
            min_healthy_time: Span::from_secs(30),
            max_error_rate: 0.1,
            interval: Span::from_secs(10),
            failure_threshold: 3,
            min_samples: 10,
        };
        match self.strategy {
            Pace::Immediate => Strategy::Immediate { health_check: None },
            Pace::Rolling => Strategy::Rolling { health_check },
            Pace::Canary => Strategy::Canary {
                health_check,
                canaries: self.canaries.unwrap_or(Canaries::Count(1)),
                auto_promote: self.auto_promote,
            },
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_fleet_is_checked_at_every_step_and_a_large_one_at_some() {
        let every = |nodes, max_parallel, chaos| {
            let sketch = Sketch {
                nodes,
                max_parallel,
                chaos,
                ..Sketch::default()
            };
            sketch.settings().unwrap().recheck_every
        };
        assert_eq!(every(1000, None, false), 1);
        assert_eq!(every(1000, Some(1), true), 1);
        assert_eq!(every(10_000, None, false), 1);
        assert_eq!(every(10_000, Some(10), false), 8);
        // Of about 165 steps, and of about 14,000.
        assert_eq!(every(1_000_000, None, false), 9);
        assert_eq!(every(1_000_000, Some(1000), false), 751);
    }
}
