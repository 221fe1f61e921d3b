//! What a job file may say: the same text that is the documentation of those who read one.

use serde_json::{Value, json};

use super::error::Error;
use super::show::Out;

/// The server's part, and the agent's.
const PARTS: [&str; 6] = [
    orchestrator_core::spec::FIELDS,
    orchestrator_agent::workload::FIELDS,
    orchestrator_agent::driver::exec::FIELDS,
    orchestrator_agent::driver::docker::FIELDS,
    orchestrator_agent::driver::external::FIELDS,
    orchestrator_agent::artifact::FIELDS,
];
/// No line is longer, however wide the terminal is.
const WIDTH_MAX: usize = 100;

/// A piece of the text.
#[derive(Debug)]
enum Piece {
    Title(String),
    Text(String),
    Field(Field),
}

#[derive(Debug)]
struct Field {
    /// From the top of the document; `[]` stands for each item.
    names: Vec<String>,
    kind: String,
    default: String,
    meaning: String,
}

/// Shows all of it, or what has this word in its name.
pub(super) fn show(word: Option<&str>, out: &Out) -> Result<(), Error> {
    let word = word.map(str::to_lowercase);
    let mut shown: Vec<Piece> = Vec::new();
    for part in PARTS {
        let mut pieces = pieces(part);
        if let Some(word) = &word {
            let is_of_it = |piece: &Piece| match piece {
                Piece::Title(title) => title.to_lowercase().contains(word),
                _ => false,
            };
            if !pieces.iter().any(is_of_it) {
                pieces.retain(|piece| match piece {
                    Piece::Title(_) => true,
                    Piece::Text(_) => false,
                    Piece::Field(field) => field.names.iter().any(|name| name.contains(word)),
                });
                pieces.truncate(if pieces.len() > 1 { pieces.len() } else { 0 });
            }
        }
        shown.extend(pieces);
    }
    if shown.is_empty() {
        return Err(Error::Usage(format!(
            "a job file has no field with {:?} in its name; see `orchestrator job fields`",
            word.unwrap_or_default()
        )));
    }
    match out.json {
        true => out.say(&format!("{:#}\n", as_json(&shown))),
        false => out.say(&as_text(&shown, out)),
    }
}

fn as_json(pieces: &[Piece]) -> Value {
    let mut section = "";
    let mut rows = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Title(title) => section = title,
            Piece::Text(_) => {}
            Piece::Field(field) => rows.extend(field.names.iter().map(|name| {
                json!({
                    "section": section, "field": name, "type": field.kind, "default": field.default,
                    "meaning": field.meaning,
                })
            })),
        }
    }
    json!({ "fields": rows })
}

fn as_text(pieces: &[Piece], out: &Out) -> String {
    let width = out.width.unwrap_or(WIDTH_MAX).min(WIDTH_MAX);
    let mut text = String::new();
    let (mut was_text, mut was_item) = (true, false);
    for piece in pieces {
        match piece {
            Piece::Title(title) => {
                let gap = if text.is_empty() { "" } else { "\n" };
                text += &format!("{gap}{}\n", out.paint.bold(&title.to_uppercase()));
                was_text = true;
            }
            Piece::Text(said) => {
                let is_item = said.starts_with("- ");
                if !(is_item && was_item) {
                    text += "\n";
                }
                text += &wrapped(said, "  ", if is_item { "    " } else { "  " }, width);
                (was_text, was_item) = (true, is_item);
            }
            Piece::Field(field) => {
                if was_text {
                    text += "\n";
                }
                (was_text, was_item) = (false, false);
                let default = match field.default.as_str() {
                    "" | "required" => field.default.clone(),
                    default => format!("default: {default}"),
                };
                let details = [field.kind.as_str(), &default];
                let details: Vec<&str> = details.into_iter().filter(|it| !it.is_empty()).collect();
                text += &format!("  {}", out.paint.bold(&field.names.join(", ")));
                if !details.is_empty() {
                    text += &format!("  {}", out.paint.faint(&details.join("; ")));
                }
                text += "\n";
                text += &wrapped(&field.meaning, "      ", "      ", width);
            }
        }
    }
    text
}

/// In lines of at most so many columns, where its words allow that.
fn wrapped(said: &str, indent: &str, after: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut line = indent.to_owned();
    let mut is_empty = true;
    for word in said.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > width {
            lines += &line;
            lines.push('\n');
            line = after.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line += word;
        is_empty = false;
    }
    lines + &line + "\n"
}

/// Reads the Markdown of which such a text is made: a title, paragraphs, lists, and tables.
fn pieces(markdown: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut said = String::new();
    let mut header: Vec<String> = Vec::new();
    for line in markdown.lines().chain([""]) {
        let is_row = line.starts_with('|');
        if is_row || line.is_empty() || line.starts_with("- ") {
            let before = std::mem::take(&mut said);
            pieces.extend((!before.is_empty()).then(|| Piece::Text(plain(&before))));
        }
        if !is_row {
            header.clear();
        }
        if let Some(title) = line.strip_prefix("# ") {
            pieces.push(Piece::Title(plain(title)));
        } else if !is_row {
            said += line;
            said += " ";
        } else if header.is_empty() {
            header = cells(line);
        } else if !line.starts_with("|---") {
            pieces.push(row(&header, &cells(line)));
        }
        if line.is_empty() {
            said.clear();
        }
    }
    pieces
}

