//! `orchestrator dev`: the whole of it on one machine, with real agents and real processes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Whether a process runs that was started with this in its environment or its words.
fn runs(mark: &str) -> bool {
    let of = |pid: &Path, file: &str| std::fs::read(pid.join(file)).unwrap_or_default();
    let all = std::fs::read_dir("/proc").expect("Linux");
    all.flatten().any(|entry| {
        let text = of(&entry.path(), "cmdline");
        String::from_utf8_lossy(&text).contains(mark)
    })
}

fn dev(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
    command
        .args(["dev", "--nodes", "3", "--once", "--listen", "127.0.0.1:0"])
        .env("TMPDIR", dir)
        .env_remove("ORCHESTRATOR_TOKEN")
        .stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn the_tour_shows_a_canary_that_is_promoted_and_a_bad_one_that_is_taken_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let output = dev(dir.path()).output().expect("it starts");
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    let mut rest = text.as_str();
    for part in [
        "completed: 3 of 3 nodes updated",
        "the canary is healthy: waiting for promotion",
        "completed: 3 of 3 nodes updated",
        "failed: canary n",
        "rolled back to version 2: 1 of 1 node updated",
        "2 bad intervals in a row, at last a failed health check",
        "deployment targets demo",
    ] {
        let (_, after) = rest
            .split_once(part)
            .unwrap_or_else(|| panic!("no {part:?} in what is left of\n{text}"));
        rest = after;
    }
    nothing_is_left(dir.path());
}

#[test]
fn a_signal_in_the_middle_ends_all_of_it() {
    for (name, code) in [("TERM", 0), ("INT", 130)] {
        let dir = tempfile::tempdir().expect("a directory");
        let child = dev(dir.path()).stdout(Stdio::null()).spawn();
        let child = child.expect("it starts");
        let services = dir.path().to_string_lossy().into_owned();
        // A workload runs when its shim does, with a directory of ours.
        while !runs(&services) {
            std::thread::yield_now();
        }
        let sent = Command::new("kill")
            .args(["-s", name, &child.id().to_string()])
            .status();
        assert!(sent.expect("kill can be run").success());
        let ended = child.wait_with_output().expect("its end");
        assert_eq!(ended.status.code(), Some(code), "{name}");
        nothing_is_left(dir.path());
    }
}

fn nothing_is_left(dir: &Path) {
    assert!(!runs(&dir.to_string_lossy()), "a process of it goes on");
    let left = std::fs::read_dir(dir).expect("it is there").count();
    assert_eq!(left, 0, "its directory is gone");
}
