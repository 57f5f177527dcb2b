//! The controller of EdgeDeviceModels: each goes to the registry under its digest.

pub mod validate;

use std::{sync::Arc, time::Duration};

use depin_crds::{EdgeDeviceModel, model::Metric};
use depin_domain::{
    registry::{Change, ModelEntry},
    time::Timestamp,
};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;

use crate::{
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, transition},
    invalid::NotReady,
};

/// Its field manager.
const MANAGER: &str = "depin-operator/models";
/// Timers may be a little early.
const MOMENT_MS: u64 = 100;

/// One look at a model.
///
/// # Errors
/// When ledger or API server fail; what is wrong with the model itself is its status.
pub async fn reconcile(model: Arc<EdgeDeviceModel>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let (registry, now) = (context.registry.snapshot(), context.clock.now()); // dereference
    let valid = validate::entry(&model, &registry, now); // pure
    let verdict = apply(&context, valid.map_err(Into::into)).await?; // client
    let verdict = verdict.map_err(|error| placed(error, &model.spec.metrics)); // pure
    update_status(&context, &model, &verdict).await; // client
    let look = context.next_look(&model.uid().unwrap_or_default(), &verdict);
    Ok(Action::requeue(beginning(&verdict, now).map_or(look, |begins| look.min(begins))))
}

/// In how long a version that is still to come begins: its status tells then that it is in force.
fn beginning(verdict: &Verdict<ModelEntry>, now: Timestamp) -> Option<Duration> {
    let wait = verdict.as_ref().ok()?.effective_from.since(now);
    let wait = u64::try_from(wait).ok().filter(|wait| *wait > 0)?;
    Some(Duration::from_millis(wait.saturating_add(MOMENT_MS)))
}

/// The registry names a metric by its name, since it has them in another order; their author knows it by its place.
fn placed(mut error: NotReady, metrics: &[Metric]) -> NotReady {
    if let Some(field) = error.field_mut()
        && let Some(rest) = field.strip_prefix("spec.metrics.")
    {
        let (name, part) =
            rest.split_once('.').map_or((rest, String::new()), |(name, part)| (name, format!(".{part}")));
        if let Some(place) = metrics.iter().position(|metric| metric.name == name) {
            *field = format!("spec.metrics[{place}]{part}");
        }
    }
    error
}

async fn apply(context: &Context, entry: Verdict<ModelEntry>) -> Result<Verdict<ModelEntry>, ReconcileError> {
    match entry {
        Ok(entry) => Ok(record(context, Change::Model(entry.clone())).await?.map(|()| entry)),
        Err(error) => Ok(Err(error)),
    }
}

async fn update_status(context: &Context, model: &EdgeDeviceModel, verdict: &Verdict<ModelEntry>) {
    let now = context.clock.now();
    let status = model.status.clone().unwrap_or_default();
    let say = ready(verdict, "registered");
    let told = transition(&status.conditions, &say);
    let registry = context.registry.snapshot();
    let chain = registry.model_chain(&model.name_any());
    let in_force = chain.and_then(|chain| chain.at(now)).map(|entry| entry.digest.to_string());
    let next = verdict.as_ref().ok().filter(|entry| entry.effective_from > now).map(|entry| entry.digest.to_string());
    let fields = json!({"digest": in_force, "nextDigest": next});
    let conditions = [say.over(&status.conditions, model.metadata.generation, now)];
    let wanted = status_value(model.metadata.generation, fields, &conditions);
    context.status.wish(model, model.status.as_ref(), MANAGER, wanted, told).await;
}

#[cfg(test)]
mod tests {
    use depin_domain::registry::ChangeError;

    use super::*;

    #[test]
    fn a_metric_is_told_by_its_place() {
        let metric = |name: &str| -> Metric {
            serde_saphyr::from_str(&format!("{{name: {name}, unit: W, kind: Gauge, scale: 0}}")).unwrap()
        };
        let metrics = [metric("power"), metric("energy")];
        let told = |field: &str| {
            let error = ChangeError::Invalid { field: field.into(), reason: "odd".into(), remedy: "mend it".into() };
            placed(error.into(), &metrics).to_string()
        };
        assert_eq!(told("metrics/energy/maxRate"), "spec.metrics[1].maxRate: odd; mend it");
        assert_eq!(told("metrics/power"), "spec.metrics[0]: odd; mend it");
        assert_eq!(told("metrics/gone/min"), "spec.metrics.gone.min: odd; mend it");
        assert_eq!(told("cadenceMs"), "spec.cadence: odd; mend it");
    }
}
