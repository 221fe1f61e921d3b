//! Why somebody is not let in, and how that is said.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use orchestrator_core::Time;
use serde::Serialize;

use super::role::{Class, Role};
use super::token::{NoToken, TokenError};

/// Why a request is not let in.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown.
    #[error(
        "a token is needed: send it as \"Authorization: Bearer orc_…\", or as the password of HTTP Basic"
    )]
    Missing,
    /// The header is no such thing.
    #[error("the Authorization header cannot be read: {0}")]
    Header(&'static str),
    /// What it holds is no token.
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// There is none like it.
    #[error(
        "the token is not known: it is another server's, or a join token that was used already"
    )]
    Unknown,
    /// It was good once.
    #[error("the token was revoked")]
    Revoked,
    /// It was good until then.
    #[error("the token was good until {0}")]
    Expired(Time),
    /// Too many were shown that are not good.
    #[error("too many tokens from this address were not good: wait, and then show one that is")]
    TooMany(Duration),
    /// The token is for something else.
    #[error("a {} token may not do this: it takes {}", .0.as_str(), .1.needs())]
    Role(Role, Class),
    /// It is another node's.
    #[error("the token is for another node")]
    OtherNode,
    /// Where no token says which node it is, the request has to.
    #[error("the request does not say which node it speaks for")]
    NoNode,
    /// A browser asks for somebody else.
    #[error(
        "the request comes from a page of another site, or to a name that is not this server's"
    )]
    Foreign,
    /// The store did not say.
    #[error("it cannot be found out whether the token is good: try again")]
    Store(#[source] Arc<TokenError>),
}

impl Denied {
    /// 401 where another token helps, 403 where this one is good and may not.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Missing
            | Self::Header(_)
            | Self::NoToken(_)
            | Self::Unknown
            | Self::Revoked
            | Self::Expired(_) => StatusCode::UNAUTHORIZED,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Role(..) | Self::OtherNode | Self::Foreign => StatusCode::FORBIDDEN,
            Self::NoNode => StatusCode::BAD_REQUEST,
            Self::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = problem(status, &self.to_string());
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            let bearer = match self {
                Self::Missing => "Bearer realm=\"orchestrator\"",
                _ => "Bearer realm=\"orchestrator\", error=\"invalid_token\"",
            };
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
            let basic = "Basic realm=\"orchestrator\", charset=\"UTF-8\"";
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(basic));
        }
        match self {
            Self::TooMany(after) => {
                headers.insert(RETRY_AFTER, after.as_secs().max(1).into());
            }
            Self::Store(why) => {
                tracing::error!(why = chain(&*why), "a token could not be looked up");
                headers.insert(RETRY_AFTER, 1.into());
            }
            _ => {}
        }
        response
    }
}

/// Why an agent did not get the token of its node.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It may not.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// There is an agent already.
    #[error(
        "node {node} has a token already: revoke token {token} if it is lost, or make a join token for {node}, \
         which replaces it"
    )]
    Taken {
        /// Which node.
        node: String,
        /// The token that it has.
        token: String,
    },
    /// The token could not be made.
    #[error("the token of the node could not be made")]
    Token(#[from] TokenError),
}

impl IntoResponse for JoinError {
    fn into_response(self) -> Response {
        let text = self.to_string();
        match self {
            Self::Denied(denied) => denied.into_response(),
            Self::Taken { .. } => problem(StatusCode::CONFLICT, &text),
            Self::Token(why @ TokenError::NodeName) => {
                problem(StatusCode::BAD_REQUEST, &why.to_string())
            }
            Self::Token(why) => {
                tracing::error!(why = chain(&why), "a node did not get its token");
                let text = "the token of the node could not be made: try again";
                problem(StatusCode::SERVICE_UNAVAILABLE, text)
            }
        }
    }
}

/// RFC 9457.
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let problem = Problem {
        r#type: "about:blank",
        title: status.canonical_reason().expect("a status of ours"),
        status: status.as_u16(),
        detail,
    };
    let mut response = (status, Json(problem)).into_response();
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A path that has only these methods.
pub(super) fn no_method(known: &[&'static str]) -> Response {
    let allowed = known.join(", ");
    let detail = format!("this path does not have this method, but {allowed}");
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, &detail);
    let allowed = HeaderValue::from_str(&allowed).expect("names of methods");
    response.headers_mut().insert(ALLOW, allowed);
    response
}

fn chain(why: &dyn std::error::Error) -> String {
    let mut text = why.to_string();
    let mut source = why.source();
    while let Some(why) = source {
        text.push_str(": ");
        text.push_str(&why.to_string());
        source = why.source();
    }
    text
}
