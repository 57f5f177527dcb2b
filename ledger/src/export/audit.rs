//! The audit export: what was signed about the epoch's devices, with paths and verdicts, for named recipients.
//!
//! One row a section of a device that took part and that has a reading in the epoch, or in one that matured with it, in log order; the header
//! and signature repeat in each row, so that any row proves itself. The manifest begins with the head of every chain that occurs: `previous`
//! of its first header. With the registry of the program's namespace, the marks before each window and the state before the epoch, whoever
//! holds the export repeats everything: statistics, features, limits, amounts, root.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use depin_domain::{
    ids::{AgentId, DeviceId},
    proofs::{Reading, Section, Verdict},
    registry::Change,
    time::{Timestamp, Window},
};
use depin_proto::envelope;
use serde_json::json;

use super::{
    Chunks, Source, json_of, send, send_manifest,
    table::{self, Column},
};
use crate::{
    api::EpochRecord,
    core::from_log,
    error::LedgerError,
    reading::{accepted, touches},
    record::Entry,
};

pub(crate) const FORMAT: &str = "depin.v1.AuditExport";
/// Rows of a file: bounds the memory that an export takes.
const ROWS: usize = 65_536;
const BYTES: usize = 64 << 20;

const SCHEMA: &str = "message section {
    required int64 position;
    required int64 receivedAt;
    required binary header;
    required binary signature;
    required int32 algorithm;
    required int32 index;
    required int32 count;
    required binary device (UTF8);
    required binary section;
    required binary path;
    required binary verdict;
}";

const LINES: &str = "message line {
    required binary device (UTF8);
    required binary line (UTF8);
}";

const REGISTRY: &str = "message record {
    required int64 version;
    required int64 at;
    required binary change (UTF8);
}";

const MARKS: &str = "message mark {
    required int64 number;
    required binary device (UTF8);
    required int32 assignment;
    required binary metric (UTF8);
    required int64 at;
    required int64 value;
}";

/// A window whose statistics the result is made of: the epoch's own, or that of an epoch that matured with it.
#[derive(Debug)]
struct Part {
    number: u64,
    window: Window,
    /// Those that took part.
    devices: BTreeSet<DeviceId>,
    /// By device, assignment and metric the newest accepted reading before the window: where increases begin.
    marks: BTreeMap<(DeviceId, u32, String), Reading>,
}

impl Part {
    fn of(source: &Source, window: &depin_proto::v1::EpochWindow) -> Self {
        let (number, window) = (window.number, Window { start: Timestamp(window.start), end: Timestamp(window.end) });
        let fleets = &source.epoch.closed.fleets;
        let takes_part = |device: &depin_domain::registry::Device| {
            device.for_epoch(window).is_some_and(|entry| fleets.contains(&entry.fleet))
        };
        let devices = source.registry.devices().filter(|(_, device)| takes_part(device)).map(|(id, _)| *id);
        Self { number, window, devices: devices.collect(), marks: BTreeMap::new() }
    }

    fn wants(&self, section: &Section) -> bool {
        self.devices.contains(&section.device) && touches(section, self.window)
    }

    /// Remembers what the section leaves as marks of the time before the window.
    fn mark(&mut self, source: &Source, section: &Section, index: u32, verdict: &Verdict) {
        if !self.devices.contains(&section.device) {
            return;
        }
        let Some(device) = source.registry.device(&section.device) else { return };
        for (metric, reading) in accepted(section, index, verdict) {
            let Some(assignment) = device.assignment_at(reading.at).filter(|_| reading.at < self.window.start) else {
                continue;
            };
            let key = (section.device, assignment.number, metric.to_owned());
            let known = self.marks.entry(key).or_insert(reading);
            if known.at < reading.at {
                *known = reading;
            }
        }
    }
}

#[derive(Debug, Default)]
struct Rows {
    position: Vec<i64>,
    received_at: Vec<i64>,
    header: Vec<Vec<u8>>,
    signature: Vec<Vec<u8>>,
    algorithm: Vec<i32>,
    index: Vec<i32>,
    count: Vec<i32>,
    device: Vec<Vec<u8>>,
    section: Vec<Vec<u8>>,
    path: Vec<Vec<u8>>,
    verdict: Vec<Vec<u8>>,
    bytes: usize,
}

