//! What a node should run, of all jobs, as its agent is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orchestrator_core::{Assignment, Job, JobId};
use serde::Serialize;
use serde_json::Value;

/// All that a node should run. Whatever else runs there is to be stopped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Desired {
    /// The node's name.
    pub node: String,
    /// Grows with every change in the store: an agent refuses an older one than it has.
    pub revision: u64,
    /// The executions, by job and slot.
    pub executions: Vec<Execution>,
    /// What the versions are that they name: the workload of each, by job and version.
    pub workloads: BTreeMap<String, BTreeMap<u32, Value>>,
}

/// One execution of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Execution {
    /// Whose it is.
    pub job: JobId,
    /// Its number within the job.
    pub slot: u32,
    /// What it is to run; 0: nothing, and that it has stopped is waited for.
    pub version: u32,
    /// Grows with every assignment: an agent refuses an older one, and starts again what has a newer one.
    pub generation: u64,
    /// To be named in reports; absent where no deployment waits for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<u32>,
}

impl Execution {
    pub(super) fn of(job: &JobId, assignment: &Assignment<'_>) -> Self {
        Self {
            job: job.clone(),
            slot: assignment.slot,
            version: assignment.version,
            generation: assignment.generation,
            target: assignment.target,
        }
    }
}

impl Desired {
    /// What these jobs want of a node, and what else is waited for there.
    pub(super) fn of<'a>(
        node: &str,
        revision: u64,
        jobs: impl Iterator<Item = (&'a JobId, &'a Job)>,
    ) -> Self {
        let mut desired = Self {
            node: node.to_owned(),
            revision,
            executions: Vec::new(),
            workloads: BTreeMap::new(),
        };
        for (id, job) in jobs {
            let stops = job.stops(node);
            let stops = stops.iter().map(|assignment| Execution::of(id, assignment));
            desired.executions.extend(stops);
            let mut versions = BTreeSet::new();
            for assignment in job.desired(node) {
                versions.insert(assignment.version);
                desired.executions.push(Execution::of(id, &assignment));
            }
            let specs = versions
                .into_iter()
                .filter_map(|v| Some((v, job.spec(v)?.to_json())));
            let specs: BTreeMap<u32, Value> = specs.collect();
            if !specs.is_empty() {
                desired.workloads.insert(id.to_string(), specs);
            }
        }
        desired
    }

    /// Becomes another one, if that is news; answers whether it was.
    pub(super) fn follow(self: &mut Arc<Self>, other: Arc<Self>) -> bool {
        let is_news = !self.wants_the_same(&other);
        if is_news {
            *self = other;
        }
        is_news
    }

    /// Whether another one, of whatever revision, is no news to an agent that has this one.
    fn wants_the_same(&self, other: &Self) -> bool {
        let Self {
            node,
            revision: _,
            executions,
            workloads,
        } = self;
        (node, executions, workloads) == (&other.node, &other.executions, &other.workloads)
    }
}
