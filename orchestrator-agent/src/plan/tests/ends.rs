//! What follows an end, and how it is told.

use super::*;

fn ended(attempt: u32, row: u32, how: End, ran: u64) -> Seen {
    Seen {
        generation: 1,
        attempt,
        taken: None,
        version: 1,
        is_wanted: true,
        row,
        phase: Phase::Ended {
            how,
            since: Duration::ZERO,
            ran: Duration::from_secs(ran),
        },
        busy: false,
        unseen: None,
        trial: Trial::Over,
        lasts: false,
        ill: false,
        given_up: false,
        dismissed: false,
        ready: false,
        asked: None,
        killed: None,
        workload: workload(false),
    }
}

/// What is done with this end, and how it is told.
fn after(restart: serde_json::Value, batch: bool, run: Seen) -> (Option<u64>, Standing) {
    let kind = if batch { "batch" } else { "service" };
    let document = json!({ "driver": "exec", "config": {}, "restart": restart, "job_type": kind });
    let workload = Ok(Arc::new(Workload::read(&document).unwrap()));
    let wanted = Wanted {
        generation: 1,
        version: 1,
        since: 0,
        workload,
        supply: Supply::Here,
        is_held_up: false,
        is_replaced: false,
        on_trial: true,
    };
    let standing = standing(&wanted, std::slice::from_ref(&run));
    let desired = BTreeMap::from([(key(0), wanted)]);
    let observed = BTreeMap::from([(key(0), vec![run])]);
    let plan = plan(&desired, &observed, Duration::ZERO);
    assert!(plan.actions.is_empty());
    (plan.wake.map(|wake| wake.as_secs()), standing)
}

#[test]
fn ends_are_final_or_not() {
    let exit = |code| End::Exited(code);
    let down = |secs| (Some(secs), Standing::Down);
    let over = |code| (None, Standing::Exited(code));
    let set = json!({ "backoff": "2s", "backoff_max": "9s", "reset_after": "30s" });
    assert_eq!(after(set.clone(), false, ended(1, 0, exit(1), 1)), down(2));
    assert_eq!(after(set.clone(), false, ended(1, 0, exit(0), 1)), down(2));
    assert_eq!(after(set.clone(), false, ended(9, 8, exit(1), 29)), down(9));
    assert_eq!(
        after(set, false, ended(9, 8, exit(1), 30)),
        down(2),
        "a new row"
    );
    assert_eq!(
        after(json!({ "policy": "never" }), false, ended(1, 0, exit(3), 1)),
        over(3)
    );
    assert_eq!(
        after(
            json!({ "policy": "on_failure" }),
            false,
            ended(1, 0, exit(0), 1)
        ),
        over(0)
    );
    let twice = json!({ "attempts": 2 });
    assert_eq!(
        after(twice.clone(), false, ended(2, 1, exit(1), 1)),
        down(2)
    );
    assert_eq!(
        after(twice.clone(), false, ended(3, 2, exit(1), 1)),
        over(1)
    );
    assert_eq!(after(twice, false, ended(3, 2, exit(1), 60)), down(1));
    assert_eq!(after(json!({}), true, ended(1, 0, exit(0), 1)), over(0));
    assert_eq!(after(json!({}), true, ended(1, 0, exit(1), 1)), down(1));
    assert_eq!(after(json!({}), true, ended(4, 3, exit(1), 1)), over(1));
    let cannot = Standing::CannotStart("no".to_owned());
    let no = End::CannotStart("no".to_owned());
    assert_eq!(
        after(json!({}), false, ended(1, 0, no, 0)),
        (Some(1), cannot)
    );
}

