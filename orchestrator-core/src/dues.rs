//! What becomes due when, by time and by what it is.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Numbers of nodes or of targets, each with the time when it is due.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(from = "BTreeSet<(u64, u32)>", into = "BTreeSet<(u64, u32)>")]
pub(crate) struct Dues {
    by_due: BTreeSet<(u64, u32)>,
    of: BTreeMap<u32, u64>,
}

impl From<BTreeSet<(u64, u32)>> for Dues {
    fn from(dues: BTreeSet<(u64, u32)>) -> Self {
        let mut new = Self::default();
        for (due, number) in dues {
            new.insert(number, due);
        }
        new
    }
}

impl From<Dues> for BTreeSet<(u64, u32)> {
    fn from(dues: Dues) -> Self {
        dues.by_due
    }
}

impl Dues {
    pub(crate) fn insert(&mut self, number: u32, due: u64) {
        self.remove(number);
        self.of.insert(number, due);
        self.by_due.insert((due, number));
    }

    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(due) = self.of.remove(&number) {
            self.by_due.remove(&(due, number));
        }
    }

    /// Everything is due so much later.
    pub(crate) fn hold(&mut self, millis: u64) {
        for due in self.of.values_mut() {
            *due += millis;
        }
        self.by_due = self
            .of
            .iter()
            .map(|(&number, &due)| (due, number))
            .collect();
    }

    pub(crate) fn contains(&self, number: u32) -> bool {
        self.of.contains_key(&number)
    }

    pub(crate) fn of(&self, number: u32) -> Option<u64> {
        self.of.get(&number).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.of.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.of.is_empty()
    }

    /// What is due first.
    pub(crate) fn first(&self) -> Option<(u64, u32)> {
        self.by_due.first().copied()
    }

    /// All numbers, the first one due first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_due.iter().map(|&(_, number)| number)
    }

    /// What is due by `now`.
    pub(crate) fn by(&self, now: u64) -> impl Iterator<Item = u32> + '_ {
        self.by_due
            .range(..=(now, u32::MAX))
            .map(|&(_, number)| number)
    }
}
