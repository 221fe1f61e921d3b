//! The face of a job's machine: step it, persist what it says, carry out what it orders.

use std::borrow::Borrow;
use std::sync::Arc;

use crate::admit::{self, Admitted, Ignored, Rejection};
use crate::apply::{apply, facts};
use crate::decide::{decide, next_due};
use crate::effect::Effect;
use crate::event::{Aftermath, Answered, DeploymentState, Entry, Event, Presence, Standing};
use crate::group::Outcome;
use crate::id::{DeploymentId, JobId};
use crate::input::{Input, NodeChange, Request};
use crate::narrator::{Sentence, Words};
use crate::put_aside::PutAside;
use crate::replay::{BrokenLog, STEP_MAX, TIME_MAX, of, take_in};
use crate::rollout::{Target, TargetState};
use crate::spec::JobSpec;
use crate::state::{Moment, Slot, State};
use crate::time::Time;

/// A clock that is set back by no more than this is taken for the jitter of a driver's threads.
const JITTER_MILLIS: u64 = 1000;

/// One job: its versions, its nodes, and at most one deployment under way.
///
/// It keeps nothing that its log does not say: a machine rebuilt from the log goes on exactly as the
/// one that wrote it would have.
#[derive(Clone, Debug)]
pub struct Job {
    pub(crate) state: State,
    /// Made of what was kept, and not stepped since: nobody listened from the latest entry on. Not kept itself; what
    /// the first step makes of it is a fact.
    rebuilt: bool,
}

/// What a step led to. The entries come first: the effects are out of reach until they are taken.
#[must_use = "a step that is not persisted has not happened: rebuild the job from its log"]
#[derive(Debug)]
pub struct Step {
    entries: Vec<Entry>,
    after: Committed,
    /// What was asked for changed something.
    did: bool,
}

/// What may be shown and done once the entries of a step are safe.
#[derive(Debug)]
pub struct Committed {
    /// What is to be done.
    pub effects: Vec<Effect>,
    /// The reports, or the ends of work, that changed nothing, by their position in the input, and why.
    pub ignored: Vec<(u32, Ignored)>,
    /// What a command led to.
    pub answer: Option<Answer>,
}

/// The answer to a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The job's highest version.
    pub version: u32,
    /// The deployment that it is about: the active one, or the last.
    pub deployment: Option<DeploymentId>,
    /// False where there was nothing to do. A command that comes again with its key is answered as the first
    /// time, and does nothing.
    pub changed: bool,
    /// Whether the command began the deployment, or met it: where there was nothing to do because it is being
    /// done, the deployment is to be waited for.
    pub standing: Standing,
}

impl Step {
    /// What has to be safe before anything else happens. Empty where nothing changed.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Hands the entries to `persist`; what follows from them only when it succeeded.
    ///
    /// After an error the job holds a state that its log does not: drop it and
    /// [recover](Job::recover) it.
    pub fn persist<E>(
        self,
        persist: impl FnOnce(Vec<Entry>) -> Result<(), E>,
    ) -> Result<Committed, E> {
        let (entries, sealed) = self.split();
        persist(entries)?;
        Ok(sealed.committed())
    }

    /// For a driver that commits the entries of many steps together: the entries, and what follows
    /// from them under a seal.
    pub fn split(self) -> (Vec<Entry>, Sealed) {
        let Self {
            entries,
            after,
            did,
        } = self;
        (entries, Sealed { after, did })
    }
}

/// What follows from entries that are on their way to being safe.
#[must_use = "effects that are never carried out leave nodes without orders"]
#[derive(Debug)]
pub struct Sealed {
    after: Committed,
    did: bool,
}

impl Sealed {
    /// To be called when the entries are safe, and not before.
    pub fn committed(self) -> Committed {
        self.after
    }

    /// Whether its command changed anything in this step, for those who keep a log of what was done together with the
    /// entries. One that is said again under its key is [answered](Answer::changed) as it was then, and does nothing.
    pub fn did(&self) -> bool {
        self.did
    }

    /// The targets that were [put aside](Effect::PutAside), for those who keep them together with the entries.
    pub fn put_aside(&self) -> impl Iterator<Item = &PutAside> {
        self.after.effects.iter().filter_map(|effect| match effect {
            Effect::PutAside(aside) => Some(&**aside),
            _ => None,
        })
    }
}

