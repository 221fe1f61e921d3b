//! Executions: where they come to be, where they go, and what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::nodes::{back, drained, leave, replace, review_leaving};
use super::rollout;
use super::withdraw;
use crate::effect::Effect;
use crate::event::{DeploymentKind, Presence};
use crate::packed::U48;
use crate::rollout::{Head, Rollout, Target, TargetState};
use crate::room;
use crate::runs::Runs;
use crate::spec::{Canaries, JobSpec, Placement, Strategy};
use crate::state::{Moment, NONE, Slot, Stage, State};

/// Puts a version's placement in force: executions too many are surplus, and those that are missing come
/// to be.
pub(super) fn lay_out(
    state: &mut State,
    version: u32,
    placement: Placement,
    effects: &mut Vec<Effect>,
) {
    state.layout = version;
    match placement {
        Placement::Every => {
            state.replicas = None;
            state.members.drop_index();
            let more = (state.members.len() as usize).saturating_sub(state.slots.len());
            room::reserve(&mut state.slots, more);
            // What no node had taken is of no use any more.
            for slot in state.unplaced.clone() {
                retire(state, slot);
            }
            for node in 0..state.members.len() {
                if state.members.presence(node).matches() {
                    adopt(state, node);
                }
                let stays = one_of(state, version, node);
                let slots = state.members.slots(node);
                let others: Vec<u32> = slots.filter(|&slot| Some(slot) != stays).collect();
                state.surplus.extend(others);
            }
        }
        Placement::Replicas { count, distinct } => {
            state.replicas = Some(count);
            state.members.index(state.seed, distinct);
            let stay = so_many_of(state, version, count, distinct);
            for slot in (0..state.slots.len() as u32).filter(|slot| !stay.contains(slot)) {
                if state.unplaced.contains(&slot) {
                    retire(state, slot);
                } else if state.slots[slot as usize].live {
                    state.surplus.insert(slot);
                }
            }
            let missing = count.saturating_sub(stay.len() as u32);
            stay.iter().for_each(|slot| {
                state.surplus.remove(slot);
            });
            room::reserve(&mut state.slots, missing as usize);
            for _ in 0..missing {
                add_slot(state, NONE);
            }
        }
    }
    let mut left = Vec::new();
    for node in 0..state.members.len() {
        if state.members.presence(node) == Presence::Draining {
            let slots: Vec<u32> = state.members.slots(node).collect();
            if slots
                .into_iter()
                .filter(|&slot| drained(state, slot))
                .count()
                > 0
            {
                left.push(node);
            }
        }
        review_leaving(state, node);
    }
    withdraw(left, effects);
    state.spare = state.spare_now();
}

/// Puts the placement of an earlier version in force again, with as many executions as it had last.
pub(super) fn lay_out_again(state: &mut State, version: u32, effects: &mut Vec<Effect>) {
    let Some(spec) = state.versions.get(&version).map(|v| v.spec.clone()) else {
        return;
    };
    let asks = |spec: &JobSpec| (spec.selector.clone(), spec.rollout.spread.clone());
    if state.spec().is_none_or(|now| asks(now) != asks(&spec)) {
        state.members_due = true;
        effects.push(Effect::MembersNeeded);
    }
    lay_out(state, version, spec.placement, effects);
}

/// The executions that stay where a version's placement is in force: those that it has no use for are left out.
pub(crate) fn stay(state: &State, version: u32) -> BTreeSet<u32> {
    match state.versions.get(&version).map(|v| v.spec.placement) {
        Some(Placement::Every) => (0..state.members.len())
            .filter_map(|node| one_of(state, version, node))
            .collect(),
        Some(Placement::Replicas { count, distinct }) => {
            so_many_of(state, version, count, distinct)
        }
        None => BTreeSet::new(),
    }
}

/// One for each node that matches, and no second one: rather one that is wanted, and of those one that runs the version,
/// or anything at all.
fn one_of(state: &State, version: u32, node: u32) -> Option<u32> {
    if !state.members.presence(node).matches() {
        return None;
    }
    state.members.slots(node).min_by_key(|slot| {
        let told = state.slots[*slot as usize].told;
        (state.surplus.contains(slot), told != version, told == 0)
    })
}

