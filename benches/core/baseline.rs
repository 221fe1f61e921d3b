//! The least that something could do for a report, to compare with: no rule, no log, no waves.

use std::collections::HashMap;

use orchestrator_benches::walk::node_name;

/// A byte for each node, and how many nodes have which.
pub(crate) struct Plain {
    states: Vec<u8>,
    counts: [u32; 4],
}

impl Plain {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            states: vec![0; nodes],
            counts: [nodes as u32, 0, 0, 0],
        }
    }

    /// The node is `state` from here on.
    pub(crate) fn report(&mut self, node: usize, state: u8) {
        let old = std::mem::replace(&mut self.states[node], state);
        self.counts[usize::from(old)] -= 1;
        self.counts[usize::from(state)] += 1;
    }

    pub(crate) fn count(&self, state: u8) -> usize {
        self.counts[usize::from(state)] as usize
    }
}

/// The same, with nodes that are found by their names.
pub(crate) struct Named {
    numbers: HashMap<String, u32>,
    pub(crate) plain: Plain,
}

impl Named {
    pub(crate) fn new(nodes: usize) -> Self {
        Self {
            numbers: (0..nodes).map(node_name).zip(0..).collect(),
            plain: Plain::new(nodes),
        }
    }

    pub(crate) fn report(&mut self, node: &str, state: u8) {
        self.plain.report(self.numbers[node] as usize, state);
    }
}