#[test]
fn what_it_brings_along_is_waited_for() {
    let none = || Supply::Missing("none".to_owned());
    let cannot = || Standing::CannotStart("none".to_owned());
    let mut other = ended(1, 0, End::Exited(0), 1);
    (other.is_wanted, other.phase) = (false, Phase::Running);
    let mine = Seen {
        generation: 2,
        is_wanted: true,
        ..other.clone()
    };
    let stop = |run: &Seen| {
        Action::Stop(RunId {
            key: key(0),
            generation: run.generation,
            attempt: 1,
        })
    };
    for (supply, runs, actions, stands) in [
        (Supply::Coming, vec![], vec![], Standing::Unknown),
        (none(), vec![other.clone()], vec![], cannot()),
        (
            Supply::Here,
            vec![other.clone()],
            vec![stop(&other)],
            Standing::Unknown,
        ),
        // What runs does not need to be fetched any more.
        (none(), vec![mine.clone()], vec![], Standing::Up(1)),
        (
            none(),
            vec![other.clone(), mine],
            vec![stop(&other)],
            Standing::Up(1),
        ),
    ] {
        let wanted = Wanted {
            generation: 2,
            version: 2,
            since: 0,
            workload: Ok(workload(false)),
            supply,
            is_held_up: false,
            is_replaced: false,
            on_trial: true,
        };
        assert_eq!(standing(&wanted, &runs), stands, "{wanted:?}");
        let desired = BTreeMap::from([(key(0), wanted)]);
        let observed = BTreeMap::from([(key(0), runs)]);
        let plan = plan(&desired, &observed, Duration::ZERO);
        assert_eq!(plan.actions, actions, "{desired:?}");
    }
}

#[test]
fn what_was_stopped_for_what_fails_is_put_back_where_that_is_said() {
    let id = |generation, attempt| RunId {
        key: key(0),
        generation,
        attempt,
    };
    let no = || End::CannotStart("no".to_owned());
    let mut old = ended(1, 0, End::Exited(0), 9);
    (old.is_wanted, old.asked) = (false, Some(Duration::ZERO));
    let mine = |how| Seen {
        generation: 2,
        ..ended(1, 0, how, 0)
    };
    let back = |of, attempt, row| Action::PutBack {
        run: id(1, attempt),
        of: id(1, of),
        row,
    };
    let create = Action::Create {
        run: id(2, 2),
        row: 1,
    };
    let again = |attempt, row, phase: Option<Phase>| Seen {
        attempt,
        row,
        asked: None,
        phase: phase.unwrap_or(Phase::Ended {
            how: End::Exited(1),
            since: Duration::ZERO,
            ran: Duration::ZERO,
        }),
        ..old.clone()
    };
    let runs = Some(Phase::Running);
    let looked_at = Seen {
        phase: Phase::Planned,
        busy: true,
        ..mine(no())
    };
    let give_up = Action::GiveUp(id(2, 1));
    let given_up = Seen {
        given_up: true,
        ..mine(no())
    };
    let dismissed = Seen {
        dismissed: true,
        ..old.clone()
    };
    let trial = |put_back, on_trial, observed: &[&Seen], actions: &[&Action]| {
        let wanted = Wanted {
            generation: 2,
            version: 2,
            since: 0,
            workload: Ok(that(false, put_back)),
            supply: Supply::Here,
            is_held_up: false,
            is_replaced: false,
            on_trial,
        };
        let desired = BTreeMap::from([(key(0), wanted)]);
        let observed = observed.iter().copied().cloned().collect();
        let seen = BTreeMap::from([(key(0), observed)]);
        let plan = plan(&desired, &seen, Duration::from_secs(9));
        assert!(
            plan.actions.iter().eq(actions.iter().copied()),
            "{plan:?} {seen:?}"
        );
    };
    let (first, third) = (back(1, 2, 0), back(2, 3, 1));
    let (runs, over) = (again(2, 0, runs), again(2, 0, None));
    trial(true, true, &[&old, &mine(no())], &[&give_up, &first]);
    // It lives, and nothing else is tried.
    trial(true, true, &[&old, &runs, &mine(no())], &[&give_up]);
    // Nor is it stopped by an agent that has just begun, and does not know how it is with the other.
    trial(true, true, &[&old, &runs, &looked_at], &[]);
    // It ends by itself.
    trial(true, true, &[&old, &over, &mine(no())], &[&give_up, &third]);
    // What may yet come up is tried first, and where nothing was before it is all there is.
    trial(true, true, &[&old, &mine(End::Exited(1))], &[&create]);
    trial(true, true, &[&mine(no())], &[&create]);
    trial(false, true, &[&old, &mine(no())], &[&create]);
    // What was given up stays so; what fails when nobody waits for it any more is not.
    for on_trial in [true, false] {
        trial(true, on_trial, &[&old, &given_up], &[&first]);
        trial(true, on_trial, &[&old, &runs, &given_up], &[]);
    }
    trial(true, false, &[&old, &mine(no())], &[&create]);
    // It was not stopped for this one, but because nothing was wanted.
    trial(true, true, &[&dismissed, &mine(no())], &[&create]);
}

