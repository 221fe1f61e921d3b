//! The record is that of seed 003: its fields, their names and types, for every type, strategy and state.

use orchestrator_api::native::schema;
use serde_json::{Value, json};

use crate::harness::{Api, Server, as_told, canary, immediate, job, rolling};

/// Name, type, and whether it may be absent.
type Field = (&'static str, &'static str, bool);

const RECORD: [Field; 11] = [
    ("from_version", "integer", false),
    ("id", "string", false),
    ("job_id", "string", false),
    ("job_type", "string", false),
    ("namespace", "string", false),
    ("spec", "object", false),
    ("status", "object", false),
    ("to_version", "integer", false),
    ("type", "string", false),
    // What the seed does not have.
    ("rollback_of", "string", true),
    ("rolled_back_by", "string", true),
];
const SPEC: [Field; 11] = [
    ("auto_promote", "boolean", false),
    ("canary_count", "integer", false),
    ("canary_percent", "integer", false),
    ("health_check", "object", true),
    ("max_failed_nodes", "integer", false),
    ("max_failed_nodes_percent", "number", false),
    ("max_parallel", "integer", false),
    ("no_auto_rollback", "boolean", false),
    ("strategy", "string", false),
    ("on_failure", "string", false),
    ("spread", "string", true),
];
const HEALTH_CHECK: [Field; 6] = [
    ("deadline", "string", false),
    ("max_error_rate", "number", false),
    ("min_healthy_time", "string", false),
    ("interval", "string", false),
    ("failure_threshold", "integer", false),
    ("min_samples", "integer", false),
];
const STATUS: [Field; 19] = [
    ("canary_nodes", "array", true),
    ("canary_promoted", "boolean", false),
    ("completed_at", "time", true),
    ("created_at", "time", false),
    ("current_wave", "integer", false),
    ("failed_nodes", "integer", false),
    ("health_check_deadline", "time", true),
    ("healthy_deadline", "time", true),
    ("last_progress_time", "time", true),
    ("message", "string", false),
    ("revision", "integer", false),
    ("state", "string", false),
    ("total_nodes", "integer", false),
    ("updated_at", "time", false),
    ("updated_nodes", "integer", false),
    ("pending_nodes", "integer", false),
    ("in_flight_nodes", "integer", false),
    ("skipped_nodes", "integer", false),
    ("waiting_on", "string", true),
];

/// An object has these fields and no others, none of them empty.
fn has(object: &Value, fields: &[Field]) {
    let names = object.as_object().unwrap().keys();
    let unknown: Vec<_> = names
        .filter(|n| !fields.iter().any(|f| f.0 == n.as_str()))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} in {object:#}");
    for (name, kind, may_be_absent) in fields {
        let Some(value) = object.get(name) else {
            assert!(may_be_absent, "no {name} in {object:#}");
            continue;
        };
        let fits = match *kind {
            "string" => value.as_str().is_some_and(|text| !text.is_empty()),
            "integer" => value.is_u64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "object" => value.is_object(),
            "array" => value.as_array().is_some_and(|list| !list.is_empty()),
            "time" => value
                .as_str()
                .is_some_and(|t| t.ends_with('Z') && t.len() == 24),
            other => panic!("{other}"),
        };
        assert!(fits, "{name} is {value}");
    }
}

fn check(record: &Value) {
    has(record, &RECORD);
    has(&record["spec"], &SPEC);
    has(&record["status"], &STATUS);
    if let Some(check) = record["spec"].get("health_check") {
        has(check, &HEALTH_CHECK);
    }
    let (spec, status) = (&record["spec"], &record["status"]);
    let state = status["state"].as_str().unwrap();
    let is_over = ["completed", "failed", "canceled"].contains(&state);
    assert_eq!(status.get("completed_at").is_some(), is_over, "{record:#}");
    assert_eq!(status.get("waiting_on").is_some(), !is_over, "{record:#}");
    let in_flight = status["in_flight_nodes"].as_u64() > Some(0);
    let runs = state == "in_progress" && in_flight && spec["strategy"] != "immediate";
    for deadline in ["health_check_deadline", "healthy_deadline"] {
        if spec["strategy"] != "immediate" || !in_flight {
            assert_eq!(
                status.get(deadline).is_some(),
                runs,
                "{deadline}: {record:#}"
            );
        }
    }
    // The schema says all of it, and nothing else.
    let typed: schema::Deployment = serde_json::from_value(record.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *record);
}