/// What an execution is to run, as its node has to hear it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Assignment<'a> {
    /// The execution's number within the job.
    pub slot: u32,
    /// The node that it runs on.
    pub node: &'a str,
    /// What it is to run; 0 = nothing.
    pub version: u32,
    /// Refused by the node when it has heard a higher one for this slot.
    pub generation: u64,
    /// A generation: what runs this version already goes on for this assignment where it was begun for one since that. Else
    /// a restart has come between, whether the node has heard of it or not. 0 where there was none.
    pub since: u64,
    /// To be named in reports about this assignment; `None` where no deployment waits for them.
    pub target: Option<u32>,
}

impl Job {
    /// A job that nobody registered a version of. The seed decides orders and ids, and is never
    /// changed.
    pub fn new(id: JobId, seed: u64) -> Self {
        Self {
            state: State::new(id, seed),
            rebuilt: false,
        }
    }

    /// The job that wrote these entries. `id` and `seed` must be those that it was made with.
    pub fn recover<E: Borrow<Entry>>(
        id: JobId,
        seed: u64,
        log: impl IntoIterator<Item = E>,
    ) -> Result<Self, BrokenLog> {
        let mut job = Self::new(id, seed);
        let whole = job.follow(log)?;
        match job.state.step_left {
            0 => Ok(job),
            missing => Err(BrokenLog::Torn { whole, missing }),
        }
    }

    /// Takes in entries that follow what it has: after a snapshot, or on a replica. They may end within a step: the
    /// job can be stepped when the rest of it was taken in too.
    pub fn catch_up<E: Borrow<Entry>>(
        &mut self,
        log: impl IntoIterator<Item = E>,
    ) -> Result<(), BrokenLog> {
        self.follow(log).map(drop)
    }

    /// Answers the last entry of the last step that is whole; 0 where there is none.
    fn follow<E: Borrow<Entry>>(
        &mut self,
        log: impl IntoIterator<Item = E>,
    ) -> Result<u64, BrokenLog> {
        let (mut whole, mut effects) = (0, Vec::new());
        for entry in log {
            take_in(&mut self.state, entry.borrow(), &mut effects)?;
            self.rebuilt = true;
            effects.clear();
            if self.state.step_left == 0 {
                whole = self.state.seq;
            }
        }
        Ok(whole)
    }

    /// A job as it was kept.
    pub(crate) fn rebuilt(state: State) -> Self {
        Self {
            state,
            rebuilt: true,
        }
    }

    /// Takes one input in at `now` and draws every conclusion from it.
    ///
    /// A report, a tick, and what befalls a node cost what they change, whatever the size of the fleet. A step in which
    /// a deployment begins or ends, or the number of executions changes, looks at all of them, also where it is a
    /// report that ends it. A rejection changes nothing.
    pub fn step(&mut self, now: Time, input: Input<'_>) -> Result<Step, Rejection> {
        self.take(now, input, None)
    }

    /// A [step](Job::step), and each of its entries in words, with the names of its nodes as they are at that point
    /// of it; of no more than `names_max` nodes for each. Names cannot be looked up later: a deployment that begins
    /// takes the numbers of the one before it.
    pub fn step_in_words(
        &mut self,
        now: Time,
        input: Input<'_>,
        names_max: usize,
    ) -> Result<(Step, Vec<Sentence>), Rejection> {
        let mut words = Words::new(names_max);
        let step = self.take(now, input, Some(&mut words))?;
        Ok((step, words.said()))
    }

