//! What a program may use, and what it uses.

use std::path::PathBuf;
use std::time::Instant;

use orchestrator_agent::Leave;
use serde_json::{Value, json};

use crate::harness::{Node, Server, eventually, immediate, service};

/// A job that runs this, within these limits, and once.
fn job(command: Value, resources: Value) -> Value {
    let mut job = service(&[], immediate());
    job["config"] = json!({ "command": command });
    job["checks"] = json!([]);
    job["resources"] = resources;
    job["restart"] = json!({ "policy": "never" });
    job
}

/// A node with an agent of its own; `None` where the kernel holds programs to nothing.
async fn begun(server: &Server) -> Option<Node> {
    let mut node = Node::new(server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let shown = server.api.get("/v1/nodes/n1").await;
    let limits = shown["node"]["facts"]["limits"].as_str().unwrap();
    if limits == "memory_bytes cpus processes" {
        return Some(node);
    }
    eprintln!(
        "SKIPPED: this machine lets the agent make no control groups; it can limit: {limits}"
    );
    None
}

async fn run_in(node: &Node, phase: &str) -> Value {
    let is = |status: &Value| {
        let run = &status["runs"][0];
        run["phase"] == phase
    };
    node.until(phase, is).await["runs"][0].clone()
}

fn file(run: &Value, name: &str) -> String {
    let dir = PathBuf::from(run["directory"].as_str().unwrap());
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

/// The control groups of a run.
fn groups(run: &Value) -> Vec<PathBuf> {
    let launch: Value = serde_json::from_str(&file(run, "launch.json")).unwrap();
    let groups = launch["groups"].as_array().unwrap().iter();
    let dirs = groups.map(|group| group["dir"].as_str().unwrap().into());
    dirs.collect()
}

#[tokio::test]
async fn a_check_is_held_to_the_limits_of_what_it_checks() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let mut job = job(json!(["sleep", "100000"]), json!({ "processes": 8 }));
    // Each time as many as it can, and they stay.
    let fork = "for i in 1 2 3 4 5 6 7 8 9; do setsid sleep 100001 & done; wait";
    job["checks"] = json!([
        { "type": "command", "command": ["sh", "-c", fork], "interval": "200ms", "timeout": "150ms" },
        { "type": "command", "command": ["true"], "interval": "200ms" },
    ]);
    server.api.register(job).await;
    let run = run_in(&node, "running").await;
    let pids = groups(&run)
        .into_iter()
        .find(|dir| dir.join("pids.max").exists());
    let pids = pids.expect("one holds the number of processes");
    let full = || {
        let current = std::fs::read_to_string(pids.join("pids.current")).ok()?;
        current
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|count| *count >= 8)
    };
    let count = eventually("no more fit", async || full()).await;
    // The program, its check's, and those that have come in and start nothing.
    assert!(count < 16, "{count}");
    assert!(node.processes().len() < 16, "{:?}", node.processes());
    // Who needs no process of his own is well still.
    node.until("the other check passes", |status| {
        status["runs"][0]["checks"][1]["passing"] == true
    })
    .await;
}

#[tokio::test]
async fn a_check_that_cannot_be_run_says_why_and_one_that_writes_passes() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let mut job = job(json!(["sleep", "100000"]), json!({ "processes": 8 }));
    job["checks"] = json!([
        { "type": "command", "command": ["/nowhere/check"], "interval": "200ms" },
        { "type": "command", "command": ["echo", "well"], "interval": "200ms" },
    ]);
    server.api.register(job).await;
    node.until("one says why, and the other passes", |status| {
        let checks = &status["runs"][0]["checks"];
        let why = checks[0]["why"].as_str().unwrap_or_default();
        why.contains("No such file") && checks[1]["passing"] == true
    })
    .await;
}

#[tokio::test]
async fn who_needs_more_memory_is_killed_and_that_is_said() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let bytes = 32 << 20;
    // It waits for the end of a line without end.
    let hog = job(
        json!(["tail", "/dev/zero"]),
        json!({ "memory_bytes": bytes }),
    );
    server.api.register(hog).await;
    let run = run_in(&node, "ended").await;
    let said = format!("killed: it needed more than its memory_bytes, {bytes}");
    assert_eq!(run["remarks"], json!([said]));
    assert_eq!(file(&run, "stderr.log"), format!("orchestrator: {said}\n"));
    assert!(node.log().contains(&said), "{}", node.log());
}

#[tokio::test]
async fn a_check_that_needs_more_memory_says_nothing_of_the_program() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let mut job = job(
        json!(["sleep", "100000"]),
        json!({ "memory_bytes": 32 << 20 }),
    );
    // Once, and then it is well.
    let hog = "test -e hit || { touch hit; tail /dev/zero; }";
    job["checks"] = json!([
        { "type": "command", "command": ["sh", "-c", hog], "interval": "200ms", "timeout": "30s" },
    ]);
    server.api.register(job).await;
    node.until("the check passes", |status| {
        status["runs"][0]["checks"][0]["passing"] == true
    })
    .await;
    let run = run_in(&node, "running").await;
    let dir = PathBuf::from(run["directory"].as_str().unwrap());
    assert!(dir.join("work/hit").exists());
    eventually(
        "it is known that it was none of the program's",
        async || dir.join("spared").exists().then_some(()),
    )
    .await;
    let pid = node.processes()[0];
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let run = run_in(&node, "ended").await;
    assert_eq!(run["remarks"], json!([]));
    assert_eq!(file(&run, "stderr.log"), "");
}

