//! What a driver that starts again, and one that prints what went wrong, relies on.

mod story;

use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    Command, Entry, Event, Input, Job, Member, NodeChange, Presence, Request, Time, laws,
};
use story::{SEED, Story};

fn played(lines: &str) -> Story {
    let mut story = Story::new();
    story.play(lines).unwrap_or_else(|why| panic!("{why}"));
    story
}

#[test]
fn a_job_that_is_rebuilt_takes_the_time_until_its_first_step_for_nobodys() {
    let story = played("nodes n1..n3\ndeploy v1\neveryone started\ndeploy v2 rolling deadline=2m");
    let later = story.now.after(orchestrator_core::Span::from_secs(3600));
    let rebuilt = || Job::recover("web".parse().expect("a name"), SEED, &story.log);
    let mut job = rebuilt().expect("no gap");
    // Neither a copy, nor a plan, nor what is refused is a first step.
    assert!(job.clone().step(later, Input::Tick).is_ok());
    let cancel = Command::Cancel(job.deployment().expect("it goes on").id);
    assert!(job.plan(later, Request::from(cancel)).is_ok());
    assert!(job.step(later, Command::Restart.into()).is_err());
    let (entries, _) = job.step(later, Input::Tick).expect("it is time").split();
    let absent = |e: &Entry| matches!(e.event, Event::Absent { millis: 3_600_000 });
    assert!(entries.len() == 1 && absent(&entries[0]), "{entries:?}");
    // Once.
    let much_later = later.after(orchestrator_core::Span::from_secs(120));
    let (entries, _) = job
        .step(much_later, Input::Tick)
        .expect("it is time")
        .split();
    assert_eq!(entries[0].event.kind(), "failed");
    // A driver that was there, and only had put the job away, says so and is believed.
    let mut job = rebuilt().expect("no gap");
    let step = job.step(later, Input::Absent { millis: 0 });
    let (entries, _) = step.expect("it is taken").split();
    assert_eq!(entries[0].event.kind(), "failed");
}

/// Of programs that were never released, but whose data is there: the one wrote the open waves in the order in which they
/// began, the other nobody's number of those who are waited for.
#[test]
fn what_was_written_in_an_earlier_form_goes_on() {
    let begin: Time = "2026-01-01T00:00:32Z".parse().expect("a time");
    for (bytes, waits) in [
        (
            &include_bytes!("golden/earlier/open-in-the-order-of-opening.json")[..],
            "waiting for 4 nodes to become healthy",
        ),
        (
            &include_bytes!("golden/earlier/quiet-without-awaited.json")[..],
            "waiting for 2 of them to become healthy again",
        ),
    ] {
        let mut job = Job::from_snapshot(bytes).expect("it is read");
        let mut now = begin;
        let _ = job.step(now, Input::Tick).expect("it is time");
        let status = job.deployment().expect("it is there").status;
        assert!(status.message.contains(waits), "{}", status.message);
        // Nobody is heard of any more: each deadline passes in its turn, until it is over.
        let mut steps = 0;
        while let Some(wake) = job.wake() {
            assert!(wake > now, "{wake:?} is not after {now:?}");
            now = wake;
            let _ = job.step(now, Input::Tick).expect("it is time");
            assert_eq!(laws::check(&job), Ok(()));
            steps += 1;
            assert!(steps < 100, "{:?}", job.waiting_on());
        }
        assert_eq!(job.waiting_on(), None);
    }
}

#[test]
fn an_error_is_printed_once() {
    let story = played("nodes n1");
    let mut request = story.registration("v1").expect("a command");
    if let Command::Register { spec, .. } = &mut request.command {
        spec.lost_after = orchestrator_core::Span::from_millis(u64::MAX);
    }
    let why = story.job.plan(story.now, request).expect_err("it is none");
    let source = std::error::Error::source(&why)
        .expect("it says why")
        .to_string();
    assert!(!why.to_string().contains(&source), "{why}");
}

#[test]
fn a_list_that_comes_again_writes_nothing() {
    let now = Time::from_millis(1_767_225_600_000);
    let statuses = [
        Presence::Ready,
        Presence::Draining,
        Presence::Disconnected,
        Presence::Down,
    ];
    let spec = r#"{"job_id": "web", "driver": "exec", "config": {}, "replicas": 2}"#;
    let register = || Command::Register {
        spec: Box::new(JobSpec::parse(spec).expect("a spec")),
        members: None,
        again: false,
    };
    let member = |name: &str, status, zone: &str, load| Member {
        status,
        zone: zone.to_owned(),
        load,
        ..Member::new(name)
    };
    for before in statuses {
        for after in statuses {
            for (zone, load) in [("a", 0), ("b", 0), ("a", 5), ("b", 5)] {
                let mut job = Job::new("web".parse().expect("an id"), 1);
                let others = member("n2", Presence::Ready, "a", 0);
                let first = [member("n1", before, "a", 0), others.clone()];
                for input in [Input::Members(&first), register().into()] {
                    let _ = job.step(now, input).expect("it fits").split();
                }
                let list = [member("n1", after, zone, load), others];
                let _ = job
                    .step(now, Input::Members(&list))
                    .expect("it fits")
                    .split();
                let again = job.step(now, Input::Members(&list)).expect("it fits");
                let what = format!("{before:?} to {after:?} in {zone} with {load}");
                assert_eq!(again.entries(), [], "{what}");
            }
        }
    }
}

