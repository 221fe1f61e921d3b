//! Tokens and the audit log, and who speaks for a node, over the whole server.

use axum::http::Method;
use serde_json::{Value, json};

use crate::client::{Client, Reply};
use crate::program::{Program, dir};

async fn send(client: &Client, method: Method, path: &str, token: &str, body: Value) -> Reply {
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str())];
    let headers = if token.is_empty() { &[][..] } else { &headers };
    let body = (method != Method::GET).then_some(&body);
    client
        .send(method, path, headers, body)
        .await
        .expect("an answer")
}

async fn made(client: &Client, by: &str, new: Value) -> (String, String) {
    let made = send(client, Method::POST, "/v1/tokens", by, new)
        .await
        .is(201);
    let text = |name: &str| made[name].as_str().expect("a text").to_owned();
    (text("id"), text("token"))
}

#[tokio::test]
async fn the_first_token_closes_the_server_and_a_revoked_one_is_not_let_in() {
    let dir = dir();
    let server = Program::start(&dir);
    let client = &server.client;
    let early = json!({ "name": "v", "role": "viewer" });
    let early = client
        .post("/v1/tokens", early)
        .await
        .expect("an answer")
        .is(409);
    assert_eq!(early["type"], "urn:orchestrator:problem:admin-first");
    let first = json!({ "name": "root", "role": "admin" });
    let first = client
        .post("/v1/tokens", first)
        .await
        .expect("an answer")
        .is(201);
    let admin = first["token"].as_str().expect("a secret").to_owned();

    let shut = client.get("/v1/jobs").await.expect("an answer");
    let schemes: Vec<_> = shut.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(schemes.len(), 2, "{schemes:?}");
    assert_eq!(
        shut.is(401)["type"],
        "urn:orchestrator:problem:token-needed"
    );
    let (id, viewer) = made(
        client,
        &admin,
        json!({ "name": "v", "role": "viewer", "expires_in": "90d" }),
    )
    .await;
    send(client, Method::GET, "/v1/jobs", &viewer, json!({}))
        .await
        .is(200);
    let may_not = send(client, Method::GET, "/v1/tokens", &viewer, json!({}))
        .await
        .is(403);
    assert_eq!(may_not["type"], "urn:orchestrator:problem:forbidden");

    // Once under one key.
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
    let new = json!({ "name": "ci", "role": "deployer" });
    for status in [201, 409] {
        let reply = client
            .send(Method::POST, "/v1/tokens", &headers, Some(&new))
            .await;
        reply.expect("an answer").is(status);
    }
    let tokens = send(
        client,
        Method::GET,
        "/v1/tokens?page_size=2",
        &admin,
        json!({}),
    )
    .await
    .is(200);
    let next = tokens["next_page_token"].as_str().expect("there are three");
    let path = format!("/v1/tokens?page_size=2&page_token={next}");
    let rest = send(client, Method::GET, &path, &admin, json!({}))
        .await
        .is(200);
    let rows = [&tokens, &rest].map(|page| page["tokens"].as_array().expect("rows").clone());
    let rows = rows.concat();
    assert_eq!(rows.len(), 3);
    assert!(
        !rows.iter().any(|row| row.to_string().contains("orc_")),
        "no secret is listed"
    );

    let path = format!("/v1/tokens/{id}");
    send(client, Method::DELETE, &path, &admin, json!({}))
        .await
        .is(204);
    let gone = send(client, Method::GET, "/v1/jobs", &viewer, json!({}))
        .await
        .is(401);
    assert_eq!(gone["detail"], "the token was revoked");
    send(
        client,
        Method::DELETE,
        "/v1/tokens/000000000000",
        &admin,
        json!({}),
    )
    .await
    .is(404);
    server.stop().await;

    let server = Program::start(&dir);
    assert!(
        server.said.contains("\nEvery request needs a token;"),
        "{}",
        server.said
    );
    send(&server.client, Method::GET, "/v1/jobs", &admin, json!({}))
        .await
        .is(200);
    server.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_token_is_told_at_once() {
    let dir = dir();
    let server = Program::start(&dir);
    let wrong = json!({ "role": "king", "node": 7, "expires_in": "soon", "more": 1 });
    let said = server
        .client
        .post("/v1/tokens", wrong)
        .await
        .expect("an answer")
        .is(422);
    let faults = said["errors"].as_array().expect("faults").iter();
    let places: Vec<&str> = faults
        .filter_map(|fault| fault["pointer"].as_str())
        .collect();
    assert_eq!(places, ["/more", "/name", "/role", "/node", "/expires_in"]);
    let nobody = json!({ "name": "n", "role": "node" });
    let said = server
        .client
        .post("/v1/tokens", nobody)
        .await
        .expect("an answer")
        .is(422);
    assert_eq!(said["errors"][0]["pointer"], "/node");
    server.stop().await;
}

#[tokio::test]
async fn a_join_token_becomes_the_token_of_one_node() {
    let dir = dir();
    let server = Program::start(&dir);
    let client = &server.client;
    let (_, admin) = made(client, "", json!({ "name": "root", "role": "admin" })).await;
    let (_, join) = made(client, &admin, json!({ "name": "rack 1", "role": "join" })).await;

    // What is refused does not use it up.
    let wrong = json!({ "name": "n1", "labels": { "not a key": "x" } });
    send(client, Method::POST, "/v1/agent/join", &join, wrong)
        .await
        .is(422);
    let n1 = json!({ "name": "n1" });
    let joined = send(client, Method::POST, "/v1/agent/join", &join, n1.clone())
        .await
        .is(200);
    assert_eq!(joined["node"]["name"], "n1");
    // Whoever has not used its token may not have got it: the same node is given another one, and no other node is.
    let n2 = json!({ "name": "n2" });
    send(client, Method::POST, "/v1/agent/join", &join, n2)
        .await
        .is(401);
    let lost = joined["token"].as_str().expect("its own token").to_owned();
    let joined = send(client, Method::POST, "/v1/agent/join", &join, n1.clone())
        .await
        .is(200);
    let node = joined["token"].as_str().expect("its own token").to_owned();
    send(client, Method::POST, "/v1/agent/join", &lost, n1.clone())
        .await
        .is(401);
    let again = send(client, Method::POST, "/v1/agent/join", &node, n1)
        .await
        .is(200);
    assert!(again["token"].is_null(), "it has it already");

    // Another one for a node that has one: it says which.
    let (_, second) = made(client, &admin, json!({ "name": "rack 2", "role": "join" })).await;
    let n1 = json!({ "name": "n1" });
    let taken = send(client, Method::POST, "/v1/agent/join", &second, n1)
        .await
        .is(409);
    assert_eq!(taken["type"], "urn:orchestrator:problem:node-taken");

    let own = "/v1/agent/stream?node=n1";
    send(client, Method::GET, own, &node, json!({}))
        .await
        .is(200);
    for path in ["/v1/agent/stream?node=n2", "/v1/jobs", "/v1/audit"] {
        send(client, Method::GET, path, &node, json!({}))
            .await
            .is(403);
    }
    let reports = json!({ "node": "n2" });
    send(client, Method::POST, "/v1/agent/reports", &node, reports)
        .await
        .is(403);
    let logs = json!({ "node": "n2", "outputs": [] });
    send(client, Method::POST, "/v1/agent/logs", &node, logs)
        .await
        .is(403);
    // Nor does an admin speak for it.
    send(client, Method::GET, own, &admin, json!({}))
        .await
        .is(403);
    server.stop().await;
}

#[tokio::test]
async fn the_audit_log_has_each_deed_once_under_the_name_of_its_request() {
    let dir = dir();
    let server = Program::start(&dir);
    let client = &server.client;
    let (id, admin) = made(client, "", json!({ "name": "root", "role": "admin" })).await;
    let who = format!("root ({id})");
    let bearer = format!("Bearer {admin}");
    let headers = [("authorization", bearer.as_str()), ("x-request-id", "r-1")];
    let job = json!({ "job_id": "web", "driver": "exec", "config": {} });
    let done = client
        .send(Method::POST, "/v1/jobs", &headers, Some(&job))
        .await;
    done.expect("an answer").is(201);
    // Neither changes anything.
    let dry = "/v1/jobs?dry_run=true";
    send(client, Method::POST, dry, &admin, job.clone())
        .await
        .is(200);
    send(client, Method::POST, "/v1/jobs", &admin, job)
        .await
        .is(200);
    let refused = send(
        client,
        Method::POST,
        "/v1/nodes/n9/drain",
        &admin,
        json!({}),
    )
    .await;
    let named = refused.headers["x-request-id"]
        .to_str()
        .expect("a name")
        .to_owned();
    refused.is(404);

    let mut lines = Vec::new();
    let mut path = "/v1/audit?page_size=2".to_owned();
    loop {
        let page = send(client, Method::GET, &path, &admin, json!({}))
            .await
            .is(200);
        lines.extend(page["lines"].as_array().expect("lines").clone());
        match page["next_page_token"].as_str() {
            Some(next) => path = format!("/v1/audit?page_size=2&page_token={next}"),
            None => break,
        }
    }
    let of_people = |line: &&Value| line["action"] != "begin to use token";
    let lines: Vec<Value> = lines
        .iter()
        .filter(of_people)
        .map(|line| json!([line["who"], line["action"], line["object"], line["outcome"]]))
        .collect();
    assert_eq!(
        lines,
        [
            json!([
                who,
                "POST /v1/nodes/{id}/drain",
                "/v1/nodes/n9/drain",
                "refused (404)"
            ]),
            json!([who, "register", "job default/web", "done"]),
            json!([
                "anonymous",
                "create token",
                format!("token {id} (root, admin)"),
                "done"
            ]),
        ],
        "newest first"
    );
    let page = send(client, Method::GET, "/v1/audit", &admin, json!({}))
        .await
        .is(200);
    let by = |request: &str| {
        let lines = page["lines"].as_array().expect("lines");
        lines.iter().any(|line| line["request"] == request)
    };
    assert!(by("r-1") && by(&named), "{page:#}");
    server.stop().await;
}
