//! Programs, each as a process of its own session.
//!
#![doc = include_str!("../../docs/exec.md")]

mod listens;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::{Doing, Driver, Lack, Look, Stop, Usage, usage};
use crate::cgroup::{Group, Groups};
use crate::disk;
use crate::net::within;
use crate::plan::End;
use crate::runs::{self, Run, RunId};
use crate::shim::{self, Ended, Launch, Lost, Needs, Process};
use crate::workload::{Workload, fault};

/// What a job file may say of a program, as Markdown.
pub const FIELDS: &str = include_str!("../../docs/exec.md");

/// The program of whoever looks, also where its file is gone.
const OWN: &str = "/proc/self/exe";
/// How long it may take to find what a program needs.
const LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How long a shim may take to start a program.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How often it is looked whether a shim lives that has not begun to say so.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(250);
const ANSWER_BYTES_MAX: u64 = 4096;
/// How often it is tried to remove a control group: who was killed takes a moment to be gone.
const REMOVALS_MAX: usize = 40;
const REMOVE_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// What has lost its run has so long to stop. An agent that begins waits for it.
const LOST_GRACE: Duration = Duration::from_secs(3);
/// What does not end when it is killed may take a moment, too.
const KILLED_WITHIN: Duration = Duration::from_secs(2);
/// Who is killed for want of memory is gone by then.
const GONE_AFTER: Duration = Duration::from_millis(500);
/// How soon it is seen that a file system answers again.
const FREE_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Less, and the kernel kills it before it begins.
const MEMORY_BYTES_MIN: u64 = 1 << 20;
/// More than comes at once.
pub(super) const LOG_BYTES_MIN: u64 = 16 << 10;
pub(super) const LOG_BYTES_MAX: u64 = 1 << 30;

/// Runs programs.
#[derive(Debug)]
pub struct Exec {
    shim: Vec<OsString>,
    /// The agent's runs are in it.
    runs: PathBuf,
    groups: Groups,
    /// A shim is this process's own program.
    is_own: bool,
    /// What somebody looks for still, where a file system does not answer.
    stuck: Arc<Mutex<BTreeSet<Needs>>>,
    /// Checks that were killed, and have not ended.
    stuck_checks: Arc<Mutex<BTreeSet<Check>>>,
}

/// Of which run, and what it begins.
type Check = (PathBuf, Vec<String>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    command: Words,
    #[serde(default)]
    args: Vec<String>,
    directory: Option<PathBuf>,
    user: Option<String>,
    stop_signal: Option<String>,
    log_bytes: Option<u64>,
    log_files: Option<u32>,
    /// Every driver has it, and it has been read before: it is only to be among those that are named.
    #[serde(rename = "stop_grace")]
    _stop_grace: Option<IgnoredAny>,
}

/// How programs are ended whose shim is another directory's, or nobody's.
#[derive(Clone, Copy)]
struct Ending {
    signal: Signal,
    grace: Duration,
}

/// A program, and its arguments.
#[derive(Deserialize)]
#[serde(untagged, expecting = "neither a text nor a list of texts")]
pub(super) enum Words {
    One(String),
    Many(Vec<String>),
}

