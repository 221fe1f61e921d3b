//! Whether it lives, whether it is ready, what it counts, and the contract of all this.

use std::time::Duration;

use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::page::json;
use super::problem::Problem;
use super::schema;

/// A store that does not answer within this is not there.
const READY_WITHIN: Duration = Duration::from_secs(5);
/// A server that could keep nothing is not ready for so long, unless it can again: if nobody asks it for anything,
/// nothing shows that.
const FAILED_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(document))
        .routes(routes!(docs))
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = schema::Health)))]
async fn healthz() -> Response {
    json(r#"{"status":"ok"}"#)
}

/// Whether it can serve: the store writes and reads, and nobody told it to end.
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses((status = 200, body = schema::Health), (status = 503, body = Problem, content_type = "application/problem+json"))
)]
async fn readyz(State(api): State<Api>) -> Result<Response, Problem> {
    if api.is_stopping() {
        return Err(Problem::for_now("stopping", "the server is shutting down"));
    }
    let checked = tokio::time::timeout(READY_WITHIN, api.handle().store().check()).await;
    checked.map_err(|_| {
        let detail = format!(
            "the store did not answer within {} s",
            READY_WITHIN.as_secs()
        );
        Problem::for_now("store", detail)
    })??;
    // What is asked for takes more room than a check does.
    if api.handle().counts().failed_within(FAILED_WITHIN) {
        return Err(Problem::for_now(
            "store",
            "the last change could not be kept: the log has more",
        ));
    }
    Ok(json(r#"{"status":"ok"}"#))
}

/// What is counted, in the text form of Prometheus.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"), (status = 503, body = Problem, content_type = "application/problem+json"))
)]
async fn metrics(State(api): State<Api>) -> Result<Response, Problem> {
    let text = api
        .0
        .metrics
        .text(api.handle(), api.logs().counts())
        .await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "health",
    responses((status = 200, body = Object, content_type = "application/json"))
)]
async fn document(State(api): State<Api>) -> Response {
    json(api.0.document.clone())
}

/// A page to read it and to try it.
#[utoipa::path(get, path = "/docs", tag = "health", responses((status = 200, body = String, content_type = "text/html")))]
async fn docs() -> Response {
    // It loads nothing from elsewhere, and speaks to this server only.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, include_str!("docs.html")).into_response()
}