async fn over(api: &Api, reply: crate::harness::Reply) -> Value {
    assert!([200, 201].contains(&reply.status), "{}", reply.text());
    let id = reply.json()["deployment_id"].as_str().unwrap().to_owned();
    let done = api.until_state(&id, "completed").await;
    check(&done);
    let targets = api.get(&format!("/v1/deployments/{id}/targets")).await;
    let targets = targets.json();
    let typed: schema::TargetPage = serde_json::from_value(targets.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), targets);
    done
}

#[tokio::test]
async fn every_type_by_every_strategy() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let api = &server.client;
    let mut promoted = canary();
    promoted["auto_promote"] = json!(true);
    for (name, rollout) in [("a", immediate()), ("b", rolling()), ("c", promoted)] {
        let mut types = Vec::new();
        for version in 1..=2 {
            let document = job(name, rollout.clone(), json!({ "v": version }));
            types.push(over(api, api.post("/v1/jobs", document).await).await);
        }
        for what in ["restart", "rollback", "stop"] {
            let path = format!("/v1/jobs/default/{name}/{what}");
            types.push(over(api, api.post(&path, json!({})).await).await);
        }
        let told: Vec<&str> = types.iter().map(|d| d["type"].as_str().unwrap()).collect();
        assert_eq!(told, ["create", "update", "restart", "rollback", "stop"]);
        // Also those that gave way to others, and in the list.
        for deployment in &types {
            check(&api.deployment(deployment["id"].as_str().unwrap()).await);
        }
        let list = api
            .get(&format!("/v1/deployments?job_id={name}"))
            .await
            .json();
        let list = list["deployments"].as_array().unwrap();
        assert_eq!(list.len(), 5);
        list.iter().for_each(check);
    }
    server.stop().await;
}

