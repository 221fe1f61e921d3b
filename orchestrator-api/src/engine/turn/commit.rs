//! Makes a turn safe; and what follows from that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orchestrator_core::fleet::{self, NodeName};
use orchestrator_core::{Answer, Committed, Effect, JobId};

use super::{Changed, Loop, Turn, answer};
use crate::engine::machines::{Owned, chain};
use crate::engine::{Done, EngineError, rows};
use crate::store::{Append, DeploymentRow, Machine, StoreError};

/// So few streams may be left though nobody listens.
pub(super) const STREAMS_MIN: usize = 64;

impl Loop {
    /// Makes the turn safe, and lets the world know.
    pub(super) fn commit(&mut self, mut turn: Turn) {
        let mut appends = Vec::new();
        let mut whose = Vec::new();
        for machine in &turn.snapshots {
            if let Machine::Job(id) = machine {
                turn.jobs.entry(id.clone()).or_default();
            }
        }
        for (id, changed) in &turn.jobs {
            let machine = Machine::Job(id.clone());
            let snapshot = turn.snapshots.contains(&machine);
            if let Some(append) = self.append(id, changed, snapshot) {
                appends.push(append);
                whose.push(machine);
            }
        }
        for (id, changed) in &turn.groups {
            if let Some(append) = self.append_group(&turn, *id, changed) {
                appends.push(append);
                whose.push(Machine::Group(*id));
            }
        }
        let snapshot = turn.snapshots.contains(&Machine::Fleet);
        if snapshot || !turn.fleet.is_empty() {
            appends.push(self.append_fleet(&turn, snapshot));
            whose.push(Machine::Fleet);
        }
        let shown: Vec<DeploymentRow> =
            appends.iter().flat_map(|a| a.deployments.clone()).collect();
        let lost = if appends.is_empty() {
            BTreeMap::new()
        } else {
            let written: Vec<(usize, Option<usize>)> = appends.iter().map(written).collect();
            let entries = appends.iter().map(|append| append.lines.len()).sum();
            let outcome = self.runtime.block_on(self.store.commit(appends));
            let lost = self.note_outcome(&whose, &written, outcome);
            self.keeps = lost.is_empty();
            self.counts.note(entries, !lost.is_empty());
            lost
        };
        for (machine, why) in &lost {
            tracing::error!(
                of = name(machine),
                why = chain(why),
                "what was to be kept was not"
            );
            self.reload(machine, turn.now);
        }
        let safe = shown
            .into_iter()
            .filter(|row| !lost.contains_key(&Machine::Job(row.job.clone())));
        self.shown.publish(safe.map(|row| {
            let last = self.jobs.get(&row.job).map(|owned| &owned.machine);
            let last = last.and_then(|job| job.deployments().next());
            let last = last.is_some_and(|last| last.number == row.number);
            (row.into(), last)
        }));
        // Only now: whoever is answered and looks then sees what he did.
        let fleet_lost = lost.get(&Machine::Fleet);
        for reply in turn.waiting {
            let why = fleet_lost.or_else(|| lost.values().next());
            answer(reply, why.map_or(Ok(()), |why| Err(why.clone())));
        }
        for (id, changed) in std::mem::take(&mut turn.groups) {
            let why = lost.get(&Machine::Group(id));
            self.group_is_kept(turn.now, id, changed, why);
        }
        for id in turn.jobs.keys() {
            self.groups.note(id);
        }
        let mut hear = BTreeSet::new();
        for (id, changed) in std::mem::take(&mut turn.jobs) {
            let why = lost.get(&Machine::Job(id.clone()));
            for (sealed, reply) in changed.sealed {
                if let Some(why) = why {
                    if let Some(reply) = reply {
                        answer(reply, Err(why.clone()));
                    }
                    continue;
                }
                let committed = sealed.committed();
                self.hear(&id, &committed, &mut hear);
                if let (Some(reply), Some(done)) = (reply, committed.answer) {
                    answer(reply, Ok(self.done(done)));
                }
            }
        }
        for (job, done, reply) in turn.answered {
            let why = lost.get(&Machine::Job(job));
            let done = why.map_or_else(|| Ok(self.done(done)), |why| Err(why.clone()));
            answer(reply, done);
        }
        self.send(&hear);
        if lost.is_empty() {
            self.set_right(&turn.mistaken);
        }
        // What a job gives up with a node that is gone it does not tell of: it has no name for it any more.
        for entry in turn.fleet.iter().filter(|_| fleet_lost.is_none()) {
            if let fleet::Event::Removed { name } = &entry.event {
                self.jobs.forget_gone(name);
                // Ends them: whoever listens asks anew, and learns that the node is gone.
                self.streams.remove(name);
            }
        }
        for look in turn.looks {
            self.look(look);
        }
    }

