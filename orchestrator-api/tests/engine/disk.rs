//! The engine on a disk that gets full: what it cannot keep has not happened, and it goes on when there is room.

use std::path::{Path, PathBuf};
use std::process::Command as Run;
use std::time::Duration;

use orchestrator_api::engine::{EngineError, Release, Said};
use orchestrator_api::store::StoreError;
use orchestrator_core::group::{GroupSpec, GroupState};
use orchestrator_core::spec::JobSpec;
use orchestrator_core::{Command, DeploymentState, Interval, Observation};

use crate::PATIENCE;
use crate::world::{World, registration};

/// A small file system in memory, unmounted after the test.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let run = Run::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(dir.path())
            .output();
        if run.is_ok_and(|run| run.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("SKIPPED: this process may not mount a file system");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    fn fill(&self) {
        let mut more = vec![0_u8; 8 << 20];
        while let Err(_full) = std::fs::write(self.filler(), &more) {
            more.truncate(more.len() - 4096);
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.filler()).expect("it is there");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Run::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_has_not_happened() {
    let Some(disk) = Small::mount() else { return };
    let mut world = World::at(disk.path().join("data")).await;
    world.join(4, &[]).await;
    let first = world.register("web", 1, "immediate").await;
    world.ends(first, DeploymentState::Completed).await;

    // Nobody speaks while the room goes: what is refused is the command.
    for node in ["n1", "n2", "n3", "n4"] {
        world.silence(node).await;
    }
    disk.fill();
    let before = world.record(first).await;
    let mut refused = 0;
    let why = loop {
        // The last page may have room for one yet.
        match world.command("web", Command::Restart).await {
            Ok(_) if refused < 10_000 => refused += 1,
            Ok(_) => panic!("the disk is not full"),
            Err(EngineError::Rejected(_)) => {
                let last = world.last("web").await;
                let canceled = world.command("web", Command::Cancel(last)).await;
                if let Err(why @ EngineError::Store(_)) = canceled {
                    break why;
                }
            }
            Err(why) => break why,
        }
    };
    let EngineError::Store(store) = &why else {
        panic!("{why:?}");
    };
    assert!(matches!(**store, StoreError::Full { .. }), "{store:?}");
    assert_eq!(
        world.record(first).await["id"],
        before["id"],
        "it can still be read"
    );
    let last = world.last("web").await;
    let seen = world.record(last).await;

    disk.empty();
    for node in ["n1", "n2", "n3", "n4"] {
        world.listen(node).await;
    }
    if seen["status"]["state"] == "pending" || seen["status"]["state"] == "in_progress" {
        world.ends(last, DeploymentState::Completed).await;
    }
    let second = world.register("web", 2, "rolling").await;
    world.ends(second, DeploymentState::Completed).await;
    world.restart().await;
    assert_eq!(world.record(second).await["status"]["state"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_goes_on_when_there_is_room_again() {
    let Some(disk) = Small::mount() else { return };
    let world = World::at(disk.path().join("data")).await;
    world.join(2, &[]).await;
    for round in 1..=2 {
        let jobs = ["db", "web"].map(|job| {
            let document = world.document(job, round, "rolling").to_string();
            JobSpec::parse(&document).expect("a spec")
        });
        let group = r#"{"name":"release","members":[{"job":"db"},{"job":"web","after":["db"]}]}"#;
        let group = GroupSpec::parse(group).expect("a group");
        let begin = async || {
            let release = Release::new(group.clone(), jobs.to_vec(), false).expect("all of them");
            let handle = world.handle();
            handle.begin_group(release, None, World::who()).await
        };
        for node in ["n1", "n2"] {
            world.silence(node).await;
        }
        let mut begun = None;
        if round == 1 {
            // While it waits for its first job.
            begun = Some(begin().await.expect("it is kept"));
        }
        disk.fill();
        fill_the_file(&world).await;
        if round == 2 {
            let why = begin().await.expect_err("there is no room");
            assert!(matches!(why, EngineError::Store(_)), "{why:?}");
        }
        let before = world.handle().counts().commits_failed();
        for node in ["n1", "n2"] {
            world.listen(node).await;
        }
        if let Some(begun) = &begun {
            // What is said now cannot be kept.
            while world.handle().counts().commits_failed() == before {
                tokio::task::yield_now().await;
            }
            let shown = world.handle().group(begun.id).await.expect("it reads");
            assert!(!shown.expect("it is there").is_over);
        }
        disk.empty();
        // Who was not heard may have gone.
        for node in ["n1", "n2"] {
            world.silence(node).await;
            world.listen(node).await;
        }
        let begun = match begun {
            Some(begun) => begun,
            // What could not be kept has not begun, so another may.
            None => begin().await.expect("it is kept"),
        };
        let done = async {
            loop {
                let news = world.handle().watch_group(begun.id);
                let shown = world.handle().group(begun.id).await.expect("it reads");
                let shown = shown.expect("it is there");
                match news {
                    Some(mut news) if !shown.is_over => {
                        // An error means that it has ended.
                        let _ = news.changed().await;
                    }
                    _ => return shown,
                }
            }
        };
        let done = tokio::time::timeout(PATIENCE, done).await.expect("it ends");
        assert_eq!(done.state, GroupState::Completed, "{done:?}");
        for job in ["db", "web"] {
            assert_eq!(world.running(job, round).await, 2, "{job}");
        }
    }
}

/// The file that there is may have room for some yet: what is large takes it.
async fn fill_the_file(world: &World) {
    let mut number = 0;
    for bytes in [50_000, 2_000, 10] {
        loop {
            number += 1;
            assert!(number < 10_000, "the disk is not full");
            let mut other = world.document("large", number, "rolling");
            other["selector"] = "nowhere".into();
            other["config"]["more"] = "x".repeat(bytes).into();
            match world.command("large", registration(&other)).await {
                Ok(_) => {}
                Err(EngineError::Store(_)) => break,
                Err(why) => panic!("{why:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_fails_for_what_could_not_be_written_down() {
    let Some(disk) = Small::mount() else { return };
    let world = World::at(disk.path().join("data")).await;
    world.join(1, &[]).await;
    world.silence("n1").await;
    let mut spec = world.document("web", 1, "rolling");
    spec["rollout"]["health_check"]["deadline"] = "10s".into();
    spec["rollout"]["health_check"]["min_healthy_time"] = "500ms".into();
    let id = world.register_document(&spec).await;
    let mut told = world.handle().connect("n1".into()).await.expect("it is");
    let told = told.wait_for(|desired| !desired.executions.is_empty());
    let assigned = told.await.expect("it is told").executions[0].clone();

    disk.fill();
    fill_the_file(&world).await;
    for number in 1.. {
        let said = Said {
            job: assigned.job.clone(),
            slot: assigned.slot,
            generation: assigned.generation,
            target: assigned.target,
            number,
            what: if number % 2 == 0 {
                Observation::Interval(Interval::PASSING)
            } else {
                Observation::Interval(Interval::FAILING)
            },
        };
        match world.handle().report("n1".into(), vec![said]).await {
            Ok(()) => assert!(number < 1_000, "the disk is not full"),
            Err(EngineError::Store(_)) => break,
            Err(why) => panic!("{why:?}"),
        }
    }
    // Nobody hears the node, and the deadline comes and is tried to be told of, again and again.
    let mut again = tokio::time::interval(Duration::from_millis(20));
    while world.handle().counts().commits_failed() < 5 {
        again.tick().await;
    }

    disk.empty();
    world.listen("n1").await;
    world.ends(id, DeploymentState::Completed).await;
}
