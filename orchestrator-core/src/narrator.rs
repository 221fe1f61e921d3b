//! What an entry says, as a sentence and as names.
//!
//! Entries speak of numbers, and what a number means changes within a step: a deployment that begins counts its targets
//! anew, an execution goes to another node, a node that left gives its number to one that comes. So names are looked up
//! at the entry's own place: while the step is made, or by one who follows the log.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;

use crate::event::{
    Aftermath, Cause, DeploymentKind, DeploymentState, Entry, Event, Presence, Want,
};
use crate::job::Job;
use crate::replay::{BrokenLog, check};
use crate::runs::Runs;
use crate::spec::{RolloutSpec, Strategy};
use crate::state::State;
use crate::time::Span;
use crate::waiting_on::{aftermath, cause, nodes};

/// How many nodes a sentence names before the rest is only counted.
const SAID_MAX: usize = 5;

/// What an entry says. As text it is one sentence, which names a few of the nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sentence {
    /// The nodes that it speaks of, in the order of the entry's numbers.
    pub nodes: Named,
    /// The nodes whose turn it was, but that were not ready.
    pub skipped: Named,
    /// Before the names.
    lead: String,
    /// After them; `None` where the sentence has none.
    tail: Option<String>,
}

/// Nodes by name.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Named {
    /// The first of them, as many as were asked for. One is empty where an execution was on no node.
    pub names: Vec<String>,
    /// How many there are.
    pub count: u32,
}

/// Follows a job's log and says what each entry says.
///
/// It holds a copy of the job: for the whole log [a new one](Job::new), for its end a
/// [snapshot](Job::from_snapshot). Whoever makes the entries has it cheaper: [`Job::step_in_words`].
#[derive(Clone, Debug)]
pub struct Narrator {
    job: Job,
    names_max: usize,
}

impl Narrator {
    /// Goes on where `job` is; names no more than `names_max` nodes for each entry.
    pub fn new(job: Job, names_max: usize) -> Self {
        Self { job, names_max }
    }

    /// The entry that follows.
    pub fn tell(&mut self, entry: impl Borrow<Entry>) -> Result<Sentence, BrokenLog> {
        let entry = entry.borrow();
        check(&self.job.state, entry)?;
        let sentence = Sentence::of(&self.job.state, &entry.event, self.names_max);
        self.job.catch_up([entry])?;
        Ok(sentence)
    }

    /// The job, after the entries that were told.
    pub fn job(&self) -> &Job {
        &self.job
    }
}

/// Listens to a step that is being made.
#[derive(Debug)]
pub(crate) struct Words {
    names_max: usize,
    said: Vec<Sentence>,
}

impl Words {
    pub(crate) fn new(names_max: usize) -> Self {
        Self {
            names_max,
            said: Vec::new(),
        }
    }

    /// A fact that is about to be taken in; `joins` the entry before it.
    #[cold] // Most steps are made without words, and are not to pay for them.
    pub(crate) fn hear(&mut self, state: &State, event: &Event, joins: bool) {
        let new = Sentence::of(state, event, self.names_max);
        match self.said.last_mut().filter(|_| joins) {
            // Facts that merge differ in their nodes only.
            Some(last) => last.nodes.merge(new.nodes, self.names_max),
            None => self.said.push(new),
        }
    }

    pub(crate) fn said(self) -> Vec<Sentence> {
        self.said
    }
}

impl Named {
    fn new<'a>(names: impl Iterator<Item = &'a str>, count: usize, max: usize) -> Self {
        Self {
            names: names.take(max).map(str::to_owned).collect(),
            count: count as u32,
        }
    }

    fn merge(&mut self, other: Self, max: usize) {
        let room = max.saturating_sub(self.names.len());
        self.names.extend(other.names.into_iter().take(room));
        self.count += other.count;
    }
}

/// `n1, n2 and 3 more`.
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.names.iter().filter(|name| !name.is_empty());
        let said: Vec<&str> = said.map(String::as_str).take(SAID_MAX).collect();
        let more = self.count - said.len() as u32;
        match (said.is_empty(), more) {
            (true, _) => write!(f, "{more} {}", nodes(more)),
            (false, 0) => f.write_str(&said.join(", ")),
            (false, _) => write!(f, "{} and {more} more", said.join(", ")),
        }
    }
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lead)?;
        match &self.tail {
            Some(tail) => write!(f, "{}{tail}", self.nodes),
            None => Ok(()),
        }
    }
}

