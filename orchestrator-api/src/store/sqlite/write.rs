//! What is written within a transaction of the [writer](super::writer).

use orchestrator_core::DeploymentId;
use rusqlite::{Connection, OptionalExtension, named_params, params};
use serde_json::value::RawValue;

use super::fault::misuse;
use super::rows::{self, Id};
use crate::store::{
    Append, Audit, BegunWith, Claim, DeploymentRow, GroupRow, Line, LogId, Refused, TokenRow,
    Wanted,
};

/// So many targets stand in one row.
pub(super) const CHUNK: u32 = 128;

pub(super) fn claim(conn: &Connection, wanted: &[Wanted]) -> rusqlite::Result<Vec<Claim>> {
    let mut put = conn.prepare_cached(
        "INSERT INTO logs (namespace, name, seed, epoch, seq) VALUES (?1, ?2, ?3, 1, 0) \
         ON CONFLICT (namespace, name) DO UPDATE SET epoch = epoch + 1 \
         RETURNING log, seed, epoch, seq",
    )?;
    wanted
        .iter()
        .map(|Wanted { machine, seed }| {
            let (namespace, name) = rows::place(machine);
            put.query_one(params![namespace, name, seed.cast_signed()], |row| {
                Ok(Claim {
                    machine: machine.clone(),
                    log: LogId(row.get(0)?),
                    seed: row.get::<_, i64>(1)?.cast_unsigned(),
                    epoch: row.get(2)?,
                    seq: row.get(3)?,
                })
            })
        })
        .collect()
}

