//! The state of one job: what its log amounts to. Only [`apply`](crate::apply) changes it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dues::Dues;
use crate::event::{Aftermath, Answered, DeploymentKind, DeploymentState, Presence, Want, is_zero};
use crate::id::{DeploymentId, JobId};
use crate::members::Members;
use crate::packed::U48;
use crate::rollout::{Head, Rollout, Target, TargetState};
use crate::spec::{JobSpec, Placement};
use crate::time::Time;

/// How many answered idempotency keys a job remembers.
pub const KEYS_KEPT: usize = 128;
/// How many finished deployments a job remembers besides the last one.
pub const HISTORY_KEPT: usize = 16;
/// How many versions a job remembers: the oldest that nothing needs is forgotten first.
pub const VERSIONS_KEPT: usize = 64;

/// No number: no node, no target.
pub(crate) const NONE: u32 = u32::MAX;

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct State {
    pub(crate) id: JobId,
    pub(crate) seed: u64,
    /// Position of the latest entry.
    pub(crate) seq: u64,
    /// How many entries of the latest one's step have still to be taken in.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) step_left: u32,
    /// When the latest entry was made.
    pub(crate) moment: Moment,
    pub(crate) versions: BTreeMap<u32, Version>,
    pub(crate) version_max: u32,
    /// The version whose spec says where executions go: the one registered last, or rolled back to.
    pub(crate) layout: u32,
    /// Which nodes match is another question than before, and has not been answered yet.
    pub(crate) members_due: bool,
    /// What a node runs that no deployment speaks for; 0 = nothing.
    pub(crate) current: u32,
    /// The last deployment completed, so that every node is to run `current`.
    pub(crate) settled: bool,
    /// Where it did not: the versions that nodes are left on. What runs an older one was away, and converges.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) left_on: BTreeSet<u32>,
    /// What a person asked for and no deployment has begun to do.
    pub(crate) want: Option<Want>,
    pub(crate) members: Members,
    pub(crate) slots: Vec<Slot>,
    /// Slots that are none of the newest version's: they stop when its deployment completes.
    pub(crate) surplus: BTreeSet<u32>,
    /// Of a replicated job those of them that may be wanted again where they are, as their nodes are ready and have room
    /// for them: what they run, and they.
    #[serde(skip)]
    pub(crate) spare: BTreeSet<(u32, u32)>,
    /// Slots of no use until the next deployment makes them free.
    pub(crate) retired: BTreeSet<u32>,
    pub(crate) free: BTreeSet<u32>,
    /// Slots that a restart has passed over: it is due there when their nodes are back.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) restarts: BTreeSet<u32>,
    /// The generation of the first assignments of the last restart; 0 = there was none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) restarted: u64,
    /// How many executions a replicated job is to have.
    pub(crate) replicas: Option<u32>,
    /// Slots of a replicated job that run on no node: they wait for one, and remember the last.
    pub(crate) unplaced: BTreeSet<u32>,
    /// Nodes of a replicated job to be left, with the job's time from which on.
    pub(crate) leaving: Dues,
    /// Slots on ready nodes that were told something else than they should run.
    pub(crate) strays: BTreeSet<u32>,
    /// The active deployment, or the last one.
    pub(crate) rollout: Option<Rollout>,
    /// Finished ones before it, oldest first.
    pub(crate) history: VecDeque<Head>,
    pub(crate) deployments: u32,
    pub(crate) keys: VecDeque<Answered>,
}

/// A point in both times.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Moment {
    /// The driver's clock.
    pub(crate) wall: Time,
    /// The job's own time, which only grows.
    pub(crate) elapsed: u64,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Version {
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) registered: Time,
    /// A deployment of it completed.
    pub(crate) stable: bool,
    /// It was taken back: nothing automatic brings it back.
    pub(crate) rejected: bool,
    /// Its last deployment that came to its own end failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) failed: bool,
    /// How many slots were last told to run it.
    pub(crate) told: u32,
}

/// One execution of the job: a place that some version runs in.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "SlotRow", into = "SlotRow")]
pub(crate) struct Slot {
    pub(crate) node: u32,
    /// The version it was last told to run; 0 = none.
    pub(crate) told: u32,
    /// Its latest target in `rollout`.
    pub(crate) target: u32,
    /// The entry that told it.
    pub(crate) generation: U48,
    pub(crate) live: bool,
    pub(crate) stage: Stage,
}