impl Sentence {
    /// What `event` says to a job that is about to take it in.
    pub(crate) fn of(state: &State, event: &Event, names_max: usize) -> Self {
        let plain = |text: String| Self {
            nodes: Named::default(),
            skipped: Named::default(),
            lead: text,
            tail: None,
        };
        let listed = |lead: String, nodes: Named, tail: String| Self {
            nodes,
            tail: Some(tail),
            ..plain(lead)
        };
        let of_targets = |targets: &Runs| {
            let names = targets.iter().map(|target| name_of(state, target));
            Named::new(names, targets.count() as usize, names_max)
        };
        let of_heard = |heard: &[(u32, u32)]| {
            let names = heard.iter().map(|&(target, _)| name_of(state, target));
            Named::new(names, heard.len(), names_max)
        };
        let of_slots = |slots: &[u32]| {
            let names = slots.iter().map(|&slot| state.node_of(slot));
            Named::new(names, slots.len(), names_max)
        };
        let failed_canary = |cause: &Cause| match cause {
            Cause::CanaryFailed { target } => Some(name_of(state, *target)),
            _ => None,
        };
        let because = |lead: &str, why: &Cause, tail: String| {
            let canary = failed_canary(why);
            let nodes = Named::new(canary.into_iter(), canary.iter().count(), names_max);
            Self {
                nodes,
                ..plain(format!("{lead}: {}{tail}", cause(why, canary)))
            }
        };
        let none = String::new;
        match event {
            Event::Registered { version, .. } => plain(format!("version {version} was registered")),
            Event::NodesJoined { nodes } => {
                let names = nodes.iter().map(|member| member.name.as_str());
                let nodes = Named::new(names, nodes.len(), names_max);
                listed(none(), nodes, " joined".to_owned())
            }
            Event::MembersListed => plain("the nodes that match were listed".to_owned()),
            Event::NodesChanged { status, nodes } => {
                let names = nodes.iter().map(|node| state.members.name(node));
                let nodes = Named::new(names, nodes.count() as usize, names_max);
                listed(none(), nodes, format!(" {}", became(*status)))
            }
            Event::NodeRelabeled { node, zone, load } => {
                let node = Named::new([state.members.name(*node)].into_iter(), 1, names_max);
                let executions = if *load == 1 {
                    "execution"
                } else {
                    "executions"
                };
                let what = format!(" is now in {zone:?}, with {load} {executions} of other jobs");
                listed(none(), node, what)
            }
            Event::Scaled { replicas, retired } if retired.is_empty() => {
                plain(format!("scaled to {replicas} executions"))
            }
            Event::Scaled { replicas, retired } => listed(
                format!("scaled to {replicas} executions, those on "),
                of_slots(retired),
                " are taken away".to_owned(),
            ),
            Event::Placed { moves } => {
                let names = moves.iter().map(|&(_, node, _)| state.members.name(node));
                let count = moves.len();
                let executions = if count == 1 {
                    "execution"
                } else {
                    "executions"
                };
                let to = Named::new(names, count, names_max);
                listed(format!("{count} {executions} went to "), to, none())
            }
            Event::Retired { slots } => listed(
                "what no longer belongs to the job is to stop on ".to_owned(),
                of_slots(slots),
                none(),
            ),
            Event::Done { slots } => {
                listed("the work is done on ".to_owned(), of_slots(slots), none())
            }
            Event::Requested(Want { kind, to, .. }) => {
                plain(format!("{} was asked for", aim(*kind, *to)))
            }
            Event::Started(started) => {
                let size = (started.from, started.to, started.order.len() as u32);
                let text = beginning(size, started.kind, &started.spec, started.canaries);
                plain(text)
            }
            Event::Dispatched {
                wave,
                canary,
                targets,
                skipped,
            } => {
                let who = if *canary { "canaries " } else { "" };
                let mut tail = none();
                let left_out = of_targets(skipped);
                if left_out.count > 0 {
                    tail = format!("; {left_out} skipped: {}", away(state, skipped));
                }
                Self {
                    skipped: left_out,
                    ..listed(
                        format!("wave {wave} was sent to {who}"),
                        of_targets(targets),
                        tail,
                    )
                }
            }
            Event::Skipped { targets } => {
                let skipped = of_targets(targets);
                let text = format!("{skipped} skipped: {}", away(state, targets));
                Self {
                    skipped,
                    ..plain(text)
                }
            }
            Event::Healthy { heard } => listed(none(), of_heard(heard), " healthy".to_owned()),
            Event::Unhealthy { heard, cause } => {
                listed(none(), of_heard(heard), format!(" unhealthy: {cause}"))
            }
            Event::Restarted { heard } => listed(none(), of_heard(heard), " restarted".to_owned()),
            Event::Updated { heard } => listed(none(), of_heard(heard), " updated".to_owned()),
            Event::Failed { targets, reason } => {
                listed(none(), of_targets(targets), format!(" failed: {reason}"))
            }
            Event::Promoted { auto: true } => {
                plain("all canaries healthy: promoted by itself".to_owned())
            }
            Event::Promoted { auto: false } => plain("promoted by an operator".to_owned()),
            Event::Paused { failure: None } => plain("paused by an operator".to_owned()),
            Event::Paused { failure: Some(why) } => because("paused", why, none()),
            Event::Resumed => plain("resumed by an operator".to_owned()),
            Event::Ended {
                state: DeploymentState::Canceled,
                cause: Cause::Operator { .. },
                ..
            } => plain("canceled by an operator".to_owned()),
            Event::Ended {
                state: ending,
                cause,
                aftermath: follows,
            } => {
                let kind = state.active().map(|r| r.head.kind);
                let tail = match (follows, kind) {
                    (Aftermath::Nothing, _) | (_, None) => none(),
                    (_, Some(kind)) => format!("; {}", aftermath(*follows, kind)),
                };
                because(ending.word(), cause, tail)
            }
            Event::RolledBackBy { id } => plain(format!("deployment {id} takes it back")),
            Event::Converged { version, slots } => {
                let names = slots.iter().map(|slot| state.node_of(slot));
                let to = Named::new(names, slots.count() as usize, names_max);
                let what = match version {
                    0 => "what should not run is to stop, outside of a wave, on ".to_owned(),
                    _ => format!("version {version} was sent, outside of a wave, to "),
                };
                listed(what, to, none())
            }
            Event::ClockSetBack => plain("the driver's clock was set back".to_owned()),
            Event::Absent { millis } => plain(format!(
                "nobody listened for {}: deadlines moved on",
                Span::from_millis(*millis)
            )),
            Event::Answered(answered) => plain(format!("the key {:?} was answered", answered.key)),
            Event::Forgot { version } => plain(format!("version {version} was forgotten")),
        }
    }
}

