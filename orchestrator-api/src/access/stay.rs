//! Leave to keep something open, for as long as whoever opened it is let in.
//!
//! A stream and a long poll outlast the look at their token. Those that were opened with a token are woken when that one
//! ends, and nobody else is: of ten thousand agents that listen, a token that is made or revoked wakes none but its own.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use orchestrator_core::Time;
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Access, Caller, Denied, now};

/// How often it is looked whether a token has expired, at least: the clock may have been set.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(60);
/// Fewer tokens are not worth a look for those that nothing is open with any more.
const TOKENS_MIN: usize = 64;

/// The tokens that something is open with.
#[derive(Debug, Default)]
pub(super) struct Holders(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By their ids. What ends is dropped, which wakes all that is open with it.
    good: HashMap<String, watch::Sender<bool>>,
    look_at: usize,
}

impl Holders {
    fn enter(&self, id: &str) -> watch::Receiver<bool> {
        let mut inner = self.lock();
        if let Some(good) = inner.good.get(id) {
            return good.subscribe();
        }
        // Each time that there are twice as many as were left the last time.
        if inner.good.len() >= inner.look_at {
            inner.good.retain(|_, good| good.receiver_count() > 0);
            inner.look_at = (2 * inner.good.len()).max(TOKENS_MIN);
        }
        let (good, seen) = watch::channel(true);
        inner.good.insert(id.to_owned(), good);
        seen
    }

    /// Ends what is open with a token.
    pub(super) fn end(&self, id: &str) {
        // Nobody waits for the lock while they are woken.
        let ended = self.lock().good.remove(id);
        drop(ended);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics between two changes that belong together.
        self.0.lock().unwrap_or_else(|broken| broken.into_inner())
    }
}

/// Leave for one caller to keep something open.
#[derive(Debug)]
pub struct Stay {
    caller: Caller,
    /// No longer true, or gone: it is over.
    good: watch::Receiver<bool>,
}

impl Access {
    /// Lets a caller keep something open until it is [over](Stay::over); or says why he is not let in any more.
    pub async fn stay(&self, caller: &Caller) -> Result<Stay, Denied> {
        let stay = Stay {
            caller: caller.clone(),
            good: match &caller.known {
                Some(known) => self.0.holders.enter(&known.id),
                None => self.0.open.subscribe(),
            },
        };
        // Only now: what ended since he was let in has woken nobody.
        stay.again().await?;
        Ok(stay)
    }
}

impl Stay {
    /// Ends when the caller has to be asked for a token again: his own was revoked, was replaced or has expired; or he
    /// has none, and the server was closed.
    ///
    /// When a revocation is answered, this is ready: whoever looks at it first sends nothing more.
    pub async fn over(&mut self) {
        let expires = self.caller.known.as_ref();
        let expires = expires.and_then(|known| known.kept.expires_at);
        tokio::select! {
            // An error means that the token ended.
            _ = self.good.wait_for(|good| !*good) => {}
            () = reached(expires) => {}
        }
    }

    /// See [`Caller::again`].
    pub async fn again(&self) -> Result<(), Denied> {
        self.caller.again().await
    }
}

/// Ends at this time of the clock that tokens go by.
async fn reached(at: Option<Time>) {
    let Some(at) = at else {
        return std::future::pending().await;
    };
    loop {
        let left = at.as_millis().saturating_sub(now().as_millis());
        if left == 0 {
            return;
        }
        sleep(Duration::from_millis(left).min(LOOK_AT_CLOCK)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_token_wakes_what_is_open_with_it_and_nothing_else() {
        let holders = Holders::default();
        let mut open = [holders.enter("a"), holders.enter("a"), holders.enter("b")];
        holders.end("a");
        let ended = open.each_mut().map(|good| good.has_changed().is_err());
        assert_eq!(ended, [true, true, false]);
        // The same id comes again where a join token is used once more.
        let again = holders.enter("a");
        assert!(again.has_changed().is_ok());
    }

    #[test]
    fn what_is_no_longer_open_is_forgotten() {
        let holders = Holders::default();
        let kept = holders.enter("kept");
        for number in 0..100 * TOKENS_MIN {
            holders.enter(&number.to_string());
            assert!(holders.lock().good.len() <= TOKENS_MIN);
        }
        assert!(kept.has_changed().is_ok());
    }
}
