//! What is typed on a command line in more than one place.

use orchestrator_core::Span;

/// A length of time.
pub(crate) fn time(text: &str) -> Result<Span, &'static str> {
    let allowed = "allowed is a length of time such as 90s, 10m or 1h 30m";
    text.parse().map_err(|_| allowed)
}
