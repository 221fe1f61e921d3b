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
    all: Vec<(Time, String)>,
    left_out: u32,
    bad: BTreeMap<u32, Bad>,
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
            self.links.add(created, began);
            if let Some(record) = self.narrator.job().record_by_number(number) {
                self.links.add(updated, record.status.message);
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
        self.links.hear(entry, sentence.to_string());
    }

    /// Keeps the last sentence of what the chain is about, before the job forgets it.
    fn conclude(&mut self) {
        let number = self.rollback.or(self.number);
        let job = self.narrator.job();
        if let Some(record) = number.and_then(|number| job.record_by_number(number)) {
            self.now = record.status.message;
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
            Event::Ended { .. }
            | Event::Dispatched { .. }
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
        self.add(entry.at, text);
    }

    fn add(&mut self, at: Time, text: String) {
        if self.all.len() == LINKS_MAX {
            // What lies between the beginning and the end is left out, not the end.
            self.all.remove(LINKS_MAX / 2);
            self.left_out += 1;
        }
        self.all.push((at, text));
    }

    fn finish(mut self, now: String) -> Explanation {
        if self.left_out > 0 {
            let at = self.all[LINKS_MAX / 2].0;
            self.all
                .insert(LINKS_MAX / 2, (at, format!("… {} more …", self.left_out)));
        }
        Explanation {
            links: self.all,
            now,
        }
    }
}
