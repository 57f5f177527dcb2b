//! What the journal's records mean: a state folded from them, the same after every crash.
//!
//! A proof stands in the journal before the commit that makes it part of the chain; a proof without its commit never was. Commits carry the
//! spool positions up to which each model's readings are taken, so a reading is in the spool or in a proof, never in both.

use std::collections::{BTreeMap, VecDeque};

use depin_domain::{
    ids::{Digest, PublicKey},
    proofs::{Drop, DropReason},
    time::Timestamp,
};
use depin_proto::v1::Receipt;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use super::clock::REMEMBERED_BOOTS;

/// Record kind of a sealed proof (protobuf `SignedProof`).
pub const PROOF: u8 = 1;
/// Record kind of an [`Entry`] as JSON.
pub const ENTRY: u8 = 2;
/// Record kind of a [`StoredReceipt`]. Journals of before it was kept have [`Entry::Receipt`] in its place.
pub const RECEIPT: u8 = 3;
/// Keys of gateways that are remembered.
const REMEMBERED_GATEWAYS: usize = 16;

/// Whether a kept proof was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// No receipt yet.
    #[default]
    None,
    /// A receipt: durable, not yet in a backup.
    Receipt,
}

/// A sealed proof that is kept in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Of its chain.
    pub incarnation: u64,
    /// In that incarnation.
    pub sequence: u64,
    /// SHA-256 of its header.
    pub digest: Digest,
    /// Where it stands in the journal.
    pub position: u64,
    /// Its size there.
    pub bytes: u64,
    /// How many readings it has.
    pub readings: u64,
    /// Whether it was answered.
    pub answer: Answer,
    /// Where its receipt stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<KeptReceipt>,
}

impl Held {
    /// Its bytes and its receipt's.
    #[must_use]
    pub fn kept_bytes(&self) -> u64 {
        self.bytes + self.receipt.map_or(0, |receipt| receipt.bytes)
    }
}

/// Where a receipt stands in the journal: always behind its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReceipt {
    /// Of its record.
    pub position: u64,
    /// Its size there.
    pub bytes: u64,
}

/// See [`KeptReceipt`].
#[must_use]
pub fn kept_at(position: u64, bytes: usize) -> KeptReceipt {
    KeptReceipt { position, bytes: bytes as u64 }
}

/// A receipt as it stands in the journal: incarnation and sequence, 8 bytes each, little-endian, then the receipt in protobuf. The proof is
/// durable, and not yet in a backup.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredReceipt {
    /// Of the chain.
    pub incarnation: u64,
    /// Of the proof.
    pub sequence: u64,
    /// As the gateway signed it.
    pub receipt: Receipt,
}

impl StoredReceipt {
    /// The record's payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&self.incarnation.to_le_bytes()[..], &self.sequence.to_le_bytes(), &self.receipt.encode_to_vec()].concat()
    }

    /// Reads it back.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (incarnation, rest) = payload.split_first_chunk()?;
        let (sequence, receipt) = rest.split_first_chunk()?;
        let receipt = Receipt::decode(receipt).ok()?;
        Some(Self { incarnation: u64::from_le_bytes(*incarnation), sequence: u64::from_le_bytes(*sequence), receipt })
    }
}

/// Readings given up that no header has told of yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingDrop {
    /// Code of [`DropReason`].
    pub reason: u8,
    /// How many.
    pub count: u64,
    /// The earliest one's time.
    pub first: Timestamp,
    /// The latest one's time.
    pub last: Timestamp,
}

impl PendingDrop {
    /// One reading given up.
    #[must_use]
    pub fn one(reason: DropReason, at: Timestamp) -> Self {
        Self { reason: reason as u8, count: 1, first: at, last: at }
    }

    /// What a header told.
    #[must_use]
    pub fn told(drop: &Drop) -> Self {
        Self { reason: drop.reason as u8, count: drop.count, first: drop.first, last: drop.last }
    }

    /// Joins what was given up for the same reason.
    pub fn join(&mut self, other: &Self) {
        self.count += other.count;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Adds to a list with at most one entry a reason.
pub fn add_drop(drops: &mut Vec<PendingDrop>, drop: PendingDrop) {
    match drops.iter_mut().find(|known| known.reason == drop.reason) {
        Some(known) => known.join(&drop),
        None => drops.push(drop),
    }
}

/// What was given up since the start, for the metrics and the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GivenUp {
    counts: [u64; 4],
}

impl GivenUp {
    /// Adds what a durable record tells.
    pub fn note(&mut self, drops: &[PendingDrop]) {
        for drop in drops {
            if let Some(count) = self.counts.get_mut(usize::from(drop.reason)) {
                *count += drop.count;
            }
        }
    }

