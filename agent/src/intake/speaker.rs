//! One serial that speaks: when it spoke, and as long as nobody let it in, how much of it waits and when it is told. Pure.

use depin_domain::time::Timestamp;

use crate::{sealer::Left, sighting::FirstHeard, spool::Stamp};

/// How often a device that nobody let in yet is told again.
const SIGHT_AGAIN_MS: i64 = 3_600_000;

/// How many unapproved devices and readings of each are taken.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Readings of one unapproved device that may wait.
    pub readings: u64,
    /// Unapproved devices.
    pub devices: usize,
    /// How long a reading of an unapproved device waits, milliseconds; a device that is silent for longer has none and is forgotten.
    pub keep_ms: i64,
}

impl Default for Quota {
    fn default() -> Self {
        Self { readings: 1_000, devices: 10_000, keep_ms: 7 * 86_400_000 }
    }
}

/// A serial.
#[derive(Debug, Default)]
pub(super) struct Speaker {
    /// Newest time that a reading without a time of its own got: a boot of the machine, and milliseconds in it.
    last: Option<(u64, i64)>,
    /// Readings that wait, while it is not approved.
    pub(super) waiting: u64,
    /// When the first of them came.
    waiting_since: Timestamp,
    pub(super) approved: bool,
    /// Its first sighting.
    first: Option<FirstHeard>,
    /// When that was last told, in milliseconds since the boot; a sighting that a restart left behind may never have been.
    told: Option<i64>,
    /// When it spoke last.
    pub(super) heard: Timestamp,
    /// Spoke since the last status report.
    pub(super) active: bool,
}

impl Speaker {
    /// As the disk knows it at the start.
    pub(super) fn found(left: &Left, now: Timestamp) -> Self {
        Self {
            last: left.last,
            waiting: left.waiting,
            waiting_since: now,
            first: left.first,
            heard: now,
            ..Self::default()
        }
    }

    /// Its first sighting, if it is to be told: at first, and now and then while nobody decides, since what was told may have been
    /// dropped by a full inbox or have expired.
    pub(super) fn sight(&mut self, now: &Stamp, heard: impl FnOnce() -> FirstHeard) -> Option<FirstHeard> {
        let first = *self.first.get_or_insert_with(heard);
        let due = self.told.is_none_or(|told| now.uptime.saturating_sub(told) >= SIGHT_AGAIN_MS);
        if due {
            self.told = Some(now.uptime);
        }
        due.then_some(first)
    }

    /// A sighting that nobody was told of since the start.
    pub(super) fn untold(&self) -> Option<FirstHeard> {
        self.first.filter(|_| !self.approved && self.told.is_none())
    }

    /// The sighting of before the start was told now.
    pub(super) fn told_at(&mut self, uptime: i64) {
        self.told = Some(uptime);
    }

    /// Lets so many readings wait, within the quota. What waits is given up after a while: then there is room again.
    pub(super) fn wait(&mut self, readings: u64, now: Timestamp, quota: &Quota) -> bool {
        if self.waiting == 0 || now.since(self.waiting_since) > quota.keep_ms {
            (self.waiting, self.waiting_since) = (0, now);
        }
        let fits = self.waiting + readings <= quota.readings;
        if fits {
            self.waiting += readings;
        }
        fits
    }

    /// By how much the time of receipt of a message without a time of its own is moved. Two messages of one device in the same
    /// millisecond are two moments. They are kept apart on the uptime: the wall clock may be set back, or may have shown a later
    /// time before the machine booted.
    pub(super) fn keep_apart(&mut self, now: &Stamp) -> i64 {
        let last = self.last.filter(|(boot, _)| *boot == now.boot);
        let at = last.map_or(now.uptime, |(_, last)| now.uptime.max(last.saturating_add(1)));
        self.last = Some((now.boot, at));
        at.saturating_sub(now.uptime)
    }
}

#[cfg(test)]
mod tests {
    use depin_domain::ids::Digest;

    use super::*;

    fn now(uptime: i64) -> Stamp {
        Stamp { boot: 1, uptime, wall: Timestamp(1_800_000_000_000 + uptime) }
    }

    fn heard(uptime: i64) -> FirstHeard {
        FirstHeard::of(Digest::default(), &now(uptime), false, &[])
    }

    #[test]
    fn a_stranger_is_told_again_while_nobody_decides() {
        let mut speaker = Speaker::default();
        let mut sight = |uptime| speaker.sight(&now(uptime), || heard(uptime));
        assert_eq!(sight(5), Some(heard(5)));
        assert_eq!(sight(5 + SIGHT_AGAIN_MS - 1), None);
        assert_eq!(sight(5 + SIGHT_AGAIN_MS), Some(heard(5)), "as first seen");
        assert_eq!(sight(6 + SIGHT_AGAIN_MS), None);
    }

    #[test]
    fn a_stranger_of_before_the_restart_is_told_as_first_seen_then() {
        let left = Left { waiting: 3, first: Some(heard(-1_000)), last: None };
        let mut speaker = Speaker::found(&left, now(0).wall);
        assert_eq!(speaker.untold(), Some(heard(-1_000)));
        assert_eq!(speaker.sight(&now(7), || heard(7)), Some(heard(-1_000)));
        assert_eq!(speaker.untold(), None, "told once");
        let mut speaker = Speaker::found(&left, now(0).wall);
        speaker.told_at(7);
        assert_eq!(speaker.sight(&now(8), || heard(8)), None);
        speaker = Speaker { approved: true, ..Speaker::found(&left, now(0).wall) };
        assert_eq!(speaker.untold(), None, "no stranger any more");
    }

    #[test]
    fn what_waits_is_bounded_and_given_up_after_a_while() {
        let quota = Quota { readings: 10, devices: 1, keep_ms: 1_000 };
        let mut speaker = Speaker::default();
        assert!(speaker.wait(6, now(0).wall, &quota));
        assert!(!speaker.wait(5, now(0).wall, &quota));
        assert!(speaker.wait(4, now(1_000).wall, &quota));
        assert!(!speaker.wait(1, now(1_000).wall, &quota));
        assert!(speaker.wait(10, now(1_001).wall, &quota));
    }
}
