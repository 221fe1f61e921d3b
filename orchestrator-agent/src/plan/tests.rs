//! The rules, against a world that does what plans say, late or at once, and in which anything may happen between.

mod ends;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn workload(start_first: bool) -> Arc<Workload> {
    that(start_first, false)
}

fn that(start_first: bool, put_back: bool) -> Arc<Workload> {
    let switch = if start_first {
        "start_first"
    } else {
        "stop_first"
    };
    let document = json!({
        "driver": "exec", "config": { "stop_grace": "5s" }, "switch": switch,
        "restart": { "backoff": "1s", "backoff_max": "4s", "put_back": put_back },
    });
    Arc::new(Workload::read(&document).unwrap())
}

fn key(number: u32) -> Key {
    let job = "default/web".to_owned().try_into().unwrap();
    Key { job, slot: number }
}

#[derive(Clone, Copy, Debug)]
enum Happens {
    Wants {
        slot: u32,
        start_first: bool,
        put_back: bool,
        anew: bool,
    },
    /// What runs, or did.
    WantsAgain {
        which: usize,
        restart: bool,
    },
    WantsWhatCannotBe {
        slot: u32,
    },
    WantsNothing {
        slot: u32,
    },
    Forgets {
        slot: u32,
    },
    TrialEnds {
        slot: u32,
    },
    HeldUp {
        slot: u32,
        is: bool,
    },
    Replaced {
        slot: u32,
        is: bool,
    },
    Supplied {
        slot: u32,
        how: usize,
    },
    Exits {
        which: usize,
        code: i32,
    },
    BecomesReady {
        which: usize,
    },
    TaskEnds {
        which: usize,
        well: bool,
    },
    Passes {
        millis: u64,
    },
    AgentIsKilled,
}

fn happens() -> impl Strategy<Value = Happens> {
    let slot = 0..2_u32;
    prop_oneof![
        3 => (slot.clone(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(slot, start_first, put_back, anew)| Happens::Wants { slot, start_first, put_back, anew }),
        2 => (0..8_usize, any::<bool>()).prop_map(|(which, restart)| Happens::WantsAgain { which, restart }),
        1 => slot.clone().prop_map(|slot| Happens::WantsWhatCannotBe { slot }),
        1 => slot.clone().prop_map(|slot| Happens::WantsNothing { slot }),
        1 => slot.clone().prop_map(|slot| Happens::Forgets { slot }),
        2 => slot.clone().prop_map(|slot| Happens::TrialEnds { slot }),
        2 => (slot.clone(), any::<bool>()).prop_map(|(slot, is)| Happens::HeldUp { slot, is }),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, is)| Happens::Replaced { slot, is }),
        3 => (slot, 0..3_usize).prop_map(|(slot, how)| Happens::Supplied { slot, how }),
        3 => (0..8_usize, 0..2_i32).prop_map(|(which, code)| Happens::Exits { which, code }),
        3 => (0..8_usize).prop_map(|which| Happens::BecomesReady { which }),
        6 => (0..8_usize, prop::bool::weighted(0.8)).prop_map(|(which, well)| Happens::TaskEnds { which, well }),
        3 => (0..9000_u64).prop_map(|millis| Happens::Passes { millis }),
        1 => Just(Happens::AgentIsKilled),
    ]
}

/// What a run does while it is busy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Task {
    Start,
    Forget,
}

/// A run, what is being done to it, and which document it runs.
type Acting = (Seen, Option<Task>, u64);

#[derive(Debug, Default)]
struct World {
    now: Moment,
    generation: u64,
    document: u64,
    desired: BTreeMap<Key, Wanted>,
    /// Which document it is that is wanted.
    documents: BTreeMap<Key, u64>,
    runs: BTreeMap<Key, Vec<Acting>>,
}

impl World {
    fn observed(&self) -> BTreeMap<Key, Vec<Seen>> {
        let runs = self.runs.iter();
        let seen = runs.map(|(key, runs)| {
            let wanted = self.desired.get(key);
            let seen = runs.iter().map(|(run, task, document)| Seen {
                is_wanted: wanted
                    .is_some_and(|w| w.generation == run.counts_as().generation && w.version != 0)
                    && self.documents.get(key) == Some(document),
                busy: task.is_some(),
                ..run.clone()
            });
            (key.clone(), seen.collect())
        });
        seen.collect()
    }

