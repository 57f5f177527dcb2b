//! Signed sections of an epoch's devices in log order, with paths, verdicts and what these went by, and the marks before them: what an epoch is
//! repeated from.

use std::collections::{BTreeMap, BTreeSet};

use depin_domain::{
    ids::{DeviceId, Digest, KeyId},
    proofs::{Section, Verdict},
    registry::Device,
    rewards::Account,
    time::{Timestamp, Window},
};
use depin_proto::{envelope, v1::EpochWindow};
use serde_json::{Value, json};

use super::{
    Chunks, Source,
    judging::Judging,
    marks::Marks,
    send,
    table::{self, Column},
};
use crate::{
    error::LedgerError,
    reading::touches,
    record::{Entry, ProofRecord},
};

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
    required binary agent (UTF8);
    required int64 registryVersion;
    required int64 maxSkewMs;
    required binary marks (UTF8);
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
pub(super) struct Part {
    number: u64,
    window: Window,
    /// Those that took part, or of them an owner's.
    pub(super) devices: BTreeSet<DeviceId>,
    /// Before the window: where increases begin.
    marks: Marks,
}

impl Part {
    /// The epoch and those that matured with it, of all devices or of those in which `owner` has a share.
    pub(super) fn all(source: &Source, owner: Option<&Account>) -> Result<Vec<Self>, LedgerError> {
        let windows = std::iter::once(source.window()?).chain(&source.close()?.matured);
        windows.map(|window| Self::of(source, window, owner)).collect()
    }

    fn of(source: &Source, window: &EpochWindow, owner: Option<&Account>) -> Result<Self, LedgerError> {
        let (number, window) = (window.number, Window { start: Timestamp(window.start), end: Timestamp(window.end) });
        let fleets = source.fleets(number)?;
        let owner = owner.map(Account::to_string);
        let takes_part = |device: &Device| {
            device.in_epoch(window, &fleets).is_some_and(|entry| {
                owner.as_ref().is_none_or(|owner| entry.shares.iter().any(|share| share.account == *owner))
            })
        };
        let devices = source.registry.devices().filter(|(_, device)| takes_part(device)).map(|(id, _)| *id);
        let devices = devices.collect();
        // What readings left whose proofs are past their retention.
        let marks = Marks::of(&source.base.accounts, &devices);
        if marks.iter().any(|(.., mark)| mark.at >= window.start) {
            return Err(LedgerError::NotFound(format!(
                "what was signed for epoch {number} (it is past its retention)"
            )));
        }
        Ok(Self { number, window, devices, marks })
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
        self.marks.go_on(device, section, index, verdict, |reading| reading.at < self.window.start);
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
    agent: Vec<Vec<u8>>,
    registry_version: Vec<i64>,
    max_skew_ms: Vec<i64>,
    marks: Vec<Vec<u8>>,
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
            Column::Bytes(self.agent),
            Column::Int64(self.registry_version),
            Column::Int64(self.max_skew_ms),
            Column::Bytes(self.marks),
        ];
        table::write(SCHEMA, &columns)
    }
}

/// One reading of the log for an export.
struct Scan<'a> {
    source: &'a Source,
    chunks: &'a Chunks,
    parts: &'a mut [Part],
    for_owner: bool,
    files: &'a mut Vec<Value>,
    judging: Judging,
    rows: Rows,
    sent: usize,
    /// Where each chain begins.
    chains: BTreeMap<(KeyId, u64), (u64, Digest)>,
}

/// Reads the log once; what arrived after the close does not count for the epoch and is left out. Where each chain begins is the answer.
///
/// A verdict is the whole proof's, or, for an owner, what it says of the row's section: other sections are other people's.
pub(super) fn send_sections(
    source: &Source,
    chunks: &Chunks,
    parts: &mut [Part],
    for_owner: bool,
    files: &mut Vec<Value>,
) -> Result<Vec<Value>, LedgerError> {
    let until = source.close()?.position;
    let judging = Judging::new(&source.base, parts.iter().flat_map(|part| part.devices.iter().copied()).collect());
    let (rows, chains) = (Rows::default(), BTreeMap::new());
    let mut scan = Scan { source, chunks, parts, for_owner, files, judging, rows, sent: 0, chains };
    // What the base knows already is not read again.
    let from = source.base.applied.max(source.records.front());
    source.records.read(from, &mut |position, _, entry| {
        if position >= until {
            return Ok(false);
        }
        scan.judging.note(position, &entry)?;
        if let Entry::Proof(record) = &entry {
            scan.proof(position, record)?;
        }
        Ok(true)
    })?;
    scan.flush()?;
    let files = scan.judging.send(source, chunks)?;
    scan.files.extend(files);
    let chain = |((key, incarnation), (sequence, previous)): ((KeyId, u64), (u64, Digest))| {
        json!({
            "key": key.to_string(), "incarnation": incarnation, "sequence": sequence, "previous": previous.to_string(),
        })
    };
    Ok(scan.chains.into_iter().map(chain).collect())
}

