//! The fleet and a job side by side, as a driver keeps them: what befalls a node reaches the job.

use orchestrator_core::fleet::{Fleet, FleetSettings, Input as Say};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Assignment, Command, Effect, Input, Job, Observation, Presence, Report, Span, Time,
};

struct Driver {
    fleet: Fleet,
    job: Job,
    now: Time,
    /// How often the job asked which nodes match.
    asked: u32,
}

impl Driver {
    fn own(&self, node: &str) -> u32 {
        self.job.desired(node).len() as u32
    }

    fn say(&mut self, seconds: u64, say: Say) {
        self.now = self.now.after(Span::from_secs(seconds));
        let entries = self.fleet.step(self.now, say).expect("it fits");
        let Some(spec) = self.job.membership().cloned() else {
            return;
        };
        let nodes = entries.iter().flat_map(|entry| entry.event.nodes());
        let changes: Vec<_> = nodes
            .map(|node| self.fleet.change(node, &spec, self.own(node)))
            .collect();
        self.step(Input::Nodes(&changes));
    }

    fn step(&mut self, input: Input<'_>) {
        let step = self.job.step(self.now, input).expect("it fits");
        let committed = step.persist(|_| Ok::<_, ()>(())).expect("it is kept");
        if committed.effects.contains(&Effect::MembersNeeded) {
            self.asked += 1;
            assert!(self.job.members_due());
            let spec = self.job.membership().expect("it asks for a reason").clone();
            let members = self.fleet.members(&spec, |node| self.own(node));
            self.step(Input::Members(&members));
            assert!(!self.job.members_due());
        }
    }

    fn register(&mut self, version: &str, selector: &str) {
        let document = format!(
            r#"{{"job_id": "web", "driver": "exec", "config": {{"version": "{version}"}}, "selector": "{selector}", "rollout": {{"spread": "zone"}}}}"#
        );
        let spec = JobSpec::parse(&document).expect("it is a spec");
        let members = self.fleet.members(&spec, |node| self.own(node));
        let command = Command::Register {
            spec: Box::new(spec),
            members: Some(members),
            again: false,
        };
        self.step(command.into());
    }

    fn join(&mut self, name: &str, disk: &str) {
        let labels = [("disk", disk), ("zone", "a")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        self.say(
            0,
            Say::Join {
                name: name.into(),
                labels: labels.into(),
                facts: Default::default(),
                leaving: false,
            },
        );
    }

    /// Every node does as it was told, and says so.
    fn started(&mut self) {
        let started = |a: Assignment<'_>| Report {
            target: a.target.expect("a deployment waits for it"),
            generation: a.generation,
            number: 1,
            what: if a.version == 0 {
                Observation::Stopped
            } else {
                Observation::Started
            },
        };
        let reports: Vec<Report> = self.job.outstanding().map(started).collect();
        self.step(Input::Reports(&reports));
    }

    fn runs(&self, node: &str) -> Vec<u32> {
        self.job.desired(node).iter().map(|a| a.version).collect()
    }
}

#[test]
fn what_befalls_a_node_reaches_the_job() {
    let mut driver = Driver {
        fleet: Fleet::new(FleetSettings::default()),
        job: Job::new("web".parse().expect("a name"), 1),
        now: Time::from_millis(1_767_225_600_000),
        asked: 0,
    };
    driver.join("s1", "ssd");
    driver.join("h1", "hdd");
    driver.register("1", "disk = ssd");
    assert_eq!((driver.runs("s1"), driver.runs("h1")), (vec![1], vec![]));
    driver.started();
    assert_eq!(
        driver.job.presence("h1"),
        None,
        "it is no concern of the job"
    );

    // It falls silent, comes back, is drained and enabled again.
    driver.say(31, Say::Tick);
    assert_eq!(driver.job.presence("s1"), Some(Presence::Disconnected));
    driver.say(0, Say::Heartbeat { name: "s1".into() });
    assert_eq!(driver.job.presence("s1"), Some(Presence::Ready));
    driver.say(
        0,
        Say::Drain {
            name: "s1".into(),
            key: None,
        },
    );
    assert_eq!(driver.job.presence("s1"), Some(Presence::Draining));
    driver.say(
        0,
        Say::Enable {
            name: "s1".into(),
            key: None,
        },
    );
    assert_eq!(driver.job.presence("s1"), Some(Presence::Ready));

    // Other labels: another node matches now, and this one no longer.
    driver.join("h1", "ssd");
    assert_eq!(driver.job.presence("h1"), Some(Presence::Ready));
    driver.join("s1", "hdd");
    assert_eq!(driver.job.presence("s1"), Some(Presence::Unmatched));
    driver.join("s1", "ssd");

    // A version for other nodes: theirs is the turn now, and the others are left when it is done.
    driver.join("h2", "hdd");
    driver.register("2", "disk = hdd");
    assert_eq!((driver.runs("h1"), driver.runs("h2")), (vec![1], vec![2]));
    driver.started();
    assert_eq!((driver.runs("h1"), driver.runs("s1")), (vec![], vec![]));

    // Back again: the job asks who matches now, and is told.
    assert_eq!(driver.asked, 0);
    driver.step(Command::RollBack { to: None }.into());
    assert_eq!(driver.asked, 1);
    driver.started();
    assert_eq!((driver.runs("h1"), driver.runs("h2")), (vec![1], vec![]));

    driver.say(0, Say::Remove { name: "h1".into() });
    assert_eq!(driver.job.presence("h1"), None);
    assert_eq!(driver.runs("h1"), [] as [u32; 0]);
}
