//! The door: everything that is said to a job is checked here, and nowhere else.

mod command;
mod nodes;
mod report;

pub(crate) use self::command::{command, digest};
pub(crate) use self::nodes::{check_member, check_nodes, listed, node};
pub(crate) use self::report::{done, report};
use crate::event::{Answered, DeploymentState, Event};
use crate::id::{DeploymentId, JobId};
use crate::input::{KEY_BYTES_MAX, NODES_MAX, TEXT_BYTES_MAX};
use crate::selector::LABEL_BYTES_MAX;
use crate::spec::{REPLICAS_MAX, SpecErrors};
use crate::waiting_on::canaries;

/// Why an input was refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The spec is another job's.
    #[error("the spec is of job {given}, this is job {own}")]
    OtherJob {
        /// The spec's.
        given: JobId,
        /// This one.
        own: JobId,
    },
    /// The spec breaks the rules of a document.
    #[error("the spec is not valid")]
    InvalidSpec(#[from] SpecErrors),
    /// More executions than a job may have.
    #[error("{0} replicas are more than a job may have ({REPLICAS_MAX})")]
    TooManyReplicas(u32),
    /// An idempotency key is empty, or too long to be kept.
    #[error("the idempotency key has {0} bytes: 1 to {KEY_BYTES_MAX} are kept")]
    KeyLength(usize),
    /// The value of a node's spread label is too long.
    #[error("the label of node {node} has {bytes} bytes: at most {LABEL_BYTES_MAX} are kept")]
    LabelTooLong {
        /// The node.
        node: String,
        /// How long it is.
        bytes: usize,
    },
    /// A node's name is none.
    #[error(
        "{name:?}, number {number} of those given, names no node: 1 to 200 of letters, digits, '-', '_' and '.'"
    )]
    BadNodeName {
        /// What was given.
        name: String,
        /// Which of them; counts from 1.
        number: usize,
    },
    /// A node is listed twice.
    #[error("node {0} is listed twice")]
    NodeTwice(String),
    /// More nodes than a job may have.
    #[error("{0} nodes are more than a job may have ({NODES_MAX})")]
    TooManyNodes(usize),
    /// The nodes that match have to be listed.
    #[error(
        "the selector or the spread label is another than before: list the nodes that match now"
    )]
    MembersNeeded,
    /// The very same was taken back before.
    #[error(
        "this is the same as version {version}, which was taken back; change it, or say that you want it again"
    )]
    TakenBack {
        /// The version that was taken back.
        version: u32,
    },
    /// Somebody else was faster.
    #[error("expected {what} {expected}, but it is at {found}: look again")]
    Unexpected {
        /// Of what: `revision` of a deployment, or `version` of the job.
        what: &'static str,
        /// What the caller believed.
        expected: u64,
        /// What is so.
        found: u64,
    },
    /// The key was used for another command.
    #[error("the idempotency key {0:?} was used for another command: take a new one")]
    KeyReused(String),
    /// Not a deployment that is under way.
    #[error("deployment {id} is {}: it takes no more commands", state.word())]
    Over {
        /// Which.
        id: DeploymentId,
        /// Its state.
        state: DeploymentState,
    },
    /// This job knows no such deployment.
    #[error("job {job} knows no deployment {id}")]
    NoSuchDeployment {
        /// This job.
        job: JobId,
        /// What was asked for.
        id: DeploymentId,
    },
    /// The command does not fit the deployment's state.
    #[error("cannot {command} a deployment that is {}", state.word())]
    DoesNotFit {
        /// The command.
        command: &'static str,
        /// The deployment's state.
        state: DeploymentState,
    },
    /// There is nothing to promote.
    #[error("there is nothing to promote: {0}")]
    NothingToPromote(&'static str),
    /// Canaries that are not healthy.
    #[error(
        "{} {} not healthy: {}",
        canaries(*count, *total),
        if *count == 1 { "is" } else { "are" },
        nodes.join(", ")
    )]
    CanariesNotHealthy {
        /// The first of them, by the names of their nodes.
        nodes: Vec<String>,
        /// How many there are.
        count: u32,
        /// Of how many.
        total: u32,
    },
    /// A restart waits for what is under way.
    #[error("deployment {0} is under way: wait for its end, or cancel it")]
    Busy(DeploymentId),
    /// The job runs nowhere.
    #[error("the job runs nowhere: register a version first")]
    NothingRuns,
    /// Not every node runs the version that is in force, and none is on its way there.
    #[error(
        "the last deployment did not complete, and nodes run what it left: roll back, or register a version, before a restart"
    )]
    Unsettled,
    /// There is no such version.
    #[error("there is no version {0}")]
    NoSuchVersion(u32),
    /// The version never proved itself.
    #[error("version {0} was never stable: a rollback goes to a proven version only")]
    NotStable(u32),
    /// Nothing to go back to.
    #[error("there is no older stable version to go back to")]
    NoStableVersion,
    /// Every node runs it already.
    #[error("every node is at, or on its way to, version {0}: there is nothing to take back")]
    NothingToRollBack(u32),
    /// Entries are missing.
    #[error("a part of a step was taken in, {0} of its entries are missing: catch up first")]
    WithinStep(u32),
    /// The job runs once on every node.
    #[error("the job runs once on every matching node: only a job with `replicas` can be scaled")]
    NotReplicated,
}

/// What an accepted command leads to.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// These facts.
    Facts(Vec<Event>),
    /// The answer of the first time.
    Again(Answered),
}

/// Why a report changed nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ignored {
    /// No deployment is under way.
    Idle,
    /// There is no such target.
    UnknownTarget,
    /// It is about an earlier assignment.
    Stale,
    /// It is about an assignment that was never made, or counts more failures than requests: somebody makes things up.
    Impossible,
    /// It, or a later one, was heard before.
    Duplicate,
    /// The target has its verdict.
    Decided,
    /// The node counts as lost: nothing good is believed before it is back.
    Lost,
    /// It says nothing new.
    NothingNew,
}

/// No more than is kept of a text from outside, cut between characters.
pub(crate) fn clip(text: &str) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
