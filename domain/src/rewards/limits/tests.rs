//! Ranking, capacity, distance; and the grid against comparing all with all.

use depin_trials::below;

use super::{super::spec::ProgramSpec, distance::Spacing, *};
use crate::{ids::DeviceId, rewards::fixtures, time::Timestamp};

fn device(number: u8, since: i64, place: Option<Place>) -> DeviceInput {
    DeviceInput { since: Timestamp(since), place, ..fixtures::device(DeviceId([number; 16])) }
}

fn program(limits: Vec<Limit>) -> Program {
    Program::compile(&ProgramSpec { limits, ..fixtures::spec() }).unwrap()
}

fn admitted(program: &Program, devices: &[(DeviceInput, Vec<Option<i64>>)]) -> Vec<Option<ZeroReason>> {
    let candidates: Vec<_> = devices.iter().map(|(device, features)| Candidate { device, features }).collect();
    admit(program, &candidates)
}

#[test]
fn a_cell_is_given_by_feature_then_seniority_then_id() {
    let cell = |cell| Some(Place { cell, unit: [0; 3] });
    let program = program(vec![Limit::HexCapacity { resolution: 8, capacity: 2, by: Some("energy".into()) }]);
    let devices = [
        (device(1, 30, cell(7)), vec![Some(5)]),
        (device(2, 20, cell(7)), vec![Some(5)]),
        (device(3, 10, cell(7)), vec![Some(4)]),
        (device(4, 99, cell(7)), vec![Some(9)]),
        (device(5, 99, cell(8)), vec![None]),
        (device(6, 99, None), vec![Some(100)]),
    ];
    let full = Some(ZeroReason::CellFull);
    assert_eq!(admitted(&program, &devices), [full, None, full, None, None, Some(ZeroReason::NoLocation)]);
}

#[test]
fn a_hundred_metres_are_a_hundred_metres() {
    // 1 m is 2^30 / 6,371,009 ≈ 168.54 units of the vector.
    for (offset, expected) in [(16_853, false), (16_854, true)] {
        let mut spacing = Spacing::new(100);
        assert!(spacing.take([1 << 30, 0, 0]));
        assert_eq!(spacing.take([1 << 30, offset, 0]), expected, "{offset}");
    }
}

#[test]
fn the_grid_finds_whoever_is_too_close() {
    depin_trials::run("spacing against all pairs", |rng| {
        let metres = 1 + below(rng, 5_000) as u32;
        let mut spacing = Spacing::new(metres);
        let mut taken: Vec<[i64; 3]> = Vec::new();
        for _ in 0..40 {
            let point = [0; 3].map(|_: i64| below(rng, 2_000_000) as i64 - 1_000_000);
            let far = |other: &[i64; 3]| {
                let square: i128 = (0..3).map(|i| i128::from(point[i] - other[i]).pow(2)).sum();
                square * 6_371_009 * 6_371_009 >= i128::from(metres).pow(2) << 60
            };
            let expected = taken.iter().all(far);
            assert_eq!(spacing.take(point), expected);
            if expected {
                taken.push(point);
            }
        }
    });
}

#[test]
fn extreme_places_do_not_overflow() {
    let mut spacing = Spacing::new(u32::MAX);
    for point in [[i64::MIN; 3], [i64::MAX; 3], [i64::MIN, i64::MAX, 0]] {
        assert!(spacing.take(point));
    }
}

#[test]
fn late_claims_share_the_room_that_was_left() {
    let cell = |cell| Some(Place { cell, unit: [0; 3] });
    let program = program(vec![Limit::HexCapacity { resolution: 8, capacity: 3, by: None }]);
    let standing = [device(1, 0, cell(7)), device(2, 0, cell(9)), device(3, 0, cell(9)), device(4, 0, cell(9))];
    let late = [
        device(5, 0, cell(7)),
        device(6, 0, cell(7)),
        device(7, 0, cell(7)),
        device(8, 0, cell(9)),
        device(9, 0, cell(1)),
        device(10, 0, None),
    ];
    let candidates = |devices: &'static [DeviceInput]| {
        devices.iter().map(|device| Candidate { device, features: &[] }).collect::<Vec<_>>()
    };
    let (standing, late) = (Box::leak(Box::new(standing)), Box::leak(Box::new(late)));
    assert_eq!(
        claims(&program, &candidates(standing), &candidates(late)),
        [Ok((2, 3)), Ok((2, 3)), Ok((2, 3)), Err(ZeroReason::CapacityTaken), Ok((1, 1)), Err(ZeroReason::NoLocation)]
    );
}
