//! What becomes of an agent in the cluster that shows its ServiceAccount's token. Pure but for the review itself.
//!
//! Whom the fleets let in is their namespace's word (`spec.enrollment.serviceAccounts`); who somebody is, is the API server's: the token's
//! ServiceAccount, node and Pod. An agent is named by its node or its Pod, so that none comes in under another's name.

use depin_crds::{EdgeAgent, EdgeAgentSpec, EdgeFleet};
use depin_domain::ids::PublicKey;
use depin_identity::peer::is_subdomain;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, ResourceExt, api::PostParams};

use super::{
    denial::{Denial, deny},
    token::key_of,
};
use crate::{
    annotations::{MANAGED_BY, OPERATOR, SERVICE_ACCOUNT},
    quantities::resource_key,
};

/// Who shows a token, in the API server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the ServiceAccount.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Node of the Pod to which the token is bound.
    pub node: Option<String>,
    /// That Pod.
    pub pod: Option<String>,
}

/// What an agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Its key.
    pub key: PublicKey,
    /// The name that it wishes for; empty: its node's.
    pub name: &'a str,
    /// Namespace of the fleets.
    pub namespace: &'a str,
    /// Their names.
    pub fleets: &'a [String],
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The EdgeAgent is made, then its certificate is issued.
    Create(Box<EdgeAgent>),
    /// The EdgeAgent of this name is there and has this key: its certificate is issued.
    Issue(String),
    /// An EdgeAgent of this name is there and has another key.
    OtherKey(String),
    /// No.
    Deny(Denial),
}

/// Asks the API server whose token this is.
///
/// # Errors
/// When the API server does not review it.
pub async fn review(client: &Client, token: &str, audience: &str) -> Result<Result<Caller, Denial>, kube::Error> {
    let spec = TokenReviewSpec { audiences: Some(vec![audience.to_owned()]), token: token.to_owned() };
    let review = TokenReview { spec, ..TokenReview::default() };
    let reviewed = Api::<TokenReview>::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(caller(&reviewed.status.unwrap_or_default(), audience))
}

/// Who a review says somebody is.
///
/// # Errors
/// Where the token is not good for this audience, or not a ServiceAccount's. What the API server says of it is for the operator's log alone.
fn caller(status: &TokenReviewStatus, audience: &str) -> Result<Caller, Denial> {
    let bad = || {
        deny(
            "InvalidToken",
            format!(
                "the token is expired, revoked, of another cluster, or not for audience {audience}: project one for this audience \
                 (serviceAccountToken.audience)"
            ),
        )
    };
    let good = status.authenticated == Some(true)
        && status.audiences.as_ref().is_some_and(|audiences| audiences.iter().any(|named| named == audience));
    if !good {
        tracing::info!(error = status.error.as_deref().unwrap_or_default(), "a ServiceAccount's token is not good");
        return Err(bad());
    }
    let user = status.user.clone().unwrap_or_default();
    let name = user.username.unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let (namespace, name) = account.ok_or_else(|| deny("NoServiceAccount", "the token is not a ServiceAccount's"))?;
    let extra =
        |name: &str| user.extra.as_ref()?.get(&format!("authentication.kubernetes.io/{name}"))?.first().cloned();
    Ok(Caller {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        node: extra("node-name"),
        pod: extra("pod-name"),
    })
}

/// Whether every fleet that is asked for lets the caller in.
///
/// # Errors
/// Where one does not, or is not there; which of both is not told.
pub fn allowed<'a>(
    ask: &Ask<'_>,
    caller: &Caller,
    fleet: impl Fn(&str) -> Option<&'a EdgeFleet>,
) -> Result<(), Denial> {
    let account = |fleet: &EdgeFleet| {
        let accounts = fleet.spec.enrollment.service_accounts.iter().flatten();
        accounts.into_iter().any(|account| account.namespace == caller.namespace && account.name == caller.name)
    };
    match ask.fleets.iter().find(|name| !fleet(name).is_some_and(account)) {
        None if !ask.fleets.is_empty() => Ok(()),
        _ => Err(deny(
            "NotAllowed",
            "no such fleets, or they do not let this ServiceAccount in: see spec.enrollment.serviceAccounts of the EdgeFleets",
        )),
    }
}

