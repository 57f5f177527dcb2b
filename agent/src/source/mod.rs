//! MQTT client source: a persistent session at a broker, acknowledged by hand after the durable write.
//!
//! One task polls the event loop and does nothing that waits; another one acknowledges and drains what did not fit. While the spool is
//! full, messages are held up to a bound; beyond it the connection is given up, and the broker keeps them in its session.

mod filters;
mod session;
mod subscriptions;
mod waiting;

use std::{sync::Arc, time::Duration};

use rumqttc::TlsConfiguration;
use tokio::sync::watch;

use crate::{intake::Intake, metrics::Metrics};

/// Which broker, and how.
#[derive(Clone)]
pub struct BrokerOptions {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// MQTT 5 instead of 3.1.1.
    pub version_5: bool,
    /// Names the persistent session; the same after every restart.
    pub client_id: String,
    /// User name and password.
    pub credentials: Option<(String, String)>,
    /// TLS settings; none: plain TCP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Topic filters; empty: those of the models.
    pub filters: Vec<String>,
    /// Messages that the broker may send before they are acknowledged (MQTT 5 tells it; else the broker's own setting rules).
    pub in_flight: u16,
    /// Seconds between pings.
    pub keep_alive: u16,
}

impl std::fmt::Debug for BrokerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BrokerOptions({}:{}, tls: {})", self.host, self.port, self.tls.is_some())
    }
}

/// Bytes of messages that are held while the spool is full.
const HELD_BYTES: usize = 8 << 20;
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);

/// Runs until `stop`. `filters` are the models' topic filters as they change.
pub async fn run(
    options: BrokerOptions,
    intake: Arc<Intake>,
    metrics: Metrics,
    filters: watch::Receiver<Vec<String>>,
    health: depin_telemetry::Check,
    stop: watch::Receiver<bool>,
) {
    let shared = session::Context { options: Arc::new(options), intake, metrics, filters, health, stop };
    if shared.options.version_5 { session::v5::run(shared).await } else { session::v4::run(shared).await }
}

/// Doubles up to the longest, with jitter of a quarter.
fn next_backoff(backoff: Duration) -> (Duration, Duration) {
    let quarter = u64::try_from(backoff.as_millis() / 4).unwrap_or(0) + 1;
    (backoff + Duration::from_millis(crate::intake::jitter(quarter)), (backoff * 2).min(LONGEST_BACKOFF))
}

fn transport(options: &BrokerOptions) -> rumqttc::Transport {
    match &options.tls {
        None => rumqttc::Transport::Tcp,
        Some(config) => rumqttc::Transport::tls_with_config(TlsConfiguration::Rustls(Arc::clone(config))),
    }
}
