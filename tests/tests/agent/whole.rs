//! Everything at once, and nothing but processes of their own.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Node, canary, eventually, get, rolling, service};
use crate::program::Program;

/// What this job answers on this node: its version and its process, if there is one and no more.
async fn answer(node: &Node, job: &str) -> Option<(u32, i32)> {
    let status = node.status().await?;
    let job = format!("default/{job}");
    let runs = status["runs"].as_array()?.iter();
    let mut up = runs.filter(|run| run["job"] == *job && run["phase"] == "running");
    let port = up.next()?["ports"]["http"].as_u64()?;
    let is_alone = up.next().is_none();
    let said = get(port as u16, "/").await?;
    node.own(&said).filter(|_| is_alone)
}

async fn all_answer(nodes: &[Node], job: &str, version: u32) -> Vec<i32> {
    let mut pids = Vec::new();
    for node in nodes {
        let what = format!("{job} is of version {version} on {}", node.name);
        let is = async || {
            let (answered, pid) = answer(node, job).await?;
            (answered == version).then_some(pid)
        };
        pids.push(eventually(&what, is).await);
    }
    pids
}

fn job(name: &str, color: &str, how: Value) -> Value {
    let mut job = service(&[("COLOR", color)], how);
    job["job_id"] = json!(name);
    job
}

#[tokio::test]
async fn two_jobs_roll_out_at_once_while_a_node_joins_and_server_and_agents_are_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Program::start(&dir.path().join("data")).await;
    let url = format!("http://{}", server.api.address);
    let mut nodes: Vec<Node> = (1..=3)
        .map(|number| Node::at(&url, &format!("n{number}")))
        .collect();
    nodes.iter_mut().for_each(|node| node.start_apart(&[]));
    server.api.nodes(3).await;
    for name in ["web", "shop"] {
        let id = server.api.register(job(name, "red", rolling())).await;
        server.api.until_state(&id, "completed").await;
    }

    let web = server.api.register(job("web", "green", rolling())).await;
    let shop = server.api.register(job("shop", "green", canary())).await;
    let one_is_done = |shown: &Value| shown["status"]["updated_nodes"].as_u64() > Some(0);
    server.api.until(&web, one_is_done).await;
    let shown = server.api.until(&shop, one_is_done).await;
    let canary = shown["status"]["canary_nodes"][0]
        .as_str()
        .unwrap()
        .to_owned();
    // One job is in its waves, the other waits at its canary.
    let mut joins = Node::at(&url, "n4");
    joins.start_apart(&[]);
    nodes.push(joins);
    for node in &mut nodes[..2] {
        server.again().await;
        node.kill().await;
        node.start_apart(&[]);
    }
    server.api.nodes(4).await;
    for node in &nodes {
        // It has the version that its job has come to, and what waits for a promotion goes nowhere.
        let version = match node.name == canary {
            true => 2,
            false => 1,
        };
        if node.name != "n4" {
            all_answer(std::slice::from_ref(node), "shop", version).await;
        }
    }
    server.api.promoted(&shop).await;
    for (name, id) in [("web", &web), ("shop", &shop)] {
        let done = server.api.until_state(id, "completed").await;
        assert_eq!(done["status"]["failed_nodes"], 0, "{name}: {done:#}");
        all_answer(&nodes, name, 2).await;
    }

    // Both are killed once more: what runs was begun once.
    let before = [
        all_answer(&nodes, "web", 2).await,
        all_answer(&nodes, "shop", 2).await,
    ];
    server.again().await;
    for node in &mut nodes {
        node.kill().await;
        node.start_apart(&[]);
    }
    let after = [
        all_answer(&nodes, "web", 2).await,
        all_answer(&nodes, "shop", 2).await,
    ];
    assert_eq!(before, after);
    for name in ["web", "shop"] {
        server.api.stopped(name).await;
    }
    for node in &nodes {
        assert!(node.processes().is_empty());
    }
}

/// Stores that earlier programs have kept, and what those said of them.
const KEPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../orchestrator-api/tests/native/kept"
);

#[tokio::test]
async fn a_server_begins_with_what_an_earlier_one_has_kept() {
    let mut stores = 0;
    for entry in std::fs::read_dir(KEPT).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|kind| kind != "gz") {
            continue;
        }
        stores += 1;
        let said = path.with_extension("").with_extension("json");
        let said: Value = serde_json::from_slice(&std::fs::read(said).unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let unpacked = Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
        std::fs::write(dir.path().join("orchestrator.db"), unpacked.stdout).unwrap();
        let mut server = Program::start(dir.path()).await;
        // Also the second time, when it is in today's form.
        for _ in 0..2 {
            let asked = |line: &[&str]| {
                let ran = Command::new(env!("CARGO_BIN_EXE_server"))
                    .args(line)
                    .args(["--limit", "1000", "--output", "json"])
                    .env(
                        "ORCHESTRATOR_ADDRESS",
                        format!("http://{}", server.api.address),
                    )
                    .env("ORCHESTRATOR_TOKEN", said["token"].as_str().unwrap())
                    .output()
                    .unwrap();
                let why = String::from_utf8_lossy(&ran.stderr);
                assert!(ran.status.success(), "{}: {why}", path.display());
                serde_json::from_slice::<Value>(&ran.stdout).unwrap()
            };
            let names = |jobs: &Value| {
                let jobs = jobs.as_array().unwrap().iter();
                jobs.map(|job| job["job_id"].clone()).collect::<Vec<_>>()
            };
            let jobs = asked(&["job", "list"]);
            assert_eq!(names(&jobs["jobs"]), names(&said["lists"]["jobs"]));
            let ended = asked(&["deployment", "list", "--state", "completed"]);
            let ended = ended["deployments"].as_array().unwrap();
            let before = said["lists"]["deployments"].as_array().unwrap();
            for was in before
                .iter()
                .filter(|was| was["status"]["state"] == "completed")
            {
                let now = ended.iter().find(|now| now["id"] == was["id"]);
                assert_eq!(now.unwrap()["status"], was["status"]);
            }
            server.again().await;
        }
    }
    assert!(stores > 0);
}