/// How far an execution is with what it was told.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It runs it, as far as anybody has to know.
    #[default]
    Told,
    /// A rollback brought it there, and it has not shown that it is well.
    Unproven,
    /// It ran it to its end, a batch job: it is not told again.
    Done,
    /// It ran something, and stopped because its node was drained.
    Drained,
    /// It failed there.
    Failed,
}

impl From<u8> for Stage {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unproven,
            2 => Self::Done,
            3 => Self::Drained,
            4 => Self::Failed,
            _ => Self::Told,
        }
    }
}

type SlotRow = (u32, u32, u32, u64, bool, u8);

impl From<SlotRow> for Slot {
    fn from((node, told, target, generation, live, stage): SlotRow) -> Self {
        Self {
            node,
            told,
            target,
            generation: generation.into(),
            live,
            stage: stage.into(),
        }
    }
}

impl From<Slot> for SlotRow {
    fn from(slot: Slot) -> Self {
        (
            slot.node,
            slot.told,
            slot.target,
            slot.generation.into(),
            slot.live,
            slot.stage as u8,
        )
    }
}

impl Slot {
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }
}

impl State {
    pub(crate) fn new(id: JobId, seed: u64) -> Self {
        Self {
            id,
            seed,
            seq: 0,
            step_left: 0,
            moment: Moment::default(),
            versions: BTreeMap::new(),
            version_max: 0,
            layout: 0,
            members_due: false,
            current: 0,
            settled: true,
            left_on: BTreeSet::new(),
            restarts: BTreeSet::new(),
            restarted: 0,
            want: None,
            members: Members::default(),
            slots: Vec::new(),
            surplus: BTreeSet::new(),
            spare: BTreeSet::new(),
            retired: BTreeSet::new(),
            free: BTreeSet::new(),
            replicas: None,
            unplaced: BTreeSet::new(),
            leaving: Dues::default(),
            strays: BTreeSet::new(),
            rollout: None,
            history: VecDeque::new(),
            deployments: 0,
            keys: VecDeque::new(),
        }
    }

    /// The active deployment.
    pub(crate) fn active(&self) -> Option<&Rollout> {
        self.rollout.as_ref().filter(|r| !r.head.state.is_final())
    }

    /// All deployments that are remembered, the latest first.
    pub(crate) fn heads(&self) -> impl Iterator<Item = &Head> {
        let last = self.rollout.iter().map(|r| &r.head);
        last.chain(self.history.iter().rev())
    }

    /// Whether nobody asked for the rollback of this deployment.
    pub(crate) fn is_by_itself(&self, rollback_of: Option<DeploymentId>) -> bool {
        let of = self.heads().find(|head| Some(head.id) == rollback_of);
        of.is_some_and(|head| matches!(head.aftermath, Aftermath::RollBack { .. }))
    }

    /// Whether all that is wanted runs what it should, or will when it is back, and is not known to be unwell there.
    pub(crate) fn is_whole(&self) -> bool {
        self.settled && !self.leaves_unproven()
    }

    /// The spec that says where executions go.
    pub(crate) fn spec(&self) -> Option<&Arc<JobSpec>> {
        self.versions.get(&self.layout).map(|v| &v.spec)
    }

    /// Whether one node may hold no more than one execution.
    pub(crate) fn distinct(&self) -> bool {
        !matches!(
            self.spec().map(|s| s.placement),
            Some(Placement::Replicas {
                distinct: false,
                ..
            })
        )
    }

    /// What a slot runs that no wave has reached; 0 = nothing.
    pub(crate) fn base(&self) -> u32 {
        match self.active() {
            Some(r) if r.is_forward() => r.head.base,
            Some(_) => self.current,
            None => match self.want {
                Some(want) if want.kind == DeploymentKind::Update => {
                    self.base_between(self.current, want.to)
                }
                _ => self.current,
            },
        }
    }

    /// What nodes that are new to the job run on the way from one version to another: where another selector was
    /// in force nobody knows whether they matched it.
    pub(crate) fn base_between(&self, from: u32, to: u32) -> u32 {
        if self.same_selector(from, to) {
            from
        } else {
            0
        }
    }

