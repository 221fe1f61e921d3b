//! Several jobs rolled out in the order of their dependencies, as one.
//!
//! A job starts when everything it is `after` has completed; independent ones run side by side.
//! When one ends badly, whatever depends on it never starts, and all that is connected with it is
//! taken back in the reverse order; what is not connected goes on. The group runs no rollout: its
//! effects are orders to jobs, and the driver carries them out and reports what came of them.
//!
//! # Only what the group changed
//!
//! A job that runs already what the group wants is [`Unchanged`](MemberState::Unchanged), and is never taken back.
//! One that is on its way there, because somebody else began that, is [`Awaited`](MemberState::Awaited): nothing
//! that depends on it starts before that deployment completed, and when it ends badly that is a bad end like any
//! other. But it is somebody else's: the group neither cancels it nor rolls it back. When its part of the group is
//! taken back, the group waits for its end, and leaves it; when the operator cancels the group, it is left at once.
//! A number of replicas that a start changed by the way is not taken back either.
//!
//! Nor is a job that people have brought somewhere else since the group brought it where it wanted it: to another
//! version, or to a stop. It is [not taken back](MemberState::TakeBackFailed), and a person has to look at it.
//!
//! # What a driver does
//!
//! [`Group::duty`] says it, from where the group and the member's job are. It is asked after every step of the group,
//! for the jobs that the [effects](Entry::effects) name, and after every step of a member's job; until it has
//! nothing to say. What it remembers is in the two logs, so a restart is no case of its own: it is asked for every
//! member. Nothing has to be sent twice to learn what came of it:
//!
//! - Commands carry idempotency keys of this group's start, roll back or cancel. A job that was told before the
//!   crash knows its [answer](Job::answered), and is not told again.
//! - The answer enters the group's log, and with it the deployment that the start led to, and the version to go
//!   back to.
//! - A command that the job refuses is reported by [`Group::refused`]: a start that is refused has failed, a roll back
//!   to where the job is already is done, and any other is one that a person has to look at. The group goes on with
//!   the rest.
//!
//! A driver that has no hold of the job, because it lives elsewhere, makes the same inputs there: of an answer
//! with [`LedTo::of`], of an end with [`Job::outcome`].
//!
//! # After a restart, with all three machines
//!
//! ```
//! use orchestrator_core::fleet::{self, Fleet, FleetSettings};
//! use orchestrator_core::group::{self, Duty, Group, GroupSpec};
//! use orchestrator_core::spec::JobSpec;
//! use orchestrator_core::{Command, Entry, Input, Job, JobId, Request, Time};
//!
//! /// Does for one member what is to be done now. Each `extend` stands for a log that is safe before it goes on.
//! fn serve(
//!     group: &mut Group, group_log: &mut Vec<group::Entry>, job: &mut Job, job_log: &mut Vec<Entry>,
//!     wanted: &JobSpec, fleet: &Fleet, now: Time,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     while let Some(duty) = group.duty(job) {
//!         let request = match duty {
//!             Duty::Tell(input) => {
//!                 group_log.extend(group.step(now, input)?);
//!                 continue;
//!             }
//!             Duty::Command(request) => request,
//!             Duty::Start { key } => {
//!                 let members = fleet.members(wanted, |node| job.desired(node).len() as u32);
//!                 let spec = Box::new(wanted.clone());
//!                 let command = Command::Register { spec, members: Some(members), again: false };
//!                 Request { command, key: Some(key), expected: None }
//!             }
//!         };
//!         match job.step(now, request.into()) {
//!             Ok(step) => job_log.extend(step.split().0),
//!             Err(why) => group_log.extend(group.step(now, group.refused(job, &why))?),
//!         }
//!     }
//!     Ok(())
//! }
//!
//! let now: Time = "2026-01-01T00:00:00Z".parse()?;
//! let wanted = JobSpec::parse(r#"{"job_id": "db", "driver": "exec", "config": {}}"#)?;
//! let mut fleet = Fleet::new(FleetSettings::default());
//! let (name, labels, facts) = ("n1".into(), Default::default(), Default::default());
//! let fleet_log = fleet.step(now, fleet::Input::Join { name, labels, facts, leaving: false })?;
//! let mut job_log: Vec<Entry> = Vec::new();
//! let spec = GroupSpec::parse(r#"{"name": "release", "members": [{"job": "db"}]}"#)?;
//! let (mut group, first) = Group::new(now, spec)?;
//! let mut group_log = vec![first];
//! group_log.extend(group.step(now, group::Input::Start)?);
//!
//! // The driver dies here: no job was told anything. Then each machine is what its log says,
//! let fleet = Fleet::recover(FleetSettings::default(), fleet_log)?;
//! let id: JobId = "db".parse()?;
//! let mut job = Job::recover(id, 7, job_log.clone())?;
//! let mut group = Group::recover(group_log.clone())?;
//! group_log.extend(group.step(now, group::Input::Tick)?);
//! // what the fleet logged may not have reached the job,
//! if let Some(spec) = job.membership() {
//!     let members = fleet.members(spec, |node| job.desired(node).len() as u32);
//!     job_log.extend(job.step(now, Input::Members(&members))?.split().0);
//! }
//! // and what the group ordered may not have either.
//! serve(&mut group, &mut group_log, &mut job, &mut job_log, &wanted, &fleet, now)?;
//!
//! assert_eq!(job.desired("n1")[0].version, 1);
//! let begun = group.state().member(job.id()).and_then(|member| member.deployment);
//! assert_eq!(begun, job.deployment().map(|record| record.id));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod duty;
mod fits;
mod rules;
mod spec;

