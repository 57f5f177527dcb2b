//! Small programs and devices for tests.

use super::{
    Account, Amount, DeviceInput, EpochInput, ProgramSpec, ProgramState, Share, Total,
    spec::{Aggregate, Emission, EpochGrid, Feature, Gate, Late, Split, Token},
};
use crate::{ids::DeviceId, time::Timestamp};

/// 1,000 units an epoch of ten seconds for energy, by its amount; 10 % are kept for late readings for two epochs.
pub(crate) fn spec() -> ProgramSpec {
    ProgramSpec {
        fleets: vec!["energy/meters".into()],
        token: Token { symbol: "WATT".into(), decimals: 0 },
        chain: None,
        epoch: EpochGrid { length_ms: 10_000, genesis: Timestamp(0) },
        grace_ms: 0,
        emission: Emission::Fixed { amount: Amount(1_000) },
        split: Split::default(),
        features: vec![Feature { name: "energy".into(), metric: "energy".into(), aggregate: Aggregate::Delta }],
        gates: vec![Gate {
            reason: "TooMuch".into(),
            feature: "energy".into(),
            minimum: None,
            maximum: Some(1_000_000),
        }],
        limits: vec![],
        weight: "energy".into(),
        late: Late { basis_points: 1_000, late_until_ms: 20_000 },
        hold_epochs: 2,
        suspend: false,
    }
}

/// A device without readings, place or owner.
pub(crate) fn device(id: DeviceId) -> DeviceInput {
    DeviceInput { id, since: Timestamp(0), suspended: false, shares: vec![], place: None, slots: 10, totals: vec![] }
}

/// Device `number`, which delivered `energy` and belongs to the account of the same number.
pub(crate) fn producer(number: u8, energy: i64) -> DeviceInput {
    let totals = if energy == 0 { vec![] } else { vec![total("energy", energy)] };
    DeviceInput {
        totals,
        shares: vec![Share { account: account(number), basis_points: 10_000 }],
        ..device(DeviceId([number; 16]))
    }
}

pub(crate) fn account(number: u8) -> Account {
    Account([number; 20])
}

pub(crate) fn total(metric: &str, increase: i64) -> Total {
    Total {
        metric: metric.into(),
        count: 10,
        sum: i128::from(increase) * 10,
        min: 0,
        max: increase,
        last_at: Timestamp(1),
        last_value: increase,
        increase: i128::from(increase),
        slots: 5,
    }
}

pub(crate) fn epoch(number: u64, devices: Vec<DeviceInput>, state: ProgramState) -> EpochInput {
    EpochInput { program: "energy/watt".into(), number, spec: spec(), devices, matured: vec![], state }
}