#[test]
fn what_needs_a_port_of_what_ends_waits_for_that_and_keeps_nothing() {
    let mut wanted = Wanted {
        generation: 2,
        version: 2,
        since: 0,
        workload: Ok(workload(false)),
        supply: Supply::Here,
        is_held_up: true,
        is_replaced: false,
        on_trial: true,
    };
    let other = Seen {
        is_wanted: false,
        phase: Phase::Running,
        ..ended(1, 0, End::Exited(0), 1)
    };
    let id = |generation| RunId {
        key: key(0),
        generation,
        attempt: 1,
    };
    let mut planned = |is_held_up, runs: &[Seen]| {
        wanted.is_held_up = is_held_up;
        let desired = BTreeMap::from([(key(0), wanted.clone())]);
        let observed = BTreeMap::from([(key(0), runs.to_vec())]);
        plan(&desired, &observed, Duration::ZERO).actions
    };
    assert_eq!(planned(true, &[other]), [Action::Stop(id(1))]);
    assert_eq!(planned(true, &[]), []);
    let run = id(2);
    assert_eq!(planned(false, &[]), [Action::Create { run, row: 0 }]);
}

#[test]
fn what_is_wanted_again_while_it_runs_goes_on() {
    let wanted = |generation, version, workload: &Result<Arc<Workload>, String>| Wanted {
        generation,
        version,
        since: 0,
        workload: workload.clone(),
        supply: Supply::Missing("none".to_owned()),
        is_held_up: false,
        is_replaced: false,
        on_trial: true,
    };
    let (old, new) = (Ok(that(false, false)), Ok(that(true, false)));
    let run = |generation, attempt, ready| Seen {
        generation,
        attempt,
        is_wanted: false,
        phase: Phase::Running,
        ready,
        ..ended(1, 0, End::Exited(0), 1)
    };
    let first = [run(1, 3, true)];
    let again = wanted(9, 1, &old);
    let goes_on = |wanted: &Wanted, runs: &[Seen]| {
        let (run, taken) = taken(wanted, runs)?;
        Some((
            (run.generation, run.attempt),
            (taken.generation, taken.number),
        ))
    };
    // Whatever was wanted meanwhile could not be begun, not be understood, or was not heard of; or was begun beside it.
    assert_eq!(goes_on(&again, &first), Some(((1, 3), (9, 1))));
    let beside = [
        run(1, 3, true),
        Seen {
            version: 2,
            ..run(7, 1, true)
        },
    ];
    assert_eq!(goes_on(&again, &beside), Some(((1, 3), (9, 1))));
    // It was restarted meanwhile, or is to be now; or it was begun for that.
    let restarted = |since| Wanted {
        since,
        ..again.clone()
    };
    for (since, goes) in [(1, true), (2, false), (9, false)] {
        assert_eq!(
            goes_on(&restarted(since), &first).is_some(),
            goes,
            "{since}"
        );
    }
    // Another version, or another document of a job of the same name.
    for other in [wanted(9, 3, &old), wanted(9, 1, &new), wanted(9, 0, &old)] {
        assert_eq!(goes_on(&other, &first), None);
    }
    // What was told to stop, or is not known to run.
    let told = Seen {
        asked: Some(Duration::ZERO),
        ..run(1, 3, true)
    };
    let unseen = Seen {
        unseen: Some("away".to_owned()),
        ..run(1, 3, true)
    };
    let over = ended(3, 0, End::Exited(1), 9);
    // To be begun anew may heal it.
    let ill = Seen {
        ill: true,
        ..run(1, 3, false)
    };
    for run in [
        told,
        unseen,
        ill,
        Seen {
            is_wanted: false,
            ..over
        },
    ] {
        assert_eq!(goes_on(&again, &[run]), None);
    }
    // Of two the one that is well; and no other has ever been that attempt.
    let (well, later) = (run(1, 3, true), run(1, 4, false));
    let was = Seen {
        is_wanted: false,
        ..ended(2, 0, End::Exited(1), 9)
    };
    let was = Seen {
        generation: 9,
        ..was
    };
    let runs = [well.clone(), later, Seen { version: 3, ..was }];
    assert_eq!(goes_on(&again, &runs), Some(((1, 3), (9, 3))));
    // It goes on once more, and where it ends it is begun again as the next attempt of the last of them.
    let taken_over = Attempt {
        generation: 9,
        number: 1,
    };
    let mut mine = Seen {
        taken: Some(taken_over),
        ..well
    };
    let runs = [mine.clone()];
    let once_more = |since| Wanted {
        since,
        ..wanted(13, 1, &old)
    };
    assert_eq!(goes_on(&once_more(9), &runs), Some(((1, 3), (13, 1))));
    assert_eq!(goes_on(&once_more(10), &runs), None);
    mine.is_wanted = true;
    mine.phase = ended(1, 0, End::Exited(1), 9).phase;
    let here = Wanted {
        supply: Supply::Here,
        ..again
    };
    assert_eq!(standing(&here, std::slice::from_ref(&mine)), Standing::Down);
    let desired = BTreeMap::from([(key(0), here)]);
    let seen = BTreeMap::from([(key(0), vec![mine])]);
    let plan = plan(&desired, &seen, Duration::from_secs(9));
    let run = RunId {
        key: key(0),
        generation: 9,
        attempt: 2,
    };
    assert_eq!(plan.actions, [Action::Create { run, row: 1 }]);
}

