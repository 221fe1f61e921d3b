//! Every command for a node, in every state that one can be in but `down`, which it is after five minutes only.

use axum::http::Method;
use futures_util::future::join_all;
use orchestrator_agent::Leave;
use serde_json::Value;

use super::same_as_kept;
use crate::harness::{Api, Node, eventually};
use crate::program::Program;

#[derive(Clone, Copy, Debug)]
enum State {
    Ready,
    Drained,
    Leaving,
    Disconnected,
    Unknown,
}

const STATES: [State; 5] = [
    State::Ready,
    State::Drained,
    State::Leaving,
    State::Disconnected,
    State::Unknown,
];

/// How it is called, with which method, where it goes behind the node's path, and what it says.
const COMMANDS: [(&str, Method, &str, &str); 4] = [
    ("drain", Method::POST, "/drain", "{}"),
    (
        "enable",
        Method::POST,
        "/eligibility",
        r#"{"eligible":true}"#,
    ),
    (
        "disable",
        Method::POST,
        "/eligibility",
        r#"{"eligible":false}"#,
    ),
    ("remove", Method::DELETE, "", ""),
];

fn path(node: &str) -> String {
    format!("/v1/nodes/{node}")
}

async fn shown(api: &Api, node: &str) -> Option<Value> {
    let (status, shown) = api.send(Method::GET, &path(node), "").await;
    (status == 200).then(|| shown["node"].clone())
}

/// What it is, in a word or three.
fn word(shown: &Value) -> String {
    let mut word = shown["status"].as_str().unwrap().to_owned();
    for also in ["drain", "leaving"] {
        if shown[also] == true {
            word += &format!("+{also}");
        }
    }
    word
}

async fn until(api: &Api, node: &str, is: &str) -> Value {
    let what = format!("{node} is {is}");
    eventually(&what, async || {
        let shown = shown(api, node).await?;
        (word(&shown) == is).then_some(shown)
    })
    .await
}

/// Brings the node there, and says what it is then.
async fn bring(api: &Api, url: &str, name: &str, state: State) -> (Option<Node>, String) {
    if let State::Unknown = state {
        return (None, "-".to_owned());
    }
    let mut node = Node::at(url, name);
    node.start_apart(&["--drain"]);
    until(api, name, "ready").await;
    let is = match state {
        State::Ready | State::Unknown => "ready",
        State::Drained => {
            let (status, _) = api
                .send(Method::POST, &format!("{}/drain", path(name)), "{}")
                .await;
            assert_eq!(status, 200);
            "draining+drain"
        }
        State::Leaving => {
            node.leave(Leave::Drained).await;
            "disconnected+leaving"
        }
        State::Disconnected => {
            node.kill().await;
            "disconnected"
        }
    };
    until(api, name, is).await;
    (Some(node), is.to_owned())
}

async fn tried(api: &Api, url: &str, state: State, command: usize) -> String {
    let (called, method, tail, body) = COMMANDS[command].clone();
    let name = format!("{state:?}-{called}");
    let (node, before) = bring(api, url, &name, state).await;
    let was = shown(api, &name).await;
    let (status, answer) = api
        .send(method, &format!("{}{tail}", path(&name)), body)
        .await;
    let said = match (status, &was) {
        (204, Some(_)) if matches!(state, State::Ready | State::Drained) => {
            // An agent that lives joins again, and nothing of what it was is known any more.
            let new = until(api, &name, "ready").await;
            assert_ne!(new["since"], was.unwrap()["since"]);
            format!("{before} -> - -> ready")
        }
        (204, _) => {
            assert_eq!(shown(api, &name).await, None);
            format!("{before} -> -")
        }
        (200, _) => match word(&answer["node"]) {
            after if after == before => after,
            after => format!("{before} -> {after}"),
        },
        _ => {
            assert_eq!(shown(api, &name).await, was, "it is as it was");
            answer["detail"].as_str().unwrap().replace(&name, "NODE")
        }
    };
    drop(node);
    format!(
        "{:12} | {called:7} | {status} {said}\n",
        format!("{state:?}")
    )
}

#[tokio::test]
async fn every_command_in_every_state_of_a_node() {
    let dir = tempfile::tempdir().unwrap();
    let server = Program::start(&dir.path().join("data")).await;
    let url = format!("http://{}", server.api.address);
    let all = STATES.iter().flat_map(|&state| {
        let commands = 0..COMMANDS.len();
        commands.map(move |command| (state, command))
    });
    let all = all.map(|(state, command)| tried(&server.api, &url, state, command));
    same_as_kept("nodes.txt", &join_all(all).await.concat());
}
