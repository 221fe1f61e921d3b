//! What the core costs, from a thousand nodes to a million.

mod baseline;
mod fleet;
mod memory;
mod moves;
mod replay;
mod steps;
mod whole;

use orchestrator_benches::measured::Measured;

pub(crate) use self::memory::child as memory;

/// How much is measured.
pub(crate) struct Extent {
    /// Numbers of nodes, in the order of the rows.
    pub(crate) sizes: Vec<usize>,
    /// A few rounds only.
    pub(crate) quick: bool,
}

impl Extent {
    /// How often something is measured that takes the longer the more nodes there are.
    fn rounds(&self, nodes: usize) -> usize {
        if self.quick {
            2
        } else {
            (1_000_000 / nodes).clamp(3, 25)
        }
    }
}

pub(crate) fn measure(extent: &Extent, measured: &mut Measured) {
    steps::measure(extent, measured);
    moves::measure(extent, measured);
    whole::measure(extent, measured);
    memory::measure(extent, measured);
    replay::measure(extent, measured);
    fleet::measure(extent, measured);
}
