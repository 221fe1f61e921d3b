//! The nodes that a job may run on, as far as it has to know them.

use serde::{Deserialize, Serialize};

use crate::chains::Chains;
use crate::event::Presence;
use crate::names::Names;
use crate::placement::{Place, Places, anew};
use crate::room;
use crate::state::NONE;

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Members {
    names: Names,
    nodes: Vec<Node>,
    /// Values of the spread label; a node holds the number + 1, or 0 for none.
    zones: Names,
    /// Only where some node has a load.
    loads: Vec<u32>,
    /// Which slots are on one node; only where some node ever had two.
    #[serde(rename = "next")]
    chains: Chains,
    /// Ready nodes.
    ready: u32,
    /// Ready nodes that hold no slot.
    ready_empty: u32,
    gone: std::collections::BTreeSet<u32>,
    /// Who has room; only where executions are placed.
    #[serde(skip)]
    places: Option<Places>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(from = "NodeRow", into = "NodeRow")]
struct Node {
    first_slot: u32,
    zone: u16,
    presence: Presence,
    /// How many slots speak of it that are not its own any more. What cannot be counted any more stays until
    /// the next deployment.
    named: u8,
}

type NodeRow = (u32, u16, Presence, u8);

impl From<NodeRow> for Node {
    fn from((first_slot, zone, presence, named): NodeRow) -> Self {
        Self {
            first_slot,
            zone,
            presence,
            named,
        }
    }
}

impl From<Node> for NodeRow {
    fn from(node: Node) -> Self {
        (node.first_slot, node.zone, node.presence, node.named)
    }
}

