//! Why it rolled back, in plain words, from nothing but the log.

mod story;

use orchestrator_core::{BrokenLog, Job, Narrator, explain, retell};
use story::Story;

#[test]
fn a_rolled_back_canary_is_explained_from_its_log() {
    let mut story = Story::new();
    let told = "\
nodes n1..n6
deploy v1
everyone started
deploy v2 canary 2 waves=2
#1 #2 healthy
pass 10s
#1 errors 30 of 100
pass 10s
#1 errors 30 of 100
pass 10s
#1 errors 50 of 100
wave stays healthy 30s
wave stays healthy 30s
expect completed";
    story.play(told).unwrap();
    let rollback = story.job.deployment().unwrap();
    let failed = rollback.rollback_of.unwrap();
    let log = story.log.clone();
    let new = || Job::new(story.job.id().clone(), 7);
    let explained = explain(new(), &log, failed).unwrap().unwrap().to_string();
    assert_eq!(
        explained,
        "\
2026-01-01T00:00:00.000Z  version 1 to version 2 began over 6 nodes (canary, 2 first)
2026-01-01T00:00:00.000Z  wave 1 was sent to canaries n3, n5
2026-01-01T00:00:30.000Z  n3 failed: 3 bad intervals in a row, at last 50 errors in 100 requests (50.0 %)
2026-01-01T00:00:30.000Z  failed: canary n3 failed; rolling back to version 1
2026-01-01T00:00:30.000Z  version 2 to version 1 began over 2 nodes (rollback)
2026-01-01T00:00:30.000Z  wave 1 was sent to n3
2026-01-01T00:01:00.000Z  wave 2 was sent to n5
2026-01-01T00:01:30.000Z  completed: every target had its turn
now: rolled back to version 1: 2 of 2 nodes updated"
    );
    let gap = explain(new(), &log[1..], failed).unwrap_err();
    assert_eq!(
        gap,
        BrokenLog::Gap {
            expected: 1,
            found: 2
        }
    );
    // Where only its own entries are kept, their words say the same.
    let mut narrator = Narrator::new(new(), 20);
    let mut said = Vec::new();
    for entry in &log {
        let sentence = narrator.tell(entry).unwrap();
        // The first deployment is another one's story.
        if entry.of.is_some_and(|of| of.deployment > 1) {
            said.push((entry, sentence.to_string()));
        }
    }
    let now = rollback.status.message;
    assert_eq!(retell(said, now).to_string(), explained);
    let unknown = "01900000-0000-7000-8000-000000000000".parse().unwrap();
    assert_eq!(explain(new(), &log, unknown).unwrap(), None);
}

/// Nobody reads a thousand waves; but why they came to an end is in what is left of them.
#[test]
fn a_long_rollout_is_explained_by_what_mattered() {
    let mut story = Story::new();
    let begin = "nodes n1..n99\ndeploy v1\neveryone started\n\
        deploy v2 rolling 1 max_failed=2 max_failed_percent=100";
    story.play(begin).unwrap();
    let waves = |story: &mut Story, count: usize, line: &str| {
        for _ in 0..count {
            story.play(line).unwrap();
        }
    };
    waves(&mut story, 40, "wave stays healthy 30s");
    story.play("wave cannot start no such image").unwrap();
    waves(&mut story, 10, "wave stays healthy 30s");
    story.play("pause").unwrap();
    story.play("resume").unwrap();
    story.play("wave exits 3\nwave exits 3").unwrap();
    let failed = story.job.deployment().unwrap().rollback_of.unwrap();
    waves(&mut story, 51, "wave stays healthy 30s");
    story.play("expect completed").unwrap();
    let new = Job::new(story.job.id().clone(), 7);
    let explained = explain(new, &story.log, failed).unwrap().unwrap();
    let text = explained.to_string();
    for sentence in [
        "version 1 to version 2 began over 99 nodes",
        "wave 1 was sent",
        "no such image",
        "paused",
        "resumed",
        "exited with code 3",
        "rolling back to version 1",
        "version 2 to version 1 began",
        "completed: every target",
    ] {
        assert!(text.contains(sentence), "{sentence}: {text}");
    }
    // Of every stretch something is left, and how much is not.
    assert!(explained.links.len() < 50, "{text}");
    let more = explained
        .links
        .iter()
        .filter(|(_, text)| text.contains("more …"));
    assert_eq!(more.count(), 3, "{text}");
    assert!(explained.links.is_sorted_by_key(|(at, _)| *at), "{text}");
}

