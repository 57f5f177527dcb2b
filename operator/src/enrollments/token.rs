//! What becomes of an agent that shows a join token. Pure.

use depin_crds::{EdgeAgent, EdgeAgentSpec, EdgeEnrollment, enrollment::Token};
use depin_domain::{
    ids::{Digest, PublicKey},
    time::Timestamp,
};
use kube::ResourceExt;

use crate::{
    agents::validate::agent_name,
    annotations::{ENROLLED_BY, MANAGED_BY, OPERATOR},
    quantities::{public_key, resource_key, timestamp},
};

/// What an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// SHA-256 of the token that it showed.
    pub token: Digest,
    /// Its key.
    pub key: PublicKey,
    /// The name that it wishes for.
    pub name: String,
    /// The node that it runs on; empty: unknown.
    pub node: String,
}

/// What the API server has now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Existing<'a> {
    /// The EdgeAgent that this token made.
    pub by_token: Option<&'a EdgeAgent>,
    /// The EdgeAgent of the wanted name.
    pub by_name: Option<&'a EdgeAgent>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The EdgeAgent is made, then its certificate is issued.
    Create(Box<EdgeAgent>),
    /// The EdgeAgent of this name is there and has this key: its certificate is issued.
    Issue(String),
    /// No.
    Deny {
        /// CamelCase.
        reason: &'static str,
        /// For the agent's log: what to do.
        message: String,
    },
}

fn deny(reason: &'static str, message: impl Into<String>) -> Decision {
    Decision::Deny { reason, message: message.into() }
}

/// Name of the EdgeAgent that the invitation makes.
#[must_use]
pub fn name_of<'a>(invitation: &'a Token, ask: &'a Ask) -> &'a str {
    invitation.agent.as_deref().unwrap_or(&ask.name)
}

/// Value of the label by which the agent of a token is found.
#[must_use]
pub fn label(token: &Digest) -> String {
    token.to_string().chars().take(40).collect()
}

/// Decides.
#[must_use]
pub fn decide(enrollment: &EdgeEnrollment, ask: &Ask, existing: Existing<'_>, now: Timestamp) -> Decision {
    let Some(invitation) = &enrollment.spec.token else {
        return deny("NoToken", "the enrollment holds no token; make one with kubectl depin token create");
    };
    if let Some(agent) = existing.by_token {
        return if key_of(agent).as_ref() == Some(&ask.key) {
            Decision::Issue(agent.name_any())
        } else {
            deny("TokenUsed", "the token has admitted another key; a token admits one agent, once: make another")
        };
    }
    let admitted = enrollment.status.as_ref().and_then(|status| status.admitted.as_deref());
    if let Some(admitted) = admitted {
        return deny(
            "TokenUsed",
            format!("the token has admitted {admitted}; a token admits one agent, once: make another"),
        );
    }
    if timestamp(&invitation.expires_at) <= now {
        return deny("TokenExpired", "the token has expired; make another with kubectl depin token create");
    }
    let name = name_of(invitation, ask);
    if let Err(error) = agent_name(name) {
        return deny("InvalidName", error.to_string());
    }
    match existing.by_name {
        Some(agent) => known(agent, ask),
        None => Decision::Create(Box::new(agent(enrollment, invitation, name, ask))),
    }
}

/// The key of an EdgeAgent's spec, if it has one that can be read.
pub(super) fn key_of(agent: &EdgeAgent) -> Option<PublicKey> {
    agent.spec.public_key.as_ref().and_then(|key| public_key("spec.publicKey", key).ok())
}

/// An EdgeAgent of that name was made by a person.
fn known(agent: &EdgeAgent, ask: &Ask) -> Decision {
    match key_of(agent) {
        Some(key) if key == ask.key => Decision::Issue(agent.name_any()),
        Some(_) => deny(
            "NameTaken",
            "an EdgeAgent of this name has another key; choose another name, or delete that EdgeAgent first",
        ),
        None => deny(
            "NoKey",
            "an EdgeAgent of this name exists without a key, and its spec is a person's; set spec.publicKey, or delete it and enroll again",
        ),
    }
}

fn agent(enrollment: &EdgeEnrollment, invitation: &Token, name: &str, ask: &Ask) -> EdgeAgent {
    let spec = EdgeAgentSpec {
        fleets: invitation.fleets.clone(),
        node: Some(ask.node.clone()).filter(|node| depin_identity::peer::is_subdomain(node)),
        public_key: Some(resource_key(&ask.key)),
    };
    let mut agent = EdgeAgent::new(name, spec);
    agent.metadata.namespace = enrollment.namespace();
    agent.labels_mut().insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    agent.labels_mut().insert(ENROLLED_BY.to_owned(), label(&ask.token));
    agent
}