#[tokio::test]
async fn nobody_has_more_processes_and_none_gets_away() {
    let server = Server::start().await;
    let Some(mut node) = begun(&server).await else {
        return;
    };
    // Of a session of their own, they are not of the program's process group.
    let script = "for i in 1 2 3; do setsid sleep 1000 & done; wait";
    let tree = job(json!(["sh", "-c", script]), json!({ "processes": 4 }));
    server.api.register(tree).await;
    eventually("all of it is there", async || {
        (node.processes().len() == 4).then_some(())
    })
    .await;
    let run = run_in(&node, "running").await;
    let groups = groups(&run);
    assert_eq!(groups.len(), 1);
    let inside = std::fs::read_to_string(groups[0].join("cgroup.procs")).unwrap();
    assert_eq!(inside.lines().count(), 4, "all of them, and no shim");

    // Another agent finds the group again.
    node.kill().await;
    node.start_apart(&["--drain"]);
    run_in(&node, "running").await;
    node.leave(Leave::Drained).await;
    assert!(node.processes().is_empty());

    node.start_apart(&[]);
    let script = "for i in 1 2 3 4 5 6; do sleep 1000 & done; wait";
    let more = job(json!(["sh", "-c", script]), json!({ "processes": 4 }));
    server.api.register(more).await;
    let said = async || {
        let status = node.status().await?;
        let runs = status["runs"].as_array()?.iter();
        let mut ended = runs.filter(|run| run["version"] == 2 && run["phase"] == "ended");
        Some(file(ended.next()?, "stderr.log"))
    };
    let said = eventually("it ends for want of processes", said).await;
    assert!(said.contains("fork"), "{said}");
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn groups_go_with_their_runs() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let limits = json!({ "memory_bytes": 64 << 20, "cpus": 1, "processes": 10 });
    let mut crashing = job(json!(["sh", "-c", "setsid sleep 1000 & exit 1"]), limits);
    crashing["restart"] = json!({ "backoff": "100ms", "backoff_max": "100ms" });
    server.api.register(crashing).await;
    let run = run_in(&node, "ended").await;
    let groups = groups(&run);
    assert_eq!(groups.len(), 3);
    eventually("the first run is forgotten", async || {
        file(&run, "run.json").is_empty().then_some(())
    })
    .await;
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
    let left = node.processes();
    assert!(left.len() <= 2, "of the last run at the most: {left:?}");
}

#[tokio::test]
async fn groups_go_with_what_cannot_start() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let job = job(json!(["./nothing"]), json!({ "processes": 8 }));
    server.api.register(job).await;
    let run = run_in(&node, "ended").await;
    let groups = groups(&run);
    assert_eq!(groups.len(), 1);
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

#[tokio::test]
async fn what_cannot_be_tried_is_no_run_and_ends_none() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let mut job = job(json!(["sleep", "100000"]), json!({ "processes": 8 }));
    server.api.register(job.clone()).await;
    run_in(&node, "running").await;
    job["config"]["user"] = json!("nobody-of-this-name");
    server.api.register(job).await;
    let cannot_start = |status: &Value| {
        let standing = status["executions"][0]["standing"].as_str();
        standing.is_some_and(|standing| standing.contains("nobody-of-this-name"))
    };
    let status = node.until("it cannot start", cannot_start).await;
    let runs = status["runs"].as_array().unwrap();
    let [run] = &runs[..] else {
        panic!("nothing was made of it: {status:#}");
    };
    assert!(run["version"] == 1 && run["phase"] == "running", "{run:#}");
}

#[tokio::test]
async fn what_is_used_is_shown_and_bounded() {
    let server = Server::start().await;
    let Some(node) = begun(&server).await else {
        return;
    };
    let began = Instant::now();
    let busy = json!(["sh", "-c", "while :; do :; done"]);
    server.api.register(job(busy, json!({ "cpus": 0.1 }))).await;
    let seen = node
        .until("it has had 300 ms", |status| {
            status["runs"][0]["cpu_seconds"].as_f64() >= Some(0.3)
        })
        .await;
    let took = began.elapsed().as_secs_f64();
    assert!(took > 1.5, "in {took} s, of a tenth of each");
    assert!(
        seen["runs"][0]["memory_bytes"].as_u64() > Some(0),
        "{seen:#}"
    );
}

#[test]
fn who_asks_for_a_check_as_earlier_agents_did_is_told_no_lie() {
    let run = tempfile::tempdir().unwrap();
    let asked = std::process::Command::new(env!("CARGO_BIN_EXE_agent"))
        .arg("shim")
        .arg(run.path())
        .env("ORCHESTRATOR_CHECK", r#"["false"]"#)
        .status();
    assert!(!asked.unwrap().success(), "the check would pass");
}