/// What is done about version 2, wanted on this switch, where these run.
fn about(wanted: &Wanted, runs: &[&Seen], secs: u64) -> Vec<Action> {
    let runs = runs.iter().copied().cloned().collect();
    let desired = BTreeMap::from([(key(0), wanted.clone())]);
    let observed = BTreeMap::from([(key(0), runs)]);
    plan(&desired, &observed, Duration::from_secs(secs)).actions
}

fn wanted(workload: Result<Arc<Workload>, String>, supply: Supply) -> Wanted {
    Wanted {
        generation: 2,
        version: 2,
        since: 0,
        workload,
        supply,
        is_held_up: false,
        is_replaced: false,
        on_trial: true,
    }
}

fn id(generation: u64, attempt: u32) -> RunId {
    RunId {
        key: key(0),
        generation,
        attempt,
    }
}

#[test]
fn what_goes_on_for_what_cannot_begin_is_started_again() {
    let of_before = |asked| Seen {
        is_wanted: false,
        asked,
        ..ended(1, 0, End::Exited(1), 0)
    };
    let (old, stopped) = (of_before(None), of_before(Some(Duration::ZERO)));
    let dismissed = Seen {
        dismissed: true,
        ..old.clone()
    };
    let done = Seen {
        workload: {
            let once = json!({ "driver": "exec", "config": {}, "restart": { "policy": "never" } });
            Arc::new(Workload::read(&once).unwrap())
        },
        ..old.clone()
    };
    let back = Action::PutBack {
        run: id(1, 2),
        of: id(1, 1),
        row: 1,
    };
    for cannot in [
        wanted(Ok(workload(false)), Supply::Coming),
        wanted(Ok(workload(true)), Supply::Missing("no".to_owned())),
        wanted(Err("no".to_owned()), Supply::Here),
    ] {
        assert_eq!(about(&cannot, &[&old], 0), [], "its back-off");
        assert_eq!(about(&cannot, &[&old], 9), std::slice::from_ref(&back));
        for run in [&dismissed, &done] {
            assert_eq!(about(&cannot, &[run], 9), []);
        }
        // What was stopped for it comes back when it is known that it does not come.
        let comes = match cannot.supply {
            Supply::Coming => vec![],
            _ => vec![Action::PutBack {
                run: id(1, 2),
                of: id(1, 1),
                row: 0,
            }],
        };
        assert_eq!(about(&cannot, &[&stopped], 0), comes);
        // It comes up, or what is stopped goes first.
        for asked in [None, Some(Duration::ZERO)] {
            let lives = Seen {
                attempt: 2,
                phase: Phase::Running,
                busy: true,
                ..of_before(asked)
            };
            assert_eq!(about(&cannot, &[&old, &lives], 9), []);
        }
    }
    // What has begun is started again itself, when that can be.
    let mine = Seen {
        generation: 2,
        ..ended(1, 0, End::Exited(1), 0)
    };
    let cannot = wanted(Ok(workload(false)), Supply::Coming);
    assert_eq!(about(&cannot, &[&old, &mine], 9), []);
    let can = wanted(Ok(workload(false)), Supply::Here);
    let create = Action::Create {
        run: id(2, 1),
        row: 0,
    };
    assert_eq!(about(&can, &[&old], 0), [create]);
}

