use proptest::prelude::*;

use super::*;

/// A fleet with its log, at seconds of its own clock.
struct Story {
    fleet: Fleet,
    log: Vec<Entry>,
}

impl Story {
    fn new() -> Self {
        Self {
            fleet: Fleet::new(FleetSettings::default()),
            log: Vec::new(),
        }
    }

    /// What the step logged, in short words.
    fn at(&mut self, millis: u64, input: Input) -> Vec<&'static str> {
        let entries = self.fleet.step(at(millis), input).unwrap();
        let words = entries.iter().map(|entry| word(&entry.event)).collect();
        self.log.extend(entries);
        words
    }

    fn status(&self, name: &str) -> NodeStatus {
        self.fleet.node(name).unwrap().status()
    }

    fn recovered(&self) -> Fleet {
        Fleet::recover(self.fleet.settings, self.log.clone()).unwrap()
    }
}

fn at(millis: u64) -> Time {
    Time::from_millis(1_000_000 + millis)
}

fn word(event: &Event) -> &'static str {
    match event {
        Event::Joined { .. } => "joined",
        Event::LabelsChanged { .. } => "labels",
        Event::FactsChanged { .. } => "facts",
        Event::Reconnected { .. } => "back",
        Event::Disconnected { .. } => "silent",
        Event::WentDown { .. } => "down",
        Event::Drained { .. } => "drained",
        Event::Enabled { .. } => "enabled",
        Event::Leaving { .. } => "leaving",
        Event::Stays { .. } => "stays",
        Event::Removed { .. } => "removed",
        Event::LoadsChanged { .. } => "loads",
        Event::Answered { .. } => "answered",
    }
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect()
}

fn join(name: &str) -> Input {
    join_with(name, &[], &[])
}

fn join_with(name: &str, labels: &[(&str, &str)], facts: &[(&str, &str)]) -> Input {
    Input::Join {
        name: name.into(),
        labels: map(labels),
        facts: map(facts),
        leaving: false,
    }
}

fn leave(name: &str) -> Input {
    let mut input = join(name);
    if let Input::Join { leaving, .. } = &mut input {
        *leaving = true;
    }
    input
}

fn beat(name: &str) -> Input {
    Input::Heartbeat { name: name.into() }
}

#[test]
fn silence_disconnects_then_downs_and_a_heartbeat_brings_back() {
    let mut story = Story::new();
    assert_eq!(story.at(0, join("n1")), ["joined"]);
    assert_eq!(story.fleet.wake(), Some(at(30_001)));
    assert!(story.at(20_000, beat("n1")).is_empty());
    assert!(story.at(50_000, Input::Tick).is_empty());
    assert_eq!(story.at(50_001, Input::Tick), ["silent"]);
    assert_eq!(story.status("n1"), NodeStatus::Disconnected);
    assert_eq!(story.fleet.wake(), Some(at(350_002)));
    assert!(story.at(350_001, Input::Tick).is_empty());
    assert_eq!(story.at(350_002, Input::Tick), ["down"]);
    assert_eq!(story.status("n1"), NodeStatus::Down);
    assert_eq!(story.fleet.wake(), None);
    assert_eq!(story.at(900_000, beat("n1")), ["back"]);
    assert_eq!(story.status("n1"), NodeStatus::Ready);
    assert_eq!(story.fleet.node("n1").unwrap().since, at(900_000));
}

#[test]
fn each_node_is_lost_on_time_whatever_the_order_of_heartbeats() {
    let mut story = Story::new();
    for name in ["a", "b", "c"] {
        story.at(0, join(name));
    }
    story.at(9_000, beat("b"));
    story.at(5_000 + 9_000, beat("a"));
    assert_eq!(story.at(30_001, Input::Tick), ["silent"]);
    assert_eq!(story.status("c"), NodeStatus::Disconnected);
    assert_eq!(story.fleet.wake(), Some(at(39_001)));
    story.at(39_001, Input::Tick);
    assert_eq!(
        (story.status("b"), story.status("a")),
        (NodeStatus::Disconnected, NodeStatus::Ready)
    );
    // The input of a step comes before its silence.
    assert!(story.at(44_001, beat("a")).is_empty());
}

