//! What went wrong, as `application/problem+json` (RFC 9457).

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use orchestrator_core::spec::{SpecError, SpecErrors};
use orchestrator_core::{Rejection, fleet};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::{EngineError, chain};
use crate::store::StoreError;

/// What went wrong with a request. Nothing has changed, if `detail` does not say otherwise.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, ToSchema)]
pub struct Problem {
    /// What kind of problem it is, for programs: `urn:orchestrator:problem:busy`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What it is in this case, and what to do about it.
    pub detail: String,
    /// Everything that is wrong with the request, where it is the request that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// After how many seconds to try again, also in the header of this name.
    #[serde(skip)]
    pub retry_after: Option<u32>,
}

/// One thing that is wrong with a request: at one of these places.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Fault {
    /// In the body: a JSON pointer (RFC 6901), empty for all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// In the path or the query: the parameter's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<String>,
    /// In the header of this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// What is wrong there, and what may be there.
    pub detail: String,
}

impl Fault {
    /// Of the body.
    pub fn at(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            pointer: Some(pointer.into()),
            detail: detail.into(),
            ..Self::default()
        }
    }

    /// The same of a document that stands at this place of the body.
    pub(super) fn below(self, place: &str) -> Self {
        Self {
            pointer: self.pointer.map(|pointer| format!("{place}{pointer}")),
            ..self
        }
    }

    /// Of the path or the query.
    pub fn of_parameter(name: &str, detail: impl Into<String>) -> Self {
        Self {
            parameter: Some(name.to_owned()),
            detail: detail.into(),
            ..Self::default()
        }
    }

    /// Of a header.
    pub fn of_header(name: &str, detail: impl Into<String>) -> Self {
        Self {
            header: Some(name.to_owned()),
            detail: detail.into(),
            ..Self::default()
        }
    }
}

/// The kind of the problem that a token solves.
pub(crate) const TOKEN_NEEDED: &str = "token-needed";
/// The kind of the problem that somebody wants what was taken back.
pub(crate) const TAKEN_BACK: &str = "taken-back";
/// How that is said to a server.
pub(crate) const AGAIN: &str = "with again=true in the query";
/// After how many seconds a store is asked again.
const RETRY_SECONDS: u32 = 1;

impl Problem {
    /// A problem of this kind, which is a few words with dashes between.
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        let mut title = kind.replace('-', " ");
        if let Some(first) = title.get_mut(..1) {
            first.make_ascii_uppercase();
        }
        Self {
            kind: format!("urn:orchestrator:problem:{kind}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// The same with these faults.
    pub fn with(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }

    /// Something that passes by itself.
    pub fn for_now(kind: &str, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(RETRY_SECONDS),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail)
        }
    }

    pub(super) fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        let detail = format!("there is no {what} {name}");
        Self::new(StatusCode::NOT_FOUND, "not-found", detail)
    }

    pub(crate) fn conflict(kind: &str, why: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::CONFLICT, kind, why.to_string())
    }

    pub(crate) fn invalid(malformed: bool, errors: Vec<Fault>) -> Self {
        let count = errors.len();
        let detail = match errors.as_slice() {
            [only] => only.detail.clone(),
            _ => format!("{count} things are wrong with the request: see `errors`"),
        };
        let problem = if malformed {
            Self::new(StatusCode::BAD_REQUEST, "malformed-request", detail)
        } else {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-request", detail)
        };
        problem.with(errors)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).expect("texts and numbers can always be written");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            let bearer = match self.kind.ends_with(TOKEN_NEEDED) {
                true => "Bearer realm=\"orchestrator\"",
                false => "Bearer realm=\"orchestrator\", error=\"invalid_token\"",
            };
            let basic = "Basic realm=\"orchestrator\", charset=\"UTF-8\"";
            for scheme in [bearer, basic] {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
            }
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The table: what a job's refusal is to HTTP. What the job's state forbids is a conflict, also where it is asked for
/// something that will never be there; what no state would allow is invalid.
fn of_job(why: &Rejection) -> (StatusCode, &'static str) {
    const INVALID: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    const CONFLICT: StatusCode = StatusCode::CONFLICT;
    match why {
        Rejection::OtherJob { .. } => (INVALID, "other-job"),
        Rejection::InvalidSpec(_) => (INVALID, "invalid-request"),
        Rejection::TooManyReplicas(_) => (INVALID, "too-many-replicas"),
        Rejection::KeyLength(_) => (StatusCode::BAD_REQUEST, "malformed-request"),
        Rejection::LabelTooLong { .. } => (CONFLICT, "label-too-long"),
        Rejection::BadNodeName { .. } => (INVALID, "invalid-request"),
        Rejection::NodeTwice(_) => (INVALID, "node-twice"),
        Rejection::TooManyNodes(_) => (CONFLICT, "too-many-nodes"),
        Rejection::MembersNeeded => (CONFLICT, "members-needed"),
        Rejection::TakenBack { .. } => (CONFLICT, TAKEN_BACK),
        Rejection::Unexpected { .. } => (StatusCode::PRECONDITION_FAILED, "changed-meanwhile"),
        Rejection::KeyReused(_) => (INVALID, "idempotency-key-reused"),
        Rejection::Over { .. } => (CONFLICT, "deployment-over"),
        Rejection::NoSuchDeployment { .. } => (StatusCode::NOT_FOUND, "not-found"),
        Rejection::DoesNotFit { .. } => (CONFLICT, "does-not-fit"),
        Rejection::NothingToPromote(_) => (CONFLICT, "nothing-to-promote"),
        Rejection::CanariesNotHealthy { .. } => (CONFLICT, "canaries-not-healthy"),
        Rejection::Busy(_) => (CONFLICT, "busy"),
        Rejection::NothingRuns => (CONFLICT, "nothing-runs"),
        Rejection::Unsettled => (CONFLICT, "unsettled"),
        Rejection::NoSuchVersion(_) => (CONFLICT, "no-such-version"),
        Rejection::NotStable(_) => (CONFLICT, "not-stable"),
        Rejection::NoStableVersion => (CONFLICT, "no-stable-version"),
        Rejection::NothingToRollBack(_) => (CONFLICT, "nothing-to-roll-back"),
        Rejection::NotReplicated => (CONFLICT, "not-replicated"),
        // The engine steps no job that it has not read to its end.
        Rejection::WithinStep(_) => (StatusCode::INTERNAL_SERVER_ERROR, "within-step"),
    }
}

