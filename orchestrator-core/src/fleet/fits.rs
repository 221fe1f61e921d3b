//! Whether an entry of a log says what can have happened: a damaged one is refused, not believed.

use std::collections::BTreeSet;

use super::rules::{State, check_facts, is_lost};
use super::{Connectivity, Event, FLEET_NODES_MAX, Node, NodeName};
use crate::id::is_name;
use crate::input::KEY_BYTES_MAX;
use crate::selector::check_labels;

/// Whether the event follows on the state: it speaks of nodes that are there, and says something new of them.
pub(super) fn fits(state: &State, event: &Event) -> bool {
    let node = |name: &NodeName| state.nodes.get(name);
    let all = |names: &[NodeName], was: fn(&Node) -> bool| {
        let distinct: BTreeSet<_> = names.iter().collect();
        !names.is_empty()
            && distinct.len() == names.len()
            && names.iter().all(|name| node(name).is_some_and(was))
    };
    match event {
        Event::Joined {
            name,
            labels,
            facts,
        } => {
            node(name).is_none()
                && state.nodes.len() < FLEET_NODES_MAX
                && is_name(name)
                && check_labels(labels).is_ok()
                && check_facts(facts).is_ok()
        }
        Event::LabelsChanged { name, labels } => {
            node(name).is_some_and(|node| node.labels != *labels) && check_labels(labels).is_ok()
        }
        Event::FactsChanged { name, facts } => {
            node(name).is_some_and(|node| node.facts != *facts) && check_facts(facts).is_ok()
        }
        Event::Reconnected { nodes } => all(nodes, is_lost),
        Event::Disconnected { nodes } => {
            all(nodes, |node| node.connectivity == Connectivity::Connected)
        }
        Event::WentDown { nodes } => all(nodes, |node| {
            node.connectivity == Connectivity::Disconnected
        }),
        Event::Drained { name } => node(name).is_some_and(|node| !node.drain),
        Event::Enabled { name } => node(name).is_some_and(|node| node.drain),
        Event::Leaving { name } => node(name).is_some_and(|node| !node.leaving),
        Event::Stays { name } => node(name).is_some_and(|node| node.leaving),
        Event::Removed { name } => node(name).is_some(),
        // One that is known may have been forgotten by the program that wrote it.
        Event::Answered { key, .. } => (1..=KEY_BYTES_MAX).contains(&key.len()),
        Event::LoadsChanged { loads } => {
            let new =
                |(name, load): (&NodeName, &u32)| node(name).is_some_and(|node| node.load != *load);
            !loads.is_empty() && loads.iter().all(new)
        }
    }
}
