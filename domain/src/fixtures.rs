//! A small network for tests: one model, one fleet, agents and devices by number.

use crate::{
    ids::{AgentId, Algorithm, DeviceId, PublicKey},
    model::{Attestation, Check, CheckScope, Metric, MetricKind, Model},
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, ModelEntry, Record, Registry},
    time::Timestamp,
};

pub(crate) const HOUR: i64 = 3_600_000;
pub(crate) const MINUTE: i64 = 60_000;

pub(crate) fn key(number: u8) -> PublicKey {
    PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![number; 32] }
}

pub(crate) fn metric(name: &str, kind: MetricKind) -> Metric {
    Metric {
        name: name.into(),
        unit: "kW.h".into(),
        kind,
        scale: 3,
        min: None,
        max: None,
        max_rate: None,
        personal: false,
    }
}

pub(crate) fn gauge(name: &str) -> Metric {
    metric(name, MetricKind::Gauge)
}

pub(crate) fn counter(name: &str) -> Metric {
    metric(name, MetricKind::Counter { resets_to_zero: true })
}

pub(crate) fn model(metrics: Vec<Metric>) -> Model {
    Model {
        name: "meter".into(),
        sources: Vec::new(),
        metrics,
        cadence_ms: MINUTE,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

pub(crate) fn check(reason: &str, scope: CheckScope, expression: &str) -> Check {
    Check { reason: reason.into(), scope, expression: expression.into() }
}

pub(crate) fn model_entry(model: Model, effective_from: i64) -> ModelEntry {
    ModelEntry { digest: model.digest().unwrap(), model, effective_from: Timestamp(effective_from) }
}

pub(crate) fn fleet() -> FleetEntry {
    FleetEntry { id: "energy/meters".into(), model: "meter".into(), grain_ms: HOUR }
}

pub(crate) fn agent(number: u8) -> AgentEntry {
    let name = format!("agent-{number}");
    AgentEntry {
        id: AgentId::of("energy", &name),
        namespace: "energy".into(),
        name,
        key: key(number),
        fleets: vec!["meters".into()],
        reinstate_key: false,
    }
}

pub(crate) fn device(number: u32, relay: u8) -> DeviceEntry {
    let name = format!("meter-{number}");
    DeviceEntry {
        id: DeviceId::of("energy", &name),
        namespace: "energy".into(),
        name,
        fleet: "energy/meters".into(),
        agent: agent(relay).id,
        serial: format!("SN{number}"),
        key: None,
        hardware_key: false,
        shares: Vec::new(),
        location: None,
        suspended: false,
        since: Timestamp(0),
    }
}

/// Appends at `at`, which must be allowed.
pub(crate) fn append(registry: &mut Registry, at: i64, change: Change) {
    registry.check(&change).unwrap();
    registry.apply(Record { version: registry.version() + 1, at: Timestamp(at), change }).unwrap();
}

/// One model with these metrics, one fleet, agents 1 and 2.
pub(crate) fn network(metrics: Vec<Metric>) -> Registry {
    network_of(model(metrics))
}

pub(crate) fn network_of(model: Model) -> Registry {
    let mut registry = Registry::default();
    append(&mut registry, 0, Change::Model(model_entry(model, 0)));
    append(&mut registry, 0, Change::Fleet(fleet()));
    append(&mut registry, 0, Change::Agent(agent(1)));
    append(&mut registry, 0, Change::Agent(agent(2)));
    registry
}
