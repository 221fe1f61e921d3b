//! What to do next, from what is wanted and what is there. Pure: it looks at nothing else, and does nothing.
//!
//! The rules, for each execution:
//!
//! - Of the assignment that is wanted, one run is alive, or will be when its back-off is over, or its end was final.
//! - Everything else is told to stop, and killed when its time of grace is over. With `start_first` the newest of the
//!   others goes on until the wanted run is healthy; otherwise nothing starts before all others have ended.
//! - Where what it brings along is not here, or the wanted document cannot be understood, nothing starts, and the newest of
//!   the others goes on meanwhile: a node does not lose what works for what cannot. To go on is to be started again, too,
//!   as often as its own document says. What is to be started again and lacks a port waits, which is no attempt.
//! - Where the wanted run has failed before it had [proved itself](Trial), and the job says so, it is given up, and what ran
//!   before runs again. Who has proved himself is started again, and what a person has stopped stays so.
//! - Nothing is done to a run that something is being done to.
//! - What is wanted again while it still runs, since nothing has replaced it meanwhile, is not begun anew: it [goes
//!   on](taken) for the later assignment, unless a restart was asked for since it was begun.
//! - A few runs that ended are kept, for who wants to know why; then they are forgotten.

mod before;
mod standing;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::before::comes_up;
use self::before::{best_other, good_before, meanwhile};
pub use self::standing::{Standing, newest, standing};
use crate::runs::{Attempt, Key, RunId};
use crate::workload::{Policy, Workload};

/// Time as a plan sees it: since the machine began, for all its agents. It only grows, whatever clocks do.
pub type Moment = Duration;

/// So many runs that ended are kept of each execution.
pub const ENDED_KEPT: usize = 3;
/// What is wanted no more is kept for so long.
pub const ENDED_KEPT_FOR: Duration = Duration::from_secs(60 * 60);
/// A kill that has not helped is repeated.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What the server wants of an execution.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Of which assignment.
    pub generation: u64,
    /// Of the job; 0 = nothing is to run.
    pub version: u32,
    /// What was begun for an assignment before this generation does not go on for this one.
    pub since: u64,
    /// What to run, or why it cannot be understood; of version 0 it does not matter.
    pub workload: Result<Arc<Workload>, String>,
    /// Whether it can start as far as that goes which it brings along.
    pub supply: Supply,
    /// It needs a port of a run that is about to end.
    pub is_held_up: bool,
    /// Another one has, or gets, a port that is needed by what would come up again in its place.
    pub is_replaced: bool,
    /// A deployment waits to see how it goes, or did when the server last spoke of it.
    pub on_trial: bool,
}

/// How it is with what a workload brings along; of two the greater holds.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum Supply {
    /// All of it is here.
    #[default]
    Here,
    /// It is on its way.
    Coming,
    /// It does not come, and this is why; it is tried again.
    Missing(String),
}

/// How far a version has proved itself. When no deployment waits for it any more, it has to be healthy for as long as one asks
/// for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Trial {
    /// It has, or need not.
    #[default]
    Over,
    /// It was never healthy. It began while a deployment waited for it.
    Begun,
    /// It was never healthy. It began when none did any more.
    Late,
    /// It was healthy, but not for long enough, or while a deployment waited still.
    Well,
}

/// A run as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Of which assignment.
    pub generation: u64,
    /// Which of its attempts.
    pub attempt: u32,
    /// The later assignment for which it goes on, and which attempt of that it is.
    pub taken: Option<Attempt>,
    /// Which version of its job it runs.
    pub version: u32,
    /// It runs what is wanted now, to the letter; or did.
    pub is_wanted: bool,
    /// So many quick restarts came before it in a row.
    pub row: u32,
    /// Where it is.
    pub phase: Phase,
    /// Something is being done to it; when that is over there will be another plan.
    pub busy: bool,
    /// Why it is not known whether it was begun, if that lasts.
    pub unseen: Option<String>,
    /// How far its version has proved itself.
    pub trial: Trial,
    /// Something else runs in its place, until something else is wanted.
    pub given_up: bool,
    /// Nothing was wanted since: it is not put back.
    pub dismissed: bool,
    /// It is healthy.
    pub ready: bool,
    /// And so it was for as long as its document asks for.
    pub lasts: bool,
    /// A check of it fails.
    pub ill: bool,
    /// Since when it has been told to stop.
    pub asked: Option<Moment>,
    /// When it was killed last.
    pub killed: Option<Moment>,
    /// What it runs.
    pub workload: Arc<Workload>,
}

