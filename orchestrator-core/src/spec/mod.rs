//! What should run and how it should roll out, parsed once into types that cannot be wrong.

pub(crate) mod parse;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::JobId;
use crate::selector::Selector;
use crate::time::Span;

pub use parse::{REPLICAS_MAX, SPEC_BYTES_MAX, SpecError, SpecErrors};

/// One immutable version of a job.
///
/// Made by [`JobSpec::parse`]. Its serde form is the log's, which takes on trust what was parsed
/// once; [`JobSpec::to_json`] is the form that people write.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct JobSpec {
    /// `namespace` and `job_id`.
    pub id: JobId,
    /// Whether it runs on or ends.
    pub job_type: JobType,
    /// Which nodes may run it.
    pub selector: Selector,
    /// How many of them do.
    pub placement: Placement,
    /// How long an execution of a replicated job waits for its node once that is down, not merely silent.
    pub lost_after: Span,
    /// How the fleet moves to this version.
    pub rollout: RolloutSpec,
    /// What the agent needs: `driver`, `config`, `env`, `checks`, … The core carries it and never
    /// looks inside.
    pub workload: Map<String, Value>,
}

/// When an execution is done.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobType {
    /// Runs on; an exit is a failure.
    #[default]
    Service,
    /// Done when it exits with 0.
    Batch,
}

/// How many executions a job has and where.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// One on every matching node.
    #[default]
    Every,
    /// So many, spread over the matching nodes.
    Replicas {
        /// How many executions there should be.
        count: u32,
        /// Never two of them on one node.
        distinct: bool,
    },
}

/// How a fleet moves from one version to the next.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RolloutSpec {
    /// In which order, and what has to be proven on the way.
    pub strategy: Strategy,
    /// Largest number of targets in flight; 0 = all remaining targets in one wave.
    pub max_parallel: u32,
    /// Most failed targets that are tolerated.
    pub max_failed_nodes: u32,
    /// The same as a share of all targets, 0 to 100.
    pub max_failed_nodes_percent: f64,
    /// Turns `on_failure: rollback` into `fail`.
    pub no_auto_rollback: bool,
    /// What happens when the limits are passed.
    pub on_failure: OnFailure,
    /// The node label over whose values canaries, waves and replicas are spread.
    pub spread: Option<String>,
}

/// The three ways to roll out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Every target at once; health is not asked for.
    Immediate {
        /// Kept for the record, never looked at.
        health_check: Option<HealthCheck>,
    },
    /// Waves, each healthy before the next.
    Rolling {
        /// What healthy means.
        health_check: HealthCheck,
    },
    /// A first wave of canaries, then a promotion, then waves.
    Canary {
        /// What healthy means.
        health_check: HealthCheck,
        /// How many canaries.
        canaries: Canaries,
        /// Promote by itself when every canary is healthy.
        auto_promote: bool,
    },
}

/// The size of the canary wave.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Canaries {
    /// So many targets, at least 1.
    Count(u32),
    /// A share of all targets in percent, 1 to 100, rounded up.
    Percent(u32),
}

impl Canaries {
    /// How many of so many targets.
    pub(crate) fn of(self, targets: u32) -> u32 {
        match self {
            Self::Count(count) => count.min(targets),
            Self::Percent(percent) => {
                let exact = u64::from(targets) * u64::from(percent);
                u32::try_from(exact.div_ceil(100)).map_or(targets, |share| share.min(targets))
            }
        }
    }
}

/// When a target is healthy, and when it has failed.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct HealthCheck {
    /// From assignment to updated.
    pub deadline: Span,
    /// Continuous health before a target counts as updated; less than `deadline`.
    pub min_healthy_time: Span,
    /// Largest share of failed requests in an interval, 0 to 1.
    pub max_error_rate: f64,
    /// Length of an interval.
    pub interval: Span,
    /// Bad intervals in a row that fail a target; 0 = wait for the deadline.
    pub failure_threshold: u8,
    /// An interval with fewer requests says nothing about the error rate.
    pub min_samples: u32,
}

/// What happens when a deployment passes its limits.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Go back to the stable version.
    #[default]
    Rollback,
    /// Hold everything for a person to look at.
    Pause,
    /// Stop where it is.
    Fail,
}

impl RolloutSpec {
    /// The health that a target has to show, or `None` where starting is enough.
    pub fn gate(&self) -> Option<&HealthCheck> {
        match &self.strategy {
            Strategy::Immediate { .. } => None,
            Strategy::Rolling { health_check } | Strategy::Canary { health_check, .. } => {
                Some(health_check)
            }
        }
    }
}

impl Default for RolloutSpec {
    /// What an empty `rollout` says: everything at once.
    fn default() -> Self {
        Self {
            strategy: Strategy::Immediate { health_check: None },
            max_parallel: 0,
            max_failed_nodes: 10,
            max_failed_nodes_percent: 10.0,
            no_auto_rollback: false,
            on_failure: OnFailure::Rollback,
            spread: None,
        }
    }
}
