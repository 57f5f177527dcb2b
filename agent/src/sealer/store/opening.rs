//! Opening: from what is on the disk to the same store as before the crash.

use std::{collections::HashMap, sync::Arc};

use depin_domain::{ids::Digest, proofs::DropReason, time::Timestamp};
use depin_log::{Damage, Log, LogError, OnDamage, Options, Storage};
use depin_proto::v1::SignedProof;
use prost::Message as _;

use super::{JOURNAL_TAG, Reached, Reserve, SPOOL_TAG, Store, StoreError, StoreOptions, next_batch};
use crate::{
    sealer::journal::{
        Answer, Entry, GivenUp, Held, PROOF, Parked, PendingDrop, RECEIPT, State, StoredReceipt, kept_at,
    },
    sighting::FirstHeard,
    spool::{Delivery, Stamp, StoredGroup},
};

/// What was on the disk.
#[derive(Debug, Default)]
pub struct Found {
    /// Messages that must not count again when they are delivered again.
    pub deliveries: Vec<Delivery>,
    /// What is left of each serial.
    pub serials: HashMap<String, Left>,
    /// Damage that was passed over.
    pub damaged: Vec<Damage>,
}

/// What is left of a serial that spoke before the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Newest receive time of a reading without a time of its own: a boot, and milliseconds in it.
    pub last: Option<(u64, i64)>,
    /// Readings that wait, in the spool or parked.
    pub waiting: u64,
    /// The first of these: should it be a stranger's, nobody may have been told of it yet.
    pub first: Option<FirstHeard>,
}

impl Store {
    /// Opens both logs, making them where there are none.
    pub fn open(
        spool: Arc<dyn Storage>,
        journal: Arc<dyn Storage>,
        options: StoreOptions,
    ) -> Result<(Self, Found), StoreError> {
        let segment = (options.limit / 16).clamp(4 << 10, 16 << 20);
        let base =
            Options { segment_size: segment, max_record: 4 << 20, on_damage: OnDamage::Skip, ..Options::default() };
        let reserve = Reserve::new(Arc::clone(&journal), options.reserve);
        let (spool, recovered) = Log::open(spool, Options { tag: SPOOL_TAG, ..base }).map_err(StoreError::Spool)?;
        let mut found = Found { damaged: recovered.damaged, ..Found::default() };
        let (journal, recovered) = Log::open(
            journal,
            Options { tag: JOURNAL_TAG, segment_size: options.journal_segment, max_record: 64 << 20, ..base },
        )
        .map_err(StoreError::Journal)?;
        found.damaged.extend(recovered.damaged);
        let mut store = Self {
            options,
            spool,
            journal,
            state: State::default(),
            given_up: GivenUp::default(),
            waiting: 0,
            oldest: None,
            snapshot: 0,
            reached: Reached::default(),
            reserve,
        };
        store.fold(&mut found)?;
        store.scan(&mut found)?;
        store.count_lost(&mut found)?;
        if let Err(error) = store.reserve.make(store.spool.bytes()) {
            tracing::warn!(%error, bytes = options.reserve, "no room for the reserve; nothing is acknowledged until there is");
        }
        Ok((store, found))
    }

