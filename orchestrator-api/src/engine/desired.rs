//! What a node should run, of all jobs, as its agent is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use orchestrator_core::spec::JobSpec;
use orchestrator_core::{Assignment, Job, JobId};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

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
    pub workloads: BTreeMap<String, BTreeMap<u32, Document>>,
}

/// The document of a version, as JSON. Written once, and shared by all nodes that run it.
#[derive(Clone, Debug)]
pub struct Document(Arc<RawValue>);

impl Document {
    fn of(spec: &JobSpec) -> Self {
        let text = serde_json::value::to_raw_value(&spec.to_json());
        Self(text.expect("a document is JSON").into())
    }

    /// Its text.
    pub fn text(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.text() == other.text()
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// The documents of the versions that nodes run, by job and version, each with what it was written from: a scaling
/// changes that.
#[derive(Debug, Default)]
pub(super) struct Documents(HashMap<JobId, BTreeMap<u32, (Arc<JobSpec>, Document)>>);

impl Documents {
    fn get(&mut self, id: &JobId, version: u32, spec: &Arc<JobSpec>) -> Document {
        let of_job = self.0.entry(id.clone()).or_default();
        match of_job.get(&version) {
            Some((from, document)) if Arc::ptr_eq(from, spec) => document.clone(),
            _ => {
                let document = Document::of(spec);
                of_job.insert(version, (spec.clone(), document.clone()));
                document
            }
        }
    }

    /// Forgets what this job has no more, or all that it has.
    pub(super) fn keep(&mut self, id: &JobId, job: Option<&Job>) {
        let Some(of_job) = self.0.get_mut(id) else {
            return;
        };
        of_job.retain(|version, _| job.is_some_and(|job| job.spec(*version).is_some()));
        if of_job.is_empty() {
            self.0.remove(id);
        }
    }
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
    /// Grows with every assignment: an agent refuses an older one.
    pub generation: u64,
    /// What runs this version already goes on where it was begun for an assignment since this generation. Else a restart has
    /// come between.
    pub since: u64,
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
            since: assignment.since,
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
        documents: &mut Documents,
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
                .filter_map(|v| Some((v, documents.get(id, v, job.spec(v)?))));
            let specs: BTreeMap<u32, Document> = specs.collect();
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
