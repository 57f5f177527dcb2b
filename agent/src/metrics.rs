//! What the agent counts. No label names a device.

use std::sync::atomic::{AtomicI64, AtomicU64};

use depin_domain::proofs::DropReason;
use depin_identity::Route;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::sealer::GivenUp;

/// Which way a message came and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// `accepted`, `rejected`, `partial`, `duplicate`; `lost`: without QoS, while there was no room.
    pub result: &'static str,
}

/// Why something was rejected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// Name of the reason.
    pub reason: &'static str,
}

/// Which connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PeerLabel {
    /// `broker` or `gateway`.
    pub peer: &'static str,
}

/// Which gateway, as the settings name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndpointLabel {
    /// `https://host:port`.
    pub endpoint: String,
}

impl EndpointLabel {
    /// Of this route.
    #[must_use]
    pub fn of(route: &Route) -> Self {
        Self { endpoint: route.address.clone() }
    }
}

type Count = Counter<u64, AtomicU64>;
type Level = Gauge<i64, AtomicI64>;

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// MQTT messages by result.
    pub messages: Family<ResultLabel, Count>,
    /// Readings taken into the spool.
    pub readings: Count,
    /// Rejected messages and fields by reason.
    pub rejected: Family<ReasonLabel, Count>,
    /// Bytes of the spool on disk.
    pub spool_bytes: Level,
    /// Readings that wait in the spool.
    pub spool_readings: Level,
    /// When the oldest of them came, Unix seconds; 0: none.
    pub spool_oldest: Level,
    /// Group commits.
    pub commits: Count,
    /// Readings sealed into proofs.
    pub sealed: Count,
    /// Readings in proofs without a receipt.
    pub unanswered: Level,
    /// Readings that the ledger accepted.
    pub accepted: Count,
    /// Readings that the ledger did not accept, by reason.
    pub judged: Family<ReasonLabel, Count>,
    /// Receipts taken.
    pub receipts: Count,
    /// Readings given up, by reason; `duplicate`: one of the same metric and time was there.
    pub dropped: Family<ReasonLabel, Count>,
    /// Connections made after the first one.
    pub reconnects: Family<PeerLabel, Count>,
    /// 1 while the stream to the gateway stands. No readiness check: an agent that is cut off still takes telemetry.
    pub connected: Level,
    /// 1 for the gateway to which the stream stands, 0 for those to which it stood.
    pub endpoint: Family<EndpointLabel, Level>,
    /// Connections that did not come about or broke, by gateway.
    pub gateway_failures: Family<EndpointLabel, Count>,
    /// 1 while readings are sealed: the chain is open and the clock agrees with the gateway's.
    pub sealing: Level,
    /// MQTT connections of the own listener.
    pub connections: Level,
}

impl Metrics {
    /// The stream to the gateway stands.
    pub fn connected(&self, route: &Route) {
        self.connected.set(1);
        self.endpoint.get_or_create(&EndpointLabel::of(route)).set(1);
    }

    /// It stands no longer, or never did.
    pub fn disconnected(&self, route: &Route) {
        self.connected.set(0);
        self.sealing.set(0);
        self.endpoint.get_or_create(&EndpointLabel::of(route)).set(0);
    }

    /// Follows what the store gave up since the start.
    pub fn follow_given_up(&self, given_up: &GivenUp) {
        let follow = |family: &Family<ReasonLabel, Count>, reason, total: u64| {
            if total > 0 {
                let counter = family.get_or_create(&ReasonLabel { reason });
                counter.inc_by(total.saturating_sub(counter.get()));
            }
        };
        given_up.by_reason().for_each(|(reason, total)| follow(&self.dropped, dropped_as(reason), total));
    }

    /// Readings that a seal left out because one of the same metric and time was there.
    pub fn count_duplicates(&self, duplicates: u64) {
        if duplicates > 0 {
            self.dropped.get_or_create(&ReasonLabel { reason: "duplicate" }).inc_by(duplicates);
        }
    }

    /// All of them with a value for each label, so that a text of them names everything that there is: for the reference.
    #[must_use]
    pub fn described() -> Registry {
        let (metrics, registry) = Self::registered();
        drop(metrics.messages.get_or_create(&ResultLabel { result: "" }));
        for family in [&metrics.rejected, &metrics.judged, &metrics.dropped] {
            drop(family.get_or_create(&ReasonLabel { reason: "" }));
        }
        drop(metrics.reconnects.get_or_create(&PeerLabel { peer: "" }));
        let endpoint = EndpointLabel { endpoint: String::new() };
        drop(metrics.endpoint.get_or_create(&endpoint));
        drop(metrics.gateway_failures.get_or_create(&endpoint));
        registry
    }

    /// Registers them all under `depin_agent_`.
    #[must_use]
    pub fn registered() -> (Self, Registry) {
        let metrics = Self::default();
        let mut registry = Registry::with_prefix("depin_agent");
        registry.register("messages", "MQTT messages by result", metrics.messages.clone());
        registry.register("readings", "Readings taken into the spool", metrics.readings.clone());
        registry.register(
            "rejected",
            "Messages and fields rejected by the codecs, by reason",
            metrics.rejected.clone(),
        );
        registry.register("spool_bytes", "Bytes of the spool on disk", metrics.spool_bytes.clone());
        registry.register("spool_readings", "Readings that wait in the spool", metrics.spool_readings.clone());
        registry.register(
            "spool_oldest_timestamp_seconds",
            "When the oldest waiting reading came, 0 if none waits",
            metrics.spool_oldest.clone(),
        );
        registry.register("commits", "Group commits of the spool", metrics.commits.clone());
        registry.register("sealed_readings", "Readings sealed into proofs", metrics.sealed.clone());
        registry.register("unanswered_readings", "Readings in proofs without a receipt", metrics.unanswered.clone());
        registry.register("accepted_readings", "Readings that the ledger accepted", metrics.accepted.clone());
        registry.register(
            "judged_rejections",
            "Readings that the ledger did not accept, by reason",
            metrics.judged.clone(),
        );
        registry.register("receipts", "Receipts taken", metrics.receipts.clone());
        registry.register("dropped_readings", "Readings given up, by reason", metrics.dropped.clone());
        registry.register("reconnects", "Connections made again, by peer", metrics.reconnects.clone());
        registry.register("gateway_connected", "1 while the stream to the gateway stands", metrics.connected.clone());
        registry.register(
            "gateway_endpoint",
            "1 for the gateway to which the stream stands, 0 for those to which it stood",
            metrics.endpoint.clone(),
        );
        registry.register(
            "gateway_failures",
            "Connections that did not come about or broke, by gateway",
            metrics.gateway_failures.clone(),
        );
        registry.register(
            "sealing",
            "1 while readings are sealed: connected, the chain is open and the clock agrees with the gateway's",
            metrics.sealing.clone(),
        );
        registry.register("listener_connections", "Connections of the own MQTT listener", metrics.connections.clone());
        (metrics, registry)
    }
}

/// The label of a reason to give readings up.
fn dropped_as(reason: DropReason) -> &'static str {
    match reason {
        DropReason::LimitReached => "limit_reached",
        DropReason::UnapprovedQuota => "unapproved_quota",
        DropReason::Unreadable => "unreadable",
        DropReason::NeverApproved => "never_approved",
    }
}
