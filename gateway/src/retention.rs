//! Retention in the running gateway: once a day what is older and settled for good gives way to its digests.

use std::{sync::Arc, time::Duration};

use clap::Args;
use depin_domain::time::Timestamp;
use depin_ledger::{Compaction, EmbeddedLedger, LedgerError};
use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

const DAY: Duration = Duration::from_secs(86_400);
/// A failed compaction is tried again after so long.
const RETRY: Duration = Duration::from_secs(3_600);

/// How long signed proofs are kept.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Retention")]
pub struct RetentionOptions {
    /// Days that signed proofs are kept, if their epochs are settled for good; 0: for ever. Digests, results and frozen statistics always stay
    #[arg(long, env = "DEPIN_KEEP_DAYS", default_value_t = 400, value_name = "DAYS")]
    pub keep_days: u32,
}

impl RetentionOptions {
    /// Proofs that arrived before this time may go; none: nothing may.
    #[must_use]
    pub fn before(&self, now: Timestamp) -> Option<Timestamp> {
        let days = i64::from(self.keep_days);
        (days > 0).then(|| now.plus(-days * 86_400_000))
    }
}

/// What is counted of retention.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    front: Gauge,
    thinned: Counter,
    failures: Counter,
}

impl Counted {
    /// Under their names in `metrics`.
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let counted = Self::default();
        metrics.register(
            "depin_retention_front",
            "Position in the log before which only digests are kept, as of this run's newest compaction",
            counted.front.clone(),
        );
        metrics.register(
            "depin_retention_proofs",
            "Proofs of which retention left only digests",
            counted.thinned.clone(),
        );
        metrics.register("depin_retention_failures", "Compactions that failed", counted.failures.clone());
        counted
    }
}

/// The task that removes.
#[derive(Debug)]
pub(crate) struct Retention {
    ledger: Arc<EmbeddedLedger>,
    options: RetentionOptions,
    clock: Clock,
    counted: Counted,
}

impl Retention {
    pub(crate) fn new(
        ledger: &Arc<EmbeddedLedger>,
        options: RetentionOptions,
        clock: &Clock,
        metrics: &mut Registry,
    ) -> Self {
        let counted = Counted::register(metrics);
        Self { ledger: Arc::clone(ledger), options, clock: clock.clone(), counted }
    }

    /// Compacts until `stop`; what is under way is finished first.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            let pause = match self.once().await {
                Ok(Compaction { front, thinned, .. }) => {
                    self.counted.front.set(i64::try_from(front).unwrap_or(i64::MAX));
                    self.counted.thinned.inc_by(thinned);
                    if thinned > 0 {
                        tracing::info!(front, thinned, "proofs past their retention gave way to their digests");
                    }
                    DAY
                }
                Err(error) => {
                    self.counted.failures.inc();
                    tracing::error!(%error, "what is past its retention could not be removed: the log grows on");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn once(&self) -> Result<Compaction, LedgerError> {
        match self.options.before(self.clock.now()) {
            Some(before) => self.ledger.compact(before).await,
            None => Ok(Compaction::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_are_kept_for_days_or_for_ever() {
        let before = |keep_days| RetentionOptions { keep_days }.before(Timestamp(3 * 86_400_000));
        assert_eq!(
            (before(0), before(1), before(2)),
            (None, Some(Timestamp(2 * 86_400_000)), Some(Timestamp(86_400_000)))
        );
        assert_eq!(before(u32::MAX).map(|before| before.0 < 0), Some(true));
    }
}
