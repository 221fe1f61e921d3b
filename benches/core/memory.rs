//! Bytes a target takes beyond its name, as the kernel counts them.

use std::process::{Command, ExitCode};

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::{Cell, Table, read_size, size};
use orchestrator_benches::walk::{Reporting, Walk, node_name};

use super::Extent;
use super::baseline::Named;
use crate::options::Process;

/// Small fleets are measured many at once: the kernel counts whole pages.
const TARGETS_AT_ONCE: usize = 1_000_000;

const NOTE: &str = "Bytes a target beyond its name, resident; jobs of a size are held side by side up to a million targets.
  joined: no version yet. mid-rollout: half updated, 1 % in flight. peak: the most that there ever was, with the
  driver's lists. Compared to: a std HashMap<String, u32> and a byte a node.";

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    let title = "3. Memory";
    let head = [
        "nodes",
        "jobs",
        "joined",
        "mid-rollout",
        "at rest",
        "peak",
        "HashMap",
    ];
    let mut table = Table::new(title, &head, NOTE);
    for &nodes in &extent.sizes {
        let mut row = vec![Cell::from(size(nodes)), (jobs(nodes) as f64).into()];
        row.extend(in_a_child(Process::MemoryOfCore, nodes));
        row.extend(in_a_child(Process::MemoryOfBaseline, nodes));
        row.resize(head.len(), "only on Linux".into());
        table.row(row);
    }
    measured.add(table);
}

fn jobs(nodes: usize) -> usize {
    (TARGETS_AT_ONCE / nodes).max(1)
}

/// What a [child] printed.
fn in_a_child(what: Process, nodes: usize) -> Vec<Cell> {
    let program = std::env::current_exe().expect("this program has a path");
    // What is freed goes back to the kernel at once.
    let child = Command::new(program)
        .args([what.word(), &nodes.to_string()])
        .env("MALLOC_TRIM_THRESHOLD_", "0")
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .output()
        .expect("this program can be started again");
    let complaint = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{complaint}");
    let printed = String::from_utf8_lossy(&child.stdout);
    let numbers = printed.split_whitespace().map(str::parse::<f64>);
    numbers
        .map(|number| number.expect("a number").into())
        .collect()
}

/// Prints the bytes a target, one number for each column; nothing where the kernel does not say.
pub(crate) fn child(of: Process, nodes: &str) -> ExitCode {
    let Ok(nodes) = read_size(nodes) else {
        return ExitCode::FAILURE;
    };
    // What the program itself takes is there before the first measure.
    let mut first = Walk::settled(1000);
    first.roll(10);
    first.finish(Reporting::Batched);
    drop(first);
    let Some(before) = kilobytes("RssAnon:") else {
        return ExitCode::SUCCESS;
    };
    let jobs = jobs(nodes);
    let names: usize = (0..nodes).map(|n| node_name(n).len()).sum();
    let say = |field: &str| {
        let kilobytes = kilobytes(field).expect("it was there before") - before;
        let beyond_names = (1024 * kilobytes) as f64 - (jobs * names) as f64;
        println!("{:.1}", beyond_names / (jobs * nodes) as f64);
    };
    match of {
        Process::MemoryOfCore => {
            let mut walks = vec![Walk::new(); jobs];
            let mut each = |act: fn(&mut Walk, usize)| {
                walks.iter_mut().for_each(|walk| act(walk, nodes));
                say("RssAnon:");
            };
            each(Walk::join);
            each(|walk, nodes| {
                walk.settle(nodes);
                walk.roll(nodes / 100);
                (0..50).for_each(|_| walk.pass_wave(Reporting::Batched));
                // What comes next is the driver's to remember, but not in these bytes.
                walk.wave = Vec::new();
            });
            each(|walk, nodes| {
                walk.restart_driver();
                walk.finish(Reporting::Batched);
                walk.assert_completed(nodes);
            });
            say("VmHWM:");
        }
        _ => {
            let named: Vec<Named> = (0..jobs).map(|_| Named::new(nodes)).collect();
            say("RssAnon:");
            assert!(named.iter().all(|n| n.plain.count(0) == nodes));
        }
    }
    ExitCode::SUCCESS
}

/// A field of what the kernel says of this process.
fn kilobytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