/// Where a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// It was meant to start; whether it was begun is not known.
    Planned,
    /// It lives.
    Running,
    /// It is over.
    Ended {
        /// How.
        how: End,
        /// Since when that is known.
        since: Moment,
        /// How long it lived.
        ran: Duration,
    },
}

/// How a run ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum End {
    /// With this code.
    Exited(i32),
    /// Before it began.
    CannotStart(String),
}

/// Something to be done.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Action {
    /// Make a new run of what is wanted, and start it.
    Create {
        /// Which.
        run: RunId,
        /// So many quick restarts came before it in a row.
        row: u32,
    },
    /// Make a new run of what an earlier one ran, and start it.
    PutBack {
        /// Which.
        run: RunId,
        /// The earlier one.
        of: RunId,
        /// So many quick restarts came before it in a row.
        row: u32,
    },
    /// Start one that was made.
    Start(RunId),
    /// Tell it to stop.
    Stop(RunId),
    /// End it.
    Kill(RunId),
    /// It has proved itself so far.
    Try(RunId, Trial),
    /// It has failed, and with it all attempts of its assignment: from now on what ran before runs in its place.
    GiveUp(RunId),
    /// Take away what is left of it. One that has not begun never will.
    Forget(RunId),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { run, row: 0 } => write!(f, "start {run}"),
            Self::Create { run, row } => write!(f, "start {run}, restart {row} in a row"),
            Self::PutBack { run, of, .. } => write!(f, "start {run}, to put {of} back"),
            Self::Start(run) => write!(f, "start {run}, which was made before"),
            Self::Stop(run) => write!(f, "stop {run}"),
            Self::Kill(run) => write!(f, "kill {run}"),
            Self::Try(run, Trial::Over) => write!(f, "keep {run}, which has proved itself"),
            Self::Try(run, trial) => write!(f, "keep {run} on trial: {trial:?}"),
            Self::GiveUp(run) => write!(f, "give {run} up"),
            Self::Forget(run) => write!(f, "forget {run}"),
        }
    }
}

/// What to do now, and when to look again if nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In any order, and at the same time.
    pub actions: Vec<Action>,
    /// `None` = not until something happens.
    pub wake: Option<Moment>,
}

/// Of what runs, that which is wanted once more, by a later assignment: it goes on for this one, and as which attempt of
/// it. One that is ill does not: to be begun anew may heal it.
pub fn taken<'a>(wanted: &Wanted, runs: &'a [Seen]) -> Option<(&'a Seen, Attempt)> {
    if wanted.version == 0 || newest(runs).is_some() {
        return None;
    }
    let workload = wanted.workload.as_ref().ok()?;
    // Who counts as of a later assignment is of an earlier job of the same name.
    let since = wanted.since..=wanted.generation;
    let is_it = |run: &&Seen| {
        let is_same = (run.version, &run.workload) == (wanted.version, workload);
        is_same && since.contains(&run.counts_as().generation)
    };
    let goes_on = serving(runs).filter(|run| !run.busy && run.unseen.is_none() && !run.ill);
    let run = goes_on.filter(is_it).max_by_key(|run| run.worth())?;
    Some((run, another(runs, wanted.generation)))
}

/// How far the next run of what is wanted has proved itself: as far as the one before it.
pub fn trial(wanted: &Wanted, runs: &[Seen]) -> Trial {
    match newest(runs) {
        Some(before) => before.trial,
        None if wanted.on_trial => Trial::Begun,
        None => Trial::Late,
    }
}

