//! What is old is thrown away, a little at a time.
//!
//! What a machine could still need is for the [store](Store::discard) to know: an entry goes only after a snapshot has
//! taken it in, and a deployment only after it has ended and its job has had another. A machine whose log is short has
//! none: it is snapshot once something of its log has got old, and the next round discards that. Each snapshot takes in
//! all that came since, so that there is about one of each machine in the time that things are kept for.
//!
//! Nothing in this server reads the [feed](Store::changes) from behind; what will has to be waited for here.

use std::time::Duration;

use orchestrator_core::{Span, Time};
use tokio::time::sleep;

use super::options::Keep;
use crate::access::now;
use crate::engine::{EngineError, Handle, chain};
#[cfg(doc)]
use crate::store::Store;
use crate::store::{Discard, Discarded};

/// Rows that go in one transaction: whoever waits to be written waits for these too.
const ROWS_MAX: u32 = 500;
/// The store is left alone for so long between two of them.
const BETWEEN: Duration = Duration::from_millis(20);
/// How often it is looked for what is old: ten times while the shortest-lived gets old, within these bounds.
const EVERY_MIN: Duration = Duration::from_secs(1);
const EVERY_MAX: Duration = Duration::from_secs(600);

/// Goes on for as long as it is let.
pub(super) async fn go_on(engine: Handle, keep: Keep) {
    let every = every(keep);
    loop {
        sleep(every).await;
        if let Err(why) = round(&engine, older(keep, now())).await {
            tracing::warn!(why = chain(&why), "what is old was not thrown away");
        }
    }
}

async fn round(engine: &Handle, older: Discard) -> Result<(), EngineError> {
    loop {
        let Discarded { more, held } = engine.store().discard(older).await?;
        for machine in held {
            // One at a time: between two of them the engine does what else there is to do.
            engine.snapshot(machine).await?;
        }
        if !more {
            return Ok(());
        }
        sleep(BETWEEN).await;
    }
}

fn every(keep: Keep) -> Duration {
    let Keep {
        keep_deployments,
        keep_events,
        keep_audit,
    } = keep;
    let shortest = keep_deployments.min(keep_events).min(keep_audit);
    Duration::from_millis(shortest.as_millis() / 10).clamp(EVERY_MIN, EVERY_MAX)
}

fn older(keep: Keep, now: Time) -> Discard {
    let before = |span: Span| Time::from_millis(now.as_millis().saturating_sub(span.as_millis()));
    Discard {
        deployments: before(keep.keep_deployments),
        entries: before(keep.keep_events),
        audit: before(keep.keep_audit),
        rows_max: ROWS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(deployments: &str, events: &str, audit: &str) -> Keep {
        let span = |text: &str| text.parse().expect("a span");
        Keep {
            keep_deployments: span(deployments),
            keep_events: span(events),
            keep_audit: span(audit),
        }
    }

    #[test]
    fn each_kind_has_its_own_age_and_what_is_kept_for_ever_is() {
        let now = Time::from_millis(1_000_000);
        let older = older(keep("1s", "10s", "1000y"), now);
        assert_eq!(older.deployments, Time::from_millis(999_000));
        assert_eq!(older.entries, Time::from_millis(990_000));
        assert_eq!(older.audit, Time::from_millis(0));
    }

    #[test]
    fn it_looks_more_often_where_less_is_kept() {
        assert_eq!(every(keep("90d", "1y", "1y")), EVERY_MAX);
        assert_eq!(every(keep("1y", "100s", "1y")), Duration::from_secs(10));
        assert_eq!(every(keep("1y", "1y", "0s")), EVERY_MIN);
    }
}
