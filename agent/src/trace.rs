//! The trace that one reading leaves on its way: from its message here to its append to the ledger.
//!
//! Messages are many and traces few: of each model one sampled message waits until a seal has taken its reading, and the proof that has the
//! reading goes on with its trace. No other proof does: the trace of what was parked, given up or left out as a duplicate ends here.
//! Without a collector nothing is done at all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use depin_domain::{
    ids::{DeviceId, Digest},
    proofs::Reading,
};
use depin_proto::{envelope::decode_section, v1::SignedProof};
use depin_telemetry::trace_context;
use tracing::Span;

use crate::{
    sealer::{Store, View, clock},
    spool::Stamp,
    uplink::seal::Made,
};

/// A sampled message that waits for its proof, by one of its readings.
#[derive(Debug)]
pub(crate) struct Sampled {
    /// The message's span, as a proof carries it.
    pub(crate) traceparent: String,
    /// The message is durable when this is.
    pub(crate) ticket: u64,
    /// Of its batch.
    pub(crate) stamp: Stamp,
    /// Whether the message told the time; else the sealer may correct it.
    pub(crate) device_time: bool,
    pub(crate) serial: String,
    pub(crate) metric: String,
    pub(crate) reading: Reading,
}

impl Sampled {
    /// Whose the reading is and when it was taken, as the sealer sees it; `None`: it enters no proof.
    fn sealed_as(&self, view: &View, clocks: &BTreeMap<u64, i64>) -> Option<(DeviceId, Reading)> {
        let shift = if self.device_time { 0 } else { clock::correction(&self.stamp, clocks)? };
        let at = self.reading.at.plus(shift);
        Some((view.device(&self.serial, at)?.id, Reading { at, ..self.reading }))
    }

    fn is_in(&self, proof: &SignedProof, model: &Digest, device: &DeviceId, reading: &Reading) -> bool {
        let sections = proof.sections.iter().filter_map(|section| decode_section(section).ok());
        let of_device = sections.filter(|section| (&section.device, &section.model) == (device, model));
        let mut series = of_device.flat_map(|section| section.series);
        series.any(|series| series.metric == self.metric && series.readings.contains(reading))
    }
}

/// The sampled messages that wait for their proofs: at most one of each model, because models differ in how long the sealer waits for stragglers.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    waiting: Mutex<HashMap<Digest, Sampled>>,
}

impl Followed {
    /// A span for the message that is taken now.
    pub(crate) fn message() -> Option<Span> {
        trace_context::is_collected().then(|| tracing::info_span!("message"))
    }

    /// A sampled message was taken: it waits for its proof unless another one of its model does.
    pub(crate) fn keep(&self, model: Digest, sampled: Sampled) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).entry(model).or_insert(sampled);
    }

    /// Puts the traces of waiting messages beside the proofs that have their readings. Messages up to `durable` were in the spool when this
    /// seal was made.
    pub(crate) fn lend(&self, made: &mut Made, store: &Store, view: &View, now: &Stamp, durable: u64) {
        let clocks = &store.state().clocks;
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).retain(|model, sampled| {
            let horizon = view.models.get(model).map_or(0, |(_, horizon)| *horizon);
            if now.uptime.saturating_sub(sampled.stamp.uptime) < horizon {
                return true;
            }
            let sealed = sampled.sealed_as(view, clocks).and_then(|(device, reading)| {
                made.proofs.iter_mut().find(|sealed| sampled.is_in(&sealed.proof, model, &device, &reading))
            });
            match sealed {
                Some(sealed) => {
                    // A proof goes on with one trace.
                    if sealed.proof.traceparent.is_empty() {
                        sealed.proof.traceparent = std::mem::take(&mut sampled.traceparent);
                    }
                    false
                }
                // A seal that left nothing ripe in the spool has passed what was durable: the reading enters no proof, or none yet.
                None => made.more || sampled.ticket > durable,
            }
        });
    }
}

/// The span of a proof goes on with the trace that it was lent, and the proof carries the span's on to the ledger: sampled, and beside the signed
/// bytes.
pub(crate) fn go_on(proof: &mut SignedProof, span: &Span) {
    if let Err(error) = trace_context::continue_trace(span, &proof.traceparent) {
        tracing::debug!(%error, "a proof keeps a trace of its own");
    }
    proof.traceparent = trace_context::traceparent(span).unwrap_or_default();
}
