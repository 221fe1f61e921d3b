//! Every interleaving of a small fleet: reports, faults, commands and time, in every order, until no
//! new situation turns up. The laws are checked after every step, and that every situation can end.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use crate::input::{Command, Input, Interval, NodeChange, Observation, Report};
use crate::laws::check_step;
use crate::rollout::TargetState;
use crate::spec::{
    Canaries, HealthCheck, JobSpec, JobType, OnFailure, Placement, RolloutSpec, Strategy,
};
use crate::state::Stage;
use crate::{Job, Member, Presence, Span, Time, WaitingOn};

/// The interval, the least healthy time, and a third of the deadline.
const TICK: Span = Span::from_secs(10);
const HALF_HOUR: Span = Span::from_secs(1800);

#[derive(Clone)]
struct World {
    job: Job,
    now: Time,
    path: Path,
    /// Whether the laws are checked after every step.
    checked: bool,
}

/// How a situation came about; what it shares with others is kept once.
#[derive(Clone, Default)]
struct Path(Option<Rc<(Action, Self)>>);

impl Path {
    fn push(&mut self, action: Action) {
        let before = std::mem::take(self);
        self.0 = Some(Rc::new((action, before)));
    }
}

impl std::fmt::Debug for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut actions = Vec::new();
        let mut rest = self;
        while let Some(step) = &rest.0 {
            actions.push(step.0);
            rest = &step.1;
        }
        actions.reverse();
        f.debug_list().entries(actions).finish()
    }
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Good(u32),
    Bad(u32),
    CannotStart(u32),
    Node(u32, Presence),
    Pass,
    Promote,
    Pause,
    Resume,
    Cancel,
    Fail,
    RollBack,
    Restart,
    Stop,
    Register(u32),
}

/// How a version is rolled out, and where to.
struct Plan {
    rollout: RolloutSpec,
    placement: Placement,
}

fn spec(version: u32, rollout: &RolloutSpec, placement: Placement) -> Box<JobSpec> {
    let mut workload = serde_json::Map::new();
    workload.insert("version".to_owned(), version.into());
    Box::new(JobSpec {
        id: "w".parse().expect("a name"),
        job_type: JobType::Service,
        selector: Default::default(),
        placement,
        lost_after: Span::from_secs(20),
        rollout: rollout.clone(),
        workload,
    })
}

fn health(failure_threshold: u8) -> HealthCheck {
    HealthCheck {
        deadline: Span::from_secs(30),
        min_healthy_time: TICK,
        max_error_rate: 0.1,
        interval: TICK,
        failure_threshold,
        min_samples: 1,
    }
}

impl World {
    fn new(nodes: u32, plan: &Plan) -> Self {
        let mut world = Self {
            job: Job::new("w".parse().expect("a name"), 5),
            now: Time::from_millis(1_000_000),
            path: Path::default(),
            checked: true,
        };
        let members: Vec<_> = (0..nodes)
            .map(|n| NodeChange::Seen(Member::new(format!("n{n}"))))
            .collect();
        world.step(Input::Nodes(&members));
        // Version 1 is there and stable: the exploration begins with the way to version 2.
        world.step(
            Command::Register {
                spec: spec(1, &RolloutSpec::default(), plan.placement),
                members: None,
                again: false,
            }
            .into(),
        );
        let targets = world.job.outstanding().count() as u32;
        for target in 0..targets {
            world.report(target, Observation::Started);
        }
        assert_eq!(world.job.current(), 1);
        world.step(
            Command::Register {
                spec: spec(2, &plan.rollout, plan.placement),
                members: None,
                again: false,
            }
            .into(),
        );
        world
    }

    fn step(&mut self, input: Input<'_>) -> bool {
        if !self.checked {
            return match self.job.step(self.now, input) {
                Ok(step) => !step.split().0.is_empty(),
                Err(_) => false,
            };
        }
        let before = self.job.clone();
        let Ok(step) = self.job.step(self.now, input) else {
            let same = before.state == self.job.state;
            assert!(same, "a rejection changes nothing: {:?}", self.path);
            return false;
        };
        let entries = step.split().0;
        if let Err(broken) = check_step(&before, &entries, &self.job) {
            panic!("{broken}\n{:?}", self.path);
        }
        !entries.is_empty()
    }

