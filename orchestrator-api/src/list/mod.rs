//! Lists of deployments: which, in what order, and where a page begins.
//!
//! A [`Condition`] is what a filter means once its text was parsed. It has two readers: a store turns it into SQL,
//! and [`Condition::holds`] looks at one row. Both must agree on every row.
//!
//! What people write becomes one here, or a list of what is wrong with it: a filter by AIP-160
//! ([`Condition::parse`]), an order by AIP-132 ([`Order::parse`]), and a page token ([`Place::from_token`]).

mod field;
mod filter;
mod order;
#[cfg(test)]
mod tests;
mod time;
mod token;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::store::DeploymentRow;

pub use filter::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX, FilterError, FilterErrors};
pub use order::{ORDER_FIELDS_MAX, OrderError, OrderErrors};
pub use token::TokenError;
pub(crate) use token::{open, seal};

/// What can be filtered and ordered by.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Field {
    /// The id, a text.
    Id,
    /// The job's namespace, a text.
    Namespace,
    /// The job's name, a text.
    JobId,
    /// `create`, `update`, `restart`, `rollback`, `stop`.
    Type,
    /// `pending`, `in_progress`, `paused`, `completed`, `failed`, `canceled`.
    State,
    /// A number.
    FromVersion,
    /// A number.
    ToVersion,
    /// A number.
    TotalNodes,
    /// A number.
    UpdatedNodes,
    /// A number.
    FailedNodes,
    /// A number.
    Revision,
    /// A time.
    CreatedAt,
    /// A time.
    UpdatedAt,
    /// A time; absent until the deployment ended.
    CompletedAt,
}

/// What a field is compared to: of the field's own type.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// For texts and words.
    Text(String),
    /// For numbers, and for times, in milliseconds since 1970.
    Number(i64),
}

/// How a field is compared. Texts are compared by their bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Relation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `:` of a text: it contains the value, whatever the case of ASCII letters.
    Contains,
}

/// What has to be true of a row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// All of these; of none, always.
    All(Vec<Self>),
    /// At least one of these; of none, never.
    Any(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// The field has a value (`completed_at:*`).
    Present(Field),
    /// The field compares so to the value. Never true of a field without a value, whatever the relation.
    Compare(Field, Relation, Value),
}

/// By what a list is ordered. The id comes last, in the direction of the last field, so that no two rows are equal.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Order(
    /// Fields and whether they descend. None: by id, descending, which is the newest first.
    pub Vec<(Field, bool)>,
);

/// Which page of which list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    /// Which rows.
    pub condition: Condition,
    /// In what order.
    pub order: Order,
    /// The place that the page begins after: the values of the fields of the order, and the id. A field without a
    /// value comes before all values.
    pub after: Option<Place>,
    /// At most so many rows.
    pub limit: u32,
}

/// A place in a list: a row's value of each field of its order, and the row's id.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Place {
    /// The values, in the order of [`Order`].
    pub values: Vec<Option<Value>>,
    /// The id.
    pub id: String,
}

/// Some rows of a list, in its order.
#[derive(Clone, Debug)]
pub struct Page<T> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page begins after; `None` at the end of the list. A page may be short of its limit, or empty,
    /// and yet not be the last: a store looks at a bounded number of rows for each.
    pub next: Option<Place>,
}

impl Condition {
    /// Whether it is true of this row.
    pub fn holds(&self, row: &DeploymentRow) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(row)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(row)),
            Self::Not(part) => !part.holds(row),
            Self::Present(field) => field.of(row).is_some(),
            Self::Compare(field, relation, value) => field
                .of(row)
                .is_some_and(|found| relation.holds(&found, value)),
        }
    }
}

impl Relation {
    /// Values of two types stand in no relation.
    fn holds(self, left: &Value, right: &Value) -> bool {
        let order = match (left, right) {
            (Value::Text(left), Value::Text(right)) if self == Self::Contains => {
                return contains(left, right);
            }
            (Value::Text(left), Value::Text(right)) => left.cmp(right),
            (Value::Number(left), Value::Number(right)) => left.cmp(right),
            (Value::Text(_), Value::Number(_)) | (Value::Number(_), Value::Text(_)) => {
                return false;
            }
        };
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Contains => false,
        }
    }
}

fn contains(text: &str, part: &str) -> bool {
    let (text, part) = (text.as_bytes(), part.as_bytes());
    // There are no windows of no length.
    part.is_empty()
        || text
            .windows(part.len())
            .any(|window| window.eq_ignore_ascii_case(part))
}

impl Place {
    /// The place of a row in a list of this order.
    pub fn of(row: &DeploymentRow, order: &Order) -> Self {
        Self {
            values: order.0.iter().map(|(field, _)| field.of(row)).collect(),
            id: row.id.to_string(),
        }
    }
}

/// Everything that is wrong with one text, in its order; never empty.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Faults<E>(Vec<E>);

impl<E> Faults<E> {
    /// One for each thing to change.
    pub fn faults(&self) -> &[E] {
        &self.0
    }
}

impl<E> From<E> for Faults<E> {
    fn from(fault: E) -> Self {
        Self(vec![fault])
    }
}

impl<E: fmt::Display> fmt::Display for Faults<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{fault}")?;
        }
        Ok(())
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for Faults<E> {}

/// What is repeated of a text to the one who wrote it.
fn shown(text: &str) -> String {
    const SHOWN_MAX: usize = 80;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}
