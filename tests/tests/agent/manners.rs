//! What does harm is contained.

use serde_json::json;

use crate::harness::{Node, Server, eventually, immediate, rolling, service};

#[tokio::test]
async fn a_check_that_never_answers_fails_and_leaves_nothing_behind() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], rolling());
    job["checks"] = json!([{
        "type": "command", "command": ["sh", "-c", "sleep 1000 & sleep 1000"],
        "interval": "100ms", "timeout": "300ms", "start_period": "0s",
    }]);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "failed").await;
    server.api.stopped("web").await;
    eventually("nothing is left", async || {
        node.processes().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_check_may_do_no_more_than_its_workload() {
    let server = Server::start().await;
    let _node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], rolling());
    job["config"] = json!({ "command": ["sleep", "1000"], "user": "nobody" });
    job["checks"] = json!([{
        "type": "command", "command": ["sh", "-c", "test $(id -un) = nobody && touch here"],
        "interval": "100ms", "timeout": "1s",
    }]);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    server.api.stopped("web").await;
}

#[tokio::test]
async fn a_flood_of_output_is_bounded() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], immediate());
    job["job_type"] = json!("batch");
    job["checks"] = json!([]);
    job["config"] = json!({
        "command": ["sh", "-c", "yes | head -c 30000000; echo the last line"],
        "log_bytes": 65536, "log_files": 3,
    });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let status = node.status().await.unwrap();
    let dir = std::path::Path::new(status["runs"][0]["directory"].as_str().unwrap()).to_owned();
    let last = std::fs::read_to_string(dir.join("stdout.log")).unwrap();
    assert!(last.ends_with("the last line\n"));
    let files = std::fs::read_dir(&dir).unwrap().flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("stdout"));
    let sizes: Vec<u64> = logs.map(|file| file.metadata().unwrap().len()).collect();
    assert_eq!(sizes.len(), 3);
    assert!(sizes.iter().all(|size| *size <= 65536), "{sizes:?}");
}

#[tokio::test]
async fn a_port_of_its_own_is_passed_on_from_version_to_version() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    for color in ["red", "green", "blue"] {
        let mut job = service(&[("COLOR", color)], rolling());
        job["ports"] = json!([{ "name": "http", "port": port }]);
        let id = server.api.register(job).await;
        server.api.until_state(&id, "completed").await;
    }
    node.answers(3).await;
    let status = node.status().await.unwrap();
    let attempts = status["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["attempt"].as_u64());
    assert_eq!(
        attempts.max(),
        Some(Some(1)),
        "the port was never taken: {status:#}"
    );
}
