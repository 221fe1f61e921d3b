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
2026-01-01T00:00:30.000Z  version 2 to version 1 began over 2 nodes (rollback, no gates)
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
