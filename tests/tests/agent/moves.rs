//! Data directories that are moved, copied, and reached in more than one way.

use std::path::Path;

use orchestrator_agent::Leave;
use serde_json::{Value, json};

use crate::harness::{Node, Server, eventually, immediate, service};
use crate::restarts::{apart, plain};

/// A server, and a node whose service has answered, with an agent that is a process: and the service's.
async fn at_work_apart() -> (Server, Node, i32) {
    let (server, node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    (server, node, pid)
}

/// An agent with this copy ends at once, and says why.
async fn is_refused(copy: &mut Node, why: &str) {
    copy.start_apart(&[]);
    assert!(!copy.ended().await.success());
    assert!(copy.log().contains(why), "{}", copy.log());
    assert!(copy.processes().is_empty());
}

fn is_alive(pid: i32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok()
}

#[tokio::test]
async fn with_a_copy_nobody_works_while_its_original_is_there() {
    let (server, mut node, pid) = at_work_apart().await;
    for is_working in [true, false] {
        if !is_working {
            node.leave(Leave::Running).await;
        }
        for name in ["n1", "n2"] {
            let mut copy = Node::new(&server, name);
            copy.copy(&node);
            is_refused(&mut copy, "this data directory is a copy").await;
        }
    }
    // However often they tried, it goes on where it is.
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn with_an_original_that_was_moved_one_agent_works_and_with_its_copy_none() {
    let (server, mut node, pid) = at_work_apart().await;
    node.leave(Leave::Running).await;
    let mut copies = ["n1", "n2"].map(|name| Node::new(&server, name));
    for copy in &copies {
        copy.copy(&node);
    }
    node.move_away();
    // What runs there says where the original is.
    for copy in &mut copies {
        is_refused(copy, "this data directory is a copy").await;
    }
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
    for copy in &mut copies {
        is_refused(
            copy,
            "another agent works with a copy of this data directory",
        )
        .await;
    }
    // In its new place it is an original as before.
    copies[0].copy(&node);
    is_refused(&mut copies[0], "this data directory is a copy").await;
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn a_copy_has_the_place_of_an_original_that_is_gone_and_nothing_runs_twice() {
    let (server, mut node) = apart().await;
    let outside = tempfile::tempdir().unwrap();
    let journal = outside.path().join("journal");
    // It says so when it ends.
    let script = format!(
        "trap 'echo bye >> {0}; exit' INT; mkfifo never; echo ready >> {0}; read line <> never",
        journal.display()
    );
    let mut job = plain(json!(["sh", "-c", script]));
    job["config"]["stop_signal"] = json!("INT");
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let said = |words: &str| std::fs::read_to_string(&journal).is_ok_and(|said| said == words);
    eventually("it is ready", async || said("ready\n").then_some(())).await;
    node.leave(Leave::Running).await;
    let mut next = Node::new(&server, "n1");
    next.copy(&node);
    std::fs::remove_dir_all(node.path("")).unwrap();
    next.start_apart(&[]);
    // The one is told before the other begins.
    eventually("there is another one", async || {
        said("ready\nbye\nready\n").then_some(())
    })
    .await;
    server.api.stopped("web").await;
    assert!(next.processes().is_empty());
    assert!(said("ready\nbye\nready\nbye\n"));
}

#[tokio::test]
async fn what_a_node_of_another_name_has_left_is_left_alone() {
    let (server, mut node) = apart().await;
    let mut job = service(&[], immediate());
    job["resources"] = json!({ "processes": 50 });
    server.api.register(job).await;
    let pid = node.answers(1).await;
    node.leave(Leave::Running).await;
    let theirs = Server::start().await;
    let mut other = Node::new(&theirs, "n2");
    other.copy(&node);
    std::fs::remove_dir_all(node.path("")).unwrap();
    for name in ["identity.json", "desired.json"] {
        let _ = std::fs::remove_file(other.path(name));
    }
    let run = other.path("runs/default@/web@");
    let run = std::fs::read_dir(&run).unwrap().flatten().next().unwrap();
    for _ in 0..2 {
        other.start_apart(&[]);
        let is_left_alone = |status: &Value| {
            let why = status["runs"][0]["left_alone"].as_str();
            why == Some("of node n1, whose data directory this was")
        };
        other
            .until("it says why it does nothing", is_left_alone)
            .await;
        other.leave(Leave::Running).await;
    }
    // It has its own beside that, and stops and forgets no other.
    other.start_apart(&[]);
    theirs.api.nodes(1).await;
    theirs
        .api
        .register(service(&[("A", "b")], immediate()))
        .await;
    let own = other.answers(1).await;
    assert_eq!(other.processes(), [own]);
    other.leave(Leave::Drained).await;
    assert!(is_alive(pid) && run.path().exists(), "{}", other.log());
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn an_agent_whose_directory_is_moved_goes_on_nowhere() {
    let (server, mut node, pid) = at_work_apart().await;
    // It looks after something, so something happens.
    let moved = tempfile::tempdir().unwrap();
    let (here, there) = (node.path(""), moved.path().join("data"));
    std::fs::rename(&here, &there).unwrap();
    assert!(!node.ended().await.success());
    assert!(!here.exists() && is_alive(pid));
    std::fs::rename(&there, &here).unwrap();
    assert!(
        node.log()
            .contains("was moved or taken away under this agent"),
        "{}",
        node.log()
    );
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
    server.api.stopped("web").await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn a_directory_is_the_same_however_it_is_reached() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let larger = tempfile::tempdir().unwrap();
    let (here, there) = (node.path("."), larger.path().join("data"));
    let here = here.canonicalize().unwrap();
    for by_link in [true, false] {
        node.leave(Leave::Running).await;
        if by_link {
            std::fs::rename(&here, &there).unwrap();
            std::os::unix::fs::symlink(&there, &here).unwrap();
        } else {
            std::fs::remove_file(&here).unwrap();
            std::fs::create_dir(&here).unwrap();
            let mut mount = std::process::Command::new("mount");
            let mount = mount.arg("--bind").args([&there, &here]).output();
            if !mount.is_ok_and(|run| run.status.success()) {
                eprintln!("SKIPPED: this process may not mount a directory");
                break;
            }
        }
        node.start_apart(&[]);
        assert_eq!(node.answers(1).await, pid);
    }
    server.api.stopped("web").await;
    eventually("it is stopped", async || {
        std::fs::metadata(format!("/proc/{pid}"))
            .is_err()
            .then_some(())
    })
    .await;
    node.leave(Leave::Running).await;
    let mut unmount = std::process::Command::new("umount");
    let _ = unmount.arg("--lazy").arg(&here).output();
}

#[tokio::test]
async fn what_runs_goes_along_with_a_directory_that_is_moved() {
    let (server, mut node) = apart().await;
    let outside = tempfile::tempdir().unwrap();
    let (journal, end) = (outside.path().join("journal"), outside.path().join("end"));
    let made = std::process::Command::new("mkfifo").arg(&end).status();
    assert!(made.unwrap().success());
    let script = format!(
        "echo begun >> {}; read line < {}; echo done",
        journal.display(),
        end.display()
    );
    let mut job = plain(json!(["sh", "-c", script]));
    job["job_type"] = json!("batch");
    job["checks"] =
        json!([{ "type": "command", "command": ["test", "-d", "../work"], "interval": "200ms" }]);
    server.api.register(job).await;
    node.until("it runs", |status| status["runs"][0]["phase"] == "running")
        .await;
    node.leave(Leave::Running).await;
    node.move_away();
    node.start_apart(&[]);
    node.until("its check passes", |status| {
        status["runs"][0]["checks"][0]["passing"] == true
    })
    .await;
    std::fs::write(&end, "\n").unwrap();
    let status = node
        .until("it has ended", |status| {
            status["runs"][0]["phase"] == "ended"
        })
        .await;
    assert_eq!(
        status["executions"][0]["standing"], "exited: 0",
        "{status:#}"
    );
    let dir = status["runs"][0]["directory"].as_str().unwrap();
    assert!(Path::new(dir).starts_with(node.path("").canonicalize().unwrap()));
    let said = std::fs::read_to_string(format!("{dir}/stdout.log")).unwrap();
    assert_eq!(said, "done\n");
    assert_eq!(std::fs::read_to_string(journal).unwrap(), "begun\n");
}
