//! Virtual time and what is going to happen: a heap ordered by (time, number), and the post.

use std::collections::BTreeMap;

use super::settings::Network;
use super::streams::Stream;
use crate::input::Report;

/// What happens at some time.
#[derive(Clone, Debug)]
pub(super) enum Happening {
    /// The post of this instant is delivered.
    Post,
    /// Something befalls a node.
    Fault(NodeFault),
    /// Nodes fall silent.
    Lost { nodes: Vec<u32>, powerless: bool },
    /// The fleet notices that nodes are silent, if they still are.
    Noticed { nodes: Vec<(u32, u32)>, down: bool },
    /// Nodes are back from wherever they were.
    Back { nodes: Vec<(u32, u32)> },
    /// Agents ask what they should run.
    Heartbeats,
    /// A person who means no good says something.
    Mischief,
    /// A person looks at what waits for one.
    Attention,
    /// The driver's clock jumps.
    ClockJump,
    /// The driver is started again.
    Restart,
}

/// What may befall a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum NodeFault {
    Cut,
    Crash,
    Drain,
    Unmatched,
    Leave,
    Join,
}

/// What a node is to run, as of a position in the job's log.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub(super) node: u32,
    /// The connection that they were sent over.
    pub(super) connection: u32,
    pub(super) as_of: u64,
    pub(super) runs: Vec<Told>,
}

/// What one execution is to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Told {
    pub(super) slot: u32,
    pub(super) version: u32,
    pub(super) generation: u64,
    pub(super) target: Option<u32>,
}

/// An execution whose agent has something to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Due {
    pub(super) node: u32,
    pub(super) slot: u32,
    pub(super) chain: u32,
}

/// What is delivered at one instant, in this order.
#[derive(Debug, Default)]
pub(super) struct Post {
    pub(super) orders: Vec<Orders>,
    pub(super) due: Vec<Due>,
    pub(super) reports: Vec<Report>,
}

#[derive(Debug)]
pub(super) struct World {
    /// Milliseconds since the simulation began.
    pub(super) now: u64,
    grid: u64,
    number: u64,
    heap: BTreeMap<(u64, u64), Happening>,
    posts: BTreeMap<u64, Post>,
}

impl World {
    pub(super) fn new(grid_millis: u64) -> Self {
        Self {
            now: 0,
            grid: grid_millis.max(1),
            number: 0,
            heap: BTreeMap::new(),
            posts: BTreeMap::new(),
        }
    }

    pub(super) fn at(&mut self, at: u64, what: Happening) {
        self.number += 1;
        self.heap.insert((at.max(self.now), self.number), what);
    }

    pub(super) fn after(&mut self, millis: u64, what: Happening) {
        self.at(self.now.saturating_add(millis), what);
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.heap.keys().next().map(|&(at, _)| at)
    }

    /// The next thing, at its time.
    pub(super) fn pop(&mut self) -> Option<Happening> {
        let ((at, _), what) = self.heap.pop_first()?;
        self.now = at;
        Some(what)
    }

    /// The post of this instant.
    pub(super) fn post(&mut self) -> Post {
        self.posts.remove(&self.now).unwrap_or_default()
    }

    pub(super) fn due(&mut self, at: u64, due: Due) {
        self.post_at(at).due.push(due);
    }

    /// Sends a report; the network does with it what networks do.
    pub(super) fn send_report(&mut self, network: &Network, chance: &mut Stream, report: Report) {
        for at in self.arrivals(network, chance) {
            self.post_at(at).reports.push(report.clone());
        }
    }

    pub(super) fn send_orders(&mut self, network: &Network, chance: &mut Stream, orders: Orders) {
        for at in self.arrivals(network, chance) {
            self.post_at(at).orders.push(orders.clone());
        }
    }

    fn arrivals(
        &self,
        network: &Network,
        chance: &mut Stream,
    ) -> impl Iterator<Item = u64> + use<> {
        let now = self.now;
        let mut copies = [None; 2];
        if network.drop == 0.0 || !chance.chance(network.drop) {
            copies[0] = Some(delay(network, chance));
        }
        if network.duplicate > 0.0 && chance.chance(network.duplicate) {
            copies[1] = Some(delay(network, chance));
        }
        copies.into_iter().flatten().map(move |delay| now + delay)
    }

    fn post_at(&mut self, at: u64) -> &mut Post {
        let at = at.max(self.now + 1).next_multiple_of(self.grid);
        if !self.posts.contains_key(&at) {
            self.at(at, Happening::Post);
        }
        self.posts.entry(at).or_default()
    }
}

fn delay(network: &Network, chance: &mut Stream) -> u64 {
    let (low, high) = network.delay_millis;
    if low == high {
        low
    } else {
        chance.within((low, high))
    }
}
