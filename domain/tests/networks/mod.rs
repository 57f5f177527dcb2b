//! Random programs, devices and whole histories of epochs.

use depin_domain::{
    ids::DeviceId,
    rewards::{
        Account, Amount, DeviceInput, EpochInput, EpochResult, MaturedInput, Place, ProgramSpec, ProgramState, Share,
        Total, close_epoch,
        spec::{Aggregate, Emission, EpochGrid, Feature, Gate, Late, Limit, Recipient, Split, SplitPart, Token},
    },
    time::Timestamp,
};
use depin_trials::{Rng, RngCore as _, below, one_in};

const LENGTH: i64 = 60_000;
const AGGREGATES: [Aggregate; 8] = [
    Aggregate::Sum,
    Aggregate::Delta,
    Aggregate::Mean,
    Aggregate::Min,
    Aggregate::Max,
    Aggregate::Last,
    Aggregate::Count,
    Aggregate::Uptime,
];
const WEIGHTS: [&str; 10] = [
    "a",
    "max(a, 0) + 1",
    "b > 5000 ? max(a, 0) * b / 10000 : 0",
    "min(max(a, 0), 500) * (c > 0 && b > 0 ? 2 : 1)",
    "a * a / (b - 5000)",
    "1000000",
    "a > 0 || c / b > 1 ? 3 : -a",
    "(a % 7 + 7) % 7",
    "a * 0x10000",
    "!(a < b) ? a - b : b - a",
];

fn pick<T: Clone>(rng: &mut Rng, list: &[T]) -> T {
    list[below(rng, list.len() as u64) as usize].clone()
}

pub(crate) fn shuffle<T>(rng: &mut Rng, list: &mut [T]) {
    for at in (1..list.len()).rev() {
        list.swap(at, below(rng, at as u64 + 1) as usize);
    }
}

/// Epochs that follow each other, with late readings for those that mature.
pub(crate) fn history(rng: &mut Rng, epochs: u64) -> Vec<(EpochInput, EpochResult)> {
    let mut spec = program(rng);
    let mut state = ProgramState::default();
    let mut done: Vec<(EpochInput, EpochResult)> = Vec::new();
    let first = below(rng, 3) * 100;
    for number in first..first + epochs {
        if one_in(rng, 4) {
            let epoch = spec.epoch;
            spec = ProgramSpec { epoch, ..program(rng) };
        }
        spec.suspend = one_in(rng, 8);
        let end = spec.epoch.window(number).unwrap().end;
        let matured = state.maturing(end).map(|open| late(rng, &done, open.number)).collect();
        let count = if one_in(rng, 8) { 0 } else { below(rng, 10) };
        let devices = (0..count).map(|device_number| device(rng, &spec, device_number as u8)).collect();
        let input = EpochInput { program: "trial/token".into(), number, spec: spec.clone(), devices, matured, state };
        let result =
            close_epoch(&input).unwrap_or_else(|error| panic!("{error}: {}", serde_json::to_string(&input).unwrap()));
        state = result.state.clone();
        done.push((input, result));
    }
    done
}

/// The epoch again, some of its devices with more, less or first readings.
fn late(rng: &mut Rng, done: &[(EpochInput, EpochResult)], number: u64) -> MaturedInput {
    let (input, result) = done.iter().find(|(input, _)| input.number == number).unwrap();
    let mut devices = input.devices.clone();
    for device in &mut devices {
        if one_in(rng, 2) {
            device.totals = totals(rng);
        }
    }
    MaturedInput { number, spec: input.spec.clone(), devices, lines: result.lines.clone() }
}

fn program(rng: &mut Rng) -> ProgramSpec {
    let feature = |name: &str, metric: &str, aggregate| Feature { name: name.into(), metric: metric.into(), aggregate };
    let amount = Amount(match below(rng, 4) {
        0 => 0,
        1 => u128::from(below(rng, 100)),
        2 => u128::from(below(rng, 1_000_000)) * 1_000_000_000_000_000_000,
        _ => 1 << 100,
    });
    let every_epochs = 1 + below(rng, 120);
    ProgramSpec {
        fleets: vec!["trial/fleet".into()],
        token: Token { symbol: "T".into(), decimals: 18 },
        chain: None,
        epoch: EpochGrid { length_ms: LENGTH, genesis: Timestamp(1_000 * LENGTH) },
        grace_ms: 0,
        emission: match below(rng, 3) {
            0 => Emission::Fixed { amount },
            1 => Emission::Halving { amount, every_epochs },
            _ => Emission::Decay { amount, keep_basis_points: below(rng, 10_000) as u32, every_epochs },
        },
        split: split(rng),
        features: vec![
            feature("a", "m0", pick(rng, &AGGREGATES)),
            feature("b", "m1", Aggregate::Uptime),
            feature("c", pick(rng, &["m0", "m2"]), pick(rng, &AGGREGATES)),
        ],
        gates: gates(rng),
        limits: limits(rng),
        weight: pick(rng, &WEIGHTS).into(),
        late: Late {
            basis_points: pick(rng, &[0, 1, 500, 5_000, 10_000]),
            late_until_ms: below(rng, 4) as i64 * LENGTH,
        },
        hold_epochs: below(rng, 4),
        suspend: false,
    }
}

