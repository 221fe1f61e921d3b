//! Why somebody is not let in, and how that is said.

use std::sync::Arc;
use std::time::Duration;

use axum::http::header::ALLOW;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use orchestrator_core::Time;

use super::role::{Class, Role};
use super::token::{NoToken, TokenError};
use crate::engine::chain;
use crate::native::{Fault, Problem, TOKEN_NEEDED};

fn one(role: Role) -> String {
    let article = match role {
        Role::Operator | Role::Admin => "an",
        _ => "a",
    };
    format!("{article} {}", role.as_str())
}

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
    #[error("{} token may not do this: it takes {}", one(*.0), .1.needs())]
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

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        let kind = match &denied {
            Denied::Missing => TOKEN_NEEDED,
            Denied::Header(_)
            | Denied::NoToken(_)
            | Denied::Unknown
            | Denied::Revoked
            | Denied::Expired(_) => "bad-token",
            Denied::TooMany(_) => "too-many-bad-tokens",
            Denied::Role(..) | Denied::OtherNode | Denied::Foreign => "forbidden",
            Denied::NoNode => "malformed-request",
            Denied::Store(_) => "store",
        };
        let problem = Self::new(denied.status(), kind, denied.to_string());
        let retry_after = match &denied {
            Denied::TooMany(after) => u32::try_from(after.as_secs().max(1)).ok(),
            Denied::Store(why) => {
                tracing::error!(why = chain(&**why), "a token could not be looked up");
                Some(1)
            }
            _ => None,
        };
        Self {
            retry_after,
            ..problem
        }
    }
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
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

impl From<JoinError> for Problem {
    fn from(why: JoinError) -> Self {
        let detail = why.to_string();
        match why {
            JoinError::Denied(denied) => denied.into(),
            JoinError::Taken { .. } => Self::new(StatusCode::CONFLICT, "node-taken", detail),
            JoinError::Token(why) => why.into(),
        }
    }
}

impl IntoResponse for JoinError {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}

impl From<TokenError> for Problem {
    fn from(why: TokenError) -> Self {
        let at = |pointer| vec![Fault::at(pointer, why.to_string())];
        match &why {
            TokenError::Name => Self::invalid(false, at("/name")),
            TokenError::NodeName | TokenError::NoNode | TokenError::NodeOfPerson => {
                Self::invalid(false, at("/node"))
            }
            TokenError::Denied(denied) => denied.clone().into(),
            TokenError::AdminFirst => Self::conflict("admin-first", &why),
            TokenError::KeyUsed(_) => Self::conflict("key-used", &why),
            TokenError::Changed(_) => Self::conflict("changed-meanwhile", &why),
            TokenError::NoSuchToken(_) => {
                Self::new(StatusCode::NOT_FOUND, "not-found", why.to_string())
            }
            TokenError::NoRandomness(_) | TokenError::Unreadable { .. } | TokenError::Store(_) => {
                tracing::error!(why = chain(&why), "what was asked of a token was not done");
                Self::for_now("store", chain(&why))
            }
        }
    }
}

/// A path that has only these methods.
pub(super) fn no_method(known: &[&'static str]) -> Response {
    let allowed = known.join(", ");
    let detail = format!("this method is not for this path, which takes {allowed}");
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let mut response = Problem::new(status, "no-such-method", detail).into_response();
    let allowed = HeaderValue::from_str(&allowed).expect("names of methods");
    response.headers_mut().insert(ALLOW, allowed);
    response
}
