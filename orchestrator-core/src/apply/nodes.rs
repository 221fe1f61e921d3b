//! Nodes: what becomes of the executions there when a node comes, goes, or falls silent.

use super::executions::{add_slot, adopt, at_work, retire, set_gone, stray, tell, want};
use super::rollout;
use crate::event::{Member, Presence};
use crate::rollout::{Rollout, TargetState};
use crate::room;
use crate::state::{NONE, Slot, Stage, State};
use crate::time::Time;

pub(super) fn joined(state: &mut State, nodes: &[Member]) {
    state
        .members
        .reserve(nodes.len(), nodes.iter().map(|n| n.name.len()).sum());
    if state.replicas.is_none() && state.version_max > 0 {
        room::reserve(&mut state.slots, nodes.len());
    }
    for member in nodes {
        let node = state
            .members
            .add(&member.name, &member.zone, member.load, member.status);
        if state.replicas.is_none() && state.version_max > 0 {
            add_slot(state, node);
        }
    }
}

/// What came of a node's change.
#[derive(Default)]
pub(super) struct Changed {
    /// So many executions of a replicated job it has cost.
    pub(super) missing: u32,
    /// The node is there, and something that ran on it is to run no more.
    pub(super) stopped: bool,
}

pub(super) fn node_changed(state: &mut State, node: u32, status: Presence) -> Changed {
    state.members.set_presence(node, status);
    let replicated = state.replicas.is_some();
    if status.matches() && state.version_max > 0 {
        if replicated {
            adopt_for_unplaced(state, node);
        } else {
            adopt(state, node);
        }
    }
    let mut changed = Changed::default();
    for slot in state.members.slots(node).collect::<Vec<_>>() {
        match status {
            Presence::Ready => back(state, slot),
            Presence::Disconnected | Presence::Down => lost(state, slot, status),
            Presence::Draining => changed.stopped |= drained(state, slot),
            // It keeps its part in the deployment, and its zone, until it has another node.
            Presence::Gone | Presence::Unmatched if replicated && unbound(state, slot, status) => {
                lost(state, slot, status);
                state.members.detach(node, slot);
                state.members.keep_name(node);
                state.unplaced.insert(slot);
            }
            Presence::Unmatched => {
                leave(state, slot);
                set_gone(state, slot, true);
                if state.surplus.insert(slot) && replicated {
                    changed.missing += 1;
                }
            }
            Presence::Gone => {
                retire(state, slot);
            }
        }
        if !status.is_ready() && state.slots[slot as usize].live {
            state.strays.remove(&slot);
            stray(state, slot);
        }
        state.review_spare(slot);
    }
    review_leaving(state, node);
    state.review_others(node);
    state.members.forget(node);
    changed
}

/// An execution is on a node that gives up its work. Whether it stops there.
pub(super) fn drained(state: &mut State, slot: u32) -> bool {
    if state.replicas.is_some() {
        // Those that are wanted stay until they have another node. Nothing waits for the others to go elsewhere.
        if state.surplus.contains(&slot) {
            return retire(state, slot).is_some();
        }
        back_from_silence(state, slot);
        return false;
    }
    leave(state, slot);
    let stops = at_work(state, slot);
    let Slot { told, stage, .. } = state.slots[slot as usize];
    if stage != Stage::Done {
        tell(state, slot, 0);
        let ran = told != 0 && told == state.current;
        if ran || told == 0 && stage == Stage::Drained {
            state.slots[slot as usize].stage = Stage::Drained;
        }
    }
    stops
}

/// Whether an execution of a replicated job is there still though its node is not: what is done does not have to be
/// done again elsewhere.
fn unbound(state: &State, slot: u32, status: Presence) -> bool {
    let done = state.slots[slot as usize].is_done();
    !state.surplus.contains(&slot) && (status == Presence::Gone || done)
}

/// So many executions of a replicated job are on nodes that match no longer: others take their place, first
/// those that a canceled version had left out and that run where they should.
pub(super) fn replace(state: &mut State, missing: u32) {
    for _ in 0..missing {
        let base = state.base();
        let right = state.spare.range((base, 0)..=(base, u32::MAX));
        let spare = right.chain(&state.spare).next();
        let Some(&(_, slot)) = spare else {
            add_slot(state, NONE);
            continue;
        };
        want(state, slot);
        back(state, slot);
        review_leaving(state, state.slots[slot as usize].node);
    }
}

