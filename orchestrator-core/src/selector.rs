//! Which nodes a job may run on, said over their labels: `zone in (eu-1, eu-2), gpu, !spot`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is said about a node: `zone` is `eu-1`, `gpu` is there.
pub type Labels = BTreeMap<String, String>;

/// The longest text of a selector, in bytes, as it was written and as it is shown.
pub const SELECTOR_BYTES_MAX: usize = 4096;
/// The most requirements in one selector.
pub const REQUIREMENTS_MAX: usize = 64;
/// The most values in one requirement.
pub const VALUES_MAX: usize = 256;
/// The most labels on one node.
pub const LABELS_MAX: usize = 64;
/// The longest a label's key or value may be, in bytes.
pub const LABEL_BYTES_MAX: usize = 63;

/// Requirements separated by commas, all of which a node's labels have to meet; none = every node. What they may be is
/// told with the [document of a job](crate::spec).
///
/// Order and repetition mean nothing and are not kept, so two ways to write the same requirements
/// are equal and are shown alike.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub struct Selector {
    /// Sorted, without repetitions.
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Whether a node with these labels meets every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.holds(labels))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{requirement}")?;
        }
        Ok(())
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidSelector;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let too_long = InvalidSelector {
            position: SELECTOR_BYTES_MAX + 1,
            expected: "the end: a selector has at most 4096 bytes, once it is spaced as it is shown",
        };
        if text.len() > SELECTOR_BYTES_MAX {
            return Err(too_long);
        }
        let selector = Scanner { text, at: 0 }.selector()?;
        // What is shown is spaced more widely than what may be written, and has to be readable again.
        if selector.to_string().len() > SELECTOR_BYTES_MAX {
            return Err(too_long);
        }
        Ok(selector)
    }
}

/// A text that is no selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("character {position}: expected {expected}")]
pub struct InvalidSelector {
    /// Which character of the text could not be read, the first being 1.
    pub position: usize,
    /// What should have been there.
    pub expected: &'static str,
}

/// Whether a node may have these labels: at most [`LABELS_MAX`], each key 1 to
/// [`LABEL_BYTES_MAX`] of letters, digits, `-`, `_`, `.` and `/`, each value the same without `/`
/// and possibly empty.
pub fn check_labels(labels: &Labels) -> Result<(), InvalidLabels> {
    if labels.len() > LABELS_MAX {
        return Err(InvalidLabels::TooMany(labels.len()));
    }
    for (key, value) in labels {
        if !is_key(key) {
            return Err(InvalidLabels::Key(key.chars().take(80).collect()));
        }
        if !is_value(value) {
            return Err(InvalidLabels::Value {
                key: key.clone(),
                value: value.chars().take(80).collect(),
            });
        }
    }
    Ok(())
}

/// Labels that break a rule of [`check_labels`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum InvalidLabels {
    /// More labels than a node may have.
    #[error("{0} labels are too many; a node has at most {LABELS_MAX}")]
    TooMany(usize),
    /// A key that no label may have.
    #[error("{0:?} is no key of a label; {KEY}")]
    Key(String),
    /// A value that no label may have.
    #[error("{value:?} is no value for label {key}; {VALUE}")]
    Value {
        /// The label.
        key: String,
        /// What it was given, shortened.
        value: String,
    },
}

/// What a label's key is, for messages.
pub(crate) const KEY: &str = "a key is 1 to 63 of letters, digits, '-', '_', '.' and '/'";
const VALUE: &str = "a value is at most 63 of letters, digits, '-', '_' and '.'";

/// Whether `text` may be a label's key.
pub(crate) fn is_key(text: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.bytes().all(in_key)
}

fn is_value(text: &str) -> bool {
    text.len() <= LABEL_BYTES_MAX && text.bytes().all(in_value)
}

fn in_key(byte: u8) -> bool {
    byte == b'/' || in_value(byte)
}

fn in_value(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Requirement {
    key: Box<str>,
    test: Test,
}

/// `=` is an [`Test::In`] of one value and `!=` a [`Test::NotIn`] of one; neither is ever empty.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Test {
    Exists,
    Absent,
    In(BTreeSet<Box<str>>),
    NotIn(BTreeSet<Box<str>>),
}

impl Requirement {
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&*self.key);
        match &self.test {
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::In(values) => value.is_some_and(|value| values.contains(value.as_str())),
            Test::NotIn(values) => value.is_none_or(|value| !values.contains(value.as_str())),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let (one, many, values) = match &self.test {
            Test::Exists => return write!(f, "{key}"),
            Test::Absent => return write!(f, "!{key}"),
            Test::In(values) => ("=", "in", values),
            Test::NotIn(values) => ("!=", "notin", values),
        };
        let list = values
            .iter()
            .map(|value| &**value)
            .collect::<Vec<_>>()
            .join(", ");
        match (values.len(), list.is_empty()) {
            (1, true) => write!(f, "{key} {one}"),
            (1, false) => write!(f, "{key} {one} {list}"),
            _ => write!(f, "{key} {many} ({list})"),
        }
    }
}

