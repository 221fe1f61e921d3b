//! Jobs, their versions, and what they would lead to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Type;

/// When an execution is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobType {
    /// Never: it runs on.
    Service,
    /// When it exits with 0.
    Batch,
}

/// A job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Job {
    /// Its namespace.
    pub namespace: String,
    /// Its name within that.
    pub job_id: String,
    /// `service` or `batch`.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub job_type: Option<JobType>,
    /// The newest version.
    pub version: u32,
    /// The version that nodes are to run; 0 = nothing.
    pub current_version: u32,
    /// The versions that proved themselves.
    pub stable_versions: Vec<u32>,
    /// Its last deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
}

/// One job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct GetJobResponse {
    /// It.
    pub job: Job,
}

/// What a command to a job led to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct JobResponse {
    /// The job, as it is now.
    pub job: Job,
    /// The version that was the newest then.
    pub version: u32,
    /// The deployment that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
    /// Whether there was anything to do.
    pub changed: bool,
}

/// The answer of a registration.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum RegisterResponse {
    /// Of a dry run.
    Plan(PlanResponse),
    /// Otherwise.
    Job(JobResponse),
}

/// What a registration would lead to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct PlanResponse {
    /// Who would start when.
    pub plan: Plan,
    /// In what the document differs from the newest version.
    pub changes: Vec<Change>,
}

/// Who would start when, if every node stays as it is and turns healthy.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Plan {
    /// What the deployment would do; absent where there would be none.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Type>,
    /// The version that nodes would come from; 0 = nothing.
    pub from_version: u32,
    /// The version that they would go to; 0 = nothing.
    pub to_version: u32,
    /// Who would start together, and in which order.
    pub waves: Vec<Wave>,
    /// Nodes that are not ready now.
    pub skipped: Vec<String>,
    /// Nodes that would be told to stop.
    pub retired: Vec<String>,
    /// Whether another deployment would give way.
    pub supersedes: bool,
    /// Nothing can be said of the waves before it is known which nodes match then.
    pub members_needed: bool,
}

/// Nodes that would start together.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Wave {
    /// Counts from 1.
    pub wave: u32,
    /// Whether they are canaries.
    pub canary: bool,
    /// They, in the order of their turn.
    pub nodes: Vec<String>,
}

/// One difference between two documents.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Change {
    /// Where: a JSON pointer.
    pub pointer: String,
    /// What was there; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Value>,
    /// What would be there; absent where nothing would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Value>,
}

/// A page of jobs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct JobPage {
    /// They.
    pub jobs: Vec<Job>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One version of a job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Version {
    /// Its number.
    pub version: u32,
    /// When it was registered.
    pub registered_at: String,
    /// Whether nodes are to run it.
    pub current: bool,
    /// Whether a deployment of it completed.
    pub stable: bool,
    /// Whether it was taken back.
    pub taken_back: bool,
    /// How many executions were last told to run it.
    pub executions: u32,
}

/// A page of versions.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct VersionPage {
    /// They.
    pub versions: Vec<Version>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// One version and its document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct VersionResponse {
    /// It.
    pub version: Version,
    /// What was registered, every default spelled out.
    pub spec: Value,
}

/// Where to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollBack {
    /// A stable version; the newest that was not taken back, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub to_version: Option<u32>,
}

/// How many.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// So many executions.
    #[schema(maximum = 1_000_000)]
    pub replicas: u32,
}

/// What should run, where, and how it rolls out. What is wrong with it is told field by field.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobDocument {
    /// Its namespace; `default` if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 200,
        pattern = "^[A-Za-z0-9_.-]+$"
    )]
    pub namespace: Option<String>,
    /// Its name within that.
    #[schema(min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.-]+$")]
    pub job_id: String,
    /// `service` if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub job_type: Option<JobType>,
    /// Which nodes may run it: `zone in (eu-1, eu-2), gpu, !spot`. All of them if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub selector: Option<String>,
    /// `every`, or `{"replicas": 3, "distinct": true}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Value>,
    /// A short form of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, maximum = 1_000_000)]
    pub replicas: Option<u32>,
    /// How long an execution waits for its node once that is down: `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub lost_after: Option<String>,
    /// How it rolls out: the fields of a deployment's `spec`. Everything at once if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub rollout: Option<Value>,
    /// `exec`, `docker`, `external`.
    pub driver: Driver,
    /// What the driver needs.
    #[schema(value_type = Object)]
    pub config: Value,
    /// Strings, numbers, true or false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub env: Option<Value>,
    /// What it may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub resources: Option<Value>,
    /// What it listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub ports: Option<Vec<Value>>,
    /// What it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub volumes: Option<Vec<Value>>,
    /// What is fetched before it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub artifact: Option<Value>,
    /// How its health is seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub checks: Option<Vec<Value>>,
    /// How its requests are counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub error_rate: Option<Value>,
    /// Whether the old one stops first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub switch: Option<Switch>,
    /// When it is started again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<Object>)]
    pub restart: Option<Value>,
    /// What others may look for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// By what it runs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Driver {
    /// A process.
    Exec,
    /// A container.
    Docker,
    /// Something outside, which the agent calls.
    External,
}

/// In which order the old one stops and the new one starts.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// Never both.
    StopFirst,
    /// Never none.
    StartFirst,
}
