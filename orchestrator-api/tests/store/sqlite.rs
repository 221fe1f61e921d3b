//! What SQLite's store has to bear besides.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::process::{Command, Stdio};

use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_api::store::{Append, Store, StoreError};

use crate::making::*;

/// A closed store with something in it, in the file and not in the log.
async fn closed(snapshot: usize) -> Dir {
    let crate::Fixture { store, dir } = crate::embedded();
    let mut claim = own(&store, "a/web").await;
    take(&store, entries(&claim, 39)).await;
    claim.seq = 39;
    let last = Append {
        snapshot: Some(vec![7; snapshot]),
        ..entries(&claim, 1)
    };
    take(&store, last).await;
    drop(store);
    dir
}

fn file(dir: &Dir) -> std::path::PathBuf {
    dir.path().join("orchestrator.db")
}

fn overwrite(dir: &Dir, at: u64, with: &[u8]) {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(file(dir))
        .expect("there");
    file.write_all_at(with, at).expect("written");
}

#[tokio::test]
async fn closing_folds_the_log_into_the_file() {
    let dir = closed(10).await;
    let wal = fs::metadata(dir.path().join("orchestrator.db-wal"));
    assert!(wal.is_err() || wal.is_ok_and(|wal| wal.len() == 0));
    for (path, mode) in [(dir.path().to_owned(), 0o700), (file(&dir), 0o600)] {
        let found = fs::metadata(path).expect("there").permissions().mode();
        assert_eq!(found & 0o777, mode);
    }
    let store = Sqlite::open(dir.path()).expect("opened again");
    let claim = own(&store, "a/web").await;
    assert_eq!((claim.epoch, claim.seq), (2, 40));
    assert_eq!(*store.position().borrow(), 40);
}

