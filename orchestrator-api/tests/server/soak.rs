//! A server under rollouts and rollbacks that do not end, which keeps nothing for long: its memory and its files stop
//! to grow, what is old is gone, and what is recent is there, also after a restart.
//!
//! `SOAK=1000` in the environment makes a long run of it: so many versions of each job.

use std::collections::BTreeMap;
use std::fs;

use axum::http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client::{Client, Gone};
use crate::program::{Program, data, dir};

const VERSIONS: u64 = 12;
const NODES: usize = 8;
const JOBS: [&str; 3] = ["one", "two", "canary"];
/// How often it is looked at.
const SAMPLES: u64 = 8;
/// A last quarter may take so much more than the one before: allocators and pages are not exact.
const NOISE_BYTES: u64 = 6 << 20;
/// SQLite folds its log back at 4 MiB, as soon as nobody reads what is in it.
const WAL_BYTES_MAX: u64 = 24 << 20;

/// Of three versions one is bad, and of six another one says nothing until its deadline is over.
fn document(job: &str, number: u64) -> Value {
    let (bad, silent) = (number % 3 == 2, number % 6 == 3);
    let mut rollout = json!({
        "strategy": "rolling", "max_parallel": 3,
        "health_check": {
            "deadline": if silent { "100ms" } else { "10m" },
            "min_healthy_time": "0s", "failure_threshold": 1,
        },
    });
    if job == "canary" {
        rollout["strategy"] = "canary".into();
        rollout["canary_count"] = 2.into();
        rollout["auto_promote"] = true.into();
    }
    let config =
        json!({ "number": number, "bad": bad, "silent": silent, "ballast": "x".repeat(2000) });
    json!({ "job_id": job, "driver": "exec", "config": config, "rollout": rollout })
}

/// One version after the other, each seen to its end; and what else goes on at a server meanwhile.
async fn operate(client: Client, job: &'static str, versions: u64, done: mpsc::Sender<()>) {
    let there = "the server answers";
    for number in 1..=versions {
        let said = client.post("/v1/jobs", document(job, number)).await;
        let said = said.expect(there).is(201);
        let id = said["deployment_id"].as_str().expect("an id");
        let path = format!("/v1/deployments/{id}");
        // Somebody looks, and goes away.
        let mut watched = client.stream(&format!("{path}/events")).await.expect(there);
        watched.next().await.expect("it began");
        drop(watched);
        let record = ends(&client, &path).await;
        let last = match record["rolled_back_by"].as_str() {
            None => path,
            Some(back) => {
                let back = format!("/v1/deployments/{back}");
                ends(&client, &back).await;
                back
            }
        };
        // It is the last one of its job, however little is kept.
        whole(&client, &last).await;
        // A node that comes and goes.
        let guest = format!("guest-{job}-{number}");
        let node = format!("/v1/nodes/{guest}");
        let joined = client.post("/v1/agent/join", json!({ "name": guest }));
        joined.await.expect(there).is(200);
        let gone = client.send(Method::DELETE, &node, &[], None);
        assert!(gone.await.expect(there).status < 300);
        done.send(()).await.expect("somebody counts");
    }
}

/// Waits for the end of a deployment.
async fn ends(client: &Client, path: &str) -> Value {
    let mut revision = 0;
    loop {
        let news = format!("{path}?revision={revision}&wait=10s");
        let news = client.get(&news).await.expect("the server answers");
        let record = news.is(200)["deployment"].take();
        revision = record["status"]["revision"].as_u64().expect("a revision");
        let state = record["status"]["state"].as_str().expect("a state");
        if ["completed", "failed", "canceled"].contains(&state) {
            return record;
        }
    }
}

/// All that there is to know of a deployment is still there.
async fn whole(client: &Client, path: &str) {
    let get = async |of: &str| {
        let said = client.get(&format!("{path}{of}")).await;
        said.expect("the server answers").is(200)
    };
    get("").await;
    let events = get("/events").await;
    assert_eq!(events["events"][0]["kind"], "started", "{events:#}");
    let explained = get("/explain").await;
    let links = &explained["explanation"]["links"];
    let first = links[0]["text"].as_str();
    assert!(first.is_some_and(|t| t.contains("began")), "{explained:#}");
    assert!(
        !get("/targets").await["targets"]
            .as_array()
            .expect("rows")
            .is_empty()
    );
}

