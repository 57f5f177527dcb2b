//! The audit export: what was signed about the epoch's devices, with paths and verdicts, for named recipients.
//!
//! One row a section of a device that took part and that has a reading in the epoch, or in one that matured with it, in log order; the header
//! and signature repeat in each row, so that any row proves itself. The manifest begins with the head of every chain that occurs: `previous`
//! of its first header. With the registry of the program's namespace, the marks before each window and the state before the epoch, whoever
//! holds the export repeats everything: statistics, features, limits, amounts, root.

use std::collections::BTreeSet;

use depin_domain::{
    ids::{AgentId, DeviceId},
    registry::Change,
};
use serde_json::json;

use super::{
    Chunks, Source, json_of,
    sections::{Part, send_marks, send_sections},
    send, send_manifest,
    table::{self, Column},
};
use crate::{api::EpochRecord, error::LedgerError};

pub(crate) const FORMAT: &str = "depin.v1.AuditExport";
const LINES: &str = "message line {
    required binary device (UTF8);
    required binary line (UTF8);
}";

const REGISTRY: &str = "message record {
    required int64 version;
    required int64 at;
    required binary change (UTF8);
}";

pub(crate) fn write(source: &Source, chunks: &Chunks) -> Result<(), LedgerError> {
    let (result, digest) = source.result()?;
    let mut parts = Part::all(source, None)?;
    let mut files = vec![send_lines(chunks, "lines.parquet", &result.lines)?];
    let chains = send_sections(source, chunks, &mut parts, false, &mut files)?;
    files.push(send_registry(source, chunks, None)?);
    files.push(send_marks(chunks, &parts)?);
    for (number, matured) in &source.matured {
        files.push(send_lines(chunks, &format!("lines-{number:010}.parquet"), &matured.lines)?);
    }
    let state = |record: &EpochRecord| json_of("state", &record.state);
    let manifest = json!({
        "format": FORMAT, "files": files, "chains": chains, "summary": json_of("summary", &result.summary)?,
        "state": state(&result)?, "spec": source.spec()?, "resultDigest": digest.to_string(), "matured": source.matured_numbers()?,
        "previousState": source.previous.as_ref().map(state).transpose()?,
    });
    send_manifest(chunks, &manifest)
}

fn send_lines(chunks: &Chunks, name: &str, lines: &[Vec<u8>]) -> Result<serde_json::Value, LedgerError> {
    let device = |line: &Vec<u8>| -> Result<Vec<u8>, LedgerError> {
        let line = json_of("line", line)?;
        Ok(line.get("device").and_then(serde_json::Value::as_str).unwrap_or_default().as_bytes().to_vec())
    };
    let columns = [Column::Bytes(lines.iter().map(device).collect::<Result<_, _>>()?), Column::Bytes(lines.to_vec())];
    send(chunks, name, lines.len(), table::write(LINES, &columns)?)
}

/// What the registry said at the close of the program's namespace, and of models; other namespaces are nobody's business here. With `devices`
/// only of these and of the agents that relay for them.
pub(super) fn send_registry(
    source: &Source,
    chunks: &Chunks,
    devices: Option<&BTreeSet<DeviceId>>,
) -> Result<serde_json::Value, LedgerError> {
    let namespace = source.close()?.program.split('/').next().unwrap_or_default();
    let mut wanted = Wanted { namespace, source, devices, relays: None, agents: BTreeSet::new() };
    wanted.relays = devices.map(|devices| {
        let known = devices.iter().filter_map(|device| source.registry.device(device));
        known.flat_map(|device| device.assignments()).map(|assignment| assignment.agent).collect()
    });
    let (mut versions, mut times, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    for (written, version) in source.written.iter().zip(1_i64..) {
        let change: Change = serde_json::from_slice(&written.change)
            .map_err(|error| LedgerError::Damaged(format!("registry version {version}: {error}")))?;
        if wanted.takes(&change) {
            versions.push(version);
            times.push(written.at);
            changes.push(written.change.to_vec());
        }
    }
    let rows = versions.len();
    let columns = [Column::Int64(versions), Column::Int64(times), Column::Bytes(changes)];
    send(chunks, "registry.parquet", rows, table::write(REGISTRY, &columns)?)
}

/// Which registry records are shown.
struct Wanted<'a> {
    namespace: &'a str,
    source: &'a Source,
    /// Only these devices, if not all.
    devices: Option<&'a BTreeSet<DeviceId>>,
    /// And the agents that relay for them.
    relays: Option<BTreeSet<AgentId>>,
    /// Agents that were shown.
    agents: BTreeSet<AgentId>,
}

impl Wanted<'_> {
    fn takes(&mut self, change: &Change) -> bool {
        let inside = |id: &str| id.split('/').next() == Some(self.namespace);
        let one_of = |device: &DeviceId| self.devices.is_none_or(|devices| devices.contains(device));
        match change {
            Change::Model(_) | Change::ModelRetired { .. } => true,
            Change::Fleet(entry) => inside(&entry.id),
            Change::FleetRemoved { id } | Change::ProgramRemoved { id } => inside(id),
            Change::Program(entry) => inside(&entry.id),
            Change::Agent(entry) => {
                let relays = self.relays.as_ref().is_none_or(|relays| relays.contains(&entry.id));
                let shown = entry.namespace == self.namespace && relays;
                if shown {
                    self.agents.insert(entry.id);
                }
                shown
            }
            Change::AgentRemoved { id } => self.agents.contains(id),
            Change::Device(entry) => entry.namespace == self.namespace && one_of(&entry.id),
            Change::DeviceRemoved { id } => {
                let newest = self.source.registry.device(id).and_then(|device| device.newest());
                newest.is_some_and(|entry| entry.namespace == self.namespace) && one_of(id)
            }
            Change::Invitation(_) | Change::InvitationRemoved { .. } => false,
        }
    }
}
