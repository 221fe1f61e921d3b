//! A driver that is a program: the example, whose runs are no processes.

use std::path::Path;

use orchestrator_agent::Leave;
use serde_json::{Value, json};

use crate::artifacts::{packed, sha256};
use crate::examples::{Person, SOON};
use crate::harness::{Node, Server, eventually, health, immediate, service};

const PUBLISH: &str = concat!(
    "publish=",
    env!("CARGO_MANIFEST_DIR"),
    "/../orchestrator-agent/examples/publish.sh"
);

/// A site that is an artifact, with these words on its first page.
fn site(dir: &Path, words: &str, link: &Path) -> Value {
    let files = dir.join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("index.html"), words).unwrap();
    let bytes = packed(&["."], &files);
    let path = dir.join(format!("{words}.tgz"));
    std::fs::write(&path, &bytes).unwrap();
    json!({
        "job_id": "web", "driver": "external", "switch": "start_first",
        "config": { "program": "publish", "files": "{ARTIFACT}", "link": link },
        "artifact": { "source": path, "sha256": sha256(&bytes) },
        "checks": [{
            "type": "command", "command": ["it is up"], "interval": "200ms", "start_period": "3s",
        }],
        "restart": { "backoff": "200ms", "backoff_max": "1s" },
        "rollout": { "strategy": "rolling", "max_parallel": 1, "health_check": health() },
    })
}

async fn shows(link: &Path, words: &str) {
    eventually(&format!("the site says {words}"), async || {
        let page = std::fs::read_to_string(link.join("index.html")).ok()?;
        (page == words).then_some(())
    })
    .await;
}

/// A server and a node apart that can publish sites.
async fn publisher() -> (Server, Node) {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    node.start_apart(&["--external", PUBLISH]);
    server.api.nodes(1).await;
    (server, node)
}

#[tokio::test]
async fn a_site_goes_from_version_to_version_and_back() {
    let (server, mut node) = publisher().await;
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("www");
    let id = server.api.register(site(dir.path(), "one", &link)).await;
    server.api.until_state(&id, "completed").await;
    shows(&link, "one").await;

    // What it runs does not need the agent, and is found again.
    let begun = std::fs::read_link(&link).unwrap();
    for _ in 0..2 {
        node.kill().await;
        shows(&link, "one").await;
        node.start_apart(&["--external", PUBLISH]);
        node.until("it is found", |status| {
            status["executions"][0]["standing"] == "up"
        })
        .await;
        assert_eq!(std::fs::read_link(&link).unwrap(), begun);
    }

    // From here on there is a page at every moment.
    let seen = link.join("index.html");
    let asking = async {
        loop {
            std::fs::read_to_string(&seen).unwrap();
            tokio::task::yield_now().await;
        }
    };
    let story = async {
        let id = server.api.register(site(dir.path(), "two", &link)).await;
        server.api.until_state(&id, "completed").await;
        shows(&link, "two").await;
        server.api.taken_back("web").await;
        shows(&link, "one").await;
    };
    tokio::select! {
        () = asking => {}
        () = story => {}
    }

    // The program's own words are the reason.
    let mut wrong = site(dir.path(), "three", &link);
    wrong["config"]["files"] = json!("/nowhere");
    let id = server.api.register(wrong).await;
    let failed = server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(
        said.contains("files and link: a directory and a path"),
        "{said}"
    );
    let rollback = failed["rolled_back_by"].as_str().unwrap();
    server.api.until_state(rollback, "completed").await;
    shows(&link, "one").await;

    // Somebody takes it away: it is brought back.
    std::fs::remove_file(&link).unwrap();
    shows(&link, "one").await;

    server.api.stopped("web").await;
    assert!(!link.exists());
}

