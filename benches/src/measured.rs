//! All tables of one run, and where: for a terminal as they come, and kept as Markdown and JSON.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::readme;
use crate::table::Table;

/// The tables of one run.
#[derive(Debug)]
pub struct Measured {
    quick: bool,
    tables: Vec<Table>,
}

impl Measured {
    /// One without tables; quick, if its numbers say little.
    pub fn new(quick: bool) -> Self {
        Self {
            quick,
            tables: Vec::new(),
        }
    }

    /// Prints a table, and keeps it.
    pub fn add(&mut self, table: Table) {
        print!("{table}");
        self.tables.push(table);
    }

    /// Writes `bench/report.md` and `bench/report.json` where Cargo builds; answers where that is.
    pub fn write(&self) -> io::Result<Vec<PathBuf>> {
        self.write_into(&target().join("bench"), &About::of_this_machine(self.quick))
    }

    /// Writes the same beside the measurements, and what README shows of it into README.
    pub fn keep(&self) -> io::Result<Vec<PathBuf>> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let about = About::of_this_machine(self.quick);
        let readme = here.with_file_name("README.md");
        let text = std::fs::read_to_string(&readme)?;
        let text = readme::with_numbers(&text, &self.json(&about)).map_err(io::Error::other)?;
        let mut paths = self.write_into(here, &about)?;
        std::fs::write(&readme, text)?;
        paths.push(readme);
        Ok(paths)
    }

    fn write_into(&self, dir: &Path, about: &About) -> io::Result<Vec<PathBuf>> {
        std::fs::create_dir_all(dir)?;
        let paths = ["report.md", "report.json"].map(|name| dir.join(name));
        std::fs::write(&paths[0], self.markdown(about))?;
        std::fs::write(&paths[1], format!("{:#}\n", self.json(about)))?;
        Ok(paths.to_vec())
    }

    fn markdown(&self, about: &About) -> String {
        let mut text = String::from("# Measured\n\n");
        for (what, value) in about.fields() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "- {what}: {value}");
        }
        for table in &self.tables {
            text.push_str(&table.markdown());
        }
        text
    }

    fn json(&self, about: &About) -> Value {
        let about = about
            .fields()
            .map(|(what, value)| (what.to_owned(), value.into()));
        let about: serde_json::Map<String, Value> = about.into_iter().collect();
        let tables: Vec<Value> = self.tables.iter().map(Table::json).collect();
        json!({ "about": about, "tables": tables })
    }
}

/// Where Cargo has built this.
pub fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    // It is in <target>/release/deps.
    let target = program.ancestors().nth(3).unwrap_or_else(|| Path::new("."));
    target.to_owned()
}

/// What a number means nothing without.
struct About {
    machine: String,
    system: String,
    commit: String,
    compiler: String,
    extent: &'static str,
}

impl About {
    fn of_this_machine(quick: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let processor = field("/proc/cpuinfo", "model name");
        let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kib: Option<f64> = memory.split(' ').next().and_then(|kib| kib.parse().ok());
        let memory = kib.map_or_else(|| "?".to_owned(), |kib| format!("{:.0}", kib / 1_048_576.0));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
        Self {
            machine: format!(
                "{}, {cores} cores, {memory} GiB",
                processor.as_deref().unwrap_or("unknown processor"),
            ),
            system: format!(
                "{} {}",
                std::env::consts::OS,
                release.as_deref().unwrap_or("").trim(),
            ),
            commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            compiler: said("rustc", &["--version"]).unwrap_or_else(|| "unknown".to_owned()),
            extent: if quick {
                "quick: that everything runs, not what it costs"
            } else {
                "full"
            },
        }
    }

    fn fields(&self) -> [(&'static str, &str); 5] {
        [
            ("machine", &self.machine),
            ("system", &self.system),
            ("commit", &self.commit),
            ("compiler", &self.compiler),
            ("extent", self.extent),
        ]
    }
}

fn commit() -> Option<String> {
    let here = env!("CARGO_MANIFEST_DIR");
    let commit = said("git", &["-C", here, "rev-parse", "--short=12", "HEAD"])?;
    let changed = said("git", &["-C", here, "status", "--porcelain"])?;
    Some(match changed.is_empty() {
        true => commit,
        false => format!("{commit}, and changes that are in none"),
    })
}

/// What a program prints, if it is there and succeeds.
fn said(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The first value of a field of such a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{About, Measured};
    use crate::table::{Cell, Table};

    #[test]
    fn tables_are_kept_with_what_they_were_measured_on() {
        let mut measured = Measured::new(true);
        let mut table = Table::new("1. Cost", &["nodes", "ns"], "Compared to the first row.");
        table.row(vec!["1k".into(), Cell::against(200.0, 200.0)]);
        table.row(vec!["10k".into(), Cell::against(300.0, 200.0)]);
        measured.add(table);
        let about = About::of_this_machine(true);
        let text = measured.markdown(&about);
        assert!(
            text.contains("| nodes | ns |\n|---|---|\n| 1k | 200 x1.00 |\n"),
            "{text}"
        );
        assert!(text.contains("- commit: "), "{text}");
        let json = measured.json(&about);
        assert_eq!(json["tables"][0]["rows"][1][1]["ratio"], 1.5, "{json}");
        assert!(json["about"]["machine"].as_str().unwrap().contains("cores"));
    }
}
