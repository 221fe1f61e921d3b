//! How well a run is: results of checks and counts of requests, added up to intervals. The adding up is pure; the looking is
//! in [`watch`].

pub mod lines;
pub mod prometheus;
pub mod watch;

use std::time::Duration;

use serde::Serialize;

use crate::wire::Interval;
use crate::workload::{Check, ErrorRate, Probe, Workload};

/// Without a check, what has lived so long is healthy enough to take the place of another run.
const LIVES_AFTER: Duration = Duration::from_secs(1);

/// What was seen of a run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Sight {
    /// A check of this number had this result.
    Checked {
        /// Its place in the list.
        check: usize,
        /// Whether it passed; else why not.
        result: Result<(), String>,
    },
    /// The counters of requests and of failures, if they could be read.
    Counted(Option<(u64, u64)>),
    /// So many more lines are requests, and so many failures.
    Lines {
        /// Requests.
        requests: u64,
        /// Failures.
        failed: u64,
    },
}

/// The health of one run.
#[derive(Clone, Debug)]
pub struct Tally {
    checks: Vec<State>,
    counting: Counting,
    requests: u64,
    failed: u64,
}

#[derive(Clone, Debug)]
struct State {
    check: Check,
    /// Results in a row that say the same, and what they say.
    row: (bool, u32),
    passing: Option<bool>,
    /// It was failing at some time of the interval.
    failed: bool,
    /// Why it has not passed, if it has not the last time.
    why: Option<String>,
}

/// How it is with a check.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct CheckHealth {
    /// As the job says.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Absent where there is no result yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passing: Option<bool>,
    /// Why it has not passed the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

#[derive(Clone, Debug)]
enum Counting {
    Nothing,
    Checks,
    Lines,
    Counters {
        /// What was read last; `None` = nothing yet of a run that was found.
        last: Option<(u64, u64)>,
        /// What was read in this interval was read well.
        known: bool,
    },
}

impl Tally {
    /// Of a run that has just been started, or was found.
    pub fn new(workload: &Workload, is_fresh: bool) -> Self {
        let counting = match &workload.error_rate {
            None => Counting::Nothing,
            Some(ErrorRate::Checks {}) => Counting::Checks,
            Some(ErrorRate::Logs { .. }) => Counting::Lines,
            Some(ErrorRate::Prometheus { .. }) => Counting::Counters {
                last: is_fresh.then_some((0, 0)),
                known: false,
            },
        };
        let state = |check: &Check| State {
            passing: (check.probe == Probe::Process).then_some(true),
            check: check.clone(),
            row: (true, 0),
            failed: false,
            why: None,
        };
        Self {
            checks: workload.checks.iter().map(state).collect(),
            counting,
            requests: 0,
            failed: 0,
        }
    }

    /// Takes in what was seen when the run was of this age.
    pub fn take(&mut self, sight: Sight, age: Duration) {
        match sight {
            Sight::Checked { check, result } => {
                let Some(state) = self.checks.get_mut(check) else {
                    return;
                };
                let passed = result.is_ok();
                state.why = result.err();
                let counts = state.take(passed, age);
                if counts && matches!(self.counting, Counting::Checks) {
                    self.requests += 1;
                    self.failed += u64::from(!passed);
                }
            }
            Sight::Counted(now) => {
                let Counting::Counters { last, known } = &mut self.counting else {
                    return;
                };
                *known = now.is_some();
                let Some((requests, failed)) = now else {
                    return;
                };
                if let Some(last) = *last {
                    // A counter that is less than before began again.
                    let grown = |now: u64, last: u64| if now >= last { now - last } else { now };
                    self.requests = self.requests.saturating_add(grown(requests, last.0));
                    self.failed = self.failed.saturating_add(grown(failed, last.1));
                }
                *last = Some((requests, failed));
            }
            Sight::Lines { requests, failed } => {
                self.requests = self.requests.saturating_add(requests);
                self.failed = self.failed.saturating_add(failed);
            }
        }
    }

    /// What the interval that ends now says; the next one begins.
    pub fn roll(&mut self) -> Interval {
        let results = self.checks.iter().map(|state| match state.failed {
            true => Some(false),
            false => state.passing,
        });
        let unread = matches!(self.counting, Counting::Counters { known: false, .. });
        let checks = results
            .chain(unread.then_some(None))
            .fold(Some(true), worse);
        for state in &mut self.checks {
            state.failed = state.passing == Some(false);
        }
        let bounded = |count: &mut u64| u32::try_from(std::mem::take(count)).unwrap_or(u32::MAX);
        let (requests, failed) = (bounded(&mut self.requests), bounded(&mut self.failed));
        let counted = match &mut self.counting {
            Counting::Nothing => false,
            // What has written nothing had no request.
            Counting::Checks | Counting::Lines => true,
            Counting::Counters { known, .. } => std::mem::take(known),
        };
        Interval {
            checks,
            requests: counted.then_some(requests),
            failed: counted.then_some(failed.min(requests)),
        }
    }

    /// Whether it is healthy now, at this age.
    pub fn is_ready(&self, age: Duration) -> bool {
        let lives = !self.checks.is_empty() || age >= LIVES_AFTER;
        lives && self.checks.iter().all(|state| state.passing == Some(true))
    }

    /// How it is with each check.
    pub fn checks(&self) -> impl Iterator<Item = CheckHealth> {
        self.checks.iter().map(|state| CheckHealth {
            kind: state.check.probe.kind(),
            passing: state.passing,
            why: state.why.clone(),
        })
    }

