//! Reward programs and their epochs.
//!
//! The controller keeps each program in the registry; [`epochs`] closes what is due. The ledger is the record of both: nothing here is
//! remembered only in memory or in the cluster.

pub mod blocked;
pub mod compute;
pub mod epochs;
mod progress;
pub mod removal;
pub mod statistics;
pub mod validate;
pub mod view;

use std::sync::Arc;

use depin_crds::RewardProgram;
use depin_domain::registry::{Change, ProgramEntry, Registry};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;

use crate::{
    annotations::SUSPEND_REASON,
    conditions::Say,
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, suspension, transition},
};

/// Its field manager.
const MANAGER: &str = "depin-operator/programs";

/// One look at a program.
///
/// # Errors
/// When ledger or API server fail; what is wrong with the program itself is its status.
pub async fn reconcile(program: Arc<RewardProgram>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let registry = context.registry.snapshot(); // dereference
    let valid = validate::entry(&program, &registry, context.clock.now()); // pure
    let verdict = apply(&context, valid).await?; // client
    update_status(&context, &program, &verdict).await; // client
    Ok(Action::requeue(context.next_look(&program.uid().unwrap_or_default(), &verdict)))
}

async fn apply(context: &Context, entry: Verdict<ProgramEntry>) -> Result<Verdict<ProgramEntry>, ReconcileError> {
    match entry {
        Ok(entry) => {
            let recorded = record(context, Change::Program(entry.clone())).await?;
            Ok(recorded.map(|()| registered(&context.registry.snapshot(), entry)))
        }
        Err(error) => Ok(Err(error)),
    }
}

/// The entry as it was registered: the ledger lets no spec rule an epoch that is closed.
fn registered(registry: &Registry, entry: ProgramEntry) -> ProgramEntry {
    let newest = registry.program(&entry.id).and_then(|program| program.newest());
    newest.filter(|newest| newest.digest == entry.digest).map_or(entry, |newest| ProgramEntry::clone(newest))
}

async fn update_status(context: &Context, program: &RewardProgram, verdict: &Verdict<ProgramEntry>) {
    let now = context.clock.now();
    let status = program.status.clone().unwrap_or_default();
    let generation = program.metadata.generation;
    let say = ready(verdict, "registered");
    let ready_told = transition(&status.conditions, &say);
    let suspended = if program.spec.suspend {
        let reason = program.annotations().get(SUSPEND_REASON).map_or("no reason given", String::as_str);
        Say::new("Suspended", true, "ByPerson", format!("{reason}; epochs pass, mint nothing and pay nothing new"))
    } else {
        Say::new("Suspended", false, "NotSuspended", "")
    };
    let told = ready_told.into_iter().chain(suspension(&status.conditions, &suspended));
    let conditions = [say, suspended].map(|say| say.over(&status.conditions, generation, now));
    let entry = verdict.as_ref().ok();
    let fields = json!({
        "digest": entry.map(|entry| entry.digest.to_string()),
        "fromEpoch": entry.map(|entry| entry.from_epoch),
    });
    let wanted = status_value(generation, fields, &conditions);
    context.status.wish(program, program.status.as_ref(), MANAGER, wanted, told).await;
}
