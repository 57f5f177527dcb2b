//! One step of sealing, on the store: taken from the spool, signed, and durable before anyone sends it.

use depin_domain::{
    ids::{Digest, KeyId},
    proofs::ChainHead,
};
use depin_identity::keys::SigningKey;
use depin_proto::envelope::{EnvelopeError, decode_header, decode_section};

use crate::{
    sealer::{
        Store, StoreError, Taken, View,
        assemble::{Assembled, Gathered, Position, ProofLimits, Sealed, assemble},
        chain::{self, Opening},
        journal::{Commit, Held, PendingDrop, add_drop, header_drops},
    },
    spool::Stamp,
};

/// Readings in one seal, about: what is in memory at once, and in one write.
pub const BUDGET: usize = 16_384;

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
    /// Readings in one seal, about.
    pub budget: usize,
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
        let collected = store.collect(view, now, self.budget, self.keep_parked_ms)?;
        let state = store.state();
        if collected.is_empty() && state.drops.is_empty() {
            return Ok(Made::default());
        }
        let more = collected.gathered.len() >= self.budget;
        let (drops, next_ordinal) = header_drops(&state.drops, state.next_ordinal);
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
        let current = store.state().incarnation;
        let newest = store.state().held.iter().rev().find(|held| held.incarnation == current).copied();
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
                self.reseal(store, incarnation, &again, now)?;
                let held = store.state().held.iter().filter(|held| held.incarnation == incarnation).copied().collect();
                Ok(Opened { held, reopened: true })
            }
        }
    }

    /// Begins an incarnation and seals these kept proofs anew, in parts, each a write of its own: neither memory nor a write grows with what is
    /// kept. Nothing is sent before all is done. A crash between two parts leaves the later proofs in the incarnation before, still unanswered, so
    /// the next opening begins another incarnation with everything, in the same order.
    fn reseal(&self, store: &mut Store, incarnation: u64, again: &[Held], now: &Stamp) -> Result<(), SealError> {
        let mut rest = again;
        loop {
            let (part, left) = rest.split_at(self.part(rest));
            self.reseal_part(store, incarnation, part, now)?;
            rest = left;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// How many of these make one part: as many as have no more readings than the budget together, at least one.
    fn part(&self, rest: &[Held]) -> usize {
        let mut readings = 0_u64;
        let within = rest.iter().take_while(|held| {
            // One that only tells drops is not free either.
            readings = readings.saturating_add(held.readings.max(1));
            readings <= self.budget as u64
        });
        within.count().max(1).min(rest.len())
    }

    fn reseal_part(&self, store: &mut Store, incarnation: u64, part: &[Held], now: &Stamp) -> Result<(), SealError> {
        let mut gathered = Gathered::default();
        let mut told = Vec::new();
        for held in part {
            let proof = store.proof(held)?;
            for drop in &decode_header(&proof.header)?.drops {
                add_drop(&mut told, PendingDrop::told(drop));
            }
            for section in proof.sections {
                gathered.push_section(&decode_section(&section)?);
            }
        }
        let mut position = self.position(store, now);
        let mut ordinal = store.state().next_ordinal;
        if position.incarnation != incarnation {
            (position.incarnation, position.next_sequence, position.previous) = (incarnation, 1, Digest::default());
            ordinal = 0;
        }
        // What those headers told is told again, counted anew in this incarnation.
        let (drops, next_ordinal) = header_drops(&told, ordinal);
        let Assembled { proofs, next, .. } =
            assemble(gathered, &drops, position, &self.limits, &|input| self.key.sign(input))?;
        let commit = Commit {
            incarnation,
            next_sequence: next.next_sequence,
            previous: next.previous,
            next_ordinal,
            replaces: part.iter().map(|held| (held.incarnation, held.sequence)).collect(),
            ..Commit::default()
        };
        store.commit(&proofs, commit, Taken::default())?;
        Ok(())
    }
}

/// How the chain goes on.
#[derive(Debug)]
pub struct Opened {
    /// Kept proofs to be sent first.
    pub held: Vec<Held>,
    /// A new incarnation: it is to be opened at the gateway too.
    pub reopened: bool,
}
