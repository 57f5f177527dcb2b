//! Letting in: invitations to the registry, the ledger's inbox to EdgeAgents, EdgeDevices, and EdgeEnrollments for what a person decides.

pub mod inbox;
pub mod sighting;
pub mod token;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use depin_crds::EdgeEnrollment;
use depin_domain::{
    ids::{AgentId, Digest},
    registry::{Change, InvitationEntry},
    time::Timestamp,
};
use kube::{Api, ResourceExt, api::DeleteParams, runtime::controller::Action};
use serde_json::json;

use crate::{
    conditions::{Say, holds},
    context::{Context, ReconcileError, Verdict},
    controller::{record, status_value},
    invalid::Invalid,
    quantities::timestamp,
};

/// Its field manager.
const MANAGER: &str = "depin-operator/enrollments";
/// How long a request waits for a person.
const REQUEST_TTL_MS: i64 = 24 * 3_600_000;
/// How long an invitation stays after its end, so that it can be seen what became of it.
const TOKEN_LINGER_MS: i64 = 24 * 3_600_000;

/// What an enrollment needs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// An invitation that admits: it stands in the registry until its end.
    Invite(InvitationEntry),
    /// An invitation that ended.
    Ended,
    /// A request that waits for a person.
    Wait,
    /// It has been let in, or its time is over: it goes.
    Delete,
}

/// Looks at `enrollment`; `admitted`: the device that it asks for exists. Also tells when to look again. Pure.
pub fn need(enrollment: &EdgeEnrollment, admitted: bool, now: Timestamp) -> Result<(Need, Timestamp), Invalid> {
    if let Some(token) = &enrollment.spec.token {
        let expires = timestamp(&token.expires_at);
        let digest = token.sha256.parse::<Digest>();
        let token = digest.map_err(|_| {
            Invalid::new("spec.token.sha256", "is no digest", "make it with kubectl depin token create")
        })?;
        let gone = expires.plus(TOKEN_LINGER_MS);
        let namespace = enrollment.namespace().unwrap_or_default();
        return Ok(if now < expires {
            (Need::Invite(InvitationEntry { token, namespace, expires }), expires)
        } else if now < gone {
            (Need::Ended, gone)
        } else {
            (Need::Delete, now)
        });
    }
    let created = enrollment.metadata.creation_timestamp.as_ref().map_or(now, timestamp);
    let end = created.plus(REQUEST_TTL_MS);
    let denied = enrollment.status.as_ref().is_some_and(|status| holds(&status.conditions, "Denied"));
    // A denied request stays until its end, so that the device does not ask again with its next message.
    Ok(if now >= end || (admitted && !denied) { (Need::Delete, now) } else { (Need::Wait, end) })
}

/// One look at an enrollment.
///
/// # Errors
/// When ledger or API server fail.
pub async fn reconcile(enrollment: Arc<EdgeEnrollment>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let now = context.clock.now();
    let admitted = is_admitted(&context, &enrollment); // dereference
    let needed = need(&enrollment, admitted, now); // pure
    let verdict = apply(&context, &enrollment, &needed).await?; // client
    update_status(&context, &enrollment, &needed, &verdict).await; // client
    Ok(match needed {
        // A request's device may appear at any time; a token's end is known.
        Ok((Need::Wait, _)) => Action::requeue(Duration::from_secs(10)),
        Ok((_, again)) if again > now => {
            Action::requeue(Duration::from_millis(u64::try_from(again.since(now)).unwrap_or(1000).saturating_add(500)))
        }
        _ => Action::await_change(),
    })
}

/// Whether the device that a request names exists.
fn is_admitted(context: &Context, enrollment: &EdgeEnrollment) -> bool {
    let Some(request) = &enrollment.spec.request else { return false };
    let (Some(serial), Some(agent)) = (&request.serial, &request.agent) else { return false };
    let agent = AgentId::of(&enrollment.namespace().unwrap_or_default(), agent);
    context.registry.snapshot().device_by_serial(&agent, serial).is_some()
}

async fn apply(
    context: &Context,
    enrollment: &EdgeEnrollment,
    needed: &Result<(Need, Timestamp), Invalid>,
) -> Result<Verdict<()>, ReconcileError> {
    match needed {
        Ok((Need::Invite(entry), _)) => record(context, Change::Invitation(entry.clone())).await,
        Ok((Need::Ended, _)) => forget(context, enrollment).await,
        Ok((Need::Wait, _)) => Ok(Ok(())),
        Ok((Need::Delete, _)) => {
            let forgotten = forget(context, enrollment).await?;
            delete(context, enrollment).await?;
            Ok(forgotten)
        }
        Err(error) => Ok(Err(error.clone().into())),
    }
}

async fn forget(context: &Context, enrollment: &EdgeEnrollment) -> Result<Verdict<()>, ReconcileError> {
    let token = enrollment.spec.token.as_ref().and_then(|token| token.sha256.parse::<Digest>().ok());
    match token {
        Some(token) => record(context, Change::InvitationRemoved { token }).await,
        None => Ok(Ok(())),
    }
}

