//! Who is in the fleet: nodes, their labels, and whether they are heard of.
//!
//! A node joins, keeps its lease with heartbeats, and is disconnected when it falls silent and
//! down when it stays so. What happened is logged; that a node was heard of is not: leases live in
//! memory only, and after [`Fleet::recover`] every node gets a full one from the first step. Time
//! is counted by the steps: a clock that jumps back stops nobody's lease and ends nobody's.
//!
//! # What a driver owes the jobs
//!
//! After each step, once its entries are safe, every job hears of the nodes that [they name](Event::nodes), as
//! [`Fleet::change`] puts it, with [`Input::Nodes`](crate::Input::Nodes).
//!
//! The fleet does not know what reached the jobs. An entry may be safe and the driver gone before a job was told:
//! so after a restart every job is told of all its nodes again, with
//! [`Input::Members`](crate::Input::Members) and [`Fleet::members`]. That costs no entry where nothing is new.
//! [`group`](crate::group) shows a restart with all three machines.

mod fits;
mod leases;
mod rules;
mod settings;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::fits::fits;
use self::leases::Leases;
use self::rules::{State, admit, apply, check_join, decide};
pub use self::settings::FleetSettings;
use crate::event::{Member, Presence};
use crate::format::{FormatError, decode_small, encode_small, read_snapshot, write_snapshot};
use crate::id::InvalidName;
use crate::input::{KEY_BYTES_MAX, NodeChange};
use crate::replay::{BrokenLog, follows};
use crate::selector::{InvalidLabels, Labels, Selector};
use crate::spec::JobSpec;
use crate::time::{Span, Time};

/// The most nodes that a fleet may have.
pub const FLEET_NODES_MAX: usize = 4_000_000;
/// The most facts that a node may tell about itself.
pub const FACTS_MAX: usize = 64;
/// The most bytes that a node's facts may have, names and values together.
pub const FACTS_BYTES_MAX: usize = 4096;
/// The most nodes that one entry reports as lost.
pub const LOST_PER_ENTRY_MAX: usize = 1024;
/// The most entries of lost nodes in one step. When half the fleet is cut off, others still get
/// their turn: [`Fleet::wake`] then asks for the next step at once.
pub const LOST_ENTRIES_PER_STEP_MAX: usize = 16;

/// A node's name, cheap to pass on.
pub type NodeName = Arc<str>;
/// What a node tells about itself beside its labels: versions, addresses, sizes.
pub type Facts = BTreeMap<String, String>;

/// The membership machine.
#[derive(Clone, Debug)]
pub struct Fleet {
    settings: FleetSettings,
    state: State,
    leases: Leases,
}

impl Fleet {
    /// An empty fleet.
    pub fn new(settings: FleetSettings) -> Self {
        Self::restore(settings, State::default())
    }

    /// The fleet that wrote these entries, all of them from the first.
    ///
    /// A crash may have kept half a step. That does no harm: each entry is a whole fact, whoever was not answered says
    /// the same again, and it writes down what is missing. The end of a torn line is to be cut off.
    pub fn recover<E: Borrow<Entry>>(
        settings: FleetSettings,
        log: impl IntoIterator<Item = E>,
    ) -> Result<Self, BrokenLog> {
        let mut fleet = Self::new(settings);
        fleet.catch_up(log)?;
        Ok(fleet)
    }

    /// Takes in entries that follow what it has: after a snapshot, or on a replica.
    pub fn catch_up<E: Borrow<Entry>>(
        &mut self,
        log: impl IntoIterator<Item = E>,
    ) -> Result<(), BrokenLog> {
        for entry in log {
            let entry = entry.borrow();
            follows(self.state.seq, entry.seq)?;
            if !fits(&self.state, &entry.event) {
                return Err(BrokenLog::DoesNotFit { seq: entry.seq });
            }
            apply(&mut self.state, entry);
            self.leases.follow(&entry.event);
        }
        Ok(())
    }

