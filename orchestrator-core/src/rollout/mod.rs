//! One deployment: its targets, what they amount to, and what it waits for.

mod target;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::dues::Dues;
use crate::event::{Aftermath, Cause, DeploymentKind, DeploymentState, Reason};
use crate::id::DeploymentId;
use crate::room;
use crate::runs::Runs;
use crate::spec::{JobType, RolloutSpec};
use crate::time::{Span, Time};

pub use target::TargetState;
pub(crate) use target::{STOPPED, Tally, Target};

/// How long a target may take to start where health is not asked for.
pub(crate) const START_WITHIN: Span = Span::from_secs(3600);
/// How long an execution of a batch job may run where health is not asked for.
pub(crate) const RUN_WITHIN: Span = Span::from_secs(365 * 24 * 3600);

/// A deployment with its targets.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Rollout {
    pub(crate) head: Head,
    /// In the order of their turn: a wave's targets lie side by side.
    pub(crate) targets: Vec<Target>,
    pub(crate) queue: Queue,
    pub(crate) dispatches: Vec<Dispatch>,
    /// Dispatches that no target names any more: the next ones take their place, so that who comes and goes makes it
    /// no larger.
    #[serde(skip)]
    pub(crate) idle: BTreeSet<u32>,
    /// Dispatches with targets in flight, the earliest deadline first.
    pub(crate) open: VecDeque<u32>,
    /// Updated targets that are unproven, with the deadline for showing that they are well.
    pub(crate) suspects: Dues,
    /// Since when, in the deadlines' time, nothing is in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quiet_since: Option<u64>,
    /// The suspects of that moment, for as long as they are: what comes next waits for them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) awaited: BTreeSet<u32>,
    pub(crate) canaries: BTreeSet<u32>,
    /// Targets that came late and whose executions are no more: those that come next take their place, so that who
    /// comes and goes makes it no larger.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) vacant: BTreeSet<u32>,
    pub(crate) failures: BTreeMap<u32, Failure>,
    /// Milliseconds of the job's time by which deadlines have moved on so far.
    pub(crate) held: u64,
    /// Since when, in the job's time, deadlines stand still.
    pub(crate) paused_at: Option<u64>,
    /// Failed targets that an operator looked at and went on with.
    pub(crate) forgiven: u32,
    pub(crate) updated_max: u32,
    /// Of a rollback: what was in force when it began, for as long as it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Before>,
}

/// What a rollback has changed by its beginning alone.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Before {
    pub(crate) current: u32,
    pub(crate) settled: bool,
    pub(crate) left_on: BTreeSet<u32>,
    /// Whether the version that it goes back from was taken back before, and the one that it goes to.
    pub(crate) rejected: (bool, bool),
}

/// What is left of a deployment when its targets are forgotten.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Head {
    pub(crate) number: u32,
    pub(crate) id: DeploymentId,
    pub(crate) kind: DeploymentKind,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) spec: RolloutSpec,
    /// What an execution runs that no wave has reached; 0 = nothing. Of a version that is on its way.
    pub(crate) base: u32,
    /// Of the version that it goes to, or stops.
    pub(crate) job_type: JobType,
    pub(crate) state: DeploymentState,
    pub(crate) revision: u64,
    pub(crate) created: Time,
    pub(crate) updated: Time,
    pub(crate) completed: Option<Time>,
    pub(crate) progress: Option<Time>,
    pub(crate) wave: u32,
    pub(crate) total: u32,
    pub(crate) tally: Tally,
    pub(crate) failed_first: u32,
    pub(crate) canaries_wanted: u32,
    pub(crate) promoted: bool,
    /// Why it ended or paused by itself.
    pub(crate) cause: Option<Cause>,
    pub(crate) aftermath: Aftermath,
    pub(crate) rollback_of: Option<DeploymentId>,
    pub(crate) rolled_back_by: Option<DeploymentId>,
    /// Written down at the end, when the targets are about to be forgotten.
    pub(crate) canary_nodes: Vec<String>,
    /// The node that `cause` speaks of.
    pub(crate) culprit: Option<String>,
}

impl Head {
    /// Whether its targets are updated when they have done their work.
    pub(crate) fn is_batch(&self) -> bool {
        self.job_type == JobType::Batch && self.kind != DeploymentKind::Stop
    }

    /// Whether it was over before it had told anybody anything.
    pub(crate) fn began_no_wave(&self) -> bool {
        self.state.is_final() && self.state != DeploymentState::Completed && self.wave == 0
    }

    /// Failed targets that count against the limits: those that a rollback found failed do not.
    pub(crate) fn failed_counting(&self) -> u32 {
        self.tally.failed - self.tally.failed_before
    }
}

