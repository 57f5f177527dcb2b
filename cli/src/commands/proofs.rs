//! `proofs`: a device's judged proofs; and reading what they hold of one device.

use std::path::Path;

use depin_domain::{
    ids::{DeviceId, PublicKey},
    proofs::{Section, Verdict},
    registry::Registry,
    time::{Timestamp, Window},
};
use depin_proto::{
    convert::verdict_from_proto,
    envelope::decode_section,
    proof_file::{head_line, record_line},
    v1::{ProofRecord, ReadProofsRequest},
};
use serde_json::json;

use crate::{
    args::HeadingsFlag,
    fault::Fault,
    ledger::{Ledger, find_device},
    output::{Report, Table, when},
};

/// Records of one request.
const PAGE: u32 = 1_000;

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) device: &'a str,
    pub(super) limit: u32,
}

pub(super) async fn run(
    ledger: &Ledger,
    namespace: &str,
    wanted: &Wanted<'_>,
    out: Option<&Path>,
    headings: HeadingsFlag,
) -> Result<Report, Fault> {
    let registry = ledger.registry().await?;
    let (id, _, entry) = find_device(&registry, namespace, wanted.device)?;
    let records = read(ledger, &id, wanted.limit).await?;
    if let Some(path) = out {
        write(path, ledger, &registry, &records).await?;
        let text = format!(
            "{} proofs of {}/{} written to {}\nverify them: kubectl depin verify {}",
            records.len(),
            entry.namespace,
            entry.name,
            path.display(),
            path.display()
        );
        return Ok(Report::new(json!({"proofs": records.len(), "file": path}), text));
    }
    let mut table = Table::new(["POSITION", "RECEIVED", "ACCEPTED", "REJECTED", "REASONS"]).headed(headings);
    let mut values = Vec::new();
    for record in &records {
        let count = counted(record, &id, Window { start: Timestamp::MIN, end: Timestamp::MAX })?;
        let reasons = count.reasons();
        table.row([
            record.position.to_string(),
            when(Timestamp(record.received_at)),
            count.accepted.to_string(),
            count.rejected().to_string(),
            reasons.clone(),
        ]);
        values.push(json!({"position": record.position, "receivedAt": record.received_at, "accepted": count.accepted, "rejected": count.rejected(), "reasons": reasons}));
    }
    Ok(Report::new(values.into(), table.or("No proof of this device was judged yet.")))
}

/// The first `limit` judged proofs with readings of a device, its sections only.
async fn read(ledger: &Ledger, device: &DeviceId, limit: u32) -> Result<Vec<ProofRecord>, Fault> {
    let mut records: Vec<ProofRecord> = Vec::new();
    each(ledger, device, Window::default(), u64::from(limit), |record| {
        records.push(record);
        Ok(())
    })
    .await?;
    Ok(records)
}

/// Shows `take` the judged proofs with readings of a device in `window` (both ends 0: all), its sections only, at most `limit` of them. How
/// many there were.
pub(super) async fn each(
    ledger: &Ledger,
    device: &DeviceId,
    window: Window,
    limit: u64,
    mut take: impl FnMut(ProofRecord) -> Result<(), Fault>,
) -> Result<u64, Fault> {
    let (mut count, mut after) = (0, 0);
    while count < limit {
        let request = ReadProofsRequest {
            device_id: device.0.to_vec().into(),
            key_id: Vec::new().into(),
            start: window.start.0,
            end: window.end.0,
            after_position: after,
            limit: u32::try_from(limit - count).unwrap_or(u32::MAX).min(PAGE),
            sections_only: true,
        };
        let (page, scanned_to) = ledger.proofs(request).await?;
        let newest = page.last().map(|record| record.position).max(scanned_to);
        // A request that brings nothing new ends the reading, whatever it holds.
        let Some(newest) = newest.filter(|newest| *newest > after) else { break };
        for record in page {
            if record.position > after {
                count += 1;
                take(record)?;
            }
        }
        after = newest;
    }
    Ok(count)
}

async fn write(path: &Path, ledger: &Ledger, registry: &Registry, records: &[ProofRecord]) -> Result<(), Fault> {
    let mut keys: Vec<PublicKey> = ledger.server_key().await?.into_iter().collect();
    keys.extend(registry.agents().map(|agent| agent.key.clone()));
    let entries = registry.devices().flat_map(|(_, device)| device.states()).filter_map(|state| state.entry.as_ref());
    keys.extend(entries.filter_map(|entry| entry.key.clone()));
    let signed = |key: &PublicKey| {
        records.iter().any(|record| {
            let proof = record.proof.as_ref().is_some_and(|proof| proof.key_id == key.id().0[..]);
            proof || record.receipt.as_ref().is_some_and(|receipt| receipt.gateway_key_id == key.id().0[..])
        })
    };
    keys.retain(signed);
    let mut text = head_line(keys).map_err(|error| Fault::file(path, error))?;
    text.extend(records.iter().map(record_line));
    std::fs::write(path, text).map_err(|error| Fault::file(path, error))
}

/// What a proof holds of one device.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) accepted: u64,
    /// Readings by reason.
    pub(super) by_reason: std::collections::BTreeMap<String, u64>,
}

impl Counted {
    pub(super) fn rejected(&self) -> u64 {
        self.by_reason.values().sum()
    }

    pub(super) fn reasons(&self) -> String {
        self.by_reason.iter().map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        for (reason, count) in other.by_reason {
            *self.by_reason.entry(reason).or_default() += count;
        }
    }
}

/// Counts a device's readings of `window` in a proof by what became of them.
pub(super) fn counted(record: &ProofRecord, device: &DeviceId, window: Window) -> Result<Counted, Fault> {
    let unreadable = |error: &dyn std::fmt::Display| {
        Fault::failed(
            format!("proof at position {}: {error}", record.position),
            "verify the ledger; use a kubectl-depin of its version",
        )
    };
    let verdict = record
        .verdict
        .as_ref()
        .map(verdict_from_proto)
        .transpose()
        .map_err(|error| unreadable(&error))?
        .unwrap_or_default();
    let mut count = Counted::default();
    for (bytes, place) in record.proof.iter().flat_map(|proof| proof.sections.iter().zip(0_u32..)) {
        let section = decode_section(bytes).map_err(|error| unreadable(&error))?;
        // With paths, sections are a selection that the paths number.
        let number = record.paths.get(place as usize).map_or(place, |path| path.section);
        if section.device == *device {
            count.add(count_section(&section, number, &verdict, window));
        }
    }
    Ok(count)
}

fn count_section(section: &Section, number: u32, verdict: &Verdict, window: Window) -> Counted {
    let mut count = Counted::default();
    for (series, series_number) in section.series.iter().zip(0_u32..) {
        for (reading, reading_number) in series.readings.iter().zip(0_u32..) {
            if !window.contains(reading.at) {
                continue;
            }
            match verdict.rejection(number, series_number, reading_number) {
                None => count.accepted += 1,
                Some(rejection) => *count.by_reason.entry(rejection.label()).or_default() += 1,
            }
        }
    }
    count
}
