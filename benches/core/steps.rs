//! What one step costs in mid-rollout, and whether the size of the fleet matters.

use std::hint::black_box;

use orchestrator_benches::measured::Measured;
use orchestrator_benches::table::{Cell, Table, size};
use orchestrator_benches::timing::{median, seconds};
use orchestrator_benches::walk::{Reporting, Walk};
use orchestrator_core::{
    Command, DeploymentId, Input, Interval, Job, Observation, Report, Span, Time,
};

use super::Extent;
use super::baseline::{Named, Plain};

const NOTE: &str = "ns, and times the first row. Compared to: a byte a node and counts, by number (array) and by name
  (a std HashMap), that take in the very same reports.";

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    let ten = |_: usize| 10;
    let title = "1a. One step in mid-rollout, 10 targets in flight at every size";
    measured.add(table(title, extent, ten));
    let percent = |nodes: usize| nodes / 100;
    let title = "1b. One step in mid-rollout, 1 % of the targets in flight";
    measured.add(table(title, extent, percent));
}

fn table(title: &'static str, extent: &Extent, in_flight: impl Fn(usize) -> usize) -> Table {
    let head = [
        "nodes",
        "in flight",
        "report",
        "duplicate",
        "tick",
        "pause, resume",
        "array",
        "by name",
    ];
    let mut table = Table::new(title, &head, NOTE);
    let sizes = extent.sizes.iter();
    let mut subjects: Vec<Subject> = sizes.map(|&n| Subject::new(n, in_flight(n))).collect();
    let (rounds, reports) = if extent.quick {
        (3, 2000)
    } else {
        (15, 20_000)
    };
    // All sizes in every round, so that a busy spell of the machine is no size's alone.
    for round in 0..=rounds {
        for subject in &mut subjects {
            let costs = subject.round(reports);
            if round > 0 {
                subject.costs.push(costs);
            }
        }
    }
    let first = subjects[0].medians();
    for subject in &subjects {
        let costs = subject.medians();
        let mut row = vec![
            Cell::from(size(subject.nodes)),
            (subject.wave.len() as f64).into(),
        ];
        row.extend((0..4).map(|kind| Cell::against(costs[kind], first[kind])));
        row.extend(costs[4..].iter().copied().map(Cell::from));
        table.row(row);
    }
    table
}

/// Nanoseconds of a report, a duplicate, a tick, a command, and a report to either baseline.
type Costs = [f64; 6];

/// A fleet of which half is updated, and its reports.
struct Subject {
    nodes: usize,
    walk: Walk,
    deployment: DeploymentId,
    /// In an order that has nothing to do with that of the targets.
    wave: Vec<Member>,
    /// The number of the latest reports.
    number: u32,
    plain: Plain,
    named: Named,
    costs: Vec<Costs>,
}

/// A target in flight.
struct Member {
    report: Report,
    node: usize,
    name: String,
}

impl Subject {
    fn new(nodes: usize, in_flight: usize) -> Self {
        let mut walk = Walk::settled(nodes);
        walk.roll(in_flight);
        for _ in 0..nodes / in_flight / 2 {
            walk.pass_wave(Reporting::Batched);
        }
        let deployment = walk.job.deployment().expect("under way");
        assert_eq!(deployment.status.updated_nodes as usize, nodes / 2);
        let number = walk.job.summary(deployment.id).expect("under way").number;
        let mut wave: Vec<Member> = (walk.wave.drain(..))
            .map(|report| {
                let name = walk.job.target_name(number, report.target);
                let name = name.expect("it is a target").to_owned();
                // Nodes are numbered by their names.
                let digits = name.trim_start_matches(|c: char| !c.is_ascii_digit());
                let node = digits.parse().expect("a numbered node");
                Member { report, node, name }
            })
            .collect();
        shuffle(&mut wave);
        Self {
            nodes,
            walk,
            deployment: deployment.id,
            wave,
            number: 0,
            plain: Plain::new(nodes),
            named: Named::new(nodes),
            costs: Vec::new(),
        }
    }

    fn round(&mut self, count: usize) -> Costs {
        let per_one = |seconds: f64| seconds * 1e9 / count as f64;
        // Good and bad take turns: each changes its target, none ends the wave.
        let mut reports = Vec::with_capacity(count);
        let mut nodes = Vec::with_capacity(count);
        while reports.len() < count {
            self.number += 1;
            let good = self.number % 2 == 1;
            let interval = if good {
                Interval::PASSING
            } else {
                Interval::FAILING
            };
            for Member { report, node, name } in &self.wave {
                reports.push(Report {
                    number: self.number,
                    what: Observation::Interval(interval),
                    ..report.clone()
                });
                nodes.push((*node, name.as_str(), 1 + u8::from(good)));
            }
        }
        assert_eq!(reports.len(), count, "whole passes over the wave");
        let (now, job) = (self.walk.now, &mut self.walk.job);
        let (report, sums) = take_in(job, now, &reports);
        assert_eq!(sums, (count, 0), "each report changes something");
        let (duplicate, sums) = take_in(job, now, &reports);
        assert_eq!(sums, (0, count), "none is taken in twice");
        let tick = ticks(job, now, count);
        let command = commands(job, now, self.deployment, count);
        let (plain, ()) = seconds(|| {
            for &(node, _, state) in &nodes {
                black_box(&mut self.plain).report(node, state);
            }
        });
        let (named, ()) = seconds(|| {
            for &(_, name, state) in &nodes {
                black_box(&mut self.named).report(name, state);
            }
        });
        assert_eq!(self.plain.count(0), self.named.plain.count(0));
        [report, duplicate, tick, command, plain, named].map(per_one)
    }

    fn medians(&self) -> Costs {
        std::array::from_fn(|kind| median(self.costs.iter().map(|c| c[kind]).collect()))
    }
}

/// Each report in a step of its own: the seconds, the entries and the reports that were ignored.
fn take_in(job: &mut Job, now: Time, reports: &[Report]) -> (f64, (usize, usize)) {
    seconds(|| {
        let mut sums = (0, 0);
        for report in reports {
            let step = job.step(now, Input::Reports(std::slice::from_ref(report)));
            let (entries, sealed) = step.expect("no report is refused").split();
            sums.0 += entries.len();
            sums.1 += sealed.committed().ignored.len();
        }
        sums
    })
}

/// Steps without an input, a millisecond apart.
fn ticks(job: &mut Job, mut now: Time, count: usize) -> f64 {
    let (spent, entries) = seconds(|| {
        let mut entries = 0;
        for _ in 0..count {
            now = now.after(Span::from_millis(1));
            let step = job.step(now, Input::Tick).expect("time is not refused");
            entries += step.entries().len();
        }
        entries
    });
    assert_eq!(entries, 0, "no deadline has passed");
    spent
}

/// Pauses and resumes in turn.
fn commands(job: &mut Job, now: Time, deployment: DeploymentId, count: usize) -> f64 {
    let (spent, entries) = seconds(|| {
        let mut entries = 0;
        for number in 0..count {
            let command = if number % 2 == 0 {
                Command::Pause(deployment)
            } else {
                Command::Resume(deployment)
            };
            let step = job.step(now, command.into()).expect("it fits");
            entries += step.entries().len();
        }
        entries
    });
    assert_eq!(entries, count, "each changes something");
    spent
}

/// The same order on every run.
fn shuffle<T>(list: &mut [T]) {
    let mut word: u64 = 0x9e37_79b9_7f4a_7c15;
    for last in (1..list.len()).rev() {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        list.swap(last, (word % (last as u64 + 1)) as usize);
    }
}
