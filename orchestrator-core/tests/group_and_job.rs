//! A group and its jobs side by side, as a driver keeps them: orders become commands, and ends become reports.

use std::collections::BTreeMap;

use orchestrator_core::group::{
    Effect as Order, Entry, Group, GroupSpec, GroupState, Input as Say, Member, Outcome,
};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Command, DeploymentId, Ending, Input, Job, JobId, NodeChange, Observation, Report, Request,
    Time,
};

const NOW: Time = Time::from_millis(1_767_225_600_000);

struct Driver {
    group: Group,
    log: Vec<Entry>,
    jobs: BTreeMap<JobId, Job>,
    /// What each job is to run.
    wanted: BTreeMap<JobId, JobSpec>,
    /// What the group has begun, and what takes it back.
    deployments: BTreeMap<JobId, DeploymentId>,
    /// In the order in which they were given.
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
            deployments: BTreeMap::new(),
            orders: Vec::new(),
        }
    }

    fn say(&mut self, say: Say) {
        let entries = self.group.step(NOW, say).expect("it fits");
        let orders: Vec<Order> = entries.iter().flat_map(Entry::effects).collect();
        self.log.extend(entries);
        // The driver dies before it has carried anything out: the log says what is outstanding.
        self.group = Group::recover(&self.log).expect("it is whole");
        let outstanding = self.group.outstanding();
        assert!(orders.iter().all(|order| outstanding.contains(order)));
        for order in outstanding {
            self.carry_out(&order);
        }
    }

    fn carry_out(&mut self, order: &Order) {
        let (job, what, command) = match order {
            Order::StartJob(job) => (job, "start", register(self.wanted[job].clone())),
            Order::CancelJob(job) => (job, "cancel", Command::Cancel(self.deployments[job])),
            Order::RollBackJob(job) => {
                let begun = self.jobs[job].record(self.deployments[job]);
                let to = begun.expect("it is remembered").from_version;
                (job, "roll back", Command::RollBack { to: Some(to) })
            }
        };
        let request = Request {
            command,
            key: Some(format!("release/{job}/{what}")),
            expected: None,
        };
        let machine = self.jobs.get_mut(job).expect("it is a member");
        let answer = machine.step(NOW, request.into()).expect("it fits");
        let (entries, sealed) = answer.split();
        if entries.is_empty() {
            return; // It was carried out before.
        }
        self.orders.push(format!("{what} {}", job.name()));
        let answer = sealed.committed().answer.expect("it is a command");
        if !answer.changed {
            let (job, outcome) = (job.clone(), Outcome::Unchanged);
            return self.say(Say::Finished { job, outcome });
        }
        let began = answer.deployment.expect("it has begun");
        self.deployments.insert(job.clone(), began);
    }

    /// The job's nodes say this of what is under way there; the group hears when that ended.
    fn nodes_say(&mut self, name: &str, what: &Observation) {
        let job = id(name);
        let machine = self.jobs.get_mut(&job).expect("it is a member");
        report(machine, what);
        let Ending::Known(outcome) = machine.outcome(self.deployments[&job]) else {
            return;
        };
        let rolls_back = self
            .group
            .outstanding()
            .contains(&Order::RollBackJob(job.clone()));
        self.say(if rolls_back {
            let ok = outcome == Outcome::Completed;
            Say::RollbackFinished { job, ok }
        } else {
            Say::Finished { job, outcome }
        });
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
