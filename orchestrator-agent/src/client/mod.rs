//! The link to the server: joins, listens for what is desired, and hands in reports.
//!
//! ```text
//!  join ──► listen: a stream, or long polls while streams are cut ──► the latest desired state
//!   ▲   └─► report: batches, or an empty one as a heartbeat        ◄── outbox
//!   └─────── the server does not know us, or not our token
//! ```
//!
//! After every failure it waits, longer each time, and for a random part of that, so that a fleet does not come back all
//! at once. Everything that is read has a bound in size and in time.

mod sse;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use self::sse::Events;
use crate::disk;
use crate::net::{self, Address, Connection, within};
use crate::outbox::{Fate, Outbox};
use crate::runs::RunId;
use crate::wire::{Desired, EXECUTIONS_MAX, Join, Joined, Reports};

/// The longest desired state that is read.
const DESIRED_BYTES_MAX: usize = 16 << 20;
/// The longest other answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
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
/// The most reports of one request.
const BATCH_MAX: usize = 500;
/// What comes within this goes along.
const BATCH_WITHIN: Duration = Duration::from_millis(50);
const BACKOFF: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a client needs to know.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: Address,
    /// As it was given: whose revisions these are.
    pub(crate) url: String,
    pub(crate) node: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) facts: BTreeMap<String, String>,
    /// Where the node's own token is kept.
    pub(crate) identity: PathBuf,
    /// A token that came from outside: a join token, or the node's own.
    pub(crate) token: Option<String>,
    pub(crate) outbox: Arc<Outbox>,
}

/// Where the rest of the agent hears of the server.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// The latest of what was received.
    pub(crate) desired: watch::Sender<Option<Received>>,
    /// Starts that the server knows of.
    pub(crate) told: mpsc::UnboundedSender<RunId>,
    /// How it goes.
    pub(crate) link: Arc<Mutex<Link>>,
}

/// What was received, and from which server.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Received {
    pub(crate) server: String,
    pub(crate) desired: Desired,
}

/// How it goes with the server.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Link {
    /// `joining`, `streams`, `polls`.
    pub way: String,
    /// What went wrong last, if nothing went well since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// So many times something went wrong.
    pub troubles: u64,
}

/// The node's own token, as it is kept.
#[derive(Deserialize, Serialize)]
struct Identity {
    server: String,
    node: String,
    token: String,
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// No answer that could be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not what was asked for.
    #[error("the server answers {0}")]
    Status(StatusCode, String),
}

impl Failure {
    /// Only joining again may help.
    fn is_of_identity(&self) -> bool {
        matches!(
            self,
            Self::Status(
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND,
                _
            )
        )
    }
}

/// Waits longer each time, but not as long as others do.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(BACKOFF)
    }

    async fn wait(&mut self) {
        sleep(self.0.mul_f64(rand::random_range(0.5..1.0))).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }
}

impl Client {
    /// Goes on for as long as it is let.
    pub(crate) async fn run(self, news: News) {
        let mut own = self.own_token();
        let mut backoff = Backoff::new();
        loop {
            news.way("joining");
            match self.join(&mut own).await {
                Ok(joined) => {
                    news.well();
                    let server = joined.server.clone().unwrap_or_else(|| self.url.clone());
                    let lease = Duration::from_millis(joined.lease.clamp(300, 86_400_000));
                    let talk = Talk {
                        client: &self,
                        news: &news,
                        token: own.clone(),
                        server,
                    };
                    let began = Instant::now();
                    let why = tokio::select! {
                        why = talk.listen() => why,
                        why = talk.report(lease) => why,
                    };
                    news.trouble(&why);
                    if began.elapsed() > BACKOFF_MAX {
                        backoff = Backoff::new();
                    }
                }
                Err(why) => news.trouble(&why),
            }
            backoff.wait().await;
        }
    }

    /// The token that a former process was given, where it was by this server for this node.
    fn own_token(&self) -> Option<String> {
        match disk::read_json::<Identity>(&self.identity) {
            Ok(kept) => kept
                .filter(|kept| kept.server == self.url && *kept.node == *self.node)
                .map(|kept| kept.token),
            Err(why) => {
                tracing::error!(%why, "the node's identity cannot be read");
                None
            }
        }
    }

    async fn join(&self, own: &mut Option<String>) -> Result<Joined, Failure> {
        let join = Join {
            name: self.node.to_string(),
            labels: self.labels.clone(),
            facts: self.facts.clone(),
        };
        let tried = self
            .join_with(&join, own.as_ref().or(self.token.as_ref()))
            .await;
        let joined = match tried {
            // A new join token may be good where the node's own is not.
            Err(why) if why.is_of_identity() && own.is_some() && self.token.is_some() => {
                self.join_with(&join, self.token.as_ref()).await?
            }
            tried => tried?,
        };
        if let Some(token) = &joined.token {
            let identity = Identity {
                server: self.url.clone(),
                node: self.node.to_string(),
                token: token.clone(),
            };
            disk::replace_json(&self.identity, &identity)?;
            *own = Some(token.clone());
        }
        Ok(joined)
    }

    async fn join_with(&self, join: &Join, token: Option<&String>) -> Result<Joined, Failure> {
        let mut connection = self.address.connect().await?;
        let body = serde_json::to_vec(join).map_err(io::Error::from)?;
        let request = self.post("/v1/agent/join", token, body)?;
        let (status, body) = connection
            .ask(request, ANSWER_BYTES_MAX, ANSWER_WITHIN)
            .await?;
        match status {
            StatusCode::OK => Ok(serde_json::from_slice(&body).map_err(io::Error::from)?),
            status => Err(failure(status, &body)),
        }
    }

