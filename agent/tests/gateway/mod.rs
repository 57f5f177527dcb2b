//! A gateway in memory: real TLS, enrollment, configuration and receipts; it judges nothing but a proof's place in its chain.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use depin_domain::{
    ids::{AgentId, DeviceId, Digest},
    model::Model,
    proofs::{
        ChainHead, Reason, Verdict,
        chain::{Declared, Known, Place, place},
    },
    time::{Timestamp, Window},
};
use depin_identity::{
    authority::CertificateAuthority,
    certificates::{CertificateInfo, CertificateRequest, certificates, pem},
    keys::SigningKey,
    pass::Pass,
    peer::PeerIdentity,
    tls::{ClientAuth, KeyAndChain, server_config},
    token::JoinToken,
};
use depin_proto::{
    convert,
    envelope::{ReceiptBody, encode_receipt, open_proof, receipt_signing_input, verdict_digest},
    v1::{
        self,
        configuration_server::{Configuration, ConfigurationServer},
        enrollment_server::{Enrollment, EnrollmentServer},
        proofs_server::{Proofs, ProofsServer},
    },
};
use rustls_pki_types::CertificateDer;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, oneshot, watch},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// What the gateway knows; shared with the test.
#[derive(Default)]
pub struct Ledger {
    pub heads: BTreeMap<Vec<u8>, ChainHead>,
    pub judged: BTreeMap<(u64, u64), Digest>,
    /// Values by device and time, and how often each came.
    pub readings: BTreeMap<(DeviceId, String, i64), (i64, u32)>,
    pub sightings: Vec<v1::Sighting>,
    pub status: Option<v1::AgentStatus>,
    pub confirmed: u64,
    /// The next proofs are answered so.
    pub defer: u32,
    pub refuse: Vec<Reason>,
    /// What is durable is in no backup.
    pub unarchived: bool,
    /// How many proofs may be unanswered; 0: four.
    pub window: u32,
    /// From when to when a certificate is valid that is issued now, in milliseconds from now; none: from a minute ago for an hour.
    pub life: Option<(i64, i64)>,
    /// When each certificate that was issued ends, and each that a connection showed.
    pub issued: Vec<Timestamp>,
    pub shown: Vec<Timestamp>,
    /// Connections that ended before they began.
    pub refused: u32,
    /// What the operator makes of renewals, and the requests that came.
    pub renewal: Renewal,
    pub renewals: Vec<Vec<u8>>,
    /// Tokens of ServiceAccounts that were shown, with namespace and fleets.
    pub passes: Vec<(String, String, Vec<String>)>,
    /// Nothing more is read of streams of proofs.
    pub hold: bool,
    /// So many large answers to nothing are told before more is read.
    pub chatter: u32,
}

/// What the operator makes of a renewal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Renewal {
    #[default]
    Silence,
    Issue,
    Deny,
}

/// A running gateway.
pub struct Gateway {
    pub address: SocketAddr,
    pub token: String,
    pub ledger: Arc<Mutex<Ledger>>,
    pub configuration: Arc<watch::Sender<v1::ConfigurationUpdate>>,
    authority: Arc<CertificateAuthority>,
    /// Authorities before that one, and what they say for those after them.
    before: Vec<CertificateDer<'static>>,
    vouchers: Vec<CertificateDer<'static>>,
    key: SigningKey,
    task: Serving,
    /// Keeps the address from all other tests while nobody listens.
    _place: TcpSocket,
}

pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// The configuration of one model and these devices.
pub fn configuration(version: u64, model: &Model, devices: &[&str]) -> v1::ConfigurationUpdate {
    let canonical = model.canonical().unwrap();
    v1::ConfigurationUpdate {
        registry_incarnation: 1,
        registry_version: version,
        snapshot: true,
        models: vec![v1::ModelConfiguration {
            name: model.name.clone(),
            digest: Digest::of(&canonical).0.to_vec().into(),
            canonical: canonical.into(),
            effective_from: 0,
        }],
        devices: devices
            .iter()
            .map(|serial| v1::DeviceConfiguration {
                device_id: DeviceId::of("ns", serial).0.to_vec().into(),
                namespace: "ns".to_owned(),
                name: (*serial).to_owned(),
                serial: (*serial).to_owned(),
                model: model.name.clone(),
                ..v1::DeviceConfiguration::default()
            })
            .collect(),
        limits: Some(v1::AgentLimits {
            max_proof_bytes: 1 << 16,
            max_sections: 64,
            max_readings: 2_000,
            max_clock_skew_ms: 60_000,
        }),
        now: now(),
        ..v1::ConfigurationUpdate::default()
    }
}

