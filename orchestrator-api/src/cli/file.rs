//! Files that people write, TOML or JSON, with every fault shown at its line; and of those the job files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use orchestrator_core::spec::{JobSpec, SPEC_BYTES_MAX, SpecError, SpecErrors};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value, json};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, unread};
use super::show::printable;
use crate::native::Problem;

/// A job document that is right, as far as can be seen without a server.
pub(super) struct JobFile(Written);

/// What a file says, and where each part of that stands.
pub(super) struct Written {
    source: Source,
    is_json: bool,
    value: Value,
    places: Places,
}

struct Source {
    name: String,
    text: String,
}

/// How much of a line is shown.
const EXCERPT_MAX: usize = 120;

/// One thing that is wrong, and what to underline.
pub(super) struct Wrong {
    at: Option<Range<usize>>,
    what: String,
}

impl JobFile {
    /// Reads it; `-` is the standard input. What is wrong with it is told before a server is asked.
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let (file, wrong) = Self::look(path)?;
        match wrong.is_empty() {
            true => Ok(Self(file)),
            false => Err(file.error(wrong)),
        }
    }

    /// The same of one that may be wrong, and all that is.
    pub(super) fn look(path: &Path) -> Result<(Written, Vec<Wrong>), Error> {
        let (file, mut wrong) = Written::read(path)?;
        if file.has("members") && !file.has("driver") {
            return Err(file.is_a("a group of jobs", "group", path));
        }
        // Of JSON the text, which shows keys that are there twice.
        let checked = match file.json() {
            Some(text) => JobSpec::parse(text),
            None => JobSpec::from_value(&file.value),
        };
        file.find_in_job(checked, &file.value, "", &mut wrong);
        Ok((file, wrong))
    }

    pub(super) fn document(&self) -> &Value {
        &self.0.value
    }

    /// The same error, where it is a refusal of what stands in the file: at its lines.
    pub(super) fn placed(&self, why: Error) -> Error {
        placed(why, |pointer| (&self.0, pointer))
    }
}

/// The same error, where it is a refusal of what stands in files: at their lines. `stands` says in which file that is to
/// which a pointer into the request points, and where in it.
pub(super) fn placed<'a>(
    why: Error,
    stands: impl for<'p> Fn(&'p str) -> (&'a Written, &'p str),
) -> Error {
    let Some(Problem { errors, .. }) = why.problem() else {
        return why;
    };
    let mut all: Vec<(&Written, Vec<Wrong>)> = Vec::new();
    for fault in errors {
        let Some(pointer) = fault.pointer.as_deref() else {
            return why;
        };
        let (file, pointer) = stands(pointer);
        let wrong = file.refused(pointer, &fault.detail);
        match all.iter_mut().find(|(known, _)| std::ptr::eq(*known, file)) {
            Some((_, several)) => several.push(wrong),
            None => all.push((file, vec![wrong])),
        }
    }
    let all = all.into_iter().map(|(file, wrong)| file.error(wrong));
    all.reduce(Error::and).unwrap_or(why)
}

impl Written {
    /// Reads it; `-` is the standard input. And what of it has no form in JSON.
    pub(super) fn read(path: &Path) -> Result<(Self, Vec<Wrong>), Error> {
        let text = text(path).map_err(|why| Error::Unreadable {
            path: path.to_owned(),
            why,
        })?;
        let is_json = match path.extension() {
            Some(extension) => extension.eq_ignore_ascii_case("json"),
            None => text.trim_start().starts_with('{'),
        };
        let name = match path.to_str() {
            Some("-") => "stdin".to_owned(),
            _ => path.display().to_string(),
        };
        let source = Source { name, text };
        if is_yaml(path) {
            let what = "this is YAML: write it as TOML or JSON".to_owned();
            return Err(source.error(vec![Wrong { at: None, what }]));
        }
        let mut places = Places::default();
        let read = match is_json {
            true => of_json_text(&source.text, &mut places).map(|value| (value, Vec::new())),
            false => toml(&source.text, &mut places),
        };
        let (value, wrong) = read.map_err(|wrong| source.error(wrong))?;
        let file = Self {
            source,
            is_json,
            value,
            places,
        };
        Ok((file, wrong))
    }

