//! From the log: why a deployment is where it is, as a short chain of causes in plain words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::event::{Bad, DeploymentKind, Entry, Event, Presence, Reason};
use crate::id::{DeploymentId, JobId};
use crate::job::Job;
use crate::replay::BrokenLog;
use crate::runs::Runs;
use crate::spec::Strategy;
use crate::time::Time;
use crate::waiting_on::{aftermath, cause, nodes};

/// How many nodes are named before the rest is only counted.
const NAMED_MAX: usize = 5;
/// How many links a chain has at the most; the first and the last ones are kept.
const LINKS_MAX: usize = 40;

/// Why a deployment is where it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// What happened, oldest first, each with its time.
    pub links: Vec<(Time, String)>,
    /// Where that has led to, in one sentence.
    pub now: String,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in &self.links {
            writeln!(f, "{at}  {text}")?;
        }
        write!(f, "now: {}", self.now)
    }
}

/// Reads a job's whole log for one of its deployments, and for the rollback that followed from it.
/// `None` where the log knows no such deployment.
pub fn explain(
    id: JobId,
    seed: u64,
    log: impl IntoIterator<Item = Entry>,
    deployment: DeploymentId,
) -> Result<Option<Explanation>, BrokenLog> {
    let mut chain = Chain::new(Job::new(id, seed), deployment);
    for entry in log {
        // Names are looked up before the entry that may free them, and after the one that gives them.
        let about = chain.is_about(&entry);
        if about {
            chain.before(&entry);
        }
        chain.job.catch_up([entry.clone()])?;
        if about {
            chain.after(&entry);
        }
    }
    Ok(chain.finish())
}

struct Chain {
    job: Job,
    deployment: DeploymentId,
    /// The numbers of the deployment and of its rollback.
    number: Option<u32>,
    rollback: Option<u32>,
    links: Vec<(Time, String)>,
    left_out: u32,
    bad: BTreeMap<u32, Bad>,
    now: String,
}

impl Chain {
    fn new(job: Job, deployment: DeploymentId) -> Self {
        Self {
            job,
            deployment,
            number: None,
            rollback: None,
            links: Vec::new(),
            left_out: 0,
            bad: BTreeMap::new(),
            now: String::new(),
        }
    }

    fn is_about(&mut self, entry: &Entry) -> bool {
        if let Event::Started(started) = &entry.event {
            if started.id == self.deployment {
                self.number = Some(started.number);
            } else if started.rollback_of == Some(self.deployment) {
                self.rollback = Some(started.number);
                self.bad.clear();
            }
        }
        let number = entry.of.map(|of| of.deployment);
        number.is_some() && (number == self.number || number == self.rollback)
    }