/// The name under which the caller comes in.
///
/// # Errors
/// Where it wishes for one that is not its own, or for none and the token has none.
pub fn name_of(ask: &Ask<'_>, caller: &Caller) -> Result<String, Denial> {
    let own = [&caller.node, &caller.pod];
    let name = match (ask.name, &caller.node) {
        ("", Some(node)) => node.clone(),
        ("", None) => {
            return Err(deny("NoName", "the token is bound to no node; tell the agent its name (--name)"));
        }
        // Bound to nothing, it is whoever may ask the API server for such tokens.
        (wish, _) if own.iter().all(|own| own.is_none()) || own.contains(&&Some(wish.to_owned())) => wish.to_owned(),
        (wish, _) => {
            let own: Vec<_> = own.into_iter().flatten().map(String::as_str).collect();
            let own = own.join(" or ");
            return Err(deny(
                "NotItsName",
                format!("{wish} is not this Pod's to take: it may be {own}; leave --name out"),
            ));
        }
    };
    if is_subdomain(&name) { Ok(name) } else { Err(deny("InvalidName", "the name is no RFC 1123 subdomain")) }
}

/// Decides for a caller that the fleets let in, under a name that is its own. `revoked`: the registry knows its key as revoked.
#[must_use]
pub fn decide(ask: &Ask<'_>, caller: &Caller, name: &str, existing: Option<&EdgeAgent>, revoked: bool) -> Decision {
    match existing {
        Some(agent) if key_of(agent).as_ref() == Some(&ask.key) => Decision::Issue(name.to_owned()),
        Some(agent) if agent.spec.public_key.is_some() => Decision::OtherKey(other_key(name)),
        Some(_) => Decision::Deny(deny(
            "NoKey",
            "an EdgeAgent of this name exists without a key, and its spec is a person's; set spec.publicKey, or delete it",
        )),
        None if revoked => Decision::Deny(deny(
            "KeyRevoked",
            "this key was revoked when its EdgeAgent was deleted; remove agent.key from the agent's state directory, and it makes another",
        )),
        None => Decision::Create(Box::new(agent(ask, caller, name))),
    }
}

/// What is told where somebody with another key comes under an EdgeAgent's name.
fn other_key(name: &str) -> String {
    format!(
        "EdgeAgent {name} has another key. If the agent's disk was lost for good, delete the EdgeAgent (kubectl delete edgeagent {name}): its \
         old key is revoked, and the agent comes in with the new one. If not, two agents run under one name: stop one"
    )
}

fn agent(ask: &Ask<'_>, caller: &Caller, name: &str) -> EdgeAgent {
    let spec = EdgeAgentSpec {
        fleets: ask.fleets.to_vec(),
        node: caller.node.clone(),
        public_key: Some(resource_key(&ask.key)),
    };
    let mut agent = EdgeAgent::new(name, spec);
    agent.metadata.namespace = Some(ask.namespace.to_owned());
    agent.labels_mut().insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    let account = format!("{}/{}", caller.namespace, caller.name);
    agent.annotations_mut().insert(SERVICE_ACCOUNT.to_owned(), account);
    agent
}

