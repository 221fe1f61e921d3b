//! What it costs to move an execution of a placed job to another node.

use std::hint::black_box;

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::{Cell, Table, size};
use orchestrator_benches::timing::{median, seconds};
use orchestrator_benches::walk::{Walk, node_name};
use orchestrator_core::{Input, NodeChange, Presence};

use super::Extent;

const ZONES: usize = 10;
const NOTE: &str =
    "ns, and times the first row. A node with one execution is drained, which moves it, and is back.
  Compared to: the least loaded of all nodes, found by a walk over one number for each of them.";

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    let head = ["nodes", "drain and move", "walk over all"];
    let mut table = Table::new(
        "1c. An execution moves, half as many executions as nodes",
        &head,
        NOTE,
    );
    let mut subjects: Vec<Subject> = extent.sizes.iter().map(|&n| Subject::new(n)).collect();
    let (rounds, count) = if extent.quick { (3, 100) } else { (15, 1000) };
    for round in 0..=rounds {
        for subject in &mut subjects {
            let costs = subject.round(count);
            if round > 0 {
                subject.costs.push(costs);
            }
        }
    }
    let first = subjects[0].median(0);
    for subject in &subjects {
        table.row(vec![
            size(subject.nodes).into(),
            Cell::against(subject.median(0), first),
            subject.median(1).into(),
        ]);
    }
    measured.add(table);
}

struct Subject {
    nodes: usize,
    walk: Walk,
    /// What the walk over all looks at.
    loads: Vec<u32>,
    /// Nanoseconds of a move, and of a walk.
    costs: Vec<[f64; 2]>,
}

impl Subject {
    fn new(nodes: usize) -> Self {
        let mut walk = Walk::new();
        walk.join_zones(nodes, ZONES);
        walk.place(nodes / 2);
        Self {
            nodes,
            walk,
            loads: vec![1; nodes],
            costs: Vec::new(),
        }
    }

    fn round(&mut self, count: usize) -> [f64; 2] {
        let now = self.walk.now;
        // Spread over the fleet; each holds one execution or none.
        let names: Vec<String> = (0..count)
            .map(|n| node_name(n * (self.nodes / count)))
            .collect();
        let busy: Vec<&String> = (names.iter())
            .filter(|name| !self.walk.job.desired(name).is_empty())
            .collect();
        let changes = busy.iter().map(|name| {
            [Presence::Draining, Presence::Ready].map(|status| NodeChange::Became {
                name: (**name).clone(),
                status,
            })
        });
        let changes: Vec<[NodeChange; 2]> = changes.collect();
        let job = &mut self.walk.job;
        let (moving, entries) = seconds(|| {
            let mut entries = 0;
            for change in changes.iter().flatten() {
                let step = job.step(now, Input::Nodes(std::slice::from_ref(change)));
                entries += step.expect("it fits").entries().len();
            }
            entries
        });
        assert_eq!(entries, 3 * busy.len(), "drained, moved, and back");
        let walks = 20;
        let (walking, ()) = seconds(|| {
            for _ in 0..walks {
                let loads = black_box(&self.loads).iter().zip(0_u32..);
                black_box(loads.min());
            }
        });
        [
            moving * 1e9 / busy.len() as f64,
            walking * 1e9 / f64::from(walks),
        ]
    }

    fn median(&self, kind: usize) -> f64 {
        median(self.costs.iter().map(|c| c[kind]).collect())
    }
}
