//! What an agent costs that has nothing to do. Measurements, and no tests: `cargo bench -p orchestrator-benches -- agent`
//! runs them, with how long each takes in `IDLE_SECONDS`, and reads what they find from the directory `IDLE_KEPT`.
//!
//! On the wire everything is counted, with the heads of all layers, as a link between two network namespaces carries it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Node, Server, eventually, immediate, service};
use crate::netns::site::Site;

/// So many times longer: longer than anything that an idle agent does from time to time.
const LONGER_ON_THE_WIRE: f64 = 3.0;

fn seconds() -> f64 {
    let said = std::env::var("IDLE_SECONDS").unwrap_or_else(|_| "60".to_owned());
    said.parse().expect("IDLE_SECONDS is a number")
}

/// Says what was found, and keeps it for whoever wants it.
fn keep(name: &str, found: &Value) {
    println!("{name}: {found:#}");
    if let Some(dir) = std::env::var_os("IDLE_KEPT") {
        std::fs::write(Path::new(&dir).join(name), found.to_string()).unwrap();
    }
}

/// What a process has taken until now.
struct Cost {
    resident_kib: u64,
    own_kib: u64,
    processor_s: f64,
}

fn cost(pid: i32) -> Cost {
    let read = |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
    let status = read("status");
    let kib = |name: &str| {
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_matches([':', ' ', '\t', 'k', 'B'])
            .parse()
            .unwrap()
    };
    let stat = read("stat");
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    let in_a_second = rustix::param::clock_ticks_per_second() as f64;
    Cost {
        resident_kib: kib("VmRSS"),
        own_kib: kib("RssAnon"),
        processor_s: (ticks(11) + ticks(12)) as f64 / in_a_second,
    }
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
    let mut sleeper = Command::new("sleep").arg("infinity").spawn().unwrap();
    let agent = node.agent_pid();
    let workload = node.processes()[0];
    let status = std::fs::read_to_string(format!("/proc/{workload}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    let shim = parent.trim().parse().unwrap();
    let all = [
        ("agent", agent),
        ("shim", shim),
        ("sleep", sleeper.id().cast_signed()),
    ];
    let before = all.map(|(_, pid)| cost(pid).processor_s);
    tokio::time::sleep(Duration::from_secs_f64(seconds())).await;
    let found = all.into_iter().zip(before).map(|((name, pid), before)| {
        let cost = cost(pid);
        let hourly = (cost.processor_s - before) * 3600.0 / seconds();
        let found = json!({
            "resident_kib": cost.resident_kib, "own_kib": cost.own_kib, "processor_s_per_hour": hourly,
        });
        (name.to_owned(), found)
    });
    keep("processes", &Value::Object(found.collect()));
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
    let seconds = seconds() * LONGER_ON_THE_WIRE;
    let before = site.carried(0);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let bytes = site.carried(0) - before;
    let hourly = bytes as f64 * 3600.0 / seconds;
    keep("wire", &json!({ "kib_per_hour": hourly / 1024.0 }));
}
