//! Containers, with a real engine of the test's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use orchestrator_agent::Leave;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

use crate::examples::{Person, SOON};
use crate::harness::{Node, Server, canary, eventually, known, rolling, service};

pub(crate) const IMAGE: &str = "orchestrator-test-service";

/// Two engines would share a bridge and the rules of the firewall.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// An engine of this test's own. It ends with this, and all of its containers before it.
pub(crate) struct Engine {
    dir: TempDir,
    daemon: Option<Child>,
    /// The last to go.
    _alone: MutexGuard<'static, ()>,
}

impl Engine {
    /// `None` where this machine or this user can have none.
    pub(crate) async fn start() -> Option<Self> {
        let may = rustix::process::geteuid().is_root() && known("dockerd") && known("iptables");
        if !may {
            eprintln!("SKIPPED: there is no dockerd and iptables here, or this is not root");
            return None;
        }
        let mut engine = Self {
            dir: tempfile::tempdir().unwrap(),
            daemon: None,
            _alone: ONE_AT_A_TIME.lock().await,
        };
        engine.begin().await.then_some(engine)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("docker.sock")
    }

    /// Answers whether it came up.
    async fn begin(&mut self) -> bool {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut daemon = Command::new("dockerd");
        daemon
            .arg(format!("--host=unix://{}", self.socket().display()))
            .arg(format!("--data-root={}", self.path("data").display()))
            .arg(format!("--exec-root={}", self.path("exec").display()))
            .arg(format!("--pidfile={}", self.path("pid").display()))
            .stdout(Stdio::null())
            .stderr(log);
        let daemon = self.daemon.insert(daemon.spawn().unwrap());
        let pid = daemon.id();
        eventually("the engine answers", async || {
            if self.docker(&["version"]).status.success() {
                return Some(true);
            }
            let gone = !Path::new(&format!("/proc/{pid}")).exists() || self.ended();
            if gone {
                let log = std::fs::read_to_string(self.path("log")).unwrap();
                eprintln!("SKIPPED: dockerd does not run here\n{log}");
            }
            gone.then_some(false)
        })
        .await
    }

    /// Whether the daemon is a process no more, but for whoever asks how it ended.
    fn ended(&self) -> bool {
        let pid = self.daemon.as_ref().map_or(0, Child::id);
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    }

    /// It goes away, and its containers with it.
    fn end(&mut self) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        let pid = rustix::process::Pid::from_raw(daemon.id().cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        daemon.wait().unwrap();
    }

    fn docker(&self, args: &[&str]) -> Output {
        let mut docker = Command::new("docker");
        docker.arg(format!("--host=unix://{}", self.socket().display()));
        docker.args(args).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn told(&self, args: &[&str]) -> String {
        let output = self.docker(args);
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {why}");
        text
    }

    /// Makes an image of the service, with nothing else in it.
    pub(crate) fn provide(&self, tag: &str) {
        let image = format!("{IMAGE}:{tag}");
        let tar = Command::new("tar")
            .args(["--create", "--directory"])
            .arg(static_service().parent().unwrap())
            .arg("service")
            .output()
            .unwrap();
        assert!(tar.status.success());
        let file = self.path("service.tar");
        std::fs::write(&file, tar.stdout).unwrap();
        let change = r#"CMD ["/service"]"#;
        self.told(&[
            "import",
            "--change",
            change,
            &file.to_string_lossy(),
            &image,
        ]);
    }

    /// The ids of all containers, also of those that have ended.
    pub(crate) fn containers(&self) -> Vec<String> {
        let all = self.told(&["ps", "--all", "--quiet", "--no-trunc"]);
        all.lines().map(str::to_owned).collect()
    }

    /// The ids of those that run.
    fn running(&self) -> Vec<String> {
        let all = self.told(&["ps", "--quiet", "--no-trunc"]);
        all.lines().map(str::to_owned).collect()
    }

    fn is_running(&self, id: &str) -> bool {
        self.told(&["inspect", "--format", "{{.State.Running}}", id]) == "true"
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        for id in self.containers() {
            self.docker(&["rm", "--force", &id]);
        }
        self.end();
        // Of containers that were not seen to end.
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path("exec"))
            .output();
    }
}

/// The service, so that it needs nothing of the system that it runs on.
pub(crate) fn static_service() -> &'static Path {
    static MADE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let made = Command::new(rustc)
            .args([
                "--edition",
                "2024",
                "-C",
                "target-feature=+crt-static",
                "-o",
            ])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/service.rs"))
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        (dir, path)
    });
    path
}

