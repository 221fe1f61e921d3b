//! The tables, and how a file comes to have them.

use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::fault::Place;
use crate::store::StoreError;

/// Step `n` makes a file of version `n` one of version `n + 1`. A step that was published is never changed.
const STEPS: &[&str] = &[
    include_str!("step_1.sql"),
    include_str!("step_2.sql"),
    include_str!("step_3.sql"),
    include_str!("step_4.sql"),
    include_str!("step_5.sql"),
];

/// "Orch", so that a file of another program is not taken for ours.
const APPLICATION: i32 = 0x4F72_6368;
/// A file up to this size is checked from end to end when it is opened: some tens of milliseconds.
const CHECKED_BYTES_MAX: i64 = 32 << 20;
/// A checkpoint cuts the log of SQLite down to this.
const WAL_BYTES_MAX: i64 = 64 << 20;
const CACHED_KIB: i64 = 64 << 10;
const STATEMENTS: usize = 128;

/// Makes the tables in a file that has nothing in it. It is all in that one file then, and on the disk.
pub(super) fn make(place: &Place) -> Result<(), StoreError> {
    let made = || {
        let mut conn = connect(place, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        // Takes effect only in a file without a page, and so comes before the first thing that writes one.
        conn.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        conn.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut conn, 0)
    };
    made().map_err(|error| place.fault(error))
}

/// The connection that writes, to a file of the current version.
pub(super) fn open(place: &Place) -> Result<Connection, StoreError> {
    let fault = |error| place.fault(error);
    let mut conn = connect(place, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(fault)?;
    let version = version(&conn, place)?;
    check(&conn, place)?;
    prepare(&conn).map_err(fault)?;
    migrate(&mut conn, version).map_err(fault)?;
    Ok(conn)
}

/// A connection that can only read.
pub(super) fn reader(place: &Place) -> rusqlite::Result<Connection> {
    connect(place, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn connect(place: &Place, access: OpenFlags) -> rusqlite::Result<Connection> {
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(place.path(), flags)?;
    // Nobody else writes, so there is nobody to wait for but a checkpoint, or a person with the `sqlite3` shell.
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.pragma_update(None, "cache_size", -CACHED_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

/// The version of the file.
fn version(conn: &Connection, place: &Place) -> Result<u32, StoreError> {
    let number = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    let read = || {
        Ok((
            number("PRAGMA application_id")?,
            number("PRAGMA user_version")?,
            number("SELECT count(*) FROM sqlite_schema")?,
        ))
    };
    let known = u32::try_from(STEPS.len()).expect("a handful of steps");
    match read().map_err(|error| place.fault(error))? {
        // One of ours has its tables before it has its name.
        (0, 0, 0) => Err(place.empty()),
        (application, version, _) if application == i64::from(APPLICATION) => {
            match u32::try_from(version) {
                Ok(version) if (1..=known).contains(&version) => Ok(version),
                Ok(version) if version > known => Err(place.newer(version, known)),
                _ => Err(place.corrupt(format!("its version is {version}"))),
            }
        }
        (application, ..) => Err(place.corrupt(format!(
            "it was written by another program (application id {application:#x})"
        ))),
    }
}

fn check(conn: &Connection, place: &Place) -> Result<(), StoreError> {
    let number = |sql| conn.query_row(sql, [], |row| row.get::<_, i64>(0));
    let read = || {
        let bytes = number("PRAGMA page_count")? * number("PRAGMA page_size")?;
        if bytes > CHECKED_BYTES_MAX {
            return Ok(None);
        }
        let found: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((found != "ok").then_some(found))
    };
    match read().map_err(|error| place.fault(error))? {
        Some(found) => Err(place.corrupt(found)),
        None => Ok(()),
    }
}

fn prepare(conn: &Connection) -> rusqlite::Result<()> {
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_MAX, |_| Ok(()))?;
    conn.pragma_update_and_check(None, "wal_autocheckpoint", 1000, |_| Ok(()))?;
    Ok(())
}

fn migrate(conn: &mut Connection, from: u32) -> rusqlite::Result<()> {
    for (version, step) in (1_i64..).zip(STEPS).skip(from as usize) {
        let step_of = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step_of.pragma_update(None, "application_id", APPLICATION)?;
        step_of.execute_batch(step)?;
        step_of.pragma_update(None, "user_version", version)?;
        step_of.commit()?;
    }
    Ok(())
}
