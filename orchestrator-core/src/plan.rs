//! What would happen, shown before anything moves.

use serde::Serialize;

use crate::admit::Rejection;
use crate::event::{DeploymentKind, DeploymentState, Event};
use crate::input::Request;
use crate::job::Job;
use crate::time::Time;

/// The waves that a command would lead to if every node stays as it is and every target turns healthy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Plan {
    /// What kind of deployment it would be; absent where none would begin.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<DeploymentKind>,
    /// The version that nodes would come from; 0 = nothing.
    pub from_version: u32,
    /// The version that they would go to; 0 = nothing.
    pub to_version: u32,
    /// Who would start together, and in which order.
    pub waves: Vec<PlannedWave>,
    /// Nodes that are not ready now: they would converge when they are back.
    pub skipped: Vec<String>,
    /// Nodes that would be told to stop when all is done: they no longer belong to the job.
    pub retired: Vec<String>,
    /// What would be superseded.
    pub supersedes: bool,
}

/// Targets that would start together.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct PlannedWave {
    /// Counts from 1.
    pub wave: u32,
    /// Whether they are canaries: a promotion has to come before the next wave that is none.
    pub canary: bool,
    /// Their nodes, in the order of their turn.
    pub nodes: Vec<String>,
}

impl Job {
    /// What `request` would lead to at `now`. Works on a copy, and by the very rules that then act:
    /// the plan is what happens, as long as no node comes, goes or fails.
    pub fn plan(&self, now: Time, request: Request) -> Result<Plan, Rejection> {
        let mut copy = self.clone();
        let before = copy.state.deployments;
        let supersedes = copy.state.active().is_some();
        let step = copy.step(now, request.into())?;
        let mut plan = Plan {
            kind: None,
            from_version: copy.state.current,
            to_version: copy.state.current,
            waves: Vec::new(),
            skipped: Vec::new(),
            retired: Vec::new(),
            supersedes: false,
        };
        if copy.state.deployments == before {
            return Ok(plan);
        }
        let Some(head) = copy.state.rollout.as_ref().map(|r| r.head.clone()) else {
            return Ok(plan);
        };
        (plan.kind, plan.from_version, plan.to_version) = (Some(head.kind), head.from, head.to);
        plan.supersedes = supersedes;
        let leave = copy
            .state
            .surplus
            .iter()
            .map(|&s| copy.state.slots[s as usize].node);
        plan.retired = leave
            .map(|node| copy.state.members.name(node).to_owned())
            .collect();
        let mut news = step.split().0;
        loop {
            for entry in news {
                if entry.of.is_some_and(|of| of.deployment == head.number) {
                    copy.note(&entry.event, &mut plan);
                }
            }
            news = copy.all_goes_well(now);
            if news.is_empty() {
                return Ok(plan);
            }
        }
    }

    fn note(&self, event: &Event, plan: &mut Plan) {
        let names = |targets: &crate::runs::Runs| {
            targets
                .iter()
                .map(|t| self.target_name(t).to_owned())
                .collect()
        };
        match event {
            Event::Dispatched {
                wave,
                canary,
                targets,
                skipped,
            } => {
                plan.waves.push(PlannedWave {
                    wave: *wave,
                    canary: *canary,
                    nodes: names(targets),
                });
                plan.skipped.append(&mut names(skipped));
            }
            Event::Skipped { targets } => plan.skipped.append(&mut names(targets)),
            _ => {}
        }
    }

    /// Lets everything in flight become updated, or the canaries promoted.
    fn all_goes_well(&mut self, now: Time) -> Vec<crate::event::Entry> {
        let Some(rollout) = self
            .state
            .active()
            .filter(|r| r.head.state == DeploymentState::InProgress)
        else {
            return Vec::new();
        };
        let open = rollout
            .open
            .iter()
            .flat_map(|&d| rollout.dispatches[d as usize].targets.iter());
        let in_flight = open.filter(|&t| rollout.targets[t as usize].state().is_in_flight());
        let heard: Vec<_> = in_flight
            .map(|t| (t, rollout.targets[t as usize].reported))
            .collect();
        let fact = if !heard.is_empty() {
            Event::Updated { heard }
        } else if rollout.is_gated() && rollout.canaries_well() {
            Event::Promoted { auto: false }
        } else {
            return Vec::new();
        };
        self.assume(now, fact)
    }
}

#[cfg(test)]
mod tests {
    use crate::input::{Command, Input, Interval, NodeChange, Observation, Report, Request};
    use crate::spec::{Canaries, HealthCheck, JobSpec, JobType, Placement, RolloutSpec, Strategy};
    use crate::{Event, Job, Member, Span, Time};

    fn spec(version: &str) -> JobSpec {
        let health_check = HealthCheck {
            deadline: Span::from_secs(60),
            min_healthy_time: Span::ZERO,
            max_error_rate: 0.1,
            interval: Span::from_secs(10),
            failure_threshold: 3,
            min_samples: 10,
        };
        let strategy = Strategy::Canary {
            health_check,
            canaries: Canaries::Percent(10),
            auto_promote: true,
        };
        let mut workload = serde_json::Map::new();
        workload.insert("version".to_owned(), version.into());
        JobSpec {
            id: "web".parse().unwrap(),
            job_type: JobType::Service,
            selector: Default::default(),
            placement: Placement::Every,
            lost_after: Span::from_secs(300),
            rollout: RolloutSpec {
                strategy,
                max_parallel: 4,
                spread: Some("zone".to_owned()),
                ..Default::default()
            },
            workload,
        }
    }

    #[test]
    fn the_plan_is_what_then_happens() {
        let now = Time::from_millis(1_000_000);
        let mut job = Job::new("web".parse().unwrap(), 3);
        let nodes: Vec<_> = (0..23)
            .map(|n| {
                NodeChange::Seen(Member {
                    zone: format!("z{}", n % 3),
                    ..Member::new(format!("n{n}"))
                })
            })
            .collect();
        let _ = job.step(now, Input::Nodes(&nodes)).unwrap();
        let register = || {
            Request::from(Command::Register {
                spec: Box::new(spec("1")),
                members: None,
                again: false,
            })
        };
        let before = job.snapshot();
        let plan = job.plan(now, register()).unwrap();
        assert_eq!(job.snapshot(), before, "a plan touches nothing");
        assert_eq!(plan.waves.len(), 1 + 5);
        assert!(plan.waves[0].canary && plan.waves[0].nodes.len() == 3);

        let mut entries = job.step(now, register().into()).unwrap().split().0;
        let mut waves = Vec::new();
        loop {
            for entry in &entries {
                if let Event::Dispatched { targets, .. } = &entry.event {
                    waves.push(
                        targets
                            .iter()
                            .map(|t| job.target_name(t).to_owned())
                            .collect::<Vec<_>>(),
                    );
                }
            }
            let reports: Vec<Report> = job
                .outstanding()
                .map(|a| Report {
                    target: a.target.unwrap(),
                    generation: a.generation,
                    number: 1,
                    what: Observation::Interval(Interval::PASSING),
                })
                .collect();
            if reports.is_empty() {
                break;
            }
            entries = job.step(now, Input::Reports(&reports)).unwrap().split().0;
        }
        let planned: Vec<_> = plan.waves.into_iter().map(|w| w.nodes).collect();
        assert_eq!(planned, waves);
    }
}
