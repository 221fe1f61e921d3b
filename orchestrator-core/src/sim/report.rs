//! What came of a run: waves as they went, what followed, and how far it reached.

use serde::Serialize;

use crate::event::{DeploymentKind, DeploymentState, Entry, Event};
use crate::id::DeploymentId;
use crate::job::Job;
use crate::laws::Broken;

/// A law that does not hold. The same settings show it again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, thiserror::Error)]
#[error(
    "seed {seed}, step {step}, {at_millis} ms after the start: law {law}: {what}\n  {}",
    tail.join("\n  ")
)]
pub struct Violation {
    /// Its number among the things that must always hold; 0 = something that has none.
    pub law: u8,
    /// What was found.
    pub what: String,
    /// When, in virtual time since the simulation began.
    pub at_millis: u64,
    /// After how many steps of the job.
    pub step: u64,
    /// The seed of the settings.
    pub seed: u64,
    /// The last entries of the log, oldest first.
    pub tail: Vec<String>,
}

/// A violation, before it is known where it was found.
#[derive(Debug)]
pub(super) struct Flaw {
    pub(super) law: u8,
    pub(super) what: String,
}

impl Flaw {
    pub(super) fn new(law: u8, what: String) -> Self {
        Self { law, what }
    }
}

impl From<Broken> for Flaw {
    fn from(Broken { law, what }: Broken) -> Self {
        Self { law, what }
    }
}

/// Targets that were sent out together.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Wave {
    /// Counts from 1.
    pub wave: u32,
    /// Whether they were canaries.
    pub canary: bool,
    /// When they were sent out, since the deployment began.
    pub start_millis: u64,
    /// How many there were.
    pub size: u32,
    /// How many of them were updated in the end.
    pub updated: u32,
    /// How many of them failed.
    pub failed: u32,
    /// From the start to the verdict about the last of them; where that never came, to the latest
    /// verdict, or to the end.
    pub duration_millis: u64,
}

/// What was touched by the new version.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Blast {
    /// Nodes that were ever told to run it.
    pub nodes: u32,
    /// The same as a share of the fleet.
    pub share_percent: f64,
    /// Those of them that are still told to.
    pub still: u32,
    /// The longest that one of them had to do with it while the run was watched.
    pub longest_millis: u64,
    /// Requests that failed on it.
    pub failed_requests: u64,
}

/// The rollback that followed a failure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Followed {
    /// What kind of deployment it was.
    #[serde(rename = "type")]
    pub kind: DeploymentKind,
    /// Where it ended.
    pub state: DeploymentState,
    /// The one sentence that an operator reads.
    pub message: String,
    /// Its waves.
    pub waves: Vec<Wave>,
    /// From its beginning to its end.
    pub duration_millis: u64,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The seed of the settings.
    pub seed: u64,
    /// Nodes, at the end.
    pub nodes: u32,
    /// The waves of the new version.
    pub waves: Vec<Wave>,
    /// Where its deployment ended.
    pub state: DeploymentState,
    /// The one sentence that an operator reads about it.
    pub message: String,
    /// From its beginning to its end.
    pub duration_millis: u64,
    /// What followed, where something did.
    pub followed: Option<Followed>,
    /// How far it reached.
    pub blast: Blast,
    /// The version that is current in the end; 0 = none.
    pub current_version: u32,
    /// Where the job's last deployment ended.
    pub last_state: DeploymentState,
    /// Virtual time, all in all.
    pub virtual_millis: u64,
    /// Steps of the job.
    pub steps: u64,
    /// Of them, those after which the laws were checked, see [`Settings::recheck_every`](super::Settings::recheck_every).
    pub checked: u64,
    /// Entries in its log.
    pub entries: u64,
    /// Reports that were heard.
    pub reports: u64,
    /// How often the driver was started again.
    pub restarts: u64,
    /// Differs where any entry of the log does.
    pub digest: u64,
}

/// One deployment as the log tells it.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) id: DeploymentId,
    pub(super) kind: DeploymentKind,
    pub(super) rollback_of: Option<DeploymentId>,
    pub(super) to: u32,
    pub(super) waves: Vec<Wave>,
    pub(super) state: DeploymentState,
    pub(super) message: String,
    pub(super) began: u64,
    pub(super) ended: Option<u64>,
    /// The wave of each target (0 = none), and its verdict: updated or not.
    targets: Vec<(u32, Option<bool>)>,
    /// How many of the waves were shown.
    shown: usize,
}

