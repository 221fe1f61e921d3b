//! What is old goes, and what is needed stays.

use axum::http::Method;
use serde_json::{Value, json};

use crate::client::Client;
use crate::program::{Program, dir};

/// A version of a job that runs nowhere, so that its deployment is over at once.
fn version(number: usize) -> Value {
    let config = json!({ "number": number });
    json!({ "job_id": "web", "driver": "exec", "config": config, "selector": "nowhere" })
}

async fn register(client: &Client, number: usize) -> String {
    let done = client.post("/v1/jobs", version(number)).await;
    let done = done.expect("an answer").is(201);
    let id = done["deployment_id"].as_str().expect("an id");
    format!("/v1/deployments/{id}")
}

async fn begins(client: &Client, deployment: &str, expected: &str) {
    let explained = client.get(&format!("{deployment}/explain")).await;
    let explained = explained.expect("an answer").is(200);
    let explanation = &explained["explanation"];
    let first = explanation["links"][0]["text"].as_str();
    assert!(
        first.is_some_and(|text| text.contains(expected)),
        "{explained:#}"
    );
    let now = explanation["now"].as_str();
    assert!(now.is_some_and(|now| !now.is_empty()), "{explained:#}");
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
    // Their log is far too short for a snapshot of its own.
    let mut paths = Vec::new();
    for number in 0..5 {
        paths.push(register(client, number).await);
    }
    let (last, others) = paths.split_last().expect("five");
    for gone in others {
        while client.get(gone).await.expect("an answer").status == 200 {
            tokio::task::yield_now().await;
        }
    }
    server.stop().await;

    // Also for a server that has nothing in memory.
    let server = Program::start(&dir);
    let client = &server.client;
    for gone in others {
        for of in ["", "/events", "/explain", "/targets"] {
            let path = format!("{gone}{of}");
            client.get(&path).await.expect("an answer").is(404);
        }
    }
    client.get(last).await.expect("an answer").is(200);
    // The beginning of its job's log is gone, and why it is where it is can be told all the same.
    begins(client, last, "version 5 began").await;
    let listed = client
        .all("/v1/deployments", "deployments")
        .await
        .expect("an answer");
    assert_eq!(listed.len(), 1, "{listed:#?}");
    let job = client
        .get("/v1/jobs/default/web")
        .await
        .expect("an answer")
        .is(200);
    assert_eq!(job["job"]["version"], 5, "{job:#}");
    let reply = client
        .send(Method::POST, "/v1/jobs", &[], Some(&version(5)))
        .await;
    assert_eq!(reply.expect("an answer").is(201)["version"], 6);
    // Also when the job has had another one since, and only its own entries know of it.
    begins(client, last, "version 5 began").await;
    let events = client.get(&format!("{last}/events")).await;
    let events = events.expect("an answer").is(200);
    assert_eq!(events["events"][0]["kind"], "started", "{events:#}");
    server.stop().await;
}
