//! A clock that somebody sets back, under a server that waits for a node that says nothing.

use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::program::{Program, dir, word};

/// For how long a deployment is waited for that has three seconds: longer than the clock is not looked at, and much
/// shorter than it was set back.
const LOOKS: usize = 12;

/// The library that shows a program another time, of Debian's package `faketime`.
fn library() -> Option<PathBuf> {
    let arches = fs::read_dir("/usr/lib").ok()?.filter_map(Result::ok);
    let mut found = arches.map(|arch| arch.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|library| library.exists())
}

#[tokio::test]
async fn a_deadline_passes_though_the_clock_is_set_back() {
    let Some(library) = library() else {
        eprintln!("skipped: there is no libfaketime here (apt-get install faketime)");
        return;
    };
    let dir = dir();
    let clock = dir.path().join("clock");
    fs::write(&clock, "+0").expect("room");
    let variables = [
        ("LD_PRELOAD", word(&library)),
        ("FAKETIME_TIMESTAMP_FILE", word(&clock)),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let words = ["--listen", "127.0.0.1:0"];
    let server = Program::start_among(&dir, &words, &variables);
    let there = "the server answers";
    let joined = json!({ "name": "n1" });
    let joined = server.client.post("/v1/agent/join", joined).await;
    joined.expect(there).is(200);
    let rollout = json!({
        "strategy": "rolling",
        "health_check": { "deadline": "3s", "min_healthy_time": "1s" },
    });
    let job = json!({ "job_id": "web", "driver": "exec", "config": {}, "rollout": rollout });
    let said = server.client.post("/v1/jobs", job).await;
    let said = said.expect(there).is(201);
    let path = format!(
        "/v1/deployments/{}",
        said["deployment_id"].as_str().expect("an id")
    );
    let begun = server.client.get(&path).await.expect(there).is(200);
    let began = begun["deployment"]["status"]["created_at"].clone();
    assert_eq!(begun["deployment"]["status"]["state"], "in_progress");

    fs::write(&clock, "-1h").expect("room");
    let mut record = begun["deployment"].clone();
    for _ in 0..LOOKS {
        if record["status"]["state"] != "in_progress" {
            break;
        }
        // Its agent is there; of what it runs it has nothing to say.
        let beat = json!({ "node": "n1", "reports": [] });
        let beat = server.client.post("/v1/agent/reports", beat).await;
        beat.expect(there).is(204);
        let revision = &record["status"]["revision"];
        let news = format!("{path}?revision={revision}&wait=5s");
        let news = server.client.get(&news).await.expect(there).is(200);
        record = news["deployment"].clone();
    }
    let status = &record["status"];
    assert_eq!(status["state"], "failed", "{record:#}");
    let ended = status["completed_at"].as_str().expect("it is over");
    assert!(
        ended < began.as_str().expect("a time"),
        "the clock was set back"
    );
    server.stop().await;
}
