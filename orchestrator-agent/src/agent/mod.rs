//! The loop: receives, plans, executes, reports. It alone reads a clock.

mod desired;
mod execute;
mod numbers;
mod ports;
mod report;
mod supply;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::desired::Accepted;
use self::execute::Event;
use self::numbers::Numbers;
use self::ports::PORT_AGAIN_AFTER;
use self::report::Told;
use self::supply::Supplies;
use crate::client::{Client, News, NotLet, Says};
use crate::disk;
use crate::driver::Driver;
use crate::driver::docker::Docker;
use crate::driver::exec::Exec;
use crate::driver::external::External;
use crate::health::watch::Watch;
use crate::health::{Sight, Tally};
use crate::logs::Logs;
use crate::net::{Address, AddressError};
use crate::outbox::{self, Outbox};
use crate::place::{self, Place};
use crate::plan::{self, Action, Moment, Phase, Plan, Seen, Trial};
use crate::runs::{self, Attempt, Found, Key, Mark, Run, RunId};
use crate::settings::{IDENTITY, Settings, facts};
use crate::shim::{self, ENDED};
use crate::status;
use crate::wire::is_name;

/// How long to wait for a former agent to be gone.
const HOLD_WITHIN: Duration = Duration::from_secs(5);
const HOLD_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// Who has taken a name that is none of his has it for longer.
const SURE_AFTER: Duration = Duration::from_millis(500);
/// More results of checks than these wait.
const SIGHTS_MAX: usize = 256;

/// So much is done in one turn: an action may write to the disk, and heartbeats wait for the same thread.
const ACTIONS_MAX: usize = 16;
/// An action changes what the next plan sees. Where it does not, nothing is done in haste.
const FRUITLESS_PAUSE: Duration = Duration::from_secs(1);

/// How long the first try to end what runs without a run is waited for.
const SWEEP_WITHIN: Duration = Duration::from_secs(5);
/// Who is asked for it, an engine that may never be there, is asked less and less often.
const SWEEP_AGAIN_AFTER: Duration = Duration::from_secs(1);
const SWEEP_AGAIN_AFTER_MAX: Duration = Duration::from_secs(60);

/// For how long who leaves tries to tell the server, once nothing runs any more.
const FAREWELL_WITHIN: Duration = Duration::from_secs(5);
/// How often it is said what a drain waits for.
const DRAIN_TOLD_EACH: Duration = Duration::from_secs(10);

/// How to leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Leave {
    /// What runs goes on.
    Running,
    /// What runs is stopped first, and the server told: what may run elsewhere begins there.
    Drained,
}

/// Why an agent cannot work.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The name of the node.
    #[error("{0:?} is no name of a node: 1 to 200 of letters, digits, '-', '_' and '.'")]
    Name(String),
    /// The address of the server.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The data directory.
    #[error(
        "{path} cannot be used as the data directory (see to its owner, its permissions, and room on its disk, or name another one)"
    )]
    Data {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The data directory.
    #[error("{0}: another agent works in this data directory")]
    Busy(String),
    /// The data directory, while there is another one of which it is a copy, or that is a copy of it.
    #[error(
        "{path}: there are copies of this data directory, and another one is {other}: begin there; or, if this one is to have its place, end first what runs there (begin there with --drain, and tell it to end), and take it away"
    )]
    Copy {
        /// Which.
        path: String,
        /// Where the other one is.
        other: String,
    },
    /// The data directory, of another node.
    #[error(
        "{path}: what is in this data directory is of node {node}: begin {node} with it, and another node with a directory of its own"
    )]
    Node {
        /// Which.
        path: String,
        /// Whose it is.
        node: String,
    },
    /// The data directory: with a copy of it, or with what it is a copy of.
    #[error("{0}: another agent works with a copy of this data directory: stop that one first")]
    Twice(String),
    /// The data directory, while this agent worked.
    #[error(
        "{0}: the data directory was moved or taken away under this agent: begin it again where that is now"
    )]
    Moved(String),
    /// The server did not let it join, and it had never been there: nothing waits for it.
    #[error(
        "{server} does not let this node join: {why} (a join token is given with --token-file or ORCHESTRATOR_TOKEN)"
    )]
    Refused {
        /// Which server.
        server: String,
        /// What it says.
        why: String,
    },
    /// The same, and it has shown no token.
    #[error(
        "{server} lets no node join without a join token: make one there with `orchestrator token create --role join --node {node} --name {node}`, and give it with --token-file or ORCHESTRATOR_TOKEN"
    )]
    NoToken {
        /// Which server.
        server: String,
        /// The name of the node.
        node: String,
    },
    /// The server did not let it join, whoever it is: another agent has its name, or there is no place for one more.
    #[error("{server} does not let this node join: {why}")]
    Taken {
        /// Which server.
        server: String,
        /// What it says.
        why: String,
    },
    /// The data directory, in which runs are where nobody would know them as its own.
    #[error("{0}")]
    Link(String),
    /// A mistake in this program. What runs goes on, and the next agent finds it.
    #[error("a part of the agent has failed")]
    Broken,
}

