//! What is around every request: its id, its line in the log, its time, and an answer whatever happens.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use super::Api;
use super::ask::WAIT_MAX;
use super::problem::Problem;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is taken over from a caller.
const ID_BYTES_MAX: usize = 128;
/// For how long anything but a long poll may take.
const WITHIN: Duration = Duration::from_secs(30);

/// The name of one request, in answers, logs and the audit log.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestId(Arc<str>);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl RequestId {
    /// The caller's, if it can stand in a line of a log, or a new one.
    fn of(request: &Request) -> (Self, HeaderValue) {
        let given = request.headers().get(&X_REQUEST_ID);
        let sound = |id: &&HeaderValue| {
            (1..=ID_BYTES_MAX).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        if let Some(id) = given.filter(sound)
            && let Ok(text) = id.to_str()
        {
            return (Self(text.into()), id.clone());
        }
        let mut buffer = uuid::Uuid::encode_buffer();
        let text: &str = uuid::Uuid::now_v7().hyphenated().encode_lower(&mut buffer);
        let value = HeaderValue::from_str(text).expect("a UUID is ASCII");
        (Self(text.into()), value)
    }
}

/// The outermost layer.
pub(super) async fn watched(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let (id, id_value) = RequestId::of(&request);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let span = tracing::info_span!("request", %id);
    request.extensions_mut().insert(id);

    let answered = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match answered.instrument(span.clone()).await {
        Ok(response) => response,
        // The panic itself was written by its hook.
        Err(_) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "the server failed at this: its log has more, under the id in x-request-id",
        )
        .into_response(),
    };

    response.headers_mut().insert(X_REQUEST_ID, id_value);
    let (took, status) = (began.elapsed(), response.status());
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    api.0.metrics.note(route, &method, status, took);
    let _entered = span.enter();
    let millis = took.as_secs_f64() * 1e3;
    let (status, read) = (status.as_u16(), method == Method::GET);
    match status {
        500.. => tracing::error!(%method, path, status, millis, "answered"),
        // What only looks is of no interest to who reads the log later.
        ..400 if read => tracing::debug!(%method, path, status, millis, "answered"),
        _ => tracing::info!(%method, path, status, millis, "answered"),
    }
    response
}

/// Ends what takes too long.
pub(super) async fn answered_soon(request: Request, next: Next) -> Response {
    within(WITHIN, request, next).await
}

/// The same, of what waits for something.
pub(super) async fn answered_after_a_wait(request: Request, next: Next) -> Response {
    within(WITHIN + WAIT_MAX, request, next).await
}

async fn within(limit: Duration, request: Request, next: Next) -> Response {
    let asks = request.method() == Method::GET;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) if asks => {
            let detail = format!("there was no answer within {} s", limit.as_secs());
            Problem::for_now("timeout", detail).into_response()
        }
        Err(_) => {
            let detail = format!(
                "there was no answer within {} s, and it may yet be done: look, or say it again with the same Idempotency-Key",
                limit.as_secs()
            );
            Problem::for_now("timeout", detail).into_response()
        }
    }
}

/// There is nothing at this path.
pub(super) async fn no_such_route(uri: Uri) -> Problem {
    let detail = format!(
        "there is nothing at {}: see /docs for what there is",
        uri.path()
    );
    Problem::new(StatusCode::NOT_FOUND, "no-such-route", detail)
}

/// There is something at this path, but not for this method.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    let detail = format!(
        "{} does not take {method}: see the Allow header",
        uri.path()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-such-method", detail)
}
