//! What has happened: the facts from which the state is rebuilt. Data only.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::DeploymentId;
use crate::job::Answer;
use crate::runs::Runs;
use crate::spec::{JobSpec, RolloutSpec};
use crate::time::Time;

/// One fact in a job's log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Position in the log, from 1, without gaps. Of an assignment it is the generation.
    pub seq: u64,
    /// The driver's clock, for people; it never runs backwards from one entry to the next unless
    /// the driver's own was set back.
    pub at: Time,
    /// The job's own time in milliseconds, which only grows: clocks that are set back stop it for
    /// no longer than the correction.
    pub elapsed: u64,
    /// The deployment whose log this belongs to, and its revision from here on.
    pub of: Option<Of>,
    /// How many entries of the same step follow it. A log that ends with another number than 0 here was cut
    /// within a step.
    pub more: u32,
    /// What happened.
    pub event: Event,
}

/// A deployment and its revision.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Of {
    /// The deployment's number within its job, from 1.
    pub deployment: u32,
    /// Grows by one with every entry of this deployment.
    pub revision: u64,
}

/// A command that was carried out under an idempotency key, and how it was answered.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Answered {
    /// As the caller gave it.
    pub key: String,
    /// A digest of the command, so that a key used for something else is noticed.
    pub digest: u64,
    /// The highest version then.
    pub version: u32,
    /// The deployment that it is about.
    pub deployment: Option<DeploymentId>,
    /// Whether there was anything to do.
    pub changed: bool,
    /// Where the deployment stood when the command came.
    #[serde(default, skip_serializing_if = "Standing::is_new")]
    pub standing: Standing,
}

/// Where the deployment of an answer stood when the command came.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Nowhere: the command began it.
    #[default]
    New,
    /// It was under way, and is what comes of the command, or what it is about.
    UnderWay,
    /// It was over, or there is none.
    Over,
}

impl Standing {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde asks for a reference"
    )]
    fn is_new(&self) -> bool {
        *self == Self::New
    }
}

impl Answered {
    pub(crate) fn new(key: String, digest: u64, answer: Answer) -> Self {
        let Answer {
            version,
            deployment,
            changed,
            standing,
        } = answer;
        Self {
            key,
            digest,
            version,
            deployment,
            changed,
            standing,
        }
    }

    /// What the caller is told when the key comes again.
    pub(crate) fn answer(&self) -> Answer {
        Answer {
            version: self.version,
            deployment: self.deployment,
            changed: self.changed,
            standing: self.standing,
        }
    }
}

/// A target and the number of the report that this is known from.
pub type Heard = (u32, u32);