impl Words {
    pub(super) fn as_slice(&self) -> &[String] {
        match self {
            Self::One(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }
}

/// What of a job no such driver takes, or what it would look for in vain on every node.
pub(super) fn check(workload: &Workload) -> Result<(), String> {
    let config = Config::read(workload)?;
    let program = config.command.as_slice().first().map_or("", String::as_str);
    // A path may have blanks.
    if let Some((name, _)) = program.split_once(char::is_whitespace)
        && !name.contains('/')
    {
        let words: Vec<&str> = program.split_whitespace().collect();
        return Err(format!(
            "config: command: {program:?} is looked for as one program: its arguments are words of their own, as in {}",
            serde_json::Value::from(words)
        ));
    }
    Ok(())
}

impl Config {
    fn read(workload: &Workload) -> Result<Self, String> {
        let config = serde_json::Value::Object(workload.config.clone());
        let mut config: Self = fault::read(&config).map_err(|why| format!("config: {why}"))?;
        let mut words = match std::mem::replace(&mut config.command, Words::Many(Vec::new())) {
            Words::One(program) => vec![program],
            Words::Many(words) => words,
        };
        words.append(&mut config.args);
        if words.first().is_none_or(String::is_empty) {
            return Err("config: command: empty".to_owned());
        }
        let env = &workload.env;
        if words
            .iter()
            .chain(env.keys())
            .chain(env.values())
            .any(|text| text.contains('\0'))
        {
            return Err("config: no argument and no variable may hold a zero byte".to_owned());
        }
        if let Some(name) = env
            .keys()
            .find(|name| name.is_empty() || name.contains('='))
        {
            return Err(format!("env: {name:?} is no name of a variable"));
        }
        config.command = Words::Many(words);
        config.signal()?;
        if !workload.volumes.is_empty() {
            return Err(
                "volumes: a program sees all of the node: only containers need them".to_owned(),
            );
        }
        let resources = workload.resources;
        if resources
            .memory_bytes
            .is_some_and(|bytes| bytes < MEMORY_BYTES_MIN)
        {
            return Err(format!(
                "resources: memory_bytes: at least {MEMORY_BYTES_MIN}"
            ));
        }
        if resources.processes == Some(0) {
            return Err("resources: processes: at least 1".to_owned());
        }
        Ok(config)
    }

    /// What is to be on this node before a run of it is made, as far as that is known by then; an error where it is not.
    fn needs(&self, workload: &Workload) -> Result<Needs, String> {
        if let Some(name) = &self.user {
            let ((id, _), _) = user(name)?;
            let own = rustix::process::geteuid();
            if !own.is_root() && own.as_raw() != id {
                return Err(format!(
                    "config: user: only root may become {name:?}, and this agent is not root's"
                ));
            }
        }
        let is_known = |text: &str| !text.contains('{');
        let directory = self.directory.clone();
        let program = self.command.as_slice().first().map(PathBuf::from);
        let path = workload.env.get("PATH").cloned();
        Ok(Needs {
            directory: directory.filter(|it| it.is_absolute() && is_known(&it.to_string_lossy())),
            program: program.filter(|it| is_known(&it.to_string_lossy())),
            path: Some(path.unwrap_or_else(runs::search_path)).filter(|path| is_known(path)),
        })
    }

    fn signal(&self) -> Result<Signal, String> {
        let name = self.stop_signal.as_deref().unwrap_or("TERM");
        Ok(match name.strip_prefix("SIG").unwrap_or(name) {
            "TERM" => Signal::TERM,
            "INT" => Signal::INT,
            "QUIT" => Signal::QUIT,
            "HUP" => Signal::HUP,
            "USR1" => Signal::USR1,
            "USR2" => Signal::USR2,
            "KILL" => Signal::KILL,
            _ => {
                return Err(format!(
                    "config: stop_signal: {name:?} is none of TERM, INT, QUIT, HUP, USR1, USR2, KILL"
                ));
            }
        })
    }

    fn launch(&self, run: &Run, groups: Vec<Group>) -> Result<Launch, String> {
        let mut words = self.command.as_slice().iter().map(|word| run.expand(word));
        let directory = match &self.directory {
            Some(directory) => PathBuf::from(run.expand(&directory.to_string_lossy())),
            None => run.dir.join("work"),
        };
        let (user, home) = match &self.user {
            None => (None, None),
            Some(name) => user(name).map(|(user, home)| (Some(user), Some(home)))?,
        };
        let mut env = run.environment();
        if let Some(home) = home {
            env.entry("HOME".to_owned()).or_insert(home);
        }
        Ok(Launch {
            program: words.next().expect("a command was read"),
            args: words.collect(),
            env: env.into_iter().collect::<BTreeMap<_, _>>(),
            own_directory: self.directory.is_none(),
            directory,
            user,
            groups,
            memory_bytes_max: run.workload.resources.memory_bytes,
            log_bytes_max: self
                .log_bytes
                .unwrap_or(1 << 20)
                .clamp(LOG_BYTES_MIN, LOG_BYTES_MAX),
            log_files_max: self.log_files.unwrap_or(2).clamp(1, 100),
        })
    }
}

fn held<T>(all: &Mutex<T>) -> MutexGuard<'_, T> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A user's and his group's number, and his home.
fn user(wanted: &str) -> Result<((u32, u32), String), String> {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[name, _, id, group, _, home, ..] = fields.as_slice() else {
            return None;
        };
        let is_meant = name == wanted || id == wanted;
        is_meant.then(|| Some(((id.parse().ok()?, group.parse().ok()?), home.to_owned())))?
    });
    found.ok_or_else(|| format!("config: user: there is no {wanted:?} on this node"))
}

