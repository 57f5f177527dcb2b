//! The centre of a small world in one process: the real gateway on loopback over the real embedded ledger, and an operator's
//! side made of the operator's own closing and computing. Time is what the test says it is.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use depin_backup::{Backups, DirectoryStore, Generation, Identities, Recipients, Store};
use depin_domain::{
    canonical,
    ids::{AgentId, PublicKey},
    proofs::Reason,
    registry::{Change, Registry},
    rewards::{EpochResult, ProgramSpec, ProgramState},
    time::{Timestamp, Window},
};
use depin_gateway::{Gateway, Limits, Running, server};
use depin_identity::{
    CertificateAuthority, CertificateRequest, KeyAndChain, PeerIdentity, SigningKey, Trust, certificates,
    client_config, connect_lazy,
};
use depin_ledger::{EmbeddedLedger, Export, Ledger as _, ProofFilter, Settings, StoredProof, Verification};
use depin_log::{DiskStorage, Storage};
use depin_operator::{
    ledger::Ledger as Operator,
    rewards::{
        compute,
        epochs::{self, EpochError},
    },
};
use depin_proto::{envelope, v1};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::network::{GENESIS, PROGRAM, account, device_id};

const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(10);

/// Looks again and again until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not come within {LIMIT:?}");
        tokio::time::sleep(LOOK).await;
    }
}

