//! What verdicts went by beside the signed sections and the registry: confirmed models, boundaries, and the newest accepted reading before each
//! section. With them whoever holds an export judges again.

use std::collections::BTreeSet;

use depin_domain::{
    ids::{AgentId, DeviceId, Digest},
    proofs::{Section, Verdict},
    registry::{Change, Record, Registry},
    time::Timestamp,
};
use depin_proto::convert;
use serde_json::{Value, json};

use super::{
    Chunks, Source,
    marks::Marks,
    send,
    table::{self, Column},
};
use crate::{
    error::LedgerError,
    record::{Entry, ProofRecord},
    state::State,
};

const CONFIRMATIONS: &str = "message confirmation {
    required int64 position;
    required binary agent (UTF8);
    required binary model (UTF8);
    required int64 at;
}";

const BOUNDARIES: &str = "message boundary {
    required int64 position;
    required binary fleet (UTF8);
    required int64 before;
}";

/// As of a place in the log.
pub(super) struct Judging {
    /// Of these devices.
    devices: BTreeSet<DeviceId>,
    registry: Registry,
    newest: Marks,
    /// Position, agent, model, time.
    confirmations: Vec<(u64, AgentId, Digest, i64)>,
    /// Position, fleet, time.
    boundaries: Vec<(u64, String, i64)>,
    /// Agents that brought what is shown.
    agents: BTreeSet<AgentId>,
}

fn damaged(position: u64, what: impl std::fmt::Display) -> LedgerError {
    LedgerError::Damaged(format!("record at {position}: {what}"))
}

impl Judging {
    /// As of where the log begins: `base` knows what came before.
    pub(super) fn new(base: &State, devices: BTreeSet<DeviceId>) -> Self {
        let newest = Marks::of(&base.accounts, &devices);
        let mut confirmations: Vec<_> = base
            .confirmed
            .iter()
            .flat_map(|(agent, models)| models.iter().map(|(model, at)| (0, *agent, *model, at.0)))
            .collect();
        confirmations.sort_unstable();
        let boundaries = base.late_boundaries.iter().map(|(fleet, before)| (0, fleet.clone(), before.0)).collect();
        let registry = base.registry.clone();
        Self { devices, registry, newest, confirmations, boundaries, agents: BTreeSet::new() }
    }

    /// Goes on over a record.
    pub(super) fn note(&mut self, position: u64, entry: &Entry) -> Result<(), LedgerError> {
        match entry {
            Entry::Registry(record) => {
                let change: Change =
                    serde_json::from_slice(&record.change).map_err(|error| damaged(position, error))?;
                let record = Record { version: record.version, at: Timestamp(record.at), change };
                self.registry.apply(record).map_err(|error| damaged(position, error))?;
            }
            Entry::Confirmation(record) => {
                let agent = convert::agent_id("agent", &record.agent).map_err(|error| damaged(position, error))?;
                for model in &record.models {
                    let model = convert::digest("models", model).map_err(|error| damaged(position, error))?;
                    self.confirmations.push((position, agent, model, record.at));
                }
            }
            Entry::Boundary(record) => {
                let fleets = record.fleets.iter().map(|one| (position, one.fleet.clone(), one.before));
                self.boundaries.extend(fleets);
            }
            _ => {}
        }
        Ok(())
    }

    /// Who brought a proof that is shown.
    pub(super) fn agent(&mut self, position: u64, record: &ProofRecord) -> Result<AgentId, LedgerError> {
        let agent = convert::agent_id("agent", &record.agent).map_err(|error| damaged(position, error))?;
        self.agents.insert(agent);
        Ok(agent)
    }

    /// The newest accepted readings of the section's device and metrics before it: `[assignment, metric, at, value]`.
    pub(super) fn marks(&self, section: &Section) -> Value {
        let shown = |metric: &str| section.series.iter().any(|series| series.metric == metric);
        let marks = self.newest.of_device(section.device).filter(|(_, metric, _)| shown(metric));
        marks.map(|(number, metric, mark)| json!([number, metric, mark.at.0, mark.value])).collect()
    }

    /// Goes on over a section: what counts of it is newer, or is not.
    pub(super) fn mark(&mut self, section: &Section, index: u32, verdict: &Verdict) {
        if !self.devices.contains(&section.device) {
            return;
        }
        let Some(device) = self.registry.device(&section.device) else { return };
        self.newest.go_on(device, section, index, verdict, |_| true);
    }

    /// Sends what was confirmed by the agents that are shown, and the boundaries of the fleets that the devices were in.
    pub(super) fn send(&self, source: &Source, chunks: &Chunks) -> Result<Vec<Value>, LedgerError> {
        let position = |position: &u64| i64::try_from(*position).unwrap_or(i64::MAX);
        let confirmed: Vec<_> =
            self.confirmations.iter().filter(|(_, agent, ..)| self.agents.contains(agent)).collect();
        let confirmations = [
            Column::Int64(confirmed.iter().map(|one| position(&one.0)).collect()),
            Column::Bytes(confirmed.iter().map(|one| one.1.to_string().into_bytes()).collect()),
            Column::Bytes(confirmed.iter().map(|one| one.2.to_string().into_bytes()).collect()),
            Column::Int64(confirmed.iter().map(|one| one.3).collect()),
        ];
        let known = self.devices.iter().filter_map(|device| source.registry.device(device));
        let entries = known.flat_map(|device| device.states()).filter_map(|state| state.entry.as_ref());
        let fleets: BTreeSet<&str> = entries.map(|entry| entry.fleet.as_str()).collect();
        let bounds: Vec<_> = self.boundaries.iter().filter(|(_, fleet, _)| fleets.contains(fleet.as_str())).collect();
        let boundaries = [
            Column::Int64(bounds.iter().map(|one| position(&one.0)).collect()),
            Column::Bytes(bounds.iter().map(|one| one.1.clone().into_bytes()).collect()),
            Column::Int64(bounds.iter().map(|one| one.2).collect()),
        ];
        Ok(vec![
            send(chunks, "confirmations.parquet", confirmed.len(), table::write(CONFIRMATIONS, &confirmations)?)?,
            send(chunks, "boundaries.parquet", bounds.len(), table::write(BOUNDARIES, &boundaries)?)?,
        ])
    }
}
