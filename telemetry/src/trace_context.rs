//! W3C trace context between processes: one `traceparent` text travels beside the signed bytes, never inside them.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
};

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// A `traceparent` that is not one. Whoever receives it goes on without: a trace is never worth a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTraceparent;

impl fmt::Display for InvalidTraceparent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("traceparent is not `00-<32 hex>-<16 hex>-<2 hex>`; the trace begins anew here")
    }
}

impl std::error::Error for InvalidTraceparent {}

/// Whether a collector takes spans. Where none does, spans of things that are many need not be made.
static COLLECTED: AtomicBool = AtomicBool::new(false);

/// Whether a collector takes spans.
#[must_use]
pub fn is_collected() -> bool {
    COLLECTED.load(Ordering::Relaxed)
}

/// A collector takes spans from now on: [`crate::init`] calls it where one was named, a test where the subscriber is its own.
pub fn collect() {
    COLLECTED.store(true, Ordering::Relaxed);
}

/// The `traceparent` of `span` if its trace is sampled: what does not travel costs nothing on the wire.
#[must_use]
pub fn traceparent(span: &Span) -> Option<String> {
    let context = span.context();
    let context = context.span().span_context().clone();
    (context.is_valid() && context.is_sampled())
        .then(|| format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8()))
}

/// The `traceparent` of the current span if its trace is sampled.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    traceparent(&Span::current())
}

/// Makes `span` a part of the trace that `traceparent` names. Call it before the span is entered. Without a collector,
/// or with an empty text, nothing happens.
///
/// # Errors
/// When the text is not a trace context.
pub fn continue_trace(span: &Span, traceparent: &str) -> Result<(), InvalidTraceparent> {
    if traceparent.is_empty() {
        return Ok(());
    }
    let parent = Context::new().with_remote_span_context(parse(traceparent)?);
    if let Err(error) = span.set_parent(parent) {
        tracing::trace!(%error, "span keeps its own trace");
    }
    Ok(())
}

/// Reads version 00 strictly and later versions by their first four fields, as W3C Trace Context section 3.2 demands.
fn parse(text: &str) -> Result<SpanContext, InvalidTraceparent> {
    let mut fields = text.split('-');
    let mut field = |length: usize| {
        let lower_hex = |text: &&str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        fields.next().filter(|text| text.len() == length).filter(lower_hex).ok_or(InvalidTraceparent)
    };
    let (version, trace, span, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
    if version == "ff" || (version == "00" && fields.next().is_some()) {
        return Err(InvalidTraceparent);
    }
    let trace = TraceId::from_hex(trace).map_err(|_| InvalidTraceparent)?;
    let span = SpanId::from_hex(span).map_err(|_| InvalidTraceparent)?;
    let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceparent)?;
    let context =
        SpanContext::new(trace, span, TraceFlags::new(flags) & TraceFlags::SAMPLED, true, TraceState::default());
    if context.is_valid() { Ok(context) } else { Err(InvalidTraceparent) }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::setup::span_layer;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn with_sampling<T>(sampler: Sampler, body: impl FnOnce() -> T) -> T {
        let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
        let subscriber = tracing_subscriber::registry().with(span_layer(&provider, "test"));
        tracing::subscriber::with_default(subscriber, body)
    }

    #[test]
    fn a_trace_goes_on_across_processes() {
        // The parent's choice to sample holds even where nothing that begins here would be sampled.
        let never = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        let sent = with_sampling(never, || {
            let span = tracing::info_span!("append");
            continue_trace(&span, PARENT).unwrap();
            span.in_scope(current_traceparent)
        });
        let sent = sent.expect("a sampled parent makes a sampled child");
        assert_eq!(&sent[..36], &PARENT[..36], "same trace");
        assert_ne!(&sent[36..52], &PARENT[36..52], "a span of its own");
        assert!(sent.ends_with("-01"));
    }

    #[test]
    fn what_is_not_sampled_does_not_travel() {
        let sent = with_sampling(Sampler::AlwaysOff, || tracing::info_span!("seal").in_scope(current_traceparent));
        assert_eq!(sent, None);
        assert_eq!(current_traceparent(), None, "without a subscriber there is no trace");
    }

    #[test]
    fn malformed_contexts_are_refused() {
        let bad = [
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ];
        for text in bad {
            assert_eq!(parse(text), Err(InvalidTraceparent), "{text}");
        }
        assert!(parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings").is_ok());
    }
}
