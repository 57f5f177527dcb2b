//! Letting in: invitations to the registry, the ledger's inbox to EdgeAgents, EdgeDevices, and EdgeEnrollments for what a person decides.

pub mod denial;
pub mod inbox;
pub mod renewal;
pub mod service_account;
pub mod sighting;
pub mod token;
pub mod waiting;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use depin_crds::{Condition, EdgeEnrollment};
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
    status::Transition,
};

/// Its field manager.
const MANAGER: &str = "depin-operator/enrollments";
/// How long a request waits for a person.
const REQUEST_TTL_MS: i64 = 24 * 3_600_000;
/// How long an invitation stays after its end, so that it can be seen what became of it.
const TOKEN_LINGER_MS: i64 = 24 * 3_600_000;
/// When one is looked at again that is about to go.
const SOON_MS: i64 = 1_000;
/// A person's word against a request, and the reason of `Ready` that repeats it.
const DENIED: &str = "Denied";
/// Reason of `Ready`: the device that the request asked for is there.
const APPROVED: &str = "Approved";
/// Reason of `Ready`: the token has admitted its one agent.
const USED: &str = "Used";

/// What an enrollment needs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// An invitation that admits: it stands in the registry until its end.
    Invite(InvitationEntry),
    /// An invitation that ended.
    Ended,
    /// A request that waits for a person.
    Wait,
    /// A request that a person turned down; it stays until its end, so that the device does not ask again with its next message.
    Denied,
    /// A request that was let in: it says so before it goes.
    Approved,
    /// It has been let in and says so, or its time is over: it goes.
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
    let conditions = enrollment.status.as_ref().map_or(&[][..], |status| &status.conditions);
    Ok(if now >= end {
        (Need::Delete, now)
    } else if holds(conditions, DENIED) {
        (Need::Denied, end)
    } else if !admitted {
        (Need::Wait, end)
    } else if reason_of(conditions) == Some(APPROVED) {
        (Need::Delete, now)
    } else {
        (Need::Approved, now.plus(SOON_MS))
    })
}

/// One look at an enrollment.
///
/// # Errors
/// When ledger or API server fail.
pub async fn reconcile(enrollment: Arc<EdgeEnrollment>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let now = context.clock.now();
    let admitted = admitted(&context, &enrollment); // dereference
    let needed = need(&enrollment, admitted.is_some(), now); // pure
    let verdict = apply(&context, &enrollment, &needed).await?; // client
    let known = Known { enrollment: &enrollment, admitted: admitted.as_deref() };
    update_status(&context, known, &needed, &verdict).await; // client
    Ok(match needed {
        // A request's device may appear at any time; a token's end is known.
        Ok((Need::Wait | Need::Denied, _)) => Action::requeue(Duration::from_secs(10)),
        Ok((_, again)) if again > now => {
            Action::requeue(Duration::from_millis(u64::try_from(again.since(now)).unwrap_or(1000).saturating_add(500)))
        }
        _ => Action::await_change(),
    })
}

/// Name of the device that a request asks for, if it exists.
fn admitted(context: &Context, enrollment: &EdgeEnrollment) -> Option<String> {
    let request = enrollment.spec.request.as_ref()?;
    let (serial, agent) = (request.serial.as_ref()?, request.agent.as_ref()?);
    let agent = AgentId::of(&enrollment.namespace().unwrap_or_default(), agent);
    let registry = context.registry.snapshot();
    let device = registry.device(registry.device_by_serial(&agent, serial)?)?;
    Some(device.current()?.name.clone())
}

/// An enrollment, and the device that came of it.
#[derive(Clone, Copy)]
struct Known<'a> {
    enrollment: &'a EdgeEnrollment,
    admitted: Option<&'a str>,
}

async fn apply(
    context: &Context,
    enrollment: &EdgeEnrollment,
    needed: &Result<(Need, Timestamp), Invalid>,
) -> Result<Verdict<()>, ReconcileError> {
    match needed {
        Ok((Need::Invite(entry), _)) => record(context, Change::Invitation(entry.clone())).await,
        Ok((Need::Ended, _)) => forget(context, enrollment).await,
        Ok((Need::Wait | Need::Denied | Need::Approved, _)) => Ok(Ok(())),
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
            .filter(|entry| context.watched.has_namespace(&entry.namespace))
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

/// What became of the enrollment; none where it goes.
fn standing(known: Known<'_>, needed: &Result<(Need, Timestamp), Invalid>, verdict: &Verdict<()>) -> Option<Say> {
    let name = known.enrollment.name_any();
    let status = known.enrollment.status.as_ref();
    let used = status.and_then(|status| status.admitted.as_ref());
    let denial = status.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == DENIED));
    let no = |reason: &str, message: String| Some(Say::new("Ready", false, reason, message));
    let need = match (needed, verdict) {
        (_, Err(error)) => return no(error.reason(), error.to_string()),
        (Err(error), Ok(())) => return no("Invalid", error.to_string()),
        (Ok((need, _)), Ok(())) => need,
    };
    match (need, used) {
        (Need::Invite(_) | Need::Ended, Some(used)) => no(USED, format!("admitted {used}")),
        (Need::Invite(_), None) => Some(Say::new("Ready", true, "Admitting", "the token admits one agent")),
        (Need::Ended, None) => no("Expired", "the token admits nothing more; make another".to_owned()),
        (Need::Wait, _) => {
            no("AwaitingApproval", format!("kubectl depin approve {name}, or kubectl depin deny {name}"))
        }
        (Need::Denied, _) => no(DENIED, denial.map(|denial| denial.message.clone()).unwrap_or_default()),
        (Need::Approved, _) => {
            let device = known.admitted.unwrap_or(&name);
            Some(Say::new("Ready", true, APPROVED, format!("EdgeDevice {device} counts from its first sighting on")))
        }
        (Need::Delete, _) => None,
    }
}

