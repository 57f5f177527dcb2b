//! RewardEpochs and the program's progress: views of the record, for kubectl. They may be deleted at any time and lose nothing.

use std::{collections::BTreeSet, sync::Arc};

use depin_crds::{RewardEpoch, RewardEpochSpec, RewardProgram, Time};
use depin_domain::{
    rewards::{Amount, EpochSummary},
    time::{Timestamp, Window},
};
use depin_proto::v1::EpochClose;
use futures::{StreamExt, TryStreamExt};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::{Value, json};

use super::blocked::Standing;
use crate::{
    annotations::{MANAGED_BY, OPERATOR, PROGRAM},
    conditions::{Say, holds},
    context::Context,
    controller::status_value,
    quantities::time,
    status::Transition,
};

/// Views of a program that are kept.
pub(super) const KEEP: u32 = 100;
/// Views that are made at once.
const AT_ONCE: usize = 8;
const MANAGER: &str = "depin-operator/epochs";

/// What the ledger has of an epoch.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// When and where it was closed.
    pub close: &'a EpochClose,
    /// Its totals.
    pub summary: &'a EpochSummary,
    /// SHA-256 of its result.
    pub digest: &'a [u8],
    /// The settlement chain of the program that ruled it.
    pub chain: Option<&'a str>,
}

