//! Bytes a target takes beyond its name, as the kernel counts them.

use std::process::Command;

use orchestrator_benches::table::{Table, size};
use orchestrator_benches::walk::{Reporting, Walk, node_name};

use crate::baseline::Named;
use crate::options::{Of, Options};

/// Small fleets are measured many at once: the kernel counts whole pages.
const TARGETS_AT_ONCE: usize = 1_000_000;

const NOTE: &str = "Bytes a target beyond its name, resident; jobs of a size are held side by side up to a million targets.
  joined: no version yet. mid-rollout: half updated, 1 % in flight. peak: the most that there ever was, with the
  driver's lists. Compared to: a std HashMap<String, u32> and a byte a node.";

pub(crate) fn print(options: &Options) {
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
    for &nodes in &options.sizes {
        let mut row = vec![size(nodes), jobs(nodes).to_string()];
        row.extend(measured("--memory-of-core", nodes));
        row.extend(measured("--memory-of-baseline", nodes));
        row.resize(head.len(), "only on Linux".to_owned());
        table.row(row);
    }
    print!("{table}");
}

fn jobs(nodes: usize) -> usize {
    (TARGETS_AT_ONCE / nodes).max(1)
}

/// What a [child] printed.
fn measured(option: &str, nodes: usize) -> Vec<String> {
    let program = std::env::current_exe().expect("this program has a path");
    // What is freed goes back to the kernel at once.
    let child = Command::new(program)
        .args([option, &nodes.to_string()])
        .env("MALLOC_TRIM_THRESHOLD_", "0")
        .env("MALLOC_MMAP_THRESHOLD_", "131072")
        .output()
        .expect("this program can be started again");
    let complaint = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{complaint}");
    let printed = String::from_utf8_lossy(&child.stdout);
    printed.split_whitespace().map(str::to_owned).collect()
}

/// Prints the bytes a target, one number for each column; nothing where the kernel does not say.
pub(crate) fn child(nodes: usize, of: Of) {
    // What the program itself takes is there before the first measure.
    let mut first = Walk::settled(1000);
    first.roll(10);
    first.finish(Reporting::Batched);
    drop(first);
    let Some(before) = kilobytes("RssAnon:") else {
        return;
    };
    let jobs = jobs(nodes);
    let names: usize = (0..nodes).map(|n| node_name(n).len()).sum();
    let say = |field: &str| {
        let kilobytes = kilobytes(field).expect("it was there before") - before;
        let beyond_names = (1024 * kilobytes) as f64 - (jobs * names) as f64;
        println!("{:.1}", beyond_names / (jobs * nodes) as f64);
    };
    match of {
        Of::Core => {
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
        Of::Baseline => {
            let named: Vec<Named> = (0..jobs).map(|_| Named::new(nodes)).collect();
            say("RssAnon:");
            assert!(named.iter().all(|n| n.plain.count(0) == nodes));
        }
    }
}

/// A field of what the kernel says of this process.
fn kilobytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}
