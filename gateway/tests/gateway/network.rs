//! A gateway with its ledger, an authority, and the parties that call it.

use std::{
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use depin_backup::{Backups, DirectoryStore, Identities, Recipients, restore};
use depin_domain::{
    canonical,
    ids::{AgentId, DeviceId, Digest, PublicKey},
    model::{Attestation, Metric, MetricKind, Model},
    proofs::{Header, Reading, Section, Series},
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, InvitationEntry, ModelEntry},
    time::{Timestamp, Window},
};
use depin_gateway::{Clock, Gateway, Limits, Running, server::Settings};
use depin_identity::{
    CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, ServerKey, SigningKey, Trust,
    certificates::certificates, client_config, connect_lazy,
};
use depin_ledger::{EmbeddedLedger, Ledger};
use depin_log::{DiskStorage, Storage};
use depin_proto::{
    convert::id_bytes,
    envelope::{body_root, encode_header, encode_section, proof_signing_input},
    v1::{
        self, SignedProof, ledger_client::LedgerClient, proofs_client::ProofsClient, submit_request, submit_response,
    },
};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

pub(crate) const MINUTE: i64 = 60_000;

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(since.as_millis() as i64)
}

pub(crate) fn lately() -> Window {
    Window { start: now().plus(-60 * MINUTE), end: now().plus(60 * MINUTE) }
}

/// A running gateway and what a test needs to call it.
pub(crate) struct Network {
    pub(crate) ca: CertificateAuthority,
    ledger: Arc<dyn Ledger>,
    pub(crate) metrics: Arc<Registry>,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) operator: LedgerClient<Channel>,
    pub(crate) writer: v1::WriterToken,
    running: Running,
    stop: CancellationToken,
}

pub(crate) fn issue(ca: &CertificateAuthority, identity: &PeerIdentity, key: SigningKey) -> KeyAndChain {
    let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
    let hosts = match identity {
        PeerIdentity::Gateway => vec!["127.0.0.1".to_owned()],
        _ => Vec::new(),
    };
    KeyAndChain { key, chain: certificates(&ca.issue(&request, identity, &hosts, lately()).unwrap()).unwrap() }
}

pub(crate) fn write_tls(directory: &Path, ca: &CertificateAuthority, bundle: &str) {
    let key = SigningKey::generate().unwrap();
    let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
    let hosts = ["127.0.0.1".to_owned()];
    let chain = ca.issue(&request, &PeerIdentity::Gateway, &hosts, lately()).unwrap();
    std::fs::write(directory.join("tls.crt"), chain).unwrap();
    std::fs::write(directory.join("tls.key"), key.to_pem().as_bytes()).unwrap();
    std::fs::write(directory.join("ca.crt"), bundle).unwrap();
}

