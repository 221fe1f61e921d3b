//! Containers of the Docker Engine on this node.
//!
#![doc = include_str!("../../../docs/docker.md")]

mod config;
mod engine;
mod login;
mod output;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};
use tokio::time::{Instant, sleep};

use self::config::{AGENT, Config, NODE, Pull, RUN};
use self::engine::{Container, Engine, Failed, Inside, escape};
use self::output::Output;
use super::{Doing, Driver, Lack, Look, Stop, Usage};
use crate::disk;
use crate::net::within;
use crate::runs::{Run, RunId};
use crate::settings::Settings;
use crate::shim::{BEGUN, ENDED, Ended};
use crate::workload::Workload;

/// What a job file may say of a container, as Markdown.
pub const FIELDS: &str = include_str!("../../../docs/docker.md");

/// So many images are looked for at once: each takes a connection.
const LOOKS_MAX: usize = 16;
/// And so many are pulled: each costs the disk and the network.
const PULLS_MAX: usize = 4;
/// How long a run that was not begun waits for an engine that does not answer, or for a registry that does not.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 60 });
/// The same where there is not even a place for an engine: it may be that one is just begun.
const ENGINE_WITHIN: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A registry that is away is asked less and less often, down to this.
const PULL_AGAIN_AFTER_MAX: Duration = Duration::from_secs(16);
/// An engine that is not done by then has not heard it, and is told again.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How long the last output of what has ended is waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// Where in the data directory stands by what the agent knows its containers.
const MARK: &str = "containers.json";
/// All of the output was taken.
const DRAINED: &str = "drained";

/// Runs containers.
#[derive(Debug)]
pub struct Docker {
    engine: Engine,
    node: String,
    /// The agent's runs are in it.
    dir: PathBuf,
    /// What its containers bear, and those of no other agent, once that could be kept.
    agent: OnceLock<String>,
    outputs: Mutex<BTreeMap<PathBuf, Arc<AsyncMutex<Option<Output>>>>>,
    /// Checks that were left alone before they had ended, by what is run where.
    hanging: Mutex<BTreeMap<(PathBuf, Vec<String>), String>>,
    /// Apart, so that an image that is here does not wait for those that are far away.
    looks: Semaphore,
    pulls: Semaphore,
}

/// What of a job no such driver takes.
pub(super) fn check(workload: &Workload) -> Result<(), String> {
    Config::read(workload).map(drop)
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

/// Whether it is noted that a run was begun. Where nobody can know it was: what may be its container is not taken away.
fn is_begun(note: &Path) -> bool {
    !matches!(note.try_exists(), Ok(false))
}

/// How far a run is on its way to its start.
enum Step {
    /// There is nothing more to do.
    Last,
    /// This container was made for it.
    Made(String),
    /// This is in its way, and may pass.
    Again(String),
}

/// A check that runs. Who leaves it alone leaves it among those that hang.
struct Check<'a> {
    docker: &'a Docker,
    what: (PathBuf, Vec<String>),
    id: String,
    is_over: bool,
}

impl Drop for Check<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let (what, id) = (self.what.clone(), self.id.clone());
            lock(&self.docker.hanging).insert(what, id);
        }
    }
}

