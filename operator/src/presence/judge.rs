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
    /// An agent that is connected shall confirm within this what it was sent.
    pub confirmation_ms: i64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { agent_ms: 60_000, cadences: 5, device_ms: 120_000, absence_ms: 900_000, confirmation_ms: 600_000 }
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

/// Versions of the registry: what an agent was sent, and what it said that it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The newest of which it was sent what concerns it.
    pub sent: u64,
    /// The newest that it confirmed.
    pub confirmed: u64,
}

/// A version that a connected agent was sent and has not confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    version: u64,
    since: Timestamp,
}

/// Whether an agent goes by what it was sent; none where what was said before stands. `seen`: none while it is not connected, since
/// then it can confirm nothing. `lag` is what is remembered of it from one look to the next.
///
/// One version is waited for until it is confirmed, so that an agent that keeps up with a busy registry is never told to lag.
pub fn confirms(lag: &mut Option<Lag>, seen: Option<Versions>, now: Timestamp, limits: &Thresholds) -> Option<bool> {
    let Some(Versions { sent, confirmed }) = seen else {
        *lag = None;
        return None;
    };
    match *lag {
        Some(Lag { version, since }) if confirmed < version => {
            (now.since(since) > limits.confirmation_ms).then_some(false)
        }
        before => {
            let behind = confirmed < sent;
            *lag = behind.then_some(Lag { version: sent, since: now });
            (before.is_some() || !behind).then_some(true)
        }
    }
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

    const LIMITS: Thresholds =
        Thresholds { agent_ms: 60_000, cadences: 5, device_ms: 120_000, absence_ms: 900_000, confirmation_ms: 600_000 };

    /// What is said of an agent at these times, with what it was sent and has confirmed then; none: it is not connected.
    fn confirmations(looks: &[(i64, Option<(u64, u64)>)]) -> Vec<Option<bool>> {
        let mut lag = None;
        let look = |(at, seen): &(i64, Option<(u64, u64)>)| {
            let seen = seen.map(|(sent, confirmed)| Versions { sent, confirmed });
            confirms(&mut lag, seen, Timestamp(*at), &LIMITS)
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn an_agent_that_confirms_nothing_for_ten_minutes_is_told() {
        let said = confirmations(&[
            (0, Some((7, 7))),
            (1_000, Some((9, 7))),
            (601_000, Some((9, 7))),
            (601_001, Some((9, 7))),
            // What it was sent meanwhile does not begin the wait anew.
            (700_000, Some((12, 8))),
            (701_000, Some((12, 9))),
            (702_000, Some((12, 12))),
        ]);
        assert_eq!(said, [Some(true), None, None, Some(false), Some(false), Some(true), Some(true)]);
    }

    #[test]
    fn one_that_keeps_up_a_version_behind_is_never_told() {
        let looks: Vec<_> = (1..1_000).map(|look| (look * 60_000, Some((look as u64 + 1, look as u64)))).collect();
        let said = confirmations(&looks);
        assert!(!said.contains(&Some(false)));
        assert_eq!(said.last(), Some(&Some(true)));
    }

    #[test]
    fn one_that_is_away_has_its_ten_minutes_from_its_return_on() {
        let said = confirmations(&[
            (0, Some((9, 7))),
            (500_000, None),
            (900_000, Some((9, 7))),
            (1_500_000, Some((9, 7))),
            (1_500_001, Some((9, 7))),
            (1_600_000, None),
        ]);
        assert_eq!(said, [None, None, None, None, Some(false), None], "what was said of it stands while it is away");
    }

    #[test]
    fn one_that_was_sent_nothing_has_nothing_to_confirm() {
        assert_eq!(confirmations(&[(0, Some((0, 0))), (900_000, Some((0, 0)))]), [Some(true), Some(true)]);
    }

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
