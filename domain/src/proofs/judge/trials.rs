//! Properties of judging, on random networks and readings.

use depin_trials::{Rng, below, one_in};

use super::{
    tests::{Scene, header, scene},
    *,
};
use crate::{
    fixtures::{HOUR, MINUTE, append, check, counter, device, gauge, model, network_of},
    model::CheckScope,
    registry::Change,
};

const DEVICES: u32 = 3;
const SPAN: u64 = 5 * HOUR as u64;

/// A network whose devices are suspended, moved and removed at random, with limits and a check.
fn random_scene(rng: &mut Rng) -> Scene {
    let mut power = gauge("power");
    (power.min, power.max, power.max_rate) = (Some(-900), Some(900), Some(3));
    let mut rules = model(vec![power, counter("total")]);
    rules.checks = vec![check("Step", CheckScope::Reading, "previous == null || reading.value != previous.value + 7")];
    let mut registry = network_of(rules);
    for number in 0..DEVICES {
        append(&mut registry, 0, Change::Device(device(number, 1)));
    }
    let mut at = 0;
    for _ in 0..below(rng, 5) {
        at += below(rng, SPAN / 4) as i64;
        let number = below(rng, u64::from(DEVICES)) as u32;
        let relay = 1 + below(rng, 2) as u8;
        let change = match below(rng, 4) {
            0 => Change::DeviceRemoved { id: device(number, 1).id },
            1 => Change::Device(DeviceEntry { suspended: one_in(rng, 2), ..device(number, 1) }),
            _ => Change::Device(device(number, relay)),
        };
        append(&mut registry, at, change);
    }
    scene(registry)
}

/// Strictly ascending readings, some of them absurd.
fn random_readings(rng: &mut Rng, counts: bool) -> Vec<Reading> {
    let mut at = below(rng, SPAN) as i64;
    let mut value = below(rng, 500) as i64;
    (0..1 + below(rng, 12))
        .map(|_| {
            at += 1 + below(rng, 8 * MINUTE as u64) as i64;
            value += below(rng, 40) as i64 - if counts { 2 } else { 20 };
            let absurd = [0, i64::MAX, i64::MIN, 5_000][below(rng, 4) as usize];
            let value = if one_in(rng, 15) { absurd } else { value };
            Reading { at: Timestamp(if one_in(rng, 40) { at + 900 * HOUR } else { at }), value }
        })
        .scan(i64::MIN, |last, mut reading| {
            reading.at = Timestamp(reading.at.0.max(*last + 1));
            *last = reading.at.0;
            Some(reading)
        })
        .collect()
}

fn random_section(rng: &mut Rng, scene: &Scene) -> Section {
    let mut series = Vec::new();
    for (metric, counts) in [("power", false), ("total", true)] {
        if !one_in(rng, 4) {
            series.push(Series { metric: metric.into(), readings: random_readings(rng, counts) });
        }
    }
    if series.is_empty() {
        series.push(Series { metric: "unheard".into(), readings: random_readings(rng, false) });
    }
    let device = device(below(rng, u64::from(DEVICES) + 1) as u32, 1).id;
    Section { device, model: scene.digest, attestation: Attestation::Agent, series }
}

type Kept = HashMap<DeviceId, DeviceStatistics>;

/// Statistics by device, assignment, metric and grain.
type Book = BTreeMap<(DeviceId, u32, String, Timestamp), GrainStatistic>;

fn verdict(scene: &Scene, relay: u8, sections: &[Section], accounts: &Kept) -> Verdict {
    judge(&scene.context(relay), &header(relay, 100 * HOUR), sections, accounts)
}

/// The readings that a verdict leaves, written out the long way.
fn left<'a>(sections: &'a [Section], verdict: &Verdict) -> Vec<(DeviceId, &'a str, Reading)> {
    let mut found = Vec::new();
    for (section, s) in sections.iter().zip(0..) {
        for (series, m) in section.series.iter().zip(0..) {
            for (reading, r) in series.readings.iter().zip(0..) {
                let rejected = verdict.rejections.iter().any(|rejection| {
                    rejection.section == s
                        && rejection.series.is_none_or(|series| series == m)
                        && (rejection.readings.is_empty() || rejection.readings.contains(&r))
                });
                if !rejected {
                    found.push((section.device, series.metric.as_str(), *reading));
                }
            }
        }
    }
    found
}

/// Statistics from nothing but the accepted readings.
fn scan(scene: &Scene, readings: &[(DeviceId, String, Reading)]) -> Book {
    let mut found = BTreeMap::new();
    for (device, metric, reading) in readings {
        let assignment_of = |at| scene.registry.device(device).unwrap().assignment_at(at).unwrap().number;
        let number = assignment_of(reading.at);
        let start = reading.at.floor_to(HOUR);
        let earlier = readings.iter().filter(|(other, name, before)| {
            other == device && name == metric && before.at < reading.at && assignment_of(before.at) == number
        });
        let previous =
            earlier.map(|(_, _, before)| *before).max_by_key(|before| before.at).filter(|_| metric == "total");
        let one = GrainStatistic::of(start, MINUTE, *reading, previous);
        found
            .entry((*device, number, metric.clone(), start))
            .and_modify(|known: &mut GrainStatistic| known.merge(&one).unwrap())
            .or_insert(one);
    }
    found
}

