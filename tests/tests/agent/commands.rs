//! Every command that an operator has, in every state that a deployment can be in: a server and agents that are processes
//! of their own. `BLESS=1` writes what is so now to `commands/*.txt`, which say what should be.

mod groups;
mod nodes;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::http::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::harness::{Api, Node};
use crate::program::Program;

/// So many jobs come to their state at the same time.
const AT_ONCE: usize = 12;

/// Where a job is brought before a command comes. The commands are of its last update.
#[derive(Clone, Copy, Debug)]
enum State {
    Pending,
    InProgress,
    CanaryStarts,
    CanaryWaits,
    CanaryPaused,
    Paused,
    PausedByFailure,
    Completed,
    Failed,
    Canceled,
    RollingBack,
    RolledBack,
    Stopped,
}

const STATES: [State; 13] = [
    State::Pending,
    State::InProgress,
    State::CanaryStarts,
    State::CanaryWaits,
    State::CanaryPaused,
    State::Paused,
    State::PausedByFailure,
    State::Completed,
    State::Failed,
    State::Canceled,
    State::RollingBack,
    State::RolledBack,
    State::Stopped,
];

/// How it is called, where it goes, and what it says. `ID` and `JOB` are filled in.
const COMMANDS: [(&str, &str, &str); 13] = [
    ("promote", "/v1/deployments/ID/promote", "{}"),
    ("pause", "/v1/deployments/ID/pause", "{}"),
    ("resume", "/v1/deployments/ID/resume", "{}"),
    ("cancel", "/v1/deployments/ID/cancel", "{}"),
    (
        "fail",
        "/v1/deployments/ID/fail",
        r#"{"reason":"it looks bad"}"#,
    ),
    ("rollback", "/v1/deployments/ID/rollback", "{}"),
    ("job rollback", "/v1/jobs/default/JOB/rollback", "{}"),
    (
        "job rollback to 1",
        "/v1/jobs/default/JOB/rollback",
        r#"{"to_version":1}"#,
    ),
    ("job restart", "/v1/jobs/default/JOB/restart", "{}"),
    ("job stop", "/v1/jobs/default/JOB/stop", "{}"),
    (
        "job scale",
        "/v1/jobs/default/JOB/scale",
        r#"{"replicas":1}"#,
    ),
    ("run the same", "/v1/jobs", "SAME"),
    ("run another", "/v1/jobs", "OTHER"),
];

/// A job that is brought somewhere.
struct Subject {
    api: Api,
    job: String,
    /// While this file is there, version 1 does not get well.
    ill: PathBuf,
    /// What was registered last, and its deployment.
    last: Value,
    id: String,
}

impl Subject {
    fn version(&self, word: &str, program: Value, rollout: Value) -> Value {
        json!({
            "job_id": self.job, "replicas": 2, "driver": "exec", "labels": { "version": word },
            "config": { "command": program }, "restart": { "policy": "never" },
            "checks": [{
                "type": "command", "command": ["test", "!", "-e", self.ill], "interval": "100ms", "fails": 1,
            }],
            "rollout": rollout,
        })
    }

    async fn register(&mut self, job: Value) {
        self.id = self.api.register(job.clone()).await;
        self.last = job;
    }

    async fn good(&mut self, word: &str) {
        self.register(self.version(word, sleeper(), quick())).await;
        self.api.until_state(&self.id, "completed").await;
    }

    /// It waits for its first node to be well for an hour.
    async fn slow(&mut self) {
        let slow = json!({ "strategy": "rolling", "max_parallel": 1, "health_check": {
            "deadline": "2h", "min_healthy_time": "1h", "interval": "1s",
        } });
        self.register(self.version("slow", sleeper(), slow)).await;
        let one = |shown: &Value| shown["status"]["in_flight_nodes"] == 1;
        self.api.until(&self.id, one).await;
    }

    async fn canary(&mut self, min_healthy: &str) {
        let canary = json!({ "strategy": "canary", "canary_count": 1, "health_check": {
            "deadline": "2h", "min_healthy_time": min_healthy, "interval": "1s",
        } });
        self.register(self.version("canary", sleeper(), canary))
            .await;
    }

    async fn bad(&mut self, on_failure: &str) {
        let rollout = json!({
            "strategy": "rolling", "max_parallel": 1, "max_failed_nodes": 0, "on_failure": on_failure,
            "health_check": { "deadline": "2h" },
        });
        self.register(self.version("bad", json!(["false"]), rollout))
            .await;
    }

    async fn command(&self, name: &str) {
        let path = format!("/v1/deployments/{}/{name}", self.id);
        self.api.post(&path, json!({})).await;
    }

