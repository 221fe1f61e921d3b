//! The driver: what a real one does around a job, what may befall it, and the laws after each step, or every so many.

use std::collections::BTreeMap;

use super::report::Flaw;
use super::settings::Settings;
use super::streams::Stream;
use crate::admit::Rejection;
use crate::draw::draw;
use crate::event::Entry;
use crate::input::{Input, Observation, Report, Request};
use crate::job::{Answer, Committed, Job};
use crate::laws;
use crate::time::Time;

/// When the simulation begins, on every clock: the first day of 2026.
const EPOCH_MILLIS: u64 = 1_767_225_600_000;
/// How many entries may come after a snapshot before the next one is made.
const SNAPSHOT_EVERY: usize = 100;

/// A job, its log, and the clock that it is stepped by.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) job: Job,
    pub(super) log: Vec<Entry>,
    snapshot: Option<(Vec<u8>, usize)>,
    /// By how much its clock is ahead of the true one.
    pub(super) offset: i64,
    chance: Stream,
    pub(super) torn: f64,
    pub(super) deaf: f64,
    recheck_every: u32,
    pub(super) steps: u64,
    /// Of the steps, those that were looked at.
    pub(super) checked: u64,
    pub(super) reports: u64,
    pub(super) recoveries: u64,
    /// The latest command that was answered, and how.
    answered: Option<(Request, Answer)>,
    /// Up to which entry somebody was told that it has happened.
    acknowledged: usize,
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Done {
    /// Its entries are safe; what follows from them is to be done.
    Taken(Committed),
    /// It was refused.
    Refused(Rejection),
    /// The driver died over it and was started again; nobody has an answer.
    Died,
}