/// Every deployment, read along with the log.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) parts: Vec<Part>,
    read: usize,
}

impl Parts {
    /// Reads what is new in the log; `now` is when it was written.
    pub(super) fn read(&mut self, now: u64, log: &[Entry], job: &Job) {
        let from = std::mem::replace(&mut self.read, log.len());
        for entry in &log[from..] {
            if let Event::Started(started) = &entry.event {
                self.parts.push(Part {
                    number: started.number,
                    id: started.id,
                    kind: started.kind,
                    rollback_of: started.rollback_of,
                    to: started.to,
                    waves: Vec::new(),
                    state: DeploymentState::Pending,
                    message: String::new(),
                    began: now,
                    ended: None,
                    targets: Vec::new(),
                    shown: 0,
                });
            } else if let Some(part) = self.parts.last_mut() {
                part.take(now, &entry.event);
            }
        }
        if from < log.len() {
            let open = self.parts.iter_mut().rev().take(3);
            for part in open.filter(|part| !part.state.is_final() && part.ended.is_some()) {
                part.look(job);
            }
        }
    }

    /// The first deployment that goes forward to `version`.
    pub(super) fn forward_to(&self, version: u32) -> Option<&Part> {
        self.parts.iter().find(|part| part.is_forward_to(version))
    }

    /// Hands the waves that are over to whoever looks on.
    pub(super) fn show(&mut self, version: u32, see: &mut dyn FnMut(&Wave)) {
        let part = self.parts.iter_mut().find(|p| p.is_forward_to(version));
        let Some(part) = part else { return };
        let open = usize::from(part.ended.is_none());
        while part.shown + open < part.waves.len() {
            see(&part.waves[part.shown]);
            part.shown += 1;
        }
    }
}

impl Part {
    fn is_forward_to(&self, version: u32) -> bool {
        let forward = matches!(self.kind, DeploymentKind::Create | DeploymentKind::Update);
        forward && self.to == version
    }

    /// Where it is, by its record.
    pub(super) fn look(&mut self, job: &Job) {
        if let Some(record) = job.record_by_number(self.number) {
            self.state = record.status.state;
            self.message = record.status.message;
        }
    }

    fn take(&mut self, now: u64, event: &Event) {
        match event {
            Event::Dispatched {
                wave,
                canary,
                targets,
                ..
            } => {
                self.waves.push(Wave {
                    wave: *wave,
                    canary: *canary,
                    start_millis: now - self.began,
                    size: targets.count(),
                    updated: 0,
                    failed: 0,
                    duration_millis: 0,
                });
                for target in targets.iter() {
                    let target = target as usize;
                    if self.targets.len() <= target {
                        self.targets.resize(target + 1, (0, None));
                    }
                    self.targets[target] = (self.waves.len() as u32, None);
                }
            }
            Event::Updated { heard } => heard.iter().for_each(|&(t, _)| self.verdict(now, t, true)),
            Event::Failed { targets, .. } => {
                targets.iter().for_each(|t| self.verdict(now, t, false))
            }
            Event::Ended { .. } if self.ended.is_none() => {
                self.ended = Some(now);
                let whole = now - self.began;
                for wave in &mut self.waves {
                    if wave.updated + wave.failed == 0 {
                        wave.duration_millis = whole - wave.start_millis;
                    }
                }
            }
            _ => {}
        }
    }

    fn verdict(&mut self, now: u64, target: u32, good: bool) {
        let Some((wave, before)) = self.targets.get_mut(target as usize) else {
            return;
        };
        let Some(wave) = self.waves.get_mut((*wave as usize).wrapping_sub(1)) else {
            return;
        };
        let first = before.is_none();
        match before.replace(good) {
            Some(true) => wave.updated -= 1,
            Some(false) => wave.failed -= 1,
            None => {}
        }
        if good {
            wave.updated += 1;
        } else {
            wave.failed += 1;
        }
        // An updated one that turns bad later makes the wave no longer.
        if first {
            wave.duration_millis = now - self.began - wave.start_millis;
        }
    }
}
