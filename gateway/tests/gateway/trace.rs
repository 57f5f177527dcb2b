//! One trace goes on from a proof's text beside its signed bytes to the append to the ledger.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter},
};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::network::{Chain, Network, Stream, section, told};

/// Spans as a collector would get them.
#[derive(Clone, Debug, Default)]
struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[tokio::test]
async fn a_sampled_proof_s_trace_goes_on_to_the_append() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let collected = Collected::default();
    // Nothing that begins here is sampled: what is collected was sampled by the agent.
    let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
    let provider = SdkTracerProvider::builder().with_sampler(sampler).with_simple_exporter(collected.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let mut network = Network::start().await;
    let [agent, _] = network.furnish().await;
    let mut chain = Chain::new(&agent.identity.key);
    let mut proofs = [chain.seal(&[section(1, 60, &[1])]), chain.seal(&[section(1, 50, &[1])])];
    proofs[1].traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let mut stream = Stream::begin(network.channel(Some(&agent.identity)).0).await.unwrap();
    let outcomes = stream.submit(&proofs).await.unwrap();
    assert_eq!([told(&outcomes[0]), told(&outcomes[1])], ["judged 1", "judged 1"]);
    let spans = std::mem::take(&mut *collected.0.lock().unwrap());
    let mut names: Vec<_> = spans.iter().map(|span| span.name.to_string()).collect();
    names.sort();
    assert_eq!(names, ["append", "judge proof"]);
    assert!(spans.iter().all(|span| span.span_context.trace_id().to_string() == TRACE));
    let judge = spans.iter().find(|span| span.name == "judge proof").unwrap();
    let append = spans.iter().find(|span| span.name == "append").unwrap();
    assert_eq!(judge.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(append.parent_span_id, judge.span_context.span_id());
    network.stop().await;
}
