//! A server without its doors: an engine, its file, and nodes that do as they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use orchestrator_api::engine::{Desired, Done, Engine, EngineError, Handle, Said, Settings, Who};
use orchestrator_api::store::Store;
use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_core::fleet::Input as Say;
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{Command, DeploymentId, DeploymentState, Interval, JobId, Observation};
use serde_json::{Value, json};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;

pub(crate) struct World {
    dir: PathBuf,
    /// Gone with the world, where it was made for it.
    _made: Option<tempfile::TempDir>,
    settings: Settings,
    engine: Option<Engine>,
    agents: Mutex<BTreeMap<String, Agent>>,
}

struct Agent {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    told: watch::Receiver<Option<Arc<Desired>>>,
}

impl World {
    /// The version whose workload does not start.
    pub(crate) const BAD: u32 = 666;

    pub(crate) async fn new() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let made = tempfile::tempdir().expect("a directory");
        Self::begin(made.path().to_owned(), Some(made), settings).await
    }

    pub(crate) async fn at(dir: PathBuf) -> Self {
        Self::begin(dir, None, Settings::default()).await
    }

    async fn begin(dir: PathBuf, made: Option<tempfile::TempDir>, settings: Settings) -> Self {
        let mut world = Self {
            dir,
            _made: made,
            settings,
            engine: None,
            agents: Mutex::new(BTreeMap::new()),
        };
        world.start().await;
        world
    }

    async fn start(&mut self) {
        let store = Sqlite::open(&self.dir).expect("it opens");
        let engine = Engine::start(Arc::new(store), self.settings).await;
        self.engine = Some(engine.expect("it starts"));
    }

    /// Ends the engine and starts another one on the same file; agents go on where they were.
    pub(crate) async fn restart(&mut self) {
        let names: Vec<String> = self.agents.lock().await.keys().cloned().collect();
        for name in &names {
            self.silence(name).await;
        }
        self.engine.take().expect("it runs").stop().await;
        self.start().await;
        for name in &names {
            self.listen(name).await;
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.engine.as_ref().expect("it runs").handle()
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        self.handle().store().clone()
    }

    pub(crate) fn who() -> Who {
        Who {
            name: "tester".to_owned(),
            request: "r-1".to_owned(),
        }
    }

    pub(crate) fn id(&self, job: &str) -> JobId {
        job.parse().expect("a name")
    }

    pub(crate) async fn join(&self, count: usize, labels: &[(&str, &str)]) {
        self.join_named("n", count, labels).await;
    }

    pub(crate) async fn join_named(&self, letter: &str, count: usize, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let labels: orchestrator_core::selector::Labels = labels.collect();
        for n in 1..=count {
            let name = format!("{letter}{n}");
            let join = Say::Join {
                name: name.as_str().into(),
                labels: labels.clone(),
                facts: Default::default(),
                leaving: false,
            };
            self.handle().fleet(join, None).await.expect("it joins");
            self.listen(&name).await;
        }
    }

    /// The node's agent runs (again).
    pub(crate) async fn listen(&self, name: &str) {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = watch::channel(None);
        let handle = self.handle();
        let task = tokio::spawn(agent(handle, name.to_owned(), stopped, tell));
        let agent = Agent { stop, task, told };
        self.agents.lock().await.insert(name.to_owned(), agent);
    }

    /// The node's agent stops, and is gone when this returns.
    pub(crate) async fn silence(&self, name: &str) {
        let agent = self.agents.lock().await.remove(name).expect("it listens");
        // It may have ended by itself.
        let _ = agent.stop.send(());
        agent.task.await.expect("the agent ends well");
        drop(agent.told);
    }

    pub(crate) fn document(&self, job: &str, version: u32, strategy: &str) -> Value {
        json!({
            "job_id": job, "driver": "exec", "config": { "version": version },
            "rollout": {
                "strategy": strategy, "max_parallel": 2,
                "health_check": { "deadline": "30s", "min_healthy_time": "20ms", "interval": "1s" },
            },
        })
    }

    pub(crate) fn registration(&self, job: &str, version: u32, strategy: &str) -> Command {
        registration(&self.document(job, version, strategy))
    }

    pub(crate) async fn register(&self, job: &str, version: u32, strategy: &str) -> DeploymentId {
        self.register_document(&self.document(job, version, strategy))
            .await
    }

    pub(crate) async fn register_document(&self, document: &Value) -> DeploymentId {
        let job = document["job_id"].as_str().expect("a name");
        let done = self
            .command(job, registration(document))
            .await
            .expect("it is taken");
        assert!(done.answer.changed);
        done.answer.deployment.expect("it begins")
    }

    pub(crate) async fn command(&self, job: &str, command: Command) -> Result<Done, EngineError> {
        self.handle()
            .command(self.id(job), command.into(), Self::who())
            .await
    }

    pub(crate) async fn record_text(&self, id: DeploymentId) -> String {
        let shown = self.handle().deployment(id).await.expect("it reads");
        shown.expect("it is there").record().to_owned()
    }

    pub(crate) async fn record(&self, id: DeploymentId) -> Value {
        serde_json::from_str(&self.record_text(id).await).expect("a record")
    }

    pub(crate) async fn ends(&self, id: DeploymentId, state: DeploymentState) {
        let word = serde_json::to_value(state).expect("a word");
        self.until(id, |record| record["status"]["state"] == word)
            .await;
    }

    /// Waits until a deployment is as it should be.
    pub(crate) async fn until(&self, id: DeploymentId, is: impl Fn(&Value) -> bool) {
        let wait = async {
            loop {
                let mut changes = self.handle().watch(id);
                if is(&self.record(id).await) {
                    return;
                }
                // Where it is not the last any more it changes no further, or is shown again by its successor.
                match &mut changes {
                    Some(changes) => {
                        let seen = changes.borrow_and_update().clone();
                        let now = serde_json::from_str(seen.record()).expect("a record");
                        if is(&now) {
                            return;
                        }
                        // An error means that another one took its place.
                        let _ = changes.changed().await;
                    }
                    None => panic!("{id} ended otherwise: {}", self.record(id).await),
                }
            }
        };
        if timeout(PATIENCE, wait).await.is_err() {
            panic!("{id} does not get there: {:#}", self.record(id).await);
        }
    }

    /// Waits until a node was told what it should be.
    pub(crate) async fn told(&self, node: &str, is: impl Fn(&Desired) -> bool) {
        let mut told = self.agents.lock().await[node].told.clone();
        let is = |desired: &Option<Arc<Desired>>| desired.as_ref().is_some_and(|d| is(d));
        let wait = timeout(PATIENCE, told.wait_for(is)).await;
        wait.expect("it is told in time").expect("the agent runs");
    }

    /// Waits until a node's row is as it should be.
    pub(crate) async fn node_until(&self, name: &str, is: impl Fn(&str) -> bool) {
        let mut position = self.store().position();
        let wait = async {
            loop {
                let node = self.store().node(name.to_owned()).await.expect("it reads");
                if node.is_some_and(|node| is(&node.record)) {
                    return;
                }
                position.changed().await.expect("the store is open");
            }
        };
        timeout(PATIENCE, wait)
            .await
            .expect("it gets there in time");
    }

    /// The versions that nodes are to run.
    pub(crate) async fn runs(&self, job: &str) -> BTreeSet<u32> {
        let runs = |job: &orchestrator_core::Job| {
            let nodes: Vec<&str> = job.nodes().collect();
            let desired = nodes.into_iter().flat_map(|node| job.desired(node));
            desired.map(|a| a.version).collect()
        };
        self.handle()
            .look(self.id(job), runs)
            .await
            .expect("it is there")
    }

    /// The job's active deployment, or its last one.
    pub(crate) async fn last(&self, job: &str) -> DeploymentId {
        let last = |job: &orchestrator_core::Job| job.deployment().map(|record| record.id);
        let last = self.handle().look(self.id(job), last).await;
        last.expect("it is there").expect("it began")
    }

    pub(crate) async fn running(&self, job: &str, version: u32) -> usize {
        let count = move |job: &orchestrator_core::Job| {
            let nodes: Vec<&str> = job.nodes().collect();
            let desired = nodes.into_iter().flat_map(|node| job.desired(node));
            desired.filter(|a| a.version == version).count()
        };
        self.handle()
            .look(self.id(job), count)
            .await
            .expect("it is there")
    }

    pub(crate) async fn where_it_runs(&self, job: &str) -> BTreeSet<String> {
        let nodes = |job: &orchestrator_core::Job| {
            let nodes = job.nodes().filter(|node| !job.desired(node).is_empty());
            nodes.map(str::to_owned).collect()
        };
        self.handle()
            .look(self.id(job), nodes)
            .await
            .expect("it is there")
    }
}

