//! A deployment at a glance: for lists, and for those who wait for the next revision.

use serde::Serialize;

use crate::event::{DeploymentKind, DeploymentState};
use crate::id::DeploymentId;
use crate::job::Job;
use crate::record::{rfc3339, rfc3339_if_any};
use crate::rollout::Head;
use crate::time::Time;

/// The numbers of a deployment, without any text: what a look at it costs does not depend on its size.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Summary {
    /// Its name to the world.
    pub id: DeploymentId,
    /// Its number within the job, from 1: entries name it by that.
    pub number: u32,
    /// What kind of deployment.
    #[serde(rename = "type")]
    pub kind: DeploymentKind,
    /// Where it is.
    pub state: DeploymentState,
    /// Grows by one with every change.
    pub revision: u64,
    /// The version that nodes come from; 0 = nothing.
    pub from_version: u32,
    /// The version that nodes go to; 0 = nothing.
    pub to_version: u32,
    /// When it began.
    #[serde(serialize_with = "rfc3339")]
    pub created_at: Time,
    /// When it last changed.
    #[serde(serialize_with = "rfc3339")]
    pub updated_at: Time,
    /// When it came to its end.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "rfc3339_if_any"
    )]
    pub completed_at: Option<Time>,
    /// Counts from 1; 0 = not started.
    pub current_wave: u32,
    /// Whether the rest may follow the canaries.
    pub canary_promoted: bool,
    /// All targets.
    pub total_nodes: u32,
    /// Targets whose turn has not come.
    pub pending_nodes: u32,
    /// Assigned targets without a verdict.
    pub in_flight_nodes: u32,
    /// Targets that run the new version, proven.
    pub updated_nodes: u32,
    /// Failed targets.
    pub failed_nodes: u32,
    /// Targets whose nodes were not ready when their turn came.
    pub skipped_nodes: u32,
    /// Canaries.
    pub canaries: u32,
    /// The deployment that this one takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<DeploymentId>,
    /// The deployment that takes this one back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolled_back_by: Option<DeploymentId>,
}

impl Job {
    /// The deployments that the job remembers, the latest first: the one under way or the last, and
    /// [as many](crate::HISTORY_KEPT) before it. Who wants to show older ones keeps their [records](Job::record).
    pub fn deployments(&self) -> impl Iterator<Item = Summary> + '_ {
        self.state.heads().map(Summary::of)
    }

    /// One of them.
    pub fn summary(&self, id: DeploymentId) -> Option<Summary> {
        self.state.heads().find(|h| h.id == id).map(Summary::of)
    }
}

impl Summary {
    fn of(head: &Head) -> Self {
        let tally = &head.tally;
        Self {
            id: head.id,
            number: head.number,
            kind: head.kind,
            state: head.state,
            revision: head.revision,
            from_version: head.from,
            to_version: head.to,
            created_at: head.created,
            updated_at: head.updated,
            completed_at: head.completed,
            current_wave: head.wave,
            canary_promoted: head.promoted,
            total_nodes: head.total,
            pending_nodes: tally.pending,
            in_flight_nodes: tally.in_flight(),
            updated_nodes: tally.updated,
            failed_nodes: tally.failed,
            skipped_nodes: tally.skipped,
            canaries: tally.canaries,
            rollback_of: head.rollback_of,
            rolled_back_by: head.rolled_back_by,
        }
    }
}
