//! What agents use: to enrol, to hear what they should run, and to say how it goes.
//!
//! What they say may be said twice: joining again changes nothing, and reports are numbered. So an `Idempotency-Key`
//! has nothing to add.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::Event as Sent;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use orchestrator_core::fleet::{Input, NodeName};
use orchestrator_core::{Interval, JobId, Observation, Requests, Span, is_name};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::{Ask, PLACE, is_place};
use super::fields::Fields;
use super::page::{audited, written};
use super::problem::{Fault, Problem};
use super::rates::Rates;
use super::request::soon;
use super::{schema, sse};
use crate::engine::{Desired, Said};

/// How many reports one request may hold.
const REPORTS_MAX: usize = 10_000;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(join))
        .routes(routes!(reports))
}

/// Those that may wait.
pub(super) fn patient_routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(listen))
}

/// What an agent learns when it joins.
#[derive(Serialize)]
struct Joined<'a> {
    node: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    server: String,
    lease: Span,
    down_after: Span,
}

/// Introduces a node, for the first time or again.
///
/// An agent that is about to go says so by joining once more: its executions begin elsewhere, where they may, and nothing
/// new starts there.
///
/// A join token is good for one node, whose own token comes with the answer. Until that is used, the answer may have been
/// lost: the same node is given another one for the same join token.
#[utoipa::path(
    post, path = "/v1/agent/join", tag = "agents",
    request_body = schema::Join,
    responses((status = 200, body = schema::JoinResponse))
)]
async fn join(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.key();
    let agent = ask.agent();
    let (who, caller) = (ask.who(), ask.caller().clone());
    let body = ask.json();
    let known = ["name", "labels", "facts", "leaving"];
    let fields = Fields::open(String::new(), &body, &known, ask.faults());
    let wanted = fields.and_then(|mut fields| {
        let name = name(&mut fields, "name");
        if name.as_deref().is_some_and(is_place) {
            fields.refuse("name", PLACE);
        }
        let (labels, facts) = (fields.texts("labels"), fields.texts("facts"));
        let leaving = fields.read("leaving", "true or false", Value::as_bool);
        Some((name?, labels?, facts?, leaving.unwrap_or(false)))
    });
    let (name, labels, facts, leaving) = ask.done(wanted)?;
    let input = Input::Join {
        name: name.clone(),
        labels,
        facts,
        leaving,
    };
    // Before the token is used up for it.
    input.check()?;
    let patience = api.handle().settings().fleet;
    let (agent, lease) = (agent.as_deref(), patience.lease());
    api.0.voices.admit(&name, agent, lease)?;
    let made = api.access().join(&caller, &name).await?;
    api.handle().fleet(input, Some(who)).await?;
    api.0.voices.heard(&name, agent, lease)?;
    let record = api.node(&name).await?;
    let server = api.handle().store().identity().await?;
    Ok(audited(written(&Joined {
        node: RawValue::from_string(record).expect("a record is JSON"),
        token: made.as_ref().map(|made| made.token.reveal()),
        server,
        lease,
        down_after: patience.down_after(),
    })))
}

pub(super) fn name(fields: &mut Fields<'_, '_>, field: &str) -> Option<NodeName> {
    let allowed = "1 to 200 of letters, digits, '-', '_' and '.'";
    let name = fields.need(field, allowed, |value| {
        value.as_str().filter(|name| is_name(name))
    });
    name.map(NodeName::from)
}

/// What a node should run, all of it: now and whenever it changes, as a stream; or, as JSON, when it is of a later
/// revision than this one.
///
/// Listening alone does not keep the node's lease: reports do, also empty ones.
#[utoipa::path(
    get, path = "/v1/agent/stream", tag = "agents",
    params(
        ("node" = String, Query, description = "The node"),
        ("revision" = Option<u64>, Query, description = "Wait for a later revision than this one. No matter to a stream"),
        ("wait" = Option<String>, Query, description = "For how long to wait at the most, up to 60s; 30s if nothing is said"),
    ),
    responses((status = 200, content((schema::Desired = "application/json"), (String = "text/event-stream"))))
)]
async fn listen(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let agent = ask.agent();
    let node = ask.named("node").map(NodeName::from);
    if node.is_none() && ask.faults().is_empty() {
        ask.refuse(Fault::of_parameter("node", "missing; the node's name"));
    }
    let seen = ask.whole("revision");
    let wait = ask.wait(seen);
    let streams = sse::is_wanted(ask.headers());
    if let Some(node) = &node {
        ask.speaks_for(node)?;
    }
    let caller = ask.caller().clone();
    let node = ask.done(node)?;
    let (agent, lease) = (agent.as_deref(), api.handle().settings().fleet.lease());
    api.0.voices.admit(&node, agent, lease)?;
    let mut news = soon(api.handle().connect(node.clone())).await??;
    api.0.voices.heard(&node, agent, lease)?;
    let open = api.0.metrics.agent_listens(caller.has_token());
    if streams {
        news.mark_changed();
        let events = stream::unfold((news, open), |(mut news, open)| async {
            // An error means that the node was removed, or that the engine ends.
            news.changed().await.ok()?;
            let event = sent(&news.borrow_and_update());
            Some((event, (news, open)))
        });
        return sse::stream(&api, &caller, events).await;
    }
    if let Some(seen) = seen {
        let later = async {
            news.wait_for(|desired| desired.revision > seen)
                .await
                .is_err()
        };
        let is_gone = api.wait(&caller, wait, later).await?.unwrap_or(false);
        if is_gone {
            // Says so, unless the node has come again.
            news = soon(api.handle().connect(node)).await??;
        }
    }
    let desired = news.borrow().clone();
    Ok(written(&*desired))
}