    /// Each reason with its count.
    pub fn by_reason(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.counts)
    }
}

/// A reading of a device that is not approved yet: taken from the spool, kept in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parked {
    /// Of the device.
    pub serial: String,
    /// By which it was decoded.
    pub model: Digest,
    /// The metric's name.
    pub metric: String,
    /// Its time, already corrected.
    pub at: Timestamp,
    /// At the metric's scale.
    pub value: i64,
    /// When it was parked.
    pub since: Timestamp,
    /// When it came, already corrected; absent where nothing tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Timestamp>,
}

impl Parked {
    /// When it came, as far as that is known; it was parked later.
    #[must_use]
    pub fn received(&self) -> Timestamp {
        self.received.unwrap_or(self.since)
    }
}

/// One seal: the proofs before it in the journal are in the chain from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// The chain's incarnation.
    pub incarnation: u64,
    /// After these proofs.
    pub next_sequence: u64,
    /// Digest of the last header.
    pub previous: Digest,
    /// Up to where readings of the models in this seal are taken from the spool, where that is beyond `front`.
    pub cursors: BTreeMap<Digest, u64>,
    /// Everything before is taken, of every model.
    #[serde(default)]
    pub front: u64,
    /// Whether the pending drops are told in these proofs.
    pub drops_told: bool,
    /// Drop records of this incarnation so far.
    pub next_ordinal: u32,
    /// Readings of unapproved devices, taken from the spool.
    pub park: Vec<Parked>,
    /// Serials whose parked readings are in these proofs, or given up.
    pub unpark: Vec<String>,
    /// Readings given up in this seal (not told in these proofs).
    pub drops: Vec<PendingDrop>,
    /// Kept proofs that these replace: incarnation and sequence.
    pub replaces: Vec<(u64, u64)>,
    /// Digests of the proofs that this commits, in order. Others that stand before it belong to a seal that a crash cut short.
    pub proofs: Vec<Digest>,
}

/// A record of the journal that is not a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// Proofs became part of the chain.
    Commit(Box<Commit>),
    /// A proof was judged. With `archived` it need not be kept; without, its receipt is not kept either.
    Receipt {
        /// Of the chain.
        incarnation: u64,
        /// Of the proof.
        sequence: u64,
        /// In a backup, or none is configured.
        archived: bool,
    },
    /// Everything of the incarnation up to the sequence is in a backup.
    Archived {
        /// Of the chain.
        incarnation: u64,
        /// The last one.
        sequence: u64,
    },
    /// A proof is no longer kept, to make room: it has its receipt.
    Forgotten {
        /// Of the chain.
        incarnation: u64,
        /// Of the proof.
        sequence: u64,
    },
    /// Readings were given up; the spool begins at `front` from here on.
    Dropped {
        /// What.
        drops: Vec<PendingDrop>,
        /// The spool's new begin.
        front: u64,
    },
    /// The agent's clock agreed with the gateway's in this boot.
    Clock {
        /// Which boot.
        boot: u64,
        /// Wall clock minus uptime.
        offset: i64,
    },
    /// The key of a gateway whose receipts are kept.
    Gateway(PublicKey),
    /// Everything before, so that it can be removed.
    Snapshot(Box<State>),
}

/// What the journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// 0: no chain yet.
    pub incarnation: u64,
    /// Next sequence to seal; at least 1 in a chain.
    pub next_sequence: u64,
    /// Digest of the newest sealed header.
    pub previous: Digest,
    /// Up to where each model's readings are taken from the spool, where that is beyond `spool_front`: what is neither there nor spooled
    /// any more has no entry.
    pub cursors: BTreeMap<Digest, u64>,
    /// Readings given up and not told yet.
    pub drops: Vec<PendingDrop>,
    /// Ordinal of the incarnation's next drop record.
    pub next_ordinal: u32,
    /// Readings of unapproved devices.
    pub parked: Vec<Parked>,
    /// Offsets of the wall clock that the gateway agreed with, by boot.
    pub clocks: BTreeMap<u64, i64>,
    /// The spool begins here; what lies before was given up or taken.
    pub spool_front: u64,
    /// Sealed proofs in the journal.
    pub held: VecDeque<Held>,
    /// Keys that signed receipts, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<PublicKey>,
}

