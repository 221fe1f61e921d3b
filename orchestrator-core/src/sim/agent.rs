//! Simulated node agents. They know nothing but what they were told last, and say what they see.

use std::collections::BTreeMap;

use super::settings::{Behavior, Settings};
use super::streams::trait_of;
use super::world::{Due, Orders, Told};
use crate::input::{Interval, Observation, Report, Requests};

/// One node and its agent.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    /// Grows whenever it goes somewhere, so that what was planned for before is void.
    pub(super) journey: u32,
    /// Grows with every new connection; what was sent over an earlier one is lost.
    pub(super) connection: u32,
    /// The position in the job's log of the latest orders; older ones are refused.
    as_of: u64,
    runs: Vec<Execution>,
    /// The versions that it was ever told to run.
    met: Vec<u32>,
}

/// Where a node is, in truth; the job may believe something else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    There,
    /// Silent, its workloads run on.
    Cut,
    /// Silent, without power.
    Off,
    Draining,
    Unmatched,
    Gone,
}

#[derive(Clone, Debug)]
struct Execution {
    told: Told,
    phase: Phase,
    /// Number of the latest report.
    number: u32,
    /// Valid only for the latest plan of what to do next.
    chain: u32,
    /// When it was told.
    told_at: u64,
    /// Since when it runs without a restart.
    since: u64,
    intervals: u32,
    /// Of the intervals, those since it could be heard last.
    well: u32,
    restarted: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Starting,
    Running,
    CannotStart,
    Exited(i32),
    Stopped,
}

/// An execution as it really is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Real {
    pub(super) slot: u32,
    pub(super) version: u32,
    /// It runs, or is done with its work.
    pub(super) up: bool,
}

/// How long nodes had to do with a version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Exposure {
    pub(super) nodes: u32,
    /// Those that have to do with it now.
    pub(super) still: u32,
    pub(super) longest_millis: u64,
    pub(super) failed_requests: u64,
}

/// All agents, and what they have in common.
#[derive(Debug)]
pub(super) struct Agents {
    pub(super) nodes: Vec<Node>,
    pub(super) seed: u64,
    pub(super) interval: u64,
    /// How long they have to be well before they fall silent; `None` = never.
    pub(super) quiet_after: Option<u64>,
    pub(super) batch: bool,
    /// The behavior of odd versions, and that of even ones.
    behaviors: [Behavior; 2],
    pub(super) healed: bool,
    exposure: BTreeMap<u32, Exposure>,
    /// Which version was run where, of every slot and generation; only where it is asked for.
    pub(super) places: Option<BTreeMap<(u32, u64), (u32, u32)>>,
    /// Two nodes that were told the same execution: it would run twice at once.
    pub(super) twice: Option<String>,
}

/// What came of looking after an execution.
#[derive(Debug)]
pub(super) struct Tended {
    pub(super) report: Option<Report>,
    pub(super) next: Option<(u64, Due)>,
}

impl Node {
    pub(super) fn new() -> Self {
        Self {
            place: Place::There,
            journey: 0,
            connection: 0,
            as_of: 0,
            runs: Vec::new(),
            met: Vec::new(),
        }
    }

    /// Whether messages get through.
    pub(super) fn is_connected(&self) -> bool {
        !matches!(self.place, Place::Cut | Place::Off | Place::Gone)
    }

    /// What it runs now, in the order of the slots.
    pub(super) fn running(&self) -> Vec<Real> {
        let runs = self.runs.iter().filter(|r| r.told.version != 0);
        let mut runs: Vec<_> = runs
            .map(|r| Real {
                slot: r.told.slot,
                version: r.told.version,
                up: matches!(r.phase, Phase::Running | Phase::Exited(0)),
            })
            .collect();
        runs.sort_unstable_by_key(|real| real.slot);
        runs
    }
}

impl Agents {
    pub(super) fn new(settings: &Settings) -> Self {
        let checked = settings.recheck_every > 0;
        Self {
            nodes: (0..settings.nodes).map(|_| Node::new()).collect(),
            seed: settings.seed,
            interval: settings.interval_millis(),
            quiet_after: settings.quiet_after(),
            batch: settings.batch,
            behaviors: [settings.version, settings.others],
            healed: false,
            exposure: BTreeMap::new(),
            places: checked.then(BTreeMap::new),
            twice: None,
        }
    }

