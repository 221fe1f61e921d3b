//! What is sent and answered: for the contract, and for programs that read answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A type that is written as one of a few words.
pub trait Word {
    /// All of them.
    const WORDS: &'static [&'static str];
}

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

/// When an execution is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobType {
    /// Never: it runs on.
    Service,
    /// When it exits with 0.
    Batch,
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

/// One entry of a deployment's log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Event {
    /// The deployment's revision from here on.
    pub revision: u64,
    /// When.
    pub at: String,
    /// What happened: `started`, `dispatched`, `failed`, …
    pub kind: String,
    /// The same as a sentence, with the names of a few nodes.
    pub message: String,
    /// The first 20 of the nodes that it speaks of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// How many nodes it speaks of; absent where none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_count: Option<u32>,
    /// What there is to say about it. Targets are named by their numbers, several as `[first, count]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
}

/// A page of a deployment's log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct EventPage {
    /// They.
    pub events: Vec<Event>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// Why a deployment is where it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct ExplanationResponse {
    /// It.
    pub explanation: Explanation,
}

/// A chain of causes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// What happened, oldest first.
    pub links: Vec<Link>,
    /// Where that has led to.
    pub now: String,
}

/// One of the causes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Link {
    /// When.
    pub at: String,
    /// What.
    pub text: String,
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

/// A node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What may be asked of it: `ready`, `draining`, `disconnected`, `down`.
    pub status: NodeStatus,
    /// Whether nothing new should start there.
    pub drain: bool,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// What it told about itself.
    pub facts: BTreeMap<String, String>,
    /// How many executions it has.
    pub executions: u32,
    /// Since when it is heard of, or is not.
    pub since: String,
}

/// What may be asked of a node.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Everything.
    Ready,
    /// That it goes on; nothing new.
    Draining,
    /// Nothing: it is silent.
    Disconnected,
    /// Nothing: it has been silent for long.
    Down,
}

/// One node.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct NodeResponse {
    /// It.
    pub node: Node,
}

/// A page of nodes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct NodePage {
    /// They.
    pub nodes: Vec<Node>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// What an agent learns when it joins.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct JoinResponse {
    /// Its node.
    pub node: Node,
    /// The node's own token, in place of the join token, which is no longer good; absent where the agent needs no
    /// other than it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Which server this is: revisions of another are no older and no newer. It stays while its data does.
    pub server: String,
    /// In milliseconds: for how long it may be silent.
    pub lease: u64,
    /// In milliseconds: after how much silence more it counts as gone.
    pub down_after: u64,
}

/// What a token lets its holder do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Also look after deployments and nodes.
    Operator,
    /// Bring new versions, and look after their deployments.
    Deployer,
    /// Everything that people do.
    Admin,
    /// Be one node's agent.
    Node,
    /// Become one node's agent, once.
    Join,
}

/// A token to be made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What people call it; two may have the same name.
    #[schema(min_length = 1, max_length = 64)]
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The node that it is for: of the role `node` always, of the role `join` if it is for this one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub node: Option<String>,
    /// After which time it is no longer good: `90d`. A `join` token is good for an hour if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub expires_in: Option<String>,
}

/// A token that was made.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct MadeToken {
    /// What it is called in lists and when it is revoked.
    pub id: String,
    /// What its holder shows. It will not be seen again.
    pub token: String,
    /// So many agents talk without a token, and are not let in any more: this was the first one, and it closes the
    /// server. Absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents_shut_out: Option<u64>,
}

/// A token.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Token {
    /// What it is called.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The node that it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether it is good now.
    pub active: bool,
    /// When it was made.
    pub created_at: String,
    /// Who made it.
    pub created_by: String,
    /// From when on it is no longer good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<String>,
    /// When it was last used, give or take an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<String>,
}

/// A page of tokens.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct TokenPage {
    /// They.
    pub tokens: Vec<Token>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// A line of the audit log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct AuditLine {
    /// Its number.
    pub number: u64,
    /// When.
    pub at: String,
    /// A token's name and id, or what else tells one caller from another.
    pub who: String,
    /// The request by which it came, as in `x-request-id`.
    pub request: String,
    /// What was done or tried.
    pub action: String,
    /// To which job, node or token, or at which path.
    pub object: String,
    /// What came of it.
    pub outcome: String,
}

/// A page of the audit log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct AuditPage {
    /// Its lines.
    pub lines: Vec<AuditLine>,
    /// Where the next page begins; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_page_token: Option<String>,
}

/// All that a node should run. Whatever else runs there is to be stopped.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Desired {
    /// The node's name.
    pub node: String,
    /// An agent refuses an older one than it has.
    pub revision: u64,
    /// The executions, by job and slot.
    pub executions: Vec<Execution>,
    /// The job documents that they name, by job and version.
    pub workloads: BTreeMap<String, BTreeMap<String, Value>>,
}

