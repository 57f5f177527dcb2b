//! The wish of the system, or of a person at the terminal, that the process ends.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::TelemetryError;

/// Ready at the first SIGTERM or SIGINT after the call. Handlers are in place when this returns, so that a signal that
/// arrives while the program still starts is not lost.
///
/// # Errors
/// When handlers cannot be installed.
pub fn shutdown_signal() -> Result<impl Future<Output = ()> + Send + 'static, TelemetryError> {
    let mut terminate = handler(SignalKind::terminate())?;
    let mut interrupt = handler(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "asked to stop; draining");
    })
}

fn handler(kind: SignalKind) -> Result<Signal, TelemetryError> {
    signal(kind).map_err(TelemetryError::Signals)
}