    fn report(&mut self, target: u32, what: Observation) -> bool {
        let Some(rollout) = self.job.state.active() else {
            return false;
        };
        let Some(row) = rollout.targets.get(target as usize) else {
            return false;
        };
        let report = Report {
            target,
            generation: rollout.generation(row),
            number: row.reported + 1,
            what,
        };
        self.step(Input::Reports(&[report]))
    }

    fn act(&mut self, action: Action, plan: &Plan) -> bool {
        self.path.push(action);
        let id = self.job.deployment().expect("there is always one").id;
        match action {
            Action::Good(target) => self.report(target, Observation::Interval(Interval::PASSING)),
            Action::Bad(target) => self.report(target, Observation::Interval(Interval::FAILING)),
            Action::CannotStart(target) => self.report(
                target,
                Observation::CannotStart {
                    detail: String::new(),
                },
            ),
            Action::Node(node, Presence::Ready) => self.step(Input::Nodes(&[NodeChange::Seen(
                Member::new(format!("n{node}")),
            )])),
            Action::Node(node, status) => self.step(Input::Nodes(&[NodeChange::Became {
                name: format!("n{node}"),
                status,
            }])),
            Action::Pass => {
                // Without a health check there is nothing but the hour that a start may take.
                let gated = self
                    .job
                    .state
                    .active()
                    .is_none_or(|r| r.head.spec.gate().is_some());
                self.now = self.now.after(if gated { TICK } else { HALF_HOUR });
                self.step(Input::Tick);
                true
            }
            Action::Promote => self.step(Command::Promote(id).into()),
            Action::Pause => self.step(Command::Pause(id).into()),
            Action::Resume => self.step(Command::Resume(id).into()),
            Action::Cancel => self.step(Command::Cancel(id).into()),
            Action::Fail => self.step(
                Command::Fail {
                    deployment: id,
                    reason: String::new(),
                }
                .into(),
            ),
            Action::RollBack => self.step(Command::RollBack { to: None }.into()),
            Action::Restart => self.step(Command::Restart.into()),
            Action::Stop => self.step(Command::Stop.into()),
            Action::Register(version) => self.step(
                Command::Register {
                    spec: spec(version, &plan.rollout, plan.placement),
                    members: None,
                    again: true,
                }
                .into(),
            ),
        }
    }

