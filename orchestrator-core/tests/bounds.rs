//! However long a job lives, it does not grow: versions, deployments, keys and texts are bounded, and what
//! is still needed is kept.

mod story;

use orchestrator_core::{Command, Input, Request};
use story::Story;

fn play(story: &mut Story, line: &str) {
    story.play(line).unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn old_versions_are_forgotten_and_the_needed_ones_kept() {
    let mut story = Story::new();
    play(
        &mut story,
        "nodes n1..n3\ndeploy v1\neveryone started\nexpect completed",
    );
    // A hundred versions that never prove themselves: 1 stays the stable one.
    for number in 2..=100 {
        play(
            &mut story,
            &format!("deploy v{number} rolling no_auto_rollback\nwave cannot start"),
        );
        play(&mut story, "expect failed");
    }
    let numbers: Vec<u32> = story.job.versions().map(|v| v.number).collect();
    assert!(numbers.len() <= 64, "{} versions are kept", numbers.len());
    assert_eq!(numbers[0], 1, "the stable version is needed");
    assert!(story.job.spec(1).is_some() && story.job.spec(2).is_none());
    assert_eq!(*numbers.last().expect("there are some"), 100);
    play(
        &mut story,
        "rollback\nexpect from v100 to v1\nwave stays healthy 30s\nexpect completed",
    );
    play(&mut story, "expect everyone runs v1");
    // The number goes on from the highest ever.
    play(&mut story, "deploy w1\nexpect version v101");
}

#[test]
fn the_version_to_go_back_to_is_kept() {
    let mut story = Story::new();
    play(&mut story, "nodes n1..n3\ndeploy v1\neveryone started");
    for number in 2..=99 {
        play(
            &mut story,
            &format!("deploy v{number} no_auto_rollback\nfail no"),
        );
    }
    // Nothing runs version 1 any more, and yet it is the only way back from version 100.
    play(
        &mut story,
        "deploy v100\neveryone started\nexpect stable v1 v100\nexpect everyone runs v100",
    );
    play(
        &mut story,
        "rollback\nexpect type rollback\neveryone started\nexpect everyone runs v1",
    );
}

/// Nodes that live for a minute each, as bought by the hour: neither they nor their executions leave a trace.
#[test]
fn a_job_does_not_grow_with_the_nodes_that_came_and_went() {
    for placement in ["", "replicas=12", "distinct=3"] {
        let mut story = Story::new();
        let first = format!("nodes n1..n10\ndeploy v1 {placement}\neveryone started");
        play(&mut story, &first);
        let size = |story: &Story| story.job.snapshot().len();
        let before = size(&story);
        for node in 100..400 {
            play(&mut story, &format!("nodes s{node}\ns{node} gone"));
        }
        let after = size(&story);
        assert!(
            after < before + before / 4,
            "{placement}: {before}, {after}"
        );
        play(
            &mut story,
            "expect executions v1 10"
                .replace(
                    "10",
                    if placement.is_empty() {
                        "10"
                    } else if placement.starts_with('r') {
                        "12"
                    } else {
                        "3"
                    },
                )
                .as_str(),
        );
    }
}

/// The same while a deployment waits for a person, who may be long in coming.
#[test]
fn a_deployment_does_not_grow_with_the_nodes_that_came_and_went() {
    for placement in ["", "replicas=12"] {
        let mut story = Story::new();
        let first = format!(
            "nodes n1..n10\ndeploy v1 {placement}\neveryone started\ndeploy v2 canary 1 {placement}\nwave stays healthy 30s"
        );
        play(&mut story, &first);
        let before = story.job.snapshot().len();
        for node in 100..400 {
            play(&mut story, &format!("s{node} joins\ns{node} gone"));
            if !placement.is_empty() {
                play(&mut story, "scale 14\nscale 12");
            }
        }
        let after = story.job.snapshot().len();
        assert!(
            after < before + before / 4,
            "{placement}: {before}, {after}"
        );
        play(&mut story, "expect waiting for promotion\npromote");
        play(&mut story, "everyone stays healthy 30s\nexpect completed");
    }
}

/// The same where the canary itself has to leave its node again and again.
#[test]
fn a_deployment_does_not_grow_with_the_moves_of_its_canary() {
    for placement in ["", "replicas=3", "distinct=3"] {
        let mut story = Story::new();
        let first = format!(
            "nodes n1..n4\ndeploy v1 {placement}\neveryone started\ndeploy v2 canary 1 {placement}"
        );
        play(&mut story, &first);
        play(
            &mut story,
            "wave stays healthy 30s\n#1 draining\neveryone back",
        );
        let before = story.job.snapshot().len();
        for _ in 0..300 {
            play(&mut story, "#1 draining\neveryone back");
        }
        let after = story.job.snapshot().len();
        assert!(
            after < before + before / 10,
            "{placement}: {before}, {after}"
        );
        play(&mut story, "everyone stays healthy 30s\npromote");
        play(&mut story, "everyone stays healthy 30s\nexpect completed");
    }
}

/// That a version failed is remembered for as long as anything runs it, however many deployments came after.
#[test]
fn a_failed_version_starts_nowhere_however_long_ago_it_failed() {
    let mut story = Story::new();
    let failed = "nodes n1..n4\ndeploy v1 replicas=3\neveryone started\n\
        deploy v2 rolling 1 replicas=3 no_auto_rollback max_failed=0\n\
        #1 cannot start no such image\nexpect failed\nn1..n4 lost";
    play(&mut story, failed);
    for number in 0..20 {
        play(&mut story, &format!("deploy a{number} replicas=3\ncancel"));
    }
    play(&mut story, "n1..n4 back");
    for node in 1..=4 {
        play(&mut story, &format!("n{node} draining\nn{node} back"));
    }
    play(&mut story, "expect executions v1 3");
}

/// The same where each node that leaves holds an execution, which has to move.
#[test]
fn a_job_does_not_grow_with_the_nodes_that_its_executions_left() {
    let mut story = Story::new();
    play(
        &mut story,
        "nodes n1..n2\ndeploy v1 replicas=3\neveryone started",
    );
    let before = story.job.snapshot().len();
    for node in 2..300 {
        play(
            &mut story,
            &format!("nodes n{}\nn{} gone", node + 1, node - 1),
        );
        play(&mut story, "expect executions v1 3");
    }
    let after = story.job.snapshot().len();
    assert!(after < before + before / 4, "{before}, {after}");
}

/// However many values a spread label has, hearing the same twice changes nothing.
#[test]
fn more_zones_than_can_be_told_apart_are_one() {
    use orchestrator_core::{Member, NodeChange};
    let mut story = Story::new();
    play(
        &mut story,
        "nodes n1\ndeploy v1 replicas=1 spread=zone\neveryone started",
    );
    let seen = |zone: String| {
        [NodeChange::Seen(Member {
            zone,
            ..Member::new("n1")
        })]
    };
    let mut entries = |zone: String| {
        let step = story.job.step(story.now, Input::Nodes(&seen(zone)));
        step.expect("it fits").split().0.len()
    };
    for number in 0..66_000 {
        entries(format!("z{number}"));
    }
    assert_eq!(entries("z65999".to_owned()), 0);
    assert_eq!(entries("z65998".to_owned()), 0, "they are one zone");
    assert_eq!(entries("z3".to_owned()), 1);
}

#[test]
fn versions_that_nodes_still_run_are_kept() {
    let mut story = Story::new();
    play(
        &mut story,
        "nodes n1..n3\ndeploy v1\neveryone started\nn3 lost",
    );
    for number in 2..=100 {
        play(
            &mut story,
            &format!("deploy v{number}\nwave started\nexpect completed"),
        );
    }
    assert!(story.job.versions().count() <= 65);
    // The node that was away all the time was told version 1 last, and learns of the newest.
    assert!(story.job.spec(1).is_some(), "it is what n3 runs");
    play(&mut story, "n3 back\nexpect n3 runs v100");
}

#[test]
fn only_the_last_deployments_are_remembered() {
    let mut story = Story::new();
    play(&mut story, "nodes n1\ndeploy v1\neveryone started");
    let mut ids = Vec::new();
    for _ in 0..40 {
        play(&mut story, "restart\nwave started");
        ids.push(story.job.deployment().expect("it is over").id);
    }
    let known = ids
        .iter()
        .filter(|&&id| story.job.record(id).is_some())
        .count();
    assert_eq!(known, 17, "the last one and sixteen before it");
    assert!(story.job.record(ids[0]).is_none() && story.job.record(ids[39]).is_some());
}

#[test]
fn only_the_last_keys_are_remembered() {
    let mut story = Story::new();
    play(&mut story, "nodes n1\ndeploy v1\neveryone started");
    for number in 0..200 {
        play(&mut story, &format!("restart key=k{number}\nwave started"));
    }
    let mut again = |number: u32| {
        let request = Request {
            key: Some(format!("k{number}")),
            ..Command::Restart.into()
        };
        let step = story.job.step(story.now, Input::Command(request));
        let (entries, sealed) = step.expect("it fits").split();
        let answer = sealed.committed().answer.expect("it is a command");
        assert!(answer.changed, "it is answered as the first time");
        !entries.is_empty()
    };
    assert!(!again(199), "it was done before");
    assert!(!again(72), "the 128th");
    assert!(again(71), "too long ago to be known");
}

#[test]
fn a_snapshot_does_not_grow_with_age() {
    let mut story = Story::new();
    play(&mut story, "nodes n1..n4\ndeploy v1\neveryone started");
    let mut sizes = Vec::new();
    for round in 0..4 {
        for _ in 0..10 {
            play(
                &mut story,
                "restart\nn1 draining\nn1 back\nn2 gone\nnodes n2\nn3 lost\nn3 back",
            );
            play(&mut story, "wave started\npass 2h\nexpect no wake-up");
            play(&mut story, "scale 9\nexpect refused replicas");
        }
        sizes.push((round, story.job.snapshot().len()));
    }
    let (early, late) = (sizes[1].1, sizes[3].1);
    assert!(late < early + early / 10, "{sizes:?}");
}

#[test]
fn versions_are_numbers_and_not_texts() {
    use orchestrator_core::{Entry, Event, Job, Member, NodeChange, Observation, Report};
    let mut story = Story::new();
    play(&mut story, "deploy v1");
    let registered = |e: &&Entry| e.event.kind() == "registered";
    let one = story.log.iter().find(registered).expect("it was").clone();
    let Event::Registered { spec, .. } = &one.event else {
        unreachable!("it is one");
    };
    // Where a number needs one more digit, one more byte, and two bytes do not hold it any more.
    for border in [10, 256, 65_536] {
        // That so many versions came before these is all that the log says.
        let first = border - 2;
        let past = (1..first).flat_map(|version| {
            let spec = spec.clone();
            let forgot = (version > 1).then(|| Event::Forgot {
                version: version - 1,
            });
            std::iter::once(Event::Registered { version, spec }).chain(forgot)
        });
        let before = (1..).zip(past).map(|(seq, event)| Entry {
            seq,
            of: None,
            more: 0,
            event,
            ..one
        });
        let mut job = Job::new(story.job.id().clone(), story::SEED);
        job.catch_up(before).expect("there is no gap");
        let mut step = |input: Input<'_>| {
            let _ = job.step(story.now, input).expect("it fits").split();
            let report = |a: orchestrator_core::Assignment<'_>| Report {
                target: a.target.expect("it is waited for"),
                generation: a.generation,
                number: 1,
                what: Observation::Started,
            };
            let reports: Vec<Report> = job.outstanding().map(report).collect();
            let step = job.step(story.now, Input::Reports(&reports));
            let _ = step.expect("it fits").split();
            (job.version(), job.current())
        };
        step(Input::Nodes(&[NodeChange::Seen(Member::new("n1"))]));
        for number in first..=border + 1 {
            let register = story.registration(&format!("v{number}"));
            let register = register.expect("it is one");
            assert_eq!(step(register.into()), (number, number));
        }
        for current in (first..=border).rev() {
            let back = Command::RollBack { to: None };
            assert_eq!(step(back.into()), (border + 1, current));
        }
        let register = story.registration("w").expect("it is one");
        assert_eq!(step(register.into()), (border + 2, border + 2));
    }
}
