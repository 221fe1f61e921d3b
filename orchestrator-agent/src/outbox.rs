//! Reports that wait to be sent.
//!
//! Of each execution only so many are kept. What goes beyond it is summed up: two neighbouring intervals with the same
//! result become one, with the counts of both, so that no request is forgotten; and where there are no such two, the
//! oldest is dropped. Both are counted, and shown by the status page. An assignment that is over takes its reports with
//! it: the server would leave them out.
//!
//! While the server is away they are kept on disk, too, within twice that bound. After a restart the state of each
//! execution is said anew in any case; what the disk adds is how it was meanwhile: its bad intervals, and its counts.

mod kept;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use self::kept::Kept;
pub(crate) use self::kept::keep;
use crate::runs::{Key, RunId};
use crate::wire::{Interval, Observation, Report};

/// So many reports of one execution wait at the most.
pub const PER_EXECUTION_MAX: usize = 64;

/// A report, and what it is a report of.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Letter {
    /// It.
    pub report: Report,
    /// The start that it tells of.
    pub start: Option<RunId>,
}

/// What has become of reports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// They wait.
    pub waiting: usize,
    /// The server has them, since this agent began.
    pub sent: u64,
    /// They were summed up with others.
    pub summed_up: u64,
    /// They were dropped, for want of room or because the server refused them.
    pub dropped: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// The server has it.
    Sent,
    /// Perhaps it has not.
    Unsure,
    /// It will never take it.
    Refused,
}

/// Reports that wait to be sent.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    lists: BTreeMap<Key, VecDeque<Letter>>,
    under_way: Vec<Letter>,
    counts: Counts,
    kept: Option<Kept>,
    /// Some waited when it was looked last, and none was sent since.
    waited: bool,
}

