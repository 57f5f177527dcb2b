//! The admin server: `/metrics` in OpenMetrics text, `/healthz` and `/readyz` as JSON, over plain HTTP.
//!
//! It answers from memory and never waits for a part of the program, so that a stuck part cannot hide.

use std::{future::Future, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

use crate::{Health, TelemetryError, health::Report};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A bound admin server; [`AdminServer::run`] serves it.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    address: SocketAddr,
    shown: Shown,
}

#[derive(Clone, Debug)]
struct Shown {
    metrics: Arc<Registry>,
    health: Health,
}

impl AdminServer {
    /// Binds `address` (port 0: a free one) and logs where the server listens.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, metrics: Arc<Registry>, health: Health) -> Result<Self, TelemetryError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            let local = listener.local_addr()?;
            Ok((listener, local))
        };
        let (listener, local) = bound.await.map_err(|source| TelemetryError::Bind { address, source })?;
        tracing::info!(address = %local, "admin server listens");
        Ok(Self { listener, address: local, shown: Shown { metrics, health } })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready.
    ///
    /// # Errors
    /// When the listening socket fails.
    pub async fn run(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), TelemetryError> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|State(shown): State<Shown>| async move { verdict(&shown.health.live()) }))
            .route("/readyz", get(|State(shown): State<Shown>| async move { verdict(&shown.health.ready()) }))
            .with_state(self.shown);
        axum::serve(self.listener, router).with_graceful_shutdown(stop).await.map_err(TelemetryError::Serve)
    }
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shown.metrics) {
        Ok(()) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be encoded: {error}")).into_response()
        }
    }
}

/// `{"status":"ok"|"failing","checks":{"NAME":"ok"|"what is wrong"}}`, with status 200 or 503.
fn verdict(report: &Report) -> Response {
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let checks: serde_json::Map<String, serde_json::Value> = report
        .checks
        .iter()
        .map(|(name, wrong)| ((*name).to_owned(), wrong.clone().unwrap_or_else(|| "ok".to_owned()).into()))
        .collect();
    let body = serde_json::json!({ "status": if report.ok { "ok" } else { "failing" }, "checks": checks });
    (status, [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::oneshot,
    };

    use super::*;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn shows_metrics_and_health_until_stopped() {
        let mut metrics = Registry::with_prefix("depin_test");
        let counter = Counter::<u64>::default();
        metrics.register("readings", "Readings taken", counter.clone());
        let health = Health::new();
        let spool = health.readiness("spool");
        let server = AdminServer::bind(([127, 0, 0, 1], 0).into(), Arc::new(metrics), health.clone()).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(server.run(async { stopped.await.unwrap_or_default() }));

        counter.inc_by(3);
        let answer = ask(address, "/metrics").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("depin_test_readings_total 3\n"), "{answer}");
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(answer.contains(OPEN_METRICS), "{answer}");

        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with(r#"{"checks":{"spool":"starting"},"status":"failing"}"#), "{answer}");
        spool.pass();
        let answer = ask(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.ends_with(r#"{"checks":{"spool":"ok"},"status":"ok"}"#), "{answer}");

        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let spool = health.liveness("spool");
        spool.fail("fsync failed");
        assert!(ask(address, "/healthz").await.contains("fsync failed"));
        assert!(ask(address, "/elsewhere").await.starts_with("HTTP/1.1 404"));

        stop.send(()).unwrap();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = AdminServer::bind(address, Arc::new(Registry::default()), Health::new()).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