/// What stands in this file, or from now on does.
fn mark(path: &Path) -> io::Result<String> {
    if let Some(mark) = disk::read_or_put_aside(path)? {
        return Ok(mark);
    }
    let mark = format!("{:016x}", rand::random::<u64>());
    disk::replace_json(path, &mark)?;
    Ok(mark)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Docker {
    /// For an agent with these settings, in this data directory.
    pub fn new(settings: &Settings, dir: &Path) -> Self {
        let docker = Self {
            engine: Engine::new(&settings.docker, settings.docker_config.as_deref()),
            node: settings.node.clone(),
            dir: dir.to_owned(),
            agent: OnceLock::new(),
            outputs: Mutex::default(),
            hanging: Mutex::default(),
            looks: Semaphore::new(LOOKS_MAX),
            pulls: Semaphore::new(PULLS_MAX),
        };
        docker.agent();
        docker
    }

    /// What its containers bear. It moves with the data directory.
    fn agent(&self) -> Option<&str> {
        if let Some(mark) = self.agent.get() {
            return Some(mark);
        }
        match mark(&self.dir.join(MARK)) {
            Ok(mark) => Some(self.agent.get_or_init(|| mark)),
            Err(why) => {
                tracing::warn!(%why, "containers get no mark of this agent for now: they are not found where their run is lost");
                None
            }
        }
    }

    /// Stops and takes away those of its containers whose run is neither known nor there, or has ended. One whose directory is there is
    /// that of a run that was made meanwhile, or cannot be read, or of whom this data directory was copied from. One that
    /// does not go keeps no other from that.
    async fn end_strays(&self, known: &[Arc<Run>]) -> Result<(), Failed> {
        let listed = self.engine.list(&format!("{NODE}={}", self.node)).await?;
        let mut all = Ok(());
        for container in listed {
            let name = container.name();
            let labels = &container.labels;
            let Some(dir) = labels.get(RUN).map(Path::new) else {
                continue;
            };
            let known = known.iter().find(|run| run.name == name);
            let is_lost = known.is_none() && matches!(dir.try_exists(), Ok(false));
            // What has ended does not begin again, unless somebody has it begun.
            let is_over = known.is_some_and(|run| run.dir.join(ENDED).exists());
            if !(is_lost || is_over && container.runs()) {
                continue;
            }
            if !self.is_own(labels) {
                if dir.starts_with(&self.dir) {
                    tracing::warn!(
                        name,
                        "a container that may be of a former agent here is left alone; `docker rm --force` ends it"
                    );
                }
                continue;
            }
            tracing::warn!(
                name,
                "a container whose run is lost, or over, is taken away"
            );
            if let Err(why) = self.end(&container.id).await {
                tracing::warn!(name, %why, "a container whose run is lost, or over, cannot be taken away");
                all = Err(why);
            }
        }
        all
    }

    /// Whether a container with these labels is surely one of this agent's.
    fn is_own(&self, labels: &BTreeMap<String, String>) -> bool {
        labels
            .get(AGENT)
            .is_some_and(|mark| self.agent() == Some(mark))
    }

    /// A container of the same execution that was made in this directory, that nothing is known of any more, and that is
    /// not surely this agent's: only a person can say that nobody else needs it.
    async fn is_beside(&self, run: &Run) -> Result<Option<String>, Failed> {
        let execution = run.dir.file_name().and_then(|name| name.to_str());
        let Some(slot) = execution.and_then(|execution| execution.split('.').next()) else {
            return Ok(None);
        };
        let slot = run.dir.with_file_name(format!("{slot}."));
        let slot = slot.to_string_lossy();
        let listed = self.engine.list(&format!("{NODE}={}", self.node)).await?;
        let mut others = listed.iter().filter(|other| {
            let dir = other.labels.get(RUN);
            // One whose directory is there is a run's that this agent knows.
            let is_lost = |dir: &String| matches!(Path::new(dir).try_exists(), Ok(false));
            let is_meant = dir.is_some_and(|dir| dir.starts_with(&*slot) && is_lost(dir));
            is_meant && other.runs() && !self.is_own(&other.labels)
        });
        Ok(others.next().map(|other| other.name().to_owned()))
    }

    /// Stops a container and takes it away. It is named by its id: the next one of its name is another.
    async fn end(&self, id: &str) -> Result<(), Failed> {
        for (method, path) in [
            ("POST", format!("/containers/{id}/stop")),
            ("DELETE", format!("/containers/{id}?v=1&force=1")),
        ] {
            match self.engine.ask(method, &path, None).await {
                // It is gone, or on its way.
                Err(failed)
                    if failed.is(StatusCode::NOT_FOUND) || failed.is(StatusCode::CONFLICT) => {}
                told => drop(told?),
            }
        }
        Ok(())
    }

    /// Ends a container that bears the name of a run that was not begun.
    async fn make_way(&self, run: &Run, container: &Container) -> Result<(), Failed> {
        let name = &run.name;
        let labels = container.config.labels.as_ref();
        if !labels.is_some_and(|labels| self.is_own(labels)) {
            return Err(Failed::Refused {
                status: StatusCode::CONFLICT,
                why: format!(
                    "{name}: a container that is not this agent's has this name: `docker rm --force {name}` ends it"
                ),
            });
        }
        tracing::warn!(
            container = name,
            "a container of a lost run of this name is taken away"
        );
        self.end(&container.id).await
    }

    /// Makes the container and starts it, whatever was done of it before. While the engine is away nobody knows how it is with
    /// what was begun, so that waits.
    async fn launch(&self, run: &Run) -> Result<(), String> {
        let config = Config::read(&run.workload)?;
        let begun = run.dir.join(BEGUN);
        let since = Instant::now();
        let mut made = None;
        loop {
            let why = match self.step(run, &config, &begun, made.as_deref()).await {
                Ok(Step::Last) => return Ok(()),
                Ok(Step::Made(id)) => {
                    made = Some(id);
                    continue;
                }
                Ok(Step::Again(why)) => why,
                Err(failed @ Failed::Away { .. }) => failed.to_string(),
                Err(failed) => return Err(failed.to_string()),
            };
            if !is_begun(&begun) && since.elapsed() > PATIENCE {
                return Err(why);
            }
            sleep(AGAIN_AFTER).await;
        }
    }

    /// One step on its way, where this container was made for it.
    async fn step(
        &self,
        run: &Run,
        config: &Config,
        begun: &Path,
        made: Option<&str>,
    ) -> Result<Step, Failed> {
        let name = &run.name;
        match self.engine.inspect(name).await? {
            None if is_begun(begun) => Ok(Step::Last),
            None => {
                // A list that does not come may come yet.
                match self.is_beside(run).await {
                    Err(failed) => return Ok(Step::Again(failed.to_string())),
                    Ok(Some(other)) => {
                        return Err(Failed::Refused {
                            status: StatusCode::CONFLICT,
                            why: format!(
                                "{other}: this container runs the same, and this agent has lost what it knew of it: `docker rm --force {other}` ends it"
                            ),
                        });
                    }
                    Ok(None) => {}
                }
                // It was here, but somebody may have taken it away since.
                if config.pull != Pull::Never {
                    self.bring(config, false).await?;
                }
                let path = format!("/containers/create?name={name}");
                let container = config.container(run, self.agent());
                match self.engine.ask("POST", &path, Some(&container)).await {
                    // Somebody has the name who cannot be seen: one that is just being made, or taken away.
                    Err(failed) if failed.is(StatusCode::CONFLICT) => {
                        Ok(Step::Again(failed.to_string()))
                    }
                    made => Ok(Step::Made(engine::id(&made?))),
                }
            }
            // One that was neither begun nor made here is a lost run's, and may run something else.
            Some(container)
                if container.state.is_new() && (is_begun(begun) || made == Some(&container.id)) =>
            {
                // Also after a power cut this one is known as begun.
                if let Err(why) = disk::replace(begun, b"") {
                    return Err(Failed::Refused {
                        status: StatusCode::INSUFFICIENT_STORAGE,
                        why: format!("the run cannot be written: {why}"),
                    });
                }
                let path = format!("/containers/{name}/start");
                let started = self.engine.ask("POST", &path, None).await;
                started.map(|_| Step::Last)
            }
            Some(_) if is_begun(begun) => Ok(Step::Last),
            Some(container) => {
                self.make_way(run, &container).await?;
                Ok(Step::Again(format!(
                    "{name}: what a lost run has left does not go"
                )))
            }
        }
    }

    /// Sees to it that the image is here; with `always`, the one that its registry has now. A registry or an engine that is
    /// away for a moment is worth no failed deployment.
    async fn bring(&self, config: &Config, always: bool) -> Result<(), Failed> {
        let (mut since, mut wait) = (None, AGAIN_AFTER);
        loop {
            let image = match always {
                true => self.pull(config).await,
                false => self.look_for(config).await,
            };
            let patience = |failed: &Failed| match failed.is_nobody() {
                true => ENGINE_WITHIN,
                false => PATIENCE,
            };
            match image {
                Err(failed)
                    if failed.may_pass()
                        && since.get_or_insert_with(Instant::now).elapsed() < patience(&failed) =>
                {
                    tracing::warn!(%failed, image = config.image, "an image does not come");
                    sleep(wait.mul_f64(rand::random_range(0.5..=1.0))).await;
                    wait = (wait * 2).min(PULL_AGAIN_AFTER_MAX);
                }
                image => return image,
            }
        }
    }

    /// Sees to it once that an image is here.
    async fn look_for(&self, config: &Config) -> Result<(), Failed> {
        let path = format!("/images/{}/json", escape(&config.image));
        let found = {
            let _turn = self.looks.acquire().await;
            self.engine.ask("GET", &path, None).await
        };
        match found {
            Err(failed) if failed.is(StatusCode::NOT_FOUND) && config.pull != Pull::Never => {
                self.pull(config).await
            }
            found => found.map(drop),
        }
    }

    async fn pull(&self, config: &Config) -> Result<(), Failed> {
        let _turn = self.pulls.acquire().await;
        self.engine.pull(&config.image).await
    }

    async fn state(&self, run: &Run) -> io::Result<Look> {
        let noted = run.dir.join(ENDED);
        if let Some(ended) = disk::read_or_put_aside::<Ended>(&noted)? {
            return Ok(ended.into());
        }
        let name = &run.name;
        // Whatever has its name then is not its own.
        if !is_begun(&run.dir.join(BEGUN)) {
            return Ok(Look::Absent);
        }
        let found = self.engine.inspect(name).await?;
        let ended = match found {
            None => {
                tracing::warn!(container = name, "somebody has taken a container away");
                Ended::unseen(&run.dir)
            }
            Some(container) if container.state.is_new() => return Ok(Look::Absent),
            Some(container) => match container.state.ended() {
                None => return Ok(Look::Running),
                Some((code, ran)) => {
                    self.drain(run, name).await;
                    if container.state.oom_killed {
                        run.remark("killed: it needed more than its memory_bytes");
                    }
                    Ended::with(code, ran)
                }
            },
        };
        Ok(super::note_end(&run.dir, ended))
    }

    fn output(&self, run: &Run) -> Arc<AsyncMutex<Option<Output>>> {
        lock(&self.outputs)
            .entry(run.dir.clone())
            .or_default()
            .clone()
    }

    /// Takes output until there is no more, and may be ended at any moment.
    async fn take(&self, run: &Run, name: &str, follow: bool) -> io::Result<()> {
        let output = self.output(run);
        let mut output = output.lock().await;
        if output.is_none() {
            let config = Config::read(&run.workload).map_err(io::Error::other)?;
            *output = Some(Output::open(&run.dir, &config)?);
        }
        let output = output.as_mut().expect("it was just opened");
        output.take(&self.engine, name, follow).await
    }

    /// Takes the last output of what has ended.
    async fn drain(&self, run: &Run, name: &str) {
        let drained = run.dir.join(DRAINED);
        if drained.exists() {
            return;
        }
        let taken = within(DRAIN_WITHIN, self.take(run, name, false)).await;
        if let Err(why) = taken.and_then(|taken| taken) {
            tracing::warn!(container = name, %why, "some of the output is lost");
        }
        let _ = disk::note(&drained, b"");
    }

    async fn wait(&self, run: &Run) {
        let name = &run.name;
        let follow = async {
            loop {
                if let Err(why) = self.take(run, name, true).await {
                    tracing::debug!(container = name, %why, "no output can be taken");
                }
                sleep(AGAIN_AFTER).await;
            }
        };
        let end = async {
            loop {
                if let Err(why) = self.engine.wait(name).await {
                    tracing::debug!(container = name, %why, "its end cannot be waited for");
                }
                // An engine that is begun again finds its containers, or not: nothing has ended before it says so.
                match self.engine.inspect(name).await {
                    Ok(Some(container)) if container.state.ended().is_none() => {}
                    Ok(_) => return,
                    Err(why) => {
                        tracing::debug!(container = name, %why, "it is not known where it is");
                    }
                }
                sleep(AGAIN_AFTER).await;
            }
        };
        tokio::select! {
            () = end => {}
            () = follow => {}
        }
    }

    async fn signal(&self, run: &Run, how: Stop) -> io::Result<()> {
        let name = &run.name;
        let Some(container) = self.engine.inspect(name).await? else {
            return Ok(());
        };
        let signal = match how {
            Stop::Gracefully => container.config.stop_signal.as_deref().unwrap_or("TERM"),
            Stop::Now => "KILL",
        };
        let path = format!("/containers/{name}/kill?signal={}", escape(signal));
        match self.engine.ask("POST", &path, None).await {
            // It runs no more.
            Err(failed) if failed.is(StatusCode::CONFLICT) || failed.is(StatusCode::NOT_FOUND) => {
                Ok(())
            }
            told => told.map(drop).map_err(Into::into),
        }
    }

    async fn remove(&self, run: &Run) -> io::Result<()> {
        let name = &run.name;
        if let Some(container) = self.engine.inspect(name).await?
            && !container.state.is_new()
        {
            if !is_begun(&run.dir.join(BEGUN)) {
                self.make_way(run, &container).await?;
            } else if container.state.ended().is_none() && run.dir.join(ENDED).exists() {
                tracing::warn!(
                    container = name,
                    "somebody has begun a container again that had ended; it is taken away"
                );
                self.end(&container.id).await?;
            }
        }
        let path = format!("/containers/{name}?v=1");
        match self.engine.ask("DELETE", &path, None).await {
            Err(failed) if failed.is(StatusCode::NOT_FOUND) => {}
            told => drop(told?),
        }
        lock(&self.outputs).remove(&run.dir);
        lock(&self.hanging).retain(|(dir, _), _| *dir != run.dir);
        super::remove(&run.dir).await
    }

    async fn measure(&self, runs: &[Arc<Run>]) -> BTreeMap<RunId, Usage> {
        let mut all = BTreeMap::new();
        for run in runs {
            let path = format!("/containers/{}/stats?stream=false&one-shot=true", run.name);
            let Ok(stats) = self.engine.ask("GET", &path, None).await else {
                continue;
            };
            let usage = Usage {
                memory_bytes: stats["memory_stats"]["usage"].as_u64().unwrap_or(0),
                cpu: Duration::from_nanos(
                    stats["cpu_stats"]["cpu_usage"]["total_usage"]
                        .as_u64()
                        .unwrap_or(0),
                ),
            };
            all.insert(run.id.clone(), usage);
        }
        all
    }

    async fn check(&self, run: &Run, command: &[String]) -> io::Result<i64> {
        let what = (run.dir.clone(), command.to_vec());
        let before = lock(&self.hanging).get(&what).cloned();
        let left = match &before {
            Some(id) => self.engine.inside(id).await?,
            None => Inside::Unknown,
        };
        let id = match (before, left) {
            // Without end, each would leave one more behind.
            (_, Inside::Running) => return Err(io::Error::other("the last one has not ended")),
            // Nobody waited until it was run. It is now, or an engine that was only slow would run two.
            (Some(id), Inside::New) => id,
            _ => self.engine.make(&run.name, command).await?,
        };
        lock(&self.hanging).remove(&what);
        let mut check = Check {
            docker: self,
            what,
            id,
            is_over: false,
        };
        let ran = self.engine.run(&check.id).await;
        // It cannot be run, or was once.
        check.is_over = matches!(ran, Err(Failed::Refused { .. }));
        ran?;
        match self.engine.inside(&check.id).await? {
            Inside::Ended(code) => {
                check.is_over = true;
                Ok(code)
            }
            _ => Err(io::Error::other("nobody knows how it ended")),
        }
    }
}

impl Driver for Docker {
    fn check(&self, workload: &Workload) -> Result<(), String> {
        check(workload)
    }

    fn provide<'a>(&'a self, workload: &'a Workload) -> Option<Doing<'a, Result<(), Lack>>> {
        Some(Box::pin(async move {
            let config = Config::read(workload).map_err(Lack::Missing)?;
            let brought = self.bring(&config, config.pull == Pull::Always).await;
            brought.map_err(|failed| Lack::Missing(failed.to_string()))
        }))
    }

    fn start<'a>(&'a self, run: &'a Run) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let Err(why) = self.launch(run).await else {
                return Ok(());
            };
            // It is over: what the engine has refused to start does not live.
            super::note_end(&run.dir, Ended::cannot_start(why.clone()));
            Err(why)
        })
    }

    fn look<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<Look>> {
        Box::pin(self.state(run))
    }

    fn stop<'a>(&'a self, run: &'a Run, how: Stop) -> Doing<'a, io::Result<()>> {
        Box::pin(async move { within(STOP_WITHIN, self.signal(run, how)).await? })
    }

    fn ended<'a>(&'a self, run: &'a Run) -> Doing<'a, ()> {
        Box::pin(self.wait(run))
    }

    fn sweep<'a>(&'a self, runs: &'a [Arc<Run>]) -> Doing<'a, io::Result<()>> {
        Box::pin(async { self.end_strays(runs).await.map_err(Into::into) })
    }

    fn usage<'a>(&'a self, runs: &'a [Arc<Run>]) -> Doing<'a, BTreeMap<RunId, Usage>> {
        Box::pin(self.measure(runs))
    }

    fn forget<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<()>> {
        Box::pin(self.remove(run))
    }

    fn run<'a>(&'a self, run: &'a Run, command: &'a [String]) -> Doing<'a, io::Result<i64>> {
        Box::pin(Self::check(self, run, command))
    }
}

#[cfg(test)]
mod tests;
