//! Slots that share a node, as chains: each is taken out in one move, however many there are.

use serde::{Deserialize, Serialize};

use crate::state::NONE;

/// The neighbours of slots; empty while no node ever had two.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(from = "Vec<u32>", into = "Vec<u32>")]
pub(crate) struct Chains {
    next: Vec<u32>,
    before: Vec<u32>,
}

impl From<Vec<u32>> for Chains {
    fn from(next: Vec<u32>) -> Self {
        let mut before = vec![NONE; next.len()];
        for (slot, &after) in (0..).zip(&next) {
            if let Some(before) = before.get_mut(after as usize) {
                *before = slot;
            }
        }
        Self { next, before }
    }
}

impl From<Chains> for Vec<u32> {
    fn from(chains: Chains) -> Self {
        chains.next
    }
}

impl Chains {
    /// The slot that comes after one in its chain.
    pub(crate) fn after(&self, slot: u32) -> u32 {
        self.next.get(slot as usize).copied().unwrap_or(NONE)
    }

    /// Puts a slot before the first one of a chain, which may be none.
    pub(crate) fn prepend(&mut self, slot: u32, first: u32) {
        let most = if first == NONE { slot } else { slot.max(first) } as usize;
        if first == NONE && most >= self.next.len() {
            return;
        }
        if self.next.len() <= most {
            self.next.resize(most + 1, NONE);
            self.before.resize(most + 1, NONE);
        }
        self.next[slot as usize] = first;
        if let Some(before) = self.before.get_mut(first as usize) {
            *before = slot;
        }
    }

    /// Takes a slot out of its chain.
    pub(crate) fn remove(&mut self, slot: u32) {
        let Some(next) = self.next.get_mut(slot as usize) else {
            return;
        };
        let after = std::mem::replace(next, NONE);
        let before = std::mem::replace(&mut self.before[slot as usize], NONE);
        if let Some(next) = self.next.get_mut(before as usize) {
            *next = after;
        }
        if let Some(other) = self.before.get_mut(after as usize) {
            *other = before;
        }
    }
}
