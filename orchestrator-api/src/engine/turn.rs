//! One turn: what has come in is stepped, committed together, and only then answered, shown and sent.

mod audit;
mod commit;
mod groups;
mod load;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orchestrator_core::fleet::{self, Fleet, NodeName};
use orchestrator_core::spec::{JobSpec, Placement};
use orchestrator_core::{
    Answer, Command, DeploymentId, Done as WorkDone, Entry, Input, Job, JobId, NodeChange,
    Observation, Plan, Rejection, Report, Request, Sealed, Sentence, Standing, Time,
};
use tokio::runtime::Handle as Runtime;
use tokio::sync::mpsc::Receiver;
use tokio::sync::watch;

use self::audit::{action, audit, audit_of_fleet};
use self::commit::STREAMS_MIN;
use self::load::seed;
use super::counts::Counts;
use super::desired::{Desired, Documents};
use super::groups::{Groups, ShownGroups};
use super::machines::{Jobs, Owned, load_fleet};
use super::shown::Shown;
use super::{Ask, Done, EngineError, Reply, Said, Settings, Who};
use crate::store::{Audit, Claim, GroupId, Machine, Store, Wanted};

/// How many asks one turn takes before it commits.
const ASKS_PER_TURN_MAX: usize = 1024;
/// A store that keeps nothing is asked again so soon, when nobody else asks.
const AGAIN_MILLIS: u64 = 250;
/// Where something is due later, the clock is looked at so often: somebody may have set it back.
const CLOCK_MILLIS: u64 = 10_000;
/// A clock that is that much behind has been set back. One that is slewed is never.
const CLOCK_SLACK_MILLIS: u64 = 500;
/// How many nodes are named of what an entry speaks of: more are counted, or a wave of ten thousand would be written
/// down by name.
const NAMES_MAX: usize = 20;

/// The engine's thread.
pub(super) struct Loop {
    store: Arc<dyn Store>,
    shown: Arc<Shown>,
    shown_groups: Arc<ShownGroups>,
    counts: Arc<Counts>,
    runtime: Runtime,
    settings: Settings,
    inbox: Receiver<Ask>,
    fleet: Owned<Fleet>,
    jobs: Jobs,
    groups: Groups,
    /// Machines that are ours and could not be read: tried again when somebody asks.
    broken: BTreeMap<JobId, Claim>,
    streams: HashMap<NodeName, watch::Sender<Arc<Desired>>>,
    /// When there are so many it is time to look who is gone.
    streams_max: usize,
    /// Nodes with another number of executions than the fleet knows of.
    loads: BTreeMap<NodeName, u32>,
    /// Whether the store kept all that it was last given.
    keeps: bool,
    /// When the last turn began, by a clock that nobody sets, and by the one that people read.
    clock: (Instant, Time),
    documents: Documents,
}

