//! How things look: one home for tables, times, bars and colours.

use std::io::{self, IsTerminal, Write};

use axum::http::StatusCode;
use orchestrator_core::Time;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Error;
use crate::native::Problem;

/// Where answers go, and in which form.
#[derive(Clone, Copy)]
pub(super) struct Out {
    /// Whether a program reads it.
    pub(super) json: bool,
    /// The columns of the terminal that it goes to; absent where it goes elsewhere.
    pub(super) width: Option<usize>,
    /// Its lines.
    pub(super) height: usize,
    pub(super) paint: Paint,
}

impl Out {
    pub(super) fn new(json: bool, no_color: bool) -> Self {
        let terminal = io::stdout().is_terminal() && !is("TERM", |term| term == "dumb");
        let size = terminal_size::terminal_size();
        // Some say that they have none.
        let size = size.filter(|(width, height)| width.0 > 0 && height.0 > 0);
        let (width, height) = size.map_or((80, 24), |(width, height)| (width.0, height.0));
        Self {
            json,
            width: terminal.then_some(width.into()),
            height: height.into(),
            paint: Paint(terminal && !json && !no_color && !is("NO_COLOR", |set| !set.is_empty())),
        }
    }

    /// Writes a text that ends its lines itself.
    pub(super) fn say(&self, text: &str) -> Result<(), Error> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// Writes what a server answered: as it is for programs, and as this text for people.
    pub(super) fn answer<T: DeserializeOwned>(
        &self,
        value: Value,
        text: impl FnOnce(&T, &Self) -> String,
    ) -> Result<(), Error> {
        if self.json {
            return self.say(&format!("{value:#}\n"));
        }
        let more = value.get("next_page_token").is_some();
        self.say(&text(&read(value)?, self))?;
        if more {
            eprintln!("There are more: see --limit.");
        }
        Ok(())
    }

    /// One line of JSON.
    pub(super) fn line(&self, value: &Value) -> Result<(), Error> {
        self.say(&format!("{value}\n"))
    }
}

fn is(variable: &str, so: impl FnOnce(&std::ffi::OsStr) -> bool) -> bool {
    std::env::var_os(variable).is_some_and(|value| so(&value))
}

/// A record of the API, to be shown to people.
pub(super) fn read<T: DeserializeOwned>(mut value: Value) -> Result<T, Error> {
    clean(&mut value);
    serde_json::from_value(value).map_err(|why| {
        let detail = format!(
            "what the server answers is of another version of this API ({why}); --output json shows it as it is"
        );
        Error::Refused {
            problem: Box::new(Problem::new(StatusCode::OK, "other-version", detail)),
            with_token: false,
        }
    })
}

/// Leaves nothing in its texts that a terminal would obey: some of them come from nodes, and from what these run.
fn clean(value: &mut Value) {
    match value {
        Value::String(text) if text.contains(char::is_control) => *text = printable(text),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

/// A text on one line, with nothing in it that a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let printable = |letter: char| match letter {
        '\n' | '\t' => ' ',
        letter if letter.is_control() => char::REPLACEMENT_CHARACTER,
        letter => letter,
    };
    text.chars().map(printable).collect()
}

/// Colours, where there are any.
#[derive(Clone, Copy)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    pub(super) fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub(super) fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub(super) fn busy(self, text: &str) -> String {
        self.with("33", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        match self.0 && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    /// A word for where something is.
    pub(super) fn state(self, word: &str) -> String {
        match word {
            "completed" | "unchanged" | "ready" | "updated" | "yes" => self.good(word),
            "failed" | "rolled_back" | "take_back_failed" | "down" => self.bad(word),
            "paused" | "canceled" | "disconnected" | "draining" => self.busy(word),
            _ => word.to_owned(),
        }
    }
}

/// How a column stands.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// Words, from the left.
    Left(&'static str),
    /// Numbers, from the right.
    Right(&'static str),
}

use Column::{Left, Right};

/// Rows under their names. What a terminal has no room for is cut off at its edge.
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    giving: &'static [(&'static str, usize)],
}

