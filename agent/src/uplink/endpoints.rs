//! Which gateway is next, and when: pure.
//!
//! The first is tried first; the one that works is kept. One that fails is left for the next at once, and waits for its own time, longer
//! after every failure: neither is a healthy one made to wait for a dead one, nor is a dead one stormed.

use std::time::Duration;

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// A connection that ends in order sooner than this is taken for a failure: a gateway that ends all streams must not be stormed either.
const STEADY: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The gateway ended it in order, or the agent wants to show a newer certificate: it is begun anew at once.
    InOrder,
    /// It broke, or never came about.
    Broken,
}

/// What is known of one gateway.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// What the next failure costs.
    backoff: Duration,
    /// Not before.
    until: Duration,
}

const FRESH: Known = Known { backoff: FIRST_BACKOFF, until: Duration::ZERO };

/// All gateways in order of preference. Times are since a beginning of the caller's that never moves back.
#[derive(Clone, Debug)]
pub struct Endpoints {
    known: Vec<Known>,
    current: usize,
}

impl Endpoints {
    /// So many, none tried; at least one.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { known: vec![FRESH; count.max(1)], current: 0 }
    }

    /// The next to try, and how long to wait before: the present one or the first after it whose time has come, or else the one whose
    /// time comes first.
    #[must_use]
    pub fn next(&self, now: Duration) -> (usize, Duration) {
        let count = self.known.len();
        let order = (0..count).map(|step| (self.current + step) % count);
        let waits = order.map(|index| (index, self.known[index].until.saturating_sub(now)));
        // The first of the least.
        waits.min_by_key(|(_, wait)| *wait).unwrap_or((0, Duration::ZERO))
    }

    /// A connection to `index`, which was begun `lasted` ago, ended. `jitter` gives a number of milliseconds below its argument.
    pub fn ended(
        &mut self,
        index: usize,
        how: Ended,
        lasted: Duration,
        now: Duration,
        jitter: impl FnOnce(u64) -> u64,
    ) {
        let count = self.known.len();
        let Some(known) = self.known.get_mut(index) else { return };
        if how == Ended::InOrder && lasted >= STEADY {
            *known = FRESH;
            self.current = index;
            return;
        }
        // One that held for a while begins anew at the shortest wait.
        if lasted > LONGEST_BACKOFF {
            known.backoff = FIRST_BACKOFF;
        }
        let spread = u64::try_from(known.backoff.as_millis() / 2).unwrap_or(0) + 1;
        known.until = now + known.backoff + Duration::from_millis(jitter(spread).min(spread));
        known.backoff = (known.backoff * 2).min(LONGEST_BACKOFF);
        self.current = (index + 1) % count;
    }
}

#[cfg(test)]
mod tests {
    use depin_trials::{below, one_in};

    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Breaks the next one at `now`, without jitter; which one it was.
    fn break_next(endpoints: &mut Endpoints, now: Duration) -> usize {
        let (index, wait) = endpoints.next(now);
        assert_eq!(wait, Duration::ZERO);
        endpoints.ended(index, Ended::Broken, Duration::ZERO, now, |_| 0);
        index
    }

    #[test]
    fn a_dead_one_is_left_for_the_next_at_once_and_the_one_that_works_is_kept() {
        let mut endpoints = Endpoints::new(3);
        assert_eq!(break_next(&mut endpoints, ms(0)), 0);
        assert_eq!(endpoints.next(ms(0)), (1, ms(0)), "no wait");
        // It works for an hour and ends in order: it is the next again, at once.
        let hour = Duration::from_secs(3_600);
        endpoints.ended(1, Ended::InOrder, hour, hour, |_| 0);
        assert_eq!(endpoints.next(hour), (1, ms(0)));
        // Then it breaks: on to the next, not back to the first.
        endpoints.ended(1, Ended::Broken, hour, hour * 2, |_| 0);
        assert_eq!(endpoints.next(hour * 2), (2, ms(0)));
    }

    #[test]
    fn with_all_dead_each_has_its_own_wait_which_doubles_up_to_half_a_minute() {
        let mut endpoints = Endpoints::new(2);
        assert_eq!((break_next(&mut endpoints, ms(0)), break_next(&mut endpoints, ms(10))), (0, 1));
        assert_eq!(endpoints.next(ms(20)), (0, ms(230)));
        assert_eq!((break_next(&mut endpoints, ms(250)), break_next(&mut endpoints, ms(260))), (0, 1));
        assert_eq!(endpoints.next(ms(260)), (0, ms(490)));
        let mut now = ms(260);
        let mut waits = Vec::new();
        for _ in 0..20 {
            let (index, wait) = endpoints.next(now);
            now += wait;
            waits.push(wait);
            endpoints.ended(index, Ended::Broken, Duration::ZERO, now, |_| 0);
        }
        assert!(waits.iter().all(|wait| *wait <= LONGEST_BACKOFF), "{waits:?}");
        assert_eq!(waits.iter().max(), Some(&(LONGEST_BACKOFF - ms(10))));
    }

    #[test]
    fn an_only_one_waits_as_before_and_an_early_end_in_order_counts_as_a_failure() {
        let mut endpoints = Endpoints::new(1);
        for wait in [250, 500, 1_000] {
            let now = ms(100_000);
            endpoints.ended(0, Ended::InOrder, ms(100), now, |_| 0);
            assert_eq!(endpoints.next(now), (0, ms(wait)));
        }
        endpoints.ended(0, Ended::Broken, Duration::from_secs(31), ms(200_000), |limit| limit - 1);
        assert_eq!(endpoints.next(ms(200_000)), (0, ms(250 + 125)), "half of it again at most");
    }

    #[test]
    fn none_is_stormed_none_is_forgotten_and_a_working_one_is_found_within_one_round() {
        depin_trials::run("endpoints", |rng| {
            let count = 1 + below(rng, 5) as usize;
            let mut endpoints = Endpoints::new(count);
            let mut now = Duration::ZERO;
            let mut last: Vec<Option<(Duration, u32)>> = vec![None; count];
            for _ in 0..200 {
                let (index, wait) = endpoints.next(now);
                assert!(wait <= LONGEST_BACKOFF * 3 / 2 + ms(1), "{wait:?}");
                // Nobody waits while another may be tried.
                assert!(wait.is_zero() || (0..count).all(|other| endpoints.known[other].until > now));
                now += wait;
                if let Some((ended, in_a_row)) = last[index] {
                    let least = (FIRST_BACKOFF * 2_u32.pow((in_a_row - 1).min(7))).min(LONGEST_BACKOFF);
                    assert!(now >= ended + least, "tried {:?} after failure {in_a_row}", now - ended);
                }
                let lasted = ms(below(rng, 5_000));
                now += lasted;
                let in_order = one_in(rng, 10);
                let how = if in_order { Ended::InOrder } else { Ended::Broken };
                let lasted = if in_order && one_in(rng, 2) { lasted + STEADY } else { lasted };
                endpoints.ended(index, how, lasted, now, |limit| below(rng, limit));
                last[index] = match (in_order && lasted >= STEADY, last[index]) {
                    (true, _) => None,
                    (false, before) => Some((now, before.map_or(0, |(_, in_a_row)| in_a_row) + 1)),
                };
            }
        });
    }
}
