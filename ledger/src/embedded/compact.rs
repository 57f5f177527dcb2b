//! Retention: whole segments whose proofs are older than it and whose epochs are settled for good give way to their digests.
//!
//! First the digests are written, then the state before the cut (twice), then segments are removed: a crash in between leaves more than is
//! needed, never less. Frozen statistics and results stay. What goes was durable long ago, so all but the removal is done beside the writer.

use std::sync::Arc;

use bytes::Bytes;
use depin_domain::{ids::Digest, time::Timestamp};
use depin_log::{LogReader, Storage, checkpoint};
use depin_proto::envelope;
use prost::Message as _;

use super::{
    EmbeddedLedger,
    disk::{Core, from_log},
    loading::{BASE, load_base},
};
use crate::{
    error::LedgerError,
    files::{Kind, Writer},
    lateness,
    published::blocking,
    reading::accepted,
    record::{Entry, ProofRecord, TAG, ThinProof},
    snapshot,
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
    /// Removes segments whose proofs all arrived before `before`.
    pub async fn compact(&self, before: Timestamp) -> Result<Compaction, LedgerError> {
        // A backup meanwhile would copy segments that go.
        let _alone = self.upkeep().await;
        let retention = self.call(move |core| core.retention(before)).await?;
        let old_front = retention.reader.front();
        let Some((cut, thinned)) = blocking(move || retention.thin()).await? else {
            return Ok(Compaction { old_front, front: old_front, thinned: 0 });
        };
        let front = self.call(move |core| core.journal.log.truncate_front(cut).map_err(from_log)).await?;
        Ok(Compaction { old_front, front, thinned })
    }
}

/// What may go, as of now; later more may.
struct Retention {
    root: Arc<dyn Storage>,
    reader: LogReader,
    /// Proofs that arrived before.
    before: Timestamp,
    /// Readings before this time count in no epoch any more.
    settled: Timestamp,
    /// Where a backup is configured: only what it holds.
    archived: u64,
}

impl Core {
    fn retention(&mut self, before: Timestamp) -> Result<Retention, LedgerError> {
        self.journal.log.sync().map_err(from_log)?;
        Ok(Retention {
            root: Arc::clone(&self.journal.root),
            reader: self.journal.log.reader(),
            before,
            settled: self.settled(),
            archived: if self.settings.backup_configured { self.state.archived } else { u64::MAX },
        })
    }

    /// Readings before this time count in no epoch any more.
    fn settled(&self) -> Timestamp {
        let programs =
            self.state.registry.programs().filter(|(id, program)| !lateness::is_over(&self.state, id, program));
        let ends = programs.map(|(id, _)| lateness::settled(&self.state, id).unwrap_or(Timestamp(i64::MIN)));
        ends.min().unwrap_or(Timestamp::MAX)
    }
}

impl Retention {
    /// Writes what stays of that which may go. Up to where, and of how many proofs; none: no whole segment may go.
    fn thin(self) -> Result<Option<(u64, u64)>, LedgerError> {
        let base = load_base(&*self.root, self.reader.front())?;
        let cut = self.cut(base.applied)?;
        if cut == base.applied || !self.reader.ends_segment_by(cut) {
            return Ok(None);
        }
        let directory = self.root.directory("thin").map_err(|error| LedgerError::Unavailable(error.to_string()))?;
        let (base, thinned) = thin(&self.reader, base, cut, directory)?;
        let bytes = snapshot::encode(&base);
        // Twice, so that no single damage can take it away.
        for _ in 0..2 {
            checkpoint::write(&*self.root, BASE, TAG, &bytes).map_err(from_log)?;
        }
        Ok(Some((cut, thinned)))
    }

    /// The position up to which everything may go.
    fn cut(&self, from: u64) -> Result<u64, LedgerError> {
        let mut cursor = self.reader.read_from(from).map_err(from_log)?;
        let mut cut = from;
        while let Some(record) = cursor.next_record().map_err(from_log)? {
            let (position, next) = (record.position, record.next);
            if next > self.archived {
                break;
            }
            if let Entry::Proof(proof) = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), position)?
                && !expendable(&proof, position, self.before, self.settled)?
            {
                break;
            }
            cut = next;
        }
        Ok(cut)
    }
}

fn expendable(record: &ProofRecord, position: u64, before: Timestamp, settled: Timestamp) -> Result<bool, LedgerError> {
    let damaged = |what: String| LedgerError::Damaged(format!("record at position {position}: {what}"));
    let proof = record.proof.as_ref().ok_or_else(|| damaged("no proof in it".into()))?;
    let header = envelope::decode_header(&proof.header).map_err(|error| damaged(error.to_string()))?;
    if record.received_at >= before.0 {
        return Ok(false);
    }
    if header.window.end <= settled {
        return Ok(true);
    }
    // Only what counts is needed: a clock that is years ahead, whose readings were rejected, must not keep everything after it.
    let verdict = envelope::decode_verdict(&record.verdict).map_err(|error| damaged(error.to_string()))?;
    for (bytes, index) in proof.sections.iter().zip(0_u32..) {
        let section = envelope::decode_section(bytes).map_err(|error| damaged(error.to_string()))?;
        if accepted(&section, index, &verdict).any(|(_, reading)| reading.at >= settled) {
            return Ok(false);
        }
    }
    Ok(true)
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
