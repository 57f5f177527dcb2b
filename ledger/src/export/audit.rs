//! The audit export: what was signed about the epoch's devices, with paths and verdicts, for named recipients.
//!
//! One row a section of a device that took part and that has a reading in the epoch, in log order; the header and signature repeat in each
//! row, so that any row proves itself. The manifest begins with the head of every chain that occurs: `previous` of its first header.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use depin_domain::{
    ids::DeviceId,
    time::{Timestamp, Window},
};
use depin_proto::envelope;
use serde_json::json;

use super::{
    Chunks, Source, json_of, send, send_manifest,
    table::{self, Column},
};
use crate::{core::from_log, error::LedgerError, reading::touches, record::Entry};

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
    let window = source.window()?;
    let window = Window { start: Timestamp(window.start), end: Timestamp(window.end) };
    let fleets = &source.epoch.closed.fleets;
    let takes_part = |device: &depin_domain::registry::Device| {
        device.for_epoch(window).is_some_and(|entry| fleets.contains(&entry.fleet))
    };
    let devices: BTreeSet<DeviceId> =
        source.registry.devices().filter(|(_, device)| takes_part(device)).map(|(id, _)| *id).collect();
    let mut files = vec![send_lines(chunks, &result.lines)?];
    let chains = send_sections(source, chunks, window, &devices, &mut files)?;
    let manifest = json!({
        "format": FORMAT, "files": files, "chains": chains, "summary": json_of("summary", &result.summary)?,
        "state": json_of("state", &result.state)?, "spec": source.spec()?, "resultDigest": digest.to_string(),
    });
    send_manifest(chunks, &manifest)
}

/// Reads the log once; what arrived after the close does not count for the epoch and is left out.
fn send_sections(
    source: &Source,
    chunks: &Chunks,
    window: Window,
    devices: &BTreeSet<DeviceId>,
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
        if !header.window.overlaps(&window) {
            continue;
        }
        for (bytes, index) in proof.sections.iter().zip(0_u32..) {
            let section = envelope::decode_section(bytes).map_err(|error| damaged(error.to_string()))?;
            if !devices.contains(&section.device) || !touches(&section, window) {
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

fn send_lines(chunks: &Chunks, lines: &[Vec<u8>]) -> Result<serde_json::Value, LedgerError> {
    let device = |line: &Vec<u8>| -> Result<Vec<u8>, LedgerError> {
        let line = json_of("line", line)?;
        Ok(line.get("device").and_then(serde_json::Value::as_str).unwrap_or_default().as_bytes().to_vec())
    };
    let columns = [Column::Bytes(lines.iter().map(device).collect::<Result<_, _>>()?), Column::Bytes(lines.to_vec())];
    send(chunks, "lines.parquet", lines.len(), table::write(LINES, &columns)?)
}
