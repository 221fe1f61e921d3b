//! Whose a port of this node is, and whether whoever needs one gets it before anything has to end for that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::execute::Event;
use super::{Live, Observed, Waits, Work};
use crate::plan::{self, Moment, Phase, Seen, Supply};
use crate::runs::{Key, RunId};
use crate::workload::Workload;

/// How soon it is looked again whether a port is free: who has it, and is none of ours, does not say that he lets it go.
pub(super) const PORT_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Who has a port.
const FOREIGN: &str = "is in use by a program that is not the agent's";

/// Of each port of this node, who has it, or had it and comes up with it again.
pub(super) struct Holders<'a> {
    of: BTreeMap<u16, Vec<Holder<'a>>>,
    listeners: &'a BTreeMap<u16, Listener>,
}

struct Holder<'a> {
    key: &'a Key,
    /// It has not ended.
    is_alive: bool,
    /// It is about to end.
    leaves: bool,
    /// It runs for as long as nothing happens, or again; `None` while that is not known.
    stays: Option<bool>,
}

/// Who listens to a port without having said so.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Which run, or none of ours. `None` while that is not known.
    by: Option<Option<RunId>>,
    /// Looks for it.
    task: Option<Waits>,
    /// Not to be looked for again before.
    again: Moment,
}

impl Holders<'_> {
    fn of(&self, port: u16) -> &[Holder<'_>] {
        self.of.get(&port).map_or(&[], Vec::as_slice)
    }

    /// How it is with the ports of this node that one needs: missing where another one has one who is to keep it, and not
    /// known where that is not known of the other one.
    pub(super) fn supply(&self, key: &Key, workload: &Workload) -> Supply {
        let mut found = Supply::Here;
        for (name, number) in fixed(workload) {
            let missing = |why: &str| Supply::Missing(format!("port {name}: {number} {why}"));
            if self.is_foreign(workload, number) {
                // One of ours that has ended meanwhile says nothing of who listens now.
                match self.listeners.get(&number).map(|listener| &listener.by) {
                    Some(None | Some(Some(_))) => found = Supply::Coming,
                    Some(Some(None)) | None => return missing(FOREIGN),
                }
            }
            // Its own are up to it; others may be about to end.
            for holder in self.of(number).iter().filter(|it| it.key != key) {
                match holder.stays {
                    Some(true) => return missing(&of_another(holder.key)),
                    Some(false) => {}
                    None => found = Supply::Coming,
                }
            }
        }
        found
    }

    /// Whether a workload may have a port of this node now. Else its checks could be answered by another one.
    fn is_free(&self, key: &Key, workload: &Workload, number: u16) -> Result<(), String> {
        let keeps = |it: &&Holder| it.key != key && (it.is_alive || it.stays != Some(false));
        if let Some(other) = self.of(number).iter().find(keeps) {
            return Err(of_another(other.key));
        }
        // Two runs of an execution may share it: that is up to them.
        match self.is_foreign(workload, number) {
            true => Err(FOREIGN.to_owned()),
            false => Ok(()),
        }
    }

    /// Whether somebody listens to it who is, as far as is known, none of ours.
    fn is_foreign(&self, workload: &Workload, number: u16) -> bool {
        let is_ours = self.of(number).iter().any(|it| it.is_alive);
        !is_ours && is_listened_to(workload, number)
    }
}

