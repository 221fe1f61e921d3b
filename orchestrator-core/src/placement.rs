//! Which nodes take the executions of a replicated job.

use std::collections::{BTreeMap, BTreeSet};

use crate::draw::draw;
use crate::state::{NONE, State};

/// A ready node for each of `slots`, as far as there are any: in the zone that it was in if that has
/// one, else in the zone with the fewest executions; there, on the least loaded node.
pub(crate) fn place(state: &State, slots: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let distinct = state.distinct();
    // Executions and zone; load, a draw so that ties do not all go to one node, and the node.
    let mut zones: BTreeSet<(u32, u16)> = BTreeSet::new();
    let mut nodes: BTreeMap<u16, BTreeSet<(u32, u64, u32)>> = BTreeMap::new();
    let mut held: BTreeMap<u16, u32> = BTreeMap::new();
    for node in state.members.iter() {
        let executions = state
            .members
            .slots(node)
            .filter(|s| !state.surplus.contains(s))
            .count() as u32;
        let zone = state.members.zone(node);
        *held.entry(zone).or_default() += executions;
        if state.members.presence(node).is_ready() && !(distinct && executions > 0) {
            let load = executions.saturating_add(state.members.load(node));
            let tie = draw(state.seed, "place", state.members.name(node).as_bytes());
            nodes.entry(zone).or_default().insert((load, tie, node));
        }
    }
    zones.extend(nodes.keys().map(|&zone| (held[&zone], zone)));

    let mut moves = Vec::new();
    for slot in slots {
        let before = match state.slots[slot as usize].node {
            NONE => None,
            node => Some(state.members.zone(node)).filter(|zone| nodes.contains_key(zone)),
        };
        let Some(zone) = before.or_else(|| zones.first().map(|&(_, zone)| zone)) else {
            break;
        };
        let Some(free) = nodes.get_mut(&zone) else {
            break;
        };
        let Some((load, tie, node)) = free.pop_first() else {
            break;
        };
        moves.push((slot, node));
        let executions = held.entry(zone).or_default();
        zones.remove(&(*executions, zone));
        *executions += 1;
        if !distinct {
            free.insert((load.saturating_add(1), tie, node));
        }
        if free.is_empty() {
            nodes.remove(&zone);
        } else {
            zones.insert((*executions, zone));
        }
    }
    moves
}
