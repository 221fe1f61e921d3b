//! What must always hold, checked from the inside: for simulations, explorations and tests.
//!
//! Nothing here trusts a count, a queue or a rule of the machine: everything is counted again.

use crate::apply::apply;
use crate::event::{DeploymentKind, DeploymentState, Entry, Event, Presence};
use crate::job::Job;
use crate::placement::{Places, anew};
use crate::rollout::{Head, Rollout, Tally, Target, TargetState};
use crate::state::{NONE, State};
use crate::waiting_on::{WaitingOn, waiting_on};

/// A law that does not hold: a bug of the core.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("law {law}: {what}")]
pub struct Broken {
    /// The number of the invariant in the list that the documentation of [`check_step`] gives.
    pub law: u8,
    /// What was found.
    pub what: String,
}

type Law = Result<(), Broken>;

/// Checks one step: the state before it, its entries, and the state after it. Scans the whole state.
///
/// 1. In flight never exceeds `max_parallel` (immediate, and what a rollback takes back first, apart).
/// 2. No target but canaries starts before promotion.
/// 3. Nothing starts while paused, or in a final state.
/// 4. Entries and revisions grow by one, without gaps.
/// 5. Targets in each state add up to all of them; no kept count differs from a recount.
/// 6. Over the limits means failed, or paused for a failure, in the same step.
/// 7. The entries lead from the one state to the other.
/// 10. Nothing that was taken back, or failed, starts again but in a wave.
/// 12. No time runs backwards, and no deadline stays overdue.
/// 14. What is not final has a wake-up in the future or names the gate that it waits at; and a
///     deployment that waits for a node has none.
/// 15. After a completed deployment no ready node was told anything but the current version.
/// 16. A target starts once in a wave.
pub fn check_step(before: &Job, entries: &[Entry], after: &Job) -> Law {
    let mut state = before.state.clone();
    let mut effects = Vec::new();
    for entry in entries {
        check_entry(&state, entry)?;
        apply(&mut state, entry, &mut effects);
        effects.clear();
        if let Some(rollout) = state.active() {
            in_flight_bounded(rollout)?;
        }
    }
    let replayed = Job::rebuilt(state);
    if replayed.state != after.state {
        return broken(7, "the entries do not lead to the state");
    }
    check(after)
}

/// Checks a state alone: laws 1, 2, 5, 6, 12, 14 and 15.
pub fn check(job: &Job) -> Law {
    let state = &job.state;
    told_counts(state)?;
    if let Some(rollout) = &state.rollout {
        counts(rollout)?;
    }
    match state.active() {
        Some(rollout) => {
            in_flight_bounded(rollout)?;
            gated(rollout)?;
            limits(rollout)?;
            waits(state, rollout)
        }
        None => settled(state),
    }
}

