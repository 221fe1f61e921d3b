//! Every interleaving of a small fleet: reports, faults, commands and time, in every order, until no
//! new situation turns up. The laws are checked after every step, and that every situation can end.

mod situation;

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use self::situation::situation;

use crate::input::{Command, Input, Interval, NodeChange, Observation, Report};
use crate::laws::check_step;
use crate::spec::{
    Canaries, HealthCheck, JobSpec, JobType, OnFailure, Placement, RolloutSpec, Strategy,
};
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
    Says(u32, Word),
    Node(u32, Presence),
    Pass,
    /// Nobody listened for so long.
    Away,
    Promote,
    Pause,
    Resume,
    Cancel,
    Fail,
    RollBack(Option<u32>),
    Restart,
    Stop,
    Register(u32),
    Scale(u32),
}

/// What an agent says of a target.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Word {
    Good,
    Bad,
    /// Good, of what it was told before.
    Late,
    CannotStart,
    Started,
    Restarted,
    Exited,
    Stopped,
}

impl Word {
    const ALL: [Self; 8] = [
        Self::Good,
        Self::Bad,
        Self::Late,
        Self::CannotStart,
        Self::Started,
        Self::Restarted,
        Self::Exited,
        Self::Stopped,
    ];

    fn observation(self) -> Observation {
        match self {
            Self::Good | Self::Late => Observation::Interval(Interval::PASSING),
            Self::Bad => Observation::Interval(Interval::FAILING),
            Self::CannotStart => Observation::CannotStart {
                detail: String::new(),
            },
            Self::Started => Observation::Started,
            Self::Restarted => Observation::Restarted,
            Self::Exited => Observation::Exited { code: 1 },
            Self::Stopped => Observation::Stopped,
        }
    }
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
            world.says(target, Word::Started);
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

    fn says(&mut self, target: u32, word: Word) -> bool {
        self.report(target, word.observation(), u64::from(word == Word::Late))
    }

    /// A report about what a target was told last, or so many entries before that.
    fn report(&mut self, target: u32, what: Observation, before: u64) -> bool {
        let Some(rollout) = self.job.state.active() else {
            return false;
        };
        let Some(row) = rollout.targets.get(target as usize) else {
            return false;
        };
        let report = Report {
            target,
            generation: rollout.generation(row).saturating_sub(before),
            number: row.reported + 1,
            what,
        };
        self.step(Input::Reports(&[report]))
    }

