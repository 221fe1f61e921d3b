//! Processes killed in the midst of their commits: what they had acknowledged is there, and nothing is half there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_api::store::{Append, Store};

use crate::making::*;

const KILLS: usize = 20;
const JOBS: u64 = 6;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_kill() {
    let dir = Dir::new();
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    for kill in 0..KILLS {
        run_and_kill(dir.path(), 5 + kill * 11, &mut acknowledged);
        let store = Sqlite::open(dir.path()).expect("recovered");
        let mut entries_of_all = 0;
        for number in 0..JOBS {
            let claim = own(&store, &format!("a/job-{number}")).await;
            let promised = acknowledged.get(&number).copied().unwrap_or(0);
            assert!(claim.seq >= promised, "{} of {promised}", claim.seq);
            let lines = store.entries(claim.log, 0, 10_000).await.expect("read");
            assert!(lines.iter().map(|line| line.seq).eq(1..=claim.seq));
            let row = store.deployment(id(number)).await.expect("read");
            assert_eq!(
                row.map_or(0, |row| row.revision),
                claim.seq,
                "rows and entries agree"
            );
            entries_of_all += claim.seq;
        }
        let feed = store.changes(0, 10_000).await.expect("read");
        assert_eq!(feed.len() as u64, entries_of_all);
        assert_eq!(
            *store.position().borrow(),
            feed.last().map_or(0, |last| last.position)
        );
    }
    assert!(acknowledged.values().sum::<u64>() > KILLS as u64);
}

/// Reads so many acknowledgements, kills the process, and reads what else it had said.
fn run_and_kill(dir: &Path, count: usize, acknowledged: &mut BTreeMap<u64, u64>) {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--ignored",
            "--exact",
            "kill::child_that_commits",
            "--nocapture",
        ])
        .env("STORE_DIR", dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut read = 0;
    while let Some(Ok(line)) = lines.next() {
        // A line that was cut short by the kill says nothing.
        let Some((number, seq)) = line
            .strip_prefix("taken ")
            .and_then(|rest| rest.strip_suffix(" ."))
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let seq: u64 = seq.parse().expect("a number");
        acknowledged.insert(number.parse().expect("a number"), seq);
        read += 1;
        if read == count {
            child.kill().expect("running");
        }
    }
    assert!(
        read >= count,
        "it ended before it was killed: {read} of {count}"
    );
    child.wait().expect("killed");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run, and killed, by what_was_acknowledged_survives_a_kill"]
async fn child_that_commits() {
    let Some(dir) = std::env::var_os("STORE_DIR") else {
        return;
    };
    let store = Arc::new(Sqlite::open(dir.as_ref()).expect("opened"));
    let mut tasks = Vec::new();
    for number in 0..JOBS {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let name = format!("a/job-{number}");
            let mut claim = own(&*store, &name).await;
            for seq in claim.seq + 1.. {
                let mut row = deployment(claim.log, 1, &name, id(number));
                row.revision = seq;
                let next = Append {
                    lines: vec![line(seq, Some((1, seq)))],
                    deployments: vec![row],
                    ..append(&claim)
                };
                take(&*store, next).await;
                claim.seq = seq;
                let said = format!("taken {number} {seq} .\n");
                let mut out = std::io::stdout().lock();
                out.write_all(said.as_bytes())
                    .and_then(|()| out.flush())
                    .expect("read by the test");
            }
        }));
    }
    for task in tasks {
        task.await.expect("until it is killed");
    }
}
