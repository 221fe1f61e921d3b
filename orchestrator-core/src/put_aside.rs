//! The targets of a deployment that gives way to the next one.

use crate::id::DeploymentId;
use crate::record::TargetView;
use crate::rollout::{Rollout, Target};
use crate::state::{NONE, State};

/// The targets of a deployment as they were at last. The job forgets them; who wants to show them later keeps them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PutAside {
    deployment: DeploymentId,
    targets: Vec<Target>,
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
        for target in &rollout.targets {
            let node = state.slots[target.slot as usize].node;
            if node != NONE {
                names.push_str(state.members.name(node));
            }
            ends.push(names.len() as u32);
        }
        let failures = rollout.failures.into_iter();
        let aside = Self {
            deployment: rollout.head.id,
            names,
            ends,
            waves: rollout.dispatches.iter().map(|d| d.wave).collect(),
            reasons: failures.map(|(t, f)| (t, f.reason.to_string())).collect(),
            targets: rollout.targets,
        };
        (rollout.head, aside)
    }

    /// Whose targets they are.
    pub fn deployment(&self) -> DeploymentId {
        self.deployment
    }

    /// The targets, in the order of their turn.
    pub fn targets(&self) -> impl Iterator<Item = TargetView> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let names = starts
            .zip(&self.ends)
            .map(|(a, &b)| &self.names[a as usize..b as usize]);
        let mut reasons = self.reasons.iter().peekable();
        (0..)
            .zip(&self.targets)
            .zip(names)
            .map(move |((number, target), name)| {
                let reason = reasons.next_if(|(failed, _)| *failed == number);
                let wave = target
                    .dispatch
                    .checked_sub(1)
                    .map(|d| self.waves[d as usize]);
                TargetView::of(
                    target,
                    name,
                    wave,
                    None,
                    reason.map(|(_, reason)| reason.clone()),
                )
            })
    }
}
