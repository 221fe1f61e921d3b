use proptest::prelude::*;

use super::rules::{is_settled, is_well};
use super::*;
use crate::spec::SpecError;

/// `"b: a"` is job b after job a.
fn spec(lines: &[&str]) -> GroupSpec {
    let member = |line: &&str| {
        let (name, after) = line.split_once(':').unwrap_or((line, ""));
        Member {
            job: id(name),
            after: after.split_whitespace().map(id).collect(),
        }
    };
    let members = lines.iter().map(member).collect();
    GroupSpec {
        name: "shop".into(),
        on_failure: OnFailure::Rollback,
        members,
    }
}

fn id(name: &str) -> JobId {
    name.parse().unwrap()
}

fn at(seq: u64) -> Time {
    Time::from_millis(1_000_000 + seq)
}

/// A group with its log; every step checks that the log replays to the same state.
struct Story {
    group: Group,
    log: Vec<Entry>,
}

impl Story {
    fn new(spec: GroupSpec) -> Self {
        let (group, entry) = Group::new(at(0), spec).unwrap();
        let mut story = Self {
            group,
            log: vec![entry],
        };
        story.check_replay();
        story.say(Input::Start).unwrap();
        story
    }

    /// The effects in short words: `+a` start, `-a` roll back, `!a` cancel.
    fn say(&mut self, input: Input) -> Result<String, Rejection> {
        let before = self.group.state.clone();
        let entries = match self.group.step(at(before.seq), input) {
            Ok(entries) => entries,
            Err(rejection) => {
                assert_eq!(self.group.state, before);
                return Err(rejection);
            }
        };
        let effects: Vec<Effect> = entries.iter().flat_map(Entry::effects).collect();
        self.log.extend(entries);
        self.check_replay();
        self.check_half_steps(&before);
        Ok(short(&effects))
    }

    /// Its answer to the start, where that was not said before, and then its end.
    fn end(&mut self, job: &str, outcome: Outcome) -> String {
        let member = self.group.state.member(&id(job)).unwrap();
        if member.deployment.is_none() && member.outcome.is_none() {
            assert_eq!(self.answer(job, began(job)), "");
        }
        self.say(Input::Finished {
            job: id(job),
            outcome,
        })
        .unwrap()
    }

    fn answer(&mut self, job: &str, led_to: LedTo) -> String {
        let job = id(job);
        self.say(Input::Answered { job, led_to }).unwrap()
    }

    fn back(&mut self, job: &str, ok: bool) -> String {
        self.say(Input::RollbackFinished { job: id(job), ok })
            .unwrap()
    }

    fn member(&self, job: &str) -> &MemberState {
        &self.group.state.member(&id(job)).unwrap().state
    }

    fn state(&self) -> GroupState {
        self.group.state.state
    }

    fn check_replay(&self) {
        let again = Group::recover(self.log.clone()).unwrap();
        assert_eq!(again.state, self.group.state);
        let copy = Group::from_snapshot(&again.snapshot()).unwrap();
        assert_eq!(copy.state, again.state);
        assert_eq!(again.outstanding(), self.group.outstanding());
    }

    /// A crash in the middle of a step: the other half is decided again, and the same.
    fn check_half_steps(&self, before: &State) {
        let from = before.seq as usize;
        for cut in from + 1..=self.log.len() {
            let mut half = Group::recover(self.log[..cut].to_vec()).unwrap();
            let rest = half.step(at(before.seq), Input::Tick).unwrap();
            assert_eq!(rest, self.log[cut..]);
            assert_eq!(half.state, self.group.state);
        }
    }
}

/// Its deployment, by its name.
fn deployment(job: &str) -> DeploymentId {
    DeploymentId::derive(7, &job.parse().expect("a name"), 1, at(0))
}

fn began(job: &str) -> LedTo {
    LedTo::Began {
        deployment: deployment(job),
        from: Some(1),
    }
}

fn awaited(job: &str) -> LedTo {
    LedTo::Awaited {
        deployment: deployment(job),
    }
}