    pub(super) fn value(&self) -> &Value {
        &self.value
    }

    /// Whether there is such a field at its top.
    pub(super) fn has(&self, field: &str) -> bool {
        self.value.get(field).is_some()
    }

    /// It is a file of another kind, and there are commands for those.
    pub(super) fn is_a(&self, kind: &str, command: &str, path: &Path) -> Error {
        let path = path.display();
        let what = format!("this is {kind}: orchestrator {command} plan {path}");
        self.source.error(vec![Wrong { at: None, what }])
    }

    /// Its text, where that is JSON.
    pub(super) fn json(&self) -> Option<&str> {
        self.is_json.then_some(self.source.text.as_str())
    }

    /// Adds what is wrong with the part of it that stands here.
    pub(super) fn find(
        &self,
        errors: impl Iterator<Item = SpecError>,
        here: &str,
        wrong: &mut Vec<Wrong>,
    ) {
        let found = errors.map(|mut error| {
            error.field = match error.field.as_str() {
                WHOLE if !here.is_empty() => here.to_owned(),
                field => part(here, field),
            };
            let said = error.to_string();
            let mut what = match said.strip_prefix(&format!("{}: ", error.field)) {
                Some(rest) => format!("{}: {}", error.field, of_field(rest)),
                None => said,
            };
            if !self.is_json && error.allowed == "an array" && error.value.starts_with('{') {
                what += &format!(": begin each of its items with [[{}]]", error.field);
            }
            self.wrong(&error.field, what)
        });
        // What has no form in JSON is wrong in no other way.
        let told: Vec<_> = wrong.iter().map(|wrong| wrong.at.clone()).collect();
        wrong.extend(found.filter(|found| !told.contains(&found.at)));
    }

    /// Adds what is wrong with the job document that stands here: to the core, or else to the agents that would run it.
    pub(super) fn find_in_job(
        &self,
        checked: Result<JobSpec, SpecErrors>,
        document: &Value,
        here: &str,
        wrong: &mut Vec<Wrong>,
    ) {
        match checked {
            Err(errors) => self.find(errors.errors().iter().cloned(), here, wrong),
            Ok(_) => {
                if let Err(said) = orchestrator_agent::driver::check(document) {
                    let (field, rest) = named(document, here, &said);
                    let what = match field.as_str() {
                        "" => said,
                        field => format!("{field}: {}", of_field(rest)),
                    };
                    wrong.push(self.wrong(&field, what));
                }
            }
        }
    }

    /// What is wrong with this field of it.
    pub(super) fn wrong(&self, field: &str, what: String) -> Wrong {
        self.places.wrong(field, what)
    }

    /// What a server finds wrong with what stands at this JSON pointer.
    fn refused(&self, pointer: &str, detail: &str) -> Wrong {
        let parts = pointer.split('/').skip(1);
        let parts = parts.map(|part| part.replace("~1", "/").replace("~0", "~"));
        let field = parts.fold(String::new(), |path, name| {
            let item = format!("{path}[{name}]");
            match self.places.0.contains_key(&item) {
                true => item,
                false => part(&path, &name),
            }
        });
        let what = match field.as_str() {
            "" => detail.to_owned(),
            field => format!("{field}: {detail}"),
        };
        self.wrong(&field, what)
    }

    /// All that is wrong with it, as one.
    pub(super) fn error(&self, wrong: Vec<Wrong>) -> Error {
        self.source.error(wrong)
    }
}

/// The field that an agent's sentence is about, and what it says of that. It says the way there first, `checks: number 2:
/// path: …`.
fn named<'s>(document: &Value, here: &str, said: &'s str) -> (String, &'s str) {
    let (mut at, mut value, mut rest) = (here.to_owned(), document, said);
    while let Some((word, after)) = rest.split_once(": ") {
        let (name, inner) = match (value, word.strip_prefix("number ")) {
            (Value::Array(items), Some(number)) => {
                let index = number.parse::<usize>().unwrap_or_default().wrapping_sub(1);
                (format!("{at}[{index}]"), items.get(index))
            }
            _ => (part(&at, word), value.get(word)),
        };
        // What is missing has no value.
        if inner.is_none() && after != "missing" {
            break;
        }
        (at, rest) = (name, after);
        match inner {
            Some(inner) => value = inner,
            None => break,
        }
    }
    (at, rest)
}

