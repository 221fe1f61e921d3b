//! The logs of fleets and of groups, beside that of a job.

use super::*;

/// Every kind of entry of a fleet's log.
fn fleet_log() -> Vec<fleet::Entry> {
    use fleet::{Fleet, FleetSettings, Input as Say};
    let mut fleet = Fleet::new(FleetSettings::default());
    let (mut now, mut log) = (Time::from_millis(1_767_225_600_000), Vec::new());
    let texts = |pairs: &[(&str, &str)]| {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let name = || "n1".into();
    let say = |zone: &str, version: &str, leaving| Say::Join {
        name: name(),
        labels: texts(&[("zone", zone)]),
        facts: texts(&[("version", version)]),
        leaving,
    };
    let join = |zone, version| say(zone, version, false);
    let leave = |zone, version| say(zone, version, true);
    let loads = [(name(), 3)].into_iter().collect();
    let steps = [
        (0, join("a", "1.0")),
        (0, join("b", "1.0")),
        (0, join("b", "1.1")),
        (0, Say::SetLoads { loads }),
        (31, Say::Tick),
        (1, Say::Heartbeat { name: name() }),
        (
            0,
            Say::Drain {
                name: name(),
                key: Some("k1".to_owned()),
            },
        ),
        (
            0,
            Say::Enable {
                name: name(),
                key: None,
            },
        ),
        (31, Say::Tick),
        (301, Say::Tick),
        (0, Say::Remove { name: name() }),
        (0, join("c", "2.0")),
        (0, leave("c", "2.0")),
        (0, join("c", "2.0")),
    ];
    for (seconds, say) in steps {
        now = now.after(Span::from_secs(seconds));
        log.extend(fleet.step(now, say).expect("it fits"));
    }
    log
}

/// Every kind of entry of the logs of groups.
fn group_logs() -> Vec<Vec<group::Entry>> {
    use group::{Group, GroupSpec};
    let spec = || -> GroupSpec {
        GroupSpec::from_value(&json!({
            "name": "shop",
            "members": [
                { "job": "default/db" },
                { "job": "default/api", "after": ["default/db"] },
                { "job": "default/web", "after": ["default/api"] },
            ]
        }))
        .expect("it is a group")
    };
    let job = |name: &str| -> JobId { name.parse().expect("a name") };
    let wanted = |name: &str| -> JobSpec {
        let document = format!(r#"{{"job_id": "{name}", "driver": "exec", "config": {{}}}}"#);
        JobSpec::parse(&document).expect("it is a spec")
    };
    let cannot = Observation::CannotStart {
        detail: String::new(),
    };
    // What the group is told, and what befalls the nodes of a job in between.
    enum Then {
        Start,
        Cancel,
        Nodes(&'static str, Observation),
    }
    let taken_back = vec![
        Then::Start,
        Then::Nodes("db", Observation::Started),
        Then::Nodes("api", cannot.clone()),
        Then::Nodes("db", Observation::Stopped),
    ];
    let canceled = vec![Then::Start, Then::Cancel];
    let mut stops = spec();
    stops.on_failure = group::OnFailure::Stop;
    let stopped = vec![Then::Start, Then::Nodes("db", cannot)];
    [(spec(), taken_back), (spec(), canceled), (stops, stopped)]
        .into_iter()
        .map(|(spec, steps)| {
            let mut now = Time::from_millis(1_767_225_600_000);
            let (mut group, first) = Group::new(now, spec).expect("it is in order");
            let mut log = vec![first];
            let mut jobs = ["api", "db", "web"].map(|name| {
                let mut job = Job::new(job(name), SEED);
                let nodes = [NodeChange::Seen(Member::new("n1"))];
                let _ = job.step(now, Input::Nodes(&nodes)).expect("it fits");
                job
            });
            for then in steps {
                now = now.after(Span::from_secs(1));
                let said = match then {
                    Then::Start => Some(group::Input::Start),
                    Then::Cancel => Some(group::Input::Cancel),
                    Then::Nodes(name, what) => {
                        let of = jobs.iter_mut().find(|job| job.id().name() == name);
                        report(of.expect("it is a member"), now, &what);
                        None
                    }
                };
                if let Some(said) = said {
                    log.extend(group.step(now, said).expect("it fits"));
                }
                serve(&mut group, &mut log, &mut jobs, now, wanted);
            }
            log
        })
        .collect()
}

/// The nodes of a job say this of all that is waited for.
fn report(job: &mut Job, now: Time, what: &Observation) {
    let report = |a: orchestrator_core::Assignment<'_>| Report {
        target: a.target.expect("it is waited for"),
        generation: a.generation,
        number: 1,
        what: what.clone(),
    };
    let reports: Vec<Report> = job.outstanding().map(report).collect();
    let _ = job.step(now, Input::Reports(&reports)).expect("it fits");
}

/// Does all that is to be done for the members of a group.
fn serve(
    group: &mut group::Group,
    log: &mut Vec<group::Entry>,
    jobs: &mut [Job],
    now: Time,
    wanted: impl Fn(&str) -> JobSpec,
) {
    let mut quiet = false;
    while !std::mem::replace(&mut quiet, true) {
        for job in &mut *jobs {
            while let Some(duty) = group.duty(job) {
                quiet = false;
                let request = match duty {
                    group::Duty::Tell(said) => {
                        log.extend(group.step(now, said).expect("it fits"));
                        continue;
                    }
                    group::Duty::Command(request) => request,
                    group::Duty::Start { key } => Request {
                        command: Command::Register {
                            spec: Box::new(wanted(job.id().name())),
                            members: None,
                            again: false,
                        },
                        key: Some(key),
                        expected: None,
                    },
                };
                let _ = job.step(now, request.into()).expect("it fits");
            }
        }
    }
}

/// The word that an entry is called by in its line.
fn kind(line: &str) -> String {
    let line: Value = serde_json::from_str(line).expect("it is JSON");
    line["kind"]
        .as_str()
        .expect("every entry has one")
        .to_owned()
}

pub(crate) fn fleet_entries(log: &str) -> Vec<fleet::Entry> {
    let read = |line| fleet::Entry::decode(line).expect("it was written");
    log.lines().map(read).collect()
}

pub(crate) fn group_entries(log: &str) -> Vec<group::Entry> {
    let read = |line| group::Entry::decode(line).expect("it was written");
    log.lines().map(read).collect()
}

fn text(snapshot: Vec<u8>) -> String {
    String::from_utf8(snapshot).expect("it is JSON")
}

#[test]
fn a_fleets_log_is_read_for_ever() {
    let settings = fleet::FleetSettings::default();
    let log = fleet_log();
    let lines: String = log.iter().map(|e| e.encode() + "\n").collect();
    let fleet = fleet::Fleet::recover(settings, log).expect("the log is whole");
    bless("fleet.v1.jsonl", &lines);
    bless("fleet-snapshot.v1.json", &text(fleet.snapshot()));

    let log = read("fleet.v1.jsonl");
    let entries = fleet_entries(&log);
    let fleet = fleet::Fleet::recover(settings, entries.clone()).expect("the log is whole");
    let snapshot = read("fleet-snapshot.v1.json");
    assert_eq!(
        text(fleet.snapshot()),
        snapshot,
        "an old log means something else now"
    );
    let from_snapshot =
        fleet::Fleet::from_snapshot(settings, snapshot.as_bytes()).expect("it was written");
    assert_eq!(text(from_snapshot.snapshot()), snapshot);
    for (line, entry) in log.lines().zip(&entries) {
        assert_eq!(
            entry.encode(),
            line,
            "an entry is written in another form: raise its version"
        );
    }
    let kinds: BTreeSet<_> = log.lines().map(kind).collect();
    let all = super::kinds::<fleet::Event>();
    assert_eq!(kinds, all.into_iter().collect());
    let newer = log
        .lines()
        .next()
        .expect("it is long")
        .replace("\"v\":1", "\"v\":2");
    assert!(matches!(
        fleet::Entry::decode(&newer),
        Err(FormatError::OtherVersion { found: 2, .. })
    ));
}

#[test]
fn a_groups_log_is_read_for_ever() {
    let mut kinds = BTreeSet::new();
    for (number, log) in group_logs().into_iter().enumerate() {
        let (log_file, snapshot_file) = (
            format!("group{number}.v1.jsonl"),
            format!("group{number}-snapshot.v1.json"),
        );
        let lines: String = log.iter().map(|e| e.encode() + "\n").collect();
        let group = group::Group::recover(log).expect("the log is whole");
        bless(&log_file, &lines);
        bless(&snapshot_file, &text(group.snapshot()));

        let log = read(&log_file);
        let entries = group_entries(&log);
        let group = group::Group::recover(entries.clone()).expect("the log is whole");
        let snapshot = read(&snapshot_file);
        assert_eq!(
            text(group.snapshot()),
            snapshot,
            "an old log means something else now"
        );
        let from_snapshot =
            group::Group::from_snapshot(snapshot.as_bytes()).expect("it was written");
        assert_eq!(text(from_snapshot.snapshot()), snapshot);
        for (line, entry) in log.lines().zip(&entries) {
            assert_eq!(
                entry.encode(),
                line,
                "an entry is written in another form: raise its version"
            );
        }
        kinds.extend(log.lines().map(kind));
    }
    let all = super::kinds::<group::Event>();
    assert_eq!(kinds, all.into_iter().collect());
}
