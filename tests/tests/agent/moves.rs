//! Data directories that are moved, copied, and reached in more than one way.

use std::path::Path;

use orchestrator_agent::Leave;
use serde_json::{Value, json};

use crate::harness::{Node, Server, eventually, immediate, service};
use crate::restarts::{apart, at_work, plain};

#[tokio::test]
async fn an_agent_on_a_copy_of_a_live_directory_leaves_the_original_alone() {
    let (_server, node, pid) = at_work().await;
    // Nobody listens there.
    let mut copy = Node::at("http://127.0.0.1:1", "n2");
    copy.copy(&node);
    copy.start_apart(&[]);
    copy.until("it says why it does nothing", |status| {
        let why = status["runs"][0]["left_alone"].as_str();
        why.is_some_and(|why| why.ends_with("of node n1"))
    })
    .await;
    assert!(copy.processes().is_empty());
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn a_node_of_another_name_takes_nothing_over_with_a_copy() {
    let (server, mut node, pid) = at_work().await;
    node.leave(Leave::Running).await;
    let mut other = Node::new(&server, "n2");
    other.copy(&node);
    // It cannot speak as the other one.
    let _ = std::fs::remove_file(other.path("identity.json"));
    other.start_apart(&[]);
    server.api.nodes(2).await;
    // It has its own, beside that of which it has a copy.
    let next = service(&[("A", "b")], immediate());
    server.api.register(next).await;
    let own = other.answers(2).await;
    assert_eq!(other.processes(), [own]);
    assert_eq!(node.processes(), [pid]);
    let status = other.status().await.unwrap();
    let left_alone = |run: &&Value| run["phase"] == "left alone";
    let runs = status["runs"].as_array().unwrap();
    assert_eq!(runs.iter().filter(left_alone).count(), 1, "{status:#}");
    other.leave(Leave::Drained).await;
    assert_eq!(node.processes(), [pid]);
}

#[tokio::test]
async fn a_copied_directory_takes_over_and_nothing_runs_twice() {
    let (server, mut node) = apart().await;
    // It says so when it ends.
    let script =
        "trap 'touch ../../../../../bye; exit' INT; mkfifo never; echo ready; read line <> never";
    let mut job = plain(json!(["sh", "-c", script]));
    job["config"]["stop_signal"] = json!("INT");
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let ready = |node: &Node| {
        let runs = std::fs::read_dir(node.path("runs/default@/web@")).ok()?;
        let mut said = runs.flatten().map(|run| run.path().join("stdout.log"));
        said.any(|said| std::fs::read_to_string(said).is_ok_and(|said| said == "ready\n"))
            .then_some(())
    };
    eventually("it is ready", async || ready(&node)).await;
    node.leave(Leave::Running).await;
    let mut next = Node::new(&server, "n1");
    next.copy(&node);
    std::fs::remove_dir_all(next.path("runs/default@/web@/0.1.1/work")).unwrap_or_default();
    next.start_apart(&[]);
    eventually("there is another one, and no more", async || {
        let (old, new) = (node.processes(), next.processes());
        (old.is_empty() && !new.is_empty()).then_some(())
    })
    .await;
    // Its place is taken for good.
    node.start_apart(&[]);
    assert!(!node.ended().await.success());
    assert!(
        node.log().contains("was taken over by its copy"),
        "{}",
        node.log()
    );
    assert!(node.processes().is_empty());
    assert!(
        node.path("bye").exists(),
        "it was told before it was killed"
    );
    server.api.stopped("web").await;
    assert!(next.processes().is_empty());
}

#[tokio::test]
async fn what_is_left_alone_stays_so_when_its_copy_is_forgotten() {
    let (server, node) = apart().await;
    let mut job = service(&[], immediate());
    job["resources"] = json!({ "processes": 50 });
    server.api.register(job).await;
    let pid = node.answers(1).await;
    let theirs = Server::start().await;
    let mut copy = Node::new(&theirs, "n2");
    copy.copy(&node);
    // As an earlier program has written it.
    let all = copy.path("runs/default@/web@");
    let run = std::fs::read_dir(&all)
        .unwrap()
        .flatten()
        .next()
        .unwrap()
        .path();
    let mut kept: Value =
        serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    kept.as_object_mut().unwrap().remove("home").unwrap();
    std::fs::write(run.join("run.json"), kept.to_string()).unwrap();
    for name in ["identity.json", "desired.json"] {
        let _ = std::fs::remove_file(copy.path(name));
    }
    copy.start_apart(&[]);
    copy.until("it is left alone", |status| {
        status["runs"][0]["phase"] == "ended"
    })
    .await;
    assert!(copy.log().contains("which is left alone"), "{}", copy.log());
    // Others of its name end there, until it is forgotten.
    let mut ends = plain(json!(["false"]));
    ends["restart"] = json!({ "backoff": "50ms", "backoff_max": "50ms" });
    theirs.api.nodes(1).await;
    theirs.api.register(ends).await;
    eventually("it is forgotten", async || (!run.exists()).then_some(())).await;
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn of_another_node_nothing_is_ended_wherever_it_is() {
    let (_server, mut node, pid) = at_work().await;
    node.leave(Leave::Running).await;
    let mut other = Node::at("http://127.0.0.1:1", "n3");
    other.copy(&node);
    for place in ["left alone", "ended"] {
        other.start_apart(&[]);
        other
            .until("it has looked", |status| {
                status["runs"][0]["phase"] == place
            })
            .await;
        other.leave(Leave::Running).await;
        // From here on it is nowhere to be seen.
        if place == "left alone" {
            node.move_away();
        }
    }
    assert!(
        std::fs::metadata(format!("/proc/{pid}")).is_ok(),
        "{}",
        other.log()
    );
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn of_a_node_one_agent_works_though_its_directory_was_copied() {
    let (server, node, pid) = at_work().await;
    let mut copy = Node::new(&server, "n1");
    copy.copy(&node);
    copy.start_apart(&[]);
    assert!(!copy.ended().await.success());
    let log = copy.log();
    assert!(
        log.contains("where an agent of this node works: stop that one first"),
        "{log}"
    );
    assert_eq!(node.answers(1).await, pid);
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
async fn what_was_moved_is_known_in_a_copy_of_its_new_place() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    node.leave(Leave::Running).await;
    node.move_away();
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
    let mut copy = Node::at("http://127.0.0.1:1", "n2");
    copy.copy(&node);
    copy.start_apart(&[]);
    copy.until("it says why it does nothing", |status| {
        status["runs"][0]["left_alone"].is_string()
    })
    .await;
    assert_eq!(node.answers(1).await, pid);
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
