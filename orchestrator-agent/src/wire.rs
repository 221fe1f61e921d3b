//! What goes over the wire, as this side of it sees it. The server has types of its own; a test holds the two together.
//!
//! What is read here ignores what it does not know, so that a newer server can say more; what is written is exactly
//! what the server takes, who refuses the rest.

use std::collections::BTreeMap;
use std::fmt;

use std::sync::Arc;

use serde::de::Deserializer;
use serde::ser::{Error as _, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The most executions that a node runs.
pub const EXECUTIONS_MAX: usize = 1000;

/// The longest name of a node, a namespace or a job, in bytes.
const NAME_BYTES_MAX: usize = 200;

/// How a node introduces itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Join {
    /// Its name.
    pub name: String,
    /// What selectors look at.
    pub labels: BTreeMap<String, String>,
    /// What it tells about itself.
    pub facts: BTreeMap<String, String>,
    /// It is about to go, and wants nothing new. A server that never heard of this refuses it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
}

/// What a node learns when it joins.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Joined {
    /// The node's own token, in place of a join token that is used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// Which server this is, where it says so: revisions of another are no older and no newer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// In milliseconds: for how long it may be silent.
    pub lease: u64,
}

/// All that a node should run. Whatever else runs there is to be stopped.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Desired {
    /// The node's name.
    pub node: String,
    /// Grows with every change.
    pub revision: u64,
    /// The executions, by job and slot.
    pub executions: Vec<Execution>,
    /// The job documents that they name, by job and version.
    pub workloads: BTreeMap<String, BTreeMap<u32, Document>>,
}

/// A job document, as the server wrote it. Read, it takes many times as much memory as this, which is kept for as long as
/// the job is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document(Arc<str>);

impl Document {
    /// What it says.
    pub fn read(&self) -> serde_json::Result<Value> {
        serde_json::from_str(&self.0)
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(S::Error::custom)?;
        raw.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        Ok(Self(raw.get().into()))
    }
}

/// One execution of one job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Execution {
    /// Whose it is.
    pub job: Job,
    /// Its number within the job.
    pub slot: u32,
    /// What it is to run; 0: nothing, and that it has stopped is to be reported.
    pub version: u32,
    /// An older one than was heard is refused.
    pub generation: u64,
    /// What runs this version already goes on where it was begun for an assignment since this generation; else it is begun
    /// anew. An earlier server does not say it, and means the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// To be named in reports; absent where no deployment waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
}

/// The name of a job: `namespace/job_id`, both of letters, digits, `-`, `_` and `.`.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct Job {
    namespace: Box<str>,
    name: Box<str>,
}

impl Job {
    /// The first part.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The second part.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<Job> for String {
    fn from(job: Job) -> Self {
        job.to_string()
    }
}

/// A text that is no name of a job.
#[derive(Clone, Debug, thiserror::Error)]
#[error("not the name of a job: {0:?}")]
pub struct NoJob(String);

impl TryFrom<String> for Job {
    type Error = NoJob;

    fn try_from(text: String) -> Result<Self, NoJob> {
        match text.split_once('/') {
            Some((namespace, name)) if is_name(namespace) && is_name(name) => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
            _ => Err(NoJob(text.chars().take(80).collect())),
        }
    }
}

/// Whether a text may name a node, a namespace or a job.
pub fn is_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// How a node's executions go. None keep the lease, too.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Reports {
    /// The node's name.
    pub node: String,
    /// In the order in which they were made.
    pub reports: Vec<Report>,
}

/// How one execution goes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// As the assignment said.
    pub job: Job,
    /// As the assignment said.
    pub slot: u32,
    /// As the assignment said.
    pub generation: u64,
    /// As the assignment said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
    /// Grows with every report about this assignment, over restarts of the agent too.
    pub number: u32,
    /// What there is to say.
    pub observation: Observation,
}

/// What an agent can observe.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
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
        /// Its exit code; 128 and the signal's number, where one ended it.
        code: i32,
    },
    /// It ended, and the agent started it again.
    Restarted,
    /// An interval went by.
    Interval(Interval),
    /// What was told to stop has stopped.
    Stopped,
}

/// What was counted in one interval.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Interval {
    /// Whether the checks pass; absent where there is no result yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<bool>,
    /// How many requests were counted; absent where the job counts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<u32>,
    /// How many of them failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<u32>,
}

/// Where a workload writes to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// The standard output.
    Stdout,
    /// The standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What the workloads of a node have written.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Logs {
    /// The node's name.
    pub node: String,
    /// One for each stream of which there is something to say or to ask.
    pub outputs: Vec<Output>,
}

/// A part of one stream of one run. Without lines it asks how far the server has it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Output {
    /// Whose it is.
    pub job: Job,
    /// Its execution's number within the job.
    pub slot: u32,
    /// Of the job.
    pub version: u32,
    /// Of the assignment.
    pub generation: u64,
    /// Which start of it, from 1.
    pub attempt: u32,
    /// When the run was made, in milliseconds since 1970: no other one is the same.
    pub began: u64,
    /// Which of its streams.
    pub stream: Stream,
    /// Where the first line begins, in bytes of all that the run has written to this stream.
    pub position: u64,
    /// Take it though nothing is known of this stream: the agent knows that it is so.
    pub anew: bool,
    /// In their order, without a gap.
    pub lines: Vec<Line>,
}

/// One line.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Line {
    /// The position after it, and after what ended it.
    pub end: u64,
    /// It, without what ended it; what is no UTF-8 is replaced.
    pub text: String,
    /// The line goes on with the next one: it is too long for one piece.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// How far the server has what was sent or asked for, in the same order; null where it knows nothing of the stream.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Taken {
    /// The position after the last line of each.
    pub have: Vec<Option<u64>>,
}
