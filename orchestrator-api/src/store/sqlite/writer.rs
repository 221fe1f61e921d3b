//! The one thread that writes: whatever waits when it comes by goes into one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::{Place, misuse};
use crate::store::StoreError;

/// How many may wait before the next one has to.
const QUEUE_MAX: usize = 1024;
/// At most so many go into one transaction, so that the first of them does not wait for ever.
const ROUND_MAX: usize = 512;

#[derive(Debug)]
pub(super) struct Writer {
    /// Gone once it is being dropped: that ends the thread.
    queue: Option<mpsc::Sender<Box<dyn Work>>>,
    thread: Option<JoinHandle<()>>,
    position: watch::Receiver<u64>,
    transactions: Arc<AtomicU64>,
    place: Place,
}

impl Writer {
    pub(super) fn start(conn: Connection, place: Place) -> rusqlite::Result<Self> {
        let file = place.file();
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let (seen, position) = watch::channel(last_position(&conn)?);
        let transactions = Arc::new(AtomicU64::new(0));
        let rounds = Rounds {
            conn,
            waiting,
            seen,
            transactions: transactions.clone(),
            place: place.clone(),
            file,
        };
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || rounds.run())
            .map_err(misuse)?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            position,
            transactions,
            place,
        })
    }

    /// Queues the work, which may be run more than once. It is done even if nobody waits for the answer any more.
    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let task = Box::new(Task {
            work,
            done: None,
            answer,
        });
        let queue = self.queue.as_ref().expect("there until it is dropped");
        if queue.send(task).await.is_err() {
            return Err(self.place.fault(misuse("its writer has stopped")));
        }
        answered
            .await
            .unwrap_or_else(|gone| Err(StoreError::Unknown(Box::new(gone))))
    }

    pub(super) fn position(&self) -> watch::Receiver<u64> {
        self.position.clone()
    }

    pub(super) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // It panicked, and said so: whoever waited for it was told already.
            let _ = thread.join();
        }
    }
}

struct Rounds {
    conn: Connection,
    waiting: mpsc::Receiver<Box<dyn Work>>,
    seen: watch::Sender<u64>,
    transactions: Arc<AtomicU64>,
    place: Place,
    /// Which file it is that is written.
    file: Option<(u64, u64)>,
}

impl Rounds {
    fn run(mut self) {
        let mut round = Vec::new();
        while self.waiting.blocking_recv_many(&mut round, ROUND_MAX) > 0 {
            self.write(&mut round);
        }
        // The log is taken in again when the file is next opened, should this fail.
        let folded = self
            .conn
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = folded {
            tracing::warn!(%error, "the log of the store was not folded into its file");
        }
    }

    /// Writes them in one transaction, and leaves the connection outside any.
    ///
    /// Whoever fails is left out, and the others begin again. A savepoint for each would spare them that, but makes
    /// SQLite look through what it would put back at every statement: 5 ms a row were measured, against 0.2.
    fn write(&mut self, round: &mut Vec<Box<dyn Work>>) {
        // Where nobody would find it nothing is acknowledged.
        if self.place.file() != self.file {
            for work in round.drain(..) {
                work.answer(Err(self.place.gone()));
            }
        }
        while !round.is_empty() {
            match self.attempt(round) {
                Ok(()) => {
                    self.transactions.fetch_add(1, Ordering::Relaxed);
                    self.show();
                    round.drain(..).for_each(|work| work.answer(Ok(())));
                }
                Err(Failure::One(index, error)) => {
                    self.roll_back();
                    round.remove(index).answer(Err(self.place.fault(error)));
                }
                Err(Failure::All(error)) => {
                    self.roll_back();
                    let error = Arc::new(error);
                    for work in round.drain(..) {
                        work.answer(Err(self.place.shared(&error)));
                    }
                }
                Err(Failure::Commit(error)) => {
                    self.roll_back();
                    let error = Arc::new(error);
                    for work in round.drain(..) {
                        work.answer(Err(self.place.commit(&error)));
                    }
                }
            }
        }
    }

    fn attempt(&self, round: &mut [Box<dyn Work>]) -> Result<(), Failure> {
        self.step("BEGIN IMMEDIATE").map_err(Failure::All)?;
        for (index, work) in round.iter_mut().enumerate() {
            work.run(&self.conn).map_err(|error| {
                // SQLite itself gives up a transaction for which there is no room, or no disk.
                match self.conn.is_autocommit() {
                    true => Failure::All(error),
                    false => Failure::One(index, error),
                }
            })?;
        }
        self.step("COMMIT").map_err(Failure::Commit)
    }

    fn roll_back(&self) {
        if !self.conn.is_autocommit()
            && let Err(error) = self.step("ROLLBACK")
        {
            tracing::error!(%error, "a failed transaction of the store was not rolled back");
        }
    }

    fn step(&self, sql: &str) -> rusqlite::Result<()> {
        self.conn.prepare_cached(sql)?.execute([]).map(drop)
    }

    fn show(&self) {
        match last_position(&self.conn) {
            Ok(last) => {
                self.seen.send_if_modified(|seen| {
                    let further = last > *seen;
                    *seen = last;
                    further
                });
            }
            // The next round shows it: the position is a hint.
            Err(error) => tracing::warn!(%error, "the position of the feed was not read"),
        }
    }
}

fn last_position(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'entries'")?
        .query_row([], |row| row.get(0))
        .optional()
        .map(Option::unwrap_or_default)
}

/// What went wrong with a transaction.
enum Failure {
    /// The work of this number cannot be done.
    One(usize, rusqlite::Error),
    /// None can.
    All(rusqlite::Error),
    /// All was done, and did not get to the disk.
    Commit(rusqlite::Error),
}

/// Something to be written, and whoever waits for it.
trait Work: Send {
    /// Called again if the transaction has to begin again.
    fn run(&mut self, conn: &Connection) -> rusqlite::Result<()>;
    /// Called once, when it is known what became of the transaction.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

struct Task<F, T> {
    work: F,
    done: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T> Work for Task<F, T>
where
    T: Send,
    F: Fn(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        self.done = Some((self.work)(conn)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let Self {
            work: _,
            done,
            answer,
        } = *self;
        let outcome = outcome.map(|()| done.expect("run before it is answered"));
        // Whoever asked may have gone.
        let _ = answer.send(outcome);
    }
}