impl Rows {
    fn table(self) -> Result<Vec<u8>, LedgerError> {
        let columns = [
            Column::Int64(self.position),
            Column::Int64(self.received_at),
            Column::Bytes(self.header),
            Column::Bytes(self.signature),
            Column::Int32(self.algorithm),
            Column::Int32(self.index),
            Column::Int32(self.count),
            Column::Bytes(self.device),
            Column::Bytes(self.section),
            Column::Bytes(self.path),
            Column::Bytes(self.verdict),
        ];
        table::write(SCHEMA, &columns)
    }
}

pub(crate) fn write(source: &Source, chunks: &Chunks) -> Result<(), LedgerError> {
    let (result, digest) = source.result()?;
    let close = source.close()?;
    let windows = std::iter::once(source.window()?).chain(&close.matured);
    let mut parts: Vec<Part> = windows.map(|window| Part::of(source, window)).collect();
    let mut files = vec![send_lines(chunks, "lines.parquet", &result.lines)?];
    let chains = send_sections(source, chunks, &mut parts, &mut files)?;
    files.push(send_registry(source, chunks)?);
    files.push(send_marks(chunks, &parts)?);
    for (number, matured) in &source.matured {
        files.push(send_lines(chunks, &format!("lines-{number:010}.parquet"), &matured.lines)?);
    }
    let state = |record: &EpochRecord| json_of("state", &record.state);
    let matured: Vec<_> = close.matured.iter().map(|window| window.number).collect();
    let manifest = json!({
        "format": FORMAT, "files": files, "chains": chains, "summary": json_of("summary", &result.summary)?,
        "state": state(&result)?, "spec": source.spec()?, "resultDigest": digest.to_string(), "matured": matured,
        "previousState": source.previous.as_ref().map(state).transpose()?,
    });
    send_manifest(chunks, &manifest)
}

/// Reads the log once; what arrived after the close does not count for the epoch and is left out.
fn send_sections(
    source: &Source,
    chunks: &Chunks,
    parts: &mut [Part],
    files: &mut Vec<serde_json::Value>,
) -> Result<Vec<serde_json::Value>, LedgerError> {
    let until = source.close()?.position;
    let mut cursor = source.log.read_from(source.log.front()).map_err(from_log)?;
    let (mut rows, mut chains) = (Rows::default(), BTreeMap::new());
    let flush = |rows: &mut Rows, files: &mut Vec<serde_json::Value>| -> Result<(), LedgerError> {
        let (full, count) = (std::mem::take(rows), files.len() - 1);
        let length = full.position.len();
        files.push(send(chunks, &format!("sections-{count:05}.parquet"), length, full.table()?)?);
        Ok(())
    };
    while let Some(record) = cursor.next_record().map_err(from_log)? {
        if record.position >= until {
            break;
        }
        let position = record.position;
        let Entry::Proof(record) = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), position)? else {
            continue;
        };
        let damaged = |what: String| LedgerError::Damaged(format!("record at {position}: {what}"));
        let proof = record.proof.ok_or_else(|| damaged("no proof in it".into()))?;
        let header = envelope::decode_header(&proof.header).map_err(|error| damaged(error.to_string()))?;
        if parts.iter().all(|part| header.window.start >= part.window.end) {
            continue;
        }
        let verdict = envelope::decode_verdict(&record.verdict).map_err(|error| damaged(error.to_string()))?;
        for (bytes, index) in proof.sections.iter().zip(0_u32..) {
            let section = envelope::decode_section(bytes).map_err(|error| damaged(error.to_string()))?;
            parts.iter_mut().for_each(|part| part.mark(source, &section, index, &verdict));
            if !parts.iter().any(|part| part.wants(&section)) {
                continue;
            }
            let path = envelope::section_path(&proof.sections, index).ok_or_else(|| damaged("no path".into()))?;
            chains.entry((header.key, header.incarnation)).or_insert((header.sequence, header.previous));
            rows.position.push(i64::try_from(position).unwrap_or(i64::MAX));
            rows.received_at.push(record.received_at);
            rows.header.push(proof.header.to_vec());
            rows.signature.push(proof.signature.to_vec());
            rows.algorithm.push(i32::try_from(proof.algorithm).unwrap_or(0));
            rows.index.push(i32::try_from(index).unwrap_or(i32::MAX));
            rows.count.push(i32::try_from(proof.sections.len()).unwrap_or(i32::MAX));
            rows.device.push(section.device.to_string().into_bytes());
            rows.section.push(bytes.to_vec());
            rows.path.push(path.siblings.iter().flat_map(|sibling| sibling.0).collect());
            rows.verdict.push(record.verdict.to_vec());
            rows.bytes += bytes.len() + proof.header.len() + record.verdict.len();
        }
        if rows.position.len() >= ROWS || rows.bytes >= BYTES {
            flush(&mut rows, files)?;
        }
    }
    if !rows.position.is_empty() {
        flush(&mut rows, files)?;
    }
    let chain = |((key, incarnation), (sequence, previous)): ((depin_domain::ids::KeyId, u64), _)| {
        let (sequence, previous): (u64, depin_domain::ids::Digest) = (sequence, previous);
        json!({
            "key": key.to_string(), "incarnation": incarnation, "sequence": sequence, "previous": previous.to_string(),
        })
    };
    Ok(chains.into_iter().map(chain).collect())
}

