//! What an operator says to deployments and nodes.

use axum::http::Method;
use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_api::store::{Machine, Store};
use serde_json::{Value, json};

use crate::harness::{Api, Server, as_told, canary, immediate, job, well};

#[tokio::test]
async fn a_deployment_takes_the_commands_that_fit() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let api = &server.client;
    let id = api.under_way("web").await;
    let say = async |id: &str, what: &str, body: Value| {
        api.post(&format!("/v1/deployments/{id}/{what}"), body)
            .await
    };
    let state =
        |reply: &crate::harness::Reply| reply.json()["deployment"]["status"]["state"].clone();

    assert_eq!(
        say(&id, "promote", json!({})).await.problem().1,
        "nothing-to-promote"
    );
    assert_eq!(
        say(&id, "resume", json!({})).await.problem().1,
        "does-not-fit"
    );
    assert_eq!(state(&say(&id, "pause", json!({})).await), "paused");
    assert_eq!(say(&id, "pause", json!({})).await.problem().0, 409);
    assert_eq!(state(&say(&id, "resume", json!({})).await), "in_progress");
    let failed = say(&id, "fail", json!({ "reason": "it smells" })).await;
    assert_eq!(state(&failed), "failed", "{}", failed.text());
    let message = failed.json()["deployment"]["status"]["message"].clone();
    assert!(message.as_str().unwrap().contains("it smells"), "{message}");
    let (status, kind, _) = say(&id, "cancel", json!({})).await.problem();
    assert_eq!((status, kind.as_str()), (409, "deployment-over"));

    let id = api.under_way("db").await;
    // A body may be left out.
    let path = format!("/v1/deployments/{id}/cancel");
    let canceled = api.send(Method::POST, &path, &[], "").await;
    assert_eq!(state(&canceled), "canceled");

    let nobody = "01969af3-6c00-7a1b-8c2d-0123456789ab";
    for what in ["promote", "pause", "resume", "cancel", "fail", "rollback"] {
        let (status, kind, _) = say(nobody, what, json!({})).await.problem();
        assert_eq!((status, kind.as_str()), (404, "not-found"), "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn who_fails_a_deployment_is_answered_with_that_one() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let api = &server.client;
    api.rolled_out(job("web", immediate(), json!({ "v": 1 })))
        .await;
    let id = api.under_way("web").await;
    let path = format!("/v1/deployments/{id}/fail");
    for _ in 0..2 {
        let key = [("idempotency-key", "k1")];
        let failed = api.post_with(&path, &key, json!({})).await.json()["deployment"].clone();
        assert_eq!(failed["id"], *id);
        assert_eq!(failed["status"]["state"], "failed");
        // And says what follows.
        let back = failed["rolled_back_by"]
            .as_str()
            .expect("there is something to go back to");
        api.until_state(back, "completed").await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_deployment_is_taken_back_once() {
    let mut server = Server::start().await;
    server.nodes(3, well).await;
    let api = &server.client;
    let first = api
        .rolled_out(job("web", immediate(), json!({ "v": 1 })))
        .await;
    let second = api
        .rolled_out(job("web", immediate(), json!({ "v": 2 })))
        .await;

    let path = format!("/v1/deployments/{first}/rollback");
    let (status, kind, _) = api.post(&path, json!({})).await.problem();
    assert_eq!((status, kind.as_str()), (409, "gave-way"));

    let path = format!("/v1/deployments/{second}/rollback");
    let key = [("idempotency-key", "back")];
    let back = api.post_with(&path, &key, json!({})).await.json()["deployment"].clone();
    assert_eq!(back["rollback_of"], *second);
    assert_eq!(back["to_version"], 1);
    // Said twice it is not taken back further.
    for body in [json!({}), json!({ "to_version": 1 })] {
        let again = api.post(&path, body).await.json()["deployment"].clone();
        assert_eq!(again["id"], back["id"]);
    }
    // Nor to anything else than it is, nor for who has seen something older, nor for another reason under its key.
    let refused = async |path: &str, key: &[(&str, &str)], body: Value| {
        let (status, kind, _) = api.post_with(path, key, body).await.problem();
        (status, kind)
    };
    let gave_way = (409, "gave-way".to_owned());
    for to in [2, 77] {
        let refused = refused(&path, &[], json!({ "to_version": to })).await;
        assert_eq!(refused, gave_way);
    }
    let stale = format!("{path}?expected_revision=1");
    let changed = (412, "changed-meanwhile".to_owned());
    assert_eq!(refused(&stale, &[], json!({})).await, changed);
    let revision = &api.deployment(&second).await["status"]["revision"];
    let seen = format!("{path}?expected_revision={revision}");
    assert_eq!(api.post(&seen, json!({})).await.status, 200);
    let reused = (422, "idempotency-key-reused".to_owned());
    let other = json!({ "to_version": 1 });
    assert_eq!(refused(&path, &key, other).await, reused);
    let path_of_first = format!("/v1/deployments/{first}/rollback");
    assert_eq!(refused(&path_of_first, &key, json!({})).await, reused);
    api.until_state(back["id"].as_str().unwrap(), "completed")
        .await;
    // What was answered is answered so for as long as the key is remembered.
    api.rolled_out(job("web", immediate(), json!({ "v": 3 })))
        .await;
    assert_eq!(refused(&path, &[], json!({})).await, gave_way);
    let again = api.post_with(&path, &key, json!({})).await.json()["deployment"].clone();
    assert_eq!(again["id"], back["id"]);
    server.stop().await;
}

#[tokio::test]
async fn a_guard_refuses_what_was_meant_for_something_older() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let api = &server.client;
    let id = api.under_way("web").await;
    let reply = api.get(&format!("/v1/deployments/{id}")).await;
    let revision = reply.json()["deployment"]["status"]["revision"]
        .as_u64()
        .unwrap();
    assert_eq!(reply.header("etag"), format!("\"{revision}\""));

    let path = format!("/v1/deployments/{id}/pause");
    let stale = [("if-match", "\"1\"")];
    let (status, kind, _) = api.post_with(&path, &stale, json!({})).await.problem();
    assert_eq!((status, kind.as_str()), (412, "changed-meanwhile"));
    let stale = format!("{path}?expected_revision={}", revision + 1);
    assert_eq!(api.post(&stale, json!({})).await.problem().0, 412);
    for tag in ["1", "W/\"1\"", "*", "\"x\"", "\"1\", \"2\""] {
        let wrong = api.post_with(&path, &[("if-match", tag)], json!({})).await;
        let (status, _, errors) = wrong.problem();
        assert_eq!((status, errors[0].0.as_str()), (400, "if-match"), "{tag}");
    }
    let both = format!("{path}?expected_revision={revision}");
    let other = [("if-match", "\"1\"")];
    assert_eq!(
        api.post_with(&both, &other, json!({})).await.problem().0,
        400
    );
    let tag = format!("\"{revision}\"");
    let same = [("if-match", tag.as_str())];
    assert_eq!(api.post_with(&both, &same, json!({})).await.status, 200);

    // Taking it back starts more than any other command.
    let back = format!("/v1/deployments/{id}/rollback");
    let stale = [("if-match", "\"1\"")];
    let (status, kind, _) = api.post_with(&back, &stale, json!({})).await.problem();
    assert_eq!((status, kind.as_str()), (412, "changed-meanwhile"));
    let stale = format!("{back}?expected_revision=1");
    assert_eq!(api.post(&stale, json!({})).await.problem().0, 412);
    let after = api.get(&format!("/v1/deployments/{id}")).await;
    assert_eq!(after.json()["deployment"]["status"]["state"], "paused");

    let job_path = "/v1/jobs?expected_version=0";
    let stale = api.post(job_path, job("web", immediate(), json!({}))).await;
    assert_eq!(stale.problem().1, "changed-meanwhile");
    let etag = api
        .get("/v1/jobs/default/web")
        .await
        .header("etag")
        .to_owned();
    let same = [("if-match", etag.as_str())];
    let second = api
        .post_with("/v1/jobs", &same, job("web", immediate(), json!({})))
        .await;
    assert_eq!(second.status, 201, "{}", second.text());
    server.stop().await;
}

/// How many lines of the audit log say that this was done.
async fn deeds(api: &Api, action: &str, object: &str) -> usize {
    let page = api.get("/v1/audit?page_size=1000").await.json();
    let lines = page["lines"].as_array().unwrap().iter();
    let of = |line: &&Value| line["action"] == action && line["object"] == object;
    lines.filter(of).count()
}

#[tokio::test]
async fn a_deed_is_written_down_once_however_often_it_is_said() {
    let mut server = Server::start().await;
    server.nodes(3, as_told).await;
    let api = &server.client;
    let many = |path: &'static str, body: Value| {
        let said = (0..40).map(|number| {
            let (api, body) = (api.clone(), body.clone());
            tokio::spawn(async move {
                // Others do something to the same at the same time.
                if number % 4 == 0 {
                    let name = format!("/v1/nodes/n{}/eligibility", 2 + number / 4 % 2);
                    let eligible = json!({ "eligible": number % 8 == 0 });
                    assert_eq!(api.post(&name, eligible).await.status, 200);
                    // Which may come before there is one.
                    api.post("/v1/jobs/default/web/restart", json!({})).await;
                }
                // A program that asks again, and people who ask the same.
                let key = match number % 3 {
                    0 => format!("{number}"),
                    _ => "once".to_owned(),
                };
                let key = [("idempotency-key", &*key)];
                let reply = api.post_with(path, &key, body).await;
                assert!([200, 201].contains(&reply.status), "{}", reply.text());
            })
        });
        said.collect::<Vec<_>>()
    };
    for said in many("/v1/jobs", job("web", immediate(), json!({}))) {
        said.await.unwrap();
    }
    assert_eq!(deeds(api, "register", "job default/web").await, 1);
    for said in many("/v1/nodes/n1/drain", json!({})) {
        said.await.unwrap();
    }
    assert_eq!(deeds(api, "drain", "node n1").await, 1);
    // What is done to a deployment says to which.
    let id = api.under_way("db").await;
    for what in ["pause", "cancel"] {
        let path = format!("/v1/deployments/{id}/{what}");
        assert_eq!(api.post(&path, json!({})).await.status, 200);
        let object = format!("job default/db, deployment {id}");
        assert_eq!(deeds(api, what, &object).await, 1);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_was_refused_leaves_nothing_behind() {
    let mut server = Server::start().await;
    server.nodes(1, well).await;
    let api = &server.client;
    for number in 0..50 {
        let new = job(&format!("j{number}"), immediate(), json!({}));
        let refused = api.post("/v1/jobs?expected_version=5", new).await;
        assert_eq!(refused.problem().1, "changed-meanwhile");
    }
    api.rolled_out(job("web", immediate(), json!({}))).await;
    let dir = server.stop().await;
    let store = Sqlite::open(dir.path()).unwrap();
    let machines = store.machines(None, 100).await.unwrap();
    let jobs = machines
        .iter()
        .filter(|machine| **machine != Machine::Fleet);
    assert_eq!(jobs.count(), 1, "{machines:?}");
}

#[tokio::test]
async fn a_key_makes_a_command_happen_once() {
    let mut server = Server::start().await;
    server.nodes(2, well).await;
    let api = &server.client;
    let key = [("idempotency-key", "one")];
    let document = || job("web", immediate(), json!({ "v": 1 }));
    let first = api.post_with("/v1/jobs", &key, document()).await;
    let again = api.post_with("/v1/jobs", &key, document()).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json()["deployment_id"], again.json()["deployment_id"]);
    assert_eq!(again.json()["version"], 1);
    let id = first.json()["deployment_id"].as_str().unwrap().to_owned();
    api.until_state(&id, "completed").await;

    let restart = "/v1/jobs/default/web/restart";
    let (status, kind, _) = api.post_with(restart, &key, json!({})).await.problem();
    assert_eq!((status, kind.as_str()), (422, "idempotency-key-reused"));
    let key = [("idempotency-key", "two")];
    let first = api.post_with(restart, &key, json!({})).await.json();
    let id = first["deployment_id"].as_str().unwrap();
    api.until_state(id, "completed").await;
    let again = api.post_with(restart, &key, json!({})).await.json();
    assert_eq!(again["deployment_id"], first["deployment_id"]);
    let all = api.get("/v1/deployments").await.json();
    assert_eq!(all["deployments"].as_array().unwrap().len(), 2);

    for key in ["", &"x".repeat(201)] {
        let (status, _, errors) = api
            .post_with(restart, &[("idempotency-key", key)], json!({}))
            .await
            .problem();
        assert_eq!((status, errors[0].0.as_str()), (400, "idempotency-key"));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_said_of_a_node_again_undoes_nothing() {
    let server = Server::start().await;
    let api = &server.client;
    let joined = api.post("/v1/agent/join", json!({ "name": "n1" })).await;
    assert_eq!(joined.status, 200);
    let drain = || {
        api.post_with(
            "/v1/nodes/n1/drain",
            &[("idempotency-key", "k1")],
            json!({}),
        )
    };
    let drains = |reply: crate::harness::Reply| reply.json()["node"]["drain"] == true;
    assert!(drains(drain().await));
    let eligible = json!({ "eligible": true });
    let enabled = api.post("/v1/nodes/n1/eligibility", eligible.clone()).await;
    assert!(!drains(enabled));
    // A request that was on its way for long.
    assert!(!drains(drain().await), "it was done before");
    let other = [("idempotency-key", "k1")];
    let reused = api
        .post_with("/v1/nodes/n1/eligibility", &other, eligible)
        .await;
    let (status, kind, _) = reused.problem();
    assert_eq!((status, kind.as_str()), (422, "idempotency-key-reused"));
    // And what cannot be guarded says so.
    let guarded = api.post_with("/v1/nodes/n1/drain", &[("if-match", "\"1\"")], json!({}));
    let (status, _, errors) = guarded.await.problem();
    assert_eq!((status, errors[0].0.as_str()), (400, "if-match"));
    server.stop().await;
}

#[tokio::test]
async fn a_node_is_read_drained_enabled_and_forgotten() {
    let mut server = Server::start().await;
    server.nodes(2, well).await;
    let api = &server.client;
    let node = async |reply: crate::harness::Reply| {
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["node"].clone()
    };
    let shown = node(api.get("/v1/nodes/n1").await).await;
    assert_eq!(shown["status"], "ready");
    assert_eq!(shown["drain"], false);
    for _ in 0..2 {
        let drained = node(api.post("/v1/nodes/n1/drain", json!({})).await).await;
        assert_eq!(
            (&drained["status"], &drained["drain"]),
            (&json!("draining"), &json!(true))
        );
    }
    let eligible = json!({ "eligible": true });
    let enabled = node(api.post("/v1/nodes/n1/eligibility", eligible).await).await;
    assert_eq!(enabled["status"], "ready");
    let not = json!({ "eligible": false });
    assert_eq!(
        node(api.post("/v1/nodes/n1/eligibility", not).await).await["drain"],
        true
    );
    let (status, _, errors) = api
        .post("/v1/nodes/n1/eligibility", json!({}))
        .await
        .problem();
    assert_eq!((status, errors[0].0.as_str()), (422, "/eligible"));

    let removed = api.send(Method::DELETE, "/v1/nodes/n1", &[], "").await;
    assert_eq!((removed.status, removed.body.len()), (204, 0));
    let again = api.send(Method::DELETE, "/v1/nodes/n1", &[], "").await;
    assert_eq!(again.problem().0, 404);
    assert_eq!(api.get("/v1/nodes/n1").await.problem().0, 404);
    for (what, body) in [
        ("drain", json!({})),
        ("eligibility", json!({ "eligible": true })),
    ] {
        let gone = api.post(&format!("/v1/nodes/n1/{what}"), body).await;
        assert_eq!(gone.problem().0, 404);
    }
    let nodes = api.get("/v1/nodes").await.json();
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn targets_are_shown_live_and_after_they_gave_way() {
    let mut server = Server::start().await;
    server.nodes(5, well).await;
    let api = &server.client;
    let first = api.register(job("web", canary(), json!({ "v": 1 }))).await;
    let canary_done = |d: &Value| d["status"]["updated_nodes"] == 1;
    api.until(&first, canary_done).await;
    let targets = async |id: &str| {
        let (mut all, mut query) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/deployments/{id}/targets?page_size=2{query}");
            let page = api.get(&path).await.json();
            all.extend(page["targets"].as_array().unwrap().clone());
            match page["next_page_token"].as_str() {
                Some(token) => query = format!("&page_token={token}"),
                None => return all,
            }
        }
    };
    let live = targets(&first).await;
    assert_eq!(live.len(), 5);
    let numbers: Vec<u64> = live.iter().map(|t| t["target"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert_eq!(live[0]["canary"], true);
    assert_eq!(live[0]["state"], "updated");
    assert_eq!(
        (&live[1]["state"], &live[1]["wave"]),
        (&json!("pending"), &json!(0))
    );

    let second = api
        .rolled_out(job("web", immediate(), json!({ "v": 2 })))
        .await;
    let aside = targets(&first).await;
    assert_eq!(aside.len(), 5);
    assert_eq!(aside[0]["node"], live[0]["node"]);
    let token = seal_of_another_list(api, &second).await;
    let path = format!("/v1/deployments/{first}/targets?page_token={token}");
    let (status, _, errors) = api.get(&path).await.problem();
    assert_eq!((status, errors[0].0.as_str()), (400, "page_token"));
    server.stop().await;
}

async fn seal_of_another_list(api: &crate::harness::Api, id: &str) -> String {
    let page = api
        .get(&format!("/v1/deployments/{id}/targets?page_size=1"))
        .await;
    page.json()["next_page_token"].as_str().unwrap().to_owned()
}