/// First those that can run, then those that cannot now, and last those that run nowhere; and of them first those
/// that run the version already.
fn so_many_of(state: &State, version: u32, count: u32, distinct: bool) -> BTreeSet<u32> {
    let rank = |slot: u32| {
        if state.unplaced.contains(&slot) {
            2
        } else {
            u8::from(!state.is_ready(slot))
        }
    };
    let live = (0..state.slots.len() as u32).filter(|&s| state.slots[s as usize].live);
    let other = |slot: u32| state.slots[slot as usize].told != version;
    let mut slots: Vec<(u8, bool, u32)> = live.map(|s| (rank(s), other(s), s)).collect();
    slots.sort_unstable();
    let mut taken = BTreeSet::new();
    let fits = slots.into_iter().map(|(_, _, slot)| slot).filter(|slot| {
        if state.unplaced.contains(slot) {
            return true;
        }
        let node = state.slots[*slot as usize].node;
        let free = !distinct || !taken.contains(&node);
        let fits = free && state.members.presence(node) != Presence::Unmatched;
        if fits && distinct {
            taken.insert(node);
        }
        fits
    });
    fits.take(count as usize).collect()
}

/// A new execution on `node`, or on none yet; while a deployment goes on, its last target.
pub(super) fn add_slot(state: &mut State, node: u32) {
    let new = Slot {
        node,
        told: 0,
        target: NONE,
        generation: U48::default(),
        live: true,
        stage: Stage::Told,
    };
    let slot = if let Some(slot) = state.free.pop_first() {
        state.slots[slot as usize] = new;
        slot
    } else {
        room::push(&mut state.slots, new);
        state.slots.len() as u32 - 1
    };
    if node == NONE {
        state.unplaced.insert(slot);
    } else {
        state.members.attach(node, slot);
    }
    join(state, slot);
    stray(state, slot);
}

/// While a deployment goes on, an execution that it does not know becomes its last target.
///
/// What a rollback goes back to is run already by those that the bad version had left out.
fn join(state: &mut State, slot: u32) {
    let told = state.slots[slot as usize].told;
    let there = state
        .active()
        .is_none_or(|r| !r.is_forward() && r.head.to == told);
    if state.takes_joiners() && state.target_of(slot).is_none() && !there {
        let at = state.moment.wall;
        let rollout = rollout(state);
        let vacant = rollout.vacant.pop_first();
        let left = vacant.map(|target| rollout.targets[target as usize].slot);
        let target = match vacant {
            Some(target) => {
                rollout.change(target, at, |t| *t = Target::new(slot));
                target
            }
            None => rollout.push_target(slot),
        };
        rollout.queue.push(target);
        state.slots[slot as usize].target = target;
        if let Some(left) = left {
            forget(state, left);
        }
    }
}

/// No target speaks of an execution any more that was taken away.
fn forget(state: &mut State, slot: u32) {
    state.retired.remove(&slot);
    state.free.insert(slot);
    let node = std::mem::replace(&mut state.slots[slot as usize].node, NONE);
    if node != NONE {
        state.members.release_name(node);
    }
}

/// A node of a job that runs once on each matches (again): one of its executions is wanted.
pub(super) fn adopt(state: &mut State, node: u32) {
    let wanted = |slot: u32| !state.surplus.contains(&slot);
    if state.members.slots(node).any(wanted) {
        return;
    }
    let first = state.members.slots(node).next();
    match first {
        Some(slot) => want(state, slot),
        None => add_slot(state, node),
    }
}

/// An execution that was to stop is wanted again.
pub(super) fn want(state: &mut State, slot: u32) {
    state.surplus.remove(&slot);
    state.review_spare(slot);
    state.review_others(state.slots[slot as usize].node);
    set_gone(state, slot, false);
    join(state, slot);
    // It was to stop.
    state.strays.remove(&slot);
    stray(state, slot);
}

/// Notes an execution that no wave reaches and that should be told something else, or stop.
pub(super) fn stray(state: &mut State, slot: u32) {
    if state.due(slot).is_some() || state.is_left_over(slot) {
        state.strays.insert(slot);
    }
}