/// Every type by every strategy comes to every state; those that completed are above. Not reached here is a restart, a
/// rollback or a stop that is pending: they are about what runs, and on a drained node nothing does, so that each of their
/// nodes has to be silent, and that takes a lease. And what is pending cannot be paused.
#[tokio::test]
async fn every_state() {
    let mut server = Server::start().await;
    server.nodes(4, as_told).await;
    let api = server.client.clone();
    let mut promoted = canary();
    promoted["auto_promote"] = json!(true);
    let strategies = [("a", immediate()), ("b", rolling()), ("c", promoted)];
    for (name, rollout) in &strategies[1..] {
        let bad = job(
            &format!("{name}-bad"),
            rollout.clone(),
            json!({ "fate": "bad" }),
        );
        let id = api.register(bad).await;
        check(&api.until_state(&id, "failed").await);
    }
    let mut all = Vec::new();
    for (name, rollout) in &strategies {
        for (what, kind, versions) in [
            ("", "create", 0),
            ("", "update", 1),
            ("restart", "restart", 1),
            ("rollback", "rollback", 2),
            ("stop", "stop", 1),
        ] {
            for (end, state) in [("cancel", "canceled"), ("fail", "failed")] {
                let name = format!("{name}-{kind}-{end}");
                let waits = ["create", "update"].contains(&kind);
                let version = |number: u32| {
                    let mut document = job(&name, rollout.clone(), json!({ "v": number }));
                    let zone = if waits { "z0" } else { "z1" };
                    document["selector"] = json!(format!("zone = {zone}"));
                    document
                };
                for number in 1..=versions {
                    api.rolled_out(version(number)).await;
                }
                let (path, body) = match what {
                    "" => ("/v1/jobs".to_owned(), version(versions + 1)),
                    what => (format!("/v1/jobs/default/{name}/{what}"), json!({})),
                };
                all.push((path, body, kind, waits, end, state));
            }
        }
    }

    // From now on nothing starts in one of the zones, and nobody says that anything has in the other.
    server.silence();
    for node in [2, 4] {
        let path = format!("/v1/nodes/n{node}/drain");
        let drained = api.post(&path, json!({})).await;
        assert_eq!(drained.status, 200);
    }
    let mut begun = Vec::new();
    for (path, body, kind, waits, end, state) in all {
        let reply = api.post(&path, body).await;
        assert!([200, 201].contains(&reply.status), "{}", reply.text());
        let id = reply.json()["deployment_id"].as_str().unwrap().to_owned();
        let shown = api.deployment(&id).await;
        assert_eq!(shown["type"], kind);
        let first = if waits { "pending" } else { "in_progress" };
        assert_eq!(shown["status"]["state"], first, "{shown:#}");
        check(&shown);
        begun.push((id, end, state));
    }
    for node in [2, 4] {
        let path = format!("/v1/nodes/n{node}/eligibility");
        let enabled = api.post(&path, json!({ "eligible": true })).await;
        assert_eq!(enabled.status, 200);
    }
    for (id, end, state) in begun {
        check(&api.until_state(&id, "in_progress").await);
        for (what, state) in [("pause", "paused"), ("resume", "in_progress"), (end, state)] {
            let path = format!("/v1/deployments/{id}/{what}");
            let reply = api.post(&path, json!({})).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            // What failed may be answered by what takes it back.
            check(&reply.json()["deployment"]);
            let shown = api.deployment(&id).await;
            assert_eq!(shown["status"]["state"], state, "{shown:#}");
            check(&shown);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn the_answer_of_the_seed_to_the_letter() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let document = json!({
        "namespace": "shop", "job_id": "web", "driver": "exec", "config": { "fate": "silent" },
        "rollout": {
            "strategy": "canary", "canary_percent": 50, "max_parallel": 5,
            "health_check": { "deadline": "5m", "min_healthy_time": "30s", "max_error_rate": 0.1 },
        },
    });
    let id = api.register(document).await;
    let reply = api.get(&format!("/v1/deployments/{id}")).await;
    assert_eq!(reply.header("content-type"), "application/json");
    let mut answer = reply.json();
    let status = &mut answer["deployment"]["status"];
    for time in [
        "created_at",
        "updated_at",
        "last_progress_time",
        "health_check_deadline",
        "healthy_deadline",
    ] {
        assert!(status[time].is_string(), "{time}");
        status[time] = json!("T");
    }
    for text in ["message", "waiting_on"] {
        assert!(status[text].is_string(), "{text}");
        status[text] = json!("…");
    }
    let node = status["canary_nodes"][0].clone();
    let expected = json!({ "deployment": {
        "from_version": 0,
        "id": id,
        "job_id": "web",
        "job_type": "service",
        "namespace": "shop",
        "spec": {
            "auto_promote": false,
            "canary_count": 0,
            "canary_percent": 50,
            "health_check": {
                "deadline": "5m",
                "max_error_rate": 0.1,
                "min_healthy_time": "30s",
                "interval": "10s",
                "failure_threshold": 3,
                "min_samples": 10,
            },
            "max_failed_nodes": 10,
            "max_failed_nodes_percent": 10.0,
            "max_parallel": 5,
            "no_auto_rollback": false,
            "on_failure": "rollback",
            "strategy": "canary",
        },
        "status": {
            "canary_nodes": [node],
            "canary_promoted": false,
            "created_at": "T",
            "current_wave": 1,
            "failed_nodes": 0,
            "health_check_deadline": "T",
            "healthy_deadline": "T",
            "in_flight_nodes": 1,
            "last_progress_time": "T",
            "message": "…",
            "pending_nodes": 1,
            "revision": 2,
            "skipped_nodes": 0,
            "state": "in_progress",
            "total_nodes": 2,
            "updated_at": "T",
            "updated_nodes": 0,
            "waiting_on": "…",
        },
        "to_version": 1,
        "type": "create",
    } });
    assert_eq!(answer, expected);
    server.stop().await;
}
