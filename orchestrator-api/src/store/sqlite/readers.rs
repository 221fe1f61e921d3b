//! A few connections that read, lent out one at a time.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::available_parallelism;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::fault::Place;
use super::schema;
use crate::store::StoreError;

pub(super) struct Readers {
    place: Place,
    /// As many permits as connections.
    lent: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn open(place: &Place) -> rusqlite::Result<Self> {
        let count = available_parallelism().map_or(2, usize::from).clamp(2, 8);
        let idle = (0..count)
            .map(|_| schema::reader(place))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            place: place.clone(),
            lent: Arc::new(Semaphore::new(count)),
            idle: Mutex::new(idle),
        })
    }

    pub(super) async fn run<T, F>(self: Arc<Self>, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = self.lent.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let place = self.place.clone();
        let done = spawn_blocking(move || {
            let conn = self.idle().pop().expect("one for each permit");
            let lent = Lent(&self, Some(conn));
            let answer = work(lent.1.as_ref().expect("taken on drop"));
            drop(lent);
            drop(permit);
            answer
        });
        match done.await {
            Ok(answer) => answer.map_err(|error| place.fault(error)),
            Err(error) => Err(StoreError::Failed {
                place: place.name(),
                source: Box::new(error),
            }),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle
            .lock()
            .unwrap_or_else(|broken| broken.into_inner())
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Readers").field(&self.place).finish()
    }
}

/// Gives the connection back, also when the work panicked.
struct Lent<'a>(&'a Readers, Option<Connection>);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.0.idle().extend(self.1.take());
    }
}
