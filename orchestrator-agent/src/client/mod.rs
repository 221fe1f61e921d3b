//! The link to the server: joins, listens for what is desired, and hands in reports.
//!
//! ```text
//!  join ──► listen: a stream, or long polls while streams are cut ──► the latest desired state
//!   ▲   ├─► report: batches, or an empty one as a heartbeat        ◄── outbox
//!   │   └─► ship: what workloads have written                      ◄── logs
//!   └─────── the server does not know us, or not our token
//! ```
//!
//! Who leaves joins once more, and says so; and who refuses a state that is older than before.
//!
//! After every failure it waits, longer each time, and for a random part of that, so that a fleet does not come back all
//! at once. Everything that is read has a bound in size and in time.

mod sse;
mod talk;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE};
use hyper::{Request, StatusCode, http::request};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use self::talk::Talk;
use crate::disk;
use crate::logs::Logs;
use crate::net::{Address, Connection, is_same};
use crate::outbox::Outbox;
use crate::runs::RunId;
use crate::settings::Token;
use crate::wire::{Desired, Join, Joined};

/// By which an agent says which one it is.
const AGENT: &str = "orchestrator-agent";
/// About as long as an identity is on disk.
const IDENTITY_BYTES: usize = 1024;
/// The longest other answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The fact by which others see that a node does not do what the server wants, and what it says.
const REFUSES: (&str, &str) = ("refuses", "a state that is older than before");

/// What a client needs to know.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: Address,
    /// As it was given: whose revisions these are.
    pub(crate) url: String,
    pub(crate) node: Arc<str>,
    /// Which agent this is: no other one of the node is believed while it is heard.
    pub(crate) agent: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) facts: BTreeMap<String, String>,
    /// Where the node's own token is kept.
    pub(crate) identity: PathBuf,
    /// A token that came from outside: a join token, or the node's own.
    pub(crate) token: Option<Token>,
    /// No agent of this node has ever heard from a server what is wanted, and nothing runs that waits for this one.
    pub(crate) is_new: bool,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) logs: Arc<Logs>,
    /// What there is to say besides.
    pub(crate) says: watch::Receiver<Says>,
}

/// What an agent says of its node that may change: for that it joins once more.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Says {
    /// It is about to go.
    pub(crate) leaving: bool,
    /// It does not do what the server wants, which is older than what it wanted before.
    pub(crate) refuses: bool,
}

/// Where the rest of the agent hears of the server.
#[derive(Clone, Debug)]
pub(crate) struct News {
    /// The latest of what was received.
    pub(crate) desired: watch::Sender<Option<Received>>,
    /// Starts that the server knows of.
    pub(crate) told: mpsc::UnboundedSender<RunId>,
    /// Whether the server knows that this node is about to go.
    pub(crate) farewell: watch::Sender<bool>,
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
    /// What went wrong last with each part of it, where nothing went well since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// So many times something went wrong.
    pub troubles: u64,
    #[serde(skip)]
    of_parts: BTreeMap<Part, String>,
}

/// A part of the link. That another one goes well says nothing of its trouble.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Part {
    Join,
    Listen,
    Report,
    Ship,
}

/// The node's own token, as it is kept.
#[derive(Deserialize, Serialize)]
struct Identity {
    server: String,
    node: String,
    token: String,
}

/// Why a server does not let a node join, in its words.
#[derive(Debug)]
pub(crate) enum NotLet {
    /// It says that it knows who asks, and that he may not; or that he does not say who he is.
    Unknown(String),
    /// Another agent has the name, or there is no place for one more.
    Taken(String),
}

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// No answer that could be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not what was asked for.
    #[error("the server answers {0}: {1}")]
    Status(StatusCode, String),
}

impl Failure {
    /// No answer has come, and no end of the connection.
    fn is_timeout(&self) -> bool {
        matches!(self, Self::Io(why) if why.kind() == io::ErrorKind::TimedOut)
    }

    /// It knows a word of the request less, or wants another one.
    fn is_of_words(&self) -> bool {
        matches!(
            self,
            Self::Status(
                StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY,
                _
            )
        )
    }