/// What happened. Nodes, slots and targets are numbers within the job; [`Job`](crate::Job) names them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Event {
    /// A version was registered.
    Registered {
        /// Its number: the highest ever + 1.
        version: u32,
        /// What it is.
        spec: Arc<JobSpec>,
    },
    /// Nodes that may run the job came to be known.
    NodesJoined {
        /// Who they are.
        nodes: Vec<Member>,
    },
    /// It was told which nodes match the selector that a rollback put in force again.
    MembersListed,
    /// Nodes changed their status.
    NodesChanged {
        /// What they are now.
        status: Presence,
        /// Which.
        nodes: Runs,
    },
    /// A node is known under another value of the spread label, or another load.
    NodeRelabeled {
        /// Which node.
        node: u32,
        /// The label's value; empty where it has none.
        zone: String,
        /// Executions of other jobs there.
        load: u32,
    },
    /// The number of executions was changed.
    Scaled {
        /// How many there should be.
        replicas: u32,
        /// Slots that are taken away.
        retired: Vec<u32>,
    },
    /// Executions got a node, the first or another one.
    Placed {
        /// Slot, node, and the version that it is to run there; 0 = nothing before its turn.
        moves: Vec<(u32, u32, u32)>,
    },
    /// Executions that no longer belong to the job were told to stop.
    Retired {
        /// Which slots.
        slots: Vec<u32>,
    },
    /// A command asked for a deployment: to a version that was just registered, the same once more, nothing, or an older
    /// one. It begins in the same step, in the place of one that is under way. A rollback that follows from a failure has
    /// no such entry: [`Event::Ended`] says that it comes.
    Requested(Want),
    /// A deployment began.
    Started(Box<Started>),
    /// A wave was sent out.
    Dispatched {
        /// Its number, from 1.
        wave: u32,
        /// Whether its targets are canaries.
        canary: bool,
        /// Its targets.
        targets: Runs,
        /// Targets whose turn it was, but whose node was not ready.
        skipped: Runs,
    },
    /// Targets' turn came while their nodes were not ready.
    Skipped {
        /// Which.
        targets: Runs,
    },
    /// Targets showed health: the continuous-health clock runs, from the first of these on.
    Healthy {
        /// Which.
        heard: Vec<Heard>,
    },
    /// Targets had a bad interval.
    Unhealthy {
        /// Which.
        heard: Vec<Heard>,
        /// What was bad about it.
        cause: Bad,
    },
    /// The agent restarted the workload.
    Restarted {
        /// Which.
        heard: Vec<Heard>,
    },
    /// Targets run the new version, proven.
    Updated {
        /// Which.
        heard: Vec<Heard>,
    },
    /// Executions of a batch job that no deployment waits for did their work.
    Done {
        /// Which slots.
        slots: Vec<u32>,
    },
    /// Targets failed.
    Failed {
        /// Which.
        targets: Runs,
        /// Why.
        reason: Reason,
    },
    /// The canaries were good enough.
    Promoted {
        /// By `auto_promote`, not by a person.
        auto: bool,
    },
    /// Nothing starts any more, for now.
    Paused {
        /// The failure that paused it; absent where a person did.
        failure: Option<Cause>,
    },
    /// Things go on.
    Resumed,
    /// A deployment came to its end.
    Ended {
        /// `completed`, `failed` or `canceled`.
        state: DeploymentState,
        /// Why.
        cause: Cause,
        /// What follows from it.
        aftermath: Aftermath,
    },
    /// A deployment is being taken back by another one.
    RolledBackBy {
        /// The other one.
        id: DeploymentId,
    },
    /// Nodes outside of any wave were told what they should run.
    Converged {
        /// The version.
        version: u32,
        /// The slots.
        slots: Runs,
    },
    /// The driver's clock was set back.
    ClockSetBack,
    /// Nobody listened for a while: deadlines move on by it, and it is no time in which anybody was well.
    Absent {
        /// How long.
        millis: u64,
    },
    /// A command came with an idempotency key and was carried out.
    Answered(Answered),
    /// An old version that nothing needs was dropped.
    Forgot {
        /// Which.
        version: u32,
    },
}

/// A node as a job sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// The value of the label that the job spreads over; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Executions of other jobs there, for `least loaded`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub load: u32,
    /// Whether it can be given work.
    #[serde(default, skip_serializing_if = "Presence::is_ready")]
    pub status: Presence,
}

impl Member {
    /// A ready node without a label.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            zone: String::new(),
            load: 0,
            status: Presence::Ready,
        }
    }
}

/// Whether a job can give a node work, and what keeps it from it.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// It can be given work.
    #[default]
    Ready,
    /// Silent; it may come back.
    Disconnected,
    /// It keeps silent.
    Down,
    /// An operator takes it out of service: its work stops or moves.
    Draining,
    /// It no longer matches the job's selector: it keeps what it runs until the deployment is over.
    Unmatched,
    /// It left for good.
    Gone,
}

impl Presence {
    pub(crate) fn is_ready(&self) -> bool {
        *self == Self::Ready
    }

    /// It is there, however well, and the job's selector matches it.
    pub(crate) fn matches(self) -> bool {
        !matches!(self, Self::Unmatched | Self::Gone)
    }

    /// Silent: nobody knows what its workload does.
    pub(crate) fn is_lost(self) -> bool {
        matches!(self, Self::Disconnected | Self::Down)
    }
}

/// What a deployment is to bring about.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Want {
    /// What kind of deployment.
    pub kind: DeploymentKind,
    /// The version to go to; 0 = nothing.
    pub to: u32,
    /// Of a rollback, the version that it goes back from; of others it is what runs when they begin.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: u32,
    /// The deployment that it takes back.
    pub rollback_of: Option<DeploymentId>,
}

