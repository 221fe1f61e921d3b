//! What there is to say of each execution, and when.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::Work;
use crate::client::Link;
use crate::net::within;
use crate::outbox::{Letter, PER_EXECUTION_MAX};
use crate::plan::{self, Moment, Phase, Seen, Standing, Supply};
use crate::runs::{Key, Mark, RunId};
use crate::status::Question;
use crate::wire::{Interval, Observation, Report};

/// Where nothing else is said.
const INTERVAL: Duration = Duration::from_secs(10);
/// The server keeps no more of a text.
const DETAIL_BYTES_MAX: usize = 500;

/// The status page waits no longer for whoever can tell what runs use.
const MEASURED_WITHIN: Duration = Duration::from_secs(2);

/// What was said of an execution.
#[derive(Debug)]
pub(super) struct Told {
    generation: u64,
    standing: Standing,
    /// When the interval ends.
    next: Moment,
    pub(super) number: u32,
}

impl Work {
    /// Says what is new, and at the end of each interval how it stands. Answers when the next one ends.
    pub(super) fn tell(
        &mut self,
        observed: &BTreeMap<Key, Vec<Seen>>,
        now: Moment,
    ) -> Option<Moment> {
        let mut wake = None;
        let keys: Vec<Key> = self.accepted.wanted.keys().cloned().collect();
        for key in keys {
            let runs = observed.get(&key).map_or(&[][..], Vec::as_slice);
            let next = self.tell_of(&key, runs, now);
            wake = Some(wake.map_or(next, |wake: Moment| wake.min(next)));
        }
        wake
    }

    fn tell_of(&mut self, key: &Key, runs: &[Seen], now: Moment) -> Moment {
        let wanted = &self.accepted.wanted[key];
        let generation = wanted.generation;
        let workload = wanted.workload.as_ref().ok();
        let interval = workload.map_or(INTERVAL, |workload| workload.interval);
        let batch = workload.is_some_and(|workload| workload.batch);
        let standing = plan::standing(wanted, runs);
        let run = plan::newest(runs).map(|run| RunId {
            key: key.clone(),
            generation: run.generation,
            attempt: run.attempt,
        });
        let live = run.as_ref().and_then(|run| self.lives.get_mut(run));
        let told = self.told.entry(key.clone()).or_insert_with(|| Told {
            generation: 0,
            standing: Standing::Unknown,
            next: Moment::ZERO,
            number: 0,
        });
        let is_new = told.generation != generation || told.standing != standing;
        let is_due = now >= told.next;
        let mut says = Vec::new();
        let mut start = None;
        if is_new {
            told.generation = generation;
            told.standing = standing.clone();
            told.next = now + interval;
            match &standing {
                // It was said by a former agent, and the server heard it.
                Standing::Up(_) if live.as_ref().is_some_and(|live| live.is_told) => {}
                Standing::Up(1) => (start, says) = (run, vec![Observation::Started]),
                Standing::Up(_) => (start, says) = (run, vec![Observation::Restarted]),
                standing => says.extend(lasting(standing)),
            }
        } else if is_due {
            told.next = now + interval;
            says.extend(match (&standing, live) {
                (Standing::Up(_), Some(live)) => {
                    let mut interval = live.tally.roll();
                    // What may have ended is not seen to be well.
                    if live.unseen.is_some() {
                        interval.checks = interval.checks.filter(|passing| !passing);
                    }
                    Some(Observation::Interval(interval))
                }
                (Standing::Down, _) => Some(Observation::Interval(Interval {
                    checks: Some(false),
                    ..Interval::default()
                })),
                (standing, _) => lasting(standing),
            });
        }
        let next = told.next;
        let target = self.accepted.targets.get(key).copied();
        // Who has done his work is asked after also where no deployment waits.
        let is_asked = target.is_some() || batch && standing == Standing::Exited(0);
        for observation in says.into_iter().filter(|_| is_asked) {
            let told = self.told.get_mut(key).expect("it was just put there");
            told.number = self.numbers.after(told.number);
            let report = Report {
                job: key.job.clone(),
                slot: key.slot,
                generation,
                target,
                number: told.number,
                observation,
            };
            self.outbox.push(Letter {
                report,
                start: start.take(),
            });
        }
        next
    }

    /// The server knows of this start.
    pub(super) fn is_told(&mut self, run: &RunId) {
        if let Some(live) = self.lives.get_mut(run) {
            live.is_told = true;
            if let Err(why) = live.run.mark(Mark::Told) {
                // Then it is said once more after a restart.
                tracing::warn!(%why, "a run cannot be marked");
            }
        }
    }

