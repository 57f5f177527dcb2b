//! Facts as of the epoch, statistics in any order, slots counted once.

use super::*;
use crate::{
    fixtures::{HOUR, MINUTE, append, counter, device, fleet, gauge, model, model_entry, network},
    ids::Digest,
    model::{Attestation, Model},
    proofs::{Reading, Section, Series, Verdict, judge},
    registry::{Change, FleetEntry, OwnerShare},
    rewards::{
        Amount, EpochInput, MaturedInput, ProgramSpec, ProgramState, close_epoch, fixtures,
        spec::{Aggregate, EpochGrid, Feature},
    },
    statistics::{DeviceStatistics, Entry},
};

const ACCOUNT: &str = "0x0101010101010101010101010101010101010101";

fn spec() -> ProgramSpec {
    ProgramSpec {
        epoch: EpochGrid { length_ms: 2 * HOUR, genesis: Timestamp(0) },
        features: vec![
            Feature { name: "energy".into(), metric: "energy".into(), aggregate: Aggregate::Delta },
            Feature { name: "uptime".into(), metric: "power".into(), aggregate: Aggregate::Uptime },
        ],
        ..fixtures::spec()
    }
}

fn enter(statistics: &mut DeviceStatistics, assignment: u32, metric: &str, kind: MetricKind, at: i64, value: i64) {
    let entry = Entry { assignment, metric, kind, grain_ms: HOUR, cadence_ms: MINUTE };
    statistics.add(entry, Reading { at: Timestamp(at), value });
}

#[test]
fn facts_are_those_of_the_start_or_of_the_approval() {
    let mut registry = network(vec![counter("energy"), gauge("power")]);
    let owned = |number: u32, account: &str| {
        let shares = vec![OwnerShare { account: account.into(), basis_points: 10_000 }];
        DeviceEntry { shares, ..device(number, 1) }
    };
    append(&mut registry, 0, Change::Device(owned(1, ACCOUNT)));
    append(&mut registry, HOUR, Change::Device(owned(1, "0x0202020202020202020202020202020202020202")));
    let inside = DeviceEntry { since: Timestamp(3 * HOUR), ..device(2, 1) };
    append(&mut registry, 3 * HOUR, Change::Device(inside));
    let first = assemble(&registry, &spec(), 0, []).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!((first[0].shares[0].account.to_string().as_str(), first[0].slots), (ACCOUNT, 120));
    let second = assemble(&registry, &spec(), 1, []).unwrap();
    assert_eq!(second.len(), 2);
    let late = second.iter().find(|input| input.id == DeviceId::of("energy", "meter-2")).unwrap();
    assert_eq!((late.since, late.shares.len()), (Timestamp(3 * HOUR), 0));
}

#[test]
fn a_cadence_that_changes_between_close_and_maturity_changes_no_dues() {
    let mut registry = network(vec![counter("energy"), gauge("power")]);
    append(&mut registry, 0, Change::Device(device(1, 1)));
    let id = DeviceId::of("energy", "meter-1");
    let mut statistics = DeviceStatistics::default();
    for minute in 0..60 {
        enter(&mut statistics, 0, "power", MetricKind::Gauge, minute * MINUTE, 5);
    }
    let rows: Vec<_> = statistics.within(Window { start: Timestamp(0), end: Timestamp(2 * HOUR) }).collect();
    let spec = ProgramSpec { weight: "uptime".into(), gates: vec![], ..spec() };
    let gather = |registry: &Registry, number| {
        assemble(registry, &spec, number, rows.iter().map(|(_, metric, grain)| (&id, *metric, *grain))).unwrap()
    };
    let devices = gather(&registry, 0);
    let input = |number, devices, matured, state| EpochInput {
        program: "energy/watt".into(),
        number,
        spec: spec.clone(),
        devices,
        matured,
        state,
    };
    let first = close_epoch(&input(0, devices.clone(), vec![], ProgramState::default())).unwrap();
    assert_eq!((first.lines[0].weight, first.summary.bucket.is_zero()), (5_000, false));

    // Twice as many slots, said to have been so from the beginning.
    let mut faster = registry.model_chain("meter").unwrap().newest().unwrap().model.clone();
    faster.cadence_ms = MINUTE / 2;
    append(&mut registry, 3 * HOUR, Change::Model(model_entry(faster, 0)));
    assert_eq!(gather(&registry, 0), devices, "its epoch was over");
    assert_eq!(gather(&registry, 2)[0].slots, 2 * devices[0].slots, "and the next ones are counted by it");
    let (mut state, mut number) = (first.state.clone(), 1);
    let matured = loop {
        let due = state.maturing(spec.epoch.window(number).unwrap().end).any(|open| open.number == 0);
        let matured =
            MaturedInput { number: 0, spec: spec.clone(), devices: gather(&registry, 0), lines: first.lines.clone() };
        let mut epoch = input(number, vec![], if due { vec![matured] } else { vec![] }, state);
        epoch.spec.suspend = true;
        let result = close_epoch(&epoch).unwrap();
        if due {
            break result.summary.matured;
        }
        (state, number) = (result.state, number + 1);
    };
    assert_eq!((matured[0].dues, matured[0].corrections), (Amount::ZERO, Amount::ZERO));
}

