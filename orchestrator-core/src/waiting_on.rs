//! What an unfinished deployment waits for, and the one sentence that tells an operator.

use std::collections::BTreeSet;
use std::fmt;

use crate::decide::{none_wanted, too_many_failed};
use crate::event::{Aftermath, Cause, DeploymentKind, DeploymentState};
use crate::job::Job;
use crate::rollout::{Head, Rollout};
use crate::state::{Moment, State};
use crate::time::Time;

/// What has to happen before a deployment can go on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum WaitingOn {
    /// Targets in flight, until their deadline at the latest.
    Health {
        /// How many.
        targets: u32,
        /// What they have to show.
        sign: Sign,
        /// The earliest of their deadlines.
        deadline: Option<Time>,
    },
    /// Updated targets that turned bad or have moved, until their deadline at the latest.
    Proof {
        /// How many.
        targets: u32,
        /// What they have to show again.
        sign: Sign,
        /// The earliest of their deadlines.
        deadline: Option<Time>,
    },
    /// A person who promotes the canaries.
    Promotion,
    /// A person who resumes it.
    Resume,
    /// A node that can be given work, or is heard of again.
    ReadyNode,
    /// Someone who scales the job up: it is to have no executions, and those of a new version are to be watched.
    Executions,
    /// The driver, which is to say [which nodes match](crate::Job::members_due).
    Members,
}

/// What makes a target updated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sign {
    /// Health for long enough.
    Healthy,
    /// A start, where no health is asked for.
    Started,
    /// The end of its workload, of a batch job.
    Done,
    /// The end of its workload, of a stop.
    Stopped,
}

impl fmt::Display for Sign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "become healthy",
            Self::Started => "start",
            Self::Done => "finish",
            Self::Stopped => "stop",
        })
    }
}

/// What a deployment's targets have to show.
fn sign(head: &Head) -> Sign {
    if head.kind == DeploymentKind::Stop {
        Sign::Stopped
    } else if head.is_batch() {
        Sign::Done
    } else if head.spec.gate().is_some() {
        Sign::Healthy
    } else {
        Sign::Started
    }
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Health { targets, sign, .. } => {
                write!(f, "{targets} {} to {sign}", nodes(*targets))
            }
            Self::Proof { targets, sign, .. } => {
                write!(f, "{targets} updated {} to {sign} again", nodes(*targets))
            }
            Self::Promotion => f.write_str("promotion"),
            Self::Resume => f.write_str("resume"),
            Self::ReadyNode => f.write_str("a ready node"),
            Self::Executions => f.write_str("executions: the job is scaled to 0"),
            Self::Members => f.write_str("the list of the nodes that match"),
        }
    }
}

impl Job {
    /// What the active deployment waits for; `None` where there is none.
    pub fn waiting_on(&self) -> Option<WaitingOn> {
        self.state
            .active()
            .map(|rollout| waiting_on(&self.state, rollout))
    }
}

pub(crate) fn waiting_on(state: &State, rollout: &Rollout) -> WaitingOn {
    let head = &rollout.head;
    if head.state == DeploymentState::Paused {
        return WaitingOn::Resume;
    }
    if head.tally.in_flight() > 0 {
        let deadline = rollout.due_first().map(|due| wall(state, rollout, due));
        return WaitingOn::Health {
            targets: head.tally.in_flight(),
            sign: sign(head),
            deadline,
        };
    }
    if state.members_due && head.kind != DeploymentKind::Stop {
        return WaitingOn::Members;
    }
    if rollout.is_gated() && rollout.canaries_well() {
        return WaitingOn::Promotion;
    }
    // Updated targets that turned bad have a deadline again; silent ones only come back.
    let doubted = Doubted::of(rollout);
    match doubted.due() {
        Some(due) => WaitingOn::Proof {
            targets: doubted.len() as u32,
            sign: sign(head),
            deadline: Some(wall(state, rollout, due)),
        },
        None if none_wanted(state, rollout) => WaitingOn::Executions,
        None => WaitingOn::ReadyNode,
    }
}

/// How many nodes a sentence names.
const NAMES_MAX: usize = 3;

/// The updated targets that it waits for: canaries whenever they turned bad.
struct Doubted<'a> {
    rollout: &'a Rollout,
    /// Of all that are unproven, those that count.
    only: Option<&'a BTreeSet<u32>>,
}

impl<'a> Doubted<'a> {
    fn of(rollout: &'a Rollout) -> Self {
        let only = (!rollout.is_gated()).then_some(&rollout.awaited);
        Self { rollout, only }
    }

    fn len(&self) -> usize {
        self.only.map_or(self.rollout.suspects.len(), BTreeSet::len)
    }

