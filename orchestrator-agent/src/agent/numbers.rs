//! The numbers of reports, which grow over restarts of the agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk;

/// So many numbers are set aside with one write.
const BLOCK: u32 = 1024;

/// One mark for the whole node, above every number that was ever used: each execution counts on from it after a
/// restart. It grows as fast as the execution that reports most, and by a block with each restart.
#[derive(Debug)]
pub(super) struct Numbers {
    path: PathBuf,
    /// All used numbers are below.
    base: u32,
    /// What is on disk.
    set_aside: u32,
}

impl Numbers {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join("numbers.json");
        let is_new = !path.exists();
        let base = match disk::read_or_put_aside(&path)? {
            Some(base) => base,
            None if is_new => 0,
            // Above all that can have been used: nobody reports more often than once a second.
            None => seconds_now(),
        };
        Ok(Self {
            path,
            base,
            set_aside: base,
        })
    }

    /// The number after this one; 0 = the first of an execution.
    pub(super) fn after(&mut self, last: u32) -> u32 {
        let number = last.max(self.base).saturating_add(1);
        if number > self.set_aside {
            let more = number.saturating_add(BLOCK);
            match disk::replace_json(&self.path, &more) {
                Ok(()) => self.set_aside = more,
                // After a restart the server would leave some reports out; the next ones come through.
                Err(why) => tracing::error!(%why, "numbers of reports cannot be set aside"),
            }
        }
        number
    }

    /// An execution that used this one is forgotten; should it come back, it counts on.
    pub(super) fn used(&mut self, last: u32) {
        self.base = self.base.max(last);
    }
}

fn seconds_now() -> u32 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_over_restarts_and_are_seldom_written() {
        let dir = tempfile::tempdir().unwrap();
        let mut last = 0;
        for _ in 0..5 {
            let mut numbers = Numbers::open(dir.path()).unwrap();
            for _ in 0..700 {
                let next = numbers.after(last);
                assert!(next > last);
                last = next;
            }
            let written = numbers.set_aside;
            assert!(written >= last && written <= last + BLOCK);
            // Another execution begins below, but above all that were used before this process.
            assert!(numbers.after(0) > numbers.base);
        }
        assert!(last < 5 * (700 + 2 * BLOCK));
    }

    #[test]
    fn numbers_grow_though_their_mark_was_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let last = Numbers::open(dir.path()).unwrap().after(100_000);
        std::fs::write(dir.path().join("numbers.json"), "").unwrap();
        assert!(Numbers::open(dir.path()).unwrap().after(0) > last);
    }
}
