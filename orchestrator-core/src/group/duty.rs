//! What a driver has to do for a member, told from where the group and the member's job are.

use serde::{Deserialize, Serialize};

use super::{Group, Input, MemberState, MemberStatus, Outcome};
use crate::admit::Rejection;
use crate::event::Standing;
use crate::id::DeploymentId;
use crate::input::{Command, Request};
use crate::job::{Answer, Ending, Job};

/// What a driver has to do for a member now.
#[derive(Clone, Debug)]
pub enum Duty {
    /// Step the job with a command that brings it to what the group wants of it, as a rule
    /// [`Register`](Command::Register), under this idempotency key.
    Start {
        /// The same for this group and job whenever it is asked for.
        key: String,
    },
    /// Step the job with this.
    Command(Request),
    /// Step the group with this.
    Tell(Input),
}

/// What an order to a job led to. Not to be made by hand: that a job has nothing to do is not to say that it is done.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LedTo {
    /// It began a deployment.
    #[non_exhaustive]
    Began {
        /// Which.
        deployment: DeploymentId,
        /// The version to go back to; 0 = nothing. Absent where the job has forgotten it.
        from: Option<u32>,
    },
    /// A deployment that others began is bringing it already.
    #[non_exhaustive]
    Awaited {
        /// Which.
        deployment: DeploymentId,
    },
    /// There was nothing to do, and nothing was under way.
    #[non_exhaustive]
    Unchanged,
}

impl LedTo {
    /// What a job's answer means for a group.
    pub fn of(job: &Job, answer: &Answer) -> Self {
        match (answer.deployment, answer.standing) {
            (Some(deployment), Standing::New) => Self::Began {
                deployment,
                from: job.record(deployment).map(|record| record.from_version),
            },
            // Also where it is over by now: how it ended is still to be reported.
            (Some(deployment), Standing::UnderWay) => Self::Awaited { deployment },
            (_, Standing::Over) | (None, _) => Self::Unchanged,
        }
    }

    /// The deployment whose end is to be reported.
    pub fn deployment(self) -> Option<DeploymentId> {
        match self {
            Self::Began { deployment, .. } | Self::Awaited { deployment } => Some(deployment),
            Self::Unchanged => None,
        }
    }
}

impl Group {
    /// What is to be done for a member; `None` where the group wants nothing of the job now, or what it wants is
    /// under way. To be asked again after it was done.
    ///
    /// A job that refuses a command is reported with [`Group::refused`], unless the driver can mend the command.
    pub fn duty(&self, job: &Job) -> Option<Duty> {
        let member = self.state.member(job.id())?;
        match member.state {
            MemberState::Running => match member.deployment {
                None => self.started(job, || Duty::Start {
                    key: self.key("start"),
                }),
                Some(deployment) => ended(job, deployment).map(|outcome| finished(job, outcome)),
            },
            MemberState::Awaited => {
                let outcome = ended(job, member.deployment?)?;
                Some(finished(job, outcome))
            }
            MemberState::Canceling => match member.deployment {
                // It has never begun, and shall not.
                None => self.started(job, || finished(job, Outcome::Canceled)),
                Some(deployment) => match ended(job, deployment) {
                    Some(outcome) => Some(finished(job, outcome)),
                    // One that has failed, and is going back by itself, is not to be stopped.
                    None => (under_way(job) == Some(deployment)).then(|| {
                        Duty::Command(Request {
                            command: Command::Cancel(deployment),
                            key: Some(self.key("cancel")),
                            expected: None,
                        })
                    }),
                },
            },
            MemberState::RollingBack => match member.rollback {
                None => Some(self.roll_back(job, member)),
                Some(rollback) => {
                    let ok = ended(job, rollback)? == Outcome::Completed;
                    Some(rolled_back(job, ok))
                }
            },
            MemberState::Waiting
            | MemberState::Completed
            | MemberState::Unchanged
            | MemberState::Failed
            | MemberState::RolledBack
            | MemberState::Canceled
            | MemberState::Stopped
            | MemberState::TakenBack
            | MemberState::TakeBackFailed
            | MemberState::Blocked { .. } => None,
        }
    }