/// Shows recorded epochs of program `id`; false if one could not be: the record stands without the view, which is made later.
pub async fn show(context: &Context, id: &str, recorded: &[Recorded<'_>]) -> bool {
    let shown = try_show(context, id, recorded).await;
    if let Err(error) = &shown {
        tracing::warn!(program = id, %error, "an epoch is recorded but its view is not shown; it is made later");
    }
    shown.is_ok()
}

async fn try_show(context: &Context, id: &str, recorded: &[Recorded<'_>]) -> Result<(), kube::Error> {
    let Some((namespace, program)) = id.split_once('/') else { return Ok(()) };
    let api: Api<RewardEpoch> = Api::namespaced(context.client.clone(), namespace);
    let making: Vec<_> = recorded.iter().map(|recorded| make(context, &api, program, recorded)).collect();
    futures::stream::iter(making).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
    prune(&api, program).await
}

/// Which of the epochs `wanted` have no whole view, ascending.
///
/// # Errors
/// When the API server does not answer.
pub async fn missing(
    context: &Context,
    id: &str,
    wanted: std::ops::RangeInclusive<u64>,
) -> Result<BTreeSet<u64>, kube::Error> {
    let Some((namespace, program)) = id.split_once('/') else { return Ok(BTreeSet::new()) };
    let api: Api<RewardEpoch> = Api::namespaced(context.client.clone(), namespace);
    let views = list(&api, program).await?;
    let shown =
        views.iter().filter(|view| view.status.as_ref().is_some_and(|status| holds(&status.conditions, "Ready")));
    let shown: BTreeSet<_> = shown.filter_map(|view| u64::try_from(view.spec.number).ok()).collect();
    Ok(wanted.filter(|number| !shown.contains(number)).collect())
}

async fn list(api: &Api<RewardEpoch>, program: &str) -> Result<Vec<RewardEpoch>, kube::Error> {
    let selector = ListParams::default().fields(&format!("spec.program={program}"));
    Ok(api.list(&selector).await?.items)
}

async fn make(
    context: &Context,
    api: &Api<RewardEpoch>,
    program: &str,
    recorded: &Recorded<'_>,
) -> Result<(), kube::Error> {
    let Some(epoch) = object(program, recorded.summary) else { return Ok(()) };
    let name = epoch.name_any();
    let parameters = PatchParams::apply(MANAGER).force();
    let applied = api.patch(&name, &parameters, &Patch::Apply(&epoch)).await?;
    let status = status(&applied, recorded, context.clock.now());
    let patch = json!({
        "apiVersion": RewardEpoch::api_version(&()), "kind": RewardEpoch::kind(&()), "metadata": {"name": name}, "status": status
    });
    api.patch_status(&name, &parameters, &Patch::Apply(patch)).await.map(drop)
}

/// The object of an epoch; none where its times cannot be written.
#[must_use]
pub fn object(program: &str, summary: &EpochSummary) -> Option<RewardEpoch> {
    let spec = RewardEpochSpec {
        program: program.to_owned(),
        number: i64::try_from(summary.number).ok()?,
        start: time(summary.start)?,
        end: time(summary.end)?,
        program_digest: summary.program_digest.to_string(),
    };
    let mut epoch = RewardEpoch::new(&format!("{program}-{}", summary.number), spec);
    epoch.labels_mut().insert(MANAGED_BY.to_owned(), OPERATOR.to_owned());
    // A label holds 63 characters; selection by field works for longer names too.
    if program.len() <= 63 {
        epoch.labels_mut().insert(PROGRAM.to_owned(), program.to_owned());
    }
    Some(epoch)
}

/// The status of an epoch's view.
#[must_use]
pub fn status(epoch: &RewardEpoch, recorded: &Recorded<'_>, now: Timestamp) -> Value {
    let Recorded { close, summary, digest, chain } = *recorded;
    let existing = epoch.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let generation = epoch.metadata.generation;
    let conditions = [
        Say::new("Ready", true, "Computed", "recorded in the ledger"),
        Say::new("Closed", true, "Closed", format!("at position {} of the ledger", close.position)),
        Say::new("Computed", true, "Computed", ""),
        published(chain),
    ]
    .map(|say| say.over(existing, generation, now));
    let paid = summary.payouts.iter().try_fold(Amount::ZERO, |sum, payout| sum.plus(payout.amount));
    let fields = json!({
        "closedAt": time(Timestamp(close.closed_at)),
        "minted": summary.minted.to_string(),
        "carriedIn": summary.carried_in.to_string(),
        "carriedOut": summary.carried_out.to_string(),
        "unallocated": summary.unallocated.to_string(),
        // Where there are too many accounts the equation of conservation tells the sum.
        "paid": if summary.payouts_in_state { balance(summary) } else { paid }.map(|paid| paid.to_string()),
        "devices": i64::try_from(summary.devices.total).ok(),
        "root": summary.root,
        "resultDigest": hex::encode(digest),
    });
    status_value(generation, fields, &conditions)
}

/// Roots are computed here and settled nowhere yet.
fn published(chain: Option<&str>) -> Say {
    match chain {
        None => Say::new("Published", false, "NoChain", "the root is computed; no settlement chain is set"),
        Some(chain) => Say::new(
            "Published",
            false,
            "NotPublished",
            format!("the root is computed; nothing publishes it to settlement chain {chain} yet"),
        ),
    }
}

fn balance(summary: &EpochSummary) -> Option<Amount> {
    summary.minted.plus(summary.carried_in)?.minus(summary.unallocated)?.minus(summary.carried_out)
}

/// Shows where the program stands: its newest recorded epoch, when the one after it ends, and whether that can be closed.
pub async fn show_progress(
    context: &Context,
    id: &str,
    newest: Option<u64>,
    root: Option<&str>,
    window: Window,
    standing: &Standing,
) {
    let Some(object) = program(context, id) else { return };
    let epoch = newest.and_then(|number| i64::try_from(number).ok());
    let shown = object.status.as_ref().and_then(|status| status.epoch);
    // The same text each time: Events of one reason are one series, which shows its first text.
    let told = newest.filter(|_| shown != epoch).map(|_| Transition {
        warning: false,
        reason: "EpochRecorded".to_owned(),
        note: "an epoch was recorded; see kubectl get rewardepochs".to_owned(),
    });
    wish(context, &object, progress(epoch, root, time(window.end)), standing, told).await;
}

/// Shows whether the program's next epoch can be closed; what else its status says stays.
pub async fn show_standing(context: &Context, id: &str, standing: &Standing) {
    let Some(object) = program(context, id) else { return };
    let status = object.status.clone().unwrap_or_default();
    wish(context, &object, progress(status.epoch, status.root.as_deref(), status.next_end), standing, None).await;
}

fn program(context: &Context, id: &str) -> Option<Arc<RewardProgram>> {
    let (namespace, name) = id.split_once('/')?;
    context.stores.programs.get(&ObjectRef::new(name).within(namespace))
}

async fn wish(
    context: &Context,
    object: &RewardProgram,
    mut wanted: Value,
    standing: &Standing,
    told: Option<Transition>,
) {
    let existing = object.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let (condition, changed) = standing.condition(existing, object.metadata.generation, context.clock.now());
    if let Some((wanted, condition)) = wanted.as_object_mut().zip(condition) {
        wanted.insert("conditions".to_owned(), json!([condition]));
    }
    let told = changed.into_iter().chain(told);
    context.status.wish(object, object.status.as_ref(), MANAGER, wanted, told).await;
}

fn progress(epoch: Option<i64>, root: Option<&str>, next_end: Option<Time>) -> Value {
    let mut fields = json!({"epoch": epoch, "root": root, "nextEnd": next_end});
    if let Value::Object(fields) = &mut fields {
        fields.retain(|_, value| !value.is_null());
    }
    fields
}

/// Deletes views beyond the newest [`KEEP`].
async fn prune(api: &Api<RewardEpoch>, program: &str) -> Result<(), kube::Error> {
    let views = list(api, program).await?;
    for name in surplus(views.iter().map(|view| (view.spec.number, view.name_any())).collect()) {
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Names of the views that are too old to be kept.
fn surplus(mut views: Vec<(i64, String)>) -> Vec<String> {
    views.sort_unstable_by(|a, b| b.cmp(a));
    views.into_iter().skip(KEEP as usize).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_hundred_are_kept() {
        let views: Vec<_> = (0..103).map(|number| (number, format!("p-{number}"))).collect();
        assert_eq!(surplus(views), ["p-2", "p-1", "p-0"]);
    }

    #[test]
    fn a_root_that_is_not_published_says_why() {
        let said = |chain| {
            let conditions = published(chain).over(&[], Some(1), Timestamp(1_000)).into_iter();
            conditions.map(|condition| (condition.status, condition.reason, condition.message)).next()
        };
        let none = said(None);
        assert!(none.is_some_and(|(status, reason, _)| status == "False" && reason == "NoChain"));
        let base = said(Some("base"));
        assert!(base.is_some_and(|(status, reason, message)| {
            status == "False" && reason == "NotPublished" && message.contains("settlement chain base")
        }));
    }
}
