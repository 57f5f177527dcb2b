//! A small network written straight to the ledger: what operator and custom resources would bring about.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use depin_domain::{
    canonical,
    ids::{AgentId, DeviceId},
    model::{
        Attestation, Check, CheckScope, Codec, DeviceNaming, Field, Metric, MetricKind, Model, Source, TimestampField,
        TimestampFormat,
    },
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, ModelEntry},
    time::{Timestamp, Window},
};
use depin_identity::{
    CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust, certificates,
    client_config, connect_lazy, keys::write_private,
};
use depin_proto::v1::{self, ledger_client::LedgerClient};
use tonic::transport::Channel;

use crate::processes::now_ms;

pub(crate) const NAMESPACE: &str = "site";
const FLEET: &str = "site/meters";
const HOUR_MS: i64 = 3_600_000;
/// Changes of one request.
const CHANGES: usize = 2_000;
/// Registered this long ago, so that readings of the past count.
const KNOWN_MS: i64 = 90 * 24 * HOUR_MS;

/// Where the files are made.
#[derive(Args)]
pub(crate) struct Prepare {
    /// Folder for `authority`, `gateway-tls` and `agent`
    #[arg(long)]
    dir: PathBuf,
}

/// What is written to the registry.
#[derive(Args)]
pub(crate) struct Register {
    /// The ledger, https://HOST:PORT
    #[arg(long)]
    ledger: String,
    /// Folder that `prepare` filled
    #[arg(long)]
    dir: PathBuf,
    /// Devices of the agent
    #[arg(long, default_value_t = 1_000)]
    devices: u32,
    /// CEL checks of each reading
    #[arg(long, default_value_t = 1)]
    checks: usize,
}

/// The gateway under load, and who may speak to it.
#[derive(Args)]
pub(crate) struct Center {
    /// The gateway, https://HOST:PORT
    #[arg(long)]
    pub(crate) gateway: String,
    /// The ledger, https://HOST:PORT
    #[arg(long)]
    pub(crate) ledger: String,
    /// Folder that `prepare` filled
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// The gateway's process, whose CPU seconds and memory are reported
    #[arg(long)]
    pub(crate) process: u32,
}

/// Validity of all certificates here.
fn validity() -> Result<Window> {
    let now = now_ms()?;
    Ok(Window { start: Timestamp(now - HOUR_MS), end: Timestamp(now + 24 * HOUR_MS) })
}

/// Authority, gateway's certificate, and the agent's state as if it had enrolled.
pub(crate) fn prepare(options: &Prepare) -> Result<()> {
    let authority = CertificateAuthority::create(validity()?)?;
    let ca = authority.certificate_pem();
    for folder in ["authority", "gateway-tls", "agent"] {
        fs::create_dir_all(options.dir.join(folder))?;
    }
    let write = |name: &str, text: &str| write_private(&options.dir.join(name), text.as_bytes());
    write("authority/tls.crt", &ca)?;
    write("authority/tls.key", &authority.key_pem())?;
    let gateway = SigningKey::generate()?;
    write("gateway-tls/ca.crt", &ca)?;
    write("gateway-tls/tls.crt", &chain(&authority, &PeerIdentity::Gateway, &gateway)?)?;
    write("gateway-tls/tls.key", &gateway.to_pem())?;
    let agent = SigningKey::load_or_create(&options.dir.join("agent/agent.key"))?;
    write("agent/ca.crt", &ca)?;
    write("agent/agent.crt", &chain(&authority, &peer("edge"), &agent)?)?;
    println!("{{\"prepared\":true}}");
    Ok(())
}

/// An agent's name in certificates.
pub(crate) fn peer(name: &str) -> PeerIdentity {
    PeerIdentity::Agent { namespace: NAMESPACE.into(), name: name.into() }
}

fn chain(authority: &CertificateAuthority, identity: &PeerIdentity, key: &SigningKey) -> Result<String> {
    let request = CertificateRequest::from_der(&CertificateRequest::make(key)?)?;
    let hosts = match identity {
        PeerIdentity::Gateway => vec!["127.0.0.1".to_owned(), "localhost".to_owned()],
        _ => Vec::new(),
    };
    Ok(authority.issue(&request, identity, &hosts, validity()?)?)
}

/// The authority of a prepared folder, and connections under its certificates.
pub(crate) struct Authority(CertificateAuthority);

impl Authority {
    pub(crate) fn open(dir: &std::path::Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join("authority").join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self(CertificateAuthority::from_pem(&read("tls.crt")?, &read("tls.key")?)?))
    }

    /// A connection as somebody.
    pub(crate) fn connect(&self, address: &str, identity: &PeerIdentity, key: SigningKey) -> Result<Channel> {
        self.connect_with(address, self, identity, key)
    }

    /// The same with a certificate that another authority issued.
    pub(crate) fn connect_with(
        &self,
        address: &str,
        issuer: &Self,
        identity: &PeerIdentity,
        key: SigningKey,
    ) -> Result<Channel> {
        let chain = certificates::certificates(&chain(&issuer.0, identity, &key)?)?;
        Ok(connect_lazy(address, client_config(&self.trust(), Some(&KeyAndChain { key, chain }))?)?.0)
    }

    /// A connection without a certificate.
    pub(crate) fn stranger(&self, address: &str) -> Result<Channel> {
        Ok(connect_lazy(address, client_config(&self.trust(), None)?)?.0)
    }

    /// Another authority of the same name.
    pub(crate) fn imitated(&self) -> Result<Self> {
        Ok(Self(CertificateAuthority::create(validity()?)?))
    }

    /// The first message of a handshake.
    pub(crate) fn hello(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let name = "localhost".try_into()?;
        rustls::ClientConnection::new(client_config(&self.trust(), None)?, name)?.write_tls(&mut bytes)?;
        Ok(bytes)
    }

    fn trust(&self) -> Trust {
        Trust::Bundle(vec![self.0.certificate().clone()])
    }
}

