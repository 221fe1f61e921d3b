//! One deployment: its targets, what they amount to, and what it waits for.

mod target;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use crate::event::{Aftermath, Cause, DeploymentKind, DeploymentState, Reason};
use crate::id::DeploymentId;
use crate::packed::U48;
use crate::runs::Runs;
use crate::spec::RolloutSpec;
use crate::time::Time;

pub use target::TargetState;
pub(crate) use target::{Tally, Target};

/// A deployment with its targets.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Rollout {
    pub(crate) head: Head,
    /// In the order of their turn: a wave's targets lie side by side.
    pub(crate) targets: Vec<Target>,
    pub(crate) queue: Queue,
    pub(crate) dispatches: Vec<Dispatch>,
    /// Dispatches with targets in flight, the earliest deadline first.
    pub(crate) open: VecDeque<u32>,
    /// Updated targets that turned bad, with the deadline for turning good again.
    pub(crate) suspects: VecDeque<(u64, u32)>,
    pub(crate) canaries: Vec<u32>,
    pub(crate) failures: BTreeMap<u32, Failure>,
    /// Milliseconds of the job's time by which deadlines have moved on so far.
    pub(crate) held: u64,
    /// Since when, in the job's time, deadlines stand still.
    pub(crate) paused_at: Option<u64>,
    /// Failed targets that an operator looked at and went on with.
    pub(crate) forgiven: u32,
    pub(crate) updated_max: u32,
}

/// What is left of a deployment when its targets are forgotten.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Head {
    pub(crate) number: u32,
    pub(crate) id: DeploymentId,
    pub(crate) kind: DeploymentKind,
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) spec: RolloutSpec,
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

/// One wave as it was sent out, or the part of it that had to be sent to other nodes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Dispatch {
    pub(crate) generation: u64,
    /// In the deadlines' time.
    pub(crate) due: u64,
    pub(crate) wave: u32,
    /// Targets in flight.
    pub(crate) open: u32,
    /// Empty once none is in flight.
    pub(crate) targets: Runs,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) at: Time,
}

/// Whose turn is next: first the planned order, then those that came late.
///
/// May name targets that are no longer pending; they are passed over.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Queue {
    pub(crate) next: u32,
    planned: u32,
    late: VecDeque<u32>,
    /// The same, to know who is among them: nobody has two turns.
    late_known: BTreeSet<u32>,
}

impl Queue {
    pub(crate) fn new(planned: u32) -> Self {
        Self {
            planned,
            ..Self::default()
        }
    }

    /// A turn at the end for a target that came late; one whose turn is still to come keeps it.
    pub(crate) fn push(&mut self, target: u32) {
        let planned = (self.next..self.planned).contains(&target);
        if !planned && self.late_known.insert(target) {
            self.late.push_back(target);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (self.next..self.planned).chain(self.late.iter().copied())
    }

    pub(crate) fn first(&self) -> Option<u32> {
        if self.next < self.planned {
            Some(self.next)
        } else {
            self.late.front().copied()
        }
    }

    fn pop(&mut self) {
        if self.next < self.planned {
            self.next += 1;
        } else if let Some(target) = self.late.pop_front() {
            self.late_known.remove(&target);
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
        if before != 0 && self.dispatches[before as usize - 1].open == 0 {
            self.dispatches[before as usize - 1].targets = Runs::default();
            while self
                .open
                .front()
                .is_some_and(|&d| self.dispatches[d as usize].open == 0)
            {
                self.open.pop_front();
            }
        }
    }

    pub(crate) fn push_target(&mut self, slot: u32) -> u32 {
        let target = Target::new(slot);
        self.head.tally.put(&target);
        self.targets.push(target);
        self.head.total += 1;
        self.targets.len() as u32 - 1
    }

    pub(crate) fn dispatch(&mut self, generation: u64, due: u64, wave: u32, targets: Runs) {
        self.dispatches.push(Dispatch {
            generation,
            due,
            wave,
            open: 0,
            targets,
        });
        self.open.push_back(self.dispatches.len() as u32 - 1);
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
        let open = self
            .open
            .iter()
            .rev()
            .map(|&d| &self.dispatches[d as usize]);
        open.filter(|d| d.open > 0).map(|d| d.due).next()
    }

    /// The generation of a target's assignment; 0 before it has one.
    pub(crate) fn generation(&self, target: &Target) -> u64 {
        match target.dispatch {
            0 => 0,
            d => self.dispatches[d as usize - 1].generation,
        }
    }

    /// Failed targets that count against the limits: those that a rollback found failed do not.
    pub(crate) fn failed_counting(&self) -> u32 {
        self.head.tally.failed - self.head.tally.failed_before
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

    /// Drops suspicions that no longer hold from the front, so that no wake-up is for nothing.
    pub(crate) fn trim_suspects(&mut self, deadline: u64) {
        while let Some(&(due, target)) = self.suspects.front() {
            let target = &self.targets[target as usize];
            let holds = target.is_suspect() && u64::from(target.since) + deadline == due;
            if holds {
                return;
            }
            self.suspects.pop_front();
        }
    }

    /// Starts the clock of a suspicion.
    pub(crate) fn suspect(&mut self, target: u32, clock: u64, deadline: u64, at: Time) {
        self.change(target, at, |t| t.since = U48::from(clock));
        self.suspects.push_back((clock + deadline, target));
    }
}
