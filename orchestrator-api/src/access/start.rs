//! Whether a server may start as it is told to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Role;
use super::token::{self, TokenError};
use crate::store::Store;

/// Whether tokens are needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Opening {
    /// Everyone is let in, as an admin: there has never been a token for a person, and only this machine can ask.
    Open,
    /// Every request needs a token.
    Closed,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Everyone could do everything, or read everything on its way.
    #[error(
        "{listen} can be reached from other machines, and {}: the server does not start. Run\n\
         \x20 orchestrator token create --data-dir {} --role admin --name <who>\n\
         \x20 orchestrator server --data-dir {} --listen {listen} --tls-cert <cert.pem> --tls-key <key.pem>",
        .missing.as_str(), .data_dir.display(), .data_dir.display()
    )]
    Unsafe {
        /// Where it would listen.
        listen: SocketAddr,
        /// What there is not.
        missing: Missing,
        /// Where its data is.
        data_dir: PathBuf,
    },
    /// The tokens cannot be read.
    #[error("the tokens cannot be read")]
    Tokens(#[from] TokenError),
}

/// What a server that others can reach has to have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Missing {
    /// Neither of the two.
    Both,
    /// A certificate.
    Tls,
    /// An admin token.
    Token,
}

impl Missing {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Both => "there is neither TLS nor an admin token",
            Self::Tls => "there is no TLS",
            Self::Token => "there is no admin token",
        }
    }
}

/// Says whether a server may listen there, and whether it is open then.
///
/// One that ever had a token for a person is never open again: whoever revoked the last one did not want that. So it may
/// begin anywhere: where none is good any more nobody is let in, and nodes that have theirs go on.
pub async fn opening(
    store: &dyn Store,
    listen: SocketAddr,
    tls: bool,
    data_dir: &Path,
) -> Result<Opening, StartError> {
    let now = super::now();
    let (mut any, mut admin, mut good) = (false, false, false);
    token::each(store, |_, kept| {
        any |= kept.role.is_of_people();
        admin |= kept.role == Role::Admin;
        good |= kept.role == Role::Admin && kept.is_good(now);
    })
    .await?;
    if listen.ip().to_canonical().is_loopback() {
        if any {
            return Ok(Opening::Closed);
        }
        return Ok(Opening::Open);
    }
    if admin && !good {
        tracing::warn!(
            "no admin token is good any more: make one with `orchestrator token create --data-dir`, the server being stopped"
        );
    }
    let missing = match (tls, admin) {
        (true, true) => return Ok(Opening::Closed),
        (false, false) => Missing::Both,
        (false, true) => Missing::Tls,
        (true, false) => Missing::Token,
    };
    Err(StartError::Unsafe {
        listen,
        missing,
        data_dir: data_dir.to_owned(),
    })
}
