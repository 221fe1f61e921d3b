//! Things to put into a store, and a directory for one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use orchestrator_api::store::{
    Append, Audit, Claim, DeploymentRow, GroupId, GroupRow, Line, LogId, Machine, Store, Wanted,
};
use orchestrator_core::{DeploymentId, DeploymentKind, DeploymentState, JobId, Time};

/// A directory that is gone after the test.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("store-{}-{next}", std::process::id());
        Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Left to whoever cleans the target directory, if it cannot go.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn job(name: &str) -> JobId {
    name.parse().expect("a name")
}

pub(crate) fn at(millis: u64) -> Time {
    Time::from_millis(millis)
}

/// Ids in the order of their numbers.
pub(crate) fn id(number: u64) -> DeploymentId {
    uuid::Uuid::from_u64_pair((number << 16) | 0x7000, 0x8000_0000_0000_0000 | number)
        .to_string()
        .parse()
        .expect("a uuid")
}

pub(crate) async fn own(store: &dyn Store, name: &str) -> Claim {
    let wanted = Wanted {
        machine: Machine::Job(job(name)),
        seed: u64::MAX - 7,
    };
    let mut claims = store.claim(vec![wanted]).await.expect("claimed");
    claims.pop().expect("nobody else has it")
}

/// Ids in the order of their numbers.
pub(crate) fn group_id(number: u64) -> GroupId {
    GroupId(*id(number).as_uuid())
}

pub(crate) async fn own_group(store: &dyn Store, number: u64) -> Claim {
    let wanted = Wanted {
        machine: Machine::Group(group_id(number)),
        seed: 0,
    };
    let mut claims = store.claim(vec![wanted]).await.expect("claimed");
    claims.pop().expect("nobody else has it")
}

/// One that has not ended.
pub(crate) fn group(number: u64, name: &str) -> GroupRow {
    GroupRow {
        id: group_id(number),
        name: name.to_owned(),
        completed_at: None,
        record: format!("{{\"n\":{number}}}"),
    }
}

/// Nothing but the claim: what a test is about is added by it.
pub(crate) fn append(claim: &Claim) -> Append {
    Append {
        log: claim.log,
        epoch: claim.epoch,
        expected: claim.seq,
        lines: Vec::new(),
        snapshot: None,
        job: None,
        deployments: Vec::new(),
        targets: Vec::new(),
        group: None,
        begun_with: None,
        nodes: Vec::new(),
        nodes_gone: Vec::new(),
        audit: Vec::new(),
    }
}

/// The next `count` entries, which belong to no deployment.
pub(crate) fn entries(claim: &Claim, count: u64) -> Append {
    Append {
        lines: (1..=count)
            .map(|next| line(claim.seq + next, None))
            .collect(),
        ..append(claim)
    }
}

pub(crate) fn line(seq: u64, of: Option<(u32, u64)>) -> Line {
    Line {
        seq,
        of,
        at: at(1000 + seq),
        text: format!("{{\"n\":{seq}}}"),
        words: of.map(|_| format!("{{\"message\":\"{seq} was said\"}}")),
    }
}

pub(crate) fn deployment(log: LogId, number: u32, of: &str, id: DeploymentId) -> DeploymentRow {
    DeploymentRow {
        id,
        log,
        number,
        job: job(of),
        kind: DeploymentKind::Update,
        state: DeploymentState::InProgress,
        from_version: 1,
        to_version: 2,
        total_nodes: 10,
        updated_nodes: 0,
        failed_nodes: 0,
        revision: 1,
        created_at: at(1000),
        updated_at: at(1000),
        completed_at: None,
        record: format!("{{\"deployment\":{number}}}"),
    }
}

pub(crate) fn said(millis: u64) -> Audit {
    Audit {
        at: at(millis),
        record: format!("{{\"who\":\"{millis}\"}}"),
    }
}

/// Commits one append, which has to be taken.
pub(crate) async fn take(store: &dyn Store, append: Append) {
    let taken = store.commit(vec![append]).await.expect("written");
    assert_eq!(taken, [Ok(())]);
}