impl Exec {
    /// With the program, and its first arguments, that goes on as [`shim::main`] with what it is told after them.
    /// And where all of the agent's runs are.
    pub fn new(shim: Vec<OsString>, runs: PathBuf) -> Self {
        let own = std::env::current_exe().ok();
        Self {
            is_own: own.is_some_and(|own| shim.first() == Some(&own.into())),
            shim,
            runs,
            groups: Groups::find(),
            stuck: Arc::default(),
            stuck_checks: Arc::default(),
        }
    }

    /// Has it looked for what is to be there, by a process that may be held up by that.
    async fn look_for(&self, needs: Needs) -> Result<(), Lack> {
        let names = [&needs.directory, &needs.program].into_iter().flatten();
        let names: Vec<_> = names.map(|path| path.to_string_lossy()).collect();
        let silent = format!(
            "whether the program can begin is not known: looking for {} takes more than {} s",
            names.join(" and "),
            LOOK_WITHIN.as_secs()
        );
        let unknown = |why: &dyn std::fmt::Display| Lack::Unknown(why.to_string());
        let question = serde_json::to_string(&needs).map_err(|why| unknown(&why))?;
        let stuck = self.stuck.clone();
        let is_free = within(LOOK_WITHIN, async {
            while held(&stuck).contains(&needs) {
                sleep(FREE_AGAIN_AFTER).await;
            }
        });
        if is_free.await.is_err() {
            return Err(Lack::Unknown(silent));
        }
        let child = self
            .shim()
            .arg(shim::LOOK)
            .arg(question)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        let mut child =
            child.map_err(|why| unknown(&format!("nobody can look for what it needs: {why}")))?;
        // Who asked may be gone by then.
        let looked = tokio::spawn(async move {
            let answered = within(LOOK_WITHIN, async {
                let mut said = String::new();
                if let Some(answer) = &mut child.stdout {
                    let mut answer = answer.take(ANSWER_BYTES_MAX);
                    answer.read_to_string(&mut said).await?;
                }
                Ok::<_, io::Error>((said, child.wait().await?))
            });
            match answered.await {
                Ok(answered) => answered.map_err(|why| why.to_string()),
                Err(_) => {
                    // Who is held up may not even end when he is killed. Until he does nobody else is sent there.
                    held(&stuck).insert(needs.clone());
                    tokio::spawn(async move {
                        let _ = child.kill().await;
                        held(&stuck).remove(&needs);
                    });
                    Err(silent)
                }
            }
        });
        let looked = looked.await.map_err(|why| unknown(&why))?;
        match looked.map_err(|why| unknown(&why))? {
            (said, _) if !said.is_empty() => Err(Lack::Missing(said)),
            (_, status) if !status.success() => Err(unknown(&format!(
                "who looked for what it needs has ended: {status}"
            ))),
            _ => Ok(()),
        }
    }

    /// To go on as a shim, with what else that is told. Who has put another program in the place of this one, or has taken it
    /// away, has begun no other agent yet.
    fn shim(&self) -> Command {
        let (program, args) = self.shim.split_first().expect("a shim is a program");
        let is_away = || disk::identity(Path::new(program)) != disk::identity(Path::new(OWN));
        let mut shim = Command::new(match self.is_own && is_away() {
            true => OWN.as_ref(),
            false => program.as_os_str(),
        });
        shim.arg0(program).args(args).env_clear();
        shim
    }