    /// When it may be without anything to be seen; only without a check.
    pub fn ready_at(&self) -> Option<Duration> {
        self.checks.is_empty().then_some(LIVES_AFTER)
    }
}

impl State {
    /// Whether the result counts: one of a workload that has not come up yet does not.
    fn take(&mut self, passed: bool, age: Duration) -> bool {
        if !passed && self.passing.is_none() && age < self.check.start_period {
            return false;
        }
        let row = if self.row.0 == passed {
            self.row.1.saturating_add(1)
        } else {
            1
        };
        self.row = (passed, row);
        let needed = if passed {
            self.check.passes
        } else {
            self.check.fails
        };
        if row >= needed {
            self.passing = Some(passed);
            self.failed |= !passed;
        }
        true
    }
}

/// A failure is worse than no result.
fn worse(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (None, _) | (_, None) => None,
        (Some(true), Some(true)) => Some(true),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tally(more: Value) -> Tally {
        let mut document = json!({ "driver": "exec", "config": {}, "ports": [{ "name": "http" }] });
        let fields = document.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        Tally::new(&Workload::read(&document).unwrap(), true)
    }

    fn checked(tally: &mut Tally, check: usize, results: &[bool], secs: u64) {
        for passed in results.iter().copied() {
            let result = match passed {
                true => Ok(()),
                false => Err("status 500".to_owned()),
            };
            tally.take(Sight::Checked { check, result }, Duration::from_secs(secs));
        }
    }

    fn said(checks: Option<bool>, counts: Option<(u32, u32)>) -> Interval {
        Interval {
            checks,
            requests: counts.map(|(requests, _)| requests),
            failed: counts.map(|(_, failed)| failed),
        }
    }

    #[test]
    fn no_result_is_not_healthy_and_one_failure_spoils_an_interval() {
        let two = json!([{ "type": "tcp", "fails": 2 }, { "type": "http" }]);
        let mut tally = tally(json!({ "checks": two }));
        assert_eq!(tally.roll(), said(None, None));
        checked(&mut tally, 0, &[true], 0);
        assert_eq!(tally.roll(), said(None, None), "the other has no result");
        checked(&mut tally, 1, &[false, true], 1);
        assert!(tally.is_ready(Duration::ZERO));
        assert_eq!(
            tally.roll(),
            said(Some(true), None),
            "it was still starting"
        );
        checked(&mut tally, 1, &[false, true], 1);
        assert_eq!(tally.roll(), said(Some(false), None));
        assert_eq!(tally.roll(), said(Some(true), None));
        checked(&mut tally, 0, &[false], 60);
        assert_eq!(
            tally.roll(),
            said(Some(true), None),
            "one in a row is no failure"
        );
        checked(&mut tally, 0, &[false], 60);
        assert_eq!(tally.roll(), said(Some(false), None));
        assert_eq!(tally.roll(), said(Some(false), None), "it still fails");
        let health = |kind, passing, why: Option<&str>| CheckHealth {
            kind,
            passing: Some(passing),
            why: why.map(str::to_owned),
        };
        let both = [
            health("tcp", false, Some("status 500")),
            health("http", true, None),
        ];
        assert_eq!(tally.checks().collect::<Vec<_>>(), both);
        assert!(!tally.is_ready(Duration::ZERO));
    }

    #[test]
    fn what_never_comes_up_fails_after_its_start_period() {
        let mut tally = tally(json!({ "checks": [{ "type": "tcp", "start_period": "5s" }] }));
        checked(&mut tally, 0, &[false; 9], 4);
        assert_eq!(tally.roll(), said(None, None));
        checked(&mut tally, 0, &[false], 5);
        assert_eq!(tally.roll(), said(Some(false), None));
    }

    #[test]
    fn checks_are_counted() {
        let mut tally = tally(
            json!({ "checks": [{ "type": "tcp", "fails": 9 }], "error_rate": { "from": "checks" } }),
        );
        checked(&mut tally, 0, &[false, true, true, false, true], 0);
        assert_eq!(tally.roll(), said(Some(true), Some((4, 1))));
        assert_eq!(tally.roll(), said(Some(true), Some((0, 0))));
    }

    #[test]
    fn lines_are_counted_and_silence_is_no_request() {
        let lines = json!({ "from": "logs", "requests": "GET", "failed": "GET .* 5" });
        let mut tally = tally(json!({ "error_rate": lines }));
        for (requests, failed) in [(10, 1), (5, 1)] {
            tally.take(Sight::Lines { requests, failed }, Duration::ZERO);
        }
        assert_eq!(tally.roll(), said(Some(true), Some((15, 2))));
        assert_eq!(tally.roll(), said(Some(true), Some((0, 0))));
    }

    #[test]
    fn counters_are_read_as_differences() {
        let counters = json!({ "from": "prometheus", "requests": "all", "failed": "bad" });
        let mut tally = tally(json!({ "error_rate": counters }));
        let mut counted = |now| tally.take(Sight::Counted(now), Duration::ZERO);
        counted(Some((10, 1)));
        counted(Some((15, 1)));
        assert_eq!(tally.roll(), said(Some(true), Some((15, 1))));
        assert_eq!(tally.roll(), said(None, None), "nothing was read");
        tally.take(Sight::Counted(Some((20, 3))), Duration::ZERO);
        tally.take(Sight::Counted(Some((4, 0))), Duration::ZERO);
        assert_eq!(
            tally.roll(),
            said(Some(true), Some((9, 2))),
            "it began again"
        );
        tally.take(Sight::Counted(None), Duration::ZERO);
        assert_eq!(tally.roll(), said(None, None));
    }
}
