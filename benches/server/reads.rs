//! Reading one deployment, beside the least that axum can do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orchestrator_benches::table::{Cell, Table};
use orchestrator_benches::timing::median;

use super::agents;
use super::child::Listening;
use super::client::Line;
use crate::options::Process;

/// Of each, in turns, so that what else goes on here disturbs both.
const ROUNDS: usize = 5;
const LINES: usize = 16;

pub(crate) async fn table(time: Duration) -> Table {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Listening::start(Process::Serve, &dir.path().join("data"));
    let mut line = Line::open(server.address).await;
    for agent in 0..10 {
        let body = format!(r#"{{"name":"{}"}}"#, agents::name(agent));
        line.json("POST", "/v1/agent/join", &body).await;
    }
    let job = r#"{"job_id":"web","driver":"exec","config":{},"rollout":{"strategy":"canary","health_check":{"deadline":"1h"}}}"#;
    let begun = line.json("POST", "/v1/jobs", job).await;
    let id = begun["deployment_id"].as_str().expect("it begins one");
    let path = format!("/v1/deployments/{id}");
    line.json("GET", &path, "").await;
    let file = dir.path().join("bytes");
    std::fs::write(&file, line.body()).expect("room");
    let bare = Listening::start(Process::Bare, &file);

    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(reads(server.address, &path, line.body(), time).await);
        least.push(reads(bare.address, &path, line.body(), time).await);
    }
    let (ours, least) = (median(ours), median(least));
    let mut table = Table::new(
        "6. Reads of one deployment, 16 at a time",
        &["GET /v1/deployments/{id}", "bare axum", "ratio"],
        "Requests a second; the median of 5 rounds in turns. The bare one answers the same bytes from memory, and \
         knows nothing of access, ids, limits, logs or counts.",
    );
    table.row([ours, least, ours / least].map(Cell::from).to_vec());
    table
}

async fn reads(to: SocketAddr, path: &str, expected: &[u8], time: Duration) -> f64 {
    let read = Arc::new(AtomicU32::new(0));
    let (path, expected): (Arc<str>, Arc<[u8]>) = (path.into(), expected.into());
    let begun = Instant::now();
    let mut lines = tokio::task::JoinSet::new();
    for _ in 0..LINES {
        let (read, path, expected) = (read.clone(), path.clone(), expected.clone());
        lines.spawn(async move {
            let mut line = Line::open(to).await;
            while begun.elapsed() < time {
                assert_eq!(line.ask("GET", &path, "").await, 200);
                assert_eq!(line.body(), &*expected, "the same bytes");
                read.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    lines.join_all().await;
    f64::from(read.load(Ordering::Relaxed)) / begun.elapsed().as_secs_f64()
}
