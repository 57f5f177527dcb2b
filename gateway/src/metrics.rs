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

use crate::listener::Ending;

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    reason: &'static str,
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
    /// TLS handshakes under way, at both ports.
    pub(crate) handshakes: Gauge,
    /// Connections without a certificate, at both ports.
    pub(crate) strangers: Gauge,
    connections_ended: Family<EndLabels, Counter>,
    streams_ended: Family<EndLabels, Counter>,
    inbox: Family<KindLabels, Counter>,
    batches: Histogram,
    /// Exchanges with other gateways of who was heard that failed.
    pub(crate) presence_failures: Counter,
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
            handshakes: Gauge::default(),
            strangers: Gauge::default(),
            connections_ended: Family::default(),
            streams_ended: Family::default(),
            inbox: Family::default(),
            batches: Histogram::new(sizes),
            presence_failures: Counter::default(),
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
        registry.register("depin_handshakes", "TLS handshakes under way", metrics.handshakes.clone());
        registry.register("depin_stranger_connections", "Connections without a certificate", metrics.strangers.clone());
        registry.register(
            "depin_connections_ended",
            "Connections that the gateway did not take or ended, by reason",
            metrics.connections_ended.clone(),
        );
        registry.register(
            "depin_proof_streams_ended",
            "Streams of proofs that ended, by reason",
            metrics.streams_ended.clone(),
        );
        registry.register("depin_inbox_requests", "Requests for the ledger's inbox by result", metrics.inbox.clone());
        registry.register(
            "depin_presence_exchange_failures",
            "Exchanges with other gateways of who was heard that failed",
            metrics.presence_failures.clone(),
        );
        registry.register("depin_signature_batch_size", "Signatures verified together", metrics.batches.clone());
        metrics
    }

    /// A value for each label, so that a text of all metrics names everything that there is: for the reference.
    pub(crate) fn describe(&self) {
        let result = ResultLabels { result: "", reason: "" };
        drop(self.proofs.get_or_create(&result));
        drop(self.readings.get_or_create(&result));
        let end = EndLabels { reason: "" };
        drop(self.connections_ended.get_or_create(&end));
        drop(self.streams_ended.get_or_create(&end));
        drop(self.inbox.get_or_create(&KindLabels { kind: "", result: "" }));
    }

    pub(crate) fn connection_ended(&self, ending: Ending) {
        self.connections_ended.get_or_create(&EndLabels { reason: ending.name() }).inc();
    }

    /// A stream of proofs ended: `closed` by the agent, of `age`, because the gateway `stopped`, or with a `status`.
    pub(crate) fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&EndLabels { reason }).inc();
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
