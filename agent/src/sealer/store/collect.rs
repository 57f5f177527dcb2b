//! Taking readings out of the spool: what is ripe is collected, and leaves the spool with the seal that is committed.

use std::collections::{BTreeMap, BTreeSet};

use depin_domain::{ids::Digest, proofs::DropReason, time::Timestamp};
use prost::Message as _;

use super::{Reached, Store, StoreError, next_batch};
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
    /// What leaves the spool with this seal.
    pub taken: Taken,
    /// Records of the spool that were looked at for it.
    pub looked_at: u64,
}

/// What leaves the spool with a seal.
#[derive(Debug, Default)]
pub struct Taken {
    /// How many readings.
    pub readings: u64,
    /// How far the spool has been taken then; absent where a seal takes nothing from it.
    reached: Option<Reached>,
}

impl Collected {
    /// Whether a seal would change anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.taken.readings == 0 && self.gathered.is_empty() && self.commit.unpark.is_empty()
    }
}

impl Store {
    /// Readings that are ripe: spooled for at least their model's reorder horizon, at most about `budget`; and parked ones whose device was
    /// approved. Nothing changes until [`Store::commit`].
    ///
    /// Taking is by position, and a model whose next record is not ripe is passed over up to where another one has something left: a pass that
    /// finds nothing ripe reads one record for each model that waits, however much of it is spooled, and each new record once.
    pub fn collect(
        &mut self,
        view: &View,
        now: &Stamp,
        budget: usize,
        keep_parked_ms: i64,
    ) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        self.collect_parked(view, now.wall, keep_parked_ms, &mut collected);
        let mut reached = self.reached.clone();
        reached.raise(self.spool.front().max(self.state.spool_front));
        let parked_left = self.options.parked.saturating_sub(self.state.parked.len());
        let mut pass = Pass { state: &self.state, view, now, collected: &mut collected, parked_left };
        let mut blocked = BTreeMap::new();
        let mut taken_of = BTreeSet::new();
        let mut cursor = self.spool.read_from(reached.front()).map_err(StoreError::Spool)?;
        let mut end = cursor.position();
        while !pass.is_full(budget) {
            let next = reached.next(&blocked);
            if next > cursor.position() {
                cursor = self.spool.read_from(next).map_err(StoreError::Spool)?;
            }
            let Some((position, batch)) = next_batch(&mut cursor, &mut Vec::new())? else {
                end = cursor.position();
                break;
            };
            pass.collected.looked_at += 1;
            let mut open = false;
            for (digest, _) in &batch.models {
                if blocked.contains_key(digest) || self.taken(digest, position) {
                    continue;
                }
                let horizon = view.models.get(digest).map_or(0, |(_, horizon)| *horizon);
                if age(&batch.stamp, now) < horizon {
                    blocked.insert(*digest, position);
                } else {
                    taken_of.insert(*digest);
                    open = true;
                }
            }
            if open {
                pass.take(&batch, position, &blocked);
            }
            end = cursor.position();
        }
        reached.advance(end, blocked);
        let front = reached.front();
        let cursors = taken_of.into_iter().map(|digest| (digest, reached.of(&digest)));
        collected.commit.cursors = cursors.filter(|(_, position)| *position > front).collect();
        collected.commit.front = front;
        if collected.taken.readings == 0 {
            // There is nothing that a crash could give back: the next pass need not find that out again.
            self.reached = reached.clone();
        }
        collected.taken.reached = Some(reached);
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
    pub fn commit(&mut self, proofs: &[Sealed], mut commit: Commit, taken: Taken) -> Result<(), StoreError> {
        let mut pending = Vec::with_capacity(proofs.len());
        for sealed in proofs {
            let bytes = sealed.proof.encode_to_vec();
            let position = self.journaled(|journal| journal.append(PROOF, &bytes))?;
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
        self.sync()?;
        self.note_drops(&entry);
        self.state.apply(entry, &mut pending);
        self.waiting = self.waiting.saturating_sub(taken.readings);
        if let Some(reached) = taken.reached {
            self.reached = reached;
        }
        self.cut_spool()?;
        if self.reserve.is_spent() {
            self.give_back_spool()?;
            // The journal must not take in turn what the spool gives back.
            self.tidy()?;
            self.reserve.restore(self.spool.bytes(), self.waiting == 0);
        }
        Ok(())
    }

    fn cut_spool(&mut self) -> Result<(), StoreError> {
        let reached = self.reached.front().max(self.state.spool_front);
        // A spool that failed is cut with a later seal, once it is open again.
        if reached > self.spool.front() && self.spool.poison().is_none() {
            self.spool.truncate_front(reached).map_err(StoreError::Spool)?;
        }
        if self.waiting == 0 {
            self.oldest = None;
        } else if let Some(oldest) = self.first_after(reached)? {
            self.oldest = Some(oldest);
        }
        Ok(())
    }

    /// Where all of the spool is taken, its last file goes too.
    fn give_back_spool(&mut self) -> Result<(), StoreError> {
        let end = self.spool.end();
        if self.spool.poison().is_some() || self.reached.front() < end {
            return Ok(());
        }
        self.spool.roll().map_err(StoreError::Spool)?;
        self.spool.truncate_front(end).map(drop).map_err(StoreError::Spool)
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
    fn is_full(&self, budget: usize) -> bool {
        self.collected.gathered.len() + self.collected.commit.park.len() >= budget
    }

    fn take(&mut self, batch: &Batch, position: u64, blocked: &BTreeMap<Digest, u64>) {
        let received = clock::correction(&batch.stamp, &self.state.clocks);
        for group in &batch.groups {
            let Some((digest, metrics)) = batch.models.get(group.model) else { continue };
            let taken = self.state.cursors.get(digest).is_some_and(|cursor| position < *cursor);
            if taken || blocked.contains_key(digest) {
                continue;
            }
            self.collected.taken.readings += group.readings.len() as u64;
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
