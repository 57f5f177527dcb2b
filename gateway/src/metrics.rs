//! What the gateway counts. No label names a device or an agent.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use depin_domain::proofs::Reason;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
    result: &'static str,
}

/// The gateway's counters.
#[derive(Debug)]
pub(crate) struct Metrics {
    proofs: Family<ResultLabels, Counter>,
    readings: Family<ResultLabels, Counter>,
    receipt_latency: Histogram,
    /// Open streams of proofs.
    pub(crate) streams: Gauge,
    /// Open configuration watches.
    pub(crate) watches: Gauge,
    inbox: Family<KindLabels, Counter>,
    batches: Histogram,
    /// Refused proofs by reason code, as the ledger's service tells them too.
    refused: Mutex<BTreeMap<u16, u64>>,
}

const ANSWERED: &str = "";

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let latency = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let sizes = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0];
        let metrics = Self {
            proofs: Family::default(),
            readings: Family::default(),
            receipt_latency: Histogram::new(latency),
            streams: Gauge::default(),
            watches: Gauge::default(),
            inbox: Family::default(),
            batches: Histogram::new(sizes),
            refused: Mutex::default(),
        };
        registry.register("depin_proofs", "Proofs by outcome", metrics.proofs.clone());
        registry.register("depin_readings", "Judged readings by result", metrics.readings.clone());
        registry.register(
            "depin_receipt_latency_seconds",
            "From a proof's arrival to its receipt's departure",
            metrics.receipt_latency.clone(),
        );
        registry.register("depin_proof_streams", "Open streams of proofs", metrics.streams.clone());
        registry.register("depin_configuration_watches", "Open configuration watches", metrics.watches.clone());
        registry.register("depin_inbox_requests", "Requests for the ledger's inbox by result", metrics.inbox.clone());
        registry.register("depin_signature_batch_size", "Signatures verified together", metrics.batches.clone());
        metrics
    }

    pub(crate) fn judged(&self, repeated: bool, latency: Duration) {
        let result = if repeated { "repeated" } else { "judged" };
        self.proofs.get_or_create(&ResultLabels { result, reason: ANSWERED }).inc();
        self.receipt_latency.observe(latency.as_secs_f64());
    }

    pub(crate) fn deferred(&self, reason: Reason) {
        self.proofs.get_or_create(&ResultLabels { result: "deferred", reason: reason.name() }).inc();
    }

    pub(crate) fn refused(&self, reason: Reason) {
        self.proofs.get_or_create(&ResultLabels { result: "refused", reason: reason.name() }).inc();
        // A poisoned lock still holds counters.
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(reason.code()).or_default() += 1;
    }

    pub(crate) fn accepted_readings(&self, count: u64) {
        self.readings.get_or_create(&ResultLabels { result: "accepted", reason: ANSWERED }).inc_by(count);
    }

    pub(crate) fn rejected_readings(&self, reason: Reason, count: u64) {
        self.readings.get_or_create(&ResultLabels { result: "rejected", reason: reason.name() }).inc_by(count);
    }

    pub(crate) fn inbox(&self, kind: &'static str, result: &'static str) {
        self.inbox.get_or_create(&KindLabels { kind, result }).inc();
    }

    pub(crate) fn batch(&self, signatures: usize) {
        self.batches.observe(signatures as f64);
    }

    /// Refused proofs by reason code.
    pub(crate) fn refusals(&self) -> BTreeMap<u16, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Counts one more as long as it lives.
pub(crate) struct Held(Gauge);

impl Held {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}
