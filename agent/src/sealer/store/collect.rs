//! Taking readings out of the spool: what is ripe is collected, and leaves the spool with the seal that is committed.

use std::collections::{BTreeSet, HashMap, HashSet};

use depin_domain::{ids::Digest, proofs::DropReason, time::Timestamp};
use prost::Message as _;

use super::{Store, StoreError, next_batch};
use crate::{
    sealer::{
        assemble::{Gathered, Sealed},
        clock,
        journal::{Answer, Commit, Entry, Held, PROOF, Parked, PendingDrop, State, add_drop},
        view::View,
    },
    spool::{Batch, Stamp},
};

/// Readings taken for one seal, and the commit that takes them.
#[derive(Debug, Default)]
pub struct Collected {
    /// To be sealed.
    pub gathered: Gathered,
    /// Without the chain's part, which the caller fills in.
    pub commit: Commit,
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

impl Store {
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
                receipt: None,
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
}

/// How long ago a record was made: by the uptime within one boot, else by the wall clock. A record of another boot whose clock ran ahead is
/// as old as can be: it would hold up everything behind it until its time has come.
fn age(record: &Stamp, now: &Stamp) -> i64 {
    if record.boot == now.boot {
        now.uptime.saturating_sub(record.uptime)
    } else if record.wall > now.wall {
        i64::MAX
    } else {
        now.wall.since(record.wall)
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
        let received = clock::correction(&batch.stamp, &self.state.clocks);
        for group in &batch.groups {
            let Some((digest, metrics)) = batch.models.get(group.model) else { continue };
            let taken = self.state.cursors.get(digest).is_some_and(|cursor| position < *cursor);
            if taken || blocked.contains_key(digest) {
                continue;
            }
            self.collected.taken += group.readings.len() as u64;
            for reading in &group.readings {
                let shift = if group.device_time { Some(0) } else { received };
                let Some(shift) = shift else {
                    add_drop(&mut self.collected.commit.drops, PendingDrop::one(DropReason::Unreadable, reading.at));
                    continue;
                };
                let at = reading.at.plus(shift);
                let Some(metric) = metrics.get(usize::from(reading.metric)) else { continue };
                // Whatever its model: a fleet's may have changed since, and the ledger knows which was the fleet's at that time.
                if let Some(device) = self.view.device(&group.serial, at) {
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
                        received: received.map(|shift| batch.stamp.wall.plus(shift)),
                    });
                } else {
                    add_drop(&mut self.collected.commit.drops, PendingDrop::one(DropReason::UnapprovedQuota, at));
                }
            }
        }
    }
}
