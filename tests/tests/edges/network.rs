//! The network that every edge happens in: one model of meters, one fleet, one program that pays a thousand for each epoch.

use depin_domain::{
    ids::{AgentId, DeviceId, Digest, PublicKey},
    model::{
        Attestation, Codec, DeviceNaming, Field, Metric, MetricKind, Model, Source, TimestampField, TimestampFormat,
    },
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, Location, ModelEntry, OwnerShare, ProgramEntry},
    rewards::{
        Amount, ProgramSpec,
        spec::{Aggregate, Emission, EpochGrid, Feature, Late, Split, Token},
    },
    time::Timestamp,
};

pub(crate) const SECOND: i64 = 1_000;
pub(crate) const MINUTE: i64 = 60 * SECOND;
pub(crate) const HOUR: i64 = 60 * MINUTE;
/// So many minutes after the genesis.
pub(crate) fn minute(number: i64) -> i64 {
    GENESIS + number * MINUTE
}

pub(crate) const DAY: i64 = 24 * HOUR;
/// 2026-01-01: epoch 0 begins, and everybody was approved an hour before.
pub(crate) const GENESIS: i64 = 1_767_225_600_000;
pub(crate) const PROGRAM: &str = "grid/watts";
pub(crate) const FLEET: &str = "grid/meters";

/// Meters that tell a running total and a level, dated or undated, expected every minute.
pub(crate) fn model(dated: bool) -> Model {
    let field = |name: &str| Field { path: name.to_owned(), metric: name.to_owned(), unit: None };
    let metric = |name: &str, unit: &str, kind| Metric {
        name: name.to_owned(),
        unit: unit.to_owned(),
        kind,
        scale: 0,
        min: Some(-1_000_000),
        max: Some(1_000_000_000),
        max_rate: None,
        personal: false,
    };
    let timestamp = dated.then(|| TimestampField { path: "ts".to_owned(), format: TimestampFormat::UnixMillis });
    Model {
        name: "meter".to_owned(),
        sources: vec![Source {
            topic: "meters/+/state".to_owned(),
            codec: Codec::Json,
            device: DeviceNaming::TopicSegment(1),
            each: None,
            timestamp,
            fields: vec![field("energy"), field("power")],
        }],
        metrics: vec![
            metric("energy", "W.h", MetricKind::Counter { resets_to_zero: false }),
            metric("power", "W", MetricKind::Gauge),
        ],
        cadence_ms: MINUTE,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

pub(crate) fn model_change(model: Model, effective_from: i64) -> Change {
    Change::Model(ModelEntry { digest: model.digest().unwrap(), model, effective_from: Timestamp(effective_from) })
}

pub(crate) fn fleet() -> Change {
    Change::Fleet(FleetEntry { id: FLEET.to_owned(), model: "meter".to_owned(), grain_ms: HOUR })
}

pub(crate) fn agent(name: &str, key: &PublicKey) -> Change {
    Change::Agent(AgentEntry {
        id: AgentId::of("grid", name),
        namespace: "grid".to_owned(),
        name: name.to_owned(),
        key: key.clone(),
        fleets: vec!["meters".to_owned()],
        reinstate_key: false,
    })
}

pub(crate) fn device_id(number: u8) -> DeviceId {
    DeviceId::of("grid", &serial(number))
}

pub(crate) fn serial(number: u8) -> String {
    format!("meter-{number}")
}

/// The account that is paid for a meter.
pub(crate) fn account(number: u8) -> String {
    format!("0x{:040x}", number)
}

/// Meter `number` behind an agent, seen first an hour before the genesis.
pub(crate) fn device(number: u8, agent: &str) -> DeviceEntry {
    DeviceEntry {
        id: device_id(number),
        namespace: "grid".to_owned(),
        name: serial(number),
        fleet: FLEET.to_owned(),
        agent: AgentId::of("grid", agent),
        serial: serial(number),
        key: None,
        hardware_key: false,
        shares: vec![OwnerShare { account: account(number), basis_points: 10_000 }],
        location: None,
        suspended: false,
        since: Timestamp(GENESIS - HOUR),
    }
}

/// A place in a hexagon at resolution 8; the coarser and finer ones do not matter here.
pub(crate) fn location(cell: &str) -> Location {
    Location { latitude_e7: 0, longitude_e7: 0, cells: vec![cell.to_owned(); 16], unit: [1 << 30, 0, 0] }
}

/// Pays 1,000 an epoch by the sum of power; a tenth waits for late readings, two epochs long.
pub(crate) fn program(length_ms: i64) -> ProgramSpec {
    ProgramSpec {
        fleets: vec![FLEET.to_owned()],
        token: Token { symbol: "WATT".to_owned(), decimals: 0 },
        chain: None,
        epoch: EpochGrid { length_ms, genesis: Timestamp(GENESIS) },
        grace_ms: 0,
        emission: Emission::Fixed { amount: Amount(1_000) },
        split: Split::default(),
        features: vec![Feature { name: "work".to_owned(), metric: "power".to_owned(), aggregate: Aggregate::Sum }],
        gates: Vec::new(),
        limits: Vec::new(),
        weight: "work".to_owned(),
        late: Late { basis_points: 1_000, late_until_ms: 2 * length_ms },
        hold_epochs: 2,
        suspend: false,
    }
}

pub(crate) fn program_change(spec: &ProgramSpec) -> Change {
    let text = String::from_utf8(spec.canonical().unwrap()).unwrap();
    let digest = Digest::of(text.as_bytes());
    Change::Program(ProgramEntry { id: PROGRAM.to_owned(), digest, spec: text, from_epoch: 0 })
}