/// One wave as it was sent out, or the part of it that had to be sent to other nodes.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Dispatch {
    pub(crate) generation: u64,
    /// In the deadlines' time.
    pub(crate) due: u64,
    pub(crate) wave: u32,
    /// Targets in flight.
    pub(crate) open: u32,
    /// Targets that it was the last one of.
    #[serde(skip)]
    pub(crate) named: u32,
    /// Empty once none is in flight.
    pub(crate) targets: Runs,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) at: Time,
}

/// Whose turn is next: first the planned order, then those that came late.
///
/// May name targets that are no longer pending; they are passed over. The late ones go by their number:
/// nodes that are back have been planned before those that joined, and who joins in the place of one that went has
/// that one's turn.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Queue {
    pub(crate) next: u32,
    pub(crate) planned: u32,
    late: BTreeSet<u32>,
}

impl Queue {
    /// The first `planned` targets, in their order.
    pub(crate) fn new(planned: u32) -> Self {
        Self {
            next: 0,
            planned,
            late: BTreeSet::new(),
        }
    }

    /// A target's turn comes (again).
    pub(crate) fn push(&mut self, target: u32) {
        if !(self.next..self.planned).contains(&target) {
            self.late.insert(target);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (self.next..self.planned).chain(self.late.iter().copied())
    }

    pub(crate) fn first(&self) -> Option<u32> {
        if self.next < self.planned {
            Some(self.next)
        } else {
            self.late.first().copied()
        }
    }

    fn pop(&mut self) {
        if self.next < self.planned {
            self.next += 1;
        } else {
            self.late.pop_first();
        }
    }
}

impl Rollout {
    /// The only way to change a target: counts, open dispatches and progress follow.
    pub(crate) fn change(&mut self, target: u32, at: Time, change: impl FnOnce(&mut Target)) {
        let slot = &mut self.targets[target as usize];
        let tally = &mut self.head.tally;
        tally.take(slot);
        if slot.state().is_in_flight() {
            self.dispatches[slot.dispatch as usize - 1].open -= 1;
        }
        let before = slot.dispatch;
        change(slot);
        tally.put(slot);
        if slot.state().is_in_flight() {
            self.dispatches[slot.dispatch as usize - 1].open += 1;
        }
        if tally.updated > self.updated_max {
            self.updated_max = tally.updated;
            self.head.progress = Some(at);
        }
        if !slot.is_unproven() {
            self.suspects.remove(target);
            self.awaited.remove(&target);
        }
        let after = slot.dispatch;
        if before != after && after != 0 {
            self.dispatches[after as usize - 1].named += 1;
        }
        if before != 0 {
            self.dispatches[before as usize - 1].named -= u32::from(before != after);
            self.close(before);
        }
    }

    /// Closes a dispatch, by its number, if nothing of it is in flight; it is of no use if no target names it either.
    pub(crate) fn close(&mut self, number: u32) {
        let Dispatch {
            due,
            open,
            named,
            ref mut targets,
            ..
        } = self.dispatches[number as usize - 1];
        if open > 0 {
            return;
        }
        let index = number - 1;
        if !std::mem::take(targets).is_empty() {
            let place = |&d: &u32| (self.dispatches[d as usize].due, d);
            if let Ok(at) = self.open.binary_search_by_key(&(due, index), place) {
                self.open.remove(at);
            }
        }
        if named == 0 {
            self.idle.insert(index);
        }
    }

    /// Until when a target has to be proven, where its clock runs: one in flight, or one that is unproven.
    pub(crate) fn due_of(&self, target: u32) -> Option<u64> {
        let row = &self.targets[target as usize];
        if row.state().is_in_flight() {
            return Some(self.dispatches[row.dispatch as usize - 1].due);
        }
        self.suspects.of(target)
    }

    /// Whether it brings a version that is not proven.
    pub(crate) fn is_forward(&self) -> bool {
        matches!(
            self.head.kind,
            DeploymentKind::Create | DeploymentKind::Update
        )
    }

    pub(crate) fn push_target(&mut self, slot: u32) -> u32 {
        let target = Target::new(slot);
        self.head.tally.put(&target);
        room::push(&mut self.targets, target);
        self.head.total += 1;
        self.targets.len() as u32 - 1
    }

    /// The execution of a target is no more. Whether another may take its place.
    pub(crate) fn vacate(&mut self, target: u32) {
        let row = &self.targets[target as usize];
        let late = target >= self.queue.planned;
        if late && row.state() == TargetState::Skipped && !row.is_canary() {
            self.vacant.insert(target);
        }
    }

