//! The three functions of a group: what is let in, what it changes, and what follows from it.

use std::collections::BTreeSet;

use super::{
    Entry, Event, GroupState, Input, LedTo, MemberState, MemberStatus, OnFailure, Order, Outcome,
    Rejection, State, outcome_words,
};
use crate::id::JobId;

/// All checking. `None`: it was said before, and nothing is to be done.
pub(super) fn admit(state: &State, input: Input) -> Result<Option<Event>, Rejection> {
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
        Input::Answered { job, led_to } => {
            let Some(member) = state.member(&job) else {
                return Err(Rejection::NotAMember(job));
            };
            match (&member.state, led_to) {
                (MemberState::Running | MemberState::Canceling, _)
                    if member.deployment.is_none() =>
                {
                    Ok(Some(Event::JobAnswered { job, led_to }))
                }
                (MemberState::RollingBack, LedTo::Unchanged) => {
                    Ok(Some(Event::RollbackEnded { job, ok: true }))
                }
                (MemberState::RollingBack, _) if member.rollback.is_none() => {
                    Ok(Some(Event::JobAnswered { job, led_to }))
                }
                (MemberState::Unchanged, LedTo::Unchanged) => Ok(None),
                _ if [member.deployment, member.rollback].contains(&led_to.deployment())
                    && led_to != LedTo::Unchanged =>
                {
                    Ok(None)
                }
                _ => Err(does_not_fit(member, "answered")),
            }
        }
        Input::Finished { job, outcome } => {
            let Some(member) = state.member(&job) else {
                return Err(Rejection::NotAMember(job));
            };
            match member.state {
                MemberState::Running | MemberState::Awaited | MemberState::Canceling => {
                    if needs_deployment(outcome) && member.deployment.is_none() {
                        let report = outcome_words(outcome);
                        return Err(Rejection::NotAnswered { job, report });
                    }
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

/// Only a deployment can come to such an end; the others are also those of a start that was refused, or never made.
pub(super) fn needs_deployment(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Completed | Outcome::RolledBack => true,
        Outcome::Failed | Outcome::Canceled => false,
    }
}

/// The only mutator. Total: an entry about a job that is not there changes nothing, and neither `admit` nor `fits`
/// lets one through.
pub(super) fn apply(state: &mut State, entry: &Entry) {
    let Entry { seq, at: _, event } = entry;
    state.seq = *seq;
    match event {
        // The state was made from it; nothing has changed since.
        Event::Created { .. } => {}
        Event::Started => state.state = GroupState::Running,
        Event::JobsStarted { jobs } => put(state, jobs, &MemberState::Running),
        Event::JobAnswered { job, led_to } => {
            let canceled_by_operator = state.canceled;
            let Some(at) = state.position(job) else {
                return;
            };
            let member = &mut state.members[at];
            if member.state == MemberState::RollingBack {
                member.rollback = led_to.deployment();
                return;
            }
            member.deployment = led_to.deployment();
            match *led_to {
                LedTo::Began { from, .. } => member.from = from,
                // What others began is not the group's to cancel, also if that was on its way.
                LedTo::Awaited { .. } if canceled_by_operator => {
                    member.state = MemberState::Canceled;
                }
                LedTo::Awaited { .. } => member.state = MemberState::Awaited,
                LedTo::Unchanged => member.state = MemberState::Unchanged,
            }
        }
        Event::JobEnded { job, outcome } => {
            let canceled_by_operator = state.canceled;
            let Some(at) = state.position(job) else {
                return;
            };
            let member = &mut state.members[at];
            member.outcome = Some(*outcome);
            member.state = match outcome {
                Outcome::Completed if member.state == MemberState::Awaited => {
                    MemberState::Unchanged
                }
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
                if matches!(
                    member.state,
                    MemberState::Waiting | MemberState::Awaited | MemberState::Stopped
                ) {
                    member.state = MemberState::Canceled;
                }
            }
        }
        Event::Ended { state: ended } => state.state = *ended,
    }
}

/// The first rule that has something to say.
pub(super) fn decide(state: &State, order: &Order) -> Option<Event> {
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
pub(super) fn end(state: &State) -> Option<Event> {
    if state
        .members
        .iter()
        .any(|member| is_under_way(&member.state))
    {
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

fn is_under_way(state: &MemberState) -> bool {
    matches!(
        state,
        MemberState::Running
            | MemberState::Awaited
            | MemberState::Canceling
            | MemberState::RollingBack
    )
}

/// It is as the group wants it.
pub(super) fn is_well(state: &MemberState) -> bool {
    matches!(state, MemberState::Completed | MemberState::Unchanged)
}

/// A bad end that has consequences for others.
pub(super) fn is_bad(state: &MemberState) -> bool {
    matches!(
        state,
        MemberState::Failed | MemberState::RolledBack | MemberState::Canceled
    )
}

/// Never started, or nothing is left to take back.
pub(super) fn is_settled(state: &MemberState) -> bool {
    match state {
        MemberState::Failed
        | MemberState::RolledBack
        | MemberState::Canceled
        | MemberState::TakenBack
        | MemberState::TakeBackFailed
        | MemberState::Blocked { .. } => true,
        MemberState::Waiting
        | MemberState::Running
        | MemberState::Awaited
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
