//! Leaving, draining, crashing, and shims that are killed.

use std::collections::BTreeSet;

use orchestrator_agent::Leave;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::docker::static_service;
use crate::harness::{Node, Server, eventually, immediate, rolling, service};

/// A server, and a node whose service has answered: its process.
pub(crate) async fn at_work() -> (Server, Node, i32) {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let id = server.api.register(service(&[], immediate())).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(1).await;
    (server, node, pid)
}

/// A server, and a node whose agent is a process.
pub(crate) async fn apart() -> (Server, Node) {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    server.api.nodes(1).await;
    (server, node)
}

#[tokio::test]
async fn leaving_leaves_workloads_and_draining_stops_them() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    node.leave(Leave::Running).await;
    assert_eq!(node.processes(), [pid]);
    node.start_apart(&["--drain"]);
    assert_eq!(node.answers(1).await, pid);
    node.leave(Leave::Drained).await;
    assert!(node.processes().is_empty());
    // Who comes back is asked again.
    node.start_here();
    assert_ne!(node.answers(1).await, pid);
    node.leave(Leave::Drained).await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn who_is_drained_tells_so_and_its_work_begins_elsewhere() {
    let server = Server::start().await;
    let mut nodes = [Node::here(&server, "n1"), Node::here(&server, "n2")];
    server.api.nodes(2).await;
    let mut job = service(&[], immediate());
    job["replicas"] = json!(1);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let at = eventually("one of them runs it", async || {
        nodes.iter().position(|node| !node.processes().is_empty())
    })
    .await;
    let left = nodes[at].name.clone();
    nodes[at].leave(Leave::Drained).await;
    assert!(nodes[at].processes().is_empty());
    // Said, not found out by its silence.
    let node = server.api.get(&format!("/v1/nodes/{left}")).await;
    assert_eq!(node["node"]["leaving"], true, "{node}");
    assert_eq!(node["node"]["status"], "draining", "{node}");
    nodes[1 - at].answers(1).await;
    // It is over when it comes again; what runs elsewhere stays there.
    nodes[at].start_here();
    eventually("it is ready", async || {
        let node = server.api.get(&format!("/v1/nodes/{left}")).await;
        (node["node"]["status"] == "ready").then_some(())
    })
    .await;
    let node = server.api.get(&format!("/v1/nodes/{left}")).await;
    assert_eq!(node["node"]["leaving"], false, "{node}");
    assert!(nodes[at].processes().is_empty());
}