    /// The earliest of their deadlines. Who is not among them was mostly bad later, and is due later.
    fn due(&self) -> Option<u64> {
        let counts = |target: &u32| self.only.is_none_or(|only| only.contains(target));
        let first = self.rollout.suspects.iter().find(counts);
        first.and_then(|target| self.rollout.suspects.of(target))
    }

    /// Their nodes, of many some of them.
    fn names(&self, state: &State) -> String {
        let all: &mut dyn Iterator<Item = u32> = match self.only {
            None => &mut self.rollout.suspects.iter(),
            Some(only) => &mut only.iter().copied(),
        };
        let names = all.take(NAMES_MAX);
        let names = names.map(|t| state.node_of(self.rollout.targets[t as usize].slot));
        let mut text = names.collect::<Vec<_>>().join(", ");
        let more = self.len().saturating_sub(NAMES_MAX);
        if more > 0 {
            text += &format!(" and {more} more");
        }
        text
    }
}

/// A deadline on the driver's clock. While paused: as if it were resumed now.
pub(crate) fn wall(state: &State, rollout: &Rollout, due: u64) -> Time {
    let Moment { wall, elapsed } = state.moment;
    let left = due.saturating_sub(rollout.deadline_clock(elapsed));
    Time::from_millis(wall.as_millis().saturating_add(left))
}

/// One sentence: what is going on, and why.
pub(crate) fn message(state: &State, rollout: Option<&Rollout>, head: &Head) -> String {
    let done = format!(
        "{} of {} {} updated",
        head.tally.updated,
        head.total,
        nodes(head.total)
    );
    match (head.state, rollout) {
        (DeploymentState::Completed, _) => {
            let done = match head.total {
                0 => "nothing had to start".to_owned(),
                _ => done,
            };
            let mut text = match head.kind {
                DeploymentKind::Stop if head.total == 0 => {
                    "stopped: nothing was running".to_owned()
                }
                DeploymentKind::Stop => format!(
                    "stopped on {} of {} {}",
                    head.tally.updated,
                    head.total,
                    nodes(head.total)
                ),
                DeploymentKind::Rollback => format!("rolled back to version {}: {done}", head.to),
                _ => format!("completed: {done}"),
            };
            if head.tally.unproven > 0 {
                text += &format!(", {} of them not yet well again", head.tally.unproven);
            }
            if head.tally.failed > 0 {
                // A person went on with more than that, or a rollback found them failed.
                let all_count = head.tally.failed_before == 0;
                let within = all_count && too_many_failed(head).is_none();
                let limits = if within { " within the limits" } else { "" };
                text += &format!(", {} failed{limits}", head.tally.failed);
            }
            let away = head.tally.skipped - head.tally.gone;
            if away > 0 {
                text += &format!(", {away} will converge when back");
            }
            text
        }
        (DeploymentState::Failed, _) => {
            let why = head
                .cause
                .as_ref()
                .map(|c| cause(c, head.culprit.as_deref()))
                .unwrap_or_default();
            format!("failed: {why}; {}", aftermath(head.aftermath, head.kind))
        }
        (DeploymentState::Canceled, _) => match &head.cause {
            Some(Cause::Superseded { .. }) => head
                .cause
                .as_ref()
                .map(|c| cause(c, head.culprit.as_deref()))
                .unwrap_or_default(),
            _ => format!("canceled by an operator: {done}, nodes stay as they are"),
        },
        (DeploymentState::Paused, _) => match &head.cause {
            // By now more may have failed than when it was paused.
            Some(why) => format!(
                "paused by a failure: {}; resume, fail or cancel it",
                match (why, too_many_failed(head)) {
                    (Cause::CanaryFailed { .. }, _) | (_, None) =>
                        cause(why, head.culprit.as_deref()),
                    (_, Some(now)) => cause(&now, None),
                }
            ),
            None => format!("paused by an operator: {done}"),
        },
        (_, None) => done,
        (_, Some(rollout)) => match waiting_on(state, rollout) {
            WaitingOn::Health { targets, sign, .. } if rollout.is_gated() => {
                let waited = canaries(targets, head.canaries_wanted);
                format!("wave {}: waiting for {waited} to {sign}", head.wave)
            }
            WaitingOn::Health { targets, sign, .. } => {
                format!(
                    "wave {}: {done}, waiting for {targets} {} to {sign}",
                    head.wave,
                    nodes(targets)
                )
            }
            WaitingOn::Proof { sign, .. } => {
                let doubted = Doubted::of(rollout);
                let count = doubted.len() as u32;
                let which = if count == head.tally.updated {
                    ""
                } else {
                    " of them"
                };
                let names = doubted.names(state);
                let wave = head.wave;
                format!("wave {wave}: {done}, waiting for {count}{which} to {sign} again: {names}")
            }
            WaitingOn::Promotion if head.tally.canaries == 1 => {
                "the canary is healthy: waiting for promotion".to_owned()
            }
            WaitingOn::Promotion => {
                let all = head.tally.canaries;
                let well = match all {
                    1 => "the canary is healthy".to_owned(),
                    _ => format!("all {all} canaries are healthy"),
                };
                format!("{well}: waiting for promotion")
            }
            WaitingOn::Resume => format!("paused: {done}"),
            WaitingOn::Executions => "waiting for executions: the job is scaled to 0".to_owned(),
            WaitingOn::Members => {
                format!("{done}, waiting for the list of the nodes that match")
            }
            WaitingOn::ReadyNode if rollout.is_gated() && head.tally.canaries > 0 => {
                let slot = |&t: &u32| rollout.targets[t as usize].slot;
                let slots = rollout.canaries.iter().map(slot);
                let nowhere = slots.filter(|slot| state.unplaced.contains(slot)).count();
                let all = head.tally.canaries;
                if nowhere > 0 {
                    format!(
                        "waiting for a node with room for {}",
                        canaries(nowhere as u32, all)
                    )
                } else {
                    let silent = all - head.tally.canaries_well;
                    format!("waiting for {} to be heard of again", canaries(silent, all))
                }
            }
            WaitingOn::ReadyNode => {
                match head.tally.skipped - head.tally.gone + head.tally.pending {
                    0 if head.total == 0 => "waiting for a ready node: none matches yet".to_owned(),
                    0 => format!("waiting for a ready node: {done}, none matches any more"),
                    away => format!("waiting for a ready node: {done}, {away} away"),
                }
            }
        },
    }
}