pub(crate) fn registration(document: &Value) -> Command {
    Command::Register {
        spec: Box::new(JobSpec::parse(&document.to_string()).expect("it is a spec")),
        members: None,
        again: false,
    }
}

/// Runs what the node is told, in no time, and says how it does.
async fn agent(
    handle: Handle,
    name: String,
    mut stopped: oneshot::Receiver<()>,
    tell: watch::Sender<Option<Arc<Desired>>>,
) {
    let Ok(mut stream) = handle.connect(name.as_str().into()).await else {
        return;
    };
    let mut interval = tokio::time::interval(std::time::Duration::from_millis(10));
    let mut number = 0;
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            _ = interval.tick() => {}
            changed = stream.changed() => if changed.is_err() { return },
        }
        let desired = stream.borrow_and_update().clone();
        number += 1;
        let said = desired.executions.iter().map(|execution| {
            let job = execution.job.to_string();
            let workload = desired.workloads.get(&job);
            let workload = workload.and_then(|versions| versions.get(&execution.version));
            let bad = workload.is_some_and(|workload| {
                let workload: serde_json::Value =
                    serde_json::from_str(workload.text()).expect("it is JSON");
                workload["config"]["version"] == World::BAD
            });
            Said {
                job: execution.job.clone(),
                slot: execution.slot,
                generation: execution.generation,
                target: execution.target,
                number,
                what: match execution.version {
                    0 => Observation::Stopped,
                    _ if bad => Observation::CannotStart {
                        detail: "no such program".to_owned(),
                    },
                    _ => Observation::Interval(Interval::PASSING),
                },
            }
        });
        let said = said.collect();
        tell.send_replace(Some(desired));
        // An engine that ends does not take it: then there is nobody to tell.
        if handle.report(name.as_str().into(), said).await.is_err() {
            return;
        }
    }
}