    /// All that is logged. Two fleets have logged the same when these are the same bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        write_snapshot(&self.state)
    }

    /// The fleet as it was; [`Fleet::catch_up`] takes in what came after.
    pub fn from_snapshot(settings: FleetSettings, bytes: &[u8]) -> Result<Self, FormatError> {
        let state = read_snapshot(bytes, "a snapshot of the fleet")?;
        Ok(Self::restore(settings, state))
    }

    fn restore(settings: FleetSettings, state: State) -> Self {
        let leases = Leases::all_fresh(&state);
        Self {
            settings,
            state,
            leases,
        }
    }

    /// Takes one input and then finds the nodes that were silent for too long.
    ///
    /// In this order: a heartbeat saves its node however late it is handed in, if nothing was handed in before it. A
    /// driver that was held up hands all of those that it has yet to in as one [`Input::HeartbeatMany`] first, or the
    /// first of them has the others lost. A refused input changes nothing.
    ///
    /// The entries have to be safe before anybody hears what follows from them: where they cannot be written down, drop the
    /// fleet and recover it.
    pub fn step(&mut self, now: Time, input: Input) -> Result<Vec<Entry>, Rejection> {
        self.leases.pass(now);
        let mut entries = Vec::new();
        for event in admit(&self.state, &input)? {
            entries.push(self.record(now, event));
        }
        // Known by now: `admit` refuses others.
        match &input {
            Input::Join { name, .. } | Input::Heartbeat { name } => self.leases.hear(name),
            Input::HeartbeatMany { names } => names.iter().for_each(|name| self.leases.hear(name)),
            Input::Tick
            | Input::Drain { .. }
            | Input::Enable { .. }
            | Input::Remove { .. }
            | Input::SetLoads { .. } => {}
        }
        for _ in 0..LOST_ENTRIES_PER_STEP_MAX {
            let Some(event) = decide(&self.leases, self.settings) else {
                break;
            };
            entries.push(self.record(now, event));
        }
        Ok(entries)
    }

    /// When the fleet next wants a step: with [`Input::Tick`] if there is nothing else to say.
    pub fn wake(&self) -> Option<Time> {
        let left = self.leases.left_millis(self.settings)?;
        // Before the first step the time is not known: at once.
        Some(
            self.leases
                .last
                .map_or_else(Time::default, |last| last.after(Span::from_millis(left))),
        )
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.state.nodes.get(name)
    }

    /// All nodes, in the order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.state.nodes.values()
    }

    /// The nodes that a selector chooses, in the order of their names, whatever their status.
    pub fn matching<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a Node> {
        self.nodes().filter(|node| selector.matches(&node.labels))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.state.nodes.len()
    }

    /// Whether there is no node.
    pub fn is_empty(&self) -> bool {
        self.state.nodes.is_empty()
    }

    /// Every node that a job's spec matches, as the job wants to hear of them: to register it with, and the
    /// answer to [`Effect::MembersNeeded`](crate::Effect::MembersNeeded).
    ///
    /// `own` says how many executions of this very job are in the [load](Input::SetLoads) that the node was last given:
    /// `job.desired(node).len()`, if loads are counted by that. A job knows its own and asks for those of others, so
    /// they are taken off. A driver that sets no loads, or a job that runs everywhere, may say 0.
    pub fn members(&self, spec: &JobSpec, own: impl Fn(&str) -> u32) -> Vec<Member> {
        let member = |node: &Node| node.member(spec, own(&node.name));
        self.nodes().filter_map(member).collect()
    }

    /// What to tell a job of a node, after an entry that [names it](Event::nodes). Telling it too much does no
    /// harm: a job takes no notice of what it knows. `own` is that of [`Fleet::members`].
    pub fn change(&self, name: &str, spec: &JobSpec, own: u32) -> NodeChange {
        let became = |status| NodeChange::Became {
            name: name.to_owned(),
            status,
        };
        match self.node(name) {
            None => became(Presence::Gone),
            Some(node) => match node.member(spec, own) {
                Some(member) => NodeChange::Seen(member),
                None => became(Presence::Unmatched),
            },
        }
    }

    /// The number of the last entry; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.state.seq
    }

    fn record(&mut self, now: Time, event: Event) -> Entry {
        let entry = Entry {
            seq: self.state.seq + 1,
            at: now,
            event,
        };
        debug_assert!(fits(&self.state, &entry.event), "{entry:?}");
        apply(&mut self.state, &entry);
        self.leases.follow(&entry.event);
        entry
    }
}

/// One machine that runs an agent.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Node {
    /// Its name, the only one in the fleet.
    pub name: NodeName,
    /// What selectors look at.
    pub labels: Labels,
    /// What it told about itself.
    pub facts: Facts,
    /// How many executions it has been given, those of all jobs: what [`Input::SetLoads`] said last.
    pub load: u32,
    /// Whether it is heard of.
    pub connectivity: Connectivity,
    /// The operator's mark that nothing new should start here. It survives disconnects.
    pub drain: bool,
    /// The node's own word for the same: it is about to go. It survives disconnects, until the node joins again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub leaving: bool,
    /// When `connectivity` last changed.
    pub since: Time,
}

