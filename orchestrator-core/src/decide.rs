//! What follows: the rules, in the order in which they are asked, until none has anything to say.
//!
//! Each looks at the state and the time and answers one fact, or nothing. None of them scans the
//! fleet for one report: they look at counts, and walk a wave or an order only when they act on it.

use crate::apply::stay;
use crate::draw::draw;
use crate::event::{
    Aftermath, Cause, DeploymentKind, DeploymentState, Event, Reason, Started, Want,
};
use crate::id::DeploymentId;
use crate::order::order;
use crate::placement::place;
use crate::rollout::{Head, Rollout, TargetState};
use crate::runs::Runs;
use crate::spec::{OnFailure, RolloutSpec, Strategy};
use crate::state::{Moment, State, VERSIONS_KEPT};

/// The next fact that follows from the state at `now`.
pub(crate) fn decide(state: &State, now: Moment) -> Option<Event> {
    let Some(rollout) = state.active() else {
        // What goes back, or stops, says first where executions belong then.
        let placed_anew = state.want.is_some_and(|want| {
            matches!(want.kind, DeploymentKind::Rollback | DeploymentKind::Stop)
        });
        if placed_anew {
            return start(state, now);
        }
        // Before it is known which nodes match nothing starts, nor is anything left over; what is to stop stops.
        let known = !state.members_due || state.current == 0;
        let settle = |rule: fn(&State) -> Option<Event>| known.then(|| rule(state)).flatten();
        return settle(retire_surplus)
            .or_else(|| find_places(state, now))
            .or_else(|| start(state, now))
            .or_else(|| settle(converge))
            .or_else(|| forget_version(state));
    };
    supersede(state, rollout)
        .or_else(|| expire(rollout, now))
        .or_else(|| expire_suspect(rollout, now))
        .or_else(|| fail(state, rollout))
        .or_else(|| {
            if rollout.head.state == DeploymentState::Paused {
                return None;
            }
            // Before it is known which nodes match, nothing starts anywhere, and nothing is over.
            if state.members_due && rollout.head.kind != DeploymentKind::Stop {
                return None;
            }
            leave_out(state, rollout)
                .or_else(|| find_places(state, now))
                .or_else(|| promote(rollout))
                .or_else(|| next_wave(state, rollout))
                .or_else(|| finish(state, rollout))
                .or_else(|| converge(state))
        })
}

/// What a person asked for takes the place of what is under way.
fn supersede(state: &State, rollout: &Rollout) -> Option<Event> {
    let Want { kind, to, .. } = state.want?;
    debug_assert!(!rollout.head.state.is_final());
    Some(Event::Ended {
        state: DeploymentState::Canceled,
        cause: Cause::Superseded { kind, to },
        aftermath: Aftermath::Nothing,
    })
}

/// Targets whose deadline passed; one reason at a time.
fn expire(rollout: &Rollout, now: Moment) -> Option<Event> {
    if rollout.due_first()? > rollout.deadline_clock(now.elapsed) {
        return None;
    }
    let dispatch = *rollout.open.front()?;
    let late = |lost: bool| -> Runs {
        let targets = rollout.dispatches[dispatch as usize].targets.iter();
        targets
            .filter(|&t| {
                let target = &rollout.targets[t as usize];
                target.dispatch == dispatch + 1
                    && target.state().is_in_flight()
                    && target.is_lost() == lost
            })
            .collect()
    };
    for (lost, reason) in [(true, Reason::Lost), (false, Reason::Deadline)] {
        let targets = late(lost);
        if !targets.is_empty() {
            return Some(Event::Failed { targets, reason });
        }
    }
    None
}

/// An updated target that turned bad and did not turn good again in time.
fn expire_suspect(rollout: &Rollout, now: Moment) -> Option<Event> {
    let (due, target) = rollout.suspects.first()?;
    let lost = rollout.targets[target as usize].is_lost();
    (due <= rollout.deadline_clock(now.elapsed)).then(|| Event::Failed {
        targets: [target].into_iter().collect(),
        reason: if lost { Reason::Lost } else { Reason::Deadline },
    })
}

