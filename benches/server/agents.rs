//! Simulated agents: each listens on a connection of its own, and says at once that it is well. What they say goes
//! over a few connections that they share, or the kernel is measured that opens them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use tokio::sync::{Mutex, mpsc};

use super::client::Line;

/// How many requests are under way at a time.
pub(crate) const LINES: usize = 64;

#[derive(Deserialize)]
struct Desired {
    executions: Vec<Execution>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Execution {
    pub(crate) job: String,
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    pub(crate) target: Option<u32>,
}

/// What an agent was told, and what it said.
pub(crate) enum Seen {
    Told {
        agent: usize,
        execution: Execution,
        at: Instant,
    },
    /// When it was sent; it is answered by now.
    Said { generation: u64, sent: Instant },
}

pub(crate) fn name(agent: usize) -> String {
    format!("n{agent}")
}

/// Runs `each` for all numbers below `count`, on a few connections.
pub(crate) async fn share<F>(to: SocketAddr, count: usize, each: F)
where
    F: AsyncFn(&mut Line, usize) + Clone + 'static,
{
    let next = Arc::new(Mutex::new(0..count));
    let local = tokio::task::LocalSet::new();
    for _ in 0..LINES.min(count) {
        let (next, each) = (next.clone(), each.clone());
        local.spawn_local(async move {
            let mut line = Line::open(to).await;
            loop {
                let Some(number) = next.lock().await.next() else {
                    return;
                };
                each(&mut line, number).await;
            }
        });
    }
    local.await;
}

/// Lets all of them listen.
pub(crate) async fn listen(to: SocketAddr, count: usize, seen: &mpsc::UnboundedSender<Seen>) {
    for agent in 0..count {
        let path = format!("/v1/agent/stream?node={}", name(agent));
        let mut events = Line::open(to).await.listen(&path).await;
        // The first says what there is: nothing yet.
        events.next().await.expect("what it should run");
        let seen = seen.clone();
        tokio::spawn(async move {
            let mut last = 0;
            while let Some(data) = events.next().await {
                let desired: Desired = serde_json::from_str(&data).expect("what it should run");
                let at = Instant::now();
                for execution in desired.executions {
                    if execution.target.is_none() || execution.generation <= last {
                        continue;
                    }
                    last = execution.generation;
                    let told = Seen::Told {
                        agent,
                        execution,
                        at,
                    };
                    if seen.send(told).is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// A report that all is well.
pub(crate) fn report(agent: usize, execution: &Execution, number: u32) -> String {
    let Execution {
        job,
        slot,
        generation,
        target,
    } = execution;
    let target = target.expect("it is waited for");
    format!(
        r#"{{"node":"{}","reports":[{{"job":"{job}","slot":{slot},"generation":{generation},"target":{target},"number":{number},"observation":{{"kind":"interval","checks":true}}}}]}}"#,
        name(agent)
    )
}
