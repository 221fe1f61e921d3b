//! Several jobs rolled out in the order of their dependencies, as one.
//!
//! A job starts when everything it is `after` has completed; independent ones run side by side.
//! When one ends badly, whatever depends on it never starts, and all that is connected with it is
//! taken back in the reverse order; what is not connected goes on. The group runs no rollout: its
//! effects are orders to jobs, and the driver reports how each ended.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use petgraph::algo::{tarjan_scc, toposort};
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::unionfind::UnionFind;
use serde::{Deserialize, Serialize};

use crate::format::{FormatError, decode_small, encode_small};
use crate::id::{InvalidName, JobId, is_name};
use crate::time::Time;

/// The most jobs that a group may have.
pub const GROUP_MEMBERS_MAX: usize = 1000;

/// The machine of one group.
#[derive(Clone, Debug)]
pub struct Group {
    state: State,
    order: Order,
}

impl Group {
    /// A group that waits for [`Input::Start`], and the first entry of its log.
    pub fn new(now: Time, spec: GroupSpec) -> Result<(Self, Entry), GroupErrors> {
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
    pub fn recover<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Self, RecoverError> {
        let mut entries = entries.into_iter();
        let Some(Entry {
            seq: 1,
            at,
            event: Event::Created { spec },
        }) = entries.next()
        else {
            return Err(RecoverError::NoBeginning);
        };
        Self::created(*at, spec.clone())?.replay(entries)
    }

    /// The same from a snapshot and the entries after it.
    pub fn recover_from<'a>(
        snapshot: State,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, RecoverError> {
        let order = snapshot.spec.check()?;
        if !snapshot
            .members
            .iter()
            .map(|member| &member.job)
            .eq(&order.jobs)
        {
            return Err(RecoverError::NotOfItsSpec);
        }
        Self {
            state: snapshot,
            order,
        }
        .replay(entries)
    }

    fn created(now: Time, spec: GroupSpec) -> Result<Self, GroupErrors> {
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
        Ok(Self { state, order })
    }

    fn replay<'a>(
        mut self,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, RecoverError> {
        for entry in entries {
            let expected = self.state.seq + 1;
            if entry.seq != expected {
                return Err(RecoverError::Gap {
                    expected,
                    found: entry.seq,
                });
            }
            apply(&mut self.state, entry);
        }
        Ok(self)
    }

    /// Takes one input and decides until there is nothing left to decide.
    ///
    /// A refused input changes nothing, and one that was taken before adds nothing. Carry out the
    /// entries' [effects](Entry::effects) once they are persisted.
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
            apply(&mut self.state, &entry);
            entries.push(entry);
            next = decide(&self.state, &self.order);
        }
        Ok(entries)
    }

    /// What was ordered and has not been reported as done: to be ordered again after a recovery.
    ///
    /// Carry them out so that twice does no harm. A job to cancel that never got its start is
    /// reported as canceled.
    pub fn outstanding(&self) -> Vec<Effect> {
        let effect = |member: &MemberStatus| {
            let job = member.job.clone();
            match member.state {
                MemberState::Running => Some(Effect::StartJob(job)),
                MemberState::Canceling => Some(Effect::CancelJob(job)),
                MemberState::RollingBack => Some(Effect::RollBackJob(job)),
                MemberState::Waiting
                | MemberState::Completed
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

    /// All that is logged, to show, to compare or to keep as a snapshot.
    pub fn state(&self) -> &State {
        &self.state
    }
}

/// A group as people write it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Its name.
    pub name: String,
    /// What happens to the rest when a job ends badly.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Its jobs, in any order.
    pub members: Vec<Member>,
}

/// One job of a group.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Which.
    pub job: JobId,
    /// The members that have to be completed before it starts.
    #[serde(default)]
    pub after: Vec<JobId>,
}

/// What happens to the rest when a job ends badly.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// What is connected with it by dependencies is taken back.
    #[default]
    Rollback,
    /// What depends on it does not start; the rest goes on.
    Stop,
}