/// All of a file that is not too long.
fn text(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let most = SPEC_BYTES_MAX as u64 + 1;
    let read = match path.to_str() {
        Some("-") => std::io::stdin().take(most).read_to_end(&mut bytes),
        _ => File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)),
    };
    read.map_err(|why| unread(&why))?;
    if bytes.len() > SPEC_BYTES_MAX {
        return Err(format!("it has more than {SPEC_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "it is no text in UTF-8".to_owned())
}

impl Source {
    /// All that is wrong, in the order of the file.
    fn error(&self, mut wrong: Vec<Wrong>) -> Error {
        wrong.sort_by_key(|wrong| wrong.at.as_ref().map_or(0, |at| at.start));
        let mut text = match wrong.len() {
            1 => format!("{} is wrong in one place", self.name),
            places => format!("{} is wrong in {places} places", self.name),
        };
        let detail = text.clone();
        let mut faults = Vec::new();
        for Wrong { at, what } in wrong {
            text += "\n\n";
            let mut fault = json!({ "file": self.name, "detail": what });
            match at {
                Some(at) => {
                    let (_, line, column) = self.place(&at);
                    fault["line"] = line.into();
                    fault["column"] = column.into();
                    text += &self.shown(at, &what);
                }
                None => text += &format!("{}: {what}", self.name),
            }
            faults.push(fault);
        }
        Error::File {
            text,
            detail,
            wrong: faults,
        }
    }

    /// Where a place's line begins; and the numbers of line and column, from 1.
    fn place(&self, at: &Range<usize>) -> (usize, usize, usize) {
        let start = self.text.floor_char_boundary(at.start);
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count() + 1;
        (line_start, line, column)
    }

    /// A sentence, its line, and a caret under what it is about.
    fn shown(&self, at: Range<usize>, what: &str) -> String {
        let start = self.text.floor_char_boundary(at.start);
        let (line_start, number, column) = self.place(&at);
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        // What is wrong may be how the line ends.
        let end = at.end.min(line_start + line.len()).max(start);
        let width = self.text.get(start..end).map_or(0, |at| at.chars().count());
        // Of a line that goes on and on, what is around the place.
        let skipped = match line.chars().nth(EXCERPT_MAX) {
            Some(_) => (column - 1).saturating_sub(EXCERPT_MAX / 2),
            None => 0,
        };
        let shown: String = line.chars().skip(skipped).take(EXCERPT_MAX).collect();
        let shown = printable(&shown);
        let lead = " ".repeat(column - 1 - skipped);
        let carets = "^".repeat(width.clamp(1, EXCERPT_MAX / 2));
        let gutter = " ".repeat(number.to_string().len());
        format!(
            "{}:{number}:{column}: {what}\n {number} | {shown}\n {gutter} | {lead}{carets}",
            self.name
        )
    }
}

/// Where each field stands; of one that is there twice, the last, which is the one that counts.
#[derive(Default)]
struct Places(BTreeMap<String, Place>);

struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

impl Places {
    fn note(&mut self, field: &str, key: Range<usize>, value: Range<usize>) {
        self.0.insert(field.to_owned(), Place { key, value });
    }

    /// What is missing is wrong where that stands which should have it.
    fn wrong(&self, field: &str, what: String) -> Wrong {
        let mut known = field;
        let at = loop {
            if let Some(Place { key, value }) = self.0.get(known) {
                let of_key = [NO_SUCH_FIELD, "each field only once"];
                let is_key = known != field || of_key.iter().any(|said| what.contains(said));
                break Some(if is_key { key } else { value }.clone());
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None => break None,
            }
        };
        Wrong { at, what }
    }
}

/// What is said of a field that nobody knows.
const NO_SUCH_FIELD: &str = "there is no such field";

/// What is said of a field; of one that nobody knows not its value, which is not what is wrong.
fn of_field(said: &str) -> &str {
    let end = format!(" is not allowed; {NO_SUCH_FIELD}");
    match said.find(&end) {
        Some(at) => &said[at + end.len() - NO_SUCH_FIELD.len()..],
        None => said,
    }
}

fn is_yaml(path: &Path) -> bool {
    let is = |name: &str| {
        path.extension()
            .is_some_and(|it| it.eq_ignore_ascii_case(name))
    };
    is("yaml") || is("yml")
}

/// How the core calls a document as a whole.
const WHOLE: &str = "document";

/// As the core names the parts of a document.
fn part(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// The value, and what in it JSON has no form for.
fn toml(text: &str, places: &mut Places) -> Result<(Value, Vec<Wrong>), Vec<Wrong>> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let wrong = errors.iter().map(|error| Wrong {
            at: error.span(),
            what: format!("TOML: {}", error.message().replace('\n', "; ")),
        });
        return Err(wrong.collect());
    }
    let mut wrong = Vec::new();
    let value = of_table("", table.get_ref(), places, &mut wrong);
    Ok((value, wrong))
}

fn of_table(path: &str, table: &DeTable<'_>, places: &mut Places, wrong: &mut Vec<Wrong>) -> Value {
    let fields = table.iter().map(|(key, value)| {
        let path = part(path, key.get_ref());
        places.note(&path, key.span(), value.span());
        let value = of_toml(&path, value, places, wrong);
        (key.get_ref().to_string(), value)
    });
    Value::Object(fields.collect())
}

fn of_toml(
    path: &str,
    value: &Spanned<DeValue<'_>>,
    places: &mut Places,
    wrong: &mut Vec<Wrong>,
) -> Value {
    let mut refuse = |what: &str| {
        wrong.push(Wrong {
            at: Some(value.span()),
            what: format!("{path}: {what}"),
        });
        Value::Null
    };
    match value.get_ref() {
        DeValue::String(text) => text.to_string().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => refuse("a number of more than 64 bits"),
        },
        DeValue::Float(number) => {
            let number = number.as_str().parse().ok().and_then(Number::from_f64);
            match number {
                Some(number) => Value::Number(number),
                None => refuse("a number that is none: JSON, which is sent, has no such thing"),
            }
        }
        DeValue::Datetime(_) => refuse("a job has no dates; put it in quotes"),
        DeValue::Array(items) => {
            let items = items.iter().enumerate().map(|(index, item)| {
                let path = format!("{path}[{index}]");
                places.note(&path, item.span(), item.span());
                of_toml(&path, item, places, wrong)
            });
            Value::Array(items.collect())
        }
        DeValue::Table(table) => of_table(path, table, places, wrong),
    }
}

