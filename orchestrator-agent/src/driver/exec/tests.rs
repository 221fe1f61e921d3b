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
async fn a_check_fails_where_the_shim_knows_of_none() {
    // One of an earlier version has nothing to do where the run that it is told lives.
    let (_dir, exec, run) = given("[ -d \"$1\" ]");
    let launch = json!({
        "program": "true", "args": [], "env": {}, "directory": "/", "own_directory": false, "user": null,
        "groups": [{ "dir": "/nowhere", "own": "/nowhere", "processes": null }],
        "log_bytes_max": 1, "log_files_max": 1,
    });
    disk::note_json(&run.dir.join(shim::LAUNCH), &launch).unwrap();
    let code = exec.run(&run, &["true".to_owned()]).await.unwrap();
    assert_eq!(code, 1);
}