    /// Takes orders in; answers when to look after which execution.
    pub(super) fn obey(&mut self, now: u64, orders: &Orders) -> Vec<(u64, Due)> {
        let mut plans = Vec::new();
        let node = &self.nodes[orders.node as usize];
        // What was sent over an earlier connection is lost with it.
        if !node.is_connected() || node.connection != orders.connection || orders.as_of < node.as_of
        {
            return plans;
        }
        let mut runs = std::mem::take(&mut self.nodes[orders.node as usize].runs);
        let kept = |slot: u32| orders.runs.iter().any(|told| told.slot == slot);
        for run in runs.iter().filter(|run| !kept(run.told.slot)) {
            self.over(now, run);
        }
        runs.retain(|run| kept(run.told.slot));
        for &told in &orders.runs {
            let known = runs.iter_mut().find(|run| run.told.slot == told.slot);
            let chain = match known {
                Some(run) if told.generation < run.told.generation => continue,
                Some(run) if told.generation == run.told.generation => {
                    run.told = told;
                    continue;
                }
                Some(run) => {
                    let old = run.clone();
                    *run = Execution::new(told, now, old.chain + 1);
                    self.over(now, &old);
                    old.chain + 1
                }
                None => {
                    runs.push(Execution::new(told, now, 0));
                    0
                }
            };
            self.met(orders.node, told);
            let due = Due {
                node: orders.node,
                slot: told.slot,
                chain,
            };
            plans.push((now + self.start_millis(orders.node, &told), due));
        }
        let node = &mut self.nodes[orders.node as usize];
        node.as_of = orders.as_of;
        node.runs = runs;
        plans
    }

    /// Does what is due; `None` where it is void by now, or nobody is there to do it.
    pub(super) fn tend(&mut self, now: u64, due: Due) -> Option<Tended> {
        let (seed, interval) = (self.seed, self.interval);
        let node = &self.nodes[due.node as usize];
        if matches!(node.place, Place::Off | Place::Gone) {
            return None;
        }
        let at = node
            .runs
            .iter()
            .position(|run| run.told.slot == due.slot && run.chain == due.chain)?;
        let told = node.runs[at].told;
        let behavior = self.behavior(told.version);
        let start_millis = self.start_millis(due.node, &told);
        let (quiet_after, batch) = (self.quiet_after, self.batch);
        let run = &mut self.nodes[due.node as usize].runs[at];
        let of = |n: u64| {
            [
                u64::from(due.node),
                u64::from(told.slot) << 32 | u64::from(told.version),
                n,
            ]
        };
        let lasting = |purpose: &str| trait_of(seed, purpose, of(0));
        let passing = |purpose: &str, run: &Execution| {
            trait_of(
                seed,
                purpose,
                of(told.generation << 20 | u64::from(run.intervals)),
            )
        };
        let mut next = now + interval;
        let mut done = false;
        let mut failed = 0;
        let what = match run.phase {
            Phase::Starting if told.version == 0 => {
                run.phase = Phase::Stopped;
                Observation::Stopped
            }
            Phase::Starting if lasting("cannot start") < behavior.start_failure => {
                run.phase = Phase::CannotStart;
                Observation::CannotStart {
                    detail: "exit code 1 before the first check".to_owned(),
                }
            }
            Phase::Starting => {
                run.phase = Phase::Running;
                run.since = now;
                if std::mem::take(&mut run.restarted) {
                    Observation::Restarted
                } else {
                    Observation::Started
                }
            }
            Phase::Running => {
                run.intervals += 1;
                run.well += 1;
                let well = u64::from(run.well) * interval;
                done = behavior.is_harmless() && quiet_after.is_some_and(|after| well >= after);
                if passing("exit", run) < behavior.exit {
                    run.phase = Phase::Exited(1);
                    Observation::Exited { code: 1 }
                } else if batch && run.intervals > 2 {
                    run.phase = Phase::Exited(0);
                    Observation::Exited { code: 0 }
                } else if passing("crash", run) < behavior.crash {
                    run.phase = Phase::Starting;
                    run.restarted = true;
                    next = now + start_millis;
                    Observation::Interval(Interval::FAILING)
                } else {
                    let checks = if lasting("hang") < behavior.hang {
                        None
                    } else {
                        Some(passing("flap", run) >= behavior.flapping)
                    };
                    let requests = (behavior.requests > 0).then(|| {
                        let mut share = behavior.errors.at(now.saturating_sub(run.since));
                        if lasting("errors on") >= behavior.errors_on {
                            share = 0.0;
                        }
                        let errors = share * f64::from(behavior.requests) + passing("errors", run);
                        failed = errors as u64;
                        Requests {
                            total: behavior.requests,
                            failed: (errors as u32).min(behavior.requests),
                        }
                    });
                    Observation::Interval(Interval { checks, requests })
                }
            }
            Phase::CannotStart => Observation::CannotStart {
                detail: "still".to_owned(),
            },
            Phase::Exited(code) => Observation::Exited { code },
            Phase::Stopped => Observation::Stopped,
        };
        let decided = matches!(
            run.phase,
            Phase::CannotStart | Phase::Exited(_) | Phase::Stopped
        );
        let report = told.target.map(|target| {
            // Numbers go on over restarts of the agent: they are its own, beside the workload.
            run.number += 1;
            Report {
                target,
                generation: told.generation,
                number: run.number,
                what,
            }
        });
        if failed > 0 {
            self.exposure
                .entry(told.version)
                .or_default()
                .failed_requests += failed;
        }
        let over = done || quiet_after.is_some() && decided || told.target.is_none();
        let next = (!over).then_some((next, due));
        let report = report.filter(|_| self.nodes[due.node as usize].is_connected());
        Some(Tended { report, next })
    }