/// A node matches (again): executions there are wanted rather than those that wait for a node, and run nothing.
fn adopt_for_unplaced(state: &mut State, node: u32) {
    let left_out = state.members.slots(node);
    let left_out: Vec<u32> = left_out.filter(|s| state.surplus.contains(s)).collect();
    for slot in left_out {
        let waiting = state.unplaced.last().copied();
        let Some(waiting) = waiting.filter(|&s| state.slots[s as usize].told == 0) else {
            return;
        };
        if !state.has_place(node) {
            return;
        }
        retire(state, waiting);
        want(state, slot);
    }
}

/// Whether a node is to be left follows from how it is and what it holds; a wait that has begun goes on.
pub(super) fn review_leaving(state: &mut State, node: u32) {
    let presence = state.members.presence(node);
    let now = state.moment.elapsed;
    let away = matches!(presence, Presence::Down | Presence::Draining);
    let mut slots = state.members.slots(node);
    let left = away && slots.any(|s| !state.surplus.contains(&s));
    if state.replicas.is_none() || !left {
        state.leaving.remove(node);
    } else if presence == Presence::Draining {
        state.leaving.insert(node, now);
    } else if !state.leaving.contains(node) {
        let lost_after = state.spec().map_or(0, |s| s.lost_after.as_millis());
        state.leaving.insert(node, now + lost_after);
    }
}

/// The node of an execution is ready (again).
pub(super) fn back(state: &mut State, slot: u32) {
    back_from_silence(state, slot);
    if !state.surplus.contains(&slot) {
        set_gone(state, slot, false);
        if let Some(target) = state.target_of(slot) {
            let at = state.moment.wall;
            let rollout = rollout(state);
            if rollout.targets[target as usize].state() == TargetState::Skipped {
                rollout.change(target, at, |t| t.set_state(TargetState::Pending));
                rollout.queue.push(target);
            }
        }
    }
    stray(state, slot);
}

fn back_from_silence(state: &mut State, slot: u32) {
    let Some(target) = state.target_of(slot) else {
        return;
    };
    let at = state.moment.wall;
    let rollout = rollout(state);
    if rollout.targets[target as usize].is_lost() {
        rollout.change(target, at, |t| t.set_lost(false));
    }
}

/// The node of an execution fell silent: what it had shown so far is no longer continuous.
fn lost(state: &mut State, slot: u32, status: Presence) {
    let Some(target) = target_at_work(state, slot) else {
        return;
    };
    let at = state.moment.wall;
    let rollout = rollout(state);
    let gated = rollout.head.spec.gate().is_some();
    rollout.change(target, at, |t| {
        t.set_lost(true);
        if t.is_unproven() {
            t.stop_clock();
        }
        if t.state().is_in_flight() {
            // Without a health check there is no deadline to come back before that is worth waiting for; and yet
            // what only blinks is not to be started from the beginning.
            t.set_state(if gated || status == Presence::Disconnected {
                TargetState::Updating
            } else {
                TargetState::Skipped
            });
        }
    });
}

/// An execution is taken off its node: no failure, and its turn is over until it is back.
pub(super) fn leave(state: &mut State, slot: u32) {
    let Some(target) = target_at_work(state, slot) else {
        return;
    };
    let at = state.moment.wall;
    let rollout = rollout(state);
    if rollout.targets[target as usize].state() == TargetState::Failed {
        return;
    }
    rollout.change(target, at, |t| {
        t.set_state(TargetState::Skipped);
        t.set_lost(false);
    });
    uncanary(rollout, target, at);
}

/// The target of an execution that has not done its work yet: what is done stays done, whatever becomes of
/// its node.
fn target_at_work(state: &State, slot: u32) -> Option<u32> {
    let done = state.slots[slot as usize].is_done();
    let target = state.target_of(slot)?;
    let row = state.active()?.targets[target as usize];
    (!done || row.state() != TargetState::Updated).then_some(target)
}

pub(super) fn uncanary(rollout: &mut Rollout, target: u32, at: Time) {
    if rollout.targets[target as usize].is_canary() && !rollout.head.promoted {
        rollout.change(target, at, |t| t.set_canary(false));
        rollout.canaries.remove(&target);
    }
}
