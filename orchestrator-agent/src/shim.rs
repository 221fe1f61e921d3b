//! The parent of a workload's process: writes its output to bounded files, and at last how it ended.
//!
//! It is a small process of its own, so that a workload outlives the agent. All that it and the agent have to say to
//! each other is in the run's directory:
//!
//! ```text
//! launch.json     what to start; the agent's
//! lock            held while the shim lives: what is alive needs no guess about process ids
//! alive           a pipe that is closed when the shim ends, for who waits for it
//! begun           from here on, no other shim starts this run
//! process.json    the ids of the shim and of the workload's process, and when that was started
//! ended.json      how it ended
//! spared          so many were killed for want of memory, and it was none of them; the agent's
//! stdout.log …    its output, see `output`
//! remarks         what an operator should know of it
//! ```
//!
//! The same program, told `check` or `look`, goes for the agent where that could be held up: see [`main`].
//!
//! Of two shims for the same run one gets the lock, and the other ends at once: so a run is started at most once.
//!
//! What the workload's process has started is the shim's to end, however far it has gone from there: what loses its parent
//! becomes the shim's child.

mod family;
mod left;
mod possible;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::cgroup::Group;
use crate::disk;
use crate::driver::Look;
use crate::output::Writer;
use crate::plan::End;
use crate::processes;
use crate::runs;
use crate::wire::Stream;

pub(crate) use self::left::{
    Lost, Seat, hold, kill_marked, kill_session, kill_strays, kill_unknown, living,
};

pub(crate) use self::possible::Needs;

pub(crate) const LAUNCH: &str = "launch.json";
pub(crate) const LOCK: &str = "lock";
/// A pipe that nobody writes to, and that is at its end when the shim is.
pub(crate) const ALIVE: &str = "alive";
/// That it was to begin, and then that it has.
pub(crate) const BEGUN: &str = "begun";
const UP: &[u8] = b"up";
pub(crate) const PROCESS: &str = "process.json";
pub(crate) const ENDED: &str = "ended.json";
pub(crate) const SPARED: &str = "spared";
/// Set where an agent of an earlier version wants a check.
const EARLIER_CHECK: &str = "ORCHESTRATOR_CHECK";
/// The variable that tells whose run a process is.
pub(crate) const RUN: &str = "ORCHESTRATOR_RUN";

/// What it says before the reason why it does not start a run.
pub(crate) const NO: &str = "no ";

/// How long output may still come after the end, from whoever has taken it along.
const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// What a shim is told before a run's directory and the words of a check. A program that does not know it finds no run
/// there, and fails.
pub(crate) const CHECK: &str = "check";
/// What a shim is told before what it is to look for: it says what is not there.
pub(crate) const LOOK: &str = "look";
/// The run's directory, wherever that is by now: a shim is in it.
const HERE: &str = ".";
/// How it ended takes no more, but for a long reason.
const ENDED_BYTES: usize = 512;

/// What to start.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Launch {
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) directory: PathBuf,
    /// That is the run's, and is given to the user.
    pub(crate) own_directory: bool,
    pub(crate) user: Option<(u32, u32)>,
    /// Where it is held to its limits.
    #[serde(default)]
    pub(crate) groups: Vec<Group>,
    /// One of those, for who is told that it was not enough.
    #[serde(default)]
    pub(crate) memory_bytes_max: Option<u64>,
    pub(crate) log_bytes_max: u64,
    pub(crate) log_files_max: u32,
}

impl Launch {
    /// The directory by whose name everything of the run is marked, also where it was moved since.
    pub(crate) fn marked(&self) -> Option<&Path> {
        self.env.get(RUN).map(Path::new)
    }

    /// Where it works, for a run whose directory is this one by now.
    pub(crate) fn directory_in(&self, dir: &Path) -> PathBuf {
        match self.own_directory {
            true => dir.join("work"),
            false => self.directory.clone(),
        }
    }

