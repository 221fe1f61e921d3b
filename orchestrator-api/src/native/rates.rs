//! How many requests of each execution failed in its last interval: what agents said last.
//!
//! Kept in memory only. A rollout goes by the verdict, which is in its log; the numbers are for people, and agents say
//! them again at the next interval.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use orchestrator_core::fleet::NodeName;
use orchestrator_core::{Interval, JobId, Observation, Requests};

use crate::engine::Said;

/// Of one node; it runs no more at a time.
const EXECUTIONS_MAX: usize = 1000;

/// The requests of one interval.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Rate {
    pub(super) requests: u32,
    pub(super) failed: u32,
}

impl Rate {
    /// The share that failed, from 0 to 1.
    pub(super) fn share(self) -> f64 {
        match self.requests {
            0 => 0.0,
            all => f64::from(self.failed.min(all)) / f64::from(all),
        }
    }
}

/// By node, and then by execution with its generation and the number of the report.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<NodeName, Executions>>);

type Executions = HashMap<(JobId, u32), (u64, u32, Rate)>;

impl Rates {
    fn all(&self) -> MutexGuard<'_, HashMap<NodeName, Executions>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a report says of it, for [`put`](Self::put).
    pub(super) fn of_report(said: &Said) -> Option<(JobId, u32, u64, u32, Rate)> {
        let Observation::Interval(Interval {
            requests: Some(Requests { total, failed }),
            ..
        }) = said.what
        else {
            return None;
        };
        let rate = Rate {
            requests: total,
            failed,
        };
        Some((
            said.job.clone(),
            said.slot,
            said.generation,
            said.number,
            rate,
        ))
    }

    /// Takes in what a node said that the fleet knows.
    pub(super) fn put(&self, node: &NodeName, said: Vec<(JobId, u32, u64, u32, Rate)>) {
        if said.is_empty() {
            return;
        }
        let mut all = self.all();
        let known = all.entry(node.clone()).or_default();
        for (job, slot, generation, number, rate) in said {
            // Those that are gone are among them; the others are said again.
            if known.len() >= EXECUTIONS_MAX {
                known.clear();
            }
            let new = (generation, number, rate);
            let last = known.entry((job, slot)).or_insert(new);
            if (last.0, last.1) < (generation, number) {
                *last = new;
            }
        }
    }

    /// That of an execution of this generation.
    pub(super) fn get(&self, node: &str, job: &JobId, slot: u32, generation: u64) -> Option<Rate> {
        let all = self.all();
        let (of, _, rate) = all.get(node)?.get(&(job.clone(), slot))?;
        (*of == generation).then_some(*rate)
    }

    pub(super) fn forget(&self, node: &str) {
        self.all().remove(node);
    }
}
