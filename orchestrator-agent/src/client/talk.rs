//! A conversation with a server that knows us: it is listened to, reported to, and given the output of workloads, all at
//! the same time.

use std::convert::Infallible;
use std::io;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use tokio::time::{Instant, sleep};

use super::sse::Events;
use super::{
    ANSWER_BYTES_MAX, ANSWER_WITHIN, Backoff, Client, Failure, News, Part, Received, failure,
};
use crate::net::{self, Connection, within};
use crate::outbox::{Fate, Outbox};
use crate::runs::RunId;
use crate::wire::{Desired, EXECUTIONS_MAX, Logs, Reports, Taken};

/// The longest desired state that is read.
const DESIRED_BYTES_MAX: usize = 48 << 20;
/// The server sends the state at once, or something on the way keeps it.
const FIRST_EVENT_WITHIN: Duration = Duration::from_secs(15);
/// The server says that it lives every 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// A stream that ends sooner was cut.
const STREAM_AT_LEAST: Duration = Duration::from_secs(60);
/// So many cut streams in a row, and it is polled.
const CUTS_MAX: u32 = 3;
/// For so long; then streams are tried again.
const POLL_FOR: Duration = Duration::from_secs(600);
const POLL_WAIT: &str = "30s";
const POLL_WITHIN: Duration = Duration::from_secs(50);
/// The least and the most reports of one request.
const BATCH: RangeInclusive<usize> = 10..=500;
/// What comes within this goes along.
const BATCH_WITHIN: Duration = Duration::from_millis(50);

/// How often it is looked what workloads have written.
const SHIP_EVERY: Duration = Duration::from_secs(1);
/// Over a longer time no more than this is sent of it each second, whoever floods its output.
const SHIP_BYTES_PER_SECOND: f64 = (128 << 10) as f64;
/// The least and the most of one batch of it, about as it is sent.
const SHIP_BYTES: RangeInclusive<usize> = (8 << 10)..=(128 << 10);
/// A server that takes none is asked again after this.
const SHIP_NONE: Duration = Duration::from_secs(600);

/// A conversation with a server that knows us.
pub(super) struct Talk<'a> {
    pub(super) client: &'a Client,
    pub(super) news: &'a News,
    pub(super) token: Option<String>,
    pub(super) server: String,
}

/// How a stream ended.
enum Streamed {
    /// As streams do.
    Ended,
    /// Too soon.
    Cut,
}

