use depin_trials::{Rng, RngCore, below};

use super::*;
use crate::fixtures::{HOUR, MINUTE};

fn reading(at: i64, value: i64) -> Reading {
    Reading { at: Timestamp(at), value }
}

const COUNTER: Entry<'static> = Entry {
    assignment: 0,
    metric: "total",
    kind: MetricKind::Counter { resets_to_zero: true },
    grain_ms: HOUR,
    cadence_ms: MINUTE,
};

#[test]
fn a_counters_increase_belongs_to_the_grain_of_its_later_reading() {
    let mut statistics = DeviceStatistics::default();
    for (at, value) in [(10, 100), (HOUR - 1, 130), (HOUR + 5, 150), (HOUR + 9, 20), (HOUR + 10, 25)] {
        statistics.add(COUNTER, reading(at, value));
    }
    let grains = &statistics.assignment(0).unwrap().metric("total").unwrap().grains;
    assert_eq!((grains[0].increase, grains[0].reset_increase), (30, 0));
    assert_eq!((grains[1].increase, grains[1].reset_increase), (25, 20));
    assert_eq!((grains[1].count, grains[1].sum, grains[1].min, grains[1].max), (3, 195, 20, 150));
    assert_eq!((grains[1].first, grains[1].last), (reading(HOUR + 5, 150), reading(HOUR + 10, 25)));
}

#[test]
fn an_increase_never_spans_assignments() {
    let mut statistics = DeviceStatistics::default();
    statistics.add(COUNTER, reading(10, 100));
    statistics.add(Entry { assignment: 1, ..COUNTER }, reading(20, 900));
    let window = Window { start: Timestamp(0), end: Timestamp(HOUR) };
    let found: Vec<_> =
        statistics.within(window).map(|(number, _, grain)| (number, grain.increase, grain.count)).collect();
    assert_eq!(found, [(0, 0, 1), (1, 0, 1)]);
}

#[test]
fn a_late_gauge_reading_enters_its_own_grain_and_leaves_the_mark() {
    let gauge = Entry { metric: "power", kind: MetricKind::Gauge, ..COUNTER };
    let mut statistics = DeviceStatistics::default();
    for (at, value) in [(2 * HOUR, 7), (5 * MINUTE, 3), (HOUR, 1), (MINUTE, 9)] {
        statistics.add(gauge, reading(at, value));
    }
    let metric = statistics.assignment(0).unwrap().metric("power").unwrap();
    assert_eq!(metric.mark, reading(2 * HOUR, 7));
    assert_eq!(metric.grains.iter().map(|grain| grain.start.0).collect::<Vec<_>>(), [0, HOUR, 2 * HOUR]);
    let first = metric.grain(Timestamp(0)).unwrap();
    assert_eq!((first.first, first.last, first.increase), (reading(MINUTE, 9), reading(5 * MINUTE, 3), 0));
    assert_eq!(first.slots.to_bytes(), [0b10_0010]);
    statistics.forget_before(Timestamp(2 * HOUR));
    let metric = statistics.assignment(0).unwrap().metric("power").unwrap();
    assert_eq!((metric.grains.len(), metric.mark), (1, reading(2 * HOUR, 7)));
}

#[test]
fn sums_do_not_overflow_where_every_reading_is_extreme() {
    let mut statistic = GrainStatistic::of(Timestamp(0), MINUTE, reading(0, i64::MIN), None);
    statistic.add(reading(1, i64::MAX), Some(reading(0, i64::MIN)));
    statistic.add(reading(2, i64::MIN), Some(reading(1, i64::MAX)));
    assert_eq!(statistic.increase, i128::from(u64::MAX));
    assert_eq!((statistic.sum, statistic.reset_increase), (i128::from(i64::MIN) - 1, 0));
}

#[test]
fn only_equal_grains_merge() {
    let mut left = GrainStatistic::of(Timestamp(0), MINUTE, reading(0, 1), None);
    let right = GrainStatistic::of(Timestamp(0), 2 * MINUTE, reading(1, 1), None);
    let before = left.clone();
    assert!(left.merge(&right).unwrap_err().to_string().contains("cadence"));
    assert_eq!(left, before);
}

#[test]
fn one_hundred_and_fifty_bytes_hold_a_statistic_of_an_hour() {
    assert!(size_of::<GrainStatistic>() <= 144, "{}", size_of::<GrainStatistic>());
}

fn random(rng: &mut Rng, from: i64) -> GrainStatistic {
    let at = from + below(rng, 100) as i64 * 1000;
    let mut statistic = GrainStatistic::of(Timestamp(0), 500, reading(at, rng.next_u64() as i64), None);
    for step in 1..below(rng, 20) as i64 {
        let previous = (below(rng, 2) == 0).then_some(statistic.last);
        statistic.add(reading(at + step * 7, rng.next_u64() as i64), previous);
    }
    statistic
}

#[test]
fn trial_merging_is_associative_and_commutative() {
    depin_trials::run("statistics-merge", |rng| {
        let (a, b, c) = (random(rng, 0), random(rng, 200_000), random(rng, 400_000));
        let merged = |parts: [&GrainStatistic; 2]| {
            let mut whole = parts[0].clone();
            whole.merge(parts[1]).unwrap();
            whole
        };
        assert_eq!(merged([&merged([&a, &b]), &c]), merged([&a, &merged([&b, &c])]));
        assert_eq!(merged([&a, &b]), merged([&b, &a]));
    });
}

#[test]
fn trial_slots_are_a_set() {
    depin_trials::run("statistics-slots", |rng| {
        let bound = [60, 64, 65, 1_000, 86_400][below(rng, 5) as usize];
        let mut sets = [Slots::default(), Slots::default()];
        let mut expected = std::collections::BTreeSet::new();
        for _ in 0..below(rng, 50) {
            let slot = below(rng, bound) as u32;
            sets[below(rng, 2) as usize].insert(slot);
            expected.insert(slot);
        }
        let [mut left, mut right] = sets;
        let first = left.clone();
        left.union(&right);
        right.union(&first);
        assert_eq!(left, right);
        assert_eq!(left.count(), expected.len() as u64);
        assert!((0..bound as u32).all(|slot| left.contains(slot) == expected.contains(&slot)));
        let bytes = left.to_bytes();
        assert_eq!(Slots::from_bytes(&bytes), left);
        assert_ne!(bytes.last(), Some(&0));
    });
}
