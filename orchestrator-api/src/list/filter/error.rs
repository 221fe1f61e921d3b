//! What is wrong with a filter, told to the one who wrote it.

use super::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_TERMS_MAX};
use crate::list::{Faults, Field, shown};

/// Everything that is wrong with a filter.
pub type FilterErrors = Faults<FilterError>;

/// One thing that is wrong with a filter.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// More than [`FILTER_BYTES_MAX`].
    #[error("the filter has {0} bytes: write it in at most {FILTER_BYTES_MAX}")]
    TooLong(usize),
    /// More than [`FILTER_DEPTH_MAX`].
    #[error(
        "the filter has more than {FILTER_DEPTH_MAX} parentheses within each other: write it with fewer"
    )]
    TooDeep,
    /// More than [`FILTER_TERMS_MAX`].
    #[error("the filter has {0} terms: write it with at most {FILTER_TERMS_MAX}")]
    TooManyTerms(usize),
    /// It follows no grammar from there on.
    #[error("the filter cannot be read from {place} on: {why}; {instead}")]
    Syntax {
        /// Which character, and what stands there.
        place: String,
        /// What is wrong there.
        why: String,
        /// What to write.
        instead: &'static str,
    },
    /// No field has this name.
    #[error(
        "in `{term}`: there is no field `{field}`; name one of {}",
        Field::names()
    )]
    Field {
        /// Where.
        term: String,
        /// What was named.
        field: String,
    },
    /// The value is none of the field's.
    #[error("in `{term}`: `{value}` is not allowed for `{field}`; write {allowed}")]
    Value {
        /// Where.
        term: String,
        /// The field that it was compared to.
        field: Field,
        /// What was found.
        value: String,
        /// What may be there.
        allowed: String,
    },
    /// The term says something that is not supported.
    #[error("in `{term}`: {why}; {instead}")]
    Term {
        /// Where.
        term: String,
        /// What it is.
        why: String,
        /// What to write.
        instead: String,
    },
}

impl FilterError {
    pub(super) fn unread(filter: &str, error: &aip_160::FilterError) -> Self {
        match error {
            aip_160::FilterError::Syntax { offset, message } => {
                syntax(filter, *offset, message.clone())
            }
            aip_160::FilterError::TooDeep { .. } => Self::TooDeep,
            other => syntax(filter, 0, other.to_string()),
        }
    }
}

fn syntax(filter: &str, offset: usize, why: String) -> FilterError {
    let (before, rest) = filter.split_at_checked(offset).unwrap_or((filter, ""));
    let character = before.chars().count() + 1;
    let place = match rest {
        "" => "its end".into(),
        _ => format!("character {character} (`{}`)", shown(rest)),
    };
    // The grammar has a colon for its own.
    let is_time = rest.starts_with(':') && before.ends_with(|last: char| last.is_ascii_digit());
    let instead = if is_time {
        "put a time in quotes: created_at > \"2026-01-31T09:00:00Z\""
    } else {
        "write, for one: state = failed AND (namespace = \"prod\" OR failed_nodes > 3)"
    };
    FilterError::Syntax {
        place,
        why,
        instead,
    }
}
