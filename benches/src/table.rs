//! Plain tables for a terminal, for a README, and for programs.

use std::fmt::{self, Write as _};

use serde_json::{Value, json};

/// Rows of text under a head, every column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    note: &'static str,
}

/// What stands in a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A name, or why there is no number.
    Text(String),
    /// A number.
    Number(f64),
    /// A number, and how many times another one it is.
    Against(f64, f64),
}

impl Cell {
    /// A cost, and how many times that of the first row it is.
    pub fn against(cost: f64, first: f64) -> Self {
        Self::Against(cost, cost / first)
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(value) => json!(value),
            Self::Against(value, ratio) => json!({ "value": value, "ratio": ratio }),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(value) => f.write_str(&digits(*value)),
            Self::Against(value, ratio) => write!(f, "{} x{ratio:.2}", digits(*value)),
        }
    }
}

impl From<f64> for Cell {
    fn from(value: f64) -> Self {
        Self::Number(value)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Table {
    /// A table without rows. The note says what the numbers are compared to.
    pub fn new(title: &'static str, head: &[&'static str], note: &'static str) -> Self {
        Self {
            title,
            head: head.to_vec(),
            rows: Vec::new(),
            note,
        }
    }

    /// Appends a row; it has a cell for each of the head's.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.head.len(), "a cell for each column");
        self.rows.push(cells);
    }

    /// As Markdown has it.
    pub fn markdown(&self) -> String {
        let mut text = format!("\n## {}\n\n| {} |\n", self.title, self.head.join(" | "));
        text.push_str(&"|---".repeat(self.head.len()));
        text.push_str("|\n");
        for row in &self.rows {
            for cell in row {
                // Writing to a string cannot fail.
                let _ = write!(text, "| {cell} ");
            }
            text.push_str("|\n");
        }
        let note: Vec<&str> = self.note.split_whitespace().collect();
        let _ = writeln!(text, "\n{}", note.join(" "));
        text
    }

    /// Rows in the order of the columns. A cell with a ratio is an object of `value` and `ratio`.
    pub fn json(&self) -> Value {
        let row = |row: &Vec<Cell>| row.iter().map(Cell::json).collect::<Value>();
        let rows: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "title": self.title, "columns": self.head, "rows": rows, "note": self.note })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        let head = self.head.iter().map(|&cell| cell.to_owned()).collect();
        let rows = self.rows.iter();
        let rows = rows.map(|row| row.iter().map(Cell::to_string).collect());
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
        let wide = |row: &[String], column: usize| row[column].chars().count();
        let widths: Vec<usize> = (0..self.head.len())
            .map(|column| {
                let cells = rows.iter().map(|row| wide(row, column));
                cells.max().unwrap_or(0)
            })
            .collect();
        for (number, row) in rows.iter().enumerate() {
            for (cell, &width) in row.iter().zip(&widths) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
            if number == 0 {
                for &width in &widths {
                    write!(f, "  {}", "-".repeat(width))?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "\n  {}", self.note)
    }
}

/// A number of nodes as `--sizes` takes it: `1k`, `10k`, `1m`.
pub fn size(nodes: usize) -> String {
    match nodes {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}m", n / 1_000_000),
        n if n >= 1000 && n % 1000 == 0 => format!("{}k", n / 1000),
        n => n.to_string(),
    }
}

/// What [`size`] writes, and every other whole number.
pub fn read_size(text: &str) -> Result<usize, String> {
    let unit = |suffix: [char; 2], unit| text.strip_suffix(suffix).map(|number| (number, unit));
    let (number, unit) = unit(['k', 'K'], 1000)
        .or_else(|| unit(['m', 'M'], 1_000_000))
        .unwrap_or((text, 1));
    let size = number.parse().ok().and_then(|n: usize| n.checked_mul(unit));
    size.filter(|&size| size > 0)
        .ok_or_else(|| format!("{text} is no size: a number such as 100, 10k or 1m"))
}

/// Three digits that count: `1234`, `12.3`, `0.00123`; of what is whole, all of them.
pub fn digits(value: f64) -> String {
    if value.fract() == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let before_point = value.abs().log10().floor() as i32 + 1;
    format!("{value:.*}", (3 - before_point).clamp(0, 6) as usize)
}

#[cfg(test)]
mod tests {
    use super::{Cell, Table, digits, size};

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1234.5, 12.34, 0.00123, 10.0].map(digits),
            ["1234", "12.3", "0.00123", "10"]
        );
        assert_eq!(
            [1000, 10_000, 1_000_000, 1500].map(size),
            ["1k", "10k", "1m", "1500"]
        );
        assert_eq!(Cell::against(300.0, 200.0).to_string(), "300 x1.50");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("title", &["nodes", "ns"], "note");
        table.row(vec!["1k".into(), 12_345_678.0.into()]);
        let lines =
            "\ntitle\n\n  nodes        ns\n  -----  --------\n     1k  12345678\n\n  note\n";
        assert_eq!(table.to_string(), lines);
    }
}