    /// So many processes were killed for want of memory.
    pub(crate) fn killed_for_memory(&self) -> u64 {
        let groups = self.groups.iter();
        groups.map(Group::killed_for_memory).max().unwrap_or(0)
    }
}

/// What was started.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Process {
    pub(crate) shim: i32,
    pub(crate) pid: i32,
    /// In the system's ticks since it booted: no other process of this id began then.
    pub(crate) started: u64,
}

impl Process {
    pub(crate) fn is_alive(&self) -> bool {
        processes::started(self.pid) == Some(self.started)
    }
}

/// How it ended.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Ended {
    code: Option<i32>,
    cannot_start: Option<String>,
    ran_millis: u64,
}

impl Ended {
    pub(crate) fn cannot_start(why: String) -> Self {
        Self {
            code: None,
            cannot_start: Some(why),
            ran_millis: 0,
        }
    }

    /// With this code, after so long.
    pub(crate) fn with(code: i32, ran: Duration) -> Self {
        Self {
            code: Some(code),
            cannot_start: None,
            ran_millis: u64::try_from(ran.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Its exit code is known to nobody. The machine may have ended, and then it was no fault of the run's: how long it lived
    /// counts, as far as its directory tells.
    pub(crate) fn unseen(dir: &Path) -> Self {
        Self {
            code: None,
            ..Self::with(-1, runs::age(dir))
        }
    }
}

impl From<Ended> for Look {
    fn from(ended: Ended) -> Self {
        let how = match ended.cannot_start {
            Some(why) => End::CannotStart(why),
            None => End::Exited(ended.code.unwrap_or(-1)),
        };
        let ran = Duration::from_millis(ended.ran_millis);
        Self::Ended { how, ran }
    }
}

/// With all that it is told after the words by which the program knows that it is a shim. That is a run's directory: it
/// starts that run, unless it was before, and stays until it is over. Or it becomes a check of a run, or looks for what a
/// program needs.
pub fn main(told: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut told = told.into_iter();
    let first = told.next().unwrap_or_default();
    if first == CHECK {
        let dir = PathBuf::from(told.next().unwrap_or_default());
        return check(&dir, told);
    }
    if first == LOOK {
        return look(&told.next().unwrap_or_default());
    }
    if first.is_empty() {
        say(
            "this is a part of the agent, who begins it himself: there is nothing here to be typed",
        );
        return ExitCode::from(64);
    }
    // An agent of before asks so for a check, and would take a second shim's end for a check that passes.
    if std::env::var_os(EARLIER_CHECK).is_some() {
        return ExitCode::FAILURE;
    }
    // Fails where it leads a session already.
    let _ = rustix::process::setsid();
    // It goes along where somebody moves the directory.
    let dir = Path::new(&first);
    match std::env::set_current_dir(dir).and_then(|()| run(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("{NO}{why}"));
            ExitCode::FAILURE
        }
    }
}

/// Says what keeps a program from beginning, if anything does.
fn look(needs: &OsStr) -> ExitCode {
    let needs = serde_json::from_slice::<Needs>(needs.as_encoded_bytes());
    let looked = needs
        .map_err(io::Error::from)
        .and_then(|needs| needs.look());
    if let Err(why) = looked {
        // Who asked may have gone.
        let _ = write!(io::stdout(), "{why}");
    }
    ExitCode::SUCCESS
}

/// Becomes a program, where the run's own is held to its limits: what checks it costs no one else. Why it cannot is all
/// that comes from its output: that is closed as the program begins.
fn check(dir: &Path, mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let Ok(mut answer) = io::stdout().as_fd().try_clone_to_owned().map(File::from) else {
        return ExitCode::FAILURE;
    };
    let become_it = || -> io::Result<Command> {
        let program = words.next().ok_or(io::ErrorKind::InvalidInput)?;
        let launch = disk::read_json::<Launch>(&dir.join(LAUNCH))?;
        let launch = launch.ok_or(io::ErrorKind::NotFound)?;
        launch.groups.iter().try_for_each(Group::step_in)?;
        let mut command = Command::new(program);
        let directory = launch.directory_in(dir);
        command.args(words).env_clear().envs(launch.env);
        command.current_dir(directory);
        command.stdout(Stdio::null());
        if let Some((user, group)) = launch.user {
            command.uid(user).gid(group);
        }
        Ok(command)
    };
    let why = match become_it() {
        Ok(mut command) => {
            let why = command.exec();
            disk::of(Path::new(command.get_program()), &why)
        }
        Err(why) => why,
    };
    // Who asked may have gone.
    let _ = write!(answer, "{why}");
    ExitCode::FAILURE
}

fn run(dir: &Path) -> io::Result<()> {
    let here = Path::new(HERE);
    let Some(_lock) = disk::hold(&here.join(LOCK))? else {
        return Ok(());
    };
    // Also when the directory was taken away before the lock was there.
    if here.join(BEGUN).exists() || here.join(ENDED).exists() {
        return Ok(());
    }
    let Some(launch) = disk::read_json::<Launch>(&here.join(LAUNCH))? else {
        return Ok(());
    };
    let lived = live(dir, &launch);
    if lived.is_err() {
        // Perhaps there is no directory any more by which others find them.
        remove(&launch.groups);
    }
    lived
}

/// Of a run whose shim lives: whether its program has begun.
pub(crate) fn has_begun(dir: &Path) -> bool {
    let is_up = std::fs::metadata(dir.join(BEGUN)).is_ok_and(|begun| begun.len() > 0);
    is_up || !matches!(Process::read(dir), Ok(None))
}

/// Starts what nobody has started, and stays until it is over. The run was in this directory when it began.
fn live(dir: &Path, launch: &Launch) -> io::Result<()> {
    let here = Path::new(HERE);
    let _alive = pipe(&here.join(ALIVE))?;
    let ended = here.join(ENDED);
    disk::reserve(&ended, ENDED_BYTES)?;
    disk::note(&here.join(BEGUN), b"")?;
    family::adopt();
    let began = Instant::now();
    let mut child = match start(launch) {
        Ok(child) => child,
        Err(why) => {
            disk::replace_json_in_room(&ended, &Ended::cannot_start(why.clone()))?;
            return Err(io::Error::other(why));
        }
    };
    let pid = child.id().cast_signed();
    let process = Process {
        shim: processes::own(),
        pid,
        started: processes::started(pid).unwrap_or(0),
    };
    let noted = disk::note_json(&here.join(PROCESS), &process);
    if let Err(why) = noted {
        // Nobody could stop it.
        let _ = end(dir, launch, &mut child);
        disk::replace_json_in_room(&ended, &Ended::cannot_start(why.to_string()))?;
        return Err(why);
    }
    // Who cannot write it is known by the process that was noted.
    let _ = disk::note(&here.join(BEGUN), UP);
    say("up");
    let drained = keep_output(here, launch, &mut child);
    // The process is still there as a zombie while its group is ended, so its id is nobody else's.
    family::until_ended(pid);
    let status = end(dir, launch, &mut child)?;
    let until = Instant::now() + DRAIN_WITHIN;
    for _ in 0..2 {
        // An error means that all was read, or that the time is over.
        let _ = drained.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
    if status.signal() == Some(Signal::KILL.as_raw()) {
        tell_of_memory(here, launch);
    }
    remove(&launch.groups);
    let signal = status.signal().map(|signal| 128 + signal);
    let how = Ended {
        code: status.code().or(signal),
        cannot_start: None,
        ran_millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    };
    disk::replace_json_in_room(&ended, &how)
}

/// So many processes of a run, checks too, were killed for want of memory while its program went on.
pub(crate) fn spared(dir: &Path) -> u64 {
    let spared = disk::read_json(&dir.join(SPARED));
    spared.ok().flatten().unwrap_or(0)
}

/// If it was killed for want of memory, that is said where people look: nothing else tells them.
fn tell_of_memory(dir: &Path, launch: &Launch) {
    let killed = launch.killed_for_memory() > spared(dir);
    let Some(bytes) = launch.memory_bytes_max.filter(|_| killed) else {
        return;
    };
    let why = format!("killed: it needed more than its memory_bytes, {bytes}");
    // Whoever cannot be told of it sees the signal.
    let _ = runs::remark(dir, &why);
    let log = Writer::reopen(
        dir,
        Stream::Stderr,
        launch.log_bytes_max,
        launch.log_files_max,
    );
    let _ = log.and_then(|mut log| log.write(format!("orchestrator: {why}\n").as_bytes()));
}

/// To the agent, if it still listens.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn pipe(path: &Path) -> io::Result<File> {
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        // Of a shim that came no further.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(why) => return Err(why.into()),
    }
    // With a reader of its own it need not wait for one.
    OpenOptions::new().read(true).write(true).open(path)
}

fn start(launch: &Launch) -> Result<Child, String> {
    let named = |what: &str| {
        let what = what.to_owned();
        move |why: io::Error| format!("{what}: {why}")
    };
    let directory = launch.directory.display().to_string();
    // Else the program would be said to be missing.
    match std::fs::metadata(&launch.directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(why) => Err(why),
    }
    .map_err(named(&directory))?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.args)
        .env_clear()
        .envs(&launch.env)
        .current_dir(&launch.directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some((user, group)) = launch.user {
        command.uid(user).gid(group);
        if launch.own_directory {
            std::os::unix::fs::chown(&launch.directory, Some(user), Some(group))
                .map_err(named(&directory))?;
        }
    }
    // What cannot be held to its limits as they are is not started.
    let stepped_in = launch.groups.iter().try_for_each(Group::step_in);
    let child = stepped_in.and_then(|()| command.spawn());
    for group in &launch.groups {
        // Where that fails, the shim counts as one of the program's.
        let _ = group.step_out();
    }
    child.map_err(named(&launch.program))
}

/// Ends a program, and all that there is of it; how it ended.
fn end(dir: &Path, launch: &Launch, child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = Pid::from_raw(child.id().cast_signed()) {
        // Fails where nobody is left.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
    launch.groups.iter().for_each(Group::kill);
    let status = child.wait()?;
    family::end();
    // Of the checks, whose parent is the agent.
    kill_marked(dir, Path::new(HERE));
    Ok(status)
}

fn remove(groups: &[Group]) {
    for group in groups {
        // Where somebody is still on his way out, it is removed when the run is forgotten.
        let _ = group.remove();
    }
}

/// Copies both outputs; each says when it is at its end.
fn keep_output(dir: &Path, launch: &Launch, child: &mut Child) -> mpsc::Receiver<()> {
    let (done, drained) = mpsc::channel();
    let outputs: [(Stream, Option<Box<dyn Read + Send>>); 2] = [
        (
            Stream::Stdout,
            child.stdout.take().map(|out| Box::new(out) as _),
        ),
        (
            Stream::Stderr,
            child.stderr.take().map(|out| Box::new(out) as _),
        ),
    ];
    for (stream, output) in outputs {
        let mut log = Writer::new(dir, stream, launch.log_bytes_max, launch.log_files_max);
        let mut output = output.expect("both are pipes");
        let done = done.clone();
        let copy = move || {
            let mut bytes = vec![0; 16 << 10];
            while let Ok(read) = output.read(&mut bytes) {
                if read == 0 {
                    break;
                }
                // What cannot be written is lost: a full disk does not stop the workload.
                let _ = log.write(&bytes[..read]);
            }
            let _ = done.send(());
        };
        let thread = thread::Builder::new().stack_size(64 << 10);
        thread.spawn(copy).expect("there is room for a thread");
    }
    drained
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = processes::own();
        let start = processes::started(own).unwrap();
        let process = |started| Process {
            shim: own,
            pid: own,
            started,
        };
        assert!(process(start).is_alive());
        assert!(!process(start + 1).is_alive());
    }
}