/// Says what to do next.
pub fn plan(
    desired: &BTreeMap<Key, Wanted>,
    observed: &BTreeMap<Key, Vec<Seen>>,
    now: Moment,
) -> Plan {
    let mut plan = Plan::default();
    for (key, wanted) in desired {
        let runs = observed.get(key).map_or(&[][..], Vec::as_slice);
        Planner {
            key,
            runs,
            now,
            plan: &mut plan,
        }
        .wanted(wanted);
    }
    for (key, runs) in observed
        .iter()
        .filter(|(key, _)| !desired.contains_key(*key))
    {
        Planner {
            key,
            runs,
            now,
            plan: &mut plan,
        }
        .unwanted();
    }
    plan
}

enum Next {
    Never,
    At { moment: Moment, row: u32 },
}

impl Seen {
    /// As what it counts.
    pub fn counts_as(&self) -> Attempt {
        self.taken.unwrap_or(Attempt {
            generation: self.generation,
            number: self.attempt,
        })
    }

    /// Who has more of it is rather kept.
    fn worth(&self) -> (bool, Attempt) {
        (self.ready, self.counts_as())
    }

    /// It has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    /// It lives, and is to.
    fn is_up(&self) -> bool {
        self.phase == Phase::Running && self.asked.is_none()
    }

    /// What ran before it is to run in its place, where the job says so.
    fn is_lost(&self, wanted: &Wanted, workload: &Workload, now: Moment) -> bool {
        let is_tried = wanted.on_trial || self.trial != Trial::Over;
        let again = match (&self.phase, self.asked, self.next(workload)) {
            (Phase::Ended { .. }, None, Next::At { moment, .. }) => Some(moment),
            _ => None,
        };
        let is_missing = matches!(wanted.supply, Supply::Missing(_));
        let has_failed = self.has_failed(workload);
        let cannot_start = is_missing && again.is_some_and(|again| now >= again);
        // Nobody waits any more for one that was never healthy; one that began late has its restarts for that.
        let is_vain = !wanted.on_trial && self.trial == Trial::Begun && again.is_some();
        self.given_up || is_tried && (has_failed || cannot_start) || is_vain
    }

    fn was_never_healthy(&self) -> bool {
        matches!(self.trial, Trial::Begun | Trial::Late)
    }

    /// It is started again when it has ended, as this one.
    pub fn comes_up(&self, workload: &Workload) -> bool {
        self.asked.is_some() || matches!(self.next(workload), Next::At { .. })
    }

    /// Were it wanted still, what ran before it would be put back.
    fn is_vain(&self) -> bool {
        let has_failed = self.trial == Trial::Well && self.has_failed(&self.workload);
        let is_lost = has_failed || self.was_never_healthy();
        self.given_up || is_lost && self.workload.restart.put_back
    }

    /// How far it has proved itself by now, if that is further than it is noted.
    fn proves(&self, wanted: &Wanted) -> Option<Trial> {
        let by_now = match self.lasts && !wanted.on_trial {
            true => Trial::Over,
            false => Trial::Well,
        };
        let is_further = ![Trial::Over, by_now].contains(&self.trial);
        (is_further && self.is_up() && self.ready && !self.busy).then_some(by_now)
    }

    /// It could not start, or ended badly and is not started again.
    fn has_failed(&self, workload: &Workload) -> bool {
        let failed = match &self.phase {
            Phase::Planned | Phase::Running => false,
            Phase::Ended { how, .. } => match how {
                End::CannotStart(_) => true,
                // It has done what it was to do.
                End::Exited(0) if workload.batch => false,
                End::Exited(_) => matches!(self.next(workload), Next::Never),
            },
        };
        // Of what was told to stop, the end says nothing.
        failed && self.asked.is_none()
    }

    /// What follows its end.
    fn next(&self, workload: &Workload) -> Next {
        let Phase::Ended { how, since, ran } = &self.phase else {
            return Next::Never;
        };
        if self.asked.is_some() {
            // It is wanted again, so its end says nothing.
            return Next::At {
                moment: *since,
                row: 0,
            };
        }
        let restart = &workload.restart;
        let row = if *ran >= restart.reset_after {
            0
        } else {
            self.row
        };
        let well = *how == End::Exited(0);
        let again = match restart.policy {
            Policy::Always => true,
            Policy::OnFailure => !well,
            Policy::Never => false,
        };
        if !again || workload.batch && well || restart.attempts.is_some_and(|most| row >= most) {
            return Next::Never;
        }
        let moment = since.saturating_add(restart.wait(row));
        let row = row.saturating_add(1);
        Next::At { moment, row }
    }
}

