//! The Docker Engine's API, as far as it is needed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::request::Builder;
use hyper::{Request, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

use super::login;
use crate::net::{self, Connection, within};

const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Between two signs of life of a pull, or of a stop that takes its time.
const SIGN_WITHIN: Duration = Duration::from_secs(120);
/// The longest line about a pull.
const LINE_BYTES_MAX: usize = 1 << 20;
const REFUSAL_CHARS_MAX: usize = 500;
/// What registries say to who may not have an image, between colons. The engine calls that an error of its own.
const NOT_ALLOWED: [&str; 8] = [
    "no basic auth credentials",
    "unauthorized",
    "denied",
    "authentication required",
    "authorization failed",
    "insufficient_scope",
    "401 unauthorized",
    "403 forbidden",
];

/// Where an engine listens.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    /// Where passwords of registries are kept.
    logins: Option<PathBuf>,
}

/// Why the engine has not done it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// Nobody knows whether it has.
    #[error("no Docker engine answers at {}: {why}{}", socket.display(), to_do(why))]
    Away { socket: PathBuf, why: io::Error },
    /// It said no.
    #[error("{why}")]
    Refused { status: StatusCode, why: String },
    /// It was not asked: the passwords of registries cannot be read.
    #[error("{0}")]
    NoLogins(io::Error),
}

/// What can be done about an engine that is not there.
fn to_do(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            "; start one there, or tell the agent where it is with --docker"
        }
        io::ErrorKind::PermissionDenied => "; the agent needs to be root there, or of its group",
        _ => "",
    }
}

impl Failed {
    /// Whether there is no engine at all, not even a place for one.
    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Self::Away { why, .. } if why.kind() == io::ErrorKind::NotFound)
    }

    /// Of an image: whether it may come the next time.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            // Somebody may just be writing them.
            Self::Away { .. } | Self::NoLogins(_) => true,
            Self::Refused { status, why } => {
                // The words alone may be a part of the image's name.
                let mut said = why.lines().flat_map(|line| line.split(": "));
                let not_allowed = |words: &str| {
                    let mut known = NOT_ALLOWED.iter();
                    known.any(|known| known.eq_ignore_ascii_case(words.trim()))
                };
                status.is_server_error() && !said.any(not_allowed)
            }
        }
    }

    pub(super) fn is(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == wanted)
    }
}

impl From<Failed> for io::Error {
    fn from(failed: Failed) -> Self {
        Self::other(failed.to_string())
    }
}

/// One of many containers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    /// The engine puts a slash before each.
    pub(super) names: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    state: String,
}

impl Listed {
    pub(super) fn runs(&self) -> bool {
        self.state == "running"
    }

    pub(super) fn name(&self) -> &str {
        let name = self.names.first().map_or("", String::as_str);
        name.trim_start_matches('/')
    }
}

/// A container, as the engine sees it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) state: State,
    pub(super) config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    pub(super) stop_signal: Option<String>,
    pub(super) labels: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    status: String,
    exit_code: i32,
    #[serde(rename = "OOMKilled", default)]
    pub(super) oom_killed: bool,
    started_at: String,
    finished_at: String,
}

impl State {
    /// It has not been started yet, by anybody.
    pub(super) fn is_new(&self) -> bool {
        self.status == "created"
    }

    /// How it ended and how long it lived, if it has.
    pub(super) fn ended(&self) -> Option<(i32, Duration)> {
        let over = matches!(self.status.as_str(), "exited" | "dead" | "removing");
        let time = |text: &str| humantime::parse_rfc3339(text).ok();
        let ran = || {
            let began: SystemTime = time(&self.started_at)?;
            time(&self.finished_at)?.duration_since(began).ok()
        };
        over.then(|| (self.exit_code, ran().unwrap_or_default()))
    }
}

/// Where a program is that can be run in a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Inside {
    /// Nobody has run it yet.
    New,
    Running,
    /// With this code.
    Ended(i64),
    /// An engine that was begun again does not know it any more.
    Unknown,
}

impl Engine {
    pub(super) fn new(socket: &Path, logins: Option<&Path>) -> Self {
        Self {
            socket: socket.to_owned(),
            logins: logins.map(Path::to_owned),
        }
    }

    fn away(&self, why: io::Error) -> Failed {
        Failed::Away {
            socket: self.socket.clone(),
            why,
        }
    }

