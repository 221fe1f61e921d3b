//! What a server reads of a job: names, lists, pages, plans.

mod story;

use orchestrator_core::Outcome;
use orchestrator_core::spec::JobType;
use orchestrator_core::{
    CANARY_NODES_MAX, Command, Effect, Ending, HISTORY_KEPT, Input, Job, Narrator, Report, Request,
    Sentence, VERSIONS_KEPT, WaitingOn, explain,
};
use story::{SEED, Story};

fn played(lines: &str) -> Story {
    let mut story = Story::new();
    story.play(lines).unwrap_or_else(|why| panic!("{why}"));
    story
}

fn new() -> Job {
    Job::new("web".parse().expect("a name"), SEED)
}

/// The sentences of the latest entries of a kind.
fn said<'a>(story: &'a Story, kind: &'a str) -> impl Iterator<Item = &'a Sentence> {
    let all = story.log.iter().zip(&story.words).rev();
    all.filter(move |(entry, _)| entry.event.kind() == kind)
        .map(|(_, words)| words)
}

#[test]
fn names_are_those_of_the_entrys_own_deployment() {
    let mut story =
        played("nodes n1..n9\ndeploy v1\neveryone started\ndeploy v2 rolling waves=5 max_failed=1");
    let updating = story.job.targets().filter(|t| t.state.is_in_flight());
    let nodes: Vec<String> = updating.map(|t| t.node).collect();
    let two = [nodes[1].clone(), nodes[3].clone()];
    // Both fail in one step, and the rollback begins in it: it counts its own targets.
    let line = format!("{} {} cannot start", two[0], two[1]);
    story.play(&line).unwrap_or_else(|why| panic!("{why}"));
    let failed = said(&story, "failed").next().expect("two have");
    assert_eq!(
        (&failed.nodes.names, failed.nodes.count),
        (&two.to_vec(), 2)
    );
    let names = two.join(", ");
    assert_eq!(
        failed.to_string(),
        format!("{names} failed: it cannot start")
    );
    // By number they cannot be had any more, and nobody gets others instead.
    assert_eq!(story.job.target_name(2, 1), None);
    let first = story.job.targets().next().expect("it takes them back").node;
    assert_eq!(story.job.target_name(3, 0), Some(first.as_str()));
    assert_eq!(story.job.target_name(3, 99), None);
}

#[test]
fn names_are_those_of_the_entrys_own_time() {
    // An execution moves, and the number of a node goes to another, in the step that says so.
    let story = played(
        "nodes n1..n3\ndeploy v1 replicas=2\neveryone started\nn1 draining\nn1 gone\nnodes n4",
    );
    let drained = said(&story, "nodes_changed").nth(1).expect("it was");
    assert_eq!(drained.to_string(), "n1 drained");
    let gone = said(&story, "nodes_changed").next().expect("it was");
    assert_eq!(gone.to_string(), "n1 left");
    let moved = said(&story, "placed").next().expect("one has");
    assert_eq!(moved.to_string(), "1 execution went to n3");
    let joined = said(&story, "nodes_joined").next().expect("one has");
    assert_eq!(joined.nodes.names, ["n4"]);
}

#[test]
fn no_more_names_are_made_than_were_asked_for() {
    let mut job = new();
    let nodes: Vec<_> = (0..50)
        .map(|n| {
            let member = orchestrator_core::Member::new(format!("n{n}"));
            orchestrator_core::NodeChange::Seen(member)
        })
        .collect();
    let mut narrator = Narrator::new(new(), 3);
    let now = Story::new().now;
    let (step, words) = job
        .step_in_words(now, Input::Nodes(&nodes), 3)
        .expect("they fit");
    assert_eq!(words.len(), 1);
    assert_eq!((words[0].nodes.names.len(), words[0].nodes.count), (3, 50));
    assert_eq!(words[0].to_string(), "n0, n1, n2 and 47 more joined");
    assert_eq!(narrator.tell(&step.entries()[0]), Ok(words[0].clone()));
    assert_eq!(narrator.job().snapshot(), job.snapshot());
    let step = job.step(now, Input::Tick).expect("time is not refused");
    assert!(step.entries().is_empty());
}

#[test]
fn deployments_are_listed_the_latest_first() {
    let mut story = played("nodes n1..n2\ndeploy v1\neveryone started");
    for _ in 0..20 {
        story
            .play("restart\nwave started")
            .unwrap_or_else(|why| panic!("{why}"));
    }
    let numbers: Vec<u32> = story.job.deployments().map(|d| d.number).collect();
    assert_eq!(numbers.len(), 1 + HISTORY_KEPT);
    assert!(
        numbers
            .iter()
            .rev()
            .copied()
            .eq(21 - HISTORY_KEPT as u32..=21)
    );
    for summary in story.job.deployments() {
        let record = story.job.record(summary.id).expect("it is listed");
        let short = serde_json::to_value(summary).expect("it is plain");
        let long = serde_json::to_value(&record).expect("it is plain");
        for (field, value) in short.as_object().expect("it has fields") {
            let found = long.get(field).or_else(|| long["status"].get(field));
            if !matches!(field.as_str(), "number" | "canaries") {
                assert_eq!(found, Some(value), "{field}");
            }
        }
        assert_eq!(story.job.summary(summary.id), Some(summary));
    }
}

