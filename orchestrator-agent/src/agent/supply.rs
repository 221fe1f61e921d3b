//! Sees to it that what workloads bring along is here, and that no more is kept than should be.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::Semaphore;

use super::execute::{Event, Events};
use super::ports::{Listener, PORT_AGAIN_AFTER};
use super::{Waits, Work};
use crate::artifact::{Artifact, Bounds, Cache, Failed, Made, fetch};
use crate::disk;
use crate::driver::{Driver, Lack};
use crate::plan::{Moment, Phase, Supply};
use crate::runs::Key;
use crate::workload::Workload;

/// Each costs the disk, the network, and a thread that others need too.
const AT_ONCE_MAX: usize = 4;
/// A source that was away so often in a row is told of. Until then it is worth no failed deployment.
const AWAY_TOLD_AFTER: u32 = 3;
/// Of the time between two tries a random part, of at least so much, is waited for: a fleet does not ask all at once.
const WAIT_AT_LEAST: f64 = 0.5;
/// A run needs no more on the disk before it works, but for what it brings along.
const ROOM_BYTES: usize = 256 << 10;
const ROOM_FILES: u64 = 32;
/// What is not what was promised will hardly be better soon, and costs as much again.
const WRONG_AGAIN_AFTER: Duration = Duration::from_secs(5 * 60);

/// What is here, and what is on its way.
#[derive(Debug)]
pub(super) struct Supplies {
    pub(super) cache: Cache,
    authorities: Option<PathBuf>,
    /// Where the runs are.
    runs: PathBuf,
    coming: BTreeMap<Artifact, Coming>,
    /// What drivers see to, and room for a run, for those executions that have no run yet of what is wanted.
    provided: BTreeMap<Key, Provided>,
    /// Who gets a port that is to be free.
    pub(super) promised: BTreeMap<u16, Key>,
    /// Who listens to ports that somebody needs and none of ours says that it has.
    pub(super) listeners: BTreeMap<u16, Listener>,
    /// So many are fetched at once; the others wait for their turn.
    turns: Arc<Semaphore>,
    /// It may be that something is needed no more.
    pub(super) is_dirty: bool,
}

#[derive(Debug, Default)]
struct Coming {
    /// Fetches it.
    task: Option<Waits>,
    /// So often in a row it did not come.
    row: u32,
    /// Why, when there is a reason to tell of it.
    why: Option<String>,
    /// Not to be tried again before.
    again: Moment,
}

/// What a driver sees to, and room for a run.
#[derive(Debug)]
struct Provided {
    generation: u64,
    workload: Arc<Workload>,
    is_here: bool,
    coming: Coming,
}

impl Supplies {
    pub(super) fn open(
        dir: PathBuf,
        runs: PathBuf,
        bounds: Bounds,
        authorities: Option<PathBuf>,
    ) -> io::Result<Self> {
        Ok(Self {
            cache: Cache::open(dir, bounds)?,
            authorities,
            runs,
            coming: BTreeMap::new(),
            provided: BTreeMap::new(),
            promised: BTreeMap::new(),
            listeners: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            is_dirty: true,
        })
    }

    /// How it is with one that is wanted. What is not here is on its way from now on.
    fn of(&mut self, artifact: &Artifact, now: Moment, events: &Events) -> Supply {
        if self.cache.find(artifact).is_some() {
            return Supply::Here;
        }
        let coming = self.coming.entry(artifact.clone()).or_default();
        if coming.task.is_none() && now >= coming.again {
            let made = fetch(
                artifact.clone(),
                self.cache.bounds(),
                self.authorities.clone(),
                self.cache.place(),
            );
            let (artifact, events) = (artifact.clone(), events.clone());
            let turns = self.turns.clone();
            let task = tokio::spawn(async move {
                let _turn = turns.acquire().await;
                let made = made.await;
                let _ = events.send(Event::Fetched(artifact, made));
            });
            coming.task = Some(Waits(task.abort_handle()));
        }
        coming.supply()
    }