fn check_entry(state: &State, entry: &Entry) -> Law {
    if entry.seq != state.seq + 1 {
        return broken(4, format!("entry {} follows {}", entry.seq, state.seq));
    }
    if entry.elapsed < state.moment.elapsed {
        return broken(12, "the job's time runs backwards");
    }
    let last = state.rollout.as_ref();
    if let Some(of) = entry.of {
        let expected = match (&entry.event, last) {
            (Event::Started(_), _) => 1,
            (event, Some(r)) if r.head.number == of.deployment => {
                if r.head.state.is_final() && !matches!(event, Event::RolledBackBy { .. }) {
                    return broken(4, format!("{} in the log of what is over", event.kind()));
                }
                r.head.revision + 1
            }
            _ => return broken(4, "an entry of a deployment that is not there"),
        };
        if of.revision != expected {
            return broken(
                4,
                format!("revision {} where {expected} is next", of.revision),
            );
        }
    } else if state.active().is_some() && !matches!(entry.event, Event::Answered(_)) {
        return broken(4, format!("{} is in nobody's log", entry.event.kind()));
    }
    let active = state.active();
    match &entry.event {
        Event::Dispatched {
            canary, targets, ..
        } => {
            let Some(rollout) = active else {
                return broken(3, "a wave of no active deployment");
            };
            if rollout.head.state == DeploymentState::Paused {
                return broken(3, "a wave while paused");
            }
            if rollout.is_gated() && !canary {
                return broken(2, "a wave of no canaries before promotion");
            }
            let mut seen = std::collections::BTreeSet::new();
            for target in targets.iter() {
                let row = &rollout.targets[target as usize];
                if !seen.insert(target) {
                    return broken(16, format!("target {target} starts twice in one wave"));
                }
                if row.state() != TargetState::Pending {
                    return broken(3, format!("target {target} starts from {:?}", row.state()));
                }
                if !state.is_ready(row.slot) {
                    return broken(
                        3,
                        format!("target {target} starts on a node that is not ready"),
                    );
                }
            }
        }
        Event::Converged { slots, .. } => {
            if active.is_some_and(|r| r.head.state == DeploymentState::Paused) {
                return broken(3, "nodes converge while paused");
            }
            let to = active.map(|r| r.head.to);
            if let (Event::Converged { version, .. }, Some(r)) = (&entry.event, active) {
                let forward =
                    matches!(r.head.kind, DeploymentKind::Create | DeploymentKind::Update);
                if forward && Some(*version) == to {
                    return broken(2, "nodes converge to a version that is not proven");
                }
                if taken_back(state, *version) {
                    return broken(10, "nodes converge to what was taken back");
                }
            }
            if let Some(slot) = slots.iter().find(|&slot| !state.is_ready(slot)) {
                return broken(
                    3,
                    format!("slot {slot} converges on a node that is not ready"),
                );
            }
        }
        Event::Placed { moves } => {
            if active.is_some_and(|r| r.head.state == DeploymentState::Paused) {
                return broken(3, "an execution moves while paused");
            }
            for &(slot, node, version) in moves {
                if !state.members.presence(node).is_ready() {
                    return broken(3, format!("slot {slot} moves to a node that is not ready"));
                }
                if taken_back(state, version) {
                    return broken(10, format!("slot {slot} moves with what was taken back"));
                }
                let starts = version != 0 && !state.slots[slot as usize].is_done();
                if starts && version != state.current && has_failed(state, slot, version) {
                    return broken(10, format!("slot {slot} moves with what failed"));
                }
                let target = active.and_then(|r| Some(&r.targets[state.target_of(slot)? as usize]));
                let under_way = target
                    .is_some_and(|t| t.state().is_in_flight() || t.state() == TargetState::Updated);
                let forward = active.filter(|r| r.is_forward());
                if forward.is_some_and(|r| r.head.to == version) && !under_way {
                    return broken(2, format!("slot {slot} starts outside of a wave"));
                }
            }
        }
        Event::Ended { .. } | Event::Failed { .. } | Event::Updated { .. } if active.is_none() => {
            return broken(3, format!("{} after the end", entry.event.kind()));
        }
        _ => {}
    }
    Ok(())
}

/// Whether a version was taken back, and no person brings it back.
fn taken_back(state: &State, version: u32) -> bool {
    version != state.base() && state.versions.get(&version).is_some_and(|v| v.rejected)
}

/// Whether a version failed where an execution runs it, or its last deployment failed that was no restart: as far as the
/// deployments that are remembered tell.
fn has_failed(state: &State, slot: u32, version: u32) -> bool {
    let of = |head: &&Head| {
        let tried =
            head.state == DeploymentState::Completed || head.kind != DeploymentKind::Restart;
        head.to == version && tried
    };
    let last = state.heads().find(of);
    let slot = &state.slots[slot as usize];
    let there = state.rollout.as_ref().and_then(|r| {
        let target = r.targets.get(slot.target as usize)?;
        let told = r.generation(target) == u64::from(slot.generation);
        (told && r.head.to == version).then_some(target.state())
    });
    last.is_some_and(|head| head.state == DeploymentState::Failed)
        || there == Some(TargetState::Failed)
}

fn in_flight_bounded(rollout: &Rollout) -> Law {
    let head = &rollout.head;
    let max = head.spec.max_parallel;
    if max == 0 || head.spec.gate().is_none() {
        return Ok(());
    }
    let excepted = |t: &&crate::rollout::Target| !t.failed_before() && t.state().is_in_flight();
    let in_flight = rollout.targets.iter().filter(excepted).count();
    if in_flight > max as usize {
        return broken(1, format!("{in_flight} in flight, {max} allowed"));
    }
    Ok(())
}

fn gated(rollout: &Rollout) -> Law {
    if !rollout.is_gated() {
        return Ok(());
    }
    let touched =
        |t: &crate::rollout::Target| t.state().is_in_flight() || t.state() == TargetState::Updated;
    match rollout
        .targets
        .iter()
        .position(|t| touched(t) && !t.is_canary())
    {
        Some(target) => broken(
            2,
            format!("target {target} is no canary and runs before promotion"),
        ),
        None => Ok(()),
    }
}

