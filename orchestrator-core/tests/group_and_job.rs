//! A group and its jobs side by side, as a driver keeps them: orders become commands, and ends become reports.

use std::collections::BTreeMap;

use orchestrator_core::group::{
    Duty, Entry, Group, GroupSpec, GroupState, Input as Say, Member, MemberState,
};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Command, Input, Interval, Job, JobId, NodeChange, Observation, Report, Request, Time,
};

const NOW: Time = Time::from_millis(1_767_225_600_000);

struct Driver {
    group: Group,
    log: Vec<Entry>,
    jobs: BTreeMap<JobId, Job>,
    /// What each job is to run.
    wanted: BTreeMap<JobId, JobSpec>,
    /// In the order in which the jobs took them.
    orders: Vec<String>,
}

fn id(name: &str) -> JobId {
    name.parse().expect("a name")
}

fn spec(name: &str, version: u32) -> JobSpec {
    let document =
        format!(r#"{{"job_id": "{name}", "driver": "exec", "config": {{"version": {version}}}}}"#);
    JobSpec::parse(&document).expect("it is a spec")
}

fn register(spec: JobSpec) -> Command {
    Command::Register {
        spec: Box::new(spec),
        members: None,
        again: false,
    }
}

impl Driver {
    /// Jobs that run version 1, and a group that wants these versions of them, each after the one before it.
    fn new(wanted: &[(&str, u32)]) -> Self {
        let mut jobs = BTreeMap::new();
        for (name, _) in wanted {
            let mut job = Job::new(id(name), 7);
            let nodes = [NodeChange::Seen(orchestrator_core::Member::new("n1"))];
            step(&mut job, Input::Nodes(&nodes));
            step(&mut job, register(spec(name, 1)).into());
            report(&mut job, &Observation::Started);
            jobs.insert(id(name), job);
        }
        let members = wanted.iter().enumerate().map(|(at, (name, _))| Member {
            job: id(name),
            after: at
                .checked_sub(1)
                .map(|at| id(wanted[at].0))
                .into_iter()
                .collect(),
        });
        let spec_of_group = GroupSpec {
            name: "release".to_owned(),
            on_failure: Default::default(),
            members: members.collect(),
        };
        let (group, first) = Group::new(NOW, spec_of_group).expect("it is sound");
        let wanted = wanted.iter().map(|(name, v)| (id(name), spec(name, *v)));
        Self {
            group,
            log: vec![first],
            jobs,
            wanted: wanted.collect(),
            orders: Vec::new(),
        }
    }

    fn say(&mut self, say: Say) {
        let entries = self.group.step(NOW, say).expect("it fits");
        self.log.extend(entries);
        self.serve();
    }

    /// Does for every member what is to be done, and dies after each time: only the logs are left.
    fn serve(&mut self) {
        loop {
            self.group = Group::recover(self.log.clone()).expect("it is whole");
            let entries = self.group.step(NOW, Say::Tick).expect("it fits");
            assert!(entries.is_empty(), "no step was cut in half");
            let mut jobs = self.jobs.values();
            let Some((id, duty)) = jobs.find_map(|job| Some((job.id(), self.group.duty(job)?)))
            else {
                return;
            };
            let id = id.clone();
            self.do_one(&id, duty);
        }
    }

    fn do_one(&mut self, id: &JobId, duty: Duty) {
        let (what, request) = match duty {
            Duty::Tell(say) => {
                let entries = self.group.step(NOW, say).expect("it fits");
                return self.log.extend(entries);
            }
            Duty::Start { key } => {
                let request = Request {
                    command: register(self.wanted[id].clone()),
                    key: Some(key),
                    expected: None,
                };
                ("start", request)
            }
            Duty::Command(request) => match request.command {
                Command::Cancel(_) => ("cancel", request),
                _ => ("roll back", request),
            },
        };
        let job = self.jobs.get_mut(id).expect("it is a member");
        match job.step(NOW, request.into()) {
            Ok(step) => {
                assert!(!step.entries().is_empty(), "it was told twice");
                let _ = step.split();
                self.orders.push(format!("{what} {}", id.name()));
            }
            Err(why) => {
                self.orders.push(format!("{what} {} refused", id.name()));
                let say = self.group.refused(job, &why);
                let entries = self.group.step(NOW, say).expect("it fits");
                self.log.extend(entries);
            }
        }
    }

    fn job(&mut self, name: &str) -> &mut Job {
        self.jobs.get_mut(&id(name)).expect("it is a member")
    }

    /// The job's nodes say this of what is under way there.
    fn nodes_say(&mut self, name: &str, what: &Observation) {
        report(self.job(name), what);
        self.serve();
    }

    fn member(&self, name: &str) -> &MemberState {
        let member = self.group.state().member(&id(name));
        &member.expect("it is a member").state
    }

    fn runs(&self, name: &str) -> u32 {
        self.jobs[&id(name)].desired("n1")[0].version
    }
}

fn step(job: &mut Job, input: Input<'_>) {
    let _ = job.step(NOW, input).expect("it fits").split();
}

fn report(job: &mut Job, what: &Observation) {
    let report = |a: orchestrator_core::Assignment<'_>| Report {
        target: a.target.expect("it is waited for"),
        generation: a.generation,
        number: 1,
        what: what.clone(),
    };
    let reports: Vec<Report> = job.outstanding().map(report).collect();
    assert!(!reports.is_empty(), "nothing is under way");
    step(job, Input::Reports(&reports));
}

