//! What is wrong with a part of a document: where in it, and in the words of every other fault.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

/// How much of a value is shown.
const SHOWN_MAX: usize = 80;

/// Reads a part of a document; else says what is wrong with it, and before that the way there: `number 2: path: …`.
pub(crate) fn read<T: DeserializeOwned>(part: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(part).map_err(|why| {
        let mut at = Some(part);
        let mut way = String::new();
        for step in why.path() {
            let (word, inner) = match step {
                Segment::Map { key } => (key.clone(), at.and_then(|at| at.get(key))),
                Segment::Seq { index } => (
                    format!("number {}", index + 1),
                    at.and_then(|at| at.get(index)),
                ),
                Segment::Enum { .. } | Segment::Unknown => continue,
            };
            way += &word;
            way += ": ";
            at = inner;
        }
        way + &said(&why.inner().to_string(), at)
    })
}

/// What a reader says of this value, as people are told.
fn said(why: &str, value: Option<&Value>) -> String {
    let shown = value.map_or_else(String::new, |value| {
        let mut shown = value.to_string();
        if let Some((end, _)) = shown.char_indices().nth(SHOWN_MAX) {
            shown.truncate(end);
            shown.push('…');
        }
        format!("{shown} is not allowed; ")
    });
    let (kind, rest) = why.split_once(' ').unwrap_or_default();
    let (what, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    // Names stand between such marks, and hold none.
    let names = |text: &str| -> Vec<String> {
        let names = text.split('`').skip(1).step_by(2);
        names.map(str::to_owned).collect()
    };
    match (kind, what) {
        // The way there ends with its name.
        ("unknown", "field") => {
            let known = names(rest).into_iter().skip(1).collect::<Vec<_>>();
            let known = known.join(", ");
            format!("{shown}there is no such field; the fields are {known}")
        }
        ("unknown", "variant") => {
            let known = names(rest).into_iter().skip(1).collect::<Vec<_>>();
            format!("{shown}one of {}", known.join(", "))
        }
        ("missing", "field") => match names(rest).as_slice() {
            [name, ..] => format!("{name}: missing"),
            [] => why.to_owned(),
        },
        ("invalid", "type" | "type:" | "value" | "value:" | "length") => {
            let expected = why.rsplit_once(", expected ").map(|(_, expected)| expected);
            expected.map_or_else(|| why.to_owned(), |it| shown + &wanted(it))
        }
        _ => why.to_owned(),
    }
}

/// What would be allowed, from what a reader calls it.
fn wanted(expected: &str) -> String {
    let whole = |most: u64| format!("a whole number from 0 to {most}");
    match expected {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "string" | "str" => "a text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "an object".to_owned(),
        other if other.starts_with("struct ") => "an object".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Part {
        name: String,
        count: Option<u16>,
        kind: Option<Kind>,
        inner: Option<Inner>,
        list: Option<Vec<Inner>>,
        is: Option<bool>,
        ratio: Option<f64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        words: Vec<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Http,
        Logs,
    }

    #[test]
    fn what_is_wrong_is_said_with_the_way_there() {
        let cases = [
            (json!({}), "name: missing"),
            (json!([]), "[] is not allowed; an object"),
            (json!({ "name": 3 }), "name: 3 is not allowed; a text"),
            (
                json!({ "name": "n", "count": -1 }),
                "count: -1 is not allowed; a whole number from 0 to 65535",
            ),
            (
                json!({ "name": "n", "count": "1" }),
                "count: \"1\" is not allowed; a whole number from 0 to 65535",
            ),
            (
                json!({ "name": "n", "kind": "mail" }),
                "kind: \"mail\" is not allowed; one of http, logs",
            ),
            (
                json!({ "name": "n", "is": 1 }),
                "is: 1 is not allowed; true or false",
            ),
            (
                json!({ "name": "n", "ratio": [] }),
                "ratio: [] is not allowed; a number",
            ),
            (
                json!({ "name": "n", "inner": { "word": 1 } }),
                "inner: word: 1 is not allowed; there is no such field; the fields are words",
            ),
            (
                json!({ "name": "n", "list": [{ "words": [] }, { "words": ["a", 2] }] }),
                "list: number 2: words: number 2: 2 is not allowed; a text",
            ),
            (
                json!({ "nam": "n" }),
                "nam: \"n\" is not allowed; there is no such field; the fields are name, count, kind, inner, list, is, ratio",
            ),
        ];
        for (wrong, sentence) in cases {
            assert_eq!(read::<Part>(&wrong).unwrap_err(), sentence);
        }
        let long = json!({ "name": "n", "is": "x".repeat(1000) });
        let why = read::<Part>(&long).unwrap_err();
        assert!(
            why.len() < 200 && why.ends_with("… is not allowed; true or false"),
            "{why}"
        );
    }
}
