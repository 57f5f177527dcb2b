//! Exact statistics of accepted readings, one for each (device, assignment, metric, grain): what rewards are made of.
//!
//! Program-independent and mergeable; a scan of the ledger gives the same as the keeping at ingest. Beside them stand the marks, the
//! newest accepted reading of each (assignment, metric), against which the next one is judged. Nothing here decides whether
//! a reading counts: see [`crate::proofs::judge`].

mod slots;
#[cfg(test)]
mod tests;

pub use slots::Slots;

use crate::{
    model::MetricKind,
    proofs::Reading,
    time::{Timestamp, Window},
};

/// What a grain's accepted readings of one metric in one assignment come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrainStatistic {
    /// The grain's start; its width is the fleet's.
    pub start: Timestamp,
    /// Width of a slot in milliseconds: the cadence in force at the grain's start, kept from the first reading on.
    pub cadence_ms: i64,
    /// How many readings.
    pub count: u64,
    /// Their sum.
    pub sum: i128,
    /// The smallest.
    pub min: i64,
    /// The largest.
    pub max: i64,
    /// The earliest.
    pub first: Reading,
    /// The latest.
    pub last: Reading,
    /// Sum of a counter's steps upwards whose later reading lies here. Always 0 for a gauge.
    pub increase: i128,
    /// Sum of the readings that followed a step down of a counter: what it counted since it began anew at zero.
    pub reset_increase: i128,
    /// Slots with an accepted reading.
    pub slots: Slots,
}

/// Two statistics are not of the same grain and cadence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot merge the statistic of the grain at {left:?} with that at {right:?}: start or cadence differ; merge equal grains"
)]
pub struct MergeError {
    /// Start and cadence of one.
    pub left: (Timestamp, i64),
    /// Start and cadence of the other.
    pub right: (Timestamp, i64),
}

impl GrainStatistic {
    /// The statistic of one reading. `previous`: the accepted one before it in this assignment, for counters only.
    #[must_use]
    pub fn of(start: Timestamp, cadence_ms: i64, reading: Reading, previous: Option<Reading>) -> Self {
        let mut statistic = Self {
            start,
            cadence_ms,
            count: 0,
            sum: 0,
            min: reading.value,
            max: reading.value,
            first: reading,
            last: reading,
            increase: 0,
            reset_increase: 0,
            slots: Slots::default(),
        };
        statistic.add(reading, previous);
        statistic
    }

    /// Adds a reading. `previous`: the accepted one before it in this assignment, for counters only; it may lie in an earlier grain.
    pub fn add(&mut self, reading: Reading, previous: Option<Reading>) {
        self.count += 1;
        self.sum += i128::from(reading.value);
        self.min = self.min.min(reading.value);
        self.max = self.max.max(reading.value);
        if reading.at < self.first.at {
            self.first = reading;
        }
        if reading.at > self.last.at {
            self.last = reading;
        }
        self.slots.insert(self.slot(reading.at));
        if let Some(previous) = previous {
            if reading.value >= previous.value {
                self.increase += i128::from(reading.value) - i128::from(previous.value);
            } else {
                self.reset_increase += i128::from(reading.value.max(0));
            }
        }
    }

    /// The slot of `at`, which lies in this grain.
    #[must_use]
    pub fn slot(&self, at: Timestamp) -> u32 {
        slot_of(self.start, self.cadence_ms, at)
    }

    /// Adds what `other` holds of the same grain. Associative and commutative as long as no reading is in both.
    pub fn merge(&mut self, other: &Self) -> Result<(), MergeError> {
        let (left, right) = ((self.start, self.cadence_ms), (other.start, other.cadence_ms));
        if left != right {
            return Err(MergeError { left, right });
        }
        self.count += other.count;
        self.sum += other.sum;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.increase += other.increase;
        self.reset_increase += other.reset_increase;
        self.slots.union(&other.slots);
        Ok(())
    }
}

/// The slot of `cadence_ms` width, counted from the grain's `start`, that holds `at`.
#[must_use]
pub fn slot_of(start: Timestamp, cadence_ms: i64, at: Timestamp) -> u32 {
    u32::try_from(at.since(start) / cadence_ms.max(1)).unwrap_or(0)
}

/// One metric of one assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricStatistics {
    /// The metric's name.
    pub metric: Box<str>,
    /// The newest accepted reading.
    pub mark: Reading,
    /// Ascending by start.
    pub grains: Vec<GrainStatistic>,
}

impl MetricStatistics {
    /// The statistic of the grain that starts at `start`.
    #[must_use]
    pub fn grain(&self, start: Timestamp) -> Option<&GrainStatistic> {
        self.grains.get(self.place(start).ok()?)
    }

