//! What the server wants, as it was accepted last.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Live, Work};
use crate::client::Received;
use crate::disk;
use crate::health::watch::Watch;
use crate::plan::{self, Moment, Phase, Supply, Wanted};
use crate::runs::{Key, Mark, RunId};
use crate::wire::Document;
use crate::workload::Workload;

/// What cannot be written is tried again so soon.
const KEEP_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// The last accepted state, on disk and understood.
#[derive(Debug)]
pub(super) struct Accepted {
    path: PathBuf,
    accept_older: bool,
    /// Stops what runs, and begins nothing.
    pub(super) draining: bool,
    /// It was drained, perhaps by an agent before this one, and the server has said nothing since: what it ran may run
    /// elsewhere by now. A file says so for as long.
    pub(super) has_left: bool,
    mark: PathBuf,
    pub(super) received: Option<Received>,
    /// It is not on disk, and written again then.
    unkept: Option<Moment>,
    /// The revision of a state that was older, if it was the last to come.
    pub(super) refused: Option<u64>,
    pub(super) wanted: BTreeMap<Key, Wanted>,
    /// The documents of what is to run.
    pub(super) documents: BTreeMap<Key, Document>,
    pub(super) targets: BTreeMap<Key, u32>,
}

impl Accepted {
    pub(super) fn open(dir: &Path, node: &str, accept_older: bool) -> io::Result<Self> {
        let path = dir.join("desired.json");
        let mark = dir.join("left");
        let has_left = mark.exists();
        if has_left {
            tracing::warn!(
                "this node has left: nothing is begun here before the server says what it wants"
            );
        }
        // Where there is none the server says it again.
        let received: Option<Received> = disk::read_or_put_aside(&path)?;
        let is_own = |received: &Received| received.desired.node == node;
        if !received.as_ref().is_none_or(is_own) {
            tracing::warn!("what is kept of the desired state is another node's");
        }
        Ok(Self {
            received: received.filter(is_own),
            has_left,
            mark,
            draining: false,
            path,
            accept_older,
            unkept: None,
            refused: None,
            wanted: BTreeMap::new(),
            documents: BTreeMap::new(),
            targets: BTreeMap::new(),
        })
    }

    /// Whether it is known what is to run: all of this, or nothing any more. Before that nothing is begun, and nothing
    /// that runs is stopped.
    pub(super) fn is_known(&self) -> bool {
        self.draining || self.received.is_some() && !self.has_left
    }

    /// Keeps a state, unless it is older than what the same server said before.
    fn keep(&mut self, received: Received) -> bool {
        if let Some(known) = &self.received
            && known.server == received.server
        {
            let (newer, older) = (received.desired.revision, known.desired.revision);
            if newer < older && !self.accept_older {
                tracing::warn!(
                    revision = newer,
                    known = older,
                    "the server's state is older than what it said before, and is refused; if it was restored, start this agent once with --accept-older"
                );
                self.refused = Some(newer);
                return false;
            }
            self.refused = None;
            if known.desired == received.desired {
                return self.is_back();
            }
        }
        (self.accept_older, self.refused) = (false, None);
        self.received = Some(received);
        self.unkept = Some(Moment::ZERO);
        self.is_back();
        true
    }

    /// Writes down what is not kept yet. Answers when that is tried again.
    pub(super) fn keep_again(&mut self, now: Moment) -> Option<Moment> {
        let received = self.received.as_ref()?;
        if self.unkept? > now {
            return self.unkept;
        }
        self.unkept = disk::replace_json(&self.path, received).err().map(|why| {
            tracing::error!(path = %self.path.display(), %why, "the desired state cannot be kept; it is tried again");
            // By an older one the next agent would act before the server speaks. That needs no room.
            let _ = std::fs::remove_file(&self.path);
            now + KEEP_AGAIN_AFTER
        });
        self.unkept
    }

    /// From now on, nothing is to run.
    pub(super) fn drain(&mut self) {
        (self.draining, self.has_left) = (true, true);
        if let Err(why) = disk::replace(&self.mark, b"") {
            tracing::warn!(%why, "that this node leaves cannot be kept");
        }
    }

    /// The server has said what it wants of this agent. Whether that ends a time of having left.
    fn is_back(&mut self) -> bool {
        if self.draining || !self.has_left {
            return false;
        }
        self.has_left = false;
        if let Err(why) = std::fs::remove_file(&self.mark) {
            tracing::warn!(%why, "that this node has left cannot be forgotten");
        }
        true
    }

    /// Whether it runs what is wanted. Not the document is asked, which a newer server may write in other words, but
    /// what this agent reads in it; and not only the numbers, which begin anew with a job of the same name.
    pub(super) fn is_of(&self, live: &Live) -> bool {
        let run = &live.run;
        let same = |wanted: &Wanted| {
            let workload = wanted
                .workload
                .as_ref()
                .is_ok_and(|wanted| *wanted == run.workload);
            let (generation, version) = (wanted.generation, wanted.version);
            workload && (generation, version) == (live.generation(), run.version)
        };
        self.wanted.get(&run.id.key).is_some_and(same)
    }
}

impl Work {
    /// Takes in what the server wants.
    pub(super) fn accept(&mut self, received: Received) {
        if self.accepted.keep(received) {
            self.understand();
        }
    }

