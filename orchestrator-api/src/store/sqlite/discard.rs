//! Throwing away what is old, in steps of a bounded size.
//!
//! A pass goes once over all that is old enough, and remembers where it is from call to call: what cannot go yet,
//! because no snapshot has taken it in, is stepped over and looked at again in the next pass.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::rows;
use crate::store::{Discard, Discarded};

/// Where the pass is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cursor {
    /// After this completion and id.
    Deployments(i64, [u8; 16]),
    Groups,
    /// After this time and position.
    Entries(i64, i64),
    Audit,
    /// Gives freed pages back to the file system.
    Pages,
}

/// Pages given back by one call, at most. Each means that another page moves.
const PAGES_MAX: u32 = 256;

impl Default for Cursor {
    fn default() -> Self {
        Self::Deployments(i64::MIN, [0; 16])
    }
}

impl Cursor {
    /// Discards some.
    pub(super) fn step(
        &mut self,
        conn: &Connection,
        older: Discard,
    ) -> rusqlite::Result<Discarded> {
        let mut held = BTreeSet::new();
        let more = self.go_on(conn, older, &mut held)?;
        let mut machine = conn.prepare_cached("SELECT namespace, name FROM logs WHERE log = ?1")?;
        let held = held
            .into_iter()
            .map(|log| machine.query_row([log], rows::machine));
        Ok(Discarded {
            more,
            held: held.collect::<Result<_, _>>()?,
        })
    }

    /// False when the pass is over: the next call begins another. Notes the logs of what no snapshot has taken in.
    fn go_on(
        &mut self,
        conn: &Connection,
        older: Discard,
        held: &mut BTreeSet<i64>,
    ) -> rusqlite::Result<bool> {
        let mut left = older.rows_max.max(1);
        loop {
            let (over, next) = match self {
                Self::Deployments(at, id) => (
                    deployments(conn, older, &mut left, held, at, id)?,
                    Self::Groups,
                ),
                Self::Groups => (groups(conn, older, &mut left)?, Self::Entries(i64::MIN, 0)),
                Self::Entries(at, position) => (
                    entries(conn, older, &mut left, held, at, position)?,
                    Self::Audit,
                ),
                Self::Audit => (audit(conn, older, &mut left)?, Self::Pages),
                Self::Pages => {
                    let over = pages(conn, left)?;
                    if over {
                        *self = Self::default();
                    }
                    return Ok(!over);
                }
            };
            if !over {
                return Ok(true);
            }
            *self = next;
        }
    }
}

/// One deployment after the other, its row last: so one that is half gone is found again.
fn deployments(
    conn: &Connection,
    older: Discard,
    left: &mut u32,
    held: &mut BTreeSet<i64>,
    at: &mut i64,
    id: &mut [u8; 16],
) -> rusqlite::Result<bool> {
    // Its last entry stands for all of them: a snapshot takes in every entry before it.
    let mut next = conn.prepare_cached(
        "SELECT completed_at, id, row, log, number, \
           ifnull((SELECT e.seq FROM entries AS e INDEXED BY entries_of_deployment \
             WHERE e.log = d.log AND e.number = d.number \
             ORDER BY e.revision DESC, e.seq DESC LIMIT 1), 0) \
           <= ifnull((SELECT s.seq FROM snapshots AS s WHERE s.log = d.log), 0), \
         number < (SELECT n.number FROM deployments AS n INDEXED BY deployments_job \
           WHERE n.namespace = d.namespace AND n.job_id = d.job_id ORDER BY n.id DESC LIMIT 1) \
         FROM deployments AS d INDEXED BY deployments_completed_at \
         WHERE completed_at < ?1 AND (completed_at, id) > (?2, ?3) \
         ORDER BY completed_at, id LIMIT 1",
    )?;
    let mut targets = conn.prepare_cached(
        "DELETE FROM targets WHERE rowid IN \
         (SELECT rowid FROM targets WHERE deployment = ?1 LIMIT ?2)",
    )?;
    let mut entries = conn.prepare_cached(
        "DELETE FROM entries WHERE position IN \
         (SELECT position FROM entries INDEXED BY entries_of_deployment \
          WHERE log = ?1 AND number = ?2 ORDER BY revision LIMIT ?3)",
    )?;
    let mut gone = conn.prepare_cached("DELETE FROM deployments WHERE row = ?1")?;
    while *left > 0 {
        let found = next
            .query_row(params![older.deployments.as_millis(), *at, *id], |row| {
                Ok((
                    (row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?),
                    row.get::<_, i64>(2)?,
                    (row.get::<_, i64>(3)?, row.get::<_, u32>(4)?),
                    (row.get::<_, bool>(5)?, row.get::<_, bool>(6)?),
                ))
            })
            .optional()?;
        let Some((place, row, (log, number), (taken_in, another_came))) = found else {
            return Ok(true);
        };
        if another_came && !taken_in {
            held.insert(log);
        } else if another_came {
            spend(left, targets.execute(params![place.1, *left])?);
            spend(left, entries.execute(params![log, number, *left])?);
            if *left == 0 {
                return Ok(false);
            }
            gone.execute([row])?;
        }
        spend(left, 1);
        (*at, *id) = place;
    }
    Ok(false)
}

