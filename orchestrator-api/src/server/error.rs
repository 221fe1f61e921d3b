//! Why a server does not run, each in a sentence that says what to do.

use std::io;
use std::net::SocketAddr;

use crate::access::start::StartError;
use crate::engine::{EngineError, chain};
use crate::serve::tls::TlsError;
use crate::store::StoreError;

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address is not to be had.
    #[error("{}", unheard(*.listen, .source))]
    Listen {
        /// Which.
        listen: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Its data is not to be had.
    #[error("{}", unkept(.0))]
    Store(StoreError),
    /// Everyone could do everything.
    #[error("{}", chain(.0))]
    Open(StartError),
    /// There is no TLS as it is told to have.
    #[error("{0}: --tls-cert and --tls-key take a certificate and its own key, each in a PEM file")]
    Tls(TlsError),
    /// What it keeps cannot be driven.
    #[error("the engine does not start: {}", chain(.0))]
    Engine(EngineError),
    /// The engine ended though nobody told it to.
    #[error(
        "the engine stopped by a fault of its own, which the log has: start the server again, what it answered is safe"
    )]
    Broken,
    /// The operating system does not give what every process needs.
    #[error("the system does not let the server begin: {0}")]
    System(io::Error),
    /// Somebody could not wait for the end.
    #[error(
        "stopped at once, by a second signal: requests in progress were cut off, what was answered is safe"
    )]
    AtOnce,
}

fn unheard(listen: SocketAddr, why: &io::Error) -> String {
    match why.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{listen} is in use by another program: stop that one, or give another address by --listen"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "this user may not listen on {listen}: give a port above 1023 by --listen, or the permission"
        ),
        io::ErrorKind::AddrNotAvailable => {
            format!(
                "this machine has no address {}: give one that it has by --listen",
                listen.ip()
            )
        }
        _ => format!("{listen} cannot be listened on ({why}): give another address by --listen"),
    }
}

fn unkept(why: &StoreError) -> String {
    match why {
        StoreError::Failed { .. } => {
            format!("{}: see to it, or give another --data-dir", chain(why))
        }
        other => other.to_string(),
    }
}