    /// Brings a job of this name to this state.
    async fn at(api: &Api, job: String, dir: &Path, state: State) -> Self {
        let mut subject = Self {
            api: api.clone(),
            ill: dir.join(&job),
            job,
            last: Value::Null,
            id: String::new(),
        };
        let these = &mut subject;
        match state {
            State::Pending => {
                let mut nowhere = these.version("first", sleeper(), json!({}));
                nowhere["selector"] = json!("zone = nowhere");
                these.register(nowhere).await;
                return subject;
            }
            State::Stopped => {
                these.good("first").await;
                these.api.stopped(&these.job).await;
                return subject;
            }
            _ => these.good("first").await,
        }
        match state {
            State::Pending | State::Stopped => unreachable!("it is there"),
            State::InProgress => these.slow().await,
            State::CanaryStarts => {
                these.canary("1h").await;
                let one = |shown: &Value| shown["status"]["in_flight_nodes"] == 1;
                these.api.until(&these.id, one).await;
            }
            State::CanaryWaits | State::CanaryPaused => {
                these.canary("0s").await;
                let waits = |shown: &Value| shown["status"]["waiting_on"] == "promotion";
                these.api.until(&these.id, waits).await;
                if let State::CanaryPaused = state {
                    these.command("pause").await;
                }
            }
            State::Paused => {
                these.slow().await;
                these.command("pause").await;
            }
            State::PausedByFailure => {
                these.bad("pause").await;
                these.api.until_state(&these.id, "paused").await;
            }
            State::Completed => these.good("second").await,
            State::Failed => {
                these.bad("fail").await;
                these.api.until_state(&these.id, "failed").await;
            }
            State::Canceled => {
                these.slow().await;
                these.command("cancel").await;
            }
            State::RollingBack | State::RolledBack => {
                if let State::RollingBack = state {
                    std::fs::write(&these.ill, "").unwrap();
                }
                these.bad("rollback").await;
                these.api.until_state(&these.id, "failed").await;
                let newest = these.newest().await;
                assert_eq!(newest["type"], "rollback", "{newest}");
                let id = newest["id"].as_str().unwrap();
                if let State::RolledBack = state {
                    these.api.until_state(id, "completed").await;
                }
            }
        }
        subject
    }

    async fn shown(&self) -> Value {
        let path = format!("/v1/deployments/{}", self.id);
        self.api.get(&path).await["deployment"].clone()
    }

    async fn newest(&self) -> Value {
        let path = format!(
            "/v1/deployments?filter=job_id%3D{}&order_by=created_at%20desc,id%20desc&page_size=1",
            self.job
        );
        self.api.get(&path).await["deployments"][0].clone()
    }

    /// Gives the command, and says what came of it.
    async fn given(&self, (_, path, body): (&str, &str, &str)) -> String {
        let path = path.replace("ID", &self.id).replace("JOB", &self.job);
        let body = match body {
            "SAME" => self.last.to_string(),
            "OTHER" => self.version("other", sleeper(), quick()).to_string(),
            other => other.to_owned(),
        };
        // Reports come in between: then it is asked again.
        loop {
            let before = (self.shown().await, self.newest().await);
            let (status, answer) = self.api.send(Method::POST, &path, &body).await;
            let after = (self.shown().await, self.newest().await);
            if (200..300).contains(&status) {
                return format!("{status} {}", change(&before, &after));
            }
            if before == after {
                let detail = answer["detail"].as_str().unwrap();
                let detail = detail.replace(&self.id, "ID").replace(&self.job, "JOB");
                // Which node is the canary is drawn by the job's name.
                let detail = detail.replace("n2", "n1");
                let newest = after.1["id"].as_str().unwrap();
                return format!("{status} {}", detail.replace(newest, "NEWEST"));
            }
        }
    }
}

fn sleeper() -> Value {
    json!(["sleep", "100000"])
}

fn quick() -> Value {
    let health = json!({ "deadline": "2h", "min_healthy_time": "0s", "interval": "1s" });
    json!({ "strategy": "rolling", "health_check": health })
}

/// What a command that was obeyed has done.
fn change((before, last): &(Value, Value), (after, newest): &(Value, Value)) -> String {
    let state = |shown: &Value| shown["status"]["state"].as_str().unwrap().to_owned();
    let mut said = match (state(before), state(after)) {
        (before, after) if before == after => after,
        (before, after) => format!("{before} -> {after}"),
    };
    if before["status"]["canary_promoted"] != after["status"]["canary_promoted"] {
        said += ", promoted";
    }
    if last["id"] != newest["id"] {
        let kind = newest["type"].as_str().unwrap();
        let _ = write!(said, "; then {kind} to version {}", newest["to_version"]);
    }
    said
}

fn same_as_kept(file: &str, said: &str) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/agent/commands")
        .join(file);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&kept, said).unwrap();
    }
    let kept = std::fs::read_to_string(kept).unwrap_or_default();
    let kept: Vec<&str> = kept.lines().collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), kept);
}

#[tokio::test]
async fn every_command_in_every_state_of_a_deployment() {
    let dir = tempfile::tempdir().unwrap();
    let server = Program::start(&dir.path().join("data")).await;
    let url = format!("http://{}", server.api.address);
    let mut nodes = [Node::at(&url, "n1"), Node::at(&url, "n2")];
    for node in &mut nodes {
        node.start_apart(&[]);
    }
    server.api.nodes(2).await;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut tried = Vec::new();
    for state in STATES {
        for command in COMMANDS {
            let (api, room, dir) = (server.api.clone(), room.clone(), dir.path().to_owned());
            tried.push(tokio::spawn(async move {
                let _place = room.acquire().await;
                let job = format!("{state:?}-{}", command.0.replace(' ', "-"));
                let subject = Subject::at(&api, job, &dir, state).await;
                let said = subject.given(command).await;
                // What it runs is in nobody's way any more.
                let stop = format!("/v1/jobs/default/{}/stop", subject.job);
                api.send(Method::POST, &stop, "{}").await;
                format!("{:15} | {:17} | {said}\n", format!("{state:?}"), command.0)
            }));
        }
    }
    let mut said = String::new();
    for one in tried {
        said += &one.await.unwrap();
    }
    same_as_kept("deployments.txt", &said);
}
