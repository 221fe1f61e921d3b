//! One object of a body, and readers for the kinds of fields that it may have.

use serde_json::{Map, Value};

use super::problem::{Fault, escaped};

/// One object of a body. Every reader gives `None` for what is absent, and after it has reported why.
#[derive(Debug)]
pub(super) struct Fields<'a, 'f> {
    pointer: String,
    fields: &'a Map<String, Value>,
    faults: &'f mut Vec<Fault>,
}

/// What is found of a faulty value is shown no longer than this.
const SHOWN_MAX: usize = 80;

impl<'a, 'f> Fields<'a, 'f> {
    /// The object at this place of a body. What is in it and not known is a fault.
    pub(super) fn open(
        pointer: String,
        value: &'a Value,
        known: &[&str],
        faults: &'f mut Vec<Fault>,
    ) -> Option<Self> {
        let Some(fields) = value.as_object() else {
            let detail = format!("{} is not allowed; an object", shown(value));
            faults.push(Fault::at(pointer, detail));
            return None;
        };
        for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
            let detail = match known {
                [] => "there is no such field; the object has none".to_owned(),
                _ => format!(
                    "there is no such field; the fields are {}",
                    known.join(", ")
                ),
            };
            faults.push(Fault::at(format!("{pointer}/{}", escaped(name)), detail));
        }
        Some(Self {
            pointer,
            fields,
            faults,
        })
    }

    /// A field that may be absent.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        allowed: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.fields.get(name)?;
        let read = read(value);
        if read.is_none() {
            self.fault(name, format!("{} is not allowed; {allowed}", shown(value)));
        }
        read
    }

    /// A field that has to be there.
    pub(super) fn need<T>(
        &mut self,
        name: &str,
        allowed: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Option<T> {
        if !self.fields.contains_key(name) {
            self.fault(name, format!("missing; {allowed}"));
        }
        self.read(name, allowed, read)
    }

    /// A whole number that may be absent.
    pub(super) fn whole<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        self.read(name, "a whole number, 0 or more", whole)
    }

    /// A whole number.
    pub(super) fn need_whole<T: TryFrom<u64>>(&mut self, name: &str) -> Option<T> {
        self.need(name, "a whole number, 0 or more", whole)
    }

    /// Texts by name, none where they are absent.
    pub(super) fn texts<C: FromIterator<(String, String)>>(&mut self, name: &str) -> Option<C> {
        let Some(value) = self.fields.get(name) else {
            return Some(std::iter::empty().collect());
        };
        let Some(texts) = value.as_object() else {
            self.fault(
                name,
                format!("{} is not allowed; an object of strings", shown(value)),
            );
            return None;
        };
        let before = self.faults.len();
        for (key, value) in texts.iter().filter(|(_, value)| !value.is_string()) {
            let detail = format!("{} is not allowed; a string", shown(value));
            self.fault(&format!("{name}/{}", escaped(key)), detail);
        }
        let text =
            |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
        (self.faults.len() == before).then(|| texts.iter().filter_map(text).collect())
    }

    /// The object in a field that has to be there.
    pub(super) fn need_object(&mut self, name: &str, known: &[&str]) -> Option<Fields<'a, '_>> {
        let value = self.need(name, "an object", Some)?;
        Fields::open(
            format!("{}/{name}", self.pointer),
            value,
            known,
            self.faults,
        )
    }

    /// Refuses known fields that do not go with what another one says.
    pub(super) fn only(&mut self, kind: &str, allowed: &[&str]) {
        let others = self.fields.keys().filter(|name| *name != "kind");
        let others = others.filter(|name| !allowed.contains(&name.as_str()));
        for name in others {
            self.faults.push(Fault::at(
                format!("{}/{}", self.pointer, escaped(name)),
                format!("{kind:?} has no such field"),
            ));
        }
    }

    /// Refuses what a field says.
    pub(super) fn refuse(&mut self, name: &str, allowed: &str) {
        let found = self.fields.get(name).map(shown).unwrap_or_default();
        self.fault(name, format!("{found} is not allowed; {allowed}"));
    }

    fn fault(&mut self, name: &str, detail: String) {
        let pointer = format!("{}/{name}", self.pointer);
        self.faults.push(Fault::at(pointer, detail));
    }
}

/// No number is larger that is given or taken: one of 64 bits with a sign, as the contract says it.
pub(super) fn bounded<T: TryFrom<u64>>(number: u64) -> Option<T> {
    i64::try_from(number).ok()?;
    number.try_into().ok()
}

fn whole<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    bounded(value.as_u64()?)
}

fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
