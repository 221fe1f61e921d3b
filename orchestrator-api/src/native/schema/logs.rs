//! What workloads write.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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
