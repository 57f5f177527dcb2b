//! The reward engine alone: an epoch's features, gates, weights, amounts and digests over given statistics, and the Merkle tree.

use std::{hint::black_box, time::Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use depin_domain::{
    ids::DeviceId,
    rewards::{
        Account, Amount, DeviceInput, EpochInput, ProgramSpec, ProgramState, Share, Total, close_epoch,
        merkle::StandardTree,
        spec::{Aggregate, Emission, EpochGrid, Feature, Gate, Late, Split, Token},
    },
    time::Timestamp,
};
use serde_json::json;

use crate::processes::{cpu_seconds, peak_megabytes, reset_peak};

/// What is computed.
#[derive(Args)]
pub(crate) struct Options {
    /// Devices, each with an owner of its own
    #[arg(long, default_value_t = 1_000_000)]
    devices: u32,
}

/// One tree and one close.
pub(crate) fn run(options: &Options) -> Result<()> {
    let leaves: Vec<_> =
        (0..options.devices).map(|number| (account(number), Amount(u128::from(number) * 1_000_000_007 + 1))).collect();
    let (begun, before) = (Instant::now(), cpu_seconds("self")?);
    let tree = StandardTree::new(&leaves).context("no leaves")?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"case": "merkle", "leaves": options.devices, "seconds": seconds, "cpuSeconds": cpu_seconds("self")? - before,
               "peakMb": peak_megabytes("self")?})
    );
    drop((tree, leaves));
    let input = EpochInput {
        program: "site/watt".into(),
        number: 0,
        spec: spec(Timestamp(0), 24 * 3_600_000),
        devices: (0..options.devices).map(device).collect(),
        matured: Vec::new(),
        state: ProgramState::default(),
    };
    reset_peak()?;
    let (begun, before) = (Instant::now(), cpu_seconds("self")?);
    let result = black_box(close_epoch(&input)?);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        json!({"case": "close", "how": "engine", "devices": result.summary.devices.total, "seconds": seconds,
               "cpuSeconds": cpu_seconds("self")? - before, "peakMb": peak_megabytes("self")?})
    );
    Ok(())
}

/// An owner of his own for every device.
pub(crate) fn account(number: u32) -> Account {
    let mut account = [0; 20];
    account[..4].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
    account[16..].copy_from_slice(&number.to_be_bytes());
    Account(account)
}

fn device(number: u32) -> DeviceInput {
    let power = i64::from(number % 5_000) + 1;
    DeviceInput {
        id: DeviceId::of("site", &number.to_string()),
        since: Timestamp(i64::from(number)),
        suspended: false,
        shares: vec![Share { account: account(number), basis_points: 10_000 }],
        place: None,
        slots: 1_440,
        totals: vec![Total {
            metric: "power".into(),
            count: 1_440,
            sum: i128::from(power) * 1_440,
            min: 0,
            max: power,
            last_at: Timestamp(1),
            last_value: power,
            increase: 0,
            slots: 1_430,
        }],
    }
}

/// Mean power times uptime, with a gate.
pub(crate) fn spec(genesis: Timestamp, length_ms: i64) -> ProgramSpec {
    let feature = |name: &str, aggregate| Feature { name: name.into(), metric: "power".into(), aggregate };
    ProgramSpec {
        fleets: vec!["site/meters".into()],
        token: Token { symbol: "WATT".into(), decimals: 18 },
        chain: None,
        epoch: EpochGrid { length_ms, genesis },
        grace_ms: 0,
        emission: Emission::Fixed { amount: Amount(1_000_000_000_000_000_000_000_000) },
        split: Split::default(),
        features: vec![feature("mean", Aggregate::Mean), feature("uptime", Aggregate::Uptime)],
        gates: vec![Gate { reason: "Silent".into(), feature: "uptime".into(), minimum: Some(1), maximum: None }],
        limits: vec![],
        weight: "min(mean, 4000) * 1000 * uptime / 10000".into(),
        late: Late::default(),
        hold_epochs: 30,
        suspend: false,
    }
}
