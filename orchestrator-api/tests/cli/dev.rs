//! `orchestrator dev`: the whole of it on one machine, with real agents and real processes.

use std::io::{BufRead, BufReader};
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
        .args(["dev", "--nodes", "3", "--once", "--listen", "localhost:0"])
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
        "  version 1 on n1\n",
        "  version 1 on n3\n",
        "the canary is healthy: waiting for promotion",
        "completed: 3 of 3 nodes updated",
        "  version 2 on n1\n",
        "  version 2 on n3\n",
        "failed: canary n",
        "2 bad intervals in a row, at last a failed health check, or a program that was down",
        "rolled back to version 2: 1 of 1 node updated",
        "  version 2 on n1\n",
        "  version 2 on n2\n",
        "  version 2 on n3\n",
        "  orchestrator deployment promote demo",
        "  orchestrator job rollback demo --to 1",
    ] {
        let (_, after) = rest
            .split_once(part)
            .unwrap_or_else(|| panic!("no {part:?} in what is left of\n{text}"));
        rest = after;
    }
    nothing_is_left(dir.path());
}

#[test]
fn a_second_tour_in_the_same_directory_goes_on_from_the_first() {
    let dir = tempfile::tempdir().expect("a directory");
    let here = dir.path().join("kept");
    for [last, first] in [["4", "1"], ["7", "4"]] {
        let mut command = dev(dir.path());
        let output = command.arg("--data-dir").arg(&here).output();
        let output = output.expect("it starts");
        let text = text(&output);
        assert!(output.status.success(), "{text}");
        let goes_back = format!("orchestrator job rollback demo --to {first}\n");
        assert!(text.contains(&goes_back), "{text}");
        let next = std::fs::read_to_string(here.join("next.json")).expect("a canary to try");
        assert!(next.contains(&format!("\"VERSION\": \"{last}\"")), "{next}");
    }
}

#[test]
fn a_step_that_somebody_cancels_is_in_the_exit_code() {
    let dir = tempfile::tempdir().expect("a directory");
    let child = dev(dir.path()).stdout(Stdio::piped()).spawn();
    let mut child = child.expect("it starts");
    let mut said = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut next = |part: &str| {
        let mut lines = said.by_ref().map(|line| line.expect("text"));
        lines
            .find(|line| line.contains(part))
            .unwrap_or_else(|| panic!("it never said {part:?}"))
    };
    let line = next("A server listens on");
    let address = line
        .split_whitespace()
        .find(|word| word.starts_with("http://"));
    let address = address.expect("its address").trim_end_matches(',');
    next("the canary is healthy: waiting for promotion");
    let canceled = Command::new(env!("CARGO_BIN_EXE_orchestrator"))
        .args(["deployment", "cancel", "demo", "--address", address])
        .stdout(Stdio::null())
        .status();
    assert!(canceled.expect("it can be run").success());
    next("rolled back to version");
    next("Without --once");
    for line in said {
        line.expect("text");
    }
    let code = child.wait().expect("its end").code();
    assert_eq!(code, Some(4));
    nothing_is_left(dir.path());
}

#[test]
fn a_signal_in_the_middle_ends_all_of_it() {
    for (name, code) in [("TERM", 0), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
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

#[test]
fn whoever_reads_no_further_ends_all_of_it() {
    let dir = tempfile::tempdir().expect("a directory");
    // Both of its outputs, as `2>&1 | head -1` has it.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut command = dev(dir.path());
    command
        .stdout(writer.try_clone().expect("the same"))
        .stderr(writer);
    let mut child = command.spawn().expect("it starts");
    drop(command);
    let mut line = String::new();
    BufReader::new(reader)
        .read_line(&mut line)
        .expect("what it says first");
    let code = child.wait().expect("its end").code();
    assert_eq!(code, Some(141), "{line}");
    nothing_is_left(dir.path());
}

fn nothing_is_left(dir: &Path) {
    assert!(!runs(&dir.to_string_lossy()), "a process of it goes on");
    let left = std::fs::read_dir(dir).expect("it is there").count();
    assert_eq!(left, 0, "its directory is gone");
}
