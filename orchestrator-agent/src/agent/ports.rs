//! Whose a port of this node is, and whether whoever needs one gets it before anything has to end for that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener};

use super::{Live, Work};
use crate::plan::{Moment, Phase, Supply};
use crate::runs::{Key, RunId};
use crate::workload::Workload;

/// Who has a port.
const FOREIGN: &str = "is in use by a program that is not the agent's";

impl Work {
    /// Its ports: free ones for those that are not fixed. Another program may take one before the workload does; then the
    /// workload cannot start, and the next attempt has another.
    pub(super) fn pick(
        &self,
        id: &RunId,
        workload: &Workload,
    ) -> Result<BTreeMap<String, u16>, String> {
        // Also those of workloads that have not begun to listen.
        let taken = self
            .alive()
            .flat_map(|live| live.run.ports.values().copied());
        // And of those that are about to begin.
        let wanted = self.workloads().flat_map(|workload| &workload.ports);
        let taken: BTreeSet<u16> = taken.chain(wanted.filter_map(|port| port.port)).collect();
        let mut held = Vec::new();
        let mut picked = BTreeMap::new();
        for port in &workload.ports {
            let number = match port.port {
                Some(number) => {
                    self.is_free(id, workload, number)
                        .map_err(|why| format!("port {}: {number} {why}", port.name))?;
                    number
                }
                None => {
                    let mut free = || -> io::Result<u16> {
                        loop {
                            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                            let number = listener.local_addr()?.port();
                            // Held until all are picked: the next one is another.
                            held.push(listener);
                            if !taken.contains(&number) {
                                return Ok(number);
                            }
                        }
                    };
                    free().map_err(|why| format!("port {}: none is free: {why}", port.name))?
                }
            };
            picked.insert(port.name.clone(), number);
        }
        Ok(picked)
    }