/// Writes registry changes as the operator does; answers with incarnation and version.
pub(crate) async fn write(address: &str, authority: &Authority, changes: &[Change]) -> Result<(u64, u64)> {
    let channel = authority.connect(address, &PeerIdentity::Operator, SigningKey::generate()?)?;
    let mut ledger = LedgerClient::new(channel);
    let writer = ledger.acquire_writer(v1::AcquireWriterRequest { holder: "bench".into() }).await?.into_inner();
    let info = ledger.get_info(v1::GetInfoRequest {}).await?.into_inner();
    let mut version = info.registry_version;
    for changes in changes.chunks(CHANGES) {
        let changes = changes.iter().map(|change| Ok(canonical::to_vec(change)?.into())).collect::<Result<_>>()?;
        let request = v1::WriteRegistryRequest { writer: Some(writer), changes, expected_version: version };
        version = ledger.write_registry(request).await?.into_inner().version;
    }
    Ok((writer.incarnation, version))
}

/// One agent `edge` with its devices.
pub(crate) async fn register(options: &Register) -> Result<()> {
    let authority = Authority::open(&options.dir)?;
    let key = SigningKey::load_or_create(&options.dir.join("agent/agent.key"))?;
    let mut changes = base(options.checks)?;
    changes.push(agent("edge", &key));
    changes.extend((0..options.devices).map(|number| device("edge", &device_name(number))));
    let (_, version) = write(&options.ledger, &authority, &changes).await?;
    println!("{{\"registryVersion\":{version}}}");
    Ok(())
}

/// Model and fleet.
pub(crate) fn base(checks: usize) -> Result<Vec<Change>> {
    let model = model(checks);
    Ok(vec![
        Change::Model(ModelEntry { digest: model.digest()?, model, effective_from: Timestamp(0) }),
        Change::Fleet(FleetEntry { id: FLEET.into(), model: "meter".into(), grain_ms: HOUR_MS }),
    ])
}

/// The name under which a device speaks: the topic's second segment.
pub(crate) fn device_name(number: u32) -> String {
    format!("dev-{number:05}")
}

/// An agent's entry.
pub(crate) fn agent(name: &str, key: &SigningKey) -> Change {
    Change::Agent(AgentEntry {
        id: AgentId::of(NAMESPACE, name),
        namespace: NAMESPACE.into(),
        name: name.into(),
        key: key.public().clone(),
        fleets: vec!["meters".into()],
        reinstate_key: false,
    })
}

/// A device's entry.
pub(crate) fn device(agent: &str, name: &str) -> Change {
    Change::Device(DeviceEntry {
        id: DeviceId::of(NAMESPACE, name),
        namespace: NAMESPACE.into(),
        serial: name.into(),
        name: name.into(),
        fleet: FLEET.into(),
        agent: AgentId::of(NAMESPACE, agent),
        key: None,
        hardware_key: false,
        shares: Vec::new(),
        location: None,
        suspended: false,
        since: Timestamp(now_ms().unwrap_or_default() - KNOWN_MS),
    })
}

/// `{"ts":…,"power_w":…}` on `site/DEVICE/telemetry`: one metric, a range, a rate limit and up to three checks.
pub(crate) fn model(checks: usize) -> Model {
    let expressions = [
        "reading.metric != 'power' || previous == null || reading.value - previous.value < 1000000",
        "reading.value >= 0 && reading.value != 77",
        "device.serial != '' || reading.at > 0",
    ];
    let check = |(number, expression): (usize, &&str)| Check {
        reason: format!("Check{number}"),
        scope: CheckScope::Reading,
        expression: (*expression).into(),
    };
    Model {
        name: "meter".into(),
        sources: vec![Source {
            topic: "site/+/telemetry".into(),
            codec: Codec::Json,
            device: DeviceNaming::TopicSegment(1),
            each: None,
            timestamp: Some(TimestampField { path: "ts".into(), format: TimestampFormat::UnixMillis }),
            fields: vec![Field { path: "power_w".into(), metric: "power".into(), unit: None }],
        }],
        metrics: vec![Metric {
            name: "power".into(),
            unit: "W".into(),
            kind: MetricKind::Gauge,
            scale: 1,
            min: Some(0),
            max: Some(1_000_000),
            max_rate: Some(1_000_000_000),
            personal: false,
        }],
        cadence_ms: 1_000,
        reorder_horizon_ms: 0,
        checks: expressions.iter().take(checks).enumerate().map(check).collect(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}