#[test]
fn who_has_proved_himself_is_not_given_up() {
    let mut wanted = wanted(Ok(that(false, true)), Supply::Here);
    let old = Seen {
        is_wanted: false,
        asked: Some(Duration::ZERO),
        ..ended(1, 0, End::Exited(0), 9)
    };
    let mine = |trial| Seen {
        generation: 2,
        trial,
        ..ended(1, 0, End::Exited(1), 0)
    };
    let runs = |trial, (ready, lasts)| Seen {
        phase: Phase::Running,
        ready,
        lasts,
        ..mine(trial)
    };
    assert_eq!(trial(&wanted, std::slice::from_ref(&old)), Trial::Begun);
    let again = [old.clone(), mine(Trial::Well)];
    assert_eq!(trial(&wanted, &again), Trial::Well);

    let tried = |trial| vec![Action::Try(id(2, 1), trial)];
    let seen = |wanted: &Wanted, trial, ready| about(wanted, &[&old, &runs(trial, ready)], 0);
    let (not, is, lasts) = ((false, false), (true, false), (true, true));
    assert_eq!(seen(&wanted, Trial::Begun, not), []);
    assert_eq!(seen(&wanted, Trial::Begun, is), tried(Trial::Well));
    assert_eq!(seen(&wanted, Trial::Begun, lasts), tried(Trial::Well));
    assert_eq!(seen(&wanted, Trial::Well, lasts), []);

    // The deployment is over.
    wanted.on_trial = false;
    assert_eq!(trial(&wanted, std::slice::from_ref(&old)), Trial::Late);
    assert_eq!(seen(&wanted, Trial::Late, not), []);
    assert_eq!(seen(&wanted, Trial::Late, is), tried(Trial::Well));
    assert_eq!(seen(&wanted, Trial::Late, lasts), tried(Trial::Over));
    assert_eq!(seen(&wanted, Trial::Begun, not), []);
    assert_eq!(seen(&wanted, Trial::Begun, is), tried(Trial::Well));
    assert_eq!(seen(&wanted, Trial::Begun, lasts), tried(Trial::Over));
    assert_eq!(seen(&wanted, Trial::Well, lasts), tried(Trial::Over));
    assert_eq!(seen(&wanted, Trial::Well, is), []);
    assert_eq!(seen(&wanted, Trial::Over, lasts), []);
    let is_given_up = |trial, how: &End, restart: serde_json::Value| {
        let mut wanted = wanted.clone();
        let mut document = json!({ "driver": "exec", "config": {}, "restart": restart });
        document["restart"]["put_back"] = true.into();
        wanted.workload = Ok(Arc::new(Workload::read(&document).unwrap()));
        let mine = Seen {
            phase: ended(1, 0, how.clone(), 0).phase,
            ..mine(trial)
        };
        about(&wanted, &[&old, &mine], 9).contains(&Action::GiveUp(id(2, 1)))
    };
    let fails = End::Exited(1);
    for (trial, again, no_more) in [
        // It was never healthy.
        (Trial::Begun, true, true),
        (Trial::Late, false, true),
        // It was, and may be again.
        (Trial::Well, false, true),
        (Trial::Over, false, false),
    ] {
        assert_eq!(is_given_up(trial, &fails, json!({})), again, "{trial:?}");
        let last = json!({ "attempts": 0 });
        assert_eq!(is_given_up(trial, &fails, last), no_more, "{trial:?}");
        // A service that ends has failed, however it ends, where it is not begun again.
        let once = json!({ "policy": "never" });
        assert_eq!(is_given_up(trial, &End::Exited(0), once), no_more);
    }
}

