//! Does what a plan says, and takes in what comes of it. Nothing here chooses.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{Live, Waits, Work};
use crate::artifact::{Artifact, Failed, Made};
use crate::driver::{Driver, Lack, Look, Stop};
use crate::health::Sight;
use crate::health::watch::Watch;
use crate::plan::{self, Action, End, Phase, Trial};
use crate::runs::{self, Key, Mark, Run, RunId};
use crate::shim::Ended;
use crate::wire::Document;
use crate::workload::Workload;

/// How soon somebody is asked again who has not answered.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// And at the most.
const LOOK_AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);
/// So often in a row it was not known where a run is, when that is told.
const UNSEEN_TOLD_AFTER: u32 = 4;
/// How soon somebody is told again to stop whom that has not reached, at the most.
const STOP_AGAIN_AFTER_MAX: Duration = Duration::from_secs(5);
/// And for how long. An engine that is begun anew is back by then.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// What keeps a run from being forgotten lasts.
const FORGET_AGAIN_AFTER: Duration = Duration::from_secs(30);

pub(super) type Events = mpsc::UnboundedSender<Event>;

/// What came of something that took its time.
#[derive(Debug)]
pub(super) enum Event {
    /// It was started, or not.
    Begun(RunId, Result<(), String>),
    /// It may have ended.
    Ended(RunId),
    /// It was looked at.
    Looked(RunId, Look),
    /// It is not known where it is, and why; it is looked for again.
    Unseen(RunId, String),
    /// It was told to stop, or killed; or that could not be done.
    Stopped(RunId, Stop, bool),
    /// What was left of it is gone, or not.
    Forgotten(RunId, io::Result<()>),
    /// What this workload of an execution needs of its driver is here, or not.
    Provided(Key, Arc<Workload>, Result<(), Lack>),
    /// Who listens to a port, if it is one of ours.
    Listens(u16, Option<RunId>),
    /// What a workload brings along was fetched, or not.
    Fetched(Artifact, Result<Made, Failed>),
}

impl Work {
    pub(super) fn execute(&mut self, action: Action) {
        tracing::info!("{action}");
        match action {
            Action::Create { run, row } => self.create(run, row),
            Action::PutBack { run, of, row } => self.put_back(run, &of, row),
            Action::Start(id) => self.start(&id),
            Action::Stop(id) => self.stop(&id, Stop::Gracefully),
            Action::Kill(id) => self.stop(&id, Stop::Now),
            Action::Try(id, trial) => {
                if let Some(live) = self.lives.get_mut(&id) {
                    live.is_tried(trial);
                }
            }
            Action::GiveUp(id) => {
                let generation = self.lives.get(&id).map(Live::generation);
                let all = self.lives.values_mut();
                let same = all.filter(|live| live.run.id.key == id.key);
                for live in same.filter(|live| Some(live.generation()) == generation) {
                    live.given_up = true;
                    live.mark(Mark::GivenUp);
                }
            }
            Action::Forget(id) => self.forget(id),
        }
    }

    fn create(&mut self, id: RunId, row: u32) {
        let wanted = self.accepted.wanted.get(&id.key);
        let Some((wanted, Ok(workload))) = wanted.map(|wanted| (wanted, &wanted.workload)) else {
            return;
        };
        let Some(document) = self.accepted.documents.get(&id.key) else {
            return;
        };
        let (workload, document) = (workload.clone(), document.clone());
        let observed = self.observed(self.now());
        let runs = observed.get(&id.key).map_or(&[][..], Vec::as_slice);
        let trial = plan::trial(wanted, runs);
        self.make(&id, row, wanted.version, trial, workload, document);
    }

    fn put_back(&mut self, id: RunId, of: &RunId, row: u32) {
        let Some(live) = self.lives.get(of) else {
            return;
        };
        let (run, trial) = (live.run.clone(), live.trial);
        let (workload, document) = (run.workload.clone(), run.document.clone());
        self.make(&id, row, run.version, trial, workload, document);
    }

    /// Makes a run and starts it.
    fn make(
        &mut self,
        id: &RunId,
        row: u32,
        version: u32,
        trial: Trial,
        workload: Arc<Workload>,
        document: Document,
    ) {
        let now = self.now();
        let picked = self.pick(id, &workload);
        let ports = picked
            .as_ref()
            .map_or_else(|_| BTreeMap::new(), Clone::clone);
        let wanted = workload.artifact.as_ref();
        let artifact = wanted.and_then(|artifact| self.supplies.cache.find(artifact));
        let supplied = match wanted.is_some() && artifact.is_none() {
            true => Err("the artifact is not here any more".to_owned()),
            false => Ok(()),
        };
        let dir = runs::directory(&self.runs_dir, id);
        let run = Arc::new(Run {
            artifact,
            name: runs::name(&dir, id),
            made: Some(now),
            trial,
            dir,
            id: id.clone(),
            version,
            node: self.node.clone(),
            row,
            ports,
            document,
            workload,
        });
        let mut live = Live::new(run.clone(), Phase::Planned, now);
        live.is_wanted = self.accepted.is_of(&live);
        let made = picked.and(supplied).and_then(|()| {
            let kept = run.keep();
            kept.map_err(|why| format!("the run cannot be made: {why}"))
        });
        let is_made = made.is_ok();
        if let Err(why) = made {
            live.phase = Phase::Ended {
                how: End::CannotStart(why),
                since: now,
                ran: Duration::ZERO,
            };
        }
        self.lives.insert(id.clone(), live);
        if is_made {
            self.logs.add(&run);
            self.start(id);
        }
    }