impl Talk<'_> {
    /// Listens, until only joining again helps.
    pub(super) async fn listen(&self) -> Failure {
        let mut backoff = Backoff::new();
        let mut cuts = 0;
        loop {
            let heard = match cuts >= CUTS_MAX {
                false => self.stream().await,
                true => {
                    cuts = 0;
                    self.news.way("polls");
                    self.poll().await.map(|()| Streamed::Ended)
                }
            };
            match heard {
                Ok(Streamed::Ended) => (cuts, backoff) = (0, Backoff::new()),
                Ok(Streamed::Cut) => cuts += 1,
                Err(why) if why.ends_talk() => return why,
                Err(why) => self.news.trouble(Part::Listen, &why),
            }
            backoff.wait().await;
        }
    }

    async fn stream(&self) -> Result<Streamed, Failure> {
        let began = Instant::now();
        let mut connection = self.client.connect().await?;
        let request = self.get("", "text/event-stream")?;
        let response = connection.send(request, ANSWER_WITHIN).await?;
        let (head, mut body) = response.into_parts();
        if head.status != StatusCode::OK {
            let text = within(ANSWER_WITHIN, net::whole(&mut body, ANSWER_BYTES_MAX)).await??;
            return Err(failure(head.status, &text));
        }
        self.news.way("streams");
        // What cut the last one may have been its end.
        self.client.logs.ask_again();
        let mut events = Events::new(DESIRED_BYTES_MAX);
        let mut heard = false;
        loop {
            let patience = if heard {
                SILENCE_MAX
            } else {
                FIRST_EVENT_WITHIN
            };
            // A comment is no event, but shows that nothing keeps the stream.
            let piece = within(patience, net::next(&mut body)).await;
            let Ok(Ok(Some(piece))) = piece else {
                break;
            };
            events.push(&piece);
            while let Some(event) = events.next()? {
                heard = true;
                self.take(event.as_bytes());
            }
        }
        match heard && began.elapsed() >= STREAM_AT_LEAST {
            true => Ok(Streamed::Ended),
            false => Ok(Streamed::Cut),
        }
    }

    /// Asks again and again, for a while.
    async fn poll(&self) -> Result<(), Failure> {
        let until = Instant::now() + POLL_FOR;
        let mut revision = None;
        let mut connection = self.client.connect().await?;
        while Instant::now() < until {
            let later = revision.map_or(String::new(), |revision| {
                format!("&revision={revision}&wait={POLL_WAIT}")
            });
            if !connection.is_open() {
                connection = self.client.connect().await?;
            }
            let request = self.get(&later, "application/json")?;
            let (status, body) = connection
                .ask(request, DESIRED_BYTES_MAX, POLL_WITHIN)
                .await?;
            if status != StatusCode::OK {
                return Err(failure(status, &body));
            }
            match self.take(&body) {
                Some(read) => revision = Some(read),
                None => return Err(io::Error::from(io::ErrorKind::InvalidData).into()),
            }
        }
        Ok(())
    }

    fn get(&self, more: &str, accept: &str) -> io::Result<Request<Full<Bytes>>> {
        let path = format!("/v1/agent/stream?node={}{more}", self.client.node);
        let request = self.client.request("GET", &path, self.token.as_ref());
        let request = request.header("accept", accept);
        request.body(Full::default()).map_err(io::Error::other)
    }

    /// Takes a state in, if it is one; answers its revision.
    fn take(&self, bytes: &[u8]) -> Option<u64> {
        let desired: Desired = match serde_json::from_slice(bytes) {
            Ok(desired) => desired,
            Err(why) => {
                self.news.trouble(Part::Listen, &Failure::Io(why.into()));
                return None;
            }
        };
        let sane = *desired.node == *self.client.node && desired.executions.len() <= EXECUTIONS_MAX;
        if !sane {
            let why = format!(
                "a state of node {:?} with {} executions: more than {EXECUTIONS_MAX}, or of another node",
                desired.node,
                desired.executions.len()
            );
            self.news
                .trouble(Part::Listen, &Failure::Io(io::Error::other(why)));
            return None;
        }
        self.news.well(Part::Listen);
        let revision = desired.revision;
        let server = self.server.clone();
        self.news
            .desired
            .send_replace(Some(Received { server, desired }));
        Some(revision)
    }

    /// Hands in what there is to say, until only joining again helps. The lease is kept by it, with time for two
    /// failures.
    pub(super) async fn report(&self, lease: Duration) -> Failure {
        let outbox = &self.client.outbox;
        let mut backoff = Backoff::new();
        let mut connection = None;
        let mut size = Size::new(BATCH);
        loop {
            let heartbeat = (lease / 3).mul_f64(rand::random_range(0.8..1.0));
            tokio::select! {
                () = outbox.filled() => sleep(BATCH_WITHIN).await,
                () = sleep(heartbeat) => {}
            }
            let mut is_reused = connection.is_some();
            loop {
                let batch = Batch {
                    outbox,
                    fate: Fate::Unsure,
                };
                let sent = self.send(&mut connection, batch, size.now(), report_within(lease));
                let Err(why) = sent.await else {
                    size.grow();
                    backoff = Backoff::new();
                    self.news.well(Part::Report);
                    break;
                };
                connection = None;
                if why.ends_talk() {
                    return why;
                }
                if why.is_timeout() {
                    size.halve();
                }
                // It may have been cut without a word, where there has long been another way.
                if std::mem::take(&mut is_reused) && matches!(why, Failure::Io(_)) {
                    tracing::debug!(%why, "a connection that worked does not any more");
                    continue;
                }
                self.news.trouble(Part::Report, &why);
                backoff.wait().await;
                break;
            }
        }
    }

    async fn send(
        &self,
        connection: &mut Option<Connection>,
        mut batch: Batch<'_>,
        most: usize,
        limit: Duration,
    ) -> Result<(), Failure> {
        let reports = Reports {
            node: self.client.node.to_string(),
            reports: batch.outbox.take(most),
        };
        let body = serde_json::to_vec(&reports).map_err(io::Error::from)?;
        let said = self.say(connection, "/v1/agent/reports", body, limit);
        let (status, body) = said.await?;
        if status.is_success() {
            batch.fate = Fate::Sent;
            for run in batch.settle() {
                // Nobody hears it when the agent ends.
                let _ = self.news.told.send(run);
            }
            return Ok(());
        }
        if is_refusal(status) {
            batch.fate = Fate::Refused;
        }
        Err(failure(status, &body))
    }
}

