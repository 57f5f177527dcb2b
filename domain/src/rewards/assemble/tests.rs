//! Facts as of the epoch, statistics in any order, slots counted once.

use super::*;
use crate::{
    fixtures::{HOUR, MINUTE, append, counter, device, gauge, model_entry, network},
    proofs::Reading,
    registry::{Change, OwnerShare},
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
