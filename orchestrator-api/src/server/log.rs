//! The log of the process.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::options::{Format, Log};

/// Begins to log. Whoever logs already goes on to do so in his own way.
pub(super) fn begin(log: &Log) {
    let lines = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&log.level))
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !log.is_plain());
    let _ = match log.format {
        Format::Text => lines.try_init(),
        // Of spans there is one, which tells the request.
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
    };
}
