//! Which nodes take the executions of a replicated job: an index of who has room, and the choice.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, btree_set};
use std::iter::Peekable;

use crate::draw::draw;
use crate::members::Members;
use crate::state::State;

/// A node that can take one execution more: what it holds, its own and other jobs'; a draw, so that ties do not
/// all go to one node; and its number.
type Free = (u32, u64, u32);

/// Who has room, kept with every change of a node. It follows from the rest and is not stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Places {
    seed: u64,
    distinct: bool,
    /// Executions on each node.
    executions: Vec<u32>,
    /// Executions in each zone that has any.
    held: BTreeMap<u16, u32>,
    free: BTreeMap<u16, BTreeSet<Free>>,
    /// The zones of `free`, by their executions.
    zones: BTreeSet<(u32, u16)>,
}

/// A node as the index sees it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) node: u32,
    pub(crate) name: &'a str,
    pub(crate) zone: u16,
    pub(crate) load: u32,
    pub(crate) ready: bool,
}

impl Places {
    pub(crate) fn new(seed: u64, distinct: bool) -> Self {
        Self {
            seed,
            distinct,
            executions: Vec::new(),
            held: BTreeMap::new(),
            free: BTreeMap::new(),
            zones: BTreeSet::new(),
        }
    }

    pub(crate) fn is_for(&self, distinct: bool) -> bool {
        self.distinct == distinct
    }

    pub(crate) fn executions(&self, node: u32) -> u32 {
        self.executions.get(node as usize).copied().unwrap_or(0)
    }

    pub(crate) fn set_executions(&mut self, node: u32, executions: u32) {
        if self.executions.len() <= node as usize {
            self.executions.resize(node as usize + 1, 0);
        }
        self.executions[node as usize] = executions;
    }

    /// Takes a node in as it is now.
    pub(crate) fn add(&mut self, place: Place<'_>) {
        let executions = self.executions(place.node);
        self.set_executions(place.node, executions);
        self.hold(place.zone, |held| held + executions);
        if let Some(free) = self.as_free(place) {
            self.free.entry(place.zone).or_default().insert(free);
            self.zones.insert((self.held(place.zone), place.zone));
        }
    }

    /// Takes a node out; it has to be as it was when it was [added](Self::add).
    pub(crate) fn remove(&mut self, place: Place<'_>) {
        if let (Some(free), Entry::Occupied(mut zone)) =
            (self.as_free(place), self.free.entry(place.zone))
        {
            zone.get_mut().remove(&free);
            if zone.get().is_empty() {
                zone.remove();
                self.zones.remove(&(self.held(place.zone), place.zone));
            }
        }
        let executions = self.executions(place.node);
        self.hold(place.zone, |held| held - executions);
    }

    fn as_free(&self, place: Place<'_>) -> Option<Free> {
        let executions = self.executions(place.node);
        let room = place.ready && !(self.distinct && executions > 0);
        let tie = || draw(self.seed, "place", place.name.as_bytes());
        room.then(|| (executions.saturating_add(place.load), tie(), place.node))
    }

    fn held(&self, zone: u16) -> u32 {
        self.held.get(&zone).copied().unwrap_or(0)
    }

    fn hold(&mut self, zone: u16, change: impl FnOnce(u32) -> u32) {
        let before = self.held(zone);
        let after = change(before);
        if before == after {
            return;
        }
        if after == 0 {
            self.held.remove(&zone);
        } else {
            self.held.insert(zone, after);
        }
        if self.zones.remove(&(before, zone)) {
            self.zones.insert((after, zone));
        }
    }
}

/// The zones and nodes as they are once the executions placed so far are there: nothing is copied but what
/// they touch.
struct Choice<'a> {
    places: &'a Places,
    zones: Peekable<btree_set::Iter<'a, (u32, u16)>>,
    /// Zones that were touched and have room, by their executions now.
    open: BTreeSet<(u32, u16)>,
    touched: BTreeMap<u16, Zone<'a>>,
}

struct Zone<'a> {
    held: u32,
    free: Peekable<btree_set::Iter<'a, Free>>,
    /// Nodes that took one already and have room for more.
    again: BTreeSet<Free>,
}

impl Zone<'_> {
    fn has_room(&mut self) -> bool {
        !self.again.is_empty() || self.free.peek().is_some()
    }

    fn pop(&mut self) -> Option<Free> {
        match (self.free.peek(), self.again.first()) {
            (Some(fresh), Some(again)) if again < *fresh => self.again.pop_first(),
            (None, _) => self.again.pop_first(),
            (Some(_), _) => self.free.next().copied(),
        }
    }
}

impl<'a> Choice<'a> {
    fn new(places: &'a Places) -> Self {
        Self {
            places,
            zones: places.zones.iter().peekable(),
            open: BTreeSet::new(),
            touched: BTreeMap::new(),
        }
    }

    /// The zone with room that has the fewest executions.
    fn emptiest(&mut self) -> Option<u16> {
        while let Some((_, zone)) = self.zones.peek() {
            if !self.touched.contains_key(zone) {
                break;
            }
            self.zones.next();
        }
        let first = self.zones.peek().map(|&&zone| zone);
        let zones = first.into_iter().chain(self.open.first().copied());
        zones.min().map(|(_, zone)| zone)
    }

    /// A node for one execution, in this zone if that has room.
    fn take(&mut self, zone: Option<u16>) -> Option<u32> {
        let zone = match zone.filter(|&zone| self.zone(zone).is_some_and(Zone::has_room)) {
            Some(zone) => zone,
            None => self.emptiest()?,
        };
        let distinct = self.places.distinct;
        let chosen = self.zone(zone)?;
        let (load, tie, node) = chosen.pop()?;
        if !distinct {
            chosen.again.insert((load.saturating_add(1), tie, node));
        }
        let held = chosen.held;
        chosen.held += 1;
        let room = chosen.has_room();
        self.open.remove(&(held, zone));
        if room {
            self.open.insert((held + 1, zone));
        }
        Some(node)
    }

    /// A zone that is about to be touched; nothing where it never had room.
    fn zone(&mut self, zone: u16) -> Option<&mut Zone<'a>> {
        if let Entry::Vacant(vacant) = self.touched.entry(zone) {
            let free = self.places.free.get(&zone)?;
            let held = self.places.held(zone);
            vacant.insert(Zone {
                held,
                free: free.iter().peekable(),
                again: BTreeSet::new(),
            });
            self.open.insert((held, zone));
        }
        self.touched.get_mut(&zone)
    }
}

/// A ready node for each of `slots`, as far as there are any: in the zone that it was in if that has
/// one, else in the zone with the fewest executions; there, on the least loaded node.
pub(crate) fn place(state: &State, slots: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let Some(places) = state.members.places() else {
        return Vec::new();
    };
    let mut choice = Choice::new(places);
    slots
        .map_while(|slot| {
            let zone = state.zone_of(slot);
            choice.take(zone).map(|node| (slot, node))
        })
        .collect()
}

/// The index made anew, to compare it with the one that is kept.
pub(crate) fn anew(members: &Members, seed: u64, distinct: bool) -> Places {
    let mut places = Places::new(seed, distinct);
    for node in 0..members.len() {
        places.set_executions(node, members.slots(node).count() as u32);
        places.add(members.place(node));
    }
    places
}
