//! What an agent costs that has ten workloads and nothing to do, beside a process that only sleeps.
//!
//! The tests of the agent know how to have a server, a node and a link between them; they measure, and this asks them to.

use std::path::{Path, PathBuf};
use std::process::Command;

use orchestrator_benches::measured::{Measured, target};
use orchestrator_benches::table::{Cell, Table};
use serde_json::Value;

const NOTE: &str = "Compared to: a process that only sleeps. own: not shared with other processes of the same program. wire: all that \
    its link carries, both ways, with the heads of all layers, by a namespace of its own. A quick round takes the agent \
    as tests build it.";

/// Measures the agent as it is released; in a quick round the one of the tests, for a moment.
pub(crate) fn measure(quick: bool, measured: &mut Measured) {
    let kept = tempfile::tempdir().expect("a directory");
    let mut tests = cargo();
    // As all tests together are built, so that nothing is built twice.
    tests.args("test --quiet --locked --workspace --all-features --test agent --".split(' '));
    tests.args("--ignored --exact idle::idle idle::idle_on_the_wire --test-threads 1".split(' '));
    tests.env("IDLE_KEPT", kept.path());
    tests.env("IDLE_SECONDS", if quick { "1" } else { "60" });
    let mut program_mb = Cell::from("not released");
    if !quick {
        let agent = released();
        program_mb = megabytes_stripped(&agent, kept.path());
        tests.env("AGENT", agent);
    }
    succeed(&mut tests);

    let found = |name: &str| -> Option<Value> {
        let text = std::fs::read(kept.path().join(name)).ok()?;
        Some(serde_json::from_slice(&text).expect("they keep JSON"))
    };
    let processes = found("processes").expect("they find what processes cost");
    let number = |of: &Value| Cell::from(of.as_f64().expect("a number"));
    let wire = match found("wire") {
        Some(wire) => number(&wire["kib_per_hour"]),
        None => "no namespaces here".into(),
    };
    let head = [
        "",
        "resident KiB",
        "own KiB",
        "processor s/h",
        "wire KiB/h",
        "program MB",
    ];
    let mut table = Table::new("8. An agent with ten workloads, idle", &head, NOTE);
    let rows = [
        ("agent", "the agent", wire, program_mb),
        (
            "shim",
            "who watches one workload",
            "none".into(),
            "the same".into(),
        ),
        ("sleep", "sleep", "none".into(), "".into()),
    ];
    for (name, row, wire, program) in rows {
        let costs = ["resident_kib", "own_kib", "processor_s_per_hour"];
        let mut cells = vec![Cell::from(row)];
        cells.extend(costs.map(|cost| number(&processes[name][cost])));
        cells.extend([wire, program]);
        table.row(cells);
    }
    measured.add(table);
}

/// The Cargo that runs this.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The agent, built as it is released.
fn released() -> PathBuf {
    succeed(cargo().args("build --quiet --locked --release -p orchestrator-agent".split(' ')));
    target().join("release/orchestrator-agent")
}

/// What a program takes on a disk without what only debuggers read.
fn megabytes_stripped(program: &Path, dir: &Path) -> Cell {
    let stripped = dir.join("stripped");
    let strip = Command::new("strip")
        .arg("-o")
        .arg(&stripped)
        .arg(program)
        .status();
    match strip {
        Ok(status) if status.success() => {
            let bytes = std::fs::metadata(stripped).expect("it is there").len();
            (bytes as f64 / 1e6).into()
        }
        _ => "no strip here".into(),
    }
}

fn succeed(command: &mut Command) {
    let status = command.status().expect("it starts");
    assert!(status.success(), "{command:?}: {status}");
}