/// What people did stays, however many waves went out before and after it; and what is left out is said with its
/// beginning.
#[test]
fn what_people_did_is_not_lost_among_waves() {
    let mut story = Story::new();
    let mut play = |lines: &str, count: usize| {
        for _ in 0..count {
            story.play(lines).unwrap();
        }
    };
    play("nodes n1..n99\ndeploy v1\neveryone started", 1);
    play("deploy v2 rolling 1", 1);
    play("wave stays healthy 30s", 48);
    play("pause\nresume", 1);
    play("wave stays healthy 30s", 48);
    let new = Job::new(story.job.id().clone(), 7);
    let id = story.job.deployment().unwrap().id;
    let explained = explain(new, &story.log, id).unwrap().unwrap();
    let text = explained.to_string();
    assert!(
        text.contains("paused") && text.contains("resumed"),
        "{text}"
    );
    let links = &explained.links;
    assert!(links[links.len() - 1].1.starts_with("wave 97 "), "{text}");
    let gaps = links.windows(2).filter(|two| two[1].1.contains(" more …"));
    let gaps: Vec<_> = gaps.map(|two| (two[0].0, two[1].0)).collect();
    assert_eq!(gaps.len(), 2, "{text}");
    // Each wave goes out half a minute after the one before it.
    for (before, since) in gaps {
        assert_eq!(since, before.after(orchestrator_core::Span::from_secs(30)));
    }
}

/// Where everything weighs the same, what is oldest goes first, and the last stays whatever it weighs.
#[test]
fn of_many_failures_the_last_are_told() {
    let mut story = Story::new();
    let begin = "nodes n1..n99\ndeploy v1\neveryone started\n\
        deploy v2 rolling 1 max_failed=99 max_failed_percent=100";
    story.play(begin).unwrap();
    for _ in 0..30 {
        story.play("wave exits 1").unwrap();
    }
    let explained = |story: &Story| {
        let new = Job::new(story.job.id().clone(), 7);
        let id = story.job.deployment().unwrap().id;
        explain(new, &story.log, id).unwrap().unwrap().to_string()
    };
    let text = explained(&story);
    assert!(!text.contains("wave 2 was sent"), "{text}");
    assert!(text.contains("wave 30 was sent"), "{text}");
    for _ in 0..30 {
        story.play("wave exits 1").unwrap();
    }
    let text = explained(&story);
    assert!(text.contains("wave 61 was sent"), "{text}");
    assert!(!text.contains("wave 60 was sent"), "{text}");
}

/// Who is bad, and by what, while everybody waits for it.
#[test]
fn what_holds_the_next_wave_is_named() {
    let mut story = Story::new();
    let begin = "nodes n1..n6\ndeploy v1\neveryone started\n\
        deploy v2 rolling 1\nwave stays healthy 30s\n#1 errors 50 of 100\nwave stays healthy 30s";
    story.play(begin).unwrap();
    let new = Job::new(story.job.id().clone(), 7);
    let record = story.job.deployment().unwrap();
    let explained = explain(new, &story.log, record.id).unwrap().unwrap();
    let view = story.job.targets().next().unwrap();
    let name = &view.node;
    assert_eq!(
        explained.now,
        format!(
            "wave 2: 2 of 6 nodes updated, waiting for 1 of them to become healthy again: {name}; \
             {name} is bad by 50 errors in 100 requests (50.0 %)"
        )
    );
    assert!(view.unproven && view.deadline.is_some(), "{view:?}");
}

/// Who is bad is said of the deployment that waits for it, and of the node that showed it.
#[test]
fn what_others_have_shown_is_not_said() {
    let explained = |story: &Story, number: u32| {
        let new = Job::new(story.job.id().clone(), 7);
        let id = story.job.record_by_number(number).unwrap().id;
        explain(new, &story.log, id).unwrap().unwrap().now
    };
    let mut story = Story::new();
    let begin = "nodes n1..n6\ndeploy v1\neveryone started\n\
        deploy v2 rolling 2\nwave stays healthy 30s\n#1 unhealthy\n\
        deploy v3 rolling 2\nwave stays healthy 30s\n#1 errors 50 of 100\nwave stays healthy 30s";
    story.play(begin).unwrap();
    assert_eq!(explained(&story, 2), "superseded by version 3");
    assert!(explained(&story, 3).contains("is bad by 50 errors"));
    let mut story = Story::new();
    let begin = "nodes n1..n9\ndeploy v1 replicas=4\neveryone started\n\
        deploy v2 rolling 2 replicas=4\nwave stays healthy 30s\n#1 unhealthy\n#1 draining\n\
        wave stays healthy 30s";
    story.play(begin).unwrap();
    let now = explained(&story, 2);
    assert!(now.contains("waiting for 1 of them"), "{now}");
    assert!(!now.contains("is bad by"), "{now}");
}
