//! The machines in memory: how they come from the store, and who of them has to hear of a node.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_core::fleet::{self, Fleet, FleetSettings, NodeName};
use orchestrator_core::group::{self, Group};
use orchestrator_core::{Entry, Job, JobId, Time};

use super::EngineError;
use crate::store::{Claim, GroupId, Line, LogId, Machine, Store};

/// How many entries are read at a time.
const ENTRIES_PER_READ: u32 = 1000;
/// A snapshot is due when the log has grown by so much since the last one, and by as much as that one had.
const SNAPSHOT_AFTER_BYTES: usize = 256 * 1024;

/// A machine and the log that it is rebuilt from.
#[derive(Debug)]
pub(super) struct Owned<M> {
    pub(super) machine: M,
    pub(super) claim: Claim,
    /// Bytes of log since the last snapshot, and the size of that.
    pub(super) grown: usize,
    pub(super) snapshot: usize,
    /// Since when nothing that it was told could be kept, so that nobody was heard.
    pub(super) deaf_since: Option<Time>,
}

impl<M> Owned<M> {
    /// Whether it is time for a snapshot when so many bytes of log come.
    pub(super) fn snapshot_due(&self, more: usize) -> bool {
        self.grown + more >= SNAPSHOT_AFTER_BYTES.max(self.snapshot)
    }

    /// So many bytes of log were written, and a snapshot of so many.
    pub(super) fn note_written(&mut self, grown: usize, snapshot: Option<usize>) {
        if grown > 0 {
            self.deaf_since = None;
        }
        self.grown += grown;
        if let Some(bytes) = snapshot {
            (self.grown, self.snapshot) = (0, bytes);
        }
    }
}

/// All jobs, when they want to be woken, and which of them run something where.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    by_id: BTreeMap<JobId, Owned<Job>>,
    wakes: BTreeSet<(Time, JobId)>,
    wake_of: BTreeMap<JobId, Time>,
    runs_on: BTreeMap<NodeName, BTreeMap<JobId, u32>>,
}

impl Jobs {
    pub(super) fn get(&self, id: &JobId) -> Option<&Owned<Job>> {
        self.by_id.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&JobId, &Owned<Job>)> {
        self.by_id.iter()
    }

    /// Takes a job in, or in again.
    pub(super) fn insert(&mut self, owned: Owned<Job>) {
        let id = owned.claim.machine.job().clone();
        self.remove(&id);
        let nodes: Vec<NodeName> = owned.machine.nodes().map(NodeName::from).collect();
        self.by_id.insert(id.clone(), owned);
        for node in nodes {
            self.count(&id, &node);
        }
        self.note_wake(&id);
    }

    pub(super) fn remove(&mut self, id: &JobId) -> Option<Owned<Job>> {
        if let Some(wake) = self.wake_of.remove(id) {
            self.wakes.remove(&(wake, id.clone()));
        }
        for jobs in self.runs_on.values_mut() {
            jobs.remove(id);
        }
        self.by_id.remove(id)
    }

    /// Steps a job, and notes when it wants the next step.
    pub(super) fn with<T>(
        &mut self,
        id: &JobId,
        step: impl FnOnce(&mut Owned<Job>) -> T,
    ) -> Option<T> {
        let stepped = step(self.by_id.get_mut(id)?);
        self.note_wake(id);
        Some(stepped)
    }

    /// When the first of them wants to be woken.
    pub(super) fn wake(&self) -> Option<Time> {
        self.wakes.first().map(|&(at, _)| at)
    }

    /// Those that want to be woken by now.
    pub(super) fn due(&self, now: Time) -> Vec<JobId> {
        let due = self.wakes.iter().take_while(|&&(at, _)| at <= now);
        due.map(|(_, id)| id.clone()).collect()
    }

    /// Those that want to be woken at all.
    pub(super) fn waiting(&self) -> Vec<JobId> {
        self.wake_of.keys().cloned().collect()
    }

    /// Looks again at how much a job has on a node. Answers how much all jobs have there, where that has changed.
    pub(super) fn count(&mut self, id: &JobId, node: &NodeName) -> Option<u32> {
        let job = self.by_id.get(id)?;
        let count = job.machine.desired(node).len() as u32;
        let listed = count > 0 || !job.machine.stops(node).is_empty();
        let jobs = self.runs_on.entry(node.clone()).or_default();
        let before = jobs.get(id).copied().unwrap_or(0);
        if listed {
            jobs.insert(id.clone(), count);
        } else {
            jobs.remove(id);
        }
        let all = jobs.values().sum();
        if jobs.is_empty() {
            self.runs_on.remove(node);
        }
        (count != before).then_some(all)
    }

    /// Looks again at what all jobs have on a node that the fleet has no more.
    pub(super) fn forget_gone(&mut self, node: &NodeName) {
        let jobs: Vec<JobId> = self.on(node).map(|(id, _)| id.clone()).collect();
        for id in jobs {
            // The fleet does not count it any more.
            let _ = self.count(&id, node);
        }
    }

    /// How many executions each node has.
    pub(super) fn loads(&self) -> impl Iterator<Item = (&NodeName, u32)> {
        self.runs_on
            .iter()
            .map(|(node, jobs)| (node, jobs.values().sum()))
    }

