//! The processes of this machine, as `/proc` shows them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::disk;

/// One of them, at the moment when it was read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// It has ended, and its parent has not asked after it yet.
    pub(crate) is_zombie: bool,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    /// In ticks since the system booted: no other process of this id began then.
    pub(crate) started: u64,
    /// Ticks of processor time, with those of the children that have ended and were asked after.
    pub(crate) ticks: u64,
    /// Pages of memory that are resident.
    pub(crate) pages: u64,
}

impl Process {
    /// The one of this id, if there is one.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::read(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// All of them. Who comes or goes meanwhile may be missing.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| Self::of(entry.file_name().to_str()?.parse().ok()?))
    }

    fn read(pid: i32, stat: &str) -> Option<Self> {
        // The name in front of it may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            pid,
            is_zombie: *fields.first()? == "Z",
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            ticks: (11..=14).map(number).sum::<Option<u64>>()?,
            started: number(19)?,
            pages: number(21)?,
        })
    }

    /// Whether this was in its environment when its program began.
    pub(crate) fn has(&self, variable: &str) -> bool {
        let env = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        env.split(|byte| *byte == 0)
            .any(|other| other == variable.as_bytes())
    }

    /// Its program and arguments.
    pub(crate) fn words(&self) -> Vec<OsString> {
        let words = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let words = words.split_inclusive(|byte| *byte == 0);
        let words = words.map(|word| word.strip_suffix(b"\0").unwrap_or(word));
        words.map(|word| OsStr::from_bytes(word).into()).collect()
    }

    /// Whether it is root's or this process's user's, whatever it has become: what others say of themselves is not to be
    /// believed.
    pub(crate) fn is_own(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        let is_own = |user: &str| user.parse().is_ok_and(is_own_user);
        users.is_some_and(|users| users.split_ascii_whitespace().all(is_own))
    }

    /// The directory that it works in, as [`undeleted`] takes it.
    pub(crate) fn works_in(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// Whether it finds there what this process finds there: who lives in a container has paths of his own. `None` where
    /// it finds nothing.
    pub(crate) fn sees(&self, path: &Path) -> Option<bool> {
        Some(disk::identity(&self.path(path))? == disk::identity(path)?)
    }

    /// What it finds there, for this process.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(inside)
    }

    /// The files that it has open, as [`undeleted`] takes them.
    pub(crate) fn open(&self) -> impl Iterator<Item = PathBuf> {
        let files = fs::read_dir(format!("/proc/{}/fd", self.pid));
        let files = files.into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok())
    }

    /// Its parent, that one's parent, and so on.
    pub(crate) fn above(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(Self::of(self.parent), |above| Self::of(above.parent))
    }

    /// Its children, their children, and so on.
    pub(crate) fn below(&self) -> Vec<Self> {
        let all: Vec<Self> = Self::all().collect();
        let mut family = BTreeSet::from([self.pid]);
        loop {
            let before = family.len();
            for process in &all {
                if family.contains(&process.parent) {
                    family.insert(process.pid);
                }
            }
            if family.len() == before {
                break;
            }
        }
        let is_below = |process: &Self| process.pid != self.pid && family.contains(&process.pid);
        all.into_iter().filter(is_below).collect()
    }

    /// Whether it could be.
    pub(crate) fn kill(&self) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }
}

/// Where a file is, or was at last when it was taken away; whether it was.
pub(crate) fn undeleted(link: PathBuf) -> (PathBuf, bool) {
    match link.as_os_str().as_bytes().strip_suffix(b" (deleted)") {
        Some(path) => (OsStr::from_bytes(path).into(), true),
        None => (link, false),
    }
}

/// Whether this is root, or the user as whom this process works.
pub(crate) fn is_own_user(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// When the process of this id was started, if it lives.
pub(crate) fn started(pid: i32) -> Option<u64> {
    let process = Process::of(pid).filter(|process| !process.is_zombie)?;
    Some(process.started)
}

/// This process's id.
pub(crate) fn own() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "7 (a) b) S 6 7 5 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 99 1000 12 5 0";
        let process = Process {
            pid: 7,
            is_zombie: false,
            parent: 6,
            session: 5,
            started: 99,
            ticks: 100,
            pages: 12,
        };
        assert_eq!(Process::read(7, stat), Some(process));
        assert_eq!(Process::read(7, "7 (a) S 6"), None);
    }

    #[test]
    fn it_knows_itself() {
        let process = Process::of(own()).unwrap();
        assert!(!process.is_zombie);
        assert_eq!(started(own()), Some(process.started));
        let parent = rustix::process::getppid().unwrap();
        assert_eq!(process.parent, parent.as_raw_nonzero().get());
        let words: Vec<OsString> = std::env::args_os().collect();
        assert_eq!(process.words(), words);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(process.sees(dir.path()), Some(true));
        assert_eq!(process.sees(&dir.path().join("nowhere")), None);
        let file = dir.path().canonicalize().unwrap().join("file");
        let _held = fs::File::create(&file).unwrap();
        let open = || process.open().map(undeleted);
        assert!(open().any(|open| open == (file.clone(), false)));
        fs::remove_file(&file).unwrap();
        assert!(open().any(|open| open == (file.clone(), true)));
        assert!(Process::all().any(|other| other.pid == process.pid));
    }

    #[test]
    fn it_knows_its_family() {
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", "sleep 1000 & echo $!; wait"]);
        let mut shell = shell.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let said = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).unwrap();
        let sleeper: i32 = line.trim().parse().unwrap();
        let below = Process::of(own()).unwrap().below();
        assert!(below.iter().any(|process| process.pid == sleeper));
        let sleeps = Process::of(sleeper).unwrap();
        assert!(sleeps.above().any(|process| process.pid == own()));
        let below = Process::of(shell.id().cast_signed()).unwrap().below();
        assert_eq!(below.len(), 1);
        assert!(below[0].kill());
        shell.wait().unwrap();
    }
}
