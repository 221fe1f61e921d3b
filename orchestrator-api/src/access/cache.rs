//! The tokens that were seen lately, so that a request costs no read of the store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::Known;

/// Bounded, and emptied by halves: what was not asked for since the last time goes.
#[derive(Debug)]
pub(super) struct Cache {
    inner: Mutex<Inner>,
    half_max: usize,
    good_for: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    // By the hash of the whole token: who can steer how it compares has the token.
    young: HashMap<[u8; 32], Seen>,
    old: HashMap<[u8; 32], Seen>,
    changes: u64,
}

#[derive(Clone, Debug)]
struct Seen {
    known: Arc<Known>,
    at: Instant,
}

/// The state of things before a read: see [`Cache::put`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Before(u64);

impl Cache {
    pub(super) fn new(max: usize, good_for: Duration) -> Self {
        Self {
            inner: Mutex::default(),
            half_max: (max / 2).max(1),
            good_for,
        }
    }

    pub(super) fn get(&self, hash: &[u8; 32]) -> Result<Arc<Known>, Before> {
        let mut inner = self.lock();
        let seen = match inner.young.get(hash) {
            Some(seen) => Some(seen.clone()),
            None => inner.old.remove(hash).inspect(|seen| {
                inner.make_room(self.half_max);
                inner.young.insert(*hash, seen.clone());
            }),
        };
        match seen {
            Some(seen) if seen.at.elapsed() < self.good_for => Ok(seen.known),
            _ => Err(Before(inner.changes)),
        }
    }

    /// Keeps what was read. Unless something changed since before it was read: then it may be what is no longer so.
    pub(super) fn put(&self, known: Arc<Known>, before: Before) {
        let mut inner = self.lock();
        if inner.changes == before.0 {
            let at = Instant::now();
            inner.make_room(self.half_max);
            inner.young.insert(known.hash, Seen { known, at });
        }
    }

    /// Forgets a token. What is being read at this moment will not be kept.
    pub(super) fn forget(&self, id: &str) {
        let mut inner = self.lock();
        inner.changes += 1;
        inner.young.retain(|_, seen| seen.known.id != id);
        inner.old.retain(|_, seen| seen.known.id != id);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        let inner = self.lock();
        inner.young.len() + inner.old.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics between two changes that belong together.
        self.inner
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

impl Inner {
    fn make_room(&mut self, half_max: usize) {
        if self.young.len() >= half_max {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::role::Role;
    use crate::access::token::Kept;

    fn known(number: u8) -> Arc<Known> {
        let kept = Kept {
            name: "n".to_owned(),
            role: Role::Viewer,
            node: None,
            created_at: 0.into(),
            created_by: String::new(),
            expires_at: None,
            revoked_at: None,
            last_used_at: None,
            joined: None,
        };
        Arc::new(Known::new(number.to_string(), [number; 32], kept))
    }

    fn read(cache: &Cache, number: u8) -> bool {
        match cache.get(&[number; 32]) {
            Ok(_) => true,
            Err(before) => {
                cache.put(known(number), before);
                false
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_keeps_what_is_used_and_no_more_than_it_may() {
        let cache = Cache::new(16, Duration::from_secs(5));
        for number in 0..=255 {
            read(&cache, number);
            read(&cache, 0);
            assert!(cache.len() <= 16);
        }
        assert!(read(&cache, 0), "used all the time");
        assert!(!read(&cache, 1), "not used for long");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(!read(&cache, 0), "too old to be believed");
        assert!(read(&cache, 0));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept() {
        let cache = Cache::new(16, Duration::from_secs(5));
        let before = cache.get(&[1; 32]).expect_err("not there yet");
        cache.forget("1");
        cache.put(known(1), before);
        assert!(cache.get(&[1; 32]).is_err());
        assert!(!read(&cache, 1));
        assert!(read(&cache, 1));
        cache.forget("1");
        assert!(cache.get(&[1; 32]).is_err());
    }
}