/// Why, in words; `canary` is the name of the one that failed.
pub(crate) fn cause(cause: &Cause, canary: Option<&str>) -> String {
    match cause {
        Cause::Done => "every target had its turn".to_owned(),
        Cause::CanaryFailed { .. } => {
            format!("canary {} failed", canary.unwrap_or("?"))
        }
        Cause::TooManyFailed { failed, allowed } => {
            format!(
                "{failed} {} failed, more than the {allowed} that max_failed_nodes allows",
                nodes(*failed)
            )
        }
        Cause::TooLargeShareFailed {
            failed,
            total,
            allowed_percent,
        } => format!(
            "{failed} of {total} {} failed, more than the {allowed_percent} % that max_failed_nodes_percent allows",
            nodes(*total)
        ),
        Cause::NothingUpdated { failed: 1 } => {
            "its only node failed: nothing speaks for this version".to_owned()
        }
        Cause::NothingUpdated { failed } => {
            format!("all {failed} nodes failed: nothing speaks for this version")
        }
        Cause::Superseded { kind, to } => match kind {
            DeploymentKind::Create | DeploymentKind::Update => {
                format!("superseded by version {to}")
            }
            DeploymentKind::Rollback => format!("superseded by a rollback to version {to}"),
            DeploymentKind::Stop => "superseded by a stop of the job".to_owned(),
            DeploymentKind::Restart => "superseded by a restart".to_owned(),
        },
        Cause::Operator { reason } if reason.is_empty() => {
            "an operator called it failed".to_owned()
        }
        Cause::Operator { reason } => format!("an operator called it failed: {reason}"),
    }
}

/// What followed on a deployment of this kind, in words.
pub(crate) fn aftermath(aftermath: Aftermath, kind: DeploymentKind) -> String {
    match aftermath {
        Aftermath::Nothing => "nothing follows".to_owned(),
        Aftermath::RollBack { to } => format!("rolling back to version {to}"),
        Aftermath::RollbackOff => {
            "no rollback: it is turned off, nodes stay as they are".to_owned()
        }
        Aftermath::NoStableVersion => {
            "no rollback: there is no stable version to go back to".to_owned()
        }
        Aftermath::WasRollback => "no rollback: a rollback never starts another".to_owned(),
        Aftermath::SameVersion if kind == DeploymentKind::Stop => {
            "no rollback: what has stopped stays stopped".to_owned()
        }
        Aftermath::SameVersion => "no rollback: the version is the one that ran before".to_owned(),
        Aftermath::NothingTouched => "no rollback: no node was touched".to_owned(),
        Aftermath::WasStopped => "no rollback: the job was stopped before".to_owned(),
    }
}

pub(crate) fn nodes(count: u32) -> &'static str {
    if count == 1 { "node" } else { "nodes" }
}

pub(crate) fn canaries(count: u32, all: u32) -> String {
    match all {
        1 => "the canary".to_owned(),
        _ => format!("{count} of {all} canaries"),
    }
}