/// The limits.
fn fail(state: &State, rollout: &Rollout) -> Option<Event> {
    let head = &rollout.head;
    if head.state == DeploymentState::Paused && head.cause.is_some() {
        return None;
    }
    let cause = over_limits(rollout)?;
    if pauses(head) {
        return Some(Event::Paused {
            failure: Some(cause),
        });
    }
    Some(Event::Ended {
        state: DeploymentState::Failed,
        cause,
        aftermath: aftermath(state, rollout),
    })
}

/// Whether a failure is held for a person to look at.
fn pauses(head: &Head) -> bool {
    head.spec.on_failure == OnFailure::Pause && head.kind != DeploymentKind::Rollback
}

/// Which limit the failed targets have passed.
pub(crate) fn over_limits(rollout: &Rollout) -> Option<Cause> {
    let head = &rollout.head;
    if rollout.is_gated() && head.tally.canaries_failed > 0 {
        let failed = |&&t: &&u32| rollout.targets[t as usize].state() == TargetState::Failed;
        return rollout
            .canaries
            .iter()
            .find(failed)
            .map(|&target| Cause::CanaryFailed { target });
    }
    if rollout.head.failed_counting() <= rollout.forgiven {
        return None;
    }
    too_many_failed(head)
}

/// Which limit the failed targets have passed by their number alone.
pub(crate) fn too_many_failed(head: &Head) -> Option<Cause> {
    let failed = head.failed_counting();
    if failed > head.spec.max_failed_nodes {
        return Some(Cause::TooManyFailed {
            failed,
            allowed: head.spec.max_failed_nodes,
        });
    }
    // Divided last, so that 1 of 1000 is exactly the 0.1 of a limit.
    let percent = 100.0 * f64::from(failed) / f64::from(head.total);
    (percent > head.spec.max_failed_nodes_percent).then_some(Cause::TooLargeShareFailed {
        failed,
        total: head.total,
        allowed_percent: head.spec.max_failed_nodes_percent,
    })
}

/// Whether, and to what, a failed deployment is rolled back.
pub(crate) fn aftermath(state: &State, rollout: &Rollout) -> Aftermath {
    let head = &rollout.head;
    match head.kind {
        DeploymentKind::Rollback => return Aftermath::WasRollback,
        DeploymentKind::Restart | DeploymentKind::Stop => return Aftermath::SameVersion,
        DeploymentKind::Create | DeploymentKind::Update => {}
    }
    if head.spec.no_auto_rollback || head.spec.on_failure == OnFailure::Fail {
        return Aftermath::RollbackOff;
    }
    // What was stopped before stays stopped: a person did that.
    if head.from == 0 && state.stable_before(head.to).is_some() {
        return Aftermath::WasStopped;
    }
    // What ran before, if it was ever proven; else the newest that was.
    let before = state
        .versions
        .get(&head.from)
        .is_some_and(|v| v.stable && !v.rejected);
    let stable = if before {
        Some(head.from)
    } else {
        state.stable_before(head.to)
    };
    let Some(to) = stable else {
        return Aftermath::NoStableVersion;
    };
    let mut slots = 0..state.slots.len() as u32;
    if slots.any(|slot| state.is_touched(slot, head.to, to)) {
        Aftermath::RollBack { to }
    } else {
        Aftermath::NothingTouched
    }
}

/// Executions that have no node, or have to leave theirs. Who may take them has to be known.
fn find_places(state: &State, now: Moment) -> Option<Event> {
    if state.members_due {
        return None;
    }
    place_unplaced(state).or_else(|| leave_nodes(state, now))
}

/// Executions that run on no node.
fn place_unplaced(state: &State) -> Option<Event> {
    if state.unplaced.is_empty() || !has_room(state) {
        return None;
    }
    placed(state, state.unplaced.iter().copied())
}

/// Executions on nodes that are drained, or lost for too long.
fn leave_nodes(state: &State, now: Moment) -> Option<Event> {
    if state.leaving.first()?.0 > now.elapsed || !has_room(state) {
        return None;
    }
    let nodes = state.leaving.by(now.elapsed);
    let slots = nodes
        .flat_map(|node| state.members.slots(node))
        .filter(|s| !state.surplus.contains(s));
    placed(state, slots)
}

