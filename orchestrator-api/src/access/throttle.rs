//! How often somebody may fail.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// So many failures at once, and so many a second later on.
const FAILURES: Bucket = Bucket::new(20.0, 0.5);
/// How many addresses are told apart. Those that share a place share a budget, which does no harm: a token that is
/// good passes without one.
const PLACES: usize = 4096;

/// Counts the failures of each address, in a place that does not grow.
#[derive(Debug)]
pub(super) struct Throttle {
    // Keyed, so that nobody can choose to share somebody else's place.
    key: RandomState,
    places: Box<[Mutex<Option<Level>>]>,
}

impl Throttle {
    pub(super) fn new() -> Self {
        Self {
            key: RandomState::new(),
            places: (0..PLACES).map(|_| Mutex::new(None)).collect(),
        }
    }

    /// Counts a failure. When it is one too many: for how long there should be no other.
    pub(super) fn fail(&self, from: IpAddr) -> Result<(), Duration> {
        let place = usize::try_from(self.key.hash_one(network(from)) % PLACES as u64)
            .expect("below the number of places");
        let mut level = self.places[place]
            .lock()
            .unwrap_or_else(|broken| broken.into_inner());
        let level = level.get_or_insert_with(|| FAILURES.full());
        if level.take(Instant::now()) {
            Ok(())
        } else {
            Err(FAILURES.one_after())
        }
    }
}

/// Who has one address of version 6 has 2^64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A budget that fills up again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    room: f64,
    per_second: f64,
}

impl Bucket {
    pub(super) const fn new(room: f64, per_second: f64) -> Self {
        Self { room, per_second }
    }

    pub(super) fn full(self) -> Level {
        Level {
            bucket: self,
            left: self.room,
            at: Instant::now(),
        }
    }

    fn one_after(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.per_second)
    }
}

/// What is left of a [`Bucket`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    bucket: Bucket,
    left: f64,
    at: Instant,
}

impl Level {
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let Bucket { room, per_second } = self.bucket;
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = since.mul_add(per_second, self.left).min(room);
        self.at = now;
        let enough = self.left >= 1.0;
        if enough {
            self.left -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Throttle, network};

    #[tokio::test(start_paused = true)]
    async fn each_address_has_a_budget_of_its_own_that_fills_up_again() {
        let throttle = Throttle::new();
        let one = "192.0.2.1".parse().expect("an address");
        let failures = (0..100).filter(|_| throttle.fail(one).is_ok()).count();
        assert_eq!(failures, 20);
        assert_eq!(throttle.fail(one), Err(Duration::from_secs(2)));

        let served = (0_u8..=255)
            .filter(|&last| throttle.fail([198, 51, 100, last].into()).is_ok())
            .count();
        assert!(
            served >= 250,
            "{served} others were served: a few share a place"
        );

        tokio::time::advance(Duration::from_secs(10)).await;
        let failures = (0..100).filter(|_| throttle.fail(one).is_ok()).count();
        assert_eq!(failures, 5);
    }

    #[test]
    fn addresses_of_one_network_are_one() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
