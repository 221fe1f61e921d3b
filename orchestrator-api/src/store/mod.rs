//! The boundary between the engine and the place where it keeps what it must not forget.
//!
//! Two kinds of things are kept. **Logs** are the truth: one for each [machine](Machine), each with one owner at a
//! time. **Rows** are what people read: written in the transaction of the entries that changed them, so that no
//! reader ever sees one without the other.
//!
//! What every store promises, whatever it is made of:
//!
//! - An append takes place whole or not at all, and only where the log ends at the position that the engine
//!   [expects](Append::expected) and the [epoch](Claim::epoch) of its claim is still the latest. So two owners never
//!   both write, and a commit that was tried twice is written once.
//! - What [`Store::commit`] answered survives a crash of the process and of the machine.
//! - The [feed](Store::changes) misses nothing: once a reader has seen a position, nothing appears before it.

pub mod sqlite;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use orchestrator_core::{DeploymentId, DeploymentKind, DeploymentState, JobId, Time};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::list::{Page, Query};

/// No call answers with more rows than this, whatever its limit.
pub const ROWS_MAX: u32 = 10_000;

/// The answer of a store, which may be far away.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A place that keeps logs and rows. See the [module](self) for what it promises.
pub trait Store: Send + Sync + 'static {
    /// Makes this process the owner of these logs, and begins those that there are not yet. What another owner
    /// appends from now on is refused.
    ///
    /// A log that a living process owns is not taken from it: it is left out of the answer.
    fn claim(&self, wanted: Vec<Wanted>) -> Answer<'_, Vec<Claim>>;

    /// Keeps all claims of this process alive. They are good for as long as the answer says, counted from before
    /// the call; after that the owner must not act on what it holds. A store that one process holds for as long as
    /// it lives answers with a hundred years.
    fn renew(&self) -> Answer<'_, Duration>;

    /// Writes all appends in one transaction, and says of each whether it was taken. A refused one is as if it
    /// had not been there. If the call fails, none was written; but see [`StoreError::Unknown`].
    fn commit(&self, appends: Vec<Append>) -> Answer<'_, Vec<Result<(), Refused>>>;

    /// The machines that have a log, in the order of their names, after the given one.
    fn machines(&self, after: Option<Machine>, limit: u32) -> Answer<'_, Vec<Machine>>;

    /// The entries of a log after a position, in order.
    fn entries(&self, log: LogId, after: u64, limit: u32) -> Answer<'_, Vec<Line>>;

    /// The latest snapshot of a log's machine, and the position it was taken at.
    fn snapshot(&self, log: LogId) -> Answer<'_, Option<(u64, Vec<u8>)>>;

    /// What was committed after a position, over all logs, in the order in which it became visible.
    fn changes(&self, after: u64, limit: u32) -> Answer<'_, Vec<Change>>;

    /// The position of the last change. A hint that more has come, and no more than that: a change may be there
    /// before this says so.
    fn position(&self) -> watch::Receiver<u64>;

    /// A deployment's row.
    fn deployment(&self, id: DeploymentId) -> Answer<'_, Option<DeploymentRow>>;

    /// A page of deployments.
    fn deployments(&self, query: Query) -> Answer<'_, Page<DeploymentRow>>;

    /// The entries of one deployment with a revision after the given one, in order.
    fn events(&self, id: DeploymentId, after: u64, limit: u32) -> Answer<'_, Vec<Line>>;

    /// The targets of a deployment that was put aside, from the given number on. Those of the one that its job had
    /// last are the job's to say.
    fn targets(&self, id: DeploymentId, from: u32, limit: u32) -> Answer<'_, Vec<String>>;

    /// The jobs in the order of their names, after the given one; in one namespace, if one is given.
    fn jobs(
        &self,
        namespace: Option<String>,
        after: Option<JobId>,
        limit: u32,
    ) -> Answer<'_, Vec<JobRow>>;

    /// Which store this is. It stays the same for as long as the data does; a copy of it has the same, and another store
    /// another.
    fn identity(&self) -> Answer<'_, String>;

    /// The nodes in the order of their names, after the given one.
    fn nodes(&self, after: Option<String>, limit: u32) -> Answer<'_, Vec<NodeRow>>;

    /// A group.
    fn group(&self, id: GroupId) -> Answer<'_, Option<GroupRow>>;

    /// The groups that came before the given one, the newest first; of one name, if one is given.
    fn groups(
        &self,
        name: Option<String>,
        before: Option<GroupId>,
        limit: u32,
    ) -> Answer<'_, Vec<GroupRow>>;

    /// The groups that have not ended, in the order in which they began.
    fn running_groups(&self) -> Answer<'_, Vec<GroupId>>;

    /// With what a group was begun.
    fn begun_with(&self, id: GroupId) -> Answer<'_, Option<BegunWith>>;

    /// The group that was begun under this key.
    fn group_of_key(&self, key: String) -> Answer<'_, Option<GroupId>>;

    /// The node of this name.
    fn node(&self, name: String) -> Answer<'_, Option<NodeRow>>;

    /// Keeps a token, or what has changed about one, together with the line that says who did it. `was` is the row
    /// that it takes the place of, `None` where the token is new. Where another row is there by now, nothing is
    /// written, and the answer is false: or a revocation could be undone by who had read the token before it.
    fn put_token(&self, token: TokenRow, was: Option<TokenRow>, audit: Audit) -> Answer<'_, bool>;

    /// The token whose secret has this hash.
    fn token(&self, hash: [u8; 32]) -> Answer<'_, Option<TokenRow>>;

    /// The tokens in the order of their ids, after the given one.
    fn tokens(&self, after: Option<String>, limit: u32) -> Answer<'_, Vec<TokenRow>>;

    /// Adds lines to the audit log that belong to no append: what was refused, for one.
    fn audit(&self, lines: Vec<Audit>) -> Answer<'_, ()>;

    /// The audit log, newest first, before the given number.
    fn audited(&self, before: Option<u64>, limit: u32) -> Answer<'_, Vec<(u64, Audit)>>;

    /// Throws away what nobody has to keep, a bounded part of it at a time. What no snapshot has taken in yet is
    /// stepped over, and looked at again when the next round begins.
    fn discard(&self, older: Discard) -> Answer<'_, Discarded>;

    /// Whether it can write and read now.
    fn check(&self) -> Answer<'_, ()>;
}