    /// The head of an answer was good, and this is its body.
    async fn open(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(Connection, Incoming), Failed> {
        let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        self.send(request(method, path), bytes).await
    }

    async fn send(&self, request: Builder, bytes: Bytes) -> Result<(Connection, Incoming), Failed> {
        let away = |why| self.away(why);
        let request = request
            .body(Full::new(bytes))
            .map_err(|why| away(io::Error::other(why)))?;
        let connected = within(ANSWER_WITHIN, async {
            Connection::over(UnixStream::connect(&self.socket).await?).await
        });
        let mut connection = connected.await.and_then(|made| made).map_err(away)?;
        let answer = connection.send(request, SIGN_WITHIN).await.map_err(away)?;
        let (head, mut body) = answer.into_parts();
        if head.status.is_success() || head.status == StatusCode::NOT_MODIFIED {
            return Ok((connection, body));
        }
        let told = within(ANSWER_WITHIN, net::whole(&mut body, ANSWER_BYTES_MAX));
        let told = told.await.and_then(|told| told).map_err(away)?;
        let told = serde_json::from_slice::<Value>(&told).unwrap_or_default();
        let why = told["message"].as_str().unwrap_or("it does not say why");
        Err(Failed::Refused {
            status: head.status,
            why: why.chars().take(REFUSAL_CHARS_MAX).collect(),
        })
    }

    /// The whole answer; null where there is none.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failed> {
        let (_connection, mut body) = self.open(method, path, body).await?;
        let bytes = within(ANSWER_WITHIN, net::whole(&mut body, ANSWER_BYTES_MAX));
        let bytes = bytes
            .await
            .and_then(|bytes| bytes)
            .map_err(|why| self.away(why))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|why| self.away(why.into()))
    }

    /// `None` where there is no such container.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<Container>, Failed> {
        match self
            .ask("GET", &format!("/containers/{name}/json"), None)
            .await
        {
            Ok(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|why| self.away(why.into())),
            Err(failed) if failed.is(StatusCode::NOT_FOUND) => Ok(None),
            Err(failed) => Err(failed),
        }
    }

    /// All containers with this label, also those that have ended.
    pub(super) async fn list(&self, label: &str) -> Result<Vec<Listed>, Failed> {
        let filters = serde_json::json!({ "label": [label] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", escape(&filters));
        let listed = self.ask("GET", &path, None).await?;
        serde_json::from_value(listed).map_err(|why| self.away(why.into()))
    }

    /// Ready when a container runs no more.
    pub(super) async fn wait(&self, name: &str) -> Result<(), Failed> {
        let path = format!("/containers/{name}/wait");
        // It sends the head at once, and the rest at the end.
        let (_connection, mut body) = self.open("POST", &path, None).await?;
        net::whole(&mut body, ANSWER_BYTES_MAX)
            .await
            .map(drop)
            .map_err(|why| self.away(why))
    }

    /// Brings an image here.
    pub(super) async fn pull(&self, image: &str) -> Result<(), Failed> {
        let path = format!("/images/create?fromImage={}", escape(&tagged(image)));
        let mut request = request("POST", &path);
        let login = self
            .logins
            .as_deref()
            .map(|file| login::header(file, image));
        let login = login.transpose().map_err(Failed::NoLogins)?;
        if let Some(login) = login.flatten() {
            request = request.header("x-registry-auth", login);
        }
        let (_connection, mut body) = self.send(request, Bytes::new()).await?;
        let mut line = Vec::new();
        loop {
            let more = within(SIGN_WITHIN, net::next(&mut body)).await;
            let more = more.and_then(|more| more).map_err(|why| self.away(why))?;
            let Some(bytes) = more else {
                return Ok(());
            };
            for byte in bytes {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > LINE_BYTES_MAX {
                        return Err(self.away(io::Error::other("a line without an end")));
                    }
                    continue;
                }
                let said = serde_json::from_slice::<Value>(&line).unwrap_or_default();
                line.clear();
                // The head was sent before anything could fail.
                if let Some(why) = said["error"].as_str() {
                    return Err(Failed::Refused {
                        status: StatusCode::BAD_GATEWAY,
                        why: why.chars().take(REFUSAL_CHARS_MAX).collect(),
                    });
                }
            }
        }
    }

    /// What a container writes, in the engine's frames, from a moment on.
    pub(super) async fn output(
        &self,
        name: &str,
        since: &str,
        follow: bool,
    ) -> Result<(Connection, Incoming), Failed> {
        let path = format!(
            "/containers/{name}/logs?stdout=1&stderr=1&timestamps=1&follow={}&since={since}",
            u8::from(follow)
        );
        self.open("GET", &path, None).await
    }

    /// Makes a program that can be run in a container once; its id.
    pub(super) async fn make(&self, name: &str, command: &[String]) -> Result<String, Failed> {
        let what = serde_json::json!({
            "Cmd": command, "AttachStdout": true, "AttachStderr": true,
        });
        let path = format!("/containers/{name}/exec");
        Ok(id(&self.ask("POST", &path, Some(&what)).await?))
    }

    /// Runs it, and is ready when it writes no more.
    pub(super) async fn run(&self, id: &str) -> Result<(), Failed> {
        let how = serde_json::json!({ "Detach": false, "Tty": false });
        let path = format!("/exec/{id}/start");
        let (_connection, mut body) = self.open("POST", &path, Some(&how)).await?;
        // What it writes is of no interest, but for its end.
        while net::next(&mut body)
            .await
            .map_err(|why| self.away(why))?
            .is_some()
        {}
        Ok(())
    }

    /// Where it is.
    pub(super) async fn inside(&self, id: &str) -> Result<Inside, Failed> {
        let told = match self.ask("GET", &format!("/exec/{id}/json"), None).await {
            Err(failed) if failed.is(StatusCode::NOT_FOUND) => return Ok(Inside::Unknown),
            told => told?,
        };
        Ok(
            match (told["Running"].as_bool(), told["ExitCode"].as_i64()) {
                (Some(true), _) => Inside::Running,
                (_, Some(code)) => Inside::Ended(code),
                _ => Inside::New,
            },
        )
    }
}

