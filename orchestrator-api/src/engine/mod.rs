//! The one place that owns time and order: receive, step, commit, publish, sleep until the next deadline.
//!
//! One thread holds all machines. It takes what has come in, steps each machine that it is for, writes the
//! entries and rows of all of them in one transaction, and only then answers, shows records and sends assignments.
//! What comes in meanwhile waits for the next turn: that is the group commit. Reading does not pass through here, but
//! for what only a machine knows ([`Handle::look`]).
//!
//! When a commit fails, every machine that it was about is dropped and read again from the store: what was not kept
//! has not happened, and whoever waited for it is told so.
//!
//! No rule of a rollout is in here.

mod counts;
mod desired;
mod groups;
mod machines;
mod rows;
mod shown;
mod turn;

use std::sync::Arc;

use orchestrator_core::fleet::{self, Fleet, FleetSettings, NodeName};
use orchestrator_core::{
    Answer, Command, DeploymentId, DeploymentState, Job, JobId, Plan, Rejection, Request,
};
use tokio::sync::{mpsc, oneshot, watch};

pub use self::counts::Counts;
pub use self::desired::{Desired, Document, Execution};
use self::groups::ShownGroups;
pub use self::groups::{Release, ShownGroup};
pub(crate) use self::machines::chain;
pub(crate) use self::rows::Words;
use self::shown::Shown;
pub use self::shown::ShownDeployment;
use self::turn::Loop;
use crate::store::{DeploymentRow, GroupId, JobRow, Machine, Store, StoreError};

/// How many asks wait before those who ask have to.
const INBOX_MAX: usize = 4096;

/// How an engine is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// How patient it is with silent nodes.
    pub fleet: FleetSettings,
}

/// A running engine. It stops when this and all its [handles](Handle) are gone, after what was asked before.
#[derive(Debug)]
pub struct Engine {
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
}

impl Engine {
    /// Takes over all machines in the store, and begins to drive them. To be called within a tokio runtime.
    pub async fn start(store: Arc<dyn Store>, settings: Settings) -> Result<Self, EngineError> {
        let (asks, inbox) = mpsc::channel(INBOX_MAX);
        let (ready, started) = oneshot::channel();
        let shown = Arc::new(Shown::default());
        let groups = Arc::new(ShownGroups::default());
        let runtime = tokio::runtime::Handle::current();
        let counts = Arc::new(Counts::default());
        let handle = Handle {
            asks,
            shown: shown.clone(),
            groups: groups.clone(),
            store: store.clone(),
            counts: counts.clone(),
            settings,
        };
        let thread = std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                let begun = Loop::begin(store, (shown, groups), counts, runtime, settings, inbox);
                let (driven, outcome) = match begun {
                    Ok(driven) => (Some(driven), Ok(())),
                    Err(why) => (None, Err(why)),
                };
                if ready.send(outcome).is_ok()
                    && let Some(driven) = driven
                {
                    driven.run();
                }
            })
            .map_err(|_| EngineError::Stopped)?;
        started.await.map_err(|_| EngineError::Stopped)??;
        Ok(Self { handle, thread })
    }

    /// How to speak to it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Over once it has ended, as it does by itself only where it failed.
    pub async fn ended(&self) {
        self.handle.asks.closed().await;
    }

    /// Ends it once all other handles are gone; what was asked before is done first.
    pub async fn stop(self) {
        let Self { handle, thread } = self;
        drop(handle);
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the engine ended by a panic");
        }
    }
}

/// How everyone else speaks to the engine.
#[derive(Clone, Debug)]
pub struct Handle {
    asks: mpsc::Sender<Ask>,
    shown: Arc<Shown>,
    groups: Arc<ShownGroups>,
    store: Arc<dyn Store>,
    counts: Arc<Counts>,
    settings: Settings,
}

/// Who wants something, for the audit log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Who {
    /// The name of a token, or what else tells a person from another.
    pub name: String,
    /// The request by which it came, to be found in the logs.
    pub request: String,
}

/// What a command led to, once it is safe.
#[derive(Clone, Debug)]
pub struct Done {
    /// The machine's answer.
    pub answer: Answer,
    /// The deployment that it is about, as it is now.
    pub deployment: Option<Arc<ShownDeployment>>,
}

/// What an agent says of one execution of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// Which job.
    pub job: JobId,
    /// Which execution, as the assignment said.
    pub slot: u32,
    /// The assignment's generation.
    pub generation: u64,
    /// The assignment's target, where it named one.
    pub target: Option<u32>,
    /// The number of this report, see [`Report::number`](orchestrator_core::Report::number).
    pub number: u32,
    /// What there is to say.
    pub what: orchestrator_core::Observation,
}

