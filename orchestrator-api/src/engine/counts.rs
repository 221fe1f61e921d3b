//! What the engine has done since it started, to be seen from outside.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counters that only grow.
#[derive(Debug, Default)]
pub struct Counts {
    commits: AtomicU64,
    commits_failed: AtomicU64,
    entries: AtomicU64,
    /// When one failed last, if none was written since.
    failed_at: Mutex<Option<Instant>>,
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

    /// Whether the last transaction failed, and that was no longer ago than this.
    pub fn failed_within(&self, span: Duration) -> bool {
        let failed_at = self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < span)
    }

    pub(super) fn note(&self, entries: usize, failed: bool) {
        *self
            .failed_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = failed.then(Instant::now);
        if failed {
            self.commits_failed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.entries.fetch_add(entries as u64, Ordering::Relaxed);
        }
    }
}
