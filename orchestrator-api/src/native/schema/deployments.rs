//! Deployments and their targets.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{JobType, Word};

/// Where a deployment is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = types::DeploymentStateType)]
pub enum State {
    /// It has not begun.
    Pending,
    /// It goes on.
    InProgress,
    /// It starts nothing more for now.
    Paused,
    /// It did what it should.
    Completed,
    /// It did not.
    Failed,
    /// It was called off.
    Canceled,
}

impl Word for State {
    const WORDS: &'static [&'static str] = &[
        "pending",
        "in_progress",
        "paused",
        "completed",
        "failed",
        "canceled",
    ];
}

/// What a deployment does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = types::DeploymentType)]
pub enum Type {
    /// It runs the first version.
    Create,
    /// It goes on to another version.
    Update,
    /// It starts the same version again.
    Restart,
    /// It goes back to a stable version.
    Rollback,
    /// It runs the job nowhere.
    Stop,
}

impl Word for Type {
    const WORDS: &'static [&'static str] = &["create", "update", "restart", "rollback", "stop"];
}

/// How a deployment goes from node to node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = types::DeploymentStrategyType)]
pub enum Strategy {
    /// Everything at once, whatever its health.
    Immediate,
    /// Waves, each healthy before the next.
    Rolling,
    /// A first wave of canaries, then a promotion, then waves.
    Canary,
}

/// One deployment.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[schema(as = api::GetDeploymentResponse)]
pub struct GetDeploymentResponse {
    /// It.
    pub deployment: Deployment,
}

/// One deployment. Fields without a value are absent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Deployment {
    /// The version that nodes come from; 0 = nothing.
    pub from_version: u32,
    /// Identity.
    pub id: String,
    /// The job's name within its namespace.
    pub job_id: String,
    /// `service` or `batch`.
    pub job_type: JobType,
    /// The job's namespace.
    pub namespace: String,
    /// How it rolls out.
    pub spec: Rollout,
    /// Where it is.
    pub status: Status,
    /// The version that nodes go to; 0 = nothing.
    pub to_version: u32,
    /// create, update, restart, rollback, stop.
    #[serde(rename = "type")]
    pub kind: Type,
    /// The deployment that this one takes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<String>,
    /// The deployment that takes this one back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rolled_back_by: Option<String>,
}

/// How it rolls out, every default spelled out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Rollout {
    /// Promote canaries by itself.
    pub auto_promote: bool,
    /// How many canaries; 0 where they are counted in percent, or there are none.
    pub canary_count: u32,
    /// How many canaries, in percent of all nodes.
    pub canary_percent: u32,
    /// What healthy means; absent where it is not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// How many failed nodes are tolerated.
    pub max_failed_nodes: u32,
    /// The same in percent of all nodes.
    pub max_failed_nodes_percent: f64,
    /// How many nodes at a time; 0 = all at once.
    pub max_parallel: u32,
    /// Do not go back by itself after a failure.
    pub no_auto_rollback: bool,
    /// What a failure leads to: rollback, pause, fail.
    pub on_failure: OnFailure,
    /// The node label over whose values waves are spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// immediate, rolling, canary.
    pub strategy: Strategy,
}

/// What a failure leads to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Go back to the stable version.
    Rollback,
    /// Hold everything for a person to look at.
    Pause,
    /// Stop where it is.
    Fail,
}

/// When a node is healthy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct HealthCheck {
    /// The longest time to become healthy: `5m`.
    pub deadline: String,
    /// The largest share of failed requests in an interval.
    pub max_error_rate: f64,
    /// For how long it has to be healthy: `30s`.
    pub min_healthy_time: String,
    /// The length of an interval.
    pub interval: String,
    /// How many bad intervals in a row fail a node.
    pub failure_threshold: u8,
    /// An interval with fewer requests says nothing about the error rate.
    pub min_samples: u32,
}

/// System-managed status. Times are RFC 3339 in UTC.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Status {
    /// The nodes of the canaries; absent where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub canary_nodes: Vec<String>,
    /// Whether the rest may follow the canaries.
    pub canary_promoted: bool,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<String>,
    /// When it began.
    pub created_at: String,
    /// Counts from 1; 0 = not started.
    pub current_wave: u32,
    /// Nodes that failed.
    pub failed_nodes: u32,
    /// The earliest deadline of a node that is being updated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_deadline: Option<String>,
    /// The latest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_deadline: Option<String>,
    /// When it last came further than ever before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_progress_time: Option<String>,
    /// What is going on, and why.
    pub message: String,
    /// Grows by one with every change.
    pub revision: u64,
    /// Current state.
    pub state: State,
    /// All nodes of it.
    pub total_nodes: u32,
    /// When it last changed.
    pub updated_at: String,
    /// Nodes that run the new version, proven.
    pub updated_nodes: u32,
    /// Nodes whose turn has not come.
    pub pending_nodes: u32,
    /// Nodes that are being updated.
    pub in_flight_nodes: u32,
    /// Nodes that were not ready when their turn came.
    pub skipped_nodes: u32,
    /// What has to happen before it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_on: Option<String>,
}

/// A page of deployments.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct DeploymentPage {
    /// They.
    pub deployments: Vec<Deployment>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// What has become of one node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Target {
    /// Its number, by which the log names it.
    pub target: u32,
    /// The number of its execution within the job.
    pub slot: u32,
    /// The node's name.
    pub node: String,
    /// What its execution was last told to run; 0 = nothing.
    pub version: u32,
    /// The generation that it was told with; 0 = nothing was told yet.
    pub generation: u64,
    /// Where it is in its life: `pending`, `updating`, `observing`, `updated`, `failed`, `skipped`.
    pub state: String,
    /// The wave that it was sent out with; 0 = none yet.
    pub wave: u32,
    /// Whether it is a canary.
    pub canary: bool,
    /// Bad intervals in a row.
    pub bad_intervals: u8,
    /// How many requests its agent counted in the last interval; absent where it counts none, or said nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// How many of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_requests: Option<u32>,
    /// The same as a share, from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<f64>,
    /// Whether its node is silent.
    pub lost: bool,
    /// Updated, and yet to show that it is well: it turned bad, or has moved.
    #[serde(default)]
    pub unproven: bool,
    /// Until when it has to be healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A page of targets.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TargetPage {
    /// They.
    pub targets: Vec<Target>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Why.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// For the record, at most 500 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 125)]
    pub reason: Option<String>,
}
