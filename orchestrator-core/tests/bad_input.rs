//! Whatever comes in from outside is refused with a typed error or left out; nothing panics, and what
//! is refused has changed nothing.

mod story;

use orchestrator_core::spec::{JobSpec, Placement, Strategy};
use orchestrator_core::{
    Command, Done, Ignored, Input, Interval, Job, Member, NodeChange, Observation, Presence,
    Rejection, Report, Request, Requests, Span,
};
use story::Story;

/// A rollout that is under way: n1 and n2 in flight, four to come.
fn under_way() -> Story {
    let mut story = Story::new();
    let play = "nodes n1..n6\ndeploy v1\neveryone started\ndeploy v2 rolling waves=2 max_failed_percent=100";
    story.play(play).unwrap_or_else(|why| panic!("{why}"));
    story
}

fn refused(story: &mut Story, input: Input<'_>) -> Rejection {
    let before = story.job.snapshot();
    let why = story
        .job
        .step(story.now, input)
        .expect_err("it is bad input");
    assert_eq!(
        story.job.snapshot(),
        before,
        "refused ({why}), and changed all the same"
    );
    why
}

/// What became of one report; that it changed nothing.
fn ignored(story: &mut Story, report: Report) -> Ignored {
    let before = story.job.snapshot();
    let (entries, sealed) = story
        .job
        .step(story.now, Input::Reports(&[report]))
        .expect("reports are never refused")
        .split();
    assert!(entries.is_empty());
    assert_eq!(story.job.snapshot(), before);
    let after = sealed.committed();
    assert!(after.effects.is_empty());
    assert_eq!(after.ignored.len(), 1);
    after.ignored[0].1
}

fn report(story: &Story) -> Report {
    let assignment = story.job.outstanding().next().expect("two are in flight");
    Report {
        target: assignment.target.expect("it is in flight"),
        generation: assignment.generation,
        number: 1,
        what: Observation::Interval(Interval::PASSING),
    }
}

#[test]
fn reports_about_nothing_are_left_out() {
    let mut story = under_way();
    let good = report(&story);
    let cases = [
        (
            Report {
                target: 6,
                ..good.clone()
            },
            Ignored::UnknownTarget,
        ),
        (
            Report {
                target: u32::MAX,
                ..good.clone()
            },
            Ignored::UnknownTarget,
        ),
        (
            Report {
                generation: good.generation - 1,
                ..good.clone()
            },
            Ignored::Stale,
        ),
        (
            Report {
                generation: 0,
                ..good.clone()
            },
            Ignored::Stale,
        ),
        (
            Report {
                generation: u64::MAX,
                ..good.clone()
            },
            Ignored::Impossible,
        ),
        (
            Report {
                generation: story.job.seq() + 1,
                ..good.clone()
            },
            Ignored::Impossible,
        ),
        // A target whose turn has not come has no assignment to speak of.
        (
            Report {
                target: 5,
                ..good.clone()
            },
            Ignored::Stale,
        ),
        (
            Report {
                number: 0,
                ..good.clone()
            },
            Ignored::Duplicate,
        ),
        (
            Report {
                what: Observation::Stopped,
                ..good.clone()
            },
            Ignored::NothingNew,
        ),
    ];
    for (report, why) in cases {
        assert_eq!(ignored(&mut story, report.clone()), why, "{report:?}");
    }
    story
        .step(Input::Reports(std::slice::from_ref(&good)))
        .expect("it is good");
    assert_eq!(ignored(&mut story, good.clone()), Ignored::Duplicate);
    story.play("cancel").expect("it fits");
    assert_eq!(
        ignored(&mut story, Report { number: 9, ..good }),
        Ignored::Idle
    );
}

