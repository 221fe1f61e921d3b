//! The numbers of reports, which grow over restarts of the agent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk;

/// So many numbers are set aside with one write, and lost with a restart.
const BLOCK: u32 = 64;
/// The clock counts no further: one that is wrong by a century leaves numbers enough.
const CLOCK_MAX: u32 = u32::MAX / 4 * 3;

/// One mark for the whole node, above every number that was ever used: each execution counts on from it after a
/// restart. It grows as fast as the execution that reports most, and by a block with each restart.
///
/// It begins at the clock's seconds, and what is kept only matters where it is further. So numbers go on growing for a
/// server that knows this node though its data directory was lost, or is that of an older backup: for long, nobody
/// reports more often than once a second, or is restarted more often than once in a block of seconds.
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
        Self::open_at(dir, seconds_now())
    }

    fn open_at(dir: &Path, seconds: u32) -> io::Result<Self> {
        let path = dir.join("numbers.json");
        let kept: Option<u32> = disk::read_or_put_aside(&path)?;
        let base = kept.unwrap_or(0).max(seconds.min(CLOCK_MAX));
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
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_over_restarts_and_are_seldom_written() {
        let dir = tempfile::tempdir().unwrap();
        let first = Numbers::open(dir.path()).unwrap().after(0);
        let mut last = first;
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
        assert!(last - first < 5 * (700 + 2 * BLOCK));
    }

    #[test]
    fn numbers_grow_though_their_mark_was_lost_or_damaged_or_is_an_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("numbers.json");
        let losses: [&dyn Fn(); 3] = [
            &|| std::fs::remove_file(&mark).unwrap(),
            &|| std::fs::write(&mark, "").unwrap(),
            &|| std::fs::write(&mark, "1024").unwrap(),
        ];
        let (mut seconds, mut last) = (seconds_now(), 0);
        for lose in losses {
            let mut numbers = Numbers::open_at(dir.path(), seconds).unwrap();
            for _ in 0..1000 {
                last = numbers.after(last);
            }
            lose();
            // Two restarts for each thousand.
            seconds += 1000 + 2 * BLOCK;
            let mut numbers = Numbers::open_at(dir.path(), seconds).unwrap();
            assert!(numbers.after(0) > last);
        }
    }

    #[test]
    fn a_clock_that_is_far_ahead_leaves_numbers_enough() {
        let dir = tempfile::tempdir().unwrap();
        let last = Numbers::open_at(dir.path(), u32::MAX).unwrap().after(0);
        assert!(u32::MAX - last > 1_000_000_000);
    }
}