impl Gateway {
    pub async fn start(first: v1::ConfigurationUpdate) -> Self {
        let validity = Window { start: Timestamp(now() - 3_600_000), end: Timestamp(now() + 86_400_000) };
        let authority = Arc::new(CertificateAuthority::create(validity).unwrap());
        let key = SigningKey::generate().unwrap();
        let token = JoinToken::new([9; 16], authority.hash()).text().to_string();
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let configuration = Arc::new(watch::Sender::new(first));
        let place = TcpSocket::new_v4().unwrap();
        place.set_reuseaddr(true).unwrap();
        place.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = place.local_addr().unwrap();
        let listener = TcpListener::bind(address).await.unwrap();
        let task = serve(listener, &authority, (&[], &[]), &key, &ledger, &configuration);
        let (before, vouchers) = (Vec::new(), Vec::new());
        Self { address, token, ledger, configuration, authority, before, vouchers, key, task, _place: place }
    }

    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.address.port())
    }

    /// What an agent must believe, in PEM.
    pub fn ca(&self) -> String {
        self.authority.certificate_pem()
    }

    /// Ends all connections.
    pub async fn stop(&mut self) {
        self.task.cancel().await;
    }

    /// Serves again at the same address with what it knew.
    pub async fn restart(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let others = (self.before.as_slice(), self.vouchers.as_slice());
        self.task = serve(listener, &self.authority, others, &self.key, &self.ledger, &self.configuration);
    }

    /// Another authority issues from the next start on, for which the one before vouches if it is asked to.
    pub fn rotate(&mut self, vouched: bool) {
        let validity = Window { start: Timestamp(now() - 3_600_000), end: Timestamp(now() + 86_400_000) };
        let next = Arc::new(CertificateAuthority::create(validity).unwrap());
        if vouched {
            self.vouchers.splice(0..0, certificates(&self.authority.vouch(&next).unwrap()).unwrap());
        }
        self.before.insert(0, self.authority.certificate().clone());
        self.key = SigningKey::generate().unwrap();
        self.authority = next;
    }

    /// What agents are told of the authorities.
    pub fn authorities(&self) -> v1::ConfigurationUpdate {
        let text = |all: &[CertificateDer<'static>]| all.iter().map(|der| pem("CERTIFICATE", der)).collect::<String>();
        v1::ConfigurationUpdate {
            ca: self.authority.certificate_pem() + &text(&self.before),
            ca_vouchers: text(&self.vouchers),
            ..self.configuration.borrow().clone()
        }
    }

    /// Looks at the ledger.
    pub fn look(&self, look: impl FnOnce(&Ledger)) {
        look(&self.ledger.lock().unwrap());
    }

    /// Waits until the ledger is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Ledger) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let so_far = {
                let ledger = self.ledger.lock().unwrap();
                if wanted(&ledger) {
                    return;
                }
                format!("{} readings, {:?}", ledger.readings.len(), ledger.heads)
            };
            assert!(tokio::time::Instant::now() < deadline, "{what} did not come: {so_far}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn serve(
    listener: TcpListener,
    authority: &Arc<CertificateAuthority>,
    (before, vouchers): (&[CertificateDer<'static>], &[CertificateDer<'static>]),
    key: &SigningKey,
    ledger: &Arc<Mutex<Ledger>>,
    configuration: &Arc<watch::Sender<v1::ConfigurationUpdate>>,
) -> Serving {
    let request = CertificateRequest::from_der(&CertificateRequest::make(key).unwrap()).unwrap();
    let validity = Window { start: Timestamp(now() - 3_600_000), end: Timestamp(now() + 3_600_000) };
    let pem = authority.issue(&request, &PeerIdentity::Gateway, &["127.0.0.1".to_owned()], validity).unwrap();
    let mut chain = certificates(&pem).unwrap();
    chain.extend_from_slice(vouchers);
    chain.push(authority.certificate().clone());
    let identity = KeyAndChain { key: key.clone(), chain };
    let clients = [&[authority.certificate().clone()], before].concat();
    let config = server_config(&identity, &clients, ClientAuth::Optional).unwrap();
    let acceptor = TlsAcceptor::from(config);
    let (accepted, connections) = mpsc::channel::<std::io::Result<_>>(16);
    let service = Service {
        authority: authority.clone(),
        key: key.clone(),
        ledger: ledger.clone(),
        configuration: configuration.clone(),
    };
    let ledger = ledger.clone();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(async move {
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let accepting = acceptor.accept(stream).await;
                ledger.lock().unwrap().refused += u32::from(accepting.is_err());
                if let Ok(stream) = accepting {
                    if let Some(shown) = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()) {
                        let end = CertificateInfo::from_der(shown).unwrap().validity.end;
                        ledger.lock().unwrap().shown.push(end);
                    }
                    let _ = accepted.send(Ok(stream)).await;
                }
            }
        });
        tasks.spawn(async move {
            let _ = Server::builder()
                .initial_stream_window_size(65_535)
                .add_service(EnrollmentServer::new(service.clone()))
                .add_service(ConfigurationServer::new(service.clone()))
                .add_service(ProofsServer::new(service))
                .serve_with_incoming(ReceiverStream::new(connections))
                .await;
        });
        // Sent, or its sender is gone.
        let (Ok(()) | Err(_)) = stopped.await;
        // Who is told that it stopped finds nobody listening any more.
        tasks.shutdown().await;
    });
    Serving { stop: Some(stop), task }
}

