//! Whether the ledger takes writes, as readiness and metric. A full, read-only or failing disk acknowledges nothing; agents keep their proofs,
//! and the ledger tries again until it can.

use depin_telemetry::Check;
use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Registers the metric that [`follow`] keeps.
pub(crate) fn gauge(metrics: &mut Registry) -> Gauge {
    let failing = Gauge::default();
    metrics.register(
        "depin_ledger_failing",
        "1 while the ledger takes no writes: its disk is full, read-only or failing",
        failing.clone(),
    );
    failing
}

/// Tells of the ledger's trouble until `stop`.
pub(crate) async fn follow(
    mut trouble: watch::Receiver<Option<String>>,
    check: Check,
    failing: Gauge,
    stop: CancellationToken,
) {
    loop {
        let why = trouble.borrow_and_update().clone();
        failing.set(i64::from(why.is_some()));
        match why {
            None => check.pass(),
            Some(why) => check.fail(format!("the ledger takes no writes: {why}")),
        }
        match stop.run_until_cancelled(trouble.changed()).await {
            Some(Ok(())) => {}
            // Stopped, or the ledger is closed.
            Some(Err(_)) | None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::Arc,
        time::{Duration, Instant},
    };

    use depin_ledger::{Clock, EmbeddedLedger, Ledger as _, Settings};
    use depin_log::simulated::SimulatedStorage;
    use depin_telemetry::Health;

    use super::*;

    async fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_failing_disk_is_told_and_so_is_its_recovery() {
        let storage = SimulatedStorage::new();
        let settings = Settings { idle_tick_ms: 20, ..Settings::default() };
        let ledger = EmbeddedLedger::open(Arc::new(storage.clone()), settings, Clock::system()).unwrap();
        let (health, stop, failing) = (Health::new(), CancellationToken::new(), gauge(&mut Registry::default()));
        let following =
            tokio::spawn(follow(ledger.trouble(), health.readiness("ledger"), failing.clone(), stop.clone()));
        until("the ledger is ready", || health.ready().ok).await;
        storage.set_read_only(true);
        assert!(ledger.acquire_writer("test".into()).await.is_err(), "nothing is answered that is not durable");
        until("the trouble is told", || !health.ready().ok && failing.get() == 1).await;
        storage.set_read_only(false);
        until("the recovery is told", || health.ready().ok && failing.get() == 0).await;
        assert_eq!(ledger.acquire_writer("test".into()).await.unwrap().token, 1, "what was not durable was given up");
        stop.cancel();
        following.await.unwrap();
    }
}
