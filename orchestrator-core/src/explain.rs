//! From the log: why a deployment is where it is, as a short chain of causes in plain words.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use crate::event::{Bad, Entry, Event, Reason};
use crate::id::DeploymentId;
use crate::job::Job;
use crate::narrator::{Narrator, Sentence, beginning};
use crate::replay::BrokenLog;
use crate::time::Time;

/// How many nodes are looked up of an entry: more than are named, so that some may have no name.
const NAMES_MAX: usize = 20;
/// How many links a chain has at the most. What says least about why goes first: waves that went out one after the
/// other, then failures of single nodes; never what began and ended.
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

/// Reads a job's log for one of its deployments, and for the rollback that followed from it: from where `job` is,
/// which is [a new one](Job::new) for the whole log, and a [snapshot](Job::from_snapshot) for the rest of it. What a
/// snapshot knows already is said in short. `None` where neither knows such a deployment.
pub fn explain<E: Borrow<Entry>>(
    job: Job,
    log: impl IntoIterator<Item = E>,
    deployment: DeploymentId,
) -> Result<Option<Explanation>, BrokenLog> {
    let mut chain = Chain::new(job, deployment);
    for entry in log {
        let entry = entry.borrow();
        let about = chain.is_about(entry);
        let sentence = chain.narrator.tell(entry)?;
        if about {
            chain.hear(entry, &sentence);
        }
    }
    Ok(chain.finish())
}

/// The same where the log is not kept any more but for the entries of the deployment, and of its rollback: from these,
/// in their order, each with what was said of it when it was written. `now` is where it all has led to.
pub fn retell<E: Borrow<Entry>>(
    said: impl IntoIterator<Item = (E, String)>,
    now: String,
) -> Explanation {
    let mut links = Links::default();
    for (entry, text) in said {
        links.hear(entry.borrow(), text);
    }
    links.finish(now)
}

struct Chain {
    narrator: Narrator,
    deployment: DeploymentId,
    /// The numbers of the deployment and of its rollback.
    number: Option<u32>,
    rollback: Option<u32>,
    links: Links,
    now: String,
}

#[derive(Default)]
struct Links {
    all: Vec<Link>,
    bad: BTreeMap<u32, Bad>,
}

struct Link {
    at: Time,
    text: String,
    weight: Weight,
    /// So many are left out before it, of which the first was then.
    left_out: u32,
    since: Time,
}

/// How much is lost with a link.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Weight {
    /// Things take their course.
    Course,
    /// A node failed.
    Failure,
    /// A person, or a rule, decided something.
    Turn,
    /// A deployment began or ended.
    Frame,
}

impl Chain {
    fn new(job: Job, deployment: DeploymentId) -> Self {
        let mut chain = Self {
            narrator: Narrator::new(job, NAMES_MAX),
            deployment,
            number: None,
            rollback: None,
            links: Links::default(),
            now: String::new(),
        };
        chain.look_back();
        chain
    }

    /// What the job knows already: how each began, and where it is.
    fn look_back(&mut self) {
        let mut known = Vec::new();
        for head in self.narrator.job().state.heads() {
            if head.id == self.deployment {
                self.number = Some(head.number);
            } else if head.rollback_of == Some(self.deployment) {
                // The latest comes first.
                self.rollback.get_or_insert(head.number);
            } else {
                continue;
            }
            let size = (head.from, head.to, head.total);
            let began = beginning(size, head.kind, &head.spec, head.canaries_wanted);
            known.push((head.number, head.created, began, head.updated));
        }
        for (number, created, began, updated) in known.into_iter().rev() {
            self.links.add(created, began, Weight::Frame);
            if let Some(record) = self.narrator.job().record_by_number(number) {
                self.links
                    .add(updated, record.status.message, Weight::Frame);
            }
        }
    }

    fn is_about(&mut self, entry: &Entry) -> bool {
        if let Event::Started(started) = &entry.event {
            if started.id == self.deployment {
                self.number = Some(started.number);
            } else if started.rollback_of == Some(self.deployment) {
                self.rollback = Some(started.number);
            }
        }
        let number = entry.of.map(|of| of.deployment);
        number.is_some() && (number == self.number || number == self.rollback)
    }

    fn hear(&mut self, entry: &Entry, sentence: &Sentence) {
        if matches!(entry.event, Event::Ended { .. }) {
            self.conclude();
        }
        if let Event::Placed { moves } = &entry.event {
            // What it has shown on another node says nothing of where it is now.
            let state = &self.narrator.job().state;
            for target in moves.iter().filter_map(|&(slot, ..)| state.target_of(slot)) {
                self.links.bad.remove(&target);
            }
        }
        self.links.hear(entry, sentence.to_string());
    }