#[test]
fn jobs_follow_each_other_and_what_changed_is_taken_back_in_reverse() {
    // The first one runs already what is wanted.
    let mut driver = Driver::new(&[("db", 1), ("cache", 2), ("api", 2), ("web", 2)]);
    driver.say(Say::Start);
    assert_eq!(driver.orders, ["start db", "start cache"]);
    driver.nodes_say("cache", &Observation::Started);
    driver.nodes_say("api", &Observation::Started);
    assert_eq!(driver.orders[2..], ["start api", "start web"]);
    assert_eq!(
        ["db", "cache", "api", "web"].map(|job| driver.runs(job)),
        [1, 2, 2, 2]
    );

    // The last one fails, and goes back by itself: the others follow, but for the one that was not touched.
    let cannot = Observation::CannotStart {
        detail: "no such image".to_owned(),
    };
    driver.nodes_say("web", &cannot);
    assert_eq!(driver.orders.len(), 4, "it is on its way back");
    driver.nodes_say("web", &Observation::Started);
    assert_eq!(driver.orders[4..], ["roll back api"]);
    driver.nodes_say("api", &Observation::Started);
    assert_eq!(driver.orders[5..], ["roll back cache"]);
    driver.nodes_say("cache", &Observation::Started);
    assert_eq!(driver.orders.len(), 6, "db stays as it was");
    assert_eq!(driver.group.state().state(), GroupState::Failed);
    assert_eq!(
        ["db", "cache", "api", "web"].map(|job| driver.runs(job)),
        [1, 1, 1, 1]
    );
}

#[test]
fn jobs_that_all_end_well_are_a_group_that_completed() {
    let mut driver = Driver::new(&[("db", 2), ("api", 1), ("web", 2)]);
    driver.say(Say::Start);
    driver.nodes_say("db", &Observation::Started);
    assert_eq!(driver.orders, ["start db", "start api", "start web"]);
    driver.nodes_say("web", &Observation::Started);
    assert_eq!(driver.group.state().state(), GroupState::Completed);
    assert_eq!(["db", "api", "web"].map(|job| driver.runs(job)), [2, 1, 2]);
}

fn cannot() -> Observation {
    Observation::CannotStart {
        detail: "no such image".to_owned(),
    }
}

