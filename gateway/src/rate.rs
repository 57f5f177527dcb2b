//! Token buckets: so many in the long run, with bursts. The time is passed in.

use depin_domain::time::Timestamp;

/// A bucket that refills steadily.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    /// Refill, units a second.
    per_second: u64,
    /// Most that it holds, in thousandths of a unit.
    capacity: u64,
    /// What it holds, in thousandths of a unit.
    level: u64,
    /// When the level was true.
    at: Timestamp,
}

impl Bucket {
    /// A full bucket that holds `seconds` worth of its refill.
    pub(crate) fn new(per_second: u64, seconds: u64, now: Timestamp) -> Self {
        let capacity = per_second.saturating_mul(seconds).saturating_mul(1000);
        Self { per_second, capacity, level: capacity, at: now }
    }

    /// Takes `units` if they are there. A clock that steps back refills nothing and takes nothing away.
    pub(crate) fn take(&mut self, units: u64, now: Timestamp) -> bool {
        let elapsed = u64::try_from(now.since(self.at)).unwrap_or(0);
        self.level = self.level.saturating_add(elapsed.saturating_mul(self.per_second)).min(self.capacity);
        self.at = now;
        match self.level.checked_sub(units.saturating_mul(1000)) {
            Some(rest) => {
                self.level = rest;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(10, 2, Timestamp(0));
        assert!(bucket.take(20, Timestamp(0)));
        assert!(!bucket.take(1, Timestamp(99)));
        assert!(bucket.take(1, Timestamp(100)));
        assert!(!bucket.take(1, Timestamp(100)));
        assert!(!bucket.take(21, Timestamp(1_000_000)));
        assert!(bucket.take(20, Timestamp(1_000_000)));
    }

    #[test]
    fn a_clock_that_steps_back_does_no_harm() {
        let mut bucket = Bucket::new(10, 1, Timestamp(1_000));
        assert!(bucket.take(10, Timestamp(1_000)));
        assert!(!bucket.take(1, Timestamp(0)));
        assert!(bucket.take(1, Timestamp(100)));
    }
}
