//! The two logs together: spool and journal. All I/O of the sealer is here.
//!
//! Order of writes: a batch is synced before anyone is told; a seal's proofs and commit are synced before they are sent; what is
//! dropped is told in the journal before the spool is cut. A crash between any two of these repeats work, never loses or doubles a reading.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use depin_domain::{ids::Digest, proofs::DropReason, time::Timestamp};
use depin_log::{Cursor, Damage, Log, LogError, OnDamage, Options, Storage};
use depin_proto::v1::SignedProof;
use prost::Message as _;

use super::{
    assemble::{Gathered, Sealed},
    clock,
    journal::{Answer, Commit, ENTRY, Entry, GivenUp, Held, PROOF, Parked, PendingDrop, State, add_drop},
    view::View,
};
use crate::spool::{Batch, Delivery, LimitPolicy, Stamp};

const BATCH: u8 = 1;
const SPOOL_TAG: u32 = u32::from_le_bytes(*b"aspl");
const JOURNAL_TAG: u32 = u32::from_le_bytes(*b"ajrn");
/// Journal bytes beyond what is kept before a snapshot is written and the front removed.
const JOURNAL_SLACK: u64 = 4 << 20;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Limit of the spool in bytes.
    pub limit: u64,
    /// What happens there.
    pub policy: LimitPolicy,
    /// Sealed proofs with a receipt but not yet in a backup are kept up to this many bytes.
    pub retained: u64,
    /// Readings of unapproved devices that are kept after they left the spool.
    pub parked: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { limit: 1 << 30, policy: LimitPolicy::StopAcknowledging, retained: 64 << 20, parked: 20_000 }
    }
}

/// The store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The spool's log.
    #[error("spool: {0}")]
    Spool(LogError),
    /// The journal's log.
    #[error("journal: {0}")]
    Journal(LogError),
    /// A record of the journal cannot be read.
    #[error("journal: the record at {position} is unreadable: {what}")]
    Unreadable {
        /// Where.
        position: u64,
        /// Why.
        what: String,
    },
}

/// What was on the disk.
#[derive(Debug, Default)]
pub struct Found {
    /// Messages that must not count again when they are delivered again.
    pub deliveries: Vec<Delivery>,
    /// Newest receive time, as boot and milliseconds in it, and waiting readings, by serial.
    pub serials: HashMap<String, (Option<(u64, i64)>, u64)>,
    /// Damage that was passed over.
    pub damaged: Vec<Damage>,
}

/// Readings taken for one seal, and the commit that takes them.
#[derive(Debug, Default)]
pub struct Collected {
    /// To be sealed.
    pub gathered: Gathered,
    /// Without the chain's part, which the caller fills in.
    pub commit: Commit,
    /// Readings of devices that are known under another model: not theirs.
    pub foreign: u64,
    /// Readings that leave the spool with this seal.
    pub taken: u64,
}

impl Collected {
    /// Whether a seal would change anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken == 0 && self.gathered.is_empty() && self.commit.unpark.is_empty()
    }
}

