//! Images that come from a registry, a real one of the test's own, which wants a password.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use orchestrator_agent::Leave;
use serde_json::json;
use tempfile::TempDir;

use crate::docker::{Engine, IMAGE, contained};
use crate::harness::{Node, Server, eventually, immediate, known, rolling};

const USER: &str = "someone";
const PASSWORD: &str = "a secret";
/// The two, as a registry keeps them.
const USERS: &str = "someone:$2b$05$qCXwvCvJ0zWbQHgQv3tmZOihs2Xs3qrstiCG8X29m2xkChqGSBgDq\n";

/// A registry. It ends with this.
struct Registry {
    dir: TempDir,
    /// None before it has come up for the first time.
    port: u16,
    process: Option<Child>,
}

impl Registry {
    /// `None` where this machine has none.
    async fn start() -> Option<Self> {
        if !known("docker-registry") {
            eprintln!("SKIPPED: there is no docker-registry here");
            return None;
        }
        let mut registry = Self {
            dir: tempfile::tempdir().unwrap(),
            port: 0,
            process: None,
        };
        registry.begin().await;
        Some(registry)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where it was before, if it was.
    async fn begin(&mut self) {
        let settings = json!({
            "version": 0.1,
            "storage": { "filesystem": { "rootdirectory": self.path("data") } },
            "http": { "addr": format!("127.0.0.1:{}", self.port) },
            "auth": { "htpasswd": { "realm": "test", "path": self.path("users") } },
        });
        std::fs::write(self.path("users"), USERS).unwrap();
        std::fs::write(self.path("settings"), settings.to_string()).unwrap();
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut registry = Command::new("docker-registry");
        registry.arg("serve").arg(self.path("settings"));
        registry.stdout(Stdio::null()).stderr(log);
        self.process = Some(registry.spawn().unwrap());
        let log = self.path("log");
        self.port = eventually("the registry listens", async || {
            let log = std::fs::read_to_string(&log).unwrap();
            let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
            let end = rest.find(|c: char| !c.is_ascii_digit())?;
            rest[..end].parse().ok()
        })
        .await;
    }

    fn end(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The image of this tag, by the name that it has there.
    fn image(&self, tag: &str) -> String {
        format!("{}/{IMAGE}:{tag}", self.address())
    }

    /// Puts an image of the engine there, and takes it away from the engine. What `docker login` keeps is in `login`.
    fn take(&self, engine: &Engine, tag: &str) {
        let config = self.path("login");
        let config = config.to_str().unwrap();
        let (image, address) = (self.image(tag), self.address());
        let login = [
            "--config",
            config,
            "login",
            "--username",
            USER,
            "--password",
            PASSWORD,
        ];
        engine.told(&[&login[..], &[&address]].concat());
        engine.told(&["tag", &format!("{IMAGE}:{tag}"), &image]);
        engine.told(&["--config", config, "push", &image]);
        engine.told(&["rmi", &image]);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

#[tokio::test]
async fn images_come_with_the_password_that_docker_keeps() {
    let Some((mut registry, engine)) = Registry::start().await.zip(Engine::start().await) else {
        return;
    };
    engine.provide("1");
    engine.provide("2");
    registry.take(&engine, "1");
    registry.take(&engine, "2");
    let server = Server::start().await;
    let mut node = Node::with_docker(&server, "n1", &engine.socket());
    node.start_here();
    server.api.nodes(1).await;

    // Who has no password is told so, and what the registry says of it.
    let mut job = contained("1", &[], immediate());
    job["config"]["image"] = json!(registry.image("1"));
    job["config"]["pull"] = json!("missing");
    let id = server.api.register(job.clone()).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains("no basic auth credentials"), "{said}");
    assert!(engine.containers().is_empty());

    // The file is read when an image is to come, so that a new password needs no new agent.
    let login = node.path("config.json");
    node.leave(Leave::Running).await;
    node.start_apart(&["--docker-config", login.to_str().unwrap()]);
    std::fs::copy(registry.path("login").join("config.json"), &login).unwrap();
    let answer = server.api.post("/v1/jobs?again=true", job).await;
    let id = answer["deployment_id"].as_str().unwrap().to_owned();
    server.api.until_state(&id, "completed").await;
    node.answers(2).await;

    // A registry that is away for a while is waited for.
    registry.end();
    let mut next = contained("2", &[], rolling());
    next["config"]["image"] = json!(registry.image("2"));
    next["config"]["pull"] = json!("always");
    let id = server.api.register(next).await;
    eventually("the engine asks for it", async || {
        let log = std::fs::read_to_string(engine.path("log")).unwrap();
        log.contains("connection refused").then_some(())
    })
    .await;
    registry.begin().await;
    server.api.until_state(&id, "completed").await;
    node.answers(3).await;
}
