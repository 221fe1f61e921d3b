//! Reads JSON text, and keeps what is needed to speak about it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::SPEC_BYTES_MAX;
use super::error::{Errors, SpecErrors, found, join, only, short};

/// The value of a text that is short enough and JSON.
pub(super) fn read(json: &str) -> Result<(Value, Notes), SpecErrors> {
    if json.len() > SPEC_BYTES_MAX {
        let found = format!("a text of {} bytes", json.len());
        return Err(only(
            "document".into(),
            found,
            format!("at most {SPEC_BYTES_MAX} bytes"),
        ));
    }
    let mut notes = Notes::default();
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let value = ReadValue {
        place: Place::Root,
        depth: 0,
        notes: &mut notes,
    }
    .deserialize(&mut deserializer)
    .and_then(|value| deserializer.end().map(|()| value))
    .map_err(|error| no_json(json, &error))?;
    Ok((value, notes))
}

fn no_json(json: &str, error: &serde_json::Error) -> SpecErrors {
    let (line, column) = (error.line(), error.column());
    let text = json.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    // Where the text ends too early nothing of it is wrong: something is missing.
    let found = match error.is_eof() {
        true => None,
        false => text.get(column.saturating_sub(1)..),
    };
    let why = error.to_string();
    // The place is told once, by the field.
    let why = why.rsplit_once(" at line ").map_or(&*why, |(why, _)| why);
    only(
        format!("line {line}, column {column}"),
        short(found.unwrap_or_default()),
        format!("JSON: {why}"),
    )
}

/// `rollout.health_check.deadline` is as deep as a known field can be.
const KNOWN_DEPTH: usize = 3;

/// What a [`Value`] does not keep of the text it was read from.
#[derive(Default)]
pub(super) struct Notes {
    /// The keys that an object has more than once.
    pub(super) errors: Errors,
    /// In which order the text has its fields.
    pub(super) places: Places,
}

/// Each field's place in the text, down to where the known objects end.
#[derive(Default)]
pub(super) struct Places(BTreeMap<String, usize>);

impl Places {
    /// What is missing stands where the object starts that should have it.
    pub(super) fn rank(&self, mut field: &str) -> usize {
        loop {
            if let Some(rank) = self.0.get(field) {
                return *rank;
            }
            match field.rfind(['.', '[']) {
                Some(end) => field = &field[..end],
                None => return 0,
            }
        }
    }

    fn note(&mut self, field: String) {
        let rank = self.0.len() + 1;
        self.0.entry(field).or_insert(rank);
    }
}

/// Where in the document a value stands.
#[derive(Clone, Copy)]
enum Place<'a> {
    Root,
    Key(&'a Self, &'a str),
    Index(&'a Self, usize),
}

impl Place<'_> {
    fn path(self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Key(parent, key) => join(&parent.path(), key),
            Self::Index(parent, index) => format!("{}[{index}]", parent.path()),
        }
    }
}

/// Reads a [`Value`] as serde_json does, and takes [`Notes`].
struct ReadValue<'a> {
    place: Place<'a>,
    depth: usize,
    notes: &'a mut Notes,
}

impl<'de> DeserializeSeed<'de> for ReadValue<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ReadValue<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Value, A::Error> {
        let Self {
            place,
            depth,
            notes,
        } = self;
        let mut items = Vec::new();
        loop {
            let place = Place::Index(&place, items.len());
            match array.next_element_seed(ReadValue {
                place,
                depth: depth + 1,
                notes,
            })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let Self {
            place,
            depth,
            notes,
        } = self;
        let mut fields = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            let place = Place::Key(&place, &key);
            if depth < KNOWN_DEPTH {
                notes.places.note(place.path());
            }
            let value = object.next_value_seed(ReadValue {
                place,
                depth: depth + 1,
                notes,
            })?;
            if fields.contains_key(&key) {
                notes
                    .errors
                    .add(place.path(), found(&value), "each field only once".into());
            }
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}