fn counts(rollout: &Rollout) -> Law {
    let mut tally = Tally::default();
    let mut open = vec![0; rollout.dispatches.len()];
    for target in &rollout.targets {
        tally.put(target);
        if target.state().is_in_flight() {
            open[target.dispatch as usize - 1] += 1;
        }
    }
    let head = &rollout.head;
    if tally != head.tally {
        return broken(5, format!("kept {:?}, counted {tally:?}", head.tally));
    }
    let sum = tally.pending + tally.in_flight() + tally.updated + tally.failed + tally.skipped;
    if sum != head.total || sum as usize != rollout.targets.len() {
        return broken(5, format!("{sum} targets of {}", head.total));
    }
    if !rollout.dispatches.iter().map(|d| d.open).eq(open) {
        return broken(5, "a dispatch counts its open targets wrongly");
    }
    let mut named = vec![0; rollout.dispatches.len()];
    for target in rollout.targets.iter().filter(|t| t.dispatch != 0) {
        named[target.dispatch as usize - 1] += 1;
    }
    let idle = (0..).zip(&named).filter(|(_, named)| **named == 0);
    let idle = idle.map(|(number, _): (u32, _)| number);
    if !rollout.dispatches.iter().map(|d| &d.named).eq(&named) || !idle.eq(rollout.idle.clone()) {
        return broken(
            5,
            "a dispatch is kept that nothing names, or is not counted",
        );
    }
    let listed = |target: u32| {
        let dispatch = rollout.targets[target as usize].dispatch as usize - 1;
        let targets = &rollout.dispatches[dispatch].targets;
        targets.iter().any(|t| t == target)
    };
    let unlisted = (0..)
        .zip(&rollout.targets)
        .find(|&(n, t)| t.state().is_in_flight() && !listed(n));
    if let Some((target, _)) = unlisted {
        return broken(
            14,
            format!("target {target} is in flight and its deadline never comes"),
        );
    }
    let flagged = rollout.targets.iter().filter(|t| t.is_canary()).count();
    if flagged != rollout.canaries.len() {
        return broken(
            5,
            format!("{flagged} canaries, {} listed", rollout.canaries.len()),
        );
    }
    let suspect = |&(n, t): &(u32, &Target)| t.is_unproven() && rollout.suspects.contains(n);
    let suspects = (0..).zip(&rollout.targets).filter(suspect).count();
    let unproven = rollout.targets.iter().filter(|t| t.is_unproven()).count();
    if suspects != unproven || suspects != rollout.suspects.len() {
        return broken(5, "the suspects are others than those that are kept");
    }
    let queued: std::collections::BTreeSet<u32> = rollout.queue.iter().collect();
    if queued.len() != rollout.queue.iter().count() {
        return broken(5, "a target has two turns");
    }
    let forgotten = (0..)
        .zip(&rollout.targets)
        .find(|(n, t)| t.state() == TargetState::Pending && !queued.contains(n));
    match forgotten {
        Some((target, _)) => broken(
            14,
            format!("target {target} is pending and its turn never comes"),
        ),
        None => Ok(()),
    }
}

fn told_counts(state: &State) -> Law {
    for (&number, version) in &state.versions {
        let told = state.slots.iter().filter(|s| s.told == number).count();
        if told != version.told as usize {
            return broken(
                5,
                format!("{told} slots run version {number}, {} kept", version.told),
            );
        }
    }
    for (number, slot) in (0..).zip(&state.slots) {
        let attached = slot.node != NONE && state.members.slots(slot.node).any(|s| s == number);
        let homeless = slot.node == NONE || state.unplaced.contains(&number);
        if slot.live && attached == homeless {
            return broken(5, format!("slot {number} and its node disagree"));
        }
    }
    for node in 0..state.members.len() {
        let presence = state.members.presence(node);
        let slots = state.members.slots(node);
        let wanted = slots.filter(|s| !state.surplus.contains(s)).count();
        if wanted > 1 && state.distinct() {
            return broken(
                5,
                format!("{wanted} executions are wanted on node {node}, and one is to be"),
            );
        }
        let holds = state
            .members
            .slots(node)
            .any(|s| !state.surplus.contains(&s));
        let away = matches!(presence, Presence::Down | Presence::Draining);
        if state.leaving.contains(node) != (state.replicas.is_some() && holds && away) {
            let what = format!("node {node} is {presence:?} and its leave-taking is kept wrongly");
            return broken(5, what);
        }
    }
    let indexed = |places: &Places| anew(&state.members, state.seed, state.distinct()) == *places;
    if !state.members.places().is_none_or(indexed) {
        return broken(5, "the index of who has room is not what it should be");
    }
    if state.spare != state.spare_now() {
        return broken(5, "what may be wanted again is not what should be");
    }
    let own = (0..)
        .zip(&state.slots)
        .filter(|(n, s)| s.live && !state.surplus.contains(n))
        .count();
    match state.replicas {
        Some(replicas) if replicas as usize != own => {
            broken(5, format!("{own} executions of {replicas}"))
        }
        _ => Ok(()),
    }
}

