//! Somebody's own scheduler with its own nodes drives a canary with the core alone.
//!
//! What a real driver has and this one plays is marked: a clock, a log on disk, nodes over a network.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use orchestrator_core::{Command, Effect, Entry, Input, Interval, Job, Member, NodeChange};
use orchestrator_core::{Observation, Report, Span, spec::JobSpec};

/// The driver: it owns the clock and the log. The job owns every decision.
struct Scheduler {
    job: Job,
    now: orchestrator_core::Time,
    log: Vec<String>,
    nodes: BTreeMap<String, Vec<(u32, u32)>>, // executions there, and their versions
    reported: BTreeMap<(u32, u64), u32>,      // how often about each assignment
}

impl Scheduler {
    /// The one road: step, make the entries safe, and only then act.
    fn drive(&mut self, input: Input<'_>) -> Result<(), Box<dyn Error>> {
        let (entries, sealed) = self.job.step(self.now, input)?.split();
        self.log.extend(entries.iter().map(Entry::encode)); // A real driver writes and syncs here.
        let mut hear = BTreeSet::new();
        let of = |slot| self.job.assignment(slot).node.to_owned();
        let name = |node| self.job.node_name(node).to_owned();
        for effect in sealed.committed().effects {
            match effect {
                Effect::Assign { slots, .. } => hear.extend(slots.iter().map(of)),
                Effect::Withdraw { nodes } => hear.extend(nodes.iter().map(name)),
                Effect::MembersNeeded => unreachable!("every version here runs everywhere"),
                Effect::PutAside(_) => {} // To be kept where old deployments' targets are shown.
            }
        }
        for node in hear {
            let runs = self.job.desired(&node);
            let runs: Vec<_> = runs.iter().map(|a| (a.slot, a.version)).collect();
            println!("{}  {node}: run {runs:?}", self.now);
            self.nodes.insert(node, runs); // A real driver sends it, and again whenever the node is back.
        }
        Ok(())
    }

    /// Every node reports an interval of all that is watched, also of what is updated: it may turn bad.
    fn interval(&mut self, bad_version: u32) -> Result<(), Box<dyn Error>> {
        let mut reports = Vec::new();
        for watched in self.job.watched() {
            let about = (watched.slot, watched.generation);
            let number = self.reported.entry(about).or_default();
            *number += 1;
            let mut interval = Interval::PASSING;
            interval.checks = Some(watched.version != bad_version);
            reports.push(Report {
                target: watched.target.ok_or("it is watched")?,
                generation: watched.generation,
                number: *number,
                what: Observation::Interval(interval),
            });
        }
        self.drive(Input::Reports(&reports))
    }

    /// Lets time pass until the deployment under way needs a person, or is over.
    fn run(&mut self, bad_version: u32) -> Result<(), Box<dyn Error>> {
        while self.job.outstanding().next().is_some() {
            let interval = self.now.after(Span::from_secs(10));
            self.now = self.job.wake().map_or(interval, |wake| wake.min(interval)); // It sleeps till then.
            self.interval(bad_version)?;
        }
        let record = self.job.deployment().ok_or("nothing was rolled out")?;
        println!("{}  = {}", self.now, record.status.message);
        Ok(())
    }
}

fn release(image: &str) -> Result<Command, Box<dyn Error>> {
    let spec = serde_json::json!({
        "job_id": "web", "driver": "docker", "config": { "image": image },
        "rollout": { "strategy": "canary", "canary_count": 1, "max_parallel": 2,
                     "health_check": { "deadline": "2m", "min_healthy_time": "20s" } }
    });
    Ok(Command::Register {
        spec: Box::new(JobSpec::parse(&spec.to_string())?),
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
        reported: BTreeMap::new(),
    };
    let fleet = [1, 2, 3, 4, 5].map(|n| NodeChange::Seen(Member::new(format!("node-{n}"))));
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
    let log: Result<Vec<Entry>, _> = scheduler.log.iter().map(|l| Entry::decode(l)).collect();
    scheduler.job = Job::recover("web".parse()?, 42, log?)?;
    assert_eq!(scheduler.job.current(), 1);
    println!("recovered from {} entries", scheduler.log.len());
    Ok(())
}