/// Takes an execution away; answers the node that has to hear of it, if it runs there.
pub(super) fn retire(state: &mut State, slot: u32) -> Option<u32> {
    retire_all(state, [slot].into_iter()).pop()
}

/// Takes executions away; answers the nodes that have to hear of it, for each that runs there.
pub(super) fn retire_all(state: &mut State, slots: impl Iterator<Item = u32>) -> Vec<u32> {
    let (mut ran, mut left) = (Vec::new(), BTreeSet::new());
    for slot in slots {
        let node = state.slots[slot as usize].node;
        if take_away(state, slot) {
            ran.push(node);
        }
        left.insert(node);
    }
    left.into_iter().for_each(|node| state.review_others(node));
    ran
}

/// Whether it ran.
fn take_away(state: &mut State, slot: u32) -> bool {
    if !state.slots[slot as usize].live {
        return false;
    }
    leave(state, slot);
    set_gone(state, slot, true);
    let ran = at_work(state, slot);
    tell(state, slot, 0);
    let node = state.slots[slot as usize].node;
    state.slots[slot as usize].live = false;
    let wanted = !state.surplus.remove(&slot);
    state.review_spare(slot);
    let placed = !state.unplaced.remove(&slot) && node != NONE;
    state.strays.remove(&slot);
    if placed {
        state.members.detach(node, slot);
        if wanted {
            review_leaving(state, node);
        }
    }
    if let Some(target) = state.target_of(slot) {
        rollout(state).vacate(target);
    }
    if state.is_named(slot) {
        // It keeps its node, so that its target has a name as long as it is looked at.
        state.retired.insert(slot);
        if placed {
            state.members.keep_name(node);
        }
    } else {
        state.slots[slot as usize].node = NONE;
        state.free.insert(slot);
        if !placed && node != NONE {
            state.members.release_name(node);
        }
    }
    placed && ran
}

/// Notes whether an execution is one to wait for.
pub(super) fn set_gone(state: &mut State, slot: u32, gone: bool) {
    if let Some(target) = state.target_of(slot) {
        let at = state.moment.wall;
        rollout(state).change(target, at, |t| t.set_gone(gone));
    }
}

/// Notes what a slot was told by the present entry.
pub(super) fn tell(state: &mut State, slot: u32, version: u32) {
    // An earlier program, which may have passed it over, has not noted when that was.
    if state.restarts.remove(&slot) && state.restarted == 0 {
        state.restarted = state.seq;
    }
    if state.spare.remove(&(state.slots[slot as usize].told, slot)) {
        state.spare.insert((version, slot));
    }
    let slot = &mut state.slots[slot as usize];
    if let Some(old) = state.versions.get_mut(&slot.told) {
        old.told -= 1;
    }
    if let Some(new) = state.versions.get_mut(&version) {
        new.told += 1;
    }
    // To be told the same once more proves nothing.
    if slot.told != version || slot.stage != Stage::Unproven {
        slot.stage = Stage::Told;
    }
    slot.told = version;
    slot.generation = U48::from(state.seq);
}

/// Notes that a rollback has yet to see a slot well, if it is one that goes on.
pub(super) fn unproven(state: &mut State, slot: u32) {
    if rollout(state).head.kind == DeploymentKind::Rollback {
        state.slots[slot as usize].stage = Stage::Unproven;
    }
}

/// Whether a slot was told to run something, and is not known to have done it.
pub(super) fn at_work(state: &State, slot: u32) -> bool {
    let slot = &state.slots[slot as usize];
    slot.told != 0 && !slot.is_done()
}

pub(super) fn scaled(state: &mut State, replicas: u32, retired: &[u32], effects: &mut Vec<Effect>) {
    let have = state.replicas.replace(replicas).unwrap_or(0);
    let own = |slot: &&u32| !state.surplus.contains(slot);
    let left = have.saturating_sub(retired.iter().filter(own).count() as u32);
    // Also of those that may be gone back to: it was no version that said so.
    for version in state.versions.values_mut() {
        if let Placement::Replicas { count, .. } = &mut Arc::make_mut(&mut version.spec).placement {
            *count = replicas;
        }
    }
    let nodes = retire_all(state, retired.iter().copied());
    withdraw(nodes, effects);
    if state.active().is_some_and(Rollout::is_gated) {
        let head = &mut rollout(state).head;
        head.canaries_wanted = canaries_of(head, have, replicas);
    }
    replace(state, replicas.saturating_sub(left));
}

