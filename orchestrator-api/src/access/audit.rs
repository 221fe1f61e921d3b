//! The audit log: who did what, to which, and what came of it.
//!
//! What changes something is written in the transaction that changes it. What has no transaction of its own comes
//! from here: at once for what was done, and through a journal for what was denied, which must cost little.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use orchestrator_core::Time;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::throttle::Bucket;
use crate::store::{Audit, Store, StoreError};

/// What came of what was simply done.
pub(crate) const DONE: &str = "done";
/// How many lines wait to be written before more are only counted.
const WAITING_MAX: usize = 1024;
/// How many of them are written together.
const TOGETHER_MAX: usize = 256;
/// Denied requests are written at this rate in the long run: somebody who tries for a day fills some tens of
/// megabytes at most, and not the disk.
const DENIED: Bucket = Bucket::new(200.0, 1.0);
/// After which time it is said how many were left out.
const LEFT_OUT_AFTER: Duration = Duration::from_secs(10);

/// A line of the audit log.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Record<'a> {
    pub(crate) who: Cow<'a, str>,
    pub(crate) request: Cow<'a, str>,
    pub(crate) action: Cow<'a, str>,
    pub(crate) object: Cow<'a, str>,
    pub(crate) outcome: Cow<'a, str>,
}

impl Record<'_> {
    pub(crate) fn at(&self, at: Time) -> Audit {
        Audit {
            at,
            record: serde_json::to_string(self).expect("a record of texts"),
        }
    }
}

/// A line as it is listed.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listed {
    /// Its number.
    pub number: u64,
    /// When, as RFC 3339.
    pub at: String,
    /// A token's name and id, or what else tells one caller from another.
    pub who: String,
    /// The request by which it came, to be found in the logs.
    pub request: String,
    /// What was done or tried.
    pub action: String,
    /// To which job, node or token, or at which path.
    pub object: String,
    /// What came of it.
    pub outcome: String,
}

/// Lines, newest first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Lines {
    /// Some of them.
    pub items: Vec<Listed>,
    /// Before which number the next page begins, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The lines before a number, newest first.
pub async fn list(store: &dyn Store, before: Option<u64>, limit: u32) -> Result<Lines, StoreError> {
    let limit = limit.clamp(1, 1000);
    let mut rows = store.audited(before, limit + 1).await?;
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next = rows.last().filter(|_| more).map(|&(number, _)| number);
    let items = rows.into_iter().map(listed).collect();
    Ok(Lines { items, next })
}

fn listed((number, line): (u64, Audit)) -> Listed {
    // A line that cannot be read is shown as it is: no line of this log may be hidden by another.
    let record = serde_json::from_str(&line.record).unwrap_or_else(|_| Record {
        who: "".into(),
        request: "".into(),
        action: "unreadable".into(),
        object: line.record.as_str().into(),
        outcome: "".into(),
    });
    Listed {
        number,
        at: line.at.to_string(),
        who: record.who.into_owned(),
        request: record.request.into_owned(),
        action: record.action.into_owned(),
        object: record.object.into_owned(),
        outcome: record.outcome.into_owned(),
    }
}

/// Takes lines that nobody waits for, and writes them together. It ends with the last of its clones, once all is
/// written.
#[derive(Clone, Debug)]
pub(super) struct Journal(mpsc::Sender<Audit>);

impl Journal {
    pub(super) fn start(store: Arc<dyn Store>) -> Self {
        let (lines, inbox) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write(store, inbox));
        Self(lines)
    }

    /// Takes a line, or drops it where too many wait.
    pub(super) fn say(&self, line: Audit) {
        if self.0.try_send(line).is_err() {
            tracing::warn!("a line of the audit log was dropped: the store is too slow");
        }
    }
}

async fn write(store: Arc<dyn Store>, mut inbox: mpsc::Receiver<Audit>) {
    let mut bucket = DENIED.full();
    let mut left_out: u32 = 0;
    let mut waiting = Vec::new();
    loop {
        let until = Instant::now() + LEFT_OUT_AFTER;
        let received = if left_out == 0 {
            Ok(inbox.recv_many(&mut waiting, TOGETHER_MAX).await)
        } else {
            timeout_at(until, inbox.recv_many(&mut waiting, TOGETHER_MAX)).await
        };
        let ends = received == Ok(0);
        waiting.retain(|_| {
            let kept = bucket.take(Instant::now());
            left_out += u32::from(!kept);
            kept
        });
        if left_out > 0 && (ends || received.is_err() || !waiting.is_empty()) {
            waiting.push(left_out_line(left_out));
            left_out = 0;
        }
        if !waiting.is_empty()
            && let Err(why) = store.audit(std::mem::take(&mut waiting)).await
        {
            tracing::error!(%why, "lines of the audit log were lost");
        }
        if ends {
            return;
        }
    }
}

fn left_out_line(count: u32) -> Audit {
    Record {
        who: "the server".into(),
        request: "".into(),
        action: "audit".into(),
        object: format!("{count} requests").into(),
        outcome: "denied, and too many to be written one by one".into(),
    }
    .at(super::now())
}
