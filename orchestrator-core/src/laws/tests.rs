//! Each law is broken by hand, and has to be the one that says so: a law that sees nothing holds nothing.

use super::*;
use crate::event::{Cause, Of};
use crate::input::{Command, Input, Interval, NodeChange, Observation, Report};
use crate::runs::Runs;
use crate::spec::{Canaries, HealthCheck, JobSpec, JobType, Placement, RolloutSpec, Strategy};
use crate::{Member, Span, Time};

const NOW: Time = Time::from_millis(1_000_000);

fn spec(version: u32) -> Box<JobSpec> {
    let health_check = HealthCheck {
        deadline: Span::from_secs(60),
        min_healthy_time: Span::ZERO,
        max_error_rate: 0.1,
        interval: Span::from_secs(10),
        failure_threshold: 3,
        min_samples: 10,
    };
    let mut workload = serde_json::Map::new();
    workload.insert("version".to_owned(), version.into());
    Box::new(JobSpec {
        id: "w".parse().unwrap(),
        job_type: JobType::Service,
        selector: Default::default(),
        placement: Placement::Every,
        lost_after: Span::from_secs(300),
        rollout: RolloutSpec {
            strategy: Strategy::Canary {
                health_check,
                canaries: Canaries::Count(2),
                auto_promote: false,
            },
            max_parallel: 2,
            max_failed_nodes: 1,
            ..RolloutSpec::default()
        },
        workload,
    })
}

fn says(job: &mut Job, what: &Observation) {
    let reports: Vec<Report> = job
        .outstanding()
        .map(|assignment| Report {
            target: assignment.target.unwrap(),
            generation: assignment.generation,
            number: 1,
            what: what.clone(),
        })
        .collect();
    let _ = job.step(NOW, Input::Reports(&reports)).unwrap();
}

fn well(job: &mut Job) {
    says(job, &Observation::Interval(Interval::PASSING));
}

fn order(job: &mut Job, command: Command) {
    let _ = job.step(NOW, command.into()).unwrap();
}

fn register(job: &mut Job, version: u32) {
    let command = Command::Register {
        spec: spec(version),
        members: None,
        again: false,
    };
    order(job, command);
}

fn promote(job: &mut Job) {
    let id = job.deployment().unwrap().id;
    order(job, Command::Promote(id));
}

/// Version 1 is stable on eight nodes.
fn settled() -> Job {
    let mut job = Job::new("w".parse().unwrap(), 3);
    let nodes: Vec<_> = (0..8)
        .map(|n| NodeChange::Seen(Member::new(format!("n{n}"))))
        .collect();
    let _ = job.step(NOW, Input::Nodes(&nodes)).unwrap();
    register(&mut job, 1);
    well(&mut job);
    promote(&mut job);
    while job.outstanding().next().is_some() {
        well(&mut job);
    }
    assert!(job.deployment().unwrap().status.state.is_final());
    job
}

/// The canaries of version 2 are in flight.
fn canaries() -> Job {
    let mut job = settled();
    register(&mut job, 2);
    job
}

/// The canaries of version 2 are promoted, and the next two are in flight.
fn promoted() -> Job {
    let mut job = canaries();
    well(&mut job);
    promote(&mut job);
    job
}

fn rollout(job: &mut Job) -> &mut Rollout {
    job.state.rollout.as_mut().unwrap()
}

fn breaks(law: u8, job: &Job) {
    let broken = check(job).expect_err("the law sees nothing");
    assert_eq!(broken.law, law, "{broken}");
}

/// An entry that follows, with this in it.
fn next(job: &Job, event: Event) -> Entry {
    let head = job.state.active().map(|rollout| &rollout.head);
    Entry {
        seq: job.state.seq + 1,
        at: NOW,
        elapsed: job.state.moment.elapsed,
        of: head.map(|head| Of {
            deployment: head.number,
            revision: head.revision + 1,
        }),
        more: 0,
        event,
    }
}

fn breaks_by(law: u8, job: &Job, entry: &Entry) {
    let broken = check_entry(&job.state, entry).expect_err("the law sees nothing");
    assert_eq!(broken.law, law, "{broken}");
    let step = check_step(job, std::slice::from_ref(entry), job);
    assert_eq!(step, Err(broken));
}