    fn turn(&mut self) -> bool {
        let observed = self.observed();
        let plan = plan(&self.desired, &observed, self.now);
        for action in &plan.actions {
            self.check(&observed, action);
        }
        for action in &plan.actions {
            self.act(action);
        }
        !plan.actions.is_empty()
    }

    fn check(&self, observed: &BTreeMap<Key, Vec<Seen>>, action: &Action) {
        let (Action::Create { run: id, .. }
        | Action::PutBack { run: id, .. }
        | Action::Start(id)
        | Action::Stop(id)
        | Action::Kill(id)
        | Action::Try(id, _)
        | Action::GiveUp(id)
        | Action::Forget(id)) = action;
        let runs = observed.get(&id.key).map_or(&[][..], Vec::as_slice);
        let wanted = self.desired.get(&id.key);
        let is = |run: &&Seen| run.generation == id.generation && run.attempt == id.attempt;
        let run = runs.iter().find(is);
        assert!(!run.is_some_and(|run| run.busy), "{action:?} on a busy run");
        match action {
            Action::Create { .. } | Action::Start(_) => {
                assert_eq!(run.is_some(), matches!(action, Action::Start(_)));
                let wanted = wanted.expect("only what is wanted starts");
                assert_eq!(wanted.generation, id.generation);
                assert_eq!(wanted.supply, Supply::Here);
                assert!(!wanted.is_held_up);
                let alive = runs.iter().filter(|run| !run.is_over() && !is(run));
                let most = usize::from(wanted.workload.as_ref().unwrap().start_first);
                let alive: Vec<_> = alive.collect();
                assert!(alive.len() <= most, "beside {alive:?}");
                assert!(alive.iter().all(|run| !run.is_wanted), "a second start");
                // What began and has ended was to come up, and not what was there before it.
                let mine = newest(runs).filter(|mine| mine.is_over());
                assert!(mine.is_none() || comes_up(wanted, runs, self.now) == mine);
            }
            Action::PutBack { of, .. } => {
                assert!(run.is_none());
                assert!(runs.iter().all(Seen::is_over), "beside {runs:?}");
                let of = |run: &&Seen| (run.generation, run.attempt) == (of.generation, of.attempt);
                let of = runs.iter().find(of).unwrap();
                assert_eq!(comes_up(wanted.unwrap(), runs, self.now), Some(of));
                assert!(!wanted.unwrap().is_replaced);
                assert!(!of.is_wanted && !of.dismissed && !of.given_up);
                assert!(newest(runs).is_none() || !of.was_never_healthy());
                let wanted = wanted.unwrap();
                // What ran last, if need be also when it was stopped; or what was there before that, which has not proved
                // itself.
                let later = |run: &&Seen| !run.is_wanted && run.counts_as() > of.counts_as();
                let mut later = runs.iter().filter(later);
                let is_missing =
                    matches!(wanted.supply, Supply::Missing(_)) || wanted.workload.is_err();
                let may_be = of.asked.is_none() || is_missing || later.any(Seen::is_vain);
                match (newest(runs), &wanted.workload) {
                    (Some(mine), Ok(workload)) => {
                        assert!(
                            workload.restart.put_back && mine.is_lost(wanted, workload, self.now)
                        );
                    }
                    (None, Ok(_)) => assert!(wanted.supply != Supply::Here && may_be),
                    (_, Err(_)) => assert!(may_be),
                }
            }
            Action::Try(_, trial) => {
                let (run, on_trial) = (run.unwrap(), wanted.unwrap().on_trial);
                assert!(run.is_wanted && run.ready && run.trial != Trial::Over);
                assert_eq!(on_trial || !run.lasts, *trial == Trial::Well);
            }
            Action::GiveUp(_) => {
                let (run, wanted) = (run.unwrap(), wanted.unwrap());
                let workload = wanted.workload.as_ref().unwrap();
                assert!(workload.restart.put_back && !run.given_up && run.is_wanted);
                assert!(wanted.on_trial || run.trial != Trial::Over);
                assert!(run.is_over() && run.asked.is_none());
            }
            Action::Stop(_) | Action::Kill(_) => {
                let run = run.unwrap();
                assert_eq!(run.phase, Phase::Running);
                let is_out = run.asked.is_some();
                assert!(!run.is_wanted || is_out, "what is wanted is not stopped");
                if let Action::Kill(_) = action {
                    assert!(self.now >= run.asked.unwrap() + run.workload.stop_grace);
                }
                // Never none, where that was asked for.
                let others = runs
                    .iter()
                    .filter(|run| !is(run) && run.phase == Phase::Running);
                let serves = |run: &Seen| run.asked.is_none() && (!run.is_wanted || run.ready);
                if let Some(Wanted {
                    version: 1..,
                    workload,
                    supply,
                    ..
                }) = wanted
                {
                    let is_up = |run: &Seen| run.is_wanted && run.phase == Phase::Running;
                    let gap = workload
                        .as_ref()
                        .is_ok_and(|workload| !workload.start_first)
                        && (*supply == Supply::Here || runs.iter().any(is_up));
                    assert!(run.asked.is_some() || gap || others.clone().any(serves));
                }
            }
            Action::Forget(_) => {
                let run = run.unwrap();
                assert_ne!(run.phase, Phase::Running);
                assert!(newest(runs) != Some(run), "{run:?} of {runs:?}");
            }
        }
    }