/// Nodes for `slots`, and what they are to run there.
fn placed(state: &State, slots: impl Iterator<Item = u32>) -> Option<Event> {
    let moves = place(state, slots).into_iter();
    let moves: Vec<(u32, u32, u32)> = moves
        .map(|(slot, node)| (slot, node, runs_elsewhere(state, slot)))
        .collect();
    (!moves.is_empty()).then_some(Event::Placed { moves })
}

/// What an execution is to run on a node that is new to it: what it ran, unless that was taken back, or
/// would start outside of a wave what the waves are there for. 0 = nothing before its turn.
fn runs_elsewhere(state: &State, slot: u32) -> u32 {
    let told = state.slots[slot as usize].told;
    let waits = state.waits_for_turn(slot);
    let target = |r: &Rollout| state.target_of(slot).map(|t| r.targets[t as usize].state());
    // What failed starts nowhere any more.
    let may_start = !state.is_outdated(told) && !state.runs_what_failed(slot);
    let stays = match state.active() {
        None => may_start,
        Some(rollout) => match target(rollout) {
            Some(state) if state.is_in_flight() || state == TargetState::Updated => return told,
            _ if rollout.is_forward() => told != rollout.head.to && may_start,
            // Work that is done once would begin here, and once more in its turn.
            _ => told == rollout.head.to && !(waits && rollout.head.is_batch()),
        },
    };
    let taken_back = state.versions.get(&told).is_none_or(|v| v.rejected);
    if stays && !taken_back {
        told
    } else if waits {
        0
    } else {
        state.base()
    }
}

/// Whether any node can take an execution more. What is being stopped goes nowhere, nor does what was stopped.
pub(crate) fn has_room(state: &State) -> bool {
    let (ready, empty) = state.members.ready();
    let free = if state.distinct() { empty } else { ready };
    let runs = state
        .active()
        .map_or(!state.left_on.is_empty(), Rollout::is_forward);
    free > 0 && (state.current != 0 || runs)
}

fn promote(rollout: &Rollout) -> Option<Event> {
    let Strategy::Canary {
        auto_promote: true, ..
    } = rollout.head.spec.strategy
    else {
        return None;
    };
    let done = rollout.is_gated() && rollout.head.tally.in_flight() == 0 && rollout.canaries_well();
    // Fewer canaries than asked for are enough only when there are no more to be had.
    let all = rollout.head.tally.canaries >= rollout.head.canaries_wanted
        || rollout.head.tally.pending == 0;
    (done && all).then_some(Event::Promoted { auto: true })
}

/// The next targets whose turn it is, when nothing is in flight any more.
fn next_wave(state: &State, rollout: &Rollout) -> Option<Event> {
    let head = &rollout.head;
    let immediate = head.spec.gate().is_none();
    // An updated target that is bad now, or has moved, has its time to show that it is well.
    let holds = head.tally.in_flight() > 0 || rollout.waits_for_proof();
    if head.tally.pending == 0 || holds && !immediate {
        return None;
    }
    let mut room = if immediate || head.spec.max_parallel == 0 {
        u32::MAX
    } else {
        head.spec.max_parallel
    };
    let mut end = u32::MAX;
    let pending = |&t: &u32| rollout.targets[t as usize].state() == TargetState::Pending;
    if rollout.queue.iter().find(pending)? < head.failed_first {
        // What had failed is taken back first, and all at once.
        (room, end) = (u32::MAX, head.failed_first);
    }
    let canary = rollout.is_gated();
    if canary {
        room = room.min(head.canaries_wanted.saturating_sub(head.tally.canaries));
    }
    if room == 0 {
        return None;
    }
    let (mut targets, mut skipped, mut count) = (Runs::default(), Runs::default(), 0);
    for target in rollout.queue.iter() {
        if count == room {
            break;
        }
        let row = &rollout.targets[target as usize];
        // What is back stands at the end of the queue: those that had failed need not be its first.
        if target >= end || row.state() != TargetState::Pending {
            continue;
        }
        if state.is_ready(row.slot) {
            targets.push(target);
            count += 1;
        } else {
            skipped.push(target);
        }
    }
    if count > 0 {
        return Some(Event::Dispatched {
            wave: head.wave + 1,
            canary,
            targets,
            skipped,
        });
    }
    (!skipped.is_empty()).then_some(Event::Skipped { targets: skipped })
}

