//! Data directories in which something is damaged, or is not what it was.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use orchestrator_agent::Leave;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::{Node, Server, eventually, immediate, known, service};
use crate::restarts::{apart, only_another_sleeps, plain, sleeper, sleepers, stat};

/// Where the run is that lives on the node.
async fn run(node: &Node) -> PathBuf {
    let status = node.status().await.unwrap();
    let mut runs = status["runs"].as_array().unwrap().iter();
    let run = runs.find(|run| run["phase"] == "running").unwrap();
    PathBuf::from(run["directory"].as_str().unwrap())
}

/// The shim of this process.
fn shim_of(pid: i32) -> i32 {
    stat(pid).unwrap().1
}

pub(crate) fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_run_whose_files_are_damaged_has_ended_and_the_next_one_begins() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    for file in ["process.json", "launch.json"] {
        let pid = node.answers(1).await;
        let run = run(&node).await;
        node.kill().await;
        // As when the machine loses its power.
        for pid in [shim_of(pid), pid] {
            kill(pid);
        }
        std::fs::write(run.join(file), "").unwrap();
        node.start_apart(&[]);
        let next = eventually("another one answers", async || {
            node.answer().await.filter(|(_, other)| *other != pid)
        });
        let (_, next) = next.await;
        assert_eq!(node.processes(), [next], "{file}");
    }
}

#[tokio::test]
async fn what_cannot_be_told_by_its_files_is_stopped_all_the_same() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    // As another namespace of processes counts them.
    let elsewhere = r#"{"shim":1999998,"pid":1999999,"started":1}"#;
    for (version, file) in [(1, Some("")), (2, None), (3, Some(elsewhere))] {
        let word = version.to_string();
        let mut job = service(&[("WORD", &word)], immediate());
        // Nobody waits for it to be killed.
        job["config"]["stop_grace"] = json!("1h");
        server.api.register(job).await;
        let pid = node.answers(version).await;
        let path = run(&node).await.join("process.json");
        match file {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        server.api.stopped("web").await;
        assert!(stat(pid).is_none() && node.processes().is_empty());
    }
}

