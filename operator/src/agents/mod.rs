//! The controller of EdgeAgents: an EdgeAgent that exists is approved, and goes to the registry with its key.

pub mod validate;

use std::sync::Arc;

use depin_crds::EdgeAgent;
use depin_domain::registry::{AgentEntry, Change};
use kube::{ResourceExt, runtime::controller::Action};
use serde_json::json;

use crate::{
    context::{Context, ReconcileError, Verdict},
    controller::{ready, record, status_value, transition},
    quantities::resource_key,
};

/// Its field manager.
const MANAGER: &str = "depin-operator/agents";

/// One look at an agent.
///
/// # Errors
/// When ledger or API server fail; what is wrong with the agent itself is its status.
pub async fn reconcile(agent: Arc<EdgeAgent>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let registry = context.registry.snapshot(); // dereference
    let valid = validate::entry(&agent, &registry); // pure
    let verdict = apply(&context, valid).await?; // client
    update_status(&context, &agent, &verdict).await; // client
    Ok(Action::requeue(context.next_look(&agent.uid().unwrap_or_default(), &verdict)))
}

async fn apply(context: &Context, entry: Verdict<AgentEntry>) -> Result<Verdict<AgentEntry>, ReconcileError> {
    match entry {
        Ok(entry) => Ok(record(context, Change::Agent(entry.clone())).await?.map(|()| entry)),
        Err(error) => Ok(Err(error)),
    }
}

async fn update_status(context: &Context, agent: &EdgeAgent, verdict: &Verdict<AgentEntry>) {
    let now = context.clock.now();
    let status = agent.status.clone().unwrap_or_default();
    let say = ready(verdict, "registered");
    let told = transition(&status.conditions, &say);
    let conditions = [say.over(&status.conditions, agent.metadata.generation, now)];
    let entry = verdict.as_ref().ok();
    let fields = json!({
        "agentId": entry.map(|entry| entry.id.to_string()),
        "publicKey": entry.map(|entry| resource_key(&entry.key)).or(status.public_key),
    });
    let wanted = status_value(agent.metadata.generation, fields, &conditions);
    context.status.wish(agent, agent.status.as_ref(), MANAGER, wanted, told).await;
}