    /// The jobs that have something to run, or to stop, on a node.
    pub(super) fn on<'a>(&'a self, node: &str) -> impl Iterator<Item = (&'a JobId, &'a Job)> {
        let jobs = self.runs_on.get(node).into_iter().flatten();
        jobs.filter_map(|(id, _)| Some((id, &self.by_id.get(id)?.machine)))
    }

    fn note_wake(&mut self, id: &JobId) {
        let wake = self.by_id.get(id).and_then(|job| job.machine.wake());
        let before = match wake {
            Some(wake) => self.wake_of.insert(id.clone(), wake),
            None => self.wake_of.remove(id),
        };
        if before != wake {
            if let Some(before) = before {
                self.wakes.remove(&(before, id.clone()));
            }
            if let Some(wake) = wake {
                self.wakes.insert((wake, id.clone()));
            }
        }
    }
}

impl Machine {
    /// The job that it is.
    fn job(&self) -> &JobId {
        match self {
            Self::Job(id) => id,
            Self::Fleet | Self::Group(_) => unreachable!("only jobs are kept among jobs"),
        }
    }
}

/// Reads a job from the store.
pub(super) async fn load_job(
    store: &dyn Store,
    mut claim: Claim,
) -> Result<Owned<Job>, EngineError> {
    let id = claim.machine.job().clone();
    let unreadable = |why: String| EngineError::Unreadable {
        machine: format!("job {id}"),
        why,
    };
    let kept = store.snapshot(claim.log).await?;
    let snapshot = kept.as_ref().map_or(0, |(_, bytes)| bytes.len());
    let mut job = match kept {
        Some((_, bytes)) => Job::from_snapshot(&bytes).map_err(|e| unreadable(chain(&e)))?,
        None => Job::new(id.clone(), claim.seed),
    };
    let mut grown = 0;
    while let Some(lines) = more(store, claim.log, job.seq(), &mut grown).await? {
        let entries: Result<Vec<Entry>, _> = lines.iter().map(|l| Entry::decode(&l.text)).collect();
        let entries = entries.map_err(|e| unreadable(chain(&e)))?;
        job.catch_up(entries).map_err(|e| unreadable(chain(&e)))?;
    }
    if job.id() != &id {
        return Err(unreadable(format!("it is the log of {}", job.id())));
    }
    if job.seq() < claim.seq {
        return Err(unreadable(format!(
            "it ends at entry {}, and {} were written",
            job.seq(),
            claim.seq
        )));
    }
    claim.seq = job.seq();
    Ok(Owned {
        machine: job,
        claim,
        grown,
        snapshot,
        deaf_since: None,
    })
}

/// Reads the fleet from the store.
pub(super) async fn load_fleet(
    store: &dyn Store,
    mut claim: Claim,
    settings: FleetSettings,
) -> Result<Owned<Fleet>, EngineError> {
    let unreadable = |why: String| EngineError::Unreadable {
        machine: "the fleet".to_owned(),
        why,
    };
    let kept = store.snapshot(claim.log).await?;
    let snapshot = kept.as_ref().map_or(0, |(_, bytes)| bytes.len());
    let mut fleet = match kept {
        Some((_, bytes)) => {
            Fleet::from_snapshot(settings, &bytes).map_err(|e| unreadable(chain(&e)))?
        }
        None => Fleet::new(settings),
    };
    let mut grown = 0;
    while let Some(lines) = more(store, claim.log, fleet.seq(), &mut grown).await? {
        let entries = lines.iter().map(|line| fleet::Entry::decode(&line.text));
        let entries: Result<Vec<_>, _> = entries.collect();
        let entries = entries.map_err(|e| unreadable(chain(&e)))?;
        fleet.catch_up(entries).map_err(|e| unreadable(chain(&e)))?;
    }
    claim.seq = fleet.seq();
    Ok(Owned {
        machine: fleet,
        claim,
        grown,
        snapshot,
        deaf_since: None,
    })
}

/// Reads a group from the store; `None` where nothing was ever kept of it.
pub(super) async fn load_group(
    store: &dyn Store,
    mut claim: Claim,
    id: GroupId,
) -> Result<Option<Owned<Group>>, EngineError> {
    let unreadable = |why: String| EngineError::Unreadable {
        machine: format!("group {id}"),
        why,
    };
    let kept = store.snapshot(claim.log).await?;
    let snapshot = kept.as_ref().map_or(0, |(_, bytes)| bytes.len());
    let mut group = match kept {
        Some((_, bytes)) => Some(Group::from_snapshot(&bytes).map_err(|e| unreadable(chain(&e)))?),
        None => None,
    };
    let mut grown = 0;
    loop {
        let seq = group.as_ref().map_or(0, |group| group.state().seq());
        let Some(lines) = more(store, claim.log, seq, &mut grown).await? else {
            break;
        };
        let entries = lines.iter().map(|line| group::Entry::decode(&line.text));
        let entries: Result<Vec<_>, _> = entries.collect();
        let entries = entries.map_err(|e| unreadable(chain(&e)))?;
        match &mut group {
            Some(group) => group.catch_up(entries).map_err(|e| unreadable(chain(&e)))?,
            None => group = Some(Group::recover(entries).map_err(|e| unreadable(chain(&e)))?),
        }
    }
    let Some(machine) = group else {
        return Ok(None);
    };
    claim.seq = machine.state().seq();
    Ok(Some(Owned {
        machine,
        claim,
        grown,
        snapshot,
        deaf_since: None,
    }))
}

/// What comes in a log after a position, if there is more; counts its bytes.
async fn more(
    store: &dyn Store,
    log: LogId,
    after: u64,
    grown: &mut usize,
) -> Result<Option<Vec<Line>>, EngineError> {
    let lines = store.entries(log, after, ENTRIES_PER_READ).await?;
    *grown += lines.iter().map(|line| line.text.len()).sum::<usize>();
    Ok((!lines.is_empty()).then_some(lines))
}

/// An error and all that led to it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}
