//! The only mutator: what each fact means. No rule, no check, no time but the entry's.

use std::sync::Arc;

use crate::effect::Effect;
use crate::event::{
    Aftermath, Bad, DeploymentKind, DeploymentState, Entry, Event, Heard, Member, Presence, Reason,
    Started,
};
use crate::packed::U48;
use crate::rollout::{Failure, Head, Queue, Rollout, Tally, TargetState};
use crate::room;
use crate::runs::Runs;
use crate::spec::{JobSpec, JobType, Placement};
use crate::state::{HISTORY_KEPT, KEYS_KEPT, Moment, NONE, Slot, State, Version};
use crate::time::Time;

/// Takes a new entry in: its place in the log, then what it says.
pub(crate) fn apply(state: &mut State, entry: &Entry, effects: &mut Vec<Effect>) {
    state.seq = entry.seq;
    state.moment = Moment {
        wall: entry.at,
        elapsed: entry.elapsed,
    };
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
        Event::Registered { version, spec } => registered(state, *version, spec),
        Event::NodesJoined { nodes } => joined(state, nodes),
        Event::NodesChanged { status, nodes } => {
            let runs = |node: &u32| {
                let mut slots = state.members.slots(*node);
                slots.any(|s| at_work(state, s))
            };
            // Executions of a replicated job stay until they have another node.
            let stop = *status == Presence::Draining && state.replicas.is_none();
            let left: Runs = nodes.iter().filter(|node| stop && runs(node)).collect();
            for node in nodes.iter() {
                node_changed(state, node, *status);
            }
            withdraw(left, effects);
        }
        Event::NodeRelabeled { node, zone, load } => state.members.relabel(*node, zone, *load),
        Event::MembersListed => state.members_due = false,
        Event::Scaled { replicas, retired } => scaled(state, *replicas, retired, effects),
        Event::Placed { moves } => placed(state, moves, effects),
        Event::Retired { slots } => {
            let nodes = slots
                .iter()
                .filter_map(|&slot| retire(state, slot))
                .collect();
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
            if target.state() == TargetState::Updating {
                target.set_state(TargetState::Observing);
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
            done(state, heard);
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
        rollout.trim_queue();
    }
}

/// Nodes that run less than before, if there are any.
fn withdraw(nodes: Runs, effects: &mut Vec<Effect>) {
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

fn registered(state: &mut State, version: u32, spec: &Arc<JobSpec>) {
    let new = Version {
        spec: spec.clone(),
        registered: state.moment.wall,
        stable: false,
        rejected: false,
        told: 0,
    };
    state.versions.insert(version, new);
    state.version_max = version;
    lay_out(state, version, spec.placement);
}

/// Puts a version's placement in force: executions too many are surplus, and those that are missing come
/// to be.
fn lay_out(state: &mut State, version: u32, placement: Placement) {
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
            // One for each node that matches, and no second one.
            for node in 0..state.members.len() {
                let mut wanted = state.members.presence(node).matches();
                if wanted {
                    adopt(state, node);
                }
                for slot in state.members.slots(node).collect::<Vec<_>>() {
                    if !state.surplus.contains(&slot) && !std::mem::take(&mut wanted) {
                        state.surplus.insert(slot);
                    }
                }
            }
        }
        Placement::Replicas { count, distinct } => {
            state.replicas = Some(count);
            state.members.index(state.seed, distinct);
            let mut kept = 0;
            let mut taken = std::collections::BTreeSet::new();
            for slot in 0..state.slots.len() as u32 {
                if !state.slots[slot as usize].live {
                    continue;
                }
                let node = state.slots[slot as usize].node;
                let fits = state.unplaced.contains(&slot)
                    || state.members.presence(node) != Presence::Unmatched
                        && !(distinct && taken.contains(&node));
                if fits && kept < count {
                    kept += 1;
                    taken.insert(node);
                    state.surplus.remove(&slot);
                } else if state.unplaced.contains(&slot) {
                    retire(state, slot);
                } else {
                    state.surplus.insert(slot);
                }
            }
            room::reserve(&mut state.slots, count.saturating_sub(kept) as usize);
            for _ in kept..count {
                add_slot(state, NONE);
            }
        }
    }
    for node in 0..state.members.len() {
        review_leaving(state, node);
    }
}

