//! One turn: what has come in is stepped, committed together, and only then answered, shown and sent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use orchestrator_core::fleet::{self, Fleet, NodeName};
use orchestrator_core::spec::{JobSpec, Placement};
use orchestrator_core::{
    Answer, Command, Committed, DeploymentId, Done as WorkDone, Effect, Entry, Input, Job, JobId,
    NodeChange, Observation, Plan, Rejection, Report, Request, Sealed, Sentence, Standing, Time,
};
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;

use super::counts::Counts;
use super::desired::Desired;
use super::machines::{Jobs, Owned, chain, load_fleet, load_job};
use super::shown::Shown;
use super::{Ask, Done, EngineError, Reply, Said, Settings, Who, rows};
use crate::access::audit::{DONE, Record};
use crate::store::{Append, Audit, Claim, DeploymentRow, Machine, Store, StoreError, Wanted};

/// How many asks one turn takes before it commits.
const ASKS_PER_TURN_MAX: usize = 1024;
/// A store that keeps nothing is asked again so soon, when nobody else asks.
const AGAIN_MILLIS: u64 = 250;
/// How many nodes are named of what an entry speaks of: more are counted, or a wave of ten thousand would be written
/// down by name.
const NAMES_MAX: usize = 20;
/// So few streams may be left though nobody listens.
const STREAMS_MIN: usize = 64;
/// How many logs are claimed at a time when the engine starts.
const CLAIMS_PER_CALL: u32 = 1000;

/// The engine's thread.
pub(super) struct Loop {
    store: Arc<dyn Store>,
    shown: Arc<Shown>,
    counts: Arc<Counts>,
    runtime: Runtime,
    settings: Settings,
    inbox: Receiver<Ask>,
    fleet: Owned<Fleet>,
    jobs: Jobs,
    /// Machines that are ours and could not be read: tried again when somebody asks.
    broken: BTreeMap<JobId, Claim>,
    streams: HashMap<NodeName, watch::Sender<Arc<Desired>>>,
    /// When there are so many it is time to look who is gone.
    streams_max: usize,
    /// Nodes with another number of executions than the fleet knows of.
    loads: BTreeMap<NodeName, u32>,
    /// Whether the store kept all that it was last given.
    keeps: bool,
}

/// What one turn changes, until it is committed.
struct Turn {
    now: Time,
    jobs: BTreeMap<JobId, Changed>,
    fleet: Vec<fleet::Entry>,
    fleet_audit: Vec<Audit>,
    /// Of the fleet's entries, how many the jobs have heard of.
    told: usize,
    heard: BTreeSet<NodeName>,
    members_due: BTreeSet<JobId>,
    /// Of which a snapshot is asked for.
    snapshots: BTreeSet<Machine>,
    /// To be answered when all is safe, or is not.
    waiting: Vec<Reply<()>>,
    /// The same, of a job, and what there is to say already.
    answered: Vec<(JobId, Answer, Reply<Done>)>,
    /// To be looked at when all is safe.
    looks: Vec<Ask>,
}

/// What one turn changes about one job.
#[derive(Default)]
struct Changed {
    entries: Vec<(Entry, Sentence)>,
    sealed: Vec<(Sealed, Option<Reply<Done>>)>,
    audit: Vec<Audit>,
}

impl Loop {
    /// Claims and reads everything, and lets every machine hear what it missed.
    pub(super) fn begin(
        store: Arc<dyn Store>,
        shown: Arc<Shown>,
        counts: Arc<Counts>,
        runtime: Runtime,
        settings: Settings,
        inbox: Receiver<Ask>,
    ) -> Result<Self, EngineError> {
        let fleet = runtime.block_on(async {
            let wanted = Wanted {
                machine: Machine::Fleet,
                seed: 0,
            };
            let claim = store.claim(vec![wanted]).await?.pop();
            let claim = claim.ok_or_else(|| EngineError::Elsewhere("the fleet".to_owned()))?;
            load_fleet(&*store, claim, settings.fleet).await
        })?;
        let mut driven = Self {
            store,
            shown,
            counts,
            runtime,
            settings,
            inbox,
            fleet,
            jobs: Jobs::default(),
            broken: BTreeMap::new(),
            streams: HashMap::new(),
            streams_max: STREAMS_MIN,
            loads: BTreeMap::new(),
            keeps: true,
        };
        driven.load_all()?;
        driven.catch_up();
        Ok(driven)
    }