impl Scan<'_> {
    fn proof(&mut self, position: u64, record: &ProofRecord) -> Result<(), LedgerError> {
        let damaged = |what: String| LedgerError::Damaged(format!("record at {position}: {what}"));
        let proof = record.proof.as_ref().ok_or_else(|| damaged("no proof in it".into()))?;
        let header = envelope::decode_header(&proof.header).map_err(|error| damaged(error.to_string()))?;
        let verdict = envelope::decode_verdict(&record.verdict).map_err(|error| damaged(error.to_string()))?;
        for (bytes, index) in proof.sections.iter().zip(0_u32..) {
            let section = envelope::decode_section(bytes).map_err(|error| damaged(error.to_string()))?;
            self.parts.iter_mut().for_each(|part| part.mark(self.source, &section, index, &verdict));
            if self.parts.iter().any(|part| part.wants(&section)) {
                let path = envelope::section_path(&proof.sections, index).ok_or_else(|| damaged("no path".into()))?;
                self.chains.entry((header.key, header.incarnation)).or_insert((header.sequence, header.previous));
                let said = if self.for_owner { of_section(&verdict, index)? } else { record.verdict.to_vec() };
                let rows = &mut self.rows;
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
                rows.bytes += bytes.len() + proof.header.len() + said.len();
                rows.verdict.push(said);
                rows.agent.push(self.judging.agent(position, record)?.to_string().into_bytes());
                rows.registry_version.push(i64::try_from(record.registry_version).unwrap_or(i64::MAX));
                rows.max_skew_ms.push(record.max_skew_ms);
                rows.marks.push(self.judging.marks(&section).to_string().into_bytes());
            }
            self.judging.mark(&section, index, &verdict);
        }
        if self.rows.position.len() >= ROWS || self.rows.bytes >= BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LedgerError> {
        let full = std::mem::take(&mut self.rows);
        let length = full.position.len();
        if length > 0 {
            self.files.push(send(self.chunks, &format!("sections-{:05}.parquet", self.sent), length, full.table()?)?);
            self.sent += 1;
        }
        Ok(())
    }
}

/// What a verdict says of one section.
fn of_section(verdict: &Verdict, section: u32) -> Result<Vec<u8>, LedgerError> {
    let own = verdict.rejections.iter().filter(|rejection| rejection.section == section).cloned();
    envelope::encode_verdict(&Verdict { accepted: verdict.accepted, rejections: own.collect() })
        .map_err(|error| LedgerError::Damaged(format!("a verdict: {error}")))
}

pub(super) fn send_marks(chunks: &Chunks, parts: &[Part]) -> Result<Value, LedgerError> {
    let rows: Vec<_> = parts.iter().flat_map(|part| part.marks.iter().map(|mark| (part.number, mark))).collect();
    let columns = [
        Column::Int64(rows.iter().map(|(number, _)| i64::try_from(*number).unwrap_or(i64::MAX)).collect()),
        Column::Bytes(rows.iter().map(|(_, (device, ..))| device.to_string().into_bytes()).collect()),
        Column::Int32(rows.iter().map(|(_, (_, number, ..))| i32::try_from(*number).unwrap_or(i32::MAX)).collect()),
        Column::Bytes(rows.iter().map(|(_, (_, _, metric, _))| metric.as_bytes().to_vec()).collect()),
        Column::Int64(rows.iter().map(|(_, (.., reading))| reading.at.0).collect()),
        Column::Int64(rows.iter().map(|(_, (.., reading))| reading.value).collect()),
    ];
    send(chunks, "marks.parquet", rows.len(), table::write(MARKS, &columns)?)
}
