//! Looks after a run: one task for each of its checks, and one for its counters
//! or its lines.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Sight;
use super::lines::{Lines, Patterns};
use super::prometheus::Counters;
use crate::driver::Driver;
use crate::net::{Address, Connection, within};
use crate::runs::{Run, RunId};
use crate::workload::{self, Check, ErrorRate, Probe};

const PAGE_BYTES_MAX: usize = 1 << 20;
const PAGE_WITHIN: Duration = Duration::from_secs(5);
/// Before the first look: hardly anything is there at once.
const SOON: Duration = Duration::from_millis(100);
/// Between two looks at what comes up.
const STARTING: Duration = Duration::from_millis(500);

/// Between two looks at what was written.
const LINES_EVERY: Duration = Duration::from_millis(500);
/// A look is followed by a rest so many times as long: it takes no more than a fifth of a core, whatever is written and looked for.
const LINES_REST: u32 = 4;
const IN_PART: &str =
    "it writes faster than its lines can be counted: the error rate is that of a part of them";

/// Looks after a run for as long as this lives.
#[derive(Debug)]
pub(crate) struct Watch {
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Sends what it sees; of the output of a run that was found, only what comes from now on.
    pub(crate) fn start(
        run: &Arc<Run>,
        is_fresh: bool,
        driver: &Arc<dyn Driver>,
        sights: &mpsc::Sender<(RunId, Sight)>,
    ) -> Self {
        let mut tasks = JoinSet::new();
        for (number, check) in run.workload.checks.iter().enumerate() {
            if check.probe != Probe::Process {
                tasks.spawn(check_on(
                    run.clone(),
                    driver.clone(),
                    number,
                    sights.clone(),
                ));
            }
        }
        match &run.workload.error_rate {
            Some(ErrorRate::Prometheus { .. }) => {
                tasks.spawn(count(run.clone(), is_fresh, sights.clone()));
            }
            Some(ErrorRate::Logs { requests, failed }) => {
                if let Ok(patterns) = Patterns::read(requests, failed) {
                    let lines = Lines::new(&run.dir, patterns, is_fresh);
                    tasks.spawn(count_lines(run.clone(), lines, sights.clone()));
                }
            }
            Some(ErrorRate::Checks {}) | None => {}
        }
        Self { _tasks: tasks }
    }
}

async fn check_on(
    run: Arc<Run>,
    driver: Arc<dyn Driver>,
    number: usize,
    sights: mpsc::Sender<(RunId, Sight)>,
) {
    let check = &run.workload.checks[number];
    let began = Instant::now();
    let mut is_up = false;
    sleep(SOON.min(check.interval)).await;
    loop {
        let result = match within(check.timeout, probe(&run, &*driver, check)).await {
            Ok(result) => result.map_err(|why| why.to_string()),
            Err(_) => Err(format!(
                "no answer within {}",
                humantime::format_duration(check.timeout)
            )),
        };
        let passed = result.is_ok();
        let sight = Sight::Checked {
            check: number,
            result,
        };
        if sights.send((run.id.clone(), sight)).await.is_err() {
            return;
        }
        is_up |= passed;
        // That it has come up is worth knowing soon.
        match is_up || began.elapsed() >= check.start_period {
            true => sleep(check.interval).await,
            false => sleep(STARTING.min(check.interval)).await,
        }
    }
}

/// An error is a failure.
async fn probe(run: &Run, driver: &dyn Driver, check: &Check) -> io::Result<()> {
    let port = |port| {
        run.port(port)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    };
    match &check.probe {
        Probe::Http { port: of, path } => {
            let status = status(port(of)?, &run.expand(path), check.timeout).await?;
            match (200..400).contains(&status) {
                true => Ok(()),
                false => Err(io::Error::other(format!("status {status}"))),
            }
        }
        Probe::Tcp { port: of } => tokio::net::TcpStream::connect(("127.0.0.1", port(of)?))
            .await
            .map(drop),
        Probe::Command { command } => {
            let words: Vec<String> = command.iter().map(|word| run.expand(word)).collect();
            match driver.run(run, &words).await? {
                0 => Ok(()),
                code => Err(io::Error::other(format!("it ended with {code}"))),
            }
        }
        Probe::Process => Ok(()),
    }
}