    fn same_selector(&self, a: u32, b: u32) -> bool {
        let selector = |version| self.versions.get(version).map(|v| &v.spec.selector);
        selector(&a) == selector(&b)
    }

    /// What a rollback, to that version if it is known, goes back from: where the last deployment goes or went. One
    /// that is itself a rollback and has not got there leaves what it takes back; one that goes forward again takes
    /// nothing back, unless it is tried once more. Of one that began no wave there is nothing to take back: who says
    /// where to go means what was there before it.
    pub(crate) fn leaving_version(&self, to: Option<u32>) -> u32 {
        let mut heads = self.heads();
        // A restart leaves nothing.
        let head = heads.find(|head| {
            head.kind != DeploymentKind::Restart && (to.is_none() || !head.began_no_wave())
        });
        head.map_or(self.current, |head| {
            let unfinished =
                head.kind == DeploymentKind::Rollback && head.state != DeploymentState::Completed;
            let again = to == Some(head.to) && to != Some(head.from);
            let back = head.from > head.to && to != Some(head.from);
            if unfinished && (back || again) {
                head.from
            } else {
                head.to
            }
        })
    }

    /// Whether anything happens when only time passes.
    pub(crate) fn waits_for_time(&self) -> bool {
        self.active().is_some() || !self.leaving.is_empty()
    }

    /// Whether a node that comes now becomes a target of the active deployment.
    pub(crate) fn takes_joiners(&self) -> bool {
        // Where another version's placement is in force already, it is about to give way to that.
        self.active().is_some_and(|r| {
            let takes = r.is_forward() || r.head.kind == DeploymentKind::Rollback;
            takes && r.head.to == self.layout
        })
    }

    /// The zone that a slot is in, or was in when it had a node.
    pub(crate) fn zone_of(&self, slot: u32) -> Option<u16> {
        match self.slots[slot as usize].node {
            NONE => None,
            node => Some(self.members.zone(node)),
        }
    }

    /// The name of the node that a slot is on, or was on last.
    pub(crate) fn node_of(&self, slot: u32) -> &str {
        self.members.name(self.slots[slot as usize].node)
    }

    pub(crate) fn presence(&self, slot: u32) -> Presence {
        match self.slots[slot as usize].node {
            NONE => Presence::Gone,
            _ if self.unplaced.contains(&slot) => Presence::Gone,
            node => self.members.presence(node),
        }
    }

    /// Whether nobody hears of a target, as people are told. Where a node is gone, that is waited for in flight only.
    pub(crate) fn is_silent(&self, target: &Target) -> bool {
        let presence = self.presence(target.slot);
        matches!(presence, Presence::Disconnected | Presence::Down)
            || self.active().is_some() && target.is_lost() && target.state().is_in_flight()
    }

    /// A slot that has a node that can be given work.
    pub(crate) fn is_ready(&self, slot: u32) -> bool {
        self.slots[slot as usize].live && self.presence(slot).is_ready()
    }

    /// The target of a slot in the active deployment.
    pub(crate) fn target_of(&self, slot: u32) -> Option<u32> {
        let target = self.slots[slot as usize].target;
        let row = self.active()?.targets.get(target as usize);
        row.filter(|t| t.slot == slot).map(|_| target)
    }

    /// Whether the active deployment waits to hear of what a slot was last told.
    pub(crate) fn is_waited_for(&self, slot: u32) -> bool {
        let Slot {
            target, generation, ..
        } = self.slots[slot as usize];
        self.active().is_some_and(|r| {
            let row = r.targets.get(target as usize).filter(|t| t.slot == slot);
            row.is_some_and(|t| r.generation(t) == u64::from(generation))
        })
    }

    /// Whether a slot is a canary that the others wait for.
    pub(crate) fn is_canary(&self, slot: u32) -> bool {
        let gated = self.active().filter(|r| r.is_gated());
        let target = gated.and_then(|r| Some(r.targets[self.target_of(slot)? as usize]));
        target.is_some_and(|t| t.is_canary())
    }