impl Talk<'_> {
    /// Hands in what workloads have written, one batch after the other. Whether the node is known is not its matter.
    pub(super) async fn ship(&self) -> Infallible {
        let mut backoff = Backoff::new();
        let mut connection = None;
        let mut size = Size::new(SHIP_BYTES);
        loop {
            let shipped = self.ship_batch(&mut connection, size.now()).await;
            match shipped {
                Ok(0) => {
                    self.news.well(Part::Ship);
                    sleep(SHIP_EVERY).await;
                }
                Ok(bytes) => {
                    size.grow();
                    backoff = Backoff::new();
                    self.news.well(Part::Ship);
                    sleep(Duration::from_secs_f64(
                        bytes as f64 / SHIP_BYTES_PER_SECOND,
                    ))
                    .await;
                }
                Err(Failure::Status(StatusCode::NOT_FOUND, _)) => {
                    tracing::debug!("the server takes no output of workloads");
                    self.news.well(Part::Ship);
                    sleep(SHIP_NONE).await;
                }
                Err(why) => {
                    connection = None;
                    if why.is_timeout() {
                        size.halve();
                    }
                    // A server that has enough is no trouble.
                    match why {
                        Failure::Status(StatusCode::TOO_MANY_REQUESTS, _) => {
                            self.news.well(Part::Ship);
                        }
                        why => self.news.trouble(Part::Ship, &why),
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    /// Answers how many bytes there were.
    async fn ship_batch(
        &self,
        connection: &mut Option<Connection>,
        bytes_max: usize,
    ) -> Result<usize, Failure> {
        let logs = &self.client.logs;
        let mut batch = logs.take(bytes_max);
        if batch.outputs.is_empty() {
            return Ok(0);
        }
        let said = Logs {
            node: self.client.node.to_string(),
            outputs: std::mem::take(&mut batch.outputs),
        };
        let body = serde_json::to_vec(&said).map_err(io::Error::from)?;
        batch.outputs = said.outputs;
        let bytes = body.len();
        let said = self.say(connection, "/v1/agent/logs", body, ANSWER_WITHIN);
        let (status, body) = said.await?;
        if status == StatusCode::OK {
            let taken: Taken = serde_json::from_slice(&body).map_err(io::Error::from)?;
            logs.settle(&batch, &taken.have);
            return Ok(bytes);
        }
        if is_refusal(status) {
            logs.refused(&batch);
        }
        Err(failure(status, &body))
    }

    async fn say(
        &self,
        connection: &mut Option<Connection>,
        path: &str,
        body: Vec<u8>,
        limit: Duration,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => self.client.connect().await?,
        };
        let open = connection.insert(open);
        let request = self.client.post(path, self.token.as_ref(), body)?;
        Ok(open.ask(request, ANSWER_BYTES_MAX, limit).await?)
    }
}

/// So long an answer to reports is waited for: of a heartbeat on a connection that was cut without a word, the next one
/// is to come before the lease is over.
fn report_within(lease: Duration) -> Duration {
    (lease / 6).clamp(Duration::from_secs(1), ANSWER_WITHIN)
}

/// How much is sent at once: less where it does not get through in time, and slowly more where it does.
struct Size {
    bounds: RangeInclusive<usize>,
    now: usize,
}

impl Size {
    fn new(bounds: RangeInclusive<usize>) -> Self {
        let now = *bounds.end();
        Self { bounds, now }
    }

    fn now(&self) -> usize {
        self.now
    }

    fn halve(&mut self) {
        self.now = (self.now / 2).max(*self.bounds.start());
    }

    fn grow(&mut self) {
        let step = self.bounds.end() / 32;
        self.now = (self.now + step).min(*self.bounds.end());
    }
}

/// Whether it is of no use to say it again.
fn is_refusal(status: StatusCode) -> bool {
    let refusals = [
        StatusCode::BAD_REQUEST,
        StatusCode::PAYLOAD_TOO_LARGE,
        StatusCode::UNPROCESSABLE_ENTITY,
    ];
    refusals.contains(&status)
}

/// Reports on their way. Whatever happens, what became of them is said.
struct Batch<'a> {
    outbox: &'a Outbox,
    fate: Fate,
}

impl Batch<'_> {
    fn settle(self) -> Vec<RunId> {
        let told = self.outbox.settle(self.fate);
        std::mem::forget(self);
        told
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.outbox.settle(self.fate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_was_cut_costs_no_lease() {
        for secs in [10, 30, 60, 3600] {
            let lease = Duration::from_secs(secs);
            let within = report_within(lease);
            // A heartbeat, one that is lost, and one more on another connection.
            assert!(lease / 3 + 2 * within < lease);
        }
        assert_eq!(
            report_within(Duration::from_secs(30)),
            Duration::from_secs(5)
        );
        assert!(report_within(Duration::from_millis(300)) >= Duration::from_secs(1));
    }

    #[test]
    fn what_does_not_get_through_is_sent_in_smaller_pieces() {
        let mut size = Size::new(SHIP_BYTES);
        assert_eq!(size.now(), 128 << 10);
        size.halve();
        size.grow();
        assert_eq!(size.now(), 68 << 10);
        for _ in 0..10 {
            size.halve();
        }
        assert_eq!(size.now(), 8 << 10);
        for _ in 0..100 {
            size.grow();
        }
        assert_eq!(size.now(), 128 << 10);
    }
}
