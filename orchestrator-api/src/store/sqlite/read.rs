//! What is read on a connection of the [readers](super::readers), but for lists of deployments.

use orchestrator_core::{DeploymentId, JobId};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::value::RawValue;

use super::fault::damaged;
use super::rows::{self, Id, limit};
use super::write::CHUNK;
use crate::store::{
    Audit, BegunWith, Change, DeploymentRow, GroupId, GroupRow, JobRow, Line, LogId, Machine,
    NodeRow, TokenRow,
};

pub(super) fn machines(
    conn: &Connection,
    after: Option<Machine>,
    max: u32,
) -> rusqlite::Result<Vec<Machine>> {
    // Of none, everything; of one, everything but itself from there on.
    let given = after.is_some();
    let (namespace, name) = rows::place(after.as_ref().unwrap_or(&Machine::Fleet));
    conn.prepare_cached(
        "SELECT namespace, name FROM logs \
         WHERE (namespace, name) >= (?2, ?3) AND NOT (?1 AND namespace = ?2 AND name = ?3) \
         ORDER BY namespace, name LIMIT ?4",
    )?
    .query_map(params![given, namespace, name, limit(max)], rows::machine)?
    .collect()
}

pub(super) fn entries(
    conn: &Connection,
    log: LogId,
    after: u64,
    max: u32,
) -> rusqlite::Result<Vec<Line>> {
    conn.prepare_cached(
        "SELECT seq, number, revision, at, text, words FROM entries \
         WHERE log = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3",
    )?
    .query_map(params![log.0, position(after), limit(max)], |row| {
        rows::line(row, 0)
    })?
    .collect()
}

