//! The intake: from a message to the promise that it is durable.
//!
//! Messages of all sources are decoded into one batch; the committer makes a batch durable in one write while the next one fills.
//! Whoever offered a message gets a ticket and acknowledges it once the ticket is durable. Backpressure is a refused offer: the
//! source stops reading until there is room.

mod message;
mod speaker;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use depin_domain::{
    ids::Digest,
    model::Model,
    proofs::{Reading, Reason},
    time::Timestamp,
};
use depin_telemetry::trace_context::traceparent;
use tokio::sync::{Notify, watch};
use tracing::Span;

use crate::{
    clock::Clock,
    codec::{Decoded, Decoder, Limits, ModelProblem, Place, Rejection},
    deliveries::Deliveries,
    metrics::{Metrics, ReasonLabel, ResultLabel},
    sealer::{Found, View},
    sighting::{FirstHeard, Sighted},
    spool::{BatchBuilder, Delivery, Stamp},
    trace::{Followed, Sampled},
};

pub use message::{Envelope, Offer};
pub use speaker::Quota;
use speaker::Speaker;

/// A batch larger than this takes nothing more until it is written.
const MAX_BATCH: usize = 1 << 20;
/// Every so many rejections for one reason one is logged.
const SAMPLE_EVERY: u64 = 1_000;

#[derive(Debug)]
struct Inner {
    decoder: Decoder,
    decoded: Decoded,
    batch: BatchBuilder,
    /// Number of the batch that fills.
    filling: u64,
    /// Batches that stood still while the store took nothing, to be written before the one that fills.
    closed_early: VecDeque<Filled>,
    /// The store takes no more.
    full: bool,
    /// Nothing is taken any more: the process ends.
    closed: bool,
    ready: bool,
    speakers: HashMap<String, Speaker>,
    unapproved: usize,
    sightings: Vec<Sighted>,
    deliveries: Deliveries,
    rejections: HashMap<Reason, u64>,
}

impl Inner {
    /// Ends the batch that fills, if there is something in it.
    fn finish(&mut self, clock: &dyn Clock) -> Option<Filled> {
        if self.batch.is_empty() {
            return None;
        }
        let at = self.batch.stamp(|| clock.now()).wall;
        let readings = self.batch.readings();
        let filled = Filled { number: self.filling, record: self.batch.finish(), readings, at };
        self.filling += 1;
        Some(filled)
    }

    /// Strangers that were heard before the start and perhaps never told: once it is known that they are strangers.
    fn tell_found(&mut self, view: &View, limit: usize, uptime: i64) {
        for (serial, speaker) in &mut self.speakers {
            let Some(heard) = speaker.untold().filter(|_| self.sightings.len() < limit) else { continue };
            // What a device left here before it moved away is no sighting.
            if view.device(serial, heard.oldest).is_some() {
                continue;
            }
            let Some((model, _)) = view.models.get(&heard.model) else { continue };
            speaker.told_at(uptime);
            let (model, serial) = (model.clone(), serial.clone());
            self.sightings.push(Sighted { model, serial, topic: String::new(), heard });
        }
    }
}

/// Takes messages from any number of sources.
#[derive(Debug)]
pub struct Intake {
    inner: Mutex<Inner>,
    hasher: RandomHasher,
    quota: Quota,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    durable: watch::Sender<u64>,
    offered: Notify,
    room: Notify,
    limits: Limits,
    followed: Followed,
}

/// Hashes of payloads are compared across restarts, so the key is fixed; topics and payloads of one session are no secret to it.
type RandomHasher = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// A batch to be made durable.
#[derive(Debug)]
pub struct Filled {
    /// Its number: tickets up to it are durable when it is.
    pub number: u64,
    /// The spool record.
    pub record: Vec<u8>,
    /// Readings in it.
    pub readings: u64,
    /// When it began.
    pub at: Timestamp,
}

