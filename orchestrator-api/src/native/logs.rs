//! What workloads write: taken from agents, and shown as it is or as it comes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::response::sse::Event as Sent;
use futures_util::{Stream, stream};
use orchestrator_core::JobId;
use orchestrator_core::fleet::NodeName;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::sleep;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::agents::name;
use super::ask::{Ask, whole};
use super::fields::Fields;
use super::page::{page, written};
use super::problem::{Fault, Problem};
use super::{schema, sse};
use crate::access::now;
use crate::logs::{self, Line, Logs, Of, Part, Piece, Source};

/// How many streams one request may speak of.
const OUTPUTS_MAX: usize = 1000;
/// The longest line, in letters; agents send longer ones in pieces.
const LINE_LETTERS_MAX: usize = 8192;
/// How many lines are shown, where nobody says otherwise…
const LINES: usize = 100;
/// …and at the most.
const LINES_MAX: usize = 10_000;
/// How many lines a stream reads at a time.
const LINES_PER_READ: usize = 200;
/// What comes within this is read at once: of a job on many nodes there is always something new.
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(take))
        .routes(routes!(show))
}

/// Takes what a node's workloads have written, and answers how far it has each stream.
///
/// What it has is not taken twice. While there is more than it can take, it answers 429.
#[utoipa::path(
    post, path = "/v1/agent/logs", tag = "agents",
    request_body = schema::Logs,
    responses((status = 200, body = schema::Taken))
)]
async fn take(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.key();
    let agent = ask.agent();
    if !api.logs().admits(ask.body_bytes()) {
        let detail = "more output comes in than is taken: send it later";
        let busy = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-much-output", detail);
        return Err(Problem {
            retry_after: Some(1),
            ..busy
        });
    }
    let body = ask.json();
    let (node, parts) = read(&body, ask.faults());
    if let Some(node) = &node {
        ask.speaks_for(node)?;
    }
    let node = ask.done(node)?;
    let lease = api.handle().settings().fleet.lease();
    api.0.voices.admit(&node, agent.as_deref(), lease)?;
    let have = api.logs().take(&node, parts, now());
    Ok(written(&schema::Taken { have }))
}

fn read(body: &Value, faults: &mut Vec<Fault>) -> (Option<NodeName>, Vec<Part>) {
    let Some(mut fields) = Fields::open(String::new(), body, &["node", "outputs"], faults) else {
        return (None, Vec::new());
    };
    let node = name(&mut fields, "node");
    let allowed = format!("an array of at most {OUTPUTS_MAX} outputs");
    let list = fields.need("outputs", &allowed, |value| {
        value.as_array().filter(|list| list.len() <= OUTPUTS_MAX)
    });
    let list = list.map_or(&[][..], Vec::as_slice).iter().enumerate();
    let parts = list.filter_map(|(index, value)| output(index, value, faults));
    (node, parts.collect())
}

const OUTPUT: [&str; 10] = [
    "job",
    "slot",
    "version",
    "generation",
    "attempt",
    "began",
    "stream",
    "position",
    "anew",
    "lines",
];

fn output(index: usize, value: &Value, faults: &mut Vec<Fault>) -> Option<Part> {
    let pointer = format!("/outputs/{index}");
    let mut fields = Fields::open(pointer.clone(), value, &OUTPUT, faults)?;
    let job = fields.need("job", "namespace/job_id", |value| {
        value.as_str()?.parse::<JobId>().ok()
    });
    let slot = fields.need_whole("slot");
    let version = fields.need_whole("version");
    let generation = fields.need_whole("generation");
    let attempt = fields.need_whole("attempt");
    let began = fields.need_whole("began");
    let stream = fields.need("stream", "one of stdout, stderr", |value| {
        match value.as_str()? {
            "stdout" => Some(logs::Stream::Stdout),
            "stderr" => Some(logs::Stream::Stderr),
            _ => None,
        }
    });
    let position: Option<u64> = fields.need_whole("position");
    let anew = fields.need("anew", "true or false", Value::as_bool);
    let list = fields.need("lines", "an array of lines", Value::as_array);
    let mut lines = Vec::new();
    let mut end = position?;
    for (index, value) in list?.iter().enumerate() {
        let line = line(format!("{pointer}/lines/{index}"), value, end, faults)?;
        end = line.end;
        lines.push(line);
    }
    Some(Part {
        job: job?,
        slot: slot?,
        version: version?,
        source: Source {
            generation: generation?,
            attempt: attempt?,
            began: began?,
            stream: stream?,
        },
        position: position?,
        anew: anew?,
        lines,
    })
}

