//! What a condition says of one field, as one stretch of its index.

use std::cmp::Ordering;

use rusqlite::types::Value as Bind;

use super::Sql;
use super::sql::column;
use crate::list::{Field, Relation};

/// All values between two, or all there are. At most one bound of each side, so that SQLite has no choice of which
/// to go by.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub(super) field: Field,
    /// The value, and whether it belongs to the range itself.
    low: Option<(Bind, bool)>,
    high: Option<(Bind, bool)>,
}

impl Range {
    pub(super) fn all(field: Field) -> Self {
        Self {
            field,
            low: None,
            high: None,
        }
    }

    /// Leaves what also compares so. Says false to a relation that is no stretch.
    pub(super) fn narrow(&mut self, relation: Relation, to: &Bind) -> bool {
        let (low, high) = match relation {
            Relation::Equal => (Some(true), Some(true)),
            Relation::Less => (None, Some(false)),
            Relation::LessOrEqual => (None, Some(true)),
            Relation::Greater => (Some(false), None),
            Relation::GreaterOrEqual => (Some(true), None),
            Relation::NotEqual | Relation::Contains => return false,
        };
        if let Some(inside) = low {
            tighten(&mut self.low, (to, inside), Ordering::Greater);
        }
        if let Some(inside) = high {
            tighten(&mut self.high, (to, inside), Ordering::Less);
        }
        true
    }

    /// Whether it is everything there is.
    pub(super) fn is_all(&self) -> bool {
        self.low.is_none() && self.high.is_none()
    }

    /// The one value in it, if it is one.
    pub(super) fn one(&self) -> Option<&Bind> {
        match (&self.low, &self.high) {
            (Some((low, true)), Some((high, true))) if low == high => Some(low),
            _ => None,
        }
    }

    /// As SQL. Of all, this is true of rows without the field too; of less, it is not.
    pub(super) fn sql(&self) -> Sql {
        let mut sql = Sql::default();
        let column = column(self.field);
        if let Some(one) = self.one() {
            sql.push(&format!("{column} = ?"), [one.clone()]);
            return sql;
        }
        let mut word = "";
        for (bound, less) in [(&self.low, '>'), (&self.high, '<')] {
            if let Some((value, inside)) = bound {
                let equal = if *inside { "=" } else { "" };
                sql.push(&format!("{word}{column} {less}{equal} ?"), [value.clone()]);
                word = " AND ";
            }
        }
        if word.is_empty() {
            sql.push("1", None);
        }
        sql
    }
}

fn tighten(bound: &mut Option<(Bind, bool)>, to: (&Bind, bool), tighter: Ordering) {
    let tight = match bound {
        None => true,
        Some((value, inside)) => match compare(to.0, value) {
            Ordering::Equal => *inside && !to.1,
            other => other == tighter,
        },
    };
    if tight {
        *bound = Some((to.0.clone(), to.1));
    }
}

/// As SQLite orders what can stand in one column.
pub(super) fn compare(one: &Bind, other: &Bind) -> Ordering {
    match (one, other) {
        (Bind::Null, Bind::Null) => Ordering::Equal,
        (Bind::Null, _) => Ordering::Less,
        (_, Bind::Null) => Ordering::Greater,
        (Bind::Integer(one), Bind::Integer(other)) => one.cmp(other),
        (Bind::Text(one), Bind::Text(other)) => one.cmp(other),
        (Bind::Blob(one), Bind::Blob(other)) => one.cmp(other),
        _ => unreachable!("a column has values of one type"),
    }
}
