//! The controller of EdgeFleets: registry entry and roll-up of its devices.

pub mod rollup;
pub mod validate;

use std::sync::Arc;

use depin_crds::EdgeFleet;
use depin_domain::registry::{Change, FleetEntry};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;
pub use validate::id;

use crate::{
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, transition},
};

/// Its field manager.
const MANAGER: &str = "depin-operator/fleets";

/// One look at a fleet.
///
/// # Errors
/// When ledger or API server fail; what is wrong with the fleet itself is its status.
pub async fn reconcile(fleet: Arc<EdgeFleet>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let valid = validate::entry(&fleet).map_err(Into::into); // pure
    let verdict = apply(&context, valid).await?; // client
    update_status(&context, &fleet, &verdict).await; // client
    Ok(Action::requeue(context.next_look(&fleet.uid().unwrap_or_default(), &verdict)))
}

async fn apply(context: &Context, entry: Verdict<FleetEntry>) -> Result<Verdict<FleetEntry>, ReconcileError> {
    match entry {
        Ok(entry) => Ok(record(context, Change::Fleet(entry.clone())).await?.map(|()| entry)),
        Err(error) => Ok(Err(error)),
    }
}

async fn update_status(context: &Context, fleet: &EdgeFleet, verdict: &Verdict<FleetEntry>) {
    let now = context.clock.now();
    let status = fleet.status.clone().unwrap_or_default();
    let say = ready(verdict, "registered");
    let told = transition(&status.conditions, &say);
    let conditions = [say.over(&status.conditions, fleet.metadata.generation, now)];
    let wanted = status_value(fleet.metadata.generation, json!({}), &conditions);
    context.status.wish(fleet, fleet.status.as_ref(), MANAGER, wanted, told).await;
}
