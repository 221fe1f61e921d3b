//! What tells two worlds apart: all of the state that decides what can happen from here on, with times as what is left of
//! them. Every field is named, so that a new one has to be thought of.

use super::{HALF_HOUR, TICK};
use crate::event::Aftermath;
use crate::rollout::{Head, Rollout, STOPPED, Target, TargetState};
use crate::state::{Slot, State, Version};
use crate::time::Time;

type Key = Vec<u64>;

/// The key of a job's state at this time.
pub(super) fn situation(state: &State, now: Time) -> Key {
    let State {
        // The same in all of them.
        id: _,
        seed: _,
        // Names of moments.
        seq: _,
        step_left: _,
        restarted: _,
        moment,
        versions,
        version_max,
        layout,
        members_due,
        current,
        settled,
        left_on,
        want,
        members,
        slots,
        surplus,
        // Follows from the others.
        spare: _,
        retired,
        free,
        restarts,
        replicas,
        unplaced,
        leaving,
        strays,
        rollout,
        history,
        // Bounded by the exploration.
        deployments: _,
        // No command has one.
        keys: _,
    } = state;
    let elapsed = moment.elapsed + (now.as_millis() - moment.wall.as_millis());
    let mut key = vec![
        u64::from(*version_max) << 32 | u64::from(*layout) << 16 | u64::from(*current),
        u64::from(*members_due) << 1 | u64::from(*settled),
        bits(left_on.iter().copied()),
        u64::from(replicas.map_or(u32::MAX, |count| count)),
    ];
    key.extend(
        want.iter()
            .flat_map(|want| [1, want.kind as u64, want.to.into()]),
    );
    for (number, version) in versions {
        let Version {
            spec: _,
            registered: _,
            stable,
            rejected,
            failed,
            // Follows from the slots.
            told: _,
        } = version;
        let flags = [stable, rejected, failed].into_iter();
        key.push(flags.fold((*number).into(), |bits, &on| bits << 1 | u64::from(on)));
    }
    for node in 0..members.len() {
        let wait = leaving.of(node);
        key.push(members.presence(node) as u64);
        key.push(wait.map_or(u64::MAX, |due| due.saturating_sub(elapsed)));
    }
    for (number, slot) in (0..).zip(slots) {
        let Slot {
            node,
            told,
            target,
            // A name of a moment: whether it is the one that is waited for is in `is_waited_for`.
            generation: _,
            live,
            stage,
        } = slot;
        let sets = [surplus, retired, free, restarts, unplaced, strays];
        let sets = sets.into_iter().map(|set| set.contains(&number));
        let flags = [*live, state.is_waited_for(number)].into_iter().chain(sets);
        key.extend([
            u64::from(*told) << 32 | u64::from(*node),
            u64::from(*target) << 8 | *stage as u64,
            flags.fold(0, |bits, on| bits << 1 | u64::from(on)),
        ]);
    }
    for head in history {
        past(head, &mut key);
    }
    if let Some(rollout) = rollout {
        present(rollout, elapsed, &mut key);
    }
    key
}

fn bits(numbers: impl Iterator<Item = u32>) -> u64 {
    numbers.fold(0, |bits, number| bits | 1 << number)
}

/// What is remembered of any deployment.
fn past(head: &Head, key: &mut Key) {
    let Head {
        // Names.
        number: _,
        id: _,
        rollback_of,
        rolled_back_by,
        // What is shown, and moments.
        revision: _,
        created: _,
        updated: _,
        completed: _,
        progress: _,
        canary_nodes: _,
        culprit: _,
        // The version's.
        spec: _,
        job_type: _,
        kind,
        from,
        to,
        base,
        state,
        wave,
        total: _,
        // Counts of the targets.
        tally: _,
        failed_first,
        canaries_wanted,
        promoted,
        cause,
        aftermath,
    } = head;
    let flags = [
        *promoted,
        cause.is_some(),
        matches!(aftermath, Aftermath::RollBack { .. }),
        rollback_of.is_some(),
        rolled_back_by.is_some(),
        *wave > 0,
    ];
    key.extend([
        *kind as u64 | (*state as u64) << 8 | u64::from(*base) << 16,
        u64::from(*from) << 32 | u64::from(*to),
        u64::from(*failed_first) << 32 | u64::from(*canaries_wanted),
        flags
            .into_iter()
            .fold(0, |bits, on| bits << 1 | u64::from(on)),
    ]);
}

/// The active deployment, or the last one.
fn present(rollout: &Rollout, elapsed: u64, key: &mut Key) {
    let Rollout {
        head,
        targets,
        queue,
        // What of them is still to come is each target's.
        dispatches: _,
        idle: _,
        open: _,
        suspects: _,
        quiet_since,
        awaited,
        canaries,
        vacant,
        // Why they failed is only shown.
        failures: _,
        // In the dues.
        held: _,
        paused_at: _,
        forgiven,
        // What is shown.
        updated_max: _,
        before,
    } = rollout;
    past(head, key);
    let clock = rollout.deadline_clock(elapsed);
    let threshold = head.spec.gate().map_or(0, |gate| gate.failure_threshold);
    // For whom it waits, and whether who turns bad now is one of them.
    let waits = bits(awaited.iter().copied()) << 1 | u64::from(*quiet_since == Some(clock));
    key.extend([
        u64::from(*forgiven),
        waits,
        bits(canaries.iter().copied()),
        bits(vacant.iter().copied()),
    ]);
    for before in before.iter().filter(|_| !head.state.is_final()) {
        let (from, to) = before.rejected;
        key.extend([
            u64::from(before.current),
            u64::from(before.settled) << 2 | u64::from(from) << 1 | u64::from(to),
            bits(before.left_on.iter().copied()),
        ]);
    }
    for (number, target) in (0..).zip(targets) {
        let since = u64::from(target.since);
        let shown = || elapsed.saturating_sub(since).min(TICK.as_millis());
        let left = match target.state() {
            _ if head.state.is_final() => 0,
            TargetState::Observing => shown(),
            TargetState::Updated if target.is_unproven() => {
                shown() + u64::from(since == STOPPED) * HALF_HOUR.as_millis()
            }
            _ => 0,
        };
        let due = rollout.due_of(number).filter(|_| !head.state.is_final());
        let Target { slot, .. } = *target;
        let streak = target.streak.min(threshold.max(1));
        key.extend([
            u64::from(slot) << 32 | u64::from(target.flags()) << 8 | u64::from(streak),
            left,
            due.map_or(0, |due| due.saturating_sub(clock)),
        ]);
    }
    let pending = (queue.iter()).filter(|&t| targets[t as usize].state() == TargetState::Pending);
    key.extend(pending.map(u64::from));
}