impl Driver {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            job: Job::new(super::people::job_id(), settings.seed),
            log: Vec::new(),
            snapshot: None,
            offset: 0,
            chance: Stream::new(settings.seed, "driver"),
            torn: 0.0,
            deaf: 0.0,
            recheck_every: settings.recheck_every,
            steps: 0,
            checked: 0,
            reports: 0,
            recoveries: 0,
            answered: None,
            acknowledged: 0,
        }
    }

    /// What its clock shows.
    pub(super) fn clock(&self, now: u64) -> Time {
        Time::from_millis((EPOCH_MILLIS + now).saturating_add_signed(self.offset))
    }

    /// When it has to step the job though nothing happens, in true time.
    pub(super) fn wake(&self, now: u64) -> Option<u64> {
        let wake = self.job.wake()?.as_millis();
        let wake = wake.saturating_add_signed(-self.offset);
        Some(wake.saturating_sub(EPOCH_MILLIS).max(now))
    }

    /// Steps the job, makes the entries safe, and checks what must hold.
    pub(super) fn step(&mut self, now: u64, input: Input<'_>) -> Result<Done, Flaw> {
        self.steps += 1;
        if let Input::Reports(reports) = &input {
            self.reports += reports.len() as u64;
        }
        let every = u64::from(self.recheck_every);
        let before = (every > 0 && self.steps.is_multiple_of(every)).then(|| self.job.clone());
        self.checked += u64::from(before.is_some());
        let clock = self.clock(now);
        let request = match &input {
            Input::Command(request) => Some(request.clone()),
            _ => None,
        };
        let again = before.as_ref().map(|_| input.clone());
        let step = match self.job.step(clock, input) {
            Ok(step) => step,
            Err(why) => {
                if before.is_some_and(|b| b.snapshot() != self.job.snapshot()) {
                    return Err(Flaw::new(
                        0,
                        format!("refused, and changed all the same: {why}"),
                    ));
                }
                return Ok(Done::Refused(why));
            }
        };
        if let (Some(before), Some(input)) = (&before, again) {
            let found = self.recheck(clock, before, step.entries(), input);
            if found.is_err() {
                // For the story that is told of it.
                self.log.extend_from_slice(step.entries());
                return found.map(|()| Done::Died);
            }
        }
        let changed = !step.entries().is_empty();
        if changed && self.torn > 0.0 && self.chance.chance(self.torn) {
            // The step has not happened, whatever was written of it; what comes back is the state before it.
            let (entries, _) = step.split();
            self.log.extend_from_slice(&entries[..entries.len() / 2]);
            self.recover(before.as_ref())?;
            return Ok(Done::Died);
        }
        let log = &mut self.log;
        let committed = step.persist(|entries| {
            log.extend(entries);
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(committed) = committed;
        if self.log.len() as u64 != self.job.seq() {
            let (log, seq) = (self.log.len(), self.job.seq());
            return Err(Flaw::new(
                4,
                format!("the log has {log} entries, the job is at {seq}"),
            ));
        }
        if changed && self.deaf > 0.0 && self.chance.chance(self.deaf) {
            let after = before.map(|_| self.job.clone());
            self.recover(after.as_ref())?;
            // It was away for no time at all, and all that followed has followed.
            let back = self.job.step(clock, Input::Absent { millis: 0 });
            if !back.is_ok_and(|step| step.entries().is_empty()) {
                let what = "that the driver is back leads to something".to_owned();
                return Err(Flaw::new(12, what));
            }
            return Ok(Done::Died);
        }
        self.acknowledged = self.log.len();
        if let (Some(request), Some(answer)) =
            (request.filter(|r| r.key.is_some()), committed.answer)
        {
            self.answered = Some((request, answer));
        }
        Ok(Done::Taken(committed))
    }

    fn recheck(
        &self,
        clock: Time,
        before: &Job,
        entries: &[Entry],
        input: Input<'_>,
    ) -> Result<(), Flaw> {
        if entries.is_empty() {
            // There are many of them. It is where it was, and so are the laws.
            return match before.state == self.job.state {
                true => Ok(()),
                false => Err(Flaw::new(
                    7,
                    "a step without an entry has changed the state".to_owned(),
                )),
            };
        }
        laws::check_step(before, entries, &self.job)?;
        let mut twin = before.clone();
        let same = twin.step(clock, input.clone());
        if !same.is_ok_and(|step| step.entries() == entries) {
            return Err(Flaw::new(
                8,
                "the same input led to other entries".to_owned(),
            ));
        }
        if let Input::Reports(reports) = input {
            self.hear_again(clock, reports)?;
        }
        Ok(())
    }

    /// Reports that come twice, and reports about assignments that are over, change nothing.
    fn hear_again(&self, clock: Time, reports: &[Report]) -> Result<(), Flaw> {
        let mut twin = self.job.clone();
        let step = twin.step(clock, Input::Reports(reports));
        if let Some(entry) = step.ok().and_then(|s| s.entries().first().cloned()) {
            let what = format!("reports heard twice led to {}", entry.encode());
            return Err(Flaw::new(11, what));
        }
        let outstanding = twin.outstanding();
        let generations: BTreeMap<u32, u64> = outstanding
            .filter_map(|a| Some((a.target?, a.generation)))
            .collect();
        let stale: Vec<Report> = reports
            .iter()
            .filter_map(|report| {
                Some(Report {
                    generation: generations.get(&report.target)? - 1,
                    number: u32::MAX,
                    what: Observation::CannotStart {
                        detail: String::new(),
                    },
                    ..report.clone()
                })
            })
            .collect();
        let step = twin.step(clock, Input::Reports(&stale));
        if let Some(entry) = step.ok().and_then(|s| s.entries().first().cloned()) {
            let what = format!("a stale report led to {}", entry.encode());
            return Err(Flaw::new(11, what));
        }
        Ok(())
    }

    /// Starts again from what is on disk: the log, or a snapshot and what came after it.
    pub(super) fn recover(&mut self, expected: Option<&Job>) -> Result<(), Flaw> {
        self.recoveries += 1;
        // What was written of a step that was cut has not happened.
        while self.log.last().is_some_and(|entry| entry.more > 0) {
            self.log.pop();
        }
        if self.log.len() < self.acknowledged {
            return Err(Flaw::new(
                16,
                "an acknowledged entry is not in the log".to_owned(),
            ));
        }
        let flaw = |what: &dyn std::fmt::Display| Flaw::new(7, what.to_string());
        let kept = self.snapshot.take();
        let (mut job, from) = match &kept {
            Some((bytes, from)) if *from <= self.log.len() && self.chance.chance(0.9) => {
                (Job::from_snapshot(bytes).map_err(|e| flaw(&e))?, *from)
            }
            _ => (Job::new(self.job.id().clone(), self.job.state.seed), 0),
        };
        // As it is written and read again.
        for entry in &self.log[from..] {
            let entry = Entry::decode(&entry.encode()).map_err(|e| flaw(&e))?;
            job.catch_up([entry]).map_err(|e| flaw(&e))?;
        }
        if expected.is_some_and(|expected| expected.snapshot() != job.snapshot()) {
            return Err(Flaw::new(
                7,
                "what was recovered is not what was there".to_owned(),
            ));
        }
        self.job = job;
        self.snapshot = match kept {
            Some((bytes, from)) if self.log.len() - from < SNAPSHOT_EVERY => Some((bytes, from)),
            _ => Some((self.job.snapshot(), self.log.len())),
        };
        self.ask_again()
    }

    /// What was answered before is answered the same.
    fn ask_again(&self) -> Result<(), Flaw> {
        let Some((request, answer)) = &self.answered else {
            return Ok(());
        };
        let now = self.job.state.moment.wall;
        let step = self.job.clone().step(now, request.clone().into());
        let found = step.map(|step| {
            let (entries, sealed) = step.split();
            (entries.len(), sealed.committed().answer)
        });
        if found.as_ref().ok() == Some(&(0, Some(*answer))) {
            return Ok(());
        }
        let what = format!("{request:?} was answered with {answer:?}, and now with {found:?}");
        Err(Flaw::new(16, what))
    }

    /// A number that differs where any entry does.
    pub(super) fn digest(&self) -> u64 {
        self.log.iter().fold(0, |digest, entry| {
            draw(digest, "entry", entry.encode().as_bytes())
        })
    }

    /// The last entries, for a person.
    pub(super) fn tail(&self) -> Vec<String> {
        let tail = self.log.iter().rev().take(30).rev();
        let words = tail.map(|entry| {
            let line = serde_json::to_string(&entry.event).unwrap_or_default();
            let of = entry
                .of
                .map(|of| format!(" d{} r{}", of.deployment, of.revision));
            let text = format!(
                "{} {}{} {line}",
                entry.seq,
                entry.at,
                of.unwrap_or_default()
            );
            text.chars().take(400).collect()
        });
        words.collect()
    }
}
