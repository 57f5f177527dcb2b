//! When the ledger took proofs: spans of its clock, kept in the log by ticks while it serves. `grace` counts only these: not the time in
//! which it is open for a backup, waits for its certificates, sleeps or hangs, nor the time that a set clock skips.

use depin_domain::time::Timestamp;

/// Most spans that are remembered one by one; older ones only count in the total.
const MAX_SPANS: usize = 4_096;

/// Spans `[from, to]` in which proofs were taken, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OpenTime {
    pub(crate) spans: Vec<(i64, i64)>,
    /// Milliseconds in spans that are no longer remembered.
    pub(crate) forgotten: i64,
}

impl OpenTime {
    /// A moment at which proofs are taken; `opens`: not before it.
    pub(crate) fn tick(&mut self, at: Timestamp, opens: bool) {
        match self.spans.last_mut() {
            Some((_, to)) if !opens => *to = (*to).max(at.0),
            last => {
                let from = last.map_or(at.0, |(_, to)| at.0.max(*to));
                self.spans.push((from, from));
            }
        }
        if self.spans.len() > MAX_SPANS {
            let (from, to) = self.spans.remove(0);
            self.forgotten += to - from;
        }
    }

    /// Milliseconds in all.
    pub(crate) fn total(&self) -> i64 {
        self.forgotten + self.spans.iter().map(|(from, to)| to - from).sum::<i64>()
    }

    /// Milliseconds after `start`.
    pub(crate) fn since(&self, start: Timestamp) -> i64 {
        self.spans.iter().map(|(from, to)| (to - (*from).max(start.0)).max(0)).sum()
    }

    /// The newest moment.
    pub(crate) fn newest(&self) -> Option<i64> {
        self.spans.last().map(|(_, to)| *to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_does_not_count() {
        let mut time = OpenTime::default();
        time.tick(Timestamp(1_000), true);
        time.tick(Timestamp(5_000), false);
        time.tick(Timestamp(100_000), true);
        time.tick(Timestamp(101_000), false);
        assert_eq!(time.total(), 5_000);
        assert_eq!(time.since(Timestamp(4_000)), 2_000);
        assert_eq!(time.since(Timestamp(100_500)), 500);
        assert_eq!(time.since(Timestamp(200_000)), 0);
    }

    #[test]
    fn a_clock_that_steps_back_counts_nothing_twice() {
        let mut time = OpenTime::default();
        time.tick(Timestamp(1_000), true);
        time.tick(Timestamp(5_000), false);
        time.tick(Timestamp(2_000), true);
        time.tick(Timestamp(4_000), false);
        time.tick(Timestamp(6_000), false);
        assert_eq!(time.total(), 5_000);
    }
}
