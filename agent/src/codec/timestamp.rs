//! How payloads tell the time.

use depin_domain::{
    model::{TimestampFormat, local_time},
    quantity::Quantizer,
    time::Timestamp,
};

use super::capture::Span;

/// The end of the year 9999: nothing later is a time.
const LATEST: i64 = 253_402_300_799_999;

/// Reads the time that stands at `span`, or `None`: no telemetry is older than 1970 or younger than the year 9999.
pub(super) fn read(format: &TimestampFormat, span: &Span, payload: &[u8]) -> Option<Timestamp> {
    let ms = match format {
        TimestampFormat::Rfc3339 => rfc3339(span.text(payload)?.trim().as_bytes())?,
        TimestampFormat::UnixSeconds => Quantizer::plain(3).quantize(span.number(payload).ok()?).ok()?,
        TimestampFormat::UnixMillis => Quantizer::plain(0).quantize(span.number(payload).ok()?).ok()?,
        TimestampFormat::Pattern { pattern, offset_minutes } => {
            local_time::read(pattern, *offset_minutes, span.text(payload)?.trim())?
        }
    };
    within(ms)
}

/// `ms` as a timestamp, if it can be one.
pub(super) fn within(ms: i64) -> Option<Timestamp> {
    (0..=LATEST).contains(&ms).then_some(Timestamp(ms))
}

/// `2026-11-22T21:35:05.123+01:00`; digits beyond milliseconds are cut off, a leap second counts as the second after.
fn rfc3339(text: &[u8]) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| {
        text.get(range)?
            .iter()
            .try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let mark = |at: usize, allowed: &[u8]| text.get(at).is_some_and(|byte| allowed.contains(byte)).then_some(());
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    mark(4, b"-").and(mark(7, b"-")).and(mark(10, b"Tt ")).and(mark(13, b":")).and(mark(16, b":"))?;
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut ms = 0;
    if text.get(at) == Some(&b'.') {
        let digits = text.get(at + 1..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for place in 0..3 {
            ms = ms * 10 + if place < digits { number(at + 1 + place..at + 2 + place)? } else { 0 };
        }
        at += 1 + digits;
    }
    let offset = match text.get(at)? {
        b'Z' | b'z' if text.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if text.len() == at + 6 => {
            mark(at + 3, b":")?;
            let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };
    Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset) * 60_000 + second * 1000 + ms)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March so that the leap day is last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_agrees_with_a_calendar() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2000-02-29T23:59:59.999Z",
            "2026-11-22T21:35:05.123456789+01:00",
            "2024-12-31t12:00:00-11:30",
            "1999-12-31 23:59:59Z",
            "2038-01-19T03:14:08z",
            "9998-12-31T23:59:59Z",
            "2100-03-01T00:00:00Z",
        ] {
            let expected: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(rfc3339(text.as_bytes()), Some(expected.as_millisecond()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2026",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00Zx",
            "+026-01-01T00:00:00Z",
        ] {
            assert_eq!(rfc3339(text.as_bytes()), None, "{text}");
        }
    }
}