fn request(method: &str, path: &str) -> Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "docker")
        .header("content-type", "application/json")
}

/// What was made is called so.
pub(super) fn id(made: &Value) -> String {
    made["Id"].as_str().unwrap_or_default().to_owned()
}

/// Without a tag or a digest the engine would bring all that there are.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    match last.contains([':', '@']) {
        true => image.to_owned(),
        false => format!("{image}:latest"),
    }
}

/// As a part of a path, or of a query.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                escaped.push(char::from(byte));
            }
            _ => escaped += &format!("%{byte:02X}"),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_without_a_tag_is_the_latest() {
        for (image, full) in [
            ("web", "web:latest"),
            ("web:1", "web:1"),
            ("registry:5000/web", "registry:5000/web:latest"),
            ("registry:5000/web:1", "registry:5000/web:1"),
            ("web@sha256:ab", "web@sha256:ab"),
        ] {
            assert_eq!(tagged(image), full);
        }
        assert_eq!(escape("a/b:1"), "a%2Fb%3A1");
    }

    #[test]
    fn who_may_not_have_an_image_is_not_told_so_by_its_name() {
        for (why, may_pass) in [
            (
                r#"Head "http://r:1/v2/denied/web/manifests/1": no basic auth credentials"#,
                false,
            ),
            ("unauthorized: authentication required", false),
            (
                r#"Head "https://r/v2/web/manifests/1": denied: denied"#,
                false,
            ),
            (
                r#"Head "https://r/v2/web/manifests/1": unauthorized"#,
                false,
            ),
            ("error from registry: unauthorized\nunauthorized", false),
            (
                "failed to authorize: failed to fetch anonymous token: unexpected status: 401 Unauthorized",
                false,
            ),
            (
                "failed to resolve reference: unexpected status from HEAD request to https://r/v2/web/manifests/1: 403 Forbidden",
                false,
            ),
            (
                "pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed",
                false,
            ),
            (
                "unexpected status from HEAD request to https://r/v2/web/manifests/1: 503 Service Unavailable",
                true,
            ),
            (
                r#"Get "http://r:1/v2/": dial tcp 1.2.3.4:1: connect: connection refused"#,
                true,
            ),
            (
                r#"Head "http://r:1/v2/denied/unauthorized/manifests/denied": EOF"#,
                true,
            ),
        ] {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let why = why.to_owned();
            let failed = Failed::Refused { status, why };
            assert_eq!(failed.may_pass(), may_pass, "{failed}");
        }
    }

    #[test]
    fn a_state_says_how_it_ended() {
        let state = |status: &str| State {
            status: status.to_owned(),
            exit_code: 3,
            oom_killed: false,
            started_at: "2026-01-01T00:00:00.5Z".to_owned(),
            finished_at: "2026-01-01T00:00:02.000000000Z".to_owned(),
        };
        let ran = Duration::from_millis(1500);
        assert_eq!(state("exited").ended(), Some((3, ran)));
        assert_eq!(state("running").ended(), None);
        assert!(state("created").is_new() && state("created").ended().is_none());
    }
}
