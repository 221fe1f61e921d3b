//! An order as people write it, by AIP-132: `created_at desc, failed_nodes`.

use std::fmt;

use super::{Faults, Field, Order, shown};

/// The most fields that a list can be ordered by.
pub const ORDER_FIELDS_MAX: usize = 5;

impl Order {
    /// Reads fields between commas, each with `desc` or `asc` after it or nothing, which is `asc`. An empty text is
    /// the order that lists have by themselves.
    pub fn parse(order_by: &str) -> Result<Self, OrderErrors> {
        if order_by.trim().is_empty() {
            return Ok(Self::default());
        }
        let parts = order_by.split(',').count();
        if parts > ORDER_FIELDS_MAX {
            return Err(OrderError::TooMany(parts).into());
        }
        let (mut fields, mut errors) = (Vec::new(), Vec::new());
        for part in order_by.split(',') {
            match read(part) {
                Ok((field, _)) if fields.iter().any(|&(known, _)| known == field) => {
                    errors.push(OrderError::Twice(field));
                }
                Ok(entry) => fields.push(entry),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(fields))
        } else {
            Err(Faults(errors))
        }
    }
}

fn read(part: &str) -> Result<(Field, bool), OrderError> {
    let mut words = part.split_whitespace();
    let name = words.next().ok_or(OrderError::Empty)?;
    let field = Field::named(name).ok_or_else(|| OrderError::Unknown(shown(name)))?;
    match (words.next(), words.next()) {
        (None, _) | (Some("asc"), None) => Ok((field, false)),
        (Some("desc"), None) => Ok((field, true)),
        _ => Err(OrderError::Direction(shown(part.trim()), field)),
    }
}

/// As [`Order::parse`] reads it; empty for the order that lists have by themselves.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (field, descends)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            let direction = if *descends { " desc" } else { "" };
            write!(f, "{separator}{field}{direction}")?;
        }
        Ok(())
    }
}

/// Everything that is wrong with an order.
pub type OrderErrors = Faults<OrderError>;

/// One thing that is wrong with an order.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OrderError {
    /// A list is ordered by a few fields.
    #[error("the order has {0} fields: name at most {ORDER_FIELDS_MAX}")]
    TooMany(usize),
    /// A comma too many.
    #[error(
        "the order has a comma with no field beside it: name one of {fields} there, or leave the comma out",
        fields = Field::names())]
    Empty,
    /// No field has this name.
    #[error(
        "the order has `{0}`, and there is no such field: name one of {fields}",
        fields = Field::names())]
    Unknown(String),
    /// The second has no say.
    #[error(
        "the order has `{0}` twice: leave one out, or name another of {fields}",
        fields = Field::names())]
    Twice(Field),
    /// Something else than a direction comes after the field.
    #[error("the order has `{0}`: write `{1}` or `{1} desc`, and a comma between fields")]
    Direction(String, Field),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_what_it_says() {
        use Field::{CreatedAt, FailedNodes, State};
        for (text, fields) in [
            ("", vec![]),
            (" \t ", vec![]),
            ("state", vec![(State, false)]),
            ("status.state asc", vec![(State, false)]),
            (
                "  created_at   desc ,failed_nodes",
                vec![(CreatedAt, true), (FailedNodes, false)],
            ),
        ] {
            let order = Order::parse(text).unwrap();
            assert_eq!(order, Order(fields), "{text:?}");
            assert_eq!(Order::parse(&order.to_string()), Ok(order), "{text:?}");
        }
    }

    #[test]
    fn an_error_says_what_to_write() {
        let fields = Field::names();
        for (text, expected) in [
            (
                "create_at desc",
                format!("the order has `create_at`, and there is no such field: name one of {fields}"),
            ),
            (
                "state, status.state desc",
                format!("the order has `state` twice: leave one out, or name another of {fields}"),
            ),
            (
                "state DESC",
                "the order has `state DESC`: write `state` or `state desc`, and a comma between fields".into(),
            ),
            (
                "state desc id",
                "the order has `state desc id`: write `state` or `state desc`, and a comma between fields".into(),
            ),
            (
                "state,",
                format!(
                    "the order has a comma with no field beside it: name one of {fields} there, or leave the comma out"
                ),
            ),
            (
                "id,id,id,id,id,id",
                "the order has 6 fields: name at most 5".into(),
            ),
        ] {
            assert_eq!(Order::parse(text).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let errors = Order::parse("a, state up, id, id").unwrap_err();
        assert_eq!(
            errors.faults(),
            [
                OrderError::Unknown("a".into()),
                OrderError::Direction("state up".into(), Field::State),
                OrderError::Twice(Field::Id),
            ]
        );
    }
}