impl Node {
    /// This node as a job with this spec sees it; `None` where the selector does not match. `own` are the job's own
    /// executions there, as [`Fleet::members`] has it, which are no load of others.
    pub fn member(&self, spec: &JobSpec, own: u32) -> Option<Member> {
        let spread = spec.rollout.spread.as_ref();
        let zone = spread.and_then(|label| self.labels.get(label));
        spec.selector.matches(&self.labels).then(|| Member {
            name: self.name.to_string(),
            zone: zone.cloned().unwrap_or_default(),
            load: self.load.saturating_sub(own),
            status: self.status().into(),
        })
    }

    /// All that is known of it, in one word.
    pub fn status(&self) -> NodeStatus {
        match (self.connectivity, self.drain || self.leaving) {
            (Connectivity::Connected, false) => NodeStatus::Ready,
            (Connectivity::Connected, true) => NodeStatus::Draining,
            (Connectivity::Disconnected, _) => NodeStatus::Disconnected,
            (Connectivity::Down, _) => NodeStatus::Down,
        }
    }
}

/// Whether a node is heard of.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connectivity {
    /// Its lease runs.
    Connected,
    /// It was silent for longer than a lease.
    Disconnected,
    /// It stayed so for longer than `down_after`.
    Down,
}

/// What may be asked of a node now.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// Everything.
    Ready,
    /// Nothing: it is silent, and may be back soon.
    Disconnected,
    /// It is heard of, but nothing new should start.
    Draining,
    /// Nothing: it is silent and not expected back soon.
    Down,
}

impl From<NodeStatus> for Presence {
    fn from(status: NodeStatus) -> Self {
        match status {
            NodeStatus::Ready => Self::Ready,
            NodeStatus::Disconnected => Self::Disconnected,
            NodeStatus::Draining => Self::Draining,
            NodeStatus::Down => Self::Down,
        }
    }
}

/// What may be said to the fleet.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A node introduces itself, for the first time or again.
    Join {
        /// Its name.
        name: NodeName,
        /// Its labels, replacing the former ones.
        labels: Labels,
        /// Its facts, replacing the former ones.
        facts: Facts,
        /// It is about to go: nothing new should start there, until it joins and says no more so.
        leaving: bool,
    },
    /// A node is heard of.
    Heartbeat {
        /// Its name.
        name: NodeName,
    },
    /// Many nodes are heard of. One that is unknown refuses all, by name.
    HeartbeatMany {
        /// Their names.
        names: Vec<NodeName>,
    },
    /// Let nothing new start on a node.
    Drain {
        /// Its name.
        name: NodeName,
        /// Said again under the same key it changes nothing, whatever was said in between. The last
        /// [`KEYS_KEPT`](crate::KEYS_KEPT) are remembered.
        key: Option<String>,
    },
    /// End a node's drain.
    Enable {
        /// Its name.
        name: NodeName,
        /// See [`Input::Drain`].
        key: Option<String>,
    },
    /// Forget a node.
    Remove {
        /// Its name.
        name: NodeName,
    },
    /// So many executions are placed on these nodes now, of all jobs together. The driver counts them, who alone knows
    /// all jobs: what is [desired](crate::Job::desired) there, added up. Jobs whose executions are placed hear of it by
    /// [`Fleet::change`], and choose the node that has least to do; where it is never said, all have the same.
    SetLoads {
        /// Only those that changed; the others keep theirs.
        loads: BTreeMap<NodeName, u32>,
    },
}

impl Input {
    /// Refuses what no fleet would take, in whatever state: for whoever has to do something else first that cannot be
    /// taken back.
    pub fn check(&self) -> Result<(), Rejection> {
        match self {
            Self::Join {
                name,
                labels,
                facts,
                leaving: _,
            } => check_join(name, labels, facts),
            Self::Tick
            | Self::Heartbeat { .. }
            | Self::HeartbeatMany { .. }
            | Self::Drain { .. }
            | Self::Enable { .. }
            | Self::Remove { .. }
            | Self::SetLoads { .. } => Ok(()),
        }
    }
}