impl Work {
    /// Its ports: free ones for those that are not fixed. Another program may take one before the workload does; then the
    /// workload cannot start, and the next attempt has another.
    pub(super) fn pick(
        &self,
        id: &RunId,
        workload: &Workload,
    ) -> Result<BTreeMap<String, u16>, String> {
        let observed = self.observed(self.now());
        let holders = self.holders(&observed);
        // Also those of what has not begun to listen, of what is down, and of what is about to begin.
        let taken = self
            .alive()
            .flat_map(|live| live.run.ports.values().copied());
        let wanted = self.workloads().flat_map(|workload| &workload.ports);
        let taken = taken.chain(wanted.filter_map(|port| port.port));
        let taken: BTreeSet<u16> = taken.chain(holders.of.keys().copied()).collect();
        let mut held = Vec::new();
        let mut picked = BTreeMap::new();
        for port in &workload.ports {
            let number = match port.port {
                Some(number) if is_here(workload) => {
                    let free = holders.is_free(&id.key, workload, number);
                    free.map_err(|why| format!("port {}: {number} {why}", port.name))?;
                    number
                }
                Some(number) => number,
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

    /// Sees which executions need a port of a run that is about to end, and for which of them another one has, or gets, a
    /// port of what would come up in their place.
    pub(super) fn hold_up(&mut self, observed: &Observed) {
        for wanted in self.accepted.wanted.values_mut() {
            wanted.is_replaced = false;
        }
        let now = self.now();
        let holders = self.holders(observed);
        let is_left = |key: &Key, port| {
            let mut holders = holders.of(port).iter();
            holders.any(|it| it.leaves && it.key != key)
        };
        let seen = self.accepted.wanted.iter().map(|(key, wanted)| {
            let is_held_up = wanted.workload.as_ref().is_ok_and(|workload| {
                let mut ports = fixed(workload);
                ports.any(|(_, port)| is_left(key, port))
            });
            let before = plan::comes_up(wanted, runs_of(observed, key), now);
            let is_replaced = before.is_some_and(|run| {
                let promised = |port| self.supplies.promised.get(&port);
                let is_free = |port| holders.is_free(key, &run.workload, port).is_ok();
                let mut ports = fixed(&run.workload);
                let goes = |port| promised(port).is_some_and(|to| to != key) || !is_free(port);
                !run.is_wanted && ports.any(|(_, port)| goes(port))
            });
            (is_held_up, is_replaced)
        });
        let seen: Vec<_> = seen.collect();
        for (wanted, seen) in self.accepted.wanted.values_mut().zip(seen) {
            (wanted.is_held_up, wanted.is_replaced) = seen;
        }
    }

    fn alive(&self) -> impl Iterator<Item = &Live> {
        self.lives.values().filter(|live| is_alive(live))
    }

    /// What has ports of this node, or had them and comes up with them again.
    pub(super) fn holders<'a>(&'a self, observed: &Observed) -> Holders<'a> {
        let mut holders: BTreeMap<u16, Vec<Holder<'a>>> = BTreeMap::new();
        let listens = self.supplies.listeners.iter().filter_map(|(port, it)| {
            let by = it.by.as_ref()?.as_ref()?;
            Some((self.lives.get(by)?, *port))
        });
        let alive = self.alive().filter(|live| is_here(&live.run.workload));
        let says = alive.flat_map(|live| live.run.ports.values().map(move |port| (live, *port)));
        for (live, port) in says.chain(listens.filter(|(live, _)| is_alive(live))) {
            holders.entry(port).or_default().push(Holder {
                key: &live.run.id.key,
                is_alive: true,
                leaves: live.asked.is_some() || !live.is_wanted && live.phase == Phase::Planned,
                stays: self.stays(live, observed),
            });
        }
        let now = self.now();
        let down = self.accepted.wanted.iter().filter_map(|(key, wanted)| {
            let run = plan::comes_up(wanted, runs_of(observed, key), now)?;
            let Phase::Ended { since, .. } = run.phase else {
                return None;
            };
            Some((since, self.lives.get(&id_of(key, run))?))
        });
        let mut down: Vec<_> = down.collect();
        // Of two, the one that had it last; and who lives has it.
        down.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
        for (_, live) in down {
            let had = |port: &u16| live.run.ports.values().any(|its| its == port);
            for (_, port) in fixed(&live.run.workload).filter(|(_, port)| had(port)) {
                let those = holders.entry(port).or_default();
                if those.is_empty() {
                    those.push(Holder {
                        key: &live.run.id.key,
                        is_alive: false,
                        leaves: false,
                        stays: self.stays(live, observed),
                    });
                }
            }
        }
        Holders {
            of: holders,
            listeners: &self.supplies.listeners,
        }
    }

    /// Sees which of those that do not run lack a port, and whether any does.
    pub(super) fn see_ports(&mut self, now: Moment) -> bool {
        let observed = self.observed(now);
        let idle = self.accepted.wanted.iter().filter(|(key, wanted)| {
            let mine = plan::newest(runs_of(&observed, key));
            let may_start = |workload: &Arc<Workload>| {
                mine.is_none_or(|mine| mine.is_over() && mine.comes_up(workload))
            };
            wanted.version > 0 && wanted.workload.as_ref().is_ok_and(may_start)
        });
        let idle: Vec<Key> = idle.map(|(key, _)| key.clone()).collect();
        self.see_listeners(&idle, &observed, now);
        // Who goes on for want of a port keeps what he has. More and more lack one, so it ends.
        let mut is_one = self.see_holders(&idle, &observed);
        while self.see_rivals(&idle, &observed) {
            is_one = true;
            self.see_holders(&idle, &observed);
        }
        is_one
    }

    /// Looks who listens to ports that these need, where nobody says that he has them: it may be one of ours all the same.
    fn see_listeners(&mut self, idle: &[Key], observed: &Observed, now: Moment) {
        let mut listeners = std::mem::take(&mut self.supplies.listeners);
        let holders = self.holders(observed);
        let needed = idle.iter().filter_map(|key| {
            let workload = self.accepted.wanted.get(key)?.workload.as_ref().ok()?;
            let ports = fixed(workload).map(|(_, port)| port);
            let open = ports.filter(|port| holders.is_foreign(workload, *port));
            Some(open.collect::<Vec<_>>())
        });
        let needed: BTreeSet<u16> = needed.flatten().collect();
        listeners.retain(|port, _| needed.contains(port));
        for port in needed {
            let listener = listeners.entry(port).or_default();
            if listener.task.is_some() || now < listener.again {
                continue;
            }
            let runs = self
                .alive()
                .filter(|live| live.run.workload.driver == "exec");
            let runs: Vec<_> = runs.map(|live| live.run.clone()).collect();
            let Some(driver) = self.drivers.get("exec").cloned() else {
                continue;
            };
            let events = self.events.clone();
            let looks = tokio::spawn(async move {
                let by = driver.listens(&runs, port).await;
                let _ = events.send(Event::Listens(port, by));
            });
            listener.task = Some(Waits(looks.abort_handle()));
        }
        self.supplies.listeners = listeners;
    }

    pub(super) fn listens(&mut self, port: u16, by: Option<RunId>) {
        let again = self.now() + PORT_AGAIN_AFTER;
        // Nobody may need it any more.
        if let Some(listener) = self.supplies.listeners.get_mut(&port) {
            (listener.by, listener.task, listener.again) = (Some(by), None, again);
        }
    }

    /// Sees who lacks a port that somebody keeps. What else an execution lacks says whether its port is to become free, and
    /// so does its port: who goes on for want of one keeps another's.
    fn see_holders(&mut self, idle: &[Key], observed: &Observed) -> bool {
        let mut is_one = false;
        loop {
            let holders = self.holders(observed);
            let lacking = idle.iter().filter_map(|key| {
                let execution = self.accepted.wanted.get(key)?;
                let workload = execution.workload.as_ref().ok()?;
                // What is told of one that lacks more than a port is the other thing.
                if matches!(execution.supply, Supply::Missing(_)) {
                    return None;
                }
                let supply = holders.supply(key, workload);
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

    /// Of those that want the same port that is to be free one gets it, and for the others nothing ends: the one that has it,
    /// or was to get it before and may have ended something for that, or else the one that had it last, or the first. Who
    /// does not get all of them gets none.
    fn see_rivals(&mut self, idle: &[Key], observed: &Observed) -> bool {
        let now = self.now();
        let asks = idle.iter().filter_map(|key| {
            let execution = self.accepted.wanted.get(key)?;
            let workload = execution.workload.as_ref().ok()?;
            let runs = runs_of(observed, key);
            let mine = plan::newest(runs);
            // What was given up does not begin.
            let begins = execution.supply == Supply::Here
                && (mine.is_none() || plan::comes_up(execution, runs, now) == mine);
            begins.then(|| (key, fixed(workload).collect::<Vec<_>>()))
        });
        let asks: Vec<_> = asks.collect();
        let mut asked: BTreeMap<u16, usize> = BTreeMap::new();
        for (_, port) in asks.iter().flat_map(|(_, ports)| ports) {
            *asked.entry(*port).or_default() += 1;
        }
        let holders = self.holders(observed);
        let claim = |key: &Key, port: u16| {
            let mut has = holders.of(port).iter().filter(|it| it.key == key);
            let has_it = has.any(|it| it.is_alive);
            let was_to = self.supplies.promised.get(&port) == Some(key);
            (has_it, was_to, self.had_until(key, port))
        };
        let mut claims: Vec<_> = asks.iter().collect();
        claims.sort_by_cached_key(|(key, ports)| {
            let rivaled = ports.iter().filter(|(_, port)| asked[port] > 1);
            std::cmp::Reverse(rivaled.map(|(_, port)| claim(key, *port)).max())
        });
        let mut gets: BTreeMap<u16, &Key> = BTreeMap::new();
        let mut lacking = Vec::new();
        for (key, ports) in claims {
            let mut rivals = ports
                .iter()
                .filter_map(|(name, port)| Some((name, port, gets.get(port)?.job.to_string())));
            if let Some((name, port, by)) = rivals.next() {
                let why =
                    format!("port {name}: {port} is wanted by {by} too, which is begun first");
                lacking.push(((*key).clone(), Supply::Missing(why)));
                continue;
            }
            gets.extend(ports.iter().map(|(_, port)| (*port, *key)));
        }
        let promised = gets.into_iter().map(|(port, key)| (port, key.clone()));
        self.supplies.promised = promised.collect();
        let is_one = !lacking.is_empty();
        for (key, supply) in lacking {
            self.lacks(&key, supply);
        }
        is_one
    }

    /// When an execution had a port last, which may be never, of what has ended.
    fn had_until(&self, key: &Key, port: u16) -> Option<Moment> {
        let of_it = self.lives.values().filter(|live| live.run.id.key == *key);
        let had = of_it.filter(|live| live.run.ports.values().any(|its| *its == port));
        had.filter_map(|live| match live.phase {
            Phase::Ended { since, .. } => Some(since),
            Phase::Planned | Phase::Running => None,
        })
        .max()
    }

    fn lacks(&mut self, key: &Key, supply: Supply) {
        if let Some(execution) = self.accepted.wanted.get_mut(key) {
            execution.supply = supply;
        }
    }

    /// Whether it runs for as long as nothing happens, or again: it is wanted, or goes on in place of what cannot begin, is
    /// not healthy yet, or has failed. `None` while it is not known whether that will.
    fn stays(&self, live: &Live, observed: &Observed) -> Option<bool> {
        let key = &live.run.id.key;
        let wanted = self.accepted.wanted.get(key);
        let Some(wanted) = wanted.filter(|it| it.version > 0) else {
            return Some(false);
        };
        if live.is_wanted {
            return Some(true);
        }
        let now = self.now();
        let comes_up = plan::comes_up(wanted, runs_of(observed, key), now);
        let comes_up = comes_up.is_some_and(|run| id_of(key, run) == live.run.id);
        let leaves = live.asked.is_some() || matches!(live.phase, Phase::Ended { .. });
        if leaves && !comes_up {
            return Some(false);
        }
        let Ok(workload) = &wanted.workload else {
            return Some(true);
        };
        let same = self.lives.values().filter(|other| other.run.id.key == *key);
        let mine = same
            .filter(|other| other.is_wanted)
            .max_by_key(|other| other.counts_as());
        match (mine, &wanted.supply) {
            (None, Supply::Missing(_)) => Some(true),
            (None, Supply::Coming) => None,
            (Some(mine), _) if mine.given_up || comes_up => Some(true),
            (Some(mine), _) if workload.start_first && !mine.serves(now) => {
                // Whoever waits for it says before long how that ends.
                let may_come =
                    wanted.on_trial || mine.phase == Phase::Running && !mine.tally.is_ill();
                if may_come { None } else { Some(true) }
            }
            (None, Supply::Here) if workload.start_first => None,
            (Some(_), _) | (None, Supply::Here) => Some(false),
        }
    }
}

fn is_alive(live: &Live) -> bool {
    !matches!(live.phase, Phase::Ended { .. })
}

fn runs_of<'a>(observed: &'a Observed, key: &Key) -> &'a [Seen] {
    observed.get(key).map_or(&[], Vec::as_slice)
}

fn id_of(key: &Key, run: &Seen) -> RunId {
    RunId {
        key: key.clone(),
        generation: run.generation,
        attempt: run.attempt,
    }
}

fn of_another(key: &Key) -> String {
    format!("is that of {} on this node", key.job)
}

/// The ports of this node that it always has. What an operator's program runs may be elsewhere.
fn fixed(workload: &Workload) -> impl Iterator<Item = (&str, u16)> {
    let ports = workload.ports.iter().filter(|_| is_here(workload));
    ports.filter_map(|port| Some((port.name.as_str(), port.port?)))
}

/// Whether somebody listens to it already, where this agent can see that.
fn is_listened_to(workload: &Workload, number: u16) -> bool {
    let bound = || TcpListener::bind((Ipv4Addr::LOCALHOST, number));
    let is_in_use = |why: io::Error| why.kind() == io::ErrorKind::AddrInUse;
    workload.driver == "exec" && bound().is_err_and(is_in_use)
}

fn is_here(workload: &Workload) -> bool {
    workload.driver != "external"
}