/// How many canaries are wanted of so many executions, where there were others before: the same share of them, so that
/// neither all become canaries nor what was asked for is forgotten.
fn canaries_of(head: &Head, before: u32, replicas: u32) -> u32 {
    let Strategy::Canary { canaries, .. } = head.spec.strategy else {
        return head.canaries_wanted;
    };
    let share = u64::from(head.canaries_wanted) * u64::from(replicas);
    let wanted = match canaries {
        Canaries::Percent(_) => canaries.of(replicas),
        Canaries::Count(_) if replicas < before => (share / u64::from(before)) as u32,
        // What was rounded away comes back.
        Canaries::Count(count) if before > 0 => {
            u32::try_from(share.div_ceil(u64::from(before))).map_or(count, |share| share.min(count))
        }
        Canaries::Count(_) => canaries.of(replicas),
    };
    wanted.max(1)
}

pub(super) fn placed(state: &mut State, moves: &[(u32, u32, u32)], effects: &mut Vec<Effect>) {
    let mut left = Vec::new();
    let mut told: BTreeMap<u32, Runs> = BTreeMap::new();
    // By how long they have where they go; `None` is a whole deadline.
    let mut again: BTreeMap<Option<u64>, Runs> = BTreeMap::new();
    for &(slot, node, version) in moves {
        // Only a node that gives it up costs it no time: a version that kills its nodes is not to go on from one to
        // the next.
        let drained = state.presence(slot) == Presence::Draining;
        let before = std::mem::replace(&mut state.slots[slot as usize].node, node);
        let Slot {
            told: ran, stage, ..
        } = state.slots[slot as usize];
        let done = stage == Stage::Done;
        let worked = at_work(state, slot);
        if !state.unplaced.remove(&slot) {
            state.members.detach(before, slot);
            if worked {
                left.push(before);
            }
            review_leaving(state, before);
        } else if before != NONE {
            state.members.release_name(before);
        }
        state.members.attach(node, slot);
        if !done && (ran, version) != (0, 0) {
            tell(state, slot, version);
        }
        if !done && version != 0 {
            told.entry(version).or_default().push(slot);
            let moved = state.target_of(slot).filter(|&t| {
                let target = &rollout(state).targets[t as usize];
                target.state().is_in_flight() || target.state() == TargetState::Updated
            });
            if stage == Stage::Unproven {
                state.slots[slot as usize].stage = stage;
            }
            if let Some(target) = moved {
                unproven(state, slot);
                let due = rollout(state).due_of(target).filter(|_| !drained);
                again.entry(due).or_default().push(target);
            }
        }
        state.strays.remove(&slot);
        back(state, slot);
    }
    for (version, slots) in told {
        effects.push(Effect::Assign {
            version,
            generation: state.seq,
            slots,
        });
    }
    withdraw(left, effects);
    for (due, again) in again {
        let (seq, Moment { wall, elapsed }) = (state.seq, state.moment);
        let rollout = rollout(state);
        let (clock, deadline) = (rollout.deadline_clock(elapsed), rollout.deadline_millis());
        let wave = rollout.head.wave;
        let gated = rollout.head.spec.gate().is_some();
        let due = due.unwrap_or(clock + deadline);
        let number = rollout.dispatch(seq, due, wave, again.clone());
        for target in again.iter() {
            let proven = rollout.targets[target as usize].state() == TargetState::Updated;
            if proven && gated {
                rollout.suspect(target, due, clock);
            }
            rollout.change(target, wall, |t| {
                t.dispatch = number;
                t.reported = 0;
                t.streak = 0;
                t.set_lost(false);
                if proven && gated {
                    t.set_unproven();
                } else {
                    t.set_state(TargetState::Updating);
                }
            });
        }
        // Only now is it known which of them are in flight: before, the dispatch would look done.
        rollout.close(number);
    }
}