#[test]
fn statistics_of_two_assignments_are_merged_in_any_order() {
    let mut registry = network(vec![counter("energy"), gauge("power")]);
    append(&mut registry, 0, Change::Device(device(1, 1)));
    append(&mut registry, HOUR / 2 + 30_000, Change::Device(device(1, 2)));
    let id = DeviceId::of("energy", "meter-1");
    let kind = MetricKind::Counter { resets_to_zero: true };
    let mut statistics = DeviceStatistics::default();
    for (assignment, at, value) in
        [(0, 0, 100), (0, MINUTE, 150), (1, 40 * MINUTE, 7), (1, 70 * MINUTE, 9), (1, 71 * MINUTE, 4)]
    {
        enter(&mut statistics, assignment, "energy", kind, at, value);
    }
    for (assignment, at) in [(0, 30 * MINUTE), (1, 30 * MINUTE + 45_000), (1, 61 * MINUTE)] {
        enter(&mut statistics, assignment, "power", MetricKind::Gauge, at, 5);
    }
    enter(&mut statistics, 1, "power", MetricKind::Gauge, 2 * HOUR, 5);
    let mut rows: Vec<_> = statistics.within(Window { start: Timestamp(0), end: Timestamp(3 * HOUR) }).collect();
    let gather = |rows: &[(u32, &str, &GrainStatistic)]| {
        assemble(&registry, &spec(), 0, rows.iter().map(|(_, metric, grain)| (&id, *metric, *grain))).unwrap()
    };
    let devices = gather(&rows);
    rows.reverse();
    let reversed = gather(&rows);
    let program = Program::compile(&spec()).unwrap();
    for devices in [devices, reversed] {
        // 50 before the move, 2 after it, 4 since the reset; slots 30 (twice) and 61 of 120.
        assert_eq!(super::super::features::features(&program, &devices[0]), [Some(56), Some(166)]);
        let power = devices[0].totals.iter().find(|total| total.metric == "power").unwrap();
        assert_eq!((power.count, power.slots), (3, 2));
    }
}

