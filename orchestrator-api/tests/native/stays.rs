//! What is open ends when whoever opened it is not let in any more.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{Api, Reply, Server, Stream, as_told};

/// Longer than anything here takes that ends as it should.
const POLL: Duration = Duration::from_secs(60);

/// A server with a node, and a deployment that waits for it.
async fn server() -> (Server, String) {
    let mut server = Server::start().await;
    server.nodes(1, as_told).await;
    let id = server.client.under_way("web").await;
    (server, id)
}

/// What somebody has open: a long poll, and streams of which he has seen the beginning.
struct Open {
    poll: JoinHandle<Reply>,
    streams: Vec<Stream>,
}

impl Open {
    async fn by_person(api: &Api, id: &str) -> Self {
        let poll = poll(api, format!("/v1/deployments/{id}?"));
        let events = format!("/v1/deployments/{id}/events");
        let mut events = api.stream(&events, &[]).await;
        events.next().await.unwrap();
        // Nobody has written anything yet.
        let logs = api.stream("/v1/jobs/default/web/logs", &[]).await;
        Self {
            poll,
            streams: vec![events, logs],
        }
    }

    async fn by_agent(api: &Api) -> Self {
        let poll = poll(api, "/v1/agent/stream?node=n1&".to_owned());
        let mut desired = api.stream("/v1/agent/stream?node=n1", &[]).await;
        desired.next().await.unwrap();
        Self {
            poll,
            streams: vec![desired],
        }
    }

    /// Waits for the end of all of it; says how the long poll was answered.
    async fn ended(self) -> (u16, String) {
        let (status, kind, _) = self.poll.await.unwrap().problem();
        for mut stream in self.streams {
            let end = async { while stream.next().await.is_some() {} };
            timeout(POLL, end).await.expect("it ends");
        }
        (status, kind)
    }
}

/// A long poll for what does not come. It is sent before whatever the caller asks for next.
fn poll(api: &Api, path: String) -> JoinHandle<Reply> {
    let api = api.clone();
    let path = format!("{path}revision=1000000&wait={}s", POLL.as_secs());
    tokio::spawn(async move { api.get(&path).await })
}

async fn revoke(admin: &Api, id: &str) {
    let path = format!("/v1/tokens/{id}");
    let revoked = admin.send(Method::DELETE, &path, &[], "").await;
    assert_eq!(revoked.status, 204, "{}", revoked.text());
}

#[tokio::test]
async fn the_first_token_ends_what_was_opened_without_one() {
    let (server, id) = server().await;
    let api = &server.client;
    let person = Open::by_person(api, &id).await;
    let agent = Open::by_agent(api).await;
    let admin = json!({ "name": "me", "role": "admin" });
    let (_, admin) = api.with_token(admin).await;
    for open in [person, agent] {
        assert_eq!(open.ended().await, (401, "token-needed".to_owned()));
    }
    // The node's own agent goes too, and none is left.
    let none = "\norchestrator_agents_without_token 0\n";
    while !admin.get("/metrics").await.text().contains(none) {}
    server.stop().await;
}

#[tokio::test]
async fn a_revocation_ends_what_was_opened_with_that_token_and_nothing_else() {
    let (server, id) = server().await;
    let admin = json!({ "name": "me", "role": "admin" });
    let (_, admin) = server.client.with_token(admin).await;
    let viewer = json!({ "name": "tv", "role": "viewer" });
    let (gone, going) = admin.with_token(viewer.clone()).await;
    let (_, staying) = admin.with_token(viewer).await;
    let node = json!({ "name": "n1", "role": "node", "node": "n1" });
    let (agent_gone, agent) = admin.with_token(node).await;

    let going = Open::by_person(&going, &id).await;
    let agent = Open::by_agent(&agent).await;
    let mut staying = Open::by_person(&staying, &id).await;
    revoke(&admin, &gone).await;
    assert_eq!(going.ended().await, (401, "bad-token".to_owned()));
    assert!(!agent.poll.is_finished());
    revoke(&admin, &agent_gone).await;
    assert_eq!(agent.ended().await, (401, "bad-token".to_owned()));

    let path = format!("/v1/deployments/{id}/pause");
    assert_eq!(admin.post(&path, json!({})).await.status, 200);
    let mut kind = String::new();
    while kind != "paused" {
        let (_, event) = staying.streams[0].next().await.unwrap();
        kind = event["kind"].as_str().unwrap().to_owned();
    }
    assert!(!staying.poll.is_finished());
    server.stop().await;
}

#[tokio::test]
async fn what_was_opened_with_a_token_ends_when_the_token_expires() {
    let (server, id) = server().await;
    let admin = json!({ "name": "me", "role": "admin" });
    let (_, admin) = server.client.with_token(admin).await;
    let guest = json!({ "name": "guest", "role": "viewer", "expires_in": "2s" });
    let (_, guest) = admin.with_token(guest).await;
    let open = Open::by_person(&guest, &id).await;
    assert_eq!(open.ended().await, (401, "bad-token".to_owned()));
    server.stop().await;
}

#[tokio::test]
async fn who_listens_for_a_node_hears_that_it_was_removed() {
    let (server, _) = server().await;
    let api = &server.client;
    let agent = Open::by_agent(api).await;
    let removed = api.send(Method::DELETE, "/v1/nodes/n1", &[], "").await;
    assert_eq!(removed.status, 204, "{}", removed.text());
    assert_eq!(agent.ended().await.0, 404);
    server.stop().await;
}