#[cfg(test)]
mod tests {
    use depin_identity::SigningKey;
    use serde_json::json;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        SigningKey::from_seed(&[seed; 32]).public().clone()
    }

    fn caller_on(node: &str) -> Caller {
        Caller {
            namespace: "edge".into(),
            name: "depin-agent".into(),
            node: Some(node.into()),
            pod: Some("depin-agent-x7k2p".into()),
        }
    }

    fn ask<'a>(name: &'a str, fleets: &'a [String]) -> Ask<'a> {
        Ask { key: key(1), name, namespace: "town", fleets }
    }

    fn homes() -> Vec<String> {
        vec!["homes".to_owned()]
    }

    fn reviewed(status: serde_json::Value) -> Result<Caller, &'static str> {
        let status: TokenReviewStatus = serde_json::from_value(status).unwrap();
        caller(&status, "depin-gateway").map_err(|denial| denial.reason)
    }

    #[test]
    fn a_review_tells_account_node_and_pod_for_the_right_audience_alone() {
        let good = json!({
            "authenticated": true, "audiences": ["depin-gateway"],
            "user": {"username": "system:serviceaccount:edge:depin-agent", "extra": {
                "authentication.kubernetes.io/node-name": ["edge-1"],
                "authentication.kubernetes.io/pod-name": ["depin-agent-x7k2p"],
            }},
        });
        assert_eq!(reviewed(good.clone()), Ok(caller_on("edge-1")));
        let changed = |path: &str, value: serde_json::Value| {
            let mut changed = good.clone();
            *changed.pointer_mut(path).unwrap() = value;
            reviewed(changed)
        };
        assert_eq!(changed("/authenticated", json!(false)), Err("InvalidToken"));
        assert_eq!(changed("/audiences", json!(["https://kubernetes.default.svc"])), Err("InvalidToken"));
        assert_eq!(changed("/audiences", json!([])), Err("InvalidToken"));
        assert_eq!(changed("/user/username", json!("system:node:edge-1")), Err("NoServiceAccount"));
        assert_eq!(reviewed(json!({})), Err("InvalidToken"));
    }

    #[test]
    fn every_fleet_that_is_asked_for_must_let_the_account_in() {
        let fleet = |accounts: &str| -> EdgeFleet {
            serde_saphyr::from_str(&format!(
                "apiVersion: depin.dev/v1alpha1\nkind: EdgeFleet\nmetadata: {{name: f, namespace: town}}\nspec:\n  modelRef: {{name: m}}\n  \
                 enrollment: {{serviceAccounts: [{accounts}]}}\n"
            ))
            .unwrap()
        };
        let (open, other) = (
            fleet("{namespace: edge, name: depin-agent}, {namespace: edge, name: more}"),
            fleet("{namespace: town, name: depin-agent}"),
        );
        let find = |name: &str| match name {
            "homes" => Some(&open),
            "offices" => Some(&other),
            _ => None,
        };
        let decide = |fleets: &[&str]| {
            let fleets: Vec<_> = fleets.iter().map(|fleet| (*fleet).to_owned()).collect();
            allowed(&ask("", &fleets), &caller_on("edge-1"), find).is_ok()
        };
        assert!(decide(&["homes"]));
        for no in [&["offices"][..], &["homes", "offices"], &["homes", "none"], &[]] {
            assert!(!decide(no), "{no:?}");
        }
    }

    #[test]
    fn nobody_comes_in_under_anothers_name() {
        let homes = homes();
        let named = |wish, caller: &Caller| name_of(&ask(wish, &homes), caller).map_err(|denial| denial.reason);
        let on = caller_on("edge-1.example");
        assert_eq!(named("", &on), Ok("edge-1.example".to_owned()));
        assert_eq!(named("edge-1.example", &on), Ok("edge-1.example".to_owned()));
        assert_eq!(named("depin-agent-x7k2p", &on), Ok("depin-agent-x7k2p".to_owned()));
        assert_eq!(named("edge-2", &on), Err("NotItsName"));
        let unbound = Caller { node: None, pod: None, ..on };
        assert_eq!(named("edge-2", &unbound), Ok("edge-2".to_owned()));
        assert_eq!(named("", &unbound), Err("NoName"));
        assert_eq!(named("Edge", &unbound), Err("InvalidName"));
        let only_pod = Caller { node: None, ..caller_on("x") };
        assert_eq!(named("edge-2", &only_pod), Err("NotItsName"));
    }

    #[test]
    fn a_name_has_one_key_until_its_edge_agent_is_deleted() {
        let homes = homes();
        let (ask, on) = (ask("", &homes), caller_on("edge-1"));
        let Decision::Create(agent) = decide(&ask, &on, "edge-1", None, false) else { unreachable!() };
        assert_eq!((agent.spec.node.as_deref(), &agent.spec.fleets), (Some("edge-1"), &homes));
        assert_eq!(
            (agent.namespace().as_deref(), agent.annotations()[SERVICE_ACCOUNT].as_str()),
            (Some("town"), "edge/depin-agent")
        );
        assert!(agent.validate_cel().is_ok());
        assert_eq!(decide(&ask, &on, "edge-1", Some(&agent), false), Decision::Issue("edge-1".into()));
        let lost = Ask { key: key(2), ..ask.clone() };
        assert!(
            matches!(decide(&lost, &on, "edge-1", Some(&agent), false), Decision::OtherKey(told) if told.contains("delete"))
        );
        assert!(matches!(decide(&ask, &on, "edge-1", None, true), Decision::Deny(no) if no.reason == "KeyRevoked"));
        let mut bare = agent;
        bare.spec.public_key = None;
        assert!(matches!(decide(&ask, &on, "edge-1", Some(&bare), false), Decision::Deny(no) if no.reason == "NoKey"));
    }
}