/// Why something was not done. Nothing has changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The job's machine refuses it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The fleet refuses it.
    #[error(transparent)]
    Fleet(#[from] fleet::Rejection),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoSuchJob(JobId),
    /// There is no such deployment.
    #[error("there is no deployment {0}")]
    NoSuchDeployment(DeploymentId),
    /// There is no such group.
    #[error("there is no group {0}")]
    NoSuchGroup(GroupId),
    /// A job would refuse what a group is to bring it to.
    #[error("job {job}: {why}")]
    Member {
        /// Which.
        job: JobId,
        /// Why.
        why: Rejection,
    },
    /// Another group of this name has not ended.
    #[error("group {name} is under way already: cancel {id}, or wait for its end")]
    GroupRuns {
        /// Its name.
        name: String,
        /// Which one it is.
        id: GroupId,
    },
    /// Nothing can be said to it any more.
    #[error("group {0} has ended: begin another one, if it is to be another way")]
    GroupEnded(GroupId),
    /// Another deployment of its job came after it.
    #[error("deployment {id} gave way to {last}: say it of that one, or of the job")]
    GaveWay {
        /// Which.
        id: DeploymentId,
        /// The last one of the job.
        last: DeploymentId,
    },
    /// The store failed. Whether the change was made is in its error.
    #[error("it could not be kept")]
    Store(#[from] Arc<StoreError>),
    /// What the store holds of a machine cannot be read.
    #[error("the log of {machine} cannot be read: {why}")]
    Unreadable {
        /// Whose log.
        machine: String,
        /// Why not.
        why: String,
    },
    /// The machine is another server's now.
    #[error("{0} is driven by another server")]
    Elsewhere(String),
    /// The engine ends.
    #[error("the server is shutting down: try again")]
    Stopped,
}

impl From<StoreError> for EngineError {
    fn from(why: StoreError) -> Self {
        Self::Store(Arc::new(why))
    }
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// What is done with a job between two turns.
pub(crate) type LookAtJob = Box<dyn FnOnce(Result<&Job, EngineError>) + Send>;

/// What can be asked of the engine.
pub(crate) enum Ask {
    Command {
        job: JobId,
        request: Request,
        /// Only if this is the job's last deployment, and of this revision, if one is named.
        of: Option<(DeploymentId, Option<u64>)>,
        who: Who,
        reply: Reply<Done>,
    },
    Plan {
        job: JobId,
        request: Request,
        reply: Reply<Plan>,
    },
    Fleet {
        input: fleet::Input,
        who: Option<Who>,
        reply: Reply<()>,
    },
    Reports {
        node: NodeName,
        said: Vec<Said>,
        reply: Reply<()>,
    },
    Connect {
        node: NodeName,
        reply: Reply<watch::Receiver<Arc<Desired>>>,
    },
    Look {
        job: JobId,
        look: LookAtJob,
    },
    Snapshot {
        machine: Machine,
        reply: Reply<()>,
    },
    BeginGroup {
        release: Release,
        key: Option<String>,
        who: Who,
        reply: Reply<Arc<ShownGroup>>,
    },
    CancelGroup {
        id: GroupId,
        who: Who,
        reply: Reply<Arc<ShownGroup>>,
    },
    LookFleet {
        look: Box<dyn FnOnce(&Fleet) + Send>,
    },
}

impl std::fmt::Debug for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Command { .. } => "Command",
            Self::Plan { .. } => "Plan",
            Self::Fleet { .. } => "Fleet",
            Self::Reports { .. } => "Reports",
            Self::Connect { .. } => "Connect",
            Self::Look { .. } => "Look",
            Self::Snapshot { .. } => "Snapshot",
            Self::BeginGroup { .. } => "BeginGroup",
            Self::CancelGroup { .. } => "CancelGroup",
            Self::LookFleet { .. } => "LookFleet",
        })
    }
}

impl Handle {
    /// Carries out a command. Which nodes match a spec is for the engine to say: `members` of a registration are
    /// taken from the fleet.
    pub async fn command(
        &self,
        job: JobId,
        request: Request,
        who: Who,
    ) -> Result<Done, EngineError> {
        self.ask(|reply| Ask::Command {
            job,
            request,
            of: None,
            who,
            reply,
        })
        .await
    }

    /// Takes a deployment back, where it is the last one of its job: by the same rules as a rollback of the job. One
    /// that is taken back already is not taken back further: the answer is the rollback that there is. `expected` is the
    /// revision that the caller has seen, where that matters to him.
    pub async fn take_back(
        &self,
        id: DeploymentId,
        to: Option<u32>,
        key: Option<String>,
        expected: Option<u64>,
        who: Who,
    ) -> Result<Done, EngineError> {
        let shown = self.deployment(id).await?;
        let job = shown.ok_or(EngineError::NoSuchDeployment(id))?.job.clone();
        let request = Request {
            command: Command::RollBack { to },
            key,
            expected: None,
        };
        self.ask(|reply| Ask::Command {
            job,
            request,
            of: Some((id, expected)),
            who,
            reply,
        })
        .await
    }

