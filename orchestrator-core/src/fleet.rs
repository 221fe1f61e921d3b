//! Who is in the fleet: nodes, their labels, and whether they are heard of.
//!
//! A node joins, keeps its lease with heartbeats, and is disconnected when it falls silent and
//! down when it stays so. What happened is logged; that a node was heard of is not: leases live in
//! memory only, and after [`Fleet::recover`] every node gets a full one from the first step. Time
//! is counted by the steps: a clock that jumps back stops nobody's lease and ends nobody's.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::event::{Member, Presence};
use crate::format::{FormatError, decode_small, encode_small};
use crate::id::is_name;
use crate::input::NodeChange;
use crate::selector::{InvalidLabels, Labels, Selector, check_labels};
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
    pub fn recover<'a>(
        settings: FleetSettings,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, Gap> {
        Self::recover_from(settings, State::default(), entries)
    }

    /// The same from a snapshot and the entries after it.
    pub fn recover_from<'a>(
        settings: FleetSettings,
        mut snapshot: State,
        entries: impl IntoIterator<Item = &'a Entry>,
    ) -> Result<Self, Gap> {
        for entry in entries {
            if entry.seq != snapshot.seq + 1 {
                return Err(Gap {
                    expected: snapshot.seq + 1,
                    found: entry.seq,
                });
            }
            apply(&mut snapshot, entry);
        }
        Ok(Self::restore(settings, snapshot))
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
    /// In this order: after the driver itself was held up, a heartbeat that it has yet to hand in
    /// still saves its node. A refused input changes nothing.
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
            | Input::Disconnect { .. }
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
    pub fn members(&self, spec: &JobSpec, own: impl Fn(&str) -> u32) -> Vec<Member> {
        let member = |node: &Node| node.member(spec, own(&node.name));
        self.nodes().filter_map(member).collect()
    }

    /// What to tell a job of a node, after an entry that [names it](Event::nodes). Telling it too much does no
    /// harm: a job takes no notice of what it knows.
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

    /// All that is logged, to compare or to keep as a snapshot.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn record(&mut self, now: Time, event: Event) -> Entry {
        let entry = Entry {
            seq: self.state.seq + 1,
            at: now,
            event,
        };
        apply(&mut self.state, &entry);
        self.leases.follow(&entry.event);
        entry
    }
}

/// How patient the fleet is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetSettings {
    /// Silence for longer than this disconnects a node.
    pub lease: Span,
    /// Being disconnected for longer than this makes it down.
    pub down_after: Span,
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            lease: Span::from_secs(30),
            down_after: Span::from_secs(300),
        }
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
    /// How many executions it has been given.
    pub load: u32,
    /// Whether it is heard of.
    pub connectivity: Connectivity,
    /// The operator's mark that nothing new should start here. It survives disconnects.
    pub drain: bool,
    /// When `connectivity` last changed.
    pub since: Time,
}

impl Node {
    /// This node as a job with this spec sees it; `None` where the selector does not match. `own` are
    /// the job's own executions there ([`Job::desired`](crate::Job::desired)), which are no load of others.
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