    /// What to step the group with when a member's job refuses the command of a [`Duty`].
    pub fn refused(&self, job: &Job, why: &Rejection) -> Input {
        let job_id = job.id().clone();
        let state = self.state.member(job.id()).map(|member| &member.state);
        match (state, why) {
            (
                Some(MemberState::RollingBack),
                Rejection::NothingToRollBack(_) | Rejection::NothingRuns,
            ) => Input::Answered {
                job: job_id,
                // It is there, or on its way: then that is waited for.
                led_to: match under_way(job) {
                    Some(deployment) => LedTo::Awaited { deployment },
                    None => LedTo::Unchanged,
                },
            },
            (Some(MemberState::RollingBack), _) => Input::RollbackFinished {
                job: job_id,
                ok: false,
            },
            (Some(MemberState::Canceling), _) => Input::Finished {
                job: job_id,
                outcome: Outcome::Canceled,
            },
            _ => Input::Finished {
                job: job_id,
                outcome: Outcome::Failed,
            },
        }
    }

    /// What came of the start; `or` where the job was never told.
    fn started(&self, job: &Job, or: impl FnOnce() -> Duty) -> Option<Duty> {
        Some(match job.answered(&self.key("start")) {
            Some(answer) => answered(job, &answer),
            None => or(),
        })
    }

    fn roll_back(&self, job: &Job, member: &MemberStatus) -> Duty {
        let key = self.key("roll back");
        if let Some(answer) = job.answered(&key) {
            return answered(job, &answer);
        }
        let command = match (member.deployment, member.from) {
            // It has never begun.
            (None, _) => return rolled_back(job, true),
            (Some(_), None) => return rolled_back(job, false),
            // People have gone on from there, and somewhere else: what they did is not the group's to undo.
            (Some(own), Some(from)) if !is_left_to_us(job, own, from) => {
                return rolled_back(job, false);
            }
            (Some(_), Some(0)) => Command::Stop,
            (Some(_), Some(from)) => Command::RollBack { to: Some(from) },
        };
        Duty::Command(Request {
            command,
            key: Some(key),
            expected: None,
        })
    }

    /// Of this very group, also if a later one has its name; within what a job [keeps](crate::KEY_BYTES_MAX).
    fn key(&self, order: &str) -> String {
        // Names are ASCII.
        let name = &self.state.spec.name;
        format!(
            "group/{}/{:016x}/{order}",
            &name[..name.len().min(100)],
            self.mark
        )
    }
}

/// How a deployment ended. One that the job has forgotten was followed by many others: it was canceled if nothing
/// else.
fn ended(job: &Job, deployment: DeploymentId) -> Option<Outcome> {
    match job.outcome(deployment) {
        Ending::UnderWay => None,
        Ending::Known(outcome) => Some(outcome),
        Ending::Unknown => Some(Outcome::Canceled),
    }
}

/// Whether the job is still where the group's own deployment has brought it, or back already where that came from.
fn is_left_to_us(job: &Job, own: DeploymentId, from: u32) -> bool {
    let last = job.deployments().next().map(|last| last.to_version);
    let own = job.summary(own).map(|own| own.to_version);
    last.is_some_and(|last| last == from || own == Some(last))
}

fn under_way(job: &Job) -> Option<DeploymentId> {
    job.state.active().map(|rollout| rollout.head.id)
}

fn answered(job: &Job, answer: &Answer) -> Duty {
    Duty::Tell(Input::Answered {
        job: job.id().clone(),
        led_to: LedTo::of(job, answer),
    })
}

fn finished(job: &Job, outcome: Outcome) -> Duty {
    Duty::Tell(Input::Finished {
        job: job.id().clone(),
        outcome,
    })
}

fn rolled_back(job: &Job, ok: bool) -> Duty {
    Duty::Tell(Input::RollbackFinished {
        job: job.id().clone(),
        ok,
    })
}
