//! What two gateways know of the same agent or device, as one.

use depin_proto::v1::{AgentPresence, DevicePresence};

/// An agent has one connection at a time but may just have changed: the newest word counts.
pub(super) fn merge_agents(known: &mut AgentPresence, told: AgentPresence) {
    known.connected |= told.connected;
    known.last_heard = known.last_heard.max(told.last_heard);
    known.confirmed_registry_version = known.confirmed_registry_version.max(told.confirmed_registry_version);
    known.sent_registry_version = known.sent_registry_version.max(told.sent_registry_version);
    if told.status.is_some() && (known.status.is_none() || told.status_at > known.status_at) {
        known.status = told.status;
        known.status_at = told.status_at;
    }
}

/// Counts are since each gateway's start.
pub(super) fn merge_devices(known: &mut DevicePresence, told: DevicePresence) {
    let newer = told.last_accepted > known.last_accepted;
    if told.last_rejection != 0 && (known.last_rejection == 0 || newer) {
        known.last_rejection = told.last_rejection;
        known.last_rejection_detail = told.last_rejection_detail;
    }
    known.last_accepted = known.last_accepted.max(told.last_accepted);
    known.last_reading = known.last_reading.max(told.last_reading);
    known.accepted += told.accepted;
    known.rejected += told.rejected;
}