fn joined(state: &mut State, nodes: &[Member]) {
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

/// A new execution on `node`, or on none yet; while a deployment goes on, its last target.
fn add_slot(state: &mut State, node: u32) {
    let new = Slot {
        node,
        told: 0,
        target: NONE,
        generation: U48::default(),
        live: true,
        done: false,
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

/// Notes an execution that no wave reaches and that should be told something else.
fn stray(state: &mut State, slot: u32) {
    if state.is_behind(slot) {
        state.strays.insert(slot);
    }
}

/// A node of a job that runs once on each matches (again): one of its executions is wanted.
fn adopt(state: &mut State, node: u32) {
    let wanted = |slot: u32| !state.surplus.contains(&slot);
    if state.members.slots(node).any(wanted) {
        return;
    }
    let first = state.members.slots(node).next();
    match first {
        Some(slot) => {
            state.surplus.remove(&slot);
            set_gone(state, slot, false);
            join(state, slot);
        }
        None => add_slot(state, node),
    }
}

/// While a deployment goes on, an execution that it does not know becomes its last target.
fn join(state: &mut State, slot: u32) {
    if state.takes_joiners() && state.target_of(slot).is_none() {
        let rollout = rollout(state);
        let target = rollout.push_target(slot);
        rollout.queue.push(target);
        state.slots[slot as usize].target = target;
    }
}

/// Takes an execution away; answers the node that has to hear of it, if it runs there.
fn retire(state: &mut State, slot: u32) -> Option<u32> {
    leave(state, slot);
    set_gone(state, slot, true);
    let ran = at_work(state, slot);
    tell(state, slot, 0);
    let node = state.slots[slot as usize].node;
    state.slots[slot as usize].live = false;
    state.surplus.remove(&slot);
    let placed = !state.unplaced.remove(&slot) && node != NONE;
    state.strays.remove(&slot);
    if placed {
        state.members.detach(node, slot);
        review_leaving(state, node);
    }
    if state.is_named(slot) {
        // It keeps its node, so that its target has a name as long as it is looked at.
        state.retired.insert(slot);
        if node != NONE {
            state.members.keep_name(node);
        }
    } else {
        state.slots[slot as usize].node = NONE;
        state.free.insert(slot);
    }
    (placed && ran).then_some(node)
}

/// Notes whether an execution is one to wait for.
fn set_gone(state: &mut State, slot: u32, gone: bool) {
    if let Some(target) = state.target_of(slot) {
        let at = state.moment.wall;
        rollout(state).change(target, at, |t| t.set_gone(gone));
    }
}

/// Whether a slot was told to run something, and is not known to have done it.
fn at_work(state: &State, slot: u32) -> bool {
    let Slot { told, done, .. } = state.slots[slot as usize];
    told != 0 && !done
}

/// Notes what a slot was told by the present entry.
fn tell(state: &mut State, slot: u32, version: u32) {
    let slot = &mut state.slots[slot as usize];
    if let Some(old) = state.versions.get_mut(&slot.told) {
        old.told -= 1;
    }
    if let Some(new) = state.versions.get_mut(&version) {
        new.told += 1;
    }
    slot.told = version;
    slot.generation = U48::from(state.seq);
    slot.done = false;
}

fn node_changed(state: &mut State, node: u32, status: Presence) {
    state.members.set_presence(node, status);
    let replicated = state.replicas.is_some();
    if status.matches() && !replicated && state.version_max > 0 {
        adopt(state, node);
    }
    for slot in state.members.slots(node).collect::<Vec<_>>() {
        match status {
            Presence::Ready => back(state, slot),
            Presence::Disconnected | Presence::Down => lost(state, slot),
            Presence::Draining if replicated => back_from_silence(state, slot),
            Presence::Draining => {
                leave(state, slot);
                if !state.slots[slot as usize].done {
                    tell(state, slot, 0);
                }
            }
            Presence::Unmatched => {
                leave(state, slot);
                set_gone(state, slot, true);
                if state.surplus.insert(slot) && replicated {
                    add_slot(state, NONE);
                }
            }
            // It keeps its part in the deployment, and its zone, until it has another node.
            Presence::Gone if replicated && !state.surplus.contains(&slot) => {
                lost(state, slot);
                state.members.detach(node, slot);
                state.members.keep_name(node);
                state.unplaced.insert(slot);
            }
            Presence::Gone => {
                retire(state, slot);
            }
        }
        if !status.is_ready() {
            state.strays.remove(&slot);
        }
    }
    review_leaving(state, node);
    state.members.forget(node);
}

/// Whether a node is to be left follows from how it is and what it holds; a wait that has begun goes on.
fn review_leaving(state: &mut State, node: u32) {
    let holds = state
        .members
        .slots(node)
        .any(|s| !state.surplus.contains(&s));
    let presence = state.members.presence(node);
    let now = state.moment.elapsed;
    let lost_after = state.spec().map_or(0, |s| s.lost_after.as_millis());
    if state.replicas.is_none() || !holds {
        state.leaving.remove(node);
    } else if presence == Presence::Draining {
        state.leaving.insert(node, now);
    } else if !presence.is_lost() {
        state.leaving.remove(node);
    } else if !state.leaving.contains(node) {
        state.leaving.insert(node, now + lost_after);
    }
}

/// The node of an execution is ready (again).
fn back(state: &mut State, slot: u32) {
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
    let elapsed = state.moment.elapsed;
    let rollout = rollout(state);
    if !rollout.targets[target as usize].is_lost() {
        return;
    }
    rollout.change(target, at, |t| t.set_lost(false));
    if rollout.targets[target as usize].is_suspect() {
        let clock = rollout.deadline_clock(elapsed);
        rollout.suspect(target, clock, at);
    }
}

/// The target of an execution that has not done its work yet: what is done stays done, whatever becomes of
/// its node.
fn target_at_work(state: &State, slot: u32) -> Option<u32> {
    let done = state.slots[slot as usize].done;
    state.target_of(slot).filter(|_| !done)
}

/// The node of an execution fell silent: what it had shown so far is no longer continuous.
fn lost(state: &mut State, slot: u32) {
    let Some(target) = target_at_work(state, slot) else {
        return;
    };
    let at = state.moment.wall;
    let rollout = rollout(state);
    let gated = rollout.head.spec.gate().is_some();
    rollout.change(target, at, |t| {
        t.set_lost(true);
        if t.state().is_in_flight() {
            // Without a health check there is no deadline to come back before.
            t.set_state(if gated {
                TargetState::Updating
            } else {
                TargetState::Skipped
            });
        }
    });
}

/// An execution is taken off its node: no failure, and its turn is over until it is back.
fn leave(state: &mut State, slot: u32) {
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

fn uncanary(rollout: &mut Rollout, target: u32, at: Time) {
    if rollout.targets[target as usize].is_canary() && !rollout.head.promoted {
        rollout.change(target, at, |t| t.set_canary(false));
        rollout.canaries.retain(|&t| t != target);
    }
}

fn scaled(state: &mut State, replicas: u32, retired: &[u32], effects: &mut Vec<Effect>) {
    let have = state.replicas.replace(replicas).unwrap_or(0);
    if let Some(version) = state.versions.get_mut(&state.layout)
        && let Placement::Replicas { count, .. } = &mut Arc::make_mut(&mut version.spec).placement
    {
        *count = replicas;
    }
    let nodes: Runs = retired
        .iter()
        .filter_map(|&slot| retire(state, slot))
        .collect();
    withdraw(nodes, effects);
    for _ in have..replicas {
        add_slot(state, NONE);
    }
}

fn placed(state: &mut State, moves: &[(u32, u32, u32)], effects: &mut Vec<Effect>) {
    let mut left = Runs::default();
    let mut told: std::collections::BTreeMap<u32, Runs> = std::collections::BTreeMap::new();
    let mut again = Runs::default();
    for &(slot, node, version) in moves {
        let before = std::mem::replace(&mut state.slots[slot as usize].node, node);
        let Slot {
            told: ran, done, ..
        } = state.slots[slot as usize];
        let worked = at_work(state, slot);
        if !state.unplaced.remove(&slot) {
            state.members.detach(before, slot);
            if worked {
                left.push(before);
            }
            review_leaving(state, before);
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
            if let Some(target) = moved {
                again.push(target);
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
    if !again.is_empty() {
        let (seq, Moment { wall, elapsed }) = (state.seq, state.moment);
        let rollout = rollout(state);
        let (clock, deadline) = (rollout.deadline_clock(elapsed), rollout.deadline_millis());
        let number = rollout.dispatches.len() as u32 + 1;
        let wave = rollout.head.wave;
        let gated = rollout.head.spec.gate().is_some();
        rollout.dispatch(seq, clock + deadline, wave, again.clone());
        for target in again.iter() {
            rollout.change(target, wall, |t| {
                t.dispatch = number;
                t.reported = 0;
                t.set_lost(false);
                if t.state() == TargetState::Updated && gated {
                    // Elsewhere it has shown nothing yet.
                    t.streak = 1;
                } else {
                    t.set_state(TargetState::Updating);
                    t.streak = 0;
                }
            });
        }
        // Only now is it known which of them are in flight: before, the dispatch would look done.
        for target in again.iter() {
            if rollout.targets[target as usize].is_suspect() {
                rollout.suspect(target, clock, wall);
            }
        }
    }
}

fn begin(state: &mut State, started: &Started, effects: &mut Vec<Effect>) {
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
        state.history.push_back(old.head);
    }
    // Nothing names the old targets any more: their slots and nodes are free.
    for &slot in state.retired.iter().chain(&state.unplaced) {
        match std::mem::replace(&mut state.slots[slot as usize].node, NONE) {
            NONE => {}
            node => state.members.release_name(node),
        }
    }
    state.free.append(&mut state.retired);
    state.members.free_gone();
    state.want = None;
    state.deployments = *number;
    let at = state.moment.wall;
    match kind {
        DeploymentKind::Rollback => {
            // What was rolled back to before, and not all the way, is no worse for it.
            if let Some(bad) = state.versions.get_mut(from).filter(|_| from != to) {
                bad.rejected = true;
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
        open: std::collections::VecDeque::new(),
        suspects: std::collections::BTreeSet::new(),
        canaries: Vec::new(),
        failures: std::collections::BTreeMap::new(),
        held: 0,
        paused_at: None,
        forgiven: 0,
        updated_max: 0,
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
}

/// Puts the placement of an earlier version in force again; how many replicas there are was last said by
/// a person, and stays.
fn lay_out_again(state: &mut State, version: u32, effects: &mut Vec<Effect>) {
    let Some(spec) = state.versions.get(&version).map(|v| v.spec.clone()) else {
        return;
    };
    let asks = |spec: &JobSpec| (spec.selector.clone(), spec.rollout.spread.clone());
    if state.spec().is_none_or(|now| asks(now) != asks(&spec)) {
        state.members_due = true;
        effects.push(Effect::MembersNeeded);
    }
    let placement = match (spec.placement, state.replicas) {
        (Placement::Replicas { distinct, .. }, Some(count)) => {
            Placement::Replicas { count, distinct }
        }
        (placement, _) => placement,
    };
    lay_out(state, version, placement);
}

fn dispatched(
    state: &mut State,
    wave: u32,
    canary: bool,
    targets: &Runs,
    effects: &mut Vec<Effect>,
) {
    let (seq, Moment { wall, elapsed }) = (state.seq, state.moment);
    let rollout = rollout(state);
    let due = rollout.deadline_clock(elapsed) + rollout.deadline_millis();
    rollout.dispatch(seq, due, wave, targets.clone());
    let number = rollout.dispatches.len() as u32;
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
            t.set_canary(canary);
            t.set_state(TargetState::Updating);
        });
        if canary {
            rollout.canaries.push(target);
        }
    }
    let version = rollout.head.to;
    for slot in slots.iter() {
        tell(state, slot, version);
        state.strays.remove(&slot);
    }
    effects.push(Effect::Assign {
        version,
        generation: seq,
        slots,
    });
}

fn skip(state: &mut State, targets: &Runs) {
    let at = state.moment.wall;
    let State {
        rollout, surplus, ..
    } = state;
    let rollout = rollout.as_mut().expect("targets come after a start");
    for target in targets.iter() {
        // What is not wanted any more when it could have its turn is not waited for.
        let gone = surplus.contains(&rollout.targets[target as usize].slot);
        rollout.change(target, at, |t| {
            t.set_state(TargetState::Skipped);
            t.set_gone(gone);
        });
    }
}

fn each_heard(state: &mut State, heard: &[Heard], change: impl Fn(&mut crate::rollout::Target)) {
    let at = state.moment.wall;
    let rollout = rollout(state);
    for &(target, number) in heard {
        rollout.change(target, at, |t| {
            t.reported = number;
            change(t);
        });
    }
}

/// What a batch job's executions are told is done when they are updated, and is not told again.
fn done(state: &mut State, heard: &[Heard]) {
    let to = rollout(state).head.to;
    let version = state.versions.get(&to);
    if version.is_some_and(|v| v.spec.job_type == JobType::Batch) {
        for &(target, _) in heard {
            let slot = rollout(state).targets[target as usize].slot;
            state.slots[slot as usize].done = true;
        }
    }
}

fn unhealthy(state: &mut State, heard: &[Heard], cause: Bad) {
    let Moment { wall, elapsed } = state.moment;
    let rollout = rollout(state);
    let clock = rollout.deadline_clock(elapsed);
    for &(target, number) in heard {
        let before = rollout.targets[target as usize].is_suspect();
        rollout.change(target, wall, |t| {
            t.reported = number;
            t.streak = t.streak.saturating_add(1);
            t.set_bad_by_rate(matches!(cause, Bad::ErrorRate { .. }));
            if t.state() == TargetState::Observing {
                t.set_state(TargetState::Updating);
            }
        });
        if !before && rollout.targets[target as usize].is_suspect() {
            rollout.suspect(target, clock, wall);
        }
    }
}

fn failed(state: &mut State, targets: &Runs, reason: &Reason) {
    let at = state.moment.wall;
    let rollout = rollout(state);
    for target in targets.iter() {
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

fn resumed(state: &mut State) {
    let Moment { wall, elapsed } = state.moment;
    let rollout = rollout(state);
    if let Some(since) = rollout.paused_at.take() {
        rollout.held += elapsed.saturating_sub(since);
    }
    rollout.head.state = DeploymentState::InProgress;
    if rollout.head.cause.take().is_some() {
        // A person saw these failures and went on; failed canaries are replaced.
        rollout.forgiven = rollout.failed_counting();
        let failed = |r: &Rollout, t: u32| r.targets[t as usize].state() == TargetState::Failed;
        for target in rollout.canaries.clone() {
            if failed(rollout, target) {
                uncanary(rollout, target, wall);
            }
        }
    }
    rollout.head.culprit = None;
}

fn ended(state: &mut State, aftermath: Aftermath, effects: &mut Vec<Effect>) {
    name_culprit(state);
    let head = rollout(state).head.clone();
    let rollout = state.rollout.as_ref().expect("it has just ended");
    let node = |&t: &u32| {
        state
            .members
            .name(state.slots[rollout.targets[t as usize].slot as usize].node)
            .to_owned()
    };
    let canary_nodes = rollout.canaries.iter().map(node).collect();
    self::rollout(state).head.canary_nodes = canary_nodes;
    state.settled = head.state == DeploymentState::Completed;
    if state.settled {
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
        && state.current != 0
        && state.want.is_none()
        && !matches!(aftermath, Aftermath::RollBack { .. })
    {
        // It leaves nodes as they are, but those that come now run what ran before: so it is where that
        // goes that counts again.
        lay_out_again(state, state.current, effects);
    }
    for slot in 0..state.slots.len() as u32 {
        stray(state, slot);
    }
    if let Aftermath::RollBack { to } = aftermath {
        state.want = Some(crate::event::Want {
            kind: DeploymentKind::Rollback,
            to,
            rollback_of: Some(head.id),
        });
    }
}

/// Executions that a restart did not reach run the right version already, and yet have it to do: that they
/// were told nothing makes them start again.
fn start_again_when_back(state: &mut State) {
    let targets = rollout(state).targets.clone();
    let skipped = targets.iter().filter(|t| t.state() == TargetState::Skipped);
    for slot in skipped.map(|t| t.slot) {
        if state.presence(slot).is_lost() {
            tell(state, slot, 0);
        }
    }
}

/// Writes down the name of the canary that a cause speaks of, while targets still have names.
fn name_culprit(state: &mut State) {
    let Some(rollout) = &state.rollout else {
        return;
    };
    if let Some(crate::event::Cause::CanaryFailed { target }) = rollout.head.cause {
        let slot = rollout.targets[target as usize].slot;
        let name = state
            .members
            .name(state.slots[slot as usize].node)
            .to_owned();
        self::rollout(state).head.culprit = Some(name);
    }
}
