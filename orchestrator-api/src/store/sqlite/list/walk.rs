//! Along an index, row by row, for as long as the page may.
//!
//! The index is in the order of its one field and of ids. If the list is ordered by more, rows of one value are
//! gathered and sorted. Where there are more of them than may be gathered, the walk goes on within that value,
//! along the index of the next field.

use std::cmp::Ordering;
use std::mem::take;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rusqlite::types::Value as Bind;
use rusqlite::{Connection, Row, StatementStatus, params_from_iter};

use super::Sql;
use super::place::{key, shown};
use super::range::{Range, compare};
use super::sql::{along, column, may_lack};
use crate::list::{Field, Order, Place, Relation, Value};

/// For so long a page goes on from the first row that it can go on from: what had to be read again before that is no
/// progress. Rows would be the wrong measure: one that has to be fetched takes many times as long as one that is in
/// memory, and a large file has most of them outside.
const TIME: Duration = Duration::from_millis(3);
/// The clock is asked once for so many rows.
const CLOCK: u32 = 32;

/// What one page has.
#[derive(Default)]
pub(super) struct Found {
    /// The numbers of its rows, in its order.
    pub(super) rows: Vec<i64>,
    pub(super) next: Option<Place>,
}

pub(super) struct Walk<'a> {
    conn: &'a Connection,
    order: &'a Order,
    fields: &'a [(Field, bool)],
    fits: &'a Sql,
    after: Option<Vec<Bind>>,
    limit: usize,
    ranges: &'a [Range],
    /// How many rows of one value are gathered.
    window: usize,
    /// Known once there is a row to go on from.
    ends: Option<Instant>,
    /// How many rows were looked at.
    looked: u32,
    found: Vec<Seen>,
    /// The place of the last row that was looked at.
    reached: Option<Vec<Bind>>,
    over: bool,
}

/// A row that was looked at. Its key are the values of the fields of the order, the id last.
struct Seen {
    row: i64,
    key: Vec<Bind>,
    fits: bool,
}

/// Breaks when the page ends before the list does.
type Step = rusqlite::Result<ControlFlow<()>>;