use std::borrow::Borrow;
use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::duty::{Duty, LedTo};
use self::fits::fits;
use self::rules::{admit, apply, decide};
use self::spec::Order;
pub use self::spec::{GroupSpec, Member, OnFailure};
use crate::draw::draw;
use crate::format::{FormatError, decode_small, encode_small, read_snapshot, write_snapshot};
use crate::id::{DeploymentId, JobId};
#[cfg(doc)]
use crate::job::Job;
use crate::replay::{BrokenLog, follows};
use crate::spec::SpecErrors;
use crate::time::Time;

/// The most jobs that a group may have.
pub const GROUP_MEMBERS_MAX: usize = 1000;

/// The machine of one group.
#[derive(Clone, Debug)]
pub struct Group {
    state: State,
    order: Order,
    /// What tells its orders from those of another group of its name.
    mark: u64,
}

impl Group {
    /// A group that waits for [`Input::Start`], and the first entry of its log.
    pub fn new(now: Time, spec: GroupSpec) -> Result<(Self, Entry), SpecErrors> {
        let group = Self::created(now, spec)?;
        let event = Event::Created {
            spec: group.state.spec.clone(),
        };
        Ok((
            group,
            Entry {
                seq: 1,
                at: now,
                event,
            },
        ))
    }

    /// The group that wrote these entries, all of them from the first.
    ///
    /// Step it with a [`Tick`](Input::Tick) then: a crash may have kept half a step.
    pub fn recover<E: Borrow<Entry>>(log: impl IntoIterator<Item = E>) -> Result<Self, BrokenLog> {
        let mut log = log.into_iter();
        let first = log.next().ok_or(BrokenLog::NoBeginning)?;
        let Entry { seq, at, event } = first.borrow().clone();
        follows(0, seq)?;
        let Event::Created { spec } = event else {
            return Err(BrokenLog::DoesNotFit { seq });
        };
        let mut group = Self::created(at, spec).map_err(|_| BrokenLog::DoesNotFit { seq })?;
        group.catch_up(log)?;
        Ok(group)
    }

    /// Takes in entries that follow what it has: after a snapshot, or on a replica.
    pub fn catch_up<E: Borrow<Entry>>(
        &mut self,
        log: impl IntoIterator<Item = E>,
    ) -> Result<(), BrokenLog> {
        for entry in log {
            let entry = entry.borrow();
            follows(self.state.seq, entry.seq)?;
            if !fits(&self.state, &entry.event) {
                return Err(BrokenLog::DoesNotFit { seq: entry.seq });
            }
            apply(&mut self.state, entry);
        }
        Ok(())
    }

