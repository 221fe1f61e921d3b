//! Deployments: their beginning, their waves, what is heard of their targets, and their end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::executions::{lay_out_again, stray, tell, unproven};
use super::nodes::uncanary;
use super::rollout;
use crate::dues::Dues;
use crate::effect::Effect;
use crate::event::{
    Aftermath, Bad, Cause, DeploymentKind, DeploymentState, Heard, Reason, Started, Want,
};
use crate::put_aside::PutAside;
use crate::record::CANARY_NODES_MAX;
use crate::rollout::{Before, Failure, Head, Queue, Rollout, Tally, Target, TargetState};
use crate::runs::Runs;
use crate::state::{HISTORY_KEPT, Moment, NONE, Stage, State};

pub(super) fn begin(state: &mut State, started: &Started, effects: &mut Vec<Effect>) {
    let Started {
        number,
        id,
        kind,
        from,
        to,
        spec,
        order,
        failed_first,
        canaries,
        rollback_of,
    } = started;
    if let Some(old) = state.rollout.take() {
        if state.history.len() == HISTORY_KEPT {
            state.history.pop_front();
        }
        let (head, aside) = PutAside::new(state, old);
        effects.push(Effect::PutAside(Box::new(aside)));
        state.history.push_back(head);
    }
    // Nothing names the old targets any more: their slots and nodes are free.
    for &slot in &state.retired {
        state.slots[slot as usize].node = NONE;
    }
    state.free.append(&mut state.retired);
    // What waits for a node remembers where it was.
    let last = state.unplaced.iter();
    let last = last.map(|&slot| state.slots[slot as usize].node);
    let last = last.filter(|&node| node != NONE);
    state.members.free_gone(last);
    state.want = None;
    state.deployments = *number;
    let at = state.moment.wall;
    let base = state.base_between(*from, *to);
    let version = if *to == 0 { from } else { to };
    let version = state.versions.get(version);
    let job_type = version.map(|v| v.spec.job_type).unwrap_or_default();
    let rejected = |version| state.versions.get(version).is_some_and(|v| v.rejected);
    let before = Before {
        current: state.current,
        settled: state.settled,
        left_on: state.left_on.clone(),
        rejected: (rejected(from), rejected(to)),
    };
    // What is current now is what nodes are left on, should this not complete.
    if state.settled {
        state.left_on.clear();
    }
    state.left_on.insert(state.current);
    match kind {
        DeploymentKind::Rollback => {
            // Who goes forward again takes nothing back, and wants what was taken back before.
            if let Some(bad) = state.versions.get_mut(from).filter(|_| from > to) {
                bad.rejected = true;
            }
            if let Some(good) = state.versions.get_mut(to) {
                good.rejected = false;
            }
            state.current = *to;
        }
        DeploymentKind::Stop => state.current = 0,
        DeploymentKind::Create | DeploymentKind::Update | DeploymentKind::Restart => {}
    }
    let mut rollout = Rollout {
        head: Head {
            number: *number,
            id: *id,
            kind: *kind,
            from: *from,
            to: *to,
            spec: spec.clone(),
            base,
            job_type,
            state: DeploymentState::Pending,
            revision: 0,
            created: at,
            updated: at,
            completed: None,
            progress: None,
            wave: 0,
            total: 0,
            tally: Tally::default(),
            failed_first: *failed_first,
            canaries_wanted: *canaries,
            promoted: false,
            cause: None,
            aftermath: Aftermath::Nothing,
            rollback_of: *rollback_of,
            rolled_back_by: None,
            canary_nodes: Vec::new(),
            culprit: None,
        },
        targets: Vec::with_capacity(order.len()),
        queue: Queue::new(order.len() as u32),
        dispatches: Vec::new(),
        idle: BTreeSet::new(),
        open: VecDeque::new(),
        suspects: Dues::default(),
        quiet_since: None,
        awaited: BTreeSet::new(),
        canaries: BTreeSet::new(),
        vacant: BTreeSet::new(),
        failures: BTreeMap::new(),
        held: 0,
        paused_at: None,
        forgiven: 0,
        updated_max: 0,
        before: (*kind == DeploymentKind::Rollback).then_some(before),
    };
    for (position, &slot) in order.iter().enumerate() {
        let target = rollout.push_target(slot);
        let lost = state.presence(slot).is_lost();
        if position < *failed_first as usize || lost {
            rollout.change(target, at, |t| {
                t.set_failed_before(position < *failed_first as usize);
                t.set_lost(lost);
            });
        }
        state.slots[slot as usize].target = target;
    }
    state.rollout = Some(rollout);
    if *kind == DeploymentKind::Rollback {
        lay_out_again(state, *to, effects);
    }
    // What they are to run until their turn comes may be something else now.
    state.strays.clear();
    for slot in 0..state.slots.len() as u32 {
        stray(state, slot);
    }
}

