//! Places in a list, as the columns have their values.

use rusqlite::types::Value as Bind;

use super::misuse;
use super::sql::{bind, may_lack};
use crate::list::{Field, Order, Place, Value};

/// The place as the key of a row.
pub(super) fn key(
    order: &Order,
    fields: &[(Field, bool)],
    place: &Place,
) -> rusqlite::Result<Vec<Bind>> {
    let wrong = || misuse("the place is not one of this list");
    fields
        .iter()
        .map(|(field, _)| {
            if *field == Field::Id {
                return bind(Field::Id, &Value::Text(place.id.clone())).ok_or_else(wrong);
            }
            let at = order.0.iter().position(|(known, _)| known == field);
            match at.and_then(|at| place.values.get(at)) {
                Some(Some(value)) => bind(*field, value).ok_or_else(wrong),
                Some(None) if may_lack(*field) => Ok(Bind::Null),
                _ => Err(wrong()),
            }
        })
        .collect()
}

/// What a column holds, as people see it.
pub(super) fn shown(bind: &Bind) -> Option<Value> {
    match bind {
        Bind::Null => None,
        Bind::Integer(number) => Some(Value::Number(*number)),
        Bind::Text(text) => Some(Value::Text(text.clone())),
        Bind::Blob(id) => {
            let id = uuid::Uuid::from_slice(id).expect("16 bytes: ids are written by this store");
            Some(Value::Text(id.hyphenated().to_string()))
        }
        Bind::Real(_) => unreachable!("no column holds such numbers"),
    }
}
