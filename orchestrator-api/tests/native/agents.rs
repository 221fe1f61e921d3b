//! What agents use, and whole rollouts by it.

use serde_json::{Value, json};

use crate::harness::{Server, as_told, canary, immediate, job, rolling, well};

#[tokio::test]
async fn a_canary_goes_through_promotion_to_its_end() {
    let mut server = Server::start().await;
    server.nodes(5, well).await;
    let api = &server.client;
    let id = api.register(job("web", canary(), json!({}))).await;
    let waits = api
        .until(&id, |d| {
            d["status"]["updated_nodes"] == 1 && d["status"]["in_flight_nodes"] == 0
        })
        .await;
    assert_eq!(waits["status"]["state"], "in_progress");
    assert_eq!(waits["status"]["canary_promoted"], false);
    assert!(waits["status"]["waiting_on"].is_string(), "{waits:#}");

    let promoted = api
        .post(&format!("/v1/deployments/{id}/promote"), json!({}))
        .await;
    assert_eq!(promoted.status, 200, "{}", promoted.text());
    assert_eq!(
        promoted.json()["deployment"]["status"]["canary_promoted"],
        true
    );
    let done = api.until_state(&id, "completed").await;
    assert_eq!(done["status"]["updated_nodes"], 5);
    assert_eq!(done["status"]["current_wave"], 3);
    server.stop().await;
}

#[tokio::test]
async fn a_bad_canary_is_taken_back() {
    let mut server = Server::start().await;
    server.nodes(4, as_told).await;
    let api = &server.client;
    api.rolled_out(job("web", immediate(), json!({}))).await;
    let id = api
        .register(job("web", canary(), json!({ "fate": "bad" })))
        .await;
    let failed = api.until_state(&id, "failed").await;
    assert_eq!(failed["status"]["failed_nodes"], 1);
    assert_eq!(failed["type"], "update");
    let rollback = failed["rolled_back_by"].as_str().unwrap();
    let back = api.until_state(rollback, "completed").await;
    assert_eq!(back["type"], "rollback");
    assert_eq!(back["rollback_of"], *id);
    assert_eq!(
        (&back["from_version"], &back["to_version"]),
        (&json!(2), &json!(1))
    );

    let told = api.get(&format!("/v1/deployments/{id}/explain")).await;
    assert_eq!(told.status, 200, "{}", told.text());
    let told = told.json()["explanation"].clone();
    let links = told["links"].as_array().unwrap();
    assert!(links.len() > 2, "{told:#}");
    let says = |word: &str| {
        links
            .iter()
            .any(|l| l["text"].as_str().unwrap().contains(word))
    };
    assert!(says("fail"), "{told:#}");
    assert!(told["now"].is_string());
    server.stop().await;
}