#[test]
fn what_goes_on_is_told_from_what_is_forgotten() {
    let mut story = played("nodes n1..n2\ndeploy v1");
    let first = story.job.deployment().expect("it began").id;
    assert_eq!(story.job.outcome(first), Ending::UnderWay);
    story
        .play("everyone started")
        .unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(story.job.outcome(first), Ending::Known(Outcome::Completed));
    story
        .play("deploy v2 canary 1\nwave cannot start")
        .unwrap_or_else(|why| panic!("{why}"));
    let second = story
        .job
        .deployment()
        .and_then(|r| r.rollback_of)
        .expect("it takes it back");
    assert_eq!(
        story.job.outcome(second),
        Ending::UnderWay,
        "it is being taken back"
    );
    story
        .play("wave stays healthy 30s")
        .unwrap_or_else(|why| panic!("{why}"));
    assert_eq!(
        story.job.outcome(second),
        Ending::Known(Outcome::RolledBack)
    );
    for _ in 0..20 {
        story
            .play("restart\nwave started")
            .unwrap_or_else(|why| panic!("{why}"));
    }
    assert_eq!(story.job.outcome(first), Ending::Unknown);
}

#[test]
fn a_record_names_some_of_many_canaries_and_counts_all() {
    let many = CANARY_NODES_MAX + 50;
    let lines = format!(
        "nodes n1..n{}\ndeploy v1\neveryone started\ndeploy v2 canary {many}",
        many + 5
    );
    let mut story = played(&lines);
    for _ in 0..2 {
        let record = story.job.deployment().expect("it began");
        assert_eq!(record.status.canary_nodes.len(), CANARY_NODES_MAX);
        let summary = story.job.summary(record.id).expect("it began");
        assert_eq!(summary.canaries as usize, many);
        let canaries = story.job.targets().filter(|t| t.canary);
        let canaries: Vec<String> = canaries.map(|t| t.node).collect();
        assert_eq!(canaries.len(), many);
        assert_eq!(record.status.canary_nodes, canaries[..CANARY_NODES_MAX]);
        let _ = story.play("cancel");
    }
}

#[test]
fn a_page_of_targets_joins_with_assignments_and_reports() {
    let mut story = played(
        "nodes n1..n9\ndeploy v1\neveryone started\ndeploy v2 rolling waves=3\n#1 cannot start x",
    );
    let all: Vec<_> = story.job.targets().collect();
    for first in 0..12 {
        let page: Vec<_> = story.job.targets_from(first).take(2).collect();
        let end = all.len().min(first as usize + 2);
        assert_eq!(page, all[all.len().min(first as usize)..end]);
    }
    for (number, target) in (0..).zip(&all) {
        let told = story.job.assignment(target.slot);
        assert_eq!(target.target, number);
        assert_eq!(
            (target.node.as_str(), target.version, target.generation),
            (told.node, told.version, told.generation)
        );
        if target.state.is_in_flight() {
            assert_eq!(told.target, Some(target.target));
        }
    }
    // A report that is put together from the table is believed.
    let row = all
        .iter()
        .find(|t| t.state.is_in_flight())
        .expect("two are");
    let report = Report {
        target: row.target,
        generation: row.generation,
        number: 1,
        what: orchestrator_core::Observation::Exited { code: 3 },
    };
    let step = story.job.step(story.now, Input::Reports(&[report]));
    let (entries, sealed) = step.expect("reports are not refused").split();
    assert!(sealed.committed().ignored.is_empty() && !entries.is_empty());
}

#[test]
fn a_target_is_lost_while_its_node_is_silent_and_no_longer() {
    let mut story = played(
        "nodes n1..n4\ndeploy v1\neveryone started\ndeploy v2 rolling 2\nwave stays healthy 30s\n#1 lost",
    );
    let is_lost = |story: &Story| story.job.targets().next().expect("it has targets").lost;
    assert!(is_lost(&story));
    story
        .play("wave stays healthy 30s\nexpect completed")
        .unwrap_or_else(|why| panic!("{why}"));
    assert!(is_lost(&story));
    story.play("#1 back").unwrap_or_else(|why| panic!("{why}"));
    assert!(!is_lost(&story));
}

