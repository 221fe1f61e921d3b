//! A request, read with all that is wrong with it.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::{CONTENT_TYPE, HeaderName, IF_MATCH};
use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use orchestrator_core::fleet::NodeName;
use orchestrator_core::spec::{JobSpec, SPEC_BYTES_MAX};
use orchestrator_core::{DeploymentId, InvalidName, JobId, KEY_BYTES_MAX, Span, is_name};
use serde_json::{Map, Value};

use super::fields::bounded;
use super::page::{PAGE_SIZE, PAGE_SIZE_MAX};
use super::problem::{Fault, Problem, of_spec};
use super::strict::Strict;
use crate::access::Caller;
use crate::engine::Who;
use crate::list;
use crate::store::GroupId;

/// The longest body that is read.
pub(super) const BODY_BYTES_MAX: usize = SPEC_BYTES_MAX;
/// For how long a body may take to come in.
const BODY_WITHIN: Duration = Duration::from_secs(20);
/// For how long a long poll waits at the most.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60);
const WAIT: Duration = Duration::from_secs(30);
/// How many faults are told at once.
const FAULTS_MAX: usize = 100;
/// By which an agent says which one it is.
pub(super) const AGENT: HeaderName = HeaderName::from_static("orchestrator-agent");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// A request. Its readers give `None` for what is absent, and after they have noted what is wrong with it;
/// [`done`](Self::done) tells all of that at once, together with what nobody asked for.
#[derive(Debug)]
pub(super) struct Ask {
    path: RawPathParams,
    query: Vec<(String, String)>,
    /// The parameters that somebody asked for.
    known: Vec<&'static str>,
    headers: HeaderMap,
    body: Bytes,
    caller: Caller,
    faults: Vec<Fault>,
    /// Somebody asked for what the caller believes to be so.
    guarded: bool,
    /// Whether it cannot even be read, as opposed to what it says being wrong.
    malformed: bool,
}

impl<S: Send + Sync> FromRequest<S> for Ask {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let path = RawPathParams::from_request_parts(&mut parts, state).await;
        let path = path.map_err(|why| {
            let detail = format!("the path cannot be read: {}", why.body_text());
            Problem::new(StatusCode::BAD_REQUEST, "malformed-request", detail)
        })?;
        let query = parts.uri.query().unwrap_or_default();
        let query = form_urlencoded::parse(query.as_bytes());
        let query = query.map(|(name, value)| (name.into_owned(), value.into_owned()));
        let query = query.collect();
        // Whoever forgets the guard has a server that answers nobody.
        let caller = parts.extensions.remove::<Caller>().ok_or_else(|| {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Problem::new(status, "internal", "nothing says who may do what here")
        })?;
        let body = if parts.method == Method::GET || parts.method == Method::HEAD {
            Bytes::new()
        } else {
            let body = read(body).await?;
            // It may have taken its time, and its token may have ended meanwhile.
            caller.again().await?;
            body
        };
        if !body.is_empty() && !is_json(&parts.headers) {
            let detail = "send the body as JSON, and say so: `Content-Type: application/json`";
            let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(Problem::new(status, "unsupported-media-type", detail));
        }
        Ok(Self {
            path,
            query,
            known: Vec::new(),
            headers: parts.headers,
            body,
            caller,
            faults: Vec::new(),
            guarded: false,
            malformed: false,
        })
    }
}

impl Ask {
    /// What was read, where nothing is wrong with the request. `wanted` is absent only where something is.
    pub(super) fn done<T>(mut self, wanted: Option<T>) -> Result<T, Problem> {
        if !self.guarded && self.headers.contains_key(IF_MATCH) {
            // Who relies on it must not believe that it held.
            let detail = "nothing here can be guarded by it: leave it out".to_owned();
            self.malformed_header(&IF_MATCH, detail);
        }
        let unknown = self.query.iter().map(|(name, _)| name.as_str());
        let mut unknown: Vec<&str> = unknown.filter(|name| !self.known.contains(name)).collect();
        unknown.dedup();
        let unknown = unknown.into_iter().map(|name| {
            let known = match self.known.as_slice() {
                [] => "there are none here".to_owned(),
                known => format!("there are {}", known.join(", ")),
            };
            Fault::of_parameter(name, format!("there is no such parameter; {known}"))
        });
        let unknown: Vec<Fault> = unknown.collect();
        self.malformed |= !unknown.is_empty();
        self.faults.extend(unknown);
        self.faults.truncate(FAULTS_MAX);
        match wanted {
            Some(wanted) if self.faults.is_empty() => Ok(wanted),
            _ => Err(Problem::invalid(self.malformed, self.faults)),
        }
    }

