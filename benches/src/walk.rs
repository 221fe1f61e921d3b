//! A driver that walks a job through a rolling rollout in which every target is healthy.

use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Command, DeploymentState, Effect, Input, Interval, Job, JobId, Member, NodeChange, Observation,
    Report, Span, Step, Time,
};
use serde_json::{Value, json};

/// The seed of every job here.
pub const SEED: u64 = 7;
/// Nodes join in lists of this length, as a driver would hand in what it heard meanwhile.
const JOIN_AT_ONCE: usize = 1000;
/// `min_healthy_time` of the rolling version, its deadline is ten times that.
const HEALTHY: Span = Span::from_secs(30);

/// How many reports a step takes in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reporting {
    /// One.
    Single,
    /// Those of a whole wave.
    Batched,
}

/// A job and its driver: time, the reports that come next, and a log when one is kept.
#[derive(Clone, Debug)]
pub struct Walk {
    /// The machine.
    pub job: Job,
    /// The driver's clock.
    pub now: Time,
    /// The targets in flight, each as a report that still needs its number.
    pub wave: Vec<Report>,
    /// Steps taken so far.
    pub steps: u64,
    /// Entries written so far.
    pub entries: u64,
    /// The entries as lines, where they are kept.
    pub log: Option<String>,
}

impl Walk {
    /// A job without nodes.
    pub fn new() -> Self {
        Self {
            job: Job::new(job_id(), SEED),
            now: Time::from_millis(1_767_225_600_000),
            wave: Vec::new(),
            steps: 0,
            entries: 0,
            log: None,
        }
    }

    /// A fleet of so many nodes, all of which run version 1.
    pub fn settled(nodes: usize) -> Self {
        let mut walk = Self::new();
        walk.join(nodes);
        walk.settle(nodes);
        walk
    }

    /// Nodes join, none of which the job knows.
    pub fn join(&mut self, nodes: usize) {
        self.join_zones(nodes, 0);
    }

    /// Nodes join, spread over so many zones.
    pub fn join_zones(&mut self, nodes: usize, zones: usize) {
        let member = |node: usize| Member {
            zone: node
                .checked_rem(zones)
                .map_or_else(String::new, |zone| format!("zone-{zone}")),
            ..Member::new(node_name(node))
        };
        for first in (0..nodes).step_by(JOIN_AT_ONCE) {
            let members = (first..nodes.min(first + JOIN_AT_ONCE)).map(member);
            let changes: Vec<_> = members.map(NodeChange::Seen).collect();
            self.step(Input::Nodes(&changes));
        }
    }

    /// Version 1 goes everywhere at once.
    pub fn settle(&mut self, nodes: usize) {
        self.register("bench:1", &json!({ "strategy": "immediate" }), None);
        self.all_started(nodes);
    }

    /// So many executions of version 1 go where there is room, at once.
    pub fn place(&mut self, executions: usize) {
        let rollout = json!({ "strategy": "immediate", "spread": "zone" });
        self.register("bench:1", &rollout, Some(executions));
        self.all_started(executions);
    }

    fn all_started(&mut self, nodes: usize) {
        let mut wave = std::mem::take(&mut self.wave);
        for report in &mut wave {
            (report.number, report.what) = (1, Observation::Started);
        }
        self.step(Input::Reports(&wave));
        self.assert_completed(nodes);
    }

    /// Version 2 begins, in waves of `max_parallel`.
    pub fn roll(&mut self, max_parallel: usize) {
        let check = json!({
            "deadline": Span::from_millis(10 * HEALTHY.as_millis()).to_string(),
            "min_healthy_time": HEALTHY.to_string(),
            "failure_threshold": 0,
        });
        let rollout =
            json!({ "strategy": "rolling", "max_parallel": max_parallel, "health_check": check });
        self.register("bench:2", &rollout, None);
        assert_eq!(self.wave.len(), max_parallel, "the first wave is out");
    }

