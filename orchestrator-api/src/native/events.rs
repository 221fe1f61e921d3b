//! What happened in a deployment: its log, in pages or as it grows, and in plain words.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use orchestrator_core::{BrokenLog, DeploymentId, Entry, Explanation, Job, explain, retell};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::Ask;
use super::page::{cut, page, written};
use super::problem::Problem;
use super::{schema, sse};
use crate::engine::{ShownDeployment, Words, chain};
use crate::store::{DeploymentRow, Line, LogId, Store, StoreError};

/// How many entries a stream reads at a time.
const ENTRIES_PER_READ: u32 = 200;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(events))
        .routes(routes!(explanation))
}

/// The log of a deployment, oldest first: a page, or a stream that ends when the deployment is over and all was sent.
///
/// Each event of a stream has the revision as its id. A stream that is resumed after its end is answered with 204. One
/// that is resumed after an event that there is not, as after a backup was restored, begins anew.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/events", tag = "deployments",
    params(
        ("id" = uuid::Uuid, Path, description = "The deployment"),
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said. No matter to a stream"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before. No matter to a stream"),
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{0,19}$", description = "Resume a stream after this revision. Nothing is resumed if it is empty"),
    ),
    responses(
        (status = 200, content((schema::EventPage = "application/json"), (String = "text/event-stream"))),
        (status = 204, description = "The stream was resumed, and there will be no more"),
    )
)]
async fn events(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.deployment();
    let limit = ask.page_size();
    let list = id.map_or_else(String::new, |id| format!("events of {id}"));
    let after: u64 = ask.place(&list, |place| place.parse().ok()).unwrap_or(0);
    let streams = sse::is_wanted(ask.headers());
    let resumed = sse::last_event_id(&mut ask);
    let caller = ask.caller().clone();
    let id = ask.done(id)?;
    let shown = api.deployment(id).await?;
    if streams {
        let resumed = match resumed {
            // Who has seen more than there is has seen another history: it was put back to a backup. He sees this one
            // from its beginning. What is shown may be a moment behind what is kept.
            Some(last) if last > shown.revision => {
                let seen = api.handle().store().events(id, last - 1, 1).await?;
                Some(last).filter(|_| !seen.is_empty())
            }
            resumed => resumed,
        };
        let over = shown.state.is_final() && resumed.is_some_and(|last| last >= shown.revision);
        if over {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let tail = Tail::new(&api, id, resumed.unwrap_or(0));
        return sse::stream(&api, &caller, tail.events()).await;
    }
    let lines = api.handle().store().events(id, after, limit + 1).await?;
    let (lines, next) = cut(&list, lines, limit, |line| revision(line).to_string());
    let rows: Vec<String> = lines.iter().map(shown_line).collect();
    Ok(page("events", &rows, next))
}

/// One entry of the log, as the core writes it.
#[derive(Deserialize)]
struct Logged<'a> {
    kind: String,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// One entry of the log, as it is shown.
#[derive(Serialize)]
struct Shown<'a> {
    revision: u64,
    at: String,
    kind: &'a str,
    #[serde(flatten)]
    words: Words<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
}

fn shown_line(line: &Line) -> String {
    let logged: Result<Logged<'_>, _> = serde_json::from_str(&line.text);
    let (kind, body) = match &logged {
        Ok(logged) => (logged.kind.as_str(), logged.body),
        Err(why) => {
            tracing::error!(seq = line.seq, %why, "an entry of the log cannot be read");
            ("unreadable", None)
        }
    };
    let shown = Shown {
        revision: revision(line),
        at: line.at.to_string(),
        kind,
        words: words(line, kind),
        body,
    };
    serde_json::to_string(&shown).expect("it holds texts, numbers, and JSON")
}

/// What was written before there were words is said by its kind.
fn words<'a>(line: &'a Line, kind: &'a str) -> Words<'a> {
    let words = line.words.as_deref().map(serde_json::from_str);
    words.and_then(Result::ok).unwrap_or_else(|| Words {
        message: kind.into(),
        nodes: Vec::new(),
        node_count: 0,
    })
}

fn revision(line: &Line) -> u64 {
    line.of.map_or(0, |(_, revision)| revision)
}

/// The end of a log, as it grows.
struct Tail {
    store: Arc<dyn Store>,
    id: DeploymentId,
    after: u64,
    /// Absent where nothing comes any more.
    news: Option<watch::Receiver<Arc<ShownDeployment>>>,
    ready: VecDeque<Line>,
}

impl Tail {
    fn new(api: &Api, id: DeploymentId, after: u64) -> Self {
        Self {
            store: api.handle().store().clone(),
            id,
            after,
            news: api.handle().watch(id),
            ready: VecDeque::new(),
        }
    }

    fn events(self) -> impl Stream<Item = Sent> + Send {
        stream::unfold(self, |mut tail| async {
            let line = tail.next().await?;
            let id = revision(&line).to_string();
            Some((Sent::default().id(id).data(shown_line(&line)), tail))
        })
    }

    async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                self.after = revision(&line);
                return Some(line);
            }
            // Before reading: what is final then was written in full.
            let news = self.news.as_mut();
            let is_final = news.is_none_or(|news| news.borrow_and_update().state.is_final());
            let lines = self.store.events(self.id, self.after, ENTRIES_PER_READ);
            match lines.await {
                Ok(lines) => self.ready.extend(lines),
                Err(why) => {
                    // Whoever listens comes back with the last id that he has.
                    tracing::warn!(why = chain(&why), "a stream ends: its log cannot be read");
                    return None;
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            if is_final {
                return None;
            }
            if let Some(news) = self.news.as_mut()
                && news.changed().await.is_err()
            {
                self.news = None;
            }
        }
    }
}