/// What may be said to a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Nothing new. After a recovery: if a crash kept half a step, this decides the other half.
    Tick,
    /// Begin.
    Start,
    /// A job's deployment has ended, its own automatic rollback included.
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
    /// The operator ends it: nothing more starts, what runs is canceled, nothing is rolled back.
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
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// What the driver's clock said.
    pub at: Time,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Entry {
    /// One line of JSON, with the version of its form.
    pub fn encode(&self) -> String {
        encode_small(self)
    }

    /// Reads what [`Entry::encode`] wrote, today or by any released version.
    pub fn decode(line: &str) -> Result<Self, FormatError> {
        decode_small(line, "an entry of a group's log")
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

/// What has to be done, by the driver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Start the job's deployment, report with [`Input::Finished`].
    StartJob(JobId),
    /// Roll the job back to its stable version, report with [`Input::RollbackFinished`].
    RollBackJob(JobId),
    /// Cancel the job's deployment, report with [`Input::Finished`].
    CancelJob(JobId),
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
    /// Its deployment was started.
    Running,
    /// Well, and it stays, unless its part of the group is taken back.
    Completed,
    /// Badly; the group leaves it as it is, as its own machine did.
    Failed,
    /// Badly, and it went back by itself.
    RolledBack,
    /// Someone canceled it, or the operator canceled the group; it stays as it is.
    Canceled,
    /// It was running, and the group told it to cancel.
    Canceling,
    /// It was canceled by the group, and waits for its turn to be rolled back.
    Stopped,
    /// The group told it to roll back.
    RollingBack,
    /// Rolled back by the group.
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
    /// How its deployment ended, also when it was rolled back later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl MemberStatus {
    fn new(job: &JobId) -> Self {
        Self {
            job: job.clone(),
            state: MemberState::Waiting,
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
    /// JSON, with the version of its form: a snapshot.
    pub fn encode(&self) -> String {
        encode_small(self)
    }

    /// Reads what [`State::encode`] wrote, today or by any released version.
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        decode_small(text, "a snapshot of a group")
    }

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
    /// Nothing more can be done.
    #[error("the group is {} already; create a new one", group_words(*.0))]
    Ended(GroupState),
}

/// All that is wrong with a group's spec.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupErrors(pub Vec<GroupError>);

impl fmt::Display for GroupErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if number == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for GroupErrors {}

/// One thing that is wrong with a group's spec.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GroupError {
    /// The group's own name.
    #[error("name: {0}")]
    InvalidName(#[source] InvalidName),
    /// There is nothing to do.
    #[error("members: a group needs at least one job")]
    Empty,
    /// See [`GROUP_MEMBERS_MAX`]. Nothing else is looked at then.
    #[error(
        "members: {0} are too many, at most {GROUP_MEMBERS_MAX} are allowed; make several groups"
    )]
    TooMany(usize),
    /// It would not be clear which one counts.
    #[error("members: job {0} is listed more than once; list it once with all that it is after")]
    ListedTwice(JobId),
    /// It could never start.
    #[error("members: job {job} is after {after}, which is no member; add it or take it out")]
    UnknownDependency {
        /// The job that could not start.
        job: JobId,
        /// What it is after.
        after: JobId,
    },
    /// It could never start.
    #[error("members: job {0} is after itself; take that out")]
    SelfDependency(JobId),
    /// None of them could ever start. The first job is the last one, too.
    #[error("members: {}: none of them could start; take one of these out", chain(.0))]
    Cycle(Vec<JobId>),
}