impl<'a> Walk<'a> {
    pub(super) fn new(
        conn: &'a Connection,
        order: &'a Order,
        fields: &'a [(Field, bool)],
        fits: &'a Sql,
        after: Option<&Place>,
        limit: u32,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            conn,
            order,
            fields,
            fits,
            after: after.map(|place| key(order, fields, place)).transpose()?,
            limit: limit as usize,
            ranges: &[],
            window: 0,
            ends: None,
            looked: 0,
            found: Vec::new(),
            reached: None,
            over: true,
        })
    }

    /// Reads all of these, and sorts them.
    pub(super) fn few(&mut self, few: &Sql) -> rusqlite::Result<()> {
        let mut sql = self.seeing();
        sql.append(few);
        let mut all = Vec::new();
        let mut statement = self.conn.prepare_cached(&sql.text)?;
        let mut rows = statement.query(params_from_iter(sql.binds))?;
        while let Some(row) = rows.next()? {
            all.push(self.see(row, &[])?);
        }
        self.over = self.group(all, 0).is_continue();
        Ok(())
    }

    /// Walks along the index of the order's first field. Of one value, at all levels, no more rows are gathered than the
    /// window has.
    pub(super) fn along(&mut self, ranges: &'a [Range], window: u32) -> rusqlite::Result<()> {
        let levels = self.fields.len() - 1;
        self.ranges = ranges;
        self.window = (window as usize / levels.max(1)).max(1);
        let after = self.after.clone();
        self.over = self.level(&mut Vec::new(), after.as_deref())?.is_continue();
        Ok(())
    }

    pub(super) fn found(mut self) -> Found {
        let more = self.found.len() > self.limit;
        self.found.truncate(self.limit);
        let end = if more {
            self.found.last().map(|seen| &seen.key)
        } else if self.over {
            None
        } else {
            self.reached.as_ref()
        };
        Found {
            next: end.map(|key| self.place(key)),
            rows: self.found.iter().map(|seen| seen.row).collect(),
        }
    }

    /// All rows with these values of the first fields, from a place within them on.
    fn level(&mut self, fixed: &mut Vec<Bind>, after: Option<&[Bind]>) -> Step {
        match self.fields[fixed.len()..] {
            [] => unreachable!("the id is last, and never fixed"),
            [(field, descends)] => {
                let mut range = self.range(field);
                if let Some([id]) = after {
                    range.narrow(beyond(descends), id);
                }
                let mut stretch = self.with_same(fixed);
                stretch.append(&range.sql());
                stretch.push(&ordered(Field::Id, descends), None);
                self.straight(stretch, fixed)
            }
            [(field, descends), (_, same)] if descends == same => {
                let range = self.range(field);
                let mut stretches = Vec::new();
                if let Some([value, id]) = after {
                    let mut ties = is(field, value);
                    let than = if descends { "<" } else { ">" };
                    ties.push(&format!(" AND id {than} ?"), [id.clone()]);
                    stretches.push(ties);
                    stretches.extend(past(&range, value, descends));
                } else {
                    stretches.push(range.sql());
                }
                for stretch in stretches {
                    let mut sql = along(field);
                    sql.append(&stretch);
                    sql.push(&ordered(field, descends), None);
                    if self.straight(sql, fixed)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(ControlFlow::Continue(()))
            }
            [(field, descends), ..] => self.grouped((field, descends), fixed, after),
        }
    }

    /// Rows as they come, which is in the order of the list.
    fn straight(&mut self, stretch: Sql, fixed: &[Bind]) -> Step {
        let mut sql = self.seeing();
        sql.append(&stretch);
        let mut statement = self.conn.prepare_cached(&sql.text)?;
        let mut rows = statement.query(params_from_iter(sql.binds))?;
        let mut step = ControlFlow::Continue(());
        while step.is_continue()
            && let Some(row) = rows.next()?
        {
            if self.is_over() {
                step = ControlFlow::Break(());
                continue;
            }
            let seen = self.see(row, fixed)?;
            step = self.one(seen);
        }
        drop(rows);
        debug_assert_eq!(
            statement.get_status(StatementStatus::Sort),
            0,
            "{}",
            sql.text
        );
        Ok(step)
    }

    /// Rows of one value of the field after the other.
    fn grouped(
        &mut self,
        (field, descends): (Field, bool),
        fixed: &mut Vec<Bind>,
        after: Option<&[Bind]>,
    ) -> Step {
        let range = self.range(field);
        let mut stretches = match after {
            // All rows of the value again: which of them come after the place, their other fields say.
            Some([value, ..]) => {
                let mut stretches = vec![is(field, value)];
                stretches.extend(past(&range, value, descends));
                stretches
            }
            _ => vec![range.sql()],
        };
        loop {
            let large = match self.groups(&stretches, (field, descends), fixed)? {
                Groups::Over(step) => return Ok(step),
                Groups::Large(value) => value,
            };
            let within = match after {
                Some([value, within @ ..]) if *value == large => Some(within),
                _ => None,
            };
            fixed.push(large);
            let step = self.level(fixed, within)?;
            let large = fixed.pop().expect("just pushed");
            if step.is_break() {
                return Ok(step);
            }
            stretches = past(&range, &large, descends);
        }
    }

    fn groups(
        &mut self,
        stretches: &[Sql],
        (field, descends): (Field, bool),
        fixed: &[Bind],
    ) -> rusqlite::Result<Groups> {
        let depth = fixed.len();
        let mut group: Vec<Seen> = Vec::new();
        for stretch in stretches {
            let mut sql = self.seeing();
            sql.append(&along(field));
            sql.append(stretch);
            sql.push(&ordered(field, descends), None);
            let mut statement = self.conn.prepare_cached(&sql.text)?;
            let mut rows = statement.query(params_from_iter(sql.binds))?;
            while let Some(row) = rows.next()? {
                let seen = self.see(row, fixed)?;
                if group
                    .first()
                    .is_some_and(|first| first.key[depth] != seen.key[depth])
                    && self.group(take(&mut group), depth).is_break()
                {
                    return Ok(Groups::Over(ControlFlow::Break(())));
                }
                if self.is_over() {
                    return Ok(Groups::Over(ControlFlow::Break(())));
                }
                if group.len() == self.window {
                    return Ok(Groups::Large(seen.key[depth].clone()));
                }
                group.push(seen);
            }
            drop(rows);
            debug_assert_eq!(
                statement.get_status(StatementStatus::Sort),
                0,
                "{}",
                sql.text
            );
        }
        Ok(Groups::Over(self.group(group, depth)))
    }

    /// Whether the page ends before another row is looked at.
    fn is_over(&mut self) -> bool {
        self.looked += 1;
        let asked = self.looked.is_multiple_of(CLOCK);
        asked && self.ends.is_some_and(|ends| Instant::now() >= ends)
    }

    /// Rows that are equal in all fields before this depth.
    fn group(&mut self, mut group: Vec<Seen>, depth: usize) -> ControlFlow<()> {
        group.sort_unstable_by(|one, other| self.compare(&one.key, &other.key, depth));
        group.into_iter().try_for_each(|seen| self.one(seen))
    }

    fn one(&mut self, seen: Seen) -> ControlFlow<()> {
        if let Some(after) = &self.after
            && self.compare(&seen.key, after, 0) != Ordering::Greater
        {
            return ControlFlow::Continue(());
        }
        self.ends.get_or_insert_with(|| Instant::now() + TIME);
        // Reused: it changes with every row.
        self.reached.get_or_insert_default().clone_from(&seen.key);
        if seen.fits {
            self.found.push(seen);
        }
        // One more than is wanted tells whether there is another page.
        if self.found.len() > self.limit {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    fn compare(&self, one: &[Bind], other: &[Bind], depth: usize) -> Ordering {
        self.fields
            .iter()
            .zip(one.iter().zip(other))
            .skip(depth)
            .map(|((_, descends), (one, other))| match descends {
                false => compare(one, other),
                true => compare(other, one),
            })
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }

    /// What is read of each row, up to the word FROM.
    fn seeing(&self) -> Sql {
        let mut sql = Sql::default();
        sql.push("SELECT row", None);
        for (field, _) in self.fields {
            sql.push(", ", None);
            sql.push(column(*field), None);
        }
        sql.push(", ", None);
        sql.append(self.fits);
        sql.push(" FROM ", None);
        sql
    }

    fn see(&self, row: &Row<'_>, fixed: &[Bind]) -> rusqlite::Result<Seen> {
        let count = self.fields.len();
        let mut key = (1..=count)
            .map(|column| row.get(column))
            .collect::<Result<Vec<Bind>, _>>()?;
        let fits = row.get(count + 1)? && key.starts_with(fixed);
        // A row outside what is fixed still is a place to go on from.
        key[..fixed.len()].clone_from_slice(fixed);
        Ok(Seen {
            row: row.get(0)?,
            key,
            fits,
        })
    }

    fn range(&self, field: Field) -> Range {
        let known = self.ranges.iter().find(|range| range.field == field);
        known.cloned().unwrap_or_else(|| Range::all(field))
    }

    /// An index in the order of ids: of rows that are equal in some field, if there is such a field.
    fn with_same(&self, fixed: &[Bind]) -> Sql {
        let one = |field| {
            let at = self.fields[..fixed.len()]
                .iter()
                .position(|(known, _)| *known == field);
            let known = self.ranges.iter().find(|range| range.field == field);
            at.map(|at| &fixed[at])
                .or_else(|| known.and_then(Range::one))
        };
        if let (Some(namespace), Some(job)) = (one(Field::Namespace), one(Field::JobId)) {
            let mut sql = Sql::default();
            sql.push(
                "deployments INDEXED BY deployments_job WHERE namespace = ? AND job_id = ? AND ",
                [namespace.clone(), job.clone()],
            );
            return sql;
        }
        let fields = self.fields[..fixed.len()].iter().map(|(field, _)| *field);
        let fields = fields.chain(self.ranges.iter().map(|range| range.field));
        for field in fields.filter(|field| *field != Field::Id) {
            if let Some(value) = one(field) {
                let mut sql = along(field);
                sql.append(&is(field, value));
                sql.push(" AND ", None);
                return sql;
            }
        }
        along(Field::Id)
    }

    fn place(&self, key: &[Bind]) -> Place {
        let value = |field: &Field| {
            let at = self.fields.iter().position(|(known, _)| known == field);
            // A field behind the id decides nothing, and any value will do.
            at.and_then(|at| shown(&key[at]))
        };
        let id = key.last().and_then(shown);
        let Some(Value::Text(id)) = id else {
            unreachable!("every row has an id");
        };
        Place {
            values: self.order.0.iter().map(|(field, _)| value(field)).collect(),
            id,
        }
    }
}

enum Groups {
    Over(ControlFlow<()>),
    /// More rows are of this value than may be gathered.
    Large(Bind),
}

fn is(field: Field, value: &Bind) -> Sql {
    let mut sql = Sql::default();
    let column = column(field);
    match value {
        Bind::Null => sql.push(&format!("{column} IS NULL"), None),
        value => sql.push(&format!("{column} = ?"), [value.clone()]),
    }
    sql
}

/// What of the range comes after a value. Rows without the field come before all others.
fn past(range: &Range, value: &Bind, descends: bool) -> Vec<Sql> {
    let column = column(range.field);
    let written = |text: String| {
        let mut sql = Sql::default();
        sql.push(&text, None);
        sql
    };
    let absent = may_lack(range.field) && range.is_all();
    let mut rest = range.clone();
    match (value, descends) {
        (Bind::Null, true) => Vec::new(),
        (Bind::Null, false) if range.is_all() => vec![written(format!("{column} IS NOT NULL"))],
        (Bind::Null, false) => vec![range.sql()],
        (value, descends) => {
            rest.narrow(beyond(descends), value);
            let mut all = vec![rest.sql()];
            if descends && absent {
                all.push(written(format!("{column} IS NULL")));
            }
            all
        }
    }
}

fn beyond(descends: bool) -> Relation {
    if descends {
        Relation::Less
    } else {
        Relation::Greater
    }
}

fn ordered(field: Field, descends: bool) -> String {
    let direction = if descends { " DESC" } else { "" };
    match field {
        Field::Id => format!(" ORDER BY id{direction}"),
        field => format!(" ORDER BY {}{direction}, id{direction}", column(field)),
    }
}
