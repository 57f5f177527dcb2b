//! How long an object waits after a failure: exponential, capped, jittered, one count an object.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const FIRST_MS: u64 = 250;
const CAP_MS: u64 = 60_000;
/// Beyond this many objects the oldest counts are worth less than the memory.
const MAX_OBJECTS: usize = 200_000;

/// Failures in a row by the object's UID.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoff {
    /// Notes a failure and gives the pause before the next attempt.
    pub fn failed(&self, uid: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_OBJECTS && !failures.contains_key(uid) {
            failures.clear();
        }
        let count = failures.entry(uid.to_owned()).or_default();
        let pause = pause(uid, *count);
        *count = count.saturating_add(1);
        pause
    }

    /// Forgets the failures of an object that succeeded or is gone.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// The pause after `count` failures before: doubled each time up to the cap, less a part of up to a quarter that depends on the
/// object, so that many that failed together do not come back together.
#[must_use]
pub fn pause(uid: &str, count: u32) -> Duration {
    let full = FIRST_MS.saturating_mul(1_u64.checked_shl(count).unwrap_or(u64::MAX)).min(CAP_MS);
    let spread = uid.bytes().fold(u64::from(count), |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    Duration::from_millis(full - full / 4 * (spread % 256) / 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_cap_and_are_forgotten_on_success() {
        let backoff = Backoff::default();
        let pauses: Vec<_> = (0..12).map(|_| backoff.failed("a")).collect();
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_millis(CAP_MS)));
        assert!(pauses[11] > Duration::from_millis(CAP_MS * 3 / 4 - 1));
        assert!(pauses[1] > pauses[0]);
        backoff.forget("a");
        assert_eq!(backoff.failed("a"), pauses[0]);
    }

    #[test]
    fn objects_that_failed_together_come_back_apart() {
        let distinct: std::collections::BTreeSet<_> =
            (0..100).map(|number| pause(&format!("uid-{number}"), 5)).collect();
        assert!(distinct.len() > 50, "{}", distinct.len());
    }

    #[test]
    fn no_count_overflows() {
        assert!(pause("x", u32::MAX) <= Duration::from_millis(CAP_MS));
    }
}