/// Why there is no group in these entries.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RecoverError {
    /// The first entry is another one.
    #[error("the group's log does not begin with its creation; read it from its first entry")]
    NoBeginning,
    /// The entries are not all there, or not in order.
    #[error(
        "the group's log has entry {found} where entry {expected} belongs; read it again from there"
    )]
    Gap {
        /// The number that belongs here.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The snapshot contradicts itself.
    #[error("the group's snapshot has other members than its spec; recover from the log")]
    NotOfItsSpec,
    /// No group was ever created so.
    #[error("the group's log has a spec that is not valid: {0}")]
    InvalidSpec(#[from] GroupErrors),
}

/// All checking. `None`: it was said before, and nothing is to be done.
fn admit(state: &State, input: Input) -> Result<Option<Event>, Rejection> {
    match input {
        Input::Tick => Ok(None),
        Input::Start => match state.state {
            GroupState::Pending => Ok(Some(Event::Started)),
            GroupState::Running => Ok(None),
            ended @ (GroupState::Completed | GroupState::Failed | GroupState::Canceled) => {
                Err(Rejection::Ended(ended))
            }
        },
        Input::Cancel if state.canceled => Ok(None),
        Input::Cancel => match state.state {
            GroupState::Pending | GroupState::Running => Ok(Some(Event::CancelBegan {
                canceling: running(state, |_| true),
            })),
            ended @ (GroupState::Completed | GroupState::Failed | GroupState::Canceled) => {
                Err(Rejection::Ended(ended))
            }
        },
        Input::Finished { job, outcome } => {
            let Some(member) = state.member(&job) else {
                return Err(Rejection::NotAMember(job));
            };
            match member.state {
                MemberState::Running | MemberState::Canceling => {
                    Ok(Some(Event::JobEnded { job, outcome }))
                }
                _ if member.outcome == Some(outcome) => Ok(None),
                _ => Err(does_not_fit(member, outcome_words(outcome))),
            }
        }
        Input::RollbackFinished { job, ok } => {
            let Some(member) = state.member(&job) else {
                return Err(Rejection::NotAMember(job));
            };
            match (&member.state, ok) {
                (MemberState::RollingBack, _) => Ok(Some(Event::RollbackEnded { job, ok })),
                (MemberState::TakenBack, true) | (MemberState::TakeBackFailed, false) => Ok(None),
                (_, true) => Err(does_not_fit(member, "rolled back by the group")),
                (_, false) => Err(does_not_fit(member, "not rolled back by the group")),
            }
        }
    }
}

/// The only mutator. Total: an entry about a job that is not there changes nothing, and `admit`
/// lets none through.
fn apply(state: &mut State, entry: &Entry) {
    let Entry { seq, at: _, event } = entry;
    state.seq = *seq;
    match event {
        // The state was made from it; nothing has changed since.
        Event::Created { .. } => {}
        Event::Started => state.state = GroupState::Running,
        Event::JobsStarted { jobs } => put(state, jobs, &MemberState::Running),
        Event::JobEnded { job, outcome } => {
            let canceled_by_operator = state.canceled;
            let Some(at) = state.position(job) else {
                return;
            };
            let member = &mut state.members[at];
            member.outcome = Some(*outcome);
            member.state = match outcome {
                Outcome::Completed => MemberState::Completed,
                Outcome::Failed => MemberState::Failed,
                Outcome::RolledBack => MemberState::RolledBack,
                Outcome::Canceled
                    if member.state == MemberState::Canceling && !canceled_by_operator =>
                {
                    MemberState::Stopped
                }
                Outcome::Canceled => MemberState::Canceled,
            };
        }
        Event::TakeBackBegan {
            culprit,
            blocked,
            canceling,
        } => {
            state.culprits.insert(culprit.clone());
            put(
                state,
                blocked,
                &MemberState::Blocked {
                    culprit: culprit.clone(),
                },
            );
            put(state, canceling, &MemberState::Canceling);
        }
        Event::DependentsBlocked { culprit, blocked } => {
            put(
                state,
                blocked,
                &MemberState::Blocked {
                    culprit: culprit.clone(),
                },
            );
        }
        Event::RollbacksStarted { jobs } => put(state, jobs, &MemberState::RollingBack),
        Event::RollbackEnded { job, ok } => {
            let ended = if *ok {
                MemberState::TakenBack
            } else {
                MemberState::TakeBackFailed
            };
            put(state, std::slice::from_ref(job), &ended);
        }
        Event::CancelBegan { canceling } => {
            state.canceled = true;
            put(state, canceling, &MemberState::Canceling);
            for member in &mut state.members {
                if matches!(member.state, MemberState::Waiting | MemberState::Stopped) {
                    member.state = MemberState::Canceled;
                }
            }
        }
        Event::Ended { state: ended } => state.state = *ended,
    }
}

/// The first rule that has something to say.
fn decide(state: &State, order: &Order) -> Option<Event> {
    match state.state {
        GroupState::Pending if state.canceled => end(state),
        GroupState::Running if state.canceled => end(state),
        GroupState::Running => take_back(state, order)
            .or_else(|| block(state, order))
            .or_else(|| start(state, order))
            .or_else(|| roll_back(state, order))
            .or_else(|| end(state)),
        GroupState::Pending | GroupState::Completed | GroupState::Failed | GroupState::Canceled => {
            None
        }
    }
}

/// A job ended badly: its part of the group stops, once.
fn take_back(state: &State, order: &Order) -> Option<Event> {
    if state.spec.on_failure != OnFailure::Rollback {
        return None;
    }
    let parts = parts_taken_back(state, order);
    let mut members = state.members.iter().enumerate();
    let (at, culprit) =
        members.find(|(at, member)| is_bad(&member.state) && !parts.contains(&order.part[*at]))?;
    let in_part = |other: usize| order.part[other] == order.part[at];
    let members = state.members.iter().enumerate();
    let blocked = members
        .filter(|(other, member)| member.state == MemberState::Waiting && in_part(*other))
        .map(|(_, member)| member.job.clone());
    Some(Event::TakeBackBegan {
        culprit: culprit.job.clone(),
        blocked: blocked.collect(),
        canceling: running(state, in_part),
    })
}

/// A job ended badly: what depends on it, over whatever many steps, does not start.
fn block(state: &State, order: &Order) -> Option<Event> {
    let waits = |at: &usize| state.members[*at].state == MemberState::Waiting;
    let mut members = state.members.iter().enumerate();
    let (at, culprit) = members
        .find(|(at, member)| is_bad(&member.state) && order.before[*at].iter().any(waits))?;
    let (mut blocked, mut next) = (BTreeSet::new(), vec![at]);
    while let Some(at) = next.pop() {
        for &dependent in order.before[at].iter().filter(|at| waits(at)) {
            if blocked.insert(dependent) {
                next.push(dependent);
            }
        }
    }
    let blocked = blocked
        .into_iter()
        .map(|at| state.members[at].job.clone())
        .collect();
    Some(Event::DependentsBlocked {
        culprit: culprit.job.clone(),
        blocked,
    })
}

/// All that is ready starts.
fn start(state: &State, order: &Order) -> Option<Event> {
    let completed = |at: &usize| state.members[*at].state == MemberState::Completed;
    let jobs = chosen(state, |at, member| {
        member.state == MemberState::Waiting && order.after[at].iter().all(completed)
    });
    (!jobs.is_empty()).then_some(Event::JobsStarted { jobs })
}

/// What has to be taken back, and nothing depends on it any more.
fn roll_back(state: &State, order: &Order) -> Option<Event> {
    let parts = parts_taken_back(state, order);
    if parts.is_empty() {
        return None;
    }
    // Looking at the direct dependents is enough: one is settled only after its own are.
    let settled = |at: &usize| is_settled(&state.members[*at].state);
    let jobs = chosen(state, |at, member| {
        matches!(member.state, MemberState::Completed | MemberState::Stopped)
            && parts.contains(&order.part[at])
            && order.before[at].iter().all(settled)
    });
    (!jobs.is_empty()).then_some(Event::RollbacksStarted { jobs })
}

/// Nothing is under way, and no rule before this one has begun anything.
fn end(state: &State) -> Option<Event> {
    let under_way = |member: &MemberStatus| {
        matches!(
            member.state,
            MemberState::Running | MemberState::Canceling | MemberState::RollingBack
        )
    };
    if state.members.iter().any(under_way) {
        return None;
    }
    let completed = |member: &MemberStatus| member.state == MemberState::Completed;
    let ended = if state.canceled {
        GroupState::Canceled
    } else if state.members.iter().all(completed) {
        GroupState::Completed
    } else {
        GroupState::Failed
    };
    Some(Event::Ended { state: ended })
}

/// A bad end that has consequences for others.
fn is_bad(state: &MemberState) -> bool {
    matches!(
        state,
        MemberState::Failed | MemberState::RolledBack | MemberState::Canceled
    )
}

/// Never started, or nothing is left to take back.
fn is_settled(state: &MemberState) -> bool {
    match state {
        MemberState::Failed
        | MemberState::RolledBack
        | MemberState::Canceled
        | MemberState::TakenBack
        | MemberState::TakeBackFailed
        | MemberState::Blocked { .. } => true,
        MemberState::Waiting
        | MemberState::Running
        | MemberState::Completed
        | MemberState::Canceling
        | MemberState::Stopped
        | MemberState::RollingBack => false,
    }
}

fn parts_taken_back(state: &State, order: &Order) -> BTreeSet<usize> {
    let culprits = state.culprits.iter().filter_map(|job| state.position(job));
    culprits.map(|at| order.part[at]).collect()
}

fn running(state: &State, also: impl Fn(usize) -> bool) -> Vec<JobId> {
    chosen(state, |at, member| {
        member.state == MemberState::Running && also(at)
    })
}

fn chosen(state: &State, choose: impl Fn(usize, &MemberStatus) -> bool) -> Vec<JobId> {
    let members = state.members.iter().enumerate();
    members
        .filter(|(at, member)| choose(*at, member))
        .map(|(_, member)| member.job.clone())
        .collect()
}

fn put(state: &mut State, jobs: &[JobId], member_state: &MemberState) {
    for job in jobs {
        if let Some(at) = state.position(job) {
            state.members[at].state = member_state.clone();
        }
    }
}

/// Who is after whom, by the members' position in the order of their names. Follows from the spec.
#[derive(Clone, Debug)]
struct Order {
    jobs: Vec<JobId>,
    after: Vec<Vec<usize>>,
    before: Vec<Vec<usize>>,
    /// How many jobs at least come one after the other before this one.
    depth: Vec<usize>,
    /// Equal for two jobs exactly if dependencies connect them, in whatever direction.
    part: Vec<usize>,
}

impl GroupSpec {
    /// Says all that is wrong at once.
    fn check(&self) -> Result<Order, GroupErrors> {
        if self.members.len() > GROUP_MEMBERS_MAX {
            return Err(GroupErrors(vec![GroupError::TooMany(self.members.len())]));
        }
        let mut errors = Vec::new();
        if !is_name(&self.name) {
            let name = InvalidName(self.name.chars().take(80).collect());
            errors.push(GroupError::InvalidName(name));
        }
        if self.members.is_empty() {
            errors.push(GroupError::Empty);
        }
        let mut listed: BTreeMap<&JobId, BTreeSet<&JobId>> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for Member { job, after } in &self.members {
            if listed.contains_key(job) {
                twice.insert(job);
            }
            listed.entry(job).or_default().extend(after);
        }
        errors.extend(twice.into_iter().cloned().map(GroupError::ListedTwice));
        // Deduplicated and sorted, so that positions and messages do not depend on the order.
        let position: BTreeMap<&JobId, usize> = listed
            .keys()
            .enumerate()
            .map(|(at, job)| (*job, at))
            .collect();
        let mut graph = DiGraph::<(), ()>::new();
        let nodes: Vec<NodeIndex> = listed.iter().map(|_| graph.add_node(())).collect();
        for (at, (job, after)) in listed.iter().enumerate() {
            for dependency in after {
                match position.get(dependency) {
                    Some(other) if *other == at => {
                        errors.push(GroupError::SelfDependency((*job).clone()));
                    }
                    Some(&other) => {
                        graph.add_edge(nodes[other], nodes[at], ());
                    }
                    None => errors.push(GroupError::UnknownDependency {
                        job: (*job).clone(),
                        after: (*dependency).clone(),
                    }),
                }
            }
        }
        let jobs: Vec<JobId> = listed.keys().map(|job| (*job).clone()).collect();
        let order = Order::new(jobs, &graph);
        let mut knots = tarjan_scc(&graph);
        knots.retain(|knot| knot.len() > 1);
        knots.iter_mut().for_each(|knot| knot.sort());
        knots.sort();
        for knot in knots {
            let knot: BTreeSet<usize> = knot.into_iter().map(NodeIndex::index).collect();
            errors.push(GroupError::Cycle(order.cycle_in(&knot)));
        }
        if errors.is_empty() {
            Ok(order)
        } else {
            Err(GroupErrors(errors))
        }
    }
}

impl Order {
    /// From edges that lead from a job to those after it.
    fn new(jobs: Vec<JobId>, graph: &DiGraph<(), ()>) -> Self {
        let (mut after, mut before) = (vec![Vec::new(); jobs.len()], vec![Vec::new(); jobs.len()]);
        let mut parts = UnionFind::new(jobs.len());
        for edge in graph.raw_edges() {
            let (first, then) = (edge.source().index(), edge.target().index());
            after[then].push(first);
            before[first].push(then);
            parts.union(first, then);
        }
        let mut depth = vec![0; jobs.len()];
        // Where there is a cycle there will be no group, and depths do not matter.
        for node in toposort(graph, None).unwrap_or_default() {
            let deepest = after[node.index()].iter().map(|&at| depth[at] + 1).max();
            depth[node.index()] = deepest.unwrap_or(0);
        }
        Self {
            jobs,
            after,
            before,
            depth,
            part: parts.into_labeling(),
        }
    }

    /// The shortest way from the first job of a knot over what it is after back to itself.
    fn cycle_in(&self, knot: &BTreeSet<usize>) -> Vec<JobId> {
        let start = *knot.first().expect("a knot has at least two jobs");
        let mut came_from = BTreeMap::new();
        let mut queue = VecDeque::from([start]);
        while let Some(at) = queue.pop_front() {
            for &next in self.after[at].iter().filter(|next| knot.contains(next)) {
                if came_from.contains_key(&next) {
                    continue;
                }
                came_from.insert(next, at);
                queue.push_back(next);
            }
        }
        let (mut cycle, mut at) = (vec![self.jobs[start].clone()], start);
        loop {
            at = came_from[&at];
            cycle.push(self.jobs[at].clone());
            if at == start {
                break;
            }
        }
        cycle.reverse();
        cycle
    }
}

fn does_not_fit(member: &MemberStatus, report: &'static str) -> Rejection {
    Rejection::DoesNotFit {
        job: member.job.clone(),
        state: member.state.clone(),
        report,
    }
}

fn words(state: &MemberState) -> String {
    let words = match state {
        MemberState::Waiting => "waiting",
        MemberState::Running => "running",
        MemberState::Completed => "completed",
        MemberState::Failed => "failed",
        MemberState::RolledBack => "rolled back by itself",
        MemberState::Canceled => "canceled",
        MemberState::Canceling => "being canceled",
        MemberState::Stopped => "canceled and about to be rolled back",
        MemberState::RollingBack => "being rolled back",
        MemberState::TakenBack => "rolled back by the group",
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

fn chain(jobs: &[JobId]) -> String {
    jobs.iter()
        .map(JobId::to_string)
        .collect::<Vec<_>>()
        .join(" after ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `"b: a"` is job b after job a.
    fn spec(lines: &[&str]) -> GroupSpec {
        let member = |line: &&str| {
            let (name, after) = line.split_once(':').unwrap_or((line, ""));
            Member {
                job: id(name),
                after: after.split_whitespace().map(id).collect(),
            }
        };
        let members = lines.iter().map(member).collect();
        GroupSpec {
            name: "shop".into(),
            on_failure: OnFailure::Rollback,
            members,
        }
    }

    fn id(name: &str) -> JobId {
        name.parse().unwrap()
    }

    fn at(seq: u64) -> Time {
        Time::from_millis(1_000_000 + seq)
    }

    /// A group with its log; every step checks that the log replays to the same state.
    struct Story {
        group: Group,
        log: Vec<Entry>,
    }

    impl Story {
        fn new(spec: GroupSpec) -> Self {
            let (group, entry) = Group::new(at(0), spec).unwrap();
            let mut story = Self {
                group,
                log: vec![entry],
            };
            story.check_replay();
            story.say(Input::Start).unwrap();
            story
        }

        /// The effects in short words: `+a` start, `-a` roll back, `!a` cancel.
        fn say(&mut self, input: Input) -> Result<String, Rejection> {
            let before = self.group.state.clone();
            let entries = match self.group.step(at(before.seq), input) {
                Ok(entries) => entries,
                Err(rejection) => {
                    assert_eq!(self.group.state, before);
                    return Err(rejection);
                }
            };
            let effects: Vec<Effect> = entries.iter().flat_map(Entry::effects).collect();
            self.log.extend(entries);
            self.check_replay();
            self.check_half_steps(&before);
            Ok(short(&effects))
        }

        fn end(&mut self, job: &str, outcome: Outcome) -> String {
            self.say(Input::Finished {
                job: id(job),
                outcome,
            })
            .unwrap()
        }

        fn back(&mut self, job: &str, ok: bool) -> String {
            self.say(Input::RollbackFinished { job: id(job), ok })
                .unwrap()
        }

        fn member(&self, job: &str) -> &MemberState {
            &self.group.state.member(&id(job)).unwrap().state
        }

        fn state(&self) -> GroupState {
            self.group.state.state
        }

        fn check_replay(&self) {
            let again = Group::recover(&self.log).unwrap();
            assert_eq!(again.state, self.group.state);
            assert_eq!(again.outstanding(), self.group.outstanding());
        }

        /// A crash in the middle of a step: the other half is decided again, and the same.
        fn check_half_steps(&self, before: &State) {
            let from = before.seq as usize;
            for cut in from + 1..=self.log.len() {
                let mut half = Group::recover(&self.log[..cut]).unwrap();
                let rest = half.step(at(before.seq), Input::Tick).unwrap();
                assert_eq!(rest, self.log[cut..]);
                assert_eq!(half.state, self.group.state);
            }
        }
    }

    fn short(effects: &[Effect]) -> String {
        let word = |effect: &Effect| match effect {
            Effect::StartJob(job) => format!("+{}", job.name()),
            Effect::RollBackJob(job) => format!("-{}", job.name()),
            Effect::CancelJob(job) => format!("!{}", job.name()),
        };
        effects.iter().map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_diamond_runs_in_waves_and_completes() {
        let mut story = Story::new(spec(&["d: b c", "b: a", "c: a", "a"]));
        let plan = story.group.plan();
        let plan: Vec<Vec<&str>> = plan
            .iter()
            .map(|wave| wave.iter().map(JobId::name).collect())
            .collect();
        assert_eq!(plan, [vec!["a"], vec!["b", "c"], vec!["d"]]);
        assert_eq!(short(&story.group.outstanding()), "+a");
        assert_eq!(story.end("a", Outcome::Completed), "+b +c");
        assert_eq!(
            story.group.waiting_on().unwrap(),
            "default/b, default/c to complete"
        );
        assert_eq!(story.end("c", Outcome::Completed), "");
        assert_eq!(story.end("b", Outcome::Completed), "+d");
        assert_eq!(story.end("d", Outcome::Completed), "");
        assert_eq!(story.state(), GroupState::Completed);
        assert_eq!(story.group.waiting_on(), None);
    }

    #[test]
    fn a_failed_diamond_is_taken_back_in_reverse_order() {
        let mut story = Story::new(spec(&[
            "a", "b: a", "c: a", "d: b c", "e: d", "f: d", "g: e f",
        ]));
        for job in ["a", "b", "c", "d", "e"] {
            story.end(job, Outcome::Completed);
        }
        assert_eq!(story.end("f", Outcome::RolledBack), "-e");
        assert_eq!(
            story.member("g"),
            &MemberState::Blocked { culprit: id("f") }
        );
        assert_eq!(
            story.group.waiting_on().unwrap(),
            "default/e to be rolled back"
        );
        assert_eq!(story.back("e", true), "-d");
        // A failed rollback is kept in mind, and the rest goes on.
        assert_eq!(story.back("d", false), "-b -c");
        assert_eq!(story.back("c", true), "");
        assert_eq!(story.back("b", true), "-a");
        assert_eq!(story.back("a", true), "");
        assert_eq!(story.state(), GroupState::Failed);
        assert_eq!(story.member("d"), &MemberState::TakeBackFailed);
        assert_eq!(story.member("a"), &MemberState::TakenBack);
    }

    #[test]
    fn what_runs_is_canceled_and_rolled_back_once_it_ended() {
        let mut story = Story::new(spec(&["a", "b: a", "c: a", "d: a", "e: a", "z: b c d e"]));
        story.end("a", Outcome::Completed);
        assert_eq!(story.end("b", Outcome::Failed), "!c !d !e");
        assert_eq!(short(&story.group.outstanding()), "!c !d !e");
        assert_eq!(story.end("c", Outcome::Canceled), "-c");
        // Too late to be canceled: back all the same.
        assert_eq!(story.end("d", Outcome::Completed), "-d");
        assert_eq!(story.end("e", Outcome::RolledBack), "");
        story.back("c", true);
        assert_eq!(story.back("d", true), "-a");
        story.back("a", true);
        assert_eq!(story.state(), GroupState::Failed);
        assert_eq!(story.member("b"), &MemberState::Failed);
    }

    #[test]
    fn of_two_independent_chains_one_goes_on() {
        let mut story = Story::new(spec(&["a1", "a2: a1", "b1", "b2: b1", "b3: b2"]));
        story.end("a1", Outcome::Completed);
        story.end("b1", Outcome::Completed);
        assert_eq!(story.end("b2", Outcome::Failed), "-b1");
        assert_eq!(story.end("a2", Outcome::Completed), "");
        assert_eq!(story.state(), GroupState::Running);
        story.back("b1", true);
        assert_eq!(story.state(), GroupState::Failed);
        assert_eq!(story.member("a1"), &MemberState::Completed);
        assert_eq!(story.member("a2"), &MemberState::Completed);
    }

    #[test]
    fn stop_only_blocks_what_depends_on_it() {
        let stop = GroupSpec {
            on_failure: OnFailure::Stop,
            ..spec(&["a", "b: a", "c: a", "d: b", "e: d", "f: c"])
        };
        let mut story = Story::new(stop);
        story.end("a", Outcome::Completed);
        assert_eq!(story.end("b", Outcome::Failed), "");
        assert_eq!(
            story.member("e"),
            &MemberState::Blocked { culprit: id("b") }
        );
        assert_eq!(story.end("c", Outcome::Completed), "+f");
        story.end("f", Outcome::Completed);
        assert_eq!(story.state(), GroupState::Failed);
        assert_eq!(story.member("a"), &MemberState::Completed);
    }

    #[test]
    fn the_operator_cancels_and_nothing_is_rolled_back() {
        let mut story = Story::new(spec(&["a", "b: a", "c: b", "x"]));
        story.end("a", Outcome::Completed);
        assert_eq!(story.say(Input::Cancel).unwrap(), "!b !x");
        assert_eq!(
            story.group.waiting_on().unwrap(),
            "default/b, default/x to be canceled"
        );
        assert_eq!(story.say(Input::Cancel).unwrap(), "");
        assert_eq!(story.end("x", Outcome::Canceled), "");
        assert_eq!(story.end("b", Outcome::Failed), "");
        assert_eq!(story.state(), GroupState::Canceled);
        assert_eq!(story.member("a"), &MemberState::Completed);
        assert_eq!(story.member("c"), &MemberState::Canceled);
        assert_eq!(
            story.say(Input::Start),
            Err(Rejection::Ended(GroupState::Canceled))
        );
    }

    #[test]
    fn a_cancel_stops_a_take_back_where_it_is() {
        let mut story = Story::new(spec(&["a", "b: a", "c: b", "d: b"]));
        story.end("a", Outcome::Completed);
        story.end("b", Outcome::Completed);
        assert_eq!(story.end("c", Outcome::Failed), "!d");
        assert_eq!(story.end("d", Outcome::Canceled), "-d");
        assert_eq!(story.say(Input::Cancel).unwrap(), "");
        assert_eq!(
            story.group.waiting_on().unwrap(),
            "default/d to be rolled back"
        );
        assert_eq!(story.back("d", true), "");
        assert_eq!(story.state(), GroupState::Canceled);
        assert_eq!(story.member("b"), &MemberState::Completed);
    }

    #[test]
    fn a_group_can_be_canceled_before_it_starts() {
        let (mut group, _) = Group::new(at(0), spec(&["a"])).unwrap();
        assert_eq!(group.waiting_on().unwrap(), "the command to start");
        group.step(at(1), Input::Cancel).unwrap();
        assert_eq!(group.state().state(), GroupState::Canceled);
    }

    #[test]
    fn stray_reports_are_refused_and_repeated_ones_ignored() {
        let mut story = Story::new(spec(&["a", "b: a"]));
        let finished = |job: &str, outcome| Input::Finished {
            job: id(job),
            outcome,
        };
        let stray = story.say(finished("x", Outcome::Completed)).unwrap_err();
        assert_eq!(stray, Rejection::NotAMember(id("x")));
        let early = story.say(finished("b", Outcome::Completed)).unwrap_err();
        assert_eq!(
            early.to_string(),
            "job default/b is waiting and cannot be reported completed now; look at the group before you report again"
        );
        assert_eq!(story.say(Input::Start).unwrap(), "");
        story.end("a", Outcome::Completed);
        assert_eq!(story.end("a", Outcome::Completed), "");
        story.say(finished("a", Outcome::Failed)).unwrap_err();
        story
            .say(Input::RollbackFinished {
                job: id("a"),
                ok: true,
            })
            .unwrap_err();
        story.end("b", Outcome::Failed);
        assert_eq!(story.end("a", Outcome::Completed), "");
        story.back("a", true);
        let length = story.log.len();
        story.back("a", true);
        story.end("b", Outcome::Failed);
        story
            .say(Input::RollbackFinished {
                job: id("a"),
                ok: false,
            })
            .unwrap_err();
        assert_eq!(
            story.say(Input::Cancel),
            Err(Rejection::Ended(GroupState::Failed))
        );
        assert_eq!(story.log.len(), length);
    }

    #[test]
    fn a_spec_says_all_that_is_wrong_at_once() {
        let mut wrong = spec(&[
            "a: c",
            "b: a",
            "c: b",
            "d: d nope",
            "e",
            "e",
            "y: x",
            "x: y a",
        ]);
        wrong.name = "no name".into();
        let errors = Group::new(at(0), wrong).unwrap_err();
        let expected = [
            GroupError::InvalidName(InvalidName("no name".into())),
            GroupError::ListedTwice(id("e")),
            GroupError::SelfDependency(id("d")),
            GroupError::UnknownDependency {
                job: id("d"),
                after: id("nope"),
            },
            GroupError::Cycle(["a", "c", "b", "a"].map(id).into()),
            GroupError::Cycle(["x", "y", "x"].map(id).into()),
        ];
        assert_eq!(errors.0, expected);
        assert_eq!(
            errors.0[4].to_string(),
            "members: default/a after default/c after default/b after default/a: none of them could start; take one of these out"
        );
        assert_eq!(
            Group::new(at(0), spec(&[])).unwrap_err().0,
            [GroupError::Empty]
        );
        let names: Vec<String> = (0..=GROUP_MEMBERS_MAX)
            .map(|number| format!("j{number}"))
            .collect();
        let many = spec(&names.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(
            Group::new(at(0), many).unwrap_err().0,
            [GroupError::TooMany(1001)]
        );
    }

    #[test]
    fn entries_and_snapshots_are_json() {
        let mut story = Story::new(spec(&["a", "b: a"]));
        let text = serde_json::to_string(&story.log[2]).unwrap();
        assert_eq!(
            text,
            r#"{"seq":3,"at":1000001,"kind":"jobs_started","body":{"jobs":["default/a"]}}"#
        );
        let text = serde_json::to_string(&story.log[1]).unwrap();
        assert_eq!(serde_json::from_str::<Entry>(&text).unwrap(), story.log[1]);
        let text = serde_json::to_string(&story.group.state).unwrap();
        let snapshot: State = serde_json::from_str(&text).unwrap();
        let seen = story.log.len();
        story.end("a", Outcome::Failed);
        let again = Group::recover_from(snapshot.clone(), &story.log[seen..]).unwrap();
        assert_eq!(again.state, story.group.state);
        let gap = Group::recover_from(snapshot, &story.log[seen + 1..]).unwrap_err();
        assert_eq!(
            gap,
            RecoverError::Gap {
                expected: 4,
                found: 5
            }
        );
        assert_eq!(
            Group::recover(&story.log[1..]).unwrap_err(),
            RecoverError::NoBeginning
        );
    }

    /// Jobs j0 to j7; bit j of a member's mask puts it after job j, if that comes earlier.
    fn dag(masks: &[u8]) -> GroupSpec {
        let member = |(at, mask): (usize, &u8)| {
            let after = (0..at).filter(|bit| mask >> bit & 1 == 1);
            Member {
                job: number(at),
                after: after.map(number).collect(),
            }
        };
        let members = masks.iter().enumerate().map(member).collect();
        GroupSpec {
            name: "any".into(),
            on_failure: OnFailure::Rollback,
            members,
        }
    }

    fn number(at: usize) -> JobId {
        id(&format!("j{at}"))
    }

    /// A job and all that depends on it, from the masks alone.
    fn dependents(masks: &[u8], at: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([at]);
        for (other, mask) in masks.iter().enumerate() {
            if (0..other).any(|bit| mask >> bit & 1 == 1 && found.contains(&bit)) {
                found.insert(other);
            }
        }
        found
    }

    /// A job and all that is connected with it, from the masks alone.
    fn connected(masks: &[u8], at: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([at]);
        for _ in masks {
            for (other, mask) in masks.iter().enumerate() {
                for bit in (0..other).filter(|bit| mask >> bit & 1 == 1) {
                    if found.contains(&bit) || found.contains(&other) {
                        found.extend([bit, other]);
                    }
                }
            }
        }
        found
    }

    fn masks() -> impl Strategy<Value = Vec<u8>> {
        // Two masks over each other keep some groups sparse, with several parts.
        let mask = (any::<u8>(), any::<u8>(), any::<bool>());
        let mask = mask.prop_map(|(a, b, dense)| if dense { a } else { a & b & 0x55 });
        prop::collection::vec(mask, 1..=8)
    }

    proptest! {
        /// A driver that carries out whatever is outstanding, in any order and with any result.
        #[test]
        fn any_group_with_any_outcomes_keeps_the_order_and_ends(
            masks in masks(),
            stop in any::<bool>(),
            cancel_at in prop::option::weighted(0.2, 0..12usize),
            luck in prop::collection::vec((any::<u8>(), 0..10u8), 40),
        ) {
            let mut spec = dag(&masks);
            if stop {
                spec.on_failure = OnFailure::Stop;
            }
            let index = |job: &JobId| job.name()[1..].parse::<usize>().unwrap();
            let mut story = Story::new(spec);
            let (mut bad, mut touched) = (BTreeSet::new(), BTreeSet::new());
            let mut completed = BTreeSet::new();
            let (mut started, mut rolled_back) = (BTreeSet::new(), BTreeSet::new());
            let mut canceled = false;
            let mut seen = 0;
            for (step, (pick, dice)) in luck.into_iter().enumerate() {
                // What the last step ordered.
                for effect in story.log[seen..].iter().flat_map(Entry::effects) {
                    match effect {
                        Effect::StartJob(job) => {
                            let at = index(&job);
                            prop_assert!(!canceled && started.insert(at));
                            prop_assert!((0..at).all(|bit| masks[at] >> bit & 1 == 0 || completed.contains(&bit)));
                            prop_assert!(bad.iter().all(|bad| !dependents(&masks, *bad).contains(&at)));
                        }
                        Effect::RollBackJob(job) => {
                            let at = index(&job);
                            prop_assert!(!canceled && !stop);
                            let mut others = dependents(&masks, at);
                            others.remove(&at);
                            let gone = |other: &usize| {
                                !started.contains(other) || rolled_back.contains(other) || bad.contains(other)
                            };
                            prop_assert!(others.iter().all(gone));
                            touched.insert(at);
                        }
                        Effect::CancelJob(job) => {
                            touched.insert(index(&job));
                        }
                    }
                }
                seen = story.log.len();
                if cancel_at == Some(step) && story.state() == GroupState::Running {
                    story.say(Input::Cancel).unwrap();
                    canceled = true;
                    continue;
                }
                let outstanding = story.group.outstanding();
                prop_assert_eq!(outstanding.is_empty(), story.state() != GroupState::Running);
                prop_assert_eq!(story.group.waiting_on().is_some(), story.state() == GroupState::Running);
                if outstanding.is_empty() {
                    break;
                }
                match outstanding[pick as usize % outstanding.len()].clone() {
                    Effect::StartJob(job) | Effect::CancelJob(job) => {
                        let outcome = match dice {
                            0..7 => Outcome::Completed,
                            7 => Outcome::Failed,
                            8 => Outcome::RolledBack,
                            _ => Outcome::Canceled,
                        };
                        let canceling = *story.member(job.name()) == MemberState::Canceling;
                        match outcome {
                            Outcome::Completed => {
                                completed.insert(index(&job));
                            }
                            Outcome::Canceled if canceling => {}
                            Outcome::Failed | Outcome::RolledBack | Outcome::Canceled => {
                                bad.insert(index(&job));
                            }
                        }
                        story.say(Input::Finished { job, outcome }).unwrap();
                    }
                    Effect::RollBackJob(job) => {
                        rolled_back.insert(index(&job));
                        story.say(Input::RollbackFinished { job, ok: dice < 7 }).unwrap();
                    }
                }
            }
            let state = story.state();
            if canceled {
                prop_assert_eq!(state, GroupState::Canceled);
                return Ok(());
            }
            let all = completed.len() == masks.len() && bad.is_empty();
            prop_assert_eq!(state, if all { GroupState::Completed } else { GroupState::Failed });
            for at in 0..masks.len() {
                let part = connected(&masks, at);
                let member = story.member(number(at).name());
                if bad.is_disjoint(&part) {
                    // Nobody near it ended badly: it ran and was left alone.
                    prop_assert_eq!(member, &MemberState::Completed);
                    prop_assert!(!touched.contains(&at));
                } else if !stop {
                    prop_assert!(is_settled(member), "{at} is {member:?}");
                }
            }
        }
    }
}
