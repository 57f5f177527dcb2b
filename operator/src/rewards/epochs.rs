//! Epochs: closed when due, computed, recorded, shown. Every step may be repeated after a crash: the ledger answers a repeated close with
//! the first one, and keeps the first result.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use depin_domain::{
    registry::Registry,
    rewards::{EpochError as ComputeError, EpochResult, EpochSummary, ProgramState, assemble::AssemblyError},
    time::{Timestamp, Window},
};
use depin_proto::v1::{CloseEpochRequest, EpochClose, EpochEntry, EpochWindow, ListEpochsRequest};

use super::{
    compute,
    progress::{Cursor, Progress},
    removal,
    statistics::Malformed,
    view::{self, Recorded},
};
use crate::{
    context::Context,
    ledger::{Ledger, is_fenced},
    registry::RegistryError,
};

/// How often programs are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Epochs of one page.
const PAGE: u32 = 500;

/// An epoch cannot be closed, computed or recorded now.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The ledger says no.
    #[error("the ledger answers {} to {call}: {}", .source.code(), .source.message())]
    Ledger {
        /// What was asked.
        call: &'static str,
        /// Its answer.
        source: Box<tonic::Status>,
    },
    /// Another operator leads.
    #[error("another operator leads: {0}")]
    Fenced(String),
    /// The registry has no spec for the epoch.
    #[error("epoch {number} of {program}: the registry has no spec for it; restore the ledger from a backup")]
    Unknown {
        /// The program.
        program: String,
        /// The epoch.
        number: u64,
    },
    /// A spec cannot be read.
    #[error(
        "the registered spec of {program} cannot be read: {source}; run the operator in at least the version that wrote it"
    )]
    Spec {
        /// The program.
        program: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A registry record cannot be read.
    #[error("registry record {version}: {source}; run the operator in at least the version that wrote it")]
    Record {
        /// Which.
        version: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// Registry records do not follow each other.
    #[error("registry: {0}")]
    OutOfTurn(#[from] depin_domain::registry::OutOfTurn),
    /// A recorded result cannot be read.
    #[error(
        "the recorded result of epoch {number} cannot be read: {source}; run the operator in at least the version that wrote it"
    )]
    Result {
        /// Which.
        number: u64,
        /// Why.
        source: serde_json::Error,
    },
    /// A statistic cannot be read.
    #[error(transparent)]
    Statistic(#[from] Malformed),
    /// Devices cannot be gathered.
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
    /// The result cannot be computed.
    #[error(transparent)]
    Compute(#[from] ComputeError),
    /// The result cannot be written.
    #[error(transparent)]
    Canonical(#[from] depin_domain::canonical::CanonicalError),
    /// Computing was interrupted.
    #[error("computing was interrupted: {0}")]
    Interrupted(String),
}

impl EpochError {
    pub(super) fn ledger(call: &'static str, source: tonic::Status) -> Self {
        if is_fenced(&source) {
            return Self::Fenced(source.message().to_owned());
        }
        Self::Ledger { call, source: Box::new(source) }
    }

    /// Whether time alone mends it: the ledger says that it is too early, or that closing is held.
    fn is_early(&self) -> bool {
        matches!(self, Self::Ledger { call: "CloseEpoch", source } if source.code() == tonic::Code::FailedPrecondition)
    }
}

/// Closes what is due until leadership is lost.
///
/// # Errors
/// [`RegistryError::Fenced`] when another operator leads.
pub async fn run(context: Arc<Context>) -> Result<(), RegistryError> {
    let mut progress = Progress::default();
    loop {
        let registry = context.registry.snapshot();
        let programs: Vec<_> = registry.programs().map(|(id, _)| id.clone()).collect();
        progress.retain(&programs);
        for id in programs {
            if progress.is_due(&id, Instant::now()) {
                look(&context, &id, &mut progress).await?;
            }
            if progress.views_are_due(&id, Instant::now()) {
                restore_views(&context, &id, &mut progress).await?;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn look(context: &Context, id: &str, progress: &mut Progress) -> Result<(), RegistryError> {
    match advance(context, id, progress).await {
        Ok(()) => progress.goes_on(id),
        Err(EpochError::Fenced(message)) => return Err(RegistryError::Fenced(message)),
        Err(error) if error.is_early() => {
            tracing::debug!(program = id, %error, "an epoch waits");
            progress.goes_on(id);
        }
        Err(error) => {
            tracing::warn!(program = id, %error, "an epoch could not be closed; it is tried again");
            if let Some(standing) = progress.failed(id, &error, Instant::now()) {
                view::show_standing(context, id, &standing).await;
            }
        }
    }
    Ok(())
}

/// Closes the program's due epochs, oldest first.
async fn advance(context: &Context, id: &str, progress: &mut Progress) -> Result<(), EpochError> {
    loop {
        let registry = context.registry.snapshot();
        if progress.cursor(id).is_none() {
            progress.stand(id, find(context, &registry, id).await?);
        }
        let Some(cursor) = progress.cursor(id) else { return Ok(()) };
        if registry.program(id).is_none_or(|program| removal::is_over(program, cursor.next, &cursor.state)) {
            return Ok(());
        }
        let spec = compute::ruling_spec(&registry, id, cursor.next)?;
        let Some(window) = spec.epoch.window(cursor.next) else { return Ok(()) };
        let now = context.clock.now();
        context.metrics.set_epoch_lag(id, now.since(window.end).max(0) / 1000);
        let standing = progress.standing(id);
        view::show_progress(context, id, cursor.state.number, cursor.root.as_deref(), window, &standing).await;
        if cursor.open.is_none() && now < window.end.plus(spec.grace_ms) {
            return Ok(());
        }
        // Only now: a state of many accounts is large, and most looks find no epoch due.
        let cursor = cursor.clone();
        let close = match cursor.open {
            Some(close) => close,
            None => close(&context.ledger, id, cursor.next, window, spec.grace_ms, &cursor.state).await?,
        };
        progress.closed(id, &close);
        let result = compute::compute(&context.ledger, registry, &close, cursor.state).await?;
        let recorded = compute::record(&context.ledger, &result).await?;
        context.metrics.epoch_recorded(id);
        let EpochResult { summary, state, .. } = result;
        let (number, root) = (cursor.next, summary.root.clone());
        tracing::info!(program = id, number, root, repeated = recorded.repeated, "epoch recorded");
        let shown =
            Recorded { close: &close, summary: &summary, digest: &recorded.digest, chain: spec.chain.as_deref() };
        if !view::show(context, id, &[shown]).await {
            progress.views_failed(id, Instant::now());
        }
        progress.goes_on(id);
        progress.stand(id, Cursor { next: number.saturating_add(1), state, root, open: None });
    }
}

/// Shows the newest epochs that have no view: a cluster may have lost them, or taken none when they were recorded.
async fn restore_views(context: &Context, id: &str, progress: &mut Progress) -> Result<(), RegistryError> {
    match missing_views(context, id, progress).await {
        Ok(true) => progress.views_are_complete(id),
        Ok(false) => progress.views_failed(id, Instant::now()),
        Err(EpochError::Fenced(message)) => return Err(RegistryError::Fenced(message)),
        Err(error) => {
            tracing::warn!(program = id, %error, "views of epochs are missing and cannot be made now");
            progress.views_failed(id, Instant::now());
        }
    }
    Ok(())
}

/// Shows them; true if none is missing any more.
async fn missing_views(context: &Context, id: &str, progress: &Progress) -> Result<bool, EpochError> {
    let Some(newest) = progress.cursor(id).and_then(|cursor| cursor.state.number) else { return Ok(true) };
    let oldest = newest.saturating_add(1).saturating_sub(view::KEEP.into());
    let missing = match view::missing(context, id, oldest..=newest).await {
        Ok(missing) => missing,
        Err(error) => {
            tracing::warn!(program = id, %error, "views of epochs cannot be listed");
            return Ok(false);
        }
    };
    let registry = context.registry.snapshot();
    let (mut next, mut shown) = (missing.first().copied(), true);
    while let Some(from_number) = next {
        let page = page(context, id, from_number, view::KEEP).await?;
        shown &= show_missing(context, id, &registry, &missing, &page).await?;
        let last = page.iter().map(number_of).max();
        next = last.and_then(|last| missing.range(last.saturating_add(1)..).next().copied());
    }
    Ok(shown)
}

/// Shows those of a page that are missing; true if all of these are shown.
async fn show_missing(
    context: &Context,
    id: &str,
    registry: &Registry,
    missing: &BTreeSet<u64>,
    epochs: &[EpochEntry],
) -> Result<bool, EpochError> {
    let mut found = Vec::new();
    for epoch in epochs.iter().filter(|epoch| missing.contains(&number_of(epoch)) && !epoch.summary.is_empty()) {
        let Some(close) = &epoch.close else { continue };
        let number = number_of(epoch);
        let chain = compute::ruling_spec(registry, id, number)?.chain;
        found.push((close, read_summary(epoch, number)?, chain, &epoch.result_digest));
    }
    let recorded = found.iter().map(|(close, summary, chain, digest)| Recorded {
        close,
        summary,
        digest,
        chain: chain.as_deref(),
    });
    Ok(view::show(context, id, &recorded.collect::<Vec<_>>()).await)
}

/// Closed epochs from a number on; none behind the last.
async fn page(context: &Context, id: &str, from_number: u64, limit: u32) -> Result<Vec<EpochEntry>, EpochError> {
    let request = ListEpochsRequest { program: id.to_owned(), from_number, limit };
    let answer = context.ledger.client().list_epochs(request).await;
    Ok(answer.map_err(|status| EpochError::ledger("ListEpochs", status))?.into_inner().epochs)
}

fn read_summary(epoch: &EpochEntry, number: u64) -> Result<EpochSummary, EpochError> {
    serde_json::from_slice(&epoch.summary).map_err(|source| EpochError::Result { number, source })
}

/// Asks the ledger where the program stands.
async fn find(context: &Context, registry: &Registry, id: &str) -> Result<Cursor, EpochError> {
    let first = registry.program(id).and_then(|program| program.entries().first()).map_or(0, |entry| entry.from_epoch);
    let mut newest: Option<EpochEntry> = None;
    let mut from_number = first;
    loop {
        let epochs = page(context, id, from_number, PAGE).await?;
        let Some(last) = epochs.into_iter().max_by_key(number_of) else { break };
        from_number = number_of(&last).saturating_add(1);
        newest = Some(last);
    }
    let Some(newest) = newest else { return Ok(Cursor { next: first, ..Cursor::default() }) };
    let number = number_of(&newest);
    if newest.summary.is_empty() {
        // Closed, but whoever closed it did not come to the result.
        let state = match number.checked_sub(1).filter(|before| *before >= first) {
            Some(before) => compute::state_after(&context.ledger, id, before).await?,
            None => ProgramState::default(),
        };
        return Ok(Cursor { next: number, state, root: None, open: newest.close });
    }
    let state = compute::state_after(&context.ledger, id, number).await?;
    let root = read_summary(&newest, number)?.root;
    Ok(Cursor { next: number.saturating_add(1), state, root, open: None })
}

fn number_of(entry: &EpochEntry) -> u64 {
    entry.close.as_ref().and_then(|close| close.window.as_ref()).map_or(0, |window| window.number)
}

/// Asks the ledger to close an epoch, and with it those that the program's state says mature now.
///
/// # Errors
/// When it is too early, closing is held after a restore, or the ledger cannot write.
pub async fn close(
    ledger: &Ledger,
    id: &str,
    number: u64,
    window: Window,
    grace_ms: i64,
    state: &ProgramState,
) -> Result<EpochClose, EpochError> {
    let matured = state.maturing(window.end).map(|open| wire(open.number, open.window())).collect();
    let request = CloseEpochRequest {
        writer: ledger.writer(),
        program: id.to_owned(),
        number,
        start: window.start.0,
        end: window.end.0,
        grace_ms,
        matured,
    };
    let answer = ledger.client().close_epoch(request).await;
    Ok(answer.map_err(|status| EpochError::ledger("CloseEpoch", status))?.into_inner())
}

fn wire(number: u64, window: Window) -> EpochWindow {
    let Window { start: Timestamp(start), end: Timestamp(end) } = window;
    EpochWindow { number, start, end }
}