/// An agent that has its data directory for itself.
#[derive(Debug)]
pub struct Agent {
    settings: Settings,
    dir: PathBuf,
    address: Address,
    shim: Vec<std::ffi::OsString>,
    place: Place,
    /// Of all copies of the directory, and of the directory, for as long as it works.
    alone: Option<UnixListener>,
    _lock: File,
}

impl Agent {
    /// Takes the data directory. It waits a moment for a former agent that is just being ended.
    pub async fn open(settings: Settings) -> Result<Self, AgentError> {
        if !is_name(&settings.node) {
            return Err(AgentError::Name(settings.node));
        }
        let address = Address::new(&settings.server, settings.authorities.as_deref())?;
        let path = settings.data_dir.display().to_string();
        let failed = |source| AgentError::Data {
            path: path.clone(),
            source,
        };
        disk::directory(&settings.data_dir).map_err(failed)?;
        let dir = settings.data_dir.canonicalize().map_err(failed)?;
        let shim = settings.shim().map_err(failed)?;
        let since = Instant::now();
        let lock = loop {
            match disk::hold(&dir.join(runs::LOCK)).map_err(failed)? {
                Some(lock) => break lock,
                None if since.elapsed() > HOLD_WITHIN => return Err(AgentError::Busy(path)),
                None => sleep(HOLD_AGAIN_AFTER).await,
            }
        };
        let place = match Place::find(&dir, shim::living()).map_err(failed)? {
            Ok(place) => place,
            Err(other) => {
                let other = other.display().to_string();
                return Err(AgentError::Copy { path, other });
            }
        };
        let since = Instant::now();
        let alone = loop {
            match place.hold() {
                Ok(Some(alone)) => break Some(alone),
                Ok(None) if since.elapsed() > HOLD_WITHIN => return Err(AgentError::Twice(path)),
                Ok(None) => sleep(HOLD_AGAIN_AFTER).await,
                // It may be a former agent's that is just gone.
                Err(why)
                    if why.kind() == io::ErrorKind::AddrInUse && since.elapsed() < SURE_AFTER =>
                {
                    sleep(HOLD_AGAIN_AFTER).await;
                }
                Err(why) => {
                    // Or a sandbox without such sockets: there are the directories that can be seen.
                    tracing::warn!(%why, "whether a copy of the data directory is used is not known");
                    break None;
                }
            }
        };
        if let Some(other) = place.beside(shim::living()) {
            let other = other.display().to_string();
            return Err(AgentError::Copy { path, other });
        }
        Ok(Self {
            settings,
            dir,
            address,
            shim,
            place,
            alone,
            _lock: lock,
        })
    }