    fn act(&mut self, action: &Action) {
        let now = self.now;
        match action {
            Action::Create { run, row } | Action::PutBack { run, row, .. } => {
                let runs = self.observed().remove(&run.key).unwrap_or_default();
                let trial = match action {
                    Action::PutBack { of, .. } => self.run(of).0.trial,
                    _ => trial(&self.desired[&run.key], &runs),
                };
                let document = match action {
                    Action::PutBack { of, .. } => self.run(of).2,
                    _ => self.documents[&run.key],
                };
                let seen = Seen {
                    generation: run.generation,
                    attempt: run.attempt,
                    taken: None,
                    version: u32::try_from(document).unwrap(),
                    is_wanted: false,
                    row: *row,
                    phase: Phase::Planned,
                    busy: false,
                    unseen: None,
                    trial,
                    lasts: false,
                    ill: false,
                    given_up: false,
                    dismissed: false,
                    ready: false,
                    asked: None,
                    killed: None,
                    workload: match action {
                        Action::PutBack { of, .. } => self.run(of).0.workload.clone(),
                        _ => self.desired[&run.key].workload.clone().unwrap(),
                    },
                };
                self.runs.entry(run.key.clone()).or_default().push((
                    seen,
                    Some(Task::Start),
                    document,
                ));
            }
            Action::Start(id) => self.run(id).1 = Some(Task::Start),
            Action::Forget(id) => self.run(id).1 = Some(Task::Forget),
            Action::Stop(id) => self.run(id).0.asked = Some(now),
            Action::Try(id, trial) => self.run(id).0.trial = *trial,
            Action::GiveUp(id) => {
                let generation = self.run(id).0.counts_as().generation;
                for (run, ..) in self.runs.get_mut(&id.key).unwrap() {
                    run.given_up |= run.counts_as().generation == generation;
                }
            }
            Action::Kill(id) => {
                self.run(id).0.killed = Some(now);
                end(&mut self.run(id).0, now, 137);
            }
        }
    }

    fn run(&mut self, id: &RunId) -> &mut Acting {
        let runs = self.runs.get_mut(&id.key).unwrap();
        let mut found = runs
            .iter_mut()
            .filter(|(run, ..)| run.generation == id.generation && run.attempt == id.attempt);
        found.next().unwrap()
    }

    fn nth(&mut self, which: usize, is: impl Fn(&Acting) -> bool) -> Option<&mut Acting> {
        let mut all: Vec<_> = self
            .runs
            .values_mut()
            .flatten()
            .filter(|run| is(run))
            .collect();
        let count = all.len().max(1);
        (!all.is_empty()).then(|| all.swap_remove(which % count))
    }

    fn wants(&mut self, slot: u32, workload: Result<Arc<Workload>, String>) {
        self.document += 1;
        self.wants_document(&key(slot), self.document, workload);
    }

    fn wants_document(
        &mut self,
        key: &Key,
        document: u64,
        workload: Result<Arc<Workload>, String>,
    ) {
        self.generation += 1;
        self.documents.insert(key.clone(), document);
        let wanted = Wanted {
            generation: self.generation,
            version: u32::try_from(document).unwrap(),
            since: 0,
            workload,
            supply: Supply::Here,
            is_held_up: false,
            is_replaced: false,
            on_trial: true,
        };
        self.desired.insert(key.clone(), wanted);
    }

