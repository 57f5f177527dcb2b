//! EdgeAgent → registry entry. Pure.

use depin_crds::EdgeAgent;
use depin_domain::{
    ids::{AgentId, PublicKey},
    registry::{AgentEntry, Registry},
};
use depin_identity::peer::is_subdomain;
use kube::ResourceExt;

use crate::{
    annotations::REINSTATE_KEY,
    invalid::{Invalid, NotReady},
    quantities::public_key,
};

/// The registry's entry for `agent`.
///
/// The key is the spec's; without one it is the key with which the agent enrolled, which the registry remembers even if the
/// cluster was lost, and the status tells.
pub fn entry(agent: &EdgeAgent, registry: &Registry) -> Result<AgentEntry, NotReady> {
    let (namespace, name) = (agent.namespace().unwrap_or_default(), agent.name_any());
    let id = AgentId::of(&namespace, &name);
    named(agent)?;
    let mut fleets = agent.spec.fleets.clone();
    fleets.sort_unstable();
    fleets.dedup();
    let key = key(agent, registry.agent(&id).map(|known| &known.key))?;
    let reinstate_key = agent.annotations().get(REINSTATE_KEY).is_some_and(|named| *named == key.id().to_string());
    Ok(AgentEntry { id, key, namespace, name, fleets, reinstate_key })
}

/// Whether fleets and node have names that such objects can have. They are counted as their author wrote them: the registry sorts them.
fn named(agent: &EdgeAgent) -> Result<(), Invalid> {
    let fleets = agent.spec.fleets.iter().enumerate().map(|(index, name)| (format!("spec.fleets[{index}]"), name));
    let node = agent.spec.node.iter().map(|name| ("spec.node".to_owned(), name));
    match fleets.chain(node).find(|(_, name)| !is_subdomain(name)) {
        None => Ok(()),
        Some((field, name)) => {
            let shown: String = name.chars().take(80).collect();
            let remedy = "use lower-case letters, digits, dashes and dots, as its own metadata.name has them";
            Err(Invalid::new(field, format!("{shown:?} is not a name"), remedy))
        }
    }
}

fn key(agent: &EdgeAgent, registered: Option<&PublicKey>) -> Result<PublicKey, NotReady> {
    if let Some(key) = &agent.spec.public_key {
        return Ok(public_key("spec.publicKey", key)?);
    }
    if let Some(key) = registered {
        return Ok(key.clone());
    }
    match agent.status.as_ref().and_then(|status| status.public_key.as_ref()) {
        Some(key) => Ok(public_key("status.publicKey", key)?),
        None => Err(NotReady::Waiting {
            field: "spec.publicKey".to_owned(),
            target:
                "the agent's enrollment: no key is known; give it a token for this name (kubectl depin token create)"
                    .to_owned(),
        }),
    }
}

/// Whether `text` may name an agent: a label of RFC 1123.
pub fn agent_name(text: &str) -> Result<(), Invalid> {
    if depin_identity::peer::is_label(text) {
        return Ok(());
    }
    let shown: String = text.chars().take(80).collect();
    Err(Invalid::new("name", format!("{shown:?} is not a name"), "use 1 to 63 lower-case letters, digits and dashes"))
}