#[tokio::test]
async fn the_example_runs_with_files_that_are_here() {
    let (server, _node) = publisher().await;
    let person = Person::of(&server);
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("www");
    let artifact = site(dir.path(), "one", &link)["artifact"].take();
    let source = format!("s#^source = .*#source = {}#", artifact["source"]);
    let sum = format!("s/^sha256 = .*/sha256 = {}/", artifact["sha256"]);
    let to = format!("s#/srv/www#{}#", link.display());
    let line = format!(
        "sed -e '{source}' -e '{sum}' -e '{to}' {SOON} examples/site.toml | orchestrator job run -"
    );
    let ran = person.runs(&line).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    shows(&link, "one").await;
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_moment_begins_each_once() {
    let (server, mut node) = publisher().await;
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("www");
    for round in 0..10_u64 {
        let words = format!("round-{round}");
        let mut job = site(dir.path(), &words, &link);
        job["rollout"] = json!({ "strategy": "immediate" });
        server.api.register(job).await;
        tokio::time::sleep(std::time::Duration::from_millis(round * 15)).await;
        node.kill().await;
        node.start_apart(&["--external", PUBLISH]);
        shows(&link, &words).await;
    }
    let status = node
        .until("the last is alone", |status| {
            let runs = status["runs"].as_array().unwrap();
            runs.iter().filter(|run| run["phase"] == "running").count() == 1
        })
        .await;
    let attempts = status["runs"].as_array().unwrap().iter();
    assert!(
        attempts.clone().all(|run| run["attempt"] == 1),
        "{status:#}\n{}",
        node.log()
    );
}

#[tokio::test]
async fn for_a_program_that_is_not_there_nothing_ends() {
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    let dir = tempfile::tempdir().unwrap();
    let (link, program) = (dir.path().join("www"), dir.path().join("publish"));
    let external = format!("publish={}", program.display());
    node.start_apart(&["--external", &external]);
    eventually("the agent says so", async || {
        node.log()
            .contains("publish: no job can have this program")
            .then_some(())
    })
    .await;
    server.api.nodes(1).await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let mut job = site(dir.path(), "one", &link);
    // Else the other one would go on until this one is healthy.
    job["switch"] = json!("stop_first");
    job["rollout"]["no_auto_rollback"] = json!(true);
    let id = server.api.register(job).await;
    server.api.until_state(&id, "failed").await;
    let targets = server.api.targets(&id).await;
    assert!(targets.contains("publish: No such file"), "{targets}");
    assert_eq!(node.answers(1).await, pid);
    let published = PUBLISH.split_once('=').unwrap().1;
    std::fs::copy(published, program).unwrap();
    shows(&link, "one").await;
    let ended = async || node.processes().is_empty().then_some(());
    eventually("the other one has made way", ended).await;
    node.leave(Leave::Drained).await;
}

/// A node whose program does this.
async fn driven_by(script: &str) -> (Server, Node, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("program");
    let journal = dir.path().join("journal");
    let script = format!("#!/bin/sh\necho $1 $PWD >> {}\n{script}", journal.display());
    std::fs::write(&program, script).unwrap();
    let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, may_run).unwrap();
    let server = Server::start().await;
    let mut node = Node::new(&server, "n1");
    let external = format!("mine={}", program.display());
    node.start_apart(&["--external", &external]);
    server.api.nodes(1).await;
    (server, node, dir)
}

fn driven() -> Value {
    json!({
        "job_id": "web", "driver": "external", "config": { "program": "mine" },
        "restart": { "backoff": "200ms", "backoff_max": "1s" },
        "rollout": { "strategy": "rolling", "max_parallel": 1, "health_check": health() },
    })
}