/// Groups with their logs: what they led to is in the logs of their jobs.
fn groups(conn: &Connection, older: Discard, left: &mut u32) -> rusqlite::Result<bool> {
    let mut next = conn.prepare_cached(
        "SELECT log FROM groups INDEXED BY groups_completed_at WHERE completed_at < ?1 \
         ORDER BY completed_at LIMIT 1",
    )?;
    let mut entries = conn.prepare_cached(
        "DELETE FROM entries WHERE position IN \
         (SELECT position FROM entries WHERE log = ?1 ORDER BY seq LIMIT ?2)",
    )?;
    while *left > 0 {
        let found = next
            .query_row([older.deployments.as_millis()], |row| row.get::<_, i64>(0))
            .optional()?;
        let Some(log) = found else {
            return Ok(true);
        };
        spend(left, entries.execute(params![log, *left])?);
        if *left == 0 {
            return Ok(false);
        }
        for table in ["groups", "snapshots", "logs"] {
            conn.prepare_cached(&format!("DELETE FROM {table} WHERE log = ?1"))?
                .execute([log])?;
        }
        spend(left, 1);
    }
    Ok(false)
}

/// Entries of no deployment: those of one go with it, and those of a group with that.
fn entries(
    conn: &Connection,
    older: Discard,
    left: &mut u32,
    held: &mut BTreeSet<i64>,
    at: &mut i64,
    position: &mut i64,
) -> rusqlite::Result<bool> {
    let found = conn
        .prepare_cached(
            "SELECT at, position, log, \
               seq <= ifnull((SELECT s.seq FROM snapshots AS s WHERE s.log = e.log), 0), \
               EXISTS (SELECT 1 FROM groups AS g INDEXED BY groups_log WHERE g.log = e.log) \
             FROM entries AS e INDEXED BY entries_of_none \
             WHERE number IS NULL AND at < ?1 AND (at, position) > (?2, ?3) \
             ORDER BY at, position LIMIT ?4",
        )?
        .query_map(
            params![older.entries.as_millis(), *at, *position, *left],
            |row| {
                let of = (row.get(3)?, row.get(4)?);
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, of))
            },
        )?
        .collect::<Result<Vec<(i64, i64, i64, (bool, bool))>, _>>()?;
    let mut gone = conn.prepare_cached("DELETE FROM entries WHERE position = ?1")?;
    for (its_at, its_position, log, (taken_in, of_group)) in &found {
        if *taken_in {
            gone.execute([its_position])?;
        } else if !of_group {
            held.insert(*log);
        }
        (*at, *position) = (*its_at, *its_position);
    }
    spend(left, found.len());
    Ok(*left > 0)
}

fn audit(conn: &Connection, older: Discard, left: &mut u32) -> rusqlite::Result<bool> {
    let gone = conn
        .prepare_cached(
            "DELETE FROM audit WHERE number IN \
             (SELECT number FROM audit INDEXED BY audit_at WHERE at < ?1 ORDER BY at LIMIT ?2)",
        )?
        .execute(params![older.audit.as_millis(), *left])?;
    spend(left, gone);
    Ok(*left > 0)
}

fn pages(conn: &Connection, left: u32) -> rusqlite::Result<bool> {
    conn.execute_batch(&format!(
        "PRAGMA incremental_vacuum({})",
        left.min(PAGES_MAX)
    ))?;
    let free: u32 = conn.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    Ok(free == 0)
}

fn spend(left: &mut u32, rows: usize) {
    *left = left.saturating_sub(u32::try_from(rows).unwrap_or(u32::MAX));
}
