//! Epochs: closed when due, computed, recorded, shown. Every step may be repeated after a crash: the ledger answers a repeated close with
//! the first one, and keeps the first result.

use std::{collections::HashMap, sync::Arc, time::Duration};

use depin_domain::{
    registry::Registry,
    rewards::{EpochError as ComputeError, EpochSummary, ProgramState, assemble::AssemblyError},
    time::{Timestamp, Window},
};
use depin_proto::v1::{CloseEpochRequest, EpochClose, EpochEntry, EpochWindow, ListEpochsRequest};

use super::{
    blocked::{Block, Standing},
    compute, removal,
    statistics::Malformed,
    view,
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

/// Where a program stands: what the ledger has recorded of it.
#[derive(Clone, Debug, Default)]
struct Cursor {
    /// The epoch that comes next.
    next: u64,
    /// What the one before left.
    state: ProgramState,
    /// Root of the newest recorded epoch.
    root: Option<String>,
    /// A close of `next` that is not computed yet.
    open: Option<EpochClose>,
}

/// What this run knows of each program.
#[derive(Debug, Default)]
struct Progress {
    cursors: HashMap<String, Cursor>,
    standings: HashMap<String, Standing>,
}

impl Progress {
    fn retain(&mut self, programs: &[String]) {
        self.cursors.retain(|id, _| programs.contains(id));
        self.standings.retain(|id, _| programs.contains(id));
    }

    fn goes_on(&mut self, id: &str) {
        self.standings.insert(id.to_owned(), Standing::GoesOn);
    }

    /// Notes a failure: answers the program's standing if it is blocked by it. What the ledger has is looked up anew: the failure may have
    /// come after the record.
    fn failed(&mut self, id: &str, error: &EpochError) -> Option<Standing> {
        let cursor = self.cursors.remove(id);
        let standing = Standing::Blocked(Block::of(cursor.map(|cursor| cursor.next), error)?);
        self.standings.insert(id.to_owned(), standing.clone());
        Some(standing)
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
            match advance(&context, &id, &mut progress).await {
                Ok(()) => progress.goes_on(&id),
                Err(EpochError::Fenced(message)) => return Err(RegistryError::Fenced(message)),
                Err(error) if error.is_early() => {
                    tracing::debug!(program = id, %error, "an epoch waits");
                    progress.goes_on(&id);
                }
                Err(error) => {
                    tracing::warn!(program = id, %error, "an epoch could not be closed; it is tried again");
                    if let Some(standing) = progress.failed(&id, &error) {
                        view::show_standing(&context, &id, &standing).await;
                    }
                }
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Closes the program's due epochs, oldest first.
async fn advance(context: &Context, id: &str, progress: &mut Progress) -> Result<(), EpochError> {
    loop {
        let registry = context.registry.snapshot();
        if !progress.cursors.contains_key(id) {
            progress.cursors.insert(id.to_owned(), find(context, &registry, id).await?);
        }
        let Some(cursor) = progress.cursors.get(id).cloned() else { return Ok(()) };
        if registry.program(id).is_none_or(|program| removal::is_over(program, cursor.next, &cursor.state)) {
            return Ok(());
        }
        let spec = compute::ruling_spec(&registry, id, cursor.next)?;
        let Some(window) = spec.epoch.window(cursor.next) else { return Ok(()) };
        let now = context.clock.now();
        context.metrics.set_epoch_lag(id, now.since(window.end).max(0) / 1000);
        let standing = progress.standings.get(id).cloned().unwrap_or_default();
        view::show_progress(context, id, cursor.state.number, cursor.root.as_deref(), window, &standing).await;
        if cursor.open.is_none() && now < window.end.plus(spec.grace_ms) {
            return Ok(());
        }
        let close = match cursor.open {
            Some(close) => close,
            None => close(&context.ledger, id, cursor.next, window, spec.grace_ms, &cursor.state).await?,
        };
        let result = compute::compute(&context.ledger, registry, &close, cursor.state).await?;
        let recorded = compute::record(&context.ledger, &result).await?;
        context.metrics.epoch_recorded(id);
        tracing::info!(
            program = id,
            number = cursor.next,
            root = result.summary.root,
            repeated = recorded.repeated,
            "epoch recorded"
        );
        view::show(context, &close, &result.summary, &recorded.digest).await;
        progress.goes_on(id);
        progress.cursors.insert(
            id.to_owned(),
            Cursor { next: cursor.next.saturating_add(1), state: result.state, root: result.summary.root, open: None },
        );
    }
}

/// Asks the ledger where the program stands.
async fn find(context: &Context, registry: &Registry, id: &str) -> Result<Cursor, EpochError> {
    let first = registry.program(id).and_then(|program| program.entries().first()).map_or(0, |entry| entry.from_epoch);
    let mut newest: Option<EpochEntry> = None;
    let mut from_number = first;
    loop {
        let request = ListEpochsRequest { program: id.to_owned(), from_number, limit: PAGE };
        let answer = context.ledger.client().list_epochs(request).await;
        let epochs = answer.map_err(|status| EpochError::ledger("ListEpochs", status))?.into_inner().epochs;
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
    let summary: EpochSummary =
        serde_json::from_slice(&newest.summary).map_err(|source| EpochError::Result { number, source })?;
    if let Some(close) = &newest.close {
        // The view of the newest may be missing after a crash between record and view.
        view::show(context, close, &summary, &newest.result_digest).await;
    }
    Ok(Cursor { next: number.saturating_add(1), state, root: summary.root, open: None })
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