/// A gateway's tasks, which end with it.
struct Serving {
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Serving {
    /// Ends them; ended before, nothing happens.
    async fn cancel(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap();
            (&mut self.task).await.unwrap();
        }
    }
}

#[derive(Clone)]
struct Service {
    authority: Arc<CertificateAuthority>,
    key: SigningKey,
    ledger: Arc<Mutex<Ledger>>,
    configuration: Arc<watch::Sender<v1::ConfigurationUpdate>>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Enrollment for Service {
    async fn terms(&self, _: Request<v1::TermsRequest>) -> Result<Response<v1::EnrollmentTerms>, Status> {
        let sealing_key = self.authority.sealing().public().to_vec().into();
        Ok(Response::new(v1::EnrollmentTerms { sealing_key }))
    }

    async fn enroll(&self, request: Request<v1::EnrollRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let request = request.into_inner();
        if let Some(pass) = &request.service_account {
            let v1::ServiceAccountPass { namespace, fleets, sealed_token } = pass;
            let bound = Pass { csr: &request.csr, name: &request.name, namespace, fleets };
            let opened = bound.open(self.authority.sealing(), sealed_token);
            let token = opened.map_err(|error| Status::unauthenticated(error.to_string()))?;
            self.ledger.lock().unwrap().passes.push((token.to_string(), namespace.clone(), fleets.clone()));
            return Ok(self.issue(&request.csr, "edge-1".to_owned()));
        }
        if request.token.as_ref() != [9; 16] {
            return Err(Status::unauthenticated("no such token"));
        }
        Ok(self.issue(&request.csr, request.name))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<v1::EnrollResponse>, Status> {
        let csr = request.into_inner().csr;
        let renewal = {
            let mut ledger = self.ledger.lock().unwrap();
            ledger.renewals.push(csr.to_vec());
            ledger.renewal
        };
        let result = match renewal {
            Renewal::Issue => return Ok(self.issue(&csr, "edge-1".to_owned())),
            Renewal::Silence => v1::enroll_response::Result::Pending(v1::Pending { retry_after_ms: 100 }),
            Renewal::Deny => v1::enroll_response::Result::Denied(v1::Denied {
                reason: "RenewalGraceOver".to_owned(),
                message: String::new(),
            }),
        };
        Ok(Response::new(v1::EnrollResponse { result: Some(result) }))
    }
}

#[tonic::async_trait]
impl Configuration for Service {
    type WatchStream = Answers<v1::ConfigurationUpdate>;

    async fn watch(&self, _: Request<v1::WatchConfigurationRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let changes = tokio_stream::wrappers::WatchStream::new(self.configuration.subscribe());
        Ok(Response::new(Box::pin(changes.map(|mut update| {
            update.now = now();
            Ok(update)
        }))))
    }

    async fn report_sightings(
        &self,
        request: Request<v1::SightingsRequest>,
    ) -> Result<Response<v1::SightingsResponse>, Status> {
        self.ledger.lock().unwrap().sightings.extend(request.into_inner().sightings);
        Ok(Response::new(v1::SightingsResponse { recorded: 1 }))
    }

    async fn report_status(
        &self,
        request: Request<v1::AgentStatus>,
    ) -> Result<Response<v1::AgentStatusResponse>, Status> {
        self.ledger.lock().unwrap().status = Some(request.into_inner());
        Ok(Response::new(v1::AgentStatusResponse { now: now() }))
    }
}

#[tonic::async_trait]
impl Proofs for Service {
    type SubmitStream = Answers<v1::SubmitResponse>;

    async fn submit(
        &self,
        request: Request<Streaming<v1::SubmitRequest>>,
    ) -> Result<Response<Self::SubmitStream>, Status> {
        let mut incoming = request.into_inner();
        let (answers, outgoing) = mpsc::channel(1);
        let service = self.clone();
        tokio::spawn(async move {
            let mut declared = BTreeMap::new();
            loop {
                service.before_reading(&answers).await;
                let Ok(Some(message)) = incoming.message().await else { return };
                let answer = match message.message.unwrap() {
                    v1::submit_request::Message::Open(open) => service.open(&open, &mut declared),
                    v1::submit_request::Message::Proofs(batch) => service.judge(&batch, &declared),
                };
                if answers.send(Ok(v1::SubmitResponse { message: Some(answer) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl Service {
    fn issue(&self, csr: &[u8], name: String) -> Response<v1::EnrollResponse> {
        let csr = CertificateRequest::from_der(csr).unwrap();
        let identity = PeerIdentity::Agent { namespace: "ns".to_owned(), name: name.clone() };
        let mut ledger = self.ledger.lock().unwrap();
        let (start, end) = ledger.life.unwrap_or((-60_000, 3_600_000));
        let validity = Window { start: Timestamp(now() + start), end: Timestamp(now() + end) };
        let chain = self.authority.issue(&csr, &identity, &[], validity).unwrap();
        ledger.issued.push(CertificateInfo::from_pem(&chain).unwrap().validity.end);
        let issued = v1::IssuedCertificate {
            chain,
            ca: self.authority.certificate_pem(),
            namespace: "ns".to_owned(),
            agent_id: AgentId::of("ns", &name).0.to_vec().into(),
            name,
        };
        Response::new(v1::EnrollResponse { result: Some(v1::enroll_response::Result::Issued(issued)) })
    }

    /// Waits as long as nothing is to be read, then tells what is to be told first.
    async fn before_reading(&self, answers: &mpsc::Sender<Result<v1::SubmitResponse, Status>>) {
        while self.ledger.lock().unwrap().hold && !answers.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let chatter = std::mem::take(&mut self.ledger.lock().unwrap().chatter);
        for _ in 0..chatter {
            let nothing =
                v1::Outcome { key_id: vec![0; 4 << 20].into(), digest: vec![0; 32].into(), ..v1::Outcome::default() };
            let message = v1::submit_response::Message::Outcomes(v1::OutcomeBatch { outcomes: vec![nothing] });
            let _ = answers.send(Ok(v1::SubmitResponse { message: Some(message) })).await;
        }
    }

    fn open(&self, open: &v1::OpenChains, declared: &mut BTreeMap<Vec<u8>, Declared>) -> v1::submit_response::Message {
        let mut ledger = self.ledger.lock().unwrap();
        ledger.confirmed = ledger.confirmed.max(open.confirmed_registry_version);
        let heads = open.chains.iter().map(|chain| {
            let key = chain.key_id.to_vec();
            declared
                .insert(key.clone(), Declared { incarnation: chain.incarnation, next_sequence: chain.next_sequence });
            let head = ledger.heads.get(&key).copied();
            let head = head.unwrap_or(ChainHead { incarnation: 0, sequence: 0, digest: Digest::default() });
            convert::head_to_proto(convert::key_id("key", &key).unwrap(), &head, 0)
        });
        let window = if ledger.window > 0 { (ledger.window, 8 << 20) } else { (4, 1 << 20) };
        let window = Some(v1::Window { proofs: window.0, bytes: window.1 });
        v1::submit_response::Message::Opened(v1::ChainsOpened { heads: heads.collect(), now: now(), window })
    }

    fn judge(&self, batch: &v1::ProofBatch, declared: &BTreeMap<Vec<u8>, Declared>) -> v1::submit_response::Message {
        let outcomes = batch.proofs.iter().map(|proof| self.outcome(proof, declared)).collect();
        v1::submit_response::Message::Outcomes(v1::OutcomeBatch { outcomes })
    }

    fn outcome(&self, proof: &v1::SignedProof, declared: &BTreeMap<Vec<u8>, Declared>) -> v1::Outcome {
        let mut ledger = self.ledger.lock().unwrap();
        let opened = open_proof(&proof.header, &proof.sections).unwrap();
        let header = &opened.header;
        let key = proof.key_id.to_vec();
        let known = Known {
            head: ledger.heads.get(&key).copied(),
            declared: declared.get(&key).copied(),
            judged: ledger.judged.get(&(header.incarnation, header.sequence)).copied(),
        };
        let found = place(&known, header, &opened.digest);
        let result = if let Some(reason) = ledger.refuse.pop() {
            v1::outcome::Result::Refused(v1::Refused { reason: reason.code().into(), message: String::new() })
        } else if ledger.defer > 0 {
            ledger.defer -= 1;
            let reason = Reason::Overloaded.code().into();
            v1::outcome::Result::Deferred(v1::Deferred { reason, message: String::new(), retry_after_ms: 50 })
        } else if let Some(reason) = found.reason() {
            match found {
                Place::Gap { .. } => v1::outcome::Result::Deferred(v1::Deferred {
                    reason: reason.code().into(),
                    message: String::new(),
                    retry_after_ms: 50,
                }),
                _ => v1::outcome::Result::Refused(v1::Refused { reason: reason.code().into(), message: String::new() }),
            }
        } else {
            if found.is_judged() {
                let head =
                    ChainHead { incarnation: header.incarnation, sequence: header.sequence, digest: opened.digest };
                ledger.heads.insert(key, head);
                ledger.judged.insert((header.incarnation, header.sequence), opened.digest);
                for section in &opened.sections {
                    for series in &section.series {
                        for reading in &series.readings {
                            let place = (section.device, series.metric.clone(), reading.at.0);
                            let entry = ledger.readings.entry(place).or_insert((reading.value, 0));
                            assert_eq!(entry.0, reading.value);
                            entry.1 += 1;
                        }
                    }
                }
            }
            v1::outcome::Result::Judged(v1::Judged {
                receipt: Some(self.receipt(&opened, !ledger.unarchived)),
                verdict: Some(convert::verdict_to_proto(&Verdict {
                    accepted: opened.readings(),
                    rejections: Vec::new(),
                })),
                repeated: found == Place::Repeat,
            })
        };
        v1::Outcome {
            key_id: proof.key_id.clone(),
            incarnation: header.incarnation,
            sequence: header.sequence,
            digest: opened.digest.0.to_vec().into(),
            result: Some(result),
        }
    }

    fn receipt(&self, opened: &depin_proto::envelope::OpenedProof, archived: bool) -> v1::Receipt {
        let verdict = Verdict { accepted: opened.readings(), rejections: Vec::new() };
        let body = encode_receipt(&ReceiptBody {
            gateway: self.key.id(),
            key: opened.header.key,
            incarnation: opened.header.incarnation,
            sequence: opened.header.sequence,
            digest: opened.digest,
            ledger_incarnation: 1,
            position: 1,
            received_at: Timestamp(now()),
            accepted: verdict.accepted,
            rejected: 0,
            verdict: verdict_digest(&verdict).unwrap(),
            durable: true,
            archived,
        });
        let signature = self.key.sign(&receipt_signing_input(&body)).to_vec().into();
        v1::Receipt { body: body.into(), signature, gateway_key_id: self.key.id().0.to_vec().into() }
    }
}
