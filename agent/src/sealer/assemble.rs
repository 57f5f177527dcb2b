//! Sections and proofs from readings.
//!
//! Readings are grouped by device, model and metric and sorted by time; where two stand at the same time, the first one taken counts and
//! the other is a duplicate. A proof has at most one section of a device; what does not fit goes into the next one.

use std::collections::HashMap;

use depin_domain::{
    ids::{DeviceId, Digest, KeyId},
    model::Attestation,
    proofs::{Drop, Header, Reading, Section, Series},
    time::{Timestamp, Window},
};
use depin_proto::{
    envelope::{EnvelopeError, body_root, encode_header, encode_section, proof_signing_input},
    v1::SignedProof,
};

/// Readings gathered for sealing, their names kept once.
#[derive(Debug, Default)]
pub struct Gathered {
    devices: Vec<DeviceId>,
    device_index: HashMap<DeviceId, u32>,
    models: Vec<Digest>,
    metrics: Vec<String>,
    rows: Vec<Row>,
}

/// Sorts by device, model, metric, time, and order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    device: u32,
    model: u16,
    metric: u16,
    at: Timestamp,
    order: u32,
    value: i64,
}

impl Gathered {
    /// How many readings it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Index under which a device's readings are pushed.
    pub fn device(&mut self, device: DeviceId) -> u32 {
        if let Some(index) = self.device_index.get(&device) {
            return *index;
        }
        let index = u32::try_from(self.devices.len()).unwrap_or(u32::MAX);
        self.devices.push(device);
        self.device_index.insert(device, index);
        index
    }

    /// Index of a model.
    pub fn model(&mut self, model: Digest) -> u16 {
        index_of(&mut self.models, &model, |model| *model)
    }

    /// Index of a metric's name.
    pub fn metric(&mut self, metric: &str) -> u16 {
        index_of(&mut self.metrics, metric, str::to_owned)
    }

    /// Adds a reading.
    pub fn push(&mut self, device: u32, model: u16, metric: u16, at: Timestamp, value: i64) {
        let order = u32::try_from(self.rows.len()).unwrap_or(u32::MAX);
        self.rows.push(Row { device, model, metric, at, order, value });
    }

    /// Takes a sealed section's readings back.
    pub fn push_section(&mut self, section: &Section) {
        let (device, model) = (self.device(section.device), self.model(section.model));
        for series in &section.series {
            let metric = self.metric(&series.metric);
            for reading in &series.readings {
                self.push(device, model, metric, reading.at, reading.value);
            }
        }
    }

    /// The sections, each with at most `limit` readings; and how many duplicates were left out.
    fn sections(mut self, limit: usize) -> (Vec<Section>, u64) {
        self.rows.sort_unstable();
        let before = self.rows.len();
        self.rows.dedup_by_key(|row| (row.device, row.model, row.metric, row.at));
        let duplicates = (before - self.rows.len()) as u64;
        let mut sections: Vec<Section> = Vec::new();
        for of_device in self.rows.chunk_by(|a, b| (a.device, a.model) == (b.device, b.model)) {
            for part in of_device.chunks(limit.max(1)) {
                sections.extend(self.section(part));
            }
        }
        (sections, duplicates)
    }

    fn section(&self, rows: &[Row]) -> Option<Section> {
        let first = rows.first()?;
        let mut series: Vec<Series> = rows
            .chunk_by(|a, b| a.metric == b.metric)
            .filter_map(|rows| {
                let metric = self.metrics.get(usize::from(rows.first()?.metric))?.clone();
                let readings = rows.iter().map(|row| Reading { at: row.at, value: row.value }).collect();
                Some(Series { metric, readings })
            })
            .collect();
        series.sort_by(|a, b| a.metric.cmp(&b.metric));
        let device = *self.devices.get(usize::try_from(first.device).ok()?)?;
        let model = *self.models.get(usize::from(first.model))?;
        Some(Section { device, model, attestation: Attestation::Agent, series })
    }
}

fn index_of<T: std::borrow::Borrow<Q>, Q: PartialEq + ?Sized>(
    known: &mut Vec<T>,
    wanted: &Q,
    own: impl Fn(&Q) -> T,
) -> u16 {
    // A handful of models and metrics: a list is faster than a map.
    let index = known.iter().position(|item| item.borrow() == wanted).unwrap_or_else(|| {
        known.push(own(wanted));
        known.len() - 1
    });
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// How large a proof may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofLimits {
    /// Header, signature and sections together.
    pub bytes: usize,
    /// Devices.
    pub sections: usize,
    /// Readings.
    pub readings: usize,
}

impl Default for ProofLimits {
    fn default() -> Self {
        Self { bytes: 512 * 1024, sections: 4_096, readings: 65_536 }
    }
}