/// Spool and journal.
#[derive(Debug)]
pub struct Store {
    options: StoreOptions,
    spool: Log,
    journal: Log,
    state: State,
    given_up: GivenUp,
    waiting: u64,
    oldest: Option<Timestamp>,
    /// Journal position of the newest snapshot.
    snapshot: u64,
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
        let (spool, recovered) = Log::open(spool, Options { tag: SPOOL_TAG, ..base }).map_err(StoreError::Spool)?;
        let mut found = Found { damaged: recovered.damaged, ..Found::default() };
        let (journal, recovered) =
            Log::open(journal, Options { tag: JOURNAL_TAG, segment_size: 4 << 20, max_record: 64 << 20, ..base })
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
        };
        store.fold(&mut found)?;
        store.scan(&mut found)?;
        store.count_lost(&mut found)?;
        Ok((store, found))
    }

    /// What the journal says.
    fn fold(&mut self, found: &mut Found) -> Result<(), StoreError> {
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
                let taken = batch.models.get(group.model).is_some_and(|(digest, _)| self.taken(digest, position));
                let serial = found.serials.entry(group.serial.clone()).or_default();
                if !group.device_time {
                    // Batches stand in the order of their stamps, so that the newest boot comes last.
                    let newest = group.readings.iter().map(|reading| reading.at.since(Timestamp(batch.stamp.offset())));
                    let known = serial.0.filter(|(boot, _)| *boot == batch.stamp.boot).map(|(_, last)| last);
                    serial.0 = newest.chain(known).max().map(|last| (batch.stamp.boot, last));
                }
                if !taken {
                    serial.1 += group.readings.len() as u64;
                    self.waiting += group.readings.len() as u64;
                    self.oldest = self.oldest.or(Some(batch.stamp.wall));
                }
            }
        }
        for parked in &self.state.parked {
            found.serials.entry(parked.serial.clone()).or_default().1 += 1;
        }
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

    fn taken(&self, model: &Digest, position: u64) -> bool {
        position < self.state.spool_front || self.state.cursors.get(model).is_some_and(|cursor| position < *cursor)
    }

    /// What the journal says now.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Bytes of the spool on disk.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// What was given up since the start.
    #[must_use]
    pub fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// Readings that were left out of a seal because their device has another model.
    pub fn note_foreign(&mut self, readings: u64) {
        self.given_up.foreign += readings;
    }

    /// Readings in the spool, not yet sealed.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// When the oldest waiting reading came.
    #[must_use]
    pub fn oldest(&self) -> Option<Timestamp> {
        self.oldest.filter(|_| self.waiting > 0)
    }

    /// Whether a batch of this size fits. Under the policy that drops the oldest, it always does in the end.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.options.policy == LimitPolicy::DropOldest || self.spool.bytes() + bytes as u64 <= self.options.limit
    }

    /// Makes a batch durable. After an error nothing of it counts; try [`Store::recover`] and then the same batch again.
    pub fn append(&mut self, record: &[u8], readings: u64, at: Timestamp) -> Result<(), StoreError> {
        if self.options.policy == LimitPolicy::DropOldest {
            self.drop_oldest(record.len() as u64)?;
        }
        self.spool.append(BATCH, record).map_err(StoreError::Spool)?;
        self.spool.sync().map_err(StoreError::Spool)?;
        self.waiting += readings;
        self.oldest = self.oldest().or(Some(at));
        Ok(())
    }

    /// After a failed write or sync: both logs are cut back to what is durable.
    pub fn recover(&mut self) -> Result<(), StoreError> {
        if self.spool.poison().is_some() {
            self.spool.reopen().map_err(StoreError::Spool)?;
        }
        if self.journal.poison().is_some() {
            self.journal.reopen().map_err(StoreError::Journal)?;
            self.state = State::default();
            self.fold(&mut Found::default())?;
        }
        Ok(())
    }

    /// Gives up whole segments from the front until `bytes` fit.
    fn drop_oldest(&mut self, bytes: u64) -> Result<(), StoreError> {
        while self.spool.bytes() + bytes > self.options.limit {
            if self.spool.front() == self.spool.end() {
                return Ok(());
            }
            self.spool.roll().map_err(StoreError::Spool)?;
            let mut drops = Vec::new();
            let (front, lost) = self.first_segment(&mut drops)?;
            let entry = Entry::Dropped { drops, front };
            self.enter(entry)?;
            self.spool.truncate_front(front).map_err(StoreError::Spool)?;
            self.waiting = self.waiting.saturating_sub(lost);
            self.oldest = self.first_waiting()?;
        }
        Ok(())
    }

    /// Counts what waits in a sixteenth of the limit from the front on, and tells where that ends.
    fn first_segment(&mut self, drops: &mut Vec<PendingDrop>) -> Result<(u64, u64), StoreError> {
        let start = self.spool.front().max(self.state.spool_front);
        let mut cursor = self.spool.read_from(start).map_err(StoreError::Spool)?;
        let mut lost = 0;
        let mut end = self.spool.end();
        while let Some((position, batch)) = next_batch(&mut cursor, &mut Vec::new())? {
            if position > start && position - start >= self.options.limit / 16 {
                end = position;
                break;
            }
            for group in &batch.groups {
                if batch.models.get(group.model).is_none_or(|(digest, _)| self.taken(digest, position)) {
                    continue;
                }
                for reading in &group.readings {
                    add_drop(drops, PendingDrop::one(DropReason::LimitReached, reading.at));
                    lost += 1;
                }
            }
        }
        Ok((end, lost))
    }

    fn first_waiting(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut cursor = self.spool.read_from(self.spool.front()).map_err(StoreError::Spool)?;
        Ok(next_batch(&mut cursor, &mut Vec::new())?.map(|(_, batch)| batch.stamp.wall))
    }

    /// Readings that are ripe: spooled for at least their model's reorder horizon, at most about `budget`; and parked ones whose device was
    /// approved. Nothing changes until [`Store::commit`].
    pub fn collect(
        &self,
        view: &View,
        now: &Stamp,
        budget: usize,
        keep_parked_ms: i64,
    ) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        self.collect_parked(view, now.wall, keep_parked_ms, &mut collected);
        let known: Vec<Digest> = view.models.keys().chain(self.state.cursors.keys()).copied().collect();
        let start = known
            .iter()
            .map(|digest| self.state.cursors.get(digest).copied().unwrap_or(0))
            .min()
            .unwrap_or(0)
            .max(self.spool.front())
            .max(self.state.spool_front);
        let mut cursor = self.spool.read_from(start).map_err(StoreError::Spool)?;
        let mut blocked: HashMap<Digest, u64> = HashMap::new();
        let mut seen: HashSet<Digest> = known.into_iter().collect();
        let mut end = start;
        let mut pass = Pass { state: &self.state, view, now, collected: &mut collected, parked_left: 0 };
        pass.parked_left = self.options.parked.saturating_sub(self.state.parked.len());
        while let Some((position, batch)) = next_batch(&mut cursor, &mut Vec::new())? {
            if pass.collected.gathered.len() + pass.collected.commit.park.len() >= budget {
                break;
            }
            let mut open = false;
            for (digest, _) in &batch.models {
                seen.insert(*digest);
                let horizon = view.models.get(digest).map_or(0, |(_, horizon)| *horizon);
                if blocked.contains_key(digest) || self.taken(digest, position) {
                    continue;
                }
                if age(&batch.stamp, now) < horizon {
                    blocked.insert(*digest, position);
                } else {
                    open = true;
                }
            }
            if open {
                pass.take(&batch, position, &blocked);
            } else if !seen.is_empty() && seen.iter().all(|digest| blocked.contains_key(digest)) {
                break;
            }
            end = cursor.position();
        }
        for digest in seen {
            let reached = blocked.get(&digest).copied().unwrap_or(end);
            if reached > self.state.cursors.get(&digest).copied().unwrap_or(0) {
                collected.commit.cursors.insert(digest, reached);
            }
        }
        Ok(collected)
    }

    /// Parked readings: those whose device is known now are sealed, those kept too long are given up, the others stay.
    fn collect_parked(&self, view: &View, now: Timestamp, keep_ms: i64, collected: &mut Collected) {
        let expired = |parked: &Parked| now.since(parked.since) > keep_ms;
        let moves = |parked: &&Parked| view.device(&parked.serial, parked.at).is_some() || expired(parked);
        let unpark: BTreeSet<&str> =
            self.state.parked.iter().filter(moves).map(|parked| parked.serial.as_str()).collect();
        for parked in self.state.parked.iter().filter(|parked| unpark.contains(parked.serial.as_str())) {
            if let Some(device) = view.device(&parked.serial, parked.at) {
                let gathered = &mut collected.gathered;
                let (device, model) = (gathered.device(device.id), gathered.model(parked.model));
                let metric = gathered.metric(&parked.metric);
                gathered.push(device, model, metric, parked.at, parked.value);
            } else if expired(parked) {
                add_drop(&mut collected.commit.drops, PendingDrop::one(DropReason::NeverApproved, parked.at));
            } else {
                // A commit takes out whole serials; what stays of one is put back.
                collected.commit.park.push(parked.clone());
            }
        }
        collected.commit.unpark = unpark.into_iter().map(str::to_owned).collect();
    }

    /// Makes a seal durable: proofs and commit in one write. Then the spool is cut behind what every model has taken.
    pub fn commit(&mut self, proofs: &[Sealed], mut commit: Commit, taken: u64) -> Result<(), StoreError> {
        let mut pending = Vec::with_capacity(proofs.len());
        for sealed in proofs {
            let bytes = sealed.proof.encode_to_vec();
            let position = self.journal.append(PROOF, &bytes).map_err(StoreError::Journal)?;
            pending.push(Held {
                incarnation: commit.incarnation,
                sequence: sealed.sequence,
                digest: sealed.digest,
                position,
                bytes: bytes.len() as u64,
                readings: sealed.readings,
                answer: Answer::None,
            });
        }
        commit.proofs = pending.iter().map(|held| held.digest).collect();
        let entry = Entry::Commit(Box::new(commit));
        self.write(&entry)?;
        self.journal.sync().map_err(StoreError::Journal)?;
        self.note_drops(&entry);
        self.state.apply(entry, &mut pending);
        self.waiting = self.waiting.saturating_sub(taken);
        self.cut_spool()
    }

    fn cut_spool(&mut self) -> Result<(), StoreError> {
        if self.state.cursors.is_empty() {
            return Ok(());
        }
        let reached = self.state.cursors.values().copied().min().unwrap_or(0);
        if reached > self.spool.front() {
            self.spool.truncate_front(reached).map_err(StoreError::Spool)?;
        }
        if self.waiting == 0 {
            self.oldest = None;
        } else if let Some(oldest) = self.first_after(reached)? {
            self.oldest = Some(oldest);
        }
        Ok(())
    }

    fn first_after(&self, position: u64) -> Result<Option<Timestamp>, StoreError> {
        let mut cursor = self.spool.read_from(position.max(self.spool.front())).map_err(StoreError::Spool)?;
        Ok(next_batch(&mut cursor, &mut Vec::new())?.map(|(_, batch)| batch.stamp.wall))
    }

    /// A kept proof, as it was sealed.
    pub fn proof(&self, held: &Held) -> Result<SignedProof, StoreError> {
        let unreadable = |what: String| StoreError::Unreadable { position: held.position, what };
        let record = self.journal.reader().read(held.position).map_err(StoreError::Journal)?;
        let record = record.ok_or_else(|| unreadable("it is gone".to_owned()))?;
        SignedProof::decode(record.payload.as_slice()).map_err(|error| unreadable(error.to_string()))
    }

    /// A proof was judged. Not synced: a receipt that is forgotten in a crash is asked for again.
    pub fn receipt(&mut self, incarnation: u64, sequence: u64, archived: bool) -> Result<(), StoreError> {
        if self.state.digest_of(incarnation, sequence).is_some() {
            let entry = Entry::Receipt { incarnation, sequence, archived };
            self.write(&entry)?;
            self.state.apply(entry, &mut Vec::new());
        }
        Ok(())
    }

    /// Everything up to the sequence is in a backup.
    pub fn archived(&mut self, incarnation: u64, sequence: u64) -> Result<(), StoreError> {
        let affected = |held: &Held| {
            held.incarnation == incarnation && held.sequence <= sequence && held.answer == Answer::Receipt
        };
        if self.state.held.iter().any(affected) {
            let entry = Entry::Archived { incarnation, sequence };
            self.write(&entry)?;
            self.state.apply(entry, &mut Vec::new());
        }
        Ok(())
    }

    /// The agent's clock agreed with the gateway's.
    pub fn clock_agreed(&mut self, now: &Stamp) -> Result<(), StoreError> {
        let known = self.state.clocks.get(&now.boot);
        if known.is_none_or(|offset| offset.abs_diff(now.offset()) > clock::TOLERANCE_MS.unsigned_abs() / 10) {
            self.enter(Entry::Clock { boot: now.boot, offset: now.offset() })?;
        }
        Ok(())
    }

    /// Forgets answered proofs beyond the limit, and removes what the journal no longer needs.
    pub fn tidy(&mut self) -> Result<(), StoreError> {
        let mut kept: u64 = self.state.held.iter().map(|held| held.bytes).sum();
        while kept > self.options.retained {
            let answered = self.state.held.iter().find(|held| held.answer == Answer::Receipt).copied();
            let Some(oldest) = answered else { break };
            let entry = Entry::Forgotten { incarnation: oldest.incarnation, sequence: oldest.sequence };
            self.write(&entry)?;
            self.state.apply(entry, &mut Vec::new());
            kept -= oldest.bytes;
        }
        let first_kept = self.state.held.iter().map(|held| held.position).min().unwrap_or(self.journal.end());
        if first_kept.min(self.journal.end()) > self.journal.front() + JOURNAL_SLACK {
            let entry = Entry::Snapshot(Box::new(self.state.clone()));
            let position = self.write(&entry)?;
            self.journal.sync().map_err(StoreError::Journal)?;
            self.snapshot = position;
            self.journal.truncate_front(first_kept.min(position)).map_err(StoreError::Journal)?;
        }
        Ok(())
    }

    /// Makes receipts durable; before the process ends.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.journal.sync().map(|_| ()).map_err(StoreError::Journal)
    }

    fn write(&mut self, entry: &Entry) -> Result<u64, StoreError> {
        let bytes = serde_json::to_vec(entry)
            .map_err(|error| StoreError::Unreadable { position: self.journal.end(), what: error.to_string() })?;
        self.journal.append(ENTRY, &bytes).map_err(StoreError::Journal)
    }

    /// Writes and syncs an entry, then takes it.
    fn enter(&mut self, entry: Entry) -> Result<(), StoreError> {
        self.write(&entry)?;
        self.journal.sync().map_err(StoreError::Journal)?;
        self.note_drops(&entry);
        self.state.apply(entry, &mut Vec::new());
        Ok(())
    }

    fn note_drops(&mut self, entry: &Entry) {
        match entry {
            Entry::Commit(commit) => self.given_up.note(&commit.drops),
            Entry::Dropped { drops, .. } => self.given_up.note(drops),
            _ => {}
        }
    }
}