    async fn launch(&self, run: &Run) -> Result<(), String> {
        let config = Config::read(&run.workload)?;
        let (groups, remarks) = self.groups.make(&run.name, run.workload.resources);
        for remark in remarks {
            tracing::warn!(run = %run.id, "{remark}");
            run.remark(&remark);
        }
        let written = config.launch(run, groups.clone()).and_then(|launch| {
            let written = disk::note_json(&run.dir.join(shim::LAUNCH), &launch);
            written.map_err(|why| format!("the run cannot be written: {why}"))
        });
        if let Err(why) = written {
            // Nobody would know of them.
            groups.iter().for_each(|group| drop(group.remove()));
            return Err(why);
        }
        let shim = self
            .shim()
            .arg(&run.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut shim = shim.map_err(|why| format!("no shim can be started: {why}"))?;
        let answer = shim.stdout.take().expect("its output is a pipe");
        let mut line = String::new();
        let mut answer = BufReader::new(answer.take(ANSWER_BYTES_MAX));
        // How it went is read from the directory: this one may have been the second.
        let answered = within(START_WITHIN, answer.read_line(&mut line)).await;
        let looked = self.state(run).await;
        match looked.map_err(|why| format!("the run cannot be read: {why}"))? {
            Look::Beginning
            | Look::Running
            | Look::Ended {
                how: End::Exited(_),
                ..
            } => Ok(()),
            Look::Ended {
                how: End::CannotStart(why),
                ..
            } => Err(why),
            Look::Absent => Err(match (answered, line.trim_end().strip_prefix(shim::NO)) {
                (Ok(_), Some(why)) => format!("the shim cannot start it: {why}"),
                (Ok(_), None) => "the shim ended without a word".to_owned(),
                (Err(_), _) => "the shim has said nothing for too long".to_owned(),
            }),
        }
    }

    async fn wait(&self, run: &Run) {
        let is_alive = |look| matches!(look, Look::Beginning | Look::Running);
        let alive = async || self.state(run).await.is_ok_and(is_alive);
        loop {
            // Opened before it is looked, so that an end in between is not missed.
            let end = pipe::OpenOptions::new().open_receiver(run.dir.join(shim::ALIVE));
            if !alive().await {
                return;
            }
            if let Ok(end) = end {
                let _ = end.readable().await;
            }
            if !alive().await {
                return;
            }
            sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn state(&self, run: &Run) -> io::Result<Look> {
        let dir = &run.dir;
        let signal = Config::read(&run.workload).and_then(|config| config.signal());
        let stop = Ending {
            signal: signal.unwrap_or(Signal::TERM),
            grace: run.workload.stop_grace,
        };
        if !is_gone(dir) {
            if let Some(look) = self.look_at(run)? {
                return Ok(look);
            }
            let elsewhere = || {
                let process = Process::read(dir).ok().flatten();
                process.as_ref().and_then(Lost::elsewhere)
            };
            if let Some(shim) = elsewhere().filter(|shim| !shim.is_deleted) {
                let there = shim.dir.display();
                let why = format!("it lives in {there}, and this is a copy of that");
                return Err(io::Error::other(why));
            }
            tracing::warn!(dir = %dir.display(), "this is a copy of a run that lives, which is ended");
            self.end_shims(dir, || elsewhere().into_iter().collect(), stop)
                .await?;
            return Ok(super::note_end(dir, Ended::unseen(dir)));
        }
        // Somebody has taken it away, and with it what tells of the program, which must not go on beside the next one.
        tracing::warn!(dir = %dir.display(), "the directory of a run is gone");
        self.end_lost(dir, &[], stop).await?;
        Ok(Ended::unseen(dir).into())
    }

    /// Where it is; `None` where its shim lives, but for another directory.
    fn look_at(&self, run: &Run) -> io::Result<Option<Look>> {
        let dir = run.dir.as_path();
        let ended = || disk::read_or_put_aside::<Ended>(&dir.join(shim::ENDED));
        if let Some(ended) = ended()? {
            return Ok(Some(ended.into()));
        }
        let Some(_alone) = shim::hold(dir)? else {
            return Ok(Some(match shim::has_begun(dir) {
                true => Look::Running,
                false => Look::Beginning,
            }));
        };
        // Only now nobody writes any more.
        if let Some(ended) = ended()? {
            return Ok(Some(ended.into()));
        }
        if !dir.join(shim::BEGUN).exists() {
            return Ok(Some(Look::Absent));
        }
        let left = Process::read(dir)?;
        if left.as_ref().and_then(Lost::elsewhere).is_some() {
            return Ok(None);
        }
        // Whatever the shim started has nobody to write its end down, so it ends here.
        let killed = shim::kill_session(left.as_ref(), dir);
        let killed = killed + shim::kill_strays(dir);
        self.groups_of(run)?.iter().for_each(Group::kill);
        tracing::warn!(dir = %dir.display(), killed, "a shim ended without a word: it was killed, or the node was");
        Ok(Some(super::note_end(dir, Ended::unseen(dir))))
    }

    /// What holds a run to its limits.
    fn groups_of(&self, run: &Run) -> io::Result<Vec<Group>> {
        let groups = Launch::read(&run.dir)?.map(|launch| launch.groups);
        // They may not have been written down, or not so that it lasted.
        let is_known = |groups: &Vec<Group>| !groups.is_empty();
        let found = || self.groups.of(&run.name);
        Ok(groups.filter(is_known).unwrap_or_else(found))
    }

    /// What a run was started with; where that is lost, what it would be today.
    fn launched(&self, run: &Run) -> io::Result<Launch> {
        if let Some(launch) = Launch::read(&run.dir)? {
            return Ok(launch);
        }
        let again = Config::read(&run.workload)
            .and_then(|config| config.launch(run, self.groups.of(&run.name)))
            .map_err(io::Error::other)?;
        disk::note_json(&run.dir.join(shim::LAUNCH), &again)?;
        Ok(again)
    }

    /// Shims that live, of runs that were here or below and are lost.
    fn lost(&self, dir: &Path) -> Vec<Lost> {
        Lost::find(self.shim.get(1..).unwrap_or_default(), dir)
    }

    /// Ends what is left of runs that were here or below, whose directory is gone, but not of those that are known. Ready
    /// when all of it has ended.
    async fn end_lost(&self, dir: &Path, known: &[Arc<Run>], stop: Ending) -> io::Result<()> {
        let find = || {
            let mut shims = self.lost(dir);
            shims.retain(|shim| known.iter().all(|run| run.dir != shim.dir));
            shims
        };
        let mut dirs = self.end_shims(dir, find, stop).await?;
        // Of a shim that was killed, or of a check. Where there is a directory again, they are another run's.
        let is_gone = |dir: &&PathBuf| matches!(dir.try_exists(), Ok(false));
        dirs.insert(dir.to_owned());
        for dir in dirs.iter().filter(is_gone) {
            shim::kill_marked(dir, dir);
        }
        Ok(())
    }

    /// Tells what these shims run to stop, kills it after the time of grace, and is ready when there are none any more;
    /// where their runs were.
    async fn end_shims(
        &self,
        dir: &Path,
        find: impl Fn() -> Vec<Lost>,
        Ending { signal, grace }: Ending,
    ) -> io::Result<BTreeSet<PathBuf>> {
        let mut dirs = BTreeSet::new();
        let since = Instant::now();
        while since.elapsed() < grace + KILLED_WITHIN {
            let shims = find();
            if shims.is_empty() {
                return Ok(dirs);
            }
            for shim in shims {
                let waited = since.elapsed();
                if waited >= grace {
                    shim.kill(waited > grace + KILLED_WITHIN / 2);
                } else if !dirs.contains(&shim.dir) {
                    shim.signal(signal);
                }
                let dir = shim.dir.display().to_string();
                if dirs.insert(shim.dir) {
                    tracing::warn!(dir, "a program whose run is lost is ended");
                }
            }
            sleep(REMOVE_AGAIN_AFTER).await;
        }
        let dir = dir.display();
        let why = format!("{dir}: what runs there and is no run's any more does not end");
        Err(io::Error::other(why))
    }
}

impl Driver for Exec {
    fn check(&self, workload: &Workload) -> Result<(), String> {
        check(workload)
    }

    fn provide<'a>(&'a self, workload: &'a Workload) -> Option<Doing<'a, Result<(), Lack>>> {
        Some(Box::pin(async move {
            let config = Config::read(workload).map_err(Lack::Missing)?;
            let needs = config.needs(workload).map_err(Lack::Missing)?;
            self.look_for(needs).await
        }))
    }

    fn start<'a>(&'a self, run: &'a Run) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let Err(why) = self.launch(run).await else {
                return Ok(());
            };
            // It is over then, unless it lives after all.
            if let Ok(Some(_alone)) = shim::hold(&run.dir)
                && !run.dir.join(shim::ENDED).exists()
            {
                super::note_end(&run.dir, Ended::cannot_start(why.clone()));
                for group in self.groups_of(run).unwrap_or_default() {
                    // Where that fails, it is removed when the run is forgotten.
                    let _ = group.remove();
                }
                // A shim that comes late finds nothing to start, also where nothing can be written.
                let _ = std::fs::remove_file(run.dir.join(shim::LAUNCH));
            }
            Err(why)
        })
    }

    fn look<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<Look>> {
        Box::pin(self.state(run))
    }

    fn stop<'a>(&'a self, run: &'a Run, how: Stop) -> Doing<'a, io::Result<()>> {
        Box::pin(async move {
            let signal = match how {
                Stop::Gracefully => Config::read(&run.workload).and_then(|config| config.signal()),
                Stop::Now => Ok(Signal::KILL),
            };
            let signal = signal.unwrap_or(Signal::TERM);
            if is_gone(&run.dir) {
                // Only its shim tells now which process it is.
                let shims = self.lost(&run.dir);
                if signal == Signal::KILL || shims.is_empty() {
                    let grace = Duration::ZERO;
                    return self.end_lost(&run.dir, &[], Ending { signal, grace }).await;
                }
                for shim in shims {
                    shim.signal(signal);
                }
                return Ok(());
            }
            let process = Process::read(&run.dir)?;
            let Some(process) = process.as_ref().filter(|process| process.is_alive()) else {
                return stop_by_shim(&run.dir, signal, process.is_some());
            };
            let pid = Pid::from_raw(process.pid).ok_or(io::ErrorKind::InvalidData)?;
            let told = kill_process_group(pid, signal);
            // It may have gone to another group.
            match told {
                Err(Errno::SRCH) => kill_process(pid, signal)?,
                told if signal == Signal::KILL => {
                    let _ = kill_process(pid, signal);
                    told?;
                }
                told => told?,
            }
            Ok(())
        })
    }

    fn ended<'a>(&'a self, run: &'a Run) -> Doing<'a, ()> {
        Box::pin(self.wait(run))
    }

    fn run<'a>(&'a self, run: &'a Run, command: &'a [String]) -> Doing<'a, io::Result<i64>> {
        Box::pin(async move {
            let check = (run.dir.clone(), command.to_vec());
            if held(&self.stuck_checks).contains(&check) {
                let why = "the last one was killed, and has not ended: it waits for the system";
                return Err(io::Error::other(why));
            }
            let launch = self.launched(run)?;
            // What the last one has done, where nobody waited for its end.
            note_spared(&run.dir, &launch);
            // It goes where it is to run by itself: on the way there it may be held up.
            let child = self
                .shim()
                .arg(shim::CHECK)
                .arg(&run.dir)
                .args(command)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .process_group(0)
                .kill_on_drop(true)
                .spawn();
            let child = child.map_err(|why| disk::of(Path::new(&self.shim[0]), &why))?;
            let mut running = Running {
                group: Some(ProcessGroup(child)),
                check,
                stuck: self.stuck_checks.clone(),
            };
            let group = running.group.as_mut().expect("it was just put there");
            if let Some(answer) = group.0.stdout.take() {
                let mut why = String::new();
                answer
                    .take(ANSWER_BYTES_MAX)
                    .read_to_string(&mut why)
                    .await?;
                if !why.is_empty() {
                    return Err(io::Error::other(why));
                }
            }
            let status = group.ended().await?;
            note_spared(&run.dir, &launch);
            Ok(status.code().unwrap_or(-1).into())
        })
    }

    fn forget<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<()>> {
        Box::pin(async {
            // A shim that comes late finds nothing to start.
            let Some(_alone) = shim::hold(&run.dir)? else {
                return Err(io::Error::other("it lives"));
            };
            let left = Process::read(&run.dir)?;
            if left.as_ref().and_then(Lost::elsewhere).is_some() {
                // A copy: nothing but this directory is its own.
                return super::remove(&run.dir).await;
            }
            for group in self.groups_of(run)? {
                remove(&group).await?;
            }
            // Of a check that was begun as it ended.
            shim::kill_strays(&run.dir);
            super::remove(&run.dir).await
        })
    }

    fn sweep<'a>(&'a self, runs: &'a [Arc<Run>]) -> Doing<'a, io::Result<()>> {
        Box::pin(async {
            // How they wanted to be told is lost, too: they are told as most are, and have a moment.
            let (signal, grace) = (Signal::TERM, LOST_GRACE);
            let ended = self
                .end_lost(&self.runs, runs, Ending { signal, grace })
                .await;
            ended.inspect_err(|why| tracing::warn!(%why, "not all that is lost is ended"))
        })
    }

    fn usage<'a>(&'a self, runs: &'a [Arc<Run>]) -> Doing<'a, BTreeMap<RunId, Usage>> {
        Box::pin(async {
            let shims: BTreeMap<_, _> = shims(runs).collect();
            let used = usage::below(&shims.values().copied().collect());
            let its = |(run, shim): (RunId, i32)| Some((run, *used.get(&shim)?));
            shims.into_iter().filter_map(its).collect()
        })
    }

    fn listens<'a>(&'a self, runs: &'a [Arc<Run>], port: u16) -> Doing<'a, Option<RunId>> {
        Box::pin(async move {
            let shims: BTreeMap<_, _> = shims(runs).map(|(run, shim)| (shim, run)).collect();
            let by = listens::below(&shims.keys().copied().collect(), port)?;
            shims.get(&by).cloned()
        })
    }
}