/// Where a chain goes on.
#[derive(Clone, Debug)]
pub struct Position {
    /// The signing key.
    pub key: KeyId,
    /// Of the chain.
    pub incarnation: u64,
    /// Of the next proof.
    pub next_sequence: u64,
    /// Digest of the header before.
    pub previous: Digest,
    /// The registry that the agent applied: ledger incarnation and version.
    pub registry: (u64, u64),
    /// The agent's clock.
    pub sealed_at: Timestamp,
}

/// A proof, signed, with what the journal keeps of it.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// As it is sent.
    pub proof: SignedProof,
    /// In its chain.
    pub sequence: u64,
    /// SHA-256 of its header.
    pub digest: Digest,
    /// How many readings it has.
    pub readings: u64,
}

/// The result of one seal.
#[derive(Debug)]
pub struct Assembled {
    /// In order.
    pub proofs: Vec<Sealed>,
    /// Where the chain goes on after them.
    pub next: Position,
    /// Readings left out because one of the same time was there.
    pub duplicates: u64,
}

/// Bytes of a header without drops, and of a signature, with room to spare.
const OVERHEAD: usize = 512;

/// Seals everything gathered. Where there is nothing but drops to tell, one proof without sections tells them.
pub fn assemble(
    gathered: Gathered,
    drops: &[Drop],
    position: Position,
    limits: &ProofLimits,
    sign: &dyn Fn(&[u8]) -> [u8; 64],
) -> Result<Assembled, EnvelopeError> {
    // A reading takes at most 20 bytes, a series 90: a section of this many readings fits every proof.
    let per_section = limits.readings.min(limits.bytes.saturating_sub(OVERHEAD) / 110).max(1);
    let (sections, duplicates) = gathered.sections(per_section);
    let mut next = position;
    let mut proofs = Vec::new();
    let mut drops = drops;
    let mut waiting = sections;
    while !waiting.is_empty() || !drops.is_empty() {
        let mut packed = Packed { bytes: OVERHEAD + 29 * drops.len(), ..Packed::default() };
        let mut left = Vec::new();
        for section in waiting {
            if packed.full {
                left.push(section);
            } else if let Some(section) = packed.take(section, limits)? {
                left.push(section);
            }
        }
        waiting = left;
        proofs.push(packed.seal(drops, &mut next, sign)?);
        drops = &[];
    }
    Ok(Assembled { proofs, next, duplicates })
}

#[derive(Default)]
struct Packed {
    sections: Vec<bytes::Bytes>,
    last_device: Option<DeviceId>,
    window: Option<(Timestamp, Timestamp)>,
    readings: usize,
    bytes: usize,
    full: bool,
}

impl Packed {
    /// Takes the section, or gives it back: its device has one here already, or the proof is full.
    fn take(&mut self, section: Section, limits: &ProofLimits) -> Result<Option<Section>, EnvelopeError> {
        // Sections come sorted by device, so only the last one can be of the same.
        if self.last_device == Some(section.device) {
            return Ok(Some(section));
        }
        let readings: usize = section.series.iter().map(|series| series.readings.len()).sum();
        let encoded = encode_section(&section)?;
        let fits = self.bytes + encoded.len() + 8 <= limits.bytes
            && self.readings + readings <= limits.readings
            && self.sections.len() < limits.sections;
        // One section always fits: a proof that the gateway finds too large is sealed anew with lower limits.
        if !fits && !self.sections.is_empty() {
            self.full = true;
            return Ok(Some(section));
        }
        for series in &section.series {
            for edge in [series.readings.first(), series.readings.last()].into_iter().flatten() {
                let (first, last) = self.window.unwrap_or((edge.at, edge.at));
                self.window = Some((first.min(edge.at), last.max(edge.at)));
            }
        }
        self.bytes += encoded.len() + 8;
        self.readings += readings;
        self.last_device = Some(section.device);
        self.sections.push(encoded.into());
        Ok(None)
    }

    fn seal(
        self,
        drops: &[Drop],
        next: &mut Position,
        sign: &dyn Fn(&[u8]) -> [u8; 64],
    ) -> Result<Sealed, EnvelopeError> {
        let window = self.window.map_or(Window::default(), |(first, last)| Window { start: first, end: last.plus(1) });
        let header = encode_header(&Header {
            key: next.key,
            incarnation: next.incarnation,
            sequence: next.next_sequence,
            previous: next.previous,
            registry_incarnation: next.registry.0,
            registry_version: next.registry.1,
            sealed_at: next.sealed_at,
            window,
            drops: drops.to_vec(),
            sections: u32::try_from(self.sections.len()).unwrap_or(u32::MAX),
            body: body_root(&self.sections),
        })?;
        let signature = sign(&proof_signing_input(&header));
        let digest = Digest::of(&header);
        let sequence = next.next_sequence;
        next.next_sequence += 1;
        next.previous = digest;
        let proof = SignedProof {
            header: header.into(),
            signature: signature.to_vec().into(),
            algorithm: 1,
            key_id: next.key.0.to_vec().into(),
            sections: self.sections,
            traceparent: String::new(),
        };
        Ok(Sealed { proof, sequence, digest, readings: self.readings as u64 })
    }
}