/// How long ago a record was made: by the uptime within one boot, else by the wall clock.
fn age(record: &Stamp, now: &Stamp) -> i64 {
    if record.boot == now.boot { now.uptime.saturating_sub(record.uptime) } else { now.wall.since(record.wall).max(0) }
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
    })
}

/// The next readable batch and its position. Damaged and unreadable ones are passed over.
fn next_batch(cursor: &mut Cursor, damaged: &mut Vec<Damage>) -> Result<Option<(u64, Batch)>, StoreError> {
    loop {
        match cursor.next_record() {
            Ok(None) => return Ok(None),
            Ok(Some(record)) if record.kind == BATCH => match Batch::read(record.payload) {
                Ok(batch) => return Ok(Some((record.position, batch))),
                Err(error) => tracing::error!(position = record.position, %error, "a spool record is passed over"),
            },
            Ok(Some(record)) => tracing::error!(kind = record.kind, "a spool record of an unknown kind is passed over"),
            Err(LogError::Damaged(damage)) => damaged.push(damage),
            Err(error) => return Err(StoreError::Spool(error)),
        }
    }
}

/// One pass over the spool.
struct Pass<'a> {
    state: &'a State,
    view: &'a View,
    now: &'a Stamp,
    collected: &'a mut Collected,
    parked_left: usize,
}