    fn place(&self, start: Timestamp) -> Result<usize, usize> {
        // Nearly always the newest grain or the one after it.
        match self.grains.last() {
            None => Err(0),
            Some(last) if last.start == start => Ok(self.grains.len() - 1),
            Some(last) if last.start < start => Err(self.grains.len()),
            Some(_) => self.grains.binary_search_by_key(&start, |grain| grain.start),
        }
    }
}

/// One assignment of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentStatistics {
    /// The assignment's number in the registry.
    pub number: u32,
    /// Ascending by name.
    pub metrics: Vec<MetricStatistics>,
}

impl AssignmentStatistics {
    /// What is known of `metric`.
    #[must_use]
    pub fn metric(&self, metric: &str) -> Option<&MetricStatistics> {
        self.metrics
            .binary_search_by(|known| (*known.metric).cmp(metric))
            .ok()
            .and_then(|place| self.metrics.get(place))
    }
}

/// All that is kept of a device's accepted readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatistics {
    /// Ascending by number.
    pub assignments: Vec<AssignmentStatistics>,
}

/// How an accepted reading is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The assignment that it belongs to.
    pub assignment: u32,
    /// Its metric.
    pub metric: &'a str,
    /// Level or running total.
    pub kind: MetricKind,
    /// Width of the grains.
    pub grain_ms: i64,
    /// Slot width, should this be the grain's first reading.
    pub cadence_ms: i64,
}

impl DeviceStatistics {
    /// What is known of the assignment `number`.
    #[must_use]
    pub fn assignment(&self, number: u32) -> Option<&AssignmentStatistics> {
        match self.assignments.last() {
            Some(newest) if newest.number == number => Some(newest),
            _ => {
                let place = self.assignments.binary_search_by_key(&number, |known| known.number).ok()?;
                self.assignments.get(place)
            }
        }
    }

    /// Enters an accepted reading: its grain's statistic, and the mark if it is the newest.
    pub fn add(&mut self, entry: Entry<'_>, reading: Reading) {
        let assignment = match self.assignments.binary_search_by_key(&entry.assignment, |known| known.number) {
            Ok(place) => &mut self.assignments[place],
            Err(place) => {
                let fresh = AssignmentStatistics { number: entry.assignment, metrics: Vec::new() };
                self.assignments.insert(place, fresh);
                &mut self.assignments[place]
            }
        };
        let start = reading.at.floor_to(entry.grain_ms.max(1));
        let metrics = &mut assignment.metrics;
        let metric = match metrics.binary_search_by(|known| (*known.metric).cmp(entry.metric)) {
            Ok(place) => &mut metrics[place],
            Err(place) => {
                let grains = vec![GrainStatistic::of(start, entry.cadence_ms, reading, None)];
                metrics.insert(place, MetricStatistics { metric: entry.metric.into(), mark: reading, grains });
                return;
            }
        };
        let previous = match entry.kind {
            MetricKind::Counter { .. } if metric.mark.at < reading.at => Some(metric.mark),
            MetricKind::Counter { .. } | MetricKind::Gauge => None,
        };
        match metric.place(start) {
            Ok(place) => metric.grains[place].add(reading, previous),
            Err(place) => {
                metric.grains.insert(place, GrainStatistic::of(start, entry.cadence_ms, reading, previous));
            }
        }
        if metric.mark.at < reading.at {
            metric.mark = reading;
        }
    }

    /// The statistics whose grain starts in `window`, with assignment and metric.
    pub fn within(&self, window: Window) -> impl Iterator<Item = (u32, &str, &GrainStatistic)> {
        self.assignments.iter().flat_map(move |assignment| {
            assignment.metrics.iter().flat_map(move |metric| {
                let from = metric.grains.partition_point(|grain| grain.start < window.start);
                let grains = metric.grains[from..].iter().take_while(move |grain| grain.start < window.end);
                grains.map(move |grain| (assignment.number, &*metric.metric, grain))
            })
        })
    }

    /// Forgets the statistics of grains that start before `boundary`; marks stay. Readings of that time must no longer be accepted.
    pub fn forget_before(&mut self, boundary: Timestamp) {
        for metric in self.assignments.iter_mut().flat_map(|assignment| &mut assignment.metrics) {
            let old = metric.grains.partition_point(|grain| grain.start < boundary);
            if old > 0 {
                metric.grains.drain(..old);
                // Some room stays for the grains to come.
                metric.grains.shrink_to(metric.grains.len() + metric.grains.len() / 2 + 1);
            }
        }
    }
}
