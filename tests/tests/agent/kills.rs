//! An agent that is killed at any moment: no orphan, no double start, no lost workload.

use std::time::Duration;

use rand::random_range;
use serde_json::json;

use crate::harness::{Node, Server, eventually, immediate, service};

/// `KILLS=100` for the long run.
fn kills() -> u32 {
    std::env::var("KILLS").map_or(10, |kills| kills.parse().expect("a number"))
}

#[tokio::test]
async fn killed_at_random_moments_it_starts_everything_once() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    let journal = node.path("journal");
    let journal = journal.to_str().unwrap();
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let kills = kills();
    for version in 1..=kills {
        let env = [("JOURNAL", journal), ("ROUND", &version.to_string())];
        let mut more = immediate();
        let switches = ["stop_first", "start_first"];
        more["switch"] = json!(switches[version as usize / 3 % 2]);
        server.api.register(service(&env, more)).await;
        // Anywhere between hearing of it and long after: the moment is the point, and nothing waits for it.
        let longest = [20, 80, 300][version as usize % 3];
        tokio::time::sleep(Duration::from_millis(random_range(0..longest))).await;
        node.kill().await;
        node.start_apart(&[]);
        if version % 3 == 0 {
            // While it finds what is there.
            tokio::time::sleep(Duration::from_millis(random_range(0..100))).await;
            node.kill().await;
            node.start_apart(&[]);
        }
        let pid = node.answers(version).await;
        eventually("nothing but that lives", async || {
            (node.processes() == [pid]).then_some(())
        })
        .await;
    }
    let journal = std::fs::read_to_string(journal).unwrap();
    let versions: Vec<u32> = journal
        .lines()
        .map(|line| line.split(' ').nth(2).unwrap().parse().unwrap())
        .collect();
    let each_once: Vec<u32> = (1..=kills).collect();
    assert_eq!(versions, each_once, "{}", node.log());
}

#[tokio::test]
async fn a_workload_outlives_its_agent_and_its_end_is_learned() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    node.kill().await;
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid, "the same process");

    // It ends while nobody looks, and is started again.
    node.kill().await;
    let killed = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    eventually("it is gone", async || {
        node.processes().is_empty().then_some(())
    })
    .await;
    node.start_apart(&[]);
    assert_ne!(node.answers(1).await, pid);
    let status = node.status().await.unwrap();
    let attempts = status["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["attempt"].as_u64());
    assert_eq!(attempts.max(), Some(Some(2)), "{status:#}");
}
