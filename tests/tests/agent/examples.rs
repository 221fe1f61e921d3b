//! The examples, as whoever reads them would try them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;

use crate::harness::{Node, Server, known};

#[path = "../../../orchestrator-agent/examples/several_agents.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program of its own")]
mod several_agents;

/// What a file of a job becomes where its rollout need not be watched for long.
pub(crate) const SOON: &str =
    r#"-e 's/^min_healthy_time = .*/min_healthy_time = "1s"\ninterval = "1s"/'"#;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Somebody at a shell, who has `orchestrator` in the `PATH`.
pub(crate) struct Person {
    dir: TempDir,
    server: String,
}

impl Person {
    pub(crate) fn of(server: &Server) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("orchestrator");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_server"), program).unwrap();
        let server = server.url();
        Self { dir, server }
    }

    pub(crate) async fn runs(&self, line: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        Command::new("sh")
            .args(["-c", line])
            .current_dir(examples().parent().unwrap())
            .env("PATH", format!("{}:{path}", self.dir.path().display()))
            .env("ORCHESTRATOR_ADDRESS", &self.server)
            .output()
            .await
            .unwrap()
    }
}

/// Three nodes, with agents that are processes.
async fn fleet(server: &Server) -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let mut node = Node::new(server, name);
        node.start_apart(&[]);
        nodes.push(node);
    }
    server.api.nodes(nodes.len()).await;
    nodes
}

#[tokio::test]
async fn a_script_promotes_what_is_good_and_takes_back_what_is_not() {
    if !known("python3") {
        println!("SKIPPED: the example's service is python3, which is not here");
        return;
    }
    let server = Server::start().await;
    let _nodes = fleet(&server).await;
    let person = Person::of(&server);
    let first = "examples/canary.sh examples/web.toml true";
    // The second time there is nothing to do.
    for _ in 0..2 {
        let ran = person.runs(first).await;
        assert_eq!(ran.status.code(), Some(0), "{ran:?}");
        let text = String::from_utf8(ran.stdout).unwrap();
        assert!(
            text.ends_with("completed: 3 of 3 nodes updated\n"),
            "{text}"
        );
    }
    let next =
        "sed 's/RELEASE = \"1\"/RELEASE = \"2\"/' examples/web.toml | examples/canary.sh - false";
    let ran = person.runs(next).await;
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    let ran = person.runs("orchestrator deployment explain web").await;
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("the smoke test failed"), "{said}");
}

#[tokio::test]
async fn jobs_of_a_group_begin_one_after_the_other_and_are_taken_back_together() {
    let server = Server::start().await;
    let nodes = fleet(&server).await;
    let person = Person::of(&server);
    let run = "orchestrator group run examples/release.toml";
    let ran = person.runs(run).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let text = String::from_utf8(ran.stdout).unwrap();
    let ends = ["store", "fill", "front"].map(|job| format!("  default/{job}: completed"));
    let ends = ends.map(|line| text.find(&line));
    assert!(ends[0].is_some() && ends.is_sorted(), "{text}");
    let ran = person.runs("orchestrator job logs fill").await;
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("filled"), "{said}");
    // The second time there is nothing to do.
    let ran = person.runs(run).await;
    assert_eq!(ran.status.code(), Some(0), "{ran:?}");
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("  default/front: unchanged\n"), "{text}");

    // What is wrong with the last of them takes all of it back: the processes say so.
    let next = person.dir.path().join("next");
    let next = next.display();
    let copy = format!(
        "cp -r examples {next} && sed -i 's/echo open/echo wide/' {next}/release/*.toml && \
         sed -i 's/\"true\"/\"false\"/' {next}/release/front.toml"
    );
    assert!(person.runs(&copy).await.status.success());
    let ran = person
        .runs(&format!("orchestrator group run {next}/release.toml"))
        .await;
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    let said = String::from_utf8(ran.stdout).unwrap();
    assert!(said.contains("default/front: failed: canary n"), "{said}");
    assert!(
        said.contains("2 bad intervals") || said.contains("3 bad intervals"),
        "{said}"
    );
    for node in &nodes {
        let status = node.status().await.unwrap();
        let runs = status["runs"].as_array().unwrap().iter();
        let runs = runs.filter(|run| run["phase"] == "running");
        let mut lives: Vec<_> = runs
            .map(|run| (run["job"].as_str(), run["version"].as_u64()))
            .collect();
        lives.sort_unstable();
        let first = [
            (Some("default/front"), Some(1)),
            (Some("default/store"), Some(1)),
        ];
        assert_eq!(lives, first, "{status}");
    }
}

#[tokio::test]
async fn every_file_is_one_that_a_server_takes() {
    let server = Server::start().await;
    let person = Person::of(&server);
    let mut files = 0;
    for dir in [examples(), examples().join("release")] {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let kind = match path.extension().and_then(OsStr::to_str) {
                Some("toml") if path.ends_with("release.toml") => "group",
                Some("toml") => "job",
                _ => continue,
            };
            let line = format!("orchestrator {kind} plan '{}'", path.display());
            let ran = person.runs(&line).await;
            assert_eq!(ran.status.code(), Some(0), "{ran:?}");
            files += 1;
        }
    }
    assert_eq!(files, 6);
}

#[tokio::test]
async fn agents_live_in_a_program_of_ones_own() {
    let server = Server::start().await;
    let data = tempfile::tempdir().unwrap();
    let (leave, told) = watch::channel(false);
    let url = server.url();
    let agents = several_agents::run(&url, &["n1", "n2", "n3"], data.path(), told);
    let leaving = async {
        server.api.nodes(3).await;
        leave.send_replace(true);
    };
    let (ran, ()) = tokio::join!(agents, leaving);
    ran.unwrap();
}