    fn take(
        &mut self,
        now: Time,
        input: Input<'_>,
        words: Option<&mut Words>,
    ) -> Result<Step, Rejection> {
        if self.state.step_left > 0 {
            return Err(Rejection::WithinStep(self.state.step_left));
        }
        // All that can be refused is refused before anything is written down.
        let admitted = match &input {
            Input::Command(request) => Some(admit::command(&self.state, request)?),
            Input::Nodes(changes) => {
                admit::check_nodes(&self.state, changes)?;
                None
            }
            Input::Members(members) => Some(Admitted::Facts(admit::listed(&self.state, members)?)),
            Input::Tick | Input::Reports(_) | Input::Done(_) | Input::Absent { .. } => None,
        };
        let met = self.state.rollout.as_ref();
        let met = met.map(|r| Met {
            deployment: r.head.id,
            over: r.head.state.is_final(),
        });
        let rebuilt = std::mem::take(&mut self.rebuilt);
        let mut log = Log::open(&mut self.state, now, words);
        if rebuilt && !matches!(input, Input::Absent { .. }) {
            log.absent(u64::MAX);
        }
        let mut ignored = Vec::new();
        match &input {
            Input::Tick | Input::Command(_) | Input::Members(_) => {}
            Input::Reports(reports) => {
                for (position, report) in (0..).zip(*reports) {
                    match admit::report(log.state, log.now, report) {
                        Ok(event) => log.push(event),
                        Err(why) => ignored.push((position, why)),
                    }
                }
            }
            Input::Done(done) => {
                for (position, &done) in (0..).zip(*done) {
                    match admit::done(log.state, done) {
                        Ok(event) => log.push(event),
                        Err(why) => ignored.push((position, why)),
                    }
                }
            }
            Input::Nodes(changes) => changes.iter().for_each(|change| log.node(change)),
            Input::Absent { millis } => log.absent(*millis),
        }
        let mut asked = Asked::by(&[]);
        let mut again = None;
        match admitted {
            Some(Admitted::Facts(facts)) => {
                asked = Asked::by(&facts);
                facts.into_iter().for_each(|fact| log.push(fact));
            }
            Some(Admitted::Again(known)) => again = Some(known.answer()),
            None => {}
        }
        log.conclude();
        let answer = match input {
            Input::Command(request) => {
                Some(again.unwrap_or_else(|| log.answer(request, asked, met)))
            }
            _ => None,
        };
        let (entries, effects) = log.close();
        let after = Committed {
            effects,
            ignored,
            answer,
        };
        let did = asked.changed;
        Ok(Step {
            entries,
            after,
            did,
        })
    }

    /// Takes a fact for granted and draws the conclusions: for plans, on a copy.
    pub(crate) fn assume(&mut self, now: Time, fact: Event) -> Vec<(Entry, Sentence)> {
        let mut words = Words::new(usize::MAX);
        let mut log = Log::open(&mut self.state, now, Some(&mut words));
        log.push(fact);
        log.conclude();
        let (entries, _) = log.close();
        entries.into_iter().zip(words.said()).collect()
    }

    /// When the job wants to be stepped though nothing happens: with [`Input::Tick`]. `None` where
    /// it waits for a person or a node, see [`Job::waiting_on`].
    pub fn wake(&self) -> Option<Time> {
        let due = next_due(&self.state)?;
        let Moment { wall, elapsed } = self.state.moment;
        Some(Time::from_millis(
            wall.as_millis().saturating_add(due.saturating_sub(elapsed)),
        ))
    }

    /// What it was made with.
    pub fn seed(&self) -> u64 {
        self.state.seed
    }

    /// How a deployment ended, its automatic rollback included.
    pub fn outcome(&self, deployment: DeploymentId) -> Ending {
        let Some(head) = self.state.heads().find(|h| h.id == deployment) else {
            return Ending::Unknown;
        };
        Ending::Known(match (head.state, head.aftermath) {
            (DeploymentState::Completed, _) => Outcome::Completed,
            (DeploymentState::Canceled, _) => Outcome::Canceled,
            (DeploymentState::Failed, Aftermath::RollBack { .. }) => {
                let mut heads = self.state.heads();
                match heads
                    .find(|h| head.rolled_back_by == Some(h.id))
                    .map(|h| h.state)
                {
                    Some(DeploymentState::Completed) => Outcome::RolledBack,
                    Some(DeploymentState::Failed | DeploymentState::Canceled) => Outcome::Failed,
                    _ => return Ending::UnderWay,
                }
            }
            (DeploymentState::Failed, _) => Outcome::Failed,
            (
                DeploymentState::Pending | DeploymentState::InProgress | DeploymentState::Paused,
                _,
            ) => return Ending::UnderWay,
        })
    }

    /// How a command with this idempotency key was answered; `None` where none was carried out, or too long ago.
    pub fn answered(&self, key: &str) -> Option<Answer> {
        let known = self.state.keys.iter().find(|known| known.key == key);
        known.map(Answered::answer)
    }

