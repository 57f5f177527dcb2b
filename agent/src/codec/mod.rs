//! Codecs: from an MQTT message to readings, by the models' rules.
//!
//! Pure: no clock, no I/O. A [`Decoder`] is made from the models in use and turns (topic, payload, time of receipt) into readings
//! grouped by (model, serial), and a [`Rejection`] for everything that does not become one. One bad field never spoils the good
//! ones beside it; a payload that is not what its codec expects is rejected as a whole. Numbers are taken exactly as written.
//! Payloads are read in a single pass that remembers where the wanted parts are; no tree is built.

mod capture;
mod cbor;
mod compile;
mod evaluate;
mod json;
mod path;
mod senml;
mod timestamp;
pub mod topic;

use std::{ops::Range, sync::Arc};

use depin_domain::{
    ids::Digest,
    model::{Codec, Model},
    proofs::Reason,
    time::Timestamp,
};

use compile::CompiledModel;
pub use compile::ModelProblem;
use evaluate::Scratch;
use topic::{Routes, TopicCache};

/// What one message may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest payload in bytes.
    pub payload_bytes: usize,
    /// Deepest nesting that is followed.
    pub depth: usize,
    /// Most readings that one message gives.
    pub readings: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload_bytes: 256 * 1024, depth: 32, readings: 4096 }
    }
}

/// What messages became. Reused from message to message; [`Decoder::decode`] appends.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Devices that spoke, in the order of the message.
    pub groups: Vec<Group>,
    /// Their readings; each group has a range of these.
    pub readings: Vec<DecodedReading>,
    /// What did not become a reading, and why.
    pub rejections: Vec<Rejection>,
    serials: String,
}

impl Decoded {
    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.readings.clear();
        self.rejections.clear();
        self.serials.clear();
    }

    /// The serial of a group's device.
    #[must_use]
    pub fn serial(&self, group: &Group) -> &str {
        self.serials.get(group.serial.clone()).unwrap_or_default()
    }

    /// A group's readings.
    #[must_use]
    pub fn readings_of(&self, group: &Group) -> &[DecodedReading] {
        self.readings.get(group.readings.clone()).unwrap_or_default()
    }

    fn reject(&mut self, reason: Reason, model: Option<usize>, place: Place) {
        self.rejections.push(Rejection { reason, model, place });
    }
}

/// Readings of one device in one message.
#[derive(Clone, Debug)]
pub struct Group {
    /// Index of the model in [`Decoder::models`].
    pub model: usize,
    /// Whether the payload told the time; else `at` rests on the time of receipt.
    pub device_time: bool,
    /// Range of [`Decoded::readings`].
    pub readings: Range<usize>,
    serial: Range<usize>,
}

/// One value of one metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodedReading {
    /// Index in the model's metrics.
    pub metric: u16,
    /// When it was measured.
    pub at: Timestamp,
    /// At the metric's scale.
    pub value: i64,
}

/// Something of a message that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// Index of the model in [`Decoder::models`]; absent where no model was reached.
    pub model: Option<usize>,
    /// Which part.
    pub place: Place,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// All of it.
    Message,
    /// The device's name.
    Device,
    /// The time.
    Timestamp,
    /// The field with this path.
    Field(Arc<str>),
}

/// Turns messages into readings.
#[derive(Debug)]
pub struct Decoder {
    models: Vec<CompiledModel>,
    routes: Routes,
    cache: TopicCache,
    scratch: Scratch,
    limits: Limits,
}

impl Decoder {
    /// Compiles the models. A source that cannot be used is left out and told; all else works.
    #[must_use]
    pub fn new(models: &[(Digest, Model)], limits: Limits) -> (Self, Vec<ModelProblem>) {
        let mut problems = Vec::new();
        let mut routes = Routes::default();
        let mut compiled = Vec::with_capacity(models.len());
        for (index, (digest, model)) in models.iter().enumerate() {
            let model = CompiledModel::new(*digest, model, &mut problems);
            for (source, rules) in model.sources.iter().enumerate() {
                routes.insert(&rules.filter, topic::Route { model: index, source });
            }
            compiled.push(model);
        }
        (Self { models: compiled, routes, cache: TopicCache::default(), scratch: Scratch::default(), limits }, problems)
    }

    /// The models, in the order in which groups and rejections count them.
    pub fn models(&self) -> impl ExactSizeIterator<Item = ModelInUse<'_>> {
        self.models.iter().map(|model| ModelInUse { digest: model.digest, name: &model.name, metrics: &model.metrics })
    }

    /// All topic filters of all models, each once.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        let mut filters: Vec<_> =
            self.models.iter().flat_map(|model| model.sources.iter().map(|source| source.filter.clone())).collect();
        filters.sort();
        filters.dedup();
        filters
    }

    /// Appends to `out` what the message means. `received` dates what carries no time of its own.
    pub fn decode(&mut self, topic: &str, payload: &[u8], received: Timestamp, out: &mut Decoded) {
        let routes = self.cache.find(&self.routes, topic);
        if routes.is_empty() {
            out.reject(Reason::UnknownTopic, None, Place::Message);
            return;
        }
        if payload.len() > self.limits.payload_bytes {
            out.reject(Reason::OversizePayload, None, Place::Message);
            return;
        }
        let message = Message { topic, payload, received, limits: self.limits };
        for route in routes.iter() {
            let Some(model) = self.models.get_mut(route.model) else { continue };
            let Some(source) = model.sources.get_mut(route.source) else { continue };
            let outcome = match source.codec {
                Codec::Json => evaluate::document(&message, source, route.model, json::scan, &mut self.scratch, out),
                Codec::Cbor => evaluate::document(&message, source, route.model, cbor::scan, &mut self.scratch, out),
                Codec::Plain => evaluate::plain(&message, source, route.model, out),
                Codec::SenmlJson => senml::decode(&message, source, route.model, json::scan, &mut self.scratch, out),
                Codec::SenmlCbor => senml::decode(&message, source, route.model, cbor::scan, &mut self.scratch, out),
            };
            if let Err(reason) = outcome {
                out.reject(reason, Some(route.model), Place::Message);
            }
        }
    }
}

/// A model as the agent uses it.
#[derive(Clone, Copy, Debug)]
pub struct ModelInUse<'a> {
    /// Names it in the spool and in sections.
    pub digest: Digest,
    /// Name of the EdgeDeviceModel.
    pub name: &'a str,
    /// Names of its metrics, by the index that readings carry.
    pub metrics: &'a [String],
}

/// What is being decoded.
struct Message<'a> {
    topic: &'a str,
    payload: &'a [u8],
    received: Timestamp,
    limits: Limits,
}

#[cfg(test)]
mod tests;