#[tokio::test]
async fn a_store_that_others_can_read_is_closed_when_it_is_opened() {
    let dir = closed(10).await;
    fs::set_permissions(file(&dir), fs::Permissions::from_mode(0o644)).expect("ours");
    drop(Sqlite::open(dir.path()).expect("opened again"));
    let mode = fs::metadata(file(&dir)).expect("there").mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// As `token create` makes the first token in the directory of the server's own user.
#[tokio::test]
async fn what_root_makes_in_the_directory_of_another_user_is_that_ones() {
    let dir = Dir::new();
    fs::create_dir_all(dir.path()).expect("made");
    // Only root can try this.
    if chown(dir.path(), Some(4650), Some(4651)).is_err() {
        return;
    }
    let store = Sqlite::open(dir.path()).expect("opened");
    own(&store, "a/web").await;
    let files = fs::read_dir(dir.path()).expect("there");
    let mut names = Vec::new();
    for file in files.map(|file| file.expect("there")) {
        let found = file.metadata().expect("there");
        assert_eq!((found.uid(), found.gid()), (4650, 4651), "{file:?}");
        assert_eq!(found.mode() & 0o077, 0, "{file:?}");
        names.push(file.file_name());
    }
    assert!(names.len() > 2, "{names:?}");
}

/// What is written to a file that has no name any more nobody finds again.
#[tokio::test]
async fn nothing_is_acknowledged_into_a_file_that_is_gone() {
    for replaced in [false, true] {
        let crate::Fixture { store, dir } = crate::embedded();
        let mut claim = own(&store, "a/web").await;
        take(&store, entries(&claim, 1)).await;
        claim.seq += 1;
        store.check().await.expect("well");
        let aside = dir.path().join("aside");
        fs::rename(file(&dir), &aside).expect("put aside");
        if replaced {
            fs::copy(&aside, file(&dir)).expect("copied");
        }
        let more = store.commit(vec![entries(&claim, 1)]).await;
        let error = more.expect_err("not there");
        assert!(matches!(error, StoreError::Gone { .. }), "{error:?}");
        assert!(error.to_string().contains("orchestrator.db"), "{error}");
        let error = store.check().await.expect_err("not there");
        assert!(matches!(error, StoreError::Gone { .. }), "{error:?}");
        // Put back, it goes on.
        fs::rename(&aside, file(&dir)).expect("put back");
        store.check().await.expect("well");
        take(&store, entries(&claim, 1)).await;
    }
}

#[tokio::test]
async fn many_commits_share_a_transaction() {
    const JOBS: usize = 300;
    let fixture = std::sync::Arc::new(crate::embedded());
    let mut claims = Vec::new();
    for index in 0..JOBS {
        claims.push(own(&fixture.store, &format!("a/job-{index}")).await);
    }
    let before = fixture.store.transactions();
    let tasks: Vec<_> = claims
        .into_iter()
        .map(|claim| {
            let fixture = fixture.clone();
            tokio::spawn(async move { take(&fixture.store, entries(&claim, 1)).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("taken");
    }
    let transactions = fixture.store.transactions() - before;
    assert!(
        transactions < JOBS as u64 / 2,
        "{transactions} of {JOBS} commits"
    );
    assert_eq!(
        fixture.store.changes(0, 1000).await.expect("read").len(),
        JOBS
    );
}

#[tokio::test]
async fn garbage_is_not_taken_for_data() {
    for (at, size) in [(0, 100), (20_000, 4096), (0, 4096)] {
        let dir = closed(50_000).await;
        overwrite(&dir, at, &vec![0xA5; size]);
        let error = Sqlite::open(dir.path()).expect_err("damaged");
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(error.to_string().contains("orchestrator.db"), "{error}");
    }
}

#[tokio::test]
async fn a_truncated_file_is_damaged() {
    let dir = closed(50_000).await;
    let all = fs::OpenOptions::new()
        .write(true)
        .open(file(&dir))
        .expect("there");
    all.set_len(8192).expect("cut");
    let error = Sqlite::open(dir.path()).expect_err("cut");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

/// It would be a store without tokens, which lets everybody in.
#[tokio::test]
async fn an_emptied_file_is_not_taken_for_a_new_one() {
    let dir = closed(100).await;
    fs::write(file(&dir), []).expect("emptied");
    let error = Sqlite::open(dir.path()).expect_err("emptied");
    assert!(matches!(error, StoreError::Empty { .. }), "{error:?}");
    // One with a page and no table is as empty.
    fs::remove_file(file(&dir)).expect("removed");
    let conn = rusqlite::Connection::open(file(&dir)).expect("made");
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))
        .expect("a page");
    drop(conn);
    assert!(fs::metadata(file(&dir)).expect("there").len() > 0);
    let error = Sqlite::open(dir.path()).expect_err("without tables");
    assert!(matches!(error, StoreError::Empty { .. }), "{error:?}");
    // What is gone together with its log begins anew; its log alone is not taken into another file.
    fs::remove_file(file(&dir)).expect("removed");
    let log = dir.path().join("orchestrator.db-wal");
    fs::write(&log, b"frames").expect("written");
    let error = Sqlite::open(dir.path()).expect_err("without its log");
    assert!(matches!(error, StoreError::Missing { .. }), "{error:?}");
    fs::remove_file(log).expect("removed");
    // Nor is a link to a disk that is not mounted taken for nothing.
    std::os::unix::fs::symlink("/not/mounted/orchestrator.db", file(&dir)).expect("linked");
    Sqlite::open(dir.path()).expect_err("what it links to is not there");
    fs::remove_file(file(&dir)).expect("removed");
    Sqlite::open(dir.path()).expect("a new one");
}

#[tokio::test]
async fn what_was_killed_while_it_was_made_is_made_anew() {
    let dir = Dir::new();
    fs::create_dir_all(dir.path()).expect("made");
    for left in ["orchestrator.db.new", "orchestrator.db.new-journal"] {
        fs::write(dir.path().join(left), [0xA5; 5000]).expect("written");
    }
    drop(Sqlite::open(dir.path()).expect("made anew"));
    let names = fs::read_dir(dir.path()).expect("read");
    let mut names: Vec<_> = names.map(|name| name.expect("read").file_name()).collect();
    names.sort();
    assert_eq!(names, ["orchestrator.db", "orchestrator.lock"]);
    drop(Sqlite::open(dir.path()).expect("opened again"));
}

/// Of a large file, a damaged page is found when it is read.
#[tokio::test]
async fn damage_is_found_where_it_is_read() {
    let dir = closed(40 << 20).await;
    let length = fs::metadata(file(&dir)).expect("there").len();
    // Everything but the pages that opening it has to read: what is left is the snapshot.
    overwrite(&dir, 100 * 4096, &vec![0xA5; length as usize - 100 * 4096]);
    let store = Sqlite::open(dir.path()).expect("too large to be checked whole");
    let log = own(&store, "a/web").await.log;
    let error = store.snapshot(log).await.expect_err("damaged");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn a_file_of_another_program_is_left_alone() {
    let dir = Dir::new();
    fs::create_dir_all(dir.path()).expect("made");
    let conn = rusqlite::Connection::open(file(&dir)).expect("made");
    conn.execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .expect("made");
    drop(conn);
    let before = fs::read(file(&dir)).expect("read");
    let error = Sqlite::open(dir.path()).expect_err("theirs");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    assert_eq!(fs::read(file(&dir)).expect("read"), before);
}

#[tokio::test]
async fn a_newer_file_is_left_to_the_newer_program() {
    let dir = closed(10).await;
    let conn = rusqlite::Connection::open(file(&dir)).expect("opened");
    conn.pragma_update(None, "user_version", 1000).expect("set");
    drop(conn);
    let error = Sqlite::open(dir.path()).expect_err("newer");
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 1000,
                known: 5,
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_file_of_the_first_version_is_brought_up_to_date() {
    let dir = closed(10).await;
    let conn = rusqlite::Connection::open(file(&dir)).expect("opened");
    conn.execute_batch(
        "ALTER TABLE entries DROP COLUMN words; DROP TABLE identity; DROP TABLE groups; PRAGMA user_version = 1",
    )
    .expect("as it was then");
    drop(conn);
    let store = Sqlite::open(dir.path()).expect("an older file");
    let mut claim = own(&store, "a/web").await;
    let lines = store.entries(claim.log, 0, 100).await.expect("read");
    assert_eq!((claim.seq, lines.len()), (40, 40));
    take(&store, entries(&claim, 1)).await;
    claim.seq = 41;
    let deployment = Append {
        lines: vec![line(42, Some((1, 1)))],
        ..entries(&claim, 0)
    };
    let written = deployment.lines.clone();
    take(&store, deployment).await;
    let lines = store.entries(claim.log, 41, 100).await.expect("read");
    assert_eq!(lines, written, "with its words");
    assert_eq!(store.identity().await.expect("read").len(), 32);
}

#[tokio::test]
async fn a_file_keeps_its_identity_and_another_has_another() {
    let (one, two) = (closed(1).await, closed(1).await);
    let mut seen = Vec::new();
    for dir in [&one, &one, &two] {
        let store = Sqlite::open(dir.path()).expect("opened");
        seen.push(store.identity().await.expect("read"));
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[1], seen[2]);
}

#[tokio::test]
async fn discarding_makes_the_file_smaller() {
    let dir = closed(10).await;
    let store = Sqlite::open(dir.path()).expect("opened");
    let lines = (0..5000).map(|n| orchestrator_api::store::Audit {
        at: at(n),
        record: "x".repeat(2000),
    });
    store.audit(lines.collect()).await.expect("written");
    drop(store);
    let before = fs::metadata(file(&dir)).expect("there").len();
    let store = Sqlite::open(dir.path()).expect("opened");
    let older = orchestrator_api::store::Discard {
        deployments: at(0),
        entries: at(0),
        audit: at(5000),
        rows_max: 1000,
    };
    while store.discard(older).await.expect("discarded").more {}
    drop(store);
    let after = fs::metadata(file(&dir)).expect("there").len();
    assert!(
        before > 10_000_000 && after < 1_000_000,
        "from {before} to {after}"
    );
}

#[tokio::test]
async fn a_directory_has_one_server() {
    let fixture = crate::embedded();
    let error = Sqlite::open(fixture.dir.path()).expect_err("taken");
    let StoreError::InUse { pid, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(pid, Some(std::process::id()));
    // And from another process.
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--ignored",
            "--exact",
            "sqlite::child_that_opens",
            "--nocapture",
        ])
        .env("STORE_DIR", fixture.dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("run");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        said.contains(&format!("in use by {}", std::process::id())),
        "{said}"
    );
}

#[test]
#[ignore = "run by a_directory_has_one_server"]
fn child_that_opens() {
    let Some(dir) = std::env::var_os("STORE_DIR") else {
        return;
    };
    match Sqlite::open(dir.as_ref()) {
        Err(StoreError::InUse { pid: Some(pid), .. }) => println!("in use by {pid}"),
        other => println!("not in use: {other:?}"),
    }
}
