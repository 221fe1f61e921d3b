//! One term of a filter: a comparison or a bare word.

use aip_160::{Arg, Comparable, Comparator, Restriction};
use orchestrator_core::is_name;

use super::FilterError;
use crate::list::field::Kind;
use crate::list::time::{self, Moment};
use crate::list::{Condition, Field, Relation, Value, shown};

/// `failed_nodes > 3`
pub(super) fn comparison(restriction: &Restriction) -> Result<Condition, FilterError> {
    let term = Term(shown(&restriction.to_string()));
    let name = match &restriction.comparable {
        Comparable::Member(member) => member.field_path().unwrap_or_else(|| member.to_string()),
        Comparable::Function(_) => return Err(term.function()),
    };
    let field = Field::named(&name).ok_or_else(|| term.unknown(&name))?;
    let (text, quoted) = match &restriction.arg {
        Arg::Comparable(Comparable::Function(_)) => return Err(term.function()),
        Arg::Comparable(value) => literal(value).ok_or_else(|| term.half_quoted())?,
        Arg::Composite(_) => return Err(term.composite(field, restriction.comparator)),
    };
    if restriction.comparator == Comparator::Has && text == "*" && !quoted {
        return Ok(Condition::Present(field));
    }
    let compared = Compared {
        term,
        field,
        relation: relation(restriction.comparator),
        text,
    };
    match field.kind() {
        Kind::Text => compared.text(),
        Kind::Word(words) => compared.word(words),
        Kind::Number => compared.number(),
        Kind::Time => compared.time(),
    }
}

/// `web`
pub(super) fn search(word: &Comparable) -> Result<Condition, FilterError> {
    let term = Term(shown(&word.to_string()));
    if let Comparable::Function(_) = word {
        return Err(term.function());
    }
    let (text, quoted) = literal(word).ok_or_else(|| term.half_quoted())?;
    let keyword = ["AND", "OR", "NOT"]
        .into_iter()
        .find(|keyword| keyword.eq_ignore_ascii_case(&text));
    if let Some(keyword) = keyword.filter(|_| !quoted) {
        return Err(term.error(
            "this is looked for as a word".into(),
            format!("write {keyword}, or \"{text}\" if that is what you look for"),
        ));
    }
    // Else a filter in some other language would find nothing, and not say why.
    if !is_name(&text) {
        return Err(term.error(
            "no namespace, job or id can contain this".into(),
            "write a part of one, of letters, digits, '-', '_' and '.', or a comparison such as state = failed".into(),
        ));
    }
    let contains = |field| Condition::Compare(field, Relation::Contains, Value::Text(text.clone()));
    let fields = [Field::Namespace, Field::JobId, Field::Id];
    Ok(Condition::Any(fields.map(contains).into()))
}

/// The text of a value, and whether it stood in quotes. The grammar takes `web.v2` for two.
fn literal(value: &Comparable) -> Option<(String, bool)> {
    let member = value.as_member()?;
    match &member.value {
        aip_160::Value::String(text) if member.is_simple() => Some((text.clone(), true)),
        _ => Some((member.field_path()?, false)),
    }
}

fn relation(comparator: Comparator) -> Relation {
    match comparator {
        Comparator::Equal => Relation::Equal,
        Comparator::NotEqual => Relation::NotEqual,
        Comparator::LessThan => Relation::Less,
        Comparator::LessThanOrEqual => Relation::LessOrEqual,
        Comparator::GreaterThan => Relation::Greater,
        Comparator::GreaterThanOrEqual => Relation::GreaterOrEqual,
        Comparator::Has => Relation::Contains,
    }
}

/// A comparison whose value is still a text.
struct Compared {
    term: Term,
    field: Field,
    relation: Relation,
    text: String,
}

impl Compared {
    fn text(self) -> Result<Condition, FilterError> {
        let text = match self.field {
            // As they are kept.
            Field::Id => self.text.to_ascii_lowercase(),
            _ => self.text,
        };
        let (field, relation) = (self.field, self.relation);
        let Some(at) = text.find('*') else {
            return Ok(Condition::Compare(field, relation, Value::Text(text)));
        };
        match relation {
            Relation::Equal | Relation::NotEqual if at == text.len() - 1 => {
                let begins = &text[..at];
                let after = after_all(begins).map(Value::Text);
                Ok(range(field, relation, Value::Text(begins.into()), after))
            }
            Relation::Equal | Relation::NotEqual | Relation::Contains => {
                let part = text.replace('*', "");
                Err(self.term.error(
                    "`*` can only be the last character after `=` or `!=`".into(),
                    format!(
                        "write {field} = {part}* for what begins so, or {field}:{part} for what contains it"
                    ),
                ))
            }
            Relation::Less
            | Relation::LessOrEqual
            | Relation::Greater
            | Relation::GreaterOrEqual => {
                Ok(Condition::Compare(field, relation, Value::Text(text)))
            }
        }
    }

