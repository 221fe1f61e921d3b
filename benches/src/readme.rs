//! The few numbers that README shows, out of a report.

use serde_json::Value;

use crate::table::digits;

/// What README says between these is made.
const MARKS: [&str; 2] = ["<!-- measured -->\n", "<!-- end of measured -->\n"];

/// What each line is called, and what it says: `{table, row, column}` is the number that stands there. A row is found by
/// its first cell, and by the second where there is a `/`.
const LINES: [(&str, &str); 9] = [
    (
        "one report, among a thousand nodes and among a million, 1 % of them in flight",
        "{1b, 1k, report} ns, {1b, 1m, report} ns",
    ),
    (
        "the same to a `HashMap` of states by name, and counts",
        "{1b, 1k, by name} ns, {1b, 1m, by name} ns",
    ),
    (
        "a whole rolling update of a million nodes, in steps of a wave",
        "{2, 1m/a wave's, total s} s of one core",
    ),
    (
        "the next wave at the agents after the last report of the one before, 1,000 agents (p50, p99)",
        "{5, 1k, next wave p50 ms}, {5, 1k, p99 ms} ms",
    ),
    (
        "a connected agent, at the server",
        "{5, 1k, resident kB each} kB",
    ),
    (
        "reads of one deployment, beside the least that its HTTP library can do",
        "{6, , ratio} of it",
    ),
    (
        "99 of 100 pages of a list with a filter, among a million deployments",
        "within {7, 1m, p99 ms} ms",
    ),
    (
        "an agent with ten workloads: resident, processor, on the wire",
        "{8, the agent, resident KiB} KiB, {8, the agent, processor s/h} s and {8, the agent, wire KiB/h} KiB an hour",
    ),
    ("the agent's program", "{8, the agent, program MB} MB"),
];

/// `readme` with the numbers of `report`, or what is not there.
pub fn with_numbers(readme: &str, report: &Value) -> Result<String, String> {
    let missing = |mark: &str| format!("README has no {}", mark.trim_end());
    let (before, rest) = (readme.split_once(MARKS[0])).ok_or_else(|| missing(MARKS[0]))?;
    let (_, after) = rest.split_once(MARKS[1]).ok_or_else(|| missing(MARKS[1]))?;
    let mut made = "| | |\n|---|---|\n".to_owned();
    for (name, says) in LINES {
        made += &format!("| {name} | {} |\n", filled(says, report)?);
    }
    let about = |what: &str| {
        report["about"][what]
            .as_str()
            .unwrap_or("unknown")
            .to_owned()
    };
    made += &format!("\nOn {}, at {}.\n", about("machine"), about("commit"));
    Ok([before, MARKS[0], &made, MARKS[1], after].concat())
}

/// A text with the numbers that it names.
fn filled(text: &str, report: &Value) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, named)) = rest.split_once('{') {
        let (named, after) = named.split_once('}').ok_or("a { without }")?;
        filled += before;
        filled += &number(named, report).ok_or_else(|| format!("the report has no {{{named}}}"))?;
        rest = after;
    }
    Ok(filled + rest)
}

fn number(named: &str, report: &Value) -> Option<String> {
    let mut words = named.splitn(3, ", ");
    let (table, row, column) = (words.next()?, words.next()?, words.next()?);
    let title = format!("{table}. ");
    let table = report["tables"].as_array()?.iter();
    let table = { table }.find(|table| {
        let found = table["title"].as_str();
        found.is_some_and(|found| found.starts_with(&title))
    })?;
    let columns = table["columns"].as_array()?;
    let column = columns.iter().position(|name| name == column)?;
    let row = table["rows"].as_array()?.iter().find(|cells| {
        let mut asked = row.split('/').enumerate();
        row.is_empty() || asked.all(|(at, cell)| cells[at] == cell)
    })?;
    let cell = &row[column];
    match cell.as_f64().or_else(|| cell["value"].as_f64()) {
        Some(number) => Some(digits(number)),
        // Why there is none.
        None => cell.as_str().map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{MARKS, filled, with_numbers};

    #[test]
    fn numbers_come_from_the_named_cells() {
        let report = json!({ "tables": [
            { "title": "10. Other", "columns": ["x"], "rows": [[7.0]] },
            { "title": "1. Cost", "columns": ["n", "by", "ns"], "rows": [
                ["1k", "one", { "value": 12.34, "ratio": 1.0 }],
                ["1k", "many", 5.0],
                ["1m", "one", "not here"],
            ] },
        ] });
        let all = "{1, 1k, ns} {1, 1k/many, ns}, {1, , ns}; {1, 1m/one, ns} {10, , x}";
        let said = "12.3 5, 12.3; not here 7";
        assert_eq!(filled(all, &report).as_deref(), Ok(said));
        for missing in ["{1, 1k, s}", "{1, 2k, ns}", "{2, 1k, ns}"] {
            assert!(filled(missing, &report).is_err(), "{missing}");
        }
        assert!(with_numbers(&MARKS.concat(), &report).is_err());
    }

    /// `cargo bench -p orchestrator-benches -- --full --keep` writes both; with `UPDATE` in the environment this writes README
    /// from the report that there is.
    #[test]
    fn readme_says_what_was_measured() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = here.with_file_name("README.md");
        let readme = std::fs::read_to_string(&path).unwrap();
        let report = std::fs::read(here.join("report.json")).unwrap();
        let made = with_numbers(&readme, &serde_json::from_slice(&report).unwrap()).unwrap();
        if std::env::var_os("UPDATE").is_some() {
            return std::fs::write(path, made).unwrap();
        }
        assert_eq!(readme, made);
    }
}
