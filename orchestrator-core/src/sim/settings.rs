//! What is simulated: the fleet, the new version, what goes wrong, and who looks on.

use serde::Serialize;

use crate::spec::{HealthCheck, Placement, RolloutSpec};
use crate::time::Span;

/// Everything that a run depends on. The same settings give the same run on every machine.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Settings {
    /// Every draw comes from it.
    pub seed: u64,
    /// How many nodes there are at the start.
    pub nodes: u32,
    /// Over how many values of the label `zone` they are spread; 0 = they have none.
    pub zones: u32,
    /// How the new version rolls out.
    pub rollout: RolloutSpec,
    /// Whether its work ends by itself.
    pub batch: bool,
    /// Where it runs.
    pub placement: Placement,
    /// How long an execution of a replicated job waits for its lost node.
    pub lost_after: Span,
    /// How the new version behaves, the second one, and every other one after it.
    pub version: Behavior,
    /// How the version before it behaves, and those in between.
    pub others: Behavior,
    /// What else goes wrong.
    pub faults: Faults,
    /// How long after the canaries are healthy a person promotes; `None` = never.
    pub promote_after: Option<Span>,
    /// Whether a person resumes what a failure paused, after the same time.
    pub resume: bool,
    /// For how long, at most, the rollout is watched.
    pub watch: Span,
    /// Whether everything is healed afterwards and the job has to come to rest.
    pub heal: bool,
    /// Agents say nothing more once they were healthy for long enough: what they would say changes
    /// nothing. Meant for large fleets.
    pub quiet: bool,
    /// Messages and agents' work are moved to multiples of this, so that they go in batches.
    pub grid_millis: u64,
    /// Every how many steps the laws are checked: the state is rebuilt, its targets are counted again, and what was said
    /// is said twice; a step that wrote nothing down is only looked at for having changed nothing. 0 = no step is
    /// checked, and the laws only when the run is over.
    pub recheck_every: u32,
}

/// How a version behaves on a node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Behavior {
    /// Share of the executions that cannot start.
    pub start_failure: f64,
    /// Milliseconds to a start: from, to.
    pub start_millis: (u64, u64),
    /// Share of the starts that are slow.
    pub slow_start: f64,
    /// By which factor a slow start is slower.
    pub slow_factor: u64,
    /// Share of the requests that fail.
    pub errors: Curve,
    /// Share of the executions that have errors at all.
    pub errors_on: f64,
    /// Requests in an interval; 0 = none are counted.
    pub requests: u32,
    /// Chance in each interval that a check fails.
    pub flapping: f64,
    /// Chance in each interval that the workload ends and its agent starts it again.
    pub crash: f64,
    /// Chance in each interval that it ends for good.
    pub exit: f64,
    /// Share of the executions whose checks never have a result.
    pub hang: f64,
}

/// A share of failed requests over the time since the start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Curve {
    /// The same all the time.
    Constant(f64),
    /// A slow burn: it grows from one share to another, and stays there.
    Ramp {
        /// At the start.
        from: f64,
        /// In the end.
        to: f64,
        /// Time in between.
        over: Span,
    },
}

/// What goes wrong besides the version. Every rate is per hour of virtual time and whole fleet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Faults {
    /// Share of the nodes that are lost once while the rollout is watched.
    pub lost_share: f64,
    /// Nodes that are cut off; their workloads run on.
    pub cuts: u32,
    /// Nodes that lose power; their workloads start again when it is back.
    pub crashes: u32,
    /// How long a node is away, in milliseconds: from, to.
    pub away_millis: (u64, u64),
    /// Nodes that are drained for a while.
    pub drains: u32,
    /// Nodes that match the selector no more for a while.
    pub unmatched: u32,
    /// Nodes that leave; some are back later under the same name.
    pub leaves: u32,
    /// New nodes.
    pub joins: u32,
    /// Between driver and agents.
    pub network: Network,
    /// Restarts of the driver, from the log or from a snapshot and what came after it.
    pub restarts: u32,
    /// Share of the steps whose entries could not be written: the job is rebuilt without them.
    pub torn: f64,
    /// Share of the steps after whose entries were written the driver died: no effect was carried out.
    pub deaf: f64,
    /// Jumps of the driver's clock.
    pub clock_jumps: u32,
    /// The largest of them, in milliseconds.
    pub clock_jump_millis: u64,
    /// Commands of a person who means no good.
    pub commands: u32,
}