#[test]
fn the_deadline_that_is_shown_is_one_of_those_who_are_waited_for() {
    // The first is waited for, and moves; the second turned bad too late for that, and is due earlier now.
    let story = played(
        "nodes n1..n9\ndeploy v1 replicas=4\neveryone started\n\
         deploy v2 rolling 2 replicas=4 max_failed_percent=100 deadline=5m\n\
         wave stays healthy 30s\n#1 unhealthy\nwave stays healthy 30s\n\
         expect waiting for 1 updated node to become healthy again\n\
         pass 10s\n#2 unhealthy\npass 10s\n#1 draining",
    );
    let due = |number: usize| story.job.targets().nth(number).and_then(|t| t.deadline);
    assert!(due(1) < due(0), "{:?} {:?}", due(1), due(0));
    let waits = story.job.waiting_on();
    assert!(
        matches!(waits, Some(WaitingOn::Proof { targets: 1, deadline, .. }) if deadline == due(0)),
        "{waits:?}"
    );
}

#[test]
fn targets_that_were_put_aside_say_the_same() {
    let mut story = played(
        "nodes n1..n5\ndeploy v1\neveryone started\ndeploy v2 rolling waves=2 max_failed=5 max_failed_percent=100",
    );
    story
        .play("#2 cannot start x\n#1 #4 lost\ncancel\n#1 back\n#3 lost")
        .unwrap_or_else(|why| panic!("{why}"));
    let before: Vec<_> = story.job.targets().collect();
    let request = story.registration("v3").expect("a command");
    let step = story.job.step(story.now, request.into()).expect("it fits");
    let effects = step.split().1.committed().effects;
    let aside = effects.iter().find_map(|effect| match effect {
        Effect::PutAside(aside) => Some(aside),
        _ => None,
    });
    let after: Vec<_> = aside.expect("it gives way").targets().collect();
    assert_eq!(after, before);
    assert!(after.iter().any(|t| t.reason.is_some()));
    let lost = after.iter().filter(|t| t.lost).map(|t| t.target + 1);
    assert_eq!(lost.collect::<Vec<_>>(), [3, 4]);
}

/// What `command` would lead to, and what it led to when everyone is well.
fn plan(story: &Story, command: Command) -> orchestrator_core::Plan {
    let plan = story.job.plan(story.now, Request::from(command));
    plan.unwrap_or_else(|why| panic!("{why}"))
}

#[test]
fn a_plan_of_a_promotion_shows_what_is_left() {
    let mut story = played(
        "nodes n1..n7\ndeploy v1\neveryone started\ndeploy v2 canary 1 waves=3\nwave stays healthy 30s",
    );
    let id = story.job.deployment().expect("it waits").id;
    let planned = plan(&story, Command::Promote(id));
    let sizes: Vec<usize> = planned.waves.iter().map(|w| w.nodes.len()).collect();
    assert_eq!(sizes, [3, 3]);
    assert_eq!((planned.from_version, planned.to_version), (1, 2));
    assert!(planned.kind.is_none() && !planned.supersedes && !planned.members_needed);
    let paused = plan(&story, Command::Pause(id));
    assert_eq!((paused.from_version, paused.to_version), (1, 2));
    assert!(paused.waves.is_empty(), "nothing starts any more");
    story
        .play("promote\npause")
        .unwrap_or_else(|why| panic!("{why}"));
    let resumed = plan(&story, Command::Resume(id));
    assert_eq!(resumed.waves, planned.waves[1..]);
}

#[test]
fn a_plan_says_when_it_needs_to_know_who_matches() {
    let story = played(
        "nodes n1..n6\ndeploy v1\neveryone started\n\
         deploy v2 selector=gpu on=n1..n3\nwave started\nexpect completed",
    );
    let back = || Request::from(Command::RollBack { to: Some(1) });
    let blind = story.job.plan(story.now, back()).expect("it fits");
    assert!(blind.members_needed && blind.waves.is_empty());
    let members: Vec<_> = (1..=6)
        .map(|n| orchestrator_core::Member::new(format!("n{n}")))
        .collect();
    let seeing = story.job.plan_among(story.now, back(), &members);
    let seeing = seeing.expect("it fits");
    assert!(!seeing.members_needed && !seeing.waves.is_empty());
    assert_eq!((seeing.from_version, seeing.to_version), (2, 1));
    assert!(!plan(&story, Command::Stop).members_needed);
}