fn wave(canary: bool, targets: impl IntoIterator<Item = u32>) -> Event {
    Event::Dispatched {
        wave: 9,
        canary,
        targets: targets.into_iter().collect(),
        skipped: Runs::default(),
    }
}

fn pending(job: &Job) -> u32 {
    let targets = &job.state.rollout.as_ref().unwrap().targets;
    let pending = targets
        .iter()
        .position(|t| t.state() == TargetState::Pending);
    pending.unwrap() as u32
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for job in [settled(), canaries(), promoted()] {
        assert_eq!(check(&job), Ok(()));
        assert_eq!(check_step(&job, &[], &job), Ok(()));
    }
}

#[test]
fn law_1_in_flight() {
    let mut job = promoted();
    let target = pending(&job);
    rollout(&mut job).dispatches[1].targets.push(target);
    rollout(&mut job).change(target, NOW, |t| {
        t.dispatch = 2;
        t.set_state(TargetState::Observing);
    });
    breaks(1, &job);
}

#[test]
fn law_2_canaries_first() {
    let mut job = canaries();
    well(&mut job);
    let target = pending(&job);
    let job_then = job.clone();
    rollout(&mut job).change(target, NOW, |t| t.set_state(TargetState::Updated));
    breaks(2, &job);
    breaks_by(2, &job_then, &next(&job_then, wave(false, [target])));
    let slot = job_then.state.active().unwrap().targets[target as usize].slot;
    let converged = Event::Converged {
        version: 2,
        slots: [slot].into_iter().collect(),
    };
    breaks_by(2, &job_then, &next(&job_then, converged));
    let moves = vec![(slot, 0, 2)];
    breaks_by(2, &job_then, &next(&job_then, Event::Placed { moves }));
}

#[test]
fn law_3_nothing_starts_where_nothing_may() {
    let mut job = promoted();
    let running = rollout(&mut job)
        .targets
        .iter()
        .position(|t| t.state() == TargetState::Updating)
        .unwrap() as u32;
    let again = next(&job, wave(false, [running]));
    breaks_by(3, &job, &again);
    let id = job.deployment().unwrap().id;
    order(&mut job, Command::Pause(id));
    let target = pending(&job);
    breaks_by(3, &job, &next(&job, wave(false, [target])));
    let moves = vec![(0, 0, 1)];
    breaks_by(3, &job, &next(&job, Event::Placed { moves }));
    let job = settled();
    let updated = Event::Updated { heard: Vec::new() };
    breaks_by(3, &job, &next(&job, updated));
    // Who is not there starts nothing.
    let mut job = promoted();
    let target = pending(&job);
    let slot = rollout(&mut job).targets[target as usize].slot;
    let name = job.state.node_of(slot).to_owned();
    let gone = NodeChange::Became {
        name,
        status: Presence::Disconnected,
    };
    let _ = job.step(NOW, Input::Nodes(&[gone])).unwrap();
    breaks_by(3, &job, &next(&job, wave(false, [target])));
}

#[test]
fn law_4_entries_and_revisions() {
    let job = promoted();
    let good = next(&job, Event::Resumed);
    let mut gap = good.clone();
    gap.seq += 1;
    breaks_by(4, &job, &gap);
    for revision in [0, 2] {
        let mut other = good.clone();
        let of = other.of.as_mut().unwrap();
        of.revision = of.revision - 1 + revision;
        breaks_by(4, &job, &other);
    }
    let nobodys = Entry { of: None, ..good };
    breaks_by(4, &job, &nobodys);
}

#[test]
fn law_5_counts() {
    let wrong: [fn(&mut Job); 6] = [
        |job| rollout(job).head.tally.updated += 1,
        |job| rollout(job).head.total += 1,
        |job| rollout(job).dispatches[0].open += 1,
        |job| {
            rollout(job).canaries.pop_first();
        },
        |job| rollout(job).suspects.insert(0, 9_000_000),
        |job| job.state.versions.get_mut(&1).unwrap().told += 1,
    ];
    for wrong in wrong {
        let mut job = promoted();
        wrong(&mut job);
        breaks(5, &job);
    }
    let mut job = settled();
    job.state.replicas = Some(7);
    breaks(5, &job);
}

