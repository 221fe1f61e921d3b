//! What the engine has done since it started, to be seen from outside.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Counts {
    commits: AtomicU64,
    commits_failed: AtomicU64,
    entries: AtomicU64,
}

impl Counts {
    /// Transactions that were written.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Transactions of which at least a part was not written, or not known to be.
    pub fn commits_failed(&self) -> u64 {
        self.commits_failed.load(Ordering::Relaxed)
    }

    /// Entries in them, of all machines.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    pub(super) fn note(&self, entries: usize, failed: bool) {
        if failed {
            self.commits_failed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        }
    }
}