async fn count(run: Arc<Run>, is_fresh: bool, sights: mpsc::Sender<(RunId, Sight)>) {
    let Some(ErrorRate::Prometheus {
        port,
        path,
        requests,
        failed,
    }) = &run.workload.error_rate
    else {
        return;
    };
    let port = workload::known(port.as_ref(), &run.workload.ports);
    let port = port.and_then(|port| {
        run.port(&port)
            .ok_or_else(|| "it has no such port".to_owned())
    });
    let counters = Counters::new(requests, failed, is_fresh);
    let (port, mut counters) = match port.and_then(|port| Ok((port, counters?))) {
        Ok(both) => both,
        // What runs since before this agent may have a document that it cannot read.
        Err(why) => {
            let _ = sights
                .send((run.id.clone(), Sight::Counted(Err(why))))
                .await;
            return;
        }
    };
    let path = run.expand(path.as_deref().unwrap_or("/metrics"));
    // Twice in an interval, so that each has one.
    let pause = run.workload.interval / 2;
    let mut failures = 0_u32;
    sleep(SOON.min(pause)).await;
    loop {
        let counted = match page(port, &path).await {
            Ok(page) => counters.read(&String::from_utf8_lossy(&page)),
            Err(why) => Err(why.to_string()),
        };
        let counted = counted.map_err(|why| format!("port {port}, {path}: {why}"));
        failures = match &counted {
            Ok(_) => 0,
            Err(why) => {
                // The first may be that it is not up yet.
                if failures == 1 {
                    tracing::warn!(run = %run.id, why, "its counters cannot be read: it has no error rate");
                }
                failures.saturating_add(1)
            }
        };
        if sights
            .send((run.id.clone(), Sight::Counted(counted)))
            .await
            .is_err()
        {
            return;
        }
        sleep(pause).await;
    }
}

async fn count_lines(run: Arc<Run>, mut lines: Lines, sights: mpsc::Sender<(RunId, Sight)>) {
    let pause = LINES_EVERY.min(run.workload.interval / 2);
    loop {
        let began = Instant::now();
        // Some MiB may have to be searched.
        let looked = tokio::task::spawn_blocking(move || {
            let found = lines.look();
            (lines, found)
        });
        let Ok((back, found)) = looked.await else {
            return;
        };
        lines = back;
        let took = began.elapsed();
        if found.is_in_part {
            run.remark(IN_PART);
        }
        let (requests, failed) = (found.requests, found.failed);
        let sight = Sight::Lines { requests, failed };
        let is_new = (requests, failed) != (0, 0);
        if is_new && sights.send((run.id.clone(), sight)).await.is_err() {
            return;
        }
        sleep(pause.max(took * LINES_REST)).await;
    }
}

/// How it is answered. What the answer goes on with is not waited for: it may have no end.
async fn status(port: u16, path: &str, limit: Duration) -> io::Result<u16> {
    let (mut connection, request) = question(port, path).await?;
    let answer = connection.send(request, limit).await?;
    Ok(answer.status().as_u16())
}

async fn page(port: u16, path: &str) -> io::Result<Bytes> {
    let got = within(PAGE_WITHIN, async {
        let (mut connection, request) = question(port, path).await?;
        connection.ask(request, PAGE_BYTES_MAX, PAGE_WITHIN).await
    });
    match got.await?? {
        (StatusCode::OK, page) => Ok(page),
        (status, _) => Err(io::Error::other(format!("status {}", status.as_u16()))),
    }
}

async fn question(port: u16, path: &str) -> io::Result<(Connection, Request<Full<Bytes>>)> {
    let address = Address::here(port);
    let connection = address.connect().await?;
    let request = address.request("GET", path).header("connection", "close");
    let request = request.body(Full::default()).map_err(io::Error::other)?;
    Ok((connection, request))
}