    /// Connectivity and drain in one word.
    pub fn status(&self) -> NodeStatus {
        match (self.connectivity, self.drain) {
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
    /// A node's connection was seen to close. Its lease runs on: most come back within it.
    Disconnect {
        /// Its name.
        name: NodeName,
    },
    /// Let nothing new start on a node.
    Drain {
        /// Its name.
        name: NodeName,
    },
    /// End a node's drain.
    Enable {
        /// Its name.
        name: NodeName,
    },
    /// Forget a node.
    Remove {
        /// Its name.
        name: NodeName,
    },
    /// So many executions are placed on these nodes now.
    SetLoads {
        /// Only those that changed.
        loads: BTreeMap<NodeName, u32>,
    },
}

/// One fact, in its place in the log.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Entry {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// What the driver's clock said.
    pub at: Time,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Entry {
    /// One line of JSON, with the version of its form.
    pub fn encode(&self) -> String {
        encode_small(self)
    }

    /// Reads what [`Entry::encode`] wrote, today or by any released version.
    pub fn decode(line: &str) -> Result<Self, FormatError> {
        decode_small(line, "an entry of the fleet's log")
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
}

impl Event {
    /// The nodes that jobs may have to hear of.
    pub fn nodes(&self) -> Vec<&NodeName> {
        match self {
            Self::Joined { name, .. }
            | Self::LabelsChanged { name, .. }
            | Self::Drained { name }
            | Self::Enabled { name }
            | Self::Removed { name } => vec![name],
            Self::Reconnected { nodes }
            | Self::Disconnected { nodes }
            | Self::WentDown { nodes } => nodes.iter().collect(),
            Self::LoadsChanged { loads } => loads.keys().collect(),
            Self::FactsChanged { .. } => Vec::new(),
        }
    }
}

/// Why an input was refused; nothing has changed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// Nothing can be said about a node that never joined, or was removed.
    #[error("not in the fleet: {}; join first", names.join(", "))]
    UnknownNodes {
        /// All unknown names of the input.
        names: Vec<String>,
    },
    /// See [`is_name`].
    #[error(transparent)]
    InvalidName(#[from] crate::id::InvalidName),
    /// See [`check_labels`].
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
    /// See [`FLEET_NODES_MAX`].
    #[error("the fleet is full: it has {FLEET_NODES_MAX} nodes; remove some first")]
    TooManyNodes,
}

/// The entries to recover from are not all there, or not in order.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the fleet's log has entry {found} where entry {expected} belongs; read it again from there"
)]
pub struct Gap {
    /// The number that belongs here.
    pub expected: u64,
    /// The number that came.
    pub found: u64,
}

/// All that is logged: what replaying gives again.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    seq: u64,
    #[serde(serialize_with = "as_list", deserialize_with = "from_list")]
    nodes: BTreeMap<NodeName, Node>,
}

impl State {
    /// JSON, with the version of its form: a snapshot.
    pub fn encode(&self) -> String {
        encode_small(self)
    }

    /// Reads what [`State::encode`] wrote, today or by any released version.
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        decode_small(text, "a snapshot of the fleet")
    }

    /// The number of the last entry; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }
}