    /// Nothing is wanted.
    fn dismiss(&mut self, slot: u32) {
        for (run, ..) in self.runs.get_mut(&key(slot)).into_iter().flatten() {
            run.dismissed = true;
        }
    }

    /// Some run's document is wanted, which is that of a run that lives or of none.
    fn wants_again(&mut self, which: usize, restart: bool) {
        let Some((run, _, document)) = self.nth(which, |_| true) else {
            return;
        };
        let (workload, document) = (run.workload.clone(), *document);
        let has_it = |runs: &[Acting]| runs.iter().any(|(.., of)| *of == document);
        let its = self.runs.iter().find(|(_, runs)| has_it(runs));
        let key = its.map(|(key, _)| key.clone()).unwrap();
        let before = self.desired.get(&key).map_or(0, |wanted| wanted.since);
        self.wants_document(&key, document, Ok(workload));
        let wanted = self.desired.get_mut(&key).unwrap();
        wanted.since = if restart { wanted.generation } else { before };
        let wanted = &self.desired[&key];
        let runs = self.observed().remove(&key).unwrap();
        let taken = taken(wanted, &runs).map(|(run, taken)| {
            assert!(run.phase == Phase::Running && run.asked.is_none() && !run.busy);
            assert!(!restart && run.counts_as().generation >= before);
            ((run.generation, run.attempt), taken)
        });
        let Some((id, taken)) = taken else {
            return;
        };
        let all = self.runs.get_mut(&key).unwrap().iter_mut();
        for (run, _, of) in all {
            assert_ne!(
                (run.generation, run.attempt),
                (taken.generation, taken.number)
            );
            assert_ne!(run.counts_as(), taken);
            if (run.generation, run.attempt) == id {
                assert_eq!(*of, document);
                run.taken = Some(taken);
            }
        }
        let runs = self.observed().remove(&key).unwrap();
        let wanted = &self.desired[&key];
        let mine = newest(&runs).unwrap();
        assert_eq!((mine.generation, mine.attempt), id);
        assert_eq!(standing(wanted, &runs), Standing::Up(taken.number));
    }

    fn happen(&mut self, what: Happens) {
        let now = self.now;
        match what {
            Happens::Wants {
                slot,
                start_first,
                put_back,
                anew,
            } => {
                if anew {
                    // The job was deleted, and another of its name began.
                    self.generation = 0;
                }
                self.wants(slot, Ok(that(start_first, put_back)));
            }
            Happens::WantsAgain { which, restart } => self.wants_again(which, restart),
            Happens::WantsWhatCannotBe { slot } => self.wants(slot, Err("no".to_owned())),
            Happens::WantsNothing { slot } => {
                self.wants(slot, Err("no".to_owned()));
                self.desired.get_mut(&key(slot)).unwrap().version = 0;
                self.dismiss(slot);
            }
            Happens::Forgets { slot } => {
                self.desired.remove(&key(slot));
                self.dismiss(slot);
            }
            Happens::TrialEnds { slot } => {
                if let Some(wanted) = self.desired.get_mut(&key(slot)) {
                    wanted.on_trial = false;
                }
            }
            Happens::HeldUp { slot, is } => {
                if let Some(wanted) = self.desired.get_mut(&key(slot)) {
                    wanted.is_held_up = is;
                }
            }
            Happens::Replaced { slot, is } => {
                if let Some(wanted) = self.desired.get_mut(&key(slot)) {
                    wanted.is_replaced = is;
                }
            }
            Happens::Supplied { slot, how } => {
                let ways = [
                    Supply::Here,
                    Supply::Coming,
                    Supply::Missing("none".to_owned()),
                ];
                if let Some(wanted) = self.desired.get_mut(&key(slot)) {
                    wanted.supply = ways[how].clone();
                }
            }
            Happens::Exits { which, code } => {
                if let Some(run) = self.nth(which, |run| run.0.phase == Phase::Running) {
                    end(&mut run.0, now, code);
                }
            }
            Happens::BecomesReady { which } => {
                if let Some(run) = self.nth(which, |run| run.0.phase == Phase::Running) {
                    // Soon, and after a while.
                    (run.0.ready, run.0.lasts) = (true, run.0.ready);
                }
            }
            Happens::TaskEnds { which, well } => self.task_ends(which, well),
            Happens::Passes { millis } => self.now += Duration::from_millis(millis),
            Happens::AgentIsKilled => {
                for (run, task, _) in self.runs.values_mut().flatten() {
                    // What was begun may have happened, or not; a driver does it at most once.
                    if task.take() == Some(Task::Start) && run.generation % 2 == 0 {
                        run.phase = Phase::Running;
                    }
                    (run.killed, run.ready, run.lasts) = (None, false, false);
                    run.asked = run.asked.map(|_| now);
                }
            }
        }
    }

