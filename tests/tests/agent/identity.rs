//! A server over TLS that lets in who has a token: once with a join token, and from then on with the node's own.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orchestrator_agent::{Agent, AgentError, Leave, Settings};
use orchestrator_api::access::token::New;
use orchestrator_api::access::{Access, Opening, Role};
use orchestrator_api::engine::{self, Engine, Who};
use orchestrator_api::native;
use orchestrator_api::serve::tls::Certificates;
use orchestrator_api::serve::{Limits, serve};
use orchestrator_api::store::sqlite::Sqlite;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::harness::{Disk, eventually};

struct Fixture {
    access: Access,
    _engine: Engine,
    url: String,
    cert: PathBuf,
    dir: tempfile::TempDir,
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
        let access = Access::new(store.clone(), Opening::Closed, Default::default());
        let settings = engine::Settings::default();
        let engine = Engine::start(store, settings).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        let router = native::Api::new(engine.handle(), access.clone()).router();
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
            access,
            _engine: engine,
            url,
            cert,
            dir,
        }
    }

    async fn join_token(&self, node: Option<&str>) -> String {
        let new = New {
            name: "test".to_owned(),
            role: Role::Join,
            node: node.map(str::to_owned),
            expires_at: None,
        };
        let who = Who {
            name: "test".to_owned(),
            request: "test".to_owned(),
        };
        let made = self.access.create(new, who).await.unwrap();
        made.token.reveal().to_owned()
    }

    fn agent(&self, token: Option<&str>, authorities: Option<&Path>) -> Running {
        let mut settings = Settings::new(&self.url, "n1", self.dir.path().join("node"));
        settings.token = token.map(Into::into);
        settings.authorities = authorities.map(Path::to_owned);
        let (stop, stopped) = oneshot::channel();
        let run = async {
            let agent = Agent::open(settings).await.unwrap();
            agent.run(async { stopped.await.unwrap() }).await.unwrap();
        };
        Running(stop, tokio::spawn(run))
    }

    async fn status(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let node = self.dir.path().join("node");
        eventually(what, async || {
            let status = orchestrator_agent::status(&node).await.ok()?;
            is(&status).then_some(status)
        })
        .await
    }
}

struct Running(oneshot::Sender<Leave>, JoinHandle<()>);

impl Running {
    async fn leave(self) {
        self.0.send(Leave::Running).unwrap();
        self.1.await.unwrap();
    }
}

fn listens(status: &Value) -> bool {
    status["server"]["way"] == "streams" && status["revision"].is_u64()
}

#[tokio::test]
async fn a_join_token_becomes_the_nodes_own() {
    let fixture = Fixture::new().await;
    let token = fixture.join_token(None).await;
    let agent = fixture.agent(Some(&token), Some(&fixture.cert));
    fixture.status("it listens", listens).await;
    agent.leave().await;
    let identity = fixture.dir.path().join("node/identity.json");
    let mode = std::fs::metadata(&identity).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let kept: Value = serde_json::from_slice(&std::fs::read(&identity).unwrap()).unwrap();
    assert_ne!(kept["token"], *token);

    // The join token is used up, and not needed any more.
    let agent = fixture.agent(None, Some(&fixture.cert));
    let status = fixture.status("it listens again", listens).await;
    assert_eq!(status["server"]["troubles"], 0, "{status:#}");
    agent.leave().await;

    // Its own is no longer good: a token that was made for this node is.
    let made = fixture.access.list(None, 10).await.unwrap().items;
    let own = made.iter().find(|token| token.role == Role::Node).unwrap();
    let who = Who {
        name: "test".to_owned(),
        request: "test".to_owned(),
    };
    fixture.access.revoke(&own.id, who).await.unwrap();
    let token = fixture.join_token(Some("n1")).await;
    let agent = fixture.agent(Some(&token), Some(&fixture.cert));
    fixture.status("it listens by another token", listens).await;
    agent.leave().await;
}

