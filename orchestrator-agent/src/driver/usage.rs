//! What runs use of the node.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// What a run uses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Memory that is resident now; what processes share counts for each.
    pub memory_bytes: u64,
    /// Processor time since it began.
    pub cpu: Duration,
}

/// What the processes of each session use, but for its leader.
pub(super) fn of_sessions() -> BTreeMap<i32, Usage> {
    let ticks = rustix::param::clock_ticks_per_second();
    let page = rustix::param::page_size() as u64;
    let mut sessions: BTreeMap<i32, Usage> = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    for pid in pids {
        // It may be gone by now.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let Some(process) = Process::read(&stat) else {
            continue;
        };
        if process.session != pid {
            let usage = sessions.entry(process.session).or_default();
            usage.memory_bytes += process.pages * page;
            usage.cpu += Duration::from_millis(process.ticks * 1000 / ticks);
        }
    }
    sessions
}

/// A process, as `/proc` shows it.
#[derive(Debug, Eq, PartialEq)]
struct Process {
    session: i32,
    /// Processor time, with that of the children that have ended and were asked after.
    ticks: u64,
    pages: u64,
}

impl Process {
    fn read(stat: &str) -> Option<Self> {
        // The name in front of it may hold anything.
        let (_, fields) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = fields.split(' ').collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some(Self {
            session: fields.get(3)?.parse().ok()?,
            ticks: (11..=14).map(number).sum::<Option<u64>>()?,
            pages: number(21)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        let stat = "7 (a) b) S 6 7 5 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 99 1000 12 5 0";
        let process = Process {
            session: 5,
            ticks: 100,
            pages: 12,
        };
        assert_eq!(Process::read(stat), Some(process));
        assert_eq!(Process::read("7 (a) S 6"), None);
    }
}