fn sent(desired: &Desired) -> Sent {
    let data = serde_json::to_string(desired).expect("it holds texts, numbers, and JSON");
    Sent::default().id(desired.revision.to_string()).data(data)
}

/// Keeps a node's lease, and hands in how its executions go. What is stale, or was said before, is left out.
#[utoipa::path(
    post, path = "/v1/agent/reports", tag = "agents",
    request_body = schema::Reports,
    responses((status = 204))
)]
async fn reports(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.key();
    let agent = ask.agent();
    let body = ask.json();
    let (node, said) = read(&body, ask.faults());
    if let Some(node) = &node {
        ask.speaks_for(node)?;
    }
    let node = ask.done(node)?;
    let rates = said.iter().filter_map(Rates::of_report).collect();
    let (agent, lease) = (agent.as_deref(), api.handle().settings().fleet.lease());
    api.0.voices.admit(&node, agent, lease)?;
    api.handle().report(node.clone(), said).await?;
    // Only now it is known that there is such a node.
    api.0.voices.heard(&node, agent, lease)?;
    api.0.rates.put(&node, rates);
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn read(body: &Value, faults: &mut Vec<Fault>) -> (Option<NodeName>, Vec<Said>) {
    let fields = Fields::open(String::new(), body, &["node", "reports"], faults);
    let Some(mut fields) = fields else {
        return (None, Vec::new());
    };
    let node = name(&mut fields, "node");
    let allowed = format!("an array of at most {REPORTS_MAX} reports");
    let list = fields.read("reports", &allowed, |value| {
        value.as_array().filter(|list| list.len() <= REPORTS_MAX)
    });
    let list = list.map_or(&[][..], Vec::as_slice).iter().enumerate();
    let said = list.filter_map(|(index, value)| report(index, value, faults));
    (node, said.collect())
}

const REPORT: [&str; 6] = [
    "job",
    "slot",
    "generation",
    "target",
    "number",
    "observation",
];

fn report(index: usize, value: &Value, faults: &mut Vec<Fault>) -> Option<Said> {
    let mut fields = Fields::open(format!("/reports/{index}"), value, &REPORT, faults)?;
    let job = fields.need("job", "namespace/job_id", |value| {
        value.as_str()?.parse::<JobId>().ok()
    });
    let slot = fields.need_whole("slot");
    let generation = fields.need_whole("generation");
    let target = fields.whole("target");
    let number = fields.need_whole("number");
    let what = observation(&mut fields);
    Some(Said {
        job: job?,
        slot: slot?,
        generation: generation?,
        target,
        number: number?,
        what: what?,
    })
}

const OBSERVATION: [&str; 6] = ["kind", "detail", "code", "checks", "requests", "failed"];
const KINDS: &str = "one of started, cannot_start, exited, restarted, interval, stopped";

fn observation(report: &mut Fields<'_, '_>) -> Option<Observation> {
    let mut fields = report.need_object("observation", &OBSERVATION)?;
    let kind = fields.need("kind", KINDS, Value::as_str)?;
    let own: &[&str] = match kind {
        "cannot_start" => &["detail"],
        "exited" => &["code"],
        "interval" => &["checks", "requests", "failed"],
        _ => &[],
    };
    fields.only(kind, own);
    match kind {
        "started" => Some(Observation::Started),
        "restarted" => Some(Observation::Restarted),
        "stopped" => Some(Observation::Stopped),
        "cannot_start" => {
            let detail = fields.need("detail", "a string", Value::as_str)?;
            let detail = detail.to_owned();
            Some(Observation::CannotStart { detail })
        }
        "exited" => {
            let allowed = "a whole number of 32 bits";
            let code = fields.need("code", allowed, |value| value.as_i64()?.try_into().ok())?;
            Some(Observation::Exited { code })
        }
        "interval" => {
            let checks = fields.read("checks", "true or false", Value::as_bool);
            let requests: Option<u32> = fields.whole("requests");
            let failed: Option<u32> = match requests {
                Some(_) => fields.whole("failed"),
                None => None,
            };
            let requests = requests.map(|total| Requests {
                total,
                failed: failed.unwrap_or(0),
            });
            if requests.is_some_and(|requests| requests.failed > requests.total) {
                fields.refuse("failed", "no more than requests");
            }
            Some(Observation::Interval(Interval { checks, requests }))
        }
        _ => {
            fields.refuse("kind", KINDS);
            None
        }
    }
}
