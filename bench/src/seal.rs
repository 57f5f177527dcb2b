//! Proofs sealed beforehand, as an agent would seal them.

use anyhow::{Context as _, Result};
use depin_domain::{
    ids::{DeviceId, Digest},
    model::Attestation,
    proofs::{Header, Reading, Section, Series},
    time::{Timestamp, Window},
};
use depin_identity::SigningKey;
use depin_proto::{
    convert::id_bytes,
    envelope::{body_root, encode_header, encode_section, proof_signing_input},
    v1::SignedProof,
};

use crate::network::NAMESPACE;

/// The chain of one agent's key, and readings for its devices.
pub(crate) struct Chain {
    pub(crate) key: SigningKey,
    /// Incarnation and version of the registry that the agent knows.
    pub(crate) registry: (u64, u64),
    model: Digest,
    devices: Vec<DeviceId>,
    sequence: u64,
    previous: Digest,
    /// Time of the next reading of each device.
    next: Timestamp,
}

impl Chain {
    pub(crate) fn new(key: SigningKey, registry: (u64, u64), model: Digest, devices: &[String], begin: i64) -> Self {
        let devices = devices.iter().map(|name| DeviceId::of(NAMESPACE, name)).collect();
        Self { key, registry, model, devices, sequence: 0, previous: Digest::default(), next: Timestamp(begin) }
    }

    /// The next proof: so many readings, `step` milliseconds apart, of every device.
    pub(crate) fn seal(&mut self, readings: i64, step: i64) -> Result<SignedProof> {
        let start = self.next;
        let end = start.plus(readings * step);
        let value = |at: Timestamp| 1_000 + at.0 / step % 997;
        let series = |_: &DeviceId| Series {
            metric: "power".into(),
            readings: (0..readings)
                .map(|number| start.plus(number * step))
                .map(|at| Reading { at, value: value(at) })
                .collect(),
        };
        let section = |device: &DeviceId| Section {
            device: *device,
            model: self.model,
            attestation: Attestation::Agent,
            series: vec![series(device)],
        };
        let sections = self.devices.iter().map(|device| encode_section(&section(device)));
        let sections: Vec<_> = sections.collect::<Result<_, _>>().ok().context("a section cannot be encoded")?;
        self.sequence += 1;
        let header = encode_header(&Header {
            key: self.key.id(),
            incarnation: 1,
            sequence: self.sequence,
            previous: self.previous,
            registry_incarnation: self.registry.0,
            registry_version: self.registry.1,
            sealed_at: end,
            window: Window { start, end },
            drops: Vec::new(),
            sections: u32::try_from(sections.len())?,
            body: body_root(&sections),
        })?;
        self.previous = Digest::of(&header);
        self.next = end;
        let signature = self.key.sign(&proof_signing_input(&header));
        Ok(SignedProof {
            header: header.into(),
            signature: signature.to_vec().into(),
            algorithm: 1,
            key_id: id_bytes(self.key.id()),
            sections: sections.into_iter().map(Into::into).collect(),
            traceparent: String::new(),
        })
    }
}
