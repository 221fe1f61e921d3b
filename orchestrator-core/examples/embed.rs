//! Somebody's own scheduler with its own nodes drives a canary with the core alone.
//!
//! What a real driver has and this one plays is marked: a clock, a log on disk, nodes over a network.

use std::collections::BTreeMap;
use std::error::Error;

use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Command, Effect, Entry, Input, Interval, Job, Member, NodeChange, Observation, Report, Span,
    Time,
};

/// The driver: it owns the clock and the log. The job owns every decision.
struct Scheduler {
    job: Job,
    now: Time,
    log: Vec<Entry>,
    /// What each node runs, and how often it has reported about it.
    nodes: BTreeMap<String, (u32, u32)>,
}

impl Scheduler {
    /// The one road: step, make the entries safe, and only then act.
    fn drive(&mut self, input: Input<'_>) -> Result<(), Box<dyn Error>> {
        let step = self.job.step(self.now, input)?;
        let (entries, sealed) = step.split();
        self.log.extend(entries); // A real driver writes and syncs here.
        let committed = sealed.committed();
        for effect in &committed.effects {
            let Effect::Assign { version, slots, .. } = effect else {
                continue;
            };
            for slot in slots.iter() {
                let node = self.job.assignment(slot).node.to_owned();
                println!("{}  {node}: run version {version}", self.now);
                self.nodes.insert(node, (*version, 0)); // A real driver sends it.
            }
        }
        Ok(())
    }

    /// Every node reports one interval of every assignment that is waited for.
    fn interval(&mut self, bad_version: u32) -> Result<(), Box<dyn Error>> {
        let mut reports = Vec::new();
        for assignment in self.job.outstanding() {
            let (version, sent) = self.nodes.get_mut(assignment.node).ok_or("it was told")?;
            *sent += 1;
            let mut interval = Interval::PASSING;
            interval.checks = Some(*version != bad_version);
            reports.push(Report {
                target: assignment.target.ok_or("it is outstanding")?,
                generation: assignment.generation,
                number: *sent,
                what: Observation::Interval(interval),
            });
        }
        self.drive(Input::Reports(&reports))
    }

    /// Lets time pass until the deployment under way needs a person, or is over.
    fn run(&mut self, bad_version: u32) -> Result<(), Box<dyn Error>> {
        while self.job.outstanding().next().is_some() {
            self.now = self.now.after(Span::from_secs(10)); // A real driver sleeps till then, or job.wake().
            self.interval(bad_version)?;
        }
        if let Some(record) = self.job.deployment() {
            println!("{}  = {}", self.now, record.status.message);
        }
        Ok(())
    }
}

fn release(image: &str) -> Result<Command, Box<dyn Error>> {
    let spec = serde_json::json!({
        "job_id": "web", "driver": "docker", "config": { "image": image },
        "rollout": {
            "strategy": "canary", "canary_count": 1, "max_parallel": 2,
            "health_check": { "deadline": "2m", "min_healthy_time": "20s" }
        }
    });
    let spec = Box::new(JobSpec::parse(&spec.to_string())?);
    Ok(Command::Register {
        spec,
        members: None,
        again: false,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut scheduler = Scheduler {
        job: Job::new("web".parse()?, 42),
        now: "2026-01-01T00:00:00Z".parse()?,
        log: Vec::new(),
        nodes: BTreeMap::new(),
    };
    let joins = |n| NodeChange::Seen(Member::new(format!("node-{n}")));
    let fleet: Vec<_> = (1..=5).map(joins).collect();
    scheduler.drive(Input::Nodes(&fleet))?;

    // The first version: a canary, a promotion by hand, then the rest two at a time.
    scheduler.drive(release("web:1")?.into())?;
    scheduler.run(0)?;
    let id = scheduler.job.deployment().ok_or("it has just begun")?.id;
    scheduler.drive(Command::Promote(id).into())?;
    scheduler.run(0)?;

    // A bad one: its canary fails, and the core takes it back by itself.
    scheduler.drive(release("web:2")?.into())?;
    scheduler.run(2)?;

    // The process dies; the log is all that is needed to go on.
    scheduler.job = Job::recover("web".parse()?, 42, scheduler.log.clone())?;
    assert!(scheduler.nodes.values().all(|(version, _)| *version == 1));
    let entries = scheduler.log.len();
    println!("recovered from {entries} entries; every node runs version 1");
    Ok(())
}