fn short(effects: &[Effect]) -> String {
    let word = |effect: &Effect| match effect {
        Effect::StartJob(job) => format!("+{}", job.name()),
        Effect::RollBackJob(job) => format!("-{}", job.name()),
        Effect::CancelJob(job) => format!("!{}", job.name()),
    };
    effects.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_diamond_runs_in_waves_and_completes() {
    let mut story = Story::new(spec(&["d: b c", "b: a", "c: a", "a"]));
    let plan = story.group.plan();
    let plan: Vec<Vec<&str>> = plan
        .iter()
        .map(|wave| wave.iter().map(JobId::name).collect())
        .collect();
    assert_eq!(plan, [vec!["a"], vec!["b", "c"], vec!["d"]]);
    assert_eq!(short(&story.group.outstanding()), "+a");
    assert_eq!(story.end("a", Outcome::Completed), "+b +c");
    assert_eq!(
        story.group.waiting_on().unwrap(),
        "default/b, default/c to complete"
    );
    assert_eq!(story.end("c", Outcome::Completed), "");
    assert_eq!(story.end("b", Outcome::Completed), "+d");
    assert_eq!(story.end("d", Outcome::Completed), "");
    assert_eq!(story.state(), GroupState::Completed);
    assert_eq!(story.group.waiting_on(), None);
}

#[test]
fn a_failed_diamond_is_taken_back_in_reverse_order() {
    let mut story = Story::new(spec(&[
        "a", "b: a", "c: a", "d: b c", "e: d", "f: d", "g: e f",
    ]));
    for job in ["a", "b", "c", "d", "e"] {
        story.end(job, Outcome::Completed);
    }
    assert_eq!(story.end("f", Outcome::RolledBack), "-e");
    assert_eq!(
        story.member("g"),
        &MemberState::Blocked { culprit: id("f") }
    );
    assert_eq!(
        story.group.waiting_on().unwrap(),
        "default/e to be rolled back"
    );
    assert_eq!(story.back("e", true), "-d");
    // A failed rollback is kept in mind, and the rest goes on.
    assert_eq!(story.back("d", false), "-b -c");
    assert_eq!(story.back("c", true), "");
    assert_eq!(story.back("b", true), "-a");
    assert_eq!(story.back("a", true), "");
    assert_eq!(story.state(), GroupState::Failed);
    assert_eq!(story.member("d"), &MemberState::TakeBackFailed);
    assert_eq!(story.member("a"), &MemberState::TakenBack);
}

#[test]
fn what_runs_is_canceled_and_rolled_back_once_it_ended() {
    let mut story = Story::new(spec(&["a", "b: a", "c: a", "d: a", "e: a", "z: b c d e"]));
    story.end("a", Outcome::Completed);
    assert_eq!(story.end("b", Outcome::Failed), "!c !d !e");
    assert_eq!(short(&story.group.outstanding()), "!c !d !e");
    assert_eq!(story.end("c", Outcome::Canceled), "-c");
    // Too late to be canceled: back all the same.
    assert_eq!(story.end("d", Outcome::Completed), "-d");
    assert_eq!(story.end("e", Outcome::RolledBack), "");
    story.back("c", true);
    assert_eq!(story.back("d", true), "-a");
    story.back("a", true);
    assert_eq!(story.state(), GroupState::Failed);
    assert_eq!(story.member("b"), &MemberState::Failed);
}

#[test]
fn what_others_began_is_waited_for_and_left_alone() {
    let mut story = Story::new(spec(&["a", "b: a", "c: b", "x: b"]));
    assert_eq!(story.answer("a", awaited("a")), "");
    assert_eq!(story.answer("a", awaited("a")), "");
    assert_eq!(
        story.group.waiting_on().unwrap(),
        "default/a to complete what others began"
    );
    assert_eq!(story.end("a", Outcome::Completed), "+b");
    assert_eq!(story.member("a"), &MemberState::Unchanged);
    assert_eq!(story.end("b", Outcome::Completed), "+c +x");
    // Its end is waited for, it is not canceled, and only then what it depends on is taken back.
    story.answer("c", awaited("c"));
    assert_eq!(story.end("x", Outcome::Failed), "");
    assert_eq!(story.end("c", Outcome::Completed), "-b");
    assert_eq!(story.back("b", true), "");
    assert_eq!(story.state(), GroupState::Failed);
    assert_eq!(story.member("a"), &MemberState::Unchanged);
}

#[test]
fn what_others_began_ends_badly_like_anything_else() {
    let mut story = Story::new(spec(&["a", "b: a", "c: b"]));
    story.end("a", Outcome::Completed);
    story.answer("b", awaited("b"));
    assert_eq!(story.end("b", Outcome::RolledBack), "-a");
    assert_eq!(
        story.member("c"),
        &MemberState::Blocked { culprit: id("b") }
    );

    // An answer that comes when the start is being taken back already.
    let mut story = Story::new(spec(&["a", "b", "c: a b"]));
    assert_eq!(story.end("a", Outcome::Failed), "!b");
    assert_eq!(story.answer("b", awaited("b")), "");
    assert_eq!(story.member("b"), &MemberState::Awaited);
    story.end("b", Outcome::Completed);
    assert_eq!(story.state(), GroupState::Failed);

    // The operator cancels the group, and not what others began.
    let mut story = Story::new(spec(&["a", "b"]));
    story.answer("a", awaited("a"));
    assert_eq!(story.say(Input::Cancel).unwrap(), "!b");
    assert_eq!(story.answer("b", awaited("b")), "");
    assert_eq!(story.state(), GroupState::Canceled);
}

#[test]
fn of_two_independent_chains_one_goes_on() {
    let mut story = Story::new(spec(&["a1", "a2: a1", "b1", "b2: b1", "b3: b2"]));
    story.end("a1", Outcome::Completed);
    story.end("b1", Outcome::Completed);
    assert_eq!(story.end("b2", Outcome::Failed), "-b1");
    assert_eq!(story.end("a2", Outcome::Completed), "");
    assert_eq!(story.state(), GroupState::Running);
    story.back("b1", true);
    assert_eq!(story.state(), GroupState::Failed);
    assert_eq!(story.member("a1"), &MemberState::Completed);
    assert_eq!(story.member("a2"), &MemberState::Completed);
}

#[test]
fn stop_only_blocks_what_depends_on_it() {
    let stop = GroupSpec {
        on_failure: OnFailure::Stop,
        ..spec(&["a", "b: a", "c: a", "d: b", "e: d", "f: c"])
    };
    let mut story = Story::new(stop);
    story.end("a", Outcome::Completed);
    assert_eq!(story.end("b", Outcome::Failed), "");
    assert_eq!(
        story.member("e"),
        &MemberState::Blocked { culprit: id("b") }
    );
    assert_eq!(story.end("c", Outcome::Completed), "+f");
    story.end("f", Outcome::Completed);
    assert_eq!(story.state(), GroupState::Failed);
    assert_eq!(story.member("a"), &MemberState::Completed);
}

#[test]
fn the_operator_cancels_and_nothing_is_rolled_back() {
    let mut story = Story::new(spec(&["a", "b: a", "c: b", "x"]));
    story.end("a", Outcome::Completed);
    assert_eq!(story.say(Input::Cancel).unwrap(), "!b !x");
    assert_eq!(
        story.group.waiting_on().unwrap(),
        "default/b, default/x to be canceled"
    );
    assert_eq!(story.say(Input::Cancel).unwrap(), "");
    assert_eq!(story.end("x", Outcome::Canceled), "");
    assert_eq!(story.end("b", Outcome::Failed), "");
    assert_eq!(story.state(), GroupState::Canceled);
    assert_eq!(story.member("a"), &MemberState::Completed);
    assert_eq!(story.member("c"), &MemberState::Canceled);
    assert_eq!(
        story.say(Input::Start),
        Err(Rejection::Ended(GroupState::Canceled))
    );
}

#[test]
fn a_cancel_stops_a_take_back_where_it_is() {
    let mut story = Story::new(spec(&["a", "b: a", "c: b", "d: b"]));
    story.end("a", Outcome::Completed);
    story.end("b", Outcome::Completed);
    assert_eq!(story.end("c", Outcome::Failed), "!d");
    assert_eq!(story.end("d", Outcome::Canceled), "-d");
    assert_eq!(story.say(Input::Cancel).unwrap(), "");
    assert_eq!(
        story.group.waiting_on().unwrap(),
        "default/d to be rolled back"
    );
    assert_eq!(story.back("d", true), "");
    assert_eq!(story.state(), GroupState::Canceled);
    assert_eq!(story.member("b"), &MemberState::Completed);
}

#[test]
fn a_group_can_be_canceled_before_it_starts() {
    let (mut group, _) = Group::new(at(0), spec(&["a"])).unwrap();
    assert_eq!(group.waiting_on().unwrap(), "the command to start");
    group.step(at(1), Input::Cancel).unwrap();
    assert_eq!(group.state().state(), GroupState::Canceled);
}

#[test]
fn stray_reports_are_refused_and_repeated_ones_ignored() {
    let mut story = Story::new(spec(&["a", "b: a"]));
    let finished = |job: &str, outcome| Input::Finished {
        job: id(job),
        outcome,
    };
    let stray = story.say(finished("x", Outcome::Completed)).unwrap_err();
    assert_eq!(stray, Rejection::NotAMember(id("x")));
    let early = story.say(finished("b", Outcome::Completed)).unwrap_err();
    let unanswered = story.say(finished("a", Outcome::Completed)).unwrap_err();
    assert_eq!(
        unanswered.to_string(),
        "job default/a cannot be reported completed before its answer to the start is reported"
    );
    assert_eq!(
        early.to_string(),
        "job default/b is waiting and cannot be reported completed now; look at the group before you report again"
    );
    assert_eq!(story.say(Input::Start).unwrap(), "");
    story.end("a", Outcome::Completed);
    assert_eq!(story.end("a", Outcome::Completed), "");
    story.say(finished("a", Outcome::Failed)).unwrap_err();
    story
        .say(Input::RollbackFinished {
            job: id("a"),
            ok: true,
        })
        .unwrap_err();
    story.end("b", Outcome::Failed);
    assert_eq!(story.end("a", Outcome::Completed), "");
    story.back("a", true);
    let length = story.log.len();
    story.back("a", true);
    story.end("b", Outcome::Failed);
    story
        .say(Input::RollbackFinished {
            job: id("a"),
            ok: false,
        })
        .unwrap_err();
    assert_eq!(
        story.say(Input::Cancel),
        Err(Rejection::Ended(GroupState::Failed))
    );
    assert_eq!(story.log.len(), length);
}

#[test]
fn a_spec_says_all_that_is_wrong_at_once() {
    let mut wrong = spec(&[
        "a: c",
        "b: a",
        "c: b",
        "d: d nope",
        "e",
        "e",
        "y: x",
        "x: y a",
    ]);
    wrong.name = "no name".into();
    let errors = Group::new(at(0), wrong).unwrap_err();
    let expected = [
        r#"name: "no name" is not allowed; 1 to 200 of letters, digits, '-', '_' and '.'"#,
        r#"members[5].job: "default/e" is not allowed; each job only once: it is members[4] already"#,
        r#"members[3].after[0]: "default/d" is not allowed; another job: none can be after itself"#,
        r#"members[3].after[1]: "default/nope" is not allowed; a member of this group: add it, or take it out here"#,
        r#"members[0].after[0]: "default/c" is not allowed; no circle: default/a after default/c after default/b after default/a, so that none of them could start"#,
        r#"members[7].after[0]: "default/y" is not allowed; no circle: default/x after default/y after default/x, so that none of them could start"#,
    ];
    assert_eq!(errors.to_string().lines().collect::<Vec<_>>(), expected);
    let none = Group::new(at(0), spec(&[])).unwrap_err().to_string();
    assert_eq!(
        none,
        "members: 0 jobs is not allowed; a list of 1 to 1000 jobs"
    );
    let names: Vec<String> = (0..=GROUP_MEMBERS_MAX)
        .map(|number| format!("j{number}"))
        .collect();
    let many = spec(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let many = Group::new(at(0), many).unwrap_err().to_string();
    assert_eq!(
        many,
        "members: 1001 jobs is not allowed; a list of 1 to 1000 jobs"
    );
}

#[test]
fn a_document_is_read_or_all_that_is_wrong_is_told() {
    let text = r#"{"name": "shop", "on_failure": "stop", "members": [{"job": "db"}, {"job": "eu/api", "after": ["db"]}]}"#;
    let read = GroupSpec::parse(text).unwrap();
    assert_eq!(read.on_failure, OnFailure::Stop);
    assert_eq!(read.members[1].job, id("eu/api"));
    assert_eq!(read.members[1].after, [id("db")]);
    let again = serde_json::to_string(&read).unwrap();
    assert_eq!(GroupSpec::parse(&again).unwrap(), read);

    let wrong = r#"{"name": "shop", "name": 7, "on_failur": "stop", "members": [
        {"job": "a b", "afte": []}, {"after": "x"}, {"job": "c", "after": ["c", "a", "!", 3]}, 5, {"job": "c"}
    ]}"#;
    let errors = GroupSpec::parse(wrong).unwrap_err();
    let fields: Vec<&str> = errors.errors().iter().map(|e| e.field.as_str()).collect();
    let expected = [
        "name",
        "name",
        "on_failur",
        "members[3]",
        "members[0].job",
        "members[0].afte",
        "members[1].job",
        "members[1].after",
        "members[2].after[2]",
        "members[2].after[3]",
        "members[2].after[0]",
        "members[4].job",
    ];
    assert_eq!(
        fields.iter().collect::<BTreeSet<_>>(),
        expected.iter().collect::<BTreeSet<_>>(),
        "{errors}"
    );
    assert_eq!(
        GroupSpec::parse("{}").unwrap_err().errors(),
        ["name", "members"].map(|field| SpecError {
            field: field.into(),
            value: String::new(),
            allowed: match field {
                "name" => "1 to 200 of letters, digits, '-', '_' and '.'".into(),
                _ => "a list of 1 to 1000 jobs".into(),
            },
        })
    );
}