    /// Until nobody is left who could ask for anything.
    pub(super) fn run(mut self) {
        loop {
            let Some(first) = self.wait() else {
                return;
            };
            let mut turn = self.turn();
            let mut next = first;
            let mut taken = 0;
            while let Some(ask) = next.take() {
                self.take(&mut turn, ask);
                taken += 1;
                if taken < ASKS_PER_TURN_MAX {
                    next = self.inbox.try_recv().ok();
                }
            }
            self.pass_time(&mut turn);
            self.settle(&mut turn);
            self.commit(turn);
        }
    }

    /// The next ask, or `None` within when something is due before there is one; `None` at the end.
    #[expect(clippy::option_option, reason = "the end, nothing, something")]
    fn wait(&mut self) -> Option<Option<Ask>> {
        let due = [self.jobs.wake(), self.fleet.machine.wake()];
        let mut due = due.into_iter().flatten().min();
        if !self.loads.is_empty() {
            due = Some(Time::default());
        }
        let Some(due) = due else {
            return self.runtime.block_on(self.inbox.recv()).map(Some);
        };
        // At least a little: a clock that was set back may name the same moment again, and a store that keeps nothing
        // is not asked all the time.
        let least = if self.keeps { 1 } else { AGAIN_MILLIS };
        let left = due.as_millis().saturating_sub(now().as_millis()).max(least);
        let next =
            async { tokio::time::timeout(Duration::from_millis(left), self.inbox.recv()).await };
        match self.runtime.block_on(next) {
            Ok(Some(ask)) => Some(Some(ask)),
            Ok(None) => None,
            Err(_) => Some(None),
        }
    }

    fn turn(&self) -> Turn {
        Turn {
            now: now(),
            jobs: BTreeMap::new(),
            fleet: Vec::new(),
            fleet_audit: Vec::new(),
            told: 0,
            heard: BTreeSet::new(),
            members_due: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            waiting: Vec::new(),
            answered: Vec::new(),
            looks: Vec::new(),
        }
    }

    fn take(&mut self, turn: &mut Turn, ask: Ask) {
        match ask {
            Ask::Command {
                job,
                request,
                of,
                who,
                reply,
            } => match self.given_way(&job, of) {
                Ok(None) => self.command(turn, &job, request, &who, reply),
                // Once everything of this turn is safe, or is not.
                Ok(Some(answered)) => turn.answered.push((job, answered, reply)),
                Err(why) => answer(reply, Err(why)),
            },
            Ask::Fleet { input, who, reply } => {
                let audit = who.and_then(|who| audit_of_fleet(turn.now, &who, &input));
                match self.step_fleet(turn, input) {
                    Ok(()) => {
                        turn.fleet_audit.extend(audit);
                        turn.waiting.push(reply);
                    }
                    Err(why) => answer(reply, Err(why.into())),
                }
            }
            Ask::Reports { node, said, reply } => self.reports(turn, node, said, reply),
            Ask::Snapshot { machine, reply } => {
                turn.snapshots.insert(machine);
                turn.waiting.push(reply);
            }
            // What is not safe yet is not to be seen.
            look @ (Ask::Plan { .. }
            | Ask::Connect { .. }
            | Ask::Look { .. }
            | Ask::LookFleet { .. }) => turn.looks.push(look),
        }
    }

    fn command(
        &mut self,
        turn: &mut Turn,
        id: &JobId,
        mut request: Request,
        who: &Who,
        reply: Reply<Done>,
    ) {
        let registers = matches!(request.command, Command::Register { .. });
        if let Err(why) = self.find(id, registers) {
            return answer(reply, Err(why));
        }
        self.name_members(id, &mut request);
        let audit = audit(turn.now, who, action(&request.command), format!("job {id}"));
        match self.step(turn, id, request.into(), Some(reply)) {
            Ok(()) => {
                if let Some(changed) = turn.jobs.get_mut(id) {
                    changed.audit.push(audit);
                }
            }
            Err((why, reply)) => {
                if let Some(reply) = reply {
                    answer(reply, Err(why.into()));
                }
            }
        }
    }

