//! The processes of this machine, as `/proc` shows them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

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

    /// Whether it could be.
    pub(crate) fn kill(&self) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }
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
        assert!(Process::all().any(|other| other.pid == process.pid));
    }
}