    /// Whether a slot is a target of a deployment that is looked at: the active one, or the last.
    pub(crate) fn is_named(&self, slot: u32) -> bool {
        let target = self.slots[slot as usize].target;
        let row = self.rollout.as_ref();
        let row = row.and_then(|r| r.targets.get(target as usize));
        row.is_some_and(|t| t.slot == slot)
    }

    /// Whether a slot is a target whose turn may still come, of a deployment before whose turn there is nothing
    /// else to run.
    pub(crate) fn waits_for_turn(&self, slot: u32) -> bool {
        // A restart leaves what is current in force: only work that is done once is not to be done twice.
        let nothing = |r: &&Rollout| {
            let restarts = r.head.kind == DeploymentKind::Restart;
            !r.is_forward() && (!restarts || r.head.is_batch())
        };
        let Some(rollout) = self.active().filter(nothing) else {
            return false;
        };
        let state = self
            .target_of(slot)
            .map(|t| rollout.targets[t as usize].state());
        matches!(state, Some(TargetState::Pending | TargetState::Skipped))
    }

    /// What a slot should be told other than it was, though no wave reaches it.
    pub(crate) fn due(&self, slot: u32) -> Option<u32> {
        if !self.is_ready(slot) || self.surplus.contains(&slot) {
            return None;
        }
        let base = self.base_of(slot);
        let is_behind = match (self.slots[slot as usize].told, self.active()) {
            (0, _) => base != 0 && !self.waits_for_turn(slot),
            // What has done its work runs nothing that would have to be stopped.
            _ if self.current == 0 && self.slots[slot as usize].is_done() => false,
            (told, None) => told != base && self.is_outdated(told) || self.starts_again(slot),
            // It was away, and its turn may be long in coming: it waits for it as the others do. Where nobody knows
            // what that is it is left as it is, but for what a person has stopped.
            (told, Some(rollout)) if rollout.is_forward() => {
                let other = told != rollout.head.to && told != base;
                let known = base != 0 || rollout.head.from == 0;
                other && known && self.is_outdated(told)
            }
            // It has no turn.
            (told, Some(_)) => {
                self.target_of(slot).is_none() && told != base && self.is_outdated(told)
            }
        };
        is_behind.then_some(base)
    }

    /// Whether an execution of an earlier version's selector or placement stops now that no deployment goes on: once the
    /// later one is in place. Where that never came to be, if its node matches no longer.
    pub(crate) fn is_left_over(&self, slot: u32) -> bool {
        let left = || {
            let Slot { told, stage, .. } = self.slots[slot as usize];
            let left = self.presence(slot) == Presence::Unmatched;
            // What is current and done on a node is not to be done there again when it matches again.
            let known = stage == Stage::Done && told == self.current && self.replicas.is_none();
            !(left && known) && (self.settled || left && self.same_selector(told, self.layout))
        };
        self.active().is_none() && self.surplus.contains(&slot) && left()
    }

    /// Notes whether an execution may be wanted again.
    pub(crate) fn review_spare(&mut self, slot: u32) {
        self.note_spare(slot, self.is_spare(slot));
    }

    fn note_spare(&mut self, slot: u32, is_spare: bool) {
        let spare = (self.slots[slot as usize].told, slot);
        if is_spare {
            self.spare.insert(spare);
        } else {
            self.spare.remove(&spare);
        }
    }

    /// All that may be wanted again.
    pub(crate) fn spare_now(&self) -> BTreeSet<(u32, u32)> {
        let known = |slot: &&u32| (**slot as usize) < self.slots.len();
        let surplus = self.surplus.iter().filter(known);
        let spare = surplus.filter(|&&slot| self.is_spare(slot));
        spare
            .map(|&slot| (self.slots[slot as usize].told, slot))
            .collect()
    }

    fn is_spare(&self, slot: u32) -> bool {
        self.can_be_wanted(slot) && self.has_place(self.slots[slot as usize].node)
    }

    fn can_be_wanted(&self, slot: u32) -> bool {
        self.replicas.is_some() && self.surplus.contains(&slot) && self.is_ready(slot)
    }

    /// Whether one execution more may be wanted on a node.
    pub(crate) fn has_place(&self, node: u32) -> bool {
        let mut slots = self.members.slots(node);
        !self.distinct() || slots.all(|slot| self.surplus.contains(&slot))
    }

