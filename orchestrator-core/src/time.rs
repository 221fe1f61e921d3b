//! Time as the core sees it: numbers that the driver hands in.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since the Unix epoch, as the driver's clock says. Shown as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(from = "u64", into = "u64")]
pub struct Time(u64);

impl From<u64> for Time {
    fn from(millis: u64) -> Self {
        Self::from_millis(millis)
    }
}

impl From<Time> for u64 {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl Time {
    /// The last instant that RFC 3339 can write: the end of the year 9999.
    pub const MAX: Self = Self(253_402_300_799_999);

    /// A later instant than [`Time::MAX`] becomes [`Time::MAX`].
    pub const fn from_millis(millis: u64) -> Self {
        if millis > Self::MAX.0 {
            Self::MAX
        } else {
            Self(millis)
        }
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// This instant, `span` later.
    pub const fn after(self, span: Span) -> Self {
        Self::from_millis(self.0.saturating_add(span.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = UNIX_EPOCH + Duration::from_millis(self.0);
        humantime::format_rfc3339_millis(at).fmt(f)
    }
}

impl FromStr for Time {
    type Err = humantime::TimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = humantime::parse_rfc3339(text)?;
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Self::from_millis(
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        ))
    }
}

/// A length of time in milliseconds, written as people do: `30s`, `1h 30m`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Span(u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// The length in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(Duration::from_millis(self.0)).fmt(f)
    }
}

impl FromStr for Span {
    type Err = humantime::DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let length = humantime::parse_duration(text)?;
        u64::try_from(length.as_millis())
            .map(Self)
            .map_err(|_| humantime::DurationError::NumberOverflow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_spans_survive_their_text() {
        let time: Time = "2026-11-21T12:00:05.250Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-21T12:00:05.250Z");
        let span: Span = "1h 30m".parse().unwrap();
        assert_eq!(span, Span::from_secs(5400));
        assert_eq!(span.to_string(), "1h 30m");
        assert!("-5m".parse::<Span>().is_err());
        assert!("999999999999999999y".parse::<Span>().is_err());
    }

    #[test]
    fn time_stops_at_the_last_day_that_can_be_written() {
        assert_eq!(
            Time::from_millis(u64::MAX).to_string(),
            "9999-12-31T23:59:59.999Z"
        );
        assert_eq!(Time::MAX.after(Span::from_secs(1)), Time::MAX);
    }
}