    fn act(&mut self, action: Action, plan: &Plan) -> bool {
        self.path.push(action);
        let id = self.job.deployment().expect("there is always one").id;
        match action {
            Action::Says(target, word) => self.says(target, word),
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
            Action::Away => {
                self.now = self.now.after(TICK);
                let millis = TICK.as_millis();
                self.step(Input::Absent { millis });
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
            Action::RollBack(to) => self.step(Command::RollBack { to }.into()),
            Action::Scale(replicas) => self.step(Command::Scale { replicas }.into()),
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
                WaitingOn::Health { .. } | WaitingOn::Proof { .. } => {
                    let targets = world
                        .job
                        .state
                        .active()
                        .map_or(0, |r| r.targets.len() as u32);
                    let word = match record.kind {
                        crate::DeploymentKind::Stop => Word::Stopped,
                        _ => Word::Good,
                    };
                    for target in 0..targets {
                        world.says(target, word);
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
        Action::Away,
        Action::Promote,
        Action::Pause,
        Action::Resume,
        Action::Cancel,
        Action::Fail,
        Action::RollBack(None),
        Action::RollBack(Some(1)),
        Action::Restart,
        Action::Stop,
        Action::Register(2),
        Action::Register(3),
    ];
    if let Placement::Replicas { count, .. } = plan.placement {
        actions.extend([0, count].map(Action::Scale));
    }
    for n in 0..nodes {
        actions.extend(Word::ALL.map(|word| Action::Says(n, word)));
        actions.push(Action::Node(n, Presence::Ready));
        actions.extend(faults.iter().map(|&fault| Action::Node(n, fault)));
    }
    let first = World::new(nodes, plan);
    let mut seen = BTreeSet::from([situation(&first.job.state, first.now)]);
    let mut open = VecDeque::from([first]);
    while let Some(world) = open.pop_front() {
        world.ends(nodes);
        for &action in &actions {
            let mut next = world.clone();
            if next.act(action, plan)
                && next.job.state.deployments <= deployments_max
                && next.job.state.slots.len() <= nodes as usize + 1
                && seen.insert(situation(&next.job.state, next.now))
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

/// A small fleet, what is done with it, and what may happen to its nodes.
struct Small {
    nodes: u32,
    plan: Plan,
    faults: &'static [Presence],
}

impl Small {
    /// Explores, and demands that there was something to explore.
    fn explore(&self, deployments: u32, situations_min: usize) {
        let situations = explore(self.nodes, &self.plan, self.faults, deployments);
        println!("{situations} situations");
        assert!(
            situations >= situations_min,
            "only {situations} situations were found"
        );
    }
}

fn every(nodes: u32, rollout: RolloutSpec, faults: &'static [Presence]) -> Small {
    let plan = Plan {
        rollout,
        placement: Placement::Every,
    };
    Small {
        nodes,
        plan,
        faults,
    }
}

fn canary_with_silent_nodes() -> Small {
    let rollout = canary(OnFailure::Rollback, false);
    every(2, rollout, &[Presence::Disconnected])
}

fn canary_that_pauses_on_failure() -> Small {
    let rollout = canary(OnFailure::Pause, true);
    every(2, rollout, &[Presence::Draining])
}

fn rolling_with_nodes_that_leave() -> Small {
    every(2, rolling(0), &[Presence::Gone])
}

fn rolling_with_nodes_that_match_no_longer() -> Small {
    every(2, rolling(2), &[Presence::Unmatched])
}

fn at_once() -> Small {
    let rollout = RolloutSpec {
        max_failed_nodes: 0,
        ..RolloutSpec::default()
    };
    every(2, rollout, &[Presence::Disconnected, Presence::Draining])
}

fn three_nodes(faults: &'static [Presence]) -> Small {
    let rollout = RolloutSpec {
        max_parallel: 2,
        ..canary(OnFailure::Rollback, false)
    };
    every(3, rollout, faults)
}

/// An execution that goes from node to node takes its part in the deployment with it.
fn one_execution() -> Small {
    Small {
        nodes: 2,
        plan: Plan {
            rollout: canary(OnFailure::Rollback, false),
            placement: Placement::Replicas {
                count: 1,
                distinct: false,
            },
        },
        faults: &[Presence::Down, Presence::Gone, Presence::Draining],
    }
}

// The way to version 2, one deployment that follows from it or is ordered meanwhile, and where that is still to be borne
// another one.

#[test]
fn two_nodes_canary_with_silent_nodes() {
    canary_with_silent_nodes().explore(3, 50_000);
}

#[test]
fn two_nodes_canary_that_pauses_on_failure() {
    canary_that_pauses_on_failure().explore(2, 15_000);
}

#[test]
fn two_nodes_rolling_with_nodes_that_leave() {
    rolling_with_nodes_that_leave().explore(2, 4_000);
}

#[test]
fn two_nodes_rolling_with_nodes_that_match_no_longer() {
    rolling_with_nodes_that_match_no_longer().explore(2, 2_500);
}

#[test]
fn two_nodes_at_once() {
    at_once().explore(2, 3_000);
}

#[test]
fn three_nodes_two_waves() {
    three_nodes(&[]).explore(3, 50_000);
}

#[test]
fn one_execution_and_two_nodes_that_fall_silent_or_leave() {
    one_execution().explore(2, 10_000);
}

#[test]
#[ignore = "takes twenty minutes and 6 GB with --release"]
fn two_nodes_and_one_deployment_more() {
    for small in [
        at_once(),
        canary_that_pauses_on_failure(),
        rolling_with_nodes_that_match_no_longer(),
        rolling_with_nodes_that_leave(),
    ] {
        small.explore(3, 150_000);
    }
}

#[test]
#[ignore = "takes hours and much memory with --release"]
fn three_nodes_with_all_that_follows() {
    three_nodes(&[Presence::Disconnected]).explore(3, 100_000);
}
