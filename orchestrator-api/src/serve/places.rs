//! Room for connections: so many in all, and so many of each address.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::network;

#[derive(Clone, Debug)]
pub(super) struct Places {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_address_max: usize,
}

/// Room for one connection, of whatever address.
pub(super) struct Room<'a> {
    places: &'a Places,
    one: OwnedSemaphorePermit,
}

/// The place of one connection, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    counted: Option<IpAddr>,
    _one: OwnedSemaphorePermit,
}

impl Places {
    pub(super) fn new(max: usize, per_address_max: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(max)),
            by_address: Arc::default(),
            per_address_max,
        }
    }

    pub(super) async fn room(&self) -> Room<'_> {
        let one = self.all.clone().acquire_owned().await;
        Room {
            places: self,
            one: one.expect("never closed"),
        }
    }
}

impl Room<'_> {
    /// `None` where the address has enough.
    pub(super) fn take(self, address: IpAddr) -> Option<Place> {
        let Self { places, one } = self;
        let counted = (!address.to_canonical().is_loopback()).then(|| network(address));
        if let Some(address) = counted {
            let mut by_address = lock(&places.by_address);
            let count = by_address.entry(address).or_insert(0);
            if *count >= places.per_address_max {
                return None;
            }
            *count += 1;
        }
        Some(Place {
            by_address: places.by_address.clone(),
            counted,
            _one: one,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(address) = self.counted else { return };
        if let Entry::Occupied(mut count) = lock(&self.by_address).entry(address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn lock(by_address: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    by_address
        .lock()
        .unwrap_or_else(|broken| broken.into_inner())
}

#[cfg(test)]
mod tests {
    use super::{Places, lock};

    #[tokio::test]
    async fn each_address_has_its_share_and_gives_it_back() {
        let places = Places::new(5, 2);
        let one = "192.0.2.1".parse().expect("an address");
        let two = "192.0.2.2".parse().expect("an address");
        let here = "127.0.0.1".parse().expect("an address");
        let first = places.room().await.take(one).expect("room");
        let _second = places.room().await.take(one).expect("room");
        assert!(places.room().await.take(one).is_none());
        let other = places.room().await.take(two).expect("room");
        drop(first);
        let _third = places.room().await.take(one).expect("room");
        let _here = places.room().await.take(here).expect("room");
        let _also_here = places.room().await.take(here).expect("not counted");
        assert_eq!(places.all.available_permits(), 0);
        drop(other);
        assert_eq!(places.all.available_permits(), 1);
        assert_eq!(lock(&places.by_address).len(), 1, "the other is forgotten");
    }
}
