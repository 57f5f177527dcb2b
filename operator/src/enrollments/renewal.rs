//! Who gets a new certificate for the key that he has: an agent that is there, unless its last one ended too long ago. Pure.

use depin_domain::{ids::PublicKey, registry::AgentEntry, time::Timestamp};
use depin_identity::PeerIdentity;

use super::denial::{Denial, deny};

const DAY_MS: i64 = 24 * 3_600_000;

/// Decides for the agent that the registry has, if it has one. `ended`: when its newest certificate ends, where that is known; it is not after
/// the cluster was lost, and then the key alone decides.
///
/// # Errors
/// Why not, and what to do.
pub fn decide(
    agent: Option<&AgentEntry>,
    key: &PublicKey,
    ended: Option<Timestamp>,
    grace_ms: i64,
    now: Timestamp,
) -> Result<PeerIdentity, Denial> {
    let Some(agent) = agent else {
        return Err(deny("NotApproved", "the EdgeAgent is gone: its key is revoked; enroll anew with a token"));
    };
    if agent.key != *key {
        return Err(deny("KeyChanged", "the request has another key than the EdgeAgent; enroll anew with a token"));
    }
    if let Some(ago) = ended.map(|ended| now.since(ended)).filter(|ago| *ago > grace_ms) {
        let (ago, grace) = (ago / DAY_MS, grace_ms / DAY_MS);
        return Err(deny(
            "RenewalGraceOver",
            format!(
                "the certificate ended {ago} days ago, and is renewed for {grace} days (the operator's --renewal-grace); put a new token \
                 (kubectl depin token create) in the place of the agent's --join-token-file: it enrolls with the key that it has"
            ),
        ));
    }
    Ok(PeerIdentity::Agent { namespace: agent.namespace.clone(), name: agent.name.clone() })
}

#[cfg(test)]
mod tests {
    use depin_domain::ids::AgentId;
    use depin_identity::SigningKey;

    use super::*;

    const GRACE_MS: i64 = 180 * DAY_MS;

    fn agent(seed: u8) -> AgentEntry {
        AgentEntry {
            id: AgentId::of("town", "roof-1"),
            namespace: "town".into(),
            name: "roof-1".into(),
            key: SigningKey::from_seed(&[seed; 32]).public().clone(),
            fleets: Vec::new(),
            reinstate_key: false,
        }
    }

    fn decided(agent: Option<&AgentEntry>, ended: Option<i64>, now: i64) -> Result<PeerIdentity, &'static str> {
        let key = SigningKey::from_seed(&[1; 32]).public().clone();
        decide(agent, &key, ended.map(Timestamp), GRACE_MS, Timestamp(now)).map_err(|denial| denial.reason)
    }

    #[test]
    fn a_dark_site_renews_until_the_grace_is_over() {
        let own = agent(1);
        let yes = Ok(PeerIdentity::Agent { namespace: "town".into(), name: "roof-1".into() });
        let end = 1_000 * DAY_MS;
        for now in [end - DAY_MS, end + DAY_MS, end + GRACE_MS] {
            assert_eq!(decided(Some(&own), Some(end), now), yes, "{now}");
        }
        assert_eq!(decided(Some(&own), Some(end), end + GRACE_MS + 1), Err("RenewalGraceOver"));
        assert_eq!(decided(Some(&own), None, end + 2 * GRACE_MS), yes, "nothing is known of its end");
        let denial = decide(Some(&own), &own.key, Some(Timestamp(end)), GRACE_MS, Timestamp(end + 200 * DAY_MS));
        let message = denial.unwrap_err().message;
        assert!(message.contains("200 days ago") && message.contains("180 days") && message.contains("token create"));
    }

    #[test]
    fn a_removed_agent_and_another_key_do_not() {
        assert_eq!(decided(None, None, 0), Err("NotApproved"));
        assert_eq!(decided(Some(&agent(2)), None, 0), Err("KeyChanged"));
    }
}