    fn post(
        &self,
        path: &str,
        token: Option<&String>,
        body: Vec<u8>,
    ) -> io::Result<Request<Full<Bytes>>> {
        let mut request = self
            .address
            .request("POST", path)
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        // A token that no header can hold.
        request.body(Full::from(body)).map_err(io::Error::other)
    }
}

/// The words of the server for what it refuses, cut short.
fn failure(status: StatusCode, body: &[u8]) -> Failure {
    let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
    tracing::debug!(%status, text, "refused");
    Failure::Status(status, text)
}

/// How a stream ended.
enum Streamed {
    /// As streams do.
    Ended,
    /// Too soon.
    Cut,
}

/// A conversation with a server that knows us.
struct Talk<'a> {
    client: &'a Client,
    news: &'a News,
    token: Option<String>,
    server: String,
}

impl Talk<'_> {
    /// Listens, until only joining again helps.
    async fn listen(&self) -> Failure {
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
                Err(why) if why.is_of_identity() => return why,
                Err(why) => self.news.trouble(&why),
            }
            backoff.wait().await;
        }
    }

    async fn stream(&self) -> Result<Streamed, Failure> {
        let began = Instant::now();
        let mut connection = self.client.address.connect().await?;
        let request = self.get("", "text/event-stream")?;
        let response = connection.send(request, ANSWER_WITHIN).await?;
        let (head, mut body) = response.into_parts();
        if head.status != StatusCode::OK {
            let text = within(ANSWER_WITHIN, net::whole(&mut body, ANSWER_BYTES_MAX)).await??;
            return Err(failure(head.status, &text));
        }
        self.news.way("streams");
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
        let mut connection = self.client.address.connect().await?;
        while Instant::now() < until {
            let later = revision.map_or(String::new(), |revision| {
                format!("&revision={revision}&wait={POLL_WAIT}")
            });
            if !connection.is_open() {
                connection = self.client.address.connect().await?;
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
        let mut request = self
            .client
            .address
            .request("GET", &path)
            .header("accept", accept);
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::default()).map_err(io::Error::other)
    }

    /// Takes a state in, if it is one; answers its revision.
    fn take(&self, bytes: &[u8]) -> Option<u64> {
        let desired: Desired = match serde_json::from_slice(bytes) {
            Ok(desired) => desired,
            Err(why) => {
                self.news.trouble(&Failure::Io(why.into()));
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
            self.news.trouble(&Failure::Io(io::Error::other(why)));
            return None;
        }
        self.news.well();
        let revision = desired.revision;
        let server = self.server.clone();
        self.news
            .desired
            .send_replace(Some(Received { server, desired }));
        Some(revision)
    }

    /// Hands in what there is to say, until only joining again helps. The lease is kept by it, with time for three
    /// failures.
    async fn report(&self, lease: Duration) -> Failure {
        let outbox = &self.client.outbox;
        let mut backoff = Backoff::new();
        let mut connection = None;
        loop {
            let heartbeat = (lease / 4).mul_f64(rand::random_range(0.8..1.0));
            tokio::select! {
                () = outbox.filled() => sleep(BATCH_WITHIN).await,
                () = sleep(heartbeat) => {}
            }
            let batch = Batch {
                outbox,
                fate: Fate::Unsure,
            };
            match self.send(&mut connection, batch).await {
                Ok(()) => {
                    backoff = Backoff::new();
                    self.news.well();
                }
                Err(why) => {
                    connection = None;
                    if why.is_of_identity() {
                        return why;
                    }
                    self.news.trouble(&why);
                    backoff.wait().await;
                }
            }
        }
    }

    async fn send(
        &self,
        connection: &mut Option<Connection>,
        mut batch: Batch<'_>,
    ) -> Result<(), Failure> {
        let reports = Reports {
            node: self.client.node.to_string(),
            reports: batch.outbox.take(BATCH_MAX),
        };
        let body = serde_json::to_vec(&reports).map_err(io::Error::from)?;
        let open = match connection.take().filter(Connection::is_open) {
            Some(open) => open,
            None => self.client.address.connect().await?,
        };
        let open = connection.insert(open);
        let request = self
            .client
            .post("/v1/agent/reports", self.token.as_ref(), body)?;
        let (status, body) = open.ask(request, ANSWER_BYTES_MAX, ANSWER_WITHIN).await?;
        let refusals = [
            StatusCode::BAD_REQUEST,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNPROCESSABLE_ENTITY,
        ];
        if status.is_success() {
            batch.fate = Fate::Sent;
            for run in batch.settle() {
                // Nobody hears it when the agent ends.
                let _ = self.news.told.send(run);
            }
            return Ok(());
        }
        if refusals.contains(&status) {
            batch.fate = Fate::Refused;
        }
        Err(failure(status, &body))
    }
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

impl News {
    fn change(&self, change: impl FnOnce(&mut Link)) {
        change(&mut self.link.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn way(&self, way: &str) {
        self.change(|link| way.clone_into(&mut link.way));
    }

    fn well(&self) {
        self.change(|link| link.trouble = None);
    }

    fn trouble(&self, why: &Failure) {
        let text = match why {
            Failure::Status(_, said) if !said.is_empty() => format!("{why}: {said}"),
            why => why.to_string(),
        };
        self.change(|link| {
            link.troubles += 1;
            if link.trouble.as_ref() != Some(&text) {
                tracing::warn!(why = text, "trouble with the server");
                link.trouble = Some(text);
            }
        });
    }
}
