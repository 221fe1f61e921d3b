//! Somebody's own scheduler with its own nodes drives a canary with the core alone.
//!
//! What a real driver has and this one plays is marked: a clock, a log on disk, nodes over a network.

use std::collections::BTreeSet;
use std::error::Error;

use orchestrator_core::{Command, Effect, Entry, Input, Interval, Job, Member};
use orchestrator_core::{Observation, Report, Span, spec::JobSpec};

/// The driver: it owns the clock and the log. The job owns every decision.
struct Scheduler {
    job: Job,
    now: orchestrator_core::Time,
    log: String,
    reports: u32, // so many so far
}

impl Scheduler {
    /// The one road: step, make the entries safe, and only then act.
    fn drive(&mut self, input: Input<'_>) -> Result<(), Box<dyn Error>> {
        let (entries, sealed) = self.job.step(self.now, input)?.split();
        self.log.extend(entries.iter().map(|e| e.encode() + "\n")); // A real driver writes and syncs here.
        let mut hear = BTreeSet::new();
        let of = |slot| self.job.assignment(slot).node.to_owned();
        let name = |node| self.job.node_name(node).to_owned();
        for effect in sealed.committed().effects {
            match effect {
                Effect::Assign { slots, .. } => hear.extend(slots.iter().map(of)),
                Effect::Withdraw { nodes } => hear.extend(nodes.iter().map(name)),
                // Every version here runs everywhere; and targets of old deployments are not shown.
                Effect::MembersNeeded | Effect::PutAside(_) => {}
            }
        }
        hear.iter().for_each(|node: &String| self.send(node));
        Ok(())
    }

    /// All that a node should run. A real driver sends it, with `Job::stops`, and again whenever the node is back.
    fn send(&self, node: &str) {
        let runs = self.job.desired(node).into_iter();
        let runs: Vec<_> = runs.map(|a| (a.slot, a.version)).collect();
        println!("{}  {node}: run {runs:?}", self.now);
    }

    /// The process is back. What is left of a step that was not written whole has not happened.
    fn restart(&mut self, millis: u64, fleet: &[Member]) -> Result<(), Box<dyn Error>> {
        let (entries, whole) = Entry::decode_log(self.log.as_bytes())?;
        self.log.truncate(whole);
        self.job = Job::recover("web".parse()?, 42, entries)?;
        self.now = self.now.after(Span::from_millis(millis));
        self.drive(Input::Absent { millis })?; // Nobody's time.
        self.drive(Input::Members(fleet))?; // What became of a node meanwhile.
        self.job.nodes().for_each(|node| self.send(node));
        Ok(())
    }

    /// Until a person is needed, or it is over, every node reports intervals of what is watched, updated or not.
    fn run(&mut self, bad_version: u32) -> Result<(), Box<dyn Error>> {
        while self.job.outstanding().next().is_some() {
            let interval = self.now.after(Span::from_secs(10));
            self.now = self.job.wake().map_or(interval, |wake| wake.min(interval)); // It sleeps till then.
            let mut reports = Vec::new();
            for watched in self.job.watched() {
                let mut interval = Interval::PASSING;
                interval.checks = Some(watched.version != bad_version);
                self.reports += 1;
                reports.push(Report {
                    target: watched.target.ok_or("it is watched")?,
                    generation: watched.generation,
                    number: self.reports,
                    what: Observation::Interval(interval),
                });
            }
            self.drive(Input::Reports(&reports))?;
        }
        let record = self.job.deployment().ok_or("nothing was rolled out")?;
        println!("{}  = {}", self.now, record.status.message);
        Ok(())
    }

    /// Rolls an image out, of which one version never becomes healthy.
    fn deploy(&mut self, image: &str, bad_version: u32) -> Result<(), Box<dyn Error>> {
        let spec = serde_json::json!({ "job_id": "web", "driver": "docker", "config": { "image": image },
            "rollout": { "strategy": "canary", "canary_count": 1, "max_parallel": 2,
                         "health_check": { "deadline": "2m", "min_healthy_time": "20s" } } });
        let register = Command::Register {
            spec: Box::new(JobSpec::parse(&spec.to_string())?),
            members: None,
            again: false,
        };
        self.drive(register.into())?;
        self.run(bad_version)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut scheduler = Scheduler {
        job: Job::new("web".parse()?, 42),
        now: "2026-01-01T00:00:00Z".parse()?,
        log: String::new(),
        reports: 0,
    };
    let fleet = [1, 2, 3, 4, 5].map(|n| Member::new(format!("node-{n}")));
    scheduler.drive(Input::Members(&fleet))?;
    // The first version: a canary, a promotion by hand, then the rest two at a time.
    scheduler.deploy("web:1", 0)?;
    let id = scheduler.job.deployment().ok_or("it has just begun")?.id;
    scheduler.drive(Command::Promote(id).into())?;
    scheduler.run(0)?;
    // A bad one: its canary fails, and the core takes it back by itself.
    scheduler.deploy("web:2", 2)?;
    // The process dies over the last step; when it is back, the rollback has still to end.
    scheduler.log.truncate(scheduler.log.len() - 20);
    scheduler.restart(60_000, &fleet)?;
    scheduler.run(2)?;
    assert_eq!(scheduler.job.current(), 1);
    Ok(())
}