    /// All that decides what can happen from here on; times as what is left of them.
    fn situation(&self) -> Vec<u64> {
        let state = &self.job.state;
        let now = state.moment.elapsed + (self.now.as_millis() - state.moment.wall.as_millis());
        let mut key = vec![
            u64::from(state.current),
            u64::from(state.settled) + 2 * state.left_on.iter().map(|&v| 1 << v).sum::<u64>(),
            u64::from(state.version_max),
            state.strays.len() as u64,
        ];
        for (&number, version) in &state.versions {
            key.push(u64::from(version.stable) << 1 | u64::from(version.rejected));
            key.push(u64::from(state.leaving_version(Some(number))));
        }
        for node in 0..state.members.len() {
            key.push(state.members.presence(node) as u64);
        }
        for (number, slot) in (0..).zip(&state.slots) {
            let flags = [
                slot.live,
                slot.stage == Stage::Unproven,
                slot.is_done(),
                state.surplus.contains(&number),
                state.unplaced.contains(&number),
                state.retired.contains(&number),
            ];
            key.extend([
                u64::from(slot.told),
                u64::from(slot.node),
                flags.iter().fold(0, |bits, &on| bits << 1 | u64::from(on)),
            ]);
        }
        for node in 0..state.members.len() {
            let wait = state.leaving.of(node);
            key.push(wait.map_or(u64::MAX, |due| due.saturating_sub(now)));
        }
        let Some(rollout) = &state.rollout else {
            return key;
        };
        let head = &rollout.head;
        let clock = rollout.deadline_clock(now);
        key.extend([
            head.state as u64,
            head.kind as u64,
            u64::from(head.from) << 32 | u64::from(head.to),
            u64::from(head.promoted),
            u64::from(head.cause.is_some()),
            u64::from(rollout.forgiven),
            u64::from(head.canaries_wanted),
            u64::from(head.rolled_back_by.is_some()),
            u64::from(head.wave > 0),
        ]);
        let threshold = head.spec.gate().map_or(0, |gate| gate.failure_threshold);
        for (number, target) in (0..).zip(&rollout.targets) {
            let since = u64::from(target.since);
            let left = match target.state() {
                _ if head.state.is_final() => 0,
                TargetState::Observing => now.saturating_sub(since).min(TICK.as_millis()),
                TargetState::Updated if target.is_unproven() => {
                    now.saturating_sub(since).min(TICK.as_millis())
                        + u64::from(since == crate::rollout::STOPPED) * HALF_HOUR.as_millis()
                }
                _ => 0,
            };
            let due = rollout.due_of(number).filter(|_| !head.state.is_final());
            let due = due.map_or(0, |due| due.saturating_sub(clock));
            key.extend([
                u64::from(target.slot),
                target.state() as u64,
                u64::from(target.is_unproven()) << 3
                    | u64::from(target.is_canary()) << 2
                    | u64::from(target.is_lost()) << 1
                    | u64::from(target.failed_before()),
                u64::from(target.streak.min(threshold.max(1))),
                left,
                due,
            ]);
        }
        let pending = rollout
            .queue
            .iter()
            .filter(|&t| rollout.targets[t as usize].state() == TargetState::Pending);
        key.extend(pending.map(u64::from));
        key
    }

    /// From here on nothing goes wrong any more and a person does what is asked for: it has to end.
    fn ends(&self, nodes: u32) {
        let mut world = self.clone();
        // These steps are explored, and so checked, for themselves.
        world.checked = false;
        for node in 0..nodes {
            world.step(Input::Nodes(&[NodeChange::Seen(Member::new(format!(
                "n{node}"
            )))]));
        }
        for _ in 0..100 {
            let Some(record) = world
                .job
                .deployment()
                .filter(|r| !r.status.state.is_final())
            else {
                return;
            };
            match world.job.waiting_on().expect("it is not final") {
                WaitingOn::Resume => world.step(Command::Resume(record.id).into()),
                WaitingOn::Promotion => world.step(Command::Promote(record.id).into()),
                WaitingOn::Executions => world.step(Command::Scale { replicas: 1 }.into()),
                WaitingOn::Members => panic!("no selector has changed: {:?}", self.path),
                WaitingOn::ReadyNode => panic!("every node is ready: {:?}", self.path),
                WaitingOn::Health { .. } => {
                    let targets = world
                        .job
                        .state
                        .active()
                        .map_or(0, |r| r.targets.len() as u32);
                    let what = if record.kind == crate::DeploymentKind::Stop {
                        Observation::Stopped
                    } else {
                        Observation::Interval(Interval::PASSING)
                    };
                    for target in 0..targets {
                        world.report(target, what.clone());
                    }
                    world.now = world.now.after(TICK);
                    world.step(Input::Tick)
                }
            };
        }
        panic!(
            "it never ends: {:?}\n{:?}",
            world.job.deployment(),
            self.path
        );
    }
}