#[tokio::test]
async fn a_node_joins_hears_and_reports_by_polling() {
    let server = Server::start().await;
    let api = &server.client;
    let join = json!({ "name": "a", "labels": { "zone": "z1" }, "facts": { "os": "linux" } });
    let joined = api.post("/v1/agent/join", join.clone()).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    let joined = joined.json();
    assert_eq!(joined["lease"], 30_000);
    assert_eq!(joined["down_after"], 300_000);
    assert_eq!(joined["node"]["name"], "a");
    assert_eq!(joined["node"]["status"], "ready");
    assert_eq!(joined["node"]["labels"], json!({ "zone": "z1" }));
    assert_eq!(joined["node"]["facts"], json!({ "os": "linux" }));
    // Again is no other node.
    assert_eq!(api.post("/v1/agent/join", join).await.status, 200);
    assert_eq!(
        api.get("/v1/nodes").await.json()["nodes"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let first = api.get("/v1/agent/stream?node=a").await.json();
    assert_eq!(first["executions"], json!([]));
    let revision = first["revision"].as_u64().unwrap();
    // Nothing is new: what happens elsewhere wakes nobody.
    let quiet = format!("/v1/agent/stream?node=a&revision={revision}&wait=1ms");
    let elsewhere = api.post("/v1/agent/join", json!({ "name": "b" })).await;
    assert_eq!(elsewhere.status, 200);
    assert_eq!(api.get(&quiet).await.json(), first);

    let poll = format!("/v1/agent/stream?node=a&revision={revision}&wait=30s");
    let waiting = tokio::spawn({
        let (api, poll) = (api.clone(), poll.clone());
        async move { api.get(&poll).await.json() }
    });
    let mut document = job("web", rolling(), json!({ "command": ["true"] }));
    document["selector"] = json!("zone = z1");
    let id = api.register(document).await;
    let told = waiting.await.unwrap();
    assert!(told["revision"].as_u64().unwrap() > revision);
    let execution = &told["executions"][0];
    assert_eq!(execution["job"], "default/web");
    assert_eq!(execution["version"], 1);
    assert_eq!(
        told["workloads"]["default/web"]["1"]["config"],
        json!({ "command": ["true"] })
    );
    let report = json!({
        "job": "default/web", "slot": execution["slot"], "generation": execution["generation"],
        "target": execution["target"], "number": 1,
        "observation": { "kind": "interval", "checks": true, "requests": 100, "failed": 1 },
    });
    // Of another node's execution nothing is believed.
    let forged = json!({ "node": "b", "reports": [report] });
    assert_eq!(api.post("/v1/agent/reports", forged).await.status, 204);
    assert_eq!(api.deployment(&id).await["status"]["updated_nodes"], 0);
    let said = json!({ "node": "a", "reports": [report] });
    for _ in 0..2 {
        assert_eq!(
            api.post("/v1/agent/reports", said.clone()).await.status,
            204
        );
    }
    let done = api.until_state(&id, "completed").await;
    assert_eq!(done["status"]["updated_nodes"], 1);
    server.stop().await;
}

#[tokio::test]
async fn what_an_agent_may_say_wrong_is_told_at_once() {
    let server = Server::start().await;
    let api = &server.client;
    let reports = json!({
        "node": "a b", "more": 1,
        "reports": [
            { "job": "x y", "slot": -1, "generation": "1", "number": 1, "observation": { "kind": "gone" } },
            { "job": "web", "slot": 0, "generation": 1, "number": 1, "observation": { "kind": "started", "code": 1 } },
            { "job": "web", "slot": 0, "generation": 1, "number": 1, "observation": { "kind": "exited" }, "x": 1 },
            7,
        ],
    });
    let (status, kind, errors) = api.post("/v1/agent/reports", reports).await.problem();
    assert_eq!((status, kind.as_str()), (422, "invalid-request"));
    let places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(
        places,
        [
            "/more",
            "/node",
            "/reports/0/job",
            "/reports/0/slot",
            "/reports/0/generation",
            "/reports/0/observation/kind",
            "/reports/1/observation/code",
            "/reports/2/x",
            "/reports/2/observation/code",
            "/reports/3",
        ]
    );
    let join = json!({ "name": "", "labels": { "a": 1, "b/c": [] }, "facts": 3 });
    let (_, _, errors) = api.post("/v1/agent/join", join).await.problem();
    let places: Vec<&str> = errors.iter().map(|(place, _)| place.as_str()).collect();
    assert_eq!(places, ["/name", "/labels/a", "/labels/b~1c", "/facts"]);
    let join = json!({ "name": "a", "labels": { "not a key": "x" } });
    let (status, _, errors) = api.post("/v1/agent/join", join).await.problem();
    assert_eq!((status, errors[0].0.as_str()), (422, "/labels"));

    // Whom nobody knows.
    let unknown = api.post("/v1/agent/reports", json!({ "node": "x" })).await;
    assert_eq!(unknown.problem().0, 404);
    assert_eq!(api.get("/v1/agent/stream?node=x").await.problem().0, 404);
    let (status, _, errors) = api.get("/v1/agent/stream").await.problem();
    assert_eq!((status, errors[0].0.as_str()), (400, "node"));
    server.stop().await;
}

#[tokio::test]
async fn on_an_open_server_an_agent_is_heard_until_the_first_token() {
    let server = Server::start().await;
    let api = &server.client;
    let joined = api.post("/v1/agent/join", json!({ "name": "a" })).await;
    assert_eq!(joined.status, 200, "{}", joined.text());
    let joined = joined.json();
    assert!(joined["token"].is_null(), "it needs none: {joined}");
    let again = api.post("/v1/agent/join", json!({ "name": "b" })).await;
    assert_eq!(again.json()["server"], joined["server"]);
    assert_eq!(joined["server"].as_str().unwrap().len(), 32);
    let other = Server::start().await;
    let there = other
        .client
        .post("/v1/agent/join", json!({ "name": "a" }))
        .await;
    assert_ne!(there.json()["server"], joined["server"]);
    other.stop().await;

    let mut stream = api.stream("/v1/agent/stream?node=a", &[]).await;
    stream.next().await.unwrap();
    let said = json!({ "node": "a", "reports": [] });
    assert_eq!(
        api.post("/v1/agent/reports", said.clone()).await.status,
        204
    );
    let first = json!({ "name": "me", "role": "admin" });
    let made = api.post("/v1/tokens", first.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    assert_eq!(made["agents_shut_out"], 1);
    assert_eq!(api.post("/v1/agent/reports", said).await.status, 401);
    // It is said once.
    let bearer = format!("Bearer {}", made["token"].as_str().unwrap());
    let second = api
        .post_with("/v1/tokens", &[("authorization", &bearer)], first)
        .await;
    assert!(second.json()["agents_shut_out"].is_null());
    server.stop().await;
}

#[tokio::test]
async fn a_target_shows_the_requests_of_its_last_interval() {
    let mut server = Server::start().await;
    server.nodes(2, as_told).await;
    let api = &server.client;
    let id = api.under_way("web").await;
    let targets = async || {
        let page = api.get(&format!("/v1/deployments/{id}/targets")).await;
        page.json()["targets"].as_array().unwrap().clone()
    };
    let first = targets().await[0].clone();
    assert!(first["error_rate"].is_null(), "{first}");
    let report = |number: u32, generation: &Value, more: Value| {
        let mut observation = json!({ "kind": "interval", "checks": true });
        let fields = observation.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        json!({ "node": first["node"], "reports": [{
            "job": "default/web", "slot": first["slot"], "generation": generation, "target": first["target"],
            "number": number, "observation": observation,
        }] })
    };
    let generation = &first["generation"];
    let old = json!(0);
    for said in [
        report(2, generation, json!({ "requests": 8, "failed": 2 })),
        // Late, of another assignment, and of one that counts nothing.
        report(1, generation, json!({ "requests": 9 })),
        report(9, &old, json!({ "requests": 9 })),
        report(3, generation, json!({})),
    ] {
        let reply = api.post("/v1/agent/reports", said).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }
    let shown = targets().await[0].clone();
    assert_eq!(
        [
            &shown["requests"],
            &shown["failed_requests"],
            &shown["error_rate"]
        ],
        [&json!(8), &json!(2), &json!(0.25)]
    );
    assert!(targets().await[1]["requests"].is_null());
    server.stop().await;
}
