//! What is wrong with a document, told to the one who wrote it.

use std::fmt;

use serde_json::Value;

/// Everything that is wrong with one document, in its order; never empty, at most 100.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpecErrors(Vec<SpecError>);

impl SpecErrors {
    /// One for each thing to change.
    pub fn errors(&self) -> &[SpecError] {
        &self.0
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SpecErrors {}

/// One thing that is wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SpecError {
    /// Where: `rollout.health_check.deadline`; for text that is no JSON its line and column.
    pub field: String,
    /// What was found there, shortened to 80 characters; empty where nothing was.
    pub value: String,
    /// What may be there.
    pub allowed: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            field,
            value,
            allowed,
        } = self;
        match value.as_str() {
            "" => write!(f, "{field}: missing; {allowed}"),
            _ => write!(f, "{field}: {value} is not allowed; {allowed}"),
        }
    }
}

impl std::error::Error for SpecError {}

const ERRORS_MAX: usize = 100;
/// What is kept of a found value or of a key, in characters.
pub(super) const SHOWN_MAX: usize = 80;

/// What was found wrong so far; what is beyond the bound is dropped.
#[derive(Default)]
pub(crate) struct Errors(Vec<SpecError>);

impl Errors {
    pub(crate) fn add(&mut self, field: String, value: String, allowed: String) {
        if self.0.len() < ERRORS_MAX {
            self.0.push(SpecError {
                field,
                value,
                allowed,
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Errors of one rank stay in the order in which they were found.
    pub(crate) fn in_order(mut self, rank: impl Fn(&str) -> usize) -> SpecErrors {
        self.0.sort_by_cached_key(|error| rank(&error.field));
        SpecErrors(self.0)
    }
}

/// The only error of a document that cannot be looked into.
pub(super) fn only(field: String, value: String, allowed: String) -> SpecErrors {
    SpecErrors(vec![SpecError {
        field,
        value,
        allowed,
    }])
}

pub(crate) fn join(path: &str, name: &str) -> String {
    let separator = if path.is_empty() { "" } else { "." };
    format!("{path}{separator}{}", short(name))
}

pub(crate) fn found(value: &Value) -> String {
    short(&value.to_string())
}

/// Without what would break the line that it is printed in.
pub(super) fn short(text: &str) -> String {
    let printable = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    if text.chars().nth(SHOWN_MAX).is_none() {
        return text.chars().map(printable).collect();
    }
    text.chars()
        .take(SHOWN_MAX - 1)
        .map(printable)
        .chain(['…'])
        .collect()
}