#[tokio::test]
async fn a_join_token_whose_answer_was_lost_is_as_good_as_before() {
    let fixture = Fixture::new().await;
    let token = fixture.join_token(None).await;
    let mut headers = axum::http::HeaderMap::new();
    let bearer = format!("Bearer {token}").parse().unwrap();
    headers.insert("authorization", bearer);
    let here = std::net::Ipv4Addr::LOCALHOST.into();
    let caller = fixture.access.check(&headers, here).await.unwrap();
    let lost = fixture.access.join(&caller, "n1").await.unwrap();
    assert!(lost.is_some());
    let agent = fixture.agent(Some(&token), Some(&fixture.cert));
    let status = fixture.status("it listens", listens).await;
    assert_eq!(status["server"]["troubles"], 0, "{status:#}");
    agent.leave().await;
}

#[tokio::test]
async fn a_join_token_is_not_used_up_where_nothing_can_be_kept() {
    let fixture = Fixture::new().await;
    let node = fixture.dir.path().join("node");
    let Some(disk) = Disk::mount(&node, "256k") else {
        return;
    };
    disk.fill();
    let token = fixture.join_token(None).await;
    let agent = fixture.agent(Some(&token), Some(&fixture.cert));
    let trouble = |status: &Value| {
        let trouble = status["server"]["trouble"].as_str();
        trouble.is_some_and(|trouble| trouble.contains("No space left"))
    };
    fixture.status("it says why", trouble).await;
    let made = fixture.access.list(None, 10).await.unwrap().items;
    assert!(
        made.iter().all(|token| token.role == Role::Join),
        "{made:?}"
    );
    disk.make_room();
    fixture.status("it listens", listens).await;
    agent.leave().await;
    assert!(node.join("identity.json").exists());
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_told_nothing() {
    let fixture = Fixture::new().await;
    let token = fixture.join_token(None).await;
    let agent = fixture.agent(Some(&token), None);
    let trouble = |status: &Value| {
        let trouble = status["server"]["trouble"].as_str();
        trouble.is_some_and(|trouble| trouble.contains("certificate"))
    };
    fixture.status("it does not trust", trouble).await;
    agent.leave().await;
    // The token is as good as before.
    let agent = fixture.agent(Some(&token), Some(&fixture.cert));
    fixture.status("it listens", listens).await;
    agent.leave().await;
}

#[tokio::test]
async fn a_node_that_nobody_knows_and_that_may_not_join_does_not_begin() {
    let fixture = Fixture::new().await;
    let other = fixture.join_token(Some("n2")).await;
    let (node, cert) = (fixture.dir.path().join("node"), fixture.cert.clone());
    for (token, why) in [
        (None, "lets no node join without a join token"),
        (
            Some("nonsense"),
            "does not let this node join: this is no token of this server",
        ),
        (
            Some(other.as_str()),
            "does not let this node join: the token is for another node",
        ),
    ] {
        let mut settings = Settings::new(&fixture.url, "n1", &node);
        settings.token = token.map(Into::into);
        settings.authorities = Some(cert.clone());
        let agent = Agent::open(settings).await.unwrap();
        let refused = agent
            .run(std::future::pending())
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains(why), "{refused}");
    }
    // Whoever was there before goes on without: what runs needs him.
    let token = fixture.join_token(None).await;
    let agent = fixture.agent(Some(&token), Some(&fixture.cert));
    fixture.status("it listens", listens).await;
    agent.leave().await;
    std::fs::remove_file(node.join("identity.json")).unwrap();
    let agent = fixture.agent(None, Some(&fixture.cert));
    let trouble = |status: &Value| {
        let trouble = status["server"]["trouble"].as_str();
        trouble.is_some_and(|trouble| trouble.contains("a token is needed"))
    };
    fixture.status("it tries on", trouble).await;
    agent.leave().await;
}

#[tokio::test]
async fn two_agents_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new("http://127.0.0.1:1", "n1", dir.path());
    let first = Agent::open(settings.clone()).await.unwrap();
    let second = Agent::open(settings).await;
    assert!(matches!(second, Err(AgentError::Busy(_))));
    drop(first);
}