    /// Whether a command to a deployment comes too late for it; what it would lead to, where that is so already.
    fn given_way(
        &mut self,
        job: &JobId,
        of: Option<DeploymentId>,
    ) -> Result<Option<Answer>, EngineError> {
        let Some(id) = of else {
            return Ok(None);
        };
        self.find(job, false)?;
        let owned = self.jobs.get(job).map(|owned| &owned.machine);
        let last = owned.and_then(|machine| Some((machine.version(), machine.deployment()?)));
        match last {
            Some((_, last)) if last.id == id => Ok(None),
            Some((version, last)) if last.rollback_of == Some(id) => Ok(Some(Answer {
                version,
                deployment: Some(last.id),
                changed: false,
                standing: Standing::UnderWay,
            })),
            Some((_, last)) => Err(EngineError::GaveWay { id, last: last.id }),
            None => Err(EngineError::NoSuchDeployment(id)),
        }
    }

    /// Sees to it that a job is there: read again where that failed before, begun where it is to be.
    fn find(&mut self, id: &JobId, begin: bool) -> Result<(), EngineError> {
        if self.jobs.get(id).is_some() {
            return Ok(());
        }
        let claim = match self.broken.get(id) {
            Some(claim) => claim.clone(),
            None if begin => {
                let wanted = Wanted {
                    machine: Machine::Job(id.clone()),
                    seed: seed(id),
                };
                let claims = self.runtime.block_on(self.store.claim(vec![wanted]))?;
                let elsewhere = || EngineError::Elsewhere(format!("job {id}"));
                claims.into_iter().next().ok_or_else(elsewhere)?
            }
            None => return Err(EngineError::NoSuchJob(id.clone())),
        };
        let owned = self.runtime.block_on(load_job(&*self.store, claim))?;
        self.broken.remove(id);
        self.jobs.insert(owned);
        Ok(())
    }

    fn name_members(&self, id: &JobId, request: &mut Request) {
        if let Command::Register { spec, members, .. } = &mut request.command {
            let job = self.jobs.get(id).map(|owned| &owned.machine);
            let own = |node: &str| job.map_or(0, |job| job.desired(node).len() as u32);
            *members = Some(self.fleet.machine.members(spec, own));
        }
    }

    fn reports(&mut self, turn: &mut Turn, node: NodeName, said: Vec<Said>, reply: Reply<()>) {
        if self.fleet.machine.node(&node).is_none() {
            let names = vec![node.to_string()];
            return answer(reply, Err(fleet::Rejection::UnknownNodes { names }.into()));
        }
        let mut reports: BTreeMap<JobId, (Vec<Report>, Vec<WorkDone>)> = BTreeMap::new();
        for said in said {
            let Some(owned) = self.jobs.get(&said.job) else {
                continue;
            };
            let assignment = owned.machine.assignment(said.slot);
            if assignment.node != &*node {
                continue;
            }
            let (reports, done) = reports.entry(said.job).or_default();
            match said.target {
                Some(target) if assignment.target == Some(target) => reports.push(Report {
                    target,
                    generation: said.generation,
                    number: said.number,
                    what: said.what,
                }),
                None if said.what == (Observation::Exited { code: 0 }) => done.push(WorkDone {
                    slot: said.slot,
                    generation: said.generation,
                }),
                _ => {}
            }
        }
        turn.heard.insert(node);
        for (id, (reports, done)) in &reports {
            if !reports.is_empty() {
                self.tell(turn, id, Input::Reports(reports));
            }
            if !done.is_empty() {
                self.tell(turn, id, Input::Done(done));
            }
        }
        turn.waiting.push(reply);
    }

    /// Steps a job by something that nobody waits for and that is never refused.
    fn tell(&mut self, turn: &mut Turn, id: &JobId, input: Input<'_>) {
        if let Err((why, _)) = self.step(turn, id, input, None) {
            tracing::error!(job = %id, %why, "the job refuses what the engine says");
        }
    }

    /// The only way to step a job.
    fn step(
        &mut self,
        turn: &mut Turn,
        id: &JobId,
        input: Input<'_>,
        reply: Option<Reply<Done>>,
    ) -> Result<(), (Rejection, Option<Reply<Done>>)> {
        let now = turn.now;
        let first = !turn.jobs.contains_key(id);
        let deaf = self.jobs.get(id).and_then(|owned| owned.deaf_since);
        if let Some(since) = deaf.filter(|_| first && !matches!(input, Input::Absent { .. })) {
            let millis = now.as_millis().saturating_sub(since.as_millis());
            self.tell(turn, id, Input::Absent { millis });
        }
        let stepped = self.jobs.with(id, |owned| {
            let said = owned.machine.step_in_words(now, input, NAMES_MAX)?;
            Ok((said, owned.machine.members_due()))
        });
        let ((step, words), members_due) = match stepped {
            Some(Ok(stepped)) => stepped,
            Some(Err(why)) => return Err((why, reply)),
            None => return Ok(()),
        };
        if members_due {
            turn.members_due.insert(id.clone());
        }
        let (entries, sealed) = step.split();
        if entries.is_empty() && reply.is_none() {
            return Ok(());
        }
        let changed = turn.jobs.entry(id.clone()).or_default();
        changed.entries.extend(entries.into_iter().zip(words));
        changed.sealed.push((sealed, reply));
        Ok(())
    }

