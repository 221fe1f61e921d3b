//! What the fleet takes, what that means, and what follows. Each looks at the state or changes it; none knows a clock.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::leases::Leases;
use super::{
    Connectivity, Entry, Event, FACTS_BYTES_MAX, FACTS_MAX, FLEET_NODES_MAX, Facts, FleetSettings,
    Input, Node, NodeName, Rejection,
};
use crate::admit::clip;
use crate::draw::draw;
use crate::id::{InvalidName, is_name};
use crate::input::KEY_BYTES_MAX;
use crate::selector::{Labels, check_labels};
use crate::state::KEYS_KEPT;
use crate::time::Time;

/// The most unknown nodes that a refusal names.
const UNKNOWN_NAMED_MAX: usize = 10;

/// All that is logged: what replaying gives again.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(super) struct State {
    pub(super) seq: u64,
    #[serde(serialize_with = "as_list", deserialize_with = "from_list")]
    pub(super) nodes: BTreeMap<NodeName, Node>,
    /// The last that were used, oldest first, each with the digest of what was said.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub(super) keys: VecDeque<(String, u64)>,
}

/// All checking. Costs a look-up for each node named, never a scan.
pub(super) fn admit(state: &State, input: &Input) -> Result<Vec<Event>, Rejection> {
    Ok(match input {
        Input::Tick => Vec::new(),
        Input::Join {
            name,
            labels,
            facts,
            leaving,
        } => admit_join(state, name, labels, facts, *leaving)?,
        Input::Heartbeat { name } => reconnected(known(state, name)?).into_iter().collect(),
        Input::HeartbeatMany { names } => {
            all_known(state, names.iter())?;
            let mut nodes: Vec<_> = names
                .iter()
                .filter(|name| is_lost(&state.nodes[*name]))
                .cloned()
                .collect();
            nodes.sort();
            nodes.dedup();
            if nodes.is_empty() {
                Vec::new()
            } else {
                vec![Event::Reconnected { nodes }]
            }
        }
        Input::Drain { name, key } => mark(state, name, true, key.as_deref())?,
        Input::Enable { name, key } => mark(state, name, false, key.as_deref())?,
        Input::Remove { name } => {
            known(state, name)?;
            vec![Event::Removed { name: name.clone() }]
        }
        Input::SetLoads { loads } => {
            all_known(state, loads.keys())?;
            let mut loads = loads.clone();
            loads.retain(|name, load| state.nodes[name].load != *load);
            if loads.is_empty() {
                Vec::new()
            } else {
                vec![Event::LoadsChanged { loads }]
            }
        }
    })
}

/// What is remembered of a mark that was set, or taken away, under a key.
fn said(drain: bool, name: &NodeName) -> u64 {
    draw(u64::from(drain), "mark", name.as_bytes())
}

/// The operator's mark is set, or taken away.
fn mark(
    state: &State,
    name: &NodeName,
    drain: bool,
    key: Option<&str>,
) -> Result<Vec<Event>, Rejection> {
    let digest = said(drain, name);
    if let Some(key) = key {
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            return Err(Rejection::KeyLength(key.len()));
        }
        match state.keys.iter().find(|(known, _)| known == key) {
            Some((_, said)) if *said == digest => return Ok(Vec::new()),
            Some(_) => return Err(Rejection::KeyReused(key.to_owned())),
            None => {}
        }
    }
    let name = name.clone();
    let marked = match known(state, &name)?.drain {
        now if now == drain => None,
        true => Some(Event::Enabled { name }),
        false => Some(Event::Drained { name }),
    };
    let answered = key.map(|key| Event::Answered {
        key: key.to_owned(),
        digest,
    });
    Ok(marked.into_iter().chain(answered).collect())
}

fn admit_join(
    state: &State,
    name: &NodeName,
    labels: &Labels,
    facts: &Facts,
    leaving: bool,
) -> Result<Vec<Event>, Rejection> {
    check_join(name, labels, facts)?;
    let Some(node) = state.nodes.get(name) else {
        if state.nodes.len() >= FLEET_NODES_MAX {
            return Err(Rejection::TooManyNodes);
        }
        let joined = Event::Joined {
            name: name.clone(),
            labels: labels.clone(),
            facts: facts.clone(),
        };
        let leaves = leaving.then(|| Event::Leaving { name: name.clone() });
        return Ok([joined].into_iter().chain(leaves).collect());
    };
    let mut events = Vec::new();
    // The return last: who is told of it should find the node where it belongs now, and as it is.
    if node.labels != *labels {
        events.push(Event::LabelsChanged {
            name: name.clone(),
            labels: labels.clone(),
        });
    }
    if node.facts != *facts {
        events.push(Event::FactsChanged {
            name: name.clone(),
            facts: facts.clone(),
        });
    }
    let name = name.clone();
    match (node.leaving, leaving) {
        (false, true) => events.push(Event::Leaving { name }),
        (true, false) => events.push(Event::Stays { name }),
        _ => {}
    }
    events.extend(reconnected(node));
    Ok(events)
}