#[tokio::test]
async fn who_is_drained_while_the_server_is_away_goes_all_the_same() {
    let (server, mut node, _) = at_work().await;
    drop(server);
    node.leave(Leave::Drained).await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn who_has_left_begins_nothing_before_the_server_says_so() {
    let (mut server, mut node, _) = at_work().await;
    server.away().await;
    node.leave(Leave::Drained).await;
    // What ran here may run elsewhere by now.
    node.start_here();
    node.until("nothing is wanted of it", |status| {
        status["executions"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    assert!(node.processes().is_empty());
    server.back().await;
    node.answers(1).await;
    // From then on it is as ever.
    server.away().await;
    node.leave(Leave::Running).await;
    let pid = node.processes()[0];
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    node.start_here();
    assert_ne!(node.answers(1).await, pid);
    node.leave(Leave::Drained).await;
}

#[tokio::test]
async fn what_ignores_the_signal_is_killed_with_its_children() {
    let server = Server::start().await;
    let mut node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[], immediate());
    let script = "trap '' TERM; sleep 1000 & sleep 1000; wait; sleep 1000";
    job["config"] = json!({ "command": ["sh", "-c", script], "stop_grace": "300ms" });
    job["checks"] = json!([]);
    server.api.register(job).await;
    node.until("it is up", |status| {
        status["executions"][0]["standing"] == "up"
    })
    .await;
    eventually("all of it is there", async || {
        (node.processes().len() == 3).then_some(())
    })
    .await;
    node.leave(Leave::Drained).await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn what_has_lost_its_directory_is_stopped_and_begins_anew() {
    let (server, node, _) = at_work().await;
    std::fs::remove_dir_all(node.path("runs/default@/web@")).unwrap();
    // The next version finds nothing of the one before, which ends all the same.
    let next = service(&[("WORD", "next")], immediate());
    let id = server.api.register(next).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(2).await;
    eventually("only that one lives", async || {
        (node.processes() == [pid]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_has_lost_its_directory_and_forgotten_whose_it_is_is_stopped_too() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let seconds = (4_000_000 + std::process::id()).to_string();
    // The first one hears nothing of a signal.
    for script in ["trap '' TERM; sleep", "exec sleep"] {
        let script = format!("{script} {seconds}");
        let mut job = plain(json!(["env", "-i", "sh", "-c", script]));
        job["config"]["stop_grace"] = json!("300ms");
        let asleep = sleeper(&server, job, &seconds).await;
        std::fs::remove_dir_all(node.path("runs/default@/web@")).unwrap();
        server.api.register(plain(json!(["sleep", seconds]))).await;
        eventually("the next one sleeps, and no other", async || {
            let all = sleepers(&seconds);
            (all.len() == 1 && all != [asleep]).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_runs_without_a_run_ends_and_nothing_of_others() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&[]);
    let other = Node::here(&server, "n2");
    server.api.nodes(2).await;
    let id = server.api.register(service(&[], immediate())).await;
    server.api.until_state(&id, "completed").await;
    let others = other.answers(1).await;
    for all_of_it in [true, false] {
        let pid = node.answers(1).await;
        node.kill().await;
        let all = node.path("runs/default@/web@");
        let run = std::fs::read_dir(&all).unwrap().next().unwrap().unwrap();
        match all_of_it {
            true => std::fs::remove_dir_all(&all).unwrap(),
            false => std::fs::remove_file(run.path().join("run.json")).unwrap(),
        }
        node.start_apart(&[]);
        let next = eventually("another one answers", async || {
            let (_, next) = node.answer().await?;
            (next != pid).then_some(next)
        })
        .await;
        assert_eq!(node.processes(), [next], "{}", node.log());
    }
    assert_eq!(other.answers(1).await, others);
    assert_eq!(other.processes(), [others]);

    // What was only moved may be somebody else's by now.
    let pid = node.answers(1).await;
    node.kill().await;
    std::fs::rename(node.path("runs/default@/web@"), node.path("moved")).unwrap();
    node.start_apart(&[]);
    eventually("another one answers", async || {
        node.answer().await.filter(|(_, next)| *next != pid)
    })
    .await;
    assert_eq!(node.processes().len(), 2);
    assert!(node.processes().contains(&pid));
}

#[tokio::test]
async fn what_runs_without_a_run_may_clean_up_before_it_ends() {
    let (server, mut node) = apart().await;
    let (clean, stubborn) = (node.path("clean"), node.path("stubborn"));
    let ready = "mkfifo never; echo ready; read line <> never";
    let script = |trap: &str| json!(["sh", "-c", format!("trap '{trap}' TERM; {ready}")]);
    let clean_up = format!(
        "echo \"$ORCHESTRATOR_VERSION\" >> {}; exit",
        clean.display()
    );
    let told = format!("touch {}", stubborn.display());
    for (version, trap) in [(1, clean_up.as_str()), (2, &told)] {
        let id = server.api.register(plain(script(trap))).await;
        server.api.until_state(&id, "completed").await;
        let is_ready = async || {
            let status = node.status().await?;
            let runs = status["runs"].as_array()?.iter();
            let newest = runs.max_by_key(|run| run["version"].as_u64())?;
            let path = format!("{}/stdout.log", newest["directory"].as_str()?);
            let said = std::fs::read_to_string(path).ok()?;
            (newest["version"] == version && said == "ready\n").then_some(())
        };
        eventually("it is ready", is_ready).await;
        let before = node.processes();
        node.kill().await;
        std::fs::remove_dir_all(node.path("runs/default@/web@")).unwrap();
        let _ = std::fs::remove_file(&clean);
        node.start_apart(&[]);
        eventually("it has ended", async || {
            let now = node.processes();
            (!now.iter().any(|pid| before.contains(pid))).then_some(())
        })
        .await;
        match version {
            1 => assert_eq!(std::fs::read_to_string(&clean).unwrap(), "1\n"),
            _ => assert!(stubborn.exists()),
        }
    }
}

#[tokio::test]
async fn what_another_driver_runs_is_left_alone() {
    let (server, mut node, pid) = at_work().await;
    node.leave(Leave::Running).await;
    // As if a later version of the agent had made it, with a driver that this one has not.
    let runs = std::fs::read_dir(node.path("runs/default@/web@")).unwrap();
    let run = runs.flatten().next().unwrap().path().join("run.json");
    let kept = std::fs::read_to_string(&run).unwrap();
    let other = kept.replace(r#""driver":"exec""#, r#""driver":"later""#);
    assert_ne!(kept, other);
    std::fs::write(&run, other).unwrap();
    std::fs::remove_file(node.path("desired.json")).unwrap();
    let stop = server
        .api
        .post("/v1/jobs/default/web/stop", json!({}))
        .await;
    node.start_apart(&[]);
    // It is not said to have stopped: nobody here knows.
    let is_known = |status: &Value| status["executions"][0]["version"] == 0;
    let status = node.until("it is to stop", is_known).await;
    let why = status["runs"][0]["left_alone"].as_str();
    assert_eq!(why, Some("this agent has no driver later"), "{status:#}");
    assert_eq!(status["executions"][0]["standing"], "unknown", "{status:#}");
    assert_eq!(node.processes(), [pid]);
    node.leave(Leave::Running).await;

    // An agent that has it again ends it.
    std::fs::write(&run, kept).unwrap();
    node.start_apart(&[]);
    let id = stop["deployment_id"].as_str().unwrap();
    server.api.until_state(id, "completed").await;
    eventually("it is stopped", async || {
        node.processes().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn who_has_lost_what_is_wanted_stops_nothing_before_the_server_speaks() {
    let (mut server, mut node, pid) = at_work().await;
    server.away().await;
    node.leave(Leave::Running).await;
    std::fs::remove_file(node.path("desired.json")).unwrap();
    node.start_apart(&[]);
    node.until("it has found it", |status| {
        status["runs"][0]["phase"] == "running"
    })
    .await;
    // By now it has done what it would do.
    assert!(!node.log().contains("stop default/web"), "{}", node.log());
    assert_eq!(node.answers(1).await, pid);
    server.back().await;
    let id = server
        .api
        .register(service(&[("A", "b")], immediate()))
        .await;
    server.api.until_state(&id, "completed").await;
    assert_ne!(node.answers(2).await, pid);
}

#[tokio::test]
async fn a_stop_is_said_once_however_often_the_agent_begins_anew() {
    let (server, mut node) = apart().await;
    let outside = tempfile::tempdir().unwrap();
    let (heard, end) = (outside.path().join("heard"), outside.path().join("end"));
    let script = format!(
        "trap 'echo x >> {}' TERM; mkfifo never; echo ready; while [ ! -e {} ]; do read -t 1 line <> never; done",
        heard.display(),
        end.display()
    );
    let mut job = plain(json!(["bash", "-c", script]));
    job["config"]["stop_grace"] = json!("10m");
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let said = node.path("runs/default@/web@");
    let is_ready = async || {
        let run = std::fs::read_dir(&said).ok()?.flatten().next()?.path();
        let said = std::fs::read_to_string(run.join("stdout.log")).ok()?;
        (said == "ready\n").then_some(())
    };
    eventually("it is ready", is_ready).await;
    let stop = server
        .api
        .post("/v1/jobs/default/web/stop", json!({}))
        .await;
    eventually("it has heard it", async || heard.exists().then_some(())).await;
    for _ in 0..2 {
        node.until("it is stopping", |status| {
            status["runs"][0]["phase"] == "stopping"
        })
        .await;
        let run = std::fs::read_dir(&said)
            .unwrap()
            .flatten()
            .next()
            .unwrap()
            .path();
        eventually("that is known", async || {
            run.join("heard").exists().then_some(())
        })
        .await;
        node.kill().await;
        node.start_apart(&[]);
    }
    node.until("it is stopping", |status| {
        status["runs"][0]["phase"] == "stopping"
    })
    .await;
    std::fs::write(&end, "").unwrap();
    let id = stop["deployment_id"].as_str().unwrap();
    server.api.until_state(id, "completed").await;
    assert_eq!(std::fs::read_to_string(heard).unwrap(), "x\n");
}

#[tokio::test]
async fn what_there_was_to_say_outlives_a_drain() {
    let mut server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&["--drain"]);
    server.api.nodes(1).await;
    let mut job = plain(json!(["sh", "-c", "sleep 1; exit 7"]));
    job["restart"] = json!({ "policy": "never" });
    let id = server.api.register(job).await;
    node.until("it runs", |status| status["runs"][0]["phase"] == "running")
        .await;
    server.away().await;
    node.until("its end waits to be told", |status| {
        status["runs"][0]["phase"] == "ended" && status["reports"]["waiting"].as_u64() > Some(0)
    })
    .await;
    node.leave(Leave::Drained).await;
    assert!(
        node.log().contains("the server could not be told"),
        "{}",
        node.log()
    );
    server.back().await;
    node.start_apart(&[]);
    // What nobody has seen since then.
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains('7'), "{said}");
}

#[tokio::test]
async fn a_killed_shim_takes_its_workload_along_and_the_next_run_begins() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status
        .lines()
        .find_map(|line| line.strip_prefix("PPid:"))
        .unwrap();
    let shim: i32 = parent.trim().parse().unwrap();
    kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    let next = eventually("another one answers", async || {
        node.answer().await.filter(|(_, other)| *other != pid)
    });
    let (_, next) = next.await;
    assert_eq!(node.processes(), [next]);
}

/// Processes that sleep for so long.
pub(crate) fn sleepers(seconds: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let sleeps = |pid: &i32| {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command == format!("sleep\0{seconds}\0").as_bytes()
    };
    pids.filter(sleeps).collect()
}

/// Registers a job that sleeps for so long on one node: which process does.
pub(crate) async fn sleeper(server: &Server, job: Value, seconds: &str) -> i32 {
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    eventually("it sleeps", async || sleepers(seconds).pop()).await
}

/// Ready when another one sleeps, and no other; and that ends with its job.
pub(crate) async fn only_another_sleeps(server: &Server, seconds: &str, before: i32) {
    eventually("another one sleeps, and no other", async || {
        let all = sleepers(seconds);
        (all.len() == 1 && all != [before]).then_some(())
    })
    .await;
    server.api.stopped("web").await;
    assert!(sleepers(seconds).is_empty());
}

/// A job that is nothing but this command.
pub(crate) fn plain(command: Value) -> Value {
    let mut job = service(&[], immediate());
    job["config"] = json!({ "command": command });
    job.as_object_mut().unwrap().remove("checks");
    job
}

#[tokio::test]
async fn a_killed_shim_takes_along_what_has_forgotten_whose_it_is() {
    let server = Server::start().await;
    let _node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let seconds = (1_000_000 + std::process::id()).to_string();
    let job = plain(json!(["env", "-i", "sleep", seconds]));
    let asleep = sleeper(&server, job, &seconds).await;
    let (_, shim, _, _) = stat(asleep).unwrap();
    kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    only_another_sleeps(&server, &seconds, asleep).await;
}

/// What the kernel says of a process: its state, its parent, its group, its session.
pub(crate) fn stat(pid: i32) -> Option<(String, i32, i32, i32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    let mut number = || fields.next()?.parse().ok();
    Some((state, number()?, number()?, number()?))
}

#[tokio::test]
async fn a_killed_shim_takes_along_who_has_another_root() {
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: only root may change the root");
        return;
    }
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(static_service(), root.path().join("service")).unwrap();
    let there = |what: &str| format!("chroot {} /service {what}", root.path().display());
    // One in its own session, and one that is the workload.
    let script = format!("setsid {} & exec {}", there("hang"), there("hang"));
    server
        .api
        .register(plain(json!(["sh", "-c", script])))
        .await;
    let inside = || {
        let is_inside = |pid: &i32| {
            let its = std::fs::read_link(format!("/proc/{pid}/root"));
            its.is_ok_and(|its| its == root.path().canonicalize().unwrap())
        };
        let all = node.processes().into_iter();
        all.filter(is_inside).collect::<Vec<i32>>()
    };
    let both = async || Some(inside()).filter(|inside| inside.len() == 2);
    let before = eventually("both are there", both).await;
    let parents = before.iter().map(|pid| stat(*pid).unwrap().1);
    let shims: BTreeSet<i32> = parents.collect();
    let shim = eventually("the shim is known", async || {
        let status = node.status().await?;
        let dir = status["runs"][0]["directory"].as_str()?.to_owned();
        let process = std::fs::read_to_string(format!("{dir}/process.json")).ok()?;
        let process: Value = serde_json::from_str(&process).ok()?;
        Some(process["shim"].as_i64()? as i32)
    })
    .await;
    assert!(shims.contains(&shim));
    kill_process(Pid::from_raw(shim).unwrap(), Signal::KILL).unwrap();
    eventually("two others are there", async || {
        let now = inside();
        let are_others = now.iter().all(|pid| !before.contains(pid));
        (now.len() == 2 && are_others).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_daemon_ends_with_the_workload_that_began_it() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let seconds = (2_000_000 + std::process::id()).to_string();
    // It has another session, no parent of its own, and knows nothing of its run. One before it has come and gone.
    let script = format!(
        "(setsid true &); (setsid env -i sleep {seconds} > /dev/null 2>&1 &); exec sleep 1000"
    );
    let id = server
        .api
        .register(plain(json!(["sh", "-c", script])))
        .await;
    server.api.until_state(&id, "completed").await;
    let daemon = eventually("the daemon is there", async || sleepers(&seconds).pop()).await;
    let run = node.processes();
    let main = *run.iter().find(|pid| stat(**pid).is_some()).unwrap();
    let (_, shim, _, session) = stat(main).unwrap();
    assert_ne!(stat(daemon).unwrap().3, session);
    let children = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let mut children: Vec<i32> = pids
            .filter(|pid| stat(*pid).is_some_and(|stat| stat.1 == shim))
            .collect();
        children.sort_unstable();
        children
    };
    eventually("who has ended was asked after", async || {
        let mut both = vec![main, daemon];
        both.sort_unstable();
        (children() == both).then_some(())
    })
    .await;
    server.api.stopped("web").await;
    assert!(sleepers(&seconds).is_empty());
}

#[tokio::test]
async fn what_a_check_has_left_ends_with_the_run() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = plain(json!(["sleep", "1000"]));
    // It has left before the check ends, which ends with all that is still of it.
    let check = "test -e left || { setsid sh -c 'touch left; exec sleep 3000' > /dev/null 2>&1 &
        until test -e left; do sleep 0.05; done; }";
    job["checks"] = json!([{ "type": "command", "command": ["sh", "-c", check] }]);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    eventually("it has left something", async || {
        (node.processes().len() == 2).then_some(())
    })
    .await;
    server.api.stopped("web").await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn what_leaves_its_process_group_is_stopped_all_the_same() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let leaves = "import os, time; os.setpgid(0, os.getppid()); time.sleep(1000)";
    let job = plain(json!(["python3", "-c", leaves]));
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    eventually("it has left", async || {
        let (_, parent, group, _) = stat(node.processes().pop()?)?;
        (parent == group).then_some(())
    })
    .await;
    server.api.stopped("web").await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn a_crash_loop_backs_off_and_leaves_little() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    server
        .api
        .register(service(&[("CRASH", "1")], immediate()))
        .await;
    let seen = node
        .until("it crashed six times", |status| {
            let runs = status["runs"].as_array().unwrap();
            runs.iter().any(|run| run["attempt"].as_u64() > Some(6))
        })
        .await;
    assert!(seen["runs"].as_array().unwrap().len() <= 5, "{seen:#}");
    let ended = seen["runs"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["phase"] == "ended");
    let newest = ended.max_by_key(|run| run["attempt"].as_u64()).unwrap();
    let dir = newest["directory"].as_str().unwrap();
    let said = std::fs::read_to_string(format!("{dir}/stderr.log")).unwrap();
    assert_eq!(said, "broken from the start\n");
}

#[tokio::test]
async fn a_workload_is_told_what_it_is() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(
        &[("GREETING", "{JOB} on {NODE}, {not a word}")],
        immediate(),
    );
    job["job_type"] = json!("batch");
    job["checks"] = json!([]);
    job["config"] = json!({
        "command": ["sh", "-c"],
        "args": ["echo {NAMESPACE}/{JOB} {VERSION} {SLOT} {NODE} $((PORT_HTTP == PORT)) $((PORT == {PORT_HTTP})) \"$GREETING\" $ORCHESTRATOR_JOB ${HOME-none}; pwd"],
    });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let status = node.status().await.unwrap();
    let dir = status["runs"][0]["directory"].as_str().unwrap();
    let said = std::fs::read_to_string(format!("{dir}/stdout.log")).unwrap();
    let expected = "default/web 1 0 n1 1 1 web on n1, {not a word} web none\n";
    assert_eq!(said, format!("{expected}{dir}/work\n"));
}

#[tokio::test]
async fn a_workload_may_be_another_user() {
    if !rustix::process::getuid().is_root() {
        println!("skipped: only root may become another");
        return;
    }
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    // As the directory of an agent is where it is installed: others may pass through.
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
    std::fs::set_permissions(node.path(""), open).unwrap();
    server.api.nodes(1).await;
    let mut job = service(&[], immediate());
    job["job_type"] = json!("batch");
    job["checks"] = json!([]);
    job["config"] = json!({
        "command": ["sh", "-c", "id -un; id -Gn; touch here && cat ../run.json 2>&1 | grep -c denied"],
        "user": "nobody",
    });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let status = node.status().await.unwrap();
    let dir = status["runs"][0]["directory"].as_str().unwrap();
    let said = std::fs::read_to_string(format!("{dir}/stdout.log")).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        ["nobody", "nogroup", "1"],
        "it reads nothing of the agent's"
    );
}

#[tokio::test]
async fn what_ran_before_is_put_back_where_that_is_said() {
    let (server, mut node) = apart().await;
    let job = |color: &str| {
        let mut job = service(&[("COLOR", color)], rolling());
        job["rollout"]["no_auto_rollback"] = json!(true);
        job["restart"] = json!({ "put_back": true, "attempts": 1, "backoff": "100ms" });
        job
    };
    let id = server.api.register(job("red")).await;
    server.api.until_state(&id, "completed").await;
    let first = node.answers(1).await;

    let with = |field: &str, value: &str| {
        let mut job = job("green");
        job["config"][field] = json!(value);
        job
    };
    let mut crashes = job("blue");
    crashes["env"]["CRASH"] = json!("1");
    for (bad, is_known_before, sentence) in [
        (
            with("command", "/nowhere/program"),
            true,
            "/nowhere/program: No such file",
        ),
        (
            with("directory", "/nowhere"),
            true,
            "/nowhere: No such file",
        ),
        (
            with("user", "n.n."),
            true,
            "there is no \\\"n.n.\\\" on this node",
        ),
        (
            with("command", "/etc/passwd"),
            true,
            "/etc/passwd: Permission denied",
        ),
        (
            with("command", "no-such-program"),
            true,
            "no-such-program: no such program in PATH",
        ),
        (
            with("command", "./program"),
            false,
            "./program: No such file",
        ),
        (crashes, false, "code 3"),
    ] {
        let id = server.api.register(bad).await;
        server.api.until_state(&id, "failed").await;
        let said = server.api.targets(&id).await;
        assert!(said.contains(sentence), "{said}");
        let pid = node.answers(1).await;
        assert_eq!(pid == first, is_known_before, "whether it was stopped");
        // The next agent leaves it so.
        node.kill().await;
        node.start_apart(&[]);
        assert_eq!(node.answers(1).await, pid);
        assert_eq!(node.processes(), [pid]);
    }

    let id = server.api.register(job("white")).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(9).await;
    assert_eq!(node.processes(), [pid]);
}

#[tokio::test]
async fn what_was_never_healthy_is_not_tried_for_ever() {
    let (server, mut node) = apart().await;
    let job = |env: &[(&str, &str)]| {
        let mut job = service(env, rolling());
        job["rollout"]["no_auto_rollback"] = json!(true);
        job["restart"] = json!({ "put_back": true, "backoff": "100ms" });
        job
    };
    let id = server.api.register(job(&[])).await;
    server.api.until_state(&id, "completed").await;
    node.answers(1).await;
    for (version, agent_is_new) in [(2, false), (3, true)] {
        let each = version.to_string();
        let id = server.api.register(job(&[("CRASH", &each)])).await;
        let has_crashed = |status: &Value| {
            let runs = status["runs"].as_array().unwrap();
            let is_tried = |run: &&Value| run["version"] == version && run["trial"] == "begun";
            runs.iter().filter(is_tried).count() > 1
        };
        node.until("it was started again", has_crashed).await;
        match agent_is_new {
            false => {
                server.api.until_state(&id, "failed").await;
            }
            true => {
                node.kill().await;
                let cancel = format!("/v1/deployments/{id}/cancel");
                server.api.post(&cancel, json!({})).await;
                node.start_apart(&[]);
            }
        }
        let pid = node.answers(1).await;
        assert_eq!(node.processes(), [pid]);
        // It is what is to run here for now, and so it is started again.
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        let again = eventually("it runs again", async || {
            node.answer().await.filter(|(_, other)| *other != pid)
        });
        let (version, pid) = again.await;
        assert_eq!((version, node.processes()), (1, vec![pid]));
    }
}

#[tokio::test]
async fn what_has_proved_itself_is_not_replaced_and_what_was_stopped_is_not_put_back() {
    let (server, mut node) = apart().await;
    let dir = tempfile::tempdir().unwrap();
    let (program, away) = (dir.path().join("service"), dir.path().join("away"));
    std::fs::copy(env!("CARGO_BIN_EXE_service"), &program).unwrap();
    let job = |command: &str| {
        let mut job = service(&[], rolling());
        job["config"] = json!({ "command": command });
        job["rollout"]["no_auto_rollback"] = json!(true);
        job["restart"]["put_back"] = json!(true);
        job
    };
    let theirs = program.to_str().unwrap();
    for command in [env!("CARGO_BIN_EXE_service"), theirs] {
        let id = server.api.register(job(command)).await;
        server.api.until_state(&id, "completed").await;
    }
    let mut pid = node.answers(2).await;
    let until = async |node: &Node, standing: &str| {
        let is = |status: &Value| {
            let said = status["executions"][0]["standing"].as_str();
            said.is_some_and(|said| said.starts_with(standing))
        };
        node.until(standing, is).await;
    };
    // The server says so when it hears of it the next time.
    let is_over = |status: &Value| status["executions"][0]["on_trial"] == false;
    node.until("no deployment waits for it any more", is_over)
        .await;
    // It cannot be started for a while: that says nothing of the version, which runs well.
    for agent_is_new in [false, true] {
        std::fs::rename(&program, &away).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        until(&node, "cannot start").await;
        if agent_is_new {
            node.kill().await;
            node.start_apart(&[]);
            until(&node, "cannot start").await;
        }
        std::fs::rename(&away, &program).unwrap();
        pid = node.answers(2).await;
        assert_eq!(node.processes(), [pid]);
    }
    // What a person has stopped was not stopped for what comes next.
    server.api.stopped("web").await;
    for agent_is_new in [false, true] {
        if agent_is_new {
            node.kill().await;
            node.start_apart(&[]);
        }
        let id = server.api.register(job("/etc/passwd")).await;
        server.api.until_state(&id, "failed").await;
        until(&node, "cannot start").await;
        assert!(node.processes().is_empty());
        server.api.stopped("web").await;
    }
}

#[tokio::test]
async fn what_ran_for_long_when_its_machine_ended_has_not_crashed() {
    let (server, mut node) = apart().await;
    let mut job = plain(json!(["sleep", "1000"]));
    job["restart"] = json!({ "attempts": 1, "reset_after": "1s", "backoff": "100ms" });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    for _ in 0..3 {
        let is_up = |status: &Value| status["executions"][0]["standing"] == "up";
        node.until("it runs", is_up).await;
        let [pid] = node.processes()[..] else {
            panic!("one runs: {:?}", node.processes());
        };
        let run = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        let run = String::from_utf8(run).unwrap();
        let run = run
            .split('\0')
            .find_map(|one| one.strip_prefix("ORCHESTRATOR_RUN="));
        let kept = std::path::Path::new(run.unwrap()).join("run.json");
        // As if it had been begun a minute ago.
        let made = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
        let kept = std::fs::File::options().write(true).open(kept).unwrap();
        kept.set_modified(made).unwrap();
        let (_, shim, _, _) = stat(pid).unwrap();
        node.kill().await;
        for pid in [shim, pid] {
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
        }
        node.start_apart(&[]);
        eventually("another one runs", async || {
            let all = node.processes();
            (all.len() == 1 && all != [pid]).then_some(())
        })
        .await;
    }
}

/// Who installs each version in a directory of its own takes away that of the agent that still works.
#[tokio::test]
async fn an_agent_whose_program_is_gone_begins_and_checks_as_before() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("agent");
    std::fs::copy(env!("CARGO_BIN_EXE_agent"), &program).unwrap();
    node.start_by(program.to_str().unwrap(), &[]);
    server.api.nodes(1).await;
    let mut job = service(&[], rolling());
    job["resources"] = json!({ "processes": 100 });
    job["checks"] = json!([{ "type": "command", "command": ["true"], "interval": "100ms" }]);
    std::fs::remove_dir_all(dir.path()).unwrap();
    for version in 1..=2 {
        job["env"]["VERSION"] = json!(version.to_string());
        let id = server.api.register(job.clone()).await;
        server.api.until_state(&id, "completed").await;
    }
    let pid = node.answers(2).await;
    node.kill().await;
    node.start_apart(&[]);
    assert_eq!(node.answers(2).await, pid);
}