/// A node that runs nothing, and says how it goes.
async fn agent(client: Client, name: String) -> Result<(), Gone> {
    let join = json!({ "name": name });
    client.post("/v1/agent/join", join).await?.is(200);
    let path = format!("/v1/agent/stream?node={name}");
    let mut stream = client.stream(&path).await?;
    let mut told = BTreeMap::new();
    while let Some(desired) = stream.next().await {
        let mut reports = Vec::new();
        for execution in desired["executions"].as_array().expect("executions") {
            let (job, slot) = (&execution["job"], &execution["slot"]);
            let key = (job.to_string(), slot.as_u64());
            let generation = execution["generation"].as_u64();
            if execution["target"].is_null() || told.insert(key, generation) == Some(generation) {
                continue;
            }
            let version = execution["version"].to_string();
            let job_name = job.as_str().expect("a job");
            let config = &desired["workloads"][job_name][version]["config"];
            if config["silent"] == true {
                continue;
            }
            reports.push(json!({
                "job": job, "slot": slot, "generation": generation, "target": execution["target"], "number": 1,
                "observation": { "kind": "interval", "checks": config["bad"] == false },
            }));
        }
        let body = json!({ "node": name, "reports": reports });
        client.post("/v1/agent/reports", body).await?.is(204);
    }
    Ok(())
}

/// What a server takes, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    resident: u64,
    file: u64,
    wal: u64,
}

impl Sample {
    fn take(server: &Program, dir: &TempDir) -> Self {
        let file = |name| fs::metadata(data(dir).join(name)).map_or(0, |file| file.len());
        Self {
            resident: server.resident(),
            file: file("orchestrator.db"),
            wal: file("orchestrator.db-wal"),
        }
    }
}

/// That the last quarter of a run took no more than the one before.
fn bounded(samples: &[Sample], of: impl Fn(&Sample) -> u64) {
    let quarter = samples.len() / 4;
    let (before, last) = samples.split_at(samples.len() - quarter);
    let most = |samples: &[Sample]| samples.iter().map(&of).max().unwrap_or(0);
    let before = most(&before[before.len() - quarter..]);
    assert!(most(last) <= before + NOISE_BYTES, "{samples:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_keeps_little_stays_small() {
    let versions = std::env::var("SOAK").ok();
    let versions = versions.map_or(VERSIONS, |count| count.parse().expect("a number"));
    let dir = dir();
    let keep = ["--keep-deployments", "--keep-events", "--keep-audit"];
    let keep = keep.into_iter().flat_map(|what| [what, "1s"]);
    let words: Vec<&str> = ["--listen", "127.0.0.1:0"]
        .into_iter()
        .chain(keep)
        .collect();
    let server = Program::start_with(&dir, &words);
    let mut agents = JoinSet::new();
    for number in 0..NODES {
        // It ends with the server.
        agents.spawn(agent(server.client.clone(), format!("n{number}")));
    }
    let nodes = async || {
        server
            .client
            .all("/v1/nodes", "nodes")
            .await
            .expect("nodes")
    };
    while nodes().await.len() < NODES {
        tokio::task::yield_now().await;
    }

    let (done, mut count) = mpsc::channel(1);
    let mut operators = JoinSet::new();
    for job in JOBS {
        operators.spawn(operate(server.client.clone(), job, versions, done.clone()));
    }
    drop(done);
    let every = (versions * JOBS.len() as u64).div_ceil(SAMPLES).max(1);
    let (mut samples, mut ended) = (Vec::new(), 0);
    while count.recv().await.is_some() {
        ended += 1;
        if ended % every == 0 {
            let sample = Sample::take(&server, &dir);
            eprintln!("{ended} versions: {sample:?}");
            samples.push(sample);
        }
    }
    while let Some(operated) = operators.join_next().await {
        operated.expect("every version has its end");
    }
    bounded(&samples, |sample| sample.resident);
    bounded(&samples, |sample| sample.file);
    let wal = samples.iter().all(|sample| sample.wal <= WAL_BYTES_MAX);
    assert!(wal, "{samples:#?}");

    // The last one of each job stays, and nothing else.
    let mut last = last_of(&server.client).await;
    while last.len() > JOBS.len() {
        tokio::task::yield_now().await;
        last = last_of(&server.client).await;
    }
    server.stop().await;
    let server = Program::start(&dir);
    assert_eq!(last_of(&server.client).await, last);
    assert_eq!(last.len(), JOBS.len());
    for id in last {
        whole(&server.client, &format!("/v1/deployments/{id}")).await;
    }
    for job in JOBS {
        let next = server.client.post("/v1/jobs", document(job, versions + 1));
        let next = next.await.expect("an answer").is(201);
        assert_eq!(next["version"], versions + 1);
    }
    server.stop().await;
}

async fn last_of(client: &Client) -> Vec<String> {
    let rows = client.all("/v1/deployments", "deployments").await;
    let ids = rows.expect("the server answers");
    let ids = ids.iter().map(|row| row["id"].as_str().expect("an id"));
    ids.map(str::to_owned).collect()
}