    /// All that is logged. Two groups are in the same state when these are the same bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        write_snapshot(&self.state)
    }

    /// The group as it was; [`Group::catch_up`] takes in what came after.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, FormatError> {
        let state: State = read_snapshot(bytes, "a snapshot of a group")?;
        let order = state.spec.check().map_err(|_| FormatError::Damaged)?;
        let members = state.members.iter().map(|member| &member.job);
        if !members.eq(&order.jobs) {
            return Err(FormatError::Damaged);
        }
        Ok(Self::of(state, order))
    }

    fn of(state: State, order: Order) -> Self {
        let spec = serde_json::to_string(&state.spec).expect("it is names only");
        let mark = draw(state.created_at.as_millis(), "group", spec.as_bytes());
        Self { state, order, mark }
    }

    fn created(now: Time, spec: GroupSpec) -> Result<Self, SpecErrors> {
        let order = spec.check()?;
        let members = order.jobs.iter().map(MemberStatus::new).collect();
        let state = State {
            seq: 1,
            created_at: now,
            spec,
            state: GroupState::Pending,
            canceled: false,
            culprits: BTreeSet::new(),
            members,
        };
        Ok(Self::of(state, order))
    }

    /// Takes one input and decides until there is nothing left to decide.
    ///
    /// A refused input changes nothing, and one that was taken before adds nothing. The entries'
    /// [effects](Entry::effects) name the jobs that have something to do once they are persisted: where that fails, drop
    /// the group and recover it.
    pub fn step(&mut self, now: Time, input: Input) -> Result<Vec<Entry>, Rejection> {
        let mut entries = Vec::new();
        let admitted = admit(&self.state, input)?;
        let mut next = admitted.or_else(|| decide(&self.state, &self.order));
        while let Some(event) = next {
            let entry = Entry {
                seq: self.state.seq + 1,
                at: now,
                event,
            };
            debug_assert!(fits(&self.state, &entry.event), "{entry:?}");
            apply(&mut self.state, &entry);
            entries.push(entry);
            next = decide(&self.state, &self.order);
        }
        Ok(entries)
    }

    /// What was ordered and has not come to its end. How far it is says [`Group::duty`]: it may be under way.
    pub fn outstanding(&self) -> Vec<Effect> {
        let effect = |member: &MemberStatus| {
            let job = member.job.clone();
            match member.state {
                MemberState::Running => Some(Effect::StartJob(job)),
                MemberState::Canceling => Some(Effect::CancelJob(job)),
                MemberState::RollingBack => Some(Effect::RollBackJob(job)),
                MemberState::Waiting
                | MemberState::Awaited
                | MemberState::Completed
                | MemberState::Unchanged
                | MemberState::Failed
                | MemberState::RolledBack
                | MemberState::Canceled
                | MemberState::Stopped
                | MemberState::TakenBack
                | MemberState::TakeBackFailed
                | MemberState::Blocked { .. } => None,
            }
        };
        self.state.members.iter().filter_map(effect).collect()
    }

    /// The waves that would run if every job of a wave took equally long: the first has no
    /// dependencies, each later one depends on the one before.
    pub fn plan(&self) -> Vec<Vec<JobId>> {
        let mut waves = Vec::new();
        for (job, &depth) in self.order.jobs.iter().zip(&self.order.depth) {
            if waves.len() <= depth {
                waves.resize(depth + 1, Vec::new());
            }
            waves[depth].push(job.clone());
        }
        waves
    }

    /// In plain words what the group waits for; nothing when it has ended.
    pub fn waiting_on(&self) -> Option<String> {
        match self.state.state {
            GroupState::Pending => return Some("the command to start".into()),
            GroupState::Completed | GroupState::Failed | GroupState::Canceled => return None,
            GroupState::Running => {}
        }
        let phrases = [
            (MemberState::Running, "to complete"),
            (MemberState::Awaited, "to complete what others began"),
            (MemberState::Canceling, "to be canceled"),
            (MemberState::RollingBack, "to be rolled back"),
        ];
        let parts = phrases.iter().filter_map(|(state, phrase)| {
            let mut jobs = self
                .state
                .members
                .iter()
                .filter(|member| member.state == *state);
            let mut text = jobs.next()?.job.to_string();
            for member in jobs.by_ref().take(2) {
                text += &format!(", {}", member.job);
            }
            match jobs.count() {
                0 => Some(format!("{text} {phrase}")),
                more => Some(format!("{text} and {more} more {phrase}")),
            }
        });
        Some(parts.collect::<Vec<_>>().join("; "))
    }

    /// Where it is, to show.
    pub fn state(&self) -> &State {
        &self.state
    }
}

/// What may be said to a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Nothing new. After a recovery: if a crash kept half a step, this decides the other half.
    Tick,
    /// Begin.
    Start,
    /// A job was told to start, or to roll back, and this is what its [answer](crate::Answer) means.
    Answered {
        /// Which.
        job: JobId,
        /// Only [`LedTo::of`] makes it.
        led_to: LedTo,
    },
    /// A job's deployment, which the group was told of, has ended, its own automatic rollback included. A start that
    /// the job refused is one that failed.
    Finished {
        /// Which.
        job: JobId,
        /// How.
        outcome: Outcome,
    },
    /// A rollback that the group ordered has ended.
    RollbackFinished {
        /// Of which job.
        job: JobId,
        /// Whether the job is back.
        ok: bool,
    },
    /// The operator ends it: nothing more starts, what runs is canceled, and no more is rolled back than was ordered
    /// before.
    Cancel,
}