    fn step_fleet(&mut self, turn: &mut Turn, input: fleet::Input) -> Result<(), fleet::Rejection> {
        let entries = self.fleet.machine.step(turn.now, input)?;
        turn.fleet.extend(entries);
        Ok(())
    }

    /// What was heard of nodes, what is due, and how much each node has to do by now.
    fn pass_time(&mut self, turn: &mut Turn) {
        let heard = std::mem::take(&mut turn.heard);
        let there = |name: &NodeName| self.fleet.machine.node(name).is_some();
        // One that was removed since it spoke is nobody's.
        let names: Vec<NodeName> = heard.into_iter().filter(there).collect();
        let loads = std::mem::take(&mut self.loads);
        let loads: BTreeMap<NodeName, u32> = loads.into_iter().filter(|(n, _)| there(n)).collect();
        let inputs = [
            (!names.is_empty()).then_some(fleet::Input::HeartbeatMany { names }),
            (!loads.is_empty()).then_some(fleet::Input::SetLoads { loads }),
            Some(fleet::Input::Tick),
        ];
        for input in inputs.into_iter().flatten() {
            if let Err(why) = self.step_fleet(turn, input) {
                tracing::error!(%why, "the fleet refuses what the engine says");
            }
        }
        for id in self.jobs.due(turn.now) {
            self.tell(turn, &id, Input::Tick);
        }
    }

    /// What befell nodes reaches the jobs, and jobs that ask hear who matches, until there is no more to say.
    fn settle(&mut self, turn: &mut Turn) {
        loop {
            let news = &turn.fleet[turn.told..];
            let of_loads =
                |entry: &&fleet::Entry| matches!(entry.event, fleet::Event::LoadsChanged { .. });
            let names = |entries: Vec<&fleet::Entry>| -> BTreeSet<NodeName> {
                entries
                    .iter()
                    .flat_map(|e| e.event.nodes())
                    .cloned()
                    .collect()
            };
            let all = names(news.iter().filter(|e| !of_loads(e)).collect());
            let loads = names(news.iter().filter(of_loads).collect());
            turn.told = turn.fleet.len();
            if !all.is_empty() || !loads.is_empty() {
                self.tell_of_nodes(turn, &all, &loads);
            }
            let due = std::mem::take(&mut turn.members_due);
            if all.is_empty() && loads.is_empty() && due.is_empty() {
                return;
            }
            for id in due {
                self.tell_members(turn, &id);
            }
        }
    }

    /// Jobs whose executions are placed also hear how much a node has to do.
    fn tell_of_nodes(
        &mut self,
        turn: &mut Turn,
        all: &BTreeSet<NodeName>,
        loads: &BTreeSet<NodeName>,
    ) {
        let mut told: Vec<(JobId, Vec<NodeChange>)> = Vec::new();
        for (id, owned) in self.jobs.iter() {
            let job = &owned.machine;
            let Some(spec) = job.membership() else {
                continue;
            };
            let placed = matches!(spec.placement, Placement::Replicas { .. });
            let more = loads.iter().filter(|name| placed && !all.contains(*name));
            let changes = all.iter().chain(more);
            let changes = changes.map(|name| self.change(job, spec, name));
            let concerns = |change: &NodeChange| match change {
                NodeChange::Seen(_) => true,
                NodeChange::Became { name, .. } => job.presence(name).is_some(),
            };
            let changes: Vec<NodeChange> = changes.filter(concerns).collect();
            if !changes.is_empty() {
                told.push((id.clone(), changes));
            }
        }
        for (id, changes) in told {
            self.tell(turn, &id, Input::Nodes(&changes));
        }
    }

    fn change(&self, job: &Job, spec: &JobSpec, name: &str) -> NodeChange {
        let own = job.desired(name).len() as u32;
        self.fleet.machine.change(name, spec, own)
    }

