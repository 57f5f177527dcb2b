//! One record of the spool: the readings of one group commit.
//!
//! Layout (integers are varints, signed ones zigzag): version 1 byte · boot 8 bytes · uptime · wall · count of models, each: digest 32 bytes,
//! count of metric names, each length and text · count of deliveries, each: session 8 bytes, packet id, payload hash 8 bytes · groups to the
//! end, each: model index × 2 + (1 if the device told the time), serial length and text, count of readings, each: metric index, time minus wall, value.

use depin_domain::{ids::Digest, time::Timestamp};

use super::{
    Stamp,
    varint::{Reader, put, put_signed},
};
use crate::codec::DecodedReading;

const VERSION: u8 = 1;

/// A QoS 1 message whose payload told no time: remembered until it is acknowledged, so that its redelivery is not a second reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Names the MQTT session.
    pub session: u64,
    /// The packet identifier in that session.
    pub packet: u16,
    /// Hash of topic and payload.
    pub hash: u64,
}

/// A record under way.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    stamp: Option<Stamp>,
    models: Vec<(Digest, Vec<u8>)>,
    deliveries: Vec<u8>,
    delivery_count: u64,
    groups: Vec<u8>,
    readings: u64,
}

impl BatchBuilder {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.readings == 0 && self.delivery_count == 0
    }

    /// Bytes so far, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.groups.len() + self.deliveries.len()
    }

    /// Readings so far.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.readings
    }

    /// The stamp of this record, taken with its first message.
    pub fn stamp(&mut self, now: impl FnOnce() -> Stamp) -> Stamp {
        *self.stamp.get_or_insert_with(now)
    }

    /// Without a message that was kept there is no first message either: the stamp is taken anew with the next one.
    pub fn forget_idle_stamp(&mut self) {
        if self.is_empty() {
            self.stamp = None;
        }
    }

    /// Adds one device's readings. The stamp must have been taken.
    pub fn push(
        &mut self,
        model: &Digest,
        metrics: &[String],
        device_time: bool,
        serial: &str,
        readings: &[DecodedReading],
    ) {
        let index = self.models.iter().position(|(digest, _)| digest == model).unwrap_or_else(|| {
            let mut names = Vec::new();
            put(&mut names, metrics.len() as u64);
            for name in metrics {
                put(&mut names, name.len() as u64);
                names.extend(name.as_bytes());
            }
            self.models.push((*model, names));
            self.models.len() - 1
        });
        let wall = self.stamp.unwrap_or_default().wall.0;
        put(&mut self.groups, (index as u64) << 1 | u64::from(device_time));
        put(&mut self.groups, serial.len() as u64);
        self.groups.extend(serial.as_bytes());
        put(&mut self.groups, readings.len() as u64);
        for reading in readings {
            put(&mut self.groups, u64::from(reading.metric));
            put_signed(&mut self.groups, reading.at.0.wrapping_sub(wall));
            put_signed(&mut self.groups, reading.value);
        }
        self.readings += readings.len() as u64;
    }

    /// Remembers a message until it is acknowledged.
    pub fn remember(&mut self, delivery: Delivery) {
        self.deliveries.extend(delivery.session.to_le_bytes());
        put(&mut self.deliveries, u64::from(delivery.packet));
        self.deliveries.extend(delivery.hash.to_le_bytes());
        self.delivery_count += 1;
    }

    /// The record; the builder is empty afterwards.
    pub fn finish(&mut self) -> Vec<u8> {
        let stamp = self.stamp.take().unwrap_or_default();
        let mut out = Vec::with_capacity(self.bytes() + 256);
        out.push(VERSION);
        out.extend(stamp.boot.to_le_bytes());
        put_signed(&mut out, stamp.uptime);
        put_signed(&mut out, stamp.wall.0);
        put(&mut out, self.models.len() as u64);
        for (digest, names) in self.models.drain(..) {
            out.extend(digest.0);
            out.extend(names);
        }
        put(&mut out, self.delivery_count);
        out.append(&mut self.deliveries);
        out.append(&mut self.groups);
        self.delivery_count = 0;
        self.readings = 0;
        out
    }
}

/// A record of the spool is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the spool record is of another format version or damaged")]
pub struct BatchError;

/// One reading of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredReading {
    /// Index in the model's metric names.
    pub metric: u16,
    /// As it was taken.
    pub at: Timestamp,
    /// At the metric's scale.
    pub value: i64,
}

/// One device's readings of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGroup {
    /// Index in [`Batch::models`].
    pub model: usize,
    /// Whether the device told the time.
    pub device_time: bool,
    /// Of the device.
    pub serial: String,
    /// In the order of the message.
    pub readings: Vec<StoredReading>,
}

