//! When a reading without a time of its own was taken, once it is known what time it was.
//!
//! The machine's uptime never steps; the wall clock may be unset at boot, or wrong, and be set later. What the wall clock said of a moment
//! is corrected by the offset between both that held when the agent's clock agreed with the gateway's in the same boot.

use std::collections::BTreeMap;

use crate::spool::Stamp;

/// A difference of offsets that is drift and slewing, not a set clock, in milliseconds.
pub const TOLERANCE_MS: i64 = 5_000;
/// Boots whose offsets are remembered.
pub const REMEMBERED_BOOTS: usize = 32;

/// By how much the times that a record took from the wall clock are to be shifted; `None`: nothing tells when it was.
#[must_use]
pub fn correction(record: &Stamp, agreed: &BTreeMap<u64, i64>) -> Option<i64> {
    match agreed.get(&record.boot) {
        Some(offset) => {
            let shift = offset.saturating_sub(record.offset());
            Some(if shift.abs() <= TOLERANCE_MS { 0 } else { shift })
        }
        // A boot in which no gateway was reached: a clock that was set is believed, one that was not tells nothing.
        None => record.is_set().then_some(0),
    }
}

/// Whether the agent's clock agrees with the gateway's.
#[must_use]
pub fn agrees(own: &Stamp, gateway_now: i64, max_skew_ms: i64) -> bool {
    own.is_set() && own.wall.0.abs_diff(gateway_now) <= max_skew_ms.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use depin_domain::time::Timestamp;

    use super::*;

    const NOON: i64 = 1_790_000_000_000;

    fn stamp(boot: u64, uptime: i64, wall: i64) -> Stamp {
        Stamp { boot, uptime, wall: Timestamp(wall) }
    }

    #[test]
    fn readings_from_before_the_clock_was_set_are_dated_by_the_uptime() {
        let agreed = BTreeMap::from([(1, NOON - 60_000)]);
        // Taken 10 s after boot, when the wall clock showed 1970.
        let record = stamp(1, 10_000, 10_000);
        let shift = correction(&record, &agreed).unwrap();
        assert_eq!(record.wall.0 + shift, NOON - 50_000);
    }

    #[test]
    fn a_clock_that_was_right_stays_as_it_is() {
        let agreed = BTreeMap::from([(1, NOON)]);
        assert_eq!(correction(&stamp(1, 5_000, NOON + 5_400), &agreed), Some(0));
        assert_eq!(correction(&stamp(1, 5_000, NOON - 3_600_000 + 5_000), &agreed), Some(3_600_000));
        assert_eq!(correction(&stamp(2, 5_000, NOON), &agreed), Some(0), "another boot, its clock set");
        assert_eq!(correction(&stamp(2, 5_000, 5_000), &agreed), None, "another boot, its clock never set");
    }

    #[test]
    fn an_unset_clock_never_agrees() {
        assert!(agrees(&stamp(1, 0, NOON), NOON + 900, 1_000));
        assert!(!agrees(&stamp(1, 0, NOON), NOON + 1_100, 1_000));
        assert!(!agrees(&stamp(1, 0, 5), 5, 1_000));
    }
}
