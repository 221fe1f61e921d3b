//! How a server is to run, as people say it: by a flag, or by a variable of the environment.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use orchestrator_core::Span;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::typed;

/// How a server is to run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Where to listen; what other machines can reach takes TLS and an admin token
    #[arg(
        long,
        env = "ORCHESTRATOR_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:4650",
        value_parser = address
    )]
    pub listen: SocketAddr,
    /// Where everything is kept; made if it is not there
    #[arg(
        long,
        env = "ORCHESTRATOR_DATA_DIR",
        hide_env_values = true,
        value_name = "DIR",
        default_value = "orchestrator-data"
    )]
    pub data_dir: PathBuf,
    /// The certificate and its chain, in PEM; read again when it changes
    #[arg(
        long,
        env = "ORCHESTRATOR_TLS_CERT",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The key of the certificate, in PEM
    #[arg(
        long,
        env = "ORCHESTRATOR_TLS_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// What is kept for how long.
    #[command(flatten)]
    pub keep: Keep,
    /// What is logged, and how.
    #[command(flatten)]
    pub log: Log,
}

/// For how long deployments and events are kept, if nothing is said.
const KEPT: &str = "90d";
/// The same of the audit log.
const AUDIT_KEPT: &str = "1y";

impl Options {
    /// A server without TLS, as if nothing else was said; it logs what is of this level.
    pub fn new(listen: SocketAddr, data_dir: impl Into<PathBuf>, level: &str) -> Self {
        let span = |text: &str| text.parse().expect("a length of time");
        Self {
            listen,
            data_dir: data_dir.into(),
            tls_cert: None,
            tls_key: None,
            keep: Keep {
                keep_deployments: span(KEPT),
                keep_events: span(KEPT),
                keep_audit: span(AUDIT_KEPT),
            },
            log: Log {
                format: Format::Text,
                no_color: false,
                level: level.to_owned(),
            },
        }
    }
}

/// What is kept for how long.
#[derive(Args, Clone, Copy, Debug)]
pub struct Keep {
    /// For how long a deployment is kept after its end; the last one of a job always is
    #[arg(
        long,
        env = "ORCHESTRATOR_KEEP_DEPLOYMENTS",
        hide_env_values = true,
        value_name = "TIME",
        value_parser = typed::time,
        default_value = KEPT
    )]
    pub keep_deployments: Span,
    /// For how long the events of nodes, and of jobs outside of deployments, are kept
    #[arg(
        long,
        env = "ORCHESTRATOR_KEEP_EVENTS",
        hide_env_values = true,
        value_name = "TIME",
        value_parser = typed::time,
        default_value = KEPT
    )]
    pub keep_events: Span,
    /// For how long the audit log is kept
    #[arg(
        long,
        env = "ORCHESTRATOR_KEEP_AUDIT",
        hide_env_values = true,
        value_name = "TIME",
        value_parser = typed::time,
        default_value = AUDIT_KEPT
    )]
    pub keep_audit: Span,
}

/// What is logged, and how. It goes to the standard error.
#[derive(Args, Clone, Debug)]
pub struct Log {
    /// How lines of the log are written: text for people, or a JSON object each
    #[arg(
        long = "log",
        env = "ORCHESTRATOR_LOG",
        hide_env_values = true,
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub format: Format,
    /// No colours, also at a terminal.
    #[arg(skip)]
    pub no_color: bool,
    /// What is logged: error, warn, info, debug or trace, also by module (info,orchestrator_api::engine=debug)
    #[arg(
        long = "log-level",
        env = "ORCHESTRATOR_LOG_LEVEL",
        hide_env_values = true,
        value_name = "FILTER",
        default_value = "info",
        value_parser = filter
    )]
    pub level: String,
}

impl Log {
    /// Whether whoever reads it wants no colours.
    pub(super) fn is_plain(&self) -> bool {
        let unwanted = std::env::var_os("NO_COLOR");
        self.no_color || unwanted.is_some_and(|set| !set.is_empty())
    }
}

/// How a line of the log is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Format {
    /// For people.
    #[value(help = None::<&str>)]
    Text,
    /// One JSON object a line.
    #[value(help = None::<&str>)]
    Json,
}

/// An address and a port. Of a name the first address counts, rather one of IPv4.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let form = "write an address and a port: 127.0.0.1:4650, [::1]:4650 or localhost:4650; 0.0.0.0:4650 is every \
                address of this machine";
    let port = text
        .rsplit_once(':')
        .map(|(name, port)| (name, port.parse::<u16>()));
    let (name, port) = match port {
        Some((name, Ok(port))) if !name.is_empty() && !name.contains(':') => (name, port),
        _ => return Err(form.to_owned()),
    };
    let found = (name, port).to_socket_addrs();
    let found: Vec<SocketAddr> = match found {
        Ok(found) => found.collect(),
        Err(why) => return Err(format!("no address of {name:?} is known ({why}); {form}")),
    };
    let rather = found.iter().find(|address| address.is_ipv4());
    let first = rather.or_else(|| found.first()).copied();
    first.ok_or_else(|| format!("{name:?} has no address; {form}"))
}

fn filter(text: &str) -> Result<String, String> {
    // A word that is no level would be taken for a module, and nothing be logged.
    let level = |word: &str| word.contains('=') || word.parse::<LevelFilter>().is_ok();
    if let Some(word) = text.split(',').find(|word| !level(word.trim())) {
        return Err(format!(
            "{word:?} is no level: error, warn, info, debug, trace or off; of one module: orchestrator_api=debug"
        ));
    }
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(why) => Err(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_may_be_a_name_and_has_a_port() {
        for (text, found) in [
            ("127.0.0.1:4650", "127.0.0.1:4650"),
            ("[::1]:1", "[::1]:1"),
            ("localhost:4650", "127.0.0.1:4650"),
        ] {
            assert_eq!(address(text), Ok(found.parse().expect("an address")));
        }
        for wrong in ["", "4650", "localhost", ":x", "localhost:70000", "::1"] {
            let why = address(wrong).expect_err(wrong);
            assert!(
                why.starts_with("write an address and a port"),
                "{wrong}: {why}"
            );
        }
        let why = address("nobody.invalid:1").expect_err("no such name");
        assert!(why.contains("nobody.invalid"), "{why}");
    }
}