    /// Keeps the last sentence of what the chain is about, before the job forgets it.
    fn conclude(&mut self) {
        let number = self.rollback.or(self.number);
        let job = self.narrator.job();
        if let Some(record) = number.and_then(|number| job.record_by_number(number)) {
            self.now = record.status.message;
        }
        // Why it waits for them, as far as that is known.
        let rollout = job.state.active();
        let rollout = rollout.filter(|r| Some(r.head.number) == number);
        let awaited = rollout.into_iter().flat_map(|r| &r.awaited);
        let mut known = awaited.filter_map(|t| Some((*t, self.links.bad.get(t)?)));
        if let Some((target, bad)) = known.next() {
            let name = rollout.and_then(|r| job.target_name(r.head.number, target));
            self.now += &format!("; {} is bad by {bad}", name.unwrap_or_default());
        }
    }

    fn finish(mut self) -> Option<Explanation> {
        self.number?;
        self.conclude();
        Some(self.links.finish(self.now))
    }
}

impl Links {
    fn hear(&mut self, entry: &Entry, mut text: String) {
        match &entry.event {
            Event::Unhealthy { heard, cause } => {
                return self.bad.extend(heard.iter().map(|(t, _)| (*t, *cause)));
            }
            Event::Healthy { heard } | Event::Updated { heard } => {
                return heard.iter().for_each(|(t, _)| {
                    self.bad.remove(t);
                });
            }
            Event::Failed { targets, reason } => {
                // What was bad about one of several is not why the others failed.
                let mut bad = targets.iter().map(|t| self.bad.get(&t));
                if let (Reason::Deadline, Some(Some(bad)), None) = (reason, bad.next(), bad.next())
                {
                    text += &format!("; bad at last by {bad}");
                }
            }
            // Those of a rollback are counted anew.
            Event::Started(_) => self.bad.clear(),
            // What another node has shown, or the same one another time, is not why it fails now.
            Event::Dispatched { targets, .. } => {
                for target in targets.iter() {
                    self.bad.remove(&target);
                }
            }
            Event::Ended { .. }
            | Event::Skipped { .. }
            | Event::Placed { .. }
            | Event::Scaled { .. }
            | Event::NodesChanged { .. }
            | Event::Promoted { .. }
            | Event::Paused { .. }
            | Event::Resumed
            | Event::Absent { .. }
            | Event::ClockSetBack => {}
            Event::Registered { .. }
            | Event::NodesJoined { .. }
            | Event::MembersListed
            | Event::NodeRelabeled { .. }
            | Event::Retired { .. }
            | Event::Done { .. }
            | Event::Requested(_)
            | Event::Restarted { .. }
            | Event::RolledBackBy { .. }
            | Event::Converged { .. }
            | Event::Answered(_)
            | Event::Forgot { .. } => return,
        }
        let weight = match &entry.event {
            Event::Started(_) | Event::Ended { .. } => Weight::Frame,
            Event::Promoted { .. }
            | Event::Paused { .. }
            | Event::Resumed
            | Event::Scaled { .. }
            | Event::ClockSetBack => Weight::Turn,
            Event::Failed { .. } => Weight::Failure,
            _ => Weight::Course,
        };
        self.add(entry.at, text, weight);
    }

    fn add(&mut self, at: Time, text: String, weight: Weight) {
        if self.all.len() == LINKS_MAX {
            self.leave_one_out();
        }
        self.all.push(Link {
            at,
            text,
            weight,
            left_out: 0,
            since: at,
        });
    }

    /// Leaves out the middle one of the longest row of those that say least; the last of all stays.
    fn leave_one_out(&mut self) {
        let but_last = &self.all[..self.all.len() - 1];
        let least = but_last.iter().map(|link| link.weight).min();
        let mut best = 0..0;
        let mut begin = 0;
        for row in but_last.chunk_by(|a, b| a.weight == b.weight) {
            let end = begin + row.len();
            if Some(row[0].weight) == least && row.len() > best.len() {
                best = begin..end;
            }
            begin = end;
        }
        let gone = self.all.remove(best.start + best.len() / 2);
        let since = if gone.left_out > 0 {
            gone.since
        } else {
            gone.at
        };
        let next = &mut self.all[best.start + best.len() / 2];
        next.left_out += gone.left_out + 1;
        next.since = since;
    }

    fn finish(self, now: String) -> Explanation {
        let mut links = Vec::new();
        for link in self.all {
            if link.left_out > 0 {
                links.push((link.since, format!("… {} more …", link.left_out)));
            }
            links.push((link.at, link.text));
        }
        Explanation { links, now }
    }
}
