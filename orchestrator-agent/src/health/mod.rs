//! How well a run is: results of checks and counts of requests, added up to intervals. The adding up is pure; the looking is
//! in [`watch`].

pub mod lines;
pub mod prometheus;
pub mod watch;

use std::time::Duration;

use serde::Serialize;

use crate::wire::Interval;
use crate::workload::{Check, ErrorRate, Probe, Workload};

/// Without such a check as sees more, what has lived so long is healthy enough to take the place of another run.
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
    /// By so much the counters of requests and of failures have grown; else why that is not known.
    Counted(Result<(u64, u64), String>),
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
    /// As the job says, or `error_rate` of counters that are read.
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
        /// They were read well in this interval.
        read: bool,
        /// And so they were the last time that somebody looked in it.
        known: bool,
        /// How it went the last time.
        result: Option<Result<(), String>>,
    },
}

impl Tally {
    /// Of a run of which nothing was seen yet.
    pub fn new(workload: &Workload) -> Self {
        let counting = match &workload.error_rate {
            None => Counting::Nothing,
            Some(ErrorRate::Checks {}) => Counting::Checks,
            Some(ErrorRate::Logs { .. }) => Counting::Lines,
            Some(ErrorRate::Prometheus { .. }) => Counting::Counters {
                read: false,
                known: false,
                result: None,
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
            Sight::Counted(grown) => {
                let Counting::Counters {
                    read,
                    known,
                    result,
                } = &mut self.counting
                else {
                    return;
                };
                *known = grown.is_ok();
                *read |= *known;
                let (requests, failed) = *grown.as_ref().unwrap_or(&(0, 0));
                *result = Some(grown.map(drop));
                self.requests = self.requests.saturating_add(requests);
                self.failed = self.failed.saturating_add(failed);
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
            // What was counted before nothing more could be read has happened all the same.
            Counting::Counters { read, known, .. } => {
                *known = false;
                std::mem::take(read)
            }
        };
        Interval {
            checks,
            requests: counted.then_some(requests),
            failed: counted.then_some(failed.min(requests)),
        }
    }

    /// Whether it is healthy now, at this age.
    pub fn is_ready(&self, age: Duration) -> bool {
        let lives = self.ready_at().is_none_or(|at| age >= at);
        lives && self.checks.iter().all(|state| state.passing == Some(true))
    }

    /// Whether it is known not to be healthy now.
    pub fn is_ill(&self) -> bool {
        let mut checks = self.checks.iter();
        checks.any(|state| state.passing == Some(false))
    }

    /// How it is with each check, and with reading the counters.
    pub fn checks(&self) -> impl Iterator<Item = CheckHealth> {
        let checks = self.checks.iter().map(|state| CheckHealth {
            kind: state.check.probe.kind(),
            passing: state.passing,
            why: state.why.clone(),
        });
        let counters = match &self.counting {
            Counting::Counters { result, .. } => Some(CheckHealth {
                kind: "error_rate",
                // That it cannot be read says nothing of the workload.
                passing: matches!(result, Some(Ok(()))).then_some(true),
                why: result.as_ref().and_then(|read| read.clone().err()),
            }),
            Counting::Nothing | Counting::Checks | Counting::Lines => None,
        };
        checks.chain(counters)
    }

    /// When it may be without anything to be seen; only without a check that looks at more than that it lives.
    pub fn ready_at(&self) -> Option<Duration> {
        let mut probes = self.checks.iter().map(|state| &state.check.probe);
        let only_lives = probes.all(|probe| *probe == Probe::Process);
        only_lives.then_some(LIVES_AFTER)
    }
}

impl State {
    /// Whether the result counts: one of a workload that has not come up yet does not.
    fn take(&mut self, passed: bool, age: Duration) -> bool {
        if !passed && self.passing.is_none() && age < self.check.start_period {
            // But what passed before it is no row with what passes after it.
            self.row = (false, 0);
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
        Tally::new(&Workload::read(&document).unwrap())
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
    fn what_fails_in_between_is_no_row_also_while_it_comes_up() {
        let check = json!({ "type": "tcp", "passes": 3, "fails": 3, "start_period": "60s" });
        let mut tally = tally(json!({ "checks": [check] }));
        for _ in 0..9 {
            checked(&mut tally, 0, &[true, true, false], 1);
        }
        assert!(!tally.is_ready(Duration::from_secs(1)));
        checked(&mut tally, 0, &[true, true, true], 1);
        assert!(tally.is_ready(Duration::from_secs(1)));
    }

    #[test]
    fn that_it_lives_is_to_be_seen_for_a_while() {
        let process = json!({ "type": "process" });
        for checks in [json!([]), json!([process])] {
            let tally = tally(json!({ "checks": checks }));
            assert!(!tally.is_ready(Duration::ZERO));
            assert_eq!(tally.ready_at(), Some(LIVES_AFTER));
            assert!(tally.is_ready(LIVES_AFTER));
        }
        let mut tally = tally(json!({ "checks": [process, { "type": "tcp" }] }));
        assert!(tally.ready_at().is_none() && !tally.is_ready(LIVES_AFTER));
        checked(&mut tally, 1, &[true], 0);
        assert!(tally.is_ready(Duration::ZERO));
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
    fn counters_that_cannot_be_read_leave_no_result_and_say_why() {
        let counters = json!({ "from": "prometheus", "requests": "all", "failed": "bad" });
        let mut tally = tally(json!({ "error_rate": counters }));
        let mut counted = |grown| tally.take(Sight::Counted(grown), Duration::ZERO);
        counted(Err("away".to_owned()));
        counted(Ok((10, 1)));
        counted(Ok((5, 0)));
        assert_eq!(tally.roll(), said(Some(true), Some((15, 1))));
        assert_eq!(tally.roll(), said(None, None), "nothing was read");
        let health = |passing, why: Option<&str>| {
            let (kind, why) = ("error_rate", why.map(str::to_owned));
            vec![CheckHealth { kind, passing, why }]
        };
        assert_eq!(tally.checks().collect::<Vec<_>>(), health(Some(true), None));
        tally.take(Sight::Counted(Ok((5, 3))), Duration::ZERO);
        tally.take(Sight::Counted(Err("away".to_owned())), Duration::ZERO);
        assert_eq!(
            tally.roll(),
            said(None, Some((5, 3))),
            "nothing says that it is well, and three have failed"
        );
        tally.take(Sight::Counted(Err("away".to_owned())), Duration::ZERO);
        assert_eq!(tally.roll(), said(None, None));
        assert_eq!(
            tally.checks().collect::<Vec<_>>(),
            health(None, Some("away"))
        );
    }
}
