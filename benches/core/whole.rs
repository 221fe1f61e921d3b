//! Whole rollouts in waves of 1 %.

use std::hint::black_box;

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::{Table, size};
use orchestrator_benches::timing::{median_of, seconds};
use orchestrator_benches::walk::{Reporting, Walk, node_name};

use super::Extent;
use super::baseline::{Named, Plain};

const NOTE: &str = "register: to the first wave out. waves: two good reports of each target, from the first to completed.
  Compared to: as many reports, in the order of names, to a byte a node and counts, by number (array) and by name
  (a std HashMap), ns a target.";

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    let head = [
        "nodes",
        "a step takes",
        "register s",
        "waves s",
        "total s",
        "steps",
        "entries",
        "ns a target",
        "array",
        "by name",
    ];
    let title = "2. A whole rolling update in waves of 1 %";
    let mut table = Table::new(title, &head, NOTE);
    for &nodes in &extent.sizes {
        let start = Walk::settled(nodes);
        let rounds = extent.rounds(nodes);
        let per_node = |seconds: f64| (seconds * 1e9 / nodes as f64).into();
        let (array, by_name) = baselines(nodes, rounds);
        for (reporting, takes) in [
            (Reporting::Single, "1 report"),
            (Reporting::Batched, "a wave's"),
        ] {
            let mut runs: Vec<Whole> = (0..=rounds)
                .map(|_| Whole::run(&start, nodes, reporting))
                .skip(1)
                .collect();
            runs.sort_by(|a, b| a.total().total_cmp(&b.total()));
            let run = &runs[runs.len() / 2];
            table.row(vec![
                size(nodes).into(),
                takes.into(),
                run.register.into(),
                run.waves.into(),
                run.total().into(),
                (run.steps as f64).into(),
                (run.entries as f64).into(),
                per_node(run.total()),
                per_node(array),
                per_node(by_name),
            ]);
        }
    }
    measured.add(table);
}

struct Whole {
    register: f64,
    waves: f64,
    steps: u64,
    entries: u64,
}

impl Whole {
    /// From a copy of `start`, which is not in the time.
    fn run(start: &Walk, nodes: usize, reporting: Reporting) -> Self {
        let mut walk = start.clone();
        let (register, ()) = seconds(|| walk.roll(nodes / 100));
        let (waves, ()) = seconds(|| walk.finish(reporting));
        walk.assert_completed(nodes);
        Self {
            register,
            waves,
            steps: walk.steps - start.steps,
            entries: walk.entries - start.entries,
        }
    }

    fn total(&self) -> f64 {
        self.register + self.waves
    }
}

/// Seconds for two reports of every node, by number and by name.
fn baselines(nodes: usize, rounds: usize) -> (f64, f64) {
    let names: Vec<String> = (0..nodes).map(node_name).collect();
    let array = median_of(rounds, || {
        let mut plain = Plain::new(nodes);
        let (spent, ()) = seconds(|| {
            for state in [1, 2] {
                for node in 0..nodes {
                    black_box(&mut plain).report(node, state);
                }
            }
        });
        assert_eq!(plain.count(2), nodes);
        spent
    });
    let mut named = Named::new(nodes);
    let by_name = median_of(rounds, || {
        let (spent, ()) = seconds(|| {
            for state in [1, 2] {
                for name in &names {
                    black_box(&mut named).report(name, state);
                }
            }
        });
        assert_eq!(named.plain.count(2), nodes);
        spent
    });
    (array, by_name)
}