    /// The agent has a connection, or power, again: it goes on with what it was told last.
    pub(super) fn back(&mut self, now: u64, node: u32, powerless: bool) -> Vec<(u64, Due)> {
        let mut plans = Vec::new();
        let healed = self.healed;
        let count = self.nodes[node as usize].runs.len();
        for at in 0..count {
            let told = self.nodes[node as usize].runs[at].told;
            let start = self.start_millis(node, &told);
            let run = &mut self.nodes[node as usize].runs[at];
            let over = matches!(run.phase, Phase::Exited(0));
            let again = !over && (powerless || healed && run.phase != Phase::Running);
            run.chain += 1;
            run.well = 0;
            if again && told.version != 0 {
                run.phase = Phase::Starting;
                run.restarted = true;
            }
            let due = Due {
                node,
                slot: told.slot,
                chain: run.chain,
            };
            plans.push((now + if again { start } else { 1 }, due));
        }
        plans
    }

    /// It forgets everything: it left, or is another machine of the same name.
    pub(super) fn wipe(&mut self, now: u64, node: u32) {
        for run in std::mem::take(&mut self.nodes[node as usize].runs) {
            self.over(now, &run);
        }
    }

    /// How many nodes had to do with a version, and for how long, when it ends now.
    pub(super) fn exposure(&self, now: u64, version: u32) -> Exposure {
        let mut exposure = self.exposure.get(&version).copied().unwrap_or_default();
        for node in &self.nodes {
            let runs = node.runs.iter().filter(|run| run.told.version == version);
            let longest = runs.map(|run| now - run.told_at).max();
            exposure.still += u32::from(longest.is_some());
            exposure.longest_millis = exposure.longest_millis.max(longest.unwrap_or(0));
        }
        exposure
    }

    /// Notes who was told to run what.
    fn met(&mut self, node: u32, told: Told) {
        if told.version == 0 {
            return;
        }
        let met = &mut self.nodes[node as usize].met;
        if !met.contains(&told.version) {
            met.push(told.version);
            self.exposure.entry(told.version).or_default().nodes += 1;
        }
        let Some(places) = &mut self.places else {
            return;
        };
        let place = (node, told.version);
        let known = *places.entry((told.slot, told.generation)).or_insert(place);
        if known != place && self.twice.is_none() {
            self.twice = Some(format!(
                "generation {} of slot {} was told to node {} (version {}) and to node {node} (version {})",
                told.generation, told.slot, known.0, known.1, told.version
            ));
        }
    }

    fn over(&mut self, now: u64, run: &Execution) {
        if run.told.version != 0 {
            let exposure = self.exposure.entry(run.told.version).or_default();
            exposure.longest_millis = exposure.longest_millis.max(now - run.told_at);
        }
    }

    fn behavior(&self, version: u32) -> Behavior {
        if self.healed || version == 0 {
            Behavior::HEALTHY
        } else {
            self.behaviors[version as usize % 2]
        }
    }

    fn start_millis(&self, node: u32, told: &Told) -> u64 {
        let behavior = self.behavior(told.version);
        let of = [u64::from(node), u64::from(told.slot), told.generation];
        let (low, high) = behavior.start_millis;
        let share = trait_of(self.seed, "start", of);
        let millis = low + ((high.saturating_sub(low)) as f64 * share) as u64;
        if trait_of(self.seed, "slow start", of) < behavior.slow_start {
            millis.saturating_mul(behavior.slow_factor)
        } else {
            millis
        }
    }
}

impl Execution {
    fn new(told: Told, now: u64, chain: u32) -> Self {
        Self {
            told,
            phase: Phase::Starting,
            number: 0,
            chain,
            told_at: now,
            since: now,
            intervals: 0,
            well: 0,
            restarted: false,
        }
    }
}
