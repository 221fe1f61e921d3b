//! A filter as people write it, by AIP-160: `state = failed AND created_at >= 2026-01-31`.
//!
//! `OR` binds tighter than `AND`, as that standard wants it: `a AND b OR c` is `a AND (b OR c)`. Terms with nothing
//! between them are all wanted. What is special here:
//!
//! - `:` asks of a text whether it contains the value, of anything else whether it is equal; `field:*` asks whether
//!   there is a value at all.
//! - `namespace = prod*` finds what begins so. Other wildcards are refused.
//! - A time is a text in quotes. A day is the whole of it, in UTC: `created_at <= 2026-01-31` takes that day in.
//! - A bare word is looked for in `namespace`, `job_id` and `id`.

mod error;
mod term;

use std::fmt;

use aip_160::{Expression, parse_filter_with_max_depth};
use orchestrator_core::Time;

use super::field::Kind;
use super::{Condition, Faults, Relation, Value};

pub use error::{FilterError, FilterErrors};

/// The longest filter, in bytes.
pub const FILTER_BYTES_MAX: usize = 4096;
/// How deep parentheses may stand in each other.
pub const FILTER_DEPTH_MAX: usize = 50;
/// The most terms: comparisons and bare words.
pub const FILTER_TERMS_MAX: usize = 200;

impl Condition {
    /// Reads a filter, or tells everything that is wrong with it. An empty text is always true.
    pub fn parse(filter: &str) -> Result<Self, FilterErrors> {
        if filter.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong(filter.len()).into());
        }
        let parsed = parse_filter_with_max_depth(filter, FILTER_DEPTH_MAX)
            .map_err(|error| FilterError::unread(filter, &error))?;
        let Some(expression) = parsed.expression else {
            return Ok(Self::All(Vec::new()));
        };
        let terms = terms(&expression);
        if terms > FILTER_TERMS_MAX {
            return Err(FilterError::TooManyTerms(terms).into());
        }
        let mut errors = Vec::new();
        let condition = read(&expression, &mut errors);
        if errors.is_empty() {
            Ok(condition)
        } else {
            Err(Faults(errors))
        }
    }
}

fn terms(expression: &Expression) -> usize {
    match expression {
        Expression::And(parts) | Expression::Sequence(parts) | Expression::Or(parts) => {
            parts.iter().map(terms).sum()
        }
        Expression::Not(part) => terms(part),
        Expression::Restriction(_) | Expression::Global(_) => 1,
    }
}

/// Where there is an error, the condition is of no use.
fn read(expression: &Expression, errors: &mut Vec<FilterError>) -> Condition {
    let term = match expression {
        Expression::And(parts) | Expression::Sequence(parts) => {
            return Condition::All(flat(parts, errors, |part| match part {
                Condition::All(parts) => Ok(parts),
                other => Err(other),
            }));
        }
        Expression::Or(parts) => {
            return Condition::Any(flat(parts, errors, |part| match part {
                Condition::Any(parts) => Ok(parts),
                other => Err(other),
            }));
        }
        Expression::Not(part) => return Condition::Not(Box::new(read(part, errors))),
        Expression::Restriction(restriction) => term::comparison(restriction),
        Expression::Global(word) => term::search(word),
    };
    term.unwrap_or_else(|error| {
        errors.push(error);
        Condition::All(Vec::new())
    })
}

/// The parts, and in place of one that `open` takes apart its own parts: what a store makes of a condition is not to
/// nest deeper than it must.
fn flat(
    parts: &[Expression],
    errors: &mut Vec<FilterError>,
    open: fn(Condition) -> Result<Vec<Condition>, Condition>,
) -> Vec<Condition> {
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        match open(read(part, errors)) {
            Ok(inner) => all.extend(inner),
            Err(part) => all.push(part),
        }
    }
    all
}

/// As a filter that [`Condition::parse`] reads, whatever it was read from: every and none become `id:*` and
/// `NOT id:*`.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(parts) if parts.is_empty() => f.write_str("id:*"),
            Self::Any(parts) if parts.is_empty() => f.write_str("NOT id:*"),
            Self::All(parts) => join(f, parts, " AND "),
            Self::Any(parts) => join(f, parts, " OR "),
            Self::Not(part) => {
                f.write_str("NOT ")?;
                part.write_inside(f)
            }
            Self::Present(field) => write!(f, "{field}:*"),
            Self::Compare(field, relation, value) => {
                write!(f, "{field} {relation} ")?;
                match (value, field.kind()) {
                    (Value::Text(word), Kind::Word(_)) => f.write_str(word),
                    (Value::Text(text), _) => write!(f, "{}", aip_160::Value::String(text.clone())),
                    (Value::Number(millis), Kind::Time) => {
                        let millis = u64::try_from(*millis).unwrap_or_default();
                        write!(f, "\"{}\"", Time::from_millis(millis))
                    }
                    (Value::Number(number), _) => write!(f, "{number}"),
                }
            }
        }
    }
}

impl Condition {
    /// As a part of another one.
    fn write_inside(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) | Self::Any(_) | Self::Not(_) => write!(f, "({self})"),
            Self::Present(_) | Self::Compare(..) => write!(f, "{self}"),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, parts: &[Condition], between: &str) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(between)?;
        }
        part.write_inside(f)?;
    }
    Ok(())
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Contains => ":",
        })
    }
}