/// Why a deployment is where it is, as a short chain of causes in plain words.
#[utoipa::path(
    get, path = "/v1/deployments/{id}/explain", tag = "deployments",
    params(("id" = uuid::Uuid, Path, description = "The deployment")),
    responses((status = 200, body = schema::ExplanationResponse))
)]
async fn explanation(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let id = ask.deployment();
    let id = ask.done(id)?;
    let row = api.handle().store().deployment(id).await?;
    let row = row.ok_or_else(|| Problem::not_found("deployment", id))?;
    let about = begins_with(&row)?;
    let seed = api.handle().look(row.job.clone(), |job| job.seed()).await?;
    let busy = || Problem::for_now("stopping", "the server is shutting down: try again");
    let turn = api.0.explaining.clone().acquire_owned().await;
    let turn = turn.map_err(|_| busy())?;
    let (store, runtime) = (
        api.handle().store().clone(),
        tokio::runtime::Handle::current(),
    );
    let told = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut log = Log::new(store, runtime, Of::Job(row.log));
        let entries = log.by_ref().map(|(entry, _)| entry);
        let told = explain(Job::new(row.job.clone(), seed), entries, about);
        match (log.failed, told) {
            (Some(why), _) => Err(why),
            // What is old of it is not kept any more.
            (None, Err(BrokenLog::Gap { .. })) => retold(log.store, log.runtime, row).map(Some),
            (None, Err(why)) => Err(Problem::for_now("unreadable", chain(&why))),
            (None, Ok(told)) => Ok(told),
        }
    });
    let told = told.await.map_err(|_| busy())??;
    let told = told.ok_or_else(|| Problem::not_found("deployment in the log", id))?;
    Ok(written(&explained(&told)))
}

/// What the record of a deployment says besides its row.
#[derive(Deserialize)]
struct Record {
    rollback_of: Option<DeploymentId>,
    rolled_back_by: Option<DeploymentId>,
    status: Status,
}

#[derive(Deserialize)]
struct Status {
    message: String,
}

fn record(row: &DeploymentRow) -> Result<Record, Problem> {
    serde_json::from_str(&row.record).map_err(|why| Problem::for_now("unreadable", chain(&why)))
}

/// What an explanation is to begin with: of what takes another one back, that is the other one.
fn begins_with(row: &DeploymentRow) -> Result<DeploymentId, Problem> {
    Ok(record(row)?.rollback_of.unwrap_or(row.id))
}

/// An explanation from what is kept for as long as a deployment is: its own entries, and their words.
fn retold(
    store: Arc<dyn Store>,
    runtime: tokio::runtime::Handle,
    row: DeploymentRow,
) -> Result<Explanation, Problem> {
    let find = |id| runtime.block_on(store.deployment(id));
    // What was taken back may be too old itself.
    let first = find(begins_with(&row)?)?.unwrap_or(row);
    let record_of_first = record(&first)?;
    let second = match record_of_first.rolled_back_by {
        Some(id) => find(id)?,
        None => None,
    };
    let mut now = record_of_first.status.message;
    if let Some(second) = &second {
        now = record(second)?.status.message;
    }
    let ids = [Some(first.id), second.map(|second| second.id)];
    let log = |id| Log::new(store.clone(), runtime.clone(), Of::Deployment(id));
    let mut logs: Vec<Log> = ids.into_iter().flatten().map(log).collect();
    let said = logs.iter_mut().flatten().map(|(entry, line)| {
        let message = words(&line, entry.event.kind()).message.into_owned();
        (entry, message)
    });
    let told = retell(said, now);
    let failed = logs.into_iter().find_map(|log| log.failed);
    failed.map_or(Ok(told), Err)
}

fn explained(told: &Explanation) -> schema::ExplanationResponse {
    let links = told.links.iter().map(|(at, text)| schema::Link {
        at: at.to_string(),
        text: text.clone(),
    });
    schema::ExplanationResponse {
        explanation: schema::Explanation {
            links: links.collect(),
            now: told.now.clone(),
        },
    }
}

/// Whose entries are read.
#[derive(Clone, Copy)]
enum Of {
    Job(LogId),
    Deployment(DeploymentId),
}

/// Entries, from the first one that is kept, read as they are needed.
struct Log {
    store: Arc<dyn Store>,
    runtime: tokio::runtime::Handle,
    of: Of,
    after: u64,
    ready: VecDeque<Line>,
    failed: Option<Problem>,
}

impl Log {
    fn new(store: Arc<dyn Store>, runtime: tokio::runtime::Handle, of: Of) -> Self {
        Self {
            store,
            runtime,
            of,
            after: 0,
            ready: VecDeque::new(),
            failed: None,
        }
    }

    fn read(&mut self) -> Result<Option<(Entry, Line)>, Problem> {
        if self.ready.is_empty() {
            let lines = match self.of {
                Of::Job(log) => self.store.entries(log, self.after, 1000),
                Of::Deployment(id) => self.store.events(id, self.after, 1000),
            };
            let lines: Result<Vec<Line>, StoreError> = self.runtime.block_on(lines);
            self.ready.extend(lines?);
        }
        let Some(line) = self.ready.pop_front() else {
            return Ok(None);
        };
        self.after = match self.of {
            Of::Job(_) => line.seq,
            Of::Deployment(_) => revision(&line),
        };
        let entry = Entry::decode(&line.text);
        let entry = entry.map_err(|why| Problem::for_now("unreadable", chain(&why)))?;
        Ok(Some((entry, line)))
    }
}

impl Iterator for Log {
    type Item = (Entry, Line);

    fn next(&mut self) -> Option<Self::Item> {
        self.read().unwrap_or_else(|why| {
            self.failed = Some(why);
            None
        })
    }
}
