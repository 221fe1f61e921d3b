//! Whole rollouts with many agents: what each costs in memory, how much they can say, how soon the next wave starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use orchestrator_benches::table::{Cell, Table, size};
use tokio::sync::{Mutex, mpsc};

use super::agents::{self, Execution, LINES, Seen};
use super::child::Listening;
use super::client::Line;
use crate::options::Process;

const WAVES: usize = 10;

pub(crate) fn table() -> Table {
    Table::new(
        "5. Agents over HTTP, each with a stream of its own; a rolling update in 10 waves",
        &[
            "agents",
            "resident kB each",
            "whole update s",
            "next wave p50 ms",
            "p99 ms",
            "reports/s",
            "a sync alone/s",
        ],
        "next wave: from the last report of a wave, as it is sent, to an assignment of the next one, at its agent. \
         reports/s: one in a request, each written and synced before it is answered, 64 at a time; compared to a file \
         on the same disk that is appended to and synced, one write at a time.",
    )
}

pub(crate) async fn row(count: usize, time: Duration) -> Vec<Cell> {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Listening::start(Process::Serve, &dir.path().join("data"));
    let to = server.address;
    // What it takes by itself is there from the first request on.
    Line::open(to).await.json("GET", "/v1/nodes", "").await;
    let before = server.resident();
    agents::share(to, count, async |line: &mut Line, agent| {
        let body = format!(r#"{{"name":"{}"}}"#, agents::name(agent));
        line.json("POST", "/v1/agent/join", &body).await;
    })
    .await;
    let (tell, mut seen) = mpsc::unbounded_channel();
    agents::listen(to, count, &tell).await;
    let each = server.resident().saturating_sub(before) / count;

    let mut line = Line::open(to).await;
    let (whole, mut waits) = update(to, &mut line, &tell, &mut seen, count).await;
    waits.sort_unstable();
    let at = |share: usize| waits[(waits.len() * share / 100).min(waits.len() - 1)];
    let rate = reports(to, &mut line, &mut seen, count, time).await;
    vec![
        size(count).into(),
        (each as f64 / 1000.0).into(),
        whole.as_secs_f64().into(),
        (at(50).as_secs_f64() * 1e3).into(),
        (at(99).as_secs_f64() * 1e3).into(),
        rate.into(),
        syncs(dir.path(), time).into(),
    ]
}

fn job(version: u32, max_parallel: usize, min_healthy: &str) -> String {
    format!(
        r#"{{"job_id":"web","driver":"exec","config":{{"version":{version}}},"rollout":{{"strategy":"rolling","max_parallel":{max_parallel},"health_check":{{"deadline":"2h","min_healthy_time":"{min_healthy}"}}}}}}"#
    )
}

/// A whole update, and how long each agent of a wave but the first waited after the last report of the one before.
async fn update(
    to: SocketAddr,
    line: &mut Line,
    tell: &mpsc::UnboundedSender<Seen>,
    seen: &mut mpsc::UnboundedReceiver<Seen>,
    count: usize,
) -> (Duration, Vec<Duration>) {
    let (say, said) = mpsc::unbounded_channel::<(usize, Execution)>();
    let said = Arc::new(Mutex::new(said));
    for _ in 0..LINES {
        let (said, tell) = (said.clone(), tell.clone());
        tokio::spawn(async move {
            let mut line = Line::open(to).await;
            loop {
                let Some((agent, execution)) = said.lock().await.recv().await else {
                    return;
                };
                let body = agents::report(agent, &execution, 1);
                let sent = Instant::now();
                let status = line.ask("POST", "/v1/agent/reports", &body).await;
                assert_eq!(status, 204, "a report is taken");
                let generation = execution.generation;
                // Nobody hears it when the measurement is over.
                let _ = tell.send(Seen::Said { generation, sent });
            }
        });
    }
    let begun = Instant::now();
    let job = job(1, count / WAVES, "0s");
    let registered = line.json("POST", "/v1/jobs", &job).await;
    let id = registered["deployment_id"].as_str();
    let id = id.expect("it begins a deployment").to_owned();
    let (mut told, mut last): (BTreeMap<u64, Vec<Instant>>, BTreeMap<u64, Instant>) =
        Default::default();
    let mut left = count;
    while left > 0 {
        match seen.recv().await.expect("agents listen") {
            Seen::Told {
                agent,
                execution,
                at,
            } => {
                told.entry(execution.generation).or_default().push(at);
                say.send((agent, execution)).expect("somebody sends it");
            }
            Seen::Said { generation, sent } => {
                let last = last.entry(generation).or_insert(sent);
                *last = sent.max(*last);
                left -= 1;
            }
        }
    }
    let whole = begun.elapsed();
    let record = line.json("GET", &format!("/v1/deployments/{id}"), "").await;
    let status = &record["deployment"]["status"];
    assert_eq!(status["state"], "completed", "{status}");
    assert_eq!(status["updated_nodes"], count, "{status}");
    assert_eq!(told.len(), WAVES, "waves");
    let waves = told.into_values().skip(1).zip(last.into_values());
    let waits = waves.flat_map(|(told, last)| {
        told.into_iter()
            .map(move |at| at.saturating_duration_since(last))
    });
    (whole, waits.collect())
}

/// How many reports a second are taken that all have to be kept.
async fn reports(
    to: SocketAddr,
    line: &mut Line,
    seen: &mut mpsc::UnboundedReceiver<Seen>,
    count: usize,
    time: Duration,
) -> f64 {
    line.json("POST", "/v1/jobs", &job(2, 0, "1h")).await;
    let mut executions = vec![None; count];
    let mut left = count;
    while left > 0 {
        if let Some(Seen::Told {
            agent, execution, ..
        }) = seen.recv().await
        {
            executions[agent] = Some(execution);
            left -= 1;
        }
    }
    let executions: Arc<Vec<Execution>> = Arc::new(executions.into_iter().flatten().collect());
    let number = Arc::new(AtomicUsize::new(0));
    let taken = Arc::new(AtomicU32::new(0));
    let begun = Instant::now();
    let mut lines = tokio::task::JoinSet::new();
    for _ in 0..LINES {
        let (executions, number, taken) = (executions.clone(), number.clone(), taken.clone());
        lines.spawn(async move {
            let mut line = Line::open(to).await;
            while begun.elapsed() < time {
                let next = number.fetch_add(1, Ordering::Relaxed);
                let (agent, round) = (next % executions.len(), next / executions.len());
                let body = agents::report(agent, &executions[agent], round as u32 + 1);
                let status = line.ask("POST", "/v1/agent/reports", &body).await;
                assert_eq!(status, 204, "a report is taken");
                taken.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    lines.join_all().await;
    f64::from(taken.load(Ordering::Relaxed)) / begun.elapsed().as_secs_f64()
}

/// How often a second a file can be appended to and synced.
fn syncs(dir: &std::path::Path, time: Duration) -> f64 {
    use std::io::Write;
    let mut file = std::fs::File::create(dir.join("synced")).expect("a file");
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < time {
        file.write_all(&[b'x'; 300]).expect("room");
        file.sync_data().expect("it is kept");
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}
