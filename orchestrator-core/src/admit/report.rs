//! What nodes say: of a target, or of work that is done.

use super::{Ignored, clip};
use crate::event::{Bad, DeploymentKind, Event, Reason};
use crate::health::{Verdict, judge};
use crate::input::{Done, Observation, Report, Requests};
use crate::rollout::{Rollout, STOPPED, TargetState};
use crate::spec::JobType;
use crate::state::{Moment, State};

fn counts_too_many(what: &Observation) -> bool {
    let Observation::Interval(interval) = what else {
        return false;
    };
    (interval.requests).is_some_and(|Requests { total, failed }| failed > total)
}

/// What a report amounts to, if anything.
pub(crate) fn report(state: &State, now: Moment, report: &Report) -> Result<Event, Ignored> {
    let rollout = state.active().ok_or(Ignored::Idle)?;
    let target = rollout
        .targets
        .get(report.target as usize)
        .ok_or(Ignored::UnknownTarget)?;
    let generation = rollout.generation(target);
    if report.generation > state.seq || counts_too_many(&report.what) {
        return Err(Ignored::Impossible);
    }
    if generation == 0 || report.generation != generation {
        return Err(Ignored::Stale);
    }
    if report.number <= target.reported {
        return Err(Ignored::Duplicate);
    }
    let updated = target.state() == TargetState::Updated;
    if !updated && !target.state().is_in_flight() {
        return Err(Ignored::Decided);
    }
    let heard = vec![(report.target, report.number)];
    let failed = |reason| {
        Ok(Event::Failed {
            targets: [report.target].into_iter().collect(),
            reason,
        })
    };
    let passed = |heard| {
        if target.is_lost() {
            Err(Ignored::Lost)
        } else {
            Ok(Event::Updated { heard })
        }
    };
    let gate = rollout.head.spec.gate();
    let batch = rollout.head.is_batch();

    if rollout.head.kind == DeploymentKind::Stop {
        return match &report.what {
            Observation::Stopped | Observation::Exited { .. } if !updated => passed(heard),
            Observation::CannotStart { detail } => failed(Reason::CannotStart {
                detail: clip(detail),
            }),
            _ => Err(Ignored::NothingNew),
        };
    }
    match (&report.what, gate) {
        // What has done its work is done.
        _ if batch && updated => Err(Ignored::Decided),
        (Observation::CannotStart { detail }, _) => failed(Reason::CannotStart {
            detail: clip(detail),
        }),
        (Observation::Exited { code: 0 }, _) if batch => passed(heard),
        (Observation::Exited { code }, _) => failed(Reason::Exited { code: *code }),
        (Observation::Restarted, Some(gate)) if updated => Ok(unhealthy(
            rollout,
            report,
            Bad::Restart,
            gate.failure_threshold,
        )),
        // Also where no clock runs: a good report that was written before and comes after it starts none.
        (Observation::Restarted, Some(_)) if !batch => Ok(Event::Restarted { heard }),
        (Observation::Started | Observation::Restarted | Observation::Interval(_), None)
            if !updated && !batch =>
        {
            passed(heard)
        }
        (Observation::Interval(interval), Some(gate)) => {
            let by_rate = target.streak > 0 && target.bad_by_rate();
            match judge(*interval, gate, by_rate) {
                Verdict::Nothing => Err(Ignored::NothingNew),
                Verdict::Bad(cause) => {
                    Ok(unhealthy(rollout, report, cause, gate.failure_threshold))
                }
                // Of work that ends, health ends a row of bad intervals, and proves nothing.
                Verdict::Good if batch && target.streak == 0 => Err(Ignored::NothingNew),
                Verdict::Good if batch && target.is_lost() => Err(Ignored::Lost),
                Verdict::Good if batch => Ok(Event::Healthy { heard }),
                Verdict::Good => good(target, heard, now, gate.min_healthy_time.as_millis()),
            }
        }
        _ => Err(Ignored::NothingNew),
    }
}

/// What the end of an execution amounts to that no deployment waits for.
pub(crate) fn done(state: &State, done: Done) -> Result<Event, Ignored> {
    let Done { slot, generation } = done;
    let known = state.slots.get(slot as usize).filter(|s| s.live);
    let known = known.ok_or(Ignored::UnknownTarget)?;
    if generation > state.seq {
        return Err(Ignored::Impossible);
    }
    if u64::from(known.generation) != generation {
        return Err(Ignored::Stale);
    }
    if known.is_done() {
        return Err(Ignored::Duplicate);
    }
    let version = state.versions.get(&known.told);
    let batch = version.is_some_and(|v| v.spec.job_type == JobType::Batch);
    if !batch || state.is_waited_for(slot) {
        return Err(Ignored::NothingNew);
    }
    Ok(Event::Done { slots: vec![slot] })
}

fn good(
    target: &crate::rollout::Target,
    heard: Vec<crate::event::Heard>,
    now: Moment,
    min_healthy: u64,
) -> Result<Event, Ignored> {
    if target.is_lost() {
        return Err(Ignored::Lost);
    }
    match target.state() {
        TargetState::Updating if min_healthy == 0 => Ok(Event::Updated { heard }),
        TargetState::Updating => Ok(Event::Healthy { heard }),
        // Health is continuous when it is seen again at the end: silence proves nothing. What comes
        // before is noted, or a copy of it that arrives later would pass for the end.
        TargetState::Observing
            if now.elapsed.saturating_sub(target.since.into()) >= min_healthy =>
        {
            Ok(Event::Updated { heard })
        }
        TargetState::Observing => Ok(Event::Healthy { heard }),
        TargetState::Updated if target.is_unproven() => {
            let since = u64::from(target.since);
            let shown = since != STOPPED && now.elapsed.saturating_sub(since) >= min_healthy;
            if shown || min_healthy == 0 {
                Ok(Event::Updated { heard })
            } else {
                Ok(Event::Healthy { heard })
            }
        }
        _ => Err(Ignored::NothingNew),
    }
}

fn unhealthy(rollout: &Rollout, report: &Report, cause: Bad, threshold: u8) -> Event {
    let count = rollout.targets[report.target as usize]
        .streak
        .saturating_add(1);
    if threshold > 0 && count >= threshold {
        let reason = Reason::BadIntervals { count, cause };
        return Event::Failed {
            targets: [report.target].into_iter().collect(),
            reason,
        };
    }
    Event::Unhealthy {
        heard: vec![(report.target, report.number)],
        cause,
    }
}
