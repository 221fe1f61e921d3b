//! Several jobs rolled out in the order of their dependencies, as one.
//!
//! A job starts when everything it is `after` has completed; independent ones run side by side.
//! When one ends badly, whatever depends on it never starts, and all that is connected with it is
//! taken back in the reverse order; what is not connected goes on. The group runs no rollout: its
//! effects are orders to jobs, and the driver reports how each ended.

mod spec;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use self::spec::Order;
pub use self::spec::{GroupError, GroupErrors, GroupSpec, Member, OnFailure};
use crate::format::{FormatError, decode_small, encode_small};
use crate::id::JobId;
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
    /// It ran already what the group wants: nothing was done, so nothing is to be taken back.
    Unchanged,
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
    /// Start the job's deployment, report with [`Input::Finished`]; as [unchanged](Outcome::Unchanged) where the
    /// answer says so. A group is started once: its name,
    /// [when it was made](State::created_at) and the job's name make an idempotency key.
    StartJob(JobId),
    /// Roll the job back to the version that its deployment began [from](crate::Record::from_version), by that
    /// number, or stop it where that is none; report with [`Input::RollbackFinished`].
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
    /// It was so already, and stays in any case.
    Unchanged,
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
                Outcome::Unchanged => MemberState::Unchanged,
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
    let completed = |at: &usize| is_well(&state.members[*at].state);
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
    // Looking at the direct dependents is enough: one is settled only after its own are. That has to be seen to
    // only for those that were not changed, which come from the last to the first.
    let mut settled: Vec<bool> = (state.members.iter())
        .map(|member| is_settled(&member.state))
        .collect();
    let mut last_first: Vec<usize> = (0..settled.len()).collect();
    last_first.sort_unstable_by_key(|&at| std::cmp::Reverse(order.depth[at]));
    for at in last_first {
        if state.members[at].state == MemberState::Unchanged {
            settled[at] = order.before[at].iter().all(|&dependent| settled[dependent]);
        }
    }
    let jobs = chosen(state, |at, member| {
        matches!(member.state, MemberState::Completed | MemberState::Stopped)
            && parts.contains(&order.part[at])
            && order.before[at].iter().all(|&dependent| settled[dependent])
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
    let completed = |member: &MemberStatus| is_well(&member.state);
    let ended = if state.canceled {
        GroupState::Canceled
    } else if state.members.iter().all(completed) {
        GroupState::Completed
    } else {
        GroupState::Failed
    };
    Some(Event::Ended { state: ended })
}

/// It is as the group wants it.
fn is_well(state: &MemberState) -> bool {
    matches!(state, MemberState::Completed | MemberState::Unchanged)
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
        | MemberState::Unchanged
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
        MemberState::Unchanged => "unchanged",
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
        Outcome::Unchanged => "unchanged",
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
