//! The embedded store: SQLite in one file, one thread that writes it, and a few connections that read it.
//!
//! Everything that waits to be written when the writer comes by goes into one transaction, and is answered once that
//! is on disk. Readers see the last finished transaction and are in nobody's way.

mod discard;
mod fault;
mod list;
mod read;
mod readers;
mod rows;
mod schema;
mod sql;
mod write;
mod writer;

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use orchestrator_core::{DeploymentId, JobId};
use rusqlite::Connection;
use tokio::sync::watch;

use self::discard::Cursor;
use self::fault::Place;
use self::readers::Readers;
use self::writer::Writer;
use super::{
    Answer, Append, Audit, BegunWith, Change, Claim, DeploymentRow, Discard, Discarded, GroupId,
    GroupRow, JobRow, Line, LogId, Machine, NodeRow, Refused, Store, StoreError, TokenRow, Wanted,
};
use crate::list::{Page, Query};

/// The file within the directory.
const FILE: &str = "orchestrator.db";
/// Its name until it has its tables.
const UNMADE: &str = "orchestrator.db.new";
/// Whoever holds the lock on this file has the directory. It is never removed: a second file of this name would be
/// a second lock.
const LOCK: &str = "orchestrator.lock";
/// The lock is the lease, and the process has it until it ends. A number that can be added to any clock's.
const LEASE: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// A [`Store`] in one directory, of one process.
///
/// Dropping it writes what is still queued, folds the log of SQLite back into its file, and waits for that. It has
/// to be used within a Tokio runtime.
#[derive(Debug)]
pub struct Sqlite {
    // Dropped in this order: the lock goes last, when nothing touches the file any more.
    readers: Arc<Readers>,
    writer: Writer,
    discarded: Arc<Mutex<Cursor>>,
    _lock: File,
}

impl Sqlite {
    /// Opens what is in this directory, or begins it. Blocks: a log that a killed process left is taken in first.
    ///
    /// A file of up to 32 MiB is checked from end to end; of a larger one, a damaged page is found when it is read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let place = Place::new(&dir.join(FILE));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| Place::new(dir).io(error))?;
        let lock = lock(dir)?;
        // A link to what is not there now is no place for a new one.
        match place.path().symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => make(dir, &place)?,
            _ => {}
        }
        close(dir).map_err(|error| place.io(error))?;
        let conn = schema::open(&place)?;
        settle(dir).map_err(|error| place.io(error))?;
        let readers = Readers::open(&place).map_err(|error| place.fault(error))?;
        let writer = Writer::start(conn, place.clone()).map_err(|error| place.fault(error))?;
        Ok(Self {
            readers: Arc::new(readers),
            writer,
            discarded: Arc::default(),
            _lock: lock,
        })
    }

    /// How many transactions were written since it was opened: fewer than there were calls, when there are many.
    pub fn transactions(&self) -> u64 {
        self.writer.transactions()
    }

    fn read<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(Readers::run(self.readers.clone(), work))
    }

    fn write<T, F>(&self, work: F) -> Answer<'_, T>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        Box::pin(self.writer.run(work))
    }
}

