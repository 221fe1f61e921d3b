//! The loop: what happens next, at its time, and what the driver does about it.

use std::collections::BTreeMap;

use super::agent::Agents;
use super::driver::{Done, Driver};
use super::fate::number;
use super::people::spec;
use super::report::{Flaw, Outcome, Parts, Violation, Wave};
use super::settings::{Network, Settings};
use super::streams::Stream;
use super::world::{Happening, NodeFault, Orders, Told, World};
use crate::effect::Effect;
use crate::event::Presence;
use crate::input::{Input, NodeChange, Request};
use crate::job::{Assignment, Committed};
use crate::waiting_on::WaitingOn;

/// How often every node is told again what it should run.
pub(super) const HEARTBEAT: u64 = 30_000;
/// How long it is watched after everything has come to rest, for what comes late.
const LINGER: u64 = 300_000;
/// How long the driver is away when it is started again.
const AWAY: (u64, u64) = (0, 90_000);
/// More than this at one instant is no progress.
const AT_ONCE_MAX: u32 = 100_000;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// The first version is put in place, and nothing goes wrong.
    Preparing,
    /// The second one rolls out.
    Watching,
    /// Everything is well again.
    Healing,
}

pub(super) struct Run<'a> {
    pub(super) settings: &'a Settings,
    pub(super) world: World,
    pub(super) agents: Agents,
    pub(super) driver: Driver,
    pub(super) parts: Parts,
    pub(super) phase: Phase,
    /// The driver is away.
    pub(super) down: bool,
    down_since: u64,
    /// What the fleet believes of each node.
    pub(super) believed: Vec<Presence>,
    pub(super) network: Network,
    post: Stream,
    pub(super) fate: Stream,
    pub(super) folly: Stream,
    /// A person is on the way.
    pub(super) attended: bool,
    pub(super) keys: u32,
    /// The highest number of an image that somebody made.
    pub(super) images: u32,
    died: bool,
    see: &'a mut dyn FnMut(&Wave),
}

impl<'a> Run<'a> {
    pub(super) fn new(settings: &'a Settings, see: &'a mut dyn FnMut(&Wave)) -> Self {
        Self {
            settings,
            world: World::new(settings.grid_millis),
            agents: Agents::new(settings),
            driver: Driver::new(settings),
            parts: Parts::default(),
            phase: Phase::Preparing,
            down: false,
            down_since: 0,
            believed: vec![Presence::Ready; settings.nodes as usize],
            network: Network::GOOD,
            post: Stream::new(settings.seed, "post"),
            fate: Stream::new(settings.seed, "fate"),
            folly: Stream::new(settings.seed, "folly"),
            attended: false,
            keys: 0,
            images: 2,
            died: false,
            see,
        }
    }

    pub(super) fn play(mut self) -> Result<Outcome, Violation> {
        let found = self.acts();
        found.map_err(|Flaw { law, what }| Violation {
            law,
            what,
            at_millis: self.world.now,
            step: self.driver.steps,
            seed: self.settings.seed,
            tail: self.driver.tail(),
        })
    }

    fn acts(&mut self) -> Result<Outcome, Flaw> {
        let nodes: Vec<_> = (0..self.settings.nodes).map(|n| self.change(n)).collect();
        self.tell(&nodes)?;
        self.roll_out(1)?;
        self.until(self.world.now + 7_200_000, Self::is_idle)?;
        self.prepared()?;

        self.phase = Phase::Watching;
        self.let_go_wrong();
        self.roll_out(2)?;
        let end = self
            .world
            .now
            .saturating_add(self.settings.watch.as_millis());
        if self.settings.faults.commands == 0 {
            self.until(end, Self::is_over)?;
            if self.settings.faults.is_lossy() && self.settings.heal {
                self.until(end.min(self.world.now + LINGER), |_| false)?;
            }
        } else {
            self.until(end, |_| false)?;
        }
        let blast = self.blast();
        self.must_complete()?;
        if self.settings.heal {
            self.heal()?;
            self.come_to_rest()?;
        } else if !self.settings.faults.is_lossy() && self.is_idle() {
            self.until(self.world.now + HEARTBEAT, |_| false)?;
            self.really_runs()?;
        }
        crate::laws::check(&self.driver.job)?;
        self.outcome(blast)
    }