/// A line that begins there.
fn line(pointer: String, value: &Value, begin: u64, faults: &mut Vec<Fault>) -> Option<Piece> {
    let mut fields = Fields::open(pointer, value, &["end", "text", "partial"], faults)?;
    let allowed = format!("a whole number, more than {begin}, where the line begins");
    let end = fields.need("end", &allowed, |value| {
        super::fields::bounded(value.as_u64()?).filter(|end| *end > begin)
    });
    let allowed = format!("a string of at most {LINE_LETTERS_MAX} letters");
    let text = fields.need("text", &allowed, |value| {
        let text = value.as_str()?;
        (text.chars().count() <= LINE_LETTERS_MAX).then(|| text.to_owned())
    });
    let partial = fields.read("partial", "true or false", Value::as_bool);
    Some(Piece {
        end: end?,
        text: text?,
        partial: partial.unwrap_or(false),
    })
}

/// The last lines that a job's workloads wrote, in the order in which they came here; or these and all that come, as a
/// stream.
///
/// The server keeps the end of each execution's output, in memory. After it has begun again it has what agents sent it
/// since; a stream that is resumed then may show lines once more.
#[utoipa::path(
    get, path = "/v1/jobs/{namespace}/{job_id}/logs", tag = "jobs",
    params(
        ("namespace" = String, Path, description = "Its namespace"), ("job_id" = String, Path, description = "Its name"),
        ("node" = Option<String>, Query, description = "Only what was written on this node"),
        ("tail" = Option<u32>, Query, minimum = 0, maximum = 10_000, description = "At most so many lines; 100 if nothing is said"),
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{0,19}$", description = "Resume a stream after this line, whatever `tail` says. Nothing is resumed if it is empty, or of a line that there is not"),
    ),
    responses((status = 200, content((schema::LogPage = "application/json"), (String = "text/event-stream"))))
)]
async fn show(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let job = ask.job();
    let node = ask.named("node").map(NodeName::from);
    let allowed = format!("a whole number, at most {LINES_MAX}");
    let tail = ask.parameter("tail", &allowed, |text| {
        whole(text).filter(|tail| *tail <= LINES_MAX)
    });
    let streams = sse::is_wanted(ask.headers());
    let resumed = sse::last_event_id(&mut ask).filter(|_| streams);
    let caller = ask.caller().clone();
    let job = ask.done(job)?;
    // Or there is none, and nothing to wait for.
    api.handle().look(job.clone(), |_| ()).await?;
    let of = Of { job, node };
    // Before reading: what comes meanwhile is seen as a change.
    let changes = streams.then(|| api.logs().changes(&of.job));
    // What comes after a line that is not yet there: its numbers are those of a server whose clock was ahead.
    let resumed = resumed.filter(|last| *last <= api.logs().newest());
    let (lines, last) = match resumed {
        Some(last) => (Vec::new(), last),
        None => api.logs().last(&of, tail.unwrap_or(LINES)),
    };
    if let (Some(node), true) = (&of.node, lines.is_empty()) {
        api.node(node).await?;
    }
    if let Some(changes) = changes {
        let followed = Followed {
            logs: api.logs().clone(),
            of,
            last,
            changes,
            ready: lines.into(),
        };
        return sse::stream(&api, &caller, followed.events()).await;
    }
    let lines: Vec<String> = lines.iter().map(|line| shown(line)).collect();
    Ok(page("lines", &lines, None))
}

fn shown(line: &Line) -> String {
    serde_json::to_string(line).expect("it holds texts and numbers")
}

/// The lines of a job, as they come.
struct Followed {
    logs: Arc<Logs>,
    of: Of,
    /// The number of the last line that was read.
    last: u64,
    changes: watch::Receiver<u64>,
    ready: VecDeque<Arc<Line>>,
}

impl Followed {
    fn events(self) -> impl Stream<Item = Sent> + Send {
        stream::unfold(self, |mut followed| async {
            let line = followed.next().await?;
            let event = Sent::default().id(line.number.to_string());
            Some((event.data(shown(&line)), followed))
        })
    }

    async fn next(&mut self) -> Option<Arc<Line>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            self.changes.mark_unchanged();
            let lines = self.logs.after(&self.of, self.last, LINES_PER_READ);
            let Some(last) = lines.last() else {
                self.changes.changed().await.ok()?;
                sleep(READ_AGAIN_AFTER).await;
                continue;
            };
            self.last = last.number;
            self.ready.extend(lines);
        }
    }
}
