//! Tokens: making, listing and revoking them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use orchestrator_core::Span;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::ask::Ask;
use super::fields::Fields;
use super::page::{audited, page, written};
use super::problem::Problem;
use super::schema;
use crate::access::token::{Made, New};
use crate::access::{Role, now};
use crate::list::seal;

/// Of the list, for its page tokens.
const LIST: &str = "tokens";

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(revoke))
}

/// Makes a token.
///
/// Its secret is in this answer, and will not be seen again: under an `Idempotency-Key` that was used before, the answer
/// is 409.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens",
    request_body = schema::NewToken,
    responses((status = 201, body = schema::MadeToken))
)]
async fn create(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let (key, caller) = (ask.key(), ask.caller().clone());
    let body = ask.json();
    let known = ["name", "role", "node", "expires_in"];
    let new = Fields::open(String::new(), &body, &known, ask.faults()).and_then(read);
    let new = ask.done(new)?;
    let was_open = api.access().is_open();
    // Before: it ends their streams.
    let agents = api.0.metrics.agents_without_token();
    let Made { id, token } = api.access().create_once(new, key, &caller).await?;
    let closed = was_open && !api.access().is_open();
    let shut_out = Some(agents).filter(|count| closed && *count > 0);
    if let Some(agents) = shut_out {
        tracing::warn!(
            agents,
            "agents talk without a token and are not let in any more: give each a join token \
             (orchestrator token create --role join --name <node>)"
        );
    }
    let made = written(&schema::MadeToken {
        id,
        token: token.reveal().to_owned(),
        agents_shut_out: shut_out,
    });
    Ok(audited((StatusCode::CREATED, made).into_response()))
}

fn read(mut fields: Fields<'_, '_>) -> Option<New> {
    let text = "a string";
    let name = fields.need("name", text, Value::as_str);
    let allowed = format!("one of {}", Role::ALL.map(Role::as_str).join(", "));
    let role = fields.need("role", &allowed, |value| Role::named(value.as_str()?));
    let node = fields.read("node", text, Value::as_str);
    let allowed = "a length of time such as 90d, and not none";
    let expires_in = fields.read("expires_in", allowed, |value| {
        let span: Span = value.as_str()?.parse().ok()?;
        (span > Span::ZERO).then_some(span)
    });
    Some(New {
        name: name?.to_owned(),
        role: role?,
        node: node.map(ToOwned::to_owned),
        expires_at: expires_in.map(|span| now().after(span)),
    })
}

/// The tokens, also those that are no longer good, in the order of their ids.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens",
    params(
        ("page_size" = Option<u32>, Query, minimum = 1, maximum = 1000, description = "At most so many; 50 if nothing is said"),
        ("page_token" = Option<String>, Query, description = "The `next_page_token` of the page before"),
    ),
    responses((status = 200, body = schema::TokenPage))
)]
async fn list(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    let limit = ask.page_size();
    let after = ask.place(LIST, |place| Some(place.to_owned()));
    ask.done(Some(()))?;
    let tokens = api.access().list(after, limit).await?;
    let write = |token| serde_json::to_string(token).expect("it holds texts");
    let rows: Vec<String> = tokens.items.iter().map(write).collect();
    let next = tokens.next.map(|next| seal(LIST, next.as_bytes()));
    Ok(page("tokens", &rows, next))
}

/// Revokes a token.
///
/// When this is answered, nobody is let in with it, and what was open with it has ended.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Its id")),
    responses((status = 204))
)]
async fn revoke(State(api): State<Api>, mut ask: Ask) -> Result<Response, Problem> {
    ask.nothing();
    let (id, who) = (ask.token(), ask.who());
    let id = ask.done(id)?;
    api.access().revoke(&id, who).await?;
    Ok(audited(StatusCode::NO_CONTENT.into_response()))
}