    fn let_go_wrong(&mut self) {
        let faults = self.settings.faults.clone();
        self.network = faults.network;
        (self.driver.torn, self.driver.deaf) = (faults.torn.min(0.9), faults.deaf);
        for fault in [
            NodeFault::Cut,
            NodeFault::Crash,
            NodeFault::Drain,
            NodeFault::Unmatched,
            NodeFault::Leave,
            NodeFault::Join,
        ] {
            self.again_by(self.rate(fault), Happening::Fault(fault));
        }
        self.again_by(faults.restarts, Happening::Restart);
        self.again_by(faults.clock_jumps, Happening::ClockJump);
        self.again_by(faults.commands, Happening::Mischief);
        if faults.is_lossy() || self.settings.heal {
            self.world.after(HEARTBEAT, Happening::Heartbeats);
        }
        let lost = (f64::from(self.settings.nodes) * faults.lost_share).round() as u32;
        let mut left: Vec<u32> = (0..self.settings.nodes).collect();
        for _ in 0..lost.min(self.settings.nodes) {
            let node = left.swap_remove(self.fate.pick(left.len()));
            let at = self.fate.within((0, self.settings.expected_millis()));
            let powerless = self.fate.chance(0.5);
            let nodes = vec![node];
            self.world.after(at, Happening::Lost { nodes, powerless });
        }
    }

    /// Plans what comes so many times an hour.
    pub(super) fn again_by(&mut self, rate: u32, what: Happening) {
        if rate > 0 {
            let after = self.fate.within((1, 7_200_000 / u64::from(rate)));
            self.world.after(after, what);
        }
    }

    /// Plays on until `done`, or until there is nothing more to come before `end`.
    pub(super) fn until(&mut self, end: u64, done: fn(&Self) -> bool) -> Result<(), Flaw> {
        let (mut instant, mut at_once) = (self.world.now, 0);
        while !done(self) {
            let wake = if self.down {
                None
            } else {
                self.driver.wake(self.world.now)
            };
            let next = self.world.next_at();
            let Some(at) = wake.into_iter().chain(next).min().filter(|&at| at <= end) else {
                self.world.now = self.world.now.max(end);
                return Ok(());
            };
            if next == Some(at) {
                if let Some(what) = self.world.pop() {
                    self.happen(what)?;
                }
            } else {
                self.world.now = at;
                self.awake(at)?;
            }
            self.look()?;
            at_once = if instant == self.world.now {
                at_once + 1
            } else {
                0
            };
            instant = self.world.now;
            if at_once > AT_ONCE_MAX {
                return Err(Flaw::new(14, "time does not go on".to_owned()));
            }
        }
        Ok(())
    }

    /// The job wanted to be stepped now: then it has something to say.
    fn awake(&mut self, now: u64) -> Result<(), Flaw> {
        let before = self.driver.job.seq();
        let recoveries = self.driver.recoveries;
        self.step(Input::Tick)?;
        let silent = self.driver.job.seq() == before && self.driver.recoveries == recoveries;
        if silent && self.driver.wake(now) == Some(now) {
            return Err(Flaw::new(
                12,
                "it wants to be woken, and has nothing to say".to_owned(),
            ));
        }
        Ok(())
    }

