//! The deployment record, as an API shows it.

use serde::Serialize;
use serde_json::Value;

use crate::event::{DeploymentKind, DeploymentState};
use crate::id::DeploymentId;
use crate::job::Job;
use crate::rollout::{Head, Rollout, TargetState};
use crate::spec::JobType;
use crate::time::Time;
use crate::waiting_on::{message, waiting_on, wall};

/// How many canaries a record names. All of them are among the [targets](Job::targets).
pub const CANARY_NODES_MAX: usize = 100;

/// One deployment. Fields without a value are absent when it is serialized.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Record {
    /// The version that nodes come from; 0 = nothing.
    pub from_version: u32,
    /// Its name to the world.
    pub id: DeploymentId,
    /// The job's name within its namespace.
    pub job_id: String,
    /// `service` or `batch`.
    pub job_type: JobType,
    /// The job's namespace.
    pub namespace: String,
    /// How it rolls out, in the form that people write.
    pub spec: Value,
    /// Where it is.
    pub status: Status,
    /// The version that nodes go to; 0 = nothing.
    pub to_version: u32,
    /// `create`, `update`, `restart`, `rollback` or `stop`.
    #[serde(rename = "type")]
    pub kind: DeploymentKind,
    /// The deployment that this one takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<DeploymentId>,
    /// The deployment that takes this one back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_by: Option<DeploymentId>,
}

/// Where a deployment is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// The nodes of the canaries, of many the [first ones](CANARY_NODES_MAX).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub canary_nodes: Vec<String>,
    /// Whether the rest may follow the canaries.
    pub canary_promoted: bool,
    /// When it came to its end.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339_if_any"
    )]
    pub completed_at: Option<Time>,
    /// When it began.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: Time,
    /// Counts from 1; 0 = not started.
    pub current_wave: u32,
    /// Failed targets.
    pub failed_nodes: u32,
    /// The earliest deadline of a target in flight; absent while it is paused, when deadlines stand still.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339_if_any"
    )]
    pub health_check_deadline: Option<Time>,
    /// The latest deadline of a target in flight.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339_if_any"
    )]
    pub healthy_deadline: Option<Time>,
    /// When more targets than ever before were updated, a wave began or a promotion came.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339_if_any"
    )]
    pub last_progress_time: Option<Time>,
    /// One sentence: what is going on, and why.
    pub message: String,
    /// Grows by one with every change.
    pub revision: u64,
    /// The state of its life.
    pub state: DeploymentState,
    /// All targets.
    pub total_nodes: u32,
    /// When it last changed.
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: Time,
    /// Targets that run the new version, proven.
    pub updated_nodes: u32,
    /// Targets whose turn has not come.
    pub pending_nodes: u32,
    /// Assigned targets without a verdict.
    pub in_flight_nodes: u32,
    /// Targets whose nodes were not ready when their turn came.
    pub skipped_nodes: u32,
    /// What has to happen before it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_on: Option<String>,
}