/// Plans for one execution.
struct Planner<'a> {
    key: &'a Key,
    runs: &'a [Seen],
    now: Moment,
    plan: &'a mut Plan,
}

impl<'a> Planner<'a> {
    fn wanted(&mut self, wanted: &Wanted) {
        let workload = wanted.workload.as_ref().ok();
        let puts_back = workload.is_some_and(|workload| workload.restart.put_back);
        let mine = newest(self.runs);
        let good = good_before(self.runs, wanted);
        let meanwhile = meanwhile(self.runs, wanted, good);
        // What is wanted next may put it back.
        self.forget(None, &[good, meanwhile]);
        let before = match mine {
            Some(_) => good.filter(|_| puts_back),
            None => meanwhile,
        };
        let before = before.filter(|_| !wanted.is_replaced);
        if wanted.version == 0 {
            return self.stop_all_but(None);
        }
        let Ok(workload) = &wanted.workload else {
            let kept = best_other(self.runs);
            self.stop_all_but(kept);
            return self.bring_back(kept, before);
        };
        let up = mine.is_some_and(Seen::is_up);
        let ready = mine.is_some_and(|mine| up && mine.ready);
        if let Some((mine, trial)) = mine.and_then(|mine| Some((mine, mine.proves(wanted)?))) {
            self.act(Action::Try(self.id(mine), trial));
        }
        let is_here = wanted.supply == Supply::Here;
        let failed = mine.filter(|mine| puts_back && mine.is_lost(wanted, workload, self.now));
        // An agent that has just begun does not know yet that it has failed.
        let may_have = puts_back && mine.is_some_and(|mine| mine.busy && !mine.is_over() && !up);
        let failed = failed.filter(|_| before.is_some() || best_other(self.runs).is_some());
        let goes_back = failed.is_some();
        if let Some(failed) = failed.filter(|failed| !failed.given_up) {
            self.act(Action::GiveUp(self.id(failed)));
        }
        let kept = match workload.start_first && !ready || !is_here && !up || goes_back || may_have
        {
            true => best_other(self.runs),
            false => None,
        };
        // One that was told to stop, and is wanted again, is on its way out.
        let mine_stays = mine.filter(|mine| mine.asked.is_none());
        let stays = |run: &Seen| {
            let mut those = [mine_stays, kept].into_iter().flatten();
            those.any(|stays| std::ptr::eq(stays, run))
        };
        let leaves = |run: &&Seen| !run.is_over() && !stays(run);
        let leaving: Vec<&Seen> = self.runs.iter().filter(leaves).collect();
        if !leaving.is_empty() {
            return leaving.into_iter().for_each(|run| self.stop(run));
        }
        match mine {
            _ if goes_back => self.bring_back(kept, before),
            None if !is_here => self.bring_back(kept, before),
            _ if is_here => self.start(wanted, workload, mine),
            _ => {}
        }
    }

    /// What runs in place of what is wanted is up, or comes up.
    fn bring_back(&mut self, kept: Option<&Seen>, before: Option<&Seen>) {
        let is_alone = self.runs.iter().all(Seen::is_over);
        if let Some(before) = before.filter(|_| kept.is_none() && is_alone) {
            self.put_back(before);
        }
    }

    fn unwanted(&mut self) {
        self.stop_all_but(None);
        self.forget(Some(ENDED_KEPT_FOR), &[]);
    }

    /// Brings up what is wanted, now that nothing is in its way.
    fn start(&mut self, wanted: &Wanted, workload: &Workload, mine: Option<&Seen>) {
        let run = self.another(wanted.generation);
        match mine {
            _ if wanted.is_held_up => {}
            None => self.act(Action::Create { run, row: 0 }),
            Some(mine) if mine.busy => {}
            Some(mine) => match (&mine.phase, mine.next(workload)) {
                (Phase::Planned, _) => self.act(Action::Start(self.id(mine))),
                (Phase::Ended { .. }, Next::At { moment, row }) if self.now >= moment => {
                    self.act(Action::Create { run, row });
                }
                (Phase::Ended { .. }, Next::At { moment, .. }) => self.wake(moment),
                (Phase::Ended { .. }, Next::Never) | (Phase::Running, _) => {}
            },
        }
    }