    /// Works until `stop` says how to leave. What it knows is on disk; what it started does not need it.
    pub async fn run(mut self, stop: impl Future<Output = Leave>) -> Result<(), AgentError> {
        let failed = |source| AgentError::Data {
            path: self.dir.display().to_string(),
            source,
        };
        let outbox = Arc::new(Outbox::open(&self.dir));
        let logs = Arc::new(Logs::default());
        let (says, to_say) = watch::channel(Says::default());
        let (farewell, mut heard_of_it) = watch::channel(false);
        let mut client = Client {
            address: self.address.clone(),
            url: self.settings.server.clone(),
            node: self.settings.node.as_str().into(),
            agent: self.place.name().to_owned(),
            labels: self.settings.labels.clone(),
            facts: facts(),
            identity: self.dir.join(IDENTITY),
            token: self.settings.token.clone(),
            is_new: false,
            outbox: outbox.clone(),
            logs: logs.clone(),
            says: to_say,
        };
        let (desired, mut received) = watch::channel(None);
        let (told, mut heard) = mpsc::unbounded_channel();
        let link = Arc::new(Mutex::default());
        let news = News {
            desired,
            told,
            farewell,
            link: link.clone(),
        };
        let (events, mut happened) = mpsc::unbounded_channel();
        let (sights, mut seen) = mpsc::channel(SIGHTS_MAX);
        let runs_dir = self.dir.join("runs");
        let external = Arc::new(External::new(&self.settings.externals));
        let programs = external.clone();
        // Where they are may not answer.
        std::thread::spawn(move || programs.tell_of_missing());
        let mut work = Work {
            node: self.settings.node.as_str().into(),
            drivers: BTreeMap::from([
                (
                    "docker",
                    Arc::new(Docker::new(&self.settings, &self.dir)) as _,
                ),
                (
                    "exec",
                    Arc::new(Exec::new(self.shim.clone(), runs_dir.clone())) as _,
                ),
                ("external", external as _),
            ]),
            runs_dir,
            accepted: Accepted::open(&self.dir, &self.settings.node, self.settings.accept_older)
                .map_err(failed)?,
            numbers: Numbers::open(&self.dir).map_err(failed)?,
            began: Instant::now(),
            uptime: uptime(),
            lives: BTreeMap::new(),
            told: BTreeMap::new(),
            supplies: Supplies::open(
                self.dir.join("artifacts"),
                self.dir.join("runs"),
                self.settings.artifacts,
                self.settings.authorities.clone(),
            )
            .map_err(failed)?,
            outbox: outbox.clone(),
            logs,
            events,
            sights,
            drain_told: Moment::ZERO,
        };
        work.find()?;
        let _sweeps = work.sweep().await;
        work.understand();
        client.is_new = work.accepted.received.is_none() && work.lives.is_empty();
        let (questions, mut asked) = mpsc::channel(1);
        let mut talks = JoinSet::new();
        talks.spawn(client.run(news));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match outbox::keep(outbox).await {} });
        tasks.spawn(status::serve(self.dir.join("agent.sock"), questions));
        tasks.extend(self.alone.take().map(place::answer));
        let mut stop = pin!(stop);
        let mut looks = Vec::new();
        loop {
            if !self.place.is_there() {
                return Err(AgentError::Moved(self.dir.display().to_string()));
            }
            self.place.keep();
            let wake = work.turn();
            if work.accepted.draining {
                if work.is_idle() {
                    break;
                }
                work.tell_of_drain();
            }
            let wake = wake.map(|wake| work.instant(wake));
            if wake.is_some_and(|wake| wake <= Instant::now()) {
                yield_now().await;
            }
            tokio::select! {
                leave = &mut stop, if !work.accepted.draining => match leave {
                    Leave::Running => break,
                    Leave::Drained => {
                        says.send_modify(|says| says.leaving = true);
                        work.drain();
                    }
                },
                Ok(()) = received.changed() => {
                    let latest = received.borrow_and_update().clone();
                    if let Some(latest) = latest {
                        work.accept(latest);
                    }
                    let refuses = work.accepted.refused.is_some();
                    says.send_if_modified(|says| std::mem::replace(&mut says.refuses, refuses) != refuses);
                }
                Some(refused) = talks.join_next() => {
                    let Settings { server, node, token, .. } = self.settings;
                    return Err(match refused {
                        Ok(NotLet::Unknown(_)) if token.is_none() => AgentError::NoToken { server, node },
                        Ok(NotLet::Unknown(why)) => AgentError::Refused { server, why },
                        Ok(NotLet::Taken(why)) => AgentError::Taken { server, why },
                        Err(_) => AgentError::Broken,
                    });
                }
                // Neither ends by itself.
                Some(_) = tasks.join_next() => return Err(AgentError::Broken),
                Some(event) = happened.recv() => work.happened(event),
                // A turn costs more than what was seen: all that is there goes into one.
                _ = seen.recv_many(&mut looks, SIGHTS_MAX) => {
                    for (run, sight) in looks.drain(..) {
                        work.saw(&run, sight);
                    }
                }
                Some(run) = heard.recv() => work.is_told(&run),
                Some(question) = asked.recv() => work.answer(question, &link),
                () = sleep_until(wake.unwrap_or_else(far)), if wake.is_some() => {}
            }
        }
        if work.accepted.draining {
            let told = timeout(FAREWELL_WITHIN, heard_of_it.wait_for(|heard| *heard));
            if !matches!(told.await, Ok(Ok(_))) {
                tracing::warn!(
                    "the server could not be told that this node leaves: it will find it silent"
                );
            }
        }
        if let Err(why) = work.outbox.leave() {
            tracing::warn!(%why, "reports that wait cannot be kept");
        }
        Ok(())
    }
}

