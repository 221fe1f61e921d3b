//! Lists of deployments: which, in what order, and where a page begins.
//!
//! A [`Condition`] is what a filter means once its text was parsed. It has two readers: a store turns it into SQL,
//! and [`Condition::holds`] looks at one row. Both must agree on every row.

use crate::store::DeploymentRow;

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
#[derive(Clone, Debug, Eq, PartialEq)]
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
    All(Vec<Condition>),
    /// At least one of these; of none, never.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
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
#[derive(Clone, Debug, Eq, PartialEq)]
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

impl Field {
    /// What this field says of a row.
    pub fn of(self, row: &DeploymentRow) -> Option<Value> {
        todo!("{row:?}")
    }
}

impl Condition {
    /// Whether it is true of this row.
    pub fn holds(&self, row: &DeploymentRow) -> bool {
        todo!("{row:?}")
    }
}
