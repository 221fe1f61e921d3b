//! What workloads write comes to the server: once, within bounds, and over the end of whoever is on the way.

use serde_json::{Value, json};

use crate::harness::{Node, Server, eventually, immediate, service};

/// A job that is a script of the shell.
fn script(name: &str, script: &str, more: Value) -> Value {
    let mut job = service(&[], immediate());
    job["job_id"] = json!(name);
    job["checks"] = json!([]);
    job["ports"] = json!([]);
    job["config"] = json!({ "command": ["sh", "-c", script] });
    let fields = job["config"].as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    job
}

async fn lines(server: &Server, query: &str) -> Vec<Value> {
    let page = server.api.get(&format!("/v1/jobs/default/{query}")).await;
    page["lines"].as_array().unwrap().clone()
}

fn texts(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["text"].as_str().unwrap())
        .collect()
}

/// Ready when one of a job's last lines is this.
async fn says(server: &Server, job: &str, text: &str) {
    eventually(&format!("{job} says {text:?}"), async || {
        let lines = lines(server, &format!("{job}/logs?tail=10000")).await;
        texts(&lines).contains(&text).then_some(())
    })
    .await;
}

/// Each line follows the one before, of one stream of one run.
fn assert_whole(lines: &[Value]) {
    for pair in lines.windows(2) {
        assert_eq!(pair[0]["end"], pair[1]["position"], "{pair:#?}");
    }
    let numbers = lines.iter().map(|line| {
        let number = line["text"].as_str().unwrap().strip_prefix("line ");
        number.unwrap().parse::<u64>().unwrap()
    });
    assert!(numbers.eq(1..=lines.len() as u64));
}

#[tokio::test]
async fn every_line_comes_once_whoever_is_killed_or_begins_again() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let go = node.path("go");
    // As many lines as it is told to.
    let counts = format!(
        "i=0; while :; do while [ $i -ge $(cat {go} 2>/dev/null || echo 0) ]; do sleep 0.02; done; i=$((i+1)); echo line $i; done",
        go = go.display()
    );
    server.api.register(script("web", &counts, json!({}))).await;
    let until = async |server: &Server, number: u32| {
        let new = go.with_extension("new");
        std::fs::write(&new, number.to_string()).unwrap();
        std::fs::rename(&new, &go).unwrap();
        says(server, "web", &format!("line {number}")).await;
    };
    until(&server, 10).await;
    // Another agent goes on where this one was.
    node.kill().await;
    node.start_apart(&[]);
    until(&server, 20).await;
    assert_whole(&lines(&server, "web/logs").await);
    // Another server gets the end again.
    server.away().await;
    server.back().await;
    until(&server, 30).await;
    // Also of who writes nothing meanwhile.
    server.away().await;
    server.back().await;
    says(&server, "web", "line 30").await;
    let all = lines(&server, "web/logs?node=n1&tail=1000").await;
    assert_eq!(all.len(), 30);
    assert_whole(&all);
    assert_eq!(all[0]["stream"], "stdout");
    let status = node.status().await.unwrap();
    assert_eq!(status["logs"]["left_out_bytes"], 0, "{status:#}");
}

#[tokio::test]
async fn the_last_words_of_what_crashed_are_kept() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    server
        .api
        .register(service(&[("CRASH", "1")], immediate()))
        .await;
    node.until("files of runs are gone", |status| {
        let runs = status["runs"].as_array().unwrap();
        runs.iter().any(|run| run["attempt"].as_u64() > Some(6))
    })
    .await;
    let of = |attempt: u64| {
        let server = &server;
        async move {
            let lines = lines(server, "web/logs").await;
            let found = lines.into_iter().find(|line| line["attempt"] == attempt);
            found.filter(|line| {
                line["text"] == "broken from the start" && line["stream"] == "stderr"
            })
        }
    };
    for attempt in 1..=6 {
        eventually("each said why", async || of(attempt).await).await;
    }
}

#[tokio::test]
async fn a_flood_keeps_neither_others_nor_rollouts_waiting_and_its_end_is_seen() {
    const FLOOD: u64 = 200_000_000;
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let stop = node.path("stop");
    let floods = format!(
        "yes 'a flood of output' | head -c {FLOOD}; while [ ! -e {stop} ]; do yes more | head -c 100000; done; \
         echo the last line; sleep 1000",
        stop = stop.display()
    );
    let few = json!({ "log_bytes": 65536, "log_files": 3 });
    server.api.register(script("flood", &floods, few)).await;
    eventually("it floods", async || {
        let found = lines(&server, "flood/logs").await;
        (!found.is_empty()).then_some(())
    })
    .await;
    // Meanwhile others are heard, and rolled out.
    let quiet = script("quiet", "echo a quiet word; sleep 1000", json!({}));
    server.api.register(quiet).await;
    says(&server, "quiet", "a quiet word").await;
    let id = server.api.register(service(&[], immediate())).await;
    server.api.until_state(&id, "completed").await;
    std::fs::write(&stop, "").unwrap();
    says(&server, "flood", "the last line").await;

    let kept = lines(&server, "flood/logs?tail=10000").await;
    let bytes: usize = texts(&kept).iter().map(|text| text.len()).sum();
    assert!(bytes <= 256 << 10, "{bytes}");
    let status = node.status().await.unwrap();
    let count = |name: &str| status["logs"][name].as_u64().unwrap();
    assert!(count("left_out_bytes") > FLOOD / 2, "{status:#}");
    println!(
        "sent {}, left out {}",
        count("sent_bytes"),
        count("left_out_bytes")
    );
}