/// A state machine with a log of its own.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Machine {
    /// Who is there.
    Fleet,
    /// One job.
    Job(JobId),
    /// One group of jobs.
    Group(GroupId),
}

/// The name of a group to the world: a UUIDv7, so that they stand in the order in which they began. Its spec's name may be
/// that of many.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct GroupId(pub Uuid);

impl GroupId {
    /// One that there never was.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for GroupId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for GroupId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The store's own number of a log.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LogId(pub i64);

/// A log to be owned.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose it is.
    pub machine: Machine,
    /// What the machine is made with, if it has no log yet.
    pub seed: u64,
}

/// A log that is owned.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Whose it is.
    pub machine: Machine,
    /// Its number.
    pub log: LogId,
    /// What the machine is made with.
    pub seed: u64,
    /// The fencing token: grows with every claim of this log.
    pub epoch: u64,
    /// The position of its last entry.
    pub seq: u64,
}

/// All that one commit changes about one machine.
#[derive(Clone, Debug)]
pub struct Append {
    /// Which log.
    pub log: LogId,
    /// The claim under which it is written.
    pub epoch: u64,
    /// The position of the last entry that is there already.
    pub expected: u64,
    /// What comes after it.
    pub lines: Vec<Line>,
    /// The machine after the last of these lines.
    pub snapshot: Option<Vec<u8>>,
    /// What is now to be read of the job.
    pub job: Option<JobRow>,
    /// The deployments that changed.
    pub deployments: Vec<DeploymentRow>,
    /// The targets of deployments that are put aside, as JSON, in the order of their numbers.
    pub targets: Vec<(DeploymentId, Vec<String>)>,
    /// What is now to be read of the group.
    pub group: Option<GroupRow>,
    /// With what it was begun, together with its first row.
    pub begun_with: Option<BegunWith>,
    /// The nodes that changed.
    pub nodes: Vec<NodeRow>,
    /// The nodes that are gone.
    pub nodes_gone: Vec<String>,
    /// Who wanted it.
    pub audit: Vec<Audit>,
}

/// One entry of a log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// Its position, from 1, without gaps.
    pub seq: u64,
    /// The deployment that it belongs to, by its number within the job, and that one's revision.
    pub of: Option<(u32, u64)>,
    /// When it was written.
    pub at: Time,
    /// As the machine encodes it.
    pub text: String,
    /// What it says to people, as JSON: nobody rebuilds a machine from that.
    pub words: Option<String>,
}

/// One entry as the feed shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Where it is in the feed.
    pub position: u64,
    /// Whose log it is in.
    pub log: LogId,
    /// The entry.
    pub line: Line,
}

/// Why an append was not taken: what the owner holds is no longer the truth. It drops the machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// Somebody claimed the log after this owner did.
    #[error("the log has another owner now, of epoch {epoch}")]
    Fenced {
        /// The epoch of the latest claim.
        epoch: u64,
    },
    /// The log ends elsewhere.
    #[error("the log ends at entry {seq}")]
    Position {
        /// The position of its last entry.
        seq: u64,
    },
}

/// A job as it is listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct JobRow {
    /// Its name.
    pub id: JobId,
    /// What there is to say, as JSON.
    pub record: String,
}

