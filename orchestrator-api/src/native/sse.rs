//! Streams of server-sent events.

use std::convert::Infallible;
use std::time::Duration;

use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};

use super::Api;
use super::ask::{Ask, whole};
use super::problem::{Fault, Problem};
use crate::access::Caller;

/// How often a comment tells that a stream is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Whether a stream is asked for.
pub(super) fn is_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter();
    let accepted = accepted.filter_map(|value| value.to_str().ok());
    let mut kinds = accepted.flat_map(|value| value.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

/// After which event a stream is resumed.
pub(super) fn last_event_id(ask: &mut Ask) -> Option<u64> {
    let id = ask.headers().get("last-event-id")?;
    // A browser that has seen none says so by an empty one.
    if id.is_empty() {
        return None;
    }
    let id = id.to_str().ok().and_then(whole);
    if id.is_none() {
        let detail = "it is the id of an event, a whole number";
        ask.refuse(Fault::of_header("last-event-id", detail));
    }
    id
}

/// Sends these events, until they end, or the server does, or the caller is not let in any more. Then he comes back, and is
/// told why not.
pub(super) async fn stream(
    api: &Api,
    caller: &Caller,
    events: impl Stream<Item = Event> + Send + 'static,
) -> Result<Response, Problem> {
    let mut stay = api.access().stay(caller).await?;
    let stopped = api.stopped();
    let over = async move {
        tokio::select! {
            () = stopped => {}
            () = stay.over() => {}
        }
    };
    let open = api.0.metrics.stream_opened();
    let events = events.take_until(Box::pin(over)).map(move |event| {
        // Closes with the stream.
        let _open = &open;
        Ok::<_, Infallible>(event)
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Or a proxy keeps them to itself.
    response.headers_mut().insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    Ok(response)
}