    fn start(&mut self, id: &RunId) {
        let now = self.now();
        if let Some(live) = self.lives.get_mut(id) {
            live.since = now;
        }
        self.task(id, |driver, run, events| async move {
            let begun = driver.start(&run).await;
            let _ = events.send(Event::Begun(run.id.clone(), begun));
        });
    }

    fn stop(&mut self, id: &RunId, how: Stop) {
        let now = self.now();
        let driver = self.driver(id);
        let Some((live, driver)) = self.lives.get_mut(id).zip(driver) else {
            return;
        };
        match how {
            Stop::Gracefully => {
                live.asked = Some(now);
                live.mark(Mark::Asked);
            }
            Stop::Now => live.killed = Some(now),
        }
        let (run, events) = (live.run.clone(), self.events.clone());
        let stops = tokio::spawn(async move {
            let mut again = LOOK_AGAIN_AFTER;
            let since = Instant::now();
            let mut heard = true;
            while let Err(why) = driver.stop(&run, how).await {
                tracing::warn!(run = %run.id, %why, "a run cannot be stopped");
                // Who does not hear it for so long is killed: perhaps that can be done.
                if how == Stop::Now || since.elapsed() > STOP_PATIENCE {
                    heard = false;
                    break;
                }
                sleep(again).await;
                again = (again * 2).min(STOP_AGAIN_AFTER_MAX);
            }
            let _ = events.send(Event::Stopped(run.id.clone(), how, heard));
        });
        live.stops = Some(Waits(stops.abort_handle()));
    }

    /// Its time of grace begins when it was told, and not when somebody first tried to tell it.
    fn stopped(&mut self, id: &RunId, how: Stop, heard: bool) {
        let now = self.now();
        let Some(live) = self.lives.get_mut(id) else {
            return;
        };
        live.stops = None;
        match how {
            Stop::Gracefully => {
                live.asked = Some(now);
                // Who hears it twice may take it for more.
                if heard && let Err(why) = live.run.note_heard(now) {
                    tracing::warn!(%why, "a run cannot be marked");
                }
            }
            Stop::Now => live.killed = Some(now),
        }
    }

    fn forget(&mut self, id: RunId) {
        self.logs.keep_rest(&id);
        self.task(&id, |driver, run, events| async move {
            let forgotten = match run.dir.exists() {
                true => driver.forget(&run).await,
                false => Ok(()),
            };
            let _ = events.send(Event::Forgotten(run.id.clone(), forgotten));
        });
    }

