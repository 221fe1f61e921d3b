//! The fleet's log and snapshot: how fast they are written, and the fleet is made of them again.

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::{Cell, Table, size};
use orchestrator_benches::timing::{median_of, seconds};
use orchestrator_core::Time;
use orchestrator_core::fleet::{Entry, Fleet, FleetSettings, Input};

use super::Extent;

const NOTE: &str = "recover: from bytes to a fleet that can be stepped.";

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    let head = [
        "nodes",
        "log MB",
        "encode s",
        "recover s",
        "snapshot MB",
        "write s",
        "recover s",
    ];
    let mut table = Table::new(
        "4c. A fleet whose nodes joined, each by itself",
        &head,
        NOTE,
    );
    for &nodes in &extent.sizes {
        let mut row = vec![size(nodes).into()];
        row.extend(columns(nodes, extent.rounds(nodes).min(5)));
        table.row(row);
    }
    measured.add(table);
}

fn columns(nodes: usize, rounds: usize) -> [Cell; 6] {
    let settings = FleetSettings::default();
    let mut fleet = Fleet::new(settings);
    let mut entries = Vec::new();
    for number in 0..nodes {
        let pairs = |pairs: &[(&str, String)]| {
            let owned = pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()));
            owned.collect()
        };
        let join = Input::Join {
            name: format!("node-{number:07}").into(),
            labels: pairs(&[
                ("disk", "ssd".to_owned()),
                ("zone", format!("z{}", number % 5)),
            ]),
            facts: pairs(&[("version", "1.0".to_owned())]),
            leaving: false,
        };
        entries.extend(fleet.step(Time::default(), join).expect("it is new"));
    }
    let encode = || entries.iter().map(Entry::encode).collect::<Vec<_>>();
    let lines = encode();
    let encode = median_of(rounds, || seconds(encode).0);
    let snapshot = fleet.snapshot();
    let write = median_of(rounds, || seconds(|| fleet.snapshot()).0);
    let from_log = median_of(rounds, || {
        let decoded = lines
            .iter()
            .map(|line| Entry::decode(line).expect("an entry"));
        let (spent, again) = seconds(|| Fleet::recover(settings, decoded).expect("a whole log"));
        assert_eq!(again.len(), nodes);
        spent
    });
    let from_snapshot = median_of(rounds, || {
        let read = || Fleet::from_snapshot(settings, &snapshot).expect("a snapshot");
        let (spent, again) = seconds(read);
        assert_eq!(again.len(), nodes);
        spent
    });
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    let log = lines.iter().map(|line| line.len() + 1).sum();
    [
        megabytes(log),
        encode,
        from_log,
        megabytes(snapshot.len()),
        write,
        from_snapshot,
    ]
    .map(Cell::from)
}
