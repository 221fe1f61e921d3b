//! What a person orders.

use orchestrator_core::selector::Selector;
use orchestrator_core::spec::{
    Canaries, HealthCheck, JobSpec, JobType, OnFailure, Placement, RolloutSpec, Strategy,
};
use orchestrator_core::{Command, DeploymentId, Member, Request, Span};

use super::Story;
use super::words::{number, options, range, span, version};

/// The inner error is one that the person gets to read, the outer one a mistake in the story.
type Ordered = Result<Result<Request, String>, String>;

impl Story {
    /// The command that a line is, if it is one. Each takes `key=…` and `expected=…`.
    pub(super) fn command(&self, word: &str, rest: &str) -> Option<Ordered> {
        const WORDS: [&str; 11] = [
            "deploy", "register", "promote", "pause", "resume", "cancel", "fail", "restart",
            "stop", "rollback", "scale",
        ];
        WORDS.contains(&word).then(|| self.ordered(word, rest))
    }

    /// The command of `deploy …`.
    pub(crate) fn registration(&self, rest: &str) -> Result<Request, String> {
        self.ordered("deploy", rest)?
    }

    fn ordered(&self, word: &str, rest: &str) -> Ordered {
        let (rest, guard) = options(rest, &["key", "expected"])?;
        let command = match word {
            "deploy" => deploy(&rest)?,
            "register" => match JobSpec::parse(&rest) {
                Ok(spec) => Command::Register {
                    spec: Box::new(spec),
                    members: None,
                    again: false,
                },
                Err(why) => return Ok(Err(why.to_string())),
            },
            "fail" => Command::Fail {
                deployment: self.id()?,
                reason: rest.clone(),
            },
            "rollback" => Command::RollBack {
                to: match rest.as_str() {
                    "" => None,
                    to => Some(version(to)?),
                },
            },
            "scale" => Command::Scale {
                replicas: number(&rest)?,
            },
            _ if !rest.is_empty() => return Err(format!("{word} {rest}?")),
            "promote" => Command::Promote(self.id()?),
            "pause" => Command::Pause(self.id()?),
            "resume" => Command::Resume(self.id()?),
            "cancel" => Command::Cancel(self.id()?),
            "restart" => Command::Restart,
            _ => Command::Stop,
        };
        let expected = guard.get("expected").map(|text| number(text)).transpose()?;
        Ok(Ok(Request {
            command,
            key: guard.get("key").cloned(),
            expected,
        }))
    }

    fn id(&self) -> Result<DeploymentId, String> {
        let last = self.job.deployment();
        last.map(|r| r.id)
            .ok_or_else(|| "there is no deployment".to_owned())
    }
}

/// `deploy v2 canary 2 waves=3 deadline=5m …`: a version that differs from the others by its name.
fn deploy(rest: &str) -> Result<Command, String> {
    let mut words = rest.split_whitespace().peekable();
    let mut health = HealthCheck {
        deadline: Span::from_secs(300),
        min_healthy_time: Span::from_secs(30),
        max_error_rate: 0.1,
        interval: Span::from_secs(10),
        failure_threshold: 3,
        min_samples: 10,
    };
    let mut spec = JobSpec {
        id: "web".parse().unwrap(),
        job_type: JobType::Service,
        selector: Selector::default(),
        placement: Placement::Every,
        lost_after: Span::from_secs(300),
        rollout: RolloutSpec::default(),
        workload: serde_json::Map::new(),
    };
    let name = words.next().ok_or("deploy NAME …")?;
    spec.workload.insert("name".to_owned(), name.into());
    let mut strategy = "immediate";
    let mut canaries = Canaries::Count(1);
    let (mut auto_promote, mut again, mut members) = (false, false, None);
    let rollout = &mut spec.rollout;
    while let Some(word) = words.next() {
        let Some((key, value)) = word.split_once('=') else {
            match word {
                "immediate" => strategy = word,
                "rolling" => {
                    strategy = word;
                    if let Some(count) = words.next_if(|w| w.parse::<u32>().is_ok()) {
                        rollout.max_parallel = number(count)?;
                    }
                }
                "canary" => {
                    strategy = word;
                    let count = words.next().ok_or("canary N or N%")?;
                    canaries = match count.strip_suffix('%') {
                        Some(percent) => Canaries::Percent(number(percent)?),
                        None => Canaries::Count(number(count)?),
                    };
                }
                "auto_promote" => auto_promote = true,
                "no_auto_rollback" => rollout.no_auto_rollback = true,
                "again" => again = true,
                "batch" => spec.job_type = JobType::Batch,
                _ => return Err(format!("unknown word {word}")),
            }
            continue;
        };
        match key {
            "waves" => rollout.max_parallel = number(value)?,
            "max_failed" => rollout.max_failed_nodes = number(value)?,
            "max_failed_percent" => rollout.max_failed_nodes_percent = number(value)?,
            "on_failure" => {
                rollout.on_failure = match value {
                    "rollback" => OnFailure::Rollback,
                    "pause" => OnFailure::Pause,
                    "fail" => OnFailure::Fail,
                    _ => return Err("rollback, pause or fail".to_owned()),
                }
            }
            "spread" => rollout.spread = Some(value.to_owned()),
            "deadline" => health.deadline = span(value)?,
            "min_healthy" => health.min_healthy_time = span(value)?,
            "threshold" => health.failure_threshold = number(value)?,
            "error_rate" => health.max_error_rate = number(value)?,
            "min_samples" => health.min_samples = number(value)?,
            "lost_after" => spec.lost_after = span(value)?,
            "replicas" | "distinct" => {
                spec.placement = Placement::Replicas {
                    count: number(value)?,
                    distinct: key == "distinct",
                }
            }
            "selector" => spec.selector = value.parse().map_err(|e| format!("{e}"))?,
            "on" => {
                let mut list = Vec::new();
                for part in value.split(',') {
                    list.extend(range(part)?);
                }
                members = Some(list.into_iter().map(Member::new).collect());
            }
            _ => return Err(format!("unknown word {word}")),
        }
    }
    spec.rollout.strategy = match strategy {
        "rolling" => Strategy::Rolling {
            health_check: health,
        },
        "canary" => Strategy::Canary {
            health_check: health,
            canaries,
            auto_promote,
        },
        _ => Strategy::Immediate { health_check: None },
    };
    Ok(Command::Register {
        spec: Box::new(spec),
        members,
        again,
    })
}
