//! Three jobs released together: `db`, then `api`, then `web`. The new `web` is bad, so all of it is taken back, in the
//! reverse order.
//!
//! The group decides whose turn it is, and each job how it rolls out. What is here is what lies between them.

use std::collections::BTreeMap;
use std::error::Error;

use orchestrator_core::group::{self, Duty, Group, GroupSpec, GroupState};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Command, Input, Interval, Job, JobId, Member, Observation, Rejection, Report, Request, Span,
    Time,
};

struct Driver {
    group: Group,
    jobs: BTreeMap<JobId, Job>,
    wanted: BTreeMap<JobId, JobSpec>,
    now: Time,
    reports: u32,
}

impl Driver {
    /// Does what the group has to ask of its jobs, until it has nothing more to ask. A real driver asks only for the jobs
    /// that something has happened to.
    fn serve(&mut self) -> Result<(), Box<dyn Error>> {
        for (id, job) in &mut self.jobs {
            while let Some(duty) = self.group.duty(job) {
                let request = match duty {
                    Duty::Tell(input) => {
                        // One that has to outlast its process writes the entries down first, as it does those of jobs.
                        self.group.step(self.now, input)?;
                        continue;
                    }
                    Duty::Command(request) => request,
                    Duty::Start { key } => Request {
                        command: register(&self.wanted[id]),
                        key: Some(key),
                        expected: None,
                    },
                };
                println!("{}  {id}: {}", self.now, kind(&request.command));
                if let Err(why) = step(job, self.now, request.into()) {
                    self.group.step(self.now, self.group.refused(job, &why))?;
                }
            }
        }
        Ok(())
    }

    /// The agents: an interval goes by, and they report what they see.
    fn report(&mut self, is_bad: impl Fn(&JobId, u32) -> bool) -> Result<(), Box<dyn Error>> {
        self.now = self.now.after(Span::from_secs(10));
        for (id, job) in &mut self.jobs {
            let mut reports = Vec::new();
            for watched in job.watched() {
                self.reports += 1;
                let mut interval = Interval::PASSING;
                interval.checks = Some(!is_bad(id, watched.version));
                reports.push(Report {
                    target: watched.target.ok_or("it is watched")?,
                    generation: watched.generation,
                    number: self.reports,
                    what: Observation::Interval(interval),
                });
            }
            step(job, self.now, Input::Reports(&reports))?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.group.state().state() != GroupState::Running
    }
}

/// A real driver makes the entries safe, and then carries out the effects. Here nodes see what they are to run by themselves.
fn step(job: &mut Job, now: Time, input: Input<'_>) -> Result<(), Rejection> {
    let (_entries, _effects) = job.step(now, input)?.split();
    Ok(())
}

fn kind(command: &Command) -> &'static str {
    match command {
        Command::Register { .. } => "roll out",
        Command::RollBack { .. } => "roll back",
        _ => "another command",
    }
}

fn register(spec: &JobSpec) -> Command {
    let spec = Box::new(spec.clone());
    Command::Register {
        spec,
        members: None,
        again: false,
    }
}

fn spec(name: &str, version: u32) -> Result<JobSpec, Box<dyn Error>> {
    let health = serde_json::json!({ "deadline": "2m", "min_healthy_time": "20s" });
    let spec = serde_json::json!({ "job_id": name, "driver": "exec", "config": { "release": version },
        "rollout": { "strategy": "rolling", "max_parallel": 1, "health_check": health } });
    Ok(JobSpec::parse(&spec.to_string())?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let now: Time = "2026-01-01T00:00:00Z".parse()?;
    let release = GroupSpec::parse(
        r#"{ "name": "release", "members": [{ "job": "db" }, { "job": "api", "after": ["db"] },
             { "job": "web", "after": ["api"] }] }"#,
    )?;
    let (group, _first) = Group::new(now, release)?;
    let (jobs, wanted) = (BTreeMap::new(), BTreeMap::new());
    let mut driver = Driver {
        group,
        jobs,
        wanted,
        now,
        reports: 0,
    };
    for name in ["db", "api", "web"] {
        let id: JobId = name.parse()?;
        let mut job = Job::new(id.clone(), 7);
        let nodes = [Member::new("n1"), Member::new("n2")];
        step(&mut job, now, Input::Members(&nodes))?;
        step(&mut job, now, register(&spec(name, 1)?).into())?;
        driver.jobs.insert(id.clone(), job);
        driver.wanted.insert(id, spec(name, 2)?);
    }
    // The first release of each, by itself.
    while driver
        .jobs
        .values()
        .any(|job| job.outstanding().next().is_some())
    {
        driver.report(|_, _| false)?;
    }
    driver.group.step(driver.now, group::Input::Start)?;
    driver.serve()?;
    while !driver.is_over() {
        driver.report(|id, version| id.to_string().ends_with("web") && version == 2)?;
        driver.serve()?;
    }
    println!(
        "{}  the release is {:?}",
        driver.now,
        driver.group.state().state()
    );
    assert!(driver.jobs.values().all(|job| job.current() == 1));
    Ok(())
}
