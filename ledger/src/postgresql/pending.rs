//! The journal of one transaction: what is appended waits here until it is written and committed together.

use std::collections::HashMap;

use depin_domain::{
    ids::{Digest, KeyId},
    time::Timestamp,
};
use depin_proto::envelope;

use crate::{
    api::Outcome,
    chains::{Chains, Links},
    core::{Found, Journal},
    error::LedgerError,
    record::{Entry, ProofRecord},
    state::ParsedProof,
};

/// Positions from here on are not known yet: they are counted from the transaction's first record.
pub(super) const PROVISIONAL: u64 = 1 << 62;

/// A proof that waits to be written.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) offset: u64,
    pub(super) key: KeyId,
    pub(super) incarnation: u64,
    pub(super) sequence: u64,
    pub(super) received_at: i64,
    pub(super) record: Vec<u8>,
}

/// What one transaction appends.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Position of the first record; [`PROVISIONAL`] where others append meanwhile.
    base: u64,
    /// How many records there are.
    pub(super) count: u64,
    pub(super) proofs: Vec<Staged>,
    /// Other records, by their place among all. Ticks are no records here: spans of open time are kept as such.
    pub(super) facts: Vec<(u64, Entry)>,
    /// Recorded proofs that may be asked for, by chain, incarnation and sequence; those of this transaction too.
    recorded: HashMap<(KeyId, u64, u64), Found>,
    /// Why what is here must not be committed.
    pub(super) spoiled: Option<String>,
}

impl Pending {
    pub(super) fn new(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    /// Makes a recorded proof known.
    pub(super) fn recall(&mut self, position: u64, record: &ProofRecord) -> Result<(), LedgerError> {
        let ParsedProof { header, digest, verdict, .. } = ParsedProof::of(record, position)?;
        let outcome = Outcome::Judged {
            ledger_incarnation: record.ledger_incarnation,
            position,
            received_at: Timestamp(record.received_at),
            verdict,
            rejected: record.rejected,
            repeated: false,
            archived: false,
        };
        let found = Found { sequence: header.sequence, digest, links: Links::default(), outcome };
        self.recorded.insert((header.key, header.incarnation, header.sequence), found);
        Ok(())
    }

    /// A position as it is once the transaction's first record stands at `base`.
    pub(super) fn settled(position: u64, base: u64) -> u64 {
        if position >= PROVISIONAL { position - PROVISIONAL + base } else { position }
    }

    fn stage(&mut self, record: &ProofRecord) -> Result<(), LedgerError> {
        let header = record.proof.as_ref().map(|proof| &proof.header[..]).unwrap_or_default();
        let header =
            envelope::decode_header(header).map_err(|error| LedgerError::Damaged(format!("a header: {error}")))?;
        self.proofs.push(Staged {
            offset: self.count,
            key: header.key,
            incarnation: header.incarnation,
            sequence: header.sequence,
            received_at: record.received_at,
            record: prost::Message::encode_to_vec(record),
        });
        Ok(())
    }
}

impl Journal for Pending {
    fn append(&mut self, entry: &Entry) -> Result<u64, LedgerError> {
        let position = self.end();
        match entry {
            Entry::Tick(_) => return Ok(position),
            Entry::Proof(record) => self.stage(record)?,
            other => self.facts.push((self.count, other.clone())),
        }
        self.count += 1;
        Ok(position)
    }

    fn end(&self) -> u64 {
        self.base + self.count
    }

    /// What is frozen is committed with what it was made of.
    fn secure(&mut self) -> Result<(), LedgerError> {
        Ok(())
    }

    fn find(&self, chains: &Chains, key: &KeyId, sequence: u64) -> Result<Option<Found>, LedgerError> {
        let incarnation = chains.head(key).map_or(0, |head| head.incarnation);
        Ok(self.recorded.get(&(*key, incarnation, sequence)).cloned())
    }

    fn keep(&mut self, key: KeyId, _position: u64, found: Found) {
        let incarnation = self.proofs.last().map_or(0, |newest| newest.incarnation);
        self.recorded.insert((key, incarnation, found.sequence), found);
    }

    fn spoil(&mut self, why: String) {
        self.spoiled = Some(why);
    }
}

/// A key as the database has it.
pub(super) fn key_of(bytes: &[u8]) -> Result<KeyId, LedgerError> {
    KeyId::from_slice(bytes).ok_or_else(|| LedgerError::Damaged("a key in the database is none".into()))
}

/// A digest as the database has it.
pub(super) fn digest_of(bytes: &[u8]) -> Result<Digest, LedgerError> {
    Digest::from_slice(bytes).ok_or_else(|| LedgerError::Damaged("a digest in the database is none".into()))
}

/// A number as the database has it.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A number for the database; what does not fit is refused before it comes so far.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