/// The end, when every target had its turn.
fn finish(state: &State, rollout: &Rollout) -> Option<Event> {
    let head = &rollout.head;
    // An updated target that is bad now has its time to become good again: it proves nothing.
    if head.tally.pending > 0 || head.tally.in_flight() > 0 || rollout.waits_for_proof() {
        return None;
    }
    let completed = Event::Ended {
        state: DeploymentState::Completed,
        cause: Cause::Done,
        aftermath: Aftermath::Nothing,
    };
    if head.kind == DeploymentKind::Stop {
        return Some(completed);
    }
    if head.tally.updated == 0 {
        // With nobody there it waits for a ready node; with everybody failed there is none to wait for,
        // and those that left for good come back as others.
        let may_come = head.tally.skipped > head.tally.gone;
        if head.tally.failed == 0 && !may_come && !rollout.is_forward() {
            return Some(completed);
        }
        // What is scaled to nothing has shown nothing, and does when it is scaled up again.
        let hopeless = head.tally.failed > 0 && !may_come && !none_wanted(state, rollout);
        let cause = Cause::NothingUpdated {
            failed: head.tally.failed,
        };
        // Once a person saw that and went on, there is nothing left to go on with.
        let unseen = rollout.head.failed_counting() > rollout.forgiven;
        return hopeless.then(|| {
            if unseen && pauses(head) {
                return Event::Paused {
                    failure: Some(cause),
                };
            }
            Event::Ended {
                state: DeploymentState::Failed,
                cause,
                aftermath: aftermath(state, rollout),
            }
        });
    }
    (!rollout.is_gated()).then_some(completed)
}

/// Nodes outside of any wave that run something else than they should.
fn converge(state: &State) -> Option<Event> {
    if state.strays.is_empty() {
        return None;
    }
    let due = |&slot: &u32| Some((state.due(slot)?, slot));
    let mut strays = state.strays.iter().filter_map(due).peekable();
    let &(version, _) = strays.peek()?;
    let slots = strays.filter(|&(due, _)| due == version);
    let slots: Runs = slots.map(|(_, slot)| slot).collect();
    Some(Event::Converged { version, slots })
}

fn retire_surplus(state: &State) -> Option<Event> {
    if state.want.is_some() {
        return None;
    }
    let strays = state.strays.iter().copied();
    let slots: Vec<u32> = strays.filter(|&slot| state.is_left_over(slot)).collect();
    (!slots.is_empty()).then_some(Event::Retired { slots })
}

/// Whether a version is on its way that is to run nowhere for now.
pub(crate) fn none_wanted(state: &State, rollout: &Rollout) -> bool {
    rollout.is_forward() && state.replicas == Some(0)
}

/// What such a version leaves out: all there are.
fn leave_out(state: &State, rollout: &Rollout) -> Option<Event> {
    let any = none_wanted(state, rollout) && !state.surplus.is_empty();
    any.then(|| Event::Retired {
        slots: state.surplus.iter().copied().collect(),
    })
}

fn forget_version(state: &State) -> Option<Event> {
    if state.versions.len() <= VERSIONS_KEPT {
        return None;
    }
    let keep = [
        state.current,
        state.version_max,
        state.layout,
        state.stable_before(u32::MAX).unwrap_or(0),
        state.stable_before(state.current).unwrap_or(0),
    ];
    let version = state
        .versions
        .iter()
        .find(|(number, v)| v.told == 0 && !keep.contains(number));
    version.map(|(&version, _)| Event::Forgot { version })
}