    /// Notes which executions on a node may be wanted again, now that others there are, or are no longer.
    pub(crate) fn review_others(&mut self, node: u32) {
        if self.replicas.is_some() && self.distinct() && node != NONE {
            let has_place = self.has_place(node);
            for slot in self.members.slots(node).collect::<Vec<_>>() {
                self.note_spare(slot, has_place && self.can_be_wanted(slot));
            }
        }
    }

    /// What a slot runs that no wave has reached: where it ran something before, its node is none that is new.
    fn base_of(&self, slot: u32) -> u32 {
        let Slot { told, stage, .. } = self.slots[slot as usize];
        match self.active() {
            Some(rollout) if rollout.is_forward() => {
                let Head { from, base, .. } = rollout.head;
                let ran = stage == Stage::Drained || told != 0 && self.same_selector(told, from);
                if ran { from } else { base }
            }
            _ => self.base(),
        }
    }

    /// Whether a restart of what it runs has passed an execution over, and is due there still.
    pub(crate) fn starts_again(&self, slot: u32) -> bool {
        self.slots[slot as usize].told == self.current && self.restarts.contains(&slot)
    }

    /// Whether what runs a version runs neither what is current, nor what a deployment that did not complete has left
    /// it on.
    pub(crate) fn is_outdated(&self, told: u32) -> bool {
        told != self.current && (self.settled || !self.left_on.contains(&told))
    }

    /// Whether what a slot was told failed, there or as a whole, and nothing has made it current since.
    pub(crate) fn runs_what_failed(&self, slot: u32) -> bool {
        let Slot { told, stage, .. } = self.slots[slot as usize];
        let failed = |version: &Version| version.failed || stage == Stage::Failed;
        told != self.current && self.versions.get(&told).is_some_and(failed)
    }

    /// The newest version before `version` that may be gone back to.
    pub(crate) fn stable_before(&self, version: u32) -> Option<u32> {
        let good = |(&number, v): (&u32, &Version)| (v.stable && !v.rejected).then_some(number);
        self.versions.range(..version).rev().find_map(good)
    }

    /// What the last stop has ended, if it may be gone back to.
    pub(crate) fn stopped_version(&self) -> Option<u32> {
        let stop = self
            .heads()
            .find(|head| head.kind == DeploymentKind::Stop)?;
        let version = self.versions.get(&stop.from)?;
        (version.stable && !version.rejected).then_some(stop.from)
    }

    /// Whether a rollback from one version to another has to see to a slot: it was told the one, or is there and
    /// runs a third one. Who is away converges when back.
    pub(crate) fn is_touched(&self, slot: u32, from: u32, to: u32) -> bool {
        let Slot { told, live, .. } = self.slots[slot as usize];
        // Where nothing was to run, what runs nothing has its turn too.
        let there = (told != 0 || self.current == 0) && self.is_ready(slot);
        let other = told != to && (told == from || there);
        live && other
    }

    /// Whether a rollback has brought a slot to a version where it has not shown since that it is well: to go there
    /// once more is not to find it there.
    pub(crate) fn is_unproven(&self, slot: u32, to: u32) -> bool {
        let Slot {
            told, stage, live, ..
        } = self.slots[slot as usize];
        live && told == to && stage == Stage::Unproven
    }

    /// Whether an execution that is wanted runs a version that it was left on.
    pub(crate) fn leaves_any(&self) -> bool {
        (0..).zip(&self.slots).any(|(slot, s)| {
            let other = s.told != 0 && s.told != self.current && self.left_on.contains(&s.told);
            s.live && other && !self.surplus.contains(&slot)
        })
    }

    /// Whether a rollback has brought an execution that is wanted, and can run, somewhere where it was not seen well.
    pub(crate) fn leaves_unproven(&self) -> bool {
        (0..).zip(&self.slots).any(|(slot, s)| {
            let wanted = s.live && !self.surplus.contains(&slot);
            wanted && s.stage == Stage::Unproven && self.is_ready(slot)
        })
    }

    /// How many slots were told to run something else than `version`, and something at all.
    pub(crate) fn told_other_than(&self, version: u32) -> u32 {
        self.versions
            .iter()
            .filter(|(number, _)| **number != version)
            .map(|(_, v)| v.told)
            .sum()
    }
}
