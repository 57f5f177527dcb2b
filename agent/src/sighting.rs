//! Strangers: devices that spoke and that nobody let in yet, and when each was first heard. Pure.
//!
//! A device counts from its first sighting on, so a sighting outlives a restart (it is derived again from what waits in spool and journal)
//! and is dated only when it is told: what the wall clock showed before it was set is corrected as the readings themselves are.

use std::collections::BTreeMap;

use depin_domain::{ids::Digest, time::Timestamp};

use crate::{codec::DecodedReading, sealer::clock, spool::Stamp};

/// How far before its receipt a message may date the first sighting of its device: room for the way here and for a slow clock.
const ALLOWANCE_MS: i64 = 10 * 60 * 1_000;

/// When a serial was heard first, on the clocks of that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstHeard {
    /// The model by which it was read.
    pub model: Digest,
    /// The clocks when it was received.
    pub stamp: Stamp,
    /// The time of the oldest of its first readings.
    pub oldest: Timestamp,
    /// Whether the device told that time; else it rests on the stamp.
    pub device_time: bool,
}

/// A device that spoke but is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighted {
    /// Name of the model by which it was read.
    pub model: String,
    /// What it calls itself.
    pub serial: String,
    /// Where; empty where it was heard before the agent's start.
    pub topic: String,
    /// When.
    pub heard: FirstHeard,
}

impl FirstHeard {
    /// By the message that made it known.
    #[must_use]
    pub fn of(model: Digest, stamp: &Stamp, device_time: bool, readings: &[DecodedReading]) -> Self {
        let oldest = readings.iter().map(|reading| reading.at).min().unwrap_or(stamp.wall);
        Self { model, stamp: *stamp, oldest, device_time }
    }

    /// As the date of a sighting; `None`: the clock was not set yet, and its date will be known when it is. `agreed` are the offsets
    /// that the gateway's clock confirmed, by boot.
    ///
    /// The readings that made a device known count too, once it is approved: a sighting is as old as they are, within an allowance.
    #[must_use]
    pub fn first_seen(&self, agreed: &BTreeMap<u64, i64>, now: &Stamp) -> Option<Timestamp> {
        let shift = match clock::correction(&self.stamp, agreed) {
            Some(shift) => shift,
            None if self.stamp.boot == now.boot || !now.is_set() => return None,
            // Another boot in which no clock was ever right: its readings are given up too.
            None => return Some(now.wall),
        };
        let received = self.stamp.wall.plus(shift);
        let oldest = if self.device_time { self.oldest } else { self.oldest.plus(shift) };
        Some(oldest.clamp(received.plus(-ALLOWANCE_MS), received))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_800_000_000_000;

    fn stamp(boot: u64, uptime: i64, wall: i64) -> Stamp {
        Stamp { boot, uptime, wall: Timestamp(wall) }
    }

    fn heard(stamp: &Stamp, device_time: bool, times: &[i64]) -> FirstHeard {
        let readings: Vec<_> =
            times.iter().map(|at| DecodedReading { metric: 0, at: Timestamp(*at), value: 0 }).collect();
        FirstHeard::of(Digest::default(), stamp, device_time, &readings)
    }

    #[test]
    fn a_sighting_is_as_old_as_what_made_it_within_the_allowance() {
        let now = stamp(1, 1_000, NOON);
        let seen = |times: &[i64]| heard(&now, true, times).first_seen(&BTreeMap::new(), &now).unwrap().0 - NOON;
        assert_eq!(seen(&[NOON - 40, NOON - 90, NOON + 5]), -90);
        assert_eq!(seen(&[NOON + 5]), 0, "nothing is seen before it came");
        assert_eq!(seen(&[]), 0);
        assert_eq!(seen(&[NOON - 30 * 24 * 3_600_000]), -ALLOWANCE_MS, "a backlog opens no past");
    }

    #[test]
    fn before_the_clock_is_set_nothing_is_dated_and_then_by_the_uptime() {
        // 10 s after boot, the wall clock counts from 1970.
        let unset = stamp(1, 10_000, 10_000);
        for (device_time, time) in [(false, 10_000), (true, NOON + 9_000)] {
            let first = heard(&unset, device_time, &[time]);
            assert_eq!(first.first_seen(&BTreeMap::new(), &stamp(1, 11_000, 11_000)), None);
            assert_eq!(first.first_seen(&BTreeMap::new(), &stamp(1, 12_000, NOON + 12_000)), None, "not confirmed yet");
            let agreed = BTreeMap::from([(1, NOON)]);
            let expected = if device_time { NOON + 9_000 } else { NOON + 10_000 };
            assert_eq!(first.first_seen(&agreed, &stamp(1, 60_000, NOON + 60_000)), Some(Timestamp(expected)));
        }
    }

    #[test]
    fn an_unset_clock_of_an_earlier_boot_dates_from_when_it_can_be_told() {
        let first = heard(&stamp(1, 10_000, 10_000), false, &[10_000]);
        assert_eq!(first.first_seen(&BTreeMap::new(), &stamp(2, 5, 5)), None, "nor is this boot's clock set");
        let now = stamp(2, 9_000, NOON);
        assert_eq!(first.first_seen(&BTreeMap::from([(2, NOON - 9_000)]), &now), Some(Timestamp(NOON)));
        let known = BTreeMap::from([(1, NOON - 500_000)]);
        assert_eq!(first.first_seen(&known, &now), Some(Timestamp(NOON - 490_000)), "that boot's clock was set later");
    }
}