    /// Sees which executions need a port of a run that is about to end.
    pub(super) fn hold_up(&mut self) {
        let leaves =
            |live: &&Live| live.asked.is_some() || !live.is_wanted && live.phase == Phase::Planned;
        let ports_of = |live: &Live| {
            let key = live.run.id.key.clone();
            let ports: Vec<u16> = live.run.ports.values().copied().collect();
            (key, ports)
        };
        let leaving: Vec<(Key, Vec<u16>)> = self.holders().filter(leaves).map(ports_of).collect();
        for (key, wanted) in &mut self.accepted.wanted {
            let others = || leaving.iter().filter(|(by, _)| by != key);
            let is_held = |port: u16| others().any(|(_, held)| held.contains(&port));
            wanted.is_held_up = wanted.workload.as_ref().is_ok_and(|workload| {
                is_here(workload)
                    && workload
                        .ports
                        .iter()
                        .filter_map(|port| port.port)
                        .any(is_held)
            });
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Live> {
        let has_ended = |live: &Live| matches!(live.phase, Phase::Ended { .. });
        self.lives.values().filter(move |live| !has_ended(live))
    }

    /// What has ports of this node.
    fn holders(&self) -> impl Iterator<Item = &Live> {
        self.alive().filter(|live| is_here(&live.run.workload))
    }

    /// Sees which of those lack a port, and whether any does.
    pub(super) fn see_ports(&mut self, not_begun: &[Key]) -> bool {
        let is_kept = self.see_holders(not_begun);
        if !self.see_rivals(not_begun) {
            return is_kept;
        }
        // Who goes on for that keeps what he has.
        self.see_holders(not_begun);
        true
    }

    /// Sees who lacks a port that somebody keeps. What else an execution lacks says whether its port is to become free, and
    /// so does its port: who goes on for want of one keeps another's. That only grows, so it ends.
    fn see_holders(&mut self, not_begun: &[Key]) -> bool {
        let mut is_one = false;
        loop {
            let lacking = not_begun.iter().filter_map(|key| {
                let execution = self.accepted.wanted.get(key)?;
                let workload = execution.workload.as_ref().ok()?;
                // What is told of one that lacks more than a port is the other thing.
                if matches!(execution.supply, Supply::Missing(_)) {
                    return None;
                }
                let supply = self.supply_of_ports(key, workload);
                (supply > execution.supply).then_some((key, supply))
            });
            let lacking: Vec<_> = lacking.collect();
            if lacking.is_empty() {
                return is_one;
            }
            is_one = true;
            for (key, supply) in lacking {
                self.lacks(key, supply);
            }
        }
    }

    /// Of those that want the same port that is to be free one gets it, and for the others nothing ends: the one that was to get
    /// it before, and may have ended something for that, or else the one that had it last, or the first.
    fn see_rivals(&mut self, not_begun: &[Key]) -> bool {
        let asks = not_begun.iter().filter_map(|key| {
            let execution = self.accepted.wanted.get(key)?;
            let workload = execution.workload.as_ref().ok()?;
            let begins = is_here(workload) && execution.supply == Supply::Here;
            let ports = workload.ports.iter();
            let fixed = ports.filter_map(|port| Some((&port.name, port.port?)));
            begins.then(|| (key, fixed.collect::<Vec<_>>()))
        });
        let asks: Vec<_> = asks.collect();
        let mut gets = BTreeMap::new();
        for (key, ports) in &asks {
            for (_, port) in ports {
                let was_to = self.supplies.promised.get(port) == Some(*key);
                let claim = (was_to, self.had_until(key, *port));
                if gets.get(port).is_none_or(|(theirs, _)| claim > *theirs) {
                    gets.insert(*port, (claim, *key));
                }
            }
        }
        let lacking = asks.iter().filter_map(|(key, ports)| {
            let mut rivals = ports.iter().filter(|(_, port)| gets[port].1 != *key);
            let (name, port) = rivals.next()?;
            let by = &gets[port].1.job;
            let why = format!("port {name}: {port} is wanted by {by} too, which is begun first");
            Some(((*key).clone(), Supply::Missing(why)))
        });
        let lacking: Vec<_> = lacking.collect();
        let promised = gets.iter().map(|(port, (_, key))| (*port, (*key).clone()));
        self.supplies.promised = promised.collect();
        let is_one = !lacking.is_empty();
        for (key, supply) in lacking {
            self.lacks(&key, supply);
        }
        is_one
    }

    /// When an execution had a port last, which may be never.
    fn had_until(&self, key: &Key, port: u16) -> Option<Moment> {
        let of_it = self.lives.values().filter(|live| live.run.id.key == *key);
        let had = of_it.filter(|live| live.run.ports.values().any(|its| *its == port));
        had.map(|live| match live.phase {
            Phase::Ended { since, .. } => since,
            Phase::Planned | Phase::Running => Moment::MAX,
        })
        .max()
    }

    fn lacks(&mut self, key: &Key, supply: Supply) {
        if let Some(execution) = self.accepted.wanted.get_mut(key) {
            execution.supply = supply;
        }
    }

    /// How it is with the ports of this node that it needs: missing where another one has one who is to keep it, and not
    /// known where that is not known of the other one.
    pub(super) fn supply_of_ports(&self, key: &Key, workload: &Workload) -> Supply {
        if !is_here(workload) {
            return Supply::Here;
        }
        let mut found = Supply::Here;
        for port in &workload.ports {
            let Some(number) = port.port else {
                continue;
            };
            let missing =
                |why: &str| Supply::Missing(format!("port {}: {number} {why}", port.name));
            let has_it = |live: &&Live| live.run.ports.values().any(|port| *port == number);
            let mut holders = self.holders().filter(has_it).peekable();
            if holders.peek().is_none() && is_listened_to(workload, number) {
                return missing(FOREIGN);
            }
            // Its own are up to it; others may be about to end.
            for live in holders.filter(|live| live.run.id.key != *key) {
                match self.stays(live) {
                    Some(true) => return missing(&of_another(live)),
                    Some(false) => {}
                    None => found = Supply::Coming,
                }
            }
        }
        found
    }

    /// Whether it runs for as long as nothing happens: it is wanted, or goes on in place of what cannot begin, is not healthy
    /// yet, or has failed. `None` while it is not known whether that will.
    fn stays(&self, live: &Live) -> Option<bool> {
        let key = &live.run.id.key;
        let wanted = self.accepted.wanted.get(key);
        let Some(wanted) = wanted.filter(|it| it.version > 0 && live.asked.is_none()) else {
            return Some(false);
        };
        let Some(workload) = wanted.workload.as_ref().ok().filter(|_| !live.is_wanted) else {
            return Some(true);
        };
        let same = self.lives.values().filter(|other| other.run.id.key == *key);
        let mine = same
            .filter(|other| other.is_wanted)
            .max_by_key(|other| other.counts_as());
        match (mine, &wanted.supply) {
            (None, Supply::Missing(_)) => Some(true),
            (None, Supply::Coming) => None,
            (Some(mine), _) if mine.given_up => Some(true),
            (Some(mine), _) if workload.start_first && !mine.serves(self.now()) => {
                // Whoever waits for it says before long how that ends.
                let may_come =
                    wanted.on_trial || mine.phase == Phase::Running && !mine.tally.is_ill();
                if may_come { None } else { Some(true) }
            }
            (None, Supply::Here) if workload.start_first => None,
            (Some(_), _) | (None, Supply::Here) => Some(false),
        }
    }

    /// Whether a workload may have a port of this node. Else its checks could be answered by another one.
    fn is_free(&self, id: &RunId, workload: &Workload, number: u16) -> Result<(), String> {
        if !is_here(workload) {
            return Ok(());
        }
        let has_it = |live: &&Live| live.run.ports.values().any(|port| *port == number);
        let mut others = self.holders().filter(|live| live.run.id.key != id.key);
        if let Some(other) = others.find(has_it) {
            return Err(of_another(other));
        }
        // Two runs of an execution may share it: that is up to them.
        let shares = self.holders().any(|live| live.run.id.key == id.key);
        match !shares && is_listened_to(workload, number) {
            true => Err(FOREIGN.to_owned()),
            false => Ok(()),
        }
    }
}

fn of_another(live: &Live) -> String {
    format!("is that of {} on this node", live.run.id.key.job)
}

/// Whether somebody listens to it already, where this agent can see that.
fn is_listened_to(workload: &Workload, number: u16) -> bool {
    let bound = || TcpListener::bind((Ipv4Addr::LOCALHOST, number));
    let is_in_use = |why: io::Error| why.kind() == io::ErrorKind::AddrInUse;
    workload.driver == "exec" && bound().is_err_and(is_in_use)
}

/// Whether its ports are this node's: what an operator's program runs may be elsewhere.
fn is_here(workload: &Workload) -> bool {
    workload.driver != "external"
}