/// How long this machine is up: what one agent notes, the next one understands.
fn uptime() -> Moment {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Moment::try_from(up).unwrap_or_default()
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// All that the loop knows.
struct Work {
    node: Arc<str>,
    runs_dir: PathBuf,
    drivers: BTreeMap<&'static str, Arc<dyn Driver>>,
    accepted: Accepted,
    numbers: Numbers,
    began: Instant,
    /// How long the machine had been up then.
    uptime: Moment,
    lives: BTreeMap<RunId, Live>,
    told: BTreeMap<Key, Told>,
    supplies: Supplies,
    outbox: Arc<Outbox>,
    logs: Arc<Logs>,
    events: mpsc::UnboundedSender<Event>,
    sights: mpsc::Sender<(RunId, Sight)>,
    /// When it was last said what a drain waits for.
    drain_told: Moment,
}

/// All runs, as a plan sees them.
type Observed = BTreeMap<Key, Vec<Seen>>;

/// A run, and what this agent does about it.
#[derive(Debug)]
struct Live {
    run: Arc<Run>,
    /// For which later assignment it goes on, if it does.
    taken: Option<Attempt>,
    is_wanted: bool,
    /// It was not there before this agent.
    is_fresh: bool,
    phase: Phase,
    busy: bool,
    /// Why it was not started, until it is known whether it is there all the same.
    cannot_start: Option<String>,
    /// Why it is not known where it is, if that lasts.
    unseen: Option<String>,
    trial: Trial,
    given_up: bool,
    dismissed: bool,
    asked: Option<Moment>,
    killed: Option<Moment>,
    /// It could not be forgotten, and is not tried again before that.
    forget_again: Option<Moment>,
    /// Since when it runs; of what was found, when it was made.
    since: Moment,
    tally: Tally,
    /// Since when it is healthy.
    ready_since: Option<Moment>,
    watch: Option<Watch>,
    /// Waits for its end.
    waits: Option<Waits>,
    /// Tells it to stop, or kills it.
    stops: Option<Waits>,
    /// Why nothing is done to it, or known of it.
    left_alone: Option<String>,
    /// The server knows that it was started, or hears it before anything else of this run.
    is_told: bool,
}

/// A task that ends with this.
#[derive(Debug)]
struct Waits(AbortHandle);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Live {
    fn new(run: Arc<Run>, phase: Phase, now: Moment) -> Self {
        Self {
            taken: None,
            is_wanted: false,
            is_fresh: true,
            trial: run.trial,
            given_up: false,
            dismissed: false,
            asked: None,
            killed: None,
            forget_again: None,
            busy: false,
            cannot_start: None,
            unseen: None,
            since: now,
            tally: Tally::new(&run.workload),
            ready_since: None,
            watch: None,
            waits: None,
            stops: None,
            left_alone: None,
            is_told: false,
            phase,
            run,
        }
    }

    /// Puts a mark on it; where that fails, only this agent knows.
    fn mark(&self, mark: Mark) {
        // One that could not even be made has nothing to put it on.
        if let Err(why) = self.run.mark(mark)
            && self.run.dir.exists()
        {
            tracing::warn!(run = %self.run.id, ?mark, %why, "a run cannot be marked");
        }
    }

    /// As what it counts by now.
    fn counts_as(&self) -> Attempt {
        let RunId {
            generation,
            attempt: number,
            ..
        } = self.run.id;
        self.taken.unwrap_or(Attempt { generation, number })
    }

    /// Of which assignment it is by now.
    fn generation(&self) -> u64 {
        self.counts_as().generation
    }

    /// It runs, is to, and is healthy.
    fn serves(&self, now: Moment) -> bool {
        self.phase == Phase::Running && self.asked.is_none() && self.is_ready(now)
    }

    fn is_ready(&self, now: Moment) -> bool {
        self.unseen.is_none() && self.tally.is_ready(now.saturating_sub(self.since))
    }

    /// When it will have been healthy for as long as its document asks for.
    fn proves_at(&self) -> Option<Moment> {
        let min_healthy = self.run.workload.min_healthy;
        self.ready_since
            .map(|since| since.saturating_add(min_healthy))
    }

    /// It has proved itself so far.
    fn is_tried(&mut self, trial: Trial) {
        self.trial = trial;
        if let Err(why) = self.run.note_trial(trial) {
            tracing::warn!(run = %self.run.id, ?trial, %why, "how a run proves itself cannot be kept");
        }
    }

    /// Who leaves waits for its end.
    fn is_awaited(&self) -> bool {
        let is_over = matches!(self.phase, Phase::Ended { .. });
        self.left_alone.is_none() && (self.busy || !is_over)
    }

    fn seen(&self, now: Moment) -> Seen {
        Seen {
            generation: self.run.id.generation,
            attempt: self.run.id.attempt,
            taken: self.taken,
            version: self.run.version,
            is_wanted: self.is_wanted,
            row: self.run.row,
            phase: self.phase.clone(),
            busy: self.busy
                || self.stops.is_some()
                || self.left_alone.is_some()
                || self.forget_again.is_some_and(|again| now < again),
            // What a former agent has started may well be as it was.
            unseen: self.unseen.clone().filter(|_| !self.is_told),
            trial: self.trial,
            given_up: self.given_up,
            dismissed: self.dismissed,
            ready: self.is_ready(now),
            lasts: self
                .proves_at()
                .is_some_and(|at| self.is_ready(now) && now >= at),
            ill: self.tally.is_ill(),
            asked: self.asked,
            killed: self.killed,
            workload: self.run.workload.clone(),
        }
    }
}

impl Work {
    fn now(&self) -> Moment {
        self.uptime + self.began.elapsed()
    }

    /// When that is on the clock that is waited by.
    fn instant(&self, moment: Moment) -> Instant {
        self.began + moment.saturating_sub(self.uptime)
    }

    /// Plans and executes until there is nothing to do at once, or it was a lot, then says what there is to say. Answers
    /// when to look again if nothing happens.
    fn turn(&mut self) -> Option<Moment> {
        let now = self.now();
        let keep = self.accepted.keep_again(now);
        let supply = self.supply(now);
        for live in self.lives.values_mut() {
            let is_ready = live.phase == Phase::Running && live.is_ready(now);
            live.ready_since = is_ready.then(|| live.ready_since.unwrap_or(now));
        }
        self.take_over();
        let mut done = Vec::new();
        let (observed, wake) = loop {
            let observed = self.observed(now);
            if !self.accepted.is_known() {
                break (observed, None);
            }
            self.hold_up(&observed);
            let Plan { mut actions, wake } = plan::plan(&self.accepted.wanted, &observed, now);
            // What begins may need a port of what ends.
            if actions
                .iter()
                .any(|action| matches!(action, Action::Stop(_)))
            {
                actions.retain(|action| !matches!(action, Action::Create { .. }));
            }
            let in_vain = actions.iter().any(|action| done.contains(action));
            actions.retain(|action| !done.contains(action));
            let room = ACTIONS_MAX - done.len();
            if room == 0 || actions.is_empty() {
                let wake = match (in_vain, actions.is_empty()) {
                    (true, _) => {
                        tracing::error!(?done, "what was done is to be done again");
                        Some(now + FRUITLESS_PAUSE)
                    }
                    (false, true) => wake,
                    // The next turn goes on with them.
                    (false, false) => Some(now),
                };
                break (observed, wake);
            }
            actions.truncate(room);
            for action in actions {
                done.push(action.clone());
                self.execute(action);
            }
        };
        let tell = self.tell(&observed, now);
        let mut executions = self.accepted.wanted.values();
        let is_replaced = executions.any(|wanted| wanted.is_replaced);
        let port = is_replaced.then(|| now + PORT_AGAIN_AFTER);
        let drain = (self.accepted.draining).then(|| self.drain_told + DRAIN_TOLD_EACH);
        let ready = self.lives.values().filter_map(|live| {
            let ready = live.since + live.tally.ready_at()?;
            (live.phase == Phase::Running && ready > now).then_some(ready)
        });
        let proves = self.lives.values().filter_map(|live| {
            let at = live.proves_at().filter(|at| *at > now);
            at.filter(|_| live.trial != Trial::Over)
        });
        ready
            .chain(proves)
            .chain(wake)
            .chain(tell)
            .chain(supply)
            .chain(port)
            .chain(keep)
            .chain(drain)
            .min()
    }

    fn observed(&self, now: Moment) -> Observed {
        let mut observed = Observed::new();
        for (id, live) in &self.lives {
            observed
                .entry(id.key.clone())
                .or_default()
                .push(live.seen(now));
        }
        observed
    }

    fn is_idle(&self) -> bool {
        let mut lives = self.lives.values();
        lives.all(|live| !live.is_awaited())
    }

    /// Says what it waits for who drains, where that takes long.
    fn tell_of_drain(&mut self) {
        let now = self.now();
        if now < self.drain_told + DRAIN_TOLD_EACH {
            return;
        }
        self.drain_told = now;
        let lives = self.lives.values();
        for live in lives.filter(|live| live.is_awaited()) {
            let (run, why) = (&live.run.id, live.unseen.as_deref());
            let why = why.unwrap_or("it has not ended");
            tracing::warn!(%run, why, "this node leaves once this run has ended; told again, it leaves at once");
        }
    }

    /// From now on, nothing is to run.
    fn drain(&mut self) {
        self.drain_told = self.now();
        self.accepted.drain();
        self.understand();
    }

    /// Ends what is there from before and none of its runs. It would have the ports of what begins, so the first try is
    /// waited for, but not long; what is left is tried again for as long as what this answers lives.
    async fn sweep(&self) -> Vec<Waits> {
        let lives = self.lives.values();
        let runs: Arc<[Arc<Run>]> = lives.map(|live| live.run.clone()).collect();
        let (first, mut tried) = mpsc::channel::<()>(1);
        let drivers = self.drivers.iter();
        let sweeps = drivers.map(|(&name, driver)| {
            let (driver, runs) = (driver.clone(), runs.clone());
            let mut first = Some(first.clone());
            let sweep = tokio::spawn(async move {
                let mut wait = SWEEP_AGAIN_AFTER;
                while let Err(why) = driver.sweep(&runs).await {
                    tracing::debug!(driver = name, %why, "what runs without a run is not ended");
                    drop(first.take());
                    sleep(wait).await;
                    wait = (wait * 2).min(SWEEP_AGAIN_AFTER_MAX);
                }
            });
            Waits(sweep.abort_handle())
        });
        let sweeps = sweeps.collect();
        drop(first);
        // Ready when none of them has its end any more.
        let _ = timeout(SWEEP_WITHIN, tried.recv()).await;
        sweeps
    }

    /// What is there from before.
    fn find(&mut self) -> Result<(), AgentError> {
        let now = self.now();
        let starts = self.outbox.starts();
        let path = || self.runs_dir.display().to_string();
        let Found {
            runs,
            broken,
            aside,
        } = runs::find(&self.runs_dir).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => AgentError::Link(source.to_string()),
            _ => AgentError::Data {
                path: path(),
                source,
            },
        })?;
        // Whoever has a copy of what lives elsewhere is to change nothing.
        for run in runs.iter().filter(|run| !run.dir.join(ENDED).exists()) {
            let failed = |source| AgentError::Data {
                path: path(),
                source,
            };
            if let Some(other) = place::elsewhere(&run.dir).map_err(failed)? {
                let path = path();
                let other = other.display().to_string();
                return Err(AgentError::Copy { path, other });
            }
        }
        // Whoever has forgotten the name, or mistyped it, is not to, either.
        let mut live = runs.iter().filter(|run| !run.dir.join(ENDED).exists());
        if let Some(run) = live.find(|run| run.node != self.node) {
            let (path, node) = (path(), run.node.to_string());
            return Err(AgentError::Node { path, node });
        }
        aside.iter().for_each(|dir| runs::take_away(dir));
        // What lives all the same of what is taken away is found and ended by the driver.
        for dir in broken {
            runs::put_away(&dir).map_err(|source| AgentError::Data {
                path: path(),
                source,
            })?;
        }
        for run in runs.into_iter().map(Arc::new) {
            let mut live = Live::new(run.clone(), Phase::Planned, now);
            let driver = run.workload.driver.as_str();
            if !self.drivers.contains_key(driver) {
                // A later version of this agent may have had it, and may have it again.
                let why = format!("this agent has no driver {driver}");
                tracing::warn!(run = %run.id, why, "a run is left alone");
                (live.phase, live.left_alone) = (Phase::Running, Some(why));
                self.lives.insert(run.id.clone(), live);
                continue;
            }
            live.is_fresh = false;
            live.since = run.made.map_or(now, |made| made.min(now));
            live.taken = run.taken().unwrap_or_else(|why| {
                tracing::warn!(run = %run.id, %why, "for whom it goes on is not known");
                None
            });
            live.trial = run.trial_by_now();
            live.given_up = run.has(Mark::GivenUp);
            live.dismissed = run.has(Mark::Dismissed);
            live.is_told = run.has(Mark::Told) || starts.contains(&run.id);
            // What it has not heard is said again.
            live.asked = run.heard(now);
            self.lives.insert(run.id.clone(), live);
            self.logs.add(&run);
            self.look(&run.id);
        }
        Ok(())
    }
}