fn cells(line: &str) -> Vec<String> {
    let line = line.trim_matches('|');
    line.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// A row of a table: a field where the table says what fields mean, and a sentence otherwise.
fn row(header: &[String], cells: &[String]) -> Piece {
    let cell = |name: &str| {
        let place = header.iter().position(|title| title == name)?;
        Some(plain(cells.get(place)?))
    };
    let Some(meaning) = cell("meaning") else {
        let all = header.iter().zip(cells).skip(1);
        let told = all.filter(|(_, cell)| !cell.is_empty());
        let told = told.enumerate().map(|(place, (title, cell))| match place {
            0 => cell.clone(),
            _ => format!("{title}: {cell}"),
        });
        let told: Vec<String> = told.collect();
        let name = cells.first().map(String::as_str).unwrap_or_default();
        return Piece::Text(plain(&format!("- {name}: {}", told.join("; "))));
    };
    let first = cells.first().map(String::as_str).unwrap_or_default();
    let above = header.first().and_then(|title| title.strip_prefix('`'));
    let above = above.map_or_else(String::new, |title| format!("{}.", plain(title)));
    let names = first.split(", ").map(|name| match name.starts_with('`') {
        true => format!("{above}{}", plain(name)),
        false => plain(name),
    });
    Piece::Field(Field {
        names: names.collect(),
        kind: cell("type").unwrap_or_default(),
        default: cell("default").unwrap_or_default(),
        meaning,
    })
}

/// Without what Markdown marks words with.
fn plain(text: &str) -> String {
    text.trim().replace(['`', '*'], "")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use orchestrator_core::spec::JobSpec;

    use super::*;

    /// The fields that a part tells of.
    fn told(part: &str) -> BTreeSet<String> {
        let fields = pieces(part).into_iter().flat_map(|piece| match piece {
            Piece::Field(field) => field.names,
            _ => Vec::new(),
        });
        // Others are whatever else there is.
        fields.filter(|name| !name.contains(' ')).collect()
    }

    /// What is said against a document with something strange at this place.
    fn said(driver: &str, name: &str) -> String {
        let config = match driver {
            "docker" => json!({ "image": "x" }),
            "external" => json!({ "program": "x" }),
            _ => json!({ "command": "x" }),
        };
        let mut document = json!({
            "job_id": "web", "driver": driver, "config": config,
            "ports": [{ "name": "http" }], "checks": [{ "type": "process" }],
            "rollout": { "strategy": "rolling", "health_check": { "deadline": "10m" } },
            "artifact": { "source": "/x", "sha256": "0".repeat(64) },
        });
        let mut at = &mut document;
        for step in name.split('.') {
            at = match step.strip_suffix("[]") {
                Some(list) => &mut at[list][0],
                None => &mut at[step],
            };
        }
        *at = json!({ "strange": [] });
        let of_agent = || orchestrator_agent::driver::check(&document).err();
        match JobSpec::from_value(&document) {
            Err(errors) => errors.to_string(),
            Ok(_) => of_agent().unwrap_or_default(),
        }
    }

    fn is_unknown(driver: &str, name: &str) -> bool {
        let (_, last) = name.rsplit_once('.').unwrap_or(("", name));
        said(driver, name).contains(&format!(
            "{last}: {{\"strange\":[]}} is not allowed; there is no such field"
        ))
    }

    #[test]
    fn every_field_is_one_and_every_one_is_told_of() {
        let drivers = ["exec", "exec", "exec", "docker", "external", "exec"];
        for (part, driver) in PARTS.into_iter().zip(drivers) {
            for name in told(part) {
                assert!(!is_unknown(driver, &name), "{driver}: {name}");
            }
        }
        let all: BTreeSet<String> = PARTS.into_iter().flat_map(told).collect();
        // Who reads a document names them all to who gives another one.
        for (driver, above) in [
            ("exec", "config."),
            ("docker", "config."),
            ("exec", "restart."),
            ("exec", "artifact."),
            ("exec", "checks[]."),
        ] {
            let strange = format!("{above}x");
            assert!(
                is_unknown(driver, &strange),
                "{driver}: {}",
                said(driver, &strange)
            );
            let said = said(driver, &strange);
            let (_, known) = said.split_once("the fields are ").expect("it names them");
            for name in known.split(", ") {
                assert!(
                    all.contains(&format!("{above}{name}")),
                    "{driver}: {above}{name}"
                );
            }
        }
        // Those of the core are the ones that it writes.
        let spec = r#"{ "job_id": "web", "driver": "exec", "config": {}, "replicas": 3, "rollout": { "strategy": "canary",
            "spread": "zone", "canary_count": 1, "health_check": { "deadline": "10m" } } }"#;
        let spec = JobSpec::parse(spec).expect("it is one").to_json();
        let mut open = vec![(String::new(), &spec)];
        let mut seen = 0;
        while let Some((path, value)) = open.pop() {
            for (name, value) in value.as_object().into_iter().flatten() {
                let name = format!("{path}{name}");
                assert!(all.contains(&name), "{name}");
                seen += 1;
                open.push((format!("{name}."), value));
            }
        }
        assert!(seen > 20, "{seen}");
        for strange in ["x", "rollout.x", "rollout.health_check.x"] {
            assert!(is_unknown("exec", strange), "{}", said("exec", strange));
        }
    }

    #[test]
    fn tables_have_all_their_cells_and_lines_end_where_the_terminal_does() {
        for part in PARTS {
            let mut columns = None;
            for line in part.lines() {
                let own = cells(line).len();
                columns = line.starts_with('|').then(|| columns.unwrap_or(own));
                assert!(columns.is_none_or(|columns| columns == own), "{line}");
            }
        }
        for width in [40, 100] {
            let text = wrapped(&"some words ".repeat(40), "    ", "    ", width);
            assert!(
                text.lines()
                    .all(|line| line.len() <= width && line.starts_with("    s")
                        || line.starts_with("    w"))
            );
        }
    }
}
