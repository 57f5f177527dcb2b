//! Telling other gateways of the same ledger, and hearing from them.

use std::{sync::Arc, time::Duration};

use depin_ledger::{Board, GatewayId, LedgerError};
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::CancellationToken;

use super::Presence;

/// How often; the operator asks as often.
const EVERY: Duration = Duration::from_secs(5);
/// What is told at once.
const AT_ONCE: usize = 5_000;

/// Tells and hears until `stop`, as `own`. `failures` counts exchanges that came to nothing: conditions `Online` then go by this gateway alone.
pub(crate) async fn share(
    presence: Arc<Presence>,
    board: Board,
    own: GatewayId,
    failures: Counter,
    stop: CancellationToken,
) {
    let mut since = 0;
    loop {
        if let Err(error) = exchange(&presence, &board, own, &mut since).await {
            failures.inc();
            tracing::warn!(%error, "other gateways are not told who was heard here, nor heard");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn exchange(presence: &Presence, board: &Board, own: GatewayId, since: &mut i64) -> Result<(), LedgerError> {
    loop {
        let notes = presence.untold(AT_ONCE);
        let more = notes.len() == AT_ONCE;
        // Kept until it is known to be told.
        let heard = match board.exchange(own, notes.clone(), *since).await {
            Ok(heard) => heard,
            Err(error) => {
                presence.tell_again(Some(&notes));
                return Err(error);
            }
        };
        if heard.forgotten && *since != 0 {
            presence.tell_again(None);
        }
        *since = heard.until;
        presence.hear(heard);
        if !more {
            return Ok(());
        }
    }
}