/// Reads from left to right; all before `at` is understood, and therefore ASCII.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn selector(mut self) -> Result<Selector, InvalidSelector> {
        let mut requirements = Vec::new();
        self.skip_spaces();
        while self.at < self.text.len() || !requirements.is_empty() {
            if requirements.len() == REQUIREMENTS_MAX {
                return self.fail("the end: a selector has at most 64 requirements");
            }
            requirements.push(self.requirement()?);
            if self.at == self.text.len() {
                break;
            }
            if !self.skip(",") {
                return self.fail("',' or the end");
            }
        }
        requirements.sort_unstable();
        requirements.dedup();
        Ok(Selector { requirements })
    }

    fn requirement(&mut self) -> Result<Requirement, InvalidSelector> {
        if self.skip("!") {
            let key = self.key("the key of a label")?;
            return Ok(Requirement {
                key,
                test: Test::Absent,
            });
        }
        let key = self.key("the key of a label, or '!' and a key")?;
        let test = if self.skip("!=") {
            Test::NotIn(BTreeSet::from([self.value()?]))
        } else if self.skip("==") || self.skip("=") {
            Test::In(BTreeSet::from([self.value()?]))
        } else if self.at == self.text.len() || self.rest().starts_with(',') {
            Test::Exists
        } else {
            let start = self.at;
            match self.run(in_key) {
                "in" => Test::In(self.values()?),
                "notin" => Test::NotIn(self.values()?),
                _ => {
                    self.at = start;
                    return self.fail("'=', '!=', 'in', 'notin', ',' or the end");
                }
            }
        };
        Ok(Requirement { key, test })
    }

    fn key(&mut self, expected: &'static str) -> Result<Box<str>, InvalidSelector> {
        let start = self.at;
        let key = self.run(in_key);
        if key.is_empty() {
            return self.fail(expected);
        }
        if key.len() > LABEL_BYTES_MAX {
            self.at = start + LABEL_BYTES_MAX;
            return self.fail("the end of the key: a key has at most 63 characters");
        }
        Ok(key.into())
    }

    fn value(&mut self) -> Result<Box<str>, InvalidSelector> {
        let start = self.at;
        let value = self.run(in_value);
        if value.len() > LABEL_BYTES_MAX {
            self.at = start + LABEL_BYTES_MAX;
            return self.fail("the end of the value: a value has at most 63 characters");
        }
        Ok(value.into())
    }

    fn values(&mut self) -> Result<BTreeSet<Box<str>>, InvalidSelector> {
        if !self.skip("(") {
            return self.fail("'('");
        }
        let mut values = BTreeSet::new();
        for _ in 0..VALUES_MAX {
            values.insert(self.value()?);
            if self.skip(")") {
                return Ok(values);
            }
            if !self.skip(",") {
                return self.fail("a value, ',' or ')'");
            }
        }
        self.fail("')': a requirement has at most 256 values")
    }

    /// Takes the bytes that `belongs` lets through, and the spaces behind them.
    fn run(&mut self, belongs: fn(u8) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.bytes().take_while(|byte| belongs(*byte)).count();
        self.at += len;
        self.skip_spaces();
        &rest[..len]
    }

    /// Takes `token` and the spaces behind it, if it comes next.
    fn skip(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
            self.skip_spaces();
        }
        found
    }

    fn skip_spaces(&mut self) {
        self.at += self
            .rest()
            .bytes()
            .take_while(u8::is_ascii_whitespace)
            .count();
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn fail<T>(&self, expected: &'static str) -> Result<T, InvalidSelector> {
        Err(InvalidSelector {
            position: self.at + 1,
            expected,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    #[test]
    fn each_requirement_picks_its_nodes() {
        let nodes = [
            labels(&[("zone", "eu-1"), ("gpu", "a100")]),
            labels(&[("zone", "eu-2"), ("spot", "")]),
            labels(&[]),
        ];
        for (text, expected) in [
            ("", [true, true, true]),
            (" \n", [true, true, true]),
            ("zone = eu-1", [true, false, false]),
            ("zone==eu-1", [true, false, false]),
            ("zone != eu-1", [false, true, true]),
            ("zone in (eu-1,eu-2)", [true, true, false]),
            ("zone notin ( eu-1 , us )", [false, true, true]),
            ("zone", [true, true, false]),
            ("!spot", [true, false, true]),
            ("spot =", [false, true, false]),
            ("zone in (eu-1, eu-2), gpu, !spot", [true, false, false]),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(
                nodes.each_ref().map(|node| selector.matches(node)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn what_means_the_same_is_shown_the_same() {
        for (text, shown) in [
            ("", ""),
            (
                "gpu,!spot ,zone in(b,a,b),gpu",
                "gpu, !spot, zone in (a, b)",
            ),
            ("zone in (a), disk notin (b)", "disk != b, zone = a"),
            ("zone in (), x notin (a,)", "x notin (, a), zone ="),
            ("in in (in), notin", "in = in, notin"),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string(), shown);
            assert_eq!(shown.parse(), Ok(selector));
        }
    }

    #[test]
    fn a_malformed_selector_names_the_place() {
        for (text, message) in [
            ("zone in eu-1", "character 9: expected '('"),
            (
                "zone in (eu-1",
                "character 14: expected a value, ',' or ')'",
            ),
            (
                "zone in (a b)",
                "character 12: expected a value, ',' or ')'",
            ),
            (
                "zone ~ eu",
                "character 6: expected '=', '!=', 'in', 'notin', ',' or the end",
            ),
            ("zone = eu 1", "character 11: expected ',' or the end"),
            (
                "gpu,",
                "character 5: expected the key of a label, or '!' and a key",
            ),
            (
                ",gpu",
                "character 1: expected the key of a label, or '!' and a key",
            ),
            ("!!gpu", "character 2: expected the key of a label"),
            (
                "zönе",
                "character 2: expected '=', '!=', 'in', 'notin', ',' or the end",
            ),
        ] {
            assert_eq!(
                text.parse::<Selector>().unwrap_err().to_string(),
                message,
                "{text}"
            );
        }
    }

    #[test]
    fn everything_is_bounded() {
        let position = |text: String| text.parse::<Selector>().unwrap_err().position;
        assert_eq!(position("k".repeat(64)), 64);
        assert_eq!(position(format!("k={}", "v".repeat(64))), 66);
        assert_eq!(position("k,".repeat(64) + "k"), 129);
        assert_eq!(position(format!("k in ({}v)", "v,".repeat(256))), 7 + 512);
        assert_eq!(position(" ".repeat(4097)), 4097);
        // Short enough as written, too long as shown.
        let many: Vec<_> = (0..200).map(|n| format!("{n:019}")).collect();
        assert_eq!(position(format!("k in ({})", many.join(","))), 4097);
        assert!(
            (0..64)
                .map(|n| format!("k{n}"))
                .collect::<Vec<_>>()
                .join(",")
                .parse::<Selector>()
                .is_ok()
        );
    }

    #[test]
    fn labels_of_a_node_are_checked() {
        assert_eq!(
            check_labels(&labels(&[("example.com/zone", "eu-1"), ("gpu", "")])),
            Ok(())
        );
        let message =
            |pairs: &[(&str, &str)]| check_labels(&labels(pairs)).unwrap_err().to_string();
        assert_eq!(
            message(&[("", "x")]),
            "\"\" is no key of a label; a key is 1 to 63 of letters, digits, '-', '_', '.' and '/'"
        );
        assert_eq!(
            message(&[("zone", "eu/1")]),
            "\"eu/1\" is no value for label zone; a value is at most 63 of letters, digits, '-', '_' and '.'"
        );
        let many: Labels = (0..65).map(|n| (n.to_string(), String::new())).collect();
        assert_eq!(check_labels(&many), Err(InvalidLabels::TooMany(65)));
    }

    #[test]
    fn its_serde_form_is_its_text() {
        let selector: Selector = serde_json::from_str("\"gpu,!spot\"").unwrap();
        assert_eq!(serde_json::to_string(&selector).unwrap(), "\"gpu, !spot\"");
        assert!(serde_json::from_str::<Selector>("\"!\"").is_err());
    }

    fn any_requirement() -> impl Strategy<Value = String> {
        let values = prop::collection::vec("[a-zA-Z0-9._-]{0,8}", 1..5);
        (
            "[a-z/._-]{1,8}",
            prop::sample::select(vec!["=", "!=", "in", "notin", "", "!"]),
            values,
        )
            .prop_map(|(key, test, values)| match test {
                "" | "!" => format!("{test}{key}"),
                "=" | "!=" => format!("{key}{test}{}", values[0]),
                _ => format!("{key} {test}({})", values.join(",")),
            })
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", tokens in "([a-c]| |,|!|=|\\(|\\)|in|notin|ö){0,20}") {
            for text in [text, tokens] {
                if let Ok(selector) = text.parse::<Selector>() {
                    prop_assert_eq!(selector.to_string().parse(), Ok(selector));
                }
            }
        }

        #[test]
        fn what_is_shown_is_read_again(parts in prop::collection::vec(any_requirement(), 0..6)) {
            let selector: Selector = parts.join(",").parse().unwrap();
            let shown = selector.to_string();
            prop_assert_eq!(shown.parse::<Selector>(), Ok(selector));
        }
    }
}