/// The node of a target of the deployment that an event speaks of.
fn name_of(state: &State, target: u32) -> &str {
    let row = state.rollout.as_ref();
    let row = row.and_then(|r| r.targets.get(target as usize));
    row.map_or("", |t| state.node_of(t.slot))
}

/// Why targets have to be passed over.
fn away(state: &State, targets: &Runs) -> String {
    let away = |target: u32| match state.members.find(name_of(state, target)) {
        None if name_of(state, target).is_empty() => "without a node",
        None => "gone",
        Some(node) => match state.members.presence(node) {
            Presence::Ready => "without a node",
            Presence::Disconnected => "silent",
            Presence::Down => "down",
            Presence::Draining => "draining",
            Presence::Unmatched => "not matching",
            Presence::Gone => "gone",
        },
    };
    let why: BTreeSet<&str> = targets.iter().map(away).collect();
    let why: Vec<&str> = why.into_iter().collect();
    why.join(", ")
}

/// The beginning of a deployment.
pub(crate) fn beginning(
    (from, to, total): (u32, u32, u32),
    kind: DeploymentKind,
    spec: &RolloutSpec,
    canaries: u32,
) -> String {
    let how = match (&spec.strategy, kind) {
        (_, DeploymentKind::Rollback) => "rollback".to_owned(),
        (Strategy::Immediate { .. }, _) => "immediate".to_owned(),
        (Strategy::Rolling { .. }, _) if spec.max_parallel == 0 => {
            "rolling, all at once".to_owned()
        }
        (Strategy::Rolling { .. }, _) => format!("rolling, {} at a time", spec.max_parallel),
        (Strategy::Canary { .. }, _) => format!("canary, {canaries} first"),
    };
    let nodes = nodes(total);
    let what = match (kind, from) {
        (DeploymentKind::Stop, _) => format!("a stop of version {from}"),
        (DeploymentKind::Restart, _) => format!("a restart of version {from}"),
        (_, 0) => format!("version {to}"),
        (_, from) => format!("version {from} to version {to}"),
    };
    format!("{what} began over {total} {nodes} ({how})")
}

fn aim(kind: DeploymentKind, to: u32) -> String {
    match kind {
        DeploymentKind::Create | DeploymentKind::Update => format!("version {to}"),
        DeploymentKind::Restart => "a restart".to_owned(),
        DeploymentKind::Rollback => format!("a rollback to version {to}"),
        DeploymentKind::Stop => "a stop".to_owned(),
    }
}

fn became(status: Presence) -> &'static str {
    match status {
        Presence::Ready => "back",
        Presence::Disconnected | Presence::Down => "fell silent",
        Presence::Draining => "drained",
        Presence::Unmatched => "no longer matching",
        Presence::Gone => "left",
    }
}