impl From<Rejection> for Problem {
    fn from(why: Rejection) -> Self {
        let (status, kind) = of_job(&why);
        let errors = match &why {
            Rejection::InvalidSpec(errors) => return Self::invalid(false, of_spec(errors)),
            Rejection::KeyLength(_) => vec![Fault::of_header("idempotency-key", why.to_string())],
            Rejection::TooManyReplicas(_) => vec![Fault::at("/replicas", why.to_string())],
            _ => Vec::new(),
        };
        let detail = match &why {
            Rejection::TakenBack { .. } => format!("{why}, {AGAIN}"),
            _ => why.to_string(),
        };
        Self::new(status, kind, detail).with(errors)
    }
}

impl From<fleet::Rejection> for Problem {
    fn from(why: fleet::Rejection) -> Self {
        let detail = why.to_string();
        let at = |pointer: &str| Self::invalid(false, vec![Fault::at(pointer, detail.clone())]);
        match why {
            fleet::Rejection::UnknownNodes { .. } => {
                Self::new(StatusCode::NOT_FOUND, "not-found", detail)
            }
            fleet::Rejection::InvalidName(_) => at("/name"),
            fleet::Rejection::InvalidLabels(_) => at("/labels"),
            fleet::Rejection::TooManyFacts { .. } => at("/facts"),
            fleet::Rejection::KeyLength(_) => {
                let fault = Fault::of_header("idempotency-key", detail.clone());
                Self::new(StatusCode::BAD_REQUEST, "malformed-request", detail).with(vec![fault])
            }
            fleet::Rejection::KeyReused(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                detail,
            ),
            fleet::Rejection::TooManyNodes => {
                Self::new(StatusCode::CONFLICT, "too-many-nodes", detail)
            }
        }
    }
}

impl From<EngineError> for Problem {
    fn from(why: EngineError) -> Self {
        let detail = chain(&why);
        match why {
            EngineError::Rejected(why) => why.into(),
            EngineError::Fleet(why) => why.into(),
            EngineError::NoSuchJob(id) => Self::not_found("job", id),
            EngineError::NoSuchDeployment(id) => Self::not_found("deployment", id),
            EngineError::NoSuchGroup(id) => Self::not_found("group", id),
            EngineError::Member { why, .. } => {
                let (status, kind) = of_job(&why);
                let detail = match why {
                    Rejection::TakenBack { .. } => format!("{detail}, {AGAIN}"),
                    _ => detail,
                };
                Self::new(status, kind, detail)
            }
            EngineError::GroupRuns { .. } => Self::conflict("group-runs", detail),
            EngineError::GroupEnded(_) => Self::conflict("group-ended", detail),
            EngineError::GaveWay { .. } => Self::new(StatusCode::CONFLICT, "gave-way", detail),
            EngineError::Store(_) => Self::for_now("store", detail),
            EngineError::Unreadable { .. } => Self::for_now("unreadable", detail),
            EngineError::Elsewhere(_) => Self::for_now("elsewhere", detail),
            EngineError::Stopped => Self::for_now("stopping", detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(why: StoreError) -> Self {
        EngineError::from(why).into()
    }
}

/// What is wrong with a job document, each at its place.
pub(super) fn of_spec(errors: &SpecErrors) -> Vec<Fault> {
    errors.errors().iter().map(of_field).collect()
}

fn of_field(error: &SpecError) -> Fault {
    let SpecError {
        field,
        value,
        allowed,
    } = error;
    let what = match value.as_str() {
        "" => format!("missing; {allowed}"),
        _ => format!("{value} is not allowed; {allowed}"),
    };
    // The document as a whole, or a place in a text that is no JSON.
    if field == "document" {
        return Fault::at("", what);
    }
    if field.contains(' ') {
        return Fault::at("", format!("{field}: {what}"));
    }
    let parts = field.split('.').map(|part| match indexed(part) {
        Some((list, at)) => format!("/{}/{at}", escaped(list)),
        None => format!("/{}", escaped(part)),
    });
    Fault::at(parts.collect::<String>(), what)
}

/// `members[2]`: a list, and a place in it.
fn indexed(part: &str) -> Option<(&str, usize)> {
    let (list, at) = part.strip_suffix(']')?.rsplit_once('[')?;
    Some((list, at.parse().ok()?))
}

/// A name as a part of a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
