//! Plain tables for a terminal and for a README.

use std::fmt;

/// Rows of text under a head, every column as wide as its widest cell.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    rows: Vec<Vec<String>>,
    note: &'static str,
}

impl Table {
    /// A table without rows. The note says what the numbers are compared to.
    pub fn new(title: &'static str, head: &[&str], note: &'static str) -> Self {
        let head = head.iter().map(|&cell| cell.to_owned()).collect();
        Self {
            title,
            rows: vec![head],
            note,
        }
    }

    /// Appends a row; it has a cell for each of the head's.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a cell for each column");
        self.rows.push(cells);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.title)?;
        let wide = |row: &[String], column: usize| row[column].chars().count();
        let widths: Vec<usize> = (0..self.rows[0].len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| wide(row, column));
                cells.max().unwrap_or(0)
            })
            .collect();
        for (number, row) in self.rows.iter().enumerate() {
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

/// Three digits that count: `1234`, `12.3`, `0.00123`.
pub fn digits(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return value.to_string();
    }
    let before_point = value.abs().log10().floor() as i32 + 1;
    format!("{value:.*}", (3 - before_point).clamp(0, 6) as usize)
}

/// A cost, and how many times that of the first row it is.
pub fn against_first(cost: f64, first: f64) -> String {
    format!("{} x{:.2}", digits(cost), cost / first)
}

#[cfg(test)]
mod tests {
    use super::{Table, against_first, digits, size};

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1234.5, 12.34, 0.00123].map(digits),
            ["1234", "12.3", "0.00123"]
        );
        assert_eq!(
            [1000, 10_000, 1_000_000, 1500].map(size),
            ["1k", "10k", "1m", "1500"]
        );
        assert_eq!(against_first(300.0, 200.0), "300 x1.50");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("title", &["nodes", "ns"], "note");
        table.row(vec!["1k".to_owned(), "12345678".to_owned()]);
        let lines =
            "\ntitle\n\n  nodes        ns\n  -----  --------\n     1k  12345678\n\n  note\n";
        assert_eq!(table.to_string(), lines);
    }
}