/// A deployment as it is read and listed. What can be filtered and ordered by stands beside its record.
#[derive(Clone, Debug, PartialEq)]
pub struct DeploymentRow {
    /// Its name to the world.
    pub id: DeploymentId,
    /// The job's log.
    pub log: LogId,
    /// Its number within the job.
    pub number: u32,
    /// Whose it is.
    pub job: JobId,
    /// `create`, `update`, …
    pub kind: DeploymentKind,
    /// `pending`, `in_progress`, …
    pub state: DeploymentState,
    /// Where it comes from.
    pub from_version: u32,
    /// Where it goes to.
    pub to_version: u32,
    /// How many targets it has.
    pub total_nodes: u32,
    /// How many of them are updated.
    pub updated_nodes: u32,
    /// How many of them failed.
    pub failed_nodes: u32,
    /// Grows with every change.
    pub revision: u64,
    /// When it began.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// When it ended.
    pub completed_at: Option<Time>,
    /// The record, as JSON.
    pub record: String,
}

/// A group as it is read and listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupRow {
    /// Which.
    pub id: GroupId,
    /// As its spec calls it.
    pub name: String,
    /// When it ended.
    pub completed_at: Option<Time>,
    /// What there is to say, as JSON.
    pub record: String,
}

/// With what a group was begun. It never changes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BegunWith {
    /// The key under which it is begun once.
    pub key: Option<String>,
    /// What it brings its jobs to, as JSON.
    pub wanted: String,
}

/// A node as it is listed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// What there is to say, as JSON.
    pub record: String,
}

/// A token, of which only a hash is kept.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TokenRow {
    /// What it is called in lists and when it is revoked.
    pub id: String,
    /// The hash of its secret.
    pub hash: [u8; 32],
    /// What its holder may do, and what else there is to say, as JSON.
    pub record: String,
}

/// Who did what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Audit {
    /// When.
    pub at: Time,
    /// Who, what, to which, and what came of it, as JSON.
    pub record: String,
}

/// What may be thrown away. Of a log only entries go that its latest snapshot has taken in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Discard {
    /// Deployments that ended before this, with their targets and entries; but of each job the last one stays. And
    /// groups that ended before this.
    pub deployments: Time,
    /// Entries that were written before this and belong to no deployment that is kept.
    pub entries: Time,
    /// Lines of the audit log before this.
    pub audit: Time,
    /// At most so many rows in this call.
    pub rows_max: u32,
}

/// How far a call of [`Store::discard`] has come.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Discarded {
    /// Whether the round goes on: the next call begins another one if not.
    pub more: bool,
    /// Whose log has something that could have gone, had a snapshot of theirs taken it in.
    pub held: Vec<Machine>,
}

/// The store did not do what it was asked. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not known whether the commit took place: read before it is tried again.
    #[error("the store did not answer: it is not known whether the change was made")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No room. Nothing of the commit was written.
    #[error("no space left in {place}: make room there; what was acknowledged is safe")]
    Full {
        /// Where.
        place: String,
    },
    /// It cannot be written to.
    #[error(
        "{place} cannot be written: check its owner, its permissions, and how the file system is mounted"
    )]
    ReadOnly {
        /// Where.
        place: String,
    },
    /// What is there under this name now is another file, or none. Nothing of the commit was written.
    #[error(
        "{place} was deleted or replaced while the server ran: put it back, or start the server anew with what is there"
    )]
    Gone {
        /// Where.
        place: String,
    },
    /// A newer program wrote it.
    #[error(
        "{place} is of version {found}, and this program knows versions up to {known}: run the newer program that wrote it"
    )]
    Newer {
        /// Where.
        place: String,
        /// Its version.
        found: u32,
        /// The highest that is known.
        known: u32,
    },
    /// It has nothing in it, not even tables.
    #[error(
        "{place} is empty, and a store never is: put it aside, and restore a backup; or remove it, if there was nothing yet"
    )]
    Empty {
        /// Where.
        place: String,
    },
    /// Its log is there, and it is not.
    #[error(
        "{place} is missing, though its log is there ({place}-wal): put it back, or restore a backup"
    )]
    Missing {
        /// Where.
        place: String,
    },
    /// It is to be a directory.
    #[error("{place} cannot be a directory: there is a file in its place")]
    NoDirectory {
        /// Where.
        place: String,
    },
    /// Another process has it.
    #[error("{place} is in use by another server{}: stop that one first, or give this one another directory", by(*.pid))]
    InUse {
        /// Where.
        place: String,
        /// The other process, where it is known.
        pid: Option<u32>,
    },
    /// It is damaged, or something else altogether.
    #[error("{place} is damaged or no data of this program: put it aside, and restore a backup")]
    Corrupt {
        /// Where.
        place: String,
        /// What was found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Anything else.
    #[error("the store failed in {place}")]
    Failed {
        /// Where.
        place: String,
        /// How.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn by(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})"))
        .unwrap_or_default()
}