/// What everybody's clock shows, until the test turns it.
#[derive(Clone, Debug)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    pub(crate) fn set(&self, at: i64) {
        assert!(at >= self.now(), "time does not run backwards here");
        self.0.store(at, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// Count, sum and increase by device number and metric.
pub(crate) type Sums = BTreeMap<(u8, String), (u64, i128, i128)>;

/// The gateway that runs, with its ledger.
struct Hub {
    ledger: Arc<EmbeddedLedger>,
    running: Running,
    stop: CancellationToken,
}

pub(crate) struct World {
    directory: tempfile::TempDir,
    authority: CertificateAuthority,
    validity: Window,
    pub(crate) time: Time,
    settings: Settings,
    limits: Limits,
    /// How often the ledger was lost and restored.
    restores: u32,
    hub: Option<Hub>,
    addresses: (SocketAddr, SocketAddr),
    operator: Operator,
    /// What the newest computed epoch of the program left.
    state: ProgramState,
}

impl World {
    /// An empty network at the genesis. The ledger takes whatever it has durable for archived.
    pub(crate) async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(crate) async fn start_with(settings: Settings) -> Self {
        Self::start_over(settings, Limits::default()).await
    }

    /// With a gateway of these limits.
    pub(crate) async fn start_limited(limits: Limits) -> Self {
        Self::start_over(Settings::default(), limits).await
    }

    async fn start_over(settings: Settings, limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let time = Time(Arc::new(AtomicI64::new(GENESIS)));
        // Valid by the machine's clock, which TLS goes by, and by the test's.
        let real = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let years = |count: i64| count * 365 * 24 * 3_600_000;
        let validity =
            Window { start: Timestamp(GENESIS.min(real) - years(1)), end: Timestamp(GENESIS.max(real) + years(10)) };
        let authority = CertificateAuthority::create(validity).unwrap();
        let free = "127.0.0.1:0".parse().unwrap();
        let (_, unused) = watch::channel(tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
        let operator = Operator::new(unused);
        // The test's clock jumps over hours in which the hub is meant to be well.
        let settings = Settings { max_pause_ms: i64::MAX, ..settings };
        let mut world = Self {
            directory,
            authority,
            validity,
            time,
            settings,
            limits,
            restores: 0,
            hub: None,
            addresses: (free, free),
            operator,
            state: ProgramState::default(),
        };
        world.write_gateway_tls();
        world.hub_up().await;
        world.connect_operator().await;
        world
    }

    /// A certificate of this world's authority.
    fn issue(&self, identity: &PeerIdentity, key: &SigningKey) -> String {
        let request = CertificateRequest::from_der(&CertificateRequest::make(key).unwrap()).unwrap();
        let hosts = match identity {
            PeerIdentity::Gateway => vec!["127.0.0.1".to_owned()],
            _ => Vec::new(),
        };
        self.authority.issue(&request, identity, &hosts, self.validity).unwrap()
    }

    fn write_gateway_tls(&self) {
        let key = SigningKey::generate().unwrap();
        let tls = self.path("tls");
        fs::create_dir(&tls).unwrap();
        fs::write(tls.join("tls.crt"), self.issue(&PeerIdentity::Gateway, &key)).unwrap();
        fs::write(tls.join("tls.key"), key.to_pem().as_bytes()).unwrap();
        fs::write(tls.join("ca.crt"), self.authority.certificate_pem()).unwrap();
    }

    /// Key and certificates of an agent, as enrollment leaves them in its directory.
    pub(crate) fn enroll(&self, name: &str, directory: &Path) -> SigningKey {
        let key = SigningKey::load_or_create(&directory.join("agent.key")).unwrap();
        let identity = PeerIdentity::Agent { namespace: "grid".to_owned(), name: name.to_owned() };
        fs::write(directory.join("agent.crt"), self.issue(&identity, &key)).unwrap();
        fs::write(directory.join("ca.crt"), self.authority.certificate_pem()).unwrap();
        key
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn ledger_path(&self) -> PathBuf {
        self.path(&format!("ledger-{}", self.restores))
    }

    /// Where agents reach the gateway: the same address after each start.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.addresses.0
    }

    pub(crate) async fn hub_up(&mut self) {
        assert!(self.hub.is_none(), "the hub is up");
        fs::create_dir_all(self.ledger_path()).unwrap();
        let storage = DiskStorage::open(self.ledger_path()).unwrap();
        let time = self.time.clone();
        let clock = depin_ledger::Clock::new(move || Timestamp(time.now()));
        let ledger = Arc::new(EmbeddedLedger::open(Arc::new(storage), self.settings.clone(), clock).unwrap());
        let (listen, ledger_listen) = self.addresses;
        let settings = server::Settings {
            listen,
            ledger_listen,
            tls_dir: self.path("tls"),
            ca_dir: None,
            limits: self.limits.clone(),
        };
        let stop = CancellationToken::new();
        let time = self.time.clone();
        let clock = depin_gateway::Clock::new(move || Timestamp(time.now()));
        let mut metrics = prometheus_client::registry::Registry::default();
        let shared = Arc::clone(&ledger);
        let running = Gateway::new(settings, shared, clock, &mut metrics).start(stop.clone()).await.unwrap().unwrap();
        self.addresses = (running.agents, running.ledger);
        self.hub = Some(Hub { ledger, running, stop });
    }

    /// The hub loses its power, as far as anybody can tell from outside.
    pub(crate) async fn hub_down(&mut self) {
        let Hub { ledger, running, stop } = self.hub.take().unwrap();
        stop.cancel();
        running.finished().await.unwrap();
        until("the last stream's end", async || Arc::strong_count(&ledger) == 1).await;
        Arc::into_inner(ledger).unwrap().close();
    }

    async fn connect_operator(&mut self) {
        let key = SigningKey::generate().unwrap();
        let chain = certificates::certificates(&self.issue(&PeerIdentity::Operator, &key)).unwrap();
        let trust = Trust::Bundle(vec![self.authority.certificate().clone()]);
        let config = client_config(&trust, Some(&KeyAndChain { key, chain })).unwrap();
        let (channel, _) = connect_lazy(&format!("https://{}", self.addresses.1), config).unwrap();
        let (_, channel) = watch::channel(channel);
        self.operator = Operator::new(channel);
        self.operator.acquire_writer("world").await.unwrap();
    }

    fn ledger(&self) -> &EmbeddedLedger {
        &self.hub.as_ref().unwrap().ledger
    }

    fn store(&self, name: &str) -> Arc<dyn Store> {
        let storage = DiskStorage::open(self.path(name)).unwrap();
        Arc::new(DirectoryStore::new(Arc::new(storage), name))
    }

    /// Backs the running ledger up to a directory.
    pub(crate) async fn backup(&self, name: &str) -> Generation {
        let mut backups = Backups::new(self.store(name), Recipients::default(), i64::MAX);
        backups.run(self.ledger(), None).await.unwrap().generation
    }

    /// The ledger's disk is lost while the hub is down; the hub comes back with what the newest backup has.
    pub(crate) async fn restore(&mut self, name: &str) {
        let generations = Generation::list(&*self.store(name)).await.unwrap();
        self.restore_generation(name, *generations.last().unwrap()).await;
    }

    /// The same with what an older backup has.
    pub(crate) async fn restore_generation(&mut self, name: &str, generation: Generation) {
        self.restores += 1;
        fs::create_dir_all(self.ledger_path()).unwrap();
        let target: Arc<dyn Storage> = Arc::new(DiskStorage::open(self.ledger_path()).unwrap());
        let time = self.time.clone();
        let clock = depin_ledger::Clock::new(move || Timestamp(time.now()));
        let identities = Identities::default();
        let store = self.store(name);
        depin_backup::restore(&*store, generation, &identities, &target, &self.settings, &clock).await.unwrap();
        drop(target);
        self.hub_up().await;
        self.connect_operator().await;
        // The operator knows what the ledger knows, no more.
        self.state = ProgramState::default();
        let request = v1::ListEpochsRequest { program: PROGRAM.to_owned(), from_number: 0, limit: 1_000 };
        let known = self.operator.client().list_epochs(request).await.unwrap().into_inner().epochs;
        if let Some(newest) = known.iter().filter_map(|epoch| epoch.close.as_ref()?.window.as_ref()).next_back() {
            self.state = compute::state_after(&self.operator, PROGRAM, newest.number).await.unwrap();
        }
    }

    /// A full scan of the ledger while the hub is down, signatures included. Whatever happened: all is well.
    pub(crate) fn verify(&self) -> Verification {
        let storage = Arc::new(DiskStorage::open(self.ledger_path()).unwrap());
        let mut check = |proof: &v1::SignedProof, key: &PublicKey| {
            let key = depin_identity::VerifyingKey::new(key).unwrap();
            key.verify(envelope::PROOF_DOMAIN, &proof.header, &proof.signature)
        };
        let found = depin_ledger::verify(storage, &self.settings, Some(&mut check)).unwrap();
        assert_eq!(found.findings, Vec::<String>::new());
        found
    }

    /// A person says that closing may go on.
    pub(crate) async fn release_closing(&self) {
        self.ledger().release_closing(self.operator.writer().unwrap()).await.unwrap();
    }

    pub(crate) async fn closing_held(&self) -> bool {
        self.ledger().info().await.unwrap().closing_held
    }

    /// Appends registry changes as the operator does.
    pub(crate) async fn write(&self, changes: &[Change]) {
        self.try_write(changes).await.unwrap();
    }

    /// What the ledger answers to changes that it does not take.
    pub(crate) async fn refusal(&self, changes: &[Change]) -> String {
        self.try_write(changes).await.unwrap_err().message().to_owned()
    }

    async fn try_write(&self, changes: &[Change]) -> Result<(), tonic::Status> {
        let expected_version = self.ledger().info().await.unwrap().registry_version;
        let changes = changes.iter().map(|change| canonical::to_vec(change).unwrap().into()).collect();
        let request = v1::WriteRegistryRequest { writer: self.operator.writer(), changes, expected_version };
        self.operator.client().write_registry(request).await.map(|_| ())
    }

    /// Closes the next epoch and computes and records it, as the operator does.
    pub(crate) async fn try_close(&mut self, spec: &ProgramSpec) -> Result<EpochResult, EpochError> {
        let number = self.state.number.map_or(0, |number| number + 1);
        let window = spec.epoch.window(number).unwrap();
        let close = epochs::close(&self.operator, PROGRAM, number, window, spec.grace_ms, &self.state).await?;
        let result = compute::compute(&self.operator, Registry::default(), &close, self.state.clone()).await?;
        compute::record(&self.operator, &result).await?;
        self.state = result.state.clone();
        self.recompute(number).await;
        let summary = &result.summary;
        let paid: u128 = result.payouts.iter().map(|payout| payout.amount.0).sum();
        assert_eq!(
            paid + summary.unallocated.0 + summary.carried_out.0,
            summary.minted.0 + summary.carried_in.0,
            "what enters epoch {number} leaves it"
        );
        Ok(result)
    }

    /// What was recorded of an epoch follows from what was signed, every verdict included.
    async fn recompute(&self, number: u64) {
        let folder = self.path(&format!("audit-{}-{number}", self.restores));
        fs::create_dir(&folder).unwrap();
        let mut chunks = self.ledger().read_export(PROGRAM.to_owned(), number, Export::Audit).await.unwrap();
        let mut file = None;
        while let Some(chunk) = chunks.recv().await {
            let v1::FileChunk { name, data } = chunk.unwrap();
            if !name.is_empty() {
                file = Some(fs::File::create(folder.join(name)).unwrap());
            }
            file.as_mut().unwrap().write_all(&data).unwrap();
        }
        let program = depin_tests::programs().unwrap().join("kubectl-depin");
        let run = Command::new(program).arg("recompute").arg(&folder).args(["-o", "json"]).output().unwrap();
        let told = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success(), "epoch {number}: {told}{}", String::from_utf8_lossy(&run.stderr));
    }

    pub(crate) async fn close(&mut self, spec: &ProgramSpec) -> EpochResult {
        self.try_close(spec).await.unwrap()
    }

    /// What a close froze of epoch `of`.
    pub(crate) async fn frozen(&self, number: u64, of: u64) -> Sums {
        let request = v1::ReadStatisticsRequest { program: PROGRAM.to_owned(), number, of_number: of };
        let mut pages = self.operator.client().read_statistics(request).await.unwrap().into_inner();
        let mut sums = Sums::new();
        while let Some(page) = pages.message().await.unwrap() {
            for grain in page.statistics {
                let number = (0..=u8::MAX).find(|number| device_id(*number).0[..] == grain.device_id).unwrap();
                let entry = sums.entry((number, grain.metric)).or_default();
                entry.0 += grain.count;
                entry.1 += grain.sum.parse::<i128>().unwrap();
                entry.2 += grain.increase.parse::<i128>().unwrap();
            }
        }
        sums
    }

    /// Readings that count since the ledger was made.
    pub(crate) async fn accepted(&self) -> u64 {
        self.ledger().info().await.unwrap().readings_accepted
    }

    /// Readings that do not count, by reason.
    pub(crate) async fn rejected(&self) -> BTreeMap<&'static str, u64> {
        by_reason(&self.ledger().info().await.unwrap().readings_rejected)
    }

    /// Proofs that were refused since the gateway started, by reason.
    pub(crate) async fn refused(&self) -> BTreeMap<&'static str, u64> {
        by_reason(&self.operator.client().get_info(v1::GetInfoRequest {}).await.unwrap().into_inner().proofs_refused)
    }

    /// Waits until so many readings were judged.
    pub(crate) async fn until_judged(&self, count: u64) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            let judged = self.accepted().await + self.rejected().await.values().sum::<u64>();
            if judged == count {
                return;
            }
            if judged > count || tokio::time::Instant::now() > deadline {
                panic!("{judged} readings were judged, not {count}:\n{}", self.history().await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Every recorded proof in a line: whose, where in its chain, how much counts.
    async fn history(&self) -> String {
        let line = |proof: &StoredProof| {
            let header = envelope::decode_header(&proof.proof.header).unwrap();
            let (key, incarnation, sequence) = (header.key, header.incarnation, header.sequence);
            format!(
                "{key} {incarnation}/{sequence}: {} accepted, {} rejected\n",
                proof.verdict.accepted, proof.rejected
            )
        };
        self.proofs().await.iter().map(line).collect()
    }

    /// Waits until these agents use the newest registry.
    pub(crate) async fn until_confirmed(&self, names: &[&str]) {
        until("the newest registry in use", async || {
            let newest = self.ledger().info().await.unwrap().registry_version;
            let here = |agent: &&v1::AgentPresence| {
                let known = names.iter().any(|name| AgentId::of("grid", name).0[..] == agent.agent_id);
                known && agent.connected && agent.confirmed_registry_version == newest
            };
            self.agents().await.iter().filter(here).count() == names.len()
        })
        .await;
    }

    /// Agents as the gateway heard them last.
    pub(crate) async fn agents(&self) -> Vec<v1::AgentPresence> {
        let mut pages = self.operator.client().read_presence(v1::ReadPresenceRequest {}).await.unwrap().into_inner();
        let mut agents = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            agents.extend(page.agents);
        }
        agents
    }

    /// Everything that is recorded, oldest first.
    pub(crate) async fn proofs(&self) -> Vec<StoredProof> {
        let (mut proofs, mut after): (Vec<StoredProof>, u64) = (Vec::new(), 0);
        loop {
            let page = self.ledger().read_proofs(ProofFilter { after, ..ProofFilter::default() }).await.unwrap();
            proofs.extend(page.proofs);
            let Some(next) = page.next else { return proofs };
            after = next;
        }
    }
}

fn by_reason(counts: &[v1::DropCount]) -> BTreeMap<&'static str, u64> {
    counts.iter().map(|one| (Reason::from_code(one.reason as u16).unwrap().name(), one.count)).collect()
}

/// What meter `number`'s account gets in this epoch.
pub(crate) fn paid(result: &EpochResult, number: u8) -> u128 {
    let account = account(number);
    result.payouts.iter().filter(|payout| payout.account.to_string() == account).map(|payout| payout.amount.0).sum()
}