/// Puts there what is no file.
fn obstruct(path: &Path, what: &str) {
    let _ = std::fs::remove_file(path);
    match what {
        "directory" => std::fs::create_dir_all(path.join("below")).unwrap(),
        "link" => std::os::unix::fs::symlink(path, path).unwrap(),
        "pipe" => {
            let made = Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn where_something_else_is_in_place_of_a_file_of_a_run_it_is_looked_after_all_the_same() {
    let (server, mut node) = apart().await;
    let obstacles = ["directory", "link", "pipe"];
    for (version, what) in (1..).zip(obstacles) {
        let job = service(&[("WORD", what)], immediate());
        server.api.register(job).await;
        let pid = node.answers(version).await;
        let run = run(&node).await;
        node.kill().await;
        for file in [
            "process.json",
            "launch.json",
            "heard",
            "remarks",
            "asked",
            "stdout.log",
            "stderr.log",
            "asked.new",
            "heard.new",
        ] {
            obstruct(&run.join(file), what);
        }
        node.start_apart(&[]);
        assert_eq!(node.answers(version).await, pid, "{what}");
        server.api.stopped("web").await;
        assert!(stat(pid).is_none() && node.processes().is_empty());
    }
    let files = ["lock", "run.json"];
    let each = files.map(|file| obstacles.map(|what| (file, what)));
    for (version, (file, what)) in (4..).zip(each.into_iter().flatten()) {
        let job = service(&[("WORD", &format!("{what} {file}"))], immediate());
        server.api.register(job).await;
        let pid = node.answers(version).await;
        let run = run(&node).await;
        node.kill().await;
        obstruct(&run.join(file), what);
        node.start_apart(&[]);
        // Nobody knows any more who it is, so it ends before the next one begins.
        let next = eventually("another one answers", async || {
            node.answer().await.filter(|(_, other)| *other != pid)
        });
        let (_, next) = next.await;
        assert_eq!(node.processes(), [next], "{what} in place of {file}");
    }
    server.api.stopped("web").await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn checks_go_on_without_the_file_that_says_how_a_run_was_started() {
    let server = Server::start().await;
    let node = Node::here(&server, "n1");
    server.api.nodes(1).await;
    let mut job = service(&[("WORD", "well")], immediate());
    job["checks"] = json!([{ "type": "command", "command": ["sh", "-c", "test \"$WORD\" = well"], "interval": "200ms" }]);
    server.api.register(job).await;
    let pid = node.answers(1).await;
    let launch = run(&node).await.join("launch.json");
    std::fs::write(&launch, "").unwrap();
    eventually("it is written anew", async || {
        let bytes = std::fs::read(&launch).ok()?;
        (!bytes.is_empty()).then_some(())
    })
    .await;
    let passes = |status: &serde_json::Value| status["runs"][0]["checks"][0]["passing"] == true;
    node.until("its check passes", passes).await;
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn a_run_that_nobody_knows_any_more_ends_before_the_next_version_begins() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let run = run(&node).await;
    node.kill().await;
    std::fs::write(run.join("run.json"), "").unwrap();
    server
        .api
        .register(service(&[("WORD", "next")], immediate()))
        .await;
    node.start_apart(&[]);
    let next = node.answers(2).await;
    assert_eq!(node.processes(), [next]);
    assert!(stat(pid).is_none());
    server.api.stopped("web").await;
    assert!(node.processes().is_empty());
}

#[tokio::test]
async fn what_has_lost_its_shim_and_is_known_to_nobody_ends_before_the_next_begins() {
    let (server, mut node) = apart().await;
    let seconds = (8_000_000 + std::process::id()).to_string();
    // It has forgotten whose it is, and then it works elsewhere.
    let (forgets, away) = (json!(["env", "-i", "sleep", seconds]), Some("/"));
    for directory in [None, away] {
        let mut job = plain(forgets.clone());
        if let Some(directory) = directory {
            job["config"]["directory"] = json!(directory);
        }
        let asleep = sleeper(&server, job, &seconds).await;
        let run = run(&node).await;
        node.kill().await;
        kill(shim_of(asleep));
        std::fs::write(run.join("run.json"), "").unwrap();
        assert_eq!(sleepers(&seconds), [asleep]);
        node.start_apart(&[]);
        only_another_sleeps(&server, &seconds, asleep).await;
    }
}

#[tokio::test]
async fn what_could_not_be_taken_away_is_taken_away_later() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let run = run(&node).await;
    node.kill().await;
    let left = run.with_file_name("0.1.7.broken-01234567");
    std::fs::create_dir_all(left.join("work/deep")).unwrap();
    let other = run.with_file_name("mine.broken-01234567");
    std::fs::create_dir(&other).unwrap();
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
    assert!(!left.exists() && other.exists());
}

#[tokio::test]
async fn what_is_called_otherwise_than_a_run_is_none_and_stays() {
    let (server, mut node) = apart().await;
    server.api.register(service(&[], immediate())).await;
    let pid = node.answers(1).await;
    let run = run(&node).await;
    node.kill().await;
    let name = run.file_name().unwrap().to_str().unwrap();
    let [backup, notes] =
        [format!("{name}.bak"), "notes".to_owned()].map(|it| run.with_file_name(it));
    let copied = Command::new("cp").arg("-a").args([&run, &backup]).status();
    assert!(copied.unwrap().success());
    std::fs::create_dir(&notes).unwrap();
    // A copy that is called as another run is none either.
    let mut numbers: Vec<&str> = name.split('.').collect();
    numbers[0] = "7";
    let other = run.with_file_name(numbers.join("."));
    let copied = Command::new("cp").arg("-a").args([&run, &other]).status();
    assert!(copied.unwrap().success());
    node.start_apart(&[]);
    assert_eq!(node.answers(1).await, pid);
    assert_eq!(node.processes(), [pid]);
    assert!(backup.exists() && notes.exists() && !other.exists());
    node.leave(Leave::Running).await;
}

#[tokio::test]
async fn runs_are_in_the_data_directory_and_nowhere_else() {
    let server = Server::start().await;
    for link in ["runs", "runs/default@", "runs/default@/web@"] {
        let mut node = Node::new(&server, "n1");
        let elsewhere = tempfile::tempdir().unwrap();
        let link = node.path(link);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &link).unwrap();
        node.start_apart(&[]);
        assert!(!node.ended().await.success());
        let why = format!("{}: a link to somewhere else", link.display());
        assert!(node.log().contains(&why), "{}", node.log());
    }
}

#[tokio::test]
async fn the_file_that_cannot_be_used_is_named() {
    let server = Server::start().await;
    for name in ["place.json", "numbers.json", "desired.json", "lock"] {
        let mut node = Node::new(&server, "n1");
        match name {
            "lock" => std::fs::create_dir(node.path(name)).unwrap(),
            // A file, and reading it fails.
            _ => std::os::unix::fs::symlink("/proc/self/mem", node.path(name)).unwrap(),
        }
        node.start_apart(&[]);
        assert!(!node.ended().await.success());
        let named = format!("/{name}: ");
        let log = node.log();
        assert!(
            log.lines().last().unwrap().contains(&named),
            "{name}: {log}"
        );
    }
}

#[tokio::test]
async fn the_time_of_grace_goes_on_however_often_the_agent_begins_anew() {
    let (server, mut node) = apart().await;
    let seconds = (5_000_000 + std::process::id()).to_string();
    let script = format!("trap '' TERM; sleep {seconds}");
    let mut job = plain(json!(["sh", "-c", script]));
    job["config"]["stop_grace"] = json!("4s");
    sleeper(&server, job, &seconds).await;
    let run = run(&node).await;
    server
        .api
        .post("/v1/jobs/default/web/stop", json!({}))
        .await;
    eventually("it has heard it", async || {
        run.join("heard").exists().then_some(())
    })
    .await;
    // No agent is there for as long as the time of grace takes.
    for _ in 0..30 {
        if sleepers(&seconds).is_empty() {
            break;
        }
        node.kill().await;
        node.start_apart(&[]);
        node.until("it works", |_| true).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(sleepers(&seconds).is_empty());
}

#[tokio::test]
async fn a_shim_and_its_program_that_are_killed_leave_nobody_behind() {
    let (server, mut node) = apart().await;
    let seconds = (6_000_000 + std::process::id()).to_string();
    let script = format!("env -i sleep {seconds} & wait");
    let job = plain(json!(["sh", "-c", script]));
    let asleep = sleeper(&server, job, &seconds).await;
    let program = stat(asleep).unwrap().1;
    let shim = shim_of(program);
    node.kill().await;
    for pid in [shim, program] {
        kill(pid);
    }
    assert_eq!(sleepers(&seconds), [asleep]);
    node.start_apart(&[]);
    only_another_sleeps(&server, &seconds, asleep).await;
}

#[tokio::test]
async fn who_has_lost_his_shim_and_what_tells_of_him_ends() {
    let (server, mut node) = apart().await;
    let seconds = (7_000_000 + std::process::id()).to_string();
    let script = format!("sleep {seconds} & wait");
    let job = plain(json!(["env", "-i", "sh", "-c", script]));
    let asleep = sleeper(&server, job, &seconds).await;
    let run = run(&node).await;
    node.kill().await;
    kill(shim_of(stat(asleep).unwrap().1));
    std::fs::write(run.join("process.json"), "").unwrap();
    node.start_apart(&[]);
    only_another_sleeps(&server, &seconds, asleep).await;
}

/// Takes a name that everybody can read, and answers nobody.
const TAKES: &str = "
import socket, sys, time
name = '\\0' + sys.argv[1]
taken = socket.socket(socket.AF_UNIX)
taken.bind(name)
taken.listen(0)
waiting = []
try:
    while True:
        caller = socket.socket(socket.AF_UNIX)
        caller.setblocking(False)
        caller.connect(name)
        waiting.append(caller)
except BlockingIOError:
    print(flush=True)
time.sleep(1000)
";

/// Nobody else on the machine keeps an agent from its work, whatever they call their files.
#[tokio::test]
async fn what_others_have_made_look_like_a_copy_is_none() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can be somebody else");
        return;
    }
    let (_server, mut node) = apart().await;
    node.leave(Leave::Running).await;
    let others = tempfile::tempdir().unwrap();
    let below = others.path().join("runs/n@/j@/0.1.1");
    std::fs::create_dir_all(&below).unwrap();
    let place = others.path().join("place.json");
    let lock = below.join("lock");
    std::fs::write(&lock, "").unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(others.path(), open).unwrap();
    let holds = format!("exec 9<{}; echo; exec sleep 1000", lock.display());
    let mut stranger = Command::new("setsid")
        .args(["sh", "-c", &holds])
        .uid(65534)
        .gid(65534)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0];
    std::io::Read::read_exact(&mut stranger.stdout.take().unwrap(), &mut said).unwrap();
    for is_pipe in [false, true] {
        match is_pipe {
            // It says whose it is, and is not believed.
            false => drop(std::fs::copy(node.path("place.json"), &place).unwrap()),
            // Whoever opens it waits.
            true => {
                std::fs::remove_file(&place).unwrap();
                assert!(
                    Command::new("mkfifo")
                        .arg(&place)
                        .status()
                        .unwrap()
                        .success()
                );
            }
        }
        node.start_apart(&[]);
        node.until("it works", |_| true).await;
        node.leave(Leave::Running).await;
    }
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    if !known("python3") {
        println!("skipped in part: there is no python3");
        return;
    }
    let kept = std::fs::read_to_string(node.path("place.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let name = format!("orchestrator-agent-{}", kept["name"].as_str().unwrap());
    let mut stranger = Command::new("python3")
        .args(["-c", TAKES, &name])
        .uid(65534)
        .gid(65534)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(&mut stranger.stdout.take().unwrap(), &mut said).unwrap();
    node.start_apart(&[]);
    node.until("it works", |_| true).await;
    let said = node.log();
    assert!(said.contains("somebody else has taken its name"), "{said}");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
}
