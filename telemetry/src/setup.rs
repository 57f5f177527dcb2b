//! Installs the process's subscriber: log lines on standard error, spans to a collector.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::WithExportConfig as _;
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};
use tracing::{Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::FilterExt as _, layer::SubscriberExt as _, registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{LogFormat, TelemetryError, TelemetryOptions};

/// Crates that the exporter itself runs through: a span of theirs in a trace would cause the next export, without end.
const MUTED: [&str; 6] = ["hyper", "tonic", "h2", "tower", "hyper_util", "opentelemetry"];

/// Keeps telemetry alive; spans not yet sent are sent when it is shut down or dropped.
#[must_use = "spans are lost when the guard is dropped early"]
#[derive(Debug)]
pub struct TelemetryGuard {
    provider: Option<SdkTracerProvider>,
}

impl TelemetryGuard {
    /// Sends what is left and reports whether it arrived; dropping the guard does the same but only logs.
    ///
    /// # Errors
    /// When the collector does not take the last spans in time.
    pub fn shutdown(mut self) -> Result<(), TelemetryError> {
        match self.provider.take() {
            Some(provider) => Ok(provider.shutdown()?),
            None => Ok(()),
        }
    }
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.provider.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last spans could not be delivered");
        }
    }
}

/// Installs logging, and tracing when `options` names a collector. Call it once, inside the Tokio runtime.
///
/// # Errors
/// When an option cannot be used, naming it, or when a subscriber is installed already.
pub fn init(service: &str, options: &TelemetryOptions) -> Result<TelemetryGuard, TelemetryError> {
    let filter = EnvFilter::builder()
        .parse(&options.log)
        .map_err(|source| TelemetryError::Filter { filter: options.log.clone(), source })?;
    if !(0.0..=1.0).contains(&options.otlp_sample) {
        return Err(TelemetryError::Sample(options.otlp_sample));
    }
    let provider = options.otlp_endpoint.as_deref().map(|endpoint| provider(service, endpoint, options.otlp_sample));
    let provider = provider.transpose()?;
    let traces = provider.as_ref().map(|provider| span_layer(provider, service));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match options.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(true).with_span_list(false).boxed(),
    };
    tracing_subscriber::registry().with(traces).with(lines.with_filter(filter)).try_init()?;
    if provider.is_some() {
        crate::trace_context::collect();
    }
    Ok(TelemetryGuard { provider })
}

fn provider(service: &str, endpoint: &str, sample: f64) -> Result<SdkTracerProvider, TelemetryError> {
    if !endpoint.starts_with("http://") {
        return Err(TelemetryError::Endpoint(endpoint.to_owned()));
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|source| TelemetryError::Exporter { endpoint: endpoint.to_owned(), source })?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample))))
        .with_resource(Resource::builder().with_service_name(service.to_owned()).build())
        .build())
}

/// The layer that turns `tracing` spans into OpenTelemetry ones, down to level INFO.
pub(crate) fn span_layer<S>(provider: &SdkTracerProvider, service: &str) -> impl tracing_subscriber::Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let ours = tracing_subscriber::filter::filter_fn(|metadata: &Metadata<'_>| !is_muted(metadata.target()));
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(service.to_owned()))
        .with_filter(ours.and(LevelFilter::INFO))
}

fn is_muted(target: &str) -> bool {
    let root = target.split("::").next().unwrap_or(target);
    MUTED.contains(&root) || root.starts_with("opentelemetry")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> TelemetryOptions {
        TelemetryOptions::default()
    }

    #[test]
    fn transport_crates_are_muted_and_ours_are_not() {
        assert!(is_muted("hyper::client"));
        assert!(is_muted("h2"));
        assert!(is_muted("opentelemetry_sdk::trace"));
        assert!(!is_muted("depin_gateway::intake"));
        assert!(!is_muted("h2o"));
    }

    #[test]
    fn bad_options_are_refused_by_name() {
        let error = init("test", &TelemetryOptions { log: "depin=loud".to_owned(), ..options() }).unwrap_err();
        assert!(error.to_string().contains("--log"), "{error}");
        let error = init("test", &TelemetryOptions { otlp_sample: 1.5, ..options() }).unwrap_err();
        assert!(error.to_string().contains("--otlp-sample 1.5"), "{error}");
        let error = init("test", &TelemetryOptions { otlp_sample: f64::NAN, ..options() }).unwrap_err();
        assert!(error.to_string().contains("--otlp-sample"), "{error}");
        let error =
            init("test", &TelemetryOptions { otlp_endpoint: Some("https://collector:4317".to_owned()), ..options() });
        assert!(error.unwrap_err().to_string().contains("--otlp-endpoint"));
    }
}