    fn task_ends(&mut self, which: usize, well: bool) {
        let now = self.now;
        let Some((run, task, document)) = self.nth(which, |run| run.1.is_some()) else {
            return;
        };
        match task.take() {
            Some(Task::Start) if well => run.phase = Phase::Running,
            Some(Task::Start) => {
                let how = End::CannotStart("bad luck".to_owned());
                run.phase = Phase::Ended {
                    how,
                    since: now,
                    ran: Duration::ZERO,
                };
            }
            Some(Task::Forget) if well => {
                let (generation, attempt, document) = (run.generation, run.attempt, *document);
                for runs in self.runs.values_mut() {
                    runs.retain(|(run, _, of)| {
                        (run.generation, run.attempt, *of) != (generation, attempt, document)
                    });
                }
            }
            Some(Task::Forget) | None => {}
        }
    }

    /// Everything goes well from now on.
    fn settle(&mut self) {
        for wanted in self.desired.values_mut() {
            wanted.supply = Supply::Here;
            (wanted.is_held_up, wanted.is_replaced) = (false, false);
        }
        for _ in 0..200 {
            self.turn();
            while self
                .runs
                .values()
                .flatten()
                .any(|(_, task, _)| task.is_some())
            {
                self.task_ends(0, true);
            }
            let now = self.now;
            for (run, ..) in self.runs.values_mut().flatten() {
                if run.phase == Phase::Running {
                    (run.ready, run.lasts) = (true, true);
                    if run.asked.is_some() {
                        end(run, now, 0);
                    }
                }
            }
            self.now += Duration::from_millis(500);
        }
        assert!(!self.turn(), "it never comes to rest");
    }
}

fn end(run: &mut Seen, now: Moment, code: i32) {
    let how = End::Exited(code);
    run.phase = Phase::Ended {
        how,
        since: now,
        ran: Duration::from_secs(1),
    };
    (run.ready, run.lasts) = (false, false);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_rules_hold_and_it_converges(story in prop::collection::vec(happens(), 1..60)) {
        let mut world = World::default();
        for what in story {
            world.happen(what);
            world.turn();
        }
        world.settle();
        for (key, wanted) in &world.desired {
            let runs = world.observed().remove(key).unwrap_or_default();
            let alive: Vec<_> = runs.iter().filter(|run| !run.is_over()).collect();
            match (wanted.version, &wanted.workload) {
                (0, _) => {
                    prop_assert!(alive.is_empty());
                    prop_assert_eq!(standing(wanted, &runs), Standing::Stopped);
                }
                (_, Err(why)) => {
                    prop_assert!(alive.len() <= 1);
                    prop_assert_eq!(standing(wanted, &runs), Standing::CannotStart(why.clone()));
                }
                (_, Ok(workload)) if !alive.iter().any(|run| run.is_wanted) => {
                    prop_assert_eq!(alive.len(), 1, "{:?}", runs);
                    prop_assert!(workload.restart.put_back);
                    prop_assert!(newest(&runs).unwrap().given_up);
                }
                (_, Ok(_)) => {
                    prop_assert_eq!(alive.len(), 1, "{:?}", runs);
                    prop_assert!(alive[0].is_wanted);
                    prop_assert!(matches!(standing(wanted, &runs), Standing::Up(_)));
                }
            }
            prop_assert!(runs.len() <= ENDED_KEPT + 4);
        }
        for (key, runs) in world.observed() {
            let is_over = runs.iter().all(Seen::is_over);
            prop_assert!(is_over || world.desired.contains_key(&key));
        }
    }
}