/// A job that was removed and begins anew under its name has nothing of the one before it to go back to.
#[test]
fn a_job_that_begins_anew_goes_back_to_nothing_of_the_one_before() {
    let first =
        played("nodes n1..n3\ndeploy v1\neveryone started\ndeploy v2 rolling\nwave healthy");
    let old = first.job.deployment().expect("it goes on").id;
    let mut second = Story::new();
    second.now = first.now.after(orchestrator_core::Span::from_secs(60));
    second
        .play("nodes n1..n3\ndeploy v3 rolling max_failed=0\nexpect version v1\nwave exits 1")
        .unwrap_or_else(|why| panic!("{why}"));
    for line in [
        "expect failed",
        "expect no rollback",
        "expect message no stable version",
        "rollback v2\nexpect refused no version 2",
    ] {
        second.play(line).unwrap_or_else(|why| panic!("{why}"));
    }
    // Nor does it take the one's deployments for its own.
    assert!(second.job.record(old).is_none());
    let before = second.job.snapshot();
    assert!(
        second
            .job
            .step(second.now, Command::Promote(old).into())
            .is_err()
    );
    assert_eq!(second.job.snapshot(), before);
}

/// Two copies share nothing: what befalls the one leaves the other as it was.
#[test]
fn a_copy_stays_as_it_was() {
    let mut story = played("nodes n1..n5\ndeploy v1\neveryone started\ndeploy v2 canary 1 waves=2");
    let copy = story.job.clone();
    let (before, record) = (copy.snapshot(), copy.deployment());
    for line in [
        "#1 stays healthy 30s",
        "n6 joins",
        "promote",
        "wave exits 1",
        "n3 gone",
        "wave stays healthy 30s",
        "deploy v3 replicas=4",
        "scale 7",
    ] {
        story.play(line).unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(copy.snapshot(), before, "{line}");
        assert_eq!(copy.deployment(), record, "{line}");
    }
    assert_ne!(story.job.snapshot(), before);
}

#[test]
fn whatever_is_wanted_after_a_restart_says_that_there_was_one() {
    let mut story = played("nodes n1 n2\ndeploy v1 rolling 1");
    let mut after = |lines: &str| {
        story.play(lines).unwrap_or_else(|why| panic!("{why}"));
        [0, 1].map(|slot| {
            let told = story.job.assignment(slot);
            (told.generation, told.since)
        })
    };
    let first = after("wave stays healthy 30s\nwave stays healthy 30s\nexpect completed");
    assert_eq!(first.map(|(_, since)| since), [0, 0]);
    // One after the other: who has not been told yet is to do nothing.
    let half = after("restart");
    let told = half[0].max(half[1]);
    assert!(told.0 > first[0].0.max(first[1].0) && told.1 == told.0);
    assert_eq!(half.map(|(_, since)| since).into_iter().min(), Some(0));
    // Both are to have begun since the first of them was told.
    let both = after("wave stays healthy 30s\nwave stays healthy 30s\nexpect completed");
    assert_eq!(both.map(|(_, since)| since), [told.1; 2]);
    let later = after("deploy v2\neveryone started\nrollback\neveryone started");
    assert!(
        later
            .iter()
            .all(|(generation, _)| *generation > both[0].0.max(both[1].0))
    );
    assert_eq!(later.map(|(_, since)| since), [told.1; 2]);
    let snapshot = story.job.snapshot();
    let job = Job::from_snapshot(&snapshot).expect("it is read");
    assert_eq!(job.assignment(0), story.job.assignment(0));
}

#[test]
fn a_restart_that_is_due_is_told_also_by_a_program_that_did_not_see_it() {
    let bytes = include_bytes!("golden/earlier/a-restart-is-due-without-restarted.json");
    let mut job = Job::from_snapshot(&bytes[..]).expect("it is read");
    let now: Time = "2026-01-01T00:00:32Z".parse().expect("a time");
    let before = job.assignment(1).generation;
    let back = NodeChange::Became {
        name: "n2".to_owned(),
        status: Presence::Ready,
    };
    let _ = job.step(now, Input::Nodes(&[back])).expect("it is back");
    let told = job.assignment(1);
    assert!(told.generation > before);
    assert_eq!(told.since, told.generation);
    assert_eq!(job.assignment(0).since, 0);
}