fn kept(accounts: &Kept) -> Book {
    let all = crate::time::Window { start: Timestamp::MIN, end: Timestamp::MAX };
    let flat = accounts.iter().flat_map(|(device, statistics)| {
        statistics
            .within(all)
            .map(|(number, metric, grain)| ((*device, number, metric.to_owned(), grain.start), grain.clone()))
    });
    flat.collect()
}

#[test]
fn trial_statistics_are_what_a_scan_gives_and_a_replay_repeats_them() {
    depin_trials::run("statistics-scan", |rng| {
        let scene = random_scene(rng);
        let mut accounts = Kept::default();
        let mut replayed = Kept::default();
        let mut readings = Vec::new();
        for _ in 0..1 + below(rng, 6) {
            let sections: Vec<_> = (0..1 + below(rng, 4)).map(|_| random_section(rng, &scene)).collect();
            let verdict = verdict(&scene, 1 + below(rng, 2) as u8, &sections, &accounts);
            let counted = left(&sections, &verdict);
            assert_eq!(counted.len() as u64, verdict.accepted);
            let order = |found: &Rejection| (found.section, found.series, found.readings.first().copied());
            assert!(verdict.rejections.is_sorted_by_key(order));
            let before = accounts.clone();
            apply(&scene.registry, &sections, &verdict, &mut accounts).unwrap();
            apply(&scene.registry, &sections, &verdict, &mut replayed).unwrap();
            if verdict.accepted == 0 {
                assert_eq!(kept(&before), kept(&accounts));
            }
            readings.extend(counted.into_iter().map(|(device, metric, reading)| (device, metric.to_owned(), reading)));
            let again = self::verdict(&scene, 1, &sections, &accounts);
            for (device, metric, reading) in left(&sections, &again) {
                assert!(!readings.contains(&(device, metric.to_owned(), reading)), "{metric} {reading:?} counts twice");
            }
        }
        assert_eq!(kept(&accounts), scan(&scene, &readings));
        assert_eq!(kept(&accounts), kept(&replayed));
    });
}

#[test]
fn trial_readings_in_order_are_judged_alike_however_they_are_split_over_proofs() {
    depin_trials::run("judging-splits", |rng| {
        let scene = random_scene(rng);
        let section = random_section(rng, &scene);
        let whole = verdict(&scene, 1, std::slice::from_ref(&section), &Kept::default());
        let mut expected: Vec<_> = left(std::slice::from_ref(&section), &whole);
        let mut found = Vec::new();
        let mut accounts = Kept::default();
        let cut = Timestamp(below(rng, 2 * SPAN) as i64);
        for part in [true, false] {
            let mut piece = section.clone();
            piece.series.iter_mut().for_each(|series| series.readings.retain(|reading| (reading.at < cut) == part));
            piece.series.retain(|series| !series.readings.is_empty());
            let pieces = [piece];
            let verdict = verdict(&scene, 1, &pieces, &accounts);
            apply(&scene.registry, &pieces, &verdict, &mut accounts).unwrap();
            found.extend(
                left(&pieces, &verdict)
                    .into_iter()
                    .map(|(device, metric, reading)| (device, metric.to_owned(), reading)),
            );
        }
        found.sort();
        expected.sort();
        let expected: Vec<_> =
            expected.into_iter().map(|(device, metric, reading)| (device, metric.to_owned(), reading)).collect();
        assert_eq!(found, expected);
    });
}

#[test]
fn trial_rejected_readings_decide_about_no_other() {
    depin_trials::run("judging-spoils-nothing", |rng| {
        let scene = random_scene(rng);
        let section = random_section(rng, &scene);
        let whole = verdict(&scene, 1, std::slice::from_ref(&section), &Kept::default());
        let counted = left(std::slice::from_ref(&section), &whole);
        let mut clean = section.clone();
        for series in &mut clean.series {
            series.readings.retain(|reading| counted.contains(&(section.device, series.metric.as_str(), *reading)));
        }
        clean.series.retain(|series| !series.readings.is_empty());
        let clean = [clean];
        let alone = verdict(&scene, 1, &clean, &Kept::default());
        assert_eq!(left(&clean, &alone), counted);
        assert_eq!(alone.rejections.iter().filter(|found| found.series.is_some()).count(), 0);
    });
}

#[test]
fn trial_devices_do_not_disturb_each_other() {
    depin_trials::run("judging-devices-apart", |rng| {
        let scene = random_scene(rng);
        let mut sections: Vec<_> = (0..6).map(|_| random_section(rng, &scene)).collect();
        // The order of one device's sections is kept, the devices are shuffled among each other.
        let together = verdict(&scene, 1, &sections, &Kept::default());
        let mut accounts = Kept::default();
        apply(&scene.registry, &sections, &together, &mut accounts).unwrap();
        sections.sort_by_key(|section| section.device);
        let mut apart = Kept::default();
        for section in &sections {
            let one = std::slice::from_ref(section);
            let verdict = verdict(&scene, 1, one, &apart);
            apply(&scene.registry, one, &verdict, &mut apart).unwrap();
        }
        assert_eq!(kept(&accounts), kept(&apart));
    });
}
