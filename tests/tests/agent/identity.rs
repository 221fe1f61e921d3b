//! A server over TLS that lets in who has a token: once with a join token, and from then on with the node's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use orchestrator_agent::{Agent, AgentError, Leave, Settings};
use orchestrator_api::engine::{self, Engine};
use orchestrator_api::native;
use orchestrator_api::serve::tls::Certificates;
use orchestrator_api::serve::{Limits, serve};
use orchestrator_api::store::sqlite::Sqlite;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::eventually;

const JOIN: &str = "Bearer join-me";
const OWN: &str = "Bearer my-own";

/// Who was let in, and who was not.
#[derive(Default)]
struct Gate {
    joined: AtomicUsize,
    refused: AtomicUsize,
    reports: AtomicUsize,
    seen: Mutex<Vec<String>>,
}

impl Gate {
    async fn pass(self: Arc<Self>, request: Request, next: Next) -> Response {
        let token = request.headers().get(header::AUTHORIZATION);
        let token = token.map_or("", |token| token.to_str().unwrap()).to_owned();
        let path = request.uri().path().to_owned();
        self.seen.lock().unwrap().push(token.clone());
        let is_first = path == "/v1/agent/join" && token == JOIN;
        if is_first && self.joined.fetch_add(1, Ordering::SeqCst) == 0 {
            let answer = next.run(request).await.into_body().collect().await.unwrap();
            let mut answer: Value = serde_json::from_slice(&answer.to_bytes()).unwrap();
            answer["token"] = json!("my-own");
            answer["lease"] = json!(1000);
            return Body::from(answer.to_string()).into_response();
        }
        if token != OWN {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return StatusCode::UNAUTHORIZED.into_response();
        }
        if path == "/v1/agent/reports" {
            self.reports.fetch_add(1, Ordering::SeqCst);
        }
        next.run(request).await
    }
}

struct Fixture {
    gate: Arc<Gate>,
    url: String,
    cert: PathBuf,
    dir: tempfile::TempDir,
    _engine: Engine,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        let (cert, key_file) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let pair = Certificates::watch(&cert, &key_file, Duration::from_secs(60))
            .await
            .unwrap();

        let store = Arc::new(Sqlite::open(&dir.path().join("store")).unwrap());
        let engine = Engine::start(store, engine::Settings::default())
            .await
            .unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let gate = Arc::new(Gate::default());
        let api = native::Api::new(engine.handle());
        let router = api.watched(api.routes().layer(from_fn(native::open)));
        let passing = gate.clone();
        let router = router.layer(from_fn(move |request, next| {
            passing.clone().pass(request, next)
        }));
        let tls = pair.config().unwrap();
        tokio::spawn(async move {
            let _pair = pair;
            serve(
                listener,
                Some(tls),
                router,
                Limits::default(),
                std::future::pending(),
            )
            .await;
        });
        Self {
            gate,
            url,
            cert,
            dir,
            _engine: engine,
        }
    }

    fn agent(
        &self,
        token: Option<&str>,
        authorities: Option<&Path>,
    ) -> (oneshot::Sender<Leave>, JoinHandle<()>) {
        let mut settings = Settings::new(&self.url, "n1", self.dir.path().join("node"));
        settings.token = token.map(str::to_owned);
        settings.authorities = authorities.map(Path::to_owned);
        let agent = Agent::open(settings).unwrap();
        let (stop, stopped) = oneshot::channel();
        let run = async { agent.run(async { stopped.await.unwrap() }).await.unwrap() };
        (stop, tokio::spawn(run))
    }
}

#[tokio::test]
async fn a_join_token_becomes_the_nodes_own() {
    let fixture = Fixture::new().await;
    let gate = &fixture.gate;
    let (stop, agent) = fixture.agent(Some("join-me"), Some(&fixture.cert));
    // With a lease of a second, it is heard of often.
    eventually("it reports", async || {
        (gate.reports.load(Ordering::SeqCst) > 3).then_some(())
    })
    .await;
    stop.send(Leave::Running).unwrap();
    agent.await.unwrap();
    let identity = fixture.dir.path().join("node/identity.json");
    let mode = std::fs::metadata(&identity).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Without a token it has its own, and never shows the other again.
    gate.seen.lock().unwrap().clear();
    let before = gate.reports.load(Ordering::SeqCst);
    let (stop, agent) = fixture.agent(Some("join-me"), Some(&fixture.cert));
    let again = async || (gate.reports.load(Ordering::SeqCst) > before).then_some(());
    eventually("it reports again", again).await;
    stop.send(Leave::Running).unwrap();
    agent.await.unwrap();
    assert!(gate.seen.lock().unwrap().iter().all(|token| token == OWN));
    assert_eq!(gate.refused.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing() {
    let fixture = Fixture::new().await;
    let (stop, agent) = fixture.agent(Some("join-me"), None);
    let node = fixture.dir.path().join("node");
    let trouble = async || {
        let status = orchestrator_agent::status(&node).await.ok()?;
        Some(status["server"]["trouble"].as_str()?.to_owned())
    };
    let trouble = eventually("it does not trust", trouble).await;
    assert!(trouble.contains("certificate"), "{trouble}");
    stop.send(Leave::Running).unwrap();
    agent.await.unwrap();
    assert!(fixture.gate.seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new("http://127.0.0.1:1", "n1", dir.path());
    let first = Agent::open(settings.clone()).unwrap();
    let second = tokio::task::spawn_blocking(|| Agent::open(settings))
        .await
        .unwrap();
    assert!(matches!(second, Err(AgentError::Busy(_))));
    drop(first);
}