#[test]
fn what_runs_in_place_of_what_was_given_up_is_started_again() {
    let old = Seen {
        is_wanted: false,
        ..ended(1, 0, End::Exited(1), 0)
    };
    let mine = Seen {
        generation: 2,
        given_up: true,
        ..ended(1, 0, End::Exited(1), 0)
    };
    let back = Action::PutBack {
        run: id(1, 2),
        of: id(1, 1),
        row: 1,
    };
    let wanted = wanted(Ok(that(true, true)), Supply::Here);
    // It was never told to stop: the other was begun beside it.
    assert_eq!(about(&wanted, &[&old, &mine], 9), [back]);
    // What was given up itself is none that ran before.
    let former = Seen {
        given_up: true,
        ..old
    };
    let create = Action::Create {
        run: id(2, 2),
        row: 1,
    };
    assert_eq!(
        about(&wanted, &[&former, &mine], 9),
        std::slice::from_ref(&create)
    );
    let never_healthy = Seen {
        given_up: false,
        trial: Trial::Begun,
        ..former
    };
    assert_eq!(about(&wanted, &[&never_healthy, &mine], 9), [create]);
}

#[test]
fn what_never_proved_itself_does_not_stand_in_for_what_did() {
    let ended_at = |generation, attempt, how, trial, workload: &Arc<Workload>| Seen {
        generation,
        attempt,
        trial,
        is_wanted: false,
        workload: workload.clone(),
        ..ended(1, 0, End::Exited(how), 9)
    };
    let (says_so, says_not) = (that(false, true), that(false, false));
    let document = json!({
        "driver": "exec", "config": {}, "restart": { "put_back": true, "attempts": 0 },
    });
    let once = Arc::new(Workload::read(&document).unwrap());
    let good = Seen {
        asked: Some(Duration::ZERO),
        ..ended_at(1, 1, 0, Trial::Over, &says_so)
    };
    let back = |generation, attempt| Action::PutBack {
        run: id(generation, attempt + 1),
        of: id(generation, attempt),
        row: u32::from(generation > 1),
    };
    let missing = || wanted(Ok(that(false, true)), Supply::Missing("none".to_owned()));
    let unread = || wanted(Err("no".to_owned()), Supply::Here);
    for next in [missing, unread] {
        let next = Wanted {
            generation: 3,
            version: 3,
            ..next()
        };
        let of = |trial, workload| ended_at(2, 1, 1, trial, workload);
        for (bad, action) in [
            // It has crashed, once or for good; with a deployment that waits for the next one it is not tried any more.
            (of(Trial::Begun, &says_so), back(1, 1)),
            (of(Trial::Begun, &once), back(1, 1)),
            (of(Trial::Late, &says_so), back(1, 1)),
            (of(Trial::Well, &once), back(1, 1)),
            // What it is begun again as has to prove itself still.
            (of(Trial::Begun, &says_not), back(2, 1)),
            (of(Trial::Well, &says_so), back(2, 1)),
        ] {
            assert_eq!(about(&next, &[&good, &bad], 99), [action], "{bad:?}");
        }
        // An earlier attempt does not speak for it.
        let (earlier, last) = (of(Trial::Over, &says_so), of(Trial::Over, &once));
        let last = Seen { attempt: 2, ..last };
        assert_eq!(about(&next, &[&good, &earlier, &last], 99), []);
    }
    // However many attempts there were since, what proved itself is kept for the one that is wanted next.
    let attempts = (1..=9).map(|attempt| Seen {
        attempt,
        ..ended_at(2, 1, 1, Trial::Begun, &says_not)
    });
    let runs: Vec<Seen> = [good].into_iter().chain(attempts).collect();
    let all: Vec<&Seen> = runs.iter().collect();
    let done = about(&missing(), &all, 99);
    let forgets = |action: &&Action| matches!(action, Action::Forget(_));
    assert_eq!(done.iter().filter(forgets).count(), 9 - 1 - ENDED_KEPT);
    assert!(!done.contains(&Action::Forget(id(1, 1))), "{done:?}");
}