    fn word(self, words: &[&str]) -> Result<Condition, FilterError> {
        if !words.contains(&self.text.as_str()) {
            return Err(self.wrong(format!("one of {}", words.join(", "))));
        }
        match self.relation {
            Relation::Equal | Relation::NotEqual | Relation::Contains => {
                Ok(self.equal(Value::Text(self.text.clone())))
            }
            Relation::Less
            | Relation::LessOrEqual
            | Relation::Greater
            | Relation::GreaterOrEqual => {
                let Self { field, text, .. } = self;
                Err(self.term.error(
                    format!("the words of `{field}` are in no order"),
                    format!("write {field} = {text} or {field} != {text}"),
                ))
            }
        }
    }

    fn number(self) -> Result<Condition, FilterError> {
        let digits = self.text.strip_prefix('-').unwrap_or(&self.text);
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        match self.text.parse() {
            Ok(number) if is_number => Ok(self.equal(Value::Number(number))),
            _ => Err(self.wrong("a whole number in digits, such as 3".into())),
        }
    }

    fn time(self) -> Result<Condition, FilterError> {
        match time::read(&self.text) {
            Some(Moment::Instant(at)) => Ok(self.equal(Value::Number(at))),
            Some(Moment::Day(begins, next)) => Ok(range(
                self.field,
                self.relation,
                Value::Number(begins),
                next.map(Value::Number),
            )),
            None => {
                let field = self.field;
                let absent = match field {
                    Field::CompletedAt => ", or NOT completed_at:* for what has not ended",
                    _ => "",
                };
                Err(self.wrong(format!("{}{absent}", time::ALLOWED)))
            }
        }
    }

    /// Compares to a value that has no parts.
    fn equal(&self, value: Value) -> Condition {
        let relation = match self.relation {
            Relation::Contains => Relation::Equal,
            other => other,
        };
        Condition::Compare(self.field, relation, value)
    }

    fn wrong(self, allowed: String) -> FilterError {
        FilterError::Value {
            term: self.term.0,
            field: self.field,
            value: shown(&self.text),
            allowed,
        }
    }
}

/// Compares to everything from `first` until before `after`, which is missing where nothing comes after it.
fn range(field: Field, relation: Relation, first: Value, after: Option<Value>) -> Condition {
    use Condition::{All, Any, Compare, Present};
    let before = |value| Compare(field, Relation::Less, value);
    let from = |value| Compare(field, Relation::GreaterOrEqual, value);
    match relation {
        Relation::Equal | Relation::Contains => {
            let mut parts = vec![from(first)];
            parts.extend(after.map(before));
            All(parts)
        }
        Relation::NotEqual => {
            let mut parts = vec![before(first)];
            parts.extend(after.map(from));
            Any(parts)
        }
        Relation::Less => before(first),
        Relation::GreaterOrEqual => from(first),
        Relation::LessOrEqual => after.map_or(Present(field), before),
        Relation::Greater => after.map_or(Any(Vec::new()), from),
    }
}

/// The first text after all that begin with this one; none comes after those that begin with nothing.
fn after_all(begins: &str) -> Option<String> {
    let mut chars = begins.chars();
    while let Some(last) = chars.next_back() {
        // The next of a range skips what is no character.
        if let Some(next) = (last..=char::MAX).nth(1) {
            return Some(format!("{}{next}", chars.as_str()));
        }
    }
    None
}

/// The text of a term, for a message.
struct Term(String);

impl Term {
    fn error(self, why: String, instead: String) -> FilterError {
        let Self(term) = self;
        FilterError::Term { term, why, instead }
    }

    fn unknown(&self, field: &str) -> FilterError {
        FilterError::Field {
            term: self.0.clone(),
            field: shown(field),
        }
    }

    fn function(self) -> FilterError {
        self.error(
            "there are no functions".into(),
            "write a field, a comparison and a value, such as failed_nodes > 3".into(),
        )
    }

    fn half_quoted(&self) -> FilterError {
        Self(self.0.clone()).error(
            "only a part of the value is in quotes".into(),
            "put all of it in quotes".into(),
        )
    }

    fn composite(self, field: Field, comparator: Comparator) -> FilterError {
        self.error(
            "a field is compared to one value".into(),
            format!(
                "write the field with each: ({field} {comparator} a OR {field} {comparator} b)"
            ),
        )
    }
}
