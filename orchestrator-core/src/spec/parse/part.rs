//! One object of a document, and readers for the kinds of fields that it may have.

use serde_json::{Map, Value};

use super::error::{Errors, SHOWN_MAX, found, join};
use crate::time::Span;

/// One object of the document. Every reader gives `None` only after it has reported why.
pub(crate) struct Part<'a> {
    path: String,
    pub(crate) fields: &'a Map<String, Value>,
    pub(crate) errors: &'a mut Errors,
}

impl<'a> Part<'a> {
    pub(crate) fn open(
        errors: &'a mut Errors,
        path: String,
        value: &'a Value,
        known: &[&str],
    ) -> Option<Self> {
        let Some(fields) = value.as_object() else {
            let field = if path.is_empty() {
                "document".into()
            } else {
                path
            };
            errors.add(field, found(value), "an object".into());
            return None;
        };
        let mut part = Self {
            path,
            fields,
            errors,
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let near = known
                .iter()
                .map(|field| (distance(name, field), field))
                .min();
            let allowed = match near {
                Some((edits @ 0..=2, field)) if 3 * edits <= field.len() => {
                    format!("there is no such field; the nearest is {field}")
                }
                _ => format!(
                    "there is no such field; the fields are {}",
                    known.join(", ")
                ),
            };
            part.reject(name, allowed);
        }
        Some(part)
    }

    pub(crate) fn at(&self, name: &str) -> String {
        join(&self.path, name)
    }

    pub(crate) fn reject(&mut self, name: &str, allowed: String) {
        let found = self.fields.get(name).map(found).unwrap_or_default();
        self.errors.add(self.at(name), found, allowed);
    }

    /// A field that is not given is `default`, or an error where there is none.
    pub(crate) fn read<T>(
        &mut self,
        name: &str,
        default: Option<T>,
        allowed: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.fields.get(name).map_or(default, read);
        if value.is_none() {
            self.reject(name, allowed.into());
        }
        value
    }

    pub(crate) fn flag(&mut self, name: &str) -> Option<bool> {
        self.read(name, Some(false), "true or false", Value::as_bool)
    }

    pub(crate) fn whole(&mut self, name: &str, default: Option<u32>, max: u32) -> Option<u32> {
        self.read(
            name,
            default,
            &format!("a whole number from 0 to {max}"),
            |value| {
                value
                    .as_u64()
                    .and_then(|number| number.try_into().ok())
                    .filter(|number| *number <= max)
            },
        )
    }

    pub(crate) fn number(&mut self, name: &str, default: f64, max: u32) -> Option<f64> {
        self.read(
            name,
            Some(default),
            &format!("a number from 0 to {max}"),
            |value| {
                let number = value
                    .as_f64()
                    .filter(|number| (0.0..=f64::from(max)).contains(number))?;
                // The sum makes -0.0 the 0.0 that it is shown as.
                Some(number + 0.0)
            },
        )
    }

    pub(crate) fn span(
        &mut self,
        name: &str,
        default: Option<Span>,
        min: Span,
        max: Span,
    ) -> Option<Span> {
        let allowed = format!("a length of time such as \"1m 30s\", from {min} to {max}");
        self.read(name, default, &allowed, |value| {
            value
                .as_str()?
                .parse()
                .ok()
                .filter(|span| (min..=max).contains(span))
        })
    }

    /// The first one is the default.
    pub(crate) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Option<T> {
        let allowed = choices
            .iter()
            .map(|(word, _)| *word)
            .collect::<Vec<_>>()
            .join(", ");
        self.read(
            name,
            Some(choices[0].1),
            &format!("one of {allowed}"),
            |value| {
                choices
                    .iter()
                    .find(|(word, _)| value.as_str() == Some(word))
                    .map(|(_, choice)| *choice)
            },
        )
    }
}

/// How many characters to insert, remove or replace to make one name of the other.
fn distance(name: &str, field: &str) -> usize {
    if name.len() > SHOWN_MAX {
        return name.len();
    }
    let mut row: Vec<usize> = (0..=field.len()).collect();
    for (i, a) in name.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in field.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j].min(diagonal) + 1);
        }
    }
    row[field.len()]
}