    /// For the audit log.
    pub(super) fn who(&self) -> Who {
        self.caller.who()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Refuses whoever is not this node's agent.
    pub(super) fn speaks_for(&self, node: &str) -> Result<(), Problem> {
        self.caller.speaks_for(Some(node))?;
        Ok(())
    }

    /// The job that the path names.
    pub(super) fn job(&mut self) -> Option<JobId> {
        let namespace = self.name("namespace", "job's namespace");
        let name = self.name("job_id", "job");
        JobId::new(&namespace?, &name?).ok()
    }

    /// The deployment that the path names.
    pub(super) fn deployment(&mut self) -> Option<DeploymentId> {
        self.uuid("a deployment's id is a UUID, in lower case", |id| {
            id.parse().ok()
        })
    }

    /// The group that the path names.
    pub(super) fn group(&mut self) -> Option<GroupId> {
        self.uuid("a group's id is a UUID, in lower case", |id| {
            id.parse().ok()
        })
    }

    fn uuid<T>(&mut self, allowed: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.in_path("id");
        // One way to write it, so that no id has two addresses.
        let mut buffer = uuid::Uuid::encode_buffer();
        let uuid = text.parse::<uuid::Uuid>().ok();
        let uuid = uuid.filter(|id| text == id.hyphenated().encode_lower(&mut buffer));
        let id = uuid.and_then(|_| read(text));
        if id.is_none() {
            let text = text.to_owned();
            self.malformed("id", &text, allowed);
        }
        id
    }

    /// The node that the path names.
    pub(super) fn node(&mut self) -> Option<NodeName> {
        self.name("id", "node").map(NodeName::from)
    }

    /// The token that the path names.
    pub(super) fn token(&mut self) -> Option<String> {
        self.name("id", "token")
    }

    /// The version that the path names.
    pub(super) fn version(&mut self) -> Option<u32> {
        let text = self.in_path("version").to_owned();
        let version = whole(&text);
        if version.is_none() {
            self.malformed("version", &text, "a whole number");
        }
        version
    }

    /// A parameter of the query.
    pub(super) fn parameter<T>(
        &mut self,
        name: &'static str,
        allowed: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(name, |text| {
            read(text).ok_or_else(|| vec![refused(text, allowed)])
        })
    }

    /// A parameter that says itself all that is wrong with it.
    pub(super) fn parsed<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, Vec<String>>,
    ) -> Option<T> {
        self.known.push(name);
        let mut given = self.query.iter().filter(|(known, _)| known == name);
        let outcome = read(&given.next()?.1);
        let twice = given.next().is_some();
        let mut faults = outcome.as_ref().err().cloned().unwrap_or_default();
        if twice {
            faults.push("it is there twice; say it once".to_owned());
        }
        self.malformed |= !faults.is_empty();
        let faults = faults
            .into_iter()
            .map(|detail| Fault::of_parameter(name, detail));
        self.faults.extend(faults);
        outcome.ok()
    }