/// One fact, in its place in the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// What the driver's clock said.
    pub at: Time,
    /// What happened.
    pub event: Event,
}

impl Entry {
    /// One line of JSON, with the version of its form.
    pub fn encode(&self) -> String {
        encode_small(self.seq, self.at, &self.event)
    }

    /// Reads what [`Entry::encode`] wrote, today or by any released version.
    pub fn decode(line: &str) -> Result<Self, FormatError> {
        let (seq, at, event) = decode_small(line, "an entry of the fleet's log")?;
        Ok(Self { seq, at, event })
    }
}

/// What happened to the fleet.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "kind", content = "body", rename_all = "snake_case")]
pub enum Event {
    /// A node is new.
    Joined {
        /// Its name.
        name: NodeName,
        /// Its labels.
        labels: Labels,
        /// Its facts.
        facts: Facts,
    },
    /// A node came with other labels.
    LabelsChanged {
        /// Its name.
        name: NodeName,
        /// All of its labels.
        labels: Labels,
    },
    /// A node told other facts.
    FactsChanged {
        /// Its name.
        name: NodeName,
        /// All of its facts.
        facts: Facts,
    },
    /// Lost nodes were heard of again.
    Reconnected {
        /// In the order of their names.
        nodes: Vec<NodeName>,
    },
    /// Nodes were silent for longer than a lease.
    Disconnected {
        /// The longest silent first.
        nodes: Vec<NodeName>,
    },
    /// Nodes stayed disconnected for longer than `down_after`.
    WentDown {
        /// The longest disconnected first.
        nodes: Vec<NodeName>,
    },
    /// The operator marked a node.
    Drained {
        /// Its name.
        name: NodeName,
    },
    /// The operator took the mark away.
    Enabled {
        /// Its name.
        name: NodeName,
    },
    /// A node is about to go.
    Leaving {
        /// Its name.
        name: NodeName,
    },
    /// A node that was about to go has joined again.
    Stays {
        /// Its name.
        name: NodeName,
    },
    /// A node is forgotten.
    Removed {
        /// Its name.
        name: NodeName,
    },
    /// Nodes have other numbers of executions.
    LoadsChanged {
        /// Only those that changed.
        loads: BTreeMap<NodeName, u32>,
    },
    /// What was said under a key was done.
    Answered {
        /// As the operator gave it.
        key: String,
        /// Of what was said: a key that is used for something else is refused.
        digest: u64,
    },
}

impl Event {
    /// The nodes that jobs may have to hear of.
    pub fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Self::Joined { name, .. }
            | Self::LabelsChanged { name, .. }
            | Self::Drained { name }
            | Self::Enabled { name }
            | Self::Leaving { name }
            | Self::Stays { name }
            | Self::Removed { name } => vec![name],
            Self::Reconnected { nodes }
            | Self::Disconnected { nodes }
            | Self::WentDown { nodes } => nodes.iter().collect(),
            Self::LoadsChanged { loads } => loads.keys().collect(),
            Self::FactsChanged { .. } | Self::Answered { .. } => Vec::new(),
        }
    }
}

/// Why an input was refused; nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// Nothing can be said about a node that never joined, or was removed.
    #[error("not in the fleet: {}; a node has to join first", names.join(", "))]
    UnknownNodes {
        /// The first unknown names of the input.
        names: Vec<String>,
    },
    /// See [`is_name`](crate::is_name).
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// See [`check_labels`](crate::selector::check_labels).
    #[error(transparent)]
    InvalidLabels(#[from] InvalidLabels),
    /// See [`FACTS_MAX`] and [`FACTS_BYTES_MAX`].
    #[error(
        "{count} facts of {bytes} bytes in all are too many: tell at most {FACTS_MAX} of {FACTS_BYTES_MAX} bytes"
    )]
    TooManyFacts {
        /// How many there are.
        count: usize,
        /// Names and values together.
        bytes: usize,
    },
    /// A key is too long, or empty.
    #[error("an idempotency key has 1 to {KEY_BYTES_MAX} bytes, this one has {0}")]
    KeyLength(usize),
    /// A key was used before, to say something else.
    #[error("the idempotency key {0:?} was used for something else: use another one")]
    KeyReused(String),
    /// See [`FLEET_NODES_MAX`].
    #[error("the fleet is full: it has {FLEET_NODES_MAX} nodes; remove some first")]
    TooManyNodes,
}

#[cfg(test)]
mod tests;