pub(super) fn check_join(name: &NodeName, labels: &Labels, facts: &Facts) -> Result<(), Rejection> {
    if !is_name(name) {
        return Err(InvalidName(name.chars().take(80).collect()).into());
    }
    check_labels(labels)?;
    check_facts(facts)
}

pub(super) fn check_facts(facts: &Facts) -> Result<(), Rejection> {
    let told = facts.iter().map(|(key, value)| key.len() + value.len());
    let (count, bytes) = (facts.len(), told.sum());
    if count > FACTS_MAX || bytes > FACTS_BYTES_MAX {
        return Err(Rejection::TooManyFacts { count, bytes });
    }
    Ok(())
}

/// The only mutator. Total: an entry about a node that is not there changes nothing, and neither `admit`
/// nor `fits` lets one through.
pub(super) fn apply(state: &mut State, entry: &Entry) {
    let Entry { seq, at, event } = entry;
    state.seq = *seq;
    match event {
        Event::Joined {
            name,
            labels,
            facts,
        } => {
            let node = Node {
                name: name.clone(),
                labels: labels.clone(),
                facts: facts.clone(),
                load: 0,
                connectivity: Connectivity::Connected,
                drain: false,
                leaving: false,
                since: *at,
            };
            state.nodes.insert(name.clone(), node);
        }
        Event::LabelsChanged { name, labels } => {
            edit(state, name, |node| node.labels.clone_from(labels));
        }
        Event::FactsChanged { name, facts } => {
            edit(state, name, |node| node.facts.clone_from(facts));
        }
        Event::Reconnected { nodes } => connect(state, nodes, Connectivity::Connected, *at),
        Event::Disconnected { nodes } => connect(state, nodes, Connectivity::Disconnected, *at),
        Event::WentDown { nodes } => connect(state, nodes, Connectivity::Down, *at),
        Event::Drained { name } => edit(state, name, |node| node.drain = true),
        Event::Enabled { name } => edit(state, name, |node| node.drain = false),
        Event::Leaving { name } => edit(state, name, |node| node.leaving = true),
        Event::Stays { name } => edit(state, name, |node| node.leaving = false),
        Event::Removed { name } => {
            state.nodes.remove(name);
            // Who joins by that name is another one, to whom nothing was said yet.
            let said = [true, false].map(|drain| said(drain, name));
            state.keys.retain(|(_, known)| !said.contains(known));
        }
        Event::LoadsChanged { loads } => {
            for (name, load) in loads {
                edit(state, name, |node| node.load = *load);
            }
        }
        Event::Answered { key, digest } => {
            state.keys.retain(|(known, _)| known != key);
            if state.keys.len() == KEYS_KEPT {
                state.keys.pop_front();
            }
            state.keys.push_back((key.clone(), *digest));
        }
    }
}

/// The nodes whose time is up, those that go down first. Looks at leases only: they hold every
/// node that is not down.
pub(super) fn decide(leases: &Leases, settings: FleetSettings) -> Option<Event> {
    let down = leases
        .lost
        .overdue(leases.elapsed_millis, settings.down_after());
    if !down.is_empty() {
        return Some(Event::WentDown { nodes: down });
    }
    let silent = leases
        .heard
        .overdue(leases.elapsed_millis, settings.lease());
    (!silent.is_empty()).then_some(Event::Disconnected { nodes: silent })
}

fn known<'a>(state: &'a State, name: &NodeName) -> Result<&'a Node, Rejection> {
    state
        .nodes
        .get(name)
        .ok_or_else(|| Rejection::UnknownNodes {
            names: vec![clip(name)],
        })
}

fn all_known<'a>(
    state: &State,
    names: impl Iterator<Item = &'a NodeName>,
) -> Result<(), Rejection> {
    let unknown = names.filter(|name| !state.nodes.contains_key(*name));
    let names = unknown.take(UNKNOWN_NAMED_MAX);
    let names: Vec<String> = names.map(|name| clip(name)).collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(Rejection::UnknownNodes { names })
    }
}

pub(super) fn is_lost(node: &Node) -> bool {
    node.connectivity != Connectivity::Connected
}

fn reconnected(node: &Node) -> Option<Event> {
    is_lost(node).then(|| Event::Reconnected {
        nodes: vec![node.name.clone()],
    })
}

fn edit(state: &mut State, name: &NodeName, change: impl FnOnce(&mut Node)) {
    if let Some(node) = state.nodes.get_mut(name) {
        change(node);
    }
}

fn connect(state: &mut State, names: &[NodeName], connectivity: Connectivity, at: Time) {
    for name in names {
        edit(state, name, |node| {
            (node.connectivity, node.since) = (connectivity, at)
        });
    }
}

fn as_list<S: Serializer>(nodes: &BTreeMap<NodeName, Node>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(nodes.values())
}

fn from_list<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<NodeName, Node>, D::Error> {
    let nodes = Vec::<Node>::deserialize(from)?;
    Ok(nodes
        .into_iter()
        .map(|node| (node.name.clone(), node))
        .collect())
}
