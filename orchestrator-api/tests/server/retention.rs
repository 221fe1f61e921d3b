//! What is old goes, and what is needed stays.

use axum::http::Method;
use serde_json::{Value, json};

use crate::program::{Program, dir};

/// A version of a job that runs nowhere, so that its deployment is over at once. Large, so that a snapshot is due after
/// a dozen of them.
fn version(number: usize) -> Value {
    let config = json!({ "number": number, "ballast": "x".repeat(30_000) });
    json!({ "job_id": "web", "driver": "exec", "config": config, "selector": "nowhere" })
}

#[tokio::test]
async fn deployments_that_ended_long_ago_go_and_the_last_one_stays() {
    let dir = dir();
    let words = [
        "--listen",
        "127.0.0.1:0",
        "--keep-deployments",
        "0s",
        "--keep-events",
        "0s",
    ];
    let server = Program::start_with(&dir, &words);
    let client = &server.client;
    let mut ids = Vec::new();
    for number in 0..20 {
        let done = client
            .post("/v1/jobs", version(number))
            .await
            .expect("an answer")
            .is(201);
        ids.push(done["deployment_id"].as_str().expect("an id").to_owned());
    }
    let (last, first) = (ids.last().expect("twenty"), &ids[0]);
    let first = format!("/v1/deployments/{first}");
    while client.get(&first).await.expect("an answer").status == 200 {
        tokio::task::yield_now().await;
    }
    server.stop().await;

    // Also for a server that has nothing in memory.
    let server = Program::start(&dir);
    let client = &server.client;
    client.get(&first).await.expect("an answer").is(404);
    client
        .get(&format!("/v1/deployments/{last}"))
        .await
        .expect("an answer")
        .is(200);
    let listed = client
        .all("/v1/deployments", "deployments")
        .await
        .expect("an answer");
    assert!(listed.iter().any(|row| row["id"] == **last), "{listed:#?}");
    assert!(listed.len() < 20);
    let job = client
        .get("/v1/jobs/default/web")
        .await
        .expect("an answer")
        .is(200);
    assert_eq!(job["job"]["version"], 20, "{job:#}");
    let reply = client
        .send(Method::POST, "/v1/jobs", &[], Some(&version(20)))
        .await;
    assert_eq!(reply.expect("an answer").is(201)["version"], 21);
    server.stop().await;
}