fn explore(nodes: u32, plan: &Plan, faults: &[Presence], deployments_max: u32) -> usize {
    let mut actions = vec![
        Action::Pass,
        Action::Promote,
        Action::Pause,
        Action::Resume,
        Action::Cancel,
        Action::Fail,
        Action::RollBack,
        Action::Restart,
        Action::Stop,
        Action::Register(2),
        Action::Register(3),
    ];
    for n in 0..nodes {
        actions.extend([
            Action::Good(n),
            Action::Bad(n),
            Action::CannotStart(n),
            Action::Node(n, Presence::Ready),
        ]);
        actions.extend(faults.iter().map(|&fault| Action::Node(n, fault)));
    }
    let first = World::new(nodes, plan);
    let mut seen = BTreeSet::from([first.situation()]);
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        world.ends(nodes);
        for &action in &actions {
            let mut next = world.clone();
            if next.act(action, plan)
                && next.job.state.deployments <= deployments_max
                && next.job.state.slots.len() <= nodes as usize + 1
                && seen.insert(next.situation())
            {
                open.push_back(next);
            }
        }
    }
    seen.len()
}

fn canary(on_failure: OnFailure, auto_promote: bool) -> RolloutSpec {
    RolloutSpec {
        strategy: Strategy::Canary {
            health_check: health(2),
            canaries: Canaries::Count(1),
            auto_promote,
        },
        max_parallel: 1,
        on_failure,
        ..RolloutSpec::default()
    }
}

fn rolling(threshold: u8) -> RolloutSpec {
    RolloutSpec {
        strategy: Strategy::Rolling {
            health_check: health(threshold),
        },
        max_parallel: 1,
        max_failed_nodes: 1,
        max_failed_nodes_percent: 100.0,
        ..RolloutSpec::default()
    }
}

/// Explores, and demands that there was something to explore.
fn covers(nodes: u32, plan: &Plan, faults: &[Presence], deployments: u32, situations_min: usize) {
    let situations = explore(nodes, plan, faults, deployments);
    println!("{situations} situations");
    assert!(
        situations >= situations_min,
        "only {situations} situations were found"
    );
}

fn every(rollout: RolloutSpec) -> Plan {
    Plan {
        rollout,
        placement: Placement::Every,
    }
}

#[test]
fn two_nodes_canary_with_silent_nodes() {
    let rollout = canary(OnFailure::Rollback, false);
    covers(2, &every(rollout), &[Presence::Disconnected], 3, 10_000);
}

#[test]
fn two_nodes_canary_that_pauses_on_failure() {
    let rollout = canary(OnFailure::Pause, true);
    covers(2, &every(rollout), &[Presence::Draining], 3, 10_000);
}

#[test]
fn two_nodes_rolling_with_nodes_that_leave() {
    covers(2, &every(rolling(0)), &[Presence::Gone], 3, 10_000);
}

#[test]
fn two_nodes_at_once() {
    let rollout = RolloutSpec {
        max_failed_nodes: 0,
        ..RolloutSpec::default()
    };
    let faults = [Presence::Disconnected, Presence::Draining];
    covers(2, &every(rollout), &faults, 3, 10_000);
}

#[test]
fn three_nodes_two_waves() {
    let rollout = RolloutSpec {
        max_parallel: 2,
        ..canary(OnFailure::Rollback, false)
    };
    covers(3, &every(rollout), &[], 3, 10_000);
}

#[test]
#[ignore = "takes an hour; run with --release"]
fn three_nodes_two_waves_with_all_that_follows() {
    let rollout = RolloutSpec {
        max_parallel: 2,
        ..canary(OnFailure::Rollback, false)
    };
    covers(3, &every(rollout), &[Presence::Disconnected], 3, 100_000);
}

#[test]
fn two_nodes_that_match_no_longer() {
    covers(2, &every(rolling(2)), &[Presence::Unmatched], 3, 10_000);
}

/// An execution that goes from node to node takes its part in the deployment with it.
#[test]
fn one_execution_and_two_nodes_that_fall_silent_or_leave() {
    let plan = Plan {
        rollout: canary(OnFailure::Rollback, false),
        placement: Placement::Replicas {
            count: 1,
            distinct: false,
        },
    };
    let faults = [Presence::Down, Presence::Gone, Presence::Draining];
    covers(2, &plan, &faults, 3, 10_000);
}