    /// Where a node that was never there need not try it again.
    fn not_let(&self) -> Option<NotLet> {
        match self {
            Self::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, why) => {
                Some(NotLet::Unknown(why.clone()))
            }
            Self::Status(StatusCode::CONFLICT, why) => Some(NotLet::Taken(why.clone())),
            _ => None,
        }
    }

    /// There is nothing to talk about until it is let in again.
    fn ends_talk(&self) -> bool {
        self.is_of_identity() || matches!(self, Self::Status(StatusCode::CONFLICT, _))
    }

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
        sleep(self.0.mul_f64(rand::random_range(0.1..1.0))).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }
}

impl Client {
    /// Goes on for as long as it is let; or answers why a node that was never there may not join.
    pub(crate) async fn run(self, news: News) -> NotLet {
        let mut own = self.own_token();
        let mut is_stranger = self.is_new && own.is_none();
        let mut backoff = Backoff::new();
        let mut to_say = self.says.clone();
        loop {
            news.way("joining");
            let says = *to_say.borrow_and_update();
            let mut joined = self.join(&mut own, says).await;
            let is_told = says.leaving && joined.is_ok();
            if says.leaving && joined.as_ref().is_err_and(Failure::is_of_words) {
                // An earlier server: it hears of what runs until nothing does.
                let leaving = false;
                joined = self.join(&mut own, Says { leaving, ..says }).await;
            }
            match joined {
                Ok(joined) => {
                    is_stranger = false;
                    news.well(Part::Join);
                    news.farewell.send_replace(is_told);
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
                        never = talk.ship() => match never {},
                        Ok(()) = to_say.changed() => continue,
                    };
                    news.trouble(Part::Join, &why);
                    if began.elapsed() > BACKOFF_MAX {
                        backoff = Backoff::new();
                    }
                }
                Err(why) => match why.not_let() {
                    Some(not_let) if is_stranger => return not_let,
                    _ => news.trouble(Part::Join, &why),
                },
            }
            tokio::select! {
                () = backoff.wait() => {}
                Ok(()) = to_say.changed() => {}
            }
        }
    }

    /// The token that a former process was given, where it was by this server for this node.
    fn own_token(&self) -> Option<String> {
        match disk::read_json::<Identity>(&self.identity) {
            Ok(kept) => {
                let kept = kept?;
                let is_this = is_same(&kept.server, &self.url) && *kept.node == *self.node;
                if !is_this {
                    tracing::warn!(
                        server = kept.server,
                        node = kept.node,
                        "the identity that is kept is for another server or node: it is not shown to this one"
                    );
                }
                is_this.then_some(kept.token)
            }
            Err(why) => {
                tracing::error!(%why, "the node's identity cannot be read");
                None
            }
        }
    }

    async fn join(&self, own: &mut Option<String>, says: Says) -> Result<Joined, Failure> {
        let mut facts = self.facts.clone();
        if says.refuses {
            facts.insert(REFUSES.0.to_owned(), REFUSES.1.to_owned());
        }
        let join = Join {
            name: self.node.to_string(),
            labels: self.labels.clone(),
            facts,
            leaving: says.leaving,
        };
        let given = self.token.as_ref().map(|token| &token.0);
        if own.is_none() && given.is_some() {
            // A join token is good once: it is not to be used up for an identity that cannot be kept.
            let probe = self.identity.with_extension("probe");
            let tried = disk::replace(&probe, &[b' '; IDENTITY_BYTES]);
            let tried = tried.and_then(|()| std::fs::remove_file(&probe));
            tried.map_err(|why| {
                let path = self.identity.display();
                let what = format!("{path}: this node's identity could not be kept there: {why}");
                io::Error::new(why.kind(), what)
            })?;
        }
        let tried = self.join_with(&join, own.as_ref().or(given)).await;
        let joined = match tried {
            // A new join token may be good where the node's own is not.
            Err(why) if why.is_of_identity() && own.is_some() && given.is_some() => {
                self.join_with(&join, given).await?
            }
            tried => tried?,
        };
        if joined.token.is_some() {
            own.clone_from(&joined.token);
        }
        if let Some(token) = own
            && self.own_token().as_ref() != Some(token)
        {
            let identity = Identity {
                server: self.url.clone(),
                node: self.node.to_string(),
                token: token.clone(),
            };
            // It goes on with it, and tries to keep it again when it connects again.
            if let Err(why) = disk::replace_json(&self.identity, &identity) {
                tracing::error!(%why, "the node's identity cannot be kept: after a restart it has to join anew");
            }
        }
        Ok(joined)
    }

    async fn join_with(&self, join: &Join, token: Option<&String>) -> Result<Joined, Failure> {
        let mut connection = self.connect().await?;
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

    async fn connect(&self) -> io::Result<Connection> {
        let connected = self.address.connect().await;
        let named = |why: io::Error| {
            let what = format!("no server can be reached at {}: {why}", self.url);
            io::Error::new(why.kind(), what)
        };
        connected.map_err(named)
    }

    fn post(
        &self,
        path: &str,
        token: Option<&String>,
        body: Vec<u8>,
    ) -> io::Result<Request<Full<Bytes>>> {
        let request = self.request("POST", path, token);
        let request = request.header(CONTENT_TYPE, "application/json");
        // A token that no header can hold.
        request.body(Full::from(body)).map_err(io::Error::other)
    }

    /// A request that says who makes it.
    fn request(&self, method: &str, path: &str, token: Option<&String>) -> request::Builder {
        let request = self.address.request(method, path);
        let request = request.header(AGENT, &self.agent);
        match token {
            Some(token) => request.header(AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }
}

/// The words of the server for what it refuses, cut short.
fn failure(status: StatusCode, body: &[u8]) -> Failure {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let text = match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => problem.detail,
        // It may be somebody on the way who answers.
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    let text: String = text.chars().take(300).collect();
    tracing::debug!(%status, text, "refused");
    Failure::Status(status, text)
}

impl News {
    fn change(&self, change: impl FnOnce(&mut Link)) {
        change(&mut self.link.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn way(&self, way: &str) {
        self.change(|link| way.clone_into(&mut link.way));
    }

    fn well(&self, part: Part) {
        self.change(|link| {
            if link.of_parts.remove(&part).is_some() {
                link.trouble = link.all_trouble();
            }
        });
    }

    fn trouble(&self, part: Part, why: &Failure) {
        let text = why.to_string();
        self.change(|link| {
            link.troubles += 1;
            if link.of_parts.get(&part) != Some(&text) {
                tracing::warn!(
                    ?part,
                    why = text,
                    "trouble with the server, which is tried again"
                );
                link.of_parts.insert(part, text);
                link.trouble = link.all_trouble();
            }
        });
    }
}

impl Link {
    /// What several parts have in common is said once.
    fn all_trouble(&self) -> Option<String> {
        let mut texts: Vec<&str> = Vec::new();
        for text in self.of_parts.values() {
            if !texts.contains(&text.as_str()) {
                texts.push(text);
            }
        }
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_until_the_same_part_goes_well() {
        let news = News {
            desired: watch::channel(None).0,
            told: mpsc::unbounded_channel().0,
            farewell: watch::channel(false).0,
            link: Arc::default(),
        };
        let failure = |why: &str| Failure::Io(io::Error::other(why.to_owned()));
        let shown = || news.link.lock().unwrap().trouble.clone();
        news.trouble(Part::Listen, &failure("too long"));
        news.well(Part::Report);
        assert_eq!(shown().as_deref(), Some("too long"));
        news.trouble(Part::Report, &failure("away"));
        news.trouble(Part::Ship, &failure("away"));
        assert_eq!(shown().as_deref(), Some("too long; away"));
        news.well(Part::Listen);
        news.well(Part::Report);
        assert_eq!(shown().as_deref(), Some("away"));
        news.well(Part::Ship);
        assert_eq!(shown(), None);
        assert_eq!(news.link.lock().unwrap().troubles, 3);
    }
}