/// The process above all those of a run.
fn shims(runs: &[Arc<Run>]) -> impl Iterator<Item = (RunId, i32)> {
    let shim = |run: &Arc<Run>| Some((run.id.clone(), Process::read(&run.dir).ok()??.shim));
    runs.iter().filter_map(shim)
}

/// Ends a run of which no file says which process it is, or one that is not here: then it is its shim's child. With
/// `has_begun` it is one that a shim had started.
fn stop_by_shim(dir: &Path, signal: Signal, has_begun: bool) -> io::Result<()> {
    let is_over = || shim::hold(dir).map(|held| held.is_some());
    if is_over()? {
        return Ok(());
    }
    let Some(shim) = Lost::at(dir) else {
        // Just now, perhaps.
        return match is_over()? {
            true => Ok(()),
            false => Err(io::Error::other(
                "it runs where this agent does not see it, in another container or namespace: begin an agent there",
            )),
        };
    };
    if signal == Signal::KILL {
        shim.kill(false);
        return Ok(());
    }
    // Who has none any more is about to write its end down.
    match shim.signal(signal) || has_begun {
        true => Ok(()),
        false => Err(io::Error::other("it is just being started")),
    }
}

/// A program and what it started. If nobody waits for it any more, all of it ends.
pub(super) struct ProcessGroup(pub(super) tokio::process::Child);

