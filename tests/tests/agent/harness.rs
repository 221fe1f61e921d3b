//! A server that can go away and come back, and nodes with agents.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use orchestrator_agent::{Agent, Leave, Settings};
use orchestrator_api::access::{Access, Opening};
use orchestrator_api::engine::{self, Engine};
use orchestrator_api::native;
use orchestrator_api::serve::{Limits, serve};
use orchestrator_api::store::sqlite::Sqlite;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// So much of an agent's log is shown where a test fails.
const LOG_SHOWN: usize = 60;

pub(crate) use crate::api::{Api, canary, eventually, get, health, immediate, rolling, service};

/// A server on a store in a directory of its own.
pub(crate) struct Server {
    pub(crate) api: Api,
    served: Option<Served>,
    dir: TempDir,
}

struct Served {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    engine: Engine,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (served, address) = Served::start(dir.path(), ([127, 0, 0, 1], 0).into()).await;
        Self {
            api: Api::of(address),
            served: Some(served),
            dir,
        }
    }

    /// Goes away; what it wrote stays.
    pub(crate) async fn away(&mut self) {
        let Served { stop, task, engine } = self.served.take().unwrap();
        let _ = stop.send(());
        task.await.unwrap();
        engine.stop().await;
    }

    /// Comes back to where it was.
    pub(crate) async fn back(&mut self) {
        let (served, _) = Served::start(self.dir.path(), self.api.address).await;
        self.served = Some(served);
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api.address)
    }
}

impl Served {
    async fn start(dir: &Path, address: SocketAddr) -> (Self, SocketAddr) {
        let store = Arc::new(Sqlite::open(dir).unwrap());
        let access = Access::new(store.clone(), Opening::Open, Default::default());
        let engine = Engine::start(store, engine::Settings::default())
            .await
            .unwrap();
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let api = native::Api::new(engine.handle(), access);
        let router = api.router();
        let task = tokio::spawn(async move {
            serve(listener, None, router, Limits::default(), async {
                // An error means that the test is over.
                let _ = stopped.await;
                api.stop();
            })
            .await;
        });
        (Self { stop, task, engine }, address)
    }
}

/// A program in a network namespace; nothing else is different there.
pub(crate) fn inside(namespace: &str, program: &str) -> std::process::Command {
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}"));
    command.arg(program);
    command
}

/// Whether a program is there to be run.
pub(crate) fn known(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// A little file system in memory. It is gone with this.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// `None` where this process may not mount any.
    pub(crate) fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size},mode=711"),
            "tmpfs",
        ]);
        if !mount.arg(at).output().is_ok_and(|run| run.status.success()) {
            eprintln!("SKIPPED: this process may not mount a file system");
            return None;
        }
        Some(Self(at.to_owned()))
    }

    /// To the last byte.
    pub(crate) fn fill(&self) {
        let mut filler = std::fs::File::create(self.0.join("filler")).unwrap();
        while std::io::Write::write(&mut filler, &[0; 4096]).is_ok_and(|written| written > 0) {}
    }

    /// But for one page.
    pub(crate) fn fill_nearly(&self) {
        self.fill();
        let filler = self.0.join("filler");
        let filler = std::fs::File::options().write(true).open(filler).unwrap();
        let bytes = filler.metadata().unwrap().len();
        filler.set_len((bytes - 1) / 4096 * 4096).unwrap();
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.0);
    }
}

fn unmount(at: &Path) {
    let mut unmount = std::process::Command::new("umount");
    let _ = unmount.arg("--lazy").arg(at).status();
}

/// A file system that never answers: whoever looks into it waits until he is killed.
pub(crate) struct Silent {
    at: PathBuf,
    _fuse: std::fs::File,
}

impl Silent {
    /// `None` where this process may not mount any.
    pub(crate) fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let fuse = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/fuse");
        let mounted = fuse.ok().filter(|fuse| {
            // Who mounts it tells the kernel by which file it is answered.
            rustix::io::fcntl_setfd(fuse, rustix::io::FdFlags::empty()).unwrap();
            let fd = std::os::fd::AsRawFd::as_raw_fd(fuse);
            let options = format!("fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other");
            let mut mount = std::process::Command::new("mount");
            mount.args(["-i", "-t", "fuse", "-o", &options, "silent"]);
            let mounted = mount.arg(at).output();
            rustix::io::fcntl_setfd(fuse, rustix::io::FdFlags::CLOEXEC).unwrap();
            mounted.is_ok_and(|run| run.status.success())
        });
        if mounted.is_none() {
            eprintln!("SKIPPED: this process may not mount a file system that does not answer");
        }
        Some(Self {
            at: at.to_owned(),
            _fuse: mounted?,
        })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        unmount(&self.at);
    }
}