#[test]
fn a_job_that_is_on_its_way_already_is_waited_for() {
    // Others registered version 3 of db, and its wave is in flight.
    let mut driver = Driver::new(&[("db", 3), ("api", 2)]);
    step(driver.job("db"), register(spec("db", 3)).into());
    driver.say(Say::Start);
    assert_eq!(driver.orders, ["start db"]);
    assert_eq!(driver.member("db"), &MemberState::Awaited);
    assert_eq!(driver.member("api"), &MemberState::Waiting);
    driver.nodes_say("db", &Observation::Started);
    assert_eq!(driver.orders, ["start db", "start api"]);
    // What follows fails: what others brought stays.
    driver.nodes_say("api", &cannot());
    driver.nodes_say("api", &Observation::Started);
    assert_eq!(driver.orders, ["start db", "start api"]);
    assert_eq!(driver.group.state().state(), GroupState::Failed);
    assert_eq!((driver.runs("db"), driver.runs("api")), (2, 1));
}

#[test]
fn a_job_that_was_on_its_way_and_fails_fails_the_group() {
    let mut driver = Driver::new(&[("cache", 2), ("db", 3), ("api", 2)]);
    driver.say(Say::Start);
    step(driver.job("db"), register(spec("db", 3)).into());
    driver.nodes_say("cache", &Observation::Started);
    assert_eq!(driver.member("db"), &MemberState::Awaited);
    driver.nodes_say("db", &cannot());
    assert_eq!(driver.member("db"), &MemberState::Awaited, "going back");
    driver.nodes_say("db", &Observation::Started);
    assert_eq!(driver.member("db"), &MemberState::RolledBack);
    assert_eq!(
        driver.orders,
        ["start cache", "start db", "roll back cache"]
    );
    driver.nodes_say("cache", &Observation::Started);
    assert_eq!(driver.group.state().state(), GroupState::Failed);
    assert_eq!(["cache", "db"].map(|job| driver.runs(job)), [1, 1]);
}

#[test]
fn a_start_that_meets_the_end_of_a_bad_deployment_learns_of_it() {
    // The deadline of what is under way has passed, and nobody has noticed before the start comes.
    let mut driver = Driver::new(&[("db", 3), ("api", 2)]);
    let document = r#"{"job_id": "db", "driver": "exec", "config": {"version": 3},
        "rollout": {"strategy": "rolling", "health_check": {"deadline": "1s", "min_healthy_time": "0s"}}}"#;
    let late = JobSpec::parse(document).expect("it is a spec");
    driver.wanted.insert(id("db"), late.clone());
    let before = Time::from_millis(NOW.as_millis() - 60_000);
    driver.jobs.insert(id("db"), running_since(before));
    let started = driver.job("db").step(before, register(late).into());
    let _ = started.expect("it fits").split();
    driver.say(Say::Start);
    assert_eq!(driver.member("db"), &MemberState::Awaited);
    assert!(
        driver
            .job("db")
            .deployment()
            .expect("it goes back")
            .rollback_of
            .is_some()
    );
    driver.nodes_say("db", &Observation::Interval(Interval::PASSING));
    assert_eq!(driver.member("db"), &MemberState::RolledBack);
    assert_eq!(driver.orders, ["start db"]);
}

/// The job db, whose version 1 has been running since then.
fn running_since(then: Time) -> Job {
    let mut job = Job::new(id("db"), 7);
    let nodes = [NodeChange::Seen(orchestrator_core::Member::new("n1"))];
    let _ = job
        .step(then, Input::Nodes(&nodes))
        .expect("it fits")
        .split();
    let first = job.step(then, register(spec("db", 1)).into());
    let _ = first.expect("it fits").split();
    let a = job.outstanding().next().expect("it waits for n1");
    let report = Report {
        target: a.target.expect("it is waited for"),
        generation: a.generation,
        number: 1,
        what: Observation::Started,
    };
    let _ = job
        .step(then, Input::Reports(&[report]))
        .expect("it fits")
        .split();
    job
}

/// A group in which db has completed and api has failed, after people did this to db meanwhile.
fn taken_back_after(people: impl FnOnce(&mut Driver)) -> Driver {
    let mut driver = Driver::new(&[("db", 2), ("api", 2)]);
    driver.say(Say::Start);
    driver.nodes_say("db", &Observation::Started);
    assert_eq!(driver.orders, ["start db", "start api"]);
    people(&mut driver);
    driver.serve();
    driver.nodes_say("api", &cannot());
    driver.nodes_say("api", &Observation::Started);
    driver
}

