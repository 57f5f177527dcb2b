//! The machine's clocks, read in one place and handed to everything else.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use depin_domain::{ids::Digest, time::Timestamp};

use crate::spool::Stamp;

/// Where time comes from.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Boot, uptime and wall clock now.
    fn now(&self) -> Stamp;
}

/// What the two clocks may differ by without one of them having been set: the kernel tells the uptime in hundredths of a second.
const GRAIN_MS: i64 = 25;

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    boot: u64,
    /// Wall clock minus uptime, kept until somebody sets the clock. Messages are kept apart by the uptime; were this to waver by a
    /// millisecond, two of them could get one time all the same.
    offset: AtomicI64,
    started: std::time::Instant,
}

impl SystemClock {
    /// Learns which boot this is.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
            // Without the kernel's name for the boot, every start of the process counts as one.
            let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            [nanos.to_le_bytes().as_slice(), &std::process::id().to_le_bytes()].concat()
        });
        let boot = Digest::of(&id).0.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
        Arc::new(Self { boot, offset: AtomicI64::new(i64::MIN), started: std::time::Instant::now() })
    }

    /// Milliseconds since boot, suspended time included; without a kernel that tells, since the start of the process.
    fn uptime(&self) -> i64 {
        let told = fs::read_to_string("/proc/uptime").ok().and_then(|text| {
            let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
            Some(seconds.parse::<i64>().ok()? * 1000 + hundredths.parse::<i64>().ok()? * 10)
        });
        told.unwrap_or_else(|| i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Stamp {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let (wall, uptime) = (i64::try_from(wall).unwrap_or(i64::MAX), self.uptime());
        let kept = kept_offset(self.offset.load(Ordering::Relaxed), wall.saturating_sub(uptime));
        self.offset.store(kept, Ordering::Relaxed);
        Stamp { boot: self.boot, uptime, wall: Timestamp(uptime.saturating_add(kept)) }
    }
}

/// The offset that holds on while the one that is read differs by no more than the clocks' grain.
fn kept_offset(kept: i64, read: i64) -> i64 {
    if kept.abs_diff(read) <= GRAIN_MS.unsigned_abs() { kept } else { read }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wall_clock_goes_with_the_uptime_until_it_is_set() {
        assert_eq!(kept_offset(i64::MIN, 1_000), 1_000);
        assert_eq!((kept_offset(1_000, 1_025), kept_offset(1_000, 975)), (1_000, 1_000));
        assert_eq!((kept_offset(1_000, 1_026), kept_offset(1_000, 0)), (1_026, 0));
        let clock = SystemClock::new();
        let (mut changes, mut before) = (0, clock.now());
        // Long enough for the uptime's grain to show dozens of times.
        while clock.started.elapsed().as_millis() < 300 {
            let now = clock.now();
            changes += u32::from(now.offset() != before.offset());
            before = now;
        }
        // A stalled machine may read the two clocks far apart now and then, never each time.
        assert!(changes < 100, "{changes}");
    }
}
