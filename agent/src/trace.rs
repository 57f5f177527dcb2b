//! The trace that one reading leaves on its way: from its message here to its append to the ledger.
//!
//! Messages are many and traces few: the newest sampled message lends its trace to the next proof that is sealed, which holds it unless its
//! model waits for stragglers longer. Without a collector nothing is done at all.

use std::sync::{Mutex, PoisonError};

use depin_telemetry::trace_context;
use tracing::Span;

/// The sampled message that waits for its proof.
#[derive(Debug, Default)]
pub(crate) struct Followed {
    parent: Mutex<Option<String>>,
}

impl Followed {
    /// A span for the message that is taken now.
    pub(crate) fn message() -> Option<Span> {
        trace_context::is_collected().then(|| tracing::info_span!("message"))
    }

    /// The message was kept: if it is sampled, the next proof goes on with its trace.
    pub(crate) fn keep(&self, span: Option<&Span>) {
        if let Some(parent) = span.and_then(trace_context::traceparent) {
            *self.parent.lock().unwrap_or_else(PoisonError::into_inner) = Some(parent);
        }
    }

    /// Makes the span of a proof go on with the trace of the message that waits, if one does.
    pub(crate) fn lend(&self, span: &Span) {
        let parent = self.parent.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(parent) = parent
            && let Err(error) = trace_context::continue_trace(span, &parent)
        {
            tracing::debug!(%error, "a proof keeps a trace of its own");
        }
    }
}
