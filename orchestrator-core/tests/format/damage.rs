//! What was damaged is refused or read: never a panic.

use orchestrator_core::{Entry, FormatError, Job, JobId, Span, Time, fleet, group};
use serde_json::Value;

use crate::fleet_and_group::{fleet_entries, group_entries};
use crate::story::SEED;
use crate::{read, view};

/// `value` with every number, word and flag in it set to some other one in turn, and every list shortened.
fn disturbed_all(value: &Value) -> Vec<Value> {
    fn places(value: &Value, at: String, found: &mut Vec<String>) {
        found.push(at.clone());
        match value {
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    places(item, format!("{at}/{n}"), found);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    places(field, format!("{at}/{name}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    places(value, String::new(), &mut found);
    let words = [
        "",
        "x",
        "n1",
        "n2",
        "default/db",
        "default/web",
        "default/x",
        "completed",
        "failed",
        "canceled",
        "running",
        "waiting",
        "connected",
        "down",
        "unchanged",
        "joined",
        "ended",
        "started",
        "job_ended",
        "removed",
        "drained",
        "leaving",
        "stays",
    ];
    let mut others = disturbed(value);
    for at in found {
        let mut put = |new: Value| {
            let mut other = value.clone();
            if let Some(place) = other.pointer_mut(&at)
                && *place != new
            {
                *place = new;
                others.push(other);
            }
        };
        match value.pointer(&at) {
            Some(Value::String(_)) => words.iter().for_each(|&word| put(word.into())),
            Some(Value::Bool(flag)) => put((!flag).into()),
            Some(Value::Array(items)) if !items.is_empty() => {
                put(items[1..].into());
                put([&items[..], &items[..1]].concat().into());
            }
            Some(Value::Object(fields)) => {
                for name in fields.keys() {
                    let mut fewer = fields.clone();
                    fewer.remove(name);
                    put(fewer.into());
                }
            }
            _ => {}
        }
    }
    others
}

/// Every number in `value`, set to some other one in turn.
fn disturbed(value: &Value) -> Vec<Value> {
    fn numbers(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Number(_) => found.push(at),
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    numbers(item, format!("{at}/{n}"), found);
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    numbers(field, format!("{at}/{name}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    numbers(value, String::new(), &mut found);
    let others = [0, 1, 3, 7, u64::from(u32::MAX), u64::MAX];
    let each = found.iter().flat_map(|at| others.map(|n| (at, n)));
    each.filter_map(|(at, number)| {
        let mut other = value.clone();
        *other.pointer_mut(at)? = number.into();
        (other != *value).then_some(other)
    })
    .collect()
}

#[test]
fn a_damaged_log_is_refused_or_read_and_never_a_panic() {
    let log = read("log.v1.jsonl");
    let entries: Vec<Entry> = log
        .lines()
        .map(|line| Entry::decode(line).expect("it was written"))
        .collect();
    let (mut refused, mut taken) = (0, 0);
    for (at, line) in log.lines().enumerate() {
        let id = || "web".parse::<JobId>().expect("a name");
        let mut before = Job::new(id(), SEED);
        before.catch_up(&entries[..at]).expect("it is whole");
        let value: Value = serde_json::from_str(line).expect("it is JSON");
        for other in disturbed(&value) {
            let Ok(entry) = Entry::decode(&other.to_string()) else {
                continue;
            };
            let mut job = before.clone();
            match job.catch_up([entry]) {
                Err(_) => refused += 1,
                Ok(()) => {
                    taken += 1;
                    // What follows may fit no more; and whatever came of it can be shown.
                    let _ = job.catch_up(&entries[at + 1..]);
                    view(&job);
                }
            }
        }
    }
    assert!(
        refused > 500 && taken > 500,
        "{refused} refused, {taken} taken"
    );
}

/// `text` with every number and word in it, names of fields too, set to some other one in turn. All else stays as it
/// was written, so that nothing but the change tells it from the text.
fn rewritten(text: &str) -> Vec<String> {
    let in_word = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    let numbers = ["0", "1", "3", "7", "4294967295", "18446744073709551615"];
    let words = [
        "",
        "n1",
        "x",
        "down",
        "completed",
        "default/db",
        "true",
        "false",
    ];
    let (mut others, mut at) = (Vec::new(), 0);
    while let Some(start) = text[at..].find(in_word).map(|skipped| at + skipped) {
        let length = text[start..].find(|c| !in_word(c));
        let end = length.map_or(text.len(), |length| start + length);
        let word = &text[start..end];
        let number = word.bytes().all(|b| b.is_ascii_digit());
        let instead = if number { &numbers[..] } else { &words[..] };
        for other in instead.iter().filter(|other| **other != word) {
            others.push([&text[..start], other, &text[end..]].concat());
        }
        at = end;
    }
    others
}

#[test]
fn damaged_snapshots_are_refused() {
    let settings = fleet::FleetSettings::default();
    let refused = |name: &str, taken: &dyn Fn(&[u8]) -> bool| {
        let text = read(name);
        assert!(taken(text.as_bytes()));
        let others = rewritten(&text);
        assert!(others.len() > 100, "{name}");
        for other in others {
            assert!(!taken(other.as_bytes()), "{name}: {other}");
        }
    };
    refused("snapshot.v1.json", &|bytes| {
        Job::from_snapshot(bytes).is_ok()
    });
    refused("fleet-snapshot.v1.json", &|bytes| {
        fleet::Fleet::from_snapshot(settings, bytes).is_ok()
    });
    for number in 0..3 {
        refused(&format!("group{number}-snapshot.v1.json"), &|bytes| {
            group::Group::from_snapshot(bytes).is_ok()
        });
    }
    let edited = read("fleet-snapshot.v1.json").replace("connected", "down");
    assert!(matches!(
        fleet::Fleet::from_snapshot(settings, edited.as_bytes()),
        Err(FormatError::Damaged)
    ));
}

/// Plays every damaged form of every line: `after` takes the entries before it, the damaged one and those that follow,
/// and says whether the damaged one was taken.
fn damage<E: Clone>(
    log: &str,
    entries: &[E],
    decode: impl Fn(&str) -> Result<E, FormatError>,
    after: impl Fn(&[E], E, &[E]) -> bool,
) {
    let (mut refused, mut taken) = (0, 0);
    for (at, line) in log.lines().enumerate() {
        let value: Value = serde_json::from_str(line).expect("it is JSON");
        for other in disturbed_all(&value) {
            let Ok(entry) = decode(&other.to_string()) else {
                refused += 1;
                continue;
            };
            match after(&entries[..at], entry, &entries[at + 1..]) {
                true => taken += 1,
                false => refused += 1,
            }
        }
    }
    assert!(
        refused > 50 && taken > 10,
        "{refused} refused, {taken} taken"
    );
}

#[test]
fn a_fleets_damaged_log_is_refused_or_read_and_never_a_panic() {
    let log = read("fleet.v1.jsonl");
    let settings = fleet::FleetSettings::default();
    let decode = |line: &str| fleet::Entry::decode(line);
    damage(&log, &fleet_entries(&log), decode, |before, entry, rest| {
        let before = before.to_vec();
        let mut fleet = fleet::Fleet::recover(settings, before).expect("it is whole");
        let taken = fleet.catch_up([entry]).is_ok();
        // What follows may fit no more; and whatever came of it goes on.
        let _ = fleet.catch_up(rest.to_vec());
        let again = fleet::Fleet::from_snapshot(settings, &fleet.snapshot());
        assert!(again.expect("it was written").snapshot() == fleet.snapshot());
        for seconds in [1, 40, 400] {
            let now = Time::from_millis(1_767_226_000_000).after(Span::from_secs(seconds));
            fleet.step(now, fleet::Input::Tick).expect("it fits");
        }
        taken
    });
}

#[test]
fn a_groups_damaged_log_is_refused_or_read_and_never_a_panic() {
    for number in 0..3 {
        let log = read(&format!("group{number}.v1.jsonl"));
        let decode = |line: &str| group::Entry::decode(line);
        damage(&log, &group_entries(&log), decode, |before, entry, rest| {
            let mut group = match before {
                [] => match group::Group::recover([entry]) {
                    Ok(group) => group,
                    Err(_) => return false,
                },
                _ => {
                    let before = before.to_vec();
                    let mut group = group::Group::recover(before).expect("it is whole");
                    if group.catch_up([entry]).is_err() {
                        return false;
                    }
                    group
                }
            };
            // What follows may fit no more; and whatever came of it goes on.
            let _ = group.catch_up(rest.to_vec());
            let again = group::Group::from_snapshot(&group.snapshot());
            assert!(again.expect("it was written").snapshot() == group.snapshot());
            let (_, _, _) = (group.outstanding(), group.waiting_on(), group.plan());
            let now = Time::from_millis(1_767_226_000_000);
            group.step(now, group::Input::Tick).expect("it fits");
            let _ = group.step(now, group::Input::Cancel);
            true
        });
    }
}
