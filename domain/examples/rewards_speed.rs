//! How long an epoch of many devices takes: features, gates, weights, amounts, digests and the Merkle tree, on one core.
//!
//! `cargo run --release -p depin-domain --example rewards_speed [DEVICES]`; one JSON object, times in milliseconds.

use std::time::Instant;

use depin_domain::{
    ids::DeviceId,
    rewards::{
        Account, Amount, DeviceInput, EpochInput, ProgramSpec, ProgramState, Share, Total, close_epoch,
        merkle::StandardTree,
        spec::{Aggregate, Emission, EpochGrid, Feature, Gate, Late, Split, Token},
    },
    time::Timestamp,
};

const ROUNDS: usize = 5;

fn main() {
    let devices = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000_u32);
    let leaves: Vec<_> =
        (0..devices).map(|number| (account(number), Amount(u128::from(number) * 1_000_000_007 + 1))).collect();
    let tree = median(|| StandardTree::new(&leaves).map(|tree| tree.root()));
    let input = EpochInput {
        program: "bench/token".into(),
        number: 0,
        spec: spec(),
        devices: (0..devices).map(device).collect(),
        matured: vec![],
        state: ProgramState::default(),
    };
    let close = median(|| close_epoch(&input).map(|result| result.summary.root));
    println!("{{\"devices\":{devices},\"rounds\":{ROUNDS},\"merkleTreeMs\":{tree:?},\"closeMs\":{close:?}}}");
}

/// Least, median and greatest.
fn median<T>(mut work: impl FnMut() -> T) -> [u128; 3] {
    let mut times = [0; ROUNDS];
    for time in &mut times {
        let started = Instant::now();
        std::hint::black_box(work());
        *time = started.elapsed().as_millis();
    }
    times.sort_unstable();
    [times[0], times[ROUNDS / 2], times[ROUNDS - 1]]
}

fn account(number: u32) -> Account {
    let mut account = [0; 20];
    account[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    account[16..].copy_from_slice(&number.to_be_bytes());
    Account(account)
}

fn device(number: u32) -> DeviceInput {
    let energy = i64::from(number % 5_000) + 1;
    let total = |metric: &str, value: i64| Total {
        metric: metric.into(),
        count: 1_440,
        sum: i128::from(value) * 1_440,
        min: 0,
        max: value,
        last_at: Timestamp(1),
        last_value: value,
        increase: i128::from(value),
        slots: 1_430,
    };
    DeviceInput {
        id: DeviceId::of("bench", &number.to_string()),
        since: Timestamp(i64::from(number)),
        suspended: false,
        shares: vec![Share { account: account(number), basis_points: 10_000 }],
        place: None,
        slots: 1_440,
        totals: vec![total("energy", energy), total("power", energy)],
    }
}

fn spec() -> ProgramSpec {
    let feature = |name: &str, metric: &str, aggregate| Feature { name: name.into(), metric: metric.into(), aggregate };
    ProgramSpec {
        fleets: vec!["bench/meters".into()],
        token: Token { symbol: "WATT".into(), decimals: 18 },
        chain: None,
        epoch: EpochGrid { length_ms: 86_400_000, genesis: Timestamp(0) },
        grace_ms: 0,
        emission: Emission::Fixed { amount: Amount(1_000_000_000_000_000_000_000_000) },
        split: Split::default(),
        features: vec![feature("energy", "energy", Aggregate::Delta), feature("uptime", "power", Aggregate::Uptime)],
        gates: vec![Gate { reason: "LowUptime".into(), feature: "uptime".into(), minimum: Some(9_500), maximum: None }],
        limits: vec![],
        weight: "min(energy, 4000) * 1000 * uptime / 10000".into(),
        stake: None,
        late: Late::default(),
        hold_epochs: 30,
        suspend: false,
    }
}