/// The service in a container, where it listens on port 80.
pub(crate) fn contained(tag: &str, env: &[(&str, &str)], more: Value) -> Value {
    let mut env = env.to_vec();
    env.push(("BIND", "0.0.0.0"));
    let mut job = service(&env, more);
    job["driver"] = "docker".into();
    job["config"] = json!({
        "image": format!("{IMAGE}:{tag}"), "pull": "never", "ports": { "http": 80 }, "stop_grace": "2s",
    });
    job
}

/// A server and one node that has image 1 and is there.
async fn one_node(engine: &Engine) -> (Server, Node) {
    engine.provide("1");
    let server = Server::start().await;
    let mut node = Node::with_docker(&server, "n1", &engine.socket());
    node.start_here();
    server.api.nodes(1).await;
    (server, node)
}

#[tokio::test]
async fn containers_go_from_version_to_version_and_back() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    engine.provide("1");
    engine.provide("2");
    let server = Server::start().await;
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let mut node = Node::with_docker(&server, name, &engine.socket());
        node.start_here();
        nodes.push(node);
    }
    server.api.nodes(3).await;

    let mut first = contained("1", &[], rolling());
    first["resources"] = json!({ "memory_bytes": 64 << 20, "cpus": 0.5, "processes": 20 });
    let data = tempfile::tempdir().unwrap();
    first["volumes"] = json!([{ "source": data.path(), "target": "/data", "read_only": true }]);
    let id = server.api.register(first).await;
    server.api.until_state(&id, "completed").await;
    for node in &nodes {
        node.answers(1).await;
        node.until("what it uses is shown", |status| {
            let run = &status["runs"][0];
            run["memory_bytes"].as_u64() > Some(0) && run["cpu_seconds"].as_f64() > Some(0.0)
        })
        .await;
    }
    let all = engine.containers();
    assert_eq!(all.len(), 3);
    let limits = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    let limits = engine.told(&["inspect", "--format", limits, &all[0]]);
    assert_eq!(limits, "67108864 500000000 20");
    let mounted = engine.told(&["inspect", "--format", "{{json .Mounts}}", &all[0]]);
    assert!(mounted.contains(r#""Destination":"/data""#) && mounted.contains(r#""RW":false"#));
    let whose = engine.told(&["ps", "--filter", "label=orchestrator.node=n2", "--quiet"]);
    assert_eq!(whose.lines().count(), 1);

    let id = server.api.register(contained("2", &[], canary())).await;
    server.api.promoted(&id).await;
    for node in &nodes {
        node.answers(2).await;
    }

    // It ends at once; and there is no such image.
    for bad in [
        contained("2", &[("CRASH", "1")], canary()),
        contained("none", &[], canary()),
    ] {
        let id = server.api.register(bad).await;
        let failed = server.api.until_state(&id, "failed").await;
        let rollback = failed["rolled_back_by"].as_str().unwrap();
        server.api.until_state(rollback, "completed").await;
        for node in &nodes {
            node.answers(2).await;
        }
    }
    let said = server.api.get("/v1/jobs/default/web/versions").await;
    assert_eq!(said["versions"].as_array().unwrap().len(), 4, "{said}");
    let last = server
        .api
        .get("/v1/deployments?filter=state%3D%22failed%22")
        .await;
    let id = last["deployments"][0]["id"].as_str().unwrap();
    let why = server
        .api
        .get(&format!("/v1/deployments/{id}/explain"))
        .await;
    assert!(
        why.to_string().contains(&format!("{IMAGE}:none")),
        "{why:#}"
    );

    // What they write comes to the server, as that of programs does.
    let logs = async || {
        let logs = server.api.get("/v1/jobs/default/web/logs").await;
        logs.to_string().contains("version 2 began").then_some(())
    };
    eventually("the output is at the server", logs).await;

    for node in &mut nodes {
        node.leave(Leave::Drained).await;
    }
    assert!(engine.containers().iter().all(|id| !engine.is_running(id)));
}

#[tokio::test]
async fn a_container_outlives_its_agent_and_is_found_again() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    engine.provide("1");
    let server = Server::start().await;
    let mut node = Node::with_docker(&server, "n1", &engine.socket());
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let id = server.api.register(contained("1", &[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    node.answers(1).await;
    let before = engine.containers();

    for _ in 0..3 {
        node.kill().await;
        assert!(engine.is_running(&before[0]));
        node.start_apart(&[]);
        node.answers(1).await;
    }
    assert_eq!(engine.containers(), before);

    // The next version takes its place, though another agent began it.
    let id = server
        .api
        .register(contained("1", &[("COLOR", "green")], rolling()))
        .await;
    server.api.until_state(&id, "completed").await;
    node.answers(2).await;
    eventually("only the new one runs", async || {
        let all = engine.running();
        (all.len() == 1 && all != before).then_some(())
    })
    .await;

    // Somebody takes it away behind the agent's back: it is made again.
    let taken = engine.running();
    engine.told(&["rm", "--force", &taken[0]]);
    eventually("it is made again", async || {
        let all = engine.running();
        (all.len() == 1 && all != taken).then_some(())
    })
    .await;
    node.answers(2).await;
}

#[tokio::test]
async fn a_data_directory_that_moves_takes_its_containers_along() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, mut node) = one_node(&engine).await;
    let id = server.api.register(contained("1", &[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    node.answers(1).await;
    let before = engine.running();
    assert_eq!(before.len(), 1);

    node.leave(Leave::Running).await;
    node.move_away();
    node.start_here();
    node.answers(1).await;
    assert_eq!(engine.containers(), before);

    // Another agent's of the same name on the same engine, and one that is nobody's.
    let image = format!("{IMAGE}:1");
    let other = [
        "--label",
        "orchestrator.agent=1",
        "--label",
        "orchestrator.run=/none",
    ];
    let other = [
        &["run", "--detach", "--label", "orchestrator.node=n1"],
        &other[..],
        &[&image],
    ];
    let other = engine.told(&other.concat());
    let nobodys = engine.told(&["run", "--detach", &image]);

    // What it knew of the run is lost: it makes another, and the first does not go on beside that.
    node.leave(Leave::Running).await;
    node.move_away();
    std::fs::remove_dir_all(node.path("runs")).unwrap();
    node.start_here();
    eventually("the first is gone", async || {
        let all = engine.containers();
        (!all.contains(&before[0]) && all.len() == 3).then_some(())
    })
    .await;
    node.answers(1).await;
    assert!(engine.is_running(&other) && engine.is_running(&nobodys));
}

#[tokio::test]
async fn with_what_another_node_has_in_containers_nobody_begins() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, node) = one_node(&engine).await;
    let id = server.api.register(contained("1", &[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    let (pid, before) = (node.answers(1).await, engine.running());
    let mut copy = Node::with_docker(&server, "n2", &engine.socket());
    copy.copy(&node);
    // As if it had been on another machine, with this engine.
    let place = json!({ "name": "another", "dir": "/nowhere", "identity": [0, 0] });
    std::fs::write(copy.path("place.json"), place.to_string()).unwrap();
    copy.start_apart(&[]);
    assert!(!copy.ended().await.success());
    let log = copy.log();
    assert!(
        log.contains("what is in this data directory is of node n1"),
        "{log}"
    );
    assert_eq!(engine.running(), before);
    assert_eq!(node.answers(1).await, pid);
}

#[tokio::test]
async fn a_lost_run_makes_way_for_the_one_that_takes_its_name() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    engine.provide("1");
    let server = Server::start().await;
    let mut node = Node::with_docker(&server, "n1", &engine.socket());
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let mut job = contained("1", &[], rolling());
    // Of one that is taken away later nothing comes back.
    job["restart"] = json!({ "policy": "never" });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(1).await;
    let before = engine.containers();
    node.kill().await;
    std::fs::remove_dir_all(node.path("runs/default@/web@")).unwrap();
    node.start_apart(&[]);
    eventually("another one answers", async || {
        let (_, other) = node.answer().await?;
        (other != pid || engine.containers() != before).then_some(())
    })
    .await;
    node.answers(1).await;
    assert_eq!(engine.containers(), engine.running());
    assert_eq!(engine.containers().len(), 1);
}

#[tokio::test]
async fn what_runs_goes_on_until_the_next_image_is_here() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, node) = one_node(&engine).await;
    let id = server.api.register(contained("1", &[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    let pid = node.answers(1).await;
    let before = engine.running();

    // A registry that takes what it is asked, and never answers.
    let registry = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut next = contained("1", &[], rolling());
    let image = format!("{}/web:1", registry.local_addr().unwrap());
    next["config"]["image"] = image.into();
    next["config"]["pull"] = json!("always");
    server.api.register(next).await;
    let _asked = registry.accept().await.unwrap();
    assert_eq!(node.answers(1).await, pid);
    assert_eq!(engine.running(), before);
    node.until("it waits for its image", |status| {
        status["executions"][0]["standing"] == "fetching"
    })
    .await;

    // The way back does not wait for it.
    let id = server
        .api
        .register(contained("1", &[("COLOR", "green")], rolling()))
        .await;
    server.api.until_state(&id, "completed").await;
    node.answers(3).await;
    let status = node.status().await.unwrap();
    let versions = status["runs"].as_array().unwrap().iter();
    let versions: Vec<&Value> = versions.map(|run| &run["version"]).collect();
    assert_eq!(versions, [1, 3], "nothing was made of the second");
}

#[tokio::test]
async fn a_container_that_needs_more_memory_is_killed_and_that_is_said() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, node) = one_node(&engine).await;
    let mut hog = contained("1", &[("HOG", "1")], rolling());
    hog["resources"] = json!({ "memory_bytes": 32 << 20 });
    server.api.register(hog).await;
    node.until("it is said", |status| {
        let remarks = &status["runs"][0]["remarks"];
        *remarks == json!(["killed: it needed more than its memory_bytes"])
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_is_away_is_waited_for() {
    let Some(mut engine) = Engine::start().await else {
        return;
    };
    engine.provide("1");
    let server = Server::start().await;
    let mut node = Node::with_docker(&server, "n1", &engine.socket());
    node.start_apart(&[]);
    server.api.nodes(1).await;
    let id = server.api.register(contained("1", &[], rolling())).await;
    server.api.until_state(&id, "completed").await;
    node.answers(1).await;

    engine.end();
    // An agent that begins while it is away starts nothing a second time.
    node.kill().await;
    node.start_apart(&[]);
    node.until("it knows of the run", |status| {
        status["runs"]
            .as_array()
            .is_some_and(|runs| runs.len() == 1)
    })
    .await;
    assert!(engine.begin().await, "it has come up before");
    node.answers(1).await;
    assert_eq!(engine.running().len(), 1);
}

#[tokio::test]
async fn a_check_runs_in_the_container() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, _node) = one_node(&engine).await;
    let checked = |command: Value| {
        let mut job = contained("1", &[], canary());
        job["checks"] = json!([{
            "type": "command", "command": command, "interval": "200ms", "timeout": "1s",
            "start_period": "1s",
        }]);
        job
    };
    let id = server
        .api
        .register(checked(json!(["/service", "inside"])))
        .await;
    server.api.promoted(&id).await;

    // One that never answers fails too, and is not begun again and again.
    let id = server
        .api
        .register(checked(json!(["/service", "hang"])))
        .await;
    let most = async {
        loop {
            let mut running = Vec::new();
            for id in engine.containers() {
                let top = engine.docker(&["top", &id]);
                running.push(
                    String::from_utf8_lossy(&top.stdout)
                        .matches("/service hang")
                        .count(),
                );
            }
            assert!(running.iter().all(|count| *count <= 1), "{running:?}");
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        _ = server.api.until_state(&id, "failed") => {}
        () = most => {}
    }
}

#[tokio::test]
async fn what_it_brings_along_is_a_volume_that_nobody_changes() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, node) = one_node(&engine).await;
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("app.tar");
    let tar = Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&packed)
        .arg("--directory")
        .arg(static_service().parent().unwrap())
        .arg("service")
        .output()
        .unwrap();
    assert!(tar.status.success());
    let mut job = contained("1", &[], rolling());
    job["config"]["entrypoint"] = json!("{ARTIFACT}/service");
    job["volumes"] = json!([{ "source": "{ARTIFACT}", "target": "/app" }]);
    let hash = crate::artifacts::sha256(&std::fs::read(&packed).unwrap());
    job["artifact"] = json!({ "source": packed, "sha256": hash });
    let id = server.api.register(job).await;
    server.api.until_state(&id, "completed").await;
    node.answers(1).await;
    let id = &engine.running()[0];
    let mounted = engine.told(&["inspect", "--format", "{{json .Mounts}}", id]);
    assert!(mounted.contains(r#""Destination":"/app""#) && mounted.contains(r#""RW":false"#));
    let env = engine.told(&["inspect", "--format", "{{json .Config.Env}}", id]);
    assert!(env.contains("ORCHESTRATOR_ARTIFACT=/app"), "{env}");
}

#[tokio::test]
async fn the_example_runs_with_an_image_that_is_here() {
    let Some(engine) = Engine::start().await else {
        return;
    };
    let (server, node) = one_node(&engine).await;
    let person = Person::of(&server);
    // No registry can be reached from everywhere: what the image is, and what runs in it, is another's.
    let image = format!(r#"-e 's|^image = .*|image = "{IMAGE}:1"\npull = "never"|'"#);
    let runs = r#"-e '/^args = /d' -e 's/^\[resources\]/[env]\nBIND = "0.0.0.0"\n\n[resources]/'"#;
    let line =
        format!("sed {image} {runs} {SOON} examples/container.toml | orchestrator job run -");
    let ran = person.runs(&line).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let status = node.status().await.unwrap();
    assert_eq!(status["runs"][0]["ports"]["http"], 8000, "{status}");
    assert_eq!(engine.running().len(), 1);
    server.api.stopped("web-container").await;
    assert!(engine.running().is_empty());
}
