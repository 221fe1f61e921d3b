//! Times as people write them in a filter.

use orchestrator_core::Time;

/// What a text says, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Moment {
    /// `2026-01-31T09:00:00+02:00`. What is finer than a millisecond is dropped, as the records do.
    Instant(i64),
    /// `2026-01-31`, a whole day in UTC: when it begins, and when the next one does. There is none after the last.
    Day(i64, Option<i64>),
}

/// What may be written.
pub(super) const ALLOWED: &str = "a time of the years 1970 to 9999, in quotes, such as \"2026-01-31T09:00:00Z\" or \
     \"2026-01-31T09:00:00+02:00\", or a whole day in UTC, such as 2026-01-31";

pub(super) fn read(text: &str) -> Option<Moment> {
    const DAY: i64 = 24 * 60 * 60 * 1000;
    if text.len() == "2026-01-31".len() {
        let begins = instant(&format!("{text}T00:00:00Z"))?;
        let next = Some(begins + DAY).filter(|&next| next <= last());
        return Some(Moment::Day(begins, next));
    }
    instant(text).map(Moment::Instant)
}

fn instant(text: &str) -> Option<i64> {
    let (local, ahead) = match text.strip_suffix(['Z', 'z']) {
        Some(local) => (local, 0),
        None => {
            let at = text.len().checked_sub("+02:00".len())?;
            let (local, offset) = text.split_at_checked(at)?;
            (local, minutes(offset)?)
        }
    };
    if local.ends_with('.') {
        return None;
    }
    let utc: Time = format!("{local}Z").to_ascii_uppercase().parse().ok()?;
    let millis = i64::try_from(utc.as_millis()).ok()? - ahead * 60_000;
    (0..=last()).contains(&millis).then_some(millis)
}

/// How far `+02:00` is ahead of UTC.
fn minutes(offset: &str) -> Option<i64> {
    let &[sign, h1, h2, b':', m1, m2] = offset.as_bytes() else {
        return None;
    };
    let two = |a: u8, b: u8| -> Option<i64> {
        let digit = |byte: u8| char::from(byte).to_digit(10);
        Some(i64::from(digit(a)? * 10 + digit(b)?))
    };
    let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
    let length = (hours < 24 && minutes < 60).then_some(hours * 60 + minutes)?;
    match sign {
        b'+' => Some(length),
        b'-' => Some(-length),
        _ => None,
    }
}

fn last() -> i64 {
    i64::try_from(Time::MAX.as_millis()).expect("the year 9999 is near")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NINE: i64 = 1_769_850_000_000;

    #[test]
    fn times_are_read_with_their_offset() {
        for (text, millis) in [
            ("2026-01-31T09:00:00Z", NINE),
            ("2026-01-31t09:00:00z", NINE),
            ("2026-01-31T09:00:00+00:00", NINE),
            ("2026-01-31T11:00:00+02:00", NINE),
            ("2026-01-31T03:30:00-05:30", NINE),
            ("2026-02-01T08:59:00+23:59", NINE),
            ("2026-01-31T09:00:00.5Z", NINE + 500),
            ("2026-01-31T09:00:00.1239+00:00", NINE + 123),
            ("1970-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59.999Z", last()),
        ] {
            assert_eq!(read(text), Some(Moment::Instant(millis)), "{text}");
        }
    }

    #[test]
    fn a_day_is_a_whole_one() {
        let begins = NINE - 9 * 3_600_000;
        let day = Moment::Day(begins, Some(begins + 86_400_000));
        assert_eq!(read("2026-01-31"), Some(day));
        let last_day = Moment::Day(last() + 1 - 86_400_000, None);
        assert_eq!(read("9999-12-31"), Some(last_day));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "Z",
            "now",
            "2026",
            "2026-1-31",
            "2026-02-30",
            "2026-01-3é",
            "2026-01-31T09:00Z",
            "2026-01-31T09:00:00",
            "2026-01-31 09:00:00Z",
            "2026-01-31T09:00:00.Z",
            "2026-01-31T09:00:00+0200",
            "2026-01-31T09:00:00+02:00Z",
            "2026-01-31T09:00:00.1+00:00Z",
            "2026-01-31T09:00:00+24:00",
            "2026-01-31T09:00:00+02:60",
            "2026-01-31T09:00:00é2:00",
            "2026-01-31T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
            "1769850000000",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