#[test]
fn what_was_said_to_a_node_that_was_removed_was_not_said_to_the_next_of_its_name() {
    let mut story = Story::new();
    let name: NodeName = "n1".into();
    let drain = || Input::Drain {
        name: "n1".into(),
        key: Some("k".to_owned()),
    };
    story.at(0, join("n1"));
    story.at(0, join("n2"));
    assert_eq!(story.at(0, drain()), ["drained", "answered"]);
    let other = Input::Drain {
        name: "n2".into(),
        key: Some("k2".to_owned()),
    };
    assert_eq!(story.at(0, other.clone()), ["drained", "answered"]);
    assert_eq!(story.at(0, Input::Remove { name }), ["removed"]);
    story.at(0, join("n1"));
    assert_eq!(story.at(0, drain()), ["drained", "answered"]);
    assert!(story.at(0, other).is_empty());
    assert_eq!(story.recovered().state, story.fleet.state);
}

#[test]
fn a_key_that_the_program_before_had_forgotten_is_read_as_used_again() {
    let mut story = Story::new();
    story.at(0, join("n1"));
    let key = "k".to_owned();
    let answered = |seq, digest| Entry {
        seq,
        at: at(0),
        event: Event::Answered {
            key: key.clone(),
            digest,
        },
    };
    let mut log = story.log.clone();
    log.extend([answered(2, 1), answered(3, 2)]);
    let fleet = Fleet::recover(FleetSettings::default(), log).unwrap();
    assert_eq!(fleet.state.keys, [(key.clone(), 2)]);
}

#[test]
fn who_leaves_drains_until_it_joins_again() {
    let mut story = Story::new();
    assert_eq!(story.at(0, leave("n1")), ["joined", "leaving"]);
    assert_eq!(story.status("n1"), NodeStatus::Draining);
    assert!(!story.fleet.node("n1").unwrap().drain);
    assert!(story.at(1, leave("n1")).is_empty());
    // It lives still: that is no word about staying.
    assert!(story.at(20_000, beat("n1")).is_empty());
    assert_eq!(story.status("n1"), NodeStatus::Draining);
    assert_eq!(story.at(60_000, Input::Tick), ["silent"]);
    assert_eq!(story.status("n1"), NodeStatus::Disconnected);
    assert_eq!(story.at(60_001, beat("n1")), ["back"]);
    assert_eq!(story.status("n1"), NodeStatus::Draining);
    assert_eq!(story.at(95_000, Input::Tick), ["silent"]);
    assert_eq!(story.at(95_001, join("n1")), ["stays", "back"]);
    assert_eq!(story.status("n1"), NodeStatus::Ready);
    // The operator's mark is another one.
    let name: NodeName = "n1".into();
    let key = None;
    story.at(
        95_001,
        Input::Drain {
            name: name.clone(),
            key: key.clone(),
        },
    );
    story.at(95_001, leave("n1"));
    story.at(95_001, Input::Enable { name, key });
    assert_eq!(story.status("n1"), NodeStatus::Draining);
    assert_eq!(story.at(95_002, join("n1")), ["stays"]);
}

#[test]
fn what_is_said_again_under_its_key_undoes_nothing() {
    let mut story = Story::new();
    let mark = |drain: bool, key: &str| {
        let (name, key) = ("n1".into(), Some(key.to_owned()));
        match drain {
            true => Input::Drain { name, key },
            false => Input::Enable { name, key },
        }
    };
    story.at(0, join("n1"));
    assert_eq!(story.at(0, mark(true, "k1")), ["drained", "answered"]);
    assert_eq!(story.at(0, mark(false, "k2")), ["enabled", "answered"]);
    let mut story = Story {
        fleet: story.recovered(),
        ..story
    };
    // It was on its way for long.
    assert!(story.at(0, mark(true, "k1")).is_empty());
    assert_eq!(story.status("n1"), NodeStatus::Ready);
    let reused = story.fleet.step(at(0), mark(false, "k1"));
    assert_eq!(reused, Err(Rejection::KeyReused("k1".to_owned())));
    for key in ["", &"k".repeat(crate::input::KEY_BYTES_MAX + 1)] {
        let refused = story.fleet.step(at(0), mark(false, key));
        assert_eq!(refused, Err(Rejection::KeyLength(key.len())));
    }
    // What changes nothing is remembered, too.
    assert_eq!(story.at(0, mark(false, "k3")), ["answered"]);
    for number in 0..crate::KEYS_KEPT {
        story.at(0, mark(true, &format!("m{number}")));
    }
    assert_eq!(story.at(0, mark(true, "k1")), ["answered"], "forgotten");
}

