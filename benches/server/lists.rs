//! Pages of a list with a filter, among few deployments and among many.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use orchestrator_api::store::sqlite::Sqlite;
use orchestrator_api::store::{Append, DeploymentRow, LogId, Machine, Store, Wanted};
use orchestrator_benches::table::{Cell, Table, size};
use orchestrator_core::{DeploymentKind, DeploymentState, JobId, Time};

use super::child::Listening;
use super::client::Line;
use crate::options::Process;

/// Each with every order. The last ones find nothing, or next to nothing, and look at all the more.
const FILTERS: [&str; 8] = [
    "state = failed AND namespace = prod",
    "namespace = staging AND job_id = web AND NOT state = completed",
    "state = pending OR state = paused",
    "job_id : SEARCH",
    "failed_nodes > 0",
    "updated_nodes < 500 AND to_version != 7",
    "total_nodes = 77777",
    "nothing",
];
const ORDERS: [&str; 8] = [
    "",
    "created_at desc",
    "updated_at desc",
    "state, updated_at desc",
    "updated_nodes desc",
    "to_version",
    "completed_at desc",
    "failed_nodes desc, total_nodes, type",
];
/// So many pages of each, from the first one on.
const PAGES: usize = 20;
const PAGE_SIZE: usize = 50;
/// Milliseconds from one deployment to the next.
const APART: u64 = 2000;
/// Rows in a transaction.
const CHUNK: u64 = 2000;

pub(crate) async fn table(sizes: [usize; 2]) -> Table {
    let mut table = Table::new(
        "7. Lists of deployments with a filter, one page after the other",
        &["deployments", "pages", "p50 ms", "p99 ms", "longest ms"],
        "GET /v1/deployments with each of 8 filters in each of 8 orders, up to 20 pages of at most 50 rows. Compared to \
         the first row.",
    );
    let mut first: Option<[f64; 3]> = None;
    for count in sizes {
        eprintln!("{} deployments …", size(count));
        let mut took = pages(count).await;
        took.sort_unstable();
        let at = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        let these = [at(50), at(99), at(100)];
        let those = *first.get_or_insert(these);
        let mut cells = vec![size(count).into(), (took.len() as f64).into()];
        cells.extend(std::iter::zip(these, those).map(|(this, that)| Cell::against(this, that)));
        table.row(cells);
    }
    table
}

/// How long each page took.
async fn pages(count: usize) -> Vec<Duration> {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    fill(&data, count).await;
    let server = Listening::start(Process::Serve, &data);
    let mut line = Line::open(server.address).await;
    let mut took = Vec::new();
    for filter in FILTERS {
        for order in ORDERS {
            let list = format!(
                "/v1/deployments?page_size={PAGE_SIZE}&filter={}&order_by={}",
                escaped(filter),
                escaped(order)
            );
            let mut path = list.clone();
            for _ in 0..PAGES {
                let begun = Instant::now();
                let status = line.ask("GET", &path, "").await;
                took.push(begun.elapsed());
                let text = String::from_utf8_lossy(line.body());
                assert_eq!(status, 200, "{path}: {text}");
                let page: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                let Some(token) = page["next_page_token"].as_str() else {
                    break;
                };
                path = format!("{list}&page_token={}", escaped(token));
            }
        }
    }
    took
}

/// A store of so many deployments, as years of a fleet leave them.
async fn fill(data: &Path, count: usize) {
    let store = Sqlite::open(data).expect("a store");
    let machine = Machine::Job("prod/web".parse().expect("a name"));
    let claims = store.claim(vec![Wanted { machine, seed: 1 }]).await;
    let claim = claims.expect("claimed").pop().expect("it is nobody's");
    let mut draw = Draw(7);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = since.expect("a clock").as_millis() as u64;
    let count = count as u64;
    // The last one was a moment ago, and all are within what a server keeps.
    let at = |number| Time::from_millis(now - (count - number) * APART);
    for first in (0..count).step_by(CHUNK as usize) {
        let numbers = first..count.min(first + CHUNK);
        let append = Append {
            log: claim.log,
            epoch: claim.epoch,
            expected: claim.seq,
            lines: Vec::new(),
            snapshot: None,
            job: None,
            deployments: numbers
                .map(|n| row(&mut draw, claim.log, n, at(n)))
                .collect(),
            targets: Vec::new(),
            group: None,
            begun_with: None,
            nodes: Vec::new(),
            nodes_gone: Vec::new(),
            audit: Vec::new(),
        };
        let taken = store.commit(vec![append]).await.expect("written");
        assert_eq!(taken, [Ok(())]);
    }
}

fn row(draw: &mut Draw, log: LogId, number: u64, created: Time) -> DeploymentRow {
    let namespace = draw.one(&["prod", "staging", "default"]);
    let name = draw.one(&["web", "search-index", "billing_1"]);
    let state = draw.one(&[
        DeploymentState::Completed,
        DeploymentState::Completed,
        DeploymentState::Completed,
        DeploymentState::Failed,
        DeploymentState::Canceled,
    ]);
    let ended = Time::from_millis(created.as_millis() + draw.below(3_600_000));
    let id = uuid(created, number);
    let total = 1 + draw.below(1000) as u32;
    let record = format!(
        r#"{{"id":"{id}","job_id":"{name}","namespace":"{namespace}","status":{{"message":"{}"}}}}"#,
        "as long as a record is ".repeat(40)
    );
    DeploymentRow {
        id: id.parse().expect("a UUID"),
        log,
        number: number as u32,
        job: JobId::new(namespace, name).expect("a name"),
        kind: draw.one(&[
            DeploymentKind::Create,
            DeploymentKind::Update,
            DeploymentKind::Update,
            DeploymentKind::Restart,
            DeploymentKind::Stop,
        ]),
        state,
        from_version: draw.below(200) as u32,
        to_version: draw.below(200) as u32,
        total_nodes: total,
        updated_nodes: draw.below(total.into()) as u32,
        failed_nodes: u32::from(draw.below(50) == 0),
        revision: draw.below(10_000),
        created_at: created,
        updated_at: ended,
        completed_at: Some(ended),
        record,
    }
}

/// In the order of time and number.
fn uuid(at: Time, number: u64) -> String {
    let at = at.as_millis();
    format!(
        "{:08x}-{:04x}-7000-8000-{number:012x}",
        at >> 16,
        at & 0xffff
    )
}

/// The same numbers in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        let next = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = next.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// As a value in a query.
fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        byte => format!("%{byte:02x}"),
    };
    text.bytes().map(byte).collect()
}
