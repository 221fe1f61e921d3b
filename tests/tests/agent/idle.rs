//! What an agent costs that has nothing to do. A measurement, and no test:
//!
//! ```sh
//! cargo build --release -p orchestrator-agent
//! AGENT=target/release/orchestrator-agent cargo test -p orchestrator-tests --test agent -- --ignored --nocapture idle
//! ```
//!
//! On the wire everything is counted, with the heads of all layers, as a link between two network namespaces carries it.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Node, Server, eventually, immediate, service};
use crate::netns::site::Site;

const FOR: Duration = Duration::from_secs(60);
/// Longer than anything that an idle agent does from time to time.
const WIRE_FOR: Duration = Duration::from_secs(180);

/// Resident memory in KiB, that of it which is its own, and processor time in hundredths of a second.
fn cost(pid: i32) -> (u64, u64, u64) {
    let read = |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status = read("status");
    let kib = |name: &str| {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim_matches([':', ' ', '\t', 'k', 'B'])
            .parse::<u64>()
            .unwrap()
    };
    let stat = read("stat");
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    (kib("VmRSS"), kib("RssAnon"), ticks(11) + ticks(12))
}

fn ten() -> Value {
    let mut job = service(&[], immediate());
    job["replicas"] = json!(10);
    job["checks"] = json!([{ "type": "http", "path": "/health" }]);
    job
}

async fn all_healthy(node: &Node) {
    node.until("all are healthy", |status| {
        let runs = status["runs"].as_array().unwrap();
        runs.len() == 10 && runs.iter().all(|run| run["ready"] == true)
    })
    .await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn idle() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let id = server.api.register(ten()).await;
    server.api.until_state(&id, "completed").await;
    all_healthy(&node).await;
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    let agent = node.agent_pid();
    let workload = node.processes()[0];
    let status = std::fs::read_to_string(format!("/proc/{workload}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    let shim = parent.trim().parse().unwrap();
    let all = [
        ("agent, 10 workloads", agent),
        ("a shim", shim),
        ("sleep", sleeper.id().cast_signed()),
    ];
    let before = all.map(|(_, pid)| cost(pid).2);
    tokio::time::sleep(FOR).await;
    println!("                     resident KiB   own KiB   processor s/h");
    for ((name, pid), before) in all.into_iter().zip(before) {
        let (resident, own, ticks) = cost(pid);
        let hourly = (ticks - before) as f64 / 100.0 * 3600.0 / FOR.as_secs_f64();
        println!("{name:20} {resident:12} {own:9} {hourly:15.1}");
    }
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[tokio::test]
#[ignore = "a measurement"]
async fn idle_on_the_wire() {
    let Some(site) = Site::begin(1).await else {
        return;
    };
    let id = site.run(ten()).await;
    site.completed(&id).await;
    let node = &site.nodes[0];
    all_healthy(node).await;
    eventually("no deployment waits for it, and it knows", async || {
        let known = std::fs::read_to_string(node.path("desired.json")).ok()?;
        (!known.contains("\"target\"")).then_some(())
    })
    .await;
    let before = site.carried(0);
    tokio::time::sleep(WIRE_FOR).await;
    let bytes = site.carried(0) - before;
    let hourly = bytes as f64 * 3600.0 / WIRE_FOR.as_secs_f64();
    println!("on the wire, both ways: {:.0} KiB/h", hourly / 1024.0);
}
