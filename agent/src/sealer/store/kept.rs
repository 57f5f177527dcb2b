//! Sealed proofs and their receipts: kept until they are in a backup, within a limit.

use depin_domain::ids::PublicKey;
use depin_proto::v1::{Receipt, SignedProof};
use prost::Message as _;

use super::{Store, StoreError};
use crate::sealer::journal::{Answer, Entry, Held, RECEIPT, StoredReceipt, kept_at};

/// What the gateway said of a proof that it judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// Of the chain.
    pub incarnation: u64,
    /// Of the proof.
    pub sequence: u64,
    /// In a backup, or none is configured: the proof need not be kept.
    pub archived: bool,
    /// As it was signed.
    pub receipt: Receipt,
    /// The key that signed it.
    pub gateway: PublicKey,
}

impl Store {
    /// A kept proof, as it was sealed.
    pub fn proof(&self, held: &Held) -> Result<SignedProof, StoreError> {
        let unreadable = |what: String| StoreError::Unreadable { position: held.position, what };
        let record = self.journal.reader().read(held.position).map_err(StoreError::Journal)?;
        let record = record.ok_or_else(|| unreadable("it is gone".to_owned()))?;
        SignedProof::decode(record.payload.as_slice()).map_err(|error| unreadable(error.to_string()))
    }

    /// A proof was judged. Not synced: a receipt that is forgotten in a crash is asked for again. As long as the proof is kept, the
    /// receipt is kept beside it.
    pub fn receipt(&mut self, answered: Answered) -> Result<(), StoreError> {
        let Answered { incarnation, sequence, archived, receipt, gateway } = answered;
        if self.state.digest_of(incarnation, sequence).is_none() {
            return Ok(());
        }
        if archived {
            self.note(Entry::Receipt { incarnation, sequence, archived })?;
            return Ok(());
        }
        if !self.state.gateways.contains(&gateway) {
            self.note(Entry::Gateway(gateway))?;
        }
        let stored = StoredReceipt { incarnation, sequence, receipt };
        let bytes = stored.encode();
        let position = self.journaled(|journal| journal.append(RECEIPT, &bytes))?;
        self.state.keep_receipt(&stored, kept_at(position, bytes.len()));
        Ok(())
    }

    /// The receipt of a kept proof, as the gateway signed it. It can be read once it is durable: see [`Store::sync`].
    pub fn receipt_of(&self, held: &Held) -> Result<Option<Receipt>, StoreError> {
        let Some(kept) = held.receipt else { return Ok(None) };
        let unreadable = |what: &str| StoreError::Unreadable { position: kept.position, what: what.to_owned() };
        let record = self.journal.reader().read(kept.position).map_err(StoreError::Journal)?;
        let record = record.ok_or_else(|| unreadable("it is gone"))?;
        let stored = StoredReceipt::read(&record.payload).ok_or_else(|| unreadable("no receipt"))?;
        Ok(Some(stored.receipt))
    }

    /// Everything up to the sequence is in a backup.
    pub fn archived(&mut self, incarnation: u64, sequence: u64) -> Result<(), StoreError> {
        let affected = |held: &Held| {
            held.incarnation == incarnation && held.sequence <= sequence && held.answer == Answer::Receipt
        };
        if self.state.held.iter().any(affected) {
            self.note(Entry::Archived { incarnation, sequence })?;
        }
        Ok(())
    }

    /// Forgets answered proofs beyond the limit, or all of them while the spool is emptied on a full disk, and removes what the journal no
    /// longer needs.
    pub fn tidy(&mut self) -> Result<(), StoreError> {
        let limit = if self.reserve.is_spent() { 0 } else { self.options.retained };
        let mut kept: u64 = self.state.held.iter().map(Held::kept_bytes).sum();
        while kept > limit {
            let answered = self.state.held.iter().find(|held| held.answer == Answer::Receipt).copied();
            let Some(oldest) = answered else { break };
            self.note(Entry::Forgotten { incarnation: oldest.incarnation, sequence: oldest.sequence })?;
            kept = kept.saturating_sub(oldest.kept_bytes());
        }
        let first_kept = self.state.held.iter().map(|held| held.position).min().unwrap_or(self.journal.end());
        if first_kept.min(self.journal.end()) > self.journal.front() + self.options.journal_segment {
            let entry = Entry::Snapshot(Box::new(self.state.clone()));
            let position = self.write(&entry)?;
            self.sync()?;
            self.snapshot = position;
            self.journal.truncate_front(first_kept.min(position)).map_err(StoreError::Journal)?;
        }
        Ok(())
    }
}
