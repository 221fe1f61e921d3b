//! What stands in the columns, and how it is read back.

use std::borrow::Cow;

use orchestrator_core::{DeploymentId, DeploymentKind, DeploymentState, JobId, Time};
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use super::fault::damaged;
use crate::store::{DeploymentRow, GroupId, GroupRow, Line, LogId, Machine, ROWS_MAX};

/// In place of a namespace the logs of groups have this, which is none and comes after all of them.
pub(super) const GROUPS: &str = "~group";

/// A deployment with its record, as [`deployment`] reads it.
pub(super) const DEPLOYMENT: &str = "\
    SELECT id, log, number, namespace, job_id, type, state, from_version, to_version, total_nodes, \
    updated_nodes, failed_nodes, revision, created_at, updated_at, completed_at, record \
    FROM deployments JOIN records USING (row)";

/// A line, as [`line`] reads it, after these columns: `seq, number, revision, at, text, words`.
pub(super) fn line(row: &Row<'_>, first: usize) -> rusqlite::Result<Line> {
    let number: Option<u32> = row.get(first + 1)?;
    let revision: Option<u64> = row.get(first + 2)?;
    Ok(Line {
        seq: row.get(first)?,
        of: number.zip(revision),
        at: time(row, first + 3)?,
        text: row.get(first + 4)?,
        words: row.get(first + 5)?,
    })
}

pub(super) fn deployment(row: &Row<'_>) -> rusqlite::Result<DeploymentRow> {
    Ok(DeploymentRow {
        id: row.get::<_, Id>(0)?.0,
        log: LogId(row.get(1)?),
        number: row.get(2)?,
        job: job(row, 3)?,
        kind: kind(row, 5)?,
        state: state(row, 6)?,
        from_version: row.get(7)?,
        to_version: row.get(8)?,
        total_nodes: row.get(9)?,
        updated_nodes: row.get(10)?,
        failed_nodes: row.get(11)?,
        revision: row.get(12)?,
        created_at: time(row, 13)?,
        updated_at: time(row, 14)?,
        completed_at: row.get::<_, Option<u64>>(15)?.map(Time::from_millis),
        record: row.get(16)?,
    })
}

/// A job's id, from its two columns.
pub(super) fn job(row: &Row<'_>, first: usize) -> rusqlite::Result<JobId> {
    let namespace = row.get_ref(first)?.as_str()?;
    let name = row.get_ref(first + 1)?.as_str()?;
    JobId::new(namespace, name).map_err(|error| damaged(first, error))
}

/// Whose log it is, from the first two columns.
pub(super) fn machine(row: &Row<'_>) -> rusqlite::Result<Machine> {
    match row.get_ref(0)?.as_str()? {
        "" => Ok(Machine::Fleet),
        GROUPS => {
            let id = row.get_ref(1)?.as_str()?.parse();
            Ok(Machine::Group(id.map_err(|error| damaged(1, error))?))
        }
        _ => job(row, 0).map(Machine::Job),
    }
}

/// The namespace and the name of its log.
pub(super) fn place(machine: &Machine) -> (&str, Cow<'_, str>) {
    match machine {
        Machine::Fleet => ("", "".into()),
        Machine::Job(job) => (job.namespace(), job.name().into()),
        Machine::Group(id) => (GROUPS, id.to_string().into()),
    }
}

/// A group, as [`group`] reads it.
pub(super) const GROUP: &str = "SELECT id, name, completed_at, record FROM groups";

pub(super) fn group(row: &Row<'_>) -> rusqlite::Result<GroupRow> {
    Ok(GroupRow {
        id: group_id(row, 0)?,
        name: row.get(1)?,
        completed_at: row.get::<_, Option<u64>>(2)?.map(Time::from_millis),
        record: row.get(3)?,
    })
}

pub(super) fn group_id(row: &Row<'_>, column: usize) -> rusqlite::Result<GroupId> {
    Ok(GroupId(uuid::Uuid::from_bytes(row.get(column)?)))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Time> {
    row.get(column).map(Time::from_millis)
}

/// As many rows as may be asked for. Negative would mean all to SQLite, so it is never passed on as it comes.
pub(super) fn limit(wanted: u32) -> u32 {
    wanted.min(ROWS_MAX)
}

/// A deployment's id as its 16 bytes: they are in the order of its text, and take half the room in every index.
pub(super) struct Id(pub(super) DeploymentId);

impl ToSql for Id {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Blob(
            self.0.as_uuid().as_bytes(),
        )))
    }
}

impl FromSql for Id {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let id = uuid::Uuid::from_bytes(<[u8; 16]>::column_result(value)?);
        let id = id.hyphenated().to_string().parse();
        id.map(Self).map_err(FromSqlError::other)
    }
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<DeploymentKind> {
    let word = row.get_ref(column)?.as_str()?;
    let known = DeploymentKind::ALL
        .into_iter()
        .find(|kind| kind.word() == word);
    known.ok_or_else(|| damaged(column, format!("{word:?} is no type")))
}

fn state(row: &Row<'_>, column: usize) -> rusqlite::Result<DeploymentState> {
    let word = row.get_ref(column)?.as_str()?;
    let known = DeploymentState::ALL
        .into_iter()
        .find(|state| state.word() == word);
    known.ok_or_else(|| damaged(column, format!("{word:?} is no state")))
}
