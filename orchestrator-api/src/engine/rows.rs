//! What people read, made from what the machines are.

use std::borrow::Cow;
use std::collections::BTreeSet;

use orchestrator_core::fleet::{Fleet, NodeStatus};
use orchestrator_core::{DeploymentId, Entry, Job, PutAside, Sentence};
use serde::{Deserialize, Serialize};

use crate::store::{DeploymentRow, JobRow, Line, LogId, NodeRow};

/// A job as the API shows it.
#[derive(Debug, Serialize)]
struct JobRecord<'a> {
    namespace: &'a str,
    job_id: &'a str,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    job_type: Option<orchestrator_core::spec::JobType>,
    version: u32,
    current_version: u32,
    stable_versions: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment_id: Option<DeploymentId>,
}

/// A node as the API shows it.
#[derive(Debug, Serialize)]
struct NodeRecord<'a> {
    name: &'a str,
    status: NodeStatus,
    drain: bool,
    leaving: bool,
    labels: &'a orchestrator_core::selector::Labels,
    facts: &'a orchestrator_core::fleet::Facts,
    executions: u32,
    since: String,
}

/// What an entry says to people.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Words<'a> {
    /// One sentence.
    #[serde(borrow)]
    pub(crate) message: Cow<'a, str>,
    /// The first of the nodes that it speaks of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) nodes: Vec<String>,
    /// How many they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) node_count: u32,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

pub(super) fn line(entry: &Entry, said: &Sentence) -> Line {
    let words = || {
        json(&Words {
            message: said.to_string().into(),
            nodes: said
                .nodes
                .names
                .iter()
                .filter(|n| !n.is_empty())
                .cloned()
                .collect(),
            node_count: said.nodes.count,
        })
    };
    Line {
        seq: entry.seq,
        of: entry.of.map(|of| (of.deployment, of.revision)),
        at: entry.at,
        text: entry.encode(),
        words: entry.of.map(|_| words()),
    }
}

pub(super) fn job(job: &Job) -> JobRow {
    let id = job.id();
    let record = JobRecord {
        namespace: id.namespace(),
        job_id: id.name(),
        job_type: job.spec(job.version()).map(|spec| spec.job_type),
        version: job.version(),
        current_version: job.current(),
        stable_versions: job
            .versions()
            .filter(|v| v.stable)
            .map(|v| v.number)
            .collect(),
        deployment_id: job.deployments().next().map(|last| last.id),
    };
    JobRow {
        id: id.clone(),
        record: json(&record),
    }
}

/// The rows of these deployments, by their numbers.
pub(super) fn deployments(job: &Job, log: LogId, numbers: &BTreeSet<u32>) -> Vec<DeploymentRow> {
    let row = |&number: &u32| {
        let record = job.record_by_number(number)?;
        let status = &record.status;
        Some(DeploymentRow {
            id: record.id,
            log,
            number,
            job: job.id().clone(),
            kind: record.kind,
            state: status.state,
            from_version: record.from_version,
            to_version: record.to_version,
            total_nodes: status.total_nodes,
            updated_nodes: status.updated_nodes,
            failed_nodes: status.failed_nodes,
            revision: status.revision,
            created_at: status.created_at,
            updated_at: status.updated_at,
            completed_at: status.completed_at,
            record: json(&record),
        })
    };
    numbers.iter().filter_map(row).collect()
}

pub(super) fn targets(aside: &PutAside) -> (DeploymentId, Vec<String>) {
    (
        aside.deployment(),
        aside.targets().map(|target| json(&target)).collect(),
    )
}

/// A node's row; `None` where it is gone.
pub(super) fn node(fleet: &Fleet, name: &str) -> Option<NodeRow> {
    let node = fleet.node(name)?;
    let record = NodeRecord {
        name,
        status: node.status(),
        drain: node.drain,
        leaving: node.leaving,
        labels: &node.labels,
        facts: &node.facts,
        executions: node.load,
        since: node.since.to_string(),
    };
    Some(NodeRow {
        name: name.to_owned(),
        record: json(&record),
    })
}

pub(super) fn json<T: Serialize>(what: &T) -> String {
    serde_json::to_string(what).expect("records hold texts, numbers, and maps by text")
}