/// All checking. Costs a look-up for each node named, never a scan.
fn admit(state: &State, input: &Input) -> Result<Vec<Event>, Rejection> {
    Ok(match input {
        Input::Tick => Vec::new(),
        Input::Join {
            name,
            labels,
            facts,
        } => admit_join(state, name, labels, facts)?,
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
        Input::Disconnect { name } => {
            known(state, name)?;
            Vec::new()
        }
        Input::Drain { name } => {
            let drained = Event::Drained { name: name.clone() };
            if known(state, name)?.drain {
                Vec::new()
            } else {
                vec![drained]
            }
        }
        Input::Enable { name } => {
            let enabled = Event::Enabled { name: name.clone() };
            if known(state, name)?.drain {
                vec![enabled]
            } else {
                Vec::new()
            }
        }
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

fn admit_join(
    state: &State,
    name: &NodeName,
    labels: &Labels,
    facts: &Facts,
) -> Result<Vec<Event>, Rejection> {
    if !is_name(name) {
        return Err(crate::id::InvalidName(name.chars().take(80).collect()).into());
    }
    check_labels(labels)?;
    let bytes = facts
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if facts.len() > FACTS_MAX || bytes > FACTS_BYTES_MAX {
        return Err(Rejection::TooManyFacts {
            count: facts.len(),
            bytes,
        });
    }
    let Some(node) = state.nodes.get(name) else {
        if state.nodes.len() >= FLEET_NODES_MAX {
            return Err(Rejection::TooManyNodes);
        }
        let (name, labels, facts) = (name.clone(), labels.clone(), facts.clone());
        return Ok(vec![Event::Joined {
            name,
            labels,
            facts,
        }]);
    };
    let mut events = Vec::new();
    // Labels first: who is told of the return should find it where it belongs now.
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
    events.extend(reconnected(node));
    Ok(events)
}

/// The only mutator. Total: an entry about a node that is not there changes nothing, and `admit`
/// lets none through.
fn apply(state: &mut State, entry: &Entry) {
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
        Event::Removed { name } => {
            state.nodes.remove(name);
        }
        Event::LoadsChanged { loads } => {
            for (name, load) in loads {
                edit(state, name, |node| node.load = *load);
            }
        }
    }
}

/// The nodes whose time is up, those that go down first. Looks at leases only: they hold every
/// node that is not down.
fn decide(leases: &Leases, settings: FleetSettings) -> Option<Event> {
    let down = leases
        .lost
        .overdue(leases.elapsed_millis, settings.down_after);
    if !down.is_empty() {
        return Some(Event::WentDown { nodes: down });
    }
    let silent = leases.heard.overdue(leases.elapsed_millis, settings.lease);
    (!silent.is_empty()).then_some(Event::Disconnected { nodes: silent })
}

/// Who was heard of when. Volatile: a lease is a guess that a new process makes anew.
#[derive(Clone, Debug, Default)]
struct Leases {
    last: Option<Time>,
    /// Grows by what the clock gained between two steps, so it never goes back.
    elapsed_millis: u64,
    /// Connected nodes.
    heard: Line,
    /// Disconnected nodes, from when they were found to be.
    lost: Line,
}

impl Leases {
    fn all_fresh(state: &State) -> Self {
        let mut leases = Self::default();
        for node in state.nodes.values() {
            match node.connectivity {
                Connectivity::Connected => leases.heard.put_last(&node.name, 0),
                Connectivity::Disconnected => leases.lost.put_last(&node.name, 0),
                Connectivity::Down => {}
            }
        }
        leases
    }

    fn pass(&mut self, now: Time) {
        let last = self.last.replace(now).unwrap_or(now);
        let gained = now.as_millis().saturating_sub(last.as_millis());
        self.elapsed_millis = self.elapsed_millis.saturating_add(gained);
    }

    fn hear(&mut self, name: &NodeName) {
        self.heard.put_last(name, self.elapsed_millis);
    }

    fn follow(&mut self, event: &Event) {
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
            | Event::LoadsChanged { .. } => {}
        }
    }

    /// Until the next node is overdue; 0 if one is.
    fn left_millis(&self, settings: FleetSettings) -> Option<u64> {
        let heard = self.heard.first_at().map(|at| due(at, settings.lease));
        let lost = self.lost.first_at().map(|at| due(at, settings.down_after));
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
struct Line {
    seats: Vec<Seat>,
    by_name: BTreeMap<NodeName, u32>,
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
    fn overdue(&self, elapsed_millis: u64, patience: Span) -> Vec<NodeName> {
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

fn known<'a>(state: &'a State, name: &NodeName) -> Result<&'a Node, Rejection> {
    state
        .nodes
        .get(name)
        .ok_or_else(|| Rejection::UnknownNodes {
            names: vec![name.to_string()],
        })
}

fn all_known<'a>(
    state: &State,
    names: impl Iterator<Item = &'a NodeName>,
) -> Result<(), Rejection> {
    let unknown = names.filter(|name| !state.nodes.contains_key(*name));
    let names: Vec<String> = unknown.map(|name| name.to_string()).collect();
    if names.is_empty() {
        Ok(())
    } else {
        Err(Rejection::UnknownNodes { names })
    }
}

fn is_lost(node: &Node) -> bool {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A fleet with its log, at seconds of its own clock.
    struct Story {
        fleet: Fleet,
        log: Vec<Entry>,
    }

    impl Story {
        fn new() -> Self {
            Self {
                fleet: Fleet::new(FleetSettings::default()),
                log: Vec::new(),
            }
        }

        /// What the step logged, in short words.
        fn at(&mut self, millis: u64, input: Input) -> Vec<&'static str> {
            let entries = self.fleet.step(at(millis), input).unwrap();
            let words = entries.iter().map(|entry| word(&entry.event)).collect();
            self.log.extend(entries);
            words
        }

        fn status(&self, name: &str) -> NodeStatus {
            self.fleet.node(name).unwrap().status()
        }

        fn recovered(&self) -> Fleet {
            Fleet::recover(self.fleet.settings, &self.log).unwrap()
        }
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    fn word(event: &Event) -> &'static str {
        match event {
            Event::Joined { .. } => "joined",
            Event::LabelsChanged { .. } => "labels",
            Event::FactsChanged { .. } => "facts",
            Event::Reconnected { .. } => "back",
            Event::Disconnected { .. } => "silent",
            Event::WentDown { .. } => "down",
            Event::Drained { .. } => "drained",
            Event::Enabled { .. } => "enabled",
            Event::Removed { .. } => "removed",
            Event::LoadsChanged { .. } => "loads",
        }
    }

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .collect()
    }

    fn join(name: &str) -> Input {
        join_with(name, &[], &[])
    }

    fn join_with(name: &str, labels: &[(&str, &str)], facts: &[(&str, &str)]) -> Input {
        Input::Join {
            name: name.into(),
            labels: map(labels),
            facts: map(facts),
        }
    }

    fn beat(name: &str) -> Input {
        Input::Heartbeat { name: name.into() }
    }

    #[test]
    fn silence_disconnects_then_downs_and_a_heartbeat_brings_back() {
        let mut story = Story::new();
        assert_eq!(story.at(0, join("n1")), ["joined"]);
        assert_eq!(story.fleet.wake(), Some(at(30_001)));
        assert!(story.at(20_000, beat("n1")).is_empty());
        assert!(story.at(50_000, Input::Tick).is_empty());
        assert_eq!(story.at(50_001, Input::Tick), ["silent"]);
        assert_eq!(story.status("n1"), NodeStatus::Disconnected);
        assert_eq!(story.fleet.wake(), Some(at(350_002)));
        assert!(story.at(350_001, Input::Tick).is_empty());
        assert_eq!(story.at(350_002, Input::Tick), ["down"]);
        assert_eq!(story.status("n1"), NodeStatus::Down);
        assert_eq!(story.fleet.wake(), None);
        assert_eq!(story.at(900_000, beat("n1")), ["back"]);
        assert_eq!(story.status("n1"), NodeStatus::Ready);
        assert_eq!(story.fleet.node("n1").unwrap().since, at(900_000));
    }

    #[test]
    fn each_node_is_lost_on_time_whatever_the_order_of_heartbeats() {
        let mut story = Story::new();
        for name in ["a", "b", "c"] {
            story.at(0, join(name));
        }
        story.at(9_000, beat("b"));
        story.at(5_000 + 9_000, beat("a"));
        assert_eq!(story.at(30_001, Input::Tick), ["silent"]);
        assert_eq!(story.status("c"), NodeStatus::Disconnected);
        assert_eq!(story.fleet.wake(), Some(at(39_001)));
        story.at(39_001, Input::Tick);
        assert_eq!(
            (story.status("b"), story.status("a")),
            (NodeStatus::Disconnected, NodeStatus::Ready)
        );
        // The input of a step comes before its silence.
        assert!(story.at(44_001, beat("a")).is_empty());
    }

    #[test]
    fn a_drain_survives_disconnects() {
        let mut story = Story::new();
        story.at(0, join("n1"));
        assert_eq!(story.at(0, Input::Drain { name: "n1".into() }), ["drained"]);
        assert!(story.at(0, Input::Drain { name: "n1".into() }).is_empty());
        assert!(
            story
                .at(0, Input::Disconnect { name: "n1".into() })
                .is_empty()
        );
        assert_eq!(story.status("n1"), NodeStatus::Draining);
        story.at(30_001, Input::Tick);
        assert_eq!(story.status("n1"), NodeStatus::Disconnected);
        assert_eq!(story.at(40_000, join("n1")), ["back"]);
        assert_eq!(story.status("n1"), NodeStatus::Draining);
        assert_eq!(
            story.at(40_000, Input::Enable { name: "n1".into() }),
            ["enabled"]
        );
        assert_eq!(story.status("n1"), NodeStatus::Ready);
    }

    #[test]
    fn joining_again_is_a_heartbeat_or_a_change() {
        let mut story = Story::new();
        story.at(0, join_with("n1", &[("zone", "a")], &[("os", "x")]));
        assert!(
            story
                .at(20_000, join_with("n1", &[("zone", "a")], &[("os", "x")]))
                .is_empty()
        );
        assert_eq!(
            story.at(45_000, join_with("n1", &[("zone", "b")], &[("os", "x")])),
            ["labels"]
        );
        assert_eq!(
            story.at(45_000, join_with("n1", &[("zone", "b")], &[("os", "y")])),
            ["facts"]
        );
        story.at(45_000, join_with("n0", &[("zone", "b")], &[]));
        story.at(45_000, join("n2"));
        let names = |selector: &str| -> Vec<String> {
            let selector = selector.parse().unwrap();
            story
                .fleet
                .matching(&selector)
                .map(|node| node.name.to_string())
                .collect()
        };
        assert_eq!(names("zone=b"), ["n0", "n1"]);
        assert!(names("zone=a").is_empty());
        assert_eq!(story.fleet.nodes().count(), story.fleet.len());
    }

    #[test]
    fn a_clock_that_goes_back_loses_nothing_and_stops_nothing() {
        let mut story = Story::new();
        story.at(100_000, join("n1"));
        story.at(110_000, Input::Tick);
        // An hour back: ten seconds of the lease are used, twenty are left from here.
        assert!(
            story
                .fleet
                .step(Time::from_millis(5_000), Input::Tick)
                .unwrap()
                .is_empty()
        );
        assert_eq!(story.fleet.wake(), Some(Time::from_millis(25_001)));
        assert_eq!(
            story
                .fleet
                .step(Time::from_millis(25_001), Input::Tick)
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_and_changes_nothing() {
        let mut story = Story::new();
        story.at(0, join("n1"));
        let before = story.fleet.state().clone();
        let mut refuse = |input| story.fleet.step(at(1), input).unwrap_err();
        assert_eq!(
            refuse(beat("n2")).to_string(),
            "not in the fleet: n2; join first"
        );
        let many = Input::HeartbeatMany {
            names: vec!["x".into(), "n1".into(), "y".into()],
        };
        assert_eq!(
            refuse(many).to_string(),
            "not in the fleet: x, y; join first"
        );
        assert!(matches!(refuse(join("no name")), Rejection::InvalidName(_)));
        assert!(matches!(
            refuse(join_with("n2", &[("", "x")], &[])),
            Rejection::InvalidLabels(_)
        ));
        let long = "x".repeat(FACTS_BYTES_MAX);
        let facts = refuse(join_with("n2", &[], &[("k", &long)]));
        assert_eq!(
            facts,
            Rejection::TooManyFacts {
                count: 1,
                bytes: FACTS_BYTES_MAX + 1
            }
        );
        for input in [
            Input::Drain { name: "n2".into() },
            Input::Enable { name: "n2".into() },
            Input::Remove { name: "n2".into() },
            Input::Disconnect { name: "n2".into() },
            Input::SetLoads {
                loads: [("n2".into(), 1)].into(),
            },
        ] {
            assert!(matches!(refuse(input), Rejection::UnknownNodes { .. }));
        }
        assert_eq!(story.fleet.state(), &before);
    }

    #[test]
    fn a_recovered_fleet_gives_everyone_a_fresh_lease() {
        let mut story = Story::new();
        story.at(0, join("n1"));
        story.at(29_000, Input::Tick);
        let mut again = story.recovered();
        assert_eq!(again.wake(), Some(Time::default()));
        assert!(again.step(at(500_000), Input::Tick).unwrap().is_empty());
        assert_eq!(again.wake(), Some(at(530_001)));
    }

    #[test]
    fn a_gap_in_the_log_is_found() {
        let mut story = Story::new();
        story.at(0, join("n1"));
        story.at(0, join("n2"));
        let gap = Fleet::recover(FleetSettings::default(), &story.log[1..]).unwrap_err();
        assert_eq!(
            gap,
            Gap {
                expected: 1,
                found: 2
            }
        );
    }

    #[test]
    fn entries_and_snapshots_are_json() {
        let mut story = Story::new();
        story.at(0, join_with("n1", &[("zone", "a")], &[]));
        story.at(
            0,
            Input::SetLoads {
                loads: [("n1".into(), 3)].into(),
            },
        );
        let text = serde_json::to_string(&story.log[1]).unwrap();
        let expected = r#"{"seq":2,"at":1000000,"kind":"loads_changed","body":{"loads":{"n1":3}}}"#;
        assert_eq!(text, expected);
        let snapshot = serde_json::to_string(story.fleet.state()).unwrap();
        story.at(1, join("n2"));
        let snapshot: State = serde_json::from_str(&snapshot).unwrap();
        let again = Fleet::recover_from(story.fleet.settings, snapshot, &story.log[2..]).unwrap();
        assert_eq!(again.state(), story.fleet.state());
        assert_eq!(again.node("n1").unwrap().load, 3);
    }

    #[test]
    fn a_cut_off_fleet_is_told_in_bounded_steps() {
        let mut story = Story::new();
        let lost_per_step = LOST_PER_ENTRY_MAX * LOST_ENTRIES_PER_STEP_MAX;
        for number in 0..lost_per_step + 1 {
            story.at(0, join(&format!("n{number}")));
        }
        assert_eq!(
            story.at(40_000, Input::Tick).len(),
            LOST_ENTRIES_PER_STEP_MAX
        );
        assert_eq!(story.fleet.wake(), Some(at(40_000)));
        assert_eq!(story.at(40_000, Input::Tick), ["silent"]);
        assert!(
            story
                .fleet
                .nodes()
                .all(|node| node.status() == NodeStatus::Disconnected)
        );
        assert_eq!(story.fleet.leases.heard.by_name.len(), 0);
    }

    fn any_input() -> impl Strategy<Value = Input> {
        let name = || (0..5u8).prop_map(|number| NodeName::from(format!("n{number}")));
        let zone = prop_oneof![Just("a"), Just("b")];
        prop_oneof![
            Just(Input::Tick),
            (name(), zone).prop_map(|(name, zone)| join_with(&name, &[("zone", zone)], &[])),
            name().prop_map(|name| Input::Heartbeat { name }),
            prop::collection::vec(name(), 0..4).prop_map(|names| Input::HeartbeatMany { names }),
            name().prop_map(|name| Input::Disconnect { name }),
            name().prop_map(|name| Input::Drain { name }),
            name().prop_map(|name| Input::Enable { name }),
            name().prop_map(|name| Input::Remove { name }),
            (name(), 0..3u32).prop_map(|(name, load)| Input::SetLoads {
                loads: [(name, load)].into()
            }),
        ]
    }

    proptest! {
        /// Against a model that keeps when each node was heard of and scans them all.
        #[test]
        fn any_history_replays_and_loses_nodes_exactly_on_time(
            steps in prop::collection::vec((any_input(), -20_000..60_000i64), 1..80),
        ) {
            let settings = FleetSettings { lease: Span::from_secs(30), down_after: Span::from_secs(60) };
            let mut fleet = Fleet::new(settings);
            let (mut log, mut clock, mut elapsed) = (Vec::new(), 10_000_000i64, 0);
            let mut model: BTreeMap<NodeName, (Connectivity, i64)> = BTreeMap::new();
            for (number, (input, by)) in steps.into_iter().enumerate() {
                clock += by;
                // The first step only tells the time.
                elapsed += if number == 0 { 0 } else { by.max(0) };
                let heard: Vec<NodeName> = match &input {
                    Input::Join { name, .. } | Input::Heartbeat { name } => vec![name.clone()],
                    Input::HeartbeatMany { names } => names.clone(),
                    _ => Vec::new(),
                };
                let before = fleet.state().clone();
                match fleet.step(Time::from_millis(clock as u64), input.clone()) {
                    Err(_) => {
                        prop_assert_eq!(fleet.state(), &before);
                        continue;
                    }
                    Ok(entries) => log.extend(entries),
                }
                if let Input::Remove { name } = &input {
                    model.remove(name);
                }
                for name in heard {
                    model.insert(name, (Connectivity::Connected, elapsed));
                }
                for (connectivity, at) in model.values_mut() {
                    match connectivity {
                        Connectivity::Disconnected if elapsed - *at > 60_000 => *connectivity = Connectivity::Down,
                        Connectivity::Connected if elapsed - *at > 30_000 => {
                            (*connectivity, *at) = (Connectivity::Disconnected, elapsed);
                        }
                        _ => {}
                    }
                }
                let found: Vec<_> = fleet.nodes().map(|node| (&node.name, node.connectivity)).collect();
                let expected: Vec<_> = model.iter().map(|(name, (connectivity, _))| (name, *connectivity)).collect();
                prop_assert_eq!(found, expected);
                let waiting = fleet.leases.heard.by_name.len() + fleet.leases.lost.by_name.len();
                let not_down = fleet.nodes().filter(|node| node.connectivity != Connectivity::Down).count();
                prop_assert_eq!(waiting, not_down);
                let again = Fleet::recover(settings, &log).unwrap();
                prop_assert_eq!(again.state(), fleet.state());
            }
        }
    }
}
