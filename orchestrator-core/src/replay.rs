//! The door that a log comes back by: an entry is taken in when it speaks of nothing but what is there, which is what
//! [`apply`] takes for granted.

use std::collections::BTreeSet;

use crate::admit;
use crate::apply::apply;
use crate::effect::Effect;
use crate::event::{Cause, Entry, Event, Heard, Of};
use crate::id::DeploymentId;
use crate::selector::LABEL_BYTES_MAX;
use crate::spec::REPLICAS_MAX;
use crate::state::{NONE, State};

/// Takes in the entry that follows.
pub(crate) fn take_in(
    state: &mut State,
    entry: &Entry,
    effects: &mut Vec<Effect>,
) -> Result<(), BrokenLog> {
    check(state, entry)?;
    apply(state, entry, effects);
    state.step_left = entry.more;
    Ok(())
}

/// Whether an entry is the one that follows.
pub(crate) fn check(state: &State, entry: &Entry) -> Result<(), BrokenLog> {
    follows(state.seq, entry.seq)?;
    let fits = fits_in_step(state, entry)
        && fits_in_time(state, entry)
        && entry.of == of(state, &entry.event)
        && fits_in_state(state, entry);
    if fits {
        Ok(())
    } else {
        Err(BrokenLog::DoesNotFit { seq: entry.seq })
    }
}

/// Whether a log that ends at `last` goes on with `found`.
pub(crate) fn follows(last: u64, found: u64) -> Result<(), BrokenLog> {
    let expected = last + 1;
    if found == expected {
        Ok(())
    } else {
        Err(BrokenLog::Gap { expected, found })
    }
}

/// The deployment that a fact belongs to, and its revision from there on.
#[inline]
pub(crate) fn of(state: &State, event: &Event) -> Option<Of> {
    let next = |r: &crate::rollout::Rollout| Of {
        deployment: r.head.number,
        revision: r.head.revision.saturating_add(1),
    };
    match (event, &state.rollout) {
        (Event::Started(started), _) => Some(Of {
            deployment: started.number,
            revision: 1,
        }),
        (Event::Answered(_), _) => None,
        (Event::RolledBackBy { .. }, Some(r)) => Some(next(r)),
        (_, Some(r)) if !r.head.state.is_final() => Some(next(r)),
        _ => None,
    }
}

/// A log that does not go on where the machine is: a job, the fleet or a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BrokenLog {
    /// Entries are missing, or come twice.
    #[error("{}", gap(*expected, *found))]
    Gap {
        /// The position that is next.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// There is not one entry, and a group begins with one.
    #[error("the log is empty: a group's begins with how it was made")]
    NoBeginning,
    /// An entry speaks of what is not there. The machine holds what came before it.
    #[error(
        "entry {seq} of the log does not fit what comes before it: it is another one's, was made with another seed, or is damaged: give it the id and the seed that it was made with, or restore it"
    )]
    DoesNotFit {
        /// Its position.
        seq: u64,
    },
    /// Its last step is not whole. Nobody was told of it: cut it off, from the log too.
    #[error(
        "the log ends within a step, {missing} of its entries are missing: cut it off after entry {whole}"
    )]
    Torn {
        /// The last entry of the last whole step; 0 = there is none.
        whole: u64,
        /// How many are missing.
        missing: u32,
    },
}

fn gap(expected: u64, found: u64) -> String {
    if found < expected {
        let last = expected - 1;
        return format!(
            "entry {found} comes again: everything up to {last} was taken in already; go on after that"
        );
    }
    format!("the log goes on with entry {found} where {expected} is next: entries are missing")
}

/// The most that a job's time can come to, whatever clocks do: 8,900 years, one short of the mark of a stopped clock.
pub(crate) const TIME_MAX: u64 = (1 << 48) - 2;

/// The most that passes between two steps, a year: a clock that says more has gone mad, and is not to use time up.
pub(crate) const STEP_MAX: u64 = 365 * 24 * 3600 * 1000;

