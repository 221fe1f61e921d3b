//! What can run a workload.

pub mod docker;
pub mod exec;
pub mod external;
mod usage;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use self::usage::Usage;
use crate::disk;
use crate::plan::End;
use crate::runs::{Run, RunId};
use crate::shim::{ENDED, Ended};
use crate::workload::Workload;

/// What agents would refuse of a job document, whatever their nodes, or what none could ever achieve: so that whoever writes
/// one need not wait for a node to say it. Of a driver that is none of these, nothing.
pub fn check(document: &serde_json::Value) -> Result<(), String> {
    let of_driver = match document["driver"].as_str() {
        Some("exec") => exec::check,
        Some("docker") => docker::check,
        Some("external") => external::check,
        _ => return Ok(()),
    };
    let workload = Workload::read(document)?;
    of_driver(&workload)?;
    workload.check_words(document)?;
    workload.check_deadline(document)
}

/// Takes a run's directory away, aside: it may be large.
async fn remove(dir: &Path) -> io::Result<()> {
    let dir = dir.to_owned();
    let removed = tokio::task::spawn_blocking(move || disk::remove_directory(&dir)).await;
    removed.map_err(io::Error::other)?
}

/// Writes down how a run ended. Where that cannot be, it has ended all the same: whoever looks again finds the same, and
/// what could not start is told to who has begun it.
fn note_end(dir: &Path, ended: Ended) -> Look {
    if let Err(why) = disk::note_json(&dir.join(ENDED), &ended) {
        tracing::error!(dir = %dir.display(), %why, "the end of a run cannot be written down");
    }
    ended.into()
}

/// Something that goes on for a while.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs workloads of one kind. It decides nothing: not whether, not when, not how often.
///
/// What it starts outlives it. All that it knows of a run is in the run's directory, or with whom it had run it (an
/// engine of containers, by a name that follows from the run's id), so that another process of the same agent finds it again.
pub trait Driver: fmt::Debug + Send + Sync {
    /// Whether it could run this; else the sentence that says why not. Before anything else is done with it.
    fn check(&self, workload: &Workload) -> Result<(), String>;

    /// Sees to it that what a workload needs of whoever runs it is here: an image, a user. That is before anything ends for it, and
    /// once for each assignment; it may be given up at any moment. An error is said, and it is tried again. `None` where
    /// there is nothing to do.
    fn provide<'a>(&'a self, _workload: &'a Workload) -> Option<Doing<'a, Result<(), Lack>>> {
        None
    }

    /// Starts a run whose directory is there. At most once: a run that was begun before, by whomever, is not begun
    /// again. An error is its end, unless a look shows that it is there all the same: it cannot start, and this is why.
    fn start<'a>(&'a self, run: &'a Run) -> Doing<'a, Result<(), String>>;

    /// Where it is.
    fn look<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<Look>>;

    /// Tells it to end, or ends it.
    fn stop<'a>(&'a self, run: &'a Run, how: Stop) -> Doing<'a, io::Result<()>>;

    /// Ready when a run that lives has ended, and perhaps sooner.
    fn ended<'a>(&'a self, run: &'a Run) -> Doing<'a, ()>;

    /// Runs a program where the run is, for a check; its exit code. What is not waited for any more ends, or is not begun
    /// a second time before it has.
    fn run<'a>(&'a self, run: &'a Run, command: &'a [String]) -> Doing<'a, io::Result<i64>>;

    /// Ends what it runs for this agent and is none of these: what was known of it is lost. Those are all runs that
    /// there were when the agent began. An error is said, and it is tried again.
    fn sweep<'a>(&'a self, _runs: &'a [Arc<Run>]) -> Doing<'a, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// What those use of the node that live, as far as that can be told at once.
    fn usage<'a>(&'a self, _runs: &'a [Arc<Run>]) -> Doing<'a, BTreeMap<RunId, Usage>> {
        Box::pin(async { BTreeMap::new() })
    }

    /// Which of these listens to a TCP port of this node, whether its document says so or not, as far as that can be seen.
    fn listens<'a>(&'a self, _runs: &'a [Arc<Run>], _port: u16) -> Doing<'a, Option<RunId>> {
        Box::pin(async { None })
    }

    /// Takes away what is left of a run that does not live. One that was not begun will never be; one that lives
    /// after all is an error.
    fn forget<'a>(&'a self, run: &'a Run) -> Doing<'a, io::Result<()>>;
}

/// Why what a workload needs is not here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lack {
    /// It is not here.
    Missing(String),
    /// Whether it is here is not known; after a few times that is told, too.
    Unknown(String),
}

/// Where a run is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Look {
    /// Not begun.
    Absent,
    /// Somebody begins it, and it does not live yet.
    Beginning,
    /// It lives.
    Running,
    /// It is over.
    Ended {
        /// How.
        how: End,
        /// How long it lived.
        ran: Duration,
    },
}

/// How to end a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stop {
    /// It may clean up first.
    Gracefully,
    /// Now.
    Now,
}
