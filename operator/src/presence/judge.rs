//! Who is online, with hysteresis. Pure.
//!
//! An agent that is lost is told once, on the agent; its devices follow only after a long absence, so that a site whose uplink
//! blinks costs one write, not a thousand.

use depin_domain::time::Timestamp;

/// How long silence may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// An agent that is not connected is lost after this.
    pub agent_ms: i64,
    /// A device whose agent is connected is lost after so many of its cadences,
    pub cadences: i64,
    /// but not before this.
    pub device_ms: i64,
    /// A device whose agent is lost is lost after this.
    pub absence_ms: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { agent_ms: 60_000, cadences: 5, device_ms: 120_000, absence_ms: 900_000 }
    }
}

/// What is known of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentSeen {
    /// It has a stream.
    pub connected: bool,
    /// When it was last heard.
    pub heard: Timestamp,
}

/// Whether the agent is online; none where what was said before stands.
#[must_use]
pub fn agent(seen: AgentSeen, was: Option<bool>, now: Timestamp, limits: &Thresholds) -> Option<bool> {
    let silent = now.since(seen.heard);
    match was {
        _ if seen.connected => Some(true),
        Some(true) | None if silent > limits.agent_ms => Some(false),
        // Heard lately without a stream: coming or going. What was said stands.
        _ => None,
    }
}

/// Whether a device is online; none where what was said before stands. `heard`: the newest proof with an accepted reading.
#[must_use]
pub fn device(
    heard: Option<Timestamp>,
    agent_online: bool,
    cadence_ms: i64,
    was: Option<bool>,
    now: Timestamp,
    limits: &Thresholds,
) -> Option<bool> {
    let heard = heard?;
    let silent = now.since(heard);
    let patience = limits.device_ms.max(cadence_ms.saturating_mul(limits.cadences));
    let lost = if agent_online { patience } else { limits.absence_ms.max(patience) };
    match was {
        Some(true) => (silent > lost).then_some(false),
        // Coming back needs to be fresher than staying does.
        Some(false) | None if silent <= patience / 2 => Some(true),
        None if silent > lost => Some(false),
        Some(false) | None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Thresholds = Thresholds { agent_ms: 60_000, cadences: 5, device_ms: 120_000, absence_ms: 900_000 };

    #[test]
    fn an_agent_is_online_while_connected_and_lost_after_a_minute() {
        let seen = |connected| AgentSeen { connected, heard: Timestamp(0) };
        assert_eq!(agent(seen(true), None, Timestamp(500_000), &LIMITS), Some(true));
        assert_eq!(agent(seen(false), Some(true), Timestamp(60_000), &LIMITS), None);
        assert_eq!(agent(seen(false), Some(true), Timestamp(60_001), &LIMITS), Some(false));
        assert_eq!(agent(seen(false), Some(false), Timestamp(99_999_999), &LIMITS), None);
    }

    #[test]
    fn a_devices_silence_is_measured_by_its_cadence() {
        let at = |ms| Timestamp(ms);
        let say = |cadence, was, now| device(Some(at(0)), true, cadence, was, at(now), &LIMITS);
        assert_eq!(say(10_000, Some(true), 120_000), None);
        assert_eq!(say(10_000, Some(true), 120_001), Some(false));
        assert_eq!(say(3_600_000, Some(true), 120_001), None, "an hourly device is silent most of the time");
        assert_eq!(say(10_000, Some(false), 30_000), Some(true));
        assert_eq!(say(10_000, Some(false), 90_000), None, "too stale to come back");
        assert_eq!(device(None, true, 10_000, None, at(0), &LIMITS), None, "never heard");
    }

    #[test]
    fn devices_of_a_lost_agent_follow_only_after_a_long_absence() {
        let say = |now| device(Some(Timestamp(0)), false, 10_000, Some(true), Timestamp(now), &LIMITS);
        assert_eq!(say(899_000), None);
        assert_eq!(say(900_001), Some(false));
    }
}
