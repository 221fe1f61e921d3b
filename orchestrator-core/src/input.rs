//! What may be said to a job. Data only.

use crate::event::{Member, Presence};
use crate::id::DeploymentId;
use crate::spec::JobSpec;

/// The most bytes that are kept of a text from outside: a reason, a detail.
pub const TEXT_BYTES_MAX: usize = 500;
/// The longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 200;
/// The most nodes a job may have.
pub const NODES_MAX: usize = 4_000_000;

/// One thing said to a job.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Nothing but the passing of time.
    Tick,
    /// What agents say of their workloads. Stale ones are left out, see
    /// [`Committed::ignored`](crate::Committed::ignored).
    Reports(&'a [Report]),
    /// Executions of a batch job that nobody waits for have done their work: they are not run again. Those that are
    /// left out are in [`Committed::ignored`](crate::Committed::ignored).
    Done(&'a [Done]),
    /// What the fleet says of its nodes.
    Nodes(&'a [NodeChange]),
    /// All nodes that match [the selector in force](crate::Job::membership), whatever their status: the answer to
    /// [`Effect::MembersNeeded`](crate::Effect::MembersNeeded). Nodes that are not listed match no longer.
    /// May be said at any time.
    Members(&'a [Member]),
    /// What a person, or a program for one, wants.
    Command(Request),
    /// Nobody listened for so long: deadlines, the waiting for lost nodes and what targets have shown of their health
    /// move on by it, which takes a look at each of them. To be said once, as the first step after a restart of the
    /// driver. Where it is left out, a job that was rebuilt takes all time since its latest entry for nobody's, also if
    /// somebody listened in vain; 0 = somebody was there all the time.
    Absent {
        /// Milliseconds; no more than have passed since the last entry are taken.
        millis: u64,
    },
}

/// A command and how it is guarded.
#[derive(Clone, Debug)]
pub struct Request {
    /// What is wanted.
    pub command: Command,
    /// The same key with the same command is answered as the first time, and does nothing. At most
    /// [`KEY_BYTES_MAX`] bytes; the last 128 are remembered.
    pub key: Option<String>,
    /// Refused unless it is exactly here. For commands to a deployment (promote, pause, resume, cancel,
    /// fail) its revision; for commands to the job (register, restart, stop, roll back, scale) its
    /// highest version.
    pub expected: Option<u64>,
}

impl From<Command> for Request {
    fn from(command: Command) -> Self {
        Self {
            command,
            key: None,
            expected: None,
        }
    }
}

impl From<Request> for Input<'_> {
    fn from(request: Request) -> Self {
        Self::Command(request)
    }
}

impl<'a> From<Command> for Input<'a> {
    fn from(command: Command) -> Self {
        Input::Command(command.into())
    }
}

/// What an operator may ask of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Make this the job's newest version and roll it out.
    Register {
        /// What should run.
        spec: Box<JobSpec>,
        /// The nodes that match it. `None` = those that the job knows, refused where the selector
        /// or the spread label is another than before.
        members: Option<Vec<Member>>,
        /// Roll it out though the very same was taken back before.
        again: bool,
    },
    /// Start the current version again.
    Restart,
    /// Run it nowhere.
    Stop,
    /// Go back to a stable version.
    RollBack {
        /// Which; `None` = the newest that was not taken back.
        to: Option<u32>,
    },
    /// Change the number of executions.
    Scale {
        /// How many there should be.
        replicas: u32,
    },
    /// Let the rest follow the canaries.
    Promote(DeploymentId),
    /// Start nothing more for now.
    Pause(DeploymentId),
    /// Go on.
    Resume(DeploymentId),
    /// Call it off; nodes stay as they are.
    Cancel(DeploymentId),
    /// Call it failed; what follows a failure follows.
    Fail {
        /// Which deployment.
        deployment: DeploymentId,
        /// Why, for the record.
        reason: String,
    },
}

impl Command {
    /// The deployment that it is about; `None` where it is about the job.
    pub fn deployment(&self) -> Option<DeploymentId> {
        match *self {
            Self::Promote(id) | Self::Pause(id) | Self::Resume(id) | Self::Cancel(id) => Some(id),
            Self::Fail { deployment, .. } => Some(deployment),
            Self::Register { .. }
            | Self::Restart
            | Self::Stop
            | Self::RollBack { .. }
            | Self::Scale { .. } => None,
        }
    }
}

/// What an agent says of one execution.
///
/// It names a target and not a node: that the agent which sends it is the one that the execution was
/// [assigned](crate::Job::assignment) to is for the driver to see to, who knows the agents; and a report about
/// an assignment elsewhere, or an earlier one, names another generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// As the assignment said.
    pub target: u32,
    /// As the assignment said: a report about an older one changes nothing.
    pub generation: u64,
    /// Grows with every report about this assignment, from 1, over restarts of the agent too.
    pub number: u32,
    /// What there is to say.
    pub what: Observation,
}

/// An execution of a batch job that ended with 0, where its [assignment](crate::Job::assignment) names no target to
/// report on: it was told what to run outside of a wave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Done {
    /// As the assignment said.
    pub slot: u32,
    /// As the assignment said.
    pub generation: u64,
}

/// What an agent can observe.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The workload runs. Where health is not asked for that makes a target of a service updated, as
    /// [`Restarted`](Self::Restarted) and any [`Interval`](Self::Interval) do; everywhere else it is
    /// [nothing new](crate::Ignored::NothingNew), and the intervals decide.
    ///
    /// While the node counts as [lost](crate::Ignored::Lost) it is left out, and not remembered: one of the three has to be
    /// said again when the node is back, or the target fails at its deadline.
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
    Interval(Interval),
    /// What was told to stop has stopped. As [`Started`](Self::Started), it is not remembered while the node counts as lost.
    Stopped,
}

/// What was counted in one interval.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Interval {
    /// Whether the checks pass; `None` = no result yet, which is not healthy. Of a job without checks, whether its
    /// process lives.
    pub checks: Option<bool>,
    /// `None` where the job counts none. Too many that failed are bad whatever the checks say.
    pub requests: Option<Requests>,
}

/// What was asked of a workload in one interval.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Requests {
    /// All of them.
    pub total: u32,
    /// Those of them that failed. More than all [cannot be](crate::Ignored::Impossible).
    pub failed: u32,
}

impl Interval {
    /// The checks pass, and no requests are counted.
    pub const PASSING: Self = Self {
        checks: Some(true),
        requests: None,
    };
    /// A check fails.
    pub const FAILING: Self = Self {
        checks: Some(false),
        requests: None,
    };
}

/// What the fleet says of a node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NodeChange {
    /// It is there and matches the job's selector: a new node, one that is back, or one with
    /// another label or load.
    Seen(Member),
    /// It is something else now. [`Presence::Unmatched`] where its labels no longer match.
    Became {
        /// Its name.
        name: String,
        /// What it is now.
        status: Presence,
    },
}
