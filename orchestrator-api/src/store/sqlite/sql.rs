//! Conditions as SQL, with every value bound.
//!
//! SQL knows three truth values, and lists know two: here nothing is ever NULL, so that NOT means not.

use std::fmt::Write;

use rusqlite::types::Value as Bind;

use crate::list::{Condition, Field, Relation, Value};

/// SQL and what is bound in it, in the order of its question marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Sql {
    pub(super) text: String,
    pub(super) binds: Vec<Bind>,
    /// How long it takes for one row, where a row itself takes [`ROW`].
    pub(super) cost: u32,
}

/// As measured: so many comparisons take as long as to read a row by an index.
pub(super) const ROW: u32 = 16;
const COMPARISON: u32 = 1;
const SEARCH: u32 = 12;
/// To write out an id.
const ID: u32 = 160;

impl Sql {
    pub(super) fn push(&mut self, text: &str, binds: impl IntoIterator<Item = Bind>) {
        self.text.push_str(text);
        self.binds.extend(binds);
    }

    pub(super) fn append(&mut self, other: &Self) {
        self.push(&other.text, other.binds.iter().cloned());
    }
}

/// The field's column, which is also how its index is called: `deployments_` and this.
pub(super) fn column(field: Field) -> &'static str {
    match field {
        Field::Id => "id",
        Field::Namespace => "namespace",
        Field::JobId => "job_id",
        Field::Type => "type",
        Field::State => "state",
        Field::FromVersion => "from_version",
        Field::ToVersion => "to_version",
        Field::TotalNodes => "total_nodes",
        Field::UpdatedNodes => "updated_nodes",
        Field::FailedNodes => "failed_nodes",
        Field::Revision => "revision",
        Field::CreatedAt => "created_at",
        Field::UpdatedAt => "updated_at",
        Field::CompletedAt => "completed_at",
    }
}

/// The table by the index of this field, for what comes after FROM.
pub(super) fn along(field: Field) -> Sql {
    let mut sql = Sql::default();
    let column = column(field);
    let text = format!("deployments INDEXED BY deployments_{column} WHERE ");
    sql.push(&text, None);
    sql
}

/// Whether a row may lack the field.
pub(super) fn may_lack(field: Field) -> bool {
    field == Field::CompletedAt
}

/// Whether the field is compared as a text.
pub(super) fn is_text(field: Field) -> bool {
    matches!(
        field,
        Field::Id | Field::Namespace | Field::JobId | Field::Type | Field::State
    )
}

/// The value as it stands in the field's column. `None` if it is not of the field's type, or an id that no row has.
pub(super) fn bind(field: Field, value: &Value) -> Option<Bind> {
    match value {
        Value::Text(text) if field == Field::Id => {
            let id = uuid::Uuid::try_parse(text).ok()?;
            (id.hyphenated().to_string() == *text).then(|| Bind::Blob(id.as_bytes().to_vec()))
        }
        Value::Text(text) => is_text(field).then(|| Bind::Text(text.clone())),
        Value::Number(number) => (!is_text(field)).then_some(Bind::Integer(*number)),
    }
}

/// The condition, as 0 or 1.
pub(super) fn condition(condition: &Condition) -> Sql {
    let mut sql = Sql::default();
    render(condition, &mut sql);
    sql
}

fn render(condition: &Condition, sql: &mut Sql) {
    match condition {
        Condition::All(parts) => joined(parts, " AND ", "1", sql),
        Condition::Any(parts) => joined(parts, " OR ", "0", sql),
        Condition::Not(part) => {
            sql.push("NOT ", None);
            render(part, sql);
        }
        Condition::Present(field) if may_lack(*field) => {
            write!(sql.text, "({} IS NOT NULL)", column(*field)).expect("a string takes it all");
        }
        Condition::Present(_) => sql.push("1", None),
        Condition::Compare(field, relation, value) => compare(*field, *relation, value, sql),
    }
}

fn joined(parts: &[Condition], word: &str, none: &str, sql: &mut Sql) {
    if parts.is_empty() {
        return sql.push(none, None);
    }
    for (index, part) in parts.iter().enumerate() {
        sql.push(if index == 0 { "(" } else { word }, None);
        render(part, sql);
    }
    sql.push(")", None);
}

fn compare(field: Field, relation: Relation, value: &Value, sql: &mut Sql) {
    let mut shown = shown(field);
    sql.cost += COMPARISON;
    let bind = match value {
        Value::Text(text) if field == Field::Id && relation != Relation::Contains => {
            // Bytes are in the order of what they show. Only what is no id has to be compared to what is shown.
            match bind(field, value) {
                Some(bytes) => {
                    shown = column(field);
                    bytes
                }
                None => {
                    sql.cost += ID;
                    Bind::Text(text.clone())
                }
            }
        }
        Value::Text(text) if is_text(field) => match relation {
            Relation::Contains => Bind::Text(text.to_ascii_lowercase()),
            _ => Bind::Text(text.clone()),
        },
        Value::Number(number) if !is_text(field) && relation != Relation::Contains => {
            Bind::Integer(*number)
        }
        // Of another type: never true.
        _ => return sql.push("0", None),
    };
    let operator = match relation {
        Relation::Equal => "=",
        Relation::NotEqual => "<>",
        Relation::Less => "<",
        Relation::LessOrEqual => "<=",
        Relation::Greater => ">",
        Relation::GreaterOrEqual => ">=",
        // `lower` of SQLite knows the letters of ASCII only, which is what is wanted.
        Relation::Contains => {
            write!(sql.text, "(instr(lower({shown}), ?) > 0)").expect("a string takes it all");
            sql.cost += if field == Field::Id { ID } else { SEARCH };
            sql.binds.push(bind);
            return;
        }
    };
    if may_lack(field) {
        write!(sql.text, "ifnull({shown} {operator} ?, 0)")
    } else {
        write!(sql.text, "({shown} {operator} ?)")
    }
    .expect("a string takes it all");
    sql.binds.push(bind);
}

/// The field as people see it: the id is kept as bytes.
fn shown(field: Field) -> &'static str {
    match field {
        Field::Id => {
            "(substr(lower(hex(id)), 1, 8) || '-' || substr(lower(hex(id)), 9, 4) || '-' || \
             substr(lower(hex(id)), 13, 4) || '-' || substr(lower(hex(id)), 17, 4) || '-' || \
             substr(lower(hex(id)), 21))"
        }
        field => column(field),
    }
}