/// What one turn changes, until it is committed.
struct Turn {
    now: Time,
    /// The clock was set back since the last turn.
    set_back: bool,
    jobs: BTreeMap<JobId, Changed>,
    groups: BTreeMap<GroupId, groups::Changed>,
    fleet: Vec<fleet::Entry>,
    fleet_audit: Vec<Audit>,
    /// Of the fleet's entries, how many the jobs have heard of.
    told: usize,
    heard: BTreeSet<NodeName>,
    members_due: BTreeSet<JobId>,
    /// They spoke of a deployment that does not wait for them.
    mistaken: BTreeSet<NodeName>,
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
        (shown, shown_groups): (Arc<Shown>, Arc<ShownGroups>),
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
            shown_groups,
            counts,
            runtime,
            settings,
            inbox,
            fleet,
            jobs: Jobs::default(),
            groups: Groups::default(),
            broken: BTreeMap::new(),
            streams: HashMap::new(),
            streams_max: STREAMS_MIN,
            loads: BTreeMap::new(),
            keeps: true,
            clock: (Instant::now(), now()),
            documents: Documents::default(),
        };
        driven.load_all()?;
        driven.load_groups()?;
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
            // Before anything else is changed: they go by what is safe.
            self.serve_groups(&mut turn);
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
        let due = [
            self.jobs.wake(),
            self.fleet.machine.wake(),
            self.groups.wake(),
        ];
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
        let left = due.as_millis().saturating_sub(now().as_millis());
        let left = left.min(CLOCK_MILLIS).max(least);
        let next =
            async { tokio::time::timeout(Duration::from_millis(left), self.inbox.recv()).await };
        match self.runtime.block_on(next) {
            Ok(Some(ask)) => Some(Some(ask)),
            Ok(None) => None,
            Err(_) => Some(None),
        }
    }

    fn turn(&mut self) -> Turn {
        let (at, now) = (Instant::now(), now());
        let (before_at, before) = self.clock;
        let passed = at.duration_since(before_at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let expected = before.as_millis().saturating_add(passed);
        self.clock = (at, now);
        Turn {
            now,
            set_back: now.as_millis().saturating_add(CLOCK_SLACK_MILLIS) < expected,
            jobs: BTreeMap::new(),
            groups: BTreeMap::new(),
            fleet: Vec::new(),
            fleet_audit: Vec::new(),
            told: 0,
            heard: BTreeSet::new(),
            members_due: BTreeSet::new(),
            mistaken: BTreeSet::new(),
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
            } => match self.given_way(&job, of, &request) {
                Ok(None) => {
                    let of = of.map(|(id, _)| id);
                    let said = self.command(turn, &job, of, request, &who, Some(reply));
                    if let Err((why, Some(reply))) = said {
                        answer(reply, Err(why));
                    }
                }
                // Once everything of this turn is safe, or is not.
                Ok(Some(answered)) => turn.answered.push((job, answered, reply)),
                Err(why) => answer(reply, Err(why)),
            },
            Ask::Fleet { input, who, reply } => {
                let audit = who.and_then(|who| audit_of_fleet(turn.now, &who, &input));
                let before = turn.fleet.len();
                match self.step_fleet(turn, input) {
                    Ok(()) => {
                        // What the step has found besides is no deed, nor is that it was said.
                        let done = turn.fleet[before..].iter().any(|entry| {
                            use fleet::Event::{Answered, Disconnected, WentDown};
                            let event = &entry.event;
                            !matches!(
                                event,
                                Answered { .. } | Disconnected { .. } | WentDown { .. }
                            )
                        });
                        turn.fleet_audit.extend(audit.filter(|_| done));
                        turn.waiting.push(reply);
                    }
                    Err(why) => answer(reply, Err(why.into())),
                }
            }
            Ask::Reports { node, said, reply } => self.reports(turn, node, said, reply),
            Ask::BeginGroup {
                release,
                key,
                who,
                reply,
            } => self.begin_group(turn, release, key, &who, reply),
            Ask::CancelGroup { id, who, reply } => self.cancel_group(turn, id, &who, reply),
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
        of: Option<DeploymentId>,
        mut request: Request,
        who: &Who,
        reply: Option<Reply<Done>>,
    ) -> Result<(), (EngineError, Option<Reply<Done>>)> {
        let found = match self.find(id, false) {
            // A new job begins with a command that is taken, and leaves nothing behind with one that is not.
            Err(EngineError::NoSuchJob(_)) if registers(&request) => self
                .plan_anew(turn.now, id, request.clone())
                .and_then(|_| self.find(id, true)),
            found => found,
        };
        if let Err(why) = found {
            return Err((why, reply));
        }
        self.name_members(id, &mut request);
        let object = match of.or_else(|| request.command.deployment()) {
            None => format!("job {id}"),
            Some(deployment) => format!("job {id}, deployment {deployment}"),
        };
        let audit = audit(turn.now, who, action(&request.command), object);
        self.step(turn, id, request.into(), reply)
            .map_err(|(why, reply)| (why.into(), reply))?;
        if let Some(changed) = turn.jobs.get_mut(id) {
            let did = changed
                .sealed
                .last()
                .is_some_and(|(sealed, _)| sealed.did());
            changed.audit.extend(did.then_some(audit));
        }
        Ok(())
    }

    /// Whether a rollback of a deployment comes too late for it; what it would lead to, where that is so already.
    fn given_way(
        &mut self,
        job: &JobId,
        of: Option<(DeploymentId, Option<u64>)>,
        request: &Request,
    ) -> Result<Option<Answer>, EngineError> {
        let Some((id, expected)) = of else {
            return Ok(None);
        };
        self.find(job, false)?;
        let Some(machine) = self.jobs.get(job).map(|owned| &owned.machine) else {
            return Err(EngineError::NoSuchDeployment(id));
        };
        // What was said under this key before is answered as it was then, or refused.
        if let Some((key, known)) = request
            .key
            .as_ref()
            .and_then(|key| Some((key, machine.answered(key)?)))
        {
            // As far as it is remembered, it was about this one.
            let led_to = known.deployment.and_then(|led_to| machine.summary(led_to));
            return match led_to.is_none_or(|led_to| led_to.rollback_of == Some(id)) {
                true => Ok(None),
                false => Err(EngineError::Rejected(Rejection::KeyReused(key.clone()))),
            };
        }
        let Some(last) = machine.deployments().next() else {
            return Err(EngineError::NoSuchDeployment(id));
        };
        let gone_back = match &request.command {
            Command::RollBack { to } => to.is_none_or(|to| to == last.to_version),
            _ => false,
        };
        let answer = if last.id == id {
            None
        } else if last.rollback_of == Some(id) && gone_back {
            Some(Answer {
                version: machine.version(),
                deployment: Some(last.id),
                changed: false,
                standing: Standing::UnderWay,
            })
        } else {
            return Err(EngineError::GaveWay { id, last: last.id });
        };
        let found = machine.record(id).map_or(0, |known| known.status.revision);
        match expected.filter(|expected| *expected != found) {
            None => Ok(answer),
            Some(expected) => Err(EngineError::Rejected(Rejection::Unexpected {
                what: "revision",
                expected,
                found,
            })),
        }
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
                Some(_) => {
                    turn.mistaken.insert(node.clone());
                }
                None if said.what == (Observation::Exited { code: 0 }) => done.push(WorkDone {
                    slot: said.slot,
                    generation: said.generation,
                }),
                None => {}
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
        let due = if turn.set_back {
            // The moments that they named are further away now than what they wait for.
            tracing::warn!("the clock was set back: deadlines go on by the time that has passed");
            self.jobs.waiting()
        } else {
            self.jobs.due(turn.now)
        };
        for id in due {
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

    fn desired(&mut self, node: &str) -> Desired {
        let revision = *self.store.position().borrow();
        Desired::of(node, revision, self.jobs.on(node), &mut self.documents)
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
                stream.send_if_modified(|then| then.follow(now));
                answer(reply, Ok(stream.subscribe()));
            }
            Ask::Command { .. }
            | Ask::Fleet { .. }
            | Ask::Reports { .. }
            | Ask::BeginGroup { .. }
            | Ask::CancelGroup { .. }
            | Ask::Snapshot { .. } => {
                tracing::error!(?ask, "this is nothing to look at");
            }
        }
    }

    /// The plan of what begins a job: what it would be begun with, so that it is what then happens.
    fn plan_anew(&self, now: Time, id: &JobId, mut request: Request) -> Result<Plan, EngineError> {
        self.name_members(id, &mut request);
        Ok(Job::new(id.clone(), seed(id)).plan(now, request)?)
    }

    fn plan(&mut self, id: &JobId, mut request: Request) -> Result<Plan, EngineError> {
        match self.find(id, false) {
            Err(EngineError::NoSuchJob(_)) if registers(&request) => {
                self.plan_anew(now(), id, request)
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
}

fn registers(request: &Request) -> bool {
    matches!(request.command, Command::Register { .. })
}

/// The only place where a clock is read for the machines.
fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis();
    Time::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// Whoever asked may be gone, and that is no matter.
fn answer<T>(reply: Reply<T>, answer: Result<T, EngineError>) {
    let _ = reply.send(answer);
}
