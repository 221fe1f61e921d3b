//! Words to values.

use std::collections::BTreeMap;

use orchestrator_core::{Interval, Observation, Requests, Span};

/// A line without its remark: `#1` is a target, `# …` a remark.
pub(super) fn remark_free(line: &str) -> &str {
    let line = line.trim();
    if line.starts_with("# ") || line == "#" {
        return "";
    }
    line.split(" # ").next().unwrap_or("").trim()
}

pub(super) fn span(text: &str) -> Result<Span, String> {
    let span = text.trim().parse();
    span.map_err(|e| format!("{text:?} is no span: {e}"))
}

pub(super) fn version(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix('v').and_then(|n| n.parse().ok());
    number.ok_or_else(|| format!("{text:?} is no version"))
}

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// `n1..n3` is n1, n2, n3; `#1..#3` is #1, #2, #3.
pub(super) fn range(word: &str) -> Result<Vec<String>, String> {
    let Some((first, last)) = word.split_once("..") else {
        return Ok(vec![word.to_owned()]);
    };
    let cut = |name: &str| {
        let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
        number::<u32>(&name[digits..]).map(|n| (name[..digits].to_owned(), n))
    };
    let ((prefix, first), (_, last)) = (cut(first)?, cut(last)?);
    Ok((first..=last).map(|n| format!("{prefix}{n}")).collect())
}

/// Takes `key=value` words out of a line, for these keys; the rest is left in its order.
pub(super) fn options(
    line: &str,
    keys: &[&str],
) -> Result<(String, BTreeMap<String, String>), String> {
    let mut given = BTreeMap::new();
    let mut rest = Vec::new();
    for word in line.split_whitespace() {
        match word.split_once('=') {
            Some((key, value)) if keys.contains(&key) => {
                if given.insert(key.to_owned(), value.to_owned()).is_some() {
                    return Err(format!("{key} is given twice"));
                }
            }
            _ => rest.push(word),
        }
    }
    Ok((rest.join(" "), given))
}

/// What a node says of what it runs.
pub(super) fn observation(verb: &str, more: &str) -> Result<Observation, String> {
    let more = more.trim();
    let plain = match verb {
        "healthy" => Observation::Interval(Interval::PASSING),
        "unhealthy" => Observation::Interval(Interval::FAILING),
        "silent-checks" => Observation::Interval(Interval {
            checks: None,
            requests: None,
        }),
        "started" => Observation::Started,
        "stopped" => Observation::Stopped,
        "restarted" => Observation::Restarted,
        "errors" => {
            let (errors, requests) = more.split_once(" of ").ok_or("errors N of REQUESTS")?;
            return Ok(Observation::Interval(Interval {
                checks: Some(true),
                requests: Some(Requests {
                    total: number(requests)?,
                    failed: number(errors)?,
                }),
            }));
        }
        "exits" | "exit" => {
            return Ok(Observation::Exited {
                code: number(more)?,
            });
        }
        "cannot" => {
            let detail = more.strip_prefix("start").ok_or("cannot start WHY")?;
            return Ok(Observation::CannotStart {
                detail: detail.trim().to_owned(),
            });
        }
        _ => return Err(format!("unknown word {verb:?}")),
    };
    match more {
        "" => Ok(plain),
        _ => Err(format!("{verb} {more:?}?")),
    }
}

/// Good when what was found is what was wanted.
pub(super) fn same(found: impl Into<String>, wanted: impl Into<String>) -> Result<(), String> {
    let (found, wanted) = (found.into(), wanted.into());
    if found == wanted {
        return Ok(());
    }
    Err(format!("found {found:?}, wanted {wanted:?}"))
}

/// The same names, in any order.
pub(super) fn same_names(mut found: Vec<String>, mut wanted: Vec<String>) -> Result<(), String> {
    found.sort();
    wanted.sort();
    same(found.join(" "), wanted.join(" "))
}

/// The word that a value has in its written form.
pub(super) fn word(value: impl serde::Serialize) -> String {
    let value = serde_json::to_value(value).unwrap();
    value.as_str().unwrap().to_owned()
}
