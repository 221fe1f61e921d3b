//! File systems that are full, or cannot be written: the real ones, where this process may mount them.

use std::path::Path;
use std::process::Command;

use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_api::store::{Append, Store, StoreError};

use crate::making::*;

/// A small file system in memory, unmounted after the test.
struct Small(Dir);

impl Small {
    fn mount() -> Option<Self> {
        let dir = Dir::new();
        std::fs::create_dir_all(dir.path()).expect("made");
        let small =
            mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], dir.path()).then(|| Self(dir));
        if small.is_none() {
            eprintln!("SKIPPED: this process may not mount a file system");
        }
        small
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("--lazy")
            .arg(self.path())
            .status();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    let run = Command::new("mount").args(args).arg(at).output();
    run.is_ok_and(|run| run.status.success())
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let Some(disk) = Small::mount() else { return };
    let dir = disk.path().join("data");
    let store = Sqlite::open(&dir).expect("there is room yet");
    let mut claim = own(&store, "a/web").await;
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![0; 3 << 20]).expect("there is room");
    let error = loop {
        let mut next = entries(&claim, 1);
        next.lines[0].text = "x".repeat(100_000);
        match store.commit(vec![next]).await {
            Ok(taken) => assert_eq!(taken, [Ok(())]),
            Err(error) => break error,
        }
        claim.seq += 1;
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("orchestrator.db"), "{error}");
    let lines = store
        .entries(claim.log, 0, 1000)
        .await
        .expect("reading needs no room");
    assert_eq!(
        lines.len() as u64,
        claim.seq,
        "what was acknowledged, and no more"
    );

    // Room again: it goes on where it was, without being opened anew.
    std::fs::remove_file(filler).expect("gone");
    take(&store, entries(&claim, 1)).await;
    store.check().await.expect("well");
    drop(store);
    let store = Sqlite::open(&dir).expect("opened again");
    assert_eq!(own(&store, "a/web").await.seq, claim.seq + 1);
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_named() {
    let Some(disk) = Small::mount() else { return };
    let dir = disk.path().join("data");
    let store = Sqlite::open(&dir).expect("it can be written yet");
    let mut claim = own(&store, "a/web").await;
    take(
        &store,
        Append {
            snapshot: Some(vec![1]),
            ..entries(&claim, 1)
        },
    )
    .await;
    claim.seq = 1;
    drop(store);
    assert!(
        mount(&["-o", "remount,ro"], disk.path()),
        "it was mounted before"
    );
    for dir in [dir.clone(), disk.path().join("new")] {
        let error = Sqlite::open(&dir).expect_err("read-only");
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
        assert!(
            error.to_string().contains(&*dir.to_string_lossy()),
            "{error}"
        );
    }
    assert!(
        mount(&["-o", "remount,rw"], disk.path()),
        "it was mounted before"
    );
    let store = Sqlite::open(&dir).expect("as before");
    assert_eq!(own(&store, "a/web").await.seq, claim.seq);
}