#[cfg(test)]
mod tests {
    use depin_identity::SigningKey;

    use super::*;

    const SECRET: [u8; 16] = [7; 16];

    fn ask(seed: u8) -> Ask {
        let key = SigningKey::from_seed(&[seed; 32]).public().clone();
        Ask { token: Digest::of(&SECRET), key, name: "roof-1".into(), node: String::new() }
    }

    fn invitation() -> EdgeEnrollment {
        let text = format!(
            "apiVersion: depin.dev/v1alpha1\nkind: EdgeEnrollment\nmetadata: {{name: t1, namespace: town}}\nspec:\n  token:\n    \
             sha256: {}\n    expiresAt: 2026-01-02T00:00:00Z\n    fleets: [homes]\n",
            Digest::of(&SECRET)
        );
        serde_saphyr::from_str(&text).unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn first() -> EdgeAgent {
        match decide(&invitation(), &ask(1), Existing::default(), Timestamp(0)) {
            Decision::Create(agent) => *agent,
            other => unreachable!("{other:?}"),
        }
    }

    #[track_caller]
    fn denied(decision: &Decision, expected: &str) {
        assert!(matches!(decision, Decision::Deny { reason, .. } if *reason == expected), "{decision:?}");
    }

    #[test]
    fn a_token_makes_an_agent_of_its_fleets_with_the_key_that_asked() {
        let agent = first();
        assert_eq!((agent.name_any().as_str(), agent.namespace().as_deref()), ("roof-1", Some("town")));
        assert_eq!(agent.spec.fleets, ["homes"]);
        assert_eq!(agent.spec.public_key, Some(resource_key(&ask(1).key)));
        assert!(agent.validate_cel().is_ok());
    }

    #[test]
    fn the_invitations_name_wins_over_the_wish() {
        let mut named = invitation();
        named.spec.token.as_mut().unwrap().agent = Some("hall".into());
        let Decision::Create(agent) = decide(&named, &ask(1), Existing::default(), Timestamp(0)) else {
            unreachable!()
        };
        assert_eq!(agent.name_any(), "hall");
    }

    #[test]
    fn the_same_request_again_gets_its_certificate_again_even_after_expiry() {
        let agent = first();
        let existing = Existing { by_token: Some(&agent), by_name: Some(&agent) };
        let again = decide(&invitation(), &ask(1), existing, at("2027-01-01T00:00:00Z"));
        assert_eq!(again, Decision::Issue("roof-1".into()));
    }

    #[test]
    fn a_token_admits_one_key_once() {
        let agent = first();
        let existing = Existing { by_token: Some(&agent), by_name: None };
        denied(&decide(&invitation(), &Ask { name: "roof-2".into(), ..ask(2) }, existing, Timestamp(0)), "TokenUsed");
        let mut used = invitation();
        used.status = Some(depin_crds::EdgeEnrollmentStatus { admitted: Some("roof-1".into()), ..Default::default() });
        denied(&decide(&used, &ask(2), Existing::default(), Timestamp(0)), "TokenUsed");
    }

    #[test]
    fn an_expired_token_admits_nothing() {
        denied(&decide(&invitation(), &ask(1), Existing::default(), at("2026-01-02T00:00:00Z")), "TokenExpired");
    }

    #[test]
    fn a_name_that_a_person_gave_is_not_taken_over() {
        let mut agent = first();
        let existing = Existing { by_token: None, by_name: Some(&agent) };
        denied(&decide(&invitation(), &ask(2), existing, Timestamp(0)), "NameTaken");
        assert_eq!(decide(&invitation(), &ask(1), existing, Timestamp(0)), Decision::Issue("roof-1".into()));
        agent.spec.public_key = None;
        let existing = Existing { by_token: None, by_name: Some(&agent) };
        denied(&decide(&invitation(), &ask(2), existing, Timestamp(0)), "NoKey");
    }

    #[test]
    fn a_name_from_outside_is_checked() {
        for name in ["", "Roof", "a/b", "-a", &"a".repeat(64)] {
            let ask = Ask { name: name.into(), ..ask(1) };
            denied(&decide(&invitation(), &ask, Existing::default(), Timestamp(0)), "InvalidName");
        }
    }
}
