//! What befalls nodes, and how the driver comes to know of it.

use super::agent::{Node, Place};
use super::report::Flaw;
use super::run::{Phase, Run};
use super::settings::Network;
use super::world::{Happening, NodeFault};
use crate::event::{Member, Presence};
use crate::input::NodeChange;

/// How long a node is silent before it counts as disconnected, and before it counts as down.
const DISCONNECTED_AFTER: u64 = 15_000;
const DOWN_AFTER: u64 = 60_000;

pub(super) fn name(node: u32) -> String {
    format!("n{}", node + 1)
}

/// The node of a name that [`name`] gave.
pub(super) fn number(name: &str) -> Option<u32> {
    name.strip_prefix('n')?.parse::<u32>().ok()?.checked_sub(1)
}

impl Run<'_> {
    /// A node as the job is told of it.
    pub(super) fn member(&self, node: u32) -> Member {
        let labelled = self.settings.zones > 0 && self.settings.rollout.spread.is_some();
        Member {
            zone: if labelled {
                format!("z{}", node % self.settings.zones)
            } else {
                String::new()
            },
            status: self.believed[node as usize],
            ..Member::new(name(node))
        }
    }

    /// Something goes wrong, and goes wrong again some time later.
    pub(super) fn befall(&mut self, fault: NodeFault) -> Result<(), Flaw> {
        if self.phase != Phase::Watching {
            return Ok(());
        }
        let rate = self.rate(fault);
        self.again_by(rate, Happening::Fault(fault));
        if fault == NodeFault::Join {
            let node = self.agents.nodes.len() as u32;
            self.agents.nodes.push(Node::new());
            self.believed.push(Presence::Ready);
            return self.tell_nodes(&[node]);
        }
        let node = self.fate.pick(self.agents.nodes.len()) as u32;
        if self.agents.nodes[node as usize].place != Place::There {
            return Ok(());
        }
        match fault {
            NodeFault::Cut => self.lose(&[node], false),
            NodeFault::Crash => self.lose(&[node], true),
            NodeFault::Drain => self.take_out(node, Place::Draining, Presence::Draining, true),
            NodeFault::Unmatched => {
                self.take_out(node, Place::Unmatched, Presence::Unmatched, true)
            }
            NodeFault::Leave => {
                let back = self.fate.chance(0.5);
                self.agents.wipe(self.world.now, node);
                self.take_out(node, Place::Gone, Presence::Gone, back)
            }
            NodeFault::Join => Ok(()),
        }
    }

    pub(super) fn rate(&self, fault: NodeFault) -> u32 {
        let faults = &self.settings.faults;
        match fault {
            NodeFault::Cut => faults.cuts,
            NodeFault::Crash => faults.crashes,
            NodeFault::Drain => faults.drains,
            NodeFault::Unmatched => faults.unmatched,
            NodeFault::Leave => faults.leaves,
            NodeFault::Join => faults.joins,
        }
    }

    /// Nodes fall silent; somebody notices after a while.
    pub(super) fn lose(&mut self, nodes: &[u32], powerless: bool) -> Result<(), Flaw> {
        if self.phase != Phase::Watching {
            return Ok(());
        }
        let mut lost = Vec::new();
        for &node in nodes {
            if self.agents.nodes[node as usize].place == Place::There {
                let place = if powerless { Place::Off } else { Place::Cut };
                lost.push((node, self.go(node, place)));
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        for (after, down) in [(DISCONNECTED_AFTER, false), (DOWN_AFTER, true)] {
            let nodes = lost.clone();
            self.world.after(after, Happening::Noticed { nodes, down });
        }
        self.plan_return(lost);
        Ok(())
    }

    /// The fleet notices who is still silent.
    pub(super) fn notice(&mut self, nodes: &[(u32, u32)], down: bool) -> Result<(), Flaw> {
        let mut silent = Vec::new();
        for &(node, journey) in nodes {
            if self.agents.nodes[node as usize].journey == journey {
                self.believed[node as usize] = if down {
                    Presence::Down
                } else {
                    Presence::Disconnected
                };
                silent.push(node);
            }
        }
        self.tell_nodes(&silent)
    }

    /// Who is still away comes back.
    pub(super) fn come_back(&mut self, nodes: &[(u32, u32)]) -> Result<(), Flaw> {
        // Who left, and is not back when everything is healed, stays away.
        if self.phase != Phase::Watching {
            return Ok(());
        }
        let mut back = Vec::new();
        for &(node, journey) in nodes {
            if self.agents.nodes[node as usize].journey == journey {
                self.bring_back(node);
                back.push(node);
            }
        }
        self.tell_nodes(&back)
    }

    /// Everything is well from here on, whatever was before.
    pub(super) fn heal(&mut self) -> Result<(), Flaw> {
        self.phase = Phase::Healing;
        self.network = Network::GOOD;
        (self.driver.torn, self.driver.deaf) = (0.0, 0.0);
        self.agents.healed = true;
        if self.down {
            self.start_again()?;
        }
        let mut nodes = Vec::new();
        for node in 0..self.agents.nodes.len() as u32 {
            if self.agents.nodes[node as usize].place != Place::Gone {
                self.bring_back(node);
                nodes.push(node);
            }
        }
        self.tell_nodes(&nodes)
    }

    fn bring_back(&mut self, node: u32) {
        let powerless = self.agents.nodes[node as usize].place == Place::Off;
        self.go(node, Place::There);
        self.believed[node as usize] = Presence::Ready;
        for (at, due) in self.agents.back(self.world.now, node, powerless) {
            self.world.due(at, due);
        }
    }

    fn take_out(
        &mut self,
        node: u32,
        place: Place,
        presence: Presence,
        back: bool,
    ) -> Result<(), Flaw> {
        let journey = self.go(node, place);
        self.believed[node as usize] = presence;
        if back {
            self.plan_return(vec![(node, journey)]);
        }
        self.tell_nodes(&[node])
    }

    fn plan_return(&mut self, nodes: Vec<(u32, u32)>) {
        let away = self.fate.within(self.settings.faults.away_millis);
        self.world.after(away, Happening::Back { nodes });
    }

    /// A node goes somewhere else; answers the number of the journey.
    fn go(&mut self, node: u32, place: Place) -> u32 {
        let node = &mut self.agents.nodes[node as usize];
        // Who is drained keeps the connection.
        if !matches!(place, Place::Draining | Place::Unmatched) {
            node.connection += 1;
        }
        node.place = place;
        node.journey += 1;
        node.journey
    }

    fn tell_nodes(&mut self, nodes: &[u32]) -> Result<(), Flaw> {
        if nodes.is_empty() {
            return Ok(());
        }
        let changes: Vec<_> = nodes.iter().map(|&node| self.change(node)).collect();
        self.tell(&changes)
    }

    /// What there is to say of a node.
    pub(super) fn change(&self, node: u32) -> NodeChange {
        match self.believed[node as usize] {
            Presence::Ready => NodeChange::Seen(self.member(node)),
            status => NodeChange::Became {
                name: name(node),
                status,
            },
        }
    }
}
