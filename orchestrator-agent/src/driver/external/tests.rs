//! Programs that hang, flood, babble and fail.

use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::plan::End;

/// A run of the program of this name, and what runs it.
fn given(name: &str) -> (TempDir, External, Run) {
    let dir = tempfile::tempdir().unwrap();
    let bad = concat!(env!("CARGO_MANIFEST_DIR"), "/src/driver/external/bad.sh");
    let program = dir.path().join(name);
    std::os::unix::fs::symlink(bad, &program).unwrap();
    let programs = BTreeMap::from([
        (name.to_owned(), program),
        ("missing".to_owned(), dir.path().join("nowhere")),
    ]);
    let mut external = External::new(&programs);
    let soon = Duration::from_millis(500);
    external.limits = Limits {
        start: soon,
        look: soon,
        stop: soon,
        forget: soon,
    };
    let document = json!({ "driver": "external", "config": { "program": name } });
    let run = Run::kept(dir.path().join("run"), 1, document);
    (dir, external, run)
}

fn ended(look: Look) -> String {
    match look {
        Look::Ended {
            how: End::CannotStart(why),
            ..
        } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_that_hangs_is_killed_with_all_that_it_started() {
    let (_dir, external, run) = given("hangs");
    let why = external.start(&run).await.unwrap_err();
    assert!(
        why.contains("hangs start: it has not ended within 500ms"),
        "{why}"
    );
    assert_eq!(ended(external.look(&run).await.unwrap()), why);
    let pid = std::fs::read_to_string(run.dir.join("state/sleeper")).unwrap();
    let pid = pid.trim().parse().unwrap();
    let since = Instant::now();
    while crate::processes::started(pid).is_some() {
        assert!(since.elapsed() < Duration::from_secs(10), "it lives");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_that_fails_says_why() {
    let (_dir, external, run) = given("fails");
    assert_eq!(
        external.look(&run).await.unwrap(),
        Look::Absent,
        "not begun"
    );
    let why = external.start(&run).await.unwrap_err();
    assert!(
        why.ends_with("there is no room") && why.len() < 700,
        "{why}"
    );
    assert_eq!(ended(external.look(&run).await.unwrap()), why);
    external.forget(&run).await.unwrap_err();
    assert!(run.dir.exists(), "what is left is not forgotten");
}

#[tokio::test]
async fn one_that_fails_on_a_full_disk_says_why_it_failed() {
    let (_dir, external, run) = given("fails");
    // Nothing can be written in place of a directory.
    std::fs::create_dir(run.dir.join("ended.new")).unwrap();
    let why = external.start(&run).await.unwrap_err();
    assert!(why.ends_with("there is no room"), "{why}");
}

#[tokio::test]
async fn what_lives_though_its_start_has_failed_is_not_started_again() {
    let (_dir, external, run) = given("lives");
    external.start(&run).await.unwrap();
    assert_eq!(external.look(&run).await.unwrap(), Look::Running);
    let why = external.forget(&run).await.unwrap_err();
    assert_eq!(why.to_string(), "it lives");
}

#[tokio::test]
async fn answers_are_bounded_and_understood() {
    for (name, sentence) in [
        ("floods", "it answered more than 65536 bytes"),
        ("babbles", "look: it answered \"I am well\\n\""),
    ] {
        let (_dir, external, run) = given(name);
        external.start(&run).await.unwrap();
        let why = external.look(&run).await.unwrap_err().to_string();
        assert!(why.contains(sentence), "{why}");
    }
}

#[tokio::test]
async fn what_is_left_running_is_not_waited_for() {
    let (_dir, external, run) = given("lingers");
    external.start(&run).await.unwrap();
    let since = Instant::now();
    assert_eq!(external.look(&run).await.unwrap(), Look::Running);
    assert!(since.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let (dir, external, mut run) = given("lives");
    let mut workload = Workload::clone(&run.workload);
    workload.config["program"] = "other".into();
    let why = external.check(&workload).unwrap_err();
    assert!(why.contains("--external other=PROGRAM"), "{why}");
    workload.config["program"] = "missing".into();
    external.check(&workload).unwrap();
    run.workload = Arc::new(workload);
    let why = external.start(&run).await.unwrap_err();
    let nowhere = dir.path().join("nowhere");
    let named = format!("{} start: No such file", nowhere.display());
    assert!(why.starts_with(&named), "{why}");
}
