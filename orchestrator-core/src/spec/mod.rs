//! What should run and how it should roll out, parsed once into types that cannot be wrong.
//!
#![doc = include_str!("../../docs/job.md")]
//!
//! ```
//! use orchestrator_core::spec::{JobSpec, Placement};
//!
//! let spec = JobSpec::parse(
//!     r#"{
//!         "namespace": "shop",
//!         "job_id": "web",
//!         "job_type": "service",
//!         "selector": "zone in (eu-1, eu-2), !spot",
//!         "placement": { "replicas": 40, "distinct": true },
//!         "lost_after": "10m",
//!         "rollout": {
//!             "strategy": "canary",
//!             "canary_percent": 5,
//!             "auto_promote": true,
//!             "max_parallel": 8,
//!             "health_check": {
//!                 "deadline": "5m",
//!                 "min_healthy_time": "30s",
//!                 "interval": "10s",
//!                 "max_error_rate": 0.02,
//!                 "min_samples": 50,
//!                 "failure_threshold": 3
//!             },
//!             "max_failed_nodes": 2,
//!             "max_failed_nodes_percent": 5,
//!             "on_failure": "rollback",
//!             "spread": "zone"
//!         },
//!         "driver": "docker",
//!         "config": { "image": "registry.example/web:2.1" },
//!         "env": { "LOG": "info" },
//!         "ports": [{ "name": "http", "port": 8080 }],
//!         "checks": [{ "type": "http", "path": "/health" }],
//!         "error_rate": { "from": "checks" },
//!         "labels": { "team": "checkout" }
//!     }"#,
//! )?;
//! assert_eq!(spec.placement, Placement::Replicas { count: 40, distinct: true });
//! assert_eq!(JobSpec::parse(&spec.to_json().to_string()), Ok(spec));
//!
//! // The least there is to say: one execution on every node, all at once.
//! JobSpec::parse(r#"{ "job_id": "web", "driver": "exec", "config": { "command": ["./web"] } }"#)?;
//!
//! // What is wrong is said with its place, and what may stand there.
//! let why = JobSpec::parse(r#"{ "job_id": "web", "driver": "exec", "config": {}, "replica": 3 }"#).unwrap_err();
//! assert_eq!(
//!     why.to_string(),
//!     "replica: 3 is not allowed; there is no such field; the nearest is replicas"
//! );
//! # Ok::<(), orchestrator_core::spec::SpecErrors>(())
//! ```

pub(crate) mod parse;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::JobId;
use crate::selector::Selector;
use crate::time::Span;

pub use parse::{REPLICAS_MAX, SPEC_BYTES_MAX, SpecError, SpecErrors};

/// What a job file may say of itself, as Markdown.
pub const FIELDS: &str = include_str!("../../docs/job.md");

/// One immutable version of a job.
///
/// [`JobSpec::parse`] makes it of a [document](self), every default filled in; a program may as well build it by hand. A job
/// holds it to the rules of a document in either case, and [refuses](crate::Rejection::InvalidSpec) it with all that breaks
/// them. Only the workload of one that was built by hand is its owner's: there need be no `driver` and no `config`, and a
/// field may have any name that the spec itself has not, and any shape of at most 64 levels.
///
/// Its serde form is the log's; the form that people write is [`JobSpec::to_json`]. Reading the log's form checks names and
/// the selector, and no more. A job that takes its log in checks the rest again, as it did when the version was registered:
/// a spec that breaks a rule is [no part of a log](crate::BrokenLog::DoesNotFit). A snapshot is taken on trust.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct JobSpec {
    /// `namespace` and `job_id`.
    pub id: JobId,
    /// Whether it runs on or ends.
    pub job_type: JobType,
    /// Which nodes may run it.
    pub selector: Selector,
    /// How many executions there are on them.
    pub placement: Placement,
    /// How long an execution of a replicated job waits for its node once that is down, not merely silent. In a document
    /// five minutes where nothing is said.
    pub lost_after: Span,
    /// How the fleet moves to this version.
    pub rollout: RolloutSpec,
    /// What the agent needs: `driver`, `config`, `env`, `checks`, … The core carries it and never
    /// looks inside. None of its fields may have the name of one that the spec has itself.
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

/// How a fleet moves from one version to the next. [`Default`] is what an empty document says.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct RolloutSpec {
    /// In which order, and what has to be proven on the way.
    pub strategy: Strategy,
    /// Largest number of targets in flight; 0 = all remaining targets in one wave, which is the default.
    pub max_parallel: u32,
    /// Most failed targets that are tolerated; 10 where nothing is said.
    pub max_failed_nodes: u32,
    /// The same as a share of all targets, 0 to 100; 10 where nothing is said. Whichever is passed first counts.
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
    /// Every target at once; health is not asked for. What runs is updated; what did not start within an hour has failed,
    /// and of a batch job what did not end within a year.
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
    /// So many targets, and no more than there are; 0 is one, too.
    Count(u32),
    /// A share of all targets in percent, at most 100, rounded up; 0 is one target.
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
///
/// The defaults that are named here are those of a document. There is none for `deadline`, which is why this has no
/// [`Default`]: how long a version may take to show its health is known only to whoever wrote it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct HealthCheck {
    /// From assignment to updated; more than `min_healthy_time`, at most 30 days.
    pub deadline: Span,
    /// Continuous health before a target counts as updated; 30 seconds by default. 0 = the first good interval is enough.
    pub min_healthy_time: Span,
    /// Largest share of failed requests in an interval that is not bad, 0 to 1; 0.1 by default.
    pub max_error_rate: f64,
    /// Length of an interval, from 1 second to 1 day; 10 seconds by default. It is the agents' business: the core
    /// counts the intervals that it is told of, and waits for none.
    pub interval: Span,
    /// Bad intervals in a row that fail a target, at most 100; 3 by default. 0 = wait for the deadline.
    pub failure_threshold: u8,
    /// An interval with fewer requests says nothing about the error rate; 10 by default.
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
