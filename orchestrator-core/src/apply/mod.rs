//! The only mutator: what each fact means. No rule, no check, no time but the entry's.

mod deployment;
mod executions;
mod nodes;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::deployment::{
    begin, dispatched, each_heard, ended, failed, name_culprit, resumed, skip, unhealthy, well,
};
pub(crate) use self::executions::stay;
use self::executions::{lay_out, placed, retire_all, scaled, tell};
use self::nodes::{Changed, joined, node_changed, replace};
use crate::effect::Effect;
use crate::event::{DeploymentState, Entry, Event};
use crate::packed::U48;
use crate::rollout::{Rollout, STOPPED, TargetState};
use crate::runs::Runs;
use crate::spec::JobSpec;
use crate::state::{KEYS_KEPT, Moment, Stage, State, Version};

/// Takes a new entry in: its place in the log, then what it says.
pub(crate) fn apply(state: &mut State, entry: &Entry, effects: &mut Vec<Effect>) {
    state.seq = entry.seq;
    state.moment = Moment {
        wall: entry.at,
        elapsed: entry.elapsed,
    };
    // Before and not after: facts that one entry says together are taken in as if they had come one by one.
    if let Some(rollout) = &mut state.rollout {
        rollout.trim_queue();
    }
    facts(state, &entry.event, effects);
    if let (Some(of), Some(rollout)) = (entry.of, &mut state.rollout) {
        rollout.head.revision = of.revision;
        rollout.head.updated = entry.at;
    }
}

/// What an event says, as of the state's moment and position.
pub(crate) fn facts(state: &mut State, event: &Event, effects: &mut Vec<Effect>) {
    let at = state.moment.wall;
    let elapsed = state.moment.elapsed;
    match event {
        Event::Registered { version, spec } => registered(state, *version, spec, effects),
        Event::NodesJoined { nodes } => joined(state, nodes),
        Event::NodesChanged { status, nodes } => {
            let mut left = Vec::new();
            // One by one, as they were said: what takes the place of one may be on the next.
            for node in nodes.iter() {
                let Changed { missing, stopped } = node_changed(state, node, *status);
                replace(state, missing);
                if stopped {
                    left.push(node);
                }
            }
            withdraw(left, effects);
        }
        Event::NodeRelabeled { node, zone, load } => state.members.relabel(*node, zone, *load),
        Event::MembersListed => state.members_due = false,
        Event::Scaled { replicas, retired } => scaled(state, *replicas, retired, effects),
        Event::Placed { moves } => placed(state, moves, effects),
        Event::Retired { slots } => {
            // The youngest first: that is the order in which a node holds them.
            let mut nodes = retire_all(state, slots.iter().rev().copied());
            nodes.reverse();
            withdraw(nodes, effects);
        }
        Event::Requested(want) => state.want = Some(*want),
        Event::Started(started) => begin(state, started, effects),
        Event::Dispatched {
            wave,
            canary,
            targets,
            skipped,
        } => {
            dispatched(state, *wave, *canary, targets, effects);
            skip(state, skipped);
        }
        Event::Skipped { targets } => skip(state, targets),
        Event::Healthy { heard } => each_heard(state, heard, |target| {
            target.streak = 0;
            let begins = if target.is_unproven() {
                target.since == U48::from(STOPPED)
            } else {
                target.state() == TargetState::Updating
            };
            if begins {
                if !target.is_unproven() {
                    target.set_state(TargetState::Observing);
                }
                target.since = U48::from(elapsed);
            }
        }),
        Event::Unhealthy { heard, cause } => unhealthy(state, heard, *cause),
        Event::Restarted { heard } => each_heard(state, heard, |target| {
            if target.state() == TargetState::Observing {
                target.set_state(TargetState::Updating);
            }
        }),
        Event::Updated { heard } => {
            each_heard(state, heard, |target| {
                target.streak = 0;
                target.set_state(TargetState::Updated);
            });
            well(state, heard);
        }
        Event::Done { slots } => {
            for slot in slots {
                state.slots[*slot as usize].stage = Stage::Done;
                if state.due(*slot).is_none() && !state.is_left_over(*slot) {
                    state.strays.remove(slot);
                }
            }
        }
        Event::Failed { targets, reason } => failed(state, targets, reason),
        Event::Promoted { .. } => {
            let rollout = rollout(state);
            rollout.head.promoted = true;
            rollout.head.progress = Some(at);
        }
        Event::Paused { failure } => {
            let rollout = rollout(state);
            rollout.head.state = DeploymentState::Paused;
            // A failure while a person holds it: it has been held since then.
            rollout.paused_at.get_or_insert(elapsed);
            rollout.head.culprit = None;
            rollout.head.cause.clone_from(failure);
            name_culprit(state);
        }
        Event::Resumed => resumed(state),
        Event::Ended {
            state: ending,
            cause,
            aftermath,
        } => {
            let head = &mut rollout(state).head;
            head.state = *ending;
            head.completed = Some(at);
            head.cause = Some(cause.clone());
            head.aftermath = *aftermath;
            ended(state, *aftermath, effects);
        }
        Event::RolledBackBy { id } => rollout(state).head.rolled_back_by = Some(*id),
        Event::Converged { version, slots } => {
            for slot in slots.iter() {
                tell(state, slot, *version);
                state.strays.remove(&slot);
            }
            effects.push(Effect::Assign {
                version: *version,
                generation: state.seq,
                slots: slots.clone(),
            });
        }
        Event::ClockSetBack => {}
        Event::Absent { millis } => {
            if let Some(rollout) = &mut state.rollout {
                // While it is paused the deadlines stand still as it is.
                if rollout.paused_at.is_none() {
                    rollout.held += millis;
                }
                // Nor was anybody seen well meanwhile.
                for target in &mut rollout.targets {
                    target.hold_clock(*millis);
                }
            }
            state.leaving.hold(*millis);
        }
        Event::Forgot { version } => {
            state.versions.remove(version);
        }
        Event::Answered(answered) => {
            if state.keys.len() == KEYS_KEPT {
                state.keys.pop_front();
            }
            state.keys.push_back(answered.clone());
        }
    }
    if let Some(rollout) = &mut state.rollout {
        rollout.note_quiet(elapsed);
    }
}

fn registered(state: &mut State, version: u32, spec: &Arc<JobSpec>, effects: &mut Vec<Effect>) {
    let new = Version {
        spec: spec.clone(),
        registered: state.moment.wall,
        stable: false,
        rejected: false,
        failed: false,
        told: 0,
    };
    state.versions.insert(version, new);
    state.version_max = version;
    lay_out(state, version, spec.placement, effects);
}

/// Nodes that run less than before, if there are any.
fn withdraw(nodes: impl IntoIterator<Item = u32>, effects: &mut Vec<Effect>) {
    // Of several executions on a node it hears once.
    let mut seen = BTreeSet::new();
    let nodes: Runs = nodes
        .into_iter()
        .filter(|node| seen.insert(*node))
        .collect();
    if !nodes.is_empty() {
        effects.push(Effect::Withdraw { nodes });
    }
}

/// The rollout that a fact of a deployment speaks of.
fn rollout(state: &mut State) -> &mut Rollout {
    state
        .rollout
        .as_mut()
        .expect("a deployment's facts come after its start")
}