#[test]
fn law_6_limits() {
    let mut job = promoted();
    let failed: Vec<u32> = (2..4).collect();
    for &target in &failed {
        rollout(&mut job).change(target, NOW, |t| t.set_state(TargetState::Failed));
    }
    breaks(6, &job);
    let mut job = canaries();
    let canary = *rollout(&mut job).canaries.first().unwrap();
    rollout(&mut job).change(canary, NOW, |t| t.set_state(TargetState::Failed));
    breaks(6, &job);
}

#[test]
fn law_7_the_log_is_the_state() {
    let before = promoted();
    let mut after = before.clone();
    after.state.want = Some(crate::event::Want {
        kind: DeploymentKind::Stop,
        to: 0,
        from: 0,
        rollback_of: None,
    });
    let broken = check_step(&before, &[], &after).unwrap_err();
    assert_eq!(broken.law, 7);
}

#[test]
fn law_10_nothing_bad_starts_again() {
    let mut job = canaries();
    says(
        &mut job,
        &Observation::CannotStart {
            detail: String::new(),
        },
    );
    // It is taken back.
    assert!(job.state.versions[&2].rejected);
    let moves = vec![(0, 0, 2)];
    breaks_by(10, &job, &next(&job, Event::Placed { moves }));
    // It has failed, and was not taken back.
    let mut job = settled();
    let mut failing = spec(2);
    failing.rollout.no_auto_rollback = true;
    let command = Command::Register {
        spec: failing,
        members: None,
        again: false,
    };
    order(&mut job, command);
    let detail = String::new();
    says(&mut job, &Observation::CannotStart { detail });
    assert!(job.state.versions[&2].failed && !job.state.versions[&2].rejected);
    register(&mut job, 3);
    let moves = vec![(0, 0, 2)];
    breaks_by(10, &job, &next(&job, Event::Placed { moves }));
    // It failed there, and a person called it off.
    let mut job = settled();
    let mut lenient = spec(2);
    lenient.rollout.max_failed_nodes_percent = 100.0;
    let command = Command::Register {
        spec: lenient,
        members: None,
        again: false,
    };
    order(&mut job, command);
    well(&mut job);
    promote(&mut job);
    let reports = job.outstanding().take(1).map(|assignment| Report {
        target: assignment.target.unwrap(),
        generation: assignment.generation,
        number: 1,
        what: Observation::Exited { code: 1 },
    });
    let reports: Vec<Report> = reports.collect();
    let slot = rollout(&mut job).targets[reports[0].target as usize].slot;
    let _ = job.step(NOW, Input::Reports(&reports)).unwrap();
    let id = job.deployment().unwrap().id;
    order(&mut job, Command::Cancel(id));
    assert!(!job.state.versions[&2].failed);
    let moves = vec![(slot, slot, 2)];
    breaks_by(10, &job, &next(&job, Event::Placed { moves }));
}

#[test]
fn law_12_time() {
    let mut job = promoted();
    let mut late = job.clone();
    job.state.moment.elapsed += 5;
    let mut entry = next(&job, Event::Resumed);
    entry.elapsed -= 1;
    breaks_by(12, &job, &entry);
    late.state.moment.elapsed += 3_600_000;
    breaks(12, &late);
}

#[test]
fn law_14_it_ends() {
    let mut job = promoted();
    rollout(&mut job).queue = crate::rollout::Queue::new(0);
    breaks(14, &job);
    let mut job = promoted();
    rollout(&mut job).dispatches[1].targets = Runs::default();
    breaks(14, &job);
    let mut job = settled();
    job.state.want = Some(crate::event::Want {
        kind: DeploymentKind::Restart,
        to: 1,
        from: 0,
        rollback_of: None,
    });
    breaks(14, &job);
}

#[test]
fn law_15_everybody_runs_what_is_current() {
    let mut job = promoted();
    while job.outstanding().next().is_some() {
        well(&mut job);
    }
    assert_eq!(
        job.state.rollout.as_ref().unwrap().head.cause,
        Some(Cause::Done)
    );
    job.state.slots[0].told = 1;
    job.state.versions.get_mut(&1).unwrap().told += 1;
    job.state.versions.get_mut(&2).unwrap().told -= 1;
    breaks(15, &job);
    let mut job = settled();
    job.state.restarts.insert(0);
    breaks(15, &job);
}

#[test]
fn law_16_once_in_a_wave() {
    let job = promoted();
    let target = pending(&job);
    breaks_by(16, &job, &next(&job, wave(false, [target, target])));
}
