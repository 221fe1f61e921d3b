//! How it ends when it is told to, and how it goes on.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::client::Client;
use crate::program::{Program, dir};

fn silent_job() -> serde_json::Value {
    let health = json!({ "deadline": "10m", "min_healthy_time": "0s", "failure_threshold": 1 });
    let rollout = json!({ "strategy": "rolling", "max_parallel": 1, "health_check": health });
    json!({ "job_id": "web", "driver": "exec", "config": {}, "rollout": rollout })
}

async fn one_under_way(client: &Client) -> String {
    let join = json!({ "name": "n1" });
    client
        .post("/v1/agent/join", join)
        .await
        .expect("an answer")
        .is(200);
    let done = client
        .post("/v1/jobs", silent_job())
        .await
        .expect("an answer");
    let done = done.is(201);
    done["deployment_id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn a_signal_ends_streams_and_long_polls_and_then_the_process() {
    let dir = dir();
    let server = Program::start(&dir);
    let client = server.client.clone();
    let id = one_under_way(&client).await;
    let events = format!("/v1/deployments/{id}/events");
    let mut events = client.stream(&events).await.expect("a stream");
    events.next().await.expect("an event");
    let mut desired = client
        .stream("/v1/agent/stream?node=n1")
        .await
        .expect("a stream");
    let wanted = desired.next().await.expect("what to run");
    let path = format!(
        "/v1/agent/stream?node=n1&revision={}&wait=60s",
        wanted["revision"]
    );
    let poll = tokio::spawn({
        let client = client.clone();
        async move { client.get(&path).await }
    });
    // Until the poll waits too.
    let listen = "orchestrator_agents_connected 2\n";
    let metrics = async || client.get("/metrics").await.expect("an answer").is(200);
    while !metrics().await.as_str().expect("text").contains(listen) {
        tokio::task::yield_now().await;
    }
    server.signal("TERM");
    while events.next().await.is_some() {}
    while desired.next().await.is_some() {}
    // Answered as it is, before its time.
    let polled = poll.await.expect("no panic").expect("an answer").is(200);
    assert_eq!(polled, wanted);
    let (ended, log) = server.ended().await;
    assert!(ended.success(), "{ended}\n{log}");
    assert!(!log.contains("cut off"), "{log}");

    // And it goes on where it was: the node is told the same, and its report is taken.
    let server = Program::start(&dir);
    let client = &server.client;
    let again = client
        .get("/v1/agent/stream?node=n1")
        .await
        .expect("an answer")
        .is(200);
    assert_eq!(again["executions"], wanted["executions"]);
    let execution = &again["executions"][0];
    let report = json!({
        "job": "default/web", "slot": execution["slot"], "generation": execution["generation"],
        "target": execution["target"], "number": 1,
        "observation": { "kind": "interval", "checks": true },
    });
    let said = json!({ "node": "n1", "reports": [report] });
    client
        .post("/v1/agent/reports", said)
        .await
        .expect("an answer")
        .is(204);
    let shown = client
        .get(&format!("/v1/deployments/{id}"))
        .await
        .expect("an answer")
        .is(200);
    assert_eq!(shown["deployment"]["status"]["state"], "completed");
    server.stop().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let dir = dir();
    let server = Program::start(&dir);
    // A request whose body does not come, and that is known to be waited for.
    let mut slow = TcpStream::connect(server.client.address).expect("connected");
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                content-length: 100\r\nexpect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).expect("written");
    let mut said = [0; 12];
    slow.read_exact(&mut said).expect("an answer");
    assert_eq!(&said, b"HTTP/1.1 100");

    server.signal("TERM");
    // Once nobody is let in any more it has heard the first one.
    while TcpStream::connect(server.client.address).is_ok() {
        tokio::task::yield_now().await;
    }
    server.signal("TERM");
    let (ended, log) = server.ended().await;
    assert_eq!(ended.code(), Some(1), "{log}");
    assert!(
        log.contains("error: stopped at once, by a second signal"),
        "{log}"
    );
    Program::start(&dir).stop().await;
}