    /// Brings up again what ran before, now that nothing else will.
    fn put_back(&mut self, before: &Seen) {
        match before.next(&before.workload) {
            _ if before.busy => {}
            Next::Never => {}
            Next::At { moment, .. } if self.now < moment => self.wake(moment),
            Next::At { row, .. } => self.act(Action::PutBack {
                run: self.another(before.counts_as().generation),
                of: self.id(before),
                row,
            }),
        }
    }

    /// The next run of an assignment.
    fn another(&self, generation: u64) -> RunId {
        RunId {
            key: self.key.clone(),
            generation,
            attempt: another(self.runs, generation).number,
        }
    }

    fn stop_all_but(&mut self, kept: Option<&Seen>) {
        for run in self.runs.iter().filter(|run| !run.is_over()) {
            if !kept.is_some_and(|kept| std::ptr::eq(kept, run)) {
                self.stop(run);
            }
        }
    }

    fn stop(&mut self, run: &Seen) {
        if run.busy {
            return;
        }
        let id = self.id(run);
        match (&run.phase, run.asked) {
            (Phase::Ended { .. }, _) => {}
            (Phase::Planned, _) => self.act(Action::Forget(id)),
            (Phase::Running, None) => self.act(Action::Stop(id)),
            (Phase::Running, Some(asked)) => {
                let due = match run.killed {
                    None => asked.saturating_add(run.workload.stop_grace),
                    Some(killed) => killed.saturating_add(KILL_AGAIN_AFTER),
                };
                match self.now >= due {
                    true => self.act(Action::Kill(id)),
                    false => self.wake(due),
                }
            }
        }
    }

    /// Forgets the oldest ends, but not the one that says what to do next, nor the one that may be put back.
    fn forget(&mut self, after: Option<Duration>, before: &[Option<&Seen>]) {
        let last = newest(self.runs);
        let mut over: Vec<_> = self
            .runs
            .iter()
            .filter(|run| run.is_over() && !run.busy)
            .filter(|run| {
                let mut spared = before.iter().copied().chain([last]).flatten();
                !spared.any(|spared| std::ptr::eq(spared, *run))
            })
            .collect();
        over.sort_by_key(|run| std::cmp::Reverse(run.counts_as()));
        for (place, run) in over.into_iter().enumerate() {
            let Phase::Ended { since, .. } = run.phase else {
                continue;
            };
            let until = after.map(|after| since.saturating_add(after));
            match until {
                _ if place >= ENDED_KEPT => self.act(Action::Forget(self.id(run))),
                Some(until) if self.now >= until => self.act(Action::Forget(self.id(run))),
                Some(until) => self.wake(until),
                None => {}
            }
        }
    }

    fn id(&self, run: &Seen) -> RunId {
        RunId {
            key: self.key.clone(),
            generation: run.generation,
            attempt: run.attempt,
        }
    }

    fn act(&mut self, action: Action) {
        self.plan.actions.push(action);
    }

    fn wake(&mut self, at: Moment) {
        self.plan.wake = Some(self.plan.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Those that live and were not told to stop.
fn serving(runs: &[Seen]) -> impl Iterator<Item = &Seen> {
    runs.iter().filter(|run| run.is_up())
}

/// The next attempt of an assignment. No run has been it, and none is called so.
fn another(runs: &[Seen], generation: u64) -> Attempt {
    let attempts = runs.iter().flat_map(|run| {
        let begun = Attempt {
            generation: run.generation,
            number: run.attempt,
        };
        [begun, run.counts_as()]
    });
    let same = attempts.filter(|attempt| attempt.generation == generation);
    let number = same.map(|attempt| attempt.number).max().unwrap_or(0) + 1;
    Attempt { generation, number }
}

#[cfg(test)]
mod tests;
