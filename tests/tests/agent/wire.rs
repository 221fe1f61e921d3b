//! The agent's types of the protocol and the server's say the same.

use orchestrator_agent::wire;
use orchestrator_api::native::schema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// What one side writes, the other reads and writes again without a change.
fn agree<One: Serialize + DeserializeOwned, Other: Serialize + DeserializeOwned>(value: Value) {
    let one: One = serde_json::from_value(value.clone()).unwrap();
    let there = serde_json::to_value(one).unwrap();
    assert_eq!(there, value);
    let other: Other = serde_json::from_value(there).unwrap();
    let back = serde_json::to_value(other).unwrap();
    assert_eq!(back, value);
}

#[test]
fn what_the_agent_says() {
    let mut join = json!({ "name": "n1", "labels": { "zone": "z1" }, "facts": { "os": "linux" } });
    agree::<wire::Join, schema::Join>(join.clone());
    join["leaving"] = json!(true);
    agree::<wire::Join, schema::Join>(join);
    let observations = [
        json!({ "kind": "started" }),
        json!({ "kind": "cannot_start", "detail": "no such file" }),
        json!({ "kind": "exited", "code": -1 }),
        json!({ "kind": "restarted" }),
        json!({ "kind": "interval" }),
        json!({ "kind": "interval", "checks": false }),
        json!({ "kind": "interval", "checks": true, "requests": 10, "failed": 1 }),
        json!({ "kind": "stopped" }),
    ];
    for observation in observations {
        let mut report = json!({
            "job": "default/web", "slot": 3, "generation": 7, "number": 1, "observation": observation,
        });
        agree::<wire::Report, schema::Report>(report.clone());
        report["target"] = json!(0);
        agree::<wire::Reports, schema::Reports>(json!({ "node": "n1", "reports": [report] }));
    }
    for (stream, last) in [
        ("stdout", json!({ "end": 20, "text": "two" })),
        (
            "stderr",
            json!({ "end": 20, "text": "two", "partial": true }),
        ),
    ] {
        agree::<wire::Logs, schema::Logs>(json!({ "node": "n1", "outputs": [{
            "job": "a/b", "slot": 0, "version": 2, "generation": 9, "attempt": 1, "began": 1_700_000_000_000_u64,
            "stream": stream, "position": 7, "anew": true, "lines": [{ "end": 11, "text": "one" }, last],
        }] }));
    }
}

#[test]
fn what_the_server_says() {
    let mut execution =
        json!({ "job": "a/b", "slot": 0, "version": 2, "generation": 9, "since": 4 });
    agree::<wire::Execution, schema::Execution>(execution.clone());
    execution["target"] = json!(5);
    agree::<wire::Desired, schema::Desired>(json!({
        "node": "n1", "revision": 12, "executions": [execution],
        "workloads": { "a/b": { "2": { "driver": "exec", "config": {} } } },
    }));
    agree::<wire::Taken, schema::Taken>(json!({ "have": [null, 20] }));
    // Of an answer to joining the agent needs little.
    let said = json!({
        "node": {
            "name": "n1", "status": "ready", "drain": false, "leaving": false, "labels": {}, "facts": {},
            "executions": 0, "since": "2026-11-21T12:00:05Z",
        },
        "token": "orc_1", "server": "5eed", "lease": 30_000, "down_after": 300_000,
    });
    let joined: schema::JoinResponse = serde_json::from_value(said).unwrap();
    let read: wire::Joined = serde_json::from_value(serde_json::to_value(joined).unwrap()).unwrap();
    assert_eq!((read.lease, read.token.as_deref()), (30_000, Some("orc_1")));
    assert_eq!(read.server.as_deref(), Some("5eed"));
}

#[test]
fn names_that_would_climb_are_none() {
    for wrong in ["web", "a/b/c", "/b", "a/", "a@/b", "a b/c", "ä/b"] {
        assert!(wire::Job::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
    assert!(
        wire::Job::try_from("../..".to_owned()).is_ok(),
        "a name like others: see `runs`"
    );
}