pub(super) fn dispatched(
    state: &mut State,
    wave: u32,
    canary: bool,
    targets: &Runs,
    effects: &mut Vec<Effect>,
) {
    let (seq, Moment { wall, elapsed }) = (state.seq, state.moment);
    let rollout = rollout(state);
    let due = rollout.deadline_clock(elapsed) + rollout.deadline_millis();
    let number = rollout.dispatch(seq, due, wave, targets.clone());
    rollout.head.wave = wave;
    rollout.head.progress = Some(wall);
    if rollout.head.state == DeploymentState::Pending {
        rollout.head.state = DeploymentState::InProgress;
    }
    let mut slots = Runs::default();
    for target in targets.iter() {
        slots.push(rollout.targets[target as usize].slot);
        rollout.change(target, wall, |t| {
            t.dispatch = number;
            t.reported = 0;
            t.streak = 0;
            // Who was one is named as one, also when it is sent again after the promotion.
            t.set_canary(canary || t.is_canary());
            t.set_state(TargetState::Updating);
        });
        if canary {
            rollout.canaries.insert(target);
        }
    }
    let version = rollout.head.to;
    let restarts = rollout.head.kind == DeploymentKind::Restart;
    // An earlier program, which may have begun it, has not noted it.
    if restarts && (number == 1 || state.restarted == 0) {
        state.restarted = seq;
    }
    for slot in slots.iter() {
        tell(state, slot, version);
        unproven(state, slot);
        state.strays.remove(&slot);
    }
    effects.push(Effect::Assign {
        version,
        generation: seq,
        slots,
    });
}

pub(super) fn skip(state: &mut State, targets: &Runs) {
    let at = state.moment.wall;
    let State {
        rollout,
        surplus,
        slots,
        ..
    } = state;
    let rollout = rollout.as_mut().expect("targets come after a start");
    for target in targets.iter() {
        // What is not wanted any more when it could have its turn is not waited for.
        let slot = rollout.targets[target as usize].slot;
        let gone = surplus.contains(&slot) || !slots[slot as usize].live;
        rollout.change(target, at, |t| {
            t.set_state(TargetState::Skipped);
            t.set_gone(gone);
        });
    }
}

pub(super) fn each_heard(state: &mut State, heard: &[Heard], change: impl Fn(&mut Target)) {
    let at = state.moment.wall;
    let rollout = rollout(state);
    for &(target, number) in heard {
        rollout.change(target, at, |t| {
            t.reported = number;
            change(t);
        });
    }
}

/// What updated executions were told is proven there; what those of a batch job were told is done, and not told again.
pub(super) fn well(state: &mut State, heard: &[Heard]) {
    let stage = match rollout(state).head.is_batch() {
        true => Stage::Done,
        false => Stage::Told,
    };
    for &(target, _) in heard {
        let slot = rollout(state).targets[target as usize].slot;
        state.slots[slot as usize].stage = stage;
    }
}

pub(super) fn unhealthy(state: &mut State, heard: &[Heard], cause: Bad) {
    let Moment { wall, elapsed } = state.moment;
    let rollout = rollout(state);
    let clock = rollout.deadline_clock(elapsed);
    for &(target, number) in heard {
        rollout.change(target, wall, |t| {
            t.reported = number;
            // A bad rate is not forgotten for what else is bad.
            let by_rate = t.streak > 0 && t.bad_by_rate();
            t.set_bad_by_rate(by_rate || matches!(cause, Bad::ErrorRate { .. }));
            t.streak = t.streak.saturating_add(1);
            if t.is_unproven() {
                t.stop_clock();
            }
            if t.state() == TargetState::Observing {
                t.set_state(TargetState::Updating);
            }
        });
        let row = &rollout.targets[target as usize];
        if row.state() == TargetState::Updated && !row.is_unproven() {
            rollout.suspect(target, clock + rollout.deadline_millis(), clock);
            rollout.change(target, wall, Target::set_unproven);
        }
    }
}

pub(super) fn failed(state: &mut State, targets: &Runs, reason: &Reason) {
    let at = state.moment.wall;
    for target in targets.iter() {
        let Target { slot, dispatch, .. } = rollout(state).targets[target as usize];
        if dispatch != 0 {
            let stage = &mut state.slots[slot as usize].stage;
            // What a rollback has yet to see well says that already.
            if *stage != Stage::Unproven {
                *stage = Stage::Failed;
            }
            unproven(state, slot);
        }
        let rollout = rollout(state);
        rollout.change(target, at, |t| t.set_state(TargetState::Failed));
        rollout.failures.insert(
            target,
            Failure {
                reason: reason.clone(),
                at,
            },
        );
    }
}

pub(super) fn resumed(state: &mut State) {
    let Moment { wall, elapsed } = state.moment;
    let rollout = rollout(state);
    if let Some(since) = rollout.paused_at.take() {
        rollout.held += elapsed.saturating_sub(since);
    }
    // A person goes on: whoever is bad by now is waited for.
    rollout.quiet_since = None;
    rollout.head.state = DeploymentState::InProgress;
    if rollout.head.cause.take().is_some() {
        // A person saw these failures and went on; failed canaries are replaced.
        rollout.forgiven = rollout.head.failed_counting();
        let failed = |r: &Rollout, t: u32| r.targets[t as usize].state() == TargetState::Failed;
        for target in rollout.canaries.clone() {
            if failed(rollout, target) {
                uncanary(rollout, target, wall);
            }
        }
    }
    rollout.head.culprit = None;
}