    fn done(&self, answer: Answer) -> Done {
        let deployment = answer.deployment.and_then(|id| self.shown.get(id));
        Done { answer, deployment }
    }

    /// All that this turn changes about a job; nothing where it only has to be answered.
    fn append(&self, id: &JobId, changed: &Changed, snapshot: bool) -> Option<Append> {
        let owned = self.jobs.get(id)?;
        if changed.entries.is_empty() && !snapshot {
            return None;
        }
        let entries = changed.entries.iter();
        let lines: Vec<_> = entries
            .map(|(entry, words)| rows::line(entry, words))
            .collect();
        let numbers = changed.entries.iter().filter_map(|(entry, _)| entry.of);
        let numbers: BTreeSet<u32> = numbers.map(|of| of.deployment).collect();
        let aside = changed.sealed.iter().flat_map(|(s, _)| s.put_aside());
        let grown: usize = lines.iter().map(|line| line.text.len()).sum();
        let due = snapshot || owned.snapshot_due(grown);
        Some(Append {
            log: owned.claim.log,
            epoch: owned.claim.epoch,
            expected: owned.claim.seq,
            lines,
            snapshot: due.then(|| owned.machine.snapshot()),
            job: (owned.machine.version() > 0).then(|| rows::job(&owned.machine)),
            deployments: rows::deployments(&owned.machine, owned.claim.log, &numbers),
            targets: aside.map(rows::targets).collect(),
            group: None,
            begun_with: None,
            nodes: Vec::new(),
            nodes_gone: Vec::new(),
            audit: changed.audit.clone(),
        })
    }

    fn append_fleet(&self, turn: &Turn, snapshot: bool) -> Append {
        let Owned { machine, claim, .. } = &self.fleet;
        let line = |entry: &fleet::Entry| crate::store::Line {
            seq: entry.seq,
            of: None,
            at: entry.at,
            text: entry.encode(),
            words: None,
        };
        let lines: Vec<_> = turn.fleet.iter().map(line).collect();
        let grown: usize = lines.iter().map(|line| line.text.len()).sum();
        let facts = turn.fleet.iter().filter_map(|entry| match &entry.event {
            fleet::Event::FactsChanged { name, .. } => Some(name),
            _ => None,
        });
        let names = turn.fleet.iter().flat_map(|entry| entry.event.nodes());
        let names: BTreeSet<&NodeName> = names.chain(facts).collect();
        let gone = |name: &&&NodeName| machine.node(name).is_none();
        let due = snapshot || self.fleet.snapshot_due(grown);
        Append {
            log: claim.log,
            epoch: claim.epoch,
            expected: claim.seq,
            lines,
            snapshot: due.then(|| machine.snapshot()),
            job: None,
            deployments: Vec::new(),
            targets: Vec::new(),
            group: None,
            begun_with: None,
            nodes: names
                .iter()
                .filter_map(|name| rows::node(machine, name))
                .collect(),
            nodes_gone: names.iter().filter(gone).map(ToString::to_string).collect(),
            audit: turn.fleet_audit.clone(),
        }
    }