#[test]
fn a_drain_survives_disconnects() {
    let mut story = Story::new();
    story.at(0, join("n1"));
    assert_eq!(
        story.at(
            0,
            Input::Drain {
                name: "n1".into(),
                key: None
            }
        ),
        ["drained"]
    );
    assert!(
        story
            .at(
                0,
                Input::Drain {
                    name: "n1".into(),
                    key: None
                }
            )
            .is_empty()
    );
    assert_eq!(story.status("n1"), NodeStatus::Draining);
    story.at(30_001, Input::Tick);
    assert_eq!(story.status("n1"), NodeStatus::Disconnected);
    assert_eq!(story.at(40_000, join("n1")), ["back"]);
    assert_eq!(story.status("n1"), NodeStatus::Draining);
    assert_eq!(
        story.at(
            40_000,
            Input::Enable {
                name: "n1".into(),
                key: None
            }
        ),
        ["enabled"]
    );
    assert_eq!(story.status("n1"), NodeStatus::Ready);
}

#[test]
fn joining_again_is_a_heartbeat_or_a_change() {
    let mut story = Story::new();
    story.at(0, join_with("n1", &[("zone", "a")], &[("os", "x")]));
    assert!(
        story
            .at(20_000, join_with("n1", &[("zone", "a")], &[("os", "x")]))
            .is_empty()
    );
    assert_eq!(
        story.at(45_000, join_with("n1", &[("zone", "b")], &[("os", "x")])),
        ["labels"]
    );
    assert_eq!(
        story.at(45_000, join_with("n1", &[("zone", "b")], &[("os", "y")])),
        ["facts"]
    );
    story.at(45_000, join_with("n0", &[("zone", "b")], &[]));
    story.at(45_000, join("n2"));
    let names = |selector: &str| -> Vec<String> {
        let selector = selector.parse().unwrap();
        story
            .fleet
            .matching(&selector)
            .map(|node| node.name.to_string())
            .collect()
    };
    assert_eq!(names("zone=b"), ["n0", "n1"]);
    assert!(names("zone=a").is_empty());
    assert_eq!(story.fleet.nodes().count(), story.fleet.len());
}