impl Network {
    pub(crate) async fn start() -> Self {
        Self::start_with(Limits::default()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        Self::start_over(limits, depin_ledger::Settings::default()).await
    }

    /// A network whose ledger is kept by these settings.
    pub(crate) async fn start_over(limits: Limits, settings: depin_ledger::Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(lately()).unwrap();
        write_tls(directory.path(), &ca, &ca.certificate_pem());
        Self::launch(directory, ca, "ledger", limits, settings).await
    }

    /// The same network after its disk was lost: its ledger is restored from a backup of all that it had.
    pub(crate) async fn restored(self) -> Self {
        self.stop.cancel();
        self.running.finished().await.unwrap();
        let open =
            |name: &str| -> Arc<dyn Storage> { Arc::new(DiskStorage::open(self.directory.path().join(name)).unwrap()) };
        let (settings, clock) = (depin_ledger::Settings::default(), depin_ledger::Clock::system());
        drop(self.ledger);
        let lost = EmbeddedLedger::open(open("ledger"), settings.clone(), clock.clone()).unwrap();
        let store = Arc::new(DirectoryStore::new(open("backup"), "backup"));
        let mut backups = Backups::new(store.clone(), Recipients::default(), i64::MAX);
        let made = backups.run(&lost, None).await.unwrap().generation;
        lost.close();
        let target = open("restored");
        restore(&*store, made, &Identities::default(), &target, &settings, &clock).await.unwrap();
        drop(target);
        Self::launch(self.directory, self.ca, "restored", Limits::default(), settings).await
    }

    async fn launch(
        directory: tempfile::TempDir,
        ca: CertificateAuthority,
        ledger: &str,
        limits: Limits,
        settings: depin_ledger::Settings,
    ) -> Self {
        let storage = DiskStorage::open(directory.path().join(ledger)).unwrap();
        let ledger = EmbeddedLedger::open(Arc::new(storage), settings, depin_ledger::Clock::system()).unwrap();
        let ledger: Arc<dyn Ledger> = Arc::new(ledger);
        let loopback = "127.0.0.1:0".parse().unwrap();
        let tls_dir = directory.path().to_owned();
        let settings = Settings { listen: loopback, ledger_listen: loopback, tls_dir, ca_dir: None, limits };
        let mut metrics = Registry::default();
        let stop = CancellationToken::new();
        let gateway = Gateway::new(settings, Arc::clone(&ledger), Clock::system(), &mut metrics);
        let running = gateway.start(stop.clone()).await.unwrap().unwrap();
        let operator = issue(&ca, &PeerIdentity::Operator, SigningKey::generate().unwrap());
        let trust = Trust::Bundle(vec![ca.certificate().clone()]);
        let address = format!("https://{}", running.ledger);
        let (channel, _) = connect_lazy(&address, client_config(&trust, Some(&operator)).unwrap()).unwrap();
        let mut operator = LedgerClient::new(channel);
        let request = v1::AcquireWriterRequest { holder: "test".into() };
        let writer = operator.acquire_writer(request).await.unwrap().into_inner();
        Self { ca, metrics: Arc::new(metrics), directory, ledger, operator, writer, running, stop }
    }

    /// A second gateway over the same ledger, whose certificate lies in `tls` and whose authorities in `ca`. Its agents' address.
    pub(crate) async fn beside(&self, tls: &Path, ca: &Path) -> String {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let (tls_dir, ca_dir) = (tls.to_owned(), Some(ca.to_owned()));
        let settings =
            Settings { listen: loopback, ledger_listen: loopback, tls_dir, ca_dir, limits: Limits::default() };
        let gateway = Gateway::new(settings, Arc::clone(&self.ledger), Clock::system(), &mut Registry::default());
        let running = gateway.start(self.stop.clone()).await.unwrap().unwrap();
        let address = format!("https://{}", running.agents);
        tokio::spawn(running.finished());
        address
    }

    /// A second gateway over the same ledger that has these backups, as the operator reaches it.
    pub(crate) async fn telling(&self, backups: depin_gateway::Backups) -> LedgerClient<Channel> {
        let loopback = "127.0.0.1:0".parse().unwrap();
        let tls_dir = self.directory.path().to_owned();
        let settings =
            Settings { listen: loopback, ledger_listen: loopback, tls_dir, ca_dir: None, limits: Limits::default() };
        let gateway = Gateway::new(settings, Arc::clone(&self.ledger), Clock::system(), &mut Registry::default());
        let running = gateway.with_backups(backups).start(self.stop.clone()).await.unwrap().unwrap();
        let operator = issue(&self.ca, &PeerIdentity::Operator, SigningKey::generate().unwrap());
        let trust = Trust::Bundle(vec![self.ca.certificate().clone()]);
        let address = format!("https://{}", running.ledger);
        tokio::spawn(running.finished());
        LedgerClient::new(connect_lazy(&address, client_config(&trust, Some(&operator)).unwrap()).unwrap().0)
    }

    /// Stops the gateway and waits until everything is answered.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.finished().await.unwrap();
    }

    pub(crate) fn channel(&self, agent: Option<&KeyAndChain>) -> (Channel, ServerKey) {
        let trust = Trust::Bundle(vec![self.ca.certificate().clone()]);
        let address = format!("https://{}", self.running.agents);
        connect_lazy(&address, client_config(&trust, agent).unwrap()).unwrap()
    }

    /// A channel of an agent that trusts these.
    pub(crate) fn channel_trusting(&self, trust: &Trust, agent: Option<&KeyAndChain>) -> (Channel, ServerKey) {
        connect_lazy(&self.agents_address(), client_config(trust, agent).unwrap()).unwrap()
    }

    pub(crate) fn ledger_client(&self, identity: Option<&KeyAndChain>) -> LedgerClient<Channel> {
        let trust = Trust::Bundle(vec![self.ca.certificate().clone()]);
        let address = format!("https://{}", self.running.ledger);
        LedgerClient::new(connect_lazy(&address, client_config(&trust, identity).unwrap()).unwrap().0)
    }

    pub(crate) fn agents_address(&self) -> String {
        format!("https://{}", self.running.agents)
    }

    /// Appends registry changes as the operator does.
    pub(crate) async fn write(&mut self, changes: &[Change]) -> u64 {
        let info = self.operator.get_info(v1::GetInfoRequest {}).await.unwrap().into_inner();
        let changes = changes.iter().map(|change| canonical::to_vec(change).unwrap().into()).collect();
        let request =
            v1::WriteRegistryRequest { writer: Some(self.writer), changes, expected_version: info.registry_version };
        self.operator.write_registry(request).await.unwrap().into_inner().version
    }