/// One target, for a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TargetView {
    /// Its number, as an [`Assignment`](crate::Assignment) and a [`Report`](crate::Report) name it.
    pub target: u32,
    /// The number of its execution within the job.
    pub slot: u32,
    /// The node's name.
    pub node: String,
    /// What its execution was last told to run; 0 = nothing.
    pub version: u32,
    /// The position in the log that told it; 0 = nothing was told yet.
    pub generation: u64,
    /// Where it is in its life.
    pub state: TargetState,
    /// The wave that it was sent out with; 0 = none yet.
    pub wave: u32,
    /// Whether it is a canary.
    pub canary: bool,
    /// Bad intervals in a row.
    pub bad_intervals: u8,
    /// Whether its node is silent.
    pub lost: bool,
    /// Updated, and yet to show that it is well: it turned bad, or has moved.
    pub unproven: bool,
    /// Until when it has to be healthy.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339_if_any"
    )]
    pub deadline: Option<Time>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Job {
    /// The active deployment, or the last one.
    pub fn deployment(&self) -> Option<Record> {
        self.state
            .rollout
            .as_ref()
            .map(|rollout| self.record_of(&rollout.head, Some(rollout)))
    }

    /// A deployment by its id, as far back as the job remembers: the last few.
    pub fn record(&self, id: DeploymentId) -> Option<Record> {
        match &self.state.rollout {
            Some(rollout) if rollout.head.id == id => self.deployment(),
            _ => self
                .state
                .history
                .iter()
                .find(|h| h.id == id)
                .map(|head| self.record_of(head, None)),
        }
    }

    /// A deployment by its number in an entry, as far back as the job remembers.
    pub fn record_by_number(&self, number: u32) -> Option<Record> {
        match &self.state.rollout {
            Some(rollout) if rollout.head.number == number => self.deployment(),
            _ => self
                .state
                .history
                .iter()
                .find(|h| h.number == number)
                .map(|head| self.record_of(head, None)),
        }
    }

    /// The targets of the active deployment, or of the last one, in the order of their turn.
    pub fn targets(&self) -> impl Iterator<Item = TargetView> + '_ {
        self.targets_from(0)
    }

    /// The targets from this number on: what was passed over costs nothing.
    pub fn targets_from(&self, first: u32) -> impl Iterator<Item = TargetView> + '_ {
        let rollout = self.state.rollout.as_ref();
        rollout.into_iter().flat_map(move |rollout| {
            let end = rollout.targets.len() as u32;
            (first.min(end)..end).map(move |number| self.target_view(rollout, number))
        })
    }

    fn target_view(&self, rollout: &Rollout, number: u32) -> TargetView {
        let target = &rollout.targets[number as usize];
        let slot = &self.state.slots[target.slot as usize];
        let dispatch = target.dispatch.checked_sub(1);
        let dispatch = dispatch.map(|d| &rollout.dispatches[d as usize]);
        // While it is paused no deadline comes nearer, and when it is over none comes: there is none to show.
        let runs = rollout.head.state == DeploymentState::InProgress;
        let deadline = rollout.due_of(number).filter(|_| runs);
        let failure = rollout.failures.get(&number);
        TargetView {
            target: number,
            slot: target.slot,
            node: self.state.node_of(target.slot).to_owned(),
            version: slot.told,
            generation: slot.generation.into(),
            state: target.state(),
            wave: dispatch.map_or(0, |d| d.wave),
            canary: target.is_canary(),
            bad_intervals: target.streak,
            lost: self.state.is_silent(target),
            unproven: target.is_unproven(),
            deadline: deadline.map(|due| wall(&self.state, rollout, due)),
            reason: failure.map(|f| f.reason.to_string()),
        }
    }

    fn record_of(&self, head: &Head, rollout: Option<&Rollout>) -> Record {
        let active = rollout.filter(|_| !head.state.is_final());
        let canary_nodes = match active {
            Some(rollout) => {
                let canaries = rollout.canaries.iter().take(CANARY_NODES_MAX);
                let slots = canaries.map(|&t| rollout.targets[t as usize].slot);
                slots
                    .map(|slot| self.state.node_of(slot).to_owned())
                    .collect()
            }
            None => head.canary_nodes.clone(),
        };
        // While it is paused no deadline comes nearer: there is none to show.
        let running = active.filter(|_| head.state != DeploymentState::Paused);
        let deadline =
            |due: Option<u64>| running.zip(due).map(|(r, due)| wall(&self.state, r, due));
        let status = Status {
            canary_nodes,
            canary_promoted: head.promoted,
            completed_at: head.completed,
            created_at: head.created,
            current_wave: head.wave,
            failed_nodes: head.tally.failed,
            health_check_deadline: deadline(active.and_then(Rollout::due_first)),
            healthy_deadline: deadline(active.and_then(Rollout::due_last)),
            last_progress_time: head.progress,
            message: message(&self.state, active, head),
            revision: head.revision,
            state: head.state,
            total_nodes: head.total,
            updated_at: head.updated,
            updated_nodes: head.tally.updated,
            pending_nodes: head.tally.pending,
            in_flight_nodes: head.tally.in_flight(),
            skipped_nodes: head.tally.skipped,
            waiting_on: active.map(|r| waiting_on(&self.state, r).to_string()),
        };
        Record {
            from_version: head.from,
            id: head.id,
            job_id: self.state.id.name().to_owned(),
            job_type: head.job_type,
            namespace: self.state.id.namespace().to_owned(),
            spec: head.spec.to_json(),
            status,
            to_version: head.to,
            kind: head.kind,
            rollback_of: head.rollback_of,
            rolled_back_by: head.rolled_back_by,
        }
    }
}

pub(crate) fn rfc3339<S: serde::Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

#[expect(clippy::ref_option, reason = "serde asks for a reference to the field")]
pub(crate) fn rfc3339_if_any<S: serde::Serializer>(
    time: &Option<Time>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