#[test]
fn what_people_did_since_is_not_the_groups_to_undo() {
    let another = taken_back_after(|driver| {
        step(driver.job("db"), register(spec("db", 3)).into());
        report(driver.job("db"), &Observation::Started);
    });
    let under_way = taken_back_after(|driver| {
        step(driver.job("db"), register(spec("db", 3)).into());
    });
    let stopped = taken_back_after(|driver| {
        step(driver.job("db"), Command::Stop.into());
        report(driver.job("db"), &Observation::Stopped);
    });
    for (driver, runs) in [(another, 3), (under_way, 3), (stopped, 0)] {
        assert_eq!(driver.orders, ["start db", "start api"]);
        assert_eq!(driver.member("db"), &MemberState::TakeBackFailed);
        assert_eq!(driver.group.state().state(), GroupState::Failed);
        let last = driver.jobs[&id("db")].deployments().next();
        assert_eq!(last.expect("it is there").to_version, runs);
    }

    // Started again it is where the group brought it, and taken back by hand it is where that came from.
    let mut restarted = taken_back_after(|driver| {
        step(driver.job("db"), Command::Restart.into());
        report(driver.job("db"), &Observation::Started);
    });
    assert_eq!(restarted.orders[2..], ["roll back db"]);
    restarted.nodes_say("db", &Observation::Started);
    assert_eq!(restarted.member("db"), &MemberState::TakenBack);
    assert_eq!(restarted.runs("db"), 1);
    let by_hand = taken_back_after(|driver| {
        step(driver.job("db"), Command::RollBack { to: None }.into());
        report(driver.job("db"), &Observation::Started);
    });
    assert_eq!(by_hand.orders[2..], ["roll back db refused"]);
    assert_eq!(by_hand.member("db"), &MemberState::TakenBack);
}

#[test]
fn what_the_group_began_is_canceled_and_what_others_began_is_not() {
    let mut driver = Driver::new(&[("db", 2), ("api", 2)]);
    driver.say(Say::Start);
    driver.say(Say::Cancel);
    assert_eq!(driver.orders, ["start db", "cancel db"]);
    assert_eq!(driver.group.state().state(), GroupState::Canceled);

    let mut driver = Driver::new(&[("db", 3), ("api", 2)]);
    step(driver.job("db"), register(spec("db", 3)).into());
    driver.say(Say::Start);
    driver.say(Say::Cancel);
    assert_eq!(driver.orders, ["start db"]);
    assert_eq!(driver.group.state().state(), GroupState::Canceled);
    let goes_on = driver.job("db").deployment().expect("it is there");
    assert!(!goes_on.status.state.is_final());
}

#[test]
fn commands_that_are_refused_have_an_end_too() {
    // A start of what was taken back before.
    let mut driver = Driver::new(&[("db", 2), ("api", 2)]);
    step(driver.job("api"), register(spec("api", 2)).into());
    report(driver.job("api"), &cannot());
    report(driver.job("api"), &Observation::Started);
    driver.say(Say::Start);
    driver.nodes_say("db", &Observation::Started);
    let orders = ["start db", "start api refused", "roll back db"];
    assert_eq!(driver.orders, orders);
    // Others were faster, and are on their way to where the group goes.
    let mut driver = Driver::new(&[("db", 2), ("api", 2)]);
    driver.say(Say::Start);
    driver.nodes_say("db", &Observation::Started);
    step(driver.job("db"), Command::RollBack { to: Some(1) }.into());
    driver.nodes_say("api", &cannot());
    driver.nodes_say("api", &Observation::Started);
    assert_eq!(driver.orders[2..], ["roll back db refused"]);
    assert_eq!(driver.member("db"), &MemberState::RollingBack);
    driver.nodes_say("db", &Observation::Started);
    assert_eq!(driver.member("db"), &MemberState::TakenBack);
}
