//! One step of sealing, on the store: taken from the spool, signed, and durable before anyone sends it.

use depin_domain::{ids::KeyId, proofs::ChainHead};
use depin_identity::keys::SigningKey;
use depin_proto::envelope::{EnvelopeError, MAX_DROPS, decode_header, decode_section};

use crate::{
    sealer::{
        Store, StoreError, View,
        assemble::{Assembled, Gathered, Position, ProofLimits, Sealed, assemble},
        chain::{self, Opening},
        journal::Commit,
    },
    spool::Stamp,
};

/// Readings in one seal, about.
const BUDGET: usize = 16_384;

/// A seal failed; nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bytes.
    #[error("sealing: {0}")]
    Envelope(#[from] EnvelopeError),
}

/// What sealing needs to know besides the store.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// Signs.
    pub key: SigningKey,
    /// Ledger incarnation and version of the registry that is applied.
    pub registry: (u64, u64),
    /// Of one proof.
    pub limits: ProofLimits,
    /// How long readings of unapproved devices are kept.
    pub keep_parked_ms: i64,
}

/// What a seal made.
#[derive(Debug, Default)]
pub struct Made {
    /// To be sent, in order.
    pub proofs: Vec<Sealed>,
    /// Readings that had been taken at the same time of the same metric before.
    pub duplicates: u64,
    /// Whether the spool has more that is ripe.
    pub more: bool,
}

impl Sealing {
    fn position(&self, store: &Store, now: &Stamp) -> Position {
        let state = store.state();
        Position {
            key: KeyId(self.key.id().0),
            incarnation: state.incarnation,
            next_sequence: state.next_sequence,
            previous: state.previous,
            registry: self.registry,
            sealed_at: now.wall,
        }
    }

    /// Seals what is ripe.
    pub fn ripe(&self, store: &mut Store, view: &View, now: &Stamp) -> Result<Made, SealError> {
        let collected = store.collect(view, now, BUDGET, self.keep_parked_ms)?;
        let state = store.state();
        if collected.is_empty() && state.drops.is_empty() {
            return Ok(Made::default());
        }
        let more = collected.gathered.len() >= BUDGET;
        let (drops, next_ordinal) = state.header_drops(state.next_ordinal);
        // Drops alone are told too, but a seal that only parks readings makes no proof.
        let Assembled { proofs, next, duplicates } =
            assemble(collected.gathered, &drops, self.position(store, now), &self.limits, &|input| {
                self.key.sign(input)
            })?;
        let commit = Commit {
            incarnation: next.incarnation,
            next_sequence: next.next_sequence,
            previous: next.previous,
            drops_told: !drops.is_empty(),
            next_ordinal,
            ..collected.commit
        };
        store.commit(&proofs, commit, collected.taken)?;
        store.note_foreign(collected.foreign);
        Ok(Made { proofs, duplicates, more })
    }

    /// Decides how the chain goes on after the gateway announced its head, and seals anew what must be.
    pub fn open(
        &self,
        store: &mut Store,
        head: Option<&ChainHead>,
        refused: bool,
        now: &Stamp,
    ) -> Result<Opened, SealError> {
        // A key that took another's place cannot send what the other one signed.
        let newest = store.state().held.back().copied();
        let signed_by = newest.map(|held| store.proof(&held)).transpose()?.map(|proof| proof.key_id);
        let replaced = signed_by.is_some_and(|key| key[..] != self.key.id().0[..]);
        match chain::opening(store.state(), head, refused || replaced) {
            Opening::Resume { send } => {
                let held = send.iter().filter_map(|index| store.state().held.get(*index)).copied().collect();
                Ok(Opened { held, reopened: false })
            }
            Opening::NewIncarnation { incarnation, reseal, why } => {
                tracing::info!(incarnation, reseal = reseal.len(), why, "the chain begins a new incarnation");
                let again: Vec<_> = reseal.iter().filter_map(|index| store.state().held.get(*index)).copied().collect();
                let mut gathered = Gathered::default();
                let mut drops = Vec::new();
                for held in &again {
                    let proof = store.proof(held)?;
                    drops.extend(decode_header(&proof.header)?.drops);
                    for section in proof.sections {
                        gathered.push_section(&decode_section(&section)?);
                    }
                }
                // What those headers told is told again, counted anew in this incarnation.
                for (drop, ordinal) in drops.iter_mut().zip(0..) {
                    drop.ordinal = ordinal;
                }
                drops.truncate(MAX_DROPS);
                let mut position = self.position(store, now);
                position.incarnation = incarnation;
                position.next_sequence = 1;
                position.previous = depin_domain::ids::Digest::default();
                let Assembled { proofs, next, .. } =
                    assemble(gathered, &drops, position, &self.limits, &|input| self.key.sign(input))?;
                let commit = Commit {
                    incarnation,
                    next_sequence: next.next_sequence,
                    previous: next.previous,
                    next_ordinal: u32::try_from(drops.len()).unwrap_or(u32::MAX),
                    replaces: again.iter().map(|held| (held.incarnation, held.sequence)).collect(),
                    ..Commit::default()
                };
                store.commit(&proofs, commit, 0)?;
                let held = store.state().held.iter().filter(|held| held.incarnation == incarnation).copied().collect();
                Ok(Opened { held, reopened: true })
            }
        }
    }
}

/// How the chain goes on.
#[derive(Debug)]
pub struct Opened {
    /// Kept proofs to be sent first.
    pub held: Vec<crate::sealer::journal::Held>,
    /// A new incarnation: it is to be opened at the gateway too.
    pub reopened: bool,
}