    /// Reads what is wanted, and what of that is there.
    pub(super) fn understand(&mut self) {
        let mut wanted = BTreeMap::new();
        let mut documents = BTreeMap::new();
        let mut targets = BTreeMap::new();
        let desired = self
            .accepted
            .received
            .as_ref()
            .map(|received| &received.desired);
        let desired = desired.filter(|_| !self.accepted.has_left);
        for execution in desired.into_iter().flat_map(|desired| &desired.executions) {
            let (job, slot) = (execution.job.clone(), execution.slot);
            let key = Key { job, slot };
            let generation = execution.generation;
            // Of two that speak of the same, the newer holds.
            if wanted
                .get(&key)
                .is_some_and(|known: &Wanted| known.generation > generation)
            {
                continue;
            }
            let versions = desired.and_then(|all| all.workloads.get(&key.job.to_string()));
            let document = versions.and_then(|all| all.get(&execution.version));
            let workload = self.read(&key, document);
            documents.remove(&key);
            if let Some(document) = document {
                documents.insert(key.clone(), document.clone());
            }
            targets.remove(&key);
            if let Some(target) = execution.target {
                targets.insert(key.clone(), target);
            }
            let version = execution.version;
            wanted.insert(
                key,
                Wanted {
                    generation,
                    version,
                    since: execution.since.unwrap_or(generation),
                    workload,
                    // Before the next plan it is looked whether it is.
                    supply: Supply::Here,
                    is_held_up: false,
                    is_replaced: false,
                    on_trial: execution.target.is_some(),
                },
            );
        }
        self.accepted.wanted = wanted;
        self.accepted.documents = documents;
        self.accepted.targets = targets;
        self.see_what_is_wanted();
        self.dismiss();
        let wanted = &self.accepted.wanted;
        let is_wanted = |key: &Key, generation| {
            wanted
                .get(key)
                .is_some_and(|wanted| wanted.generation == generation)
        };
        // What stopped because this agent left is wanted still, and so is what there was to say of it. And where it is not
        // known what is wanted, nobody knows what is not.
        if self.accepted.received.is_some() && !self.accepted.has_left {
            self.outbox.retain(is_wanted);
        }
        let over: Vec<Key> = self
            .told
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in over {
            let told = self.told.remove(&key).expect("its key was just read");
            self.numbers.used(told.number);
        }
    }

    fn see_what_is_wanted(&mut self) {
        for live in self.lives.values_mut() {
            live.is_wanted = live.left_alone.is_none() && self.accepted.is_of(live);
        }
    }

    /// What runs, and is wanted again before anything has replaced it, goes on.
    pub(super) fn take_over(&mut self) {
        let may_go_on = |live: &Live| !live.is_wanted && live.phase == Phase::Running;
        if !self.lives.values().any(may_go_on) {
            return;
        }
        let observed = self.observed(self.now());
        let mut all = Vec::new();
        for (key, wanted) in &self.accepted.wanted {
            let runs = observed.get(key).map_or(&[][..], Vec::as_slice);
            if let Some((run, taken)) = plan::taken(wanted, runs) {
                let id = RunId {
                    key: key.clone(),
                    generation: run.generation,
                    attempt: run.attempt,
                };
                all.push((id, taken));
            }
        }
        for (id, taken) in &all {
            let Some(live) = self.lives.get_mut(id) else {
                continue;
            };
            tracing::info!(run = %id, generation = taken.generation, "what is wanted again goes on");
            if let Err(why) = live.run.note_taken(*taken) {
                // The next agent begins it anew.
                tracing::warn!(run = %id, %why, "that it goes on cannot be kept");
            }
            (live.taken, live.is_told) = (Some(*taken), false);
            // What was before is said of no later assignment: not what was seen, nor what will be seen of it.
            live.tally.roll();
            if let Some(driver) = self.drivers.get(live.run.workload.driver.as_str()) {
                live.watch = Some(Watch::start(&live.run, false, driver, &self.sights));
            }
        }
        if !all.is_empty() {
            self.see_what_is_wanted();
        }
    }

    /// What ran before nothing was wanted is not put back after it.
    fn dismiss(&mut self) {
        if self.accepted.draining || !self.accepted.is_known() {
            return;
        }
        let wanted = &self.accepted.wanted;
        let is_wanted = |key: &Key| wanted.get(key).is_some_and(|wanted| wanted.version > 0);
        for live in self.lives.values_mut() {
            if !live.dismissed && !is_wanted(&live.run.id.key) {
                live.dismissed = true;
                live.mark(Mark::Dismissed);
            }
        }
    }

    fn read(&self, key: &Key, document: Option<&Document>) -> Result<Arc<Workload>, String> {
        let document = document.ok_or("the server sent no document")?;
        if self.accepted.documents.get(key) == Some(document) {
            // It is read already: a change of one job is none of the others'.
            return self.accepted.wanted[key].workload.clone();
        }
        let read = document
            .read()
            .map_err(|why| format!("no document: {why}"))?;
        let workload = Workload::read(&read)?;
        let driver = self.drivers.get(workload.driver.as_str());
        let none = || format!("driver: this agent has no {:?}", workload.driver);
        driver.ok_or_else(none)?.check(&workload)?;
        Ok(Arc::new(workload))
    }
}
