//! What is typed on a command line in more than one place.

use orchestrator_core::{Span, is_name};

/// A length of time.
pub(crate) fn time(text: &str) -> Result<Span, &'static str> {
    let allowed = "allowed is a length of time such as 90s, 10m or 1h 30m";
    text.parse().map_err(|_| allowed)
}

/// A node's name, or a group's.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    let allowed = "a name is 1 to 200 of letters, digits, '-', '_' and '.'";
    is_name(text).then(|| text.to_owned()).ok_or(allowed)
}
