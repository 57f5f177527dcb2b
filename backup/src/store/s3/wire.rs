//! HTTP/1.1 over TCP or TLS, one request at a time, none longer than its bytes need.

use std::{fmt, path::Path, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as Pool, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use url::Url;

use crate::store::StoreError;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// Slower than this is not waited for: bytes a second.
const SLOWEST: u64 = 64 << 10;
/// No answer is larger.
const LARGEST: usize = 512 << 20;

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: StatusCode,
    /// The server's clock, seconds.
    pub(super) date: Option<i64>,
    pub(super) body: Bytes,
}

/// Keeps connections to one server.
pub(super) struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    patience: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    pub(super) fn new(tls: bool, ca: Option<&Path>, patience: Duration) -> Result<Self, StoreError> {
        let roots = if tls { roots(ca)? } else { RootCertStore::empty() };
        let provider = rustls::crypto::ring::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .map_err(|error| StoreError::Refused(format!("TLS: {error}")))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT));
        connector.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let pool = Pool::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(connector);
        Ok(Self { pool, patience })
    }

    /// Sends a request and reads the whole answer. The error is for people and holds no signature.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response, String> {
        let sending = Duration::from_secs(body.len() as u64 / SLOWEST);
        let mut request = Request::builder().method(method).uri(url.as_str());
        if let Some(map) = request.headers_mut() {
            *map = headers;
        }
        let request = request.body(Full::new(body)).map_err(|_| "the address is none".to_owned())?;
        let silent = || format!("no answer within {} s", self.patience.as_secs());
        let answered = tokio::time::timeout(self.patience + sending, self.pool.request(request)).await;
        let response = answered.map_err(|_| silent())?.map_err(|error| chain(&error))?;
        let (parts, mut incoming) = response.into_parts();
        let date = parts.headers.get(header::DATE).and_then(|date| date.to_str().ok()).and_then(seconds);
        let mut body = BytesMut::new();
        while let Some(frame) = tokio::time::timeout(self.patience, incoming.frame()).await.map_err(|_| silent())? {
            if let Ok(data) = frame.map_err(|error| chain(&error))?.into_data() {
                if body.len() + data.len() > LARGEST {
                    return Err(format!("its answer is longer than {LARGEST} bytes"));
                }
                body.extend_from_slice(&data);
            }
        }
        Ok(Response { status: parts.status, date, body: body.freeze() })
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Seconds of an HTTP date.
fn seconds(date: &str) -> Option<i64> {
    jiff::fmt::rfc2822::parse(date).ok().map(|date| date.timestamp().as_second())
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, StoreError> {
    let mut store = RootCertStore::empty();
    let certificates = match ca {
        Some(path) => {
            let refused = |error: String| StoreError::Refused(format!("--backup-s3-ca {}: {error}", path.display()));
            let text = std::fs::read(path).map_err(|error| refused(error.to_string()))?;
            CertificateDer::pem_slice_iter(&text)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| refused(error.to_string()))?
        }
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        let remedy = "no certificate is trusted: give --backup-s3-ca FILE with the store's authority (PEM)";
        return Err(StoreError::Refused(remedy.to_owned()));
    }
    Ok(store)
}
