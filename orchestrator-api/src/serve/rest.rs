//! What nobody reads of a request's body.
//!
//! An answer may not need it: whoever is not let in is told so by the head alone. Over HTTP/2 such a stream is reset behind
//! its answer, and there are clients that take this for a failure and show no answer at all; over HTTP/1.1 the
//! connection is closed under who still writes. So a small rest is read while the answer is sent, and thrown away.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::EXPECT;
use axum::http::{Request, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A longer rest is not read: as much as a route reads itself.
const BYTES_MAX: u64 = 1 << 20;
/// Nor is one that takes longer.
const WITHIN: Duration = Duration::from_secs(2);

/// The same request, whose body is read to its end also when it is dropped before.
pub(super) fn is_read(request: Request<Incoming>) -> Request<Body> {
    // Who waits for a word before he sends his body is sent it on HTTP/1.1 when the body is read, and not on HTTP/2.
    let waits = request.version() < Version::HTTP_2 && request.headers().contains_key(EXPECT);
    request.map(|body| match waits || body.is_end_stream() {
        true => Body::new(body),
        false => Body::new(ReadToEnd(Some(body))),
    })
}

/// A body; none where it came to its end.
struct ReadToEnd(Option<Incoming>);

impl hyper::body::Body for ReadToEnd {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let Some(body) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.as_ref();
        body.map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for ReadToEnd {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else {
            return;
        };
        if body.size_hint().lower() > BYTES_MAX {
            return;
        }
        // Without a runtime everything ends, this too.
        if let Ok(runtime) = Handle::try_current() {
            // Where the time is up it is dropped, as it would have been without this.
            runtime.spawn(timeout(WITHIN, read(body)));
        }
    }
}

async fn read(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
        if bytes > BYTES_MAX {
            return;
        }
    }
}