fn send_lines(chunks: &Chunks, name: &str, lines: &[Vec<u8>]) -> Result<serde_json::Value, LedgerError> {
    let device = |line: &Vec<u8>| -> Result<Vec<u8>, LedgerError> {
        let line = json_of("line", line)?;
        Ok(line.get("device").and_then(serde_json::Value::as_str).unwrap_or_default().as_bytes().to_vec())
    };
    let columns = [Column::Bytes(lines.iter().map(device).collect::<Result<_, _>>()?), Column::Bytes(lines.to_vec())];
    send(chunks, name, lines.len(), table::write(LINES, &columns)?)
}

/// What the registry said at the close of the program's namespace, and of models; other namespaces are nobody's business here.
fn send_registry(source: &Source, chunks: &Chunks) -> Result<serde_json::Value, LedgerError> {
    let namespace = source.close()?.program.split('/').next().unwrap_or_default();
    let (mut versions, mut times, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    let mut agents: BTreeSet<AgentId> = BTreeSet::new();
    for (written, version) in source.written.iter().zip(1_i64..) {
        let change: Change = serde_json::from_slice(&written.change)
            .map_err(|error| LedgerError::Damaged(format!("registry version {version}: {error}")))?;
        if concerns(&change, namespace, source, &mut agents) {
            versions.push(version);
            times.push(written.at);
            changes.push(written.change.to_vec());
        }
    }
    let rows = versions.len();
    let columns = [Column::Int64(versions), Column::Int64(times), Column::Bytes(changes)];
    send(chunks, "registry.parquet", rows, table::write(REGISTRY, &columns)?)
}

fn concerns(change: &Change, namespace: &str, source: &Source, agents: &mut BTreeSet<AgentId>) -> bool {
    let inside = |id: &str| id.split('/').next() == Some(namespace);
    match change {
        Change::Model(_) | Change::ModelRetired { .. } => true,
        Change::Fleet(entry) => inside(&entry.id),
        Change::FleetRemoved { id } | Change::ProgramRemoved { id } => inside(id),
        Change::Program(entry) => inside(&entry.id),
        Change::Agent(entry) => {
            if entry.namespace == namespace {
                agents.insert(entry.id);
            }
            entry.namespace == namespace
        }
        Change::AgentRemoved { id } => agents.contains(id),
        Change::Device(entry) => entry.namespace == namespace,
        Change::DeviceRemoved { id } => {
            let newest = source.registry.device(id).and_then(|device| device.newest().cloned());
            newest.is_some_and(|entry| entry.namespace == namespace)
        }
        Change::Invitation(_) | Change::InvitationRemoved { .. } => false,
    }
}

fn send_marks(chunks: &Chunks, parts: &[Part]) -> Result<serde_json::Value, LedgerError> {
    let rows: Vec<_> = parts.iter().flat_map(|part| part.marks.iter().map(|mark| (part.number, mark))).collect();
    let columns = [
        Column::Int64(rows.iter().map(|(number, _)| i64::try_from(*number).unwrap_or(i64::MAX)).collect()),
        Column::Bytes(rows.iter().map(|(_, ((device, ..), _))| device.to_string().into_bytes()).collect()),
        Column::Int32(rows.iter().map(|(_, ((_, number, _), _))| i32::try_from(*number).unwrap_or(i32::MAX)).collect()),
        Column::Bytes(rows.iter().map(|(_, ((.., metric), _))| metric.clone().into_bytes()).collect()),
        Column::Int64(rows.iter().map(|(_, (_, reading))| reading.at.0).collect()),
        Column::Int64(rows.iter().map(|(_, (_, reading))| reading.value).collect()),
    ];
    send(chunks, "marks.parquet", rows.len(), table::write(MARKS, &columns)?)
}
