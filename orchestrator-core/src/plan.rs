//! What would happen, shown before anything moves.

use serde::Serialize;

use crate::admit::{self, Rejection};
use crate::event::{Cause, DeploymentKind, DeploymentState, Entry, Event, Member};
use crate::input::{Input, Request};
use crate::job::Job;
use crate::narrator::Sentence;
use crate::time::Time;

/// The waves that a command would lead to if every node stays as it is and every target turns healthy: those of the
/// deployment that it would begin, or those that are still to come of the one under way.
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
    /// Nodes that would be told to stop, at once or when all is done: an execution there is not wanted any more.
    pub retired: Vec<String>,
    /// Whether a deployment under way would be superseded.
    pub supersedes: bool,
    /// Another selector or spread label would be in force, and nothing can be said of the waves before it is known
    /// which nodes match now: see [`Job::plan_among`].
    pub members_needed: bool,
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
        self.planned(now, request, None)
    }

    /// A [plan](Job::plan) for the case that these are the nodes that match, if the job would
    /// [ask for them](Plan::members_needed).
    pub fn plan_among(
        &self,
        now: Time,
        request: Request,
        members: &[Member],
    ) -> Result<Plan, Rejection> {
        self.planned(now, request, Some(members))
    }

    fn planned(
        &self,
        now: Time,
        request: Request,
        members: Option<&[Member]>,
    ) -> Result<Plan, Rejection> {
        // What is refused costs no copy.
        admit::command(&self.state, &request)?;
        self.clone().carried_out(now, request, members)
    }

    /// On a copy, which is of no use afterwards.
    fn carried_out(
        mut self,
        now: Time,
        request: Request,
        members: Option<&[Member]>,
    ) -> Result<Plan, Rejection> {
        let before = self.state.active().map(|r| r.head.number);
        let deployments = self.state.deployments;
        let mut news = self.in_words(now, request.into())?;
        if let Some(members) = members.filter(|_| self.state.members_due) {
            news.extend(self.in_words(now, Input::Members(members))?);
        }
        let goes =
            |entry: &Entry| matches!(entry.event, Event::Retired { .. } | Event::Scaled { .. });
        let gone = news.iter().filter(|(entry, _)| goes(entry));
        let names = gone.flat_map(|(_, sentence)| &sentence.nodes.names);
        // One that was on no node has none.
        let gone = names.filter(|name| !name.is_empty()).cloned().collect();
        let begins = self.state.deployments != deployments;
        let about = self.state.rollout.as_ref().map(|r| &r.head);
        let about = about.filter(|head| begins || before == Some(head.number));
        let current = self.state.current;
        let mut plan = Plan {
            kind: about.filter(|_| begins).map(|head| head.kind),
            from_version: about.map_or(current, |head| head.from),
            to_version: about.map_or(current, |head| head.to),
            waves: Vec::new(),
            skipped: Vec::new(),
            retired: Vec::new(),
            supersedes: news.iter().any(|(entry, _)| gives_way(&entry.event)),
            members_needed: self.state.members_due,
        };
        // What goes with the command itself, and what goes when all is done.
        plan.retired = gone;
        let Some(number) = about.map(|head| head.number) else {
            return Ok(plan);
        };
        let leave = self.state.surplus.iter();
        let leave = leave.map(|&slot| self.state.node_of(slot).to_owned());
        plan.retired.extend(leave);
        loop {
            for (entry, sentence) in news {
                if entry.of.is_some_and(|of| of.deployment == number) {
                    plan.note(&entry.event, sentence);
                }
            }
            news = self.all_goes_well(now);
            if news.is_empty() {
                return Ok(plan);
            }
        }
    }

    fn in_words(
        &mut self,
        now: Time,
        input: Input<'_>,
    ) -> Result<Vec<(Entry, Sentence)>, Rejection> {
        let (step, sentences) = self.step_in_words(now, input, usize::MAX)?;
        Ok(step.split().0.into_iter().zip(sentences).collect())
    }

    /// Lets everything in flight become updated, and what has turned bad well again; or the canaries promoted.
    fn all_goes_well(&mut self, now: Time) -> Vec<(Entry, Sentence)> {
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
        let suspects = rollout.suspects.iter();
        let heard: Vec<_> = in_flight
            .chain(suspects)
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

fn gives_way(event: &Event) -> bool {
    matches!(
        event,
        Event::Ended {
            cause: Cause::Superseded { .. },
            ..
        }
    )
}

impl Plan {
    fn note(&mut self, event: &Event, mut sentence: Sentence) {
        if let Event::Dispatched { wave, canary, .. } = event {
            self.waves.push(PlannedWave {
                wave: *wave,
                canary: *canary,
                nodes: sentence.nodes.names,
            });
        }
        self.skipped.append(&mut sentence.skipped.names);
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
                    let name = |t| job.target_name(1, t).expect("it is a target").to_owned();
                    waves.push(targets.iter().map(name).collect::<Vec<_>>());
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

    #[test]
    fn who_goes_is_shown_also_where_it_goes_at_once() {
        let now = Time::from_millis(1_000_000);
        let replicas = |version: &str, count| {
            let placement = Placement::Replicas {
                count,
                distinct: true,
            };
            let rollout = RolloutSpec::default();
            Box::new(JobSpec {
                placement,
                rollout,
                ..spec(version)
            })
        };
        let register = |spec| {
            Request::from(Command::Register {
                spec,
                members: None,
                again: false,
            })
        };
        let mut job = Job::new("web".parse().unwrap(), 3);
        let nodes: Vec<_> = (0..4)
            .map(|n| NodeChange::Seen(Member::new(format!("n{n}"))))
            .collect();
        let _ = job.step(now, Input::Nodes(&nodes)).unwrap();
        let _ = job.step(now, register(replicas("1", 4)).into()).unwrap();
        let runs = |job: &Job| {
            let runs = |node: &&str| !job.desired(node).is_empty();
            job.nodes().filter(runs).map(str::to_owned).collect()
        };
        for request in [
            register(replicas("2", 0)),
            register(replicas("1", 3)),
            Command::Scale { replicas: 1 }.into(),
        ] {
            let plan = job.plan(now, request.clone()).unwrap();
            let before: std::collections::BTreeSet<String> = runs(&job);
            let mut after = job.clone();
            let _ = after.step(now, request.into()).unwrap();
            let gone = before.difference(&runs(&after)).cloned().collect();
            let mut planned = plan.retired;
            planned.sort();
            assert!(!planned.is_empty());
            assert_eq!(
                planned,
                Vec::from_iter::<std::collections::BTreeSet<String>>(gone)
            );
        }
    }
}
