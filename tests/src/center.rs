//! The operator's part where a test needs no cluster: the authority, the registry, the closing and computing of epochs. What is
//! written comes from manifests, through the operator's own checks.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use depin_domain::{
    canonical,
    ids::PublicKey,
    registry::{Change, Record, Registry},
    rewards::{EpochResult, ProgramState},
    time::{Timestamp, Window},
};
use depin_identity::{
    CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust, certificates,
    client_config, connect_lazy,
};
use depin_operator::{ledger::Ledger, rewards::compute};
use depin_proto::v1;
use tokio::sync::watch;

use crate::Stack;

/// Certificates of a test live as long as it may.
const VALIDITY_MS: i64 = 24 * 3_600_000;

/// The one who writes.
pub struct Center {
    authority: CertificateAuthority,
    ledger: Ledger,
    registry: Registry,
}

impl Center {
    /// Makes an authority, starts the gateway under it, and takes the writer token.
    ///
    /// # Errors
    /// When the gateway does not come up.
    pub async fn start(stack: &mut Stack) -> Result<Self> {
        let authority = CertificateAuthority::create(validity()?)?;
        let folder = stack.dir.join("gateway-tls");
        fs::create_dir_all(&folder)?;
        let key = SigningKey::generate()?;
        fs::write(folder.join("tls.crt"), issue(&authority, &key, &PeerIdentity::Gateway)?)?;
        fs::write(folder.join("tls.key"), key.to_pem().as_bytes())?;
        fs::write(folder.join("ca.crt"), authority.certificate_pem())?;
        fs::create_dir_all(stack.authority())?;
        fs::write(stack.authority().join("tls.crt"), authority.certificate_pem())?;
        fs::write(stack.authority().join("tls.key"), authority.key_pem().as_bytes())?;
        stack.start_gateway()?;

        let own = SigningKey::generate()?;
        let chain = certificates::certificates(&issue(&authority, &own, &PeerIdentity::Operator)?)?;
        let trust = Trust::Bundle(vec![authority.certificate().clone()]);
        let config = client_config(&trust, Some(&KeyAndChain { key: own, chain }))?;
        let (_, channel) = watch::channel(connect_lazy(&stack.ledger(), config)?.0);
        let ledger = Ledger::new(channel);
        ledger.acquire_writer("a test").await?;
        Ok(Self { authority, ledger, registry: Registry::default() })
    }

    /// The ledger's service, as the operator calls it.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The registry after the last write.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The authority of all certificates, once more.
    ///
    /// # Errors
    /// When it cannot be read again.
    pub fn authority(&self) -> Result<CertificateAuthority> {
        Ok(CertificateAuthority::from_pem(&self.authority.certificate_pem(), &self.authority.key_pem())?)
    }

    /// Writes key, certificate and authority of an operator's client, for the plugin: `client.crt`, `client.key`, `ca.crt`.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn certify_client(&self, folder: &Path) -> Result<()> {
        let key = SigningKey::generate()?;
        fs::create_dir_all(folder)?;
        fs::write(folder.join("client.crt"), issue(&self.authority, &key, &PeerIdentity::Operator)?)?;
        fs::write(folder.join("client.key"), key.to_pem().as_bytes())?;
        fs::write(folder.join("ca.crt"), self.authority.certificate_pem())?;
        Ok(())
    }

    /// Makes a key and a certificate for an agent, and puts both into its state.
    ///
    /// # Errors
    /// When they cannot be made or written.
    pub fn certify_agent(&self, state: &Path, namespace: &str, name: &str) -> Result<PublicKey> {
        let key = SigningKey::load_or_create(&state.join("agent.key"))?;
        let peer = PeerIdentity::Agent { namespace: namespace.to_owned(), name: name.to_owned() };
        fs::write(state.join("ca.crt"), self.authority.certificate_pem())?;
        fs::write(state.join("agent.crt"), issue(&self.authority, &key, &peer)?)?;
        Ok(key.public().clone())
    }

    /// Appends to the registry.
    ///
    /// # Errors
    /// When the ledger refuses.
    pub async fn write(&mut self, changes: &[Change]) -> Result<()> {
        let expected_version = self.registry.version();
        let encoded = changes.iter().map(|change| Ok(canonical::to_vec(change)?.into())).collect::<Result<_>>()?;
        let request = v1::WriteRegistryRequest { writer: self.ledger.writer(), changes: encoded, expected_version };
        self.ledger.client().write_registry(request).await?;
        let read = v1::ReadRegistryRequest { after_version: expected_version, until_version: 0, follow: false };
        let mut records = self.ledger.client().read_registry(read).await?.into_inner();
        while let Some(raw) = records.message().await? {
            let change = serde_json::from_slice(&raw.change)?;
            self.registry.apply(Record { version: raw.version, at: Timestamp(raw.at), change })?;
        }
        Ok(())
    }

    /// Closes an epoch of a program, computes and records it.
    ///
    /// # Errors
    /// When the ledger refuses or the result cannot be computed.
    pub async fn close_epoch(
        &self,
        program: &str,
        number: u64,
        window: Window,
        state: ProgramState,
    ) -> Result<EpochResult> {
        let wire = |number, window: Window| v1::EpochWindow { number, start: window.start.0, end: window.end.0 };
        let request = v1::CloseEpochRequest {
            writer: self.ledger.writer(),
            program: program.to_owned(),
            number,
            start: window.start.0,
            end: window.end.0,
            grace_ms: 0,
            matured: state.maturing(window.end).map(|open| wire(open.number, open.window())).collect(),
        };
        let close = self.ledger.client().close_epoch(request).await?.into_inner();
        let result = compute::compute(&self.ledger, self.registry.clone(), &close, state).await?;
        let recorded = compute::record(&self.ledger, &result).await?;
        ensure!(!recorded.repeated, "epoch {number} of {program} was recorded before");
        Ok(result)
    }
}

fn issue(authority: &CertificateAuthority, key: &SigningKey, peer: &PeerIdentity) -> Result<String> {
    let request = CertificateRequest::from_der(&CertificateRequest::make(key)?)?;
    let hosts = if *peer == PeerIdentity::Gateway { vec!["127.0.0.1".to_owned()] } else { Vec::new() };
    Ok(authority.issue(&request, peer, &hosts, validity()?)?)
}

fn validity() -> Result<Window> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    let now = i64::try_from(now.as_millis())?;
    Ok(Window { start: Timestamp(now - 60_000), end: Timestamp(now + VALIDITY_MS) })
}