    fn before(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Unhealthy { heard, cause } => {
                self.bad.extend(heard.iter().map(|(t, _)| (*t, *cause)))
            }
            Event::Failed { targets, reason } => {
                let mut text = format!("{} failed: {reason}", self.names(targets));
                // What was bad about one of several is not why the others failed.
                let mut bad = targets.iter().map(|t| self.bad.get(&t));
                if let (Reason::Deadline, Some(Some(bad)), None) = (reason, bad.next(), bad.next())
                {
                    text += &format!("; bad at last by {bad}");
                }
                self.link(entry.at, text);
            }
            Event::Healthy { heard } | Event::Updated { heard } => {
                heard.iter().for_each(|(t, _)| {
                    self.bad.remove(t);
                });
            }
            Event::Skipped { targets } => self.skipped(entry.at, targets),
            Event::Dispatched { skipped, .. } if !skipped.is_empty() => {
                self.skipped(entry.at, skipped);
            }
            Event::Scaled { replicas, .. } => {
                self.link(entry.at, format!("scaled to {replicas} executions"));
            }
            Event::ClockSetBack => {
                self.link(entry.at, "the driver's clock was set back".to_owned());
            }
            Event::Promoted { auto: true } => self.link(
                entry.at,
                "all canaries healthy: promoted by itself".to_owned(),
            ),
            Event::Promoted { auto: false } => {
                self.link(entry.at, "promoted by an operator".to_owned())
            }
            Event::Resumed => self.link(entry.at, "resumed by an operator".to_owned()),
            Event::NodesChanged { status, nodes } => {
                let names = nodes.iter().take(NAMED_MAX);
                let names: Vec<&str> = names.map(|n| self.job.node_name(n)).collect();
                let text = format!("{} {}", list(&names, nodes.count()), became(*status));
                self.link(entry.at, text);
            }
            Event::Absent { millis } => {
                let text = format!(
                    "nobody listened for {}: deadlines moved on",
                    crate::Span::from_millis(*millis)
                );
                self.link(entry.at, text);
            }
            _ => {}
        }
    }

    fn after(&mut self, entry: &Entry) {
        match &entry.event {
            Event::Started(started) => {
                let how = match (&started.spec.strategy, started.kind) {
                    (_, DeploymentKind::Rollback) => "rollback, no gates".to_owned(),
                    (Strategy::Immediate { .. }, _) => "immediate".to_owned(),
                    (Strategy::Rolling { .. }, _) if started.spec.max_parallel == 0 => {
                        "rolling, all at once".to_owned()
                    }
                    (Strategy::Rolling { .. }, _) => {
                        format!("rolling, {} at a time", started.spec.max_parallel)
                    }
                    (Strategy::Canary { .. }, _) => format!("canary, {} first", started.canaries),
                };
                let total = started.order.len() as u32;
                let (from, to) = (started.from, started.to);
                let text = format!(
                    "version {from} to version {to} began over {total} {} ({how})",
                    nodes(total)
                );
                self.link(entry.at, text);
            }
            Event::Dispatched {
                wave,
                canary,
                targets,
                ..
            } => {
                let who = if *canary { "canaries " } else { "" };
                let text = format!("wave {wave} was sent to {who}{}", self.names(targets));
                self.link(entry.at, text);
            }
            Event::Placed { moves } => {
                let names = moves.iter().take(NAMED_MAX);
                let names: Vec<&str> = names
                    .map(|(_, node, _)| self.job.node_name(*node))
                    .collect();
                let (count, names) = (moves.len() as u32, list(&names, moves.len() as u32));
                let executions = if count == 1 {
                    "execution"
                } else {
                    "executions"
                };
                self.link(entry.at, format!("{count} {executions} went to {names}"));
            }
            Event::Paused { failure } => {
                let head = self.job.state.rollout.as_ref().map(|r| &r.head);
                let text = match failure.as_ref().zip(head) {
                    Some((failure, head)) => format!("paused: {}", cause(failure, head)),
                    None => "paused by an operator".to_owned(),
                };
                self.link(entry.at, text);
            }
            Event::Ended {
                cause: why, state, ..
            } => {
                let head = self.job.state.rollout.as_ref().map(|r| &r.head);
                let Some(head) = head else { return };
                let ending = crate::admit::state_word(state);
                let mut text = format!("{ending}: {}", cause(why, head));
                if head.aftermath != crate::event::Aftermath::Nothing {
                    text += &format!("; {}", aftermath(head));
                }
                self.link(entry.at, text);
                self.conclude();
            }
            _ => {}
        }
    }

    /// Keeps the last sentence of what the chain is about, before the job forgets it.
    fn conclude(&mut self) {
        let number = self.rollback.or(self.number);
        if let Some(record) = number.and_then(|number| self.job.record_by_number(number)) {
            self.now = record.status.message;
        }
    }

    fn link(&mut self, at: Time, text: String) {
        if self.links.len() == LINKS_MAX {
            // What lies between the beginning and the end is left out, not the end.
            self.links.remove(LINKS_MAX / 2);
            self.left_out += 1;
        }
        self.links.push((at, text));
    }

    fn finish(mut self) -> Option<Explanation> {
        self.number?;
        self.conclude();
        if self.left_out > 0 {
            let at = self.links[LINKS_MAX / 2].0;
            self.links
                .insert(LINKS_MAX / 2, (at, format!("… {} more …", self.left_out)));
        }
        Some(Explanation {
            links: self.links,
            now: self.now,
        })
    }

    fn skipped(&mut self, at: Time, targets: &Runs) {
        let away = |target| match self.job.presence(self.job.target_name(target)) {
            None => "gone",
            Some(Presence::Ready) => "without a node",
            Some(Presence::Disconnected) => "silent",
            Some(Presence::Down) => "down",
            Some(Presence::Draining) => "draining",
            Some(Presence::Unmatched) => "not matching",
            Some(Presence::Gone) => "gone",
        };
        let why: BTreeSet<&str> = targets.iter().map(away).collect();
        let why: Vec<&str> = why.into_iter().collect();
        let text = format!("{} skipped: {}", self.names(targets), why.join(", "));
        self.link(at, text);
    }

    fn names(&self, targets: &Runs) -> String {
        let names: Vec<&str> = targets
            .iter()
            .take(NAMED_MAX)
            .map(|t| self.job.target_name(t))
            .collect();
        list(&names, targets.count())
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

fn list(names: &[&str], count: u32) -> String {
    let more = count as usize - names.len();
    if more == 0 {
        names.join(", ")
    } else {
        format!("{} and {more} more", names.join(", "))
    }
}