    /// Notes what is safe; answers what is not, and why.
    fn note_outcome(
        &mut self,
        whose: &[Machine],
        written: &[(usize, Option<usize>)],
        outcome: Result<Vec<Result<(), crate::store::Refused>>, StoreError>,
    ) -> BTreeMap<Machine, EngineError> {
        let outcomes = match outcome {
            Ok(outcomes) => outcomes,
            Err(why) => {
                let why = EngineError::from(why);
                return whose.iter().map(|m| (m.clone(), why.clone())).collect();
            }
        };
        let mut lost = BTreeMap::new();
        for ((machine, &(grown, snapshot)), outcome) in whose.iter().zip(written).zip(outcomes) {
            if let Err(why) = outcome {
                tracing::error!(of = name(machine), %why, "an append was refused");
                lost.insert(machine.clone(), EngineError::Elsewhere(name(machine)));
                continue;
            }
            match machine {
                Machine::Fleet => {
                    self.fleet.note_written(grown, snapshot);
                    self.fleet.claim.seq = self.fleet.machine.seq();
                }
                Machine::Job(id) => {
                    self.jobs.with(id, |owned| {
                        owned.note_written(grown, snapshot);
                        owned.claim.seq = owned.machine.seq();
                    });
                }
                Machine::Group(id) => {
                    if let Some(group) = self.groups.get_mut(*id) {
                        group.owned.note_written(grown, snapshot);
                        group.owned.claim.seq = group.owned.machine.state().seq();
                    }
                }
            }
        }
        lost
    }

    /// The nodes that have to hear of what a step led to.
    fn hear(&self, id: &JobId, committed: &Committed, hear: &mut BTreeSet<(NodeName, JobId)>) {
        let Some(job) = self.jobs.get(id).map(|owned| &owned.machine) else {
            return;
        };
        let mut note = |name: &str| {
            if !name.is_empty() {
                hear.insert((NodeName::from(name), id.clone()));
            }
        };
        for effect in &committed.effects {
            match effect {
                Effect::Assign { slots, .. } => {
                    slots
                        .iter()
                        .for_each(|slot| note(job.assignment(slot).node));
                }
                Effect::Withdraw { nodes } => {
                    nodes.iter().for_each(|node| note(job.node_name(node)));
                }
                // Both were seen to before the commit.
                Effect::MembersNeeded | Effect::PutAside(_) => {}
            }
        }
    }

    /// Sends to each node that listens what it should run now.
    fn send(&mut self, hear: &BTreeSet<(NodeName, JobId)>) {
        let mut nodes = BTreeSet::new();
        for (node, job) in hear {
            if let Some(load) = self.jobs.count(job, node) {
                self.loads.insert(node.clone(), load);
            }
            nodes.insert(node);
        }
        let jobs: BTreeSet<&JobId> = hear.iter().map(|(_, job)| job).collect();
        for id in jobs {
            let job = self.jobs.get(id).map(|owned| &owned.machine);
            self.documents.keep(id, job);
        }
        self.drop_streams();
        for node in nodes {
            let listens = self.streams.contains_key(node);
            if let Some(now) = listens.then(|| Arc::new(self.desired(node)))
                && let Some(stream) = self.streams.get(node)
            {
                stream.send_replace(now);
            }
        }
    }

    /// Tells nodes that a deployment does not wait for them any more. Not when it ends: all of its nodes would be told at
    /// once what most of them need not know before their next report.
    fn set_right(&mut self, nodes: &BTreeSet<NodeName>) {
        for node in nodes {
            let listens = self.streams.contains_key(node);
            if let Some(now) = listens.then(|| Arc::new(self.desired(node)))
                && let Some(stream) = self.streams.get(node)
            {
                stream.send_if_modified(|then| then.follow(now));
            }
        }
    }

    /// Forgets streams that nobody listens to, each time that there are twice as many as were left the last time.
    fn drop_streams(&mut self) {
        if self.streams.len() < self.streams_max {
            return;
        }
        // One that asks again and again, instead of listening, is gone between two of its questions.
        let fleet = &self.fleet.machine;
        let heard_of = |node: &NodeName| {
            let connectivity = fleet.node(node).map(|node| node.connectivity);
            connectivity == Some(fleet::Connectivity::Connected)
        };
        self.streams
            .retain(|node, stream| stream.receiver_count() > 0 || heard_of(node));
        self.streams_max = (2 * self.streams.len()).max(STREAMS_MIN);
    }
}

/// Bytes of log, and of the snapshot if there is one.
fn written(append: &Append) -> (usize, Option<usize>) {
    let grown = append.lines.iter().map(|line| line.text.len()).sum();
    (grown, append.snapshot.as_ref().map(Vec::len))
}

fn name(machine: &Machine) -> String {
    match machine {
        Machine::Fleet => "the fleet".to_owned(),
        Machine::Job(id) => format!("job {id}"),
        Machine::Group(id) => format!("group {id}"),
    }
}