    /// A model, a fleet, and agents `site-1`, `site-2` with a device each, `meter-1` and `meter-2`.
    pub(crate) async fn furnish(&mut self) -> [Agent; 2] {
        let agents = [Agent::new(&self.ca, "site-1"), Agent::new(&self.ca, "site-2")];
        let mut changes = vec![Change::Model(model_entry()), Change::Fleet(fleet())];
        changes.extend(agents.iter().map(|agent| Change::Agent(agent.entry())));
        changes.push(Change::Device(device(1, &agents[0], None)));
        changes.push(Change::Device(device(2, &agents[1], None)));
        self.write(&changes).await;
        agents
    }
}

pub(crate) fn model() -> Model {
    Model {
        name: "meter".into(),
        sources: Vec::new(),
        metrics: vec![Metric {
            name: "power".into(),
            unit: "W".into(),
            kind: MetricKind::Gauge,
            scale: 0,
            min: Some(-1_000),
            max: Some(1_000),
            max_rate: None,
            personal: false,
        }],
        cadence_ms: 1_000,
        reorder_horizon_ms: 0,
        checks: Vec::new(),
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

pub(crate) fn model_entry() -> ModelEntry {
    ModelEntry { digest: model().digest().unwrap(), model: model(), effective_from: Timestamp(0) }
}

fn fleet() -> FleetEntry {
    FleetEntry { id: "grid/meters".into(), model: "meter".into(), grain_ms: 60 * MINUTE }
}

pub(crate) fn device(number: u32, agent: &Agent, key: Option<PublicKey>) -> DeviceEntry {
    let name = format!("meter-{number}");
    DeviceEntry {
        id: DeviceId::of("grid", &name),
        namespace: "grid".into(),
        serial: name.clone(),
        name,
        fleet: "grid/meters".into(),
        agent: agent.id,
        key,
        hardware_key: false,
        shares: Vec::new(),
        location: None,
        suspended: false,
        since: now().plus(-60 * MINUTE),
    }
}

pub(crate) fn invitation(secret: &[u8]) -> Change {
    Change::Invitation(InvitationEntry {
        token: Digest::of(secret),
        namespace: "grid".into(),
        expires: now().plus(60 * MINUTE),
    })
}

/// An agent with its certificate.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) id: AgentId,
    pub(crate) name: String,
    pub(crate) identity: KeyAndChain,
}

impl Agent {
    pub(crate) fn new(ca: &CertificateAuthority, name: &str) -> Self {
        let peer = PeerIdentity::Agent { namespace: "grid".into(), name: name.into() };
        let identity = issue(ca, &peer, SigningKey::generate().unwrap());
        Self { id: AgentId::of("grid", name), name: name.into(), identity }
    }

    pub(crate) fn entry(&self) -> AgentEntry {
        AgentEntry {
            id: self.id,
            namespace: "grid".into(),
            name: self.name.clone(),
            key: self.identity.key.public().clone(),
            fleets: vec!["meters".into()],
            reinstate_key: false,
        }
    }
}

/// Seals proofs of one key, each linked to the one before.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) key: SigningKey,
    pub(crate) incarnation: u64,
    pub(crate) sequence: u64,
    pub(crate) previous: Digest,
    pub(crate) registry: (u64, u64),
}

impl Chain {
    pub(crate) fn new(key: &SigningKey) -> Self {
        Self { key: key.clone(), incarnation: 1, sequence: 0, previous: Digest::default(), registry: (0, 0) }
    }

