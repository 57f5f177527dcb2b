//! Looks after authorities, certificates, and what is public of them, as long as the operator leads.

use std::{convert::Infallible, fs, path::Path, sync::Arc};

use depin_domain::time::Timestamp;
use depin_identity::certificates::certificates;
use kube::Client;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::{
    CertificatesError,
    authorities::{Authorities, Terms},
    ensure_authorities, gateway, ledger_channel, look_after, publish, validity,
};
use crate::{clock::Clock, metrics::Metrics, options::Options};

/// See the module.
pub struct Keeper<'a> {
    client: &'a Client,
    options: &'a Options,
    clock: Clock,
    metrics: &'a Metrics,
}

/// What the newest channel to the ledger was made of.
#[derive(PartialEq, Eq)]
struct Made {
    trusted: String,
    more: Vec<CertificateDer<'static>>,
}

impl<'a> Keeper<'a> {
    /// Works by these options.
    #[must_use]
    pub fn new(client: &'a Client, options: &'a Options, clock: Clock, metrics: &'a Metrics) -> Self {
        Self { client, options, clock, metrics }
    }

    fn terms(&self) -> Terms {
        Terms {
            introduction_ms: self.options.ca_introduction,
            overlap_ms: validity::AGENT_MS.saturating_add(self.options.renewal_grace),
        }
    }

    /// The authorities and the gateway's certificate, once.
    ///
    /// # Errors
    /// When the API server refuses or a Secret is damaged.
    pub async fn prepare(&self) -> Result<Authorities, CertificatesError> {
        let authorities = ensure_authorities(self.client, &self.options.namespace, self.clock.now()).await?;
        publish::publish(self.client, &self.options.namespace, &authorities).await?;
        self.gateway(&authorities).await?;
        for namespace in &self.options.publish_ca_namespace {
            // Its agents wait; nobody else shall.
            self.done("publish", publish::publish(self.client, namespace, &authorities).await);
        }
        self.tell(&authorities);
        Ok(authorities)
    }

    async fn gateway(&self, authorities: &Authorities) -> Result<(), CertificatesError> {
        let Options { namespace, gateway_name, gateway_ca_file, .. } = self.options;
        if gateway_ca_file.is_some() {
            // Somebody else keeps it.
            return Ok(());
        }
        if gateway::ensure(self.client, namespace, authorities, gateway_name, self.clock.now()).await? {
            tracing::info!(hosts = ?gateway_name, "the gateway's new certificate is in Secret {}", super::GATEWAY);
        }
        Ok(())
    }

    /// CAs beside the authorities that the gateway's certificate may come from.
    fn more(&self) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
        gateway_authorities(self.options.gateway_ca_file.as_deref())
    }

    /// A channel to the ledger.
    ///
    /// # Errors
    /// When a certificate cannot be made, or the gateway's CAs cannot be read.
    pub fn channel(&self, authorities: &Authorities) -> Result<Channel, CertificatesError> {
        ledger_channel(authorities, self.more()?, &self.options.ledger, self.clock.now())
    }

    /// Looks after all of it until it is dropped.
    ///
    /// # Errors
    /// Never while anything can be tried again.
    pub async fn run(
        &self,
        authorities: &watch::Sender<Arc<Authorities>>,
        channel: &watch::Sender<Channel>,
    ) -> Result<Infallible, CertificatesError> {
        let mut made_at = self.clock.now();
        let mut made = self.made(&authorities.borrow());
        loop {
            tokio::time::sleep(validity::LOOK).await;
            let known = Arc::clone(&authorities.borrow());
            let looked = look_after(self.client, &self.options.namespace, &known, self.terms(), self.clock.now()).await;
            if let Some(state) = self.done("authority", looked) {
                authorities.send_replace(Arc::new(state));
            }
            let known = Arc::clone(&authorities.borrow());
            self.tell(&known);
            self.done("gateway", self.gateway(&known).await);
            for namespace in self.namespaces() {
                self.done("publish", publish::publish(self.client, namespace, &known).await);
            }
            let now = self.clock.now();
            let makes = self.made(&known);
            let due = makes != made || now.since(made_at) >= validity::OWN_RENEWAL_MS;
            if due && let Some(renewed) = self.done("operator", self.channel(&known)) {
                channel.send_replace(renewed);
                (made_at, made) = (now, makes);
            }
        }
    }

    fn made(&self, authorities: &Authorities) -> Made {
        Made { trusted: authorities.bundle(), more: self.more().unwrap_or_default() }
    }

    /// Where the authorities are published: here, and where agents run.
    fn namespaces(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.options.namespace).chain(&self.options.publish_ca_namespace)
    }

    fn done<T>(&self, what: &'static str, result: Result<T, CertificatesError>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(what, %error, "certificates could not be looked after; it is tried again");
                self.metrics.certificates_failed(what);
                None
            }
        }
    }

    fn tell(&self, authorities: &Authorities) {
        let Timestamp(end) = authorities.issuing.validity().end;
        self.metrics.authority_ends(end / 1000, authorities.trusted().len());
    }
}
/// CAs beside the authorities that the gateway's certificate may come from, of the file that `--gateway-ca-file` names.
///
/// # Errors
/// When the file cannot be read or holds no certificates.
pub fn gateway_authorities(path: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let wrong = |what: String| CertificatesError::GatewayCa { path: path.to_owned(), what };
    let pem = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    certificates(&pem).map_err(|error| wrong(error.to_string()))
}
