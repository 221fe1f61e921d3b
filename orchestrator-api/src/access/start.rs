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
    /// An admin token that is good.
    Token,
}

impl Missing {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Both => "there is neither TLS nor an admin token that is good",
            Self::Tls => "there is no TLS",
            Self::Token => "there is no admin token that is good",
        }
    }
}

/// Says whether a server may listen there, and whether it is open then.
///
/// One that ever had a token for a person is never open again: whoever revoked the last one did not want that.
pub async fn opening(
    store: &dyn Store,
    listen: SocketAddr,
    tls: bool,
    data_dir: &Path,
) -> Result<Opening, StartError> {
    let now = super::now();
    let (mut good, mut any) = (false, false);
    token::each(store, |_, kept| {
        any |= kept.role.is_of_people();
        good |= kept.role == Role::Admin && kept.is_good(now);
    })
    .await?;
    if listen.ip().to_canonical().is_loopback() {
        if any {
            return Ok(Opening::Closed);
        }
        return Ok(Opening::Open);
    }
    let missing = match (tls, good) {
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