#[test]
fn entries_and_snapshots_are_json() {
    let mut story = Story::new(spec(&["a", "b: a"]));
    let text = story.log[2].encode();
    assert_eq!(
        text,
        r#"{"v":1,"seq":3,"at":1000001,"kind":"jobs_started","body":{"jobs":["default/a"]}}"#
    );
    assert_eq!(Entry::decode(&text).unwrap(), story.log[2]);
    let snapshot = story.group.snapshot();
    let seen = story.log.len();
    story.end("a", Outcome::Failed);
    let mut again = Group::from_snapshot(&snapshot).unwrap();
    again.catch_up(story.log[seen..].to_vec()).unwrap();
    assert_eq!(again.state, story.group.state);
    let mut gap = Group::from_snapshot(&snapshot).unwrap();
    assert_eq!(
        gap.catch_up(story.log[seen + 1..].to_vec()).unwrap_err(),
        BrokenLog::Gap {
            expected: 4,
            found: 5
        }
    );
    assert_eq!(
        Group::recover(story.log[1..].to_vec()).unwrap_err(),
        BrokenLog::Gap {
            expected: 1,
            found: 2
        }
    );
    assert_eq!(
        Group::recover::<Entry>([]).unwrap_err(),
        BrokenLog::NoBeginning
    );
}

