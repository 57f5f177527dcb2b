//! Times that devices write without a zone, by a strptime pattern.

use jiff::{
    civil::{DateTime, Time},
    fmt::strtime,
    tz::TimeZone,
};

/// Milliseconds since 1970 of what `text` says `offset_minutes` east of UTC.
#[must_use]
pub fn read(pattern: &str, offset_minutes: i32, text: &str) -> Option<i64> {
    let utc = parse(pattern, text)?.to_zoned(TimeZone::UTC).ok()?.timestamp().as_millisecond();
    utc.checked_sub(i64::from(offset_minutes).checked_mul(60_000)?)
}

fn parse(pattern: &str, text: &str) -> Option<DateTime> {
    let parsed = strtime::parse(pattern, text).ok()?;
    // A pattern of a date alone means its first moment.
    parsed.to_datetime().or_else(|_| Ok::<_, jiff::Error>(parsed.to_date()?.to_datetime(Time::midnight()))).ok()
}

/// Whether what is written by the pattern leads back to its day: else no message could ever be dated by it.
pub(super) fn tells_a_date(pattern: &str) -> bool {
    let moment = DateTime::constant(2026, 11, 22, 13, 37, 5, 120_000_000);
    let Ok(zoned) = moment.to_zoned(TimeZone::UTC) else { return false };
    let read = strtime::format(pattern, &zoned).ok().and_then(|text| parse(pattern, &text));
    read.is_some_and(|read| read.date() == moment.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_times_are_shifted_by_their_offset() {
        assert_eq!(read("%Y-%m-%dT%H:%M:%S", 60, "2018-02-15T17:37:10"), Some(1_518_712_630_000));
        assert_eq!(read("%d.%m.%Y %H:%M", 0, "01.01.1970 00:01"), Some(60_000));
        assert_eq!(read("%Y-%m-%d", 0, "1970-01-02"), Some(86_400_000));
        assert_eq!(read("%Y", 0, "x"), None);
    }

    #[test]
    fn patterns_tell_a_date_or_are_refused() {
        for pattern in
            ["%Y-%m-%dT%H:%M:%S", "%d.%m.%y %H:%M", "%Y-%m-%d", "%b %d %Y %I:%M:%S %p", "%Y%m%d%H%M%S", "%F %T%.f"]
        {
            assert!(tells_a_date(pattern), "{pattern}");
        }
        for pattern in ["", "now", "%H:%M:%S", "%m-%d", "%Y", "%", "%Y-%m-%d %!", "YYYY-MM-DD"] {
            assert!(!tells_a_date(pattern), "{pattern}");
        }
    }
}
