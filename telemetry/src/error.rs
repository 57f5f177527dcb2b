//! What can go wrong when telemetry is set up or served.

use std::{io, net::SocketAddr};

/// A failure to set up or serve telemetry; the message says what the reader can do.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `--log` is not a filter.
    #[error("--log {filter:?} is not a filter ({source}); write for example `info` or `info,depin_agent=debug`")]
    Filter {
        /// What was given.
        filter: String,
        /// Why it was not understood.
        source: tracing_subscriber::filter::ParseError,
    },
    /// `--otlp-sample` is not a ratio.
    #[error("--otlp-sample {0} is not between 0 and 1; 0.01 samples one trace in a hundred")]
    Sample(f64),
    /// `--otlp-endpoint` is not a plain gRPC endpoint.
    #[error(
        "--otlp-endpoint {0:?} must start with http://; run an OpenTelemetry collector beside the program and let it speak TLS onwards"
    )]
    Endpoint(String),
    /// The exporter refused its settings.
    #[error("the OTLP exporter for --otlp-endpoint {endpoint:?} cannot be built: {source}")]
    Exporter {
        /// What was given.
        endpoint: String,
        /// Why it was refused.
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// A subscriber is there already.
    #[error("telemetry was set up twice in one process: {0}")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
    /// The last spans were not delivered.
    #[error("the last spans could not be delivered: {0}; check that the collector at --otlp-endpoint answers")]
    Flush(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// The admin server's address is taken or not ours.
    #[error("--admin-listen {address} cannot be bound: {source}; choose another port, or 127.0.0.1:0 for a free one")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The admin server stopped.
    #[error("the admin server failed: {0}")]
    Serve(io::Error),
    /// The process cannot hear of signals.
    #[error("signal handlers cannot be installed: {0}")]
    Signals(io::Error),
}
