//! From the counts of an interval to a verdict.

use crate::event::Bad;
use crate::input::{Interval, Requests};
use crate::spec::HealthCheck;

/// What an interval says of a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    Good,
    Bad(Bad),
    /// It speaks neither for nor against.
    Nothing,
}

/// Judges one interval of a target whose last bad interval, if it has one that no good one
/// followed, was bad by its error rate.
pub(crate) fn judge(interval: Interval, rules: &HealthCheck, bad_by_rate: bool) -> Verdict {
    let good = match interval.checks {
        Some(false) => return Verdict::Bad(Bad::Check),
        Some(true) => Verdict::Good,
        // Requests alone show no more than that it is bad.
        None => Verdict::Nothing,
    };
    let Some(Requests { total, failed }) = interval.requests else {
        return good;
    };
    if total == 0 || total < rules.min_samples {
        // Too few requests cannot take back what enough of them said.
        return if bad_by_rate { Verdict::Nothing } else { good };
    }
    // A quotient is rounded as the limit was when it was read: 29 of 100 is not above 0.29.
    if f64::from(failed) / f64::from(total) > rules.max_error_rate {
        return Verdict::Bad(Bad::ErrorRate {
            requests: total,
            errors: failed,
        });
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Span;

    fn verdict(checks: Option<bool>, requests: Option<(u32, u32)>, bad_by_rate: bool) -> Verdict {
        let rules = HealthCheck {
            deadline: Span::from_secs(300),
            min_healthy_time: Span::from_secs(30),
            max_error_rate: 0.29,
            interval: Span::from_secs(10),
            failure_threshold: 3,
            min_samples: 10,
        };
        let requests = requests.map(|(total, failed)| Requests { total, failed });
        judge(Interval { checks, requests }, &rules, bad_by_rate)
    }

    #[test]
    fn table() {
        let bad = |requests, errors| Verdict::Bad(Bad::ErrorRate { requests, errors });
        assert_eq!(verdict(None, Some((100, 0)), false), Verdict::Nothing);
        assert_eq!(verdict(None, None, false), Verdict::Nothing);
        assert_eq!(verdict(None, Some((9, 9)), false), Verdict::Nothing);
        assert_eq!(verdict(None, Some((100, 30)), false), bad(100, 30));
        assert_eq!(
            verdict(Some(false), Some((100, 0)), false),
            Verdict::Bad(Bad::Check)
        );
        assert_eq!(verdict(Some(true), None, false), Verdict::Good);
        assert_eq!(verdict(Some(true), Some((100, 29)), false), Verdict::Good);
        assert_eq!(verdict(Some(true), Some((100, 30)), false), bad(100, 30));
        // One error in two requests is no 50 %.
        assert_eq!(verdict(Some(true), Some((2, 1)), false), Verdict::Good);
        assert_eq!(verdict(Some(true), Some((9, 9)), true), Verdict::Nothing);
        assert_eq!(verdict(Some(true), Some((10, 0)), true), Verdict::Good);
    }
}