/// A node: an agent, here or as a process, and what it runs. All of it ends with this.
pub(crate) struct Node {
    pub(crate) name: String,
    server: String,
    dir: TempDir,
    /// Where its data directory was before: what was begun there has the name of that.
    former: Vec<PathBuf>,
    agent: Running,
    /// Where its Docker Engine listens.
    docker: PathBuf,
    /// The network namespace that it lives in, if not the test's.
    namespace: Option<String>,
}

enum Running {
    Nowhere,
    Here(oneshot::Sender<Leave>, JoinHandle<()>),
    Apart(Box<Child>),
}

impl Node {
    pub(crate) fn new(server: &Server, name: &str) -> Self {
        Self::at(&server.url(), name)
    }

    /// Its agent, in this process, that knows the server by another address.
    pub(crate) fn by_way_of(url: &str, name: &str) -> Self {
        let mut node = Self::at(url, name);
        node.start_here();
        node
    }

    /// One that knows the server by another address, and no agent yet.
    pub(crate) fn at(url: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            server: url.to_owned(),
            dir: tempfile::tempdir().unwrap(),
            former: Vec::new(),
            agent: Running::Nowhere,
            docker: PathBuf::from("/nowhere/docker.sock"),
            namespace: None,
        }
    }

    /// A node in a network namespace, and no agent yet.
    pub(crate) fn inside(namespace: String, url: &str, name: &str) -> Self {
        let mut node = Self::at(url, name);
        node.namespace = Some(namespace);
        node
    }

    /// A node with this engine, and no agent yet.
    pub(crate) fn with_docker(server: &Server, name: &str, socket: &Path) -> Self {
        let mut node = Self::new(server, name);
        node.docker = socket.to_owned();
        node
    }

    /// Its agent, in this process.
    pub(crate) fn here(server: &Server, name: &str) -> Self {
        let mut node = Self::new(server, name);
        node.start_here();
        node
    }

    pub(crate) fn start_here(&mut self) {
        let mut settings = Settings::new(&self.server, &self.name, self.dir.path());
        settings.docker.clone_from(&self.docker);
        settings.shim = vec![env!("CARGO_BIN_EXE_agent").into(), "shim".into()];
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let agent = Agent::open(settings).await.unwrap();
            // A test that is over ends it, too.
            let stop = async { stopped.await.unwrap_or(Leave::Running) };
            agent.run(stop).await.unwrap();
        });
        self.agent = Running::Here(stop, task);
    }

    /// Its agent, as a process.
    pub(crate) fn start_apart(&mut self, more: &[&str]) {
        let program = std::env::var("AGENT");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_agent").to_owned());
        self.start_by(&program, more);
    }

    /// The same, by this program.
    pub(crate) fn start_by(&mut self, program: &str, more: &[&str]) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("agent.log"))
            .unwrap();
        let mut command = match &self.namespace {
            Some(namespace) => inside(namespace, program).into(),
            None => Command::new(program),
        };
        let child = command
            .args(["--server", &self.server, "--node", &self.name, "--data-dir"])
            .arg(self.dir.path())
            .arg("--docker")
            .arg(&self.docker)
            .args(more)
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.agent = Running::Apart(Box::new(child));
    }

    /// The agent leaves in good order.
    pub(crate) async fn leave(&mut self, how: Leave) {
        match std::mem::replace(&mut self.agent, Running::Nowhere) {
            Running::Nowhere => {}
            Running::Here(stop, task) => {
                stop.send(how).unwrap();
                task.await.unwrap();
            }
            Running::Apart(mut child) => {
                let pid = child.id().unwrap().cast_signed();
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
                assert!(child.wait().await.unwrap().success());
            }
        }
    }

    /// Of an agent that is a process.
    pub(crate) fn agent_pid(&self) -> i32 {
        let Running::Apart(child) = &self.agent else {
            panic!("the agent is no process");
        };
        child.id().unwrap().cast_signed()
    }

    /// Waits for the end of an agent that is a process.
    pub(crate) async fn ended(&mut self) -> std::process::ExitStatus {
        let Running::Apart(child) = &mut self.agent else {
            panic!("the agent is no process");
        };
        let ended = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait()).await;
        ended.expect("it ends").unwrap()
    }

    /// The agent is killed, wherever it is.
    pub(crate) async fn kill(&mut self) {
        let Running::Apart(mut child) = std::mem::replace(&mut self.agent, Running::Nowhere) else {
            panic!("only a process can be killed");
        };
        child.kill().await.unwrap();
    }

    /// Its data directory is from now on another one, with the same in it. No agent is there.
    pub(crate) fn move_away(&mut self) {
        self.move_to(tempfile::tempdir().unwrap());
    }

    /// The same, and it is this one, which is empty.
    pub(crate) fn move_to(&mut self, to: TempDir) {
        self.former.push(self.dir.path().to_owned());
        std::fs::rename(self.dir.path(), to.path()).unwrap();
        self.dir = to;
    }

    /// Its data directory holds from now on what this one's does.
    pub(crate) fn copy(&self, of: &Self) {
        let mut copy = std::process::Command::new("cp");
        let copy = copy.arg("-a").args([of.path("."), self.path(".")]);
        assert!(copy.status().unwrap().success());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub(crate) async fn status(&self) -> Option<Value> {
        orchestrator_agent::status(self.dir.path()).await.ok()
    }

    /// The status page, as soon as this is true of it.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            self.status().await.filter(|status| is(status))
        })
        .await
    }

    /// What the service answers that runs here: its version and its process.
    pub(crate) async fn answer(&self) -> Option<(u32, i32)> {
        let status = self.status().await?;
        let runs = status["runs"].as_array()?.iter();
        let mut running = runs.filter(|run| run["phase"] == "running");
        let port = running.next()?["ports"]["http"].as_u64()?;
        let said = get(port as u16, "/").await?;
        self.own(&said)
    }

    /// Which version and process says this of itself, if it runs here. Nodes of other tests are on this machine, and are
    /// called as this one is: one may have been faster to take the port that was picked. Then the service here cannot
    /// start, and has another one the next time.
    pub(crate) fn own(&self, said: &str) -> Option<(u32, i32)> {
        let words: Vec<&str> = said.split(' ').collect();
        let dirs = self.former.iter().map(PathBuf::as_path);
        let mut dirs = dirs.chain([self.dir.path()]);
        // A container does not know.
        let is_here = words[4].is_empty() || dirs.any(|dir| Path::new(words[4]).starts_with(dir));
        let is_own = words[0] == self.name && is_here;
        is_own.then(|| (words[2].parse().unwrap(), words[3].parse().unwrap()))
    }

    /// Ready when the service that answers here is of this version.
    pub(crate) async fn answers(&self, version: u32) -> i32 {
        let what = format!("{} answers with version {version}", self.name);
        let is = async || {
            let (answered, pid) = self.answer().await?;
            (answered == version).then_some(pid)
        };
        eventually(&what, is).await
    }

    /// The processes that live and carry a mark of this node, but the shims.
    pub(crate) fn processes(&self) -> Vec<i32> {
        Self::marked(self.dir.path())
    }

    /// Those that were begun when the data directory was there.
    fn marked(dir: &Path) -> Vec<i32> {
        // A test may have taken it away.
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let mark = format!("ORCHESTRATOR_RUN={}/", real.display());
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let env = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if env
                .split(|byte| *byte == 0)
                .any(|all| all.starts_with(mark.as_bytes()))
            {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let mut last: Vec<&str> = log.lines().rev().take(LOG_SHOWN).collect();
            last.reverse();
            eprintln!("the log of {} ends with\n{}", self.name, last.join("\n"));
        }
        match &mut self.agent {
            Running::Nowhere => {}
            Running::Here(_, task) => task.abort(),
            Running::Apart(child) => {
                let _ = child.start_kill();
            }
        }
        let former = self.former.iter().flat_map(|dir| Self::marked(dir));
        for pid in former.chain(self.processes()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
