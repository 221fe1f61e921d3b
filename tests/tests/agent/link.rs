//! A server that goes away, and a way to it that cuts streams.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use orchestrator_agent::Leave;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Node, Server, eventually, immediate, rolling, service};

#[tokio::test]
async fn workloads_go_on_without_a_server_and_the_fleet_converges_after() {
    let mut server = Server::start().await;
    let mut nodes: Vec<Node> = ["n1", "n2"].map(|name| Node::here(&server, name)).into();
    server.api.nodes(2).await;
    let id = server.api.register(service(&[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    let pids = [nodes[0].answers(1).await, nodes[1].answers(1).await];

    server.away().await;
    nodes[0]
        .until("trouble is seen", |status| {
            !status["server"]["trouble"].is_null()
        })
        .await;
    // An agent that begins while nobody tells it what to do knows it, and so does one that has work to do.
    nodes[0].leave(Leave::Running).await;
    nodes[0].start_here();
    assert_eq!(nodes[0].answers(1).await, pids[0]);
    let pid = rustix::process::Pid::from_raw(pids[1]).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("it was started again", async || {
        nodes[1]
            .answer()
            .await
            .filter(|(_, other)| *other != pids[1])
    })
    .await;

    server.back().await;
    let id = server
        .api
        .register(service(&[("COLOR", "green")], rolling()))
        .await;
    let done = server.api.until_state(&id, "completed").await;
    assert_eq!(done["status"]["updated_nodes"], 2);
    for node in &nodes {
        node.answers(2).await;
        assert_eq!(node.processes().len(), 1);
    }
}

#[tokio::test]
async fn of_two_agents_with_one_name_the_second_is_refused() {
    let mut server = Server::start().await;
    let mut first = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let id = server.api.register(service(&[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    let pid = first.answers(1).await;

    // It was never there: somebody has given it a name that is taken.
    let mut second = Node::new(&server, "n1");
    second.start_apart(&[]);
    let ended = second.ended().await;
    let said = second.log();
    assert_eq!(ended.code(), Some(1), "{said}");
    assert!(said.contains("does not let this node join: another agent speaks for node n1"));
    assert!(second.processes().is_empty());
    let status = first.status().await.unwrap();
    assert_eq!(status["server"]["trouble"], Value::Null, "{status:#}");

    // It comes first to a server that has just been begun; and who was there before goes on with what he has.
    first.leave(Leave::Running).await;
    server.away().await;
    server.back().await;
    second.start_here();
    second
        .until("it is heard", |status| status["server"]["way"] == "streams")
        .await;
    first.start_here();
    let is_told = |status: &Value| {
        let trouble = status["server"]["trouble"].as_str();
        trouble.is_some_and(|trouble| trouble.contains("another agent speaks for node n1"))
    };
    first.until("it is told", is_told).await;
    assert_eq!(first.answers(1).await, pid);

    // The name is free again.
    server.away().await;
    second.leave(Leave::Running).await;
    server.back().await;
    first
        .until("it is heard", |status| {
            status["server"]["trouble"].is_null() && status["server"]["way"] == "streams"
        })
        .await;
    assert_eq!(first.answers(1).await, pid);
}

#[tokio::test]
async fn what_happened_while_server_and_agent_were_away_is_told() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    // It is well for as long as this file is not there.
    let sick = node.path("sick");
    let job = |color: &str, more: serde_json::Value| {
        let mut job = service(&[("COLOR", color)], rolling());
        job["checks"] = json!([{
            "type": "command", "command": ["test", "!", "-e", &sick], "interval": "100ms",
        }]);
        let health = &mut job["rollout"]["health_check"];
        health
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        job
    };
    let first = server.api.register(job("green", json!({}))).await;
    server.api.until_state(&first, "completed").await;
    // It is observed for longer than this test takes.
    let long = json!({ "min_healthy_time": "5m", "deadline": "10m" });
    let second = server.api.register(job("red", long)).await;
    node.answers(2).await;
    node.until("it is told", |status| status["reports"]["waiting"] == 0)
        .await;

    server.away().await;
    std::fs::write(&sick, "").unwrap();
    let bad = "\"checks\":false";
    eventually("bad intervals are on the disk", async || {
        let kept = std::fs::read_to_string(node.path("outbox")).ok()?;
        (kept.matches(bad).count() >= 2).then_some(())
    })
    .await;
    node.kill().await;
    // By the time that anybody asks, it is well again.
    std::fs::remove_file(&sick).unwrap();
    node.start_apart(&[]);
    node.until("they wait", |status| {
        status["reports"]["waiting"].as_u64() >= Some(2)
    })
    .await;

    server.back().await;
    server.api.until_state(&second, "failed").await;
    node.answers(1).await;
    // What was told is not on the disk any more.
    eventually("nothing is kept", async || {
        let kept = std::fs::read_to_string(node.path("outbox")).unwrap();
        (!kept.contains("report")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_end_that_nobody_saw_is_told() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let end = node.path("end");
    let mut job = service(&[], rolling());
    job["job_type"] = json!("batch");
    job["checks"] = json!([]);
    let script = format!(
        "while [ ! -e {} ]; do sleep 0.05; done; exit 7",
        end.display()
    );
    job["config"] = json!({ "command": ["sh", "-c", script] });
    job["restart"] = json!({ "policy": "never" });
    let id = server.api.register(job).await;
    node.until("it runs", |status| {
        status["executions"][0]["standing"] == "up"
    })
    .await;
    server.away().await;
    node.kill().await;
    std::fs::write(&end, "").unwrap();
    eventually("it has ended", async || {
        node.processes().is_empty().then_some(())
    })
    .await;
    // An agent that sees the end, and tells nobody before it is killed, too.
    node.start_apart(&[]);
    eventually("its end is on the disk", async || {
        let kept = std::fs::read_to_string(node.path("outbox")).ok()?;
        kept.contains("\"exited\"").then_some(())
    })
    .await;
    node.kill().await;
    server.back().await;
    node.start_apart(&[]);
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains("code 7"), "{said}");
}

/// A proxy that lets no stream through: it closes each as soon as it begins.
async fn proxy(server: std::net::SocketAddr, streams: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let streams = streams.clone();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = near.read(&mut head).await.unwrap_or(0);
                if String::from_utf8_lossy(&head[..read]).contains("text/event-stream") {
                    streams.fetch_add(1, Ordering::Relaxed);
                    let begin = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                    let _ = near.write_all(begin.as_bytes()).await;
                    return;
                }
                let mut far = TcpStream::connect(server).await.unwrap();
                far.write_all(&head[..read]).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn where_streams_are_cut_it_polls() {
    let server = Server::start().await;
    let streams = Arc::new(AtomicUsize::new(0));
    let through = proxy(server.api.address, streams.clone()).await;
    let node = Node::by_way_of(&format!("http://{through}"), "n1");
    node.until("it polls", |status| status["server"]["way"] == "polls")
        .await;
    let tried = streams.load(Ordering::Relaxed);
    assert!(tried >= 3, "{tried}");
    let id = server.api.register(service(&[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    node.answers(1).await;
}

#[tokio::test]
async fn an_older_state_of_the_same_server_is_refused() {
    let server = Server::start().await;
    let mut node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let first = server.api.register(service(&[], immediate())).await;
    server.api.until_state(&first, "completed").await;
    let pid = node.answers(1).await;
    node.leave(Leave::Running).await;
    // As if the server had been set back: what it says now is older than what this node knows.
    let path = node.path("desired.json");
    let mut kept: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    kept["desired"]["revision"] = json!(1_000_000);
    std::fs::write(&path, kept.to_string()).unwrap();
    node.start_here();
    let stop = server
        .api
        .post("/v1/jobs/default/web/stop", json!({}))
        .await;
    assert!(stop["deployment_id"].is_string());
    node.until("it was refused", |status| {
        status["refused_revision"].is_u64()
    })
    .await;
    let status = node.status().await.unwrap();
    assert_eq!(status["revision"], 1_000_000);
    assert_eq!(node.answers(1).await, pid);
    let is_said = async |says: bool| {
        let what = format!("the server knows that it is refused: {says}");
        eventually(&what, async || {
            let node = server.api.get("/v1/nodes/n1").await;
            let refuses = &node["node"]["facts"]["refuses"];
            (refuses.is_string() == says).then_some(())
        })
        .await;
    };
    is_said(true).await;
    // Until a person says that it is meant.
    node.leave(Leave::Running).await;
    node.start_apart(&["--accept-older"]);
    eventually("nothing runs", async || {
        node.processes().is_empty().then_some(())
    })
    .await;
    is_said(false).await;
}

/// A server that lets join, and then says this in every stream.
async fn liar(says: impl Fn() -> Vec<u8> + Send + 'static) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let says = says();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = near.read(&mut head).await.unwrap_or(0);
                let answer = match String::from_utf8_lossy(&head[..read]).contains("event-stream") {
                    true => [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), says].concat(),
                    false => {
                        b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"lease\":30000}".to_vec()
                    }
                };
                let _ = near.write_all(&answer).await;
                // Until the other side has had enough.
                let _ = near.read(&mut head).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn large_documents_take_little_more_than_their_text() {
    let says = || {
        let junk = vec![0; 500_000];
        let mut workloads = json!({});
        let mut executions = Vec::new();
        for number in 0..16 {
            let job = format!("a/j{number}");
            let document =
                json!({ "driver": "exec", "config": { "command": "true", "junk": junk } });
            workloads[&job] = json!({ "1": document });
            executions.push(json!({ "job": job, "slot": 0, "version": 1, "generation": 1 }));
        }
        let state = json!({
            "node": "n1", "revision": 1, "executions": executions, "workloads": workloads,
        });
        format!("data: {state}\n\n").into_bytes()
    };
    let text = says();
    assert!(text.len() > 15 << 20, "{}", text.len());
    let mut node = Node::at(
        &format!("http://{}", liar(move || text.clone()).await),
        "n1",
    );
    node.start_apart(&[]);
    let refused = |status: &Value| {
        let all = status["executions"].as_array();
        all.is_some_and(|all| {
            all.len() == 16
                && all.iter().all(|one| {
                    let standing = one["standing"].as_str().unwrap_or_default();
                    standing.contains("config: junk: ")
                })
        })
    };
    node.until("each is read", refused).await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.agent_pid())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = most.unwrap().trim().strip_suffix(" kB").unwrap();
    let most: u64 = most.parse().unwrap();
    assert!(most < 256 << 10, "{most} kB");
}

#[tokio::test]
async fn what_is_too_much_or_for_another_is_not_taken() {
    let endless = || [b"data: ".to_vec(), vec![b'x'; 49 << 20]].concat();
    let others = || {
        b"data: {\"node\":\"n2\",\"revision\":1,\"executions\":[],\"workloads\":{}}\n\n".to_vec()
    };
    let many = || {
        let one = json!({ "job": "a/b", "slot": 0, "version": 1, "generation": 1 });
        let all = vec![one; 1001];
        let state = json!({ "node": "n1", "revision": 1, "executions": all, "workloads": {} });
        format!("data: {state}\n\n").into_bytes()
    };
    let climbing = || {
        let one = json!({ "job": "../../x", "slot": 0, "version": 1, "generation": 1 });
        let state = json!({ "node": "n1", "revision": 1, "executions": [one], "workloads": {} });
        format!("data: {state}\n\n").into_bytes()
    };
    type Says = fn() -> Vec<u8>;
    let cases: [(Says, &str); 4] = [
        (endless, "an event that is too long"),
        (others, "another node"),
        (many, "1001 executions"),
        (climbing, "not the name of a job"),
    ];
    for (says, trouble) in cases {
        let node = Node::by_way_of(&format!("http://{}", liar(says).await), "n1");
        let seen = node
            .until(trouble, |status| {
                let seen = status["server"]["trouble"].as_str().unwrap_or_default();
                seen.contains(trouble)
            })
            .await;
        assert_eq!(seen["revision"], json!(null));
    }
}

/// A server whose connections carry one report, and are cut then without a word; but for the stream.
async fn cutter(reports: Arc<AtomicUsize>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let reports = reports.clone();
            tokio::spawn(async move {
                let mut asked = vec![0; 4096];
                let read = near.read(&mut asked).await.unwrap_or(0);
                let asked_for = String::from_utf8_lossy(&asked[..read]).into_owned();
                let answer = if asked_for.contains("event-stream") {
                    let nothing =
                        "{\"node\":\"n1\",\"revision\":1,\"executions\":[],\"workloads\":{}}";
                    format!("HTTP/1.1 200 OK\r\n\r\ndata: {nothing}\n\n").into_bytes()
                } else if asked_for.contains("/v1/agent/reports") {
                    reports.fetch_add(1, Ordering::Relaxed);
                    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_vec()
                } else {
                    b"HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"lease\":1500}".to_vec()
                };
                let _ = near.write_all(&answer).await;
                while near.read(&mut asked).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    address
}

#[tokio::test]
async fn reports_find_another_connection_where_theirs_was_cut() {
    let reports = Arc::new(AtomicUsize::new(0));
    let node = Node::by_way_of(&format!("http://{}", cutter(reports.clone()).await), "n1");
    eventually("reports come, each on its own connection", async || {
        (reports.load(Ordering::Relaxed) >= 4).then_some(())
    })
    .await;
    let status = node.status().await.unwrap();
    assert_eq!(status["server"]["troubles"], 0, "{status:#}");
}

/// A server that wants this of its agent, and asks whether it should take what it is told: the path, and the body.
async fn wants(
    desired: Value,
    lease: u32,
    takes: impl Fn(&str, &str) -> bool + Clone + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let (desired, takes) = (desired.clone(), takes.clone());
            tokio::spawn(async move {
                let mut near = BufReader::new(near);
                while let Some((path, body)) = asked(&mut near).await {
                    let lease = json!({ "lease": lease }).to_string();
                    let (answer, length) = match path.as_str() {
                        "/v1/agent/stream" => (format!("data: {desired}\n\n"), String::new()),
                        _ => {
                            let length = format!("content-length: {}\r\n", lease.len());
                            (lease, length)
                        }
                    };
                    let status = match takes(&path, &body) {
                        true => "200 OK",
                        false => "400 Bad Request",
                    };
                    let answer = format!("HTTP/1.1 {status}\r\n{length}\r\n{answer}");
                    // It may be gone.
                    let _ = near.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    format!("http://{address}")
}

/// The path and the body of the next request.
async fn asked(near: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        near.read_line(&mut line)
            .await
            .ok()
            .filter(|read| *read > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        match line.strip_prefix("content-length: ") {
            Some(said) => length = said.parse().unwrap(),
            None if path.is_empty() => path = line.split([' ', '?']).nth(1)?.to_owned(),
            None => {}
        }
    }
    let mut body = vec![0; length];
    near.read_exact(&mut body).await.ok()?;
    Some((path, String::from_utf8(body).unwrap()))
}

#[tokio::test]
async fn an_earlier_server_hears_of_what_still_runs_while_it_is_drained() {
    let document = json!({ "driver": "exec", "config": {
        "command": ["sh", "-c", "trap '' TERM; sleep 1000 & wait; wait"], "stop_grace": "3s",
    } });
    let desired = json!({
        "node": "n1", "revision": 1,
        "executions": [{ "job": "a/b", "slot": 0, "version": 1, "generation": 1 }],
        "workloads": { "a/b": { "1": document } },
    });
    // Of before anybody could say that he leaves.
    let (refused, reports) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let counts = (refused.clone(), reports.clone());
    let takes = move |path: &str, body: &str| {
        let (refused, reports) = &counts;
        if body.contains("\"leaving\":true") {
            refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        if path == "/v1/agent/reports" && refused.load(Ordering::Relaxed) > 0 {
            reports.fetch_add(1, Ordering::Relaxed);
        }
        true
    };
    let mut node = Node::by_way_of(&wants(desired, 600, takes).await, "n1");
    node.until("it is up", |status| {
        status["executions"][0]["standing"] == "up"
    })
    .await;
    node.leave(Leave::Drained).await;
    assert!(node.processes().is_empty());
    let (refused, reports) = (
        refused.load(Ordering::Relaxed),
        reports.load(Ordering::Relaxed),
    );
    // One for each third of its lease, for as long as it takes to stop.
    assert!(
        refused >= 1 && reports >= 3,
        "{refused} refused, {reports} reports"
    );
}

#[tokio::test]
async fn a_lot_to_begin_holds_up_no_heartbeat() {
    const JOBS: usize = 300;
    let document = json!({
        "driver": "exec", "config": { "command": "true" }, "restart": { "policy": "never" },
    });
    let jobs: Vec<String> = (0..JOBS).map(|number| format!("a/j{number}")).collect();
    let executions = jobs
        .iter()
        .map(|job| json!({ "job": job, "slot": 0, "version": 1, "generation": 1 }));
    let workloads = jobs.iter().map(|job| (job, json!({ "1": document })));
    let desired = json!({
        "node": "n1", "revision": 1, "executions": executions.collect::<Vec<_>>(),
        "workloads": workloads.collect::<std::collections::BTreeMap<_, _>>(),
    });
    let (runs, amid) = <(Arc<OnceLock<PathBuf>>, Arc<AtomicUsize>)>::default();
    let counts = (runs.clone(), amid.clone());
    let takes = move |path: &str, _: &str| {
        let (runs, amid) = &counts;
        let begun = runs.get().map_or(0, |runs| entries(runs));
        if path == "/v1/agent/reports" && (1..JOBS).contains(&begun) {
            amid.fetch_add(1, Ordering::Relaxed);
        }
        true
    };
    let mut node = Node::at(&wants(desired, 300, takes).await, "n1");
    runs.set(node.path("runs/a@")).unwrap();
    node.start_apart(&[]);
    eventually("all of them have begun", async || {
        (entries(&node.path("runs/a@")) == JOBS).then_some(())
    })
    .await;
    assert!(
        amid.load(Ordering::Relaxed) > 0,
        "it was heard of meanwhile"
    );
    node.leave(Leave::Running).await;
}

fn entries(directory: &std::path::Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}