impl Outbox {
    /// With what waited for a former agent. Where that was kept it is kept again.
    pub fn open(dir: &Path) -> Self {
        let (kept, letters, counts) = Kept::open(dir.join("outbox"));
        let mut inner = Inner {
            counts,
            ..Inner::default()
        };
        for letter in letters {
            inner.put(letter);
        }
        inner.kept = Some(kept);
        Self {
            inner: Mutex::new(inner),
            filled: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a report in.
    pub fn push(&self, letter: Letter) {
        let mut inner = self.inner();
        if let Some(kept) = &mut inner.kept {
            kept.add(&letter);
        }
        inner.put(letter);
        drop(inner);
        self.filled.notify_one();
    }

    /// Keeps only what is of such an assignment.
    pub fn retain(&self, is_wanted: impl Fn(&Key, u64) -> bool) {
        let mut inner = self.inner();
        let before = inner.waiting();
        for (key, list) in &mut inner.lists {
            list.retain(|letter| is_wanted(key, letter.report.generation));
        }
        inner.lists.retain(|_, list| !list.is_empty());
        if inner.waiting() < before {
            inner.went();
        }
    }

    /// The starts that are told of as soon as there is a server.
    pub fn starts(&self) -> BTreeSet<RunId> {
        let inner = self.inner();
        inner
            .letters()
            .filter_map(|letter| letter.start.clone())
            .collect()
    }

    /// Writes what has waited since the last time; answers how many bytes. What gets through is never on disk.
    fn keep(&self) -> io::Result<usize> {
        let mut inner = self.inner();
        let waits = inner.waiting() > 0;
        let waited = std::mem::replace(&mut inner.waited, waits);
        match waits && !waited {
            true => Ok(0),
            false => inner.write(),
        }
    }

    /// Writes all that waits, for the next agent.
    pub fn leave(&self) -> io::Result<()> {
        self.inner().write().map(drop)
    }

    /// Ready when there is something to send.
    pub async fn filled(&self) {
        while self.inner().lists.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Takes the next ones out, until it is [known](Self::settle) what became of them.
    pub fn take(&self, most: usize) -> Vec<Report> {
        let mut inner = self.inner();
        let Inner {
            lists, under_way, ..
        } = &mut *inner;
        while under_way.len() < most
            && let Some(mut entry) = lists.first_entry()
        {
            let room = most - under_way.len();
            let list = entry.get_mut();
            under_way.extend(list.drain(..room.min(list.len())));
            if list.is_empty() {
                entry.remove();
            }
        }
        under_way
            .iter()
            .map(|letter| letter.report.clone())
            .collect()
    }

    /// Says what became of those that were taken; answers the starts that the server knows of now.
    pub fn settle(&self, fate: Fate) -> Vec<RunId> {
        let mut inner = self.inner();
        let Inner {
            lists,
            under_way,
            counts,
            ..
        } = &mut *inner;
        let letters = std::mem::take(under_way);
        let is_known = fate != Fate::Unsure && !letters.is_empty();
        let starts = match fate {
            Fate::Sent => {
                counts.sent += letters.len() as u64;
                letters
                    .into_iter()
                    .filter_map(|letter| letter.start)
                    .collect()
            }
            Fate::Refused => {
                counts.dropped += letters.len() as u64;
                Vec::new()
            }
            Fate::Unsure => {
                for letter in letters.into_iter().rev() {
                    let list = lists.entry(key(&letter)).or_default();
                    // What came meanwhile may be of a later assignment.
                    let later = list.back().map(|last| last.report.generation);
                    if later.is_none_or(|later| later == letter.report.generation) {
                        list.push_front(letter);
                    }
                }
                Vec::new()
            }
        };
        if is_known {
            inner.went();
        }
        starts
    }

    /// What has become of all of them.
    pub fn counts(&self) -> Counts {
        let inner = self.inner();
        Counts {
            waiting: inner.waiting(),
            ..inner.counts
        }
    }
}

impl Inner {
    fn put(&mut self, letter: Letter) {
        let generation = letter.report.generation;
        let list = self.lists.entry(key(&letter)).or_default();
        list.retain(|known| known.report.generation == generation);
        list.push_back(letter);
        if list.len() > PER_EXECUTION_MAX {
            match thin(list) {
                true => self.counts.summed_up += 1,
                false => self.counts.dropped += 1,
            }
        }
    }

    /// All that wait, those of each execution in the order in which they were made.
    fn letters(&self) -> impl Iterator<Item = &Letter> {
        self.under_way.iter().chain(self.lists.values().flatten())
    }

    fn waiting(&self) -> usize {
        self.under_way.len() + self.lists.values().map(VecDeque::len).sum::<usize>()
    }

    /// Some wait no more.
    fn went(&mut self) {
        self.waited = false;
        if let Some(kept) = &mut self.kept {
            kept.anew();
        }
    }

    fn write(&mut self) -> io::Result<usize> {
        let Some(mut kept) = self.kept.take() else {
            return Ok(0);
        };
        let written = kept.write(self.counts, self.letters());
        self.kept = Some(kept);
        written
    }
}

fn key(letter: &Letter) -> Key {
    Key {
        job: letter.report.job.clone(),
        slot: letter.report.slot,
    }
}

/// Makes one report less; `false` where nothing could be summed up.
fn thin(list: &mut VecDeque<Letter>) -> bool {
    for at in 1..list.len() {
        let (Some(one), Some(other)) = (interval(&list[at - 1]), interval(&list[at])) else {
            continue;
        };
        if one.checks == other.checks {
            // The later number: a report that was said before is left out by the server.
            list[at].report.observation = Observation::Interval(sum(one, other));
            list.remove(at - 1);
            return true;
        }
    }
    let oldest = list.iter().position(|letter| interval(letter).is_some());
    list.remove(oldest.unwrap_or(0));
    false
}

fn interval(letter: &Letter) -> Option<Interval> {
    match letter.report.observation {
        Observation::Interval(interval) => Some(interval),
        _ => None,
    }
}

fn sum(one: Interval, other: Interval) -> Interval {
    let add = |a: Option<u32>, b: Option<u32>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    };
    Interval {
        checks: other.checks,
        requests: add(one.requests, other.requests),
        failed: add(one.failed, other.failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn letter(number: u32, observation: Observation) -> Letter {
        let report = Report {
            job: "default/web".to_owned().try_into().unwrap(),
            slot: 0,
            generation: 1,
            target: Some(0),
            number,
            observation,
        };
        Letter {
            report,
            start: None,
        }
    }

    pub(super) fn counted(checks: bool, requests: u32) -> Observation {
        Observation::Interval(Interval {
            checks: Some(checks),
            requests: Some(requests),
            failed: Some(1),
        })
    }

    #[test]
    fn no_request_is_forgotten_and_numbers_grow() {
        let outbox = Outbox::default();
        outbox.push(letter(1, Observation::Started));
        for number in 2..1000 {
            outbox.push(letter(number, counted(number % 300 != 0, 10)));
        }
        let counts = outbox.counts();
        assert_eq!(counts.waiting, PER_EXECUTION_MAX);
        assert_eq!((counts.summed_up, counts.dropped), (999 - 64, 0));
        let taken = outbox.take(10_000);
        assert_eq!(taken[0].observation, Observation::Started);
        assert!(taken.is_sorted_by_key(|report| report.number));
        let all = taken.iter().filter_map(|report| match report.observation {
            Observation::Interval(interval) => Some(interval),
            _ => None,
        });
        let (requests, bad) = all.fold((0, 0), |(requests, bad), interval| {
            let is_bad = interval.checks == Some(false);
            (
                requests + interval.requests.unwrap(),
                bad + u32::from(is_bad),
            )
        });
        assert_eq!((requests, bad), (9980, 3));
    }

    #[test]
    fn what_was_not_sent_comes_first_again() {
        let outbox = Outbox::default();
        for number in 1..=5 {
            outbox.push(letter(number, counted(true, 1)));
        }
        assert_eq!(outbox.take(3).len(), 3);
        outbox.push(letter(6, counted(true, 1)));
        outbox.settle(Fate::Unsure);
        let numbers: Vec<u32> = outbox.take(10).iter().map(|report| report.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
        outbox.settle(Fate::Sent);
        assert_eq!(
            outbox.counts(),
            Counts {
                sent: 6,
                ..Counts::default()
            }
        );
    }

    #[test]
    fn a_later_assignment_takes_the_place_of_an_earlier() {
        let outbox = Outbox::default();
        outbox.push(letter(1, Observation::Started));
        outbox.take(1);
        let mut later = letter(2, Observation::Started);
        later.report.generation = 2;
        outbox.push(later);
        outbox.settle(Fate::Unsure);
        let generations: Vec<u64> = outbox
            .take(9)
            .iter()
            .map(|report| report.generation)
            .collect();
        assert_eq!(generations, [2]);
    }
}
