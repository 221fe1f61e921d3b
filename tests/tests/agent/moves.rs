//! Data directories that are moved, copied, and reached in more than one way.

use std::path::Path;

use orchestrator_agent::Leave;
use serde_json::json;

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
            // Whosever the directory is, and all that is in it: what runs there tells.
            if rustix::process::geteuid().is_root() {
                let mut chown = std::process::Command::new("chown");
                let chown = chown.args(["-R", "65534"]).arg(node.path(""));
                assert!(chown.status().unwrap().success());
            }
        }
        for name in ["n1", "n2"] {
            let mut copy = Node::new(&server, name);
            copy.copy(&node);
            is_refused(&mut copy, "there are copies of this data directory").await;
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
    let mut copy = Node::new(&server, "n1");
    copy.copy(&node);
    node.move_away();
    // What runs there says where the original is.
    is_refused(&mut copy, "there are copies of this data directory").await;
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
    is_refused(
        &mut copy,
        "another agent works with a copy of this data directory",
    )
    .await;
    // In its new place it is an original as before.
    copy.copy(&node);
    is_refused(&mut copy, "there are copies of this data directory").await;
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn what_was_restored_and_what_it_was_restored_from_do_not_run_beside_each_other() {
    let (server, mut node) = apart().await;
    node.leave(Leave::Running).await;
    let here = node.path("");
    let kept = tempfile::tempdir().unwrap();
    let [aside, backup] = ["aside", "backup"].map(|name| kept.path().join(name));
    let copy = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status();
        assert!(copied.unwrap().success());
    };
    copy(&here, &backup);
    std::fs::rename(&here, &aside).unwrap();
    copy(&backup, &here);
    // It was not moved and is not where it was: it has a place all the same.
    node.start_apart(&[]);
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    node.leave(Leave::Running).await;
    // The first one again, where it was; what runs is in the other.
    let restored = kept.path().join("restored");
    std::fs::rename(&here, &restored).unwrap();
    std::fs::rename(&aside, &here).unwrap();
    node.start_apart(&[]);
    assert!(!node.ended().await.success());
    assert!(node.log().contains("and another one is"), "{}", node.log());
    assert!(is_alive(pid));
    std::fs::rename(&here, &aside).unwrap();
    std::fs::rename(&restored, &here).unwrap();
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn whoever_mistypes_the_name_of_a_node_changes_nothing_there() {
    let (server, mut node, pid) = at_work_apart().await;
    let mut gone = Vec::new();
    for is_copied in [false, true] {
        node.leave(Leave::Running).await;
        if is_copied {
            // Moved to another disk, and begun with the wrong name first.
            let next = Node::new(&server, "n1");
            next.copy(&node);
            std::fs::remove_dir_all(node.path("")).unwrap();
            // With it would end what runs.
            gone.push(std::mem::replace(&mut node, next));
        }
        let name = std::mem::replace(&mut node.name, "typo".to_owned());
        is_told_whose_it_is(&mut node).await;
        node.name = name;
        assert!(is_alive(pid));
        node.start_apart(&[]);
        if !is_copied {
            assert_eq!(node.answers(1).await, pid);
        }
    }
    // Its directory is gone, so it has ended before the next one began.
    eventually("there is another one", async || {
        let (_, next) = node.answer().await?;
        (next != pid && !is_alive(pid)).then_some(())
    })
    .await;
    assert_eq!(node.processes().len(), 1);
}

async fn is_told_whose_it_is(node: &mut Node) {
    node.start_apart(&[]);
    assert!(!node.ended().await.success());
    let log = node.log();
    assert!(
        log.contains("what is in this data directory is of node n1"),
        "{log}"
    );
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

#[tokio::test]
async fn of_what_was_moved_and_what_has_its_place_neither_ends_with_the_other() {
    let (_server, mut moved, pid) = at_work_apart().await;
    moved.leave(Leave::Running).await;
    let place = moved.path("").canonicalize().unwrap();
    moved.move_away();
    // Another server's first run of this job is in a directory of the same name.
    let server = Server::start().await;
    let mut fresh = Node::new(&server, "n1");
    let name = place.file_name().unwrap();
    let mut to = tempfile::Builder::new();
    let to = to.prefix(name).rand_bytes(0);
    fresh.move_to(to.tempdir_in(place.parent().unwrap()).unwrap());
    fresh.start_apart(&[]);
    server.api.register(service(&[], immediate())).await;
    let first = fresh.answers(1).await;
    let environ = |pid: i32| std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let run = |pid: i32| {
        let all = String::from_utf8(environ(pid)).unwrap();
        let mut all = all.split('\0').map(str::to_owned);
        all.find(|one| one.starts_with("ORCHESTRATOR_RUN="))
    };
    assert_eq!(run(first), run(pid));

    let kill = |pid| {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    };
    let ended = |node: &Node| {
        let run = run(first).unwrap();
        let below = Path::new(run.split_once('=').unwrap().1);
        let below = below.strip_prefix(&place).unwrap().to_owned();
        node.path("").join(below).join("ended.json")
    };
    let (of_fresh, of_moved) = (ended(&fresh), ended(&moved));
    kill(first);
    eventually("the one has ended", async || {
        of_fresh.exists().then_some(())
    })
    .await;
    assert!(is_alive(pid) && !of_moved.exists());
    let second = fresh.answers(1).await;
    kill(pid);
    eventually("the other has ended", async || {
        of_moved.exists().then_some(())
    })
    .await;
    assert!(is_alive(second));
    assert_eq!(fresh.answers(1).await, second);
}