    /// All nodes that match, and the end of those that are gone.
    fn tell_members(&mut self, turn: &mut Turn, id: &JobId) {
        let Some(job) = self.jobs.get(id).map(|owned| &owned.machine) else {
            return;
        };
        let Some(spec) = job.membership() else {
            return;
        };
        let own = |node: &str| job.desired(node).len() as u32;
        let members = self.fleet.machine.members(spec, own);
        let gone = job
            .nodes()
            .filter(|name| self.fleet.machine.node(name).is_none());
        let gone: Vec<NodeChange> = gone.map(|name| self.change(job, spec, name)).collect();
        self.tell(turn, id, Input::Members(&members));
        if !gone.is_empty() {
            self.tell(turn, id, Input::Nodes(&gone));
        }
    }

    /// Makes the turn safe, and lets the world know.
    fn commit(&mut self, mut turn: Turn) {
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
            }
        }
        lost
    }

    /// Drops a machine that is ahead of its log, and reads it again: what it was told `now` is lost.
    fn reload(&mut self, machine: &Machine, now: Time) {
        match machine {
            Machine::Fleet => {
                let load = load_fleet(&*self.store, self.fleet.claim.clone(), self.settings.fleet);
                match self.runtime.block_on(load) {
                    Ok(fleet) => self.fleet = fleet,
                    // It goes on with what it has: what it says next is refused by its position.
                    Err(why) => tracing::error!(why = chain(&why), "the fleet cannot be read"),
                }
            }
            Machine::Job(id) => {
                let Some(Owned {
                    claim, deaf_since, ..
                }) = self.jobs.remove(id)
                else {
                    return;
                };
                match self.runtime.block_on(load_job(&*self.store, claim.clone())) {
                    Ok(owned) => self.jobs.insert(Owned {
                        deaf_since: deaf_since.or(Some(now)),
                        ..owned
                    }),
                    Err(why) => {
                        tracing::error!(job = %id, why = chain(&why), "the job cannot be read");
                        self.broken.insert(id.clone(), claim);
                    }
                }
            }
        }
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
        self.drop_streams();
        for node in nodes {
            if let Some(stream) = self.streams.get(node) {
                stream.send_replace(Arc::new(self.desired(node)));
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

    fn desired(&self, node: &str) -> Desired {
        let revision = *self.store.position().borrow();
        Desired::of(node, revision, self.jobs.on(node))
    }

    fn look(&mut self, ask: Ask) {
        match ask {
            Ask::Plan {
                job,
                request,
                reply,
            } => answer(reply, self.plan(&job, request)),
            Ask::Look { job, look } => {
                let found = self.find(&job, false).and_then(|()| {
                    let owned = self.jobs.get(&job).filter(|o| o.machine.version() > 0);
                    owned.ok_or_else(|| EngineError::NoSuchJob(job.clone()))
                });
                look(found.map(|owned| &owned.machine));
            }
            Ask::LookFleet { look } => look(&self.fleet.machine),
            Ask::Connect { node, reply } => {
                if self.fleet.machine.node(&node).is_none() {
                    let names = vec![node.to_string()];
                    return answer(reply, Err(fleet::Rejection::UnknownNodes { names }.into()));
                }
                let now = Arc::new(self.desired(&node));
                let stream = self.streams.entry(node);
                let stream = stream.or_insert_with(|| watch::Sender::new(now.clone()));
                // Its revision stays where nothing else is new: whoever waits for a later one is not to be woken.
                stream.send_if_modified(|then| {
                    let other = !then.wants_the_same(&now);
                    if other {
                        *then = now;
                    }
                    other
                });
                answer(reply, Ok(stream.subscribe()));
            }
            Ask::Command { .. }
            | Ask::Fleet { .. }
            | Ask::Reports { .. }
            | Ask::Snapshot { .. } => {
                tracing::error!(?ask, "this is nothing to look at");
            }
        }
    }

    fn plan(&mut self, id: &JobId, mut request: Request) -> Result<Plan, EngineError> {
        let registers = matches!(request.command, Command::Register { .. });
        match self.find(id, false) {
            // What it would be begun with, so that the plan is what then happens.
            Err(EngineError::NoSuchJob(_)) if registers => {
                self.name_members(id, &mut request);
                Ok(Job::new(id.clone(), seed(id)).plan(now(), request)?)
            }
            Err(why) => Err(why),
            Ok(()) => {
                self.name_members(id, &mut request);
                let owned = self.jobs.get(id);
                let owned = owned.ok_or_else(|| EngineError::NoSuchJob(id.clone()))?;
                Ok(owned.machine.plan(now(), request)?)
            }
        }
    }

    fn load_all(&mut self) -> Result<(), EngineError> {
        let mut after = None;
        loop {
            let next = self.store.machines(after, CLAIMS_PER_CALL);
            let machines = self.runtime.block_on(next)?;
            let Some(last) = machines.last().cloned() else {
                return Ok(());
            };
            after = Some(last);
            let wanted = machines.into_iter().filter_map(|machine| match &machine {
                Machine::Fleet => None,
                Machine::Job(id) => Some(Wanted {
                    seed: seed(id),
                    machine,
                }),
            });
            let claims = self.runtime.block_on(self.store.claim(wanted.collect()))?;
            for claim in claims {
                let Machine::Job(id) = claim.machine.clone() else {
                    continue;
                };
                match self.runtime.block_on(load_job(&*self.store, claim.clone())) {
                    Ok(owned) => self.jobs.insert(owned),
                    // One job that cannot be read keeps nobody else from being driven.
                    Err(why) => {
                        tracing::error!(job = %id, why = chain(&why), "the job cannot be read");
                        self.broken.insert(id, claim);
                    }
                }
            }
        }
    }

    /// The first turn: nobody listened since the last entry, and what befell nodes may not have reached every job.
    fn catch_up(&mut self) {
        let mut turn = self.turn();
        let ids: Vec<JobId> = self.jobs.iter().map(|(id, _)| id.clone()).collect();
        for id in &ids {
            self.tell(&mut turn, id, Input::Absent { millis: u64::MAX });
            self.tell_members(&mut turn, id);
        }
        let known = self.jobs.loads();
        let known: BTreeMap<NodeName, u32> = known.map(|(n, load)| (n.clone(), load)).collect();
        let nodes = self.fleet.machine.nodes();
        let off = nodes.filter(|node| node.load != known.get(&node.name).copied().unwrap_or(0));
        self.loads = off
            .map(|node| {
                (
                    node.name.clone(),
                    known.get(&node.name).copied().unwrap_or(0),
                )
            })
            .collect();
        self.pass_time(&mut turn);
        self.settle(&mut turn);
        self.commit(turn);
        let last = self.jobs.iter().flat_map(|(_, owned)| {
            let last = owned.machine.deployments().next();
            let numbers = last.into_iter().map(|last| last.number).collect();
            rows::deployments(&owned.machine, owned.claim.log, &numbers)
        });
        self.shown.publish(last.map(|row| (row.into(), true)));
    }
}

/// Bytes of log, and of the snapshot if there is one.
fn written(append: &Append) -> (usize, Option<usize>) {
    let grown = append.lines.iter().map(|line| line.text.len()).sum();
    (grown, append.snapshot.as_ref().map(Vec::len))
}

/// The only place where a clock is read for the machines.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    Time::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// What a new job is made with. It follows from its name, so that a plan for it is what then happens.
fn seed(id: &JobId) -> u64 {
    let fold = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    id.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fold)
}

fn name(machine: &Machine) -> String {
    match machine {
        Machine::Fleet => "the fleet".to_owned(),
        Machine::Job(id) => format!("job {id}"),
    }
}

/// Whoever asked may be gone, and that is no matter.
fn answer<T>(reply: Reply<T>, answer: Result<T, EngineError>) {
    let _ = reply.send(answer);
}

fn action(command: &Command) -> &'static str {
    match command {
        Command::Register { .. } => "register",
        Command::Restart => "restart",
        Command::Stop => "stop",
        Command::RollBack { .. } => "rollback",
        Command::Scale { .. } => "scale",
        Command::Promote(_) => "promote",
        Command::Pause(_) => "pause",
        Command::Resume(_) => "resume",
        Command::Cancel(_) => "cancel",
        Command::Fail { .. } => "fail",
    }
}

/// What people do to nodes.
fn audit_of_fleet(at: Time, who: &Who, input: &fleet::Input) -> Option<Audit> {
    let (action, node) = match input {
        fleet::Input::Join { name, .. } => ("join", name),
        fleet::Input::Drain { name } => ("drain", name),
        fleet::Input::Enable { name } => ("enable", name),
        fleet::Input::Remove { name } => ("remove", name),
        _ => return None,
    };
    Some(audit(at, who, action, format!("node {node}")))
}

fn audit(at: Time, who: &Who, action: &str, object: String) -> Audit {
    let record = Record {
        who: (&who.name).into(),
        request: (&who.request).into(),
        action: action.into(),
        object: object.into(),
        outcome: DONE.into(),
    };
    record.at(at)
}