impl Table {
    pub(super) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
            giving: &[],
        }
    }

    /// What is of less worth than the rest where a terminal is too narrow, in this order: a column is cut to no less than
    /// so much, or left out where that is 0.
    pub(super) fn giving(mut self, giving: &'static [(&'static str, usize)]) -> Self {
        self.giving = giving;
        self
    }

    pub(super) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(super) fn text(&self, out: &Out) -> String {
        let names = self.columns.iter().map(|column| match column {
            Left(name) | Right(name) => out.paint.faint(name),
        });
        let names: Vec<String> = names.collect();
        let all = || std::iter::once(&names).chain(&self.rows);
        let widths = (0..names.len())
            .map(|at| all().map(|row| width(&row[at])).max().unwrap_or(0))
            .collect();
        let widths = self.fitting(widths, out.width);
        let mut text = String::new();
        for row in all() {
            let mut line = String::new();
            for (at, cell) in row.iter().enumerate().filter(|(at, _)| widths[*at] > 0) {
                let cell = cut(cell, Some(widths[at]));
                let room = " ".repeat(widths[at] - width(&cell));
                match self.columns[at] {
                    Left(_) => line += &format!("{cell}{room}"),
                    Right(_) => line += &format!("{room}{cell}"),
                }
                line += "  ";
            }
            text += &cut(line.trim_end(), out.width);
            text += "\n";
        }
        text
    }

    /// How wide each column is where there is so much room; one that is left out has no width.
    fn fitting(&self, mut widths: Vec<usize>, room: Option<usize>) -> Vec<usize> {
        let Some(room) = room else {
            return widths;
        };
        for (name, least) in self.giving {
            let whole: usize = widths
                .iter()
                .filter(|width| **width > 0)
                .map(|w| w + 2)
                .sum();
            let over = whole.saturating_sub(room + 2);
            let is_it =
                |column: &Column| matches!(column, Left(known) | Right(known) if known == name);
            let at = self.columns.iter().position(is_it);
            let Some(at) = at.filter(|at| over > 0 && widths[*at] > *least) else {
                continue;
            };
            widths[at] = match least {
                0 => 0,
                least => widths[at].saturating_sub(over).max(*least),
            };
        }
        widths
    }
}

/// Names and values, one a line.
pub(super) fn pairs(pairs: &[(&str, String)], out: &Out) -> String {
    let longest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = pairs.iter().filter(|(_, value)| !value.is_empty());
    lines
        .map(|(name, value)| {
            let room = " ".repeat(longest - name.len() + 2);
            format!("{}{room}{value}\n", out.paint.faint(name))
        })
        .collect()
}

/// How many columns a text takes, its colours aside.
fn width(text: &str) -> usize {
    visible(text).filter(|(_, seen)| *seen).count()
}

/// Its letters, and whether they are seen.
fn visible(text: &str) -> impl Iterator<Item = (char, bool)> + '_ {
    let mut in_code = false;
    text.chars().map(move |letter| {
        let seen = !in_code && letter != '\x1b';
        in_code = (in_code || letter == '\x1b') && letter != 'm';
        (letter, seen)
    })
}

/// A line that a terminal of this width does not wrap.
pub(super) fn cut(line: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns.filter(|&columns| width(line) > columns) else {
        return line.to_owned();
    };
    let (mut short, mut room) = (String::new(), columns.saturating_sub(1));
    for (letter, seen) in visible(line) {
        if !seen {
            short.push(letter);
        } else if room > 0 {
            room -= 1;
            short.push(letter);
        }
    }
    short + "…"
}

/// How wide a bar is.
const BAR: usize = 20;

/// A share as a bar: what is done, what is spoilt, what is being done, and the rest.
pub(super) fn bar(done: u32, spoilt: u32, busy: u32, all: u32, paint: Paint) -> String {
    let all = all.max(1) as usize;
    let filled = BAR * (done as usize).min(all) / all;
    let spoilt = (BAR * spoilt as usize).div_ceil(all).min(BAR - filled);
    let busy = (BAR * busy as usize)
        .div_ceil(all)
        .min(BAR - filled - spoilt);
    let rest = BAR - filled - spoilt - busy;
    paint.good(&"#".repeat(filled))
        + &paint.bad(&"x".repeat(spoilt))
        + &paint.busy(&">".repeat(busy))
        + &".".repeat(rest)
}

pub(super) fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Time::from_millis(since.unwrap_or_default().as_millis() as u64)
}

/// A point in time as people say it: `3m 5s ago`.
pub(super) fn ago(text: &str) -> String {
    relative(text, now())
}

/// The same of what may be absent.
pub(super) fn maybe_ago(text: Option<&String>) -> String {
    text.map_or_else(String::new, |text| ago(text))
}

fn relative(text: &str, now: Time) -> String {
    let Ok(at) = text.parse::<Time>() else {
        return text.to_owned();
    };
    let (at, now) = (at.as_millis(), now.as_millis());
    match at.checked_sub(now).filter(|left| *left > 0) {
        Some(left) => format!("in {}", span(left)),
        None => format!("{} ago", span(now - at)),
    }
}

/// In whole seconds, the two largest parts.
pub(super) fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes:02}m"),
        _ => format!("{days}d {hours:02}h"),
    }
}