impl State {
    /// Takes what the entry says; `pending` are the proofs before a commit.
    pub fn apply(&mut self, entry: Entry, pending: &mut Vec<Held>) {
        match entry {
            Entry::Commit(commit) => self.commit(*commit, pending),
            Entry::Receipt { incarnation, sequence, archived } => {
                if archived {
                    self.forget(incarnation, sequence);
                } else if let Some(held) = self.find(incarnation, sequence) {
                    held.answer = Answer::Receipt;
                }
            }
            Entry::Archived { incarnation, sequence } => self.held.retain(|held| {
                held.incarnation != incarnation || held.sequence > sequence || held.answer == Answer::None
            }),
            Entry::Forgotten { incarnation, sequence } => self.forget(incarnation, sequence),
            Entry::Dropped { drops, front } => {
                for drop in drops {
                    add_drop(&mut self.drops, drop);
                }
                self.begin_spool(front);
            }
            Entry::Clock { boot, offset } => {
                self.clocks.insert(boot, offset);
                while self.clocks.len() > REMEMBERED_BOOTS {
                    let Some(other) = self.clocks.keys().copied().find(|known| *known != boot) else { break };
                    self.clocks.remove(&other);
                }
            }
            Entry::Gateway(key) => {
                self.gateways.push(key);
                if self.gateways.len() > REMEMBERED_GATEWAYS {
                    self.gateways.remove(0);
                }
            }
            Entry::Snapshot(state) => {
                *self = *state;
                pending.clear();
            }
        }
    }

    fn commit(&mut self, commit: Commit, pending: &mut Vec<Held>) {
        if commit.incarnation != self.incarnation {
            self.next_ordinal = 0;
        }
        self.incarnation = commit.incarnation;
        self.next_sequence = commit.next_sequence;
        self.previous = commit.previous;
        self.next_ordinal = commit.next_ordinal;
        self.cursors.extend(commit.cursors);
        self.begin_spool(commit.front);
        if commit.drops_told {
            self.drops.clear();
        }
        for drop in commit.drops {
            add_drop(&mut self.drops, drop);
        }
        self.parked.retain(|parked| !commit.unpark.contains(&parked.serial));
        self.parked.extend(commit.park);
        // What is sealed anew takes the place of what it replaces: kept proofs stand in the order of their readings.
        let replaced = |held: &Held| commit.replaces.contains(&(held.incarnation, held.sequence));
        let place = self.held.iter().position(replaced);
        self.held.retain(|held| !replaced(held));
        let place = place.unwrap_or(self.held.len());
        let after = self.held.split_off(place);
        for digest in &commit.proofs {
            // The last one, where a seal that was cut short was repeated to the same bytes.
            self.held.extend(pending.iter().rev().find(|held| held.digest == *digest));
        }
        self.held.extend(after);
        pending.clear();
    }

    fn begin_spool(&mut self, front: u64) {
        let front = self.spool_front.max(front);
        self.spool_front = front;
        self.cursors.retain(|_, cursor| *cursor > front);
    }

    /// A proof was judged, and its receipt is kept.
    pub fn keep_receipt(&mut self, stored: &StoredReceipt, kept: KeptReceipt) {
        if let Some(held) = self.find(stored.incarnation, stored.sequence) {
            (held.answer, held.receipt) = (Answer::Receipt, Some(kept));
        }
    }

    fn find(&mut self, incarnation: u64, sequence: u64) -> Option<&mut Held> {
        self.held.iter_mut().find(|held| held.incarnation == incarnation && held.sequence == sequence)
    }

    fn forget(&mut self, incarnation: u64, sequence: u64) {
        self.held.retain(|held| held.incarnation != incarnation || held.sequence != sequence);
    }

    /// Digest of a kept proof.
    #[must_use]
    pub fn digest_of(&self, incarnation: u64, sequence: u64) -> Option<Digest> {
        let found = self.held.iter().find(|held| held.incarnation == incarnation && held.sequence == sequence);
        found.map(|held| held.digest)
    }

    /// Readings in sealed proofs without a receipt.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        self.held.iter().filter(|held| held.answer == Answer::None).map(|held| held.readings).sum()
    }
}

/// Drops as a header tells them, and the ordinal after.
#[must_use]
pub fn header_drops(pending: &[PendingDrop], first_ordinal: u32) -> (Vec<Drop>, u32) {
    let mut ordinal = first_ordinal;
    let drops = pending.iter().filter_map(|drop| {
        let reason = DropReason::from_code(drop.reason)?;
        let told = Drop { reason, count: drop.count, first: drop.first, last: drop.last, ordinal };
        ordinal += 1;
        Some(told)
    });
    let drops = drops.collect();
    (drops, ordinal)
}