impl Intake {
    /// Without models nothing is taken: see [`Intake::configure`].
    #[must_use]
    pub fn new(limits: Limits, quota: Quota, clock: Arc<dyn Clock>, metrics: Metrics, found: &Found) -> Arc<Self> {
        let now = clock.now().wall;
        let speakers: HashMap<_, _> =
            found.serials.iter().map(|(serial, left)| (serial.clone(), Speaker::found(left, now))).collect();
        let inner = Inner {
            decoder: Decoder::new(&[], limits).0,
            decoded: Decoded::default(),
            batch: BatchBuilder::default(),
            filling: 1,
            closed_early: VecDeque::new(),
            full: false,
            closed: false,
            ready: false,
            unapproved: speakers.len(),
            speakers,
            sightings: Vec::new(),
            deliveries: Deliveries::found(&found.deliveries),
            rejections: HashMap::new(),
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            hasher: RandomHasher::default(),
            quota,
            clock,
            metrics,
            durable: watch::Sender::new(0),
            offered: Notify::new(),
            room: Notify::new(),
            followed: Followed::default(),
            limits,
        })
    }

    /// A panic elsewhere leaves whole messages in the batch or none of them, so a poisoned lock is still good to use.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses these models and devices from now on. Answers what of the models cannot be used, and the topic filters.
    pub fn configure(&self, models: &[(Digest, Model)], view: &View) -> (Vec<ModelProblem>, Vec<String>) {
        let (decoder, problems) = Decoder::new(models, self.limits);
        let filters = decoder.filters();
        let mut inner = self.lock();
        inner.decoder = decoder;
        inner.ready = !models.is_empty();
        for (serial, speaker) in &mut inner.speakers {
            speaker.approved = view.approves(serial);
            if speaker.approved {
                speaker.waiting = 0;
            }
        }
        inner.tell_found(view, self.quota.devices, self.clock.now().uptime);
        for serial in view.approved() {
            inner.speakers.entry(serial.clone()).or_default().approved = true;
        }
        inner.unapproved = inner.speakers.values().filter(|speaker| !speaker.approved).count();
        drop(inner);
        self.room.notify_waiters();
        (problems, filters)
    }

    /// Messages whose traces go on in the proofs that have their readings.
    pub(crate) fn followed(&self) -> &Followed {
        &self.followed
    }

    /// Takes a message, if there is room.
    pub fn offer(&self, message: &Envelope<'_>) -> Offer {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if message.payload.len() > self.limits.payload_bytes && !inner.closed {
            self.refuse_oversize(inner, message.topic, message.payload.len());
            return Offer::Nothing;
        }
        if inner.full || inner.closed || !inner.ready || inner.batch.bytes() >= MAX_BATCH {
            return Offer::Full;
        }
        let hash = || self.hasher.hash_one((message.topic, message.payload));
        if let Some(key) = message.packet
            && message.duplicate
            && inner.deliveries.knows(key, hash())
        {
            count(&self.metrics, "duplicate");
            return Offer::Ticket(if inner.batch.is_empty() { inner.filling - 1 } else { inner.filling });
        }
        let was_empty = inner.batch.is_empty();
        let clock = &self.clock;
        let stamp = inner.batch.stamp(|| clock.now());
        inner.decoded.clear();
        inner.decoder.decode(message.topic, message.payload, stamp.wall, &mut inner.decoded);
        let span = Followed::message();
        let kept = self.keep(inner, message, &stamp);
        if let (Some(first), Some(span)) = (kept.first, &span) {
            self.follow(inner, first, &stamp, span);
        }
        let rejected = !inner.decoded.rejections.is_empty();
        if rejected {
            self.count_rejections(inner, message.topic, message.payload.len());
        }
        count(
            &self.metrics,
            match (kept.first.is_some(), rejected) {
                (true, false) => "accepted",
                (true, true) => "partial",
                (false, _) => "rejected",
            },
        );
        if let Some((session, packet)) = message.packet
            && kept.undated
        {
            let hash = hash();
            inner.deliveries.remember((session, packet), hash);
            inner.batch.remember(Delivery { session, packet, hash });
        }
        if kept.first.is_none() {
            // Else the next message, whenever it comes, would get the time of this one.
            inner.batch.forget_idle_stamp();
            return Offer::Nothing;
        }
        let (ticket, fills) = (inner.filling, inner.batch.bytes() >= MAX_BATCH / 2);
        drop(guard);
        if was_empty || fills {
            self.offered.notify_one();
        }
        Offer::Ticket(ticket)
    }

    /// Puts the decoded groups into the batch, dated and within the quota.
    fn keep(&self, inner: &mut Inner, message: &Envelope<'_>, stamp: &Stamp) -> Kept {
        let mut kept = Kept::default();
        let Inner { decoder, decoded, batch, speakers, unapproved, sightings, .. } = inner;
        let groups = std::mem::take(&mut decoded.groups);
        for (index, group) in groups.iter().enumerate() {
            // The time of receipt says nothing of when it was measured, and each new subscription brings it again.
            if message.retained && !group.device_time {
                decoded.rejections.push(rejection(Reason::RetainedWithoutTime, group.model, Place::Timestamp));
                continue;
            }
            let serial = decoded.serial(group);
            if !speakers.contains_key(serial) {
                if *unapproved >= self.quota.devices {
                    decoded.rejections.push(rejection(Reason::QuotaExceeded, group.model, Place::Device));
                    continue;
                }
                *unapproved += 1;
                speakers.insert(serial.to_owned(), Speaker::default());
            }
            let Some(speaker) = speakers.get_mut(serial) else { continue };
            let Some(model) = decoder.models().nth(group.model) else { continue };
            let count = group.readings.len() as u64;
            if !speaker.approved {
                let heard = || FirstHeard::of(model.digest, stamp, group.device_time, decoded.readings_of(group));
                if let Some(heard) = speaker.sight(stamp, heard)
                    && sightings.len() < self.quota.devices
                {
                    let (model, serial, topic) =
                        (model.name.to_owned(), serial.to_owned(), message.topic.chars().take(256).collect());
                    sightings.push(Sighted { model, serial, topic, heard });
                }
                if !speaker.wait(count, stamp.wall, &self.quota) {
                    decoded.rejections.push(rejection(Reason::QuotaExceeded, group.model, Place::Device));
                    continue;
                }
            }
            (speaker.active, speaker.heard) = (true, stamp.wall);
            if !group.device_time {
                let shift = speaker.keep_apart(stamp);
                if shift > 0
                    && let Some(readings) = decoded.readings.get_mut(group.readings.clone())
                {
                    readings.iter_mut().for_each(|reading| reading.at = reading.at.plus(shift));
                }
                kept.undated = true;
            }
            batch.push(
                &model.digest,
                model.metrics,
                group.device_time,
                decoded.serial(group),
                decoded.readings_of(group),
            );
            kept.first.get_or_insert(index);
            self.metrics.readings.inc_by(count);
        }
        decoded.groups = groups;
        kept
    }

    /// If the message is sampled, its trace goes on in the proof that has the first reading that was kept of it.
    fn follow(&self, inner: &Inner, group: usize, stamp: &Stamp, span: &Span) {
        let Some(traceparent) = traceparent(span) else { return };
        let Some(group) = inner.decoded.groups.get(group) else { return };
        let Some(model) = inner.decoder.models().nth(group.model) else { return };
        let Some(reading) = inner.decoded.readings_of(group).first() else { return };
        let Some(metric) = model.metrics.get(usize::from(reading.metric)) else { return };
        let sampled = Sampled {
            traceparent,
            ticket: inner.filling,
            stamp: *stamp,
            device_time: group.device_time,
            serial: inner.decoded.serial(group).to_owned(),
            metric: metric.clone(),
            reading: Reading { at: reading.at, value: reading.value },
        };
        self.followed.keep(model.digest, sampled);
    }

    /// Counts a message that a source passed over because it is larger than the source takes: it is to be acknowledged.
    pub fn oversize(&self, topic: &str, bytes: usize) {
        self.refuse_oversize(&mut self.lock(), topic, bytes);
    }

    /// Needs no room and no model: whoever sent it must not send it for ever.
    fn refuse_oversize(&self, inner: &mut Inner, topic: &str, bytes: usize) {
        inner.decoded.clear();
        let (reason, place) = (Reason::OversizePayload, Place::Message);
        inner.decoded.rejections.push(Rejection { reason, model: None, place });
        self.count_rejections(inner, topic, bytes);
        count(&self.metrics, "rejected");
    }

    fn count_rejections(&self, inner: &mut Inner, topic: &str, bytes: usize) {
        for rejection in &inner.decoded.rejections {
            let reason = rejection.reason;
            self.metrics.rejected.get_or_create(&ReasonLabel { reason: reason.name() }).inc();
            let before = inner.rejections.entry(reason).or_default();
            let shown = before.is_multiple_of(SAMPLE_EVERY);
            *before += 1;
            if shown {
                let model =
                    rejection.model.and_then(|model| inner.decoder.models().nth(model)).map_or("", |model| model.name);
                tracing::warn!(
                    topic = topic.chars().take(256).collect::<String>(), bytes, model, reason = reason.name(), place = ?rejection.place,
                    remedy = reason.remedy(), "a message or a part of it is rejected (of each reason one in {SAMPLE_EVERY} is logged)"
                );
            }
        }
    }

    /// Waits until an offer may succeed again. Call it before the offer that is refused would be repeated.
    pub async fn room(&self) {
        let waiting = self.room.notified();
        tokio::pin!(waiting);
        waiting.as_mut().enable();
        {
            let inner = self.lock();
            if !inner.full && inner.ready && !inner.closed && inner.batch.bytes() < MAX_BATCH {
                return;
            }
        }
        waiting.await;
    }

    /// Tells which ticket is durable, as it grows.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.durable.subscribe()
    }

    /// For the committer: waits for the first message of a batch.
    pub async fn offered(&self) {
        self.offered.notified().await;
    }

    /// For the committer: the batch that fills, and its bytes so far.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.lock().batch.bytes()
    }

    /// For the committer: takes what there is and begins the next batch.
    pub fn take(&self) -> Option<Filled> {
        let mut inner = self.lock();
        let earlier = inner.closed_early.pop_front();
        let more = earlier.is_some() && (!inner.batch.is_empty() || !inner.closed_early.is_empty());
        let filled = earlier.or_else(|| inner.finish(&*self.clock));
        drop(inner);
        if more {
            self.offered.notify_one();
        }
        self.room.notify_waiters();
        filled
    }

    /// For the committer: everything up to this batch is durable.
    pub fn committed(&self, number: u64) {
        self.durable.send_replace(number);
        self.metrics.commits.inc();
    }

    /// For the committer: the store takes no more, or does again. What had been taken just before it was full keeps its time to itself:
    /// what comes when there is room again goes into a batch with a time of its own.
    pub fn set_full(&self, full: bool) {
        let mut inner = self.lock();
        if std::mem::replace(&mut inner.full, full) && !full {
            let waited = inner.finish(&*self.clock);
            inner.closed_early.extend(waited);
        }
        drop(inner);
        if !full {
            self.room.notify_waiters();
        }
    }

    /// Takes nothing more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.offered.notify_one();
    }

    /// Whether everything offered is durable.
    #[must_use]
    pub fn drained(&self) -> bool {
        let inner = self.lock();
        inner.batch.is_empty() && inner.closed_early.is_empty() && *self.durable.borrow() + 1 >= inner.filling
    }

    /// Unknown devices since the last call.
    #[must_use]
    pub fn take_sightings(&self) -> Vec<Sighted> {
        std::mem::take(&mut self.lock().sightings)
    }

    /// Gives back sightings that could not be reported, or not yet be dated.
    pub fn return_sightings(&self, sightings: impl IntoIterator<Item = Sighted>) {
        self.lock().sightings.extend(sightings);
    }

    /// Serials that spoke since the last call. Strangers that were silent for long are forgotten, and leave their place to others.
    #[must_use]
    pub fn take_active(&self) -> Vec<String> {
        let now = self.clock.now().wall;
        let mut inner = self.lock();
        let forgotten = |speaker: &Speaker| !speaker.approved && now.since(speaker.heard) > self.quota.keep_ms;
        inner.speakers.retain(|_, speaker| !forgotten(speaker));
        inner.unapproved = inner.speakers.values().filter(|speaker| !speaker.approved).count();
        let speakers = inner.speakers.iter_mut().filter(|(_, speaker)| speaker.active);
        speakers
            .map(|(serial, speaker)| {
                speaker.active = false;
                serial.clone()
            })
            .collect()
    }

    /// What was rejected since the start, by reason.
    #[must_use]
    pub fn rejections(&self) -> Vec<(Reason, u64)> {
        self.lock().rejections.iter().map(|(reason, count)| (*reason, *count)).collect()
    }

    /// A name for an MQTT session, the same after a restart.
    #[must_use]
    pub fn session(&self, client: &str) -> u64 {
        self.hasher.hash_one(client)
    }
}

#[derive(Default)]
struct Kept {
    /// The first group of which something is kept.
    first: Option<usize>,
    /// Something got the time of receipt.
    undated: bool,
}

fn rejection(reason: Reason, model: usize, place: Place) -> Rejection {
    Rejection { reason, model: Some(model), place }
}

fn count(metrics: &Metrics, result: &'static str) {
    metrics.messages.get_or_create(&ResultLabel { result }).inc();
}

/// Jitter between 0 and `limit`, for reconnects.
#[must_use]
pub fn jitter(limit: u64) -> u64 {
    RandomState::new().hash_one(0_u8) % limit.max(1)
}