    /// Opens a dispatch of targets that are about to be in flight; answers its number.
    pub(crate) fn dispatch(&mut self, generation: u64, due: u64, wave: u32, targets: Runs) -> u32 {
        let new = Dispatch {
            generation,
            due,
            wave,
            open: 0,
            named: 0,
            targets,
        };
        let index = match self.idle.pop_first() {
            Some(index) => {
                self.dispatches[index as usize] = new;
                index
            }
            None => {
                room::push(&mut self.dispatches, new);
                self.dispatches.len() as u32 - 1
            }
        };
        // Nearly always the last: only what moved off a lost node keeps a deadline that was set before.
        let later = |&d: &u32| (self.dispatches[d as usize].due, d) > (due, index);
        let after = self.open.iter().rev().take_while(|d| later(d)).count();
        self.open.insert(self.open.len() - after, index);
        index + 1
    }

    /// The deadlines' time: the job's, less what it was held.
    pub(crate) fn deadline_clock(&self, elapsed: u64) -> u64 {
        let standing = self
            .paused_at
            .map_or(0, |since| elapsed.saturating_sub(since));
        elapsed.saturating_sub(self.held).saturating_sub(standing)
    }

    /// The earliest deadline of a target in flight, in the deadlines' time.
    pub(crate) fn due_first(&self) -> Option<u64> {
        self.open.front().map(|&d| self.dispatches[d as usize].due)
    }

    /// The latest deadline of a target in flight, in the deadlines' time.
    pub(crate) fn due_last(&self) -> Option<u64> {
        self.open.back().map(|&d| self.dispatches[d as usize].due)
    }

    /// The generation of a target's assignment; 0 before it has one.
    pub(crate) fn generation(&self, target: &Target) -> u64 {
        match target.dispatch {
            0 => 0,
            d => self.dispatches[d as usize - 1].generation,
        }
    }

    /// Canaries are asked for and the rest still waits for them.
    pub(crate) fn is_gated(&self) -> bool {
        self.head.canaries_wanted > 0 && !self.head.promoted
    }

    /// Every canary there is has been proven and is well now, and there is one.
    pub(crate) fn canaries_well(&self) -> bool {
        let Tally {
            canaries,
            canaries_well,
            ..
        } = self.head.tally;
        canaries > 0 && canaries == canaries_well
    }

    /// Passes over targets at the front of the queue that are not pending.
    pub(crate) fn trim_queue(&mut self) {
        while let Some(target) = self.queue.first() {
            if self.targets[target as usize].state() == TargetState::Pending {
                return;
            }
            self.queue.pop();
        }
    }

    /// An updated target is to show once more, by then, that it is well.
    pub(crate) fn suspect(&mut self, target: u32, due: u64, clock: u64) {
        self.suspects.insert(target, due);
        // At the very moment it counts as before it.
        if self.quiet_since == Some(clock) {
            self.awaited.insert(target);
        }
    }

    /// Notes since when nothing is in flight, and who was bad then. Between the waves of a rollback nobody is waited for.
    pub(crate) fn note_quiet(&mut self, elapsed: u64) {
        let tally = &self.head.tally;
        let goes_on = self.head.kind == DeploymentKind::Rollback && tally.pending > 0;
        if self.head.state.is_final() || tally.in_flight() > 0 || goes_on {
            self.quiet_since = None;
            self.awaited.clear();
        } else if self.quiet_since.is_none() {
            self.quiet_since = Some(self.deadline_clock(elapsed));
            self.awaited = self.suspects.iter().collect();
        }
    }

    /// Counts again what is not kept.
    pub(crate) fn recount(&mut self) {
        self.head.tally.unproven = 0;
        for dispatch in &mut self.dispatches {
            dispatch.named = 0;
        }
        for target in &self.targets {
            self.head.tally.unproven += u32::from(target.is_unproven());
            if let Some(dispatch) = target.dispatch.checked_sub(1)
                && let Some(dispatch) = self.dispatches.get_mut(dispatch as usize)
            {
                dispatch.named += 1;
            }
        }
        let numbered = (0..).zip(&self.dispatches);
        let idle = numbered.filter(|(_, dispatch)| dispatch.named == 0);
        self.idle = idle.map(|(index, _)| index).collect();
        // Once they were kept in the order in which they were opened, and nobody was awaited by number.
        let dispatches = &self.dispatches;
        let due = |d: &u32| (dispatches.get(*d as usize).map(|d| d.due), *d);
        self.open.make_contiguous().sort_by_key(due);
        if let Some(since) = self.quiet_since {
            let due = since + self.deadline_millis();
            self.awaited.extend(self.suspects.by(due));
        }
    }

    /// Whether what comes next waits for updated targets to show that they are well: for those that were bad, or had
    /// moved, when nothing was in flight any more, wherever they go since. For those that turn bad meanwhile what comes
    /// after that will wait: in a large fleet there is always one.
    pub(crate) fn waits_for_proof(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// From assignment to updated, in milliseconds.
    pub(crate) fn deadline_millis(&self) -> u64 {
        let without = if self.head.is_batch() {
            RUN_WITHIN
        } else {
            START_WITHIN
        };
        let gate = self.head.spec.gate();
        gate.map_or(without, |gate| gate.deadline).as_millis()
    }
}