impl Store for Sqlite {
    fn claim(&self, wanted: Vec<Wanted>) -> Answer<'_, Vec<Claim>> {
        self.write(move |conn| write::claim(conn, &wanted))
    }

    fn renew(&self) -> Answer<'_, Duration> {
        Box::pin(async { Ok(LEASE) })
    }

    fn commit(&self, appends: Vec<Append>) -> Answer<'_, Vec<Result<(), Refused>>> {
        self.write(move |conn| appends.iter().map(|one| write::append(conn, one)).collect())
    }

    fn machines(&self, after: Option<Machine>, limit: u32) -> Answer<'_, Vec<Machine>> {
        self.read(move |conn| read::machines(conn, after, limit))
    }

    fn entries(&self, log: LogId, after: u64, limit: u32) -> Answer<'_, Vec<Line>> {
        self.read(move |conn| read::entries(conn, log, after, limit))
    }

    fn snapshot(&self, log: LogId) -> Answer<'_, Option<(u64, Vec<u8>)>> {
        self.read(move |conn| read::snapshot(conn, log))
    }

    fn changes(&self, after: u64, limit: u32) -> Answer<'_, Vec<Change>> {
        self.read(move |conn| read::changes(conn, after, limit))
    }

    fn position(&self) -> watch::Receiver<u64> {
        self.writer.position()
    }

    fn deployment(&self, id: DeploymentId) -> Answer<'_, Option<DeploymentRow>> {
        self.read(move |conn| read::deployment(conn, id))
    }

    fn deployments(&self, query: Query) -> Answer<'_, Page<DeploymentRow>> {
        self.read(move |conn| list::page(conn, &query))
    }

    fn events(&self, id: DeploymentId, after: u64, limit: u32) -> Answer<'_, Vec<Line>> {
        self.read(move |conn| read::events(conn, id, after, limit))
    }

    fn targets(&self, id: DeploymentId, from: u32, limit: u32) -> Answer<'_, Vec<String>> {
        self.read(move |conn| read::targets(conn, id, from, limit))
    }

    fn jobs(
        &self,
        namespace: Option<String>,
        after: Option<JobId>,
        limit: u32,
    ) -> Answer<'_, Vec<JobRow>> {
        self.read(move |conn| read::jobs(conn, namespace, after, limit))
    }

    fn identity(&self) -> Answer<'_, String> {
        self.read(read::identity)
    }

    fn nodes(&self, after: Option<String>, limit: u32) -> Answer<'_, Vec<NodeRow>> {
        self.read(move |conn| read::nodes(conn, after, limit))
    }

    fn group(&self, id: GroupId) -> Answer<'_, Option<GroupRow>> {
        self.read(move |conn| read::group(conn, id))
    }

    fn groups(
        &self,
        name: Option<String>,
        before: Option<GroupId>,
        limit: u32,
    ) -> Answer<'_, Vec<GroupRow>> {
        self.read(move |conn| read::groups(conn, name, before, limit))
    }

    fn running_groups(&self) -> Answer<'_, Vec<GroupId>> {
        self.read(read::running_groups)
    }

    fn begun_with(&self, id: GroupId) -> Answer<'_, Option<BegunWith>> {
        self.read(move |conn| read::begun_with(conn, id))
    }

    fn group_of_key(&self, key: String) -> Answer<'_, Option<GroupId>> {
        self.read(move |conn| read::group_of_key(conn, &key))
    }

    fn node(&self, name: String) -> Answer<'_, Option<NodeRow>> {
        self.read(move |conn| read::node(conn, &name))
    }

    fn put_token(&self, token: TokenRow, was: Option<TokenRow>, audit: Audit) -> Answer<'_, bool> {
        self.write(move |conn| write::token(conn, &token, was.as_ref(), &audit))
    }

    fn token(&self, hash: [u8; 32]) -> Answer<'_, Option<TokenRow>> {
        self.read(move |conn| read::token(conn, hash))
    }

    fn tokens(&self, after: Option<String>, limit: u32) -> Answer<'_, Vec<TokenRow>> {
        self.read(move |conn| read::tokens(conn, after, limit))
    }

    fn audit(&self, lines: Vec<Audit>) -> Answer<'_, ()> {
        self.write(move |conn| write::audit(conn, &lines))
    }

    fn audited(&self, before: Option<u64>, limit: u32) -> Answer<'_, Vec<(u64, Audit)>> {
        self.read(move |conn| read::audited(conn, before, limit))
    }

    fn discard(&self, older: Discard) -> Answer<'_, Discarded> {
        let cursor = self.discarded.clone();
        self.write(move |conn| {
            let mut cursor = cursor.lock().unwrap_or_else(|broken| broken.into_inner());
            cursor.step(conn, older)
        })
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async {
            let written = self.write(write::probe).await?;
            // At least as new as what was just written: another probe may have come between.
            let seen = self.read(read::probe).await?;
            debug_assert!(seen >= written, "a reader sees what was committed before");
            Ok(())
        })
    }
}

/// Takes the directory, or says who has it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let place = Place::new(&path);
    let mut file = private(&path).map_err(|error| place.io(error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only to name it: what cannot be read is left out.
            let _ = file.read_to_string(&mut pid);
            return Err(StoreError::InUse {
                place: dir.display().to_string(),
                pid: pid.trim().parse().ok(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(place.io(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|error| place.io(error))?;
    Ok(file)
}

/// Makes the file under another name: one that has its own is whole, and is never taken for a new one because somebody
/// emptied it, which would let everybody in.
fn make(dir: &Path, place: &Place) -> Result<(), StoreError> {
    // SQLite would take the log of a file that is gone into the one that is made now.
    if dir.join(format!("{FILE}-wal")).exists() {
        return Err(place.missing());
    }
    let unmade = dir.join(UNMADE);
    let named = Place::new(&unmade);
    // What was not finished before is begun anew, and so is its journal.
    for left in [&unmade, &dir.join(format!("{UNMADE}-journal"))] {
        match std::fs::remove_file(left) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(named.io(error)),
            _ => {}
        }
    }
    // Made here because SQLite would make it readable for everybody; its helpers take after it.
    private(&unmade).map_err(|error| named.io(error))?;
    schema::make(&named)?;
    std::fs::rename(&unmade, place.path()).map_err(|error| place.io(error))
}

/// Makes the names of the files survive a crash: SQLite sees to what is in them.
fn settle(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()?;
    match dir.canonicalize()?.parent().map(File::open) {
        // What this user may not even read, somebody else has made before.
        None | Some(Err(_)) => Ok(()),
        Some(Ok(parent)) => parent.sync_all(),
    }
}

/// Lets nobody else read what others have copied here, a backup for one: there are the hashes of tokens in it.
fn close(dir: &Path) -> std::io::Result<()> {
    for name in [
        FILE.to_owned(),
        format!("{FILE}-wal"),
        format!("{FILE}-shm"),
    ] {
        let path = dir.join(name);
        let Ok(found) = path.metadata() else {
            continue;
        };
        if found.is_file() && found.mode() & 0o077 != 0 {
            match std::fs::set_permissions(&path, Permissions::from_mode(0o600)) {
                // It is another user's, who lets this one in on purpose.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                changed => changed?,
            }
        }
    }
    Ok(())
}

/// The file, made for this user alone if it is not there: or for the one whose directory it is in, where root makes it
/// before that one's server begins.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let made = match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return options.open(path),
        made => made?,
    };
    let dir = path.parent().unwrap_or(path).metadata()?;
    if made.metadata()?.uid() != dir.uid() {
        // Only root can; who may only write there has made his own files in it before.
        let _ = fchown(&made, Some(dir.uid()), Some(dir.gid()));
    }
    Ok(made)
}