/// Begins what was asked for; a deployment that is taken back learns of it first.
fn start(state: &State, now: Moment) -> Option<Event> {
    let Want {
        kind,
        to,
        from,
        rollback_of,
    } = state.want?;
    let number = state.deployments + 1;
    let id = DeploymentId::derive(state.seed, &state.id, number, now.wall);
    let last = state.rollout.as_ref();
    let taken_back = last.filter(|r| rollback_of == Some(r.head.id));
    if taken_back.is_some_and(|r| r.head.rolled_back_by.is_none()) {
        return Some(Event::RolledBackBy { id });
    }
    let seed = draw(state.seed, "deployment", &number.to_le_bytes());
    let from = match kind {
        DeploymentKind::Rollback => from,
        _ => state.current,
    };
    let kind = if kind == DeploymentKind::Update && from == 0 {
        DeploymentKind::Create
    } else {
        kind
    };
    let spec = rollout_spec(state, kind, from, to);
    let told = |slot: u32| state.slots[slot as usize].told;
    let live = (0..state.slots.len() as u32).filter(|&slot| state.slots[slot as usize].live);
    let own = |slot: &u32| !state.surplus.contains(slot);
    let (order, failed_first) = match kind {
        DeploymentKind::Create | DeploymentKind::Update => {
            (order(state, seed, live.filter(own)), 0)
        }
        DeploymentKind::Restart => (
            order(state, seed, live.filter(own).filter(|&s| told(s) == to)),
            0,
        ),
        DeploymentKind::Stop => {
            let runs = |&slot: &u32| told(slot) != 0 && !state.slots[slot as usize].is_done();
            (order(state, seed, live.filter(runs)), 0)
        }
        DeploymentKind::Rollback => {
            // What the version gone back to has no use for is not started with it only to be stopped.
            let stay = stay(state, to);
            // What an earlier rollback has not brought there is for a person to ask for: it is not what this one is of.
            let by_itself = state.is_by_itself(rollback_of);
            let unproven = |slot| !by_itself && state.is_ready(slot) && state.is_unproven(slot, to);
            let touched = |&slot: &u32| {
                let touched = state.is_touched(slot, from, to) || unproven(slot);
                stay.contains(&slot) && touched
            };
            let failed = |slot: u32| {
                let target = taken_back
                    .and_then(|r| r.targets.get(state.slots[slot as usize].target as usize));
                target.is_some_and(|t| t.slot == slot && t.state() == TargetState::Failed)
            };
            let (first, others): (Vec<u32>, Vec<u32>) =
                live.filter(touched).partition(|&slot| failed(slot));
            // What an earlier rollback has failed on does not keep this one from those that run something else.
            let (last, others): (Vec<u32>, Vec<u32>) = others
                .into_iter()
                .partition(|&slot| state.is_unproven(slot, to));
            let failed_first = first.len() as u32;
            let groups = [first, others, last].into_iter();
            let turns = groups.flat_map(|group| order(state, seed, group.into_iter()));
            let turns = turns.collect();
            (turns, failed_first)
        }
    };
    let total = order.len() as u32;
    let canaries = match spec.strategy {
        // With nobody there yet, whoever comes first is the canary.
        Strategy::Canary { canaries, .. } => canaries.of(total).max(1),
        _ => 0,
    };
    Some(Event::Started(Box::new(Started {
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
    })))
}

/// A rollback passes no gates and keeps the pace and the deadlines of what it takes back; a stop has
/// none.
fn rollout_spec(state: &State, kind: DeploymentKind, from: u32, to: u32) -> RolloutSpec {
    let of = |version: u32| state.versions.get(&version).map(|v| v.spec.rollout.clone());
    match kind {
        DeploymentKind::Stop => RolloutSpec {
            on_failure: OnFailure::Fail,
            ..RolloutSpec::default()
        },
        DeploymentKind::Rollback => {
            let mut spec = of(from).or_else(|| of(to)).unwrap_or_default();
            if let Strategy::Canary { health_check, .. } = spec.strategy {
                spec.strategy = Strategy::Rolling { health_check };
            }
            spec.no_auto_rollback = true;
            spec
        }
        _ => of(to).unwrap_or_default(),
    }
}

/// When `decide` may have something new to say though nothing is put in, in the job's time.
pub(crate) fn next_due(state: &State) -> Option<u64> {
    let leaving = state.leaving.first().map(|(due, _)| due);
    let leaving = leaving.filter(|_| has_room(state) && !state.members_due);
    let Some(rollout) = state.active() else {
        return leaving;
    };
    if rollout.head.state == DeploymentState::Paused {
        return None;
    }
    let deadlines = rollout
        .due_first()
        .into_iter()
        .chain(rollout.suspects.first().map(|(due, _)| due));
    let deadline = deadlines.min().map(|due| due + rollout.held);
    debug_assert!(rollout.deadline_millis() > 0);
    deadline.into_iter().chain(leaving).min()
}
