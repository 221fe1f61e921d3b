//! Logs and snapshots: how fast they are written, and read back.

use std::hint::black_box;

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::{Cell, Table, size};
use orchestrator_benches::timing::{median_of, seconds};
use orchestrator_benches::walk::{Reporting, SEED, Walk, job_id};
use orchestrator_core::{Entry, Job};
use serde_json::Value;

use super::Extent;

/// Entries, or JSON values, that are held in memory at a time.
const AT_ONCE: usize = 1000;

const LOG_NOTE: &str = "replay: taking in entries that are decoded. recover: Job::recover from lines. Compared to: serde_json reading and writing
  the same lines as Value, and a plain copy of the same bytes.";
const SNAPSHOT_NOTE: &str = "Compared to: serde_json reading and writing the same bytes as Value, and a plain copy of them.";

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    let log_head = [
        "nodes",
        "a step takes",
        "entries",
        "MB",
        "encode s",
        "decode s",
        "replay s",
        "recover s",
        "recover MB/s",
        "entries/s",
        "Value write s",
        "Value read s",
        "copy s",
    ];
    let title =
        "4a. The log of a fleet that joined, took version 1 at once and version 2 in waves of 1 %";
    let mut logs = Table::new(title, &log_head, LOG_NOTE);
    let snapshot_head = [
        "nodes",
        "MB",
        "write s",
        "MB/s",
        "read s",
        "MB/s",
        "Value write s",
        "Value read s",
        "copy s",
    ];
    let title = "4b. The snapshot of such a job, half-way through version 2";
    let mut snapshots = Table::new(title, &snapshot_head, SNAPSHOT_NOTE);
    for &nodes in &extent.sizes {
        let rounds = extent.rounds(nodes).min(5);
        for (reporting, takes) in [
            (Reporting::Single, "1 report"),
            (Reporting::Batched, "a wave's"),
        ] {
            let mut row = vec![size(nodes).into(), takes.into()];
            row.extend(log_row(nodes, reporting, rounds));
            logs.row(row);
        }
        let mut row = vec![size(nodes).into()];
        row.extend(snapshot_row(nodes, rounds));
        snapshots.row(row);
    }
    measured.add(logs);
    measured.add(snapshots);
}

fn log_row(nodes: usize, reporting: Reporting, rounds: usize) -> [Cell; 11] {
    let mut walk = Walk::new();
    walk.log = Some(String::new());
    walk.join(nodes);
    walk.settle(nodes);
    walk.roll(nodes / 100);
    walk.finish(reporting);
    walk.assert_completed(nodes);
    let log = walk.log.take().expect("it is kept");
    let entries = walk.entries;

    let decoded = || {
        log.lines()
            .map(|line| Entry::decode(line).expect("an entry"))
    };
    let recovered = Job::recover(job_id(), SEED, decoded()).expect("a whole log");
    assert!(
        recovered.snapshot() == walk.job.snapshot(),
        "a replay tells the same"
    );
    drop((recovered, walk));

    let encode = median_of(rounds, || {
        let mut bytes = 0;
        let spent = in_parts(decoded(), |entries| {
            bytes += entries.iter().map(|e| e.encode().len() + 1).sum::<usize>();
            entries
        });
        assert_eq!(bytes, log.len());
        spent
    });
    let replay = median_of(rounds, || {
        let mut job = Job::new(job_id(), SEED);
        let spent = in_parts(decoded(), |entries| job.catch_up(entries).expect("no gap"));
        assert_eq!(job.seq(), entries);
        spent
    });
    let decode = median_of(rounds, || {
        let (spent, count) = seconds(|| decoded().count() as u64);
        assert_eq!(count, entries);
        spent
    });
    let recover = median_of(rounds, || {
        seconds(|| Job::recover(job_id(), SEED, decoded())).0
    });
    let (value_write, value_read) = values(&log, rounds);
    [
        entries as f64,
        megabytes(log.len()),
        encode,
        decode,
        replay,
        recover,
        megabytes(log.len()) / recover,
        entries as f64 / recover,
        value_write,
        value_read,
        copy(log.as_bytes(), rounds),
    ]
    .map(Cell::from)
}

fn snapshot_row(nodes: usize, rounds: usize) -> [Cell; 8] {
    let mut walk = Walk::settled(nodes);
    walk.roll(nodes / 100);
    (0..50).for_each(|_| walk.pass_wave(Reporting::Batched));
    let job = walk.job;
    let bytes = job.snapshot();
    let write = median_of(rounds, || seconds(|| job.snapshot()).0);
    let read = median_of(rounds, || {
        let (spent, copy) = seconds(|| Job::from_snapshot(&bytes).expect("a snapshot"));
        assert!(copy.snapshot() == bytes, "the same state");
        spent
    });
    let text = std::str::from_utf8(&bytes).expect("JSON is text");
    let (value_write, value_read) = values(text, rounds);
    [
        megabytes(bytes.len()),
        write,
        megabytes(bytes.len()) / write,
        read,
        megabytes(bytes.len()) / read,
        value_write,
        value_read,
        copy(&bytes, rounds),
    ]
    .map(Cell::from)
}

/// Seconds for writing and reading every line as a JSON value.
fn values(lines: &str, rounds: usize) -> (f64, f64) {
    let value = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
    let read = median_of(rounds, || {
        seconds(|| lines.lines().map(value).for_each(drop)).0
    });
    let write = median_of(rounds, || {
        in_parts(lines.lines().map(value), |values| {
            black_box(values.iter().map(|v| v.to_string().len()).sum::<usize>());
            values
        })
    });
    (write, read)
}

/// Seconds that `work` takes for all items, which are made part by part and not in the time. Nor is
/// dropping what it returns.
fn in_parts<T, R>(mut items: impl Iterator<Item = T>, mut work: impl FnMut(Vec<T>) -> R) -> f64 {
    let mut spent = 0.0;
    loop {
        let part: Vec<T> = items.by_ref().take(AT_ONCE).collect();
        if part.is_empty() {
            return spent;
        }
        spent += seconds(|| work(part)).0;
    }
}

fn copy(bytes: &[u8], rounds: usize) -> f64 {
    median_of(rounds, || seconds(|| bytes.to_vec()).0)
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}
