//! What is read most: the deployments that were last of their jobs, ready to be sent.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use orchestrator_core::{DeploymentId, DeploymentState, JobId};
use tokio::sync::watch;

use crate::store::DeploymentRow;

/// A deployment as it is shown: everything of it is safe.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownDeployment {
    /// Its name to the world.
    pub id: DeploymentId,
    /// Whose it is.
    pub job: JobId,
    /// Grows with every change.
    pub revision: u64,
    /// Where it is.
    pub state: DeploymentState,
    /// The record, as JSON.
    pub record: String,
}

impl From<DeploymentRow> for ShownDeployment {
    fn from(row: DeploymentRow) -> Self {
        Self {
            id: row.id,
            job: row.job,
            revision: row.revision,
            state: row.state,
            record: row.record,
        }
    }
}

/// The latest deployments of all jobs; others are in the store only.
#[derive(Debug, Default)]
pub(super) struct Shown {
    latest: RwLock<Latest>,
}

#[derive(Debug, Default)]
struct Latest {
    by_id: HashMap<DeploymentId, watch::Sender<Arc<ShownDeployment>>>,
    by_job: HashMap<JobId, DeploymentId>,
}

impl Shown {
    pub(super) fn get(&self, id: DeploymentId) -> Option<Arc<ShownDeployment>> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        latest.by_id.get(&id).map(|sender| sender.borrow().clone())
    }

    pub(super) fn watch(&self, id: DeploymentId) -> Option<watch::Receiver<Arc<ShownDeployment>>> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        latest.by_id.get(&id).map(watch::Sender::subscribe)
    }

    /// Shows deployments to everyone, all at once, so that nobody sees one that was taken back without the one that
    /// takes it back. With each: whether it is its job's last one; what was that before gives way, and those who
    /// watch it learn that it will not change any more.
    pub(super) fn publish(&self, all: impl IntoIterator<Item = (ShownDeployment, bool)>) {
        let mut latest = self.latest.write().unwrap_or_else(PoisonError::into_inner);
        let Latest { by_id, by_job } = &mut *latest;
        for (shown, last) in all {
            let (id, job) = (shown.id, shown.job.clone());
            let shown = Arc::new(shown);
            match by_id.get(&id) {
                Some(sender) => {
                    sender.send_replace(shown);
                }
                None if last => {
                    by_id.insert(id, watch::Sender::new(shown));
                }
                None => {}
            }
            if last && let Some(before) = by_job.insert(job, id).filter(|&b| b != id) {
                by_id.remove(&before);
            }
        }
    }
}
