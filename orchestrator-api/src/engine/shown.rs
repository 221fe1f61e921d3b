//! What is read most: the deployments that were last of their jobs, ready to be sent.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
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
    /// `{"deployment":{…}}`, the answer to who asks for it: made once, and sent as often as it is read.
    pub answer: Bytes,
    /// The revision in quotes, which goes with it.
    pub tag: Bytes,
}

const BEFORE: &str = "{\"deployment\":";
const AFTER: &str = "}";

impl ShownDeployment {
    /// The record, as JSON.
    pub fn record(&self) -> &str {
        let record = &self.answer[BEFORE.len()..self.answer.len() - AFTER.len()];
        std::str::from_utf8(record).expect("it was put together from texts")
    }
}

impl From<DeploymentRow> for ShownDeployment {
    fn from(row: DeploymentRow) -> Self {
        Self {
            id: row.id,
            job: row.job,
            revision: row.revision,
            state: row.state,
            answer: [BEFORE, &row.record, AFTER].concat().into(),
            tag: format!("\"{}\"", row.revision).into(),
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

    /// How many of them are in each state.
    pub(super) fn states(&self) -> Vec<(DeploymentState, u64)> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let mut states: Vec<(DeploymentState, u64)> = Vec::new();
        for sender in latest.by_id.values() {
            let state = sender.borrow().state;
            match states.iter_mut().find(|(known, _)| *known == state) {
                Some((_, count)) => *count += 1,
                None => states.push((state, 1)),
            }
        }
        states
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
