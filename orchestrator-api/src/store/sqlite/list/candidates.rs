//! How much an index can say about a condition, before any row was looked at.

use rusqlite::types::Value as Bind;
use rusqlite::{Connection, params_from_iter};

use super::Sql;
use super::range::Range;
use super::sql::{along, bind, column, may_lack};
use crate::list::{Condition, Field, Relation};

pub(super) enum Candidates {
    /// No row can meet the condition.
    None,
    /// These rows at most, fewer than a page may look at: SQL that names the table, the index and the rows.
    Few(Sql),
    /// More than that, and all of them within these ranges.
    Many(Vec<Range>),
}

pub(super) fn candidates(
    conn: &Connection,
    condition: &Condition,
    window: u32,
) -> rusqlite::Result<Candidates> {
    let mut has = Has::default();
    if !has.gather(condition) {
        return Ok(Candidates::None);
    }
    for few in has.stretches() {
        let count: u32 = conn
            .prepare_cached(&format!(
                "SELECT count(*) FROM (SELECT 1 FROM {} LIMIT {})",
                few.text,
                window + 1
            ))?
            .query_one(params_from_iter(&few.binds), |row| row.get(0))?;
        if count <= window {
            return Ok(Candidates::Few(few));
        }
    }
    Ok(Candidates::Many(has.ranges))
}

/// What every row of the list has to have.
#[derive(Default)]
struct Has {
    /// One of each field that has one.
    ranges: Vec<Range>,
    /// Fields that have to be one of some values.
    lists: Vec<(Field, Vec<Bind>)>,
    /// Fields that have to be absent.
    absent: Vec<Field>,
}

impl Has {
    /// False if it can never be true.
    fn gather(&mut self, condition: &Condition) -> bool {
        match condition {
            Condition::All(parts) => parts.iter().all(|part| self.gather(part)),
            Condition::Any(parts) => {
                self.lists.extend(list(parts));
                !parts.is_empty()
            }
            Condition::Not(part) => match **part {
                Condition::Present(field) => {
                    self.absent.push(field);
                    may_lack(field)
                }
                _ => true,
            },
            Condition::Present(_) => true,
            Condition::Compare(field, relation, value) => match bind(*field, value) {
                Some(value) => {
                    self.narrow(*field, *relation, &value);
                    true
                }
                // No row has such an id.
                None => *relation != Relation::Equal,
            },
        }
    }

    fn narrow(&mut self, field: Field, relation: Relation, to: &Bind) {
        match self.ranges.iter_mut().find(|known| known.field == field) {
            Some(known) => {
                known.narrow(relation, to);
            }
            None => {
                let mut range = Range::all(field);
                if range.narrow(relation, to) {
                    self.ranges.push(range);
                }
            }
        }
    }

    /// The stretches of indexes that hold all candidates, each as SQL after FROM.
    fn stretches(&self) -> Vec<Sql> {
        let mut all = Vec::new();
        if let [Some(namespace), Some(job)] = [Field::Namespace, Field::JobId].map(|field| {
            let range = self.ranges.iter().find(|range| range.field == field);
            range.and_then(Range::one)
        }) {
            let mut sql = Sql::default();
            sql.push(
                "deployments INDEXED BY deployments_job WHERE namespace = ? AND job_id = ?",
                [namespace.clone(), job.clone()],
            );
            all.push(sql);
        }
        for range in &self.ranges {
            let mut sql = along(range.field);
            sql.append(&range.sql());
            all.push(sql);
        }
        for (field, values) in &self.lists {
            let mut sql = along(*field);
            let marks = vec!["?"; values.len()].join(", ");
            let list = format!("{} IN ({marks})", column(*field));
            sql.push(&list, values.iter().cloned());
            all.push(sql);
        }
        for field in &self.absent {
            let mut sql = along(*field);
            sql.push(&format!("{} IS NULL", column(*field)), None);
            all.push(sql);
        }
        all
    }
}

/// `state = a OR state = b` is a list of states.
fn list(parts: &[Condition]) -> Option<(Field, Vec<Bind>)> {
    let mut values = Vec::new();
    let mut of = None;
    for part in parts {
        let Condition::Compare(field, Relation::Equal, value) = part else {
            return None;
        };
        if *of.get_or_insert(*field) != *field {
            return None;
        }
        values.extend(bind(*field, value));
    }
    of.zip(Some(values))
        .filter(|(_, values)| !values.is_empty())
}
