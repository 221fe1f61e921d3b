//! The program as a child process.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use tempfile::TempDir;

use crate::client::Client;

const PROGRAM: &str = env!("CARGO_BIN_EXE_orchestrator");

/// A server that runs. Killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    /// What it said when it began.
    pub(crate) said: String,
    pub(crate) client: Client,
    log: PathBuf,
}

/// What a test has of the disk: the data directory within it, and the log beside that.
pub(crate) fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory can be made")
}

pub(crate) fn data(dir: &TempDir) -> PathBuf {
    dir.path().join("data")
}

/// The program with these words, and nothing of the environment.
pub(crate) fn command<T: AsRef<OsStr>>(words: impl IntoIterator<Item = T>) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(words).stdin(Stdio::null()).env_clear();
    command
}

/// Runs it to its end: its exit code, and what it said.
pub(crate) fn run(words: &[&str]) -> (Option<i32>, String, String) {
    let ran = command(words).output().expect("it can be run");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (ran.status.code(), text(ran.stdout), text(ran.stderr))
}

/// A path as a word.
pub(crate) fn word(path: &Path) -> &str {
    path.to_str().expect("a path that is text")
}

impl Program {
    pub(crate) fn start(dir: &TempDir) -> Self {
        Self::start_with(dir, &["--listen", "127.0.0.1:0"])
    }

    pub(crate) fn start_with(dir: &TempDir, words: &[&str]) -> Self {
        Self::start_among(dir, words, &[])
    }

    /// With these variables in its environment.
    pub(crate) fn start_among(dir: &TempDir, words: &[&str], variables: &[(&str, &str)]) -> Self {
        let (data, log) = (data(dir), dir.path().join("log"));
        let written = File::options().create(true).append(true).open(&log);
        let mut child = command(["server", "--data-dir", word(&data)])
            .args(words)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(written.expect("a log"))
            .spawn()
            .expect("it can be run");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut line = || lines.next().and_then(Result::ok).unwrap_or_default();
        let said = format!("{}\n{}", line(), line());
        let address = said.split_once("://").and_then(|(_, rest)| {
            let (address, _) = rest.split_once(' ')?;
            address.parse::<SocketAddr>().ok()
        });
        let Some(address) = address else {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("it did not begin: {said:?}\n{log}");
        };
        Self {
            child,
            said,
            client: Client::new(address),
            log,
        }
    }

    /// Begins one, and kills it when it has read and written so many times.
    pub(crate) fn kill_early(dir: &TempDir, times: u64) {
        let mut child = command([
            "server",
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            word(&data(dir)),
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be run");
        while read_and_written(child.id()) < times {
            let ended = child.try_wait().expect("it is a child");
            assert_eq!(ended, None, "it began no further");
            std::thread::yield_now();
        }
        child.kill().expect("running");
        child.wait().expect("killed");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("running");
        self.child.wait().expect("killed");
    }

    /// How many times it has read and written so far.
    pub(crate) fn read_and_written(&self) -> u64 {
        read_and_written(self.pid())
    }

    pub(crate) fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "it is there");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Bytes of its memory that are resident.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.expect("a number of KiB") * 1024
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let waited = tokio::task::spawn_blocking(move || {
            let ended = self.child.wait().expect("its end");
            let log = std::fs::read_to_string(&self.log).expect("a log");
            (ended, log)
        });
        waited.await.expect("waiting does not panic")
    }

    /// Ends it in good order.
    pub(crate) async fn stop(self) {
        self.signal("TERM");
        let (ended, log) = self.ended().await;
        assert!(ended.success(), "{ended}\n{log}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether there was still a process to send it to.
pub(crate) fn signal(pid: u32, name: &str) -> bool {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    sent.expect("kill can be run").success()
}

/// How many times a process has read and written: how far it has come, on a machine of any speed.
fn read_and_written(pid: u32) -> u64 {
    let said = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("Linux tells");
    let count = |line: &str| {
        line.strip_prefix("syscr: ")
            .or_else(|| line.strip_prefix("syscw: "))?
            .parse::<u64>()
            .ok()
    };
    said.lines().filter_map(count).sum()
}