    /// What the journal says.
    pub(super) fn fold(&mut self, found: &mut Found) -> Result<(), StoreError> {
        let mut cursor = self.journal.read_from(self.journal.front()).map_err(StoreError::Journal)?;
        let mut pending = Vec::new();
        loop {
            let record = match cursor.next_record() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(LogError::Damaged(damage)) => {
                    found.damaged.push(damage);
                    continue;
                }
                Err(error) => return Err(StoreError::Journal(error)),
            };
            let unreadable = |what: String| StoreError::Unreadable { position: record.position, what };
            if record.kind == RECEIPT {
                let stored = StoredReceipt::read(record.payload).ok_or_else(|| unreadable("no receipt".to_owned()))?;
                self.state.keep_receipt(&stored, kept_at(record.position, record.payload.len()));
                continue;
            }
            if record.kind == PROOF {
                let proof = SignedProof::decode(record.payload).map_err(|error| unreadable(error.to_string()))?;
                pending.push(held(&proof, record.position, record.payload.len() as u64).map_err(unreadable)?);
                continue;
            }
            let entry: Entry = serde_json::from_slice(record.payload).map_err(|error| unreadable(error.to_string()))?;
            if matches!(entry, Entry::Snapshot(_)) {
                self.snapshot = record.position;
            }
            self.state.apply(entry, &mut pending);
        }
        if self.state.next_sequence == 0 {
            self.state.next_sequence = 1;
        }
        Ok(())
    }

    /// What waits in the spool.
    fn scan(&mut self, found: &mut Found) -> Result<(), StoreError> {
        let (end, taken) = (self.spool.end(), self.state.spool_front);
        if end < taken {
            return Err(StoreError::SpoolBehind { end, taken });
        }
        if self.state.spool_front > self.spool.front() {
            self.spool.truncate_front(self.state.spool_front).map_err(StoreError::Spool)?;
        }
        let mut cursor = self.spool.read_from(self.spool.front()).map_err(StoreError::Spool)?;
        let mut deliveries = HashMap::new();
        while let Some((position, batch)) = next_batch(&mut cursor, &mut found.damaged)? {
            for delivery in &batch.deliveries {
                deliveries.insert((delivery.session, delivery.packet), *delivery);
            }
            for group in &batch.groups {
                let Some((digest, _)) = batch.models.get(group.model) else { continue };
                let left = found.serials.entry(group.serial.clone()).or_default();
                if !group.device_time {
                    // Batches stand in the order of their stamps, so that the newest boot comes last.
                    let newest = group.readings.iter().map(|reading| reading.at.since(Timestamp(batch.stamp.offset())));
                    let known = left.last.filter(|(boot, _)| *boot == batch.stamp.boot).map(|(_, last)| last);
                    left.last = newest.chain(known).max().map(|last| (batch.stamp.boot, last));
                }
                if !self.taken(digest, position) {
                    left.waiting += group.readings.len() as u64;
                    left.first = left.first.or_else(|| first_heard(digest, &batch.stamp, group));
                    self.waiting += group.readings.len() as u64;
                    self.oldest = self.oldest.or(Some(batch.stamp.wall));
                }
            }
        }
        self.scan_parked(found);
        found.deliveries = deliveries.into_values().collect();
        Ok(())
    }

    /// Damage is told: how many readings it held cannot be known, so each damaged stretch counts as one.
    fn count_lost(&mut self, found: &mut Found) -> Result<(), StoreError> {
        let count = found.damaged.iter().filter(|damage| damage.synced).count() as u64;
        if count > 0 {
            let at = self.oldest.unwrap_or_default();
            let drops = vec![PendingDrop { reason: DropReason::Unreadable as u8, count, first: at, last: at }];
            self.enter(Entry::Dropped { drops, front: self.spool.front() })?;
        }
        Ok(())
    }

    /// What left the spool and waits for its device to be let in. It came before what is in the spool.
    fn scan_parked(&self, found: &mut Found) {
        let mut parked: Vec<&Parked> = self.state.parked.iter().collect();
        // The earliest one last: its sighting stands.
        parked.sort_by_key(|parked| std::cmp::Reverse(parked.received()));
        for parked in parked {
            let left = found.serials.entry(parked.serial.clone()).or_default();
            left.waiting += 1;
            let oldest = left
                .first
                .filter(|first| first.stamp.wall == parked.received() && first.stamp.boot == 0)
                .map_or(parked.at, |first| first.oldest.min(parked.at));
            let stamp = Stamp { boot: 0, uptime: 0, wall: parked.received() };
            left.first = Some(FirstHeard { model: parked.model, stamp, oldest, device_time: true });
        }
    }
}

fn first_heard(model: &Digest, stamp: &Stamp, group: &StoredGroup) -> Option<FirstHeard> {
    let oldest = group.readings.iter().map(|reading| reading.at).min()?;
    Some(FirstHeard { model: *model, stamp: *stamp, oldest, device_time: group.device_time })
}

/// What a sealed proof's journal record says of it.
fn held(proof: &SignedProof, position: u64, bytes: u64) -> Result<Held, String> {
    let opened =
        depin_proto::envelope::open_proof(&proof.header, &proof.sections).map_err(|error| error.to_string())?;
    Ok(Held {
        incarnation: opened.header.incarnation,
        sequence: opened.header.sequence,
        digest: opened.digest,
        position,
        bytes,
        readings: opened.readings(),
        answer: Answer::None,
        receipt: None,
    })
}
