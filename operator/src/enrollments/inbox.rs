//! The ledger's inbox: each entry is answered once its consequence stands in the cluster.
//!
//! Everything here may happen twice (a crash between consequence and answer): consequences are idempotent, and a repeated
//! request of the same key gets a certificate again. Entries are handled one after the other, so that one token cannot make two agents.

use std::{sync::Arc, time::Duration};

use depin_crds::{Condition, EdgeAgent, EdgeDevice, EdgeEnrollment, EdgeFleet};
use depin_domain::{
    ids::{AgentId, Digest},
    registry::{AgentEntry, Holder, Registry},
    time::Timestamp,
};
use depin_identity::{CertificateRequest, Pass, PeerIdentity};
use depin_proto::v1::{
    AgentFacts, AnswerInboxRequest, Denied, EnrollRequest, EnrollResponse, InboxEntry, IssuedCertificate, RenewalEntry,
    ServiceAccountPass, Sighting, SightingsEntry, WatchInboxRequest, enroll_response::Result as Answer,
    inbox_entry::Entry,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::sync::watch;

use super::{
    denial::Denial,
    renewal, service_account, sighting, token,
    waiting::{Tries, Waiting},
};
use crate::{
    annotations::ENROLLED_BY,
    certificates::{authorities::Authorities, validity},
    conditions::{Say, holds},
    context::Context,
    ledger::is_fenced,
    quantities::{time, timestamp},
    registry::RegistryError,
    status::Transition,
};

/// Open EdgeEnrollments of devices that a namespace may have; further sightings wait for a later message.
const MAX_REQUESTS: usize = 1000;
/// How often it is looked for entries that are to be tried again.
const LOOK: Duration = Duration::from_millis(250);
/// From so many tries on a person should look: it has been about a minute.
const WORTH_A_WARNING: u32 = 8;
const MANAGER: &str = "depin-operator/admission";
const CERTIFICATE_MANAGER: &str = "depin-operator/agent-certificates";
const OTHER_KEY_MANAGER: &str = "depin-operator/other-key";
/// Condition of an EdgeAgent, and reason of its Event: somebody with another key asked to come in under its name.
const OTHER_KEY: &str = "OtherKeyAsked";

/// An entry cannot be handled now.
#[derive(Debug, thiserror::Error)]
enum InboxError {
    #[error("API server: {0}")]
    Api(#[from] kube::Error),
    #[error("certificate: {0}")]
    Certificate(#[from] depin_identity::certificates::CertificateError),
    #[error("the EdgeEnrollment is not seen yet")]
    NotSeen,
}

/// Answers the inbox until leadership is lost.
///
/// # Errors
/// [`RegistryError::Fenced`] when another operator leads.
pub async fn run(context: Arc<Context>, authorities: watch::Receiver<Arc<Authorities>>) -> Result<(), RegistryError> {
    loop {
        match watch_inbox(&context, &authorities).await {
            Ok(()) => {}
            Err(status) if is_fenced(&status) => return Err(RegistryError::Fenced(status.message().to_owned())),
            Err(status) => {
                tracing::warn!(code = %status.code(), message = status.message(), "the inbox is interrupted")
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn watch_inbox(context: &Context, authorities: &watch::Receiver<Arc<Authorities>>) -> Result<(), tonic::Status> {
    let mut entries = context.ledger.client().watch_inbox(WatchInboxRequest {}).await?.into_inner();
    let mut again = Waiting::default();
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            entry = entries.message() => {
                let Some(entry) = entry? else { return Ok(()) };
                attempt(context, &newest(authorities), entry, None, &mut again).await?;
            }
            _ = tick.tick() => {
                for (entry, tries) in again.due(context.clock.now()) {
                    attempt(context, &newest(authorities), entry, Some(tries), &mut again).await?;
                }
            }
        }
    }
}

fn newest(authorities: &watch::Receiver<Arc<Authorities>>) -> Arc<Authorities> {
    Arc::clone(&authorities.borrow())
}

async fn attempt(
    context: &Context,
    authorities: &Authorities,
    entry: InboxEntry,
    tries: Option<Tries>,
    again: &mut Waiting,
) -> Result<(), tonic::Status> {
    let id = entry.id;
    let response = match handle(context, authorities, &entry).await {
        Ok(response) => response,
        Err(error) => {
            // No answer is final that was not decided: who asks goes on asking.
            match tries.map_or(0, |tries| tries.count) {
                0 => tracing::info!(id, %error, "an inbox entry waits"),
                tries if tries >= WORTH_A_WARNING && tries.is_power_of_two() => {
                    tracing::warn!(id, tries, %error, "an inbox entry still waits");
                }
                _ => {}
            }
            again.failed(entry, tries, context.clock.now());
            return Ok(());
        }
    };
    let request = AnswerInboxRequest { writer: context.ledger.writer(), id, response };
    match context.ledger.client().answer_inbox(request).await {
        Ok(_) => Ok(()),
        // It was answered before, or its time is over.
        Err(status) if matches!(status.code(), tonic::Code::NotFound | tonic::Code::AlreadyExists) => Ok(()),
        Err(status) => Err(status),
    }
}

async fn handle(
    context: &Context,
    authorities: &Authorities,
    entry: &InboxEntry,
) -> Result<Option<EnrollResponse>, InboxError> {
    let (asks, response) = match &entry.entry {
        Some(Entry::Enroll(request)) => ("enroll", Some(enroll(context, authorities, request).await?)),
        Some(Entry::Renew(renewal)) => ("renew", Some(renew(context, authorities, renewal).await?)),
        Some(Entry::Sightings(sightings)) => {
            sight(context, sightings).await?;
            ("sightings", None)
        }
        None => ("unknown", Some(denied("Unknown", "this operator does not know the request: update it"))),
    };
    let result = match response.as_ref().and_then(|response| response.result.as_ref()) {
        Some(Answer::Issued(_)) => "issued",
        Some(Answer::Denied(_)) => "denied",
        Some(Answer::Pending(_)) | None => "noted",
    };
    context.metrics.enrollment(asks, result);
    Ok(response)
}

fn denied(reason: &str, message: impl Into<String>) -> EnrollResponse {
    EnrollResponse { result: Some(Answer::Denied(Denied { reason: reason.to_owned(), message: message.into() })) }
}

async fn enroll(
    context: &Context,
    authorities: &Authorities,
    request: &EnrollRequest,
) -> Result<EnrollResponse, InboxError> {
    let Ok(csr) = CertificateRequest::from_der(&request.csr) else {
        return Ok(denied("InvalidRequest", "the certificate request is malformed or not signed by its key"));
    };
    if let Some(pass) = &request.service_account {
        return enroll_by_account(context, authorities, request, pass, &csr).await;
    }
    let hash = Digest::of(&request.token);
    let text = hash.to_string();
    let found = context
        .stores
        .enrollments
        .find(|enrollment| enrollment.spec.token.as_ref().is_some_and(|token| token.sha256 == text));
    let Some(enrollment) = found else {
        // The gateway let it pass, so an invitation was there.
        return if context.registry.snapshot().invitation(&hash).is_some() {
            Err(InboxError::NotSeen)
        } else {
            Ok(denied("UnknownToken", "no such token; make one with kubectl depin token create"))
        };
    };
    let facts = request.facts.clone().unwrap_or_default();
    let ask = token::Ask { token: hash, key: csr.key.clone(), name: request.name.clone(), node: facts.node.clone() };
    let namespace = enrollment.namespace().unwrap_or_default();
    let agents: Api<EdgeAgent> = Api::namespaced(context.client.clone(), &namespace);
    // Asked of the API server, not of the view: a stale view must not make a second agent of one token.
    let selector = ListParams::default().labels(&format!("{ENROLLED_BY}={}", token::label(&hash)));
    let by_token = agents.list(&selector).await?.items.into_iter().next();
    let wanted = enrollment.spec.token.as_ref().map_or("", |invitation| token::name_of(invitation, &ask));
    let by_name = if depin_identity::peer::is_label(wanted) { agents.get_opt(wanted).await? } else { None };
    let existing = token::Existing { by_token: by_token.as_ref(), by_name: by_name.as_ref() };
    let name = match token::decide(&enrollment, &ask, existing, context.clock.now()) {
        token::Decision::Create(agent) => {
            agents.create(&PostParams::default(), &agent).await?;
            agent.name_any()
        }
        token::Decision::Issue(name) => name,
        token::Decision::Deny { reason, message } => return Ok(denied(reason, message)),
    };
    mark_used(context, &enrollment, &name).await?;
    let peer = PeerIdentity::Agent { namespace, name };
    issue(context, authorities, &csr, &peer, &facts).await
}

/// An agent in the cluster: its ServiceAccount's token in place of a join token.
async fn enroll_by_account(
    context: &Context,
    authorities: &Authorities,
    request: &EnrollRequest,
    pass: &ServiceAccountPass,
    csr: &CertificateRequest,
) -> Result<EnrollResponse, InboxError> {
    let ServiceAccountPass { namespace, fleets, sealed_token } = pass;
    let bound = Pass { csr: &request.csr, name: &request.name, namespace, fleets };
    let Some(token) = authorities.open(bound, sealed_token) else {
        return Ok(denied(
            "NotSealedToUs",
            "the token was sealed to another authority's key, or was changed on its way; ask again",
        ));
    };
    let ask = service_account::Ask { key: csr.key.clone(), name: &request.name, namespace, fleets };
    let reviewed = match service_account::review(&context.client, &token, &context.token_audience).await {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            tracing::warn!(
                message = status.message,
                "the operator may not review tokens; give it create on tokenreviews"
            );
            return Ok(denied(
                "ReviewForbidden",
                "the operator may not review tokens; its role lacks create on tokenreviews",
            ));
        }
        reviewed => reviewed?,
    };
    let view: Vec<_> = fleets.iter().filter_map(|fleet| context.stores.fleet(namespace, fleet)).collect();
    let fleet = |name: &str| view.iter().find(|fleet| fleet.name_any() == name).map(AsRef::as_ref);
    let named = reviewed.and_then(|caller| {
        service_account::allowed(&ask, &caller, fleet)?;
        Ok((service_account::name_of(&ask, &caller)?, caller))
    });
    let (name, caller) = match named {
        Ok(named) => named,
        Err(Denial { reason, message }) => return Ok(denied(reason, message)),
    };
    let agents: Api<EdgeAgent> = Api::namespaced(context.client.clone(), namespace);
    let existing = agents.get_opt(&name).await?;
    let registry = context.registry.snapshot();
    let revoked = registry.signer(&csr.key.id()).is_some_and(|signer| matches!(signer.holder, Holder::Revoked(_)));
    match service_account::decide(&ask, &caller, &name, existing.as_ref(), revoked) {
        service_account::Decision::Create(agent) => drop(agents.create(&PostParams::default(), &agent).await?),
        service_account::Decision::Issue(_) => {}
        service_account::Decision::OtherKey(message) => {
            if let Some(agent) = &existing {
                other_key(context, agent, true, &message).await;
            }
            return Ok(denied("OtherKey", message));
        }
        service_account::Decision::Deny(Denial { reason, message }) => {
            return Ok(denied(reason, message));
        }
    }
    if let Some(agent) = existing.filter(|agent| holds(&conditions(agent), OTHER_KEY)) {
        other_key(context, &agent, false, "the agent came with its own key").await;
    }
    let peer = PeerIdentity::Agent { namespace: namespace.clone(), name };
    issue(context, authorities, csr, &peer, &request.facts.clone().unwrap_or_default()).await
}

fn conditions(agent: &EdgeAgent) -> Vec<Condition> {
    agent.status.as_ref().map(|status| status.conditions.clone()).unwrap_or_default()
}

/// Tells on an EdgeAgent whether somebody with another key wants to come in under its name: a person decides.
async fn other_key(context: &Context, agent: &EdgeAgent, asked: bool, message: &str) {
    let existing = conditions(agent);
    let reason = if asked { "AnotherAgentAsks" } else { "OwnAgentCame" };
    let say = Say::new(OTHER_KEY, asked, reason, message);
    let told = (asked && !holds(&existing, OTHER_KEY)).then(|| Transition {
        warning: true,
        reason: OTHER_KEY.to_owned(),
        note: message.to_owned(),
    });
    let condition = say.over(&existing, agent.metadata.generation, context.clock.now());
    let wanted = serde_json::json!({"conditions": [condition]});
    context.status.wish(agent, agent.status.as_ref(), OTHER_KEY_MANAGER, wanted, told).await;
}

async fn mark_used(context: &Context, enrollment: &EdgeEnrollment, name: &str) -> Result<(), kube::Error> {
    let api: Api<EdgeEnrollment> = Api::namespaced(context.client.clone(), &enrollment.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": EdgeEnrollment::api_version(&()), "kind": EdgeEnrollment::kind(&()),
        "metadata": {"name": enrollment.name_any()}, "status": {"admitted": name}
    });
    let marked =
        api.patch_status(&enrollment.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(patch)).await;
    marked.map(drop)
}

async fn renew(
    context: &Context,
    authorities: &Authorities,
    renewal: &RenewalEntry,
) -> Result<EnrollResponse, InboxError> {
    let request = renewal.request.clone().unwrap_or_default();
    let Ok(csr) = CertificateRequest::from_der(&request.csr) else {
        return Ok(denied("InvalidRequest", "the certificate request is malformed or not signed by its key"));
    };
    let Some(id) = AgentId::from_slice(&renewal.agent_id) else {
        return Ok(denied("InvalidRequest", "the agent's id is malformed"));
    };
    let registry = context.registry.snapshot();
    let agent = registry.agent(&id).map(AsRef::as_ref);
    let object = agent.and_then(|agent| context.stores.agent(&agent.namespace, &agent.name));
    let ended = object.and_then(|object| object.status.as_ref()?.certificate_expires.as_ref().map(timestamp));
    match renewal::decide(agent, &csr.key, ended, context.renewal_grace_ms, context.clock.now()) {
        Ok(peer) => issue(context, authorities, &csr, &peer, &request.facts.unwrap_or_default()).await,
        Err(Denial { reason, message }) => Ok(denied(reason, message)),
    }
}

async fn issue(
    context: &Context,
    authorities: &Authorities,
    csr: &CertificateRequest,
    peer: &PeerIdentity,
    facts: &AgentFacts,
) -> Result<EnrollResponse, InboxError> {
    let PeerIdentity::Agent { namespace, name } = peer else {
        return Ok(denied("InvalidRequest", "not an agent"));
    };
    let window = validity::agent(context.clock.now());
    let chain = authorities.issuing.issue(csr, peer, &[], window)?;
    let end = window.end.min(authorities.issuing.validity().end);
    remember(context, namespace, name, end, facts).await?;
    let issued = IssuedCertificate {
        chain,
        ca: authorities.bundle(),
        namespace: namespace.clone(),
        name: name.clone(),
        agent_id: depin_proto::convert::id_bytes(AgentId::of(namespace, name)),
    };
    Ok(EnrollResponse { result: Some(Answer::Issued(issued)) })
}

async fn remember(
    context: &Context,
    namespace: &str,
    name: &str,
    expires: Timestamp,
    facts: &AgentFacts,
) -> Result<(), kube::Error> {
    let api: Api<EdgeAgent> = Api::namespaced(context.client.clone(), namespace);
    let version: String = facts.version.chars().take(64).collect();
    let mut status = json!({"certificateExpires": time(expires)});
    if !version.is_empty() {
        status["version"] = version.into();
    }
    let patch = json!({
        "apiVersion": EdgeAgent::api_version(&()), "kind": EdgeAgent::kind(&()), "metadata": {"name": name}, "status": status
    });
    let remembered =
        api.patch_status(name, &PatchParams::apply(CERTIFICATE_MANAGER).force(), &Patch::Apply(patch)).await;
    remembered.map(drop)
}

async fn sight(context: &Context, entry: &SightingsEntry) -> Result<(), InboxError> {
    let registry = context.registry.snapshot();
    let Some(agent) = AgentId::from_slice(&entry.agent_id).and_then(|id| registry.agent(&id).cloned()) else {
        // Its EdgeAgent was deleted meanwhile: nobody asks any more.
        return Ok(());
    };
    for sighting in &entry.sightings {
        if registry.device_by_serial(&agent.id, &sighting.serial).is_none() {
            admit(context, &registry, &agent, sighting).await?;
        }
    }
    Ok(())
}

async fn admit(
    context: &Context,
    registry: &Registry,
    agent: &AgentEntry,
    sighting: &Sighting,
) -> Result<(), InboxError> {
    let seen = sighting::Seen {
        model: sighting.model.clone(),
        serial: sighting.serial.clone(),
        // An agent's clock may be ahead; nothing is first seen in the future.
        at: Timestamp(sighting.first_seen).min(context.clock.now()),
        topic: sighting.topic.clone(),
    };
    let fleets: Vec<_> = context
        .stores
        .fleets
        .state()
        .into_iter()
        .filter(|fleet| fleet.namespace().as_deref() == Some(&agent.namespace))
        .collect();
    let fleets: Vec<_> = fleets.iter().map(AsRef::as_ref).collect();
    let in_force = |fleet: &EdgeFleet| {
        let id = format!("{}/{}", agent.namespace, fleet.name_any());
        registry.fleet(&id).and_then(|fleet| fleet.current()).map(|fleet| fleet.model.as_str())
    };
    match sighting::decide(&seen, agent, &fleets, in_force) {
        sighting::Decision::Admit(device) => create_device(context, *device).await,
        sighting::Decision::Ask(enrollment) => ask(context, agent, &enrollment).await,
        sighting::Decision::Ignore(reason) => {
            tracing::debug!(agent = agent.name, reason, "a sighting is ignored");
            Ok(())
        }
    }
}

async fn ask(context: &Context, agent: &AgentEntry, enrollment: &EdgeEnrollment) -> Result<(), InboxError> {
    let all = context.stores.enrollments.state();
    let open = all
        .iter()
        .filter(|other| other.spec.request.is_some() && other.namespace().as_deref() == Some(&agent.namespace));
    if open.count() >= MAX_REQUESTS {
        tracing::warn!(
            namespace = agent.namespace,
            "{MAX_REQUESTS} devices wait for approval; further ones are not listed"
        );
        return Ok(());
    }
    create(context, enrollment).await.map(drop)
}

async fn create_device(context: &Context, device: EdgeDevice) -> Result<(), InboxError> {
    if create(context, &device).await? {
        return Ok(());
    }
    let api: Api<EdgeDevice> = Api::namespaced(context.client.clone(), &device.namespace().unwrap_or_default());
    let same = api.get_opt(&device.name_any()).await?.is_some_and(|existing| {
        (&existing.spec.agent, &existing.spec.serial) == (&device.spec.agent, &device.spec.serial)
    });
    if !same {
        // The name belongs to another agent's device.
        create(context, &sighting::renamed(device)).await?;
    }
    Ok(())
}

/// Creates `object`; false if one of that name is there.
async fn create<K>(context: &Context, object: &K) -> Result<bool, InboxError>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &object.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