impl Pass<'_> {
    fn take(&mut self, batch: &Batch, position: u64, blocked: &HashMap<Digest, u64>) {
        let shift = clock::correction(&batch.stamp, &self.state.clocks);
        for group in &batch.groups {
            let Some((digest, metrics)) = batch.models.get(group.model) else { continue };
            let taken = self.state.cursors.get(digest).is_some_and(|cursor| position < *cursor);
            if taken || blocked.contains_key(digest) {
                continue;
            }
            self.collected.taken += group.readings.len() as u64;
            let named = self.view.models.get(digest).map(|(name, _)| name);
            for reading in &group.readings {
                let shift = if group.device_time { Some(0) } else { shift };
                let Some(shift) = shift else {
                    add_drop(&mut self.collected.commit.drops, PendingDrop::one(DropReason::Unreadable, reading.at));
                    continue;
                };
                let at = reading.at.plus(shift);
                let Some(metric) = metrics.get(usize::from(reading.metric)) else { continue };
                let device = self.view.device(&group.serial, at);
                if device.is_some_and(|device| named.is_some_and(|name| *name != device.model)) {
                    self.collected.foreign += 1;
                } else if let Some(device) = device {
                    let gathered = &mut self.collected.gathered;
                    let (device, model, metric) =
                        (gathered.device(device.id), gathered.model(*digest), gathered.metric(metric));
                    gathered.push(device, model, metric, at, reading.value);
                } else if self.parked_left > 0 {
                    self.parked_left -= 1;
                    self.collected.commit.park.push(Parked {
                        serial: group.serial.clone(),
                        model: *digest,
                        metric: metric.clone(),
                        at,
                        value: reading.value,
                        since: self.now.wall,
                    });
                } else {
                    add_drop(&mut self.collected.commit.drops, PendingDrop::one(DropReason::UnapprovedQuota, at));
                }
            }
        }
    }
}