    /// What a command would lead to.
    pub async fn plan(&self, job: JobId, request: Request) -> Result<Plan, EngineError> {
        self.ask(|reply| Ask::Plan {
            job,
            request,
            reply,
        })
        .await
    }

    /// Says something to the fleet. `who` is absent where a node speaks for itself.
    pub async fn fleet(&self, input: fleet::Input, who: Option<Who>) -> Result<(), EngineError> {
        self.ask(|reply| Ask::Fleet { input, who, reply }).await
    }

    /// Hands in what a node's agent says; saying nothing at all keeps its lease. Answers when all of it is safe, or
    /// was left out because it is stale, was said before, or speaks of another node's execution.
    pub async fn report(&self, node: NodeName, said: Vec<Said>) -> Result<(), EngineError> {
        self.ask(|reply| Ask::Reports { node, said, reply }).await
    }

    /// What a node should run, now and whenever it changes: always all of it. It ends when the node is removed.
    pub async fn connect(
        &self,
        node: NodeName,
    ) -> Result<watch::Receiver<Arc<Desired>>, EngineError> {
        self.ask(|reply| Ask::Connect { node, reply }).await
    }

    /// Looks at a job, between two turns: nothing is seen that is not safe. Everyone else waits meanwhile, so `look`
    /// is to be short.
    pub async fn look<T: Send + 'static>(
        &self,
        job: JobId,
        look: impl FnOnce(&Job) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.ask(|reply: Reply<T>| Ask::Look {
            job,
            look: Box::new(move |job| {
                // Whoever asked may be gone.
                let _ = reply.send(job.map(look));
            }),
        })
        .await
    }

    /// Keeps a snapshot of a machine, so that what is old of its log can be discarded. One that there is not, or that
    /// cannot be read, has none, and nothing of it goes.
    pub async fn snapshot(&self, machine: Machine) -> Result<(), EngineError> {
        self.ask(|reply| Ask::Snapshot { machine, reply }).await
    }

    /// A job as it is listed, with nothing left out that was answered already.
    pub async fn job(&self, id: JobId) -> Result<JobRow, EngineError> {
        self.look(id, rows::job).await
    }

    /// The same of the fleet.
    pub async fn look_at_fleet<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Fleet) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.ask(|reply: Reply<T>| Ask::LookFleet {
            look: Box::new(move |fleet| {
                let _ = reply.send(Ok(look(fleet)));
            }),
        })
        .await
    }

    /// Begins a group: each of its jobs is brought to its document, after all that it depends on. Under a key that was
    /// said before the answer is the group that was begun then.
    pub async fn begin_group(
        &self,
        release: Release,
        key: Option<String>,
        who: Who,
    ) -> Result<Arc<ShownGroup>, EngineError> {
        self.ask(|reply| Ask::BeginGroup {
            release,
            key,
            who,
            reply,
        })
        .await
    }

    /// Ends a group: nothing more of it starts, and what it has begun is canceled.
    pub async fn cancel_group(
        &self,
        id: GroupId,
        who: Who,
    ) -> Result<Arc<ShownGroup>, EngineError> {
        self.ask(|reply| Ask::CancelGroup { id, who, reply }).await
    }

    /// A group as it is now.
    pub async fn group(&self, id: GroupId) -> Result<Option<Arc<ShownGroup>>, EngineError> {
        if let Some(news) = self.groups.watch(id) {
            return Ok(Some(news.borrow().clone()));
        }
        let row = self.store.group(id).await?;
        Ok(row.map(|row| Arc::new(row.into())))
    }

    /// A group, now and whenever it changes; `None` where it will not change any more.
    pub fn watch_group(&self, id: GroupId) -> Option<watch::Receiver<Arc<ShownGroup>>> {
        self.groups.watch(id)
    }

    /// A deployment as it is now.
    pub async fn deployment(
        &self,
        id: DeploymentId,
    ) -> Result<Option<Arc<ShownDeployment>>, EngineError> {
        if let Some(shown) = self.shown(id) {
            return Ok(Some(shown));
        }
        let row: Option<DeploymentRow> = self.store.deployment(id).await?;
        Ok(row.map(|row| Arc::new(row.into())))
    }

    /// The same without asking the store: a job's last deployment is at hand, others are not.
    pub fn shown(&self, id: DeploymentId) -> Option<Arc<ShownDeployment>> {
        self.shown.get(id)
    }

    /// A deployment, now and whenever it changes; `None` where it will not change any more.
    pub fn watch(&self, id: DeploymentId) -> Option<watch::Receiver<Arc<ShownDeployment>>> {
        self.shown.watch(id)
    }

    /// How many of the deployments that were last of their jobs are in each state.
    pub fn states(&self) -> Vec<(DeploymentState, u64)> {
        self.shown.states()
    }

    /// What was done since the start.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How it was started.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Where lists, logs and what has passed are read.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.asks.send(ask(reply)).await;
        sent.map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }
}

impl std::fmt::Debug for dyn Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}