fn of_json_text(text: &str, places: &mut Places) -> Result<Value, Vec<Wrong>> {
    let value = serde_json::from_str(text).map_err(|why| {
        let lines = text
            .split_inclusive('\n')
            .take(why.line().saturating_sub(1));
        let start: usize = lines.map(str::len).sum::<usize>() + why.column().saturating_sub(1);
        let why = why.to_string();
        let why = why.rsplit_once(" at line ").map_or(&*why, |(why, _)| why);
        vec![Wrong {
            at: Some(start..start + 1),
            what: format!("JSON: {why}"),
        }]
    })?;
    of_json(text, "", text, places);
    Ok(value)
}

/// Notes where everything in a piece of a JSON text stands.
fn of_json(all: &str, path: &str, piece: &str, places: &mut Places) {
    let within = |piece: &str| {
        let start = piece.as_ptr() as usize - all.as_ptr() as usize;
        start..start + piece.len()
    };
    if let Ok(Fields(fields)) = serde_json::from_str(piece) {
        for (key, value) in fields {
            let name: String = serde_json::from_str(key).expect("it was read as a key");
            let path = part(path, &name);
            places.note(&path, within(key), within(value));
            of_json(all, &path, value, places);
        }
    } else if let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(piece) {
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            places.note(&path, within(item.get()), within(item.get()));
            of_json(all, &path, item.get(), places);
        }
    }
}

/// The keys and values of an object, as they are written.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> serde::de::Visitor<'de> for Read {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut object: A,
            ) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some((key, value)) = object.next_entry::<&RawValue, &RawValue>()? {
                    fields.push((key.get(), value.get()));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Read)
    }
}