pub(super) fn snapshot(conn: &Connection, log: LogId) -> rusqlite::Result<Option<(u64, Vec<u8>)>> {
    conn.prepare_cached("SELECT seq, machine FROM snapshots WHERE log = ?1")?
        .query_row([log.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

pub(super) fn changes(conn: &Connection, after: u64, max: u32) -> rusqlite::Result<Vec<Change>> {
    conn.prepare_cached(
        "SELECT position, log, seq, number, revision, at, text, words FROM entries \
         WHERE position > ?1 ORDER BY position LIMIT ?2",
    )?
    .query_map(params![position(after), limit(max)], |row| {
        Ok(Change {
            position: row.get(0)?,
            log: LogId(row.get(1)?),
            line: rows::line(row, 2)?,
        })
    })?
    .collect()
}

pub(super) fn deployment(
    conn: &Connection,
    id: DeploymentId,
) -> rusqlite::Result<Option<DeploymentRow>> {
    conn.prepare_cached(&format!("{} WHERE id = ?1", rows::DEPLOYMENT))?
        .query_row([Id(id)], rows::deployment)
        .optional()
}

pub(super) fn events(
    conn: &Connection,
    id: DeploymentId,
    after: u64,
    max: u32,
) -> rusqlite::Result<Vec<Line>> {
    conn.prepare_cached(
        "SELECT seq, e.number, e.revision, at, text, words FROM deployments AS d \
         CROSS JOIN entries AS e INDEXED BY entries_of_deployment \
         ON e.log = d.log AND e.number = d.number \
         WHERE d.id = ?1 AND e.revision > ?2 ORDER BY e.revision, e.seq LIMIT ?3",
    )?
    .query_map(params![Id(id), position(after), limit(max)], |row| {
        rows::line(row, 0)
    })?
    .collect()
}

pub(super) fn targets(
    conn: &Connection,
    id: DeploymentId,
    from: u32,
    max: u32,
) -> rusqlite::Result<Vec<String>> {
    let max = limit(max) as usize;
    let mut skip = (from % CHUNK) as usize;
    let mut read = conn.prepare_cached(
        "SELECT records FROM targets WHERE deployment = ?1 AND chunk >= ?2 ORDER BY chunk",
    )?;
    let mut chunks = read.query(params![Id(id), from / CHUNK])?;
    let mut found = Vec::new();
    while found.len() < max
        && let Some(chunk) = chunks.next()?
    {
        let records: Vec<&RawValue> =
            serde_json::from_str(chunk.get_ref(0)?.as_str()?).map_err(|error| damaged(0, error))?;
        let some = records.iter().skip(skip).take(max - found.len());
        found.extend(some.map(|record| record.get().to_owned()));
        skip = 0;
    }
    Ok(found)
}

pub(super) fn jobs(
    conn: &Connection,
    namespace: Option<String>,
    after: Option<JobId>,
    max: u32,
) -> rusqlite::Result<Vec<JobRow>> {
    let read = |row: &Row<'_>| {
        Ok(JobRow {
            id: rows::job(row, 0)?,
            record: row.get(2)?,
        })
    };
    let (after_namespace, after_name) = match &after {
        Some(job) => (job.namespace(), job.name()),
        None => ("", ""),
    };
    match namespace {
        None => conn
            .prepare_cached(
                "SELECT namespace, name, record FROM jobs WHERE (namespace, name) > (?1, ?2) \
                 ORDER BY namespace, name LIMIT ?3",
            )?
            .query_map(params![after_namespace, after_name, limit(max)], read)?
            .collect(),
        Some(namespace) => {
            // A place in another namespace is before or after all of this one.
            let after_name = match after_namespace.cmp(namespace.as_str()) {
                std::cmp::Ordering::Less => "",
                std::cmp::Ordering::Equal => after_name,
                std::cmp::Ordering::Greater => return Ok(Vec::new()),
            };
            conn.prepare_cached(
                "SELECT namespace, name, record FROM jobs WHERE namespace = ?1 AND name > ?2 \
                 ORDER BY name LIMIT ?3",
            )?
            .query_map(params![namespace, after_name, limit(max)], read)?
            .collect()
        }
    }
}

pub(super) fn identity(conn: &Connection) -> rusqlite::Result<String> {
    conn.prepare_cached("SELECT id FROM identity")?
        .query_row([], |row| row.get(0))
}

pub(super) fn nodes(
    conn: &Connection,
    after: Option<String>,
    max: u32,
) -> rusqlite::Result<Vec<NodeRow>> {
    conn.prepare_cached("SELECT name, record FROM nodes WHERE name > ?1 ORDER BY name LIMIT ?2")?
        .query_map(params![after.unwrap_or_default(), limit(max)], node_row)?
        .collect()
}

pub(super) fn group(conn: &Connection, id: GroupId) -> rusqlite::Result<Option<GroupRow>> {
    conn.prepare_cached(&format!("{} WHERE id = ?1", rows::GROUP))?
        .query_row([id.0.as_bytes()], rows::group)
        .optional()
}

pub(super) fn groups(
    conn: &Connection,
    name: Option<String>,
    before: Option<GroupId>,
    max: u32,
) -> rusqlite::Result<Vec<GroupRow>> {
    // Of none, everything: no group has this id.
    let before = before.map_or([0xff; 16], |id| *id.0.as_bytes());
    let of_name = match name {
        None => "",
        Some(_) => "AND name = ?3",
    };
    let sql = format!(
        "{} WHERE id < ?1 {of_name} ORDER BY id DESC LIMIT ?2",
        rows::GROUP
    );
    let mut read = conn.prepare_cached(&sql)?;
    match name {
        None => read
            .query_map(params![before, limit(max)], rows::group)?
            .collect(),
        Some(name) => read
            .query_map(params![before, limit(max), name], rows::group)?
            .collect(),
    }
}

pub(super) fn running_groups(conn: &Connection) -> rusqlite::Result<Vec<GroupId>> {
    conn.prepare_cached("SELECT id FROM groups WHERE completed_at IS NULL ORDER BY id")?
        .query_map([], |row| rows::group_id(row, 0))?
        .collect()
}

pub(super) fn begun_with(conn: &Connection, id: GroupId) -> rusqlite::Result<Option<BegunWith>> {
    let read = |row: &Row<'_>| {
        Ok(BegunWith {
            key: row.get(0)?,
            wanted: row.get(1)?,
        })
    };
    conn.prepare_cached("SELECT key, wanted FROM groups WHERE id = ?1")?
        .query_row([id.0.as_bytes()], read)
        .optional()
}

pub(super) fn group_of_key(conn: &Connection, key: &str) -> rusqlite::Result<Option<GroupId>> {
    conn.prepare_cached("SELECT id FROM groups WHERE key = ?1")?
        .query_row([key], |row| rows::group_id(row, 0))
        .optional()
}

pub(super) fn node(conn: &Connection, name: &str) -> rusqlite::Result<Option<NodeRow>> {
    conn.prepare_cached("SELECT name, record FROM nodes WHERE name = ?1")?
        .query_row([name], node_row)
        .optional()
}

fn node_row(row: &Row<'_>) -> rusqlite::Result<NodeRow> {
    Ok(NodeRow {
        name: row.get(0)?,
        record: row.get(1)?,
    })
}

pub(super) fn token(conn: &Connection, hash: [u8; 32]) -> rusqlite::Result<Option<TokenRow>> {
    conn.prepare_cached("SELECT id, hash, record FROM tokens WHERE hash = ?1")?
        .query_row([hash], token_row)
        .optional()
}

pub(super) fn tokens(
    conn: &Connection,
    after: Option<String>,
    max: u32,
) -> rusqlite::Result<Vec<TokenRow>> {
    conn.prepare_cached("SELECT id, hash, record FROM tokens WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![after.unwrap_or_default(), limit(max)], token_row)?
        .collect()
}

fn token_row(row: &Row<'_>) -> rusqlite::Result<TokenRow> {
    Ok(TokenRow {
        id: row.get(0)?,
        hash: row.get(1)?,
        record: row.get(2)?,
    })
}

pub(super) fn audited(
    conn: &Connection,
    before: Option<u64>,
    max: u32,
) -> rusqlite::Result<Vec<(u64, Audit)>> {
    let before = before.map_or(i64::MAX, position);
    conn.prepare_cached(
        "SELECT number, at, record FROM audit WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
    )?
    .query_map(params![before, limit(max)], |row| {
        Ok((
            row.get(0)?,
            Audit {
                at: rows::time(row, 1)?,
                record: row.get(2)?,
            },
        ))
    })?
    .collect()
}

pub(super) fn probe(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("SELECT count FROM probe")?
        .query_one([], |row| row.get(0))
}

/// Nothing comes after a position that SQLite cannot count to.
fn position(after: u64) -> i64 {
    i64::try_from(after).unwrap_or(i64::MAX)
}