    /// What follows from every change, whatever it was.
    pub(super) fn look(&mut self) -> Result<(), Flaw> {
        while std::mem::take(&mut self.died) {
            self.pick_up()?;
        }
        self.parts
            .read(self.world.now, &self.driver.log, &self.driver.job);
        self.parts.show(2, self.see);
        self.call_for_attention();
        match self.agents.twice.take() {
            Some(what) => Err(Flaw::new(16, what)),
            None => Ok(()),
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), Flaw> {
        let watching = self.phase == Phase::Watching;
        let faults = &self.settings.faults;
        match what {
            Happening::Post => self.deliver(),
            Happening::Fault(fault) => self.befall(fault),
            Happening::Lost { nodes, powerless } => self.lose(&nodes, powerless),
            Happening::Noticed { nodes, down } => self.notice(&nodes, down),
            Happening::Back { nodes } => self.come_back(&nodes),
            Happening::Heartbeats => {
                self.world.after(HEARTBEAT, Happening::Heartbeats);
                if !self.down {
                    self.send_everything();
                }
                Ok(())
            }
            Happening::Mischief if watching => {
                self.again_by(faults.commands, Happening::Mischief);
                if self.down { Ok(()) } else { self.mischief() }
            }
            Happening::Attention if self.down => {
                self.attended = false;
                Ok(())
            }
            Happening::Attention => self.attend(),
            Happening::ClockJump if watching => {
                self.again_by(faults.clock_jumps, Happening::ClockJump);
                let by = self.fate.within((0, faults.clock_jump_millis)) as i64;
                let back = self.fate.chance(0.5);
                self.driver.offset += if back { -by } else { by };
                Ok(())
            }
            Happening::Restart if self.down => self.start_again(),
            Happening::Restart if watching => {
                self.down = true;
                self.down_since = self.world.now;
                let away = self.fate.within(AWAY);
                self.world.after(away, Happening::Restart);
                Ok(())
            }
            Happening::Mischief | Happening::ClockJump | Happening::Restart => Ok(()),
        }
    }

    /// Carries the post of this instant out.
    fn deliver(&mut self) -> Result<(), Flaw> {
        let post = self.world.post();
        let now = self.world.now;
        for orders in &post.orders {
            for (at, due) in self.agents.obey(now, orders) {
                self.world.due(at, due);
            }
        }
        for due in post.due {
            let Some(tended) = self.agents.tend(now, due) else {
                continue;
            };
            if let Some(report) = tended.report {
                self.world
                    .send_report(&self.network, &mut self.post, report);
            }
            if let Some((at, due)) = tended.next {
                self.world.due(at, due);
            }
        }
        if self.down || post.reports.is_empty() {
            return Ok(());
        }
        self.step(Input::Reports(&post.reports)).map(drop)
    }

    /// The driver is back after it was away.
    pub(super) fn start_again(&mut self) -> Result<(), Flaw> {
        self.down = false;
        let before = (self.settings.recheck_every > 0).then(|| self.driver.job.clone());
        self.driver.recover(before.as_ref())?;
        let millis = self.world.now - self.down_since;
        self.died = true;
        // Every second time it says nothing of it.
        if self.driver.recoveries.is_multiple_of(2) {
            self.step(Input::Absent { millis })?;
        } else {
            self.step(Input::Tick)?;
        }
        self.again_by(self.settings.faults.restarts, Happening::Restart);
        Ok(())
    }

    /// After a start: what is waited for is sent again, and the fleet is told of again.
    fn pick_up(&mut self) -> Result<(), Flaw> {
        let job = &self.driver.job;
        let nodes: Vec<u32> = job.outstanding().filter_map(|a| number(a.node)).collect();
        self.send(nodes);
        let news: Vec<_> = (0..self.believed.len() as u32)
            .filter(|&n| {
                let known = self.driver.job.presence(&super::fate::name(n));
                let believed = self.believed[n as usize];
                let nowhere = matches!(believed, Presence::Gone | Presence::Unmatched);
                known != Some(believed) && !(known.is_none() && nowhere)
            })
            .map(|n| self.change(n))
            .collect();
        self.tell(&news)
    }

    /// Tells the job of nodes; when the driver is away it hears of them later.
    pub(super) fn tell(&mut self, changes: &[NodeChange]) -> Result<(), Flaw> {
        if self.down || changes.is_empty() {
            return Ok(());
        }
        match self.step(Input::Nodes(changes))? {
            Done::Refused(why) => Err(Flaw::new(0, format!("nodes were refused: {why}"))),
            Done::Taken(_) | Done::Died => Ok(()),
        }
    }

    pub(super) fn say(&mut self, request: Request) -> Result<Done, Flaw> {
        self.step(Input::Command(request))
    }

    fn step(&mut self, input: Input<'_>) -> Result<Done, Flaw> {
        let done = self.driver.step(self.world.now, input)?;
        match &done {
            Done::Taken(committed) => self.carry_out(committed)?,
            Done::Refused(_) => {}
            Done::Died => self.died = true,
        }
        Ok(done)
    }

    fn carry_out(&mut self, committed: &Committed) -> Result<(), Flaw> {
        for effect in &committed.effects {
            let job = &self.driver.job;
            match effect {
                Effect::Assign { slots, .. } => {
                    let nodes = slots.iter().map(|slot| job.assignment(slot).node);
                    let nodes: Vec<u32> = nodes.filter_map(number).collect();
                    self.send(nodes);
                }
                Effect::Withdraw { nodes } => {
                    let nodes = nodes.iter().map(|node| job.node_name(node));
                    let nodes: Vec<u32> = nodes.filter_map(number).collect();
                    self.send(nodes);
                }
                // The fleet is told of again, as after a start.
                Effect::MembersNeeded => self.died = true,
                Effect::PutAside(_) => {}
            }
        }
        Ok(())
    }

    fn send_everything(&mut self) {
        self.send((0..self.believed.len() as u32).collect());
    }

    /// Sends nodes all that they should run.
    fn send(&mut self, mut nodes: Vec<u32>) {
        nodes.sort_unstable();
        nodes.dedup();
        let job = &self.driver.job;
        // What is to stop is desired no more, and is waited for all the same.
        let mut stops: BTreeMap<u32, Vec<Told>> = BTreeMap::new();
        if self.is_stopping() {
            for assignment in job.outstanding() {
                if let Some(node) = number(assignment.node) {
                    stops.entry(node).or_default().push(told(&assignment));
                }
            }
        }
        for node in nodes {
            let mut runs: Vec<Told> = job
                .desired(&super::fate::name(node))
                .iter()
                .map(told)
                .collect();
            runs.extend(stops.remove(&node).unwrap_or_default());
            let orders = Orders {
                node,
                connection: self.agents.nodes[node as usize].connection,
                as_of: job.seq(),
                runs,
            };
            self.world
                .send_orders(&self.network, &mut self.post, orders);
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.down && !self.died && self.driver.job.waiting_on().is_none()
    }

    /// Nothing is under way; or, where nobody waits for more, it stands at a gate that nobody opens.
    fn is_over(&self) -> bool {
        let stands = match self.driver.job.waiting_on() {
            Some(WaitingOn::Promotion) => self.settings.promote_after.is_none(),
            Some(WaitingOn::Resume) => !self.settings.resume,
            _ => false,
        };
        self.is_idle() || stands && !self.settings.heal
    }

    /// The first version has to be in place before the story begins.
    fn prepared(&self) -> Result<(), Flaw> {
        let same = self.driver.job.spec(1).map(|spec| &**spec) == Some(&spec(self.settings, 1));
        if same && self.is_idle() {
            return Ok(());
        }
        let message = self.driver.job.deployment().map(|d| d.status.message);
        let message = message.unwrap_or_default();
        Err(Flaw::new(
            9,
            format!("the first version is not in place: {message}"),
        ))
    }
}

fn told(assignment: &Assignment<'_>) -> Told {
    Told {
        slot: assignment.slot,
        version: assignment.version,
        generation: assignment.generation,
        target: assignment.target,
    }
}