fn limits(rollout: &Rollout) -> Law {
    let head = &rollout.head;
    if head.state == DeploymentState::Paused && head.cause.is_some() {
        return Ok(());
    }
    let failed = rollout
        .targets
        .iter()
        .filter(|t| t.state() == TargetState::Failed);
    let counting = failed.clone().filter(|t| !t.failed_before()).count() as u32;
    if counting > rollout.forgiven {
        let share = 100.0 * f64::from(counting) / f64::from(head.total);
        if counting > head.spec.max_failed_nodes || share > head.spec.max_failed_nodes_percent {
            return broken(
                6,
                format!("{counting} of {} failed and it goes on", head.total),
            );
        }
    }
    if rollout.is_gated() && failed.clone().any(crate::rollout::Target::is_canary) {
        return broken(6, "a canary failed and it goes on");
    }
    Ok(())
}

fn waits(state: &State, rollout: &Rollout) -> Law {
    let now = state.moment.elapsed;
    let due = crate::decide::next_due(state);
    if let Some(overdue) = due.filter(|&due| due <= now) {
        return broken(
            12,
            format!("it wants to be woken at {overdue}, and it is {now}"),
        );
    }
    match waiting_on(state, rollout) {
        WaitingOn::Health { .. } | WaitingOn::Proof { .. } if due.is_none() => {
            broken(14, "it waits for health without a deadline")
        }
        // All canaries are out, and of a silent one nothing is known: the rest waits for its return.
        WaitingOn::ReadyNode
            if rollout.is_gated()
                && rollout.canaries.len() >= rollout.head.canaries_wanted as usize
                && rollout
                    .canaries
                    .iter()
                    .any(|&t| rollout.targets[t as usize].is_lost()) =>
        {
            Ok(())
        }
        WaitingOn::ReadyNode => {
            let ready = |t: &&crate::rollout::Target| {
                t.state() == TargetState::Pending && state.is_ready(t.slot)
            };
            match rollout.targets.iter().find(ready) {
                Some(target) => broken(
                    14,
                    format!(
                        "it waits for a ready node, and slot {} has one",
                        target.slot
                    ),
                ),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

fn settled(state: &State) -> Law {
    if state.want.is_some() {
        return broken(14, "what was asked for has not begun");
    }
    for (number, slot) in (0..).zip(&state.slots) {
        // Before it is known which nodes match nothing starts.
        if state.members_due && state.current != 0 {
            continue;
        }
        let wanted = state.is_ready(number) && !state.surplus.contains(&number);
        if wanted && state.starts_again(number) {
            return broken(
                15,
                format!("slot {number} is there, and was to start again"),
            );
        }
        if state.is_left_over(number) {
            return broken(15, format!("slot {number} is left over, and was to stop"));
        }
        let left = slot.told == 0 || state.left_on.contains(&slot.told);
        if !state.settled && (left || state.surplus.contains(&number)) {
            continue;
        }
        let stops = state.members_due && state.surplus.contains(&number);
        let ended = slot.is_done() && state.current == 0;
        if state.is_ready(number) && slot.told != state.current && !stops && !ended {
            let (told, current) = (slot.told, state.current);
            return broken(
                15,
                format!("slot {number} was told {told}, and {current} is current"),
            );
        }
    }
    Ok(())
}

fn broken(law: u8, what: impl Into<String>) -> Law {
    Err(Broken {
        law,
        what: what.into(),
    })
}

#[cfg(test)]
mod tests;
