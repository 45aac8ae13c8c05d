//! Times as text: RFC 3339 in, RFC 3339 in UTC out, to the microsecond.

use evstore_api::{Error, ErrorKind, Timestamp};
use serde_json::Value;

/// Reads RFC 3339 with an offset. What is finer than a microsecond is cut off.
///
/// # Errors
/// `Invalid`, with what was given.
pub fn parse(text: &str) -> Result<Timestamp, Error> {
    match text.parse::<jiff::Timestamp>() {
        // Towards the past, so that two times keep their order also before 1970.
        Ok(time) => {
            let micros = time.as_nanosecond().div_euclid(1000);
            Ok(Timestamp(i64::try_from(micros).unwrap_or(i64::MAX)))
        }
        Err(cause) => Err(Error::new(ErrorKind::Invalid, "a time is not RFC 3339 with an offset")
            .with("given", text.chars().take(64).collect::<String>())
            .with("such as", "2026-11-20T21:00:00Z")
            .caused_by(cause)),
    }
}

/// The time as text, where a calendar has a year for it.
#[must_use]
pub fn text(time: Timestamp) -> Option<String> {
    jiff::Timestamp::from_microsecond(time.0).ok().map(|time| time.to_string())
}

/// The time for programs: text, or the number of microseconds since 1970 where no calendar reaches.
#[must_use]
pub fn json(time: Timestamp) -> Value {
    text(time).map_or_else(|| time.0.into(), Value::from)
}

/// The time for people.
#[must_use]
pub fn show(time: Timestamp) -> String {
    text(time).unwrap_or_else(|| format!("{} µs", time.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_becomes_utc_and_the_moment_stays() {
        let time = parse("2010-10-02T09:20:39.266+02:00").unwrap();
        assert_eq!(text(time).unwrap(), "2010-10-02T07:20:39.266Z");
        assert_eq!(parse(&text(time).unwrap()).unwrap(), time);
    }

    #[test]
    fn what_is_finer_than_a_microsecond_is_cut_towards_the_past() {
        assert_eq!(parse("1970-01-01T00:00:00.0000019Z").unwrap(), Timestamp(1));
        assert_eq!(parse("1969-12-31T23:59:59.9999999Z").unwrap(), Timestamp(-1));
    }

    #[test]
    fn a_time_beyond_every_calendar_is_a_number() {
        assert_eq!(json(Timestamp(i64::MAX)), Value::from(i64::MAX));
        assert_eq!(parse("yesterday").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