/// The beginning of a deployment, complete: no rule is asked again on replay.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Started {
    /// Its number within the job, from 1.
    pub number: u32,
    /// Its name to the world.
    pub id: DeploymentId,
    /// What kind of deployment.
    pub kind: DeploymentKind,
    /// The version that it starts from; 0 = nothing.
    pub from: u32,
    /// The version that it goes to; 0 = nothing.
    pub to: u32,
    /// How.
    pub spec: RolloutSpec,
    /// The slots in the order of their turn.
    pub order: Vec<u32>,
    /// How many of them, from the front, had failed in the deployment that this one takes back.
    pub failed_first: u32,
    /// How many canaries there are to be.
    pub canaries: u32,
    /// The deployment that it takes back.
    pub rollback_of: Option<DeploymentId>,
}

/// The record's `type`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentKind {
    /// The first version.
    Create,
    /// From one version to a newer one.
    Update,
    /// The same version, started again.
    Restart,
    /// Back to a stable version.
    Rollback,
    /// To nothing.
    Stop,
}

/// The record's `state`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentState {
    /// Begun, and no wave could start yet.
    Pending,
    /// Under way.
    InProgress,
    /// Held.
    Paused,
    /// Done.
    Completed,
    /// Over its limits, or failed by an operator.
    Failed,
    /// Called off, or superseded.
    Canceled,
}

impl DeploymentKind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Create,
        Self::Update,
        Self::Restart,
        Self::Rollback,
        Self::Stop,
    ];

    /// The word that the record uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Restart => "restart",
            Self::Rollback => "rollback",
            Self::Stop => "stop",
        }
    }
}

impl DeploymentState {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::InProgress,
        Self::Paused,
        Self::Completed,
        Self::Failed,
        Self::Canceled,
    ];

    /// The word that the record uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing can change it any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Canceled)
    }
}

/// What was bad about an interval.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bad {
    /// A health check failed.
    Check,
    /// Too many requests failed.
    ErrorRate {
        /// Requests in the interval.
        requests: u32,
        /// Failed ones.
        errors: u32,
    },
    /// The workload of an updated target was restarted by its agent.
    Restart,
}

/// Why a target failed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The agent says that the version cannot start.
    CannotStart {
        /// In the agent's words.
        detail: String,
    },
    /// The workload ended.
    Exited {
        /// Its exit code.
        code: i32,
    },
    /// Too many bad intervals in a row.
    BadIntervals {
        /// How many.
        count: u8,
        /// The last one.
        cause: Bad,
    },
    /// Not healthy for long enough before the deadline.
    Deadline,
    /// The node was lost and not back before the deadline: says nothing about the version.
    Lost,
}

/// Why a deployment ended, or was paused by itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Every target had its turn.
    Done,
    /// A canary failed.
    CanaryFailed {
        /// Which target.
        target: u32,
    },
    /// More failed targets than `max_failed_nodes`.
    TooManyFailed {
        /// Failed targets that count.
        failed: u32,
        /// Most that are allowed.
        allowed: u32,
    },
    /// A larger share of failed targets than `max_failed_nodes_percent`.
    TooLargeShareFailed {
        /// Failed targets that count.
        failed: u32,
        /// Of so many.
        total: u32,
        /// Largest share allowed, in percent.
        allowed_percent: f64,
    },
    /// Every target failed, within the limits: nothing speaks for this version.
    NothingUpdated {
        /// Failed targets.
        failed: u32,
    },
    /// Another deployment took its place.
    Superseded {
        /// Of which kind.
        kind: DeploymentKind,
        /// To which version.
        to: u32,
    },
    /// An operator's doing.
    Operator {
        /// In the operator's words; may be empty.
        reason: String,
    },
}

/// What follows from the end of a deployment.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Aftermath {
    /// Nothing.
    Nothing,
    /// A rollback to this version begins in the same step.
    RollBack {
        /// The stable version.
        to: u32,
    },
    /// No rollback: it was turned off.
    RollbackOff,
    /// No rollback: no version was ever stable.
    NoStableVersion,
    /// No rollback: this was one.
    WasRollback,
    /// No rollback: the same version was only started again, or stopped.
    SameVersion,
    /// No rollback: no node was touched.
    NothingTouched,
    /// No rollback: before it the job was stopped, and nothing is started again that a person stopped.
    WasStopped,
}

