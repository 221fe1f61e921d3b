//! How machines come to be driven: read when the engine starts, when somebody asks, and when a commit failed.

use std::collections::BTreeMap;

use orchestrator_core::fleet::NodeName;
use orchestrator_core::{Input, JobId, Time};

use super::Loop;
use crate::engine::machines::{Owned, chain, load_fleet, load_job};
use crate::engine::{EngineError, rows};
use crate::store::{Machine, Wanted};

/// How many logs are claimed at a time when the engine starts.
const CLAIMS_PER_CALL: u32 = 1000;

impl Loop {
    /// Sees to it that a job is there: read again where that failed before, begun where it is to be.
    pub(super) fn find(&mut self, id: &JobId, begin: bool) -> Result<(), EngineError> {
        if self.jobs.get(id).is_some() {
            return Ok(());
        }
        let claim = match self.broken.get(id) {
            Some(claim) => claim.clone(),
            None if begin => {
                let wanted = Wanted {
                    machine: Machine::Job(id.clone()),
                    seed: seed(id),
                };
                let claims = self.runtime.block_on(self.store.claim(vec![wanted]))?;
                let elsewhere = || EngineError::Elsewhere(format!("job {id}"));
                claims.into_iter().next().ok_or_else(elsewhere)?
            }
            None => return Err(EngineError::NoSuchJob(id.clone())),
        };
        let owned = self.runtime.block_on(load_job(&*self.store, claim))?;
        self.broken.remove(id);
        self.jobs.insert(owned);
        Ok(())
    }

    pub(super) fn load_all(&mut self) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let next = self.store.machines(after, CLAIMS_PER_CALL);
            let machines = self.runtime.block_on(next)?;
            let Some(last) = machines.last().cloned() else {
                return Ok(());
            };
            after = Some(last);
            let wanted = machines.into_iter().filter_map(|machine| match &machine {
                Machine::Fleet | Machine::Group(_) => None,
                Machine::Job(id) => Some(Wanted {
                    seed: seed(id),
                    machine,
                }),
            });
            let claims = self.runtime.block_on(self.store.claim(wanted.collect()))?;
            for claim in claims {
                let Machine::Job(id) = claim.machine.clone() else {
                    continue;
                };
                match self.runtime.block_on(load_job(&*self.store, claim.clone())) {
                    Ok(owned) => self.jobs.insert(owned),
                    // One job that cannot be read keeps nobody else from being driven.
                    Err(why) => {
                        tracing::error!(job = %id, why = chain(&why), "the job cannot be read");
                        self.broken.insert(id, claim);
                    }
                }
            }
        }
    }

    /// The first turn: nobody listened since the last entry, and what befell nodes may not have reached every job.
    pub(super) fn catch_up(&mut self) {
        let mut turn = self.turn();
        let ids: Vec<JobId> = self.jobs.iter().map(|(id, _)| id.clone()).collect();
        for id in &ids {
            self.tell(&mut turn, id, Input::Absent { millis: u64::MAX });
            self.tell_members(&mut turn, id);
        }
        self.catch_up_groups(&mut turn);
        let known = self.jobs.loads();
        let known: BTreeMap<NodeName, u32> = known.map(|(n, load)| (n.clone(), load)).collect();
        let nodes = self.fleet.machine.nodes();
        let off = nodes.filter(|node| node.load != known.get(&node.name).copied().unwrap_or(0));
        self.loads = off
            .map(|node| {
                (
                    node.name.clone(),
                    known.get(&node.name).copied().unwrap_or(0),
                )
            })
            .collect();
        self.pass_time(&mut turn);
        self.settle(&mut turn);
        self.commit(turn);
        let last = self.jobs.iter().flat_map(|(_, owned)| {
            let last = owned.machine.deployments().next();
            let numbers = last.into_iter().map(|last| last.number).collect();
            rows::deployments(&owned.machine, owned.claim.log, &numbers)
        });
        self.shown.publish(last.map(|row| (row.into(), true)));
    }

    /// Drops a machine that is ahead of its log, and reads it again: what it was told `now` is lost.
    pub(super) fn reload(&mut self, machine: &Machine, now: Time) {
        match machine {
            Machine::Fleet => {
                let load = load_fleet(&*self.store, self.fleet.claim.clone(), self.settings.fleet);
                match self.runtime.block_on(load) {
                    Ok(fleet) => self.fleet = fleet,
                    // It goes on with what it has: what it says next is refused by its position.
                    Err(why) => tracing::error!(why = chain(&why), "the fleet cannot be read"),
                }
            }
            Machine::Group(id) => self.reload_group(*id, now),
            Machine::Job(id) => {
                let Some(Owned {
                    claim, deaf_since, ..
                }) = self.jobs.remove(id)
                else {
                    return;
                };
                match self.runtime.block_on(load_job(&*self.store, claim.clone())) {
                    Ok(owned) => self.jobs.insert(Owned {
                        deaf_since: deaf_since.or(Some(now)),
                        ..owned
                    }),
                    Err(why) => {
                        tracing::error!(job = %id, why = chain(&why), "the job cannot be read");
                        self.broken.insert(id.clone(), claim);
                    }
                }
            }
        }
    }
}

/// What a new job is made with. It follows from its name, so that a plan for it is what then happens.
pub(super) fn seed(id: &JobId) -> u64 {
    let fold = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    id.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}
