//! The controller of EdgeDeviceModels: each goes to the registry under its digest.

pub mod validate;

use std::sync::Arc;

use depin_crds::EdgeDeviceModel;
use depin_domain::registry::{Change, ModelEntry};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;

use crate::{
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, transition},
};

/// Its field manager.
const MANAGER: &str = "depin-operator/models";

/// One look at a model.
///
/// # Errors
/// When ledger or API server fail; what is wrong with the model itself is its status.
pub async fn reconcile(model: Arc<EdgeDeviceModel>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let registry = context.registry.snapshot(); // dereference
    let valid = validate::entry(&model, &registry, context.clock.now()); // pure
    let verdict = apply(&context, valid.map_err(Into::into)).await?; // client
    update_status(&context, &model, &verdict).await; // client
    Ok(Action::requeue(context.next_look(&model.uid().unwrap_or_default(), &verdict)))
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
