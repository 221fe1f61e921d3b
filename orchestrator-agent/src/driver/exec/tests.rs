//! Shims that do not do what they are asked.

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A run, and a driver whose shim is this script.
fn given(script: &str) -> (TempDir, Exec, Run) {
    let dir = tempfile::tempdir().unwrap();
    let runs = dir.path().join("runs");
    let exec = Exec::new(
        ["sh", "-c", script, "shim"].map(Into::into).into(),
        runs.clone(),
    );
    let document = json!({ "driver": "exec", "config": { "command": "true" } });
    let run = Run::kept(runs.join("default@/web@/0.1.1"), 1, document);
    (dir, exec, run)
}

#[tokio::test]
async fn what_a_shim_says_is_why_it_cannot_start() {
    for (script, said) in [
        (
            "echo no it is full; exit 1",
            "the shim cannot start it: it is full",
        ),
        ("exit 1", "the shim ended without a word"),
    ] {
        let (_dir, exec, run) = given(script);
        assert_eq!(exec.start(&run).await.unwrap_err(), said);
        let look = exec.look(&run).await.unwrap();
        let how = End::CannotStart(said.to_owned());
        let ran = Duration::ZERO;
        assert_eq!(look, Look::Ended { how, ran });
    }
}

#[tokio::test]
async fn what_its_shim_is_about_to_begin_does_not_run_yet() {
    let (_dir, exec, run) = given("exit 1");
    let shim = shim::hold(&run.dir).unwrap().unwrap();
    let look = async || exec.look(&run).await.unwrap();
    assert_eq!(look().await, Look::Beginning);
    let begun = run.dir.join(shim::BEGUN);
    disk::note(&begun, b"").unwrap();
    assert_eq!(look().await, Look::Beginning);
    // An earlier one says so by the process alone.
    let process = json!({ "shim": 1, "pid": 1, "started": 0 });
    disk::note_json(&run.dir.join(shim::PROCESS), &process).unwrap();
    assert_eq!(look().await, Look::Running);
    std::fs::remove_file(run.dir.join(shim::PROCESS)).unwrap();
    disk::note(&begun, b"up").unwrap();
    assert_eq!(look().await, Look::Running);
    drop(shim);
    assert!(matches!(look().await, Look::Ended { .. }));
}

/// How it was started, as far as checks need it.
fn launched(run: &Run) {
    let launch = json!({
        "program": "true", "args": [], "env": {}, "directory": "/", "own_directory": false, "user": null,
        "groups": [{ "dir": "/nowhere", "own": "/nowhere", "processes": null }],
        "log_bytes_max": 1, "log_files_max": 1,
    });
    disk::note_json(&run.dir.join(shim::LAUNCH), &launch).unwrap();
}

#[tokio::test]
async fn a_check_that_has_not_ended_is_not_begun_once_more() {
    let (dir, exec, run) = given("echo > \"$2.begun\"; exec sleep 1000 > /dev/null");
    launched(&run);
    let check = ["true".to_owned()];
    let begun = run.dir.with_extension("1.begun");
    let seen = async {
        while !begun.exists() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = exec.run(&run, &check) => panic!("it ends: {ended:?}"),
        () = seen => {}
    }
    // It was killed, and nobody has seen its end yet.
    let why = exec.run(&run, &check).await.unwrap_err().to_string();
    assert!(why.contains("has not ended"), "{why}");
    // Once it has ended, it is.
    std::fs::remove_file(&begun).unwrap();
    while !held(&exec.stuck_checks).is_empty() {
        sleep(Duration::from_millis(5)).await;
    }
    let again = tokio::time::timeout(Duration::from_millis(1), exec.run(&run, &check));
    assert!(again.await.is_err(), "it is begun");
    drop(dir);
}

#[tokio::test]
async fn a_check_fails_where_the_shim_knows_of_none() {
    // One of an earlier version has nothing to do where the run that it is told lives.
    let (_dir, exec, run) = given("[ -d \"$1\" ]");
    launched(&run);
    let code = exec.run(&run, &["true".to_owned()]).await.unwrap();
    assert_eq!(code, 1);
}