impl Event {
    /// The stable word that a log calls it by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registered { .. } => "registered",
            Self::NodesJoined { .. } => "nodes_joined",
            Self::MembersListed => "members_listed",
            Self::NodesChanged { .. } => "nodes_changed",
            Self::NodeRelabeled { .. } => "node_relabeled",
            Self::Scaled { .. } => "scaled",
            Self::Placed { .. } => "placed",
            Self::Retired { .. } => "retired",
            Self::Requested(_) => "requested",
            Self::Started(_) => "started",
            Self::Dispatched { .. } => "dispatched",
            Self::Skipped { .. } => "skipped",
            Self::Healthy { .. } => "healthy",
            Self::Unhealthy { .. } => "unhealthy",
            Self::Restarted { .. } => "restarted",
            Self::Updated { .. } => "updated",
            Self::Done { .. } => "done",
            Self::Failed { .. } => "failed",
            Self::Promoted { .. } => "promoted",
            Self::Paused { .. } => "paused",
            Self::Resumed => "resumed",
            Self::Ended { .. } => "ended",
            Self::RolledBackBy { .. } => "rolled_back_by",
            Self::Converged { .. } => "converged",
            Self::ClockSetBack => "clock_set_back",
            Self::Absent { .. } => "absent",
            Self::Answered(_) => "answered",
            Self::Forgot { .. } => "forgot",
        }
    }

    /// Whether it says what befell nodes, and no more.
    pub(crate) fn is_of_nodes(&self) -> bool {
        matches!(
            self,
            Self::NodesJoined { .. }
                | Self::NodesChanged { .. }
                | Self::NodeRelabeled { .. }
                | Self::MembersListed
        )
    }

    /// Whether one entry can say both.
    pub(crate) fn merges(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Healthy { .. }, Self::Healthy { .. })
            | (Self::Updated { .. }, Self::Updated { .. })
            | (Self::Restarted { .. }, Self::Restarted { .. })
            | (Self::Done { .. }, Self::Done { .. })
            | (Self::NodesJoined { .. }, Self::NodesJoined { .. }) => true,
            (Self::Unhealthy { cause, .. }, Self::Unhealthy { cause: other, .. }) => cause == other,
            (Self::Failed { reason, .. }, Self::Failed { reason: other, .. }) => reason == other,
            (Self::NodesChanged { status, .. }, Self::NodesChanged { status: other, .. }) => {
                status == other
            }
            _ => false,
        }
    }

    /// Takes `other`, which [merges](Self::merges), into this fact.
    pub(crate) fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Healthy { heard }, Self::Healthy { heard: more })
            | (Self::Updated { heard }, Self::Updated { heard: more })
            | (Self::Restarted { heard }, Self::Restarted { heard: more })
            | (Self::Unhealthy { heard, .. }, Self::Unhealthy { heard: more, .. }) => {
                heard.extend(more)
            }
            (Self::Failed { targets: all, .. }, Self::Failed { targets: more, .. })
            | (Self::NodesChanged { nodes: all, .. }, Self::NodesChanged { nodes: more, .. }) => {
                more.iter().for_each(|number| all.push(number));
            }
            (Self::NodesJoined { nodes }, Self::NodesJoined { nodes: more }) => nodes.extend(more),
            (Self::Done { slots }, Self::Done { slots: more }) => slots.extend(more),
            (a, b) => debug_assert!(false, "{} does not merge with {}", a.kind(), b.kind()),
        }
    }
}

pub(crate) fn is_zero<N: Default + PartialEq>(n: &N) -> bool {
    *n == N::default()
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::CannotStart { detail } if detail.is_empty() => f.write_str("it cannot start"),
            Self::CannotStart { detail } => write!(f, "it cannot start: {detail}"),
            Self::Exited { code } => write!(f, "the workload exited with code {code}"),
            Self::BadIntervals { count: 1, cause } => write!(f, "a bad interval: {cause}"),
            Self::BadIntervals { count, cause } => {
                write!(f, "{count} bad intervals in a row, at last {cause}")
            }
            Self::Deadline => f.write_str("not healthy for long enough before its deadline"),
            Self::Lost => f.write_str("the node was lost and not back before the deadline"),
        }
    }
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Check => f.write_str("a failed health check, or a program that was down"),
            Self::ErrorRate { requests, errors } => {
                let percent = 100.0 * f64::from(*errors) / f64::from((*requests).max(1));
                write!(f, "{errors} errors in {requests} requests ({percent:.1} %)")
            }
            Self::Restart => f.write_str("a restart of the workload"),
        }
    }
}
