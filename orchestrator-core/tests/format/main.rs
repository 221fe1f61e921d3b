//! What was ever written can be read: the files in `tests/golden` are never changed once released.
//!
//! A new form of an entry gets a new version and a new golden file; the old file stays and has to lead to
//! the same state. `BLESS=1 cargo test -p orchestrator-core --test format` writes files that are missing.

#![expect(
    clippy::disallowed_methods,
    reason = "what was written once is in files"
)]

mod damage;
mod fleet_and_group;
#[path = "../story/mod.rs"]
mod story;

use std::collections::BTreeSet;
use std::path::PathBuf;

use orchestrator_core::spec::JobSpec;
use orchestrator_core::{
    BrokenLog, Command, Entry, Event, FormatError, Input, Job, JobId, Member, NodeChange,
    Observation, Of, Rejection, Report, Request, Span, Time, fleet, group,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use story::{SEED, Story};

/// Every kind of entry happens in it, but one; and every reason, cause and aftermath.
const STORY: &str = "\
nodes n1..n5 zone=a
deploy v0 rolling 1 on=n1..n5
fail nobody asked for it
deploy v1 replicas=4 spread=zone on=n1..n5
everyone started
nodes n1 zone=b
deploy v2 canary 1 waves=2 replicas=4 spread=zone on=n1..n5 key=first
wave started
wave healthy
wave restarted
wave unhealthy
wave errors 50 of 100
pause
clock back 1h
resume
away 5m
wave stays healthy 30s
promote
#2 lost
#3 cannot start no such image
pass 5m
scale 3
scale 5
wave stays healthy 30s
restart
everyone started
deploy v3 rolling waves=1 on_failure=pause max_failed=0 on=n1..n5
wave cannot start
resume
n4 unmatched
n5 draining
wave stays healthy 30s
rollback
members n1..n5
cancel
n1..n5 back
deploy w1 on=n1..n5
everyone started
deploy w2 canary 1 max_failed=0
wave exits 1
everyone stays healthy 30s
deploy w3 rolling 1 max_failed=0
wave unhealthy
wave unhealthy
wave unhealthy
wave exits 1
deploy w4 rolling 1 no_auto_rollback max_failed_percent=30
pass 5m
pass 5m
deploy w5 rolling max_failed_percent=100
everyone exits 1
everyone stays healthy 30s
restart
fail too early
n1 lost
deploy w6 rolling 1
n1..n5 lost
pass 5m
deploy w7 rolling
fail no need
n1..n5 back
stop
wave stopped
deploy w8 batch
fail not now
deploy w9 batch
everyone exits 0
n6 joins
n6 exits 0
n6 gone
n1..n5 lost
deploy v4 spread=zone on=n1..n5
nodes n1..n3 zone=a
wave started
nodes n9
deploy v5 canary 50% auto_promote waves=1 spread=zone
wave stays healthy 30s
wave stays healthy 30s
wave errors 3 of 4
n2 gone
n9 lost
wave healthy
#1 unhealthy
";

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(golden(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What a reader of the job sees: not how it is kept.
fn view(job: &Job) -> Value {
    let versions = job
        .versions()
        .map(|v| json!([v.number, v.stable, v.rejected, v.executions]));
    let nodes = ["n1", "n2", "n3", "n4", "n5", "n9"];
    let desired = nodes.map(|node| {
        let runs = job
            .desired(node)
            .into_iter()
            .map(|a| json!([a.slot, a.version, a.generation]));
        json!({ "node": node, "presence": job.presence(node), "runs": runs.collect::<Vec<_>>() })
    });
    json!({
        "seq": job.seq(),
        "current": job.current(),
        "versions": versions.collect::<Vec<_>>(),
        "nodes": desired,
        "deployment": job.deployment(),
        "targets": job.targets().collect::<Vec<_>>(),
        "waiting_on": job.waiting_on().map(|w| w.to_string()),
        "wake": job.wake().map(|t| t.to_string()),
    })
}

fn recover(log: &str) -> Job {
    let entries: Vec<_> = log
        .lines()
        .map(|line| Entry::decode(line).expect("it was written"))
        .collect();
    Job::recover("web".parse().expect("a name"), SEED, entries).expect("the log is whole")
}

/// Only what is missing is written: a golden file that a program could read once is never replaced.
fn bless(name: &str, text: &str) {
    if std::env::var_os("BLESS").is_some() && !golden(name).exists() {
        std::fs::write(golden(name), text).expect("the folder can be written");
    }
}

#[test]
fn todays_log_is_read_for_ever() {
    let mut story = Story::new();
    story.play(STORY).unwrap_or_else(|why| panic!("{why}"));
    let mut entries = story.log.clone();
    // It takes sixty-five versions until one is forgotten: this one is made by hand.
    let last = entries.last().expect("much has happened").clone();
    let under_way = story.job.waiting_on().is_some();
    let forgot = Entry {
        seq: last.seq + 1,
        of: last.of.filter(|_| under_way).map(|of| Of {
            revision: of.revision + 1,
            ..of
        }),
        event: Event::Forgot { version: 3 },
        ..last
    };
    entries.push(forgot);
    let text: String = entries.iter().map(|e| e.encode() + "\n").collect();
    bless("log.v1.jsonl", &text);
    bless("view.v1.json", &format!("{:#}\n", view(&recover(&text))));
    bless(
        "snapshot.v1.json",
        &String::from_utf8(recover(&text).snapshot()).expect("it is JSON"),
    );

    let log = read("log.v1.jsonl");
    let job = recover(&log);
    let expected: Value = serde_json::from_str(&read("view.v1.json")).expect("it is JSON");
    assert_eq!(view(&job), expected, "an old log means something else now");
    // The earlier one did not say when it was restarted.
    for snapshot in ["snapshot.v1.json", "earlier/without-restarted.json"] {
        let from_snapshot = Job::from_snapshot(read(snapshot).as_bytes()).expect("it was written");
        assert_eq!(
            view(&from_snapshot),
            expected,
            "an old snapshot means something else now"
        );
    }
    // Too long to be printed.
    assert!(
        job.snapshot() == read("snapshot.v1.json").into_bytes(),
        "the state is kept in another form, or an old log means something else now"
    );
    for line in log.lines() {
        let again = Entry::decode(line).expect("it was written").encode();
        assert_eq!(
            again, line,
            "an entry is written in another form: raise its version"
        );
    }
}

/// What an entry may be called: a reader who meets another name lists them.
fn kinds<E: serde::de::DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
    let other = json!({"kind": "frobbed", "body": null});
    let why = serde_json::from_value::<E>(other).expect_err("there is no such kind");
    let why = why.to_string();
    let (_, listed) = why.split_once("expected one of ").expect(&why);
    listed
        .split('`')
        .skip(1)
        .step_by(2)
        .map(Into::into)
        .collect()
}

#[test]
fn the_golden_log_has_every_kind_of_entry() {
    let log = read("log.v1.jsonl");
    let found: BTreeSet<_> = log
        .lines()
        .map(|line| Entry::decode(line).expect("it was written").event.kind())
        .collect();
    let all = kinds::<Event>();
    assert_eq!(found, all.iter().map(String::as_str).collect());
    let words = [
        // Why a target failed.
        "cannot_start",
        "exited",
        "bad_intervals",
        "deadline",
        "lost",
        // Why a deployment ended or was paused.
        "done",
        "canary_failed",
        "too_many_failed",
        "too_large_share_failed",
        "nothing_updated",
        "superseded",
        "operator",
        // What came of it.
        "nothing",
        "roll_back",
        "rollback_off",
        "no_stable_version",
        "was_rollback",
        "same_version",
        "nothing_touched",
        "was_stopped",
    ];
    let missing: Vec<_> = (words.iter())
        .filter(|word| !log.contains(&format!("\"{word}\"")))
        .collect();
    assert!(missing.is_empty(), "it has no {missing:?}");
}

#[test]
fn what_a_newer_program_wrote_is_refused_by_name() {
    let log = read("log.v1.jsonl");
    let line = log
        .lines()
        .next()
        .expect("it is long")
        .replace("\"v\":1", "\"v\":2");
    let why = Entry::decode(&line).expect_err("it is too new").to_string();
    assert!(
        why.contains("of version 2, this program reads 1 to 1"),
        "{why}"
    );
    let none = line.replace("\"v\":2", "\"v\":0");
    let why = Entry::decode(&none).expect_err("there is no version 0");
    assert!(
        matches!(why, FormatError::OtherVersion { found: 0, .. }),
        "{why}"
    );
    for body in ["", r#","body":{"x":1}"#] {
        let other = format!(r#"{{"seq":1,"at":1,"elapsed":0,"v":1,"kind":"frobbed"{body}}}"#);
        let why = Entry::decode(&other).expect_err("there is no such kind");
        assert!(
            why.to_string()
                .contains("no kind of entry is called \"frobbed\""),
            "{why}"
        );
    }
    let bodiless = r#"{"seq":1,"at":1,"elapsed":0,"v":1,"kind":"forgot"}"#;
    let why = Entry::decode(bodiless).expect_err("it forgot what");
    assert!(matches!(why, FormatError::Malformed { .. }), "{why}");
    let snapshot = read("snapshot.v1.json").replacen("\"v\":1", "\"v\":7", 1);
    let why = Job::from_snapshot(snapshot.as_bytes()).expect_err("it is too new");
    assert!(
        matches!(why, FormatError::OtherVersion { found: 7, .. }),
        "{why}"
    );
}

#[test]
fn a_log_with_a_gap_is_refused() {
    let log = read("log.v1.jsonl");
    let mut entries: Vec<_> = log
        .lines()
        .map(|line| Entry::decode(line).expect("it was written"))
        .collect();
    entries.remove(4);
    let why =
        Job::recover("web".parse().expect("a name"), SEED, entries).expect_err("one is missing");
    assert_eq!(
        why,
        BrokenLog::Gap {
            expected: 5,
            found: 6
        }
    );
}

#[test]
fn another_jobs_log_is_refused() {
    let entries = || {
        read("log.v1.jsonl")
            .lines()
            .map(|l| Entry::decode(l).expect("it was written"))
            .collect::<Vec<_>>()
    };
    let other = Job::recover("api".parse().expect("a name"), SEED, entries());
    assert!(
        matches!(other, Err(BrokenLog::DoesNotFit { .. })),
        "{other:?}"
    );
    let seed = Job::recover("web".parse().expect("a name"), SEED + 1, entries());
    assert!(
        matches!(seed, Err(BrokenLog::DoesNotFit { .. })),
        "{seed:?}"
    );
    // Entries that fit by their number, and speak of what is not there.
    for skipped in 0..entries().len() {
        let mut rest: Vec<_> = entries().split_off(skipped);
        for (seq, entry) in (1..).zip(&mut rest) {
            entry.seq = seq;
        }
        let _ = Job::recover("web".parse().expect("a name"), SEED, rest);
    }
}

#[test]
fn what_no_job_would_have_taken_is_not_taken_from_a_log() {
    let mut story = Story::new();
    let told = "nodes n1 n2\nn1 back zone=b";
    story.play(told).unwrap_or_else(|why| panic!("{why}"));
    let long = ["z".repeat(256), "z".repeat(1000), "é".repeat(128) + "a"];
    let mut tried = 0;
    for (n, entry) in story.log.iter().enumerate() {
        for zone in &long {
            let mut log = story.log[..=n].to_vec();
            match &mut log[n].event {
                Event::NodesJoined { nodes } => nodes[0].zone.clone_from(zone),
                Event::NodeRelabeled { zone: label, .. } => label.clone_from(zone),
                _ => continue,
            }
            tried += 1;
            let why = Job::recover("web".parse().expect("a name"), SEED, log);
            let seq = entry.seq;
            assert_eq!(why.map(|job| job.seq()), Err(BrokenLog::DoesNotFit { seq }));
        }
    }
    assert_eq!(tried, 6);
}

/// The log of a command with a key that leads to several entries, and how many entries came before it.
fn keyed() -> (Story, usize) {
    let mut story = Story::new();
    let told = "nodes n1..n3\ndeploy v1\neveryone started";
    story.play(told).unwrap_or_else(|why| panic!("{why}"));
    let before = story.log.len();
    story
        .play("deploy v2 key=k")
        .unwrap_or_else(|why| panic!("{why}"));
    (story, before)
}

#[test]
fn a_step_that_was_cut_is_noticed_and_can_be_cut_off() {
    let (mut story, before) = keyed();
    let (log, now) = (story.log.clone(), story.now);
    assert!(log.len() - before > 3 && log[log.len() - 1].event.kind() == "answered");
    let id = || "web".parse::<JobId>().expect("a name");
    let whole = Job::recover(id(), SEED, &log[..before]).expect("its steps are whole");
    for cut in before + 1..log.len() {
        let why = Job::recover(id(), SEED, &log[..cut]).expect_err("it is cut");
        let missing = (log.len() - cut) as u32;
        let torn = BrokenLog::Torn {
            whole: before as u64,
            missing,
        };
        assert_eq!(why, torn);
        // A replica that is in the middle of a step says nothing of its own, whichever way it came there.
        let mut replica = Job::new(id(), SEED);
        replica.catch_up(&log[..cut]).expect("more will come");
        let mut replica = Job::from_snapshot(&replica.snapshot()).expect("it was just taken");
        let refused = replica
            .step(now, Input::Tick)
            .expect_err("the rest is missing");
        assert_eq!(refused, Rejection::WithinStep(missing));
        let mut other = replica.clone();
        let why = other.catch_up([Entry {
            more: missing,
            ..log[cut].clone()
        }]);
        assert!(matches!(why, Err(BrokenLog::DoesNotFit { .. })), "{why:?}");
        replica.catch_up(&log[cut..]).expect("it is the rest");
        assert_eq!(replica.snapshot(), story.job.snapshot());

        let mut kept = log[..cut].to_vec();
        while kept.last().is_some_and(|entry| entry.more > 0) {
            kept.pop();
        }
        let job = Job::recover(id(), SEED, kept).expect("its steps are whole");
        assert_eq!(job.snapshot(), whole.snapshot());
        // The same of a file, wherever in a line it was cut.
        let lines: String = log[..cut].iter().map(|e| e.encode() + "\n").collect();
        let kept: String = log[..before].iter().map(|e| e.encode() + "\n").collect();
        for end in [kept.len(), kept.len() + 1, lines.len() - 1, lines.len()] {
            let (entries, bytes) = Entry::decode_log(&lines.as_bytes()[..end]).expect("lines");
            assert_eq!((&entries[..], bytes), (&log[..before], kept.len()));
        }
    }
    // What comes again after it is carried out, and answered so.
    let asked = story.registration("v2 key=k").expect("a command");
    story.job = whole;
    let answer = story.job.step(now, asked.into()).expect("it fits");
    let answer = answer.split().1.committed().answer.expect("to a command");
    assert!(answer.changed && answer.version == 2);
}

#[test]
fn what_belongs_to_a_deployment_says_so() {
    let log = read("log.v1.jsonl");
    let entries: Vec<Entry> = log
        .lines()
        .map(|line| Entry::decode(line).expect("it was written"))
        .collect();
    let mut before = Job::new("web".parse().expect("a name"), SEED);
    let mut stripped = 0;
    for entry in &entries {
        let other = match entry.of {
            Some(_) => None,
            None => Some(Of {
                deployment: 1,
                revision: 1,
            }),
        };
        let other = Entry {
            of: other,
            ..entry.clone()
        };
        let why = before.clone().catch_up([other]);
        assert_eq!(why, Err(BrokenLog::DoesNotFit { seq: entry.seq }));
        stripped += usize::from(entry.of.is_some());
        before.catch_up([entry]).expect("it is whole");
    }
    assert!(stripped > 50);
    let line = log.lines().find(|line| line.contains("\"revision\":2,"));
    let half = line.expect("there is one").replace("\"revision\":2,", "");
    let why = Entry::decode(&half).expect_err("it is half of it");
    assert!(matches!(why, FormatError::Malformed { .. }), "{why}");
}

#[test]
fn waves_are_counted_without_gaps() {
    let (story, _) = keyed();
    let at = story
        .log
        .iter()
        .rposition(|e| e.event.kind() == "dispatched");
    let at = at.expect("a wave was sent");
    for wrong in [0, 2, u32::MAX] {
        let mut job = Job::new(story.job.id().clone(), SEED);
        job.catch_up(&story.log[..at]).expect("it is whole");
        let mut entry = story.log[at].clone();
        if let Event::Dispatched { wave, .. } = &mut entry.event {
            assert_eq!(*wave, 1);
            *wave = wrong;
        }
        let why = job.catch_up([entry]);
        assert!(matches!(why, Err(BrokenLog::DoesNotFit { .. })), "{why:?}");
    }
}

proptest! {
    /// A number that comes back as its neighbour would make another version of the same document.
    #[test]
    fn a_number_is_read_as_it_was_written(
        percent in 0.0..100.0_f64, rate in 0.0..1.0_f64, any in proptest::num::f64::NORMAL,
    ) {
        let spec = json!({
            "job_id": "web", "driver": "docker", "config": { "image": "v1", "rate": any },
            "rollout": { "max_failed_nodes_percent": percent, "strategy": "rolling",
                "health_check": { "deadline": "1m", "max_error_rate": rate } },
        });
        let spec = JobSpec::from_value(&spec).expect("it is in order");
        let register = || Input::from(Command::Register { spec: Box::new(spec.clone()), members: None, again: false });
        let mut job = Job::new("web".parse().expect("a name"), SEED);
        let now = Time::from_millis(1_767_222_000_000);
        let entries = job.step(now, register()).expect("it is taken").split().0;
        let log: String = entries.iter().map(|e| e.encode() + "\n").collect();
        let snapshot = job.snapshot();
        for mut read in [recover(&log), Job::from_snapshot(&snapshot).expect("it was written")] {
            prop_assert_eq!(read.snapshot(), snapshot.clone());
            let (entries, _) = read.step(now, register()).expect("it is taken").split();
            prop_assert!(entries.is_empty(), "{entries:?}");
        }
    }

    /// Bytes that were changed on their way are an error, or what they say; never a panic.
    #[test]
    fn no_line_makes_it_panic(line in any::<proptest::sample::Index>(), at in any::<proptest::sample::Index>(), byte in any::<u8>()) {
        let log = read("log.v1.jsonl");
        let lines: Vec<&str> = log.lines().collect();
        let mut bytes = lines[line.index(lines.len())].as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(text) = std::str::from_utf8(&bytes) && let Ok(entry) = Entry::decode(text) {
            prop_assert_eq!(Entry::decode(&entry.encode()).expect("it was written"), entry);
        }
        bytes.truncate(at);
        prop_assert!(Entry::decode(&String::from_utf8_lossy(&bytes)).is_err());
    }
}