#[test]
fn counts_that_cannot_be_say_nothing() {
    let mut story = under_way();
    let good = report(&story);
    for (total, failed) in [(0, 1), (0, u32::MAX), (99, 100)] {
        let what = Observation::Interval(Interval {
            checks: Some(true),
            requests: Some(Requests { total, failed }),
        });
        let report = Report {
            what,
            ..good.clone()
        };
        assert_eq!(ignored(&mut story, report), Ignored::Impossible);
    }
    for (number, total, failed) in [(1, u32::MAX, u32::MAX), (2, 0, 0)] {
        let what = Observation::Interval(Interval {
            checks: None,
            requests: Some(Requests { total, failed }),
        });
        let report = Report {
            number,
            what,
            ..good.clone()
        };
        story
            .step(Input::Reports(&[report]))
            .expect("reports are never refused");
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let mut story = under_way();
    let good = report(&story);
    let detail = "ä".repeat(100_000);
    let what = Observation::CannotStart { detail };
    story
        .step(Input::Reports(&[Report { what, ..good }]))
        .expect("reports are never refused");
    let reason = story
        .job
        .targets()
        .find_map(|t| t.reason)
        .expect("one failed");
    assert!(reason.len() < 600 && reason.ends_with('ä'), "{reason}");
}

#[test]
fn nodes_without_a_proper_name_are_refused_with_all_that_came_with_them() {
    let mut story = under_way();
    for name in ["", " ", "a/b", "n1\n", "ü", &"n".repeat(201)] {
        let changes = [
            NodeChange::Seen(Member::new("n9")),
            NodeChange::Seen(Member::new(name)),
        ];
        let why = refused(&mut story, Input::Nodes(&changes));
        assert!(matches!(why, Rejection::BadNodeName { .. }), "{why}");
        let change = NodeChange::Became {
            name: name.to_owned(),
            status: Presence::Gone,
        };
        refused(&mut story, Input::Nodes(&[change]));
    }
    assert_eq!(story.job.presence("n9"), None);
}

#[test]
fn a_million_targets_without_a_name_are_refused() {
    let mut story = under_way();
    let nameless: Vec<_> = (0..1_000_000)
        .map(|_| NodeChange::Seen(Member::new("")))
        .collect();
    let why = refused(&mut story, Input::Nodes(&nameless));
    assert!(matches!(why, Rejection::BadNodeName { .. }), "{why}");
}

#[test]
fn a_node_that_is_listed_twice_is_refused_by_name() {
    let mut story = under_way();
    let request = story
        .registration("v3 rolling on=n1,n2,n1")
        .expect("words of a story");
    let why = refused(&mut story, Input::Command(request));
    assert_eq!(why, Rejection::NodeTwice("n1".to_owned()));
}

#[test]
fn a_node_that_nobody_knows_may_go() {
    let mut story = under_way();
    let seq = story.job.seq();
    let change = NodeChange::Became {
        name: "n77".to_owned(),
        status: Presence::Gone,
    };
    story.step(Input::Nodes(&[change])).expect("it is no fault");
    assert_eq!(story.job.seq(), seq);
}

#[test]
fn a_deployment_over_no_nodes_waits_for_the_first() {
    let mut story = Story::new();
    story
        .play(
            "deploy v1 rolling waves=2\nexpect waiting for a ready node\nexpect counts total 0\n\
             expect no wake-up\nnodes n1\nexpect started n1",
        )
        .unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn commands_that_do_not_fit_say_what_is_so() {
    let mut story = under_way();
    let id = story.job.deployment().expect("it is under way").id;
    let other = "01900000-0000-7000-8000-000000000000"
        .parse()
        .expect("an id");
    let cases: [(Command, &str); 9] = [
        (
            Command::Resume(id),
            "cannot resume a deployment that is in_progress",
        ),
        (Command::Promote(id), "this deployment has no canaries"),
        (Command::Pause(other), "knows no deployment 01900000"),
        (Command::Cancel(other), "knows no deployment"),
        (
            Command::Fail {
                deployment: other,
                reason: String::new(),
            },
            "knows no deployment",
        ),
        (Command::Restart, "is under way"),
        (Command::RollBack { to: Some(9) }, "there is no version 9"),
        (
            Command::RollBack { to: Some(2) },
            "version 2 was never stable",
        ),
        (Command::Scale { replicas: 3 }, "only a job with `replicas`"),
    ];
    for (command, text) in cases {
        let why = refused(&mut story, command.into()).to_string();
        assert!(why.contains(text), "{why}");
    }
    let stale = Request {
        command: Command::Pause(id),
        key: None,
        expected: Some(1),
    };
    let why = refused(&mut story, Input::Command(stale)).to_string();
    assert!(why.contains("expected revision 1, but it is at"), "{why}");
}

#[test]
fn another_jobs_spec_is_refused() {
    let mut story = under_way();
    let mut other = Job::new("api".parse().expect("a name"), 1);
    let request = story.registration("v3").expect("words of a story");
    let why = other
        .step(story.now, Input::Command(request))
        .expect_err("it is web's");
    assert!(matches!(why, Rejection::OtherJob { .. }), "{why}");
    assert_eq!(other.seq(), 0);
    story.play("pass 1s").expect("the story goes on");
}

#[test]
fn time_may_do_what_it_likes() {
    let mut story = under_way();
    for millis in [0, u64::MAX, 1, u64::MAX / 2, 0] {
        story.now = orchestrator_core::Time::from_millis(millis);
        story.step(Input::Tick).expect("time is never refused");
        story
            .step(Input::Absent { millis: u64::MAX })
            .expect("time is never refused");
    }
    story.now = story.now.after(Span::from_secs(1));
    story
        .play("wave healthy")
        .unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn a_clock_gone_mad_does_not_use_time_up() {
    let mut story = under_way();
    let sane = story.now;
    for _ in 0..3 {
        for now in [orchestrator_core::Time::MAX, sane] {
            story.now = now;
            story.step(Input::Tick).expect("time is never refused");
        }
    }
    story
        .play(
            "deploy v9 rolling deadline=5m\npass 5m\nexpect type rollback\nexpect previous failed",
        )
        .unwrap_or_else(|why| panic!("{why}"));
}

#[test]
fn an_answer_says_whether_anything_changed() {
    let mut story = under_way();
    let mut answer = |words: &str| {
        let request = story.registration(words).expect("words of a story");
        let step = story
            .job
            .step(story.now, Input::Command(request))
            .expect("it fits");
        step.split().1.committed().answer.expect("it is a command")
    };
    let same = answer("v2 rolling waves=2 max_failed_percent=100");
    assert!(!same.changed && same.version == 2 && same.deployment.is_some());
    let next = answer("v3 rolling waves=2 max_failed_percent=100");
    assert!(next.changed && next.version == 3 && next.deployment != same.deployment);
}

#[test]
fn a_spec_that_no_log_could_hold_is_refused() {
    let mut story = under_way();
    let mut refuse = |change: &dyn Fn(&mut JobSpec), field: &str| {
        let mut request = story.registration("v3 rolling").expect("words of a story");
        let Command::Register { spec, .. } = &mut request.command else {
            panic!("it registers");
        };
        change(spec);
        let why = refused(&mut story, Input::Command(request));
        let Rejection::InvalidSpec(errors) = &why else {
            panic!("{why}");
        };
        assert_eq!(errors.errors()[0].field, field, "{why}");
    };
    refuse(
        &|s| s.rollout.max_failed_nodes_percent = f64::NAN,
        "rollout.max_failed_nodes_percent",
    );
    refuse(
        &|s| s.rollout.max_failed_nodes_percent = -1.0,
        "rollout.max_failed_nodes_percent",
    );
    refuse(
        &|s| {
            if let Strategy::Rolling { health_check } = &mut s.rollout.strategy {
                health_check.deadline = Span::from_secs(1);
            }
        },
        "rollout.health_check.deadline",
    );
    refuse(
        &|s| {
            s.placement = Placement::Replicas {
                count: u32::MAX,
                distinct: false,
            }
        },
        "replicas",
    );
    refuse(
        &|s| s.lost_after = Span::from_secs(u64::MAX / 1000),
        "lost_after",
    );
    refuse(
        &|s| {
            let deep = (0..100).fold(serde_json::Value::Null, |inner, _| {
                serde_json::json!([inner])
            });
            s.workload.insert("config".to_owned(), deep);
        },
        "config",
    );
    refuse(
        &|s| {
            s.workload
                .insert("config".to_owned(), "x".repeat(2 << 20).into());
        },
        "workload",
    );
}

#[test]
fn a_job_is_scaled_within_bounds() {
    let mut story = Story::new();
    story
        .play("nodes n1\ndeploy v1 replicas=1")
        .unwrap_or_else(|why| panic!("{why}"));
    let why = refused(&mut story, Command::Scale { replicas: u32::MAX }.into());
    assert_eq!(why, Rejection::TooManyReplicas(u32::MAX));
}

#[test]
fn a_key_that_cannot_be_kept_is_refused() {
    let mut story = under_way();
    let request = Request {
        key: Some("k".repeat(201)),
        ..Command::Stop.into()
    };
    assert_eq!(
        refused(&mut story, Input::Command(request)),
        Rejection::KeyLength(201)
    );
}

#[test]
fn an_empty_key_is_none() {
    let mut story = under_way();
    let request = Request {
        key: Some(String::new()),
        ..Command::Restart.into()
    };
    assert_eq!(
        refused(&mut story, Input::Command(request)),
        Rejection::KeyLength(0)
    );
}

#[test]
fn a_long_label_is_refused() {
    let mut story = under_way();
    let member = Member {
        zone: "z".repeat(1000),
        ..Member::new("n9")
    };
    let why = refused(
        &mut story,
        Input::Nodes(&[NodeChange::Seen(member.clone())]),
    );
    assert!(
        matches!(why, Rejection::LabelTooLong { bytes: 1000, .. }),
        "{why}"
    );
    let why = refused(&mut story, Input::Members(&[member]));
    assert!(
        matches!(why, Rejection::LabelTooLong { bytes: 1000, .. }),
        "{why}"
    );
}

#[test]
fn what_is_not_there_has_no_name() {
    let story = under_way();
    assert_eq!(story.job.node_name(99), "");
    assert_eq!(story.job.target_name(1, 99), None);
    let nothing = story.job.assignment(99);
    assert_eq!(
        (nothing.node, nothing.version, nothing.target),
        ("", 0, None)
    );
}

#[test]
fn the_end_of_work_that_nobody_did_is_left_out() {
    let mut story = Story::new();
    let play = "nodes n1..n3\ndeploy v1 batch\nn1 n2 exit 0";
    story.play(play).unwrap_or_else(|why| panic!("{why}"));
    let told = |story: &Story, node: &str| {
        let told = story.job.desired(node);
        told.first().map(|a| (a.slot, a.generation))
    };
    let (slot, generation) = told(&story, "n3").expect("n3 was told to run it");
    let done = |slot, generation| Done { slot, generation };
    let all = [
        done(99, generation),
        done(slot, generation - 1),
        done(slot, generation + 99),
        done(slot, generation),
    ];
    let before = story.job.snapshot();
    let step = story.job.step(story.now, Input::Done(&all));
    let (entries, sealed) = step.expect("ends are never refused").split();
    let ignored: Vec<_> = sealed.committed().ignored.into_iter().collect();
    assert_eq!(
        ignored,
        [
            (0, Ignored::UnknownTarget),
            (1, Ignored::Stale),
            (2, Ignored::Impossible),
            // A deployment waits for it: that is a report's to say.
            (3, Ignored::NothingNew),
        ]
    );
    assert!(entries.is_empty());
    assert_eq!(story.job.snapshot(), before);
}

#[test]
fn a_command_to_a_deployment_that_is_over_is_told_so_whatever_it_expects() {
    let mut story = Story::new();
    let play = "nodes n1 n2\ndeploy v1\neveryone started\ndeploy v2 rolling 1";
    story.play(play).unwrap_or_else(|why| panic!("{why}"));
    let first = story.job.record_by_number(1).expect("it is remembered");
    let request = Request {
        command: Command::Pause(first.id),
        key: None,
        expected: Some(first.status.revision),
    };
    let why = refused(&mut story, request.into());
    assert!(matches!(why, Rejection::Over { .. }), "{why}");
}
