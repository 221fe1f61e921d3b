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
