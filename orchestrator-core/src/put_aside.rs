//! The targets of a deployment that gives way to the next one.

use crate::id::DeploymentId;
use crate::packed::U48;
use crate::record::TargetView;
use crate::rollout::{Rollout, Target};
use crate::state::State;

/// The targets of a deployment as they were at last. The job forgets them; who wants to show them later keeps them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PutAside {
    deployment: DeploymentId,
    targets: Vec<Target>,
    /// What each was last told, and by which entry.
    told: Vec<(u32, U48)>,
    /// The names of their nodes, one after the other, and where each of them ends.
    names: String,
    ends: Vec<u32>,
    /// Of each dispatch, the wave.
    waves: Vec<u32>,
    /// Why some of them failed, by their number.
    reasons: Vec<(u32, String)>,
}

impl PutAside {
    /// To be taken before slots and nodes are given to others.
    pub(crate) fn new(state: &State, rollout: Rollout) -> (crate::rollout::Head, Self) {
        let (mut names, mut ends) = (String::new(), Vec::with_capacity(rollout.targets.len()));
        let mut told = Vec::with_capacity(rollout.targets.len());
        let mut targets = rollout.targets;
        for target in &mut targets {
            target.set_lost(state.is_silent(target));
            names.push_str(state.node_of(target.slot));
            ends.push(names.len() as u32);
            let slot = &state.slots[target.slot as usize];
            told.push((slot.told, slot.generation));
        }
        let failures = rollout.failures.into_iter();
        let aside = Self {
            deployment: rollout.head.id,
            told,
            names,
            ends,
            waves: rollout.dispatches.iter().map(|d| d.wave).collect(),
            reasons: failures.map(|(t, f)| (t, f.reason.to_string())).collect(),
            targets,
        };
        (rollout.head, aside)
    }

    /// Whose targets they are.
    pub fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// The targets, in the order of their turn.
    pub fn targets(&self) -> impl Iterator<Item = TargetView> + '_ {
        (0..self.targets.len()).map(|number| self.view(number))
    }

    fn view(&self, number: usize) -> TargetView {
        let target = &self.targets[number];
        let starts = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        let (version, generation) = self.told[number];
        let dispatch = target.dispatch.checked_sub(1);
        let number_in_reasons = |&(failed, _): &(u32, String)| failed as usize;
        let reason = self
            .reasons
            .binary_search_by_key(&number, number_in_reasons);
        TargetView {
            target: number as u32,
            slot: target.slot,
            node: self.names[starts as usize..self.ends[number] as usize].to_owned(),
            version,
            generation: generation.into(),
            state: target.state(),
            wave: dispatch.map_or(0, |d| self.waves[d as usize]),
            canary: target.is_canary(),
            bad_intervals: target.streak,
            lost: target.is_lost(),
            unproven: target.is_unproven(),
            deadline: None,
            reason: reason.ok().map(|at| self.reasons[at].1.clone()),
        }
    }
}