/// A word of the API, as it is written there.
pub(super) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

pub(super) fn yes(flag: bool) -> String {
    if flag { "yes" } else { "" }.to_owned()
}

/// A version in a table. There is none of the number 0: that says that nothing runs.
pub(super) fn version(number: u32) -> String {
    match number {
        0 => "-".to_owned(),
        number => number.to_string(),
    }
}

/// How many of a wave are named.
const NAMED: usize = 8;

/// Names, as many as a person reads.
pub(super) fn some(names: &[String]) -> String {
    let mut text = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        text += &format!(", and {} more", names.len() - NAMED);
    }
    text
}

/// `1 node`, `2 nodes`.
pub(super) fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Out = Out {
        json: false,
        width: None,
        height: 24,
        paint: Paint(false),
    };

    #[test]
    fn columns_stand_below_each_other_and_lines_end_without_blanks() {
        let mut table = Table::new(&[Left("node"), Right("jobs"), Left("status")]);
        table.row(vec!["n1".into(), "5".into(), "ready".into()]);
        table.row(vec!["n-long".into(), "12".into(), String::new()]);
        let expected = "node    jobs  status\nn1         5  ready\nn-long    12\n";
        assert_eq!(table.text(&PLAIN), expected);
        let painted = Out {
            paint: Paint(true),
            ..PLAIN
        };
        let plain: String = visible(&table.text(&painted))
            .filter_map(|(letter, seen)| seen.then_some(letter))
            .collect();
        assert_eq!(plain, expected);
    }

    #[test]
    fn on_a_narrow_terminal_the_lesser_columns_give_way_to_the_others() {
        let columns = [Left("id"), Left("name"), Left("state"), Left("message")];
        let giving = &[("message", 9), ("name", 0), ("message", 0), ("nobody", 0)];
        let mut table = Table::new(&columns).giving(giving);
        let row = [
            "01969af3",
            "default/web",
            "completed",
            "3 of 3 nodes updated",
        ];
        table.row(row.map(str::to_owned).to_vec());
        let shown = |width: usize| {
            let narrow = Out {
                width: Some(width),
                ..PLAIN
            };
            table.text(&narrow).lines().nth(1).map(str::to_owned)
        };
        for (width, expected) in [
            (54, "01969af3  default/web  completed  3 of 3 nodes updated"),
            (44, "01969af3  default/web  completed  3 of 3 no…"),
            (42, "01969af3  completed  3 of 3 n…"),
            (19, "01969af3  completed"),
            (18, "01969af3  complet…"),
        ] {
            assert_eq!(shown(width).as_deref(), Some(expected), "{width}");
        }
    }

    #[test]
    fn a_line_is_cut_where_the_terminal_ends_and_keeps_its_colours_closed() {
        assert_eq!(cut("abcdef", None), "abcdef");
        assert_eq!(cut("abcdef", Some(6)), "abcdef");
        assert_eq!(cut("abcdef", Some(4)), "abc…");
        let painted = Paint(true).bad("abcdef");
        assert_eq!(cut(&painted, Some(4)), "\x1b[31mabc\x1b[0m…");
    }

    #[test]
    fn no_record_commands_a_terminal() {
        let value = serde_json::json!({ "a": ["x\x1b[2J", { "b": "two\nlines" }] });
        let clean: Value = read(value).expect("any value is one");
        let expected = serde_json::json!({ "a": ["x\u{fffd}[2J", { "b": "two lines" }] });
        assert_eq!(clean, expected);
    }

    #[test]
    fn bars_are_of_one_width_and_show_what_little_went_wrong() {
        let plain = Paint(false);
        assert_eq!(bar(0, 0, 0, 0, plain), "....................");
        assert_eq!(bar(10, 0, 0, 10, plain), "####################");
        assert_eq!(bar(999, 1, 0, 1000, plain), "###################x");
        assert_eq!(bar(1, 0, 2, 10, plain), "##>>>>..............");
        assert_eq!(bar(9, 9, 9, 10, plain).len(), BAR);
    }

    #[test]
    fn times_are_told_in_two_parts() {
        let now = Time::from_millis(200_000_000);
        let at = |millis: u64| relative(&Time::from_millis(millis).to_string(), now);
        assert_eq!(at(200_000_000), "0s ago");
        assert_eq!(at(199_895_500), "1m 44s ago");
        assert_eq!(at(200_030_000), "in 30s");
        assert_eq!(at(192_620_000), "2h 03m ago");
        assert_eq!(at(20_000_000), "2d 02h ago");
        assert_eq!(relative("soon", now), "soon");
    }
}
