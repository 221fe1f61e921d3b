//! What agents say and are told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::Node;

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
    /// An older one than was heard is to be refused.
    pub generation: u64,
    /// What runs this version already goes on where it was begun for an assignment since this generation; else it is to be
    /// begun anew.
    pub since: u64,
    /// To be named in reports; absent where no deployment waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
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
    /// Whether it is about to go: nothing new should start there, until it joins and says no more so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
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
