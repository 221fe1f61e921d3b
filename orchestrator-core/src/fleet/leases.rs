//! Who was heard of when, and whose silence is too long.

use std::collections::BTreeMap;

use super::rules::State;
use super::{Connectivity, Event, FleetSettings, LOST_PER_ENTRY_MAX, NodeName};
use crate::time::{Span, Time};

/// Who was heard of when. Volatile: a lease is a guess that a new process makes anew.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases {
    pub(super) last: Option<Time>,
    /// Grows by what the clock gained between two steps, so it never goes back.
    pub(super) elapsed_millis: u64,
    /// Connected nodes.
    pub(super) heard: Line,
    /// Disconnected nodes, from when they were found to be.
    pub(super) lost: Line,
}

impl Leases {
    pub(super) fn all_fresh(state: &State) -> Self {
        let of = |connectivity| {
            let nodes = state.nodes.values();
            let nodes = nodes.filter(move |node| node.connectivity == connectivity);
            Line::all_at_once(nodes.map(|node| node.name.clone()))
        };
        Self {
            heard: of(Connectivity::Connected),
            lost: of(Connectivity::Disconnected),
            ..Self::default()
        }
    }

    pub(super) fn pass(&mut self, now: Time) {
        let last = self.last.replace(now).unwrap_or(now);
        let gained = now.as_millis().saturating_sub(last.as_millis());
        self.elapsed_millis = self.elapsed_millis.saturating_add(gained);
    }

    pub(super) fn hear(&mut self, name: &NodeName) {
        self.heard.put_last(name, self.elapsed_millis);
    }

    pub(super) fn follow(&mut self, event: &Event) {
        match event {
            Event::Joined { name, .. } => self.hear(name),
            Event::Reconnected { nodes } => {
                for name in nodes {
                    self.lost.remove(name);
                    self.hear(name);
                }
            }
            Event::Disconnected { nodes } => {
                for name in nodes {
                    self.heard.remove(name);
                    self.lost.put_last(name, self.elapsed_millis);
                }
            }
            Event::WentDown { nodes } => nodes.iter().for_each(|name| self.lost.remove(name)),
            Event::Removed { name } => {
                self.heard.remove(name);
                self.lost.remove(name);
            }
            Event::LabelsChanged { .. }
            | Event::FactsChanged { .. }
            | Event::Drained { .. }
            | Event::Enabled { .. }
            | Event::Leaving { .. }
            | Event::Stays { .. }
            | Event::LoadsChanged { .. }
            | Event::Answered { .. } => {}
        }
    }

    /// Until the next node is overdue; 0 if one is.
    pub(super) fn left_millis(&self, settings: FleetSettings) -> Option<u64> {
        let heard = self.heard.first_at().map(|at| due(at, settings.lease()));
        let lost = self
            .lost
            .first_at()
            .map(|at| due(at, settings.down_after()));
        let due = heard.into_iter().chain(lost).min()?;
        Some(due.saturating_sub(self.elapsed_millis))
    }
}

/// Nodes in the order in which they were last put in, each once.
///
/// A linked list over a table, so that a heartbeat is a look-up and a few writes, and the first is
/// always the longest silent. A queue that is tidied only when its front is due would be shorter,
/// but it loses this order and finds a silent node up to a lease too late.
#[derive(Clone, Debug)]
pub(super) struct Line {
    seats: Vec<Seat>,
    pub(super) by_name: BTreeMap<NodeName, u32>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

#[derive(Clone, Debug)]
struct Seat {
    name: NodeName,
    at_millis: u64,
    before: u32,
    behind: u32,
}

/// No seat. There are never so many: [`FLEET_NODES_MAX`].
const NOBODY: u32 = u32::MAX;

impl Default for Line {
    fn default() -> Self {
        Self {
            seats: Vec::new(),
            by_name: BTreeMap::new(),
            free: Vec::new(),
            first: NOBODY,
            last: NOBODY,
        }
    }
}

impl Line {
    /// In the order of the names, which is the order that they come in: a million are then put in at the price of
    /// one walk.
    fn all_at_once(names: impl Iterator<Item = NodeName>) -> Self {
        let seat = |(at, name): (u32, NodeName)| Seat {
            name,
            at_millis: 0,
            before: if at == 0 { NOBODY } else { at - 1 },
            behind: at + 1,
        };
        let mut seats: Vec<Seat> = (0..).zip(names).map(seat).collect();
        if let Some(last) = seats.last_mut() {
            last.behind = NOBODY;
        }
        let by_name = seats.iter().map(|seat| seat.name.clone()).zip(0..);
        Self {
            by_name: by_name.collect(),
            free: Vec::new(),
            first: if seats.is_empty() { NOBODY } else { 0 },
            last: seats.len().checked_sub(1).map_or(NOBODY, |at| at as u32),
            seats,
        }
    }

    fn put_last(&mut self, name: &NodeName, at_millis: u64) {
        if let Some(&seat) = self.by_name.get(name) {
            self.unlink(seat);
            self.seats[seat as usize].at_millis = at_millis;
            self.link_last(seat);
            return;
        }
        let new = Seat {
            name: name.clone(),
            at_millis,
            before: NOBODY,
            behind: NOBODY,
        };
        let seat = match self.free.pop() {
            Some(seat) => {
                self.seats[seat as usize] = new;
                seat
            }
            None => {
                self.seats.push(new);
                (self.seats.len() - 1) as u32
            }
        };
        self.by_name.insert(name.clone(), seat);
        self.link_last(seat);
    }

    fn remove(&mut self, name: &NodeName) {
        if let Some(seat) = self.by_name.remove(name) {
            self.unlink(seat);
            self.free.push(seat);
        }
    }

    fn first_at(&self) -> Option<u64> {
        self.seats
            .get(self.first as usize)
            .map(|seat| seat.at_millis)
    }

    /// Those that wait for longer than `patience`, at most [`LOST_PER_ENTRY_MAX`].
    pub(super) fn overdue(&self, elapsed_millis: u64, patience: Span) -> Vec<NodeName> {
        let mut overdue = Vec::new();
        let mut next = self.first;
        while let Some(seat) = self.seats.get(next as usize) {
            if due(seat.at_millis, patience) > elapsed_millis || overdue.len() == LOST_PER_ENTRY_MAX
            {
                break;
            }
            overdue.push(seat.name.clone());
            next = seat.behind;
        }
        overdue
    }

    fn link_last(&mut self, seat: u32) {
        self.seats[seat as usize].before = self.last;
        self.seats[seat as usize].behind = NOBODY;
        match self.seats.get_mut(self.last as usize) {
            Some(last) => last.behind = seat,
            None => self.first = seat,
        }
        self.last = seat;
    }

    fn unlink(&mut self, seat: u32) {
        let Seat { before, behind, .. } = self.seats[seat as usize];
        match self.seats.get_mut(before as usize) {
            Some(neighbor) => neighbor.behind = behind,
            None => self.first = behind,
        }
        match self.seats.get_mut(behind as usize) {
            Some(neighbor) => neighbor.before = before,
            None => self.last = before,
        }
    }
}

/// The first millisecond that is longer than `patience` after `at`.
fn due(at_millis: u64, patience: Span) -> u64 {
    at_millis
        .saturating_add(patience.as_millis())
        .saturating_add(1)
}