/// Each entry of a step says how many follow.
fn fits_in_step(state: &State, entry: &Entry) -> bool {
    state.step_left == 0 || entry.more == state.step_left - 1
}

/// The job's time only grows, by no more than there is time.
fn fits_in_time(state: &State, entry: &Entry) -> bool {
    (state.moment.elapsed..=TIME_MAX).contains(&entry.elapsed)
}

fn fits_in_state(state: &State, entry: &Entry) -> bool {
    let node = |node: u32| node < state.members.len();
    let slot = |&slot: &u32| state.slots.get(slot as usize).is_some_and(|s| s.live);
    let version = |version: u32| version == 0 || state.versions.contains_key(&version);
    let rows = state.active().map_or(&[][..], |r| &r.targets);
    let target = |t: u32| (t as usize) < rows.len();
    let sent = |t: u32| rows.get(t as usize).is_some_and(|row| row.dispatch > 0);
    let heard = |heard: &[Heard]| heard.iter().all(|&(t, _)| sent(t));
    let active = state.active().is_some();
    match &entry.event {
        Event::Registered { version, spec } => {
            spec.id == state.id && *version == state.version_max + 1 && spec.check().is_ok()
        }
        Event::NodesJoined { nodes } => nodes.iter().all(|m| admit::check_member(m, 1).is_ok()),
        Event::NodesChanged { nodes, .. } => nodes.iter().all(node),
        Event::NodeRelabeled { node: n, zone, .. } => node(*n) && zone.len() <= LABEL_BYTES_MAX,
        Event::Scaled { replicas, retired } => {
            *replicas <= REPLICAS_MAX && state.replicas.is_some() && retired.iter().all(slot)
        }
        Event::Placed { moves } => moves.iter().all(|&(s, n, v)| {
            let somewhere = || state.unplaced.contains(&s) || state.slots[s as usize].node != NONE;
            state.replicas.is_some() && slot(&s) && somewhere() && node(n) && version(v)
        }),
        Event::Retired { slots } | Event::Done { slots } => slots.iter().all(slot),
        Event::Requested(want) => version(want.to),
        Event::Started(started) => {
            let distinct = |slots: &[u32]| {
                let set: BTreeSet<_> = slots.iter().collect();
                set.len() == slots.len()
            };
            started.id == DeploymentId::derive(state.seed, &state.id, started.number, entry.at)
                && started.number == state.deployments + 1
                && !active
                && version(started.from)
                && version(started.to)
                && started.order.iter().all(slot)
                && distinct(&started.order)
                && started
                    .spec
                    .gate()
                    .is_none_or(|gate| (1..=TIME_MAX).contains(&gate.deadline.as_millis()))
        }
        Event::Dispatched {
            wave,
            targets,
            skipped,
            canary: _,
        } => {
            let next = state.active().and_then(|r| r.head.wave.checked_add(1));
            next == Some(*wave) && targets.iter().chain(skipped.iter()).all(target)
        }
        Event::Skipped { targets } => active && targets.iter().all(target),
        Event::Failed { targets, .. } => active && targets.iter().all(sent),
        Event::Healthy { heard: told }
        | Event::Unhealthy { heard: told, .. }
        | Event::Restarted { heard: told }
        | Event::Updated { heard: told } => active && heard(told),
        Event::Promoted { .. } | Event::Resumed | Event::Paused { failure: None } => active,
        Event::Ended { cause, .. }
        | Event::Paused {
            failure: Some(cause),
        } => {
            active
                && match cause {
                    Cause::CanaryFailed { target: t } => target(*t),
                    _ => true,
                }
        }
        Event::RolledBackBy { .. } => state.rollout.is_some(),
        Event::Converged { version: v, slots } => version(*v) && slots.iter().all(|s| slot(&s)),
        Event::Absent { millis } => *millis <= entry.elapsed.saturating_sub(state.moment.elapsed),
        Event::Forgot { version } => {
            let told = state.versions.get(version).map_or(0, |v| v.told);
            told == 0 && *version != state.layout && *version != state.current
        }
        Event::MembersListed | Event::ClockSetBack | Event::Answered(_) => true,
    }
}