    /// Whose job it is.
    pub fn id(&self) -> &JobId {
        &self.state.id
    }

    /// The position of the latest entry in the job's log.
    pub fn seq(&self) -> u64 {
        self.state.seq
    }

    /// The highest version ever registered, whether or not anything runs it: it stays when that was taken back, stopped,
    /// or is forgotten. 0 = none. What runs is [`Job::current`].
    pub fn version(&self) -> u32 {
        self.state.version_max
    }

    /// The version that a node runs that no deployment speaks for: what new and returning ones are told. 0 = nothing.
    /// After a rollback to an older version it is lower than [`Job::version`].
    pub fn current(&self) -> u32 {
        self.state.current
    }

    /// A version's spec; absent when it was never registered, or is forgotten.
    pub fn spec(&self, version: u32) -> Option<&Arc<JobSpec>> {
        self.state.versions.get(&version).map(|v| &v.spec)
    }

    /// The versions that are remembered, oldest first.
    pub fn versions(&self) -> impl Iterator<Item = VersionView> + '_ {
        self.state.versions.iter().map(|(&number, v)| VersionView {
            number,
            registered: v.registered,
            stable: v.stable,
            rejected: v.rejected,
            executions: v.told,
        })
    }

    /// The spec that says where executions go: its selector and spread label tell which nodes the job
    /// wants to hear of, and as what. The one registered last, or the one that was rolled back to.
    pub fn membership(&self) -> Option<&JobSpec> {
        self.state.spec().map(|spec| &**spec)
    }

    /// Whether it waits for [`Input::Members`]: after a restart of the driver the
    /// [effect](Effect::MembersNeeded) that asked for them is gone, and this is not.
    pub fn members_due(&self) -> bool {
        self.state.members_due
    }

    /// What a node should run now, all of it: also for one that was away for a month. Whatever else
    /// of this job runs there is to be stopped. Executions of a batch job that have done their work are not
    /// listed: they are not run again.
    pub fn desired(&self, node: &str) -> Vec<Assignment<'_>> {
        let Some(node) = self.state.members.find(node) else {
            return Vec::new();
        };
        let slots = self.state.members.slots(node);
        slots
            .filter(|&slot| !self.state.slots[slot as usize].is_done())
            .map(|slot| self.assignment(slot))
            .filter(|a| a.version != 0)
            .collect()
    }

    /// What a node was told to stop, as long as a deployment waits to hear that it has: to be told together with
    /// what is [desired](Self::desired) there, or its agent does not know what its report speaks of.
    pub fn stops(&self, node: &str) -> Vec<Assignment<'_>> {
        let node = self.state.members.find(node);
        let slots = node.into_iter().flat_map(|n| self.state.members.slots(n));
        slots
            .map(|slot| self.assignment(slot))
            .filter(|a| a.version == 0 && a.target.is_some())
            .collect()
    }

    /// What one execution was last told; nothing, and on no node, where there is no such slot.
    pub fn assignment(&self, slot: u32) -> Assignment<'_> {
        let Some(&Slot {
            node,
            told,
            target,
            generation,
            ..
        }) = self.state.slots.get(slot as usize)
        else {
            return Assignment {
                slot,
                node: "",
                version: 0,
                generation: 0,
                since: 0,
                target: None,
            };
        };
        let generation = u64::from(generation);
        let restarted = self.state.restarted;
        Assignment {
            slot,
            node: self.state.members.name(node),
            version: told,
            generation,
            since: if generation >= restarted {
                restarted
            } else {
                0
            },
            target: self.state.is_waited_for(slot).then_some(target),
        }
    }

    /// The names of the nodes that the job knows, gone ones left out. After a restart of the driver each of
    /// them is sent what it [should run](Job::desired): effects that were not carried out are lost, this
    /// is not.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        let members = &self.state.members;
        members.iter().map(|node| members.name(node))
    }

    /// The assignments that are reported on: those without a verdict, and those that are updated and may
    /// turn bad as long as the deployment goes on.
    ///
    /// It walks all targets of the deployment, however few of them are watched: a driver asks once an interval, and not
    /// for every report. [`Job::outstanding`] walks no more than the waves that have targets in flight.
    pub fn watched(&self) -> impl Iterator<Item = Assignment<'_>> {
        let targets = self.state.active().into_iter().flat_map(|r| &r.targets);
        let may_turn_bad = |t: &Target| {
            t.state() == TargetState::Updated && !self.state.slots[t.slot as usize].is_done()
        };
        let watched = targets.filter(move |t| t.state().is_in_flight() || may_turn_bad(t));
        let watched = watched.map(|target| self.assignment(target.slot));
        // What was updated and taken away since is not.
        watched.filter(|assignment| assignment.target.is_some())
    }

    /// The assignments that wait for a verdict.
    pub fn outstanding(&self) -> impl Iterator<Item = Assignment<'_>> {
        let rollout = self.state.active();
        let open = rollout
            .into_iter()
            .flat_map(|r| r.open.iter().map(move |&d| (r, d)));
        let targets = open.flat_map(|(r, d)| {
            let targets = r.dispatches[d as usize]
                .targets
                .iter()
                .map(|t| r.targets[t as usize]);
            targets.filter(move |t| t.dispatch == d + 1 && t.state().is_in_flight())
        });
        targets.map(|target| self.assignment(target.slot))
    }

    /// The name of a node by its number in an effect of the latest step. The numbers of nodes that left are given
    /// to others: an entry may mean another one.
    pub fn node_name(&self, node: u32) -> &str {
        if node < self.state.members.len() {
            self.state.members.name(node)
        } else {
            ""
        }
    }

    /// What the job was told of a node; `None` where it does not know it, or it left.
    pub fn presence(&self, node: &str) -> Option<Presence> {
        let node = self.state.members.find(node)?;
        Some(self.state.members.presence(node)).filter(|&p| p != Presence::Gone)
    }

    /// The name of the node that a target is on now; `None` where the deployment is not the active or the last one,
    /// or has no such target. An entry may speak of another node: [`Job::step_in_words`] and
    /// [`Narrator`](crate::Narrator) say which.
    pub fn target_name(&self, deployment: u32, target: u32) -> Option<&str> {
        let rollout = self.state.rollout.as_ref();
        let rollout = rollout.filter(|r| r.head.number == deployment)?;
        let target = rollout.targets.get(target as usize)?;
        Some(self.state.node_of(target.slot))
    }
}