/// A network between driver and agents.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Network {
    /// Milliseconds that a message takes: from, to. What starts later may arrive earlier.
    pub delay_millis: (u64, u64),
    /// Share of the messages that are lost.
    pub drop: f64,
    /// Share of the messages that arrive twice.
    pub duplicate: f64,
}

impl Default for Settings {
    /// Ten healthy nodes, everything at once, and every check.
    fn default() -> Self {
        Self {
            seed: 0,
            nodes: 10,
            zones: 0,
            rollout: RolloutSpec::default(),
            batch: false,
            placement: Placement::Every,
            lost_after: Span::from_secs(300),
            version: Behavior::HEALTHY,
            others: Behavior::HEALTHY,
            faults: Faults::NONE,
            promote_after: Some(Span::from_secs(60)),
            resume: true,
            watch: Span::from_secs(24 * 3600),
            heal: true,
            quiet: false,
            grid_millis: 1,
            recheck_every: 1,
        }
    }
}

impl Settings {
    /// The interval of the rollout's health check, or the usual one.
    pub(super) fn interval_millis(&self) -> u64 {
        self.gate()
            .map_or(10_000, |gate| gate.interval.as_millis().max(1))
    }

    /// After how many healthy milliseconds agents may fall silent; `None` = never.
    pub(super) fn quiet_after(&self) -> Option<u64> {
        let interval = self.interval_millis();
        let faults = &self.faults;
        // A report that is lost has to be followed by others.
        let heard = faults.network.drop == 0.0
            && faults.torn == 0.0
            && faults.deaf == 0.0
            && faults.restarts == 0
            && faults.clock_jumps == 0;
        let healthy = self
            .gate()
            .map_or(0, |gate| gate.min_healthy_time.as_millis());
        (self.quiet && heard).then_some(healthy + 3 * interval)
    }

    pub(super) fn gate(&self) -> Option<&HealthCheck> {
        self.rollout.gate()
    }
}

impl Behavior {
    /// Starts within two seconds and never fails.
    pub const HEALTHY: Self = Self {
        start_failure: 0.0,
        start_millis: (500, 2000),
        slow_start: 0.0,
        slow_factor: 1,
        errors: Curve::Constant(0.0),
        errors_on: 1.0,
        requests: 100,
        flapping: 0.0,
        crash: 0.0,
        exit: 0.0,
        hang: 0.0,
    };

    /// Whether it can do nothing but good.
    pub(super) fn is_harmless(&self) -> bool {
        let Self {
            start_failure: _,
            start_millis: _,
            slow_start: _,
            slow_factor: _,
            errors,
            errors_on: _,
            requests: _,
            flapping,
            crash,
            exit,
            hang: _,
        } = *self;
        errors == Curve::Constant(0.0) && flapping == 0.0 && crash == 0.0 && exit == 0.0
    }
}

impl Curve {
    /// The share of failed requests, so long after the start.
    pub fn at(self, millis: u64) -> f64 {
        match self {
            Self::Constant(share) => share,
            Self::Ramp { from, to, over } => {
                let over = over.as_millis().max(1);
                from + (to - from) * (millis.min(over) as f64 / over as f64)
            }
        }
    }
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost_share: 0.0,
        cuts: 0,
        crashes: 0,
        away_millis: (5_000, 600_000),
        drains: 0,
        unmatched: 0,
        leaves: 0,
        joins: 0,
        network: Network::GOOD,
        restarts: 0,
        torn: 0.0,
        deaf: 0.0,
        clock_jumps: 0,
        clock_jump_millis: 0,
        commands: 0,
    };

    /// Whether messages may fail to arrive, so that they have to be sent again.
    pub(super) fn is_lossy(&self) -> bool {
        *self != Self::NONE
    }
}

impl Network {
    /// Every message arrives after 50 ms.
    pub const GOOD: Self = Self {
        delay_millis: (50, 50),
        drop: 0.0,
        duplicate: 0.0,
    };
}