/// How a job's deployment ended.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well.
    Completed,
    /// Badly, and the job's own rollback failed or there was none.
    Failed,
    /// Badly, and the job went back by itself.
    RolledBack,
    /// Someone canceled it, or a newer version did.
    Canceled,
}

/// One fact, in its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// What the driver's clock said.
    pub at: Time,
    /// What happened.
    pub event: Event,
}

impl Entry {
    /// One line of JSON, with the version of its form.
    pub fn encode(&self) -> String {
        encode_small(self.seq, self.at, &self.event)
    }

    /// Reads what [`Entry::encode`] wrote, today or by any released version.
    pub fn decode(line: &str) -> Result<Self, FormatError> {
        let (seq, at, event) = decode_small(line, "an entry of a group's log")?;
        Ok(Self { seq, at, event })
    }

    /// What has to be done once the entry is persisted.
    pub fn effects(&self) -> Vec<Effect> {
        match &self.event {
            Event::JobsStarted { jobs } => jobs.iter().cloned().map(Effect::StartJob).collect(),
            Event::TakeBackBegan {
                canceling: jobs,
                culprit: _,
                blocked: _,
            }
            | Event::CancelBegan { canceling: jobs } => {
                jobs.iter().cloned().map(Effect::CancelJob).collect()
            }
            Event::RollbacksStarted { jobs } => {
                jobs.iter().cloned().map(Effect::RollBackJob).collect()
            }
            Event::Created { .. }
            | Event::Started
            | Event::JobAnswered { .. }
            | Event::JobEnded { .. }
            | Event::DependentsBlocked { .. }
            | Event::RollbackEnded { .. }
            | Event::Ended { .. } => Vec::new(),
        }
    }
}

/// What happened to the group.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Event {
    /// The first entry of every group.
    Created {
        /// As it was written.
        spec: GroupSpec,
    },
    /// The operator started the group.
    Started,
    /// These jobs had all they are after, and were told to start.
    JobsStarted {
        /// In the order of their names.
        jobs: Vec<JobId>,
    },
    /// A job answered the order to start, or to roll back.
    JobAnswered {
        /// Which.
        job: JobId,
        /// What came of it.
        led_to: LedTo,
    },
    /// A job's deployment ended.
    JobEnded {
        /// Which.
        job: JobId,
        /// How.
        outcome: Outcome,
    },
    /// A job ended badly, and all that is connected with it is being taken back.
    TakeBackBegan {
        /// The job that ended badly.
        culprit: JobId,
        /// Those that will never start.
        blocked: Vec<JobId>,
        /// Those that were running.
        canceling: Vec<JobId>,
    },
    /// A job ended badly, and the group stops there.
    DependentsBlocked {
        /// The job that ended badly.
        culprit: JobId,
        /// Those that will never start.
        blocked: Vec<JobId>,
    },
    /// Nothing depends on these jobs any more, and they were told to roll back.
    RollbacksStarted {
        /// In the order of their names.
        jobs: Vec<JobId>,
    },
    /// A rollback that the group ordered ended.
    RollbackEnded {
        /// Of which job.
        job: JobId,
        /// Whether the job is back.
        ok: bool,
    },
    /// The operator canceled the group.
    CancelBegan {
        /// Those that were running.
        canceling: Vec<JobId>,
    },
    /// Nothing is left to do.
    Ended {
        /// How.
        state: GroupState,
    },
}

/// What has to be done by the driver, as far as it has not been done: [`Group::duty`] says how.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Bring the job to what the group wants of it.
    StartJob(JobId),
    /// Take the job back to the version that its deployment began from.
    RollBackJob(JobId),
    /// Cancel the job's deployment.
    CancelJob(JobId),
}

impl Effect {
    /// The job that has something to do.
    pub fn job(&self) -> &JobId {
        match self {
            Self::StartJob(job) | Self::RollBackJob(job) | Self::CancelJob(job) => job,
        }
    }
}

/// Where a group is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState {
    /// Not started.
    Pending,
    /// Jobs run, are canceled or rolled back.
    Running,
    /// Every job completed.
    Completed,
    /// Not every job completed.
    Failed,
    /// The operator canceled it.
    Canceled,
}

