//! What all controllers share: how a change is handed in, how a status is built, how a stream of reconciles is driven.

use std::{fmt::Debug, hash::Hash, sync::Arc, time::Duration};

use depin_crds::Condition;
use depin_domain::registry::Change;
use futures::{Future, StreamExt};
use kube::{
    Resource, ResourceExt,
    runtime::{
        Controller,
        controller::{Action, Config},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    conditions::{Say, Status, holds, status_of},
    context::{Context, ReconcileError, Verdict},
    invalid::NotReady,
    registry::Outcome,
    status::Transition,
};

/// Hands `change` in; refused ones become a verdict.
///
/// # Errors
/// When the writer has stopped.
pub async fn record(context: &Context, change: Change) -> Result<Verdict<()>, ReconcileError> {
    let refused = match context.registry.submit(change).await? {
        Outcome::Unchanged | Outcome::Recorded => return Ok(Ok(())),
        Outcome::Refused(error) => error.into(),
        Outcome::RefusedByLedger(message) => NotReady::RefusedByLedger(message),
    };
    context.metrics.registry_refused();
    Ok(Err(refused))
}

/// The condition `Ready` of a verdict. While something is waited for it is Unknown, so that no tool takes the object for done.
#[must_use]
pub fn ready<T>(verdict: &Verdict<T>, message: &str) -> Say {
    match verdict {
        Ok(_) => Say::new("Ready", true, "Registered", message),
        Err(error) if error.is_waiting() => Say::new("Ready", Status::Unknown, error.reason(), error.to_string()),
        Err(error) => Say::new("Ready", false, error.reason(), error.to_string()),
    }
}

/// The Event of a change of `Ready`: told when it flips to or from False.
#[must_use]
pub fn transition(existing: &[Condition], ready: &Say) -> Option<Transition> {
    let before = status_of(existing, "Ready");
    let flipped = before != Some(ready.status.text());
    let telling = ready.status == Status::False || (ready.status == Status::True && before == Some("False"));
    (flipped && telling).then(|| Transition {
        warning: ready.status == Status::False,
        reason: ready.reason.clone(),
        note: ready.message.clone(),
    })
}

/// The Event of a suspension, or of its end. An object that was never suspended has none.
#[must_use]
pub fn suspension(existing: &[Condition], suspended: &Say) -> Option<Transition> {
    let is = suspended.status == Status::True;
    (holds(existing, "Suspended") != is).then(|| Transition {
        warning: false,
        reason: if is { "Suspended" } else { "Resumed" }.to_owned(),
        note: if is { suspended.message.clone() } else { "the suspension is over".to_owned() },
    })
}

/// A status of `observedGeneration`, further fields, and conditions.
#[must_use]
pub fn status_value(generation: Option<i64>, fields: Value, conditions: &[Option<Condition>]) -> Value {
    let mut status = match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    status.retain(|_, value| !value.is_null());
    if let Some(generation) = generation {
        status.insert("observedGeneration".to_owned(), generation.into());
    }
    let conditions: Vec<_> =
        conditions.iter().flatten().filter_map(|condition| serde_json::to_value(condition).ok()).collect();
    status.insert("conditions".to_owned(), Value::Array(conditions));
    Value::Object(status)
}

/// Runs `controller` until its stream ends (on shutdown).
pub async fn drive<K, F>(
    name: &'static str,
    controller: Controller<K>,
    concurrency: u16,
    context: Arc<Context>,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Send + Sync + 'static,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone + Default + Unpin + Debug,
    F: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    context.metrics.controller(name, concurrency);
    let config = Config::default().concurrency(concurrency).debounce(Duration::from_millis(20));
    let reconcile = Arc::new(reconcile);
    controller
        .with_config(config)
        .run(
            move |object, context| counted(name, object, context, Arc::clone(&reconcile)),
            move |object, error, context| {
                let pause = context.backoff.failed(&object.uid().unwrap_or_default());
                tracing::warn!(controller = name, object = object.name_any(), %error, ?pause, "reconcile failed");
                Action::requeue(pause)
            },
            context,
        )
        .for_each(|outcome| async move {
            match outcome {
                Ok(_)
                | Err(
                    kube::runtime::controller::Error::ReconcilerFailed(..)
                    | kube::runtime::controller::Error::ObjectNotFound(_),
                ) => {}
                Err(error) => tracing::warn!(controller = name, %error, "watch interrupted; it resumes by itself"),
            }
        })
        .await;
}

async fn counted<K, F>(
    name: &'static str,
    object: Arc<K>,
    context: Arc<Context>,
    reconcile: Arc<impl Fn(Arc<K>, Arc<Context>) -> F>,
) -> Result<Action, ReconcileError>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Action, ReconcileError>> + Send,
{
    let metrics = context.metrics.clone();
    let mut running = metrics.reconcile(name);
    // A deletion under way is no wish: what it means is decided by evidence, in `removals`.
    if object.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let outcome = reconcile(object, context).await;
    match &outcome {
        Ok(_) => {}
        Err(_) => running.fail(),
    }
    outcome
}