impl Members {
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.names.find(name)
    }

    pub(crate) fn name(&self, node: u32) -> &str {
        if node == NONE {
            ""
        } else {
            self.names.get(node)
        }
    }

    pub(crate) fn presence(&self, node: u32) -> Presence {
        self.nodes[node as usize].presence
    }

    pub(crate) fn zone(&self, node: u32) -> u16 {
        self.nodes[node as usize].zone
    }

    /// Whether a node is known to be in a zone of this name. Zones too many to be told apart are one.
    pub(crate) fn is_in_zone(&self, node: u32, name: &str) -> bool {
        match self.find_zone(name) {
            Some(zone) => self.zone(node) == zone,
            None => self.zones_full() && self.zone(node) == u16::MAX,
        }
    }

    pub(crate) fn load(&self, node: u32) -> u32 {
        self.loads.get(node as usize).copied().unwrap_or(0)
    }

    /// How many nodes have a name that something speaks of.
    pub(crate) fn known(&self) -> usize {
        self.names.used()
    }

    /// One more than the highest node number.
    pub(crate) fn len(&self) -> u32 {
        self.nodes.len() as u32
    }

    /// Ready nodes, and those of them that hold no slot.
    pub(crate) fn ready(&self) -> (u32, u32) {
        (self.ready, self.ready_empty)
    }

    pub(crate) fn places(&self) -> Option<&Places> {
        self.places.as_ref()
    }

    /// Keeps an index of who has room from here on; `distinct`: no node has room for a second execution.
    pub(crate) fn index(&mut self, seed: u64, distinct: bool) {
        if !self.places.as_ref().is_some_and(|p| p.is_for(distinct)) {
            self.places = Some(anew(self, seed, distinct));
        }
    }

    /// Executions are not placed any more.
    pub(crate) fn drop_index(&mut self) {
        self.places = None;
    }

    pub(crate) fn place(&self, node: u32) -> Place<'_> {
        Place {
            node,
            name: self.name(node),
            zone: self.zone(node),
            load: self.load(node),
            ready: self.presence(node).is_ready(),
        }
    }

    /// Every node that has not left, with its number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.len()).filter(|&n| self.presence(n) != Presence::Gone)
    }

    pub(crate) fn slots(&self, node: u32) -> impl Iterator<Item = u32> + '_ {
        let follow = |slot: u32| if slot == NONE { None } else { Some(slot) };
        std::iter::successors(follow(self.nodes[node as usize].first_slot), move |&slot| {
            follow(self.chains.after(slot))
        })
    }

    pub(crate) fn reserve(&mut self, more: usize, bytes: usize) {
        self.names.reserve(more, bytes);
        room::reserve(&mut self.nodes, more);
    }

    /// The number of a node that is new, or was gone.
    pub(crate) fn add(&mut self, name: &str, zone: &str, load: u32, presence: Presence) -> u32 {
        let zone = self.intern(zone);
        let node = if let Some(node) = self.find(name) {
            self.gone.remove(&node);
            node
        } else {
            let node = self.names.insert(name);
            if node as usize == self.nodes.len() {
                let new = Node {
                    first_slot: NONE,
                    zone,
                    presence: Presence::Gone,
                    named: 0,
                };
                room::push(&mut self.nodes, new);
            }
            node
        };
        self.change(node, |members| {
            members.nodes[node as usize].zone = zone;
            members.nodes[node as usize].presence = presence;
            members.set_load(node, load);
        });
        node
    }

    pub(crate) fn relabel(&mut self, node: u32, zone: &str, load: u32) {
        let zone = self.intern(zone);
        self.change(node, |members| {
            members.nodes[node as usize].zone = zone;
            members.set_load(node, load);
        });
    }

    pub(crate) fn set_presence(&mut self, node: u32, presence: Presence) {
        self.change(node, |members| {
            members.nodes[node as usize].presence = presence;
        });
        if presence == Presence::Gone {
            self.gone.insert(node);
        }
    }

    pub(crate) fn attach(&mut self, node: u32, slot: u32) {
        self.change(node, |members| members.link(node, slot));
    }

    pub(crate) fn detach(&mut self, node: u32, slot: u32) {
        self.change(node, |members| members.unlink(node, slot));
    }

    fn link(&mut self, node: u32, slot: u32) {
        let first = std::mem::replace(&mut self.nodes[node as usize].first_slot, slot);
        self.chains.prepend(slot, first);
        if let Some(places) = &mut self.places {
            places.set_executions(node, places.executions(node) + 1);
        }
    }

    fn unlink(&mut self, node: u32, slot: u32) {
        let first = &mut self.nodes[node as usize].first_slot;
        if *first == slot {
            *first = self.chains.after(slot);
        }
        self.chains.remove(slot);
        if let Some(places) = &mut self.places {
            places.set_executions(node, places.executions(node) - 1);
        }
    }

    /// A slot that leaves a node goes on speaking of it: its name is kept.
    pub(crate) fn keep_name(&mut self, node: u32) {
        let named = &mut self.nodes[node as usize].named;
        *named = named.saturating_add(1);
    }

    /// A slot does not speak of the node any more.
    pub(crate) fn release_name(&mut self, node: u32) {
        let named = &mut self.nodes[node as usize].named;
        if *named < u8::MAX {
            *named = named.saturating_sub(1);
        }
        self.forget(node);
    }

    /// Gives the number of a node that left to another, if nothing speaks of it any more.
    pub(crate) fn forget(&mut self, node: u32) {
        let Node {
            named, presence, ..
        } = self.nodes[node as usize];
        if named == 0 && presence == Presence::Gone && self.gone.remove(&node) {
            self.names.remove(node);
        }
    }

    /// Forgets all nodes that left but those that are still `spoken_of`.
    pub(crate) fn free_gone(&mut self, spoken_of: impl Iterator<Item = u32>) {
        for node in &mut self.nodes {
            node.named = 0;
        }
        spoken_of.for_each(|node| self.keep_name(node));
        for node in self.gone.clone() {
            self.forget(node);
        }
    }

    /// More zones than can be told apart share the last one: spreading gets coarser, no more.
    fn intern(&mut self, zone: &str) -> u16 {
        match self.find_zone(zone) {
            Some(number) => number,
            None if self.zones_full() => u16::MAX,
            None => self.zones.insert(zone) as u16 + 1,
        }
    }

    /// The number of a zone; 0 for none.
    fn find_zone(&self, name: &str) -> Option<u16> {
        if name.is_empty() {
            return Some(0);
        }
        self.zones.find(name).map(|number| number as u16 + 1)
    }

    fn zones_full(&self) -> bool {
        self.zones.len() >= usize::from(u16::MAX)
    }

    fn set_load(&mut self, node: u32, load: u32) {
        if load != 0 || (node as usize) < self.loads.len() {
            if self.loads.len() <= node as usize {
                self.loads.resize(node as usize + 1, 0);
            }
            self.loads[node as usize] = load;
        }
    }

    /// The only way to change a node: what is counted and indexed follows.
    fn change(&mut self, node: u32, change: impl FnOnce(&mut Self)) {
        self.count(node, false);
        change(self);
        self.count(node, true);
    }

    fn count(&mut self, node: u32, add: bool) {
        if let Some(mut places) = self.places.take() {
            let place = self.place(node);
            if add {
                places.add(place);
            } else {
                places.remove(place);
            }
            self.places = Some(places);
        }
        let Node {
            first_slot,
            presence,
            ..
        } = self.nodes[node as usize];
        if !presence.is_ready() {
            return;
        }
        let empty = u32::from(first_slot == NONE);
        if add {
            self.ready += 1;
            self.ready_empty += empty;
        } else {
            self.ready -= 1;
            self.ready_empty -= empty;
        }
    }
}