/// Where a job of a group is.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// For its dependencies, or for the start.
    Waiting,
    /// It was told to start, and has not come to an end.
    Running,
    /// It was on its way already, and the end of that is waited for: nothing of it is the group's.
    Awaited,
    /// Well, and it stays, unless its part of the group is taken back.
    Completed,
    /// It was so already, or others brought it there; it stays in any case.
    Unchanged,
    /// Badly; the group leaves it as it is, as its own machine did.
    Failed,
    /// Badly, and it went back by itself.
    RolledBack,
    /// Someone canceled it, or the operator canceled the group; it stays as it is, and what others began goes on.
    Canceled,
    /// It was running, and the group told it to cancel.
    Canceling,
    /// It was canceled by the group, and waits for its turn to be rolled back.
    Stopped,
    /// The group told it to roll back.
    RollingBack,
    /// Rolled back by the group, or canceled by it before it had begun.
    TakenBack,
    /// The rollback that the group ordered failed; a person has to look.
    TakeBackFailed,
    /// It never starts.
    Blocked {
        /// The job whose bad end is the reason.
        culprit: JobId,
    },
}

/// One job of a group, and where it is.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct MemberStatus {
    /// Which.
    pub job: JobId,
    /// Where it is.
    pub state: MemberState,
    /// The deployment that its start led to, or that was on its way there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<DeploymentId>,
    /// The version that it began from, to go back to; 0 = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u32>,
    /// The deployment that takes it back for the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<DeploymentId>,
    /// How its deployment ended, also when it was rolled back later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl MemberStatus {
    fn new(job: &JobId) -> Self {
        Self {
            job: job.clone(),
            state: MemberState::Waiting,
            deployment: None,
            from: None,
            rollback: None,
            outcome: None,
        }
    }
}

/// All that is logged: what replaying gives again.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct State {
    seq: u64,
    created_at: Time,
    spec: GroupSpec,
    state: GroupState,
    /// By the operator, who then waits for what runs.
    canceled: bool,
    /// One for each part of the group that is taken back: the first that ended badly.
    culprits: BTreeSet<JobId>,
    /// In the order of their names.
    members: Vec<MemberStatus>,
}

impl State {
    /// The number of the last entry.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// When the group was created.
    pub fn created_at(&self) -> Time {
        self.created_at
    }

    /// As it was written.
    pub fn spec(&self) -> &GroupSpec {
        &self.spec
    }

    /// Where the group is.
    pub fn state(&self) -> GroupState {
        self.state
    }

    /// Its jobs, in the order of their names.
    pub fn members(&self) -> &[MemberStatus] {
        &self.members
    }

    /// The job of this name.
    pub fn member(&self, job: &JobId) -> Option<&MemberStatus> {
        self.position(job).map(|at| &self.members[at])
    }

    fn position(&self, job: &JobId) -> Option<usize> {
        self.members
            .binary_search_by(|member| member.job.cmp(job))
            .ok()
    }
}

/// Why an input was refused; nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The job belongs elsewhere.
    #[error("job {0} is not a member of this group; report it to the group that it belongs to")]
    NotAMember(JobId),
    /// A late, stray or contradicting report.
    #[error(
        "job {job} is {} and cannot be reported {report} now; look at the group before you report again",
        words(state)
    )]
    DoesNotFit {
        /// Which.
        job: JobId,
        /// Where it is.
        state: MemberState,
        /// What was said about it.
        report: &'static str,
    },
    /// It is not known yet what the job was told to do: [`Input::Answered`] comes first.
    #[error("job {job} cannot be reported {report} before its answer to the start is reported")]
    NotAnswered {
        /// Which.
        job: JobId,
        /// What was said about it.
        report: &'static str,
    },
    /// Nothing more can be done.
    #[error("the group is {} already; create a new one", group_words(*.0))]
    Ended(GroupState),
}

fn words(state: &MemberState) -> String {
    let words = match state {
        MemberState::Waiting => "waiting",
        MemberState::Running => "running",
        MemberState::Awaited => "waited for as others began it",
        MemberState::Completed => "completed",
        MemberState::Unchanged => "unchanged",
        MemberState::Failed => "failed",
        MemberState::RolledBack => "rolled back by itself",
        MemberState::Canceled => "canceled",
        MemberState::Canceling => "being canceled",
        MemberState::Stopped => "canceled and about to be rolled back",
        MemberState::RollingBack => "being rolled back",
        MemberState::TakenBack => "taken back by the group",
        MemberState::TakeBackFailed => "not rolled back by the group",
        MemberState::Blocked { culprit } => return format!("blocked by {culprit}"),
    };
    words.into()
}

fn outcome_words(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::RolledBack => "rolled back by itself",
        Outcome::Canceled => "canceled",
    }
}

fn group_words(state: GroupState) -> &'static str {
    match state {
        GroupState::Pending => "pending",
        GroupState::Running => "running",
        GroupState::Completed => "completed",
        GroupState::Failed => "failed",
        GroupState::Canceled => "canceled",
    }
}

#[cfg(test)]
mod tests;
