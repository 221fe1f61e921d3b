//! Disks that are full, and files that cannot be read.

use orchestrator_agent::Leave;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Disk, Node, Server, Silent, eventually, immediate, rolling, service};
use crate::restarts::apart;

#[tokio::test]
async fn an_end_that_cannot_be_read_is_an_end_all_the_same() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let status = node.status().await.unwrap();
    let run = std::path::PathBuf::from(status["runs"][0]["directory"].as_str().unwrap());
    node.kill().await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let ended = run.join("ended.json");
    eventually("its end is written down", async || {
        std::fs::read(&ended).ok().filter(|bytes| !bytes.is_empty())
    })
    .await;
    // As after a power cut.
    std::fs::write(&ended, "").unwrap();
    node.start_apart(&[]);
    let next = node.answers(1).await;
    assert_ne!(next, pid);
    assert_eq!(node.processes(), [next]);
    assert!(
        node.log().contains("a damaged file is put aside"),
        "{}",
        node.log()
    );
}

/// A node of which this is on a disk of this size, and the process of its service, which begins again soon.
async fn on_a_disk(what: &str, size: &str) -> Option<(Server, Node, Disk, i32)> {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    let disk = Disk::mount(&node.path(what), size)?;
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let mut job = service(&[], immediate());
    job["restart"] = json!({ "policy": "always", "backoff": "200ms", "backoff_max": "200ms" });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(1).await;
    Some((server, node, disk, pid))
}

#[tokio::test]
async fn an_end_on_a_full_disk_is_told_and_with_room_it_is_started_again() {
    let Some((_server, mut node, disk, pid)) = on_a_disk("", "4m").await else {
        return;
    };
    disk.fill();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let ended = |status: &Value| {
        let standing = status["executions"][0]["standing"].as_str();
        standing.is_some_and(|standing| standing.contains("No space left"))
    };
    node.until("it does not run, and that is said", ended).await;
    assert!(node.log().contains("how=Exited(137)"), "{}", node.log());
    disk.make_room();
    assert_ne!(node.answers(1).await, pid);
    node.leave(Leave::Running).await;
}

#[tokio::test]
async fn what_runs_is_not_ended_for_what_has_no_room() {
    for what in ["", "runs"] {
        let Some((server, node, disk, pid)) = on_a_disk(what, "4m").await else {
            return;
        };
        disk.fill();
        let next = |word: &str| service(&[("WORD", word)], immediate());
        let id = server.api.register(next("next")).await;
        let failed = server.api.until_state(&id, "failed").await;
        let targets = server.api.targets(&id).await;
        assert!(
            targets.contains("there is no room for another run in "),
            "{failed:#}\n{targets}"
        );
        // Nor does what takes that back need any.
        let rollback = failed["rolled_back_by"].as_str().unwrap();
        server.api.until_state(rollback, "completed").await;
        assert_eq!(node.answers(1).await, pid);
        assert_eq!(node.processes(), [pid]);
        disk.make_room();
        let id = server.api.register(next("another")).await;
        server.api.until_state(&id, "completed").await;
        let (version, other) = node.answer().await.unwrap();
        assert!(version > 2 && other != pid);
    }
}

#[tokio::test]
async fn what_cannot_begin_on_a_full_disk_is_tried_again_in_its_time() {
    let Some((_server, mut node, disk, pid)) = on_a_disk("runs", "1m").await else {
        return;
    };
    // There is room for a run, and not for what its shim needs, nor for its end.
    disk.fill_nearly();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    node.until("the third is made", |status| {
        let runs = status["runs"].as_array().unwrap();
        runs.iter().any(|run| run["attempt"].as_u64() > Some(2))
    })
    .await;
    let log = node.log();
    let second = log
        .lines()
        .filter(|line| line.contains("a run cannot start"));
    let second = second.filter(|line| line.contains(".2 why="));
    assert_eq!(second.count(), 1, "{log}");
    disk.make_room();
    assert_ne!(node.answers(1).await, pid);
    node.leave(Leave::Running).await;
}

#[tokio::test]
async fn what_could_not_be_kept_is_not_acted_on_later() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    let Some(disk) = Disk::mount(&node.path(""), "4m") else {
        return;
    };
    node.start_apart(&[]);
    server.api.nodes(1).await;
    server.api.register(service(&[], immediate())).await;
    node.answers(1).await;
    disk.fill();
    server.api.stopped("web").await;
    assert!(
        node.log().contains("the desired state cannot be kept"),
        "{}",
        node.log()
    );
    // What is kept by now, if anything, is the newest.
    server.away().await;
    node.kill().await;
    disk.make_room();
    node.start_apart(&[]);
    node.until("it has looked around", |status| {
        status["runs"][0]["phase"] == "ended"
    })
    .await;
    assert!(node.processes().is_empty());
    assert!(
        !node.log().contains("start default/web 0.1.2"),
        "{}",
        node.log()
    );
    node.kill().await;

    // With room it is written, though nothing else is said.
    server.back().await;
    node.start_apart(&[]);
    eventually("it is kept", async || {
        node.path("desired.json").exists().then_some(())
    })
    .await;
    disk.fill();
    server
        .api
        .register(service(&[("A", "b")], immediate()))
        .await;
    eventually("it cannot be kept", async || {
        (!node.path("desired.json").exists()).then_some(())
    })
    .await;
    disk.make_room();
    eventually("it is kept", async || {
        node.path("desired.json").exists().then_some(())
    })
    .await;
    node.leave(Leave::Running).await;
}

#[tokio::test]
async fn a_file_system_that_does_not_answer_holds_up_nobody_else() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let dir = tempfile::tempdir().unwrap();
    let Some(silent) = Silent::mount(&dir.path().join("silent")) else {
        return;
    };
    let there = dir.path().join("silent/x");
    let first = server.api.register(service(&[], rolling())).await;
    server.api.until_state(&first, "completed").await;
    let pid = node.answers(1).await;

    // A check that cannot even begin, of another job.
    let mut other = immediate();
    other["job_id"] = json!("z-sleeper");
    other["driver"] = json!("exec");
    other["config"] = json!({ "command": ["sleep", "1000"] });
    other["checks"] = json!([{
        "type": "command", "command": [there], "interval": "200ms", "timeout": "300ms",
    }]);
    server.api.register(other).await;
    let is_late = |status: &Value| {
        let said = status["runs"].to_string();
        said.contains("no answer within 300ms")
    };
    node.until("its check does not answer", is_late).await;

    let mut job = service(&[("COLOR", "red")], rolling());
    job["config"]["directory"] = json!(there);
    job["rollout"]["no_auto_rollback"] = json!(true);
    let second = server.api.register(job).await;
    server.api.until_state(&second, "failed").await;
    let said = server.api.targets(&second).await;
    assert!(said.contains("takes more than 5 s"), "{said}");
    assert_eq!(node.answers(1).await, pid, "it was never stopped");

    // It is looked after as before, also by an agent that finds all of this.
    for _ in 0..2 {
        let pid = node.answers(1).await;
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        eventually("it runs again", async || {
            node.answer().await.filter(|(_, other)| *other != pid)
        })
        .await;
        node.leave(Leave::Running).await;
        node.start_apart(&[]);
    }
    drop(silent);
}
