//! Whether an entry of a log says what can have happened: a damaged one is refused, not believed.

use super::rules::{end, is_bad, needs_deployment};
use super::{Event, GroupState, LedTo, MemberState, MemberStatus, State};
use crate::id::JobId;

/// Whether the event follows on the state: it speaks of members, and of what can become of them where they are.
/// Whether it was the right thing to do is not asked, so that a log survives a change of the rules.
pub(super) fn fits(state: &State, event: &Event) -> bool {
    let running = state.state == GroupState::Running;
    let member = |job: &JobId, was: &dyn Fn(&MemberStatus) -> bool| {
        running && state.member(job).is_some_and(was)
    };
    // In the order of their names, each once.
    let all = |jobs: &[JobId], was: &dyn Fn(&MemberState) -> bool| {
        jobs.is_sorted_by(|job, next| job < next)
            && jobs
                .iter()
                .all(|job| state.member(job).is_some_and(|m| was(&m.state)))
    };
    let waits = |state: &MemberState| *state == MemberState::Waiting;
    let runs = |state: &MemberState| *state == MemberState::Running;
    match event {
        Event::Created { .. } => false,
        Event::Started => state.state == GroupState::Pending && !state.canceled,
        Event::JobsStarted { jobs } => {
            running && !state.canceled && !jobs.is_empty() && all(jobs, &waits)
        }
        Event::JobAnswered { job, led_to } => member(job, &|member| match member.state {
            MemberState::Running | MemberState::Canceling => member.deployment.is_none(),
            MemberState::RollingBack => member.rollback.is_none() && *led_to != LedTo::Unchanged,
            _ => false,
        }),
        Event::JobEnded { job, outcome } => member(job, &|member| {
            matches!(
                member.state,
                MemberState::Running | MemberState::Awaited | MemberState::Canceling
            ) && (member.deployment.is_some() || !needs_deployment(*outcome))
        }),
        Event::TakeBackBegan {
            culprit,
            blocked,
            canceling,
        } => {
            member(culprit, &|culprit| is_bad(&culprit.state))
                && !state.canceled
                && !state.culprits.contains(culprit)
                && all(blocked, &waits)
                && all(canceling, &runs)
        }
        Event::DependentsBlocked { culprit, blocked } => {
            member(culprit, &|culprit| is_bad(&culprit.state))
                && !state.canceled
                && !blocked.is_empty()
                && all(blocked, &waits)
        }
        Event::RollbacksStarted { jobs } => {
            let may_go_back = |state: &MemberState| {
                matches!(state, MemberState::Completed | MemberState::Stopped)
            };
            running && !state.canceled && !jobs.is_empty() && all(jobs, &may_go_back)
        }
        Event::RollbackEnded { job, .. } => {
            member(job, &|member| member.state == MemberState::RollingBack)
        }
        Event::CancelBegan { canceling } => {
            let open = matches!(state.state, GroupState::Pending | GroupState::Running);
            open && !state.canceled && all(canceling, &runs)
        }
        Event::Ended { .. } => {
            let open = running || state.state == GroupState::Pending && state.canceled;
            open && end(state).as_ref() == Some(event)
        }
    }
}