    /// How it is with what a driver sees to. It does so from now on.
    fn of_driver(
        &mut self,
        key: &Key,
        (generation, workload): (u64, &Arc<Workload>),
        driver: &Arc<dyn Driver>,
        now: Moment,
        events: &Events,
    ) -> Supply {
        let is_same =
            |known: &Provided| (known.generation, &known.workload) == (generation, workload);
        if !self.provided.get(key).is_some_and(is_same) {
            let provided = Provided {
                generation,
                workload: workload.clone(),
                is_here: false,
                coming: Coming::default(),
            };
            // What was to come before is abandoned.
            self.provided.insert(key.clone(), provided);
        }
        let provided = self.provided.get_mut(key).expect("it was just put there");
        if provided.is_here {
            return Supply::Here;
        }
        let coming = &mut provided.coming;
        if coming.task.is_none() && now >= coming.again {
            let (key, events) = (key.clone(), events.clone());
            let (driver, workload) = (driver.clone(), workload.clone());
            let runs = self.runs.clone();
            let task = tokio::spawn(async move {
                let mut provided = room(runs).await.map_err(Lack::Missing);
                if provided.is_ok()
                    && let Some(by_driver) = driver.provide(&workload)
                {
                    provided = by_driver.await;
                }
                let _ = events.send(Event::Provided(key, workload, provided));
            });
            coming.task = Some(Waits(task.abort_handle()));
        }
        coming.supply()
    }
}

/// Whether there is room for another run: what runs now is not ended for one that cannot be made.
async fn room(runs: PathBuf) -> Result<(), String> {
    let look = tokio::task::spawn_blocking(move || {
        let found = disk::has_room(&runs, ROOM_BYTES, ROOM_FILES);
        found.map_err(|why| match Errno::from_io_error(&why) {
            Some(Errno::MFILE | Errno::NFILE) => {
                format!("{why}: this agent holds one for each run (ulimit -n, LimitNOFILE)")
            }
            _ => format!(
                "there is no room for another run in {}: {why}",
                runs.display()
            ),
        })
    });
    look.await.map_err(|why| why.to_string())?
}

impl Coming {
    fn supply(&self) -> Supply {
        match &self.why {
            None => Supply::Coming,
            Some(why) => Supply::Missing(why.clone()),
        }
    }
}

impl Work {
    /// Looks how it is with all that is wanted; answers when to look again.
    pub(super) fn supply(&mut self, now: Moment) -> Option<Moment> {
        let mut wanted = BTreeSet::new();
        // What has a run was here, and whoever starts it again looks for himself; but for its ports.
        let begun = self.lives.values().filter(|live| live.is_wanted);
        let begun: BTreeSet<&Key> = begun.map(|live| &live.run.id.key).collect();
        let mut provided = BTreeSet::new();
        for (key, execution) in &mut self.accepted.wanted {
            execution.supply = Supply::Here;
            let Some(workload) = execution.workload.as_ref().ok() else {
                continue;
            };
            if execution.version == 0 {
                continue;
            }
            if let Some(artifact) = &workload.artifact {
                wanted.insert(artifact.clone());
                execution.supply = self.supplies.of(artifact, now, &self.events);
            }
            let driver = self.drivers.get(workload.driver.as_str());
            if let Some(driver) = driver.filter(|_| !begun.contains(key)) {
                provided.insert(key.clone());
                let what = (execution.generation, workload);
                let supply = self
                    .supplies
                    .of_driver(key, what, driver, now, &self.events);
                if execution.supply == Supply::Here || matches!(supply, Supply::Missing(_)) {
                    execution.supply = supply;
                }
            }
        }
        let port_again = self.see_ports(now).then(|| now + PORT_AGAIN_AFTER);
        // What is wanted no more is abandoned.
        self.supplies
            .coming
            .retain(|artifact, _| wanted.contains(artifact));
        self.supplies
            .provided
            .retain(|key, _| provided.contains(key));
        let ours = self.supplies.coming.values();
        let theirs = self
            .supplies
            .provided
            .values()
            .filter(|provided| !provided.is_here);
        let all = ours.chain(theirs.map(|provided| &provided.coming));
        let waiting = all.filter(|coming| coming.task.is_none());
        let wake = waiting.map(|coming| coming.again);
        // Who has a port, and is none of ours, does not say that he lets it go.
        let wake = wake.chain(port_again).min();
        if std::mem::take(&mut self.supplies.is_dirty) {
            self.clean(&wanted);
        }
        wake
    }

