//! Recorded proofs read back, without the writer.

use bytes::Bytes;
use depin_domain::{
    proofs::{Reading, Section, Verdict},
    time::{Timestamp, Window},
};
use depin_proto::{convert, envelope};

use crate::{
    api::{ProofFilter, ProofPage, StoredProof},
    error::LedgerError,
    record::{Entry, ProofRecord, Records},
};

const PAGE: usize = 100;
const MAX_PAGE: usize = 10_000;
/// A page is cut at so many bytes, whatever its limit.
const PAGE_BYTES: usize = 32 << 20;

/// Proofs that fit the filter, in log order, from at most about `scan_bytes` of records; those before `archived` lie in a backup.
pub(crate) fn proofs(
    records: &dyn Records,
    filter: &ProofFilter,
    scan_bytes: u64,
    archived: u64,
) -> Result<ProofPage, LedgerError> {
    let limit = if filter.limit == 0 { PAGE } else { filter.limit.min(MAX_PAGE) };
    let (mut page, mut bytes) = (ProofPage::default(), 0);
    let front = records.front();
    // `after` may lie before the front, or be a mark of another ledger: then reading begins at the front.
    let from = if filter.after < front { front } else { filter.after };
    records.read(from, &mut |position, read, entry| {
        if position <= filter.after {
            return Ok(true);
        }
        if let Entry::Proof(record) = entry
            && let Some(proof) = stored(record, position, filter, position < archived)?
        {
            bytes += proof.proof.sections.iter().map(Bytes::len).sum::<usize>();
            page.proofs.push(proof);
        }
        let full = page.proofs.len() >= limit || bytes >= PAGE_BYTES || read >= scan_bytes;
        page.next = full.then_some(position);
        Ok(!full)
    })?;
    Ok(page)
}

fn stored(
    record: ProofRecord,
    position: u64,
    filter: &ProofFilter,
    archived: bool,
) -> Result<Option<StoredProof>, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged(format!("record at position {position}: {what}"));
    let proof = record.proof.ok_or_else(|| damaged("no proof in it".into()))?;
    if filter.key.is_some_and(|key| proof.key_id[..] != key.0[..]) {
        return Ok(None);
    }
    if !filter.window.is_empty() || filter.device.is_some() {
        let header = envelope::decode_header(&proof.header).map_err(|error| damaged(error.to_string()))?;
        if !filter.window.is_empty() && !filter.window.overlaps(&header.window) {
            return Ok(None);
        }
        if filter.device.is_some() {
            let sections = proof.sections.iter().map(|bytes| envelope::decode_section(bytes));
            let sections: Vec<_> = sections.collect::<Result<_, _>>().map_err(|error| damaged(error.to_string()))?;
            if !sections.iter().any(|section| wanted(section, filter)) {
                return Ok(None);
            }
        }
    }
    Ok(Some(StoredProof {
        position,
        ledger_incarnation: record.ledger_incarnation,
        received_at: Timestamp(record.received_at),
        agent: convert::agent_id("agent", &record.agent).map_err(|error| damaged(error.to_string()))?,
        proof,
        verdict: envelope::decode_verdict(&record.verdict).map_err(|error| damaged(error.to_string()))?,
        rejected: record.rejected,
        archived,
    }))
}

fn wanted(section: &Section, filter: &ProofFilter) -> bool {
    filter.device == Some(section.device) && touches(section, filter.window)
}

/// Whether a reading of the section lies in the window, or the window is empty.
pub(crate) fn touches(section: &Section, window: Window) -> bool {
    let mut readings = section.series.iter().flat_map(|series| &series.readings);
    window.is_empty() || readings.any(|reading| window.contains(reading.at))
}

/// The readings of section `index` of a proof that its verdict lets count, with their metric.
pub(crate) fn accepted<'a>(
    section: &'a Section,
    index: u32,
    verdict: &'a Verdict,
) -> impl Iterator<Item = (&'a str, Reading)> {
    let counts = move |series: u32, reading: u32| verdict.rejection(index, series, reading).is_none();
    section.series.iter().zip(0_u32..).flat_map(move |(series, place)| {
        let readings = series.readings.iter().zip(0_u32..).filter(move |(_, number)| counts(place, *number));
        readings.map(|(reading, _)| (series.metric.as_str(), *reading))
    })
}