fn split(rng: &mut Rng) -> Split {
    if one_in(rng, 2) {
        return Split::default();
    }
    let first = below(rng, 10_001) as u32;
    let second = below(rng, u64::from(10_001 - first)) as u32;
    let part = |name: &str, basis_points, to| SplitPart { name: name.into(), basis_points, to };
    Split {
        parts: vec![
            part("devices", first, Recipient::Devices),
            part("operations", second, Recipient::Account(Account([7; 20]))),
            part("burn", 10_000 - first - second, Recipient::Unallocated),
        ],
        residual: pick(rng, &["devices", "operations", "burn"]).into(),
    }
}

fn gates(rng: &mut Rng) -> Vec<Gate> {
    let mut gates = Vec::new();
    if one_in(rng, 3) {
        gates.push(Gate { reason: "LowUptime".into(), feature: "b".into(), minimum: Some(5_000), maximum: None });
    }
    if one_in(rng, 3) {
        gates.push(Gate {
            reason: "OutOfBand".into(),
            feature: "c".into(),
            minimum: Some(-1_000),
            maximum: Some(1_000_000),
        });
    }
    gates
}

fn limits(rng: &mut Rng) -> Vec<Limit> {
    let by = |rng: &mut Rng| pick(rng, &[None, Some("a".to_owned()), Some("c".to_owned())]);
    let mut limits = Vec::new();
    if one_in(rng, 3) {
        limits.push(Limit::HexCapacity { resolution: 8, capacity: 1 + below(rng, 3) as u32, by: by(rng) });
    }
    if one_in(rng, 3) {
        limits.push(Limit::MinimumDistance { metres: 1 + below(rng, 200) as u32, by: by(rng) });
    }
    shuffle(rng, &mut limits);
    limits
}

fn device(rng: &mut Rng, spec: &ProgramSpec, number: u8) -> DeviceInput {
    let unit = [1 << 30, below(rng, 60_000) as i64, below(rng, 10_000) as i64];
    let place = Place { cell: below(rng, 3), unit };
    let shares = match below(rng, 5) {
        0 => vec![],
        1 => vec![
            Share { account: account(rng), basis_points: 3_333 },
            Share { account: account(rng), basis_points: 6_667 },
        ],
        2 => vec![Share { account: account(rng), basis_points: below(rng, 12_000) as u32 }],
        _ => vec![Share { account: account(rng), basis_points: 10_000 }],
    };
    DeviceInput {
        id: DeviceId([number.wrapping_mul(37); 16]),
        since: Timestamp(below(rng, 3) as i64),
        suspended: one_in(rng, 10),
        shares,
        place: (!spec.limits.is_empty() && !one_in(rng, 8)).then_some(place),
        slots: pick(rng, &[0, 1, 60, 60, 60]),
        totals: totals(rng),
    }
}

fn account(rng: &mut Rng) -> Account {
    Account([1 + below(rng, 6) as u8; 20])
}

fn totals(rng: &mut Rng) -> Vec<Total> {
    let mut totals = Vec::new();
    for metric in ["m0", "m1", "m2"] {
        if !one_in(rng, 4) {
            totals.push(total(rng, metric));
        }
    }
    totals
}

fn total(rng: &mut Rng, metric: &str) -> Total {
    let count = 1 + below(rng, 60);
    let last_value = value(rng);
    let (low, high) = (value(rng), value(rng));
    Total {
        metric: metric.into(),
        count,
        sum: i128::from(value(rng)) * i128::from(count),
        min: low.min(high).min(last_value),
        max: high.max(low).max(last_value),
        last_at: Timestamp(below(rng, 1_000) as i64),
        last_value,
        increase: i128::from(value(rng).unsigned_abs()),
        slots: below(rng, count.min(60) + 1),
    }
}

fn value(rng: &mut Rng) -> i64 {
    match below(rng, 20) {
        0 => i64::MAX,
        1 => i64::MIN,
        2 => 0,
        3..=5 => -(below(rng, 10_000) as i64),
        _ => below(rng, 1_000_000) as i64,
    }
}

/// Puts the ends of the ranges everywhere.
#[allow(dead_code)] // only one of the two suites that share this module uses it
pub(crate) fn make_extreme(rng: &mut Rng, input: &mut EpochInput) {
    let extreme = |rng: &mut Rng| pick(rng, &[i128::MIN, i128::MAX, -1, 0, i128::from(i64::MIN)]);
    for device in &mut input.devices {
        device.slots = pick(rng, &[0, 1, u64::MAX]);
        device.since = Timestamp(pick(rng, &[i64::MIN, 0, i64::MAX]));
        for total in &mut device.totals {
            total.count = pick(rng, &[0, 1, u64::MAX]);
            total.sum = extreme(rng);
            total.increase = extreme(rng);
            total.slots = pick(rng, &[0, u64::MAX]);
        }
        for share in &mut device.shares {
            share.basis_points = pick(rng, &[0, 1, 10_000, u32::MAX]);
        }
        if let Some(place) = &mut device.place {
            place.unit = [0; 3].map(|_: i64| pick(rng, &[i64::MIN, i64::MAX, 0, 1 << 30]));
        }
    }
    input.state.carry = Amount(pick(rng, &[0, 1, u128::MAX, u128::MAX / 2]));
    input.spec.late.late_until_ms = pick(rng, &[0, 3_000_000, -1]);
    input.number = pick(rng, &[0, input.number, 1 << 20, u64::MAX]);
    input.spec.hold_epochs = rng.next_u64();
}
