//! A full scan of an embedded ledger.

use std::sync::Arc;

use depin_log::{Log, Storage};

use super::{
    disk::{LogRecords, from_log, log_options},
    loading::{load_base, load_state},
    restore,
};
use crate::{
    error::LedgerError,
    settings::Settings,
    snapshot,
    verify::{CheckSignature, Verification, scan},
};

/// Scans the ledger in `storage`, which no other process may have open. Damage of the log itself ends the scan with an error.
pub fn verify(
    storage: Arc<dyn Storage>,
    settings: &Settings,
    check_signature: Option<&mut CheckSignature<'_>>,
) -> Result<Verification, LedgerError> {
    let unavailable = |error: std::io::Error| LedgerError::Unavailable(error.to_string());
    restore::check_whole(&*storage)?;
    let (log, recovery) =
        Log::open(storage.directory("log").map_err(unavailable)?, log_options(settings)).map_err(from_log)?;
    let files = storage.directory("epochs").map_err(unavailable)?;
    let base = load_base(&*storage, log.front())?;
    let mut scan = scan(&LogRecords(log.reader()), files, base, check_signature)?;
    scan.found.end = recovery.end;
    scan.state.applied = log.end();
    match load_state(&*storage, &log, true) {
        Ok(state) if snapshot::encode(&state) != snapshot::encode(&scan.state) => {
            scan.finding("the checkpoint and the log behind it give another state than the whole log".into());
        }
        Ok(_) => {}
        Err(error) => scan.finding(error.to_string()),
    }
    log.close().map_err(from_log)?;
    Ok(scan.found)
}