/// The Event of what became of it, once: who waits is no news.
fn news(existing: &[Condition], say: &Say) -> Option<Transition> {
    let decided = [APPROVED, DENIED, USED].contains(&say.reason.as_str());
    (decided && reason_of(existing) != Some(say.reason.as_str())).then(|| Transition {
        warning: false,
        reason: say.reason.clone(),
        note: say.message.clone(),
    })
}

fn reason_of(conditions: &[Condition]) -> Option<&str> {
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.reason.as_str())
}

async fn update_status(
    context: &Context,
    known: Known<'_>,
    needed: &Result<(Need, Timestamp), Invalid>,
    verdict: &Verdict<()>,
) {
    let Some(say) = standing(known, needed, verdict) else { return };
    let enrollment = known.enrollment;
    let status = enrollment.status.clone().unwrap_or_default();
    let told = news(&status.conditions, &say);
    let generation = enrollment.metadata.generation;
    let conditions = [say.over(&status.conditions, generation, context.clock.now())];
    let wanted = status_value(generation, json!({"admitted": known.admitted}), &conditions);
    context.status.wish(enrollment, enrollment.status.as_ref(), MANAGER, wanted, told).await;
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
        assert_eq!(need(&request, false, at("2026-01-02T00:00:00Z")).unwrap().0, Need::Delete, "forgotten");
        request.status = Some(status(Say::new("Denied", true, "DeniedByPerson", "not ours")));
        for admitted in [false, true] {
            assert_eq!(need(&request, admitted, at("2026-01-01T12:00:00Z")).unwrap().0, Need::Denied, "a denial stays");
        }
        assert_eq!(need(&request, false, at("2026-01-02T00:00:00Z")).unwrap().0, Need::Delete, "for a day");
    }

    #[test]
    fn a_request_that_was_let_in_says_so_once_before_it_goes() {
        let mut request = enrollment("request: {kind: Device, agent: roof-1, serial: m1}");
        let noon = at("2026-01-01T12:00:00Z");
        let needed = need(&request, true, noon);
        assert!(matches!(&needed, Ok((Need::Approved, again)) if *again > noon), "{needed:?}");
        let known = Known { enrollment: &request, admitted: Some("pv-roof") };
        let say = standing(known, &needed, &Ok(())).unwrap();
        assert!(say.message.contains("EdgeDevice pv-roof"), "{}", say.message);
        let told = news(&[], &say).unwrap();
        assert_eq!((told.reason.as_str(), told.warning), ("Approved", false));
        let said = status(say.clone());
        assert_eq!(news(&said.conditions, &say), None, "an Event for each of its looks");
        request.status = Some(said);
        assert_eq!(need(&request, true, noon).unwrap().0, Need::Delete);
    }

    #[test]
    fn a_denial_and_a_used_token_are_told_once_and_waiting_never() {
        let waiting = enrollment("request: {kind: Device, agent: roof-1, serial: m1}");
        let noon = at("2026-01-01T12:00:00Z");
        let look = |enrollment: &EdgeEnrollment| {
            let known = Known { enrollment, admitted: None };
            standing(known, &need(enrollment, false, noon), &Ok(())).unwrap()
        };
        let say = look(&waiting);
        assert_eq!((say.reason.as_str(), news(&[], &say)), ("AwaitingApproval", None));
        let mut denied = waiting;
        denied.status = Some(status(Say::new("Denied", true, "DeniedByPerson", "not ours")));
        let say = look(&denied);
        let told = news(&denied.status.clone().unwrap().conditions, &say).unwrap();
        assert_eq!((told.reason.as_str(), told.note.as_str()), ("Denied", "not ours"));
        assert_eq!(news(&status(say.clone()).conditions, &say), None);

        let digest = "ab".repeat(32);
        let mut token =
            enrollment(&format!("token: {{sha256: {digest}, expiresAt: 2026-01-02T00:00:00Z, fleets: [homes]}}"));
        assert_eq!(news(&[], &look(&token)), None);
        token.status = Some(depin_crds::EdgeEnrollmentStatus { admitted: Some("roof-1".into()), ..Default::default() });
        assert_eq!(news(&[], &look(&token)).unwrap().note, "admitted roof-1");
    }

    fn status(say: Say) -> depin_crds::EdgeEnrollmentStatus {
        let conditions = say.over(&[], Some(1), Timestamp(1_000)).into_iter().collect();
        depin_crds::EdgeEnrollmentStatus { conditions, ..Default::default() }
    }
}