#[test]
fn an_explanation_can_begin_at_a_snapshot() {
    let story = played(
        "nodes n1..n6\ndeploy v1\neveryone started\ndeploy v2 canary 2 waves=2\n\
         #1 #2 healthy\n#1 exits 3\nwave stays healthy 30s\nwave stays healthy 30s\nexpect completed",
    );
    let failed = story
        .job
        .deployment()
        .and_then(|r| r.rollback_of)
        .expect("it takes it back");
    let whole = explain(new(), &story.log, failed)
        .expect("no gap")
        .expect("it is known");
    for cut in 0..=story.log.len() {
        let mut job = new();
        job.catch_up(&story.log[..cut]).expect("no gap");
        let job = Job::from_snapshot(&job.snapshot()).expect("it was just taken");
        let rest = explain(job, &story.log[cut..], failed)
            .expect("no gap")
            .expect("it is known");
        assert_eq!(rest.now, whole.now);
        assert_eq!(rest.links[0], whole.links[0], "how it began");
        // What comes after the snapshot is told as if there were none.
        let tail = story.log[cut..]
            .iter()
            .filter(|e| e.event.kind() == "failed")
            .count();
        assert_eq!(
            rest.links
                .iter()
                .filter(|(_, t)| t.contains("exited"))
                .count(),
            tail
        );
    }
}

#[test]
fn the_record_of_a_forgotten_version_is_of_the_same_type() {
    let mut story = played("nodes n1");
    let done = |story: &mut Story, number: usize| {
        let lines = format!("deploy v{number} batch\neveryone exits 0");
        story.play(&lines).unwrap_or_else(|why| panic!("{why}"));
    };
    (1..=VERSIONS_KEPT).for_each(|number| done(&mut story, number));
    let back = "rollback v1\neveryone exits 0";
    story.play(back).unwrap_or_else(|why| panic!("{why}"));
    let of_first = story.job.deployment().expect("it is there").id;
    (1..HISTORY_KEPT).for_each(|more| done(&mut story, VERSIONS_KEPT + more));
    assert!(story.job.spec(1).is_none(), "it is forgotten");
    let record = story.job.record(of_first).expect("it is remembered");
    assert_eq!((record.to_version, record.job_type), (1, JobType::Batch));
}

/// A field without a value is absent, and never empty, null or a time long ago; counts and booleans are always there.
#[test]
fn what_has_no_value_yet_is_absent_from_the_record() {
    const ALWAYS: [&str; 13] = [
        "canary_promoted",
        "created_at",
        "current_wave",
        "failed_nodes",
        "in_flight_nodes",
        "message",
        "pending_nodes",
        "revision",
        "skipped_nodes",
        "state",
        "total_nodes",
        "updated_at",
        "updated_nodes",
    ];
    fn empty(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Null => true,
            serde_json::Value::String(text) => text.is_empty() || text.starts_with("1970-"),
            serde_json::Value::Array(list) => list.is_empty() || list.iter().any(empty),
            serde_json::Value::Object(fields) => fields.is_empty() || fields.values().any(empty),
            _ => false,
        }
    }
    let mut story = Story::new();
    let stages = [
        ("deploy v1", "waiting_on"),
        (
            "nodes n1..n3",
            "health_check_deadline healthy_deadline last_progress_time waiting_on",
        ),
        ("everyone started", "completed_at last_progress_time"),
        (
            "deploy v2 canary 1 max_failed_percent=50",
            "canary_nodes health_check_deadline healthy_deadline last_progress_time waiting_on",
        ),
        (
            "wave stays healthy 30s",
            "canary_nodes last_progress_time waiting_on",
        ),
        (
            "promote",
            "canary_nodes health_check_deadline healthy_deadline last_progress_time waiting_on",
        ),
        ("pause", "canary_nodes last_progress_time waiting_on"),
        (
            "fail no\nexpect type rollback",
            "health_check_deadline healthy_deadline last_progress_time waiting_on",
        ),
    ];
    for (line, sometimes) in stages {
        story.play(line).unwrap_or_else(|why| panic!("{why}"));
        let record = story.job.deployment().expect("it was registered");
        let record = serde_json::to_value(record).expect("it is plain");
        assert!(!empty(&record), "{line}: {record:#}");
        let status = record["status"].as_object().expect("it has fields");
        let mut wanted: Vec<_> = ALWAYS.into_iter().chain(sometimes.split(' ')).collect();
        wanted.sort_unstable();
        let found: Vec<_> = status.keys().map(String::as_str).collect();
        assert_eq!(found, wanted, "{line}");
        for (field, value) in status {
            let Some(time) = value
                .as_str()
                .filter(|_| field.ends_with("_at") || field.ends_with("_time"))
            else {
                continue;
            };
            let read: orchestrator_core::Time = time.parse().expect("a time");
            assert!(time.ends_with('Z') && read.to_string() == time, "{time}");
        }
    }
}

/// What was updated and has left since is nobody's to report on.
#[test]
fn what_is_watched_has_a_target() {
    let story = played(
        "nodes n1..n3\ndeploy v1 batch rolling 1\n#1 exits 0\n#1 gone\n#2 exits 0\n#2 draining",
    );
    let watched: Vec<_> = story.job.watched().collect();
    assert_eq!(watched.len(), 1, "{watched:?}");
    assert!(
        watched.iter().all(|one| one.target.is_some()),
        "{watched:?}"
    );
}