    /// Every target in flight is healthy now, and once more when that is long enough: the next wave
    /// starts, or there is none.
    pub fn pass_wave(&mut self, reporting: Reporting) {
        let mut wave = std::mem::take(&mut self.wave);
        for number in [1, 2] {
            for report in &mut wave {
                report.number = number;
            }
            match reporting {
                Reporting::Single => {
                    for report in &wave {
                        self.step(Input::Reports(std::slice::from_ref(report)));
                    }
                }
                Reporting::Batched => self.step(Input::Reports(&wave)),
            }
            self.now = self.now.after(HEALTHY);
        }
    }

    /// Wave after wave until there is none.
    pub fn finish(&mut self, reporting: Reporting) {
        while !self.wave.is_empty() {
            self.pass_wave(reporting);
        }
    }

    /// The driver forgot what it waits for and asks the job.
    pub fn restart_driver(&mut self) {
        let outstanding = self.job.outstanding().filter_map(|a| {
            let (target, generation) = (a.target?, a.generation);
            Some(healthy(target, generation))
        });
        self.wave = outstanding.collect();
    }

    /// Takes one input in and carries out what follows. Nothing that a walk says is refused.
    pub fn step(&mut self, input: Input<'_>) {
        let step = self.job.step(self.now, input).expect("fits");
        self.steps += 1;
        self.entries += step.entries().len() as u64;
        for effect in self.persist(step) {
            let Effect::Assign {
                generation, slots, ..
            } = effect
            else {
                continue;
            };
            let targets = slots.iter().filter_map(|s| self.job.assignment(s).target);
            self.wave = targets.map(|t| healthy(t, generation)).collect();
        }
    }

    /// Panics unless all of the `nodes` run the newest version, proven.
    pub fn assert_completed(&self, nodes: usize) {
        let status = self.job.deployment().expect("one was begun").status;
        assert_eq!(status.state, DeploymentState::Completed);
        assert_eq!(status.updated_nodes as usize, nodes);
    }

    fn persist(&mut self, step: Step) -> Vec<Effect> {
        let committed = step.persist(|entries| {
            if let Some(log) = &mut self.log {
                for entry in entries {
                    log.push_str(&entry.encode());
                    log.push('\n');
                }
            }
            Ok::<_, std::convert::Infallible>(())
        });
        committed.expect("memory takes all").effects
    }

    fn register(&mut self, image: &str, rollout: &Value, replicas: Option<usize>) {
        let mut spec = json!({
            "job_id": job_id().name(), "driver": "docker",
            "config": { "image": image }, "rollout": rollout,
        });
        if let Some(replicas) = replicas {
            spec["placement"] = json!({ "replicas": replicas });
        }
        let spec = JobSpec::parse(&spec.to_string()).expect("a spec");
        let register = Command::Register {
            spec: Box::new(spec),
            members: None,
            again: false,
        };
        self.step(register.into());
    }
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

/// A good report that still needs its number.
fn healthy(target: u32, generation: u64) -> Report {
    Report {
        target,
        generation,
        number: 0,
        what: Observation::Interval(Interval::PASSING),
    }
}

/// The name of every job here.
pub fn job_id() -> JobId {
    JobId::new("default", "bench").expect("a name")
}

/// Twelve bytes for each of the first ten million nodes.
pub fn node_name(number: usize) -> String {
    format!("node-{number:07}")
}

#[cfg(test)]
mod tests {
    use super::{Reporting, Walk};

    #[test]
    fn both_ways_of_reporting_lead_to_the_same_end() {
        for (reporting, steps) in [(Reporting::Single, 1 + 200), (Reporting::Batched, 1 + 20)] {
            let mut walk = Walk::settled(100);
            let before = walk.steps;
            walk.roll(10);
            walk.finish(reporting);
            walk.assert_completed(100);
            assert_eq!(walk.steps - before, steps);
        }
    }
}