    /// A parameter that is true or false, and false where it is absent.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        let read = |text: &str| text.parse().ok();
        self.parameter(name, "true or false", read).unwrap_or(false)
    }

    /// A parameter that is a whole number.
    pub(super) fn whole<T: TryFrom<u64>>(&mut self, name: &'static str) -> Option<T> {
        self.parameter(name, "a whole number, 0 or more", whole)
    }

    /// A parameter that names something.
    pub(super) fn named(&mut self, name: &'static str) -> Option<String> {
        let read = |text: &str| is_name(text).then(|| text.to_owned());
        self.parameter(name, "1 to 200 of letters, digits, '-', '_' and '.'", read)
    }

    /// How long to wait for a revision that is later than the one that the caller has.
    pub(super) fn wait(&mut self, revision: Option<u64>) -> Duration {
        let wait = self.parsed("wait", |text| {
            let span = text.parse::<Span>().ok();
            let wait = span.map(|span| Duration::from_millis(span.as_millis()));
            wait.filter(|wait| *wait <= WAIT_MAX).ok_or_else(|| {
                let most = WAIT_MAX.as_secs();
                let allowed = format!("a length of time such as 30s, up to {most}s");
                vec![refused(text, &allowed)]
            })
        });
        if wait.is_some() && revision.is_none() {
            let detail = "it goes with `revision`: say which one you have";
            self.faults.push(Fault::of_parameter("wait", detail));
            self.malformed = true;
        }
        wait.unwrap_or(WAIT)
    }

    /// At most how many rows to show.
    pub(super) fn page_size(&mut self) -> u32 {
        let allowed = format!("a whole number from 1 to {PAGE_SIZE_MAX}");
        let size = self.parameter("page_size", &allowed, |text| {
            whole(text).filter(|size| (1..=PAGE_SIZE_MAX).contains(size))
        });
        size.unwrap_or(PAGE_SIZE)
    }

    /// The place that a page begins after, in the list of this name.
    pub(super) fn place<T>(
        &mut self,
        list: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed("page_token", |token| {
            let place = list::open(list, token).map_err(|why| vec![why.to_string()])?;
            let place = String::from_utf8(place).ok();
            let place = place.and_then(|place| read(&place));
            place.ok_or_else(|| vec![list::TokenError::Damaged.to_string()])
        })
    }

    /// The key under which a command is carried out once.
    pub(super) fn key(&mut self) -> Option<String> {
        let key = self.header(&IDEMPOTENCY_KEY)?;
        let readable = key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !readable || !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            let detail = format!("1 to {KEY_BYTES_MAX} printable characters of ASCII");
            self.malformed_header(&IDEMPOTENCY_KEY, detail);
            return None;
        }
        Some(key)
    }

    /// Which agent it is, where it says so.
    pub(super) fn agent(&mut self) -> Option<String> {
        let agent = self.header(&AGENT)?;
        if !is_name(&agent) {
            let detail = refused(&agent, "1 to 200 of letters, digits, '-', '_' and '.'");
            self.malformed_header(&AGENT, detail);
            return None;
        }
        Some(agent)
    }

    /// What the caller believes to be so, by `If-Match` or by this parameter.
    pub(super) fn expected(&mut self, name: &'static str) -> Option<u64> {
        self.guarded = true;
        let parameter = self.whole(name);
        let Some(tag) = self.header(&IF_MATCH) else {
            return parameter;
        };
        let number = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let Some(number) = number.and_then(whole) else {
            let detail = refused(&tag, "one ETag as it was given, such as \"3\"");
            self.malformed_header(&IF_MATCH, detail);
            return parameter;
        };
        if parameter.is_some_and(|parameter| parameter != number) {
            let detail = format!("it says {number}, and the parameter {name} something else");
            self.malformed_header(&IF_MATCH, detail);
        }
        Some(number)
    }

    /// A job document.
    pub(super) fn spec(&mut self) -> Option<JobSpec> {
        let Ok(text) = std::str::from_utf8(&self.body) else {
            self.no_json("the body is no UTF-8".to_owned());
            return None;
        };
        if text.trim().is_empty() {
            self.no_json("the body is empty; send a job document".to_owned());
            return None;
        }
        match JobSpec::parse(text) {
            Ok(spec) => {
                self.faults.extend(places(&spec.id));
                Some(spec)
            }
            Err(errors) => {
                self.malformed |= errors.errors().iter().any(|e| e.field.contains(' '));
                self.faults.extend(of_spec(&errors));
                None
            }
        }
    }

    /// The body as JSON; an empty object where there is none.
    pub(super) fn json(&mut self) -> Value {
        if self.body.is_empty() {
            return Value::Object(Map::new());
        }
        match serde_json::from_slice(&self.body) {
            Ok(Strict(value)) => value,
            Err(why) => {
                let (line, column) = (why.line(), why.column());
                let why = why.to_string();
                let why = why.rsplit_once(" at line ").map_or(&*why, |(why, _)| why);
                self.no_json(format!("line {line}, column {column}: {why}"));
                Value::Object(Map::new())
            }
        }
    }

    /// A body that says nothing.
    pub(super) fn nothing(&mut self) {
        let body = self.json();
        super::fields::Fields::open(String::new(), &body, &[], &mut self.faults);
    }

    pub(super) fn faults(&mut self) -> &mut Vec<Fault> {
        &mut self.faults
    }

    /// Notes that a part of the request cannot be read.
    pub(super) fn refuse(&mut self, fault: Fault) {
        self.faults.push(fault);
        self.malformed = true;
    }

    fn name(&mut self, part: &str, what: &str) -> Option<String> {
        let text = self.in_path(part).to_owned();
        if is_name(&text) {
            return Some(text);
        }
        let why = InvalidName(text.chars().take(80).collect());
        self.faults
            .push(Fault::of_parameter(part, format!("{what}: {why}")));
        self.malformed = true;
        None
    }

    fn in_path(&self, name: &str) -> &str {
        let found = self.path.iter().find(|&(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    fn header(&mut self, name: &HeaderName) -> Option<String> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        let (value, twice) = (value.to_str().map(str::to_owned), values.next().is_some());
        if twice {
            self.malformed_header(name, "it is there twice; say it once".to_owned());
        }
        if value.is_err() {
            self.malformed_header(name, "it has other characters than ASCII's".to_owned());
        }
        value.ok()
    }

    fn malformed(&mut self, parameter: &str, found: &str, allowed: &str) {
        let fault = Fault::of_parameter(parameter, refused(found, allowed));
        self.faults.push(fault);
        self.malformed = true;
    }

    fn malformed_header(&mut self, name: &HeaderName, detail: String) {
        self.faults.push(Fault::of_header(name.as_str(), detail));
        self.malformed = true;
    }

    fn no_json(&mut self, detail: String) {
        self.faults.push(Fault::at("", detail));
        self.malformed = true;
    }
}

/// Names that the core takes, and that nobody could ask for.
pub(super) fn is_place(name: &str) -> bool {
    matches!(name, "." | "..")
}

/// What is wrong with the name of a job that nobody could ask for, where its document says it.
pub(super) fn places(job: &JobId) -> impl Iterator<Item = Fault> {
    let named = [("/namespace", job.namespace()), ("/job_id", job.name())];
    let places = named.into_iter().filter(|(_, name)| is_place(name));
    places.map(|(at, name)| Fault::at(at, refused(name, PLACE)))
}

/// What is said of them.
pub(super) const PLACE: &str = "in an address that is another place, and no name";

/// What stands there, and what may.
fn refused(found: &str, allowed: &str) -> String {
    let found: Cow<'_, str> = match found.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &found[..end]).into(),
        None => found.into(),
    };
    format!("{found:?} is not allowed; {allowed}")
}

pub(super) fn whole<T: TryFrom<u64>>(text: &str) -> Option<T> {
    // `parse` takes a plus.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    bounded(text.parse().ok().filter(|_| digits)?)
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(Ok(given)) = headers.get(CONTENT_TYPE).map(|value| value.to_str()) else {
        return false;
    };
    let kind = given.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

async fn read(body: axum::body::Body) -> Result<Bytes, Problem> {
    let read = Limited::new(body, BODY_BYTES_MAX).collect();
    let read = tokio::time::timeout(BODY_WITHIN, read).await;
    let read = read.map_err(|_| {
        let detail = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", detail)
    })?;
    match read {
        Ok(body) => Ok(body.to_bytes()),
        Err(why) if why.is::<LengthLimitError>() => {
            let detail = format!("the body has more than {BODY_BYTES_MAX} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            Err(Problem::new(status, "body-too-large", detail))
        }
        Err(_) => {
            let detail = "the body ended before its end";
            let status = StatusCode::BAD_REQUEST;
            Err(Problem::new(status, "malformed-request", detail))
        }
    }
}