#[tokio::test]
async fn what_was_started_and_is_not_there_has_ended() {
    let (server, node, dir) =
        driven_by(r#"[ $1 = look ] && echo '{"state":"absent"}'; exit 0"#).await;
    server.api.register(driven()).await;
    node.until("it was started four times", |status| {
        let runs = status["runs"].as_array().unwrap();
        runs.iter().any(|run| run["attempt"].as_u64() > Some(3))
    })
    .await;
    let journal = std::fs::read_to_string(dir.path().join("journal")).unwrap();
    let mut starts: Vec<&str> = (journal.lines())
        .filter_map(|line| line.strip_prefix("start "))
        .collect();
    let all = starts.len();
    starts.sort_unstable();
    starts.dedup();
    assert_eq!(starts.len(), all, "each run once: {journal}");
}

#[tokio::test]
async fn who_does_not_hear_that_he_is_to_stop_is_told_again_before_he_is_killed() {
    // The first two times nobody hears it.
    let script = r#"
input=$(cat)
state=${input#*\"state\":\"}; state=${state%%\"*}
case $1 in
start) echo running > "$state/is" ;;
stop)
    echo x >> "$state/told"
    case $input in *'"how":"now"'*) echo killed > "$state/../../../../../../killed" ;; esac
    [ "$(wc -l < "$state/told")" -gt 2 ] || { echo "the hypervisor is away" >&2; exit 1; }
    echo ended > "$state/is" ;;
look) printf '{"state":"%s","code":0,"ran_millis":1}' "$(cat "$state/is" || echo absent)" ;;
esac
"#;
    let (server, node, _dir) = driven_by(script).await;
    let id = server.api.register(driven()).await;
    server.api.until_state(&id, "completed").await;
    server.api.stopped("web").await;
    let log = node.log();
    assert_eq!(log.matches("the hypervisor is away").count(), 2, "{log}");
    assert!(!node.path("killed").exists(), "{log}");
    assert!(!log.contains("kill default/web"), "{log}");
}

#[tokio::test]
async fn a_stop_that_nobody_has_heard_is_none_for_the_next_agent() {
    let script = r#"
input=$(cat)
state=${input#*\"state\":\"}; state=${state%%\"*}
data=$state/../../../../..
case $1 in
start) echo running > "$state/is" ;;
stop)
    case $input in *'"how":"now"'*) echo killed > "$data/killed" ;; esac
    [ ! -e "$data/away" ] || { echo "the hypervisor is away" >&2; exit 1; }
    echo ended > "$state/is" ;;
look) printf '{"state":"%s","code":0,"ran_millis":1}' "$(cat "$state/is" || echo absent)" ;;
esac
"#;
    let (mut server, mut node, dir) = driven_by(script).await;
    let id = server.api.register(driven()).await;
    server.api.until_state(&id, "completed").await;
    let program = format!("mine={}", dir.path().join("program").display());
    node.leave(Leave::Running).await;
    server.away().await;
    std::fs::write(node.path("away"), "").unwrap();
    node.start_apart(&["--external", &program, "--drain"]);
    node.until("it is found", |status| {
        status["runs"][0]["phase"] == "running"
    })
    .await;
    // It is to leave, cannot end what runs, and is ended itself.
    let agent = rustix::process::Pid::from_raw(node.agent_pid()).unwrap();
    let term = || rustix::process::kill_process(agent, rustix::process::Signal::TERM).unwrap();
    term();
    eventually("it tries", async || {
        let log = node.log();
        log.contains("the hypervisor is away").then_some(())
    })
    .await;
    term();
    assert!(!node.ended().await.success());
    std::fs::remove_file(node.path("away")).unwrap();
    // The server has heard of none of this, and wants what it wanted.
    server.back().await;
    node.start_apart(&["--external", &program]);
    node.until("it runs on", |status| {
        status["executions"][0]["standing"] == "up" && status["runs"][0]["phase"] == "running"
    })
    .await;
    let mut next = driven();
    next["env"] = json!({ "A": "b" });
    let id = server.api.register(next).await;
    server.api.until_state(&id, "completed").await;
    assert!(!node.path("killed").exists(), "{}", node.log());
}

#[tokio::test]
async fn what_nobody_can_find_is_told_of() {
    let (server, _node, _dir) =
        driven_by("[ $1 = look ] && { echo no idea >&2; exit 3; }; exit 0").await;
    let id = server.api.register(driven()).await;
    server.api.until_state(&id, "failed").await;
    let said = server.api.targets(&id).await;
    assert!(said.contains("it is not known where it is"), "{said}");
    assert!(said.contains("no idea"), "{said}");
}
