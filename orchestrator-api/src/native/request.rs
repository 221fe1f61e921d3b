//! What is around every request: its id, its line in the log, its time, and an answer whatever happens.

use std::convert::Infallible;
use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use super::Api;
use super::problem::Problem;
use crate::access::{REQUEST_BYTES_MAX, X_REQUEST_ID};

const REPORTS: &str = "/v1/agent/reports";
const LOGS: &str = "/v1/agent/logs";
/// For how long anything but a long poll may take.
const WITHIN: Duration = Duration::from_secs(30);

/// The name of a request, in answers, logs and the audit log: the caller's, if it can stand in a line of a log, or a
/// new one.
fn name(request: &Request) -> HeaderValue {
    let given = request.headers().get(&X_REQUEST_ID);
    let sound = |id: &&HeaderValue| {
        (1..=REQUEST_BYTES_MAX).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match given.filter(sound) {
        // A copy: the value is a part of all that was read with it.
        Some(id) => HeaderValue::from_bytes(id.as_bytes()).expect("it is one"),
        None => {
            let mut buffer = uuid::Uuid::encode_buffer();
            let text: &str = new_id().hyphenated().encode_lower(&mut buffer);
            HeaderValue::from_str(text).expect("a UUID is ASCII")
        }
    }
}

/// A UUIDv7. It only has to be another one than all others: asking the system for randomness each time would cost
/// more than answering what is read most.
fn new_id() -> uuid::Uuid {
    static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one("request"));
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let millis = since.unwrap_or_default().as_millis() as u64;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut random = [0; 10];
    random[..8].copy_from_slice(&mixed(SEED.wrapping_add(count)).to_be_bytes());
    random[8..].copy_from_slice(&SEED.to_be_bytes()[..2]);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// Another number for each number, and none that looks like its neighbour (the end of splitmix64).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The outermost layer. Not made by `from_fn`, which copies all that is below it for every request.
#[derive(Clone, Debug)]
pub(super) struct Watch(pub(super) Api);

#[derive(Clone, Debug)]
pub(super) struct Watched<S> {
    api: Api,
    inner: S,
}

impl<S> Layer<S> for Watch {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        let api = self.0.clone();
        Watched { api, inner }
    }
}

impl<S> Service<Request> for Watched<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let seen = Seen::new(&mut request);
        let entered = seen.span.clone().entered();
        // The guard works at once, and not only when it is waited for.
        let called = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        drop(entered);
        let answering = async { AssertUnwindSafe(called?).catch_unwind().await };
        let answering = answering.instrument(seen.span.clone());
        let api = self.api.clone();
        Box::pin(async move {
            let response = match answering.await {
                Ok(Ok(response)) => response,
                // The panic itself was written by its hook.
                Err(_) => Problem::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the server failed at this: its log has more, under the id in x-request-id",
                )
                .into_response(),
            };
            Ok(seen.answered(&api, response))
        })
    }
}

/// What is to be said of a request once it is answered.
struct Seen {
    began: Instant,
    id: HeaderValue,
    route: Option<MatchedPath>,
    method: Method,
    uri: Uri,
    span: Span,
}

impl Seen {
    fn new(request: &mut Request) -> Self {
        let began = Instant::now();
        let id = name(request);
        // Whoever comes after knows it by this name too.
        request.headers_mut().insert(X_REQUEST_ID, id.clone());
        Self {
            began,
            route: request.extensions().get().cloned(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            span: tracing::info_span!("request", id = %id.to_str().unwrap_or_default()),
            id,
        }
    }

    fn answered(self, api: &Api, mut response: Response) -> Response {
        let Self {
            began,
            id,
            route,
            method,
            uri,
            span,
        } = self;
        response.headers_mut().insert(X_REQUEST_ID, id);
        let (took, status) = (began.elapsed(), response.status());
        let route = route.as_ref().map_or("none", MatchedPath::as_str);
        api.0.metrics.note(route, &method, status, took);
        let _entered = span.enter();
        let millis = took.as_micros() as f64 / 1e3;
        let (status, path) = (status.as_u16(), uri.path());
        let quiet = method == Method::GET || route == REPORTS || route == LOGS;
        match status {
            500.. => tracing::error!(%method, path, status, millis, "answered"),
            // What only looks, and what agents say all the time, is of no interest to who reads the log later.
            ..400 | 429 if quiet => tracing::debug!(%method, path, status, millis, "answered"),
            _ => tracing::info!(%method, path, status, millis, "answered"),
        }
        response
    }
}

/// Ends what takes too long.
pub(super) async fn answered_soon(request: Request, next: Next) -> Response {
    let asks = request.method() == Method::GET;
    match soon(next.run(request)).await {
        Ok(response) => response,
        Err(problem) if asks => problem.into_response(),
        Err(problem) => {
            let more = "; it may yet be done: look, or say it again with the same Idempotency-Key";
            let detail = problem.detail.clone() + more;
            Problem { detail, ..problem }.into_response()
        }
    }
}

/// What comes of it, if that is within the time that anything but a long poll may take.
pub(super) async fn soon<F: Future>(work: F) -> Result<F::Output, Problem> {
    let mut work = pin!(work);
    // What is there at once needs no timer.
    if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
        return Ok(done);
    }
    let done = tokio::time::timeout(WITHIN, work).await;
    done.map_err(|_| {
        let detail = format!("there was no answer within {} s", WITHIN.as_secs());
        Problem::for_now("timeout", detail)
    })
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