    /// The next proof, over these sections.
    pub(crate) fn seal(&mut self, sections: &[Section]) -> SignedProof {
        let encoded: Vec<_> = sections.iter().map(|section| encode_section(section).unwrap()).collect();
        let times = sections.iter().flat_map(|s| &s.series).flat_map(|s| &s.readings).map(|reading| reading.at);
        let window = match (times.clone().min(), times.max()) {
            (Some(start), Some(last)) => Window { start, end: last.plus(1) },
            _ => Window::default(),
        };
        self.sequence += 1;
        let header = encode_header(&Header {
            key: self.key.id(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            previous: if self.sequence == 1 { Digest::default() } else { self.previous },
            registry_incarnation: self.registry.0,
            registry_version: self.registry.1,
            sealed_at: now(),
            window,
            drops: Vec::new(),
            sections: sections.len() as u32,
            body: body_root(&encoded),
        })
        .unwrap();
        self.previous = Digest::of(&header);
        let signature = self.key.sign(&proof_signing_input(&header));
        SignedProof {
            header: header.into(),
            signature: signature.to_vec().into(),
            algorithm: 1,
            key_id: id_bytes(self.key.id()),
            sections: encoded.into_iter().map(Into::into).collect(),
            traceparent: String::new(),
        }
    }

    pub(crate) fn open(&self, next_sequence: u64) -> v1::OpenChain {
        let sealed_sequence = self.sequence;
        v1::OpenChain { key_id: id_bytes(self.key.id()), incarnation: self.incarnation, next_sequence, sealed_sequence }
    }
}

/// `count` readings of `meter-<number>`, a second apart, the first `ago` seconds before now.
pub(crate) fn section(number: u32, ago: i64, values: &[i64]) -> Section {
    let start = now().plus(-ago * 1_000);
    let reading = |(index, value): (usize, &i64)| Reading { at: start.plus(index as i64 * 1_000), value: *value };
    Section {
        device: DeviceId::of("grid", &format!("meter-{number}")),
        model: model_entry().digest,
        attestation: Attestation::Agent,
        series: vec![Series { metric: "power".into(), readings: values.iter().enumerate().map(reading).collect() }],
    }
}

/// An agent's stream of proofs.
pub(crate) struct Stream {
    requests: mpsc::Sender<v1::SubmitRequest>,
    responses: Streaming<v1::SubmitResponse>,
    /// Windows that were told beside the answers.
    pub(crate) windows: Vec<v1::Window>,
}

impl Stream {
    pub(crate) async fn begin(channel: Channel) -> Result<Self, Status> {
        let (requests, stream) = mpsc::channel(16);
        let responses = ProofsClient::new(channel).submit(ReceiverStream::new(stream)).await?.into_inner();
        Ok(Self { requests, responses, windows: Vec::new() })
    }

    pub(crate) async fn open(&mut self, chains: Vec<v1::OpenChain>) -> Result<v1::ChainsOpened, Status> {
        let open = v1::OpenChains { chains, ..Default::default() };
        self.send(submit_request::Message::Open(open)).await;
        match self.next().await? {
            submit_response::Message::Opened(opened) => Ok(opened),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn submit(&mut self, proofs: &[SignedProof]) -> Result<Vec<v1::Outcome>, Status> {
        let batch = v1::ProofBatch { proofs: proofs.to_vec() };
        self.send(submit_request::Message::Proofs(batch)).await;
        match self.next().await? {
            submit_response::Message::Outcomes(batch) => Ok(batch.outcomes),
            other => panic!("{other:?}"),
        }
    }

    /// The same, unless the stream ended in order before all was answered.
    pub(crate) async fn submit_or_end(&mut self, proofs: &[SignedProof]) -> Result<Option<Vec<v1::Outcome>>, Status> {
        self.send(submit_request::Message::Proofs(v1::ProofBatch { proofs: proofs.to_vec() })).await;
        while let Some(response) = self.responses.message().await? {
            if let Some(submit_response::Message::Outcomes(batch)) = response.message {
                return Ok(Some(batch.outcomes));
            }
        }
        Ok(None)
    }

    /// Puts a message on its way. Where the gateway has ended the stream already nobody takes it, and the reason is
    /// what [`Self::next`] reads.
    pub(crate) async fn send(&mut self, message: submit_request::Message) {
        let _ended = self.requests.send(v1::SubmitRequest { message: Some(message) }).await;
    }

    pub(crate) async fn next(&mut self) -> Result<submit_response::Message, Status> {
        loop {
            let response = self.responses.message().await?.ok_or_else(|| Status::cancelled("the stream ended"))?;
            match response.message.unwrap() {
                submit_response::Message::Window(window) => self.windows.push(window),
                message => return Ok(message),
            }
        }
    }
}

/// An outcome in short: `judged <accepted>`, `repeated <accepted>`, `refused <Reason>` or `deferred <Reason>`.
pub(crate) fn told(outcome: &v1::Outcome) -> String {
    use v1::outcome::Result as Answer;
    let name = |code: u32| depin_domain::proofs::Reason::from_code(code as u16).unwrap().name();
    match outcome.result.as_ref().unwrap() {
        Answer::Judged(judged) => {
            let accepted = judged.verdict.as_ref().unwrap().accepted;
            format!("{} {accepted}", if judged.repeated { "repeated" } else { "judged" })
        }
        Answer::Deferred(deferred) => format!("deferred {}", name(deferred.reason)),
        Answer::Refused(refused) => format!("refused {}", name(refused.reason)),
    }
}

/// The reasons of the rejections of a judged outcome.
pub(crate) fn rejections(outcome: &v1::Outcome) -> Vec<&'static str> {
    let Some(v1::outcome::Result::Judged(judged)) = &outcome.result else { panic!("{outcome:?}") };
    let verdict = depin_proto::convert::verdict_from_proto(judged.verdict.as_ref().unwrap()).unwrap();
    verdict.rejections.iter().map(|rejection| rejection.reason.name()).collect()
}

pub(crate) fn all_told(outcomes: &[v1::Outcome]) -> Vec<String> {
    outcomes.iter().map(told).collect()
}