    /// Begins something that makes the run busy.
    fn task<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        id: &RunId,
        doing: impl FnOnce(Arc<dyn Driver>, Arc<Run>, Events) -> F,
    ) {
        let driver = self.driver(id);
        let Some((live, driver)) = self.lives.get_mut(id).zip(driver) else {
            return;
        };
        live.busy = true;
        tokio::spawn(doing(driver, live.run.clone(), self.events.clone()));
    }

    fn driver(&self, id: &RunId) -> Option<Arc<dyn Driver>> {
        let name = self.lives.get(id)?.run.workload.driver.as_str();
        self.drivers.get(name).cloned()
    }

    pub(super) fn happened(&mut self, event: Event) {
        match event {
            Event::Begun(id, begun) => {
                if let Err(why) = begun {
                    tracing::warn!(run = %id, why, "a run cannot start");
                    if let Some(live) = self.lives.get_mut(&id) {
                        live.cannot_start = Some(why);
                    }
                }
                self.look(&id);
            }
            Event::Ended(id) => self.look(&id),
            Event::Looked(id, look) => self.looked(&id, look),
            Event::Stopped(id, how, heard) => self.stopped(&id, how, heard),
            Event::Unseen(id, why) => {
                if let Some(live) = self.lives.get_mut(&id) {
                    live.unseen = Some(why);
                }
            }
            Event::Forgotten(id, Ok(())) => {
                if let Some(live) = self.lives.remove(&id) {
                    runs::tidy(&live.run.dir);
                }
            }
            Event::Listens(port, by) => self.listens(port, by),
            Event::Provided(key, workload, provided) => self.provided(&key, &workload, provided),
            Event::Fetched(artifact, fetched) => self.fetched(artifact, fetched),
            Event::Forgotten(id, Err(why)) => {
                tracing::warn!(run = %id, %why, "a run cannot be forgotten");
                let again = self.now() + FORGET_AGAIN_AFTER;
                if let Some(live) = self.lives.get_mut(&id) {
                    live.forget_again = Some(again);
                }
                self.look(&id);
            }
        }
    }

    /// Asks where a run is, until it is known: whoever runs it may be away for a while.
    pub(super) fn look(&mut self, id: &RunId) {
        let driver = self.driver(id);
        let Some((live, driver)) = self.lives.get_mut(id).zip(driver) else {
            return;
        };
        // What is not known yet is not to be started.
        live.busy |= live.phase == Phase::Planned;
        let (run, events) = (live.run.clone(), self.events.clone());
        tokio::spawn(async move {
            let (mut again, mut tries) = (LOOK_AGAIN_AFTER, 0);
            let looked = loop {
                match driver.look(&run).await {
                    Ok(looked) => break looked,
                    Err(why) => {
                        tracing::error!(run = %run.id, %why, "a run cannot be looked at");
                        tries += 1;
                        if tries == UNSEEN_TOLD_AFTER {
                            let why = format!("it is not known where it is: {why}");
                            let _ = events.send(Event::Unseen(run.id.clone(), why));
                        }
                    }
                }
                if !run.dir.exists() && tries > UNSEEN_TOLD_AFTER {
                    // It was forgotten; or somebody took it away, and nothing is left to be found.
                    break Ended::unseen(&run.dir).into();
                }
                sleep(again).await;
                again = (again * 2).min(LOOK_AGAIN_AFTER_MAX);
            };
            let _ = events.send(Event::Looked(run.id.clone(), looked));
        });
    }

    fn looked(&mut self, id: &RunId, looked: Look) {
        let now = self.now();
        let driver = self.driver(id);
        let Some((live, driver)) = self.lives.get_mut(id).zip(driver) else {
            return;
        };
        live.busy = false;
        live.unseen = None;
        // Who looked first may be heard last: a run never comes back.
        let is_old = match live.phase {
            Phase::Planned => false,
            // Unless who waited for its end was told so.
            Phase::Running => {
                let waits = live.waits.as_ref();
                looked == Look::Absent && waits.is_none_or(|waits| !waits.0.is_finished())
            }
            Phase::Ended { .. } => true,
        };
        if is_old {
            return;
        }
        let run = live.run.clone();
        let looked = match (looked, live.cannot_start.take()) {
            (Look::Absent, _) if live.phase == Phase::Running => Ended::unseen(&run.dir).into(),
            // Its driver may have had no room to write that down.
            (Look::Absent, Some(why)) => Ended::cannot_start(why).into(),
            (looked, _) => looked,
        };
        match looked {
            Look::Absent => live.phase = Phase::Planned,
            Look::Beginning | Look::Running => {
                if looked == Look::Beginning {
                    // It may be held up, and is not to be taken for one that is well.
                    live.unseen = Some("it has not begun yet".to_owned());
                    let (id, events) = (id.clone(), self.events.clone());
                    tokio::spawn(async move {
                        sleep(LOOK_AGAIN_AFTER).await;
                        let _ = events.send(Event::Ended(id));
                    });
                }
                if live.phase != Phase::Running {
                    live.phase = Phase::Running;
                    // What was found has its age.
                    if live.is_fresh {
                        live.since = now;
                    }
                    live.watch = Some(Watch::start(&run, live.is_fresh, &driver, &self.sights));
                }
                let events = self.events.clone();
                let waits = tokio::spawn(async move {
                    driver.ended(&run).await;
                    let _ = events.send(Event::Ended(run.id.clone()));
                });
                live.waits = Some(Waits(waits.abort_handle()));
            }
            Look::Ended { how, ran } => {
                live.watch = None;
                live.waits = None;
                live.stops = None;
                self.logs.over(id);
                self.supplies.is_dirty = true;
                if !matches!(live.phase, Phase::Ended { .. }) {
                    let remarks = live.run.remarks();
                    tracing::info!(run = %id, ?how, ?remarks, "a run has ended");
                    if live.asked.is_none() && live.run.has(Mark::Asked) {
                        // By a former agent, of whom nobody knows whether it was heard: it has ended since.
                        live.asked = Some(now);
                    }
                    live.phase = Phase::Ended {
                        how,
                        since: now,
                        ran,
                    };
                }
            }
        }
    }

    /// Takes in what was seen of a run's health.
    pub(super) fn saw(&mut self, id: &RunId, sight: Sight) {
        let now = self.now();
        if let Some(live) = self.lives.get_mut(id) {
            live.tally.take(sight, now.saturating_sub(live.since));
        }
    }
}