    pub(super) fn provided(
        &mut self,
        key: &Key,
        workload: &Arc<Workload>,
        result: Result<(), Lack>,
    ) {
        let now = self.now();
        let provided = self.supplies.provided.get_mut(key);
        // One that was given up may have come all the same.
        let Some(provided) = provided.filter(|provided| Arc::ptr_eq(&provided.workload, workload))
        else {
            return;
        };
        let coming = &mut provided.coming;
        coming.task = None;
        let (why, is_known) = match result {
            Ok(()) => {
                provided.is_here = true;
                return;
            }
            Err(Lack::Missing(why)) => (why, true),
            Err(Lack::Unknown(why)) => (why, false),
        };
        tracing::warn!(why, "what a workload needs does not come");
        let wait = workload.restart.wait(coming.row);
        coming.again = now + wait.mul_f64(rand::random_range(WAIT_AT_LEAST..=1.0));
        coming.row = coming.row.saturating_add(1);
        if is_known || coming.row >= AWAY_TOLD_AFTER {
            coming.why = Some(why);
        }
    }

    pub(super) fn fetched(&mut self, artifact: Artifact, fetched: Result<Made, Failed>) {
        let added = fetched.and_then(|made| {
            let added = self.supplies.cache.add(&artifact, made);
            added.map_err(|why| Failed::Away(format!("artifact: it cannot be kept: {why}")))
        });
        let failed = match added {
            Ok(()) => {
                tracing::info!(artifact = artifact.id(), "an artifact is here");
                self.supplies.coming.remove(&artifact);
                self.supplies.is_dirty = true;
                return;
            }
            Err(failed) => failed,
        };
        let now = self.now();
        let restart = (self.workloads())
            .find(|workload| workload.artifact.as_ref() == Some(&artifact))
            .map(|workload| workload.restart);
        let Some((coming, restart)) = self.supplies.coming.get_mut(&artifact).zip(restart) else {
            return;
        };
        let why = failed.why().to_owned();
        tracing::warn!(why, "an artifact does not come");
        let wait = match failed {
            Failed::Away(_) => restart.wait(coming.row),
            Failed::Wrong(_) => restart.wait(coming.row).max(WRONG_AGAIN_AFTER),
        };
        coming.again = now + wait.mul_f64(rand::random_range(WAIT_AT_LEAST..=1.0));
        coming.row = coming.row.saturating_add(1);
        coming.task = None;
        if coming.row >= AWAY_TOLD_AFTER || matches!(failed, Failed::Wrong(_)) {
            coming.why = Some(why);
        }
    }

    pub(super) fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        let wanted = self.accepted.wanted.values();
        wanted.filter_map(|wanted| wanted.workload.as_ref().ok())
    }

    /// Lets go of what nothing needs, as far as it goes beyond the bounds.
    fn clean(&mut self, wanted: &BTreeSet<Artifact>) {
        let begun = self.lives.values().filter(|live| live.is_wanted);
        let begun: BTreeSet<&Key> = begun.map(|live| &live.run.id.key).collect();
        // Also to go on while that which is wanted cannot begin.
        let may_be_put_back = |key: &Key| {
            let wanted = self.accepted.wanted.get(key).filter(|it| it.version > 0);
            wanted.is_some_and(|wanted| match &wanted.workload {
                Ok(workload) => workload.restart.put_back || !begun.contains(key),
                Err(_) => true,
            })
        };
        let alive = self.lives.values().filter(|live| {
            !matches!(live.phase, Phase::Ended { .. }) || may_be_put_back(&live.run.id.key)
        });
        let mut needed: BTreeSet<PathBuf> =
            alive.filter_map(|live| live.run.artifact.clone()).collect();
        needed.extend(
            wanted
                .iter()
                .filter_map(|artifact| self.supplies.cache.find(artifact)),
        );
        let gone = self.supplies.cache.clean(&needed);
        if !gone.is_empty() {
            tracing::info!(count = gone.len(), "artifacts are let go of");
            // That may be many files.
            tokio::task::spawn_blocking(move || drop(gone));
        }
    }
}