/// What uptime comes to in epoch 0 of a device that is in the fleet of slow meters and from `moved` on in that of fast ones, or, `back`, the other
/// way round, and whose power was read at these times.
fn uptime_across(moved: i64, back: bool, at: impl Iterator<Item = i64>) -> (u64, u64) {
    let mut registry = network(vec![counter("energy"), gauge("power")]);
    let quick = Model { name: "quick".into(), cadence_ms: 1_000, ..model(vec![counter("energy"), gauge("power")]) };
    let digests = [registry.model_chain("meter").unwrap().newest().unwrap().digest, quick.digest().unwrap()];
    append(&mut registry, 0, Change::Model(model_entry(quick, 0)));
    append(&mut registry, 0, Change::Fleet(FleetEntry { id: "energy/quick".into(), model: "quick".into(), ..fleet() }));
    let mut fleets = [("energy/meters", digests[0]), ("energy/quick", digests[1])];
    if back {
        fleets.reverse();
    }
    let entry = |fleet: &str| Change::Device(DeviceEntry { fleet: fleet.into(), ..device(1, 1) });
    append(&mut registry, 0, entry(fleets[0].0));
    append(&mut registry, moved, entry(fleets[1].0));
    let id = DeviceId::of("energy", "meter-1");
    let section = |model: Digest, at: &[i64]| {
        let readings = at.iter().map(|at| Reading { at: Timestamp(*at), value: 5 }).collect();
        let series = vec![Series { metric: "power".into(), readings }];
        Section { device: id, model, attestation: Attestation::Agent, series }
    };
    let (before, after): (Vec<i64>, Vec<i64>) = at.partition(|at| *at < moved);
    let parts = [(fleets[0].1, before), (fleets[1].1, after)];
    let sections: Vec<_> =
        parts.iter().filter(|(_, at)| !at.is_empty()).map(|(model, at)| section(*model, at)).collect();
    let accepted = sections.iter().map(|section| section.series[0].readings.len() as u64).sum();
    let mut accounts = HashMap::new();
    judge::apply(&registry, &sections, &Verdict { accepted, rejections: vec![] }, &mut accounts).unwrap();
    let kept: &DeviceStatistics = &accounts[&id];
    let rows = kept.within(Window { start: Timestamp(0), end: Timestamp(4 * HOUR) });
    let spec = ProgramSpec { epoch: EpochGrid { length_ms: 4 * HOUR, genesis: Timestamp(0) }, ..spec() };
    let spec = ProgramSpec { fleets: fleets.map(|(id, _)| id.into()).to_vec(), ..spec };
    let devices = assemble(&registry, &spec, 0, rows.map(|(_, metric, grain)| (&id, metric, grain))).unwrap();
    let total = devices[0].totals.iter().find(|total| total.metric == "power");
    (total.map_or(0, |total| total.slots), devices[0].slots)
}

#[test]
fn a_device_that_changes_its_fleet_is_measured_in_each_grain_by_the_cadence_of_its_fleet_then() {
    // Four minutes fill 240 slots of a second: no whole epoch of slots of a minute.
    let four_minutes = (3 * HOUR..3 * HOUR + 4 * MINUTE).step_by(1_000);
    assert_eq!(uptime_across(3 * HOUR, false, four_minutes), (240, 3 * 60 + 3_600));
    // A perfect device is perfect in both directions.
    let perfect = |moved: i64, first: usize, then: usize| {
        (0..moved).step_by(first).chain((moved..4 * HOUR).step_by(then)).collect::<Vec<_>>().into_iter()
    };
    let slow_first = uptime_across(HOUR, false, perfect(HOUR, 60_000, 1_000));
    assert_eq!(slow_first, (60 + 3 * 3_600, 60 + 3 * 3_600));
    let fast_first = uptime_across(HOUR, true, perfect(HOUR, 1_000, 60_000));
    assert_eq!(fast_first, (3_600 + 3 * 60, 3_600 + 3 * 60));
    // Within a grain the cadence is that of its start, also where nothing was read before the move.
    let moved = HOUR + 30 * MINUTE;
    assert_eq!(uptime_across(moved, false, perfect(moved, 60_000, 1_000)), (2 * 60 + 2 * 3_600, 2 * 60 + 2 * 3_600));
    assert_eq!(uptime_across(moved, false, (moved..2 * HOUR).step_by(1_000)), (30, 2 * 60 + 2 * 3_600));
}

#[test]
fn slots_of_a_time_without_approval_are_those_of_the_fleet_before() {
    let mut registry = network(vec![counter("energy"), gauge("power")]);
    let quick = Model { name: "quick".into(), cadence_ms: 1_000, ..model(vec![gauge("power")]) };
    append(&mut registry, 0, Change::Model(model_entry(quick, 0)));
    append(&mut registry, 0, Change::Fleet(FleetEntry { id: "energy/quick".into(), model: "quick".into(), ..fleet() }));
    let quick = DeviceEntry { fleet: "energy/quick".into(), since: Timestamp(HOUR), ..device(1, 1) };
    append(&mut registry, HOUR, Change::Device(DeviceEntry { since: Timestamp(HOUR), ..device(1, 1) }));
    append(&mut registry, 2 * HOUR, Change::Device(quick));
    append(&mut registry, 3 * HOUR, Change::DeviceRemoved { id: device(1, 1).id });
    let spec = ProgramSpec { epoch: EpochGrid { length_ms: 5 * HOUR, genesis: Timestamp(0) }, ..spec() };
    let slots = assemble(&registry, &spec, 0, []).unwrap()[0].slots;
    assert_eq!(slots, 60 + 60 + 3 * 3_600, "before the approval as at the approval, after the removal as before it");
}
