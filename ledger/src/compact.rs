//! Retention: whole segments whose proofs are older than it and whose epochs are settled for good give way to their digests.
//!
//! First the digests are written, then the state before the cut (twice), then segments are removed: a crash in between leaves more than is
//! needed, never less. Frozen statistics and results stay.

use std::sync::Arc;

use bytes::Bytes;
use depin_domain::{ids::Digest, time::Timestamp};
use depin_log::{LogReader, Storage};
use depin_proto::envelope;
use prost::Message as _;

use crate::{
    core::{Core, from_log},
    embedded::EmbeddedLedger,
    error::LedgerError,
    files::{Kind, Writer},
    lateness,
    loading::load_base,
    record::{Entry, ProofRecord, ThinProof},
    state::State,
};

/// What compaction did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Where the log began.
    pub old_front: u64,
    /// Where it begins now.
    pub front: u64,
    /// Proofs of which only digests are left, or whose segment goes next.
    pub thinned: u64,
}

impl EmbeddedLedger {
    /// Removes segments whose proofs all arrived before `before`. The writer waits meanwhile.
    pub async fn compact(&self, before: Timestamp) -> Result<Compaction, LedgerError> {
        self.call(move |core| core.compact(before)).await
    }
}

impl Core {
    pub(crate) fn compact(&mut self, before: Timestamp) -> Result<Compaction, LedgerError> {
        self.log.sync().map_err(from_log)?;
        let old_front = self.log.front();
        let reader = self.log.reader();
        let base = load_base(&*self.root, old_front)?;
        let from = base.applied;
        let cut = self.cut(&reader, from, before)?;
        if cut == from {
            return Ok(Compaction { old_front, front: old_front, thinned: 0 });
        }
        let directory = self.root.directory("thin").map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let (base, thinned) = thin(&reader, base, cut, directory)?;
        self.write_base(&base)?;
        let front = self.log.truncate_front(cut).map_err(from_log)?;
        Ok(Compaction { old_front, front, thinned })
    }

    /// The position up to which everything may go.
    fn cut(&self, reader: &LogReader, from: u64, before: Timestamp) -> Result<u64, LedgerError> {
        let settled = self.settled();
        let mut cursor = reader.read_from(from).map_err(from_log)?;
        let mut cut = from;
        while let Some(record) = cursor.next_record().map_err(from_log)? {
            let (position, next) = (record.position, record.next);
            if self.settings.backup_configured && next > self.state.archived {
                break;
            }
            if let Entry::Proof(proof) = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), position)?
                && !expendable(&proof, position, before, settled)?
            {
                break;
            }
            cut = next;
        }
        Ok(cut)
    }

    /// Readings before this time count in no epoch any more.
    fn settled(&self) -> Timestamp {
        let programs =
            self.state.registry.programs().filter(|(id, program)| !lateness::is_over(&self.state, id, program));
        let ends = programs.map(|(id, _)| lateness::settled(&self.state, id).unwrap_or(Timestamp(i64::MIN)));
        ends.min().unwrap_or(Timestamp::MAX)
    }
}

fn expendable(record: &ProofRecord, position: u64, before: Timestamp, settled: Timestamp) -> Result<bool, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged(format!("record at position {position}: {what}"));
    let proof = record.proof.as_ref().ok_or_else(|| damaged("no proof in it".into()))?;
    let header = envelope::decode_header(&proof.header).map_err(|error| damaged(error.to_string()))?;
    Ok(record.received_at < before.0 && header.window.end <= settled)
}

/// Writes the digests of what goes, and tells the state before the cut.
fn thin(
    reader: &LogReader,
    mut base: State,
    cut: u64,
    directory: Arc<dyn Storage>,
) -> Result<(State, u64), LedgerError> {
    let from = base.applied;
    let mut writer = Writer::create(directory, format!("{from:020}-{cut:020}"), Kind::Thin)?;
    let mut cursor = reader.read_from(from).map_err(from_log)?;
    let mut thinned = 0;
    while cursor.position() < cut {
        let Some(record) = cursor.next_record().map_err(from_log)? else { break };
        let (position, next) = (record.position, record.next);
        let entry = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), position)?;
        if let Entry::Proof(proof) = &entry {
            writer.frame(&thin_proof(proof, position)?.encode_to_vec())?;
            thinned += 1;
        }
        base.apply(position, entry)?;
        base.applied = next;
    }
    writer.finish(0)?;
    Ok((base, thinned))
}

fn thin_proof(record: &ProofRecord, position: u64) -> Result<ThinProof, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged(format!("record at position {position}: {what}"));
    let proof = record.proof.as_ref().ok_or_else(|| damaged("no proof in it".into()))?;
    let header = envelope::decode_header(&proof.header).map_err(|error| damaged(error.to_string()))?;
    let verdict = envelope::decode_verdict(&record.verdict).map_err(|error| damaged(error.to_string()))?;
    let digest = |bytes: &[u8]| Bytes::copy_from_slice(Digest::of(bytes).as_ref());
    Ok(ThinProof {
        position,
        received_at: record.received_at,
        key: Bytes::copy_from_slice(header.key.as_ref()),
        incarnation: header.incarnation,
        sequence: header.sequence,
        digest: digest(&proof.header),
        verdict_digest: digest(&record.verdict),
        accepted: verdict.accepted,
        rejected: record.rejected,
    })
}
