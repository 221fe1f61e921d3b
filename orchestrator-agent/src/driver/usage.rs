//! What runs use of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::processes::Process;

/// What a run uses.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Memory that is resident now; what processes share counts for each.
    pub memory_bytes: u64,
    /// Processor time since it began.
    pub cpu: Duration,
}

/// What all the processes below each of these use.
pub(super) fn below(roots: &BTreeSet<i32>) -> BTreeMap<i32, Usage> {
    let ticks = rustix::param::clock_ticks_per_second();
    let page = rustix::param::page_size() as u64;
    let mut used: BTreeMap<i32, Usage> = BTreeMap::new();
    for (root, process) in families(roots) {
        let usage = used.entry(root).or_default();
        usage.memory_bytes += process.pages * page;
        usage.cpu += Duration::from_millis(process.ticks * 1000 / ticks);
    }
    used
}

/// All the processes below each of these, with the nearest of these above them.
pub(super) fn families(roots: &BTreeSet<i32>) -> Vec<(i32, Process)> {
    let processes: BTreeMap<i32, Process> = Process::all()
        .map(|process| (process.pid, process))
        .collect();
    let all = processes.values();
    all.filter_map(|process| Some((root(&processes, roots, process)?, *process)))
        .collect()
}

/// The nearest of these above a process.
fn root(
    processes: &BTreeMap<i32, Process>,
    roots: &BTreeSet<i32>,
    process: &Process,
) -> Option<i32> {
    let mut parent = process.parent;
    // They were not read at one moment: an id that was used again could lead in a circle.
    for _ in 0..processes.len() {
        if roots.contains(&parent) {
            return Some(parent);
        }
        parent = processes.get(&parent)?.parent;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_nearest_above_it() {
        let process = |pid, parent| Process {
            pid,
            is_zombie: false,
            parent,
            session: pid,
            started: 0,
            ticks: 0,
            pages: 0,
        };
        // 3 and 4 are each other's parents: read at different moments.
        let all = [(2, 1), (5, 2), (6, 5), (7, 6), (3, 4), (4, 3)];
        let all: BTreeMap<i32, Process> = (all.iter())
            .map(|&(pid, parent)| (pid, process(pid, parent)))
            .collect();
        let roots = BTreeSet::from([2, 6]);
        let of = |pid| root(&all, &roots, &all[&pid]);
        assert_eq!(of(5), Some(2));
        assert_eq!(of(6), Some(2), "it is not below itself");
        assert_eq!(of(7), Some(6));
        assert_eq!(of(2), None);
        assert_eq!(of(3), None);
    }
}
