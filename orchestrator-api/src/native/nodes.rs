//! Nodes: reading them, and what an operator may say to one.
//!
//! What may be said here leads to the same when it is said twice; an `Idempotency-Key` has it undo nothing that was said in
//! between.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use orchestrator_core::fleet::{Input, NodeName};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::Ask;
use super::fields::Fields;
use super::page::{audited, cut, json, page};
use super::problem::Problem;
use super::schema;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, remove))
        .routes(routes!(drain))
        .routes(routes!(eligibility))
}

impl Api {
    /// A node's record, or the answer that there is none.
    pub(super) async fn node(&self, name: &NodeName) -> Result<String, Problem> {
        let row = self.handle().store().node(name.to_string()).await?;
        let row = row.ok_or_else(|| Problem::not_found("node", name))?;
        Ok(row.record)
    }
}

/// The nodes, in the order of their names.
#[utoipa::path(
    get, path = "/v1/nodes", tag = "nodes",
    params(
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before"),
    ),
    responses((status = 200, body = schema::NodePage))
)]
async fn list(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let limit = ask.page_size();
    let after = ask.place("nodes", |place| Some(place.to_owned()));
    ask.done(Some(()))?;
    let rows = api.handle().store().nodes(after, limit + 1).await?;
    let (rows, next) = cut("nodes", rows, limit, |row| row.name.clone());
    let rows: Vec<String> = rows.into_iter().map(|row| row.record).collect();
    Ok(page("nodes", &rows, next))
}

/// One node.
#[utoipa::path(
    get, path = "/v1/nodes/{id}", tag = "nodes",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 200, body = schema::NodeResponse))
)]
async fn get(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let name = ask.node();
    let name = ask.done(name)?;
    show(&api, &name).await
}

async fn show(api: &Api, name: &NodeName) -> Result<Response, Problem> {
    let record = api.node(name).await?;
    Ok(json(format!("{{\"node\":{record}}}")))
}

/// Empties it: nothing new starts there, and what runs there ends.
///
/// Executions of a job with replicas begin first on another node that can take them, and go on where there is none. What
/// runs on every node ends there at once.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/drain", tag = "nodes",
    params(("id" = String, Path, description = "Its name")),
    request_body = schema::Nothing,
    responses((status = 200, body = schema::NodeResponse))
)]
async fn drain(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.nothing();
    mark(&api, ask, Some(false)).await
}

/// Says whether anything new may start there.
#[utoipa::path(
    post, path = "/v1/nodes/{id}/eligibility", tag = "nodes",
    params(("id" = String, Path, description = "Its name")),
    request_body = schema::Eligibility,
    responses((status = 200, body = schema::NodeResponse))
)]
async fn eligibility(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let body = ask.json();
    let fields = Fields::open(String::new(), &body, &["eligible"], ask.faults());
    let eligible =
        fields.and_then(|mut fields| fields.need("eligible", "true or false", Value::as_bool));
    mark(&api, ask, eligible).await
}

async fn mark(api: &Api, mut ask: Ask, eligible: Option<bool>) -> Result<Response, Problem> {
    let (key, who) = (ask.key(), ask.who());
    let wanted = ask.node().zip(eligible);
    let (name, eligible) = ask.done(wanted)?;
    let input = match eligible {
        true => Input::Enable {
            name: name.clone(),
            key,
        },
        false => Input::Drain {
            name: name.clone(),
            key,
        },
    };
    api.handle().fleet(input, Some(who)).await?;
    Ok(audited(show(api, &name).await?))
}

/// Forgets a node. Its agent's stream ends; the agent is told so when it next speaks, and may join again.
#[utoipa::path(
    delete, path = "/v1/nodes/{id}", tag = "nodes",
    params(("id" = String, Path, description = "Its name")),
    responses((status = 204))
)]
async fn remove(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.nothing();
    let (name, who) = (ask.node(), ask.who());
    let name = ask.done(name)?;
    let input = Input::Remove { name: name.clone() };
    api.handle().fleet(input, Some(who)).await?;
    api.0.rates.forget(&name);
    api.0.voices.forget(&name);
    Ok(audited(StatusCode::NO_CONTENT.into_response()))
}