/// Looks before it writes, so that a refused append has nothing to take back.
pub(super) fn append(conn: &Connection, append: &Append) -> rusqlite::Result<Result<(), Refused>> {
    let Append {
        log,
        epoch,
        expected,
        lines,
        snapshot,
        job,
        deployments,
        targets,
        group,
        begun_with,
        nodes,
        nodes_gone,
        audit: said,
    } = append;

    let found = conn
        .prepare_cached("SELECT epoch, seq FROM logs WHERE log = ?1")?
        .query_row([log.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        // Nobody can have claimed what is not there: another file than the one of the claim.
        None => return Ok(Err(Refused::Fenced { epoch: 0 })),
        Some((latest, _)) if latest != *epoch => return Ok(Err(Refused::Fenced { epoch: latest })),
        Some((_, seq)) if seq != *expected => return Ok(Err(Refused::Position { seq })),
        Some(_) => {}
    }

    entries(conn, *log, *expected, lines)?;
    let seq = expected + lines.len() as u64;
    if let Some(machine) = snapshot {
        conn.prepare_cached("REPLACE INTO snapshots (log, seq, machine) VALUES (?1, ?2, ?3)")?
            .execute(params![log.0, seq, machine])?;
    }
    if let Some(job) = job {
        conn.prepare_cached("REPLACE INTO jobs (namespace, name, record) VALUES (?1, ?2, ?3)")?
            .execute(params![job.id.namespace(), job.id.name(), job.record])?;
    }
    for row in deployments {
        deployment(conn, row)?;
    }
    for (id, records) in targets {
        put_aside(conn, *id, records)?;
    }
    if let Some(row) = group {
        put_group(conn, *log, row, begun_with.as_ref())?;
    }
    for node in nodes {
        conn.prepare_cached("REPLACE INTO nodes (name, record) VALUES (?1, ?2)")?
            .execute(params![node.name, node.record])?;
    }
    for name in nodes_gone {
        conn.prepare_cached("DELETE FROM nodes WHERE name = ?1")?
            .execute([name])?;
    }
    audit(conn, said)?;
    Ok(Ok(()))
}

fn entries(conn: &Connection, log: LogId, expected: u64, lines: &[Line]) -> rusqlite::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut put = conn.prepare_cached(
        "INSERT INTO entries (log, seq, number, revision, at, text, words) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    let mut last = expected;
    for line in lines {
        let Line {
            seq,
            of,
            at,
            text,
            words,
        } = line;
        if *seq != last + 1 {
            return Err(misuse(format!("entry {seq} was to come after {last}")));
        }
        last = *seq;
        let (number, revision) = of.unzip();
        let at = at.as_millis();
        put.execute(params![log.0, seq, number, revision, at, text, words])?;
    }
    conn.prepare_cached("UPDATE logs SET seq = ?2 WHERE log = ?1")?
        .execute(params![log.0, last])
        .map(drop)
}

fn deployment(conn: &Connection, row: &DeploymentRow) -> rusqlite::Result<()> {
    let DeploymentRow {
        id,
        log,
        number,
        job,
        kind,
        state,
        from_version,
        to_version,
        total_nodes,
        updated_nodes,
        failed_nodes,
        revision,
        created_at,
        updated_at,
        completed_at,
        record,
    } = row;
    let all = named_params! {
        ":id": Id(*id),
        ":log": log.0,
        ":number": number,
        ":namespace": job.namespace(),
        ":job_id": job.name(),
        ":type": kind.word(),
        ":state": state.word(),
        ":from_version": from_version,
        ":to_version": to_version,
        ":total_nodes": total_nodes,
        ":updated_nodes": updated_nodes,
        ":failed_nodes": failed_nodes,
        ":revision": revision,
        ":created_at": created_at.as_millis(),
        ":updated_at": updated_at.as_millis(),
        ":completed_at": completed_at.map(|at| at.as_millis()),
    };
    // SQLite writes every index of a column that is set, changed or not. So what hardly ever changes is compared.
    let known = conn
        .prepare_cached(
            "UPDATE deployments SET state = :state, updated_nodes = :updated_nodes, \
             failed_nodes = :failed_nodes, revision = :revision, updated_at = :updated_at, \
             completed_at = :completed_at \
             WHERE id = :id AND log = :log AND number = :number AND namespace = :namespace \
             AND job_id = :job_id AND type = :type AND from_version = :from_version \
             AND to_version = :to_version AND total_nodes = :total_nodes AND created_at = :created_at \
             RETURNING row",
        )?
        .query_row(all, |row| row.get::<_, i64>(0))
        .optional()?;
    let at = match known {
        Some(at) => at,
        None => conn
            .prepare_cached(
                "INSERT INTO deployments (id, log, number, namespace, job_id, type, state, \
                 from_version, to_version, total_nodes, updated_nodes, failed_nodes, revision, \
                 created_at, updated_at, completed_at) \
                 VALUES (:id, :log, :number, :namespace, :job_id, :type, :state, :from_version, \
                 :to_version, :total_nodes, :updated_nodes, :failed_nodes, :revision, :created_at, \
                 :updated_at, :completed_at) \
                 ON CONFLICT (id) DO UPDATE SET log = :log, number = :number, \
                 namespace = :namespace, job_id = :job_id, type = :type, state = :state, \
                 from_version = :from_version, to_version = :to_version, \
                 total_nodes = :total_nodes, updated_nodes = :updated_nodes, \
                 failed_nodes = :failed_nodes, revision = :revision, created_at = :created_at, \
                 updated_at = :updated_at, completed_at = :completed_at \
                 RETURNING row",
            )?
            .query_row(all, |row| row.get(0))?,
    };
    conn.prepare_cached("REPLACE INTO records (row, record) VALUES (?1, ?2)")?
        .execute(params![at, record])
        .map(drop)
}

fn put_group(
    conn: &Connection,
    log: LogId,
    row: &GroupRow,
    begun_with: Option<&BegunWith>,
) -> rusqlite::Result<()> {
    let GroupRow {
        id,
        name,
        completed_at,
        record,
    } = row;
    let (id, completed_at) = (id.0.as_bytes(), completed_at.map(|at| at.as_millis()));
    match begun_with {
        Some(BegunWith { key, wanted }) => conn
            .prepare_cached(
                "INSERT INTO groups (id, log, name, key, wanted, completed_at, record) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![id, log.0, name, key, wanted, completed_at, record]),
        None => conn
            .prepare_cached("UPDATE groups SET completed_at = ?2, record = ?3 WHERE id = ?1")?
            .execute(params![id, completed_at, record]),
    }
    .map(drop)
}

fn put_aside(conn: &Connection, id: DeploymentId, records: &[String]) -> rusqlite::Result<()> {
    conn.prepare_cached("DELETE FROM targets WHERE deployment = ?1")?
        .execute([Id(id)])?;
    let mut put = conn
        .prepare_cached("INSERT INTO targets (deployment, chunk, records) VALUES (?1, ?2, ?3)")?;
    for (chunk, records) in (0_u32..).zip(records.chunks(CHUNK as usize)) {
        let records = records
            .iter()
            .map(|record| serde_json::from_str::<&RawValue>(record))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|records| serde_json::to_string(&records))
            .map_err(misuse)?;
        put.execute(params![Id(id), chunk, records])?;
    }
    Ok(())
}

pub(super) fn token(
    conn: &Connection,
    token: &TokenRow,
    was: Option<&TokenRow>,
    said: &Audit,
) -> rusqlite::Result<bool> {
    let TokenRow { id, hash, record } = token;
    let written = match was {
        None => conn
            .prepare_cached(
                "INSERT INTO tokens (id, hash, record) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (id) DO NOTHING",
            )?
            .execute(params![id, hash, record])?,
        Some(was) => conn
            .prepare_cached(
                "UPDATE tokens SET hash = ?2, record = ?3 \
                 WHERE id = ?1 AND id = ?4 AND hash = ?5 AND record = ?6",
            )?
            .execute(params![id, hash, record, was.id, was.hash, was.record])?,
    };
    if written == 0 {
        return Ok(false);
    }
    audit(conn, std::slice::from_ref(said))?;
    Ok(true)
}

pub(super) fn audit(conn: &Connection, lines: &[Audit]) -> rusqlite::Result<()> {
    for Audit { at, record } in lines {
        conn.prepare_cached("INSERT INTO audit (at, record) VALUES (?1, ?2)")?
            .execute(params![at.as_millis(), record])?;
    }
    Ok(())
}

/// Changes something that nobody needs, and says how often it was changed.
pub(super) fn probe(conn: &Connection) -> rusqlite::Result<u64> {
    conn.prepare_cached("UPDATE probe SET count = count + 1 RETURNING count")?
        .query_one([], |row| row.get(0))
}
