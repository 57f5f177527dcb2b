//! The committer: makes batches durable, one write and one sync for as many messages as came meanwhile.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use depin_telemetry::Check;
use tokio::{sync::watch, time};

use crate::{
    intake::{Filled, Intake},
    metrics::Metrics,
    sealer::{Store, StoreError},
    stop::stopped,
};

/// A batch is written once nothing came for this long.
const IDLE: Duration = Duration::from_millis(1);
/// Even under a steady trickle nobody waits longer.
const LONGEST: Duration = Duration::from_millis(4);
/// A batch of this size is written at once.
const ENOUGH: usize = 256 * 1024;
/// Between attempts on a store that fails or is full.
const RETRY: Duration = Duration::from_millis(500);

/// The store, shared with the uplink. All use of it blocks, so it happens on blocking threads.
pub type SharedStore = Arc<Mutex<Store>>;

/// Runs `work` on the store off the async threads.
pub async fn with_store<T: Send + 'static>(
    store: &SharedStore,
    work: impl FnOnce(&mut Store) -> T + Send + 'static,
) -> Option<T> {
    let store = Arc::clone(store);
    // A lock that a panic poisoned guards logs that poison themselves where it matters.
    let task = tokio::task::spawn_blocking(move || work(&mut store.lock().unwrap_or_else(PoisonError::into_inner)));
    task.await.ok()
}

/// Runs until `stop` and everything offered is durable, or the store no longer takes it.
pub async fn run(
    intake: Arc<Intake>,
    store: SharedStore,
    metrics: Metrics,
    health: Check,
    mut stop: watch::Receiver<bool>,
) {
    health.pass();
    loop {
        tokio::select! {
            () = intake.offered() => {}
            () = stopped(&mut stop) => {
                while let Some(filled) = intake.take() {
                    if !attempt(&intake, &store, &metrics, &health, Arc::new(filled)).await {
                        return;
                    }
                }
                return;
            }
        }
        gather(&intake).await;
        let Some(filled) = intake.take() else { continue };
        let filled = Arc::new(filled);
        while !attempt(&intake, &store, &metrics, &health, Arc::clone(&filled)).await {
            tokio::select! {
                () = time::sleep(RETRY) => {}
                () = stopped(&mut stop) => return,
            }
        }
    }
}

/// Waits while more keeps coming, within limits.
async fn gather(intake: &Intake) {
    let deadline = time::Instant::now() + LONGEST;
    let mut seen = intake.pending();
    while seen < ENOUGH && time::Instant::now() < deadline {
        time::sleep(IDLE).await;
        let now = intake.pending();
        if now == seen {
            return;
        }
        seen = now;
    }
}

enum Attempt {
    Done,
    Full,
    Failed(StoreError),
}

async fn attempt(intake: &Intake, store: &SharedStore, metrics: &Metrics, health: &Check, filled: Arc<Filled>) -> bool {
    let number = filled.number;
    let outcome = with_store(store, move |store| {
        let result = match store.has_room(filled.record.len()) {
            false => Attempt::Full,
            true => {
                let appended = store.recover().and_then(|()| store.append(&filled.record, filled.readings, filled.at));
                appended.map_or_else(Attempt::Failed, |()| Attempt::Done)
            }
        };
        (result, store.spool_bytes(), store.waiting(), store.oldest(), store.given_up())
    });
    let Some((result, bytes, waiting, oldest, given_up)) = outcome.await else { return false };
    metrics.follow_given_up(&given_up);
    metrics.spool_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    metrics.spool_readings.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    metrics.spool_oldest.set(oldest.map_or(0, |oldest| oldest.0 / 1000));
    match result {
        Attempt::Done => {
            health.pass();
            intake.set_full(false);
            intake.committed(number);
            true
        }
        Attempt::Full => {
            health.fail(
                "the spool has reached its limit, or the disk is full; nothing is acknowledged until the gateway has taken from the spool or the disk has room",
            );
            intake.set_full(true);
            false
        }
        Attempt::Failed(error) => {
            tracing::error!(%error, "the spool cannot be written; nothing is acknowledged; check the disk");
            health.fail(error.to_string());
            intake.set_full(true);
            false
        }
    }
}