#[test]
fn a_log_that_says_what_cannot_have_happened_is_refused() {
    let story = Story::new(spec(&["a", "b: a"]));
    let job = || id("a");
    let jobs = |names: &[&str]| names.iter().map(|name| id(name)).collect::<Vec<_>>();
    let ended = |state| Event::Ended { state };
    let events = [
        Event::JobEnded {
            job: id("stranger"),
            outcome: Outcome::Failed,
        },
        Event::JobEnded {
            job: id("b"),
            outcome: Outcome::Failed,
        },
        Event::JobEnded {
            job: job(),
            outcome: Outcome::Completed,
        },
        ended(GroupState::Completed),
        ended(GroupState::Running),
        Event::Started,
        Event::Created {
            spec: story.group.state.spec.clone(),
        },
        Event::JobsStarted { jobs: jobs(&["a"]) },
        Event::JobsStarted { jobs: jobs(&[]) },
        Event::JobsStarted {
            jobs: jobs(&["b", "b"]),
        },
        Event::RollbacksStarted { jobs: jobs(&["a"]) },
        Event::RollbackEnded {
            job: job(),
            ok: true,
        },
        Event::DependentsBlocked {
            culprit: job(),
            blocked: jobs(&["b"]),
        },
        Event::TakeBackBegan {
            culprit: job(),
            blocked: jobs(&["b"]),
            canceling: jobs(&[]),
        },
        Event::CancelBegan {
            canceling: jobs(&["b"]),
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
        let why = Group::recover(log).expect_err(&last);
        assert_eq!(why, BrokenLog::DoesNotFit { seq: 4 }, "{last}");
    }
}

/// Jobs j0 to j7; bit j of a member's mask puts it after job j, if that comes earlier.
fn dag(masks: &[u8]) -> GroupSpec {
    let member = |(at, mask): (usize, &u8)| {
        let after = (0..at).filter(|bit| mask >> bit & 1 == 1);
        Member {
            job: number(at),
            after: after.map(number).collect(),
        }
    };
    let members = masks.iter().enumerate().map(member).collect();
    GroupSpec {
        name: "any".into(),
        on_failure: OnFailure::Rollback,
        members,
    }
}

fn number(at: usize) -> JobId {
    id(&format!("j{at}"))
}

/// A job and all that depends on it, from the masks alone.
fn dependents(masks: &[u8], at: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([at]);
    for (other, mask) in masks.iter().enumerate() {
        if (0..other).any(|bit| mask >> bit & 1 == 1 && found.contains(&bit)) {
            found.insert(other);
        }
    }
    found
}

/// A job and all that is connected with it, from the masks alone.
fn connected(masks: &[u8], at: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([at]);
    for _ in masks {
        for (other, mask) in masks.iter().enumerate() {
            for bit in (0..other).filter(|bit| mask >> bit & 1 == 1) {
                if found.contains(&bit) || found.contains(&other) {
                    found.extend([bit, other]);
                }
            }
        }
    }
    found
}

fn masks() -> impl Strategy<Value = Vec<u8>> {
    // Two masks over each other keep some groups sparse, with several parts.
    let mask = (any::<u8>(), any::<u8>(), any::<bool>());
    let mask = mask.prop_map(|(a, b, dense)| if dense { a } else { a & b & 0x55 });
    prop::collection::vec(mask, 1..=8)
}

proptest! {
    /// A driver that carries out whatever is outstanding, in any order and with any result.
    #[test]
    fn any_group_with_any_outcomes_keeps_the_order_and_ends(
        masks in masks(),
        stop in any::<bool>(),
        cancel_at in prop::option::weighted(0.2, 0..12usize),
        luck in prop::collection::vec((any::<u8>(), 0..10u8), 40),
    ) {
        let mut spec = dag(&masks);
        if stop {
            spec.on_failure = OnFailure::Stop;
        }
        let index = |job: &JobId| job.name()[1..].parse::<usize>().unwrap();
        let mut story = Story::new(spec);
        let (mut bad, mut touched) = (BTreeSet::new(), BTreeSet::new());
        let (mut completed, mut unchanged) = (BTreeSet::new(), BTreeSet::new());
        let (mut started, mut rolled_back) = (BTreeSet::new(), BTreeSet::new());
        let mut canceled = false;
        let mut seen = 0;
        for (step, (pick, dice)) in luck.into_iter().enumerate() {
            // What the last step ordered.
            for effect in story.log[seen..].iter().flat_map(Entry::effects) {
                match effect {
                    Effect::StartJob(job) => {
                        let at = index(&job);
                        prop_assert!(!canceled && started.insert(at));
                        prop_assert!((0..at).all(|bit| masks[at] >> bit & 1 == 0 || completed.contains(&bit)));
                        prop_assert!(bad.iter().all(|bad| !dependents(&masks, *bad).contains(&at)));
                    }
                    Effect::RollBackJob(job) => {
                        let at = index(&job);
                        prop_assert!(!canceled && !stop && !unchanged.contains(&at));
                        let mut others = dependents(&masks, at);
                        others.remove(&at);
                        let gone = |other: &usize| {
                            !started.contains(other)
                                || rolled_back.contains(other)
                                || bad.contains(other)
                                || unchanged.contains(other)
                        };
                        prop_assert!(others.iter().all(gone));
                        touched.insert(at);
                    }
                    Effect::CancelJob(job) => {
                        touched.insert(index(&job));
                    }
                }
            }
            seen = story.log.len();
            if cancel_at == Some(step) && story.state() == GroupState::Running {
                story.say(Input::Cancel).unwrap();
                canceled = true;
                continue;
            }
            let mut outstanding = story.group.outstanding();
            let awaited_ones = story.group.state.members.iter().filter(|m| m.state == MemberState::Awaited);
            outstanding.extend(awaited_ones.map(|member| Effect::StartJob(member.job.clone())));
            prop_assert_eq!(outstanding.is_empty(), story.state() != GroupState::Running);
            prop_assert_eq!(story.group.waiting_on().is_some(), story.state() == GroupState::Running);
            if outstanding.is_empty() {
                break;
            }
            match outstanding[pick as usize % outstanding.len()].clone() {
                Effect::StartJob(job) | Effect::CancelJob(job) => {
                    let status = story.group.state.member(&job).unwrap().clone();
                    let outcome = match (dice, status.deployment) {
                        (5, None) => {
                            completed.insert(index(&job));
                            unchanged.insert(index(&job));
                            story.answer(job.name(), LedTo::Unchanged);
                            continue;
                        }
                        (6, None) => {
                            // Of an operator's cancel it is let go.
                            story.answer(job.name(), awaited(job.name()));
                            continue;
                        }
                        (0..7, _) => Outcome::Completed,
                        (7, _) => Outcome::Failed,
                        (8, _) => Outcome::RolledBack,
                        _ => Outcome::Canceled,
                    };
                    let canceling = status.state == MemberState::Canceling;
                    match outcome {
                        Outcome::Completed => {
                            completed.insert(index(&job));
                            if status.state == MemberState::Awaited {
                                unchanged.insert(index(&job));
                            }
                        }
                        Outcome::Canceled if canceling => {}
                        Outcome::Failed | Outcome::RolledBack | Outcome::Canceled => {
                            bad.insert(index(&job));
                        }
                    }
                    story.end(job.name(), outcome);
                }
                Effect::RollBackJob(job) => {
                    rolled_back.insert(index(&job));
                    story.say(Input::RollbackFinished { job, ok: dice < 7 }).unwrap();
                }
            }
        }
        let state = story.state();
        if canceled {
            prop_assert_eq!(state, GroupState::Canceled);
            return Ok(());
        }
        let all = completed.len() == masks.len() && bad.is_empty();
        prop_assert_eq!(state, if all { GroupState::Completed } else { GroupState::Failed });
        for at in 0..masks.len() {
            let part = connected(&masks, at);
            let member = story.member(number(at).name());
            if bad.is_disjoint(&part) {
                // Nobody near it ended badly: it ran and was left alone.
                prop_assert!(is_well(member));
                prop_assert!(!touched.contains(&at));
            } else if !stop {
                let settled = is_settled(member) || *member == MemberState::Unchanged;
                prop_assert!(settled, "{at} is {member:?}");
            }
        }
    }
}