#[test]
fn what_is_on_its_way_out_and_wanted_again_is_ended_first() {
    let wanted = wanted(Ok(workload(false)), Supply::Here);
    let mut mine = Seen {
        generation: 2,
        phase: Phase::Running,
        asked: Some(Duration::from_secs(1)),
        ..ended(1, 0, End::Exited(0), 0)
    };
    assert_eq!(
        standing(&wanted, std::slice::from_ref(&mine)),
        Standing::Down
    );
    assert_eq!(about(&wanted, &[&mine], 5), [], "it has 5 s of grace");
    assert_eq!(about(&wanted, &[&mine], 6), [Action::Kill(id(2, 1))]);
    mine.phase = ended(1, 0, End::Exited(137), 0).phase;
    let create = Action::Create {
        run: id(2, 2),
        row: 0,
    };
    assert_eq!(about(&wanted, &[&mine], 6), [create]);
}

#[test]
fn what_is_down_waits_for_what_it_lacks_or_for_what_ran_before_it() {
    let id = |generation, attempt| RunId {
        key: key(0),
        generation,
        attempt,
    };
    let mut old = ended(1, 0, End::Exited(0), 9);
    (old.is_wanted, old.asked) = (false, Some(Duration::ZERO));
    let mine = |trial| Seen {
        generation: 2,
        trial,
        ..ended(1, 0, End::Exited(1), 0)
    };
    let back = Action::PutBack {
        run: id(1, 2),
        of: id(1, 1),
        row: 0,
    };
    let give_up = Action::GiveUp(id(2, 1));
    let (over, well) = (mine(Trial::Over), mine(Trial::Well));
    let missing = Supply::Missing("none".to_owned());
    let create = Action::Create {
        run: id(2, 2),
        row: 1,
    };
    let planned = |mine: &Seen, supply: &Supply, is_replaced, now| {
        let wanted = Wanted {
            generation: 2,
            version: 2,
            since: 0,
            workload: Ok(that(false, true)),
            supply: supply.clone(),
            is_held_up: false,
            is_replaced,
            on_trial: false,
        };
        let runs = vec![old.clone(), mine.clone()];
        let now = Duration::from_secs(now);
        let comes = comes_up(&wanted, &runs, now).map(|run| run.generation);
        let stands = standing(&wanted, &runs);
        let desired = BTreeMap::from([(key(0), wanted)]);
        let observed = BTreeMap::from([(key(0), runs)]);
        (plan(&desired, &observed, now).actions, comes, stands)
    };
    let cannot = Standing::CannotStart("none".to_owned());
    // It has proved itself, and waits, however long.
    let waits = (vec![], Some(2), cannot.clone());
    assert_eq!(planned(&over, &missing, false, 99), waits);
    let starts = (vec![create.clone()], Some(2), Standing::Down);
    assert_eq!(planned(&over, &Supply::Here, false, 99), starts);
    // It has not, and what ran before it takes its place when it would have been started again.
    assert_eq!(planned(&well, &missing, false, 0), waits);
    let goes_back = (vec![give_up, back], Some(1), cannot);
    assert_eq!(planned(&well, &missing, false, 99), goes_back);
    // Not where that one lacks its own.
    assert_eq!(planned(&well, &missing, true, 99), waits);
    assert_eq!(planned(&well, &Supply::Here, true, 99), starts);
}