pub(super) fn ended(state: &mut State, aftermath: Aftermath, effects: &mut Vec<Effect>) {
    name_culprit(state);
    let head = rollout(state).head.clone();
    let rollout = state.rollout.as_ref().expect("it has just ended");
    let node = |&t: &u32| {
        state
            .members
            .name(state.slots[rollout.targets[t as usize].slot as usize].node)
            .to_owned()
    };
    let named = rollout.canaries.iter().take(CANARY_NODES_MAX);
    let canary_nodes = named.map(node).collect();
    self::rollout(state).head.canary_nodes = canary_nodes;
    let completed = head.state == DeploymentState::Completed;
    // What fails in a restart fails on its node, and not as a version.
    let tried = completed || head.kind != DeploymentKind::Restart;
    if let Some(version) = state.versions.get_mut(&head.to).filter(|_| tried) {
        version.failed &= !completed;
        version.failed |= head.state == DeploymentState::Failed;
    }
    if completed {
        // Which of its own failed after all are within what was allowed.
        let targets = self::rollout(state).targets.iter();
        let targets = targets.map(|t| (t.slot, t.state() == TargetState::Failed));
        for (slot, failed) in targets.collect::<Vec<_>>() {
            let slot = &mut state.slots[slot as usize];
            if slot.stage == Stage::Unproven {
                slot.stage = if failed { Stage::Failed } else { Stage::Told };
            }
        }
    }
    state.settled = match (head.kind, head.state) {
        // One that completed has left nobody anywhere: it is not begun while executions are left on something else.
        (_, DeploymentState::Completed) => true,
        (DeploymentKind::Restart, _) => state.settled,
        // It is meant for those too that it did not reach.
        (DeploymentKind::Stop, DeploymentState::Failed) => true,
        (DeploymentKind::Rollback | DeploymentKind::Stop, _) => false,
        // What began no wave has left everybody where they were.
        _ => state.settled && head.wave == 0,
    };
    let before = self::rollout(state).before.take();
    if let Some(before) = before.filter(|_| head.began_no_wave()) {
        as_before(state, &head, before);
    } else if state.settled {
        state.left_on.clear();
    } else {
        state.left_on.insert(head.to);
        let runs = |version: &u32| state.versions.get(version).is_some_and(|v| v.told > 0);
        state.left_on.retain(runs);
    }
    if completed {
        state.current = head.to;
        let proven = head.tally.updated > 0 && head.kind != DeploymentKind::Stop;
        if let Some(version) = state.versions.get_mut(&head.to).filter(|_| proven) {
            version.stable = true;
            version.rejected = false;
        }
        if head.kind == DeploymentKind::Restart {
            start_again_when_back(state);
        }
    } else if state.layout == head.to
        && state.current != head.to
        && state.current != 0
        && state.want.is_none()
        && !matches!(aftermath, Aftermath::RollBack { .. })
    {
        // It leaves nodes as they are, but those that come now run what ran before: so it is where that
        // goes that counts again.
        lay_out_again(state, state.current, effects);
    }
    state.strays.clear();
    for slot in 0..state.slots.len() as u32 {
        stray(state, slot);
    }
    if let Aftermath::RollBack { to } = aftermath {
        state.want = Some(Want {
            kind: DeploymentKind::Rollback,
            to,
            from: head.to,
            rollback_of: Some(head.id),
        });
    }
}

/// What began no wave has not happened: what it had put in force as it began was there for its waves.
fn as_before(state: &mut State, head: &Head, before: Before) {
    state.current = before.current;
    state.settled = before.settled;
    state.left_on = before.left_on;
    let (mut from, to) = before.rejected;
    // That a version failed by itself is true whatever became of its rollback.
    from |= state.is_by_itself(head.rollback_of);
    for (version, rejected) in [(head.from, from), (head.to, to)] {
        if let Some(version) = state.versions.get_mut(&version) {
            version.rejected = rejected;
        }
    }
}

/// Executions that no wave of a restart has reached run the right version already, and yet have it to do: they go on with it
/// until they are back.
fn start_again_when_back(state: &mut State) {
    let targets = rollout(state).targets.clone();
    let skipped = targets
        .iter()
        .filter(|t| t.state() == TargetState::Skipped && t.dispatch == 0);
    for slot in skipped.map(|t| t.slot) {
        let told = state.slots[slot as usize].told != 0 && !state.surplus.contains(&slot);
        if told && !state.is_ready(slot) {
            state.restarts.insert(slot);
        }
    }
}

/// Writes down the name of the canary that a cause speaks of, while targets still have names.
pub(super) fn name_culprit(state: &mut State) {
    let Some(rollout) = &state.rollout else {
        return;
    };
    if let Some(Cause::CanaryFailed { target }) = rollout.head.cause {
        let slot = rollout.targets[target as usize].slot;
        let name = state
            .members
            .name(state.slots[slot as usize].node)
            .to_owned();
        self::rollout(state).head.culprit = Some(name);
    }
}