impl ProcessGroup {
    /// Its program has ended, and with it all that it has left behind.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        let id = self.id();
        let status = self.0.wait().await?;
        // Nobody else has this number so soon.
        if let Some(id) = id {
            let _ = kill_process_group(id, Signal::KILL);
        }
        Ok(status)
    }

    fn kill(&self) {
        if let Some(id) = self.id() {
            let _ = kill_process_group(id, Signal::KILL);
        }
    }

    /// For as long as its program was not waited for.
    fn id(&self) -> Option<Pid> {
        Pid::from_raw(self.0.id()?.cast_signed())
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A check for which somebody waits, or will do no more. Who is held up may not even end when he is killed: until he does, no
/// other one is sent there.
struct Running {
    group: Option<ProcessGroup>,
    check: Check,
    stuck: Arc<Mutex<BTreeSet<Check>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.group.take().filter(|group| group.id().is_some());
        let Some((mut group, runtime)) = group.zip(Handle::try_current().ok()) else {
            return;
        };
        let (check, stuck) = (self.check.clone(), self.stuck.clone());
        held(&stuck).insert(check.clone());
        runtime.spawn(async move {
            group.kill();
            let _ = group.0.wait().await;
            held(&stuck).remove(&check);
        });
    }
}

/// A check that needs too much memory is killed where the program's own is counted: that is noted, or it would be said of the
/// program when somebody kills that. The check does not wait for it: its time is its own.
fn note_spared(dir: &Path, launch: &Launch) {
    if launch.memory_bytes_max.is_none() {
        return;
    }
    let killed = launch.killed_for_memory();
    if killed <= shim::spared(dir) {
        return;
    }
    let dir = dir.to_owned();
    tokio::spawn(async move {
        sleep(GONE_AFTER).await;
        let is_alive = matches!(Process::read(&dir), Ok(Some(process)) if process.is_alive());
        if is_alive && let Err(why) = disk::note_json(&dir.join(shim::SPARED), &killed) {
            tracing::warn!(dir = %dir.display(), %why, "what a check has done cannot be noted");
        }
    });
}

async fn remove(group: &Group) -> io::Result<()> {
    let mut again = 0..REMOVALS_MAX;
    loop {
        group.kill();
        match group.remove() {
            Err(_) if again.next().is_some() => sleep(REMOVE_AGAIN_AFTER).await,
            removed => return removed,
        }
    }
}

/// Whether somebody has taken a run's directory away, and not all that there is.
fn is_gone(dir: &Path) -> bool {
    let all = dir.ancestors().nth(3);
    matches!(dir.try_exists(), Ok(false)) && all.is_some_and(Path::exists)
}

#[cfg(test)]
mod tests;