    /// Answers how it goes, as soon as it was measured what runs use.
    pub(super) fn answer(&self, question: Question, link: &Mutex<Link>) {
        let mut status = self.status(link);
        let ids: Vec<RunId> = self.lives.keys().cloned().collect();
        let running = |name: &str| {
            let lives = self.lives.values();
            let lives = lives.filter(|live| live.phase == Phase::Running);
            let runs = lives.map(|live| live.run.clone());
            runs.filter(|run| run.workload.driver == name)
                .collect::<Vec<_>>()
        };
        let drivers = self.drivers.iter();
        let drivers: Vec<_> = drivers
            .map(|(name, driver)| (driver.clone(), running(name)))
            .collect();
        tokio::spawn(async move {
            let mut used = BTreeMap::new();
            for (driver, runs) in drivers {
                let measured = within(MEASURED_WITHIN, driver.usage(&runs)).await;
                used.extend(measured.unwrap_or_default());
            }
            let runs = status["runs"].as_array_mut().into_iter().flatten();
            for (run, id) in runs.zip(&ids) {
                if let Some(usage) = used.get(id) {
                    run["memory_bytes"] = usage.memory_bytes.into();
                    run["cpu_seconds"] = usage.cpu.as_secs_f64().into();
                }
            }
            // Who asked may be gone.
            let _ = question.send(status);
        });
    }

    /// How it goes, for the status page.
    fn status(&self, link: &Mutex<Link>) -> Value {
        let link = link.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = self.now();
        let observed = self.observed(now);
        let holders = self.holders(&observed);
        let executions = self.accepted.wanted.iter().map(|(key, wanted)| {
            let runs = observed.get(key).map_or(&[][..], Vec::as_slice);
            let for_port = || {
                let workload = wanted.workload.as_ref();
                let is_coming = |it| holders.supply(key, it) == Supply::Coming;
                wanted.is_held_up || workload.is_ok_and(|it| is_coming(it))
            };
            let standing = match plan::standing(wanted, runs) {
                Standing::Unknown if for_port() => "waiting for a port".to_owned(),
                Standing::Unknown if wanted.supply == Supply::Coming => "fetching".to_owned(),
                Standing::Unknown => "unknown".to_owned(),
                Standing::Up(_) => "up".to_owned(),
                Standing::Down => "down".to_owned(),
                Standing::CannotStart(why) => format!("cannot start: {why}"),
                Standing::Exited(code) => format!("exited: {code}"),
                Standing::Stopped => "stopped".to_owned(),
            };
            json!({
                "job": key.job.to_string(), "slot": key.slot, "version": wanted.version,
                "generation": wanted.generation, "on_trial": wanted.on_trial, "standing": standing,
            })
        });
        let runs = self.lives.values().map(|live| {
            let phase = match &live.phase {
                _ if live.left_alone.is_some() => "left alone",
                Phase::Planned => "planned",
                Phase::Running if live.asked.is_some() => "stopping",
                Phase::Running => "running",
                Phase::Ended { .. } => "ended",
            };
            let id = &live.run.id;
            json!({
                "job": id.key.job.to_string(), "slot": id.key.slot, "version": live.run.version,
                "generation": id.generation, "attempt": id.attempt, "taken": live.taken, "trial": live.trial, "phase": phase,
                "ready": live.phase == Phase::Running && live.seen(now).ready,
                "checks": live.tally.checks().collect::<Vec<_>>(),
                "ports": live.run.ports, "directory": live.run.dir, "remarks": live.run.remarks(),
                "left_alone": live.left_alone, "unseen": live.unseen,
            })
        });
        let received = self.accepted.received.as_ref();
        let reports = self.outbox.counts();
        let logs = self.logs.counts();
        let (artifacts, artifact_bytes) = self.supplies.cache.counts();
        json!({
            "node": *self.node, "version": env!("CARGO_PKG_VERSION"), "server": link,
            "revision": received.map(|received| received.desired.revision),
            "refused_revision": self.accepted.refused, "draining": self.accepted.draining,
            "has_left": self.accepted.has_left,
            "executions": executions.collect::<Vec<_>>(), "runs": runs.collect::<Vec<_>>(),
            "reports": {
                "waiting": reports.waiting, "waiting_max_of_each": PER_EXECUTION_MAX, "sent": reports.sent,
                "summed_up": reports.summed_up, "dropped": reports.dropped,
            },
            "artifacts": { "here": artifacts, "bytes": artifact_bytes },
            "logs": { "sent_bytes": logs.sent_bytes, "left_out_bytes": logs.left_out_bytes },
        })
    }
}

/// What is said again at each interval for as long as it is so.
fn lasting(standing: &Standing) -> Option<Observation> {
    match standing {
        Standing::Unknown | Standing::Up(_) | Standing::Down => None,
        Standing::CannotStart(why) => {
            let mut end = why.len().min(DETAIL_BYTES_MAX);
            while !why.is_char_boundary(end) {
                end -= 1;
            }
            Some(Observation::CannotStart {
                detail: why[..end].to_owned(),
            })
        }
        Standing::Exited(code) => Some(Observation::Exited { code: *code }),
        Standing::Stopped => Some(Observation::Stopped),
    }
}