/// How a deployment ended, if it did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// It goes on, or is being taken back.
    UnderWay,
    /// It is over, and so is what followed from it.
    Known(Outcome),
    /// The job knows no such deployment, or [no longer](crate::HISTORY_KEPT).
    Unknown,
}

/// A version as a reader sees it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct VersionView {
    /// Its number.
    pub number: u32,
    /// When it was registered.
    pub registered: Time,
    /// Whether a deployment of it completed: only then may a rollback go to it.
    pub stable: bool,
    /// Whether it was taken back: nothing automatic brings it back.
    pub rejected: bool,
    /// Executions that were last told to run it.
    pub executions: u32,
}

/// Leaves out of a step's effects what came to nothing before its end: each execution is named once, with what
/// it is to run now, and only nodes that are there.
fn settle(state: &State, effects: &mut Vec<Effect>) {
    effects.retain_mut(|effect| match effect {
        Effect::Assign {
            generation, slots, ..
        } => {
            let last = |&slot: &u32| {
                let slot = &state.slots[slot as usize];
                slot.live && u64::from(slot.generation) == *generation
            };
            if !slots.iter().all(|slot| last(&slot)) {
                *slots = slots.iter().filter(last).collect();
            }
            !slots.is_empty()
        }
        Effect::Withdraw { nodes } => {
            let there = |&node: &u32| state.members.presence(node) != Presence::Gone;
            if !nodes.iter().all(|node| there(&node)) {
                *nodes = nodes.iter().filter(there).collect();
            }
            !nodes.is_empty()
        }
        Effect::MembersNeeded | Effect::PutAside(_) => true,
    });
}

/// The deployment that a command finds when it comes.
#[derive(Clone, Copy)]
struct Met {
    deployment: DeploymentId,
    over: bool,
}

/// What the facts come to that a command was admitted as. Those of nodes are said by the way, and nothing that was
/// asked for.
#[derive(Clone, Copy)]
struct Asked {
    changed: bool,
    begins: bool,
    /// The deployment it met goes on, or stays over, as if nothing had been asked.
    leaves_it: bool,
}