/// One execution of one job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Execution {
    /// `namespace/job_id`.
    pub job: String,
    /// Its number within the job.
    pub slot: u32,
    /// What it is to run; 0: nothing, and that it has stopped is to be reported.
    pub version: u32,
    /// What has a newer one is started again.
    pub generation: u64,
    /// To be named in reports; absent where no deployment waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
}

/// It lives.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// A body that says nothing; it may be left out.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Why.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Fail {
    /// For the record, at most 500 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, max_length = 125)]
    pub reason: Option<String>,
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

/// Whether anything new may start there.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Eligibility {
    /// Whether it may.
    pub eligible: bool,
}

/// A node introduces itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// Its name.
    #[schema(min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.-]+$")]
    pub name: String,
    /// What selectors look at. They replace the former ones.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What it tells about itself. They replace the former ones.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// How a node's executions go.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reports {
    /// The node's name.
    #[schema(min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.-]+$")]
    pub node: String,
    /// None keep the lease, too.
    #[serde(default)]
    #[schema(max_items = 10_000)]
    pub reports: Vec<Report>,
}

/// How one execution goes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// `namespace/job_id`.
    #[schema(pattern = "^([A-Za-z0-9_.-]{1,200}/)?[A-Za-z0-9_.-]{1,200}$")]
    pub job: String,
    /// As the assignment said.
    pub slot: u32,
    /// As the assignment said.
    pub generation: u64,
    /// As the assignment said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub target: Option<u32>,
    /// Grows with every report about this assignment, from 1, over restarts of the agent too.
    pub number: u32,
    /// What there is to say.
    pub observation: Observation,
}

/// What an agent can observe.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Observation {
    /// The workload runs.
    Started,
    /// It cannot.
    CannotStart {
        /// Why.
        detail: String,
    },
    /// It ended, and the agent will not start it again by itself.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// It ended, and the agent started it again.
    Restarted,
    /// An interval went by.
    Interval {
        /// Whether the checks pass; absent where there is no result yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        checks: Option<bool>,
        /// How many requests were counted; absent where the job counts none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        requests: Option<u32>,
        /// How many of them failed; 0 where there are requests and nothing is said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        failed: Option<u32>,
    },
    /// What was told to stop has stopped.
    Stopped,
}

/// Where a workload writes to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
}

/// What the workloads of a node have written.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Logs {
    /// The node's name.
    #[schema(min_length = 1, max_length = 200, pattern = "^[A-Za-z0-9_.-]+$")]
    pub node: String,
    /// One for each stream of which there is something to say or to ask.
    #[schema(max_items = 1000)]
    pub outputs: Vec<Output>,
}

/// A part of one stream of one run. Without lines it asks how far the server has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// `namespace/job_id`.
    #[schema(pattern = "^([A-Za-z0-9_.-]{1,200}/)?[A-Za-z0-9_.-]{1,200}$")]
    pub job: String,
    /// Its execution's number within the job.
    pub slot: u32,
    /// The version of the job.
    pub version: u32,
    /// The generation of the assignment.
    pub generation: u64,
    /// Which start of it, from 1.
    pub attempt: u32,
    /// When the run was made, in milliseconds since 1970: no other one is the same.
    pub began: u64,
    /// Which of its streams.
    pub stream: Stream,
    /// Where the first line begins, in bytes of all that the run has written to this stream.
    pub position: u64,
    /// Take it though nothing is known of this stream: without this, an unknown one is not taken.
    pub anew: bool,
    /// In their order, without a gap. Those that the server has are left out.
    pub lines: Vec<OutputLine>,
}

/// One line of output.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputLine {
    /// The position after it, and after what ended it; more than that of the line before.
    pub end: u64,
    /// It, without what ended it.
    #[schema(max_length = 8192)]
    pub text: String,
    /// The line goes on with the next one: it is too long for one piece.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// How far the server has what was sent or asked for.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Taken {
    /// For each in the same order: the position after its last line; null where nothing is known of the stream.
    pub have: Vec<Option<u64>>,
}

/// The last lines of a job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct LogPage {
    /// Oldest first.
    pub lines: Vec<LogLine>,
}

/// A line that a workload wrote. It is known by node, slot, generation, attempt, stream and end.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct LogLine {
    /// On which node.
    pub node: String,
    /// The number of its execution within the job.
    pub slot: u32,
    /// The version that ran.
    pub version: u32,
    /// The generation that it ran with.
    pub generation: u64,
    /// Which start of it, from 1.
    pub attempt: u32,
    /// Where it was written to.
    pub stream: Stream,
    /// Where it begins, in bytes of all that was written there. More than the end of the line before: what is between
    /// was left out.
    pub position: u64,
    /// The position after it.
    pub end: u64,
    /// When it came to the server.
    pub at: String,
    /// It.
    pub text: String,
    /// The line goes on with the next one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
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
    /// How long an execution waits for its lost node: `5m`.
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
