//! Who is there: what befalls nodes, and the list of those that match.

use std::collections::BTreeSet;

use super::{Rejection, clip};
use crate::event::{Event, Member, Presence};
use crate::id::is_name;
use crate::input::{NODES_MAX, NodeChange};
use crate::selector::LABEL_BYTES_MAX;
use crate::state::State;

/// Checks all of `changes`, so that none of them is taken in when one is bad.
pub(crate) fn check_nodes(state: &State, changes: &[NodeChange]) -> Result<(), Rejection> {
    for (number, change) in (1..).zip(changes) {
        match change {
            NodeChange::Seen(member) => check_member(member, number)?,
            NodeChange::Became { name, .. } => check_name(name, number)?,
        }
    }
    let names = changes.iter().filter_map(|change| match change {
        NodeChange::Seen(member) => Some(member.name.as_str()),
        NodeChange::Became { .. } => None,
    });
    check_room(state, changes.len(), names)
}

/// Whether there is room for those of `names` that are new; `most` is how many there may be.
fn check_room<'a>(
    state: &State,
    most: usize,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), Rejection> {
    let known = state.members.known();
    if known + most <= NODES_MAX {
        return Ok(());
    }
    let new = names.filter(|name| state.members.find(name).is_none());
    match known + new.count() {
        nodes if nodes > NODES_MAX => Err(Rejection::TooManyNodes(nodes)),
        _ => Ok(()),
    }
}

fn check_name(name: &str, number: usize) -> Result<(), Rejection> {
    if is_name(name) {
        Ok(())
    } else {
        let name = clip(name);
        Err(Rejection::BadNodeName { name, number })
    }
}

/// `number`: which of those that were given, from 1.
pub(crate) fn check_member(member: &Member, number: usize) -> Result<(), Rejection> {
    check_name(&member.name, number)?;
    if member.zone.len() > LABEL_BYTES_MAX {
        return Err(Rejection::LabelTooLong {
            node: member.name.clone(),
            bytes: member.zone.len(),
        });
    }
    Ok(())
}

/// What one change amounts to; nothing where the job knows it, or does not care.
pub(crate) fn node(state: &State, change: &NodeChange) -> Option<Event> {
    let (name, member, status) = match change {
        NodeChange::Seen(member) => (&member.name, Some(member), member.status),
        NodeChange::Became { name, status } => (name, None, *status),
    };
    let known = state
        .members
        .find(name)
        .filter(|&n| state.members.presence(n) != Presence::Gone);
    let Some(node) = known else {
        let joins = member.filter(|m| !matches!(m.status, Presence::Gone | Presence::Unmatched))?;
        return Some(Event::NodesJoined {
            nodes: vec![joins.clone()],
        });
    };
    if state.members.presence(node) != status {
        return Some(Event::NodesChanged {
            status,
            nodes: [node].into_iter().collect(),
        });
    }
    relabeled(state, node, member?)
}

/// What is new about a node besides its status; of how much it has to do only jobs want to know that are placed.
fn relabeled(state: &State, node: u32, member: &Member) -> Option<Event> {
    let replicated = state.replicas.is_some();
    let moved = !state.members.is_in_zone(node, &member.zone);
    (moved || replicated && state.members.load(node) != member.load).then(|| Event::NodeRelabeled {
        node,
        zone: member.zone.clone(),
        load: member.load,
    })
}

/// What the list of all nodes that match amounts to.
pub(crate) fn listed(state: &State, members: &[Member]) -> Result<Vec<Event>, Rejection> {
    let all = members.iter().map(|member| member.name.as_str());
    check_room(state, members.len(), all)?;
    let mut names = BTreeSet::new();
    let mut joined = Vec::new();
    let mut facts = Vec::new();
    for (number, member) in (1..).zip(members) {
        check_member(member, number)?;
        if !names.insert(member.name.as_str()) {
            return Err(Rejection::NodeTwice(member.name.clone()));
        }
        match node(state, &NodeChange::Seen(member.clone())) {
            Some(Event::NodesJoined { nodes }) => joined.extend(nodes),
            // A node that is known may differ in its status and in its label: two facts.
            Some(fact @ Event::NodesChanged { .. }) => {
                facts.push(fact);
                let known = state.members.find(&member.name);
                facts.extend(known.and_then(|node| relabeled(state, node, member)));
            }
            Some(fact) => facts.push(fact),
            None => {}
        }
    }
    if !joined.is_empty() {
        facts.push(Event::NodesJoined { nodes: joined });
    }
    let left_out = |&n: &u32| {
        state.members.presence(n) != Presence::Unmatched && !names.contains(state.members.name(n))
    };
    let nodes: crate::runs::Runs = state.members.iter().filter(left_out).collect();
    if !nodes.is_empty() {
        facts.push(Event::NodesChanged {
            status: Presence::Unmatched,
            nodes,
        });
    }
    if state.members_due {
        facts.push(Event::MembersListed);
    }
    Ok(facts)
}