impl Asked {
    fn by(facts: &[Event]) -> Self {
        let asked = || facts.iter().filter(|fact| !fact.is_of_nodes());
        Self {
            changed: asked().next().is_some(),
            begins: asked().any(|fact| matches!(fact, Event::Requested(_))),
            leaves_it: asked().all(|fact| matches!(fact, Event::Scaled { .. })),
        }
    }
}

/// One step in the making: every fact is taken in as it is written down.
struct Log<'a> {
    state: &'a mut State,
    now: Moment,
    entries: Vec<Entry>,
    effects: Vec<Effect>,
    words: Option<&'a mut Words>,
}

impl<'a> Log<'a> {
    fn open(state: &'a mut State, now: Time, words: Option<&'a mut Words>) -> Self {
        let Moment { wall, elapsed } = state.moment;
        let set_back = now.as_millis() + JITTER_MILLIS < wall.as_millis();
        let passed = now.as_millis().saturating_sub(wall.as_millis());
        let passed = passed.min(STEP_MAX);
        // The very first entry has nothing that time could have passed since.
        let elapsed = if state.seq == 0 {
            0
        } else {
            elapsed.saturating_add(passed).min(TIME_MAX)
        };
        let now = Moment {
            wall: if set_back { now } else { now.max(wall) },
            elapsed,
        };
        let mut log = Self {
            state,
            now,
            entries: Vec::new(),
            effects: Vec::new(),
            words,
        };
        if set_back {
            log.push(Event::ClockSetBack);
        }
        log
    }

    /// Nobody listened for so long, or since the latest entry.
    fn absent(&mut self, millis: u64) {
        let millis = millis.min(self.now.elapsed - self.state.moment.elapsed);
        if millis > 0 && self.state.waits_for_time() {
            self.push(Event::Absent { millis });
        }
    }

    fn node(&mut self, change: &NodeChange) {
        // A node may differ in its status and in its label: at most two facts.
        for _ in 0..2 {
            let Some(event) = admit::node(self.state, change) else {
                break;
            };
            self.push(event);
        }
    }

    fn conclude(&mut self) {
        while let Some(event) = decide(self.state, self.now) {
            self.push(event);
        }
    }

    /// What a command is answered, now that it was carried out.
    fn answer(&mut self, request: Request, asked: Asked, met: Option<Met>) -> Answer {
        let answer = Answer {
            version: self.state.version_max,
            // What it met may have come to its end by now, and another one taken it back.
            deployment: if asked.leaves_it {
                met.map(|met| met.deployment)
            } else {
                self.state.rollout.as_ref().map(|r| r.head.id)
            },
            changed: asked.changed,
            standing: match met {
                _ if asked.begins => Standing::New,
                Some(Met { over: false, .. }) => Standing::UnderWay,
                Some(Met { over: true, .. }) | None => Standing::Over,
            },
        };
        if let Some(key) = request.key {
            let digest = admit::digest(&request.command);
            self.push(Event::Answered(Answered::new(key, digest, answer)));
        }
        answer
    }

    fn push(&mut self, event: Event) {
        let last = self.entries.last_mut();
        let last = last.filter(|last| last.event.merges(&event));
        if let Some(words) = &mut self.words {
            words.hear(self.state, &event, last.is_some());
        }
        if let Some(last) = last {
            // The state takes it in either way; only the log says both in one entry.
            facts(self.state, &event, &mut self.effects);
            return last.event.merge(event);
        }
        let Moment { wall, elapsed } = self.now;
        let entry = Entry {
            seq: self.state.seq + 1,
            at: wall,
            elapsed,
            of: of(self.state, &event),
            more: 0,
            event,
        };
        apply(self.state, &entry, &mut self.effects);
        self.entries.push(entry);
    }

    fn close(self) -> (Vec<Entry>, Vec<Effect>) {
        let Self {
            state,
            now: _,
            mut entries,
            mut effects,
            words: _,
        } = self;
        for (more, entry) in (0..).zip(entries.iter_mut().rev()) {
            entry.more = more;
        }
        settle(state, &mut effects);
        (entries, effects)
    }
}