#[test]
fn a_clock_that_goes_back_loses_nothing_and_stops_nothing() {
    let mut story = Story::new();
    story.at(100_000, join("n1"));
    story.at(110_000, Input::Tick);
    // An hour back: ten seconds of the lease are used, twenty are left from here.
    assert!(
        story
            .fleet
            .step(Time::from_millis(5_000), Input::Tick)
            .unwrap()
            .is_empty()
    );
    assert_eq!(story.fleet.wake(), Some(Time::from_millis(25_001)));
    assert_eq!(
        story
            .fleet
            .step(Time::from_millis(25_001), Input::Tick)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut story = Story::new();
    story.at(0, join("n1"));
    let before = story.fleet.state.clone();
    let mut refuse = |input| story.fleet.step(at(1), input).unwrap_err();
    assert_eq!(
        refuse(beat("n2")).to_string(),
        "not in the fleet: n2; a node has to join first"
    );
    let many = Input::HeartbeatMany {
        names: vec!["x".into(), "n1".into(), "y".into()],
    };
    assert_eq!(
        refuse(many).to_string(),
        "not in the fleet: x, y; a node has to join first"
    );
    assert!(matches!(refuse(join("no name")), Rejection::InvalidName(_)));
    assert!(matches!(
        refuse(join_with("n2", &[("", "x")], &[])),
        Rejection::InvalidLabels(_)
    ));
    let long = "x".repeat(FACTS_BYTES_MAX);
    let facts = refuse(join_with("n2", &[], &[("k", &long)]));
    assert_eq!(
        facts,
        Rejection::TooManyFacts {
            count: 1,
            bytes: FACTS_BYTES_MAX + 1
        }
    );
    for input in [
        Input::Drain {
            name: "n2".into(),
            key: None,
        },
        Input::Enable {
            name: "n2".into(),
            key: None,
        },
        Input::Remove { name: "n2".into() },
        Input::SetLoads {
            loads: [("n2".into(), 1)].into(),
        },
    ] {
        assert!(matches!(refuse(input), Rejection::UnknownNodes { .. }));
    }
    assert_eq!(story.fleet.state, before);
}

#[test]
fn a_recovered_fleet_gives_everyone_a_fresh_lease() {
    let mut story = Story::new();
    story.at(0, join("n1"));
    story.at(29_000, Input::Tick);
    let mut again = story.recovered();
    assert_eq!(again.wake(), Some(Time::default()));
    assert!(again.step(at(500_000), Input::Tick).unwrap().is_empty());
    assert_eq!(again.wake(), Some(at(530_001)));
}

#[test]
fn a_gap_in_the_log_is_found() {
    let mut story = Story::new();
    story.at(0, join("n1"));
    story.at(0, join("n2"));
    let gap = Fleet::recover(FleetSettings::default(), story.log[1..].to_vec()).unwrap_err();
    assert_eq!(
        gap,
        BrokenLog::Gap {
            expected: 1,
            found: 2
        }
    );
}

#[test]
fn a_log_that_says_what_cannot_have_happened_is_refused() {
    let mut story = Story::new();
    story.at(0, join("n1"));
    story.at(0, join("n2"));
    story.at(
        0,
        Input::Drain {
            name: "n2".into(),
            key: None,
        },
    );
    let name = || NodeName::from("n1");
    let stranger = || NodeName::from("x");
    let joined = |name: &str, labels: &[(&str, &str)], facts: &[(&str, &str)]| Event::Joined {
        name: name.into(),
        labels: map(labels),
        facts: map(facts),
    };
    let long = "x".repeat(FACTS_BYTES_MAX);
    let events = [
        joined("", &[], &[]),
        joined("n1", &[], &[]),
        joined("n3", &[("", "x")], &[]),
        joined("n3", &[], &[("k", &long)]),
        Event::LabelsChanged {
            name: stranger(),
            labels: map(&[]),
        },
        Event::FactsChanged {
            name: name(),
            facts: map(&[("k", &long)]),
        },
        Event::Reconnected {
            nodes: vec![name()],
        },
        Event::Disconnected {
            nodes: vec![name(), name()],
        },
        Event::Disconnected { nodes: vec![] },
        Event::WentDown {
            nodes: vec![stranger()],
        },
        Event::WentDown {
            nodes: vec![name()],
        },
        Event::Drained { name: "n2".into() },
        Event::Enabled { name: name() },
        Event::Leaving { name: stranger() },
        Event::Stays { name: name() },
        Event::Removed { name: stranger() },
        Event::LoadsChanged {
            loads: [(stranger(), 1)].into(),
        },
    ];
    for event in events {
        let mut log = story.log.clone();
        log.push(Entry {
            seq: 4,
            at: at(9),
            event,
        });
        let last = format!("{:?}", log[3]);
        let why = Fleet::recover(FleetSettings::default(), log).expect_err(&last);
        assert_eq!(why, BrokenLog::DoesNotFit { seq: 4 }, "{last}");
    }
}

#[test]
fn settings_are_lengths_of_time_as_people_write_them() {
    let read = FleetSettings::parse(r#"{"lease": "1m 30s"}"#).unwrap();
    assert_eq!(
        (read.lease(), read.down_after()),
        (Span::from_secs(90), Span::from_secs(300))
    );
    let text = serde_json::to_string(&read).unwrap();
    assert_eq!(text, r#"{"down_after":"5m","lease":"1m 30s"}"#);
    assert_eq!(serde_json::from_str::<FleetSettings>(&text).unwrap(), read);
    let wrong = r#"{"lease": 30, "down_after": "0s", "leas": "1s"}"#;
    let allowed = r#"is not allowed; a length of time such as "1m 30s", from 1s to 30days"#;
    assert_eq!(
        FleetSettings::parse(wrong).unwrap_err().to_string(),
        format!(
            "lease: 30 {allowed}
down_after: \"0s\" {allowed}
leas: \"1s\" is not allowed; there is no such field; the nearest is lease"
        )
    );
    serde_json::from_str::<FleetSettings>(wrong).unwrap_err();
    FleetSettings::new(Span::ZERO, Span::from_secs(1)).unwrap_err();
    FleetSettings::new(Span::from_millis(1500), Span::from_secs(1)).unwrap();
}

#[test]
fn entries_and_snapshots_are_json() {
    let mut story = Story::new();
    story.at(0, join_with("n1", &[("zone", "a")], &[]));
    story.at(
        0,
        Input::SetLoads {
            loads: [("n1".into(), 3)].into(),
        },
    );
    let text = story.log[1].encode();
    let expected =
        r#"{"v":1,"seq":2,"at":1000000,"kind":"loads_changed","body":{"loads":{"n1":3}}}"#;
    assert_eq!(text, expected);
    assert_eq!(Entry::decode(&text).unwrap(), story.log[1]);
    let snapshot = story.fleet.snapshot();
    story.at(1, join("n2"));
    let mut again = Fleet::from_snapshot(story.fleet.settings, &snapshot).unwrap();
    again.catch_up(story.log[2..].to_vec()).unwrap();
    assert_eq!(again.state, story.fleet.state);
    assert_eq!(again.seq(), 3);
    assert_eq!(again.node("n1").unwrap().load, 3);
}

#[test]
fn a_cut_off_fleet_is_told_in_bounded_steps() {
    let mut story = Story::new();
    let lost_per_step = LOST_PER_ENTRY_MAX * LOST_ENTRIES_PER_STEP_MAX;
    for number in 0..lost_per_step + 1 {
        story.at(0, join(&format!("n{number}")));
    }
    assert_eq!(
        story.at(40_000, Input::Tick).len(),
        LOST_ENTRIES_PER_STEP_MAX
    );
    assert_eq!(story.fleet.wake(), Some(at(40_000)));
    assert_eq!(story.at(40_000, Input::Tick), ["silent"]);
    assert!(
        story
            .fleet
            .nodes()
            .all(|node| node.status() == NodeStatus::Disconnected)
    );
    assert_eq!(story.fleet.leases.heard.by_name.len(), 0);
}

fn any_input() -> impl Strategy<Value = Input> {
    let name = || (0..5u8).prop_map(|number| NodeName::from(format!("n{number}")));
    let zone = prop_oneof![Just("a"), Just("b")];
    let key = || prop::option::of(prop_oneof![Just("k1".to_owned()), Just("k2".to_owned())]);
    prop_oneof![
        Just(Input::Tick),
        (name(), zone).prop_map(|(name, zone)| join_with(&name, &[("zone", zone)], &[])),
        name().prop_map(|name| Input::Heartbeat { name }),
        prop::collection::vec(name(), 0..4).prop_map(|names| Input::HeartbeatMany { names }),
        name().prop_map(|name| leave(&name)),
        (name(), key()).prop_map(|(name, key)| Input::Drain { name, key }),
        (name(), key()).prop_map(|(name, key)| Input::Enable { name, key }),
        name().prop_map(|name| Input::Remove { name }),
        (name(), 0..3u32).prop_map(|(name, load)| Input::SetLoads {
            loads: [(name, load)].into()
        }),
    ]
}

proptest! {
    /// Against a model that keeps when each node was heard of and scans them all.
    #[test]
    fn any_history_replays_and_loses_nodes_exactly_on_time(
        steps in prop::collection::vec((any_input(), -20_000..60_000i64), 1..80),
    ) {
        let settings = FleetSettings::new(Span::from_secs(30), Span::from_secs(60)).expect("it is in bounds");
        let mut fleet = Fleet::new(settings);
        let (mut log, mut clock, mut elapsed) = (Vec::new(), 10_000_000i64, 0);
        let mut model: BTreeMap<NodeName, (Connectivity, i64)> = BTreeMap::new();
        for (number, (input, by)) in steps.into_iter().enumerate() {
            clock += by;
            // The first step only tells the time.
            elapsed += if number == 0 { 0 } else { by.max(0) };
            let heard: Vec<NodeName> = match &input {
                Input::Join { name, .. } | Input::Heartbeat { name } => vec![name.clone()],
                Input::HeartbeatMany { names } => names.clone(),
                _ => Vec::new(),
            };
            let before = fleet.state.clone();
            match fleet.step(Time::from_millis(clock as u64), input.clone()) {
                Err(_) => {
                    prop_assert_eq!(&fleet.state, &before);
                    continue;
                }
                Ok(entries) => log.extend(entries),
            }
            if let Input::Remove { name } = &input {
                model.remove(name);
            }
            for name in heard {
                model.insert(name, (Connectivity::Connected, elapsed));
            }
            for (connectivity, at) in model.values_mut() {
                match connectivity {
                    Connectivity::Disconnected if elapsed - *at > 60_000 => *connectivity = Connectivity::Down,
                    Connectivity::Connected if elapsed - *at > 30_000 => {
                        (*connectivity, *at) = (Connectivity::Disconnected, elapsed);
                    }
                    _ => {}
                }
            }
            let found: Vec<_> = fleet.nodes().map(|node| (&node.name, node.connectivity)).collect();
            let expected: Vec<_> = model.iter().map(|(name, (connectivity, _))| (name, *connectivity)).collect();
            prop_assert_eq!(found, expected);
            let waiting = fleet.leases.heard.by_name.len() + fleet.leases.lost.by_name.len();
            let not_down = fleet.nodes().filter(|node| node.connectivity != Connectivity::Down).count();
            prop_assert_eq!(waiting, not_down);
            let again = Fleet::recover(settings, log.clone()).unwrap();
            prop_assert_eq!(&again.state, &fleet.state);
            let copy = Fleet::from_snapshot(settings, &fleet.snapshot()).unwrap();
            prop_assert_eq!(&copy.state, &fleet.state);
            prop_assert_eq!(copy.wake(), again.wake());
        }
    }
}
