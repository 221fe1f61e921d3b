//! Every command for a group, in every state that one can be in.

use std::path::{Path, PathBuf};

use axum::http::Method;
use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{quick, same_as_kept, sleeper};
use crate::harness::{Api, Node, eventually};
use crate::program::Program;

#[derive(Clone, Copy, Debug)]
enum State {
    Running,
    TakingBack,
    Completed,
    Stopped,
    TakenBack,
    Canceled,
}

const STATES: [State; 6] = [
    State::Running,
    State::TakingBack,
    State::Completed,
    State::Stopped,
    State::TakenBack,
    State::Canceled,
];

const COMMANDS: [&str; 3] = ["cancel", "run the same", "run another"];

/// Two jobs, the second after the first.
struct Release {
    api: Api,
    name: String,
    /// While this file is there, version 1 of the first does not get well.
    ill: PathBuf,
}

impl Release {
    fn spec(&self, job: &str, version: u32, program: Value, rollout: Value) -> Value {
        let is_well = match (job, version) {
            ("one", 1) => json!(["test", "!", "-e", self.ill]),
            _ => json!(["true"]),
        };
        json!({
            "job_id": format!("{}-{job}", self.name), "replicas": 1, "driver": "exec",
            "labels": { "version": version.to_string() },
            "config": { "command": program }, "restart": { "policy": "never" },
            "checks": [{ "type": "command", "command": is_well, "interval": "100ms", "fails": 1 }],
            "rollout": rollout,
        })
    }

    fn of(&self, one: Value, two: Value, on_failure: &str) -> Value {
        json!({ "name": self.name, "on_failure": on_failure, "members": [
            { "job": one["job_id"], "spec": one },
            { "job": two["job_id"], "spec": two, "after": [one["job_id"]] },
        ] })
    }

    fn good(&self, version: u32) -> Value {
        let one = self.spec("one", version, sleeper(), quick());
        let two = self.spec("two", version, sleeper(), quick());
        self.of(one, two, "rollback")
    }

    fn slow(&self) -> Value {
        let slow = json!({ "strategy": "rolling", "health_check": {
            "deadline": "2h", "min_healthy_time": "1h", "interval": "1s",
        } });
        let one = self.spec("one", 2, sleeper(), slow);
        self.of(one, self.spec("two", 2, sleeper(), quick()), "rollback")
    }

    fn bad(&self, on_failure: &str) -> Value {
        let rollout = json!({ "strategy": "rolling", "max_failed_nodes": 0, "on_failure": "fail",
            "health_check": { "deadline": "2h", "min_healthy_time": "0s", "interval": "1s" } });
        let two = self.spec("two", 2, json!(["false"]), rollout);
        let one = self.spec("one", 2, sleeper(), quick());
        self.of(one, two, on_failure)
    }

    async fn run(&self, group: &Value) -> (u16, Value) {
        let body = group.to_string();
        self.api.send(Method::POST, "/v1/groups", &body).await
    }

    async fn shown(&self, id: &str) -> Value {
        self.api.get(&format!("/v1/groups/{id}")).await["group"].clone()
    }

    /// Runs it, and waits until this is so of it.
    async fn begun(
        &self,
        group: Value,
        what: &str,
        is: impl Fn(&Value) -> bool,
    ) -> (Value, String) {
        let (status, begun) = self.run(&group).await;
        assert_eq!(status, 201, "{begun}");
        let id = begun["group"]["id"].as_str().unwrap().to_owned();
        let what = format!("group {} is {what}", self.name);
        eventually(&what, async || {
            let shown = self.shown(&id).await;
            is(&shown).then_some(())
        })
        .await;
        (group, id)
    }

    /// What was run last, and the id of its group.
    async fn bring(&self, state: State) -> (Value, String) {
        let ended = |word: &'static str| move |shown: &Value| shown["state"] == word;
        let first = |word: &'static str| move |shown: &Value| shown["members"][0]["state"] == word;
        let done = self
            .begun(self.good(1), "completed", ended("completed"))
            .await;
        match state {
            State::Completed => done,
            State::Running => self.begun(self.slow(), "running", first("running")).await,
            State::TakingBack => {
                std::fs::write(&self.ill, "").unwrap();
                let is = first("rolling_back");
                self.begun(self.bad("rollback"), "taking back", is).await
            }
            State::Stopped => {
                let is = ended("failed");
                self.begun(self.bad("stop"), "failed", is).await
            }
            State::TakenBack => {
                let is = ended("failed");
                self.begun(self.bad("rollback"), "taken back", is).await
            }
            State::Canceled => {
                let (group, id) = self.begun(self.slow(), "running", first("running")).await;
                self.cancel(&id).await;
                self.ended(&id).await;
                (group, id)
            }
        }
    }

    async fn cancel(&self, id: &str) -> (u16, Value) {
        let path = format!("/v1/groups/{id}/cancel");
        self.api.send(Method::POST, &path, "{}").await
    }

    async fn ended(&self, id: &str) -> Value {
        eventually("it ends", async || {
            let shown = self.shown(id).await;
            let goes_on = shown["state"] == "pending" || shown["state"] == "running";
            (!goes_on).then_some(shown)
        })
        .await
    }

    /// Gives the command, and says what came of it.
    async fn given(&self, command: &str, (group, id): &(Value, String)) -> String {
        // Reports come in between: then it is asked again.
        let (before, status, answer) = loop {
            let before = self.shown(id).await;
            let (status, answer) = match command {
                "cancel" => self.cancel(id).await,
                "run the same" => self.run(group).await,
                _ => self.run(&self.good(3)).await,
            };
            if (200..300).contains(&status) || before == self.shown(id).await {
                break (before, status, answer);
            }
        };
        let said = match answer["group"]["id"].as_str() {
            Some(same) if same == id && command != "cancel" => word(&before),
            Some(same) if same == id => {
                format!("{} -> {}", word(&before), word(&self.ended(id).await))
            }
            Some(_) => format!("{}, and begins anew", word(&before)),
            None => {
                let detail = answer["detail"].as_str().unwrap();
                detail.replace(&self.name, "GROUP").replace(id, "ID")
            }
        };
        format!("{status} {said}")
    }
}

/// Where it is, and where its jobs are.
fn word(group: &Value) -> String {
    let members = group["members"].as_array().unwrap().iter();
    let members: Vec<_> = members.map(|job| job["state"].as_str().unwrap()).collect();
    format!(
        "{} ({})",
        group["state"].as_str().unwrap(),
        members.join(", ")
    )
}

async fn tried(api: &Api, dir: &Path, state: State, command: &str) -> String {
    let name = format!("{state:?}-{}", command.replace(' ', "-"));
    let ill = dir.join(&name);
    let release = Release {
        api: api.clone(),
        name,
        ill,
    };
    let begun = release.bring(state).await;
    let said = release.given(command, &begun).await;
    // What it runs is in nobody's way any more.
    for job in ["one", "two"] {
        let stop = format!("/v1/jobs/default/{}-{job}/stop", release.name);
        release.api.send(Method::POST, &stop, "{}").await;
    }
    format!("{:10} | {command:12} | {said}\n", format!("{state:?}"))
}

#[tokio::test]
async fn every_command_in_every_state_of_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let server = Program::start(&dir.path().join("data")).await;
    let url = format!("http://{}", server.api.address);
    let mut node = Node::at(&url, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let all = STATES.iter().flat_map(|&state| {
        let commands = COMMANDS.iter();
        commands.map(move |&command| (state, command))
    });
    let all = all.map(|(state, command)| tried(&server.api, dir.path(), state, command));
    same_as_kept("groups.txt", &join_all(all).await.concat());
}