async fn delete(context: &Context, enrollment: &EdgeEnrollment) -> Result<(), ReconcileError> {
    let api: Api<EdgeEnrollment> = Api::namespaced(context.client.clone(), &enrollment.namespace().unwrap_or_default());
    match api.delete(&enrollment.name_any(), &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How often invitations are compared with their EdgeEnrollments.
const SWEEP: Duration = Duration::from_secs(5);

/// Takes invitations back whose EdgeEnrollment was deleted. Absence is enough here: an invitation that is taken back in error comes again
/// with the next look at its EdgeEnrollment, and none of them is worth anything but the chance to ask.
pub async fn sweep(context: Arc<Context>) {
    let mut absent_before = BTreeSet::new();
    loop {
        let enrollments = context.stores.enrollments.state();
        let tokens: BTreeSet<_> =
            enrollments.iter().filter_map(|object| Some(object.spec.token.as_ref()?.sha256.clone())).collect();
        let registry = context.registry.snapshot();
        let absent: BTreeSet<_> = registry
            .invitations()
            .map(|entry| entry.token)
            .filter(|token| !tokens.contains(&token.to_string()))
            .collect();
        // Absent twice: the view may lag behind the registry for a moment.
        for token in absent.intersection(&absent_before) {
            if let Err(error) = context.registry.submit(Change::InvitationRemoved { token: *token }).await {
                tracing::warn!(%error, "an invitation could not be taken back");
            }
        }
        absent_before = absent;
        tokio::time::sleep(SWEEP).await;
    }
}

async fn update_status(
    context: &Context,
    enrollment: &EdgeEnrollment,
    needed: &Result<(Need, Timestamp), Invalid>,
    verdict: &Verdict<()>,
) {
    let name = enrollment.name_any();
    let used = enrollment.status.as_ref().and_then(|status| status.admitted.clone());
    let say = match (needed, verdict) {
        (_, Err(error)) => Say::new("Ready", false, error.reason(), error.to_string()),
        (Ok((Need::Invite(_) | Need::Ended, _)), Ok(())) if used.is_some() => {
            Say::new("Ready", false, "Used", format!("admitted {}", used.unwrap_or_default()))
        }
        (Ok((Need::Invite(_), _)), Ok(())) => Say::new("Ready", true, "Admitting", "the token admits one agent"),
        (Ok((Need::Ended, _)), Ok(())) => {
            Say::new("Ready", false, "Expired", "the token admits nothing more; make another")
        }
        (Ok((Need::Wait, _)), Ok(())) => Say::new(
            "Ready",
            false,
            "AwaitingApproval",
            format!("kubectl depin approve {name}, or kubectl depin deny {name}"),
        ),
        (Ok((Need::Delete, _)) | Err(_), Ok(())) => return,
    };
    let status = enrollment.status.clone().unwrap_or_default();
    let generation = enrollment.metadata.generation;
    let conditions = [say.over(&status.conditions, generation, context.clock.now())];
    let wanted = status_value(generation, json!({}), &conditions);
    context.status.wish(enrollment, enrollment.status.as_ref(), MANAGER, wanted, None).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrollment(spec: &str) -> EdgeEnrollment {
        serde_saphyr::from_str(&format!(
            "apiVersion: depin.dev/v1alpha1\nkind: EdgeEnrollment\nmetadata:\n  name: e\n  namespace: town\n  creationTimestamp: \
             2026-01-01T00:00:00Z\nspec:\n  {spec}\n"
        ))
        .unwrap()
    }

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn an_invitation_stands_until_its_end_and_is_kept_a_day_longer() {
        let digest = "ab".repeat(32);
        let token =
            enrollment(&format!("token: {{sha256: {digest}, expiresAt: 2026-01-02T00:00:00Z, fleets: [homes]}}"));
        let (needed, again) = need(&token, false, at("2026-01-01T12:00:00Z")).unwrap();
        assert!(matches!(needed, Need::Invite(entry) if entry.namespace == "town"));
        assert_eq!(again, at("2026-01-02T00:00:00Z"));
        assert_eq!(need(&token, false, at("2026-01-02T00:00:00Z")).unwrap().0, Need::Ended);
        assert_eq!(need(&token, false, at("2026-01-03T00:00:00Z")).unwrap().0, Need::Delete);
    }

    #[test]
    fn a_request_waits_a_day_for_a_person() {
        let mut request = enrollment("request: {kind: Device, agent: roof-1, serial: m1}");
        assert_eq!(need(&request, false, at("2026-01-01T23:59:59Z")).unwrap().0, Need::Wait);
        assert_eq!(need(&request, true, at("2026-01-01T12:00:00Z")).unwrap().0, Need::Delete, "let in");
        assert_eq!(need(&request, false, at("2026-01-02T00:00:00Z")).unwrap().0, Need::Delete, "forgotten");
        let denied = Say::new("Denied", true, "ByPerson", "").over(&[], Some(1), Timestamp(0));
        request.status =
            Some(depin_crds::EdgeEnrollmentStatus { conditions: denied.into_iter().collect(), ..Default::default() });
        assert_eq!(need(&request, true, at("2026-01-01T12:00:00Z")).unwrap().0, Need::Wait, "a denial stays");
    }
}