/// A record, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The clocks when its first message came.
    pub stamp: Stamp,
    /// Digests and metric names of the models that its groups count.
    pub models: Vec<(Digest, Vec<String>)>,
    /// Messages that must not count again when they are delivered again.
    pub deliveries: Vec<Delivery>,
    /// What the devices said.
    pub groups: Vec<StoredGroup>,
}

impl Batch {
    /// Reads a record.
    pub fn read(record: &[u8]) -> Result<Self, BatchError> {
        read(&mut Reader(record)).ok_or(BatchError)
    }

    /// How many readings it has.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.groups.iter().map(|group| group.readings.len() as u64).sum()
    }
}

fn word(reader: &mut Reader<'_>) -> Option<u64> {
    reader.bytes(8)?.try_into().ok().map(u64::from_le_bytes)
}

fn read(reader: &mut Reader<'_>) -> Option<Batch> {
    if reader.byte()? != VERSION {
        return None;
    }
    let boot = word(reader)?;
    let stamp = Stamp { boot, uptime: reader.signed()?, wall: Timestamp(reader.signed()?) };
    let mut models = Vec::new();
    for _ in 0..reader.unsigned()? {
        let digest = Digest::from_slice(reader.bytes(32)?)?;
        let mut names = Vec::new();
        for _ in 0..reader.unsigned()? {
            names.push(reader.text()?.to_owned());
        }
        models.push((digest, names));
    }
    let mut deliveries = Vec::new();
    for _ in 0..reader.unsigned()? {
        let session = word(reader)?;
        let packet = u16::try_from(reader.unsigned()?).ok()?;
        deliveries.push(Delivery { session, packet, hash: word(reader)? });
    }
    let mut groups = Vec::new();
    while !reader.0.is_empty() {
        groups.push(group(reader, &models, stamp.wall.0)?);
    }
    Some(Batch { stamp, models, deliveries, groups })
}

fn group(reader: &mut Reader<'_>, models: &[(Digest, Vec<String>)], wall: i64) -> Option<StoredGroup> {
    let head = reader.unsigned()?;
    let model = usize::try_from(head >> 1).ok()?;
    let metrics = models.get(model)?.1.len();
    let serial = reader.text()?.to_owned();
    let count = reader.length()?;
    let mut readings = Vec::with_capacity(count.min(reader.0.len() / 3));
    for _ in 0..count {
        let metric = u16::try_from(reader.unsigned()?).ok().filter(|metric| usize::from(*metric) < metrics)?;
        let at = Timestamp(reader.signed()?.wrapping_add(wall));
        readings.push(StoredReading { metric, at, value: reader.signed()? });
    }
    Some(StoredGroup { model, device_time: head & 1 == 1, serial, readings })
}

#[cfg(test)]
mod tests {
    use depin_trials::{RngCore as _, below};

    use super::*;

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        depin_trials::run("spool records", |rng| {
            let mut builder = BatchBuilder::default();
            let stamp = Stamp { boot: rng.next_u64(), uptime: 5, wall: Timestamp(rng.next_u64().cast_signed()) };
            assert_eq!(builder.stamp(|| stamp), stamp);
            let metrics = ["a".to_owned(), "power".to_owned()];
            let mut groups = Vec::new();
            for index in 0..below(rng, 5) {
                let readings: Vec<_> = (0..below(rng, 4))
                    .map(|metric| DecodedReading {
                        metric: u16::try_from(metric % 2).unwrap(),
                        at: Timestamp(rng.next_u64().cast_signed()),
                        value: rng.next_u64().cast_signed(),
                    })
                    .collect();
                let model = usize::try_from(below(rng, 2)).unwrap();
                builder.push(&Digest([model.to_le_bytes()[0]; 32]), &metrics, index % 2 == 0, "s", &readings);
                groups.push(readings);
            }
            let delivery = Delivery { session: rng.next_u64(), packet: 7, hash: 9 };
            builder.remember(delivery);
            let record = builder.finish();
            assert!(builder.is_empty());
            let batch = Batch::read(&record).unwrap();
            assert_eq!((batch.stamp, batch.deliveries.as_slice()), (stamp, &[delivery][..]));
            assert_eq!(batch.groups.len(), groups.len());
            for (stored, pushed) in batch.groups.iter().zip(&groups) {
                let same = stored
                    .readings
                    .iter()
                    .zip(pushed)
                    .all(|(a, b)| (a.metric, a.at, a.value) == (b.metric, b.at, b.value));
                assert!(same && stored.readings.len() == pushed.len());
            }
            // Any damage is an error or another record, never a panic.
            let mut damaged = record;
            let at = usize::try_from(below(rng, damaged.len() as u64)).unwrap();
            damaged[at] ^= 1 << below(rng, 8);
            let _ = Batch::read(&damaged);
            damaged.truncate(at);
            let _ = Batch::read(&damaged);
        });
    }
}
