//! How old a connection may become: pure.
//!
//! Streams live for days, so agents would stay where they first went, and a gateway that was added would never get any. Each connection ends
//! in order after its own share of the limit; agents that came together do not come again together.

use std::time::Duration;

/// The limit is spread by so much to either side, in percent.
const SPREAD: u32 = 10;

/// The age of one connection: the limit, a tenth less or more by what `random` is. None: it may live on.
pub(crate) fn age(limit: Duration, random: u64) -> Option<Duration> {
    if limit.is_zero() {
        return None;
    }
    let least = limit / 100 * (100 - SPREAD);
    let width = u64::try_from((limit / 100 * (2 * SPREAD)).as_millis()).unwrap_or(u64::MAX);
    Some(least + Duration::from_millis(random % width.saturating_add(1)))
}

/// The oldest that a connection becomes.
pub(crate) fn oldest(limit: Duration) -> Option<Duration> {
    age(limit, 0).map(|least| least + limit / 100 * (2 * SPREAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_lie_a_tenth_around_the_limit_and_all_over_it() {
        assert_eq!(age(Duration::ZERO, 7), None);
        let hour = Duration::from_secs(3_600);
        let ages: Vec<_> = (0..10_000_u64).filter_map(|n| age(hour, n.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
        let (least, most) = (hour / 10 * 9, hour / 10 * 11);
        assert!(ages.iter().all(|age| (least..=most).contains(age)));
        assert_eq!(oldest(hour), Some(most));
        // No minute of the twelve has more than twice its share.
        for minute in 0..12 {
            let from = least + Duration::from_secs(60) * minute;
            let count = ages.iter().filter(|age| (from..from + Duration::from_secs(60)).contains(*age)).count();
            assert!((400..1_700).contains(&count), "minute {minute}: {count}");
        }
        assert_eq!(age(Duration::from_millis(1), u64::MAX), Some(Duration::from_micros(900)), "however short");
    }
}
