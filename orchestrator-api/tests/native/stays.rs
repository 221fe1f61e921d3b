//! What is open ends when whoever opened it is not let in any more.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::{Api, Reply, Server, Stream, as_told, job, rolling};

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

/// A request whose body stops after its first half, sent as far as that; and the other half.
async fn half_sent(
    api: &Api,
    token: Option<&str>,
    path: &str,
    body: &Value,
) -> (TcpStream, String) {
    let body = body.to_string();
    let (first, second) = body.split_at(5);
    let token = token.map_or(String::new(), |token| format!("authorization: {token}\r\n"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\n\
         connection: close\r\n{token}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // Said when the body begins to be read: whoever asks was let in.
    let mut goes_on = [0; 25];
    stream.read_exact(&mut goes_on).await.unwrap();
    assert_eq!(&goes_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(first.as_bytes()).await.unwrap();
    (stream, second.to_owned())
}

async fn finished((mut stream, rest): (TcpStream, String)) -> String {
    stream.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn who_is_shut_out_while_his_request_comes_in_has_asked_for_nothing() {
    let (server, _) = server().await;
    let api = &server.client;
    let backdoor = json!({ "name": "backdoor", "role": "admin" });
    let nobody = half_sent(api, None, "/v1/tokens", &backdoor).await;
    let (_, admin) = api
        .with_token(json!({ "name": "me", "role": "admin" }))
        .await;
    let answer = finished(nobody).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");

    let leaver = json!({ "name": "leaver", "role": "admin" });
    let (id, leaver) = admin.with_token(leaver).await;
    let job = job("late", rolling(), json!({}));
    let mut halves = Vec::new();
    for (path, body) in [("/v1/tokens", &backdoor), ("/v1/jobs", &job)] {
        halves.push(half_sent(api, leaver.token(), path, body).await);
    }
    revoke(&admin, &id).await;
    for half in halves {
        let answer = finished(half).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains("the token was revoked"), "{answer}");
    }
    let tokens = admin.get("/v1/tokens").await.text();
    assert!(!tokens.contains("backdoor"), "{tokens}");
    assert_eq!(admin.get("/v1/jobs/default/late").await.status, 404);
    // Whose it was is known, and told.
    let audit = admin.get("/v1/audit").await.json();
    let denied = audit["lines"].as_array().unwrap().iter().filter(|line| {
        let who = line["who"].as_str().unwrap();
        who.starts_with("leaver (") && line["outcome"] == "denied (401)"
    });
    assert_eq!(denied.count(), 2, "{audit:#}");
    let again = leaver.post("/v1/tokens", backdoor).await;
    assert_eq!(again.status, 401);
    loop {
        // Written by a journal that nobody waits for.
        let audit = admin.get("/v1/audit").await.json();
        let last = &audit["lines"][0];
        if last["outcome"] == "denied: the token was revoked" {
            assert_eq!(last["who"], format!("leaver ({id}), from 127.0.0.1"));
            break;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn of_many_who_make_the_first_token_at_once_one_does() {
    for _ in 0..5 {
        let server = Server::start().await;
        let make = |name: String| {
            let api = server.client.clone();
            tokio::spawn(async move {
                let new = json!({ "name": name, "role": "admin" });
                api.post("/v1/tokens", new).await.status
            })
        };
        let made: Vec<_> = (0..8).map(|number| make(format!("a{number}"))).collect();
        let mut statuses = Vec::new();
        for made in made {
            statuses.push(made.await.unwrap());
        }
        statuses.sort_unstable();
        assert_eq!(statuses, [&[201][..], &[401; 7]].concat());
        server.stop().await;
    }
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
