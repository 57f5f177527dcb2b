//! A small network for the ledger's tests: one model, one fleet, agents that seal proofs, a clock that tests turn, one program.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test uses a part")]

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use depin_backup::{
    BackupError, Backups, DirectoryStore, Done, Generation, Identities, Recipients, Restored, Store, choose, restore,
};
use depin_domain::{
    canonical,
    ids::{AgentId, Algorithm, DeviceId, Digest, KeyId, PublicKey},
    model::{Attestation, Check, CheckScope, Metric, MetricKind, Model},
    proofs::{Header, Reading, Section, Series},
    registry::{AgentEntry, Change, DeviceEntry, FleetEntry, ModelEntry, OwnerShare, ProgramEntry},
    rewards::{
        Account, Amount, ProgramSpec,
        spec::{Aggregate, Emission, EpochGrid, Feature, Late, Split, Token},
    },
    time::{Timestamp, Window},
};
use depin_ledger::{Clock, EmbeddedLedger, Ledger, LedgerError, Outcome, Settings, Submission};
use depin_log::{Storage, simulated::SimulatedStorage};
use depin_proto::{envelope, v1};

pub const HOUR: i64 = 3_600_000;
pub const PROGRAM: &str = "energy/watt";

/// A clock that stands still until it is turned.
#[derive(Clone, Debug)]
pub struct Hands(Arc<AtomicI64>);

impl Hands {
    pub fn at(now: i64) -> Self {
        Self(Arc::new(AtomicI64::new(now)))
    }

    pub fn set(&self, now: i64) {
        self.0.store(now, Ordering::SeqCst);
    }

    pub fn now(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn clock(&self) -> Clock {
        let hands = self.clone();
        Clock::new(move || Timestamp(hands.now()))
    }
}

pub mod place;

pub use place::{InDatabase, InMemory, Place};

pub fn settings() -> Settings {
    // Tests turn the clock by hours at a time, in which the ledger is meant to be well.
    let (idle_tick_ms, max_pause_ms) = (3_600_000, i64::MAX);
    Settings { segment_size: 4_096, checkpoint_bytes: 6_000, idle_tick_ms, max_pause_ms, ..Settings::default() }
}

pub fn open(storage: impl Storage + 'static, hands: &Hands) -> Result<EmbeddedLedger, LedgerError> {
    open_with(storage, hands, settings())
}

/// A ledger that proofs reach.
pub fn open_with(
    storage: impl Storage + 'static,
    hands: &Hands,
    settings: Settings,
) -> Result<EmbeddedLedger, LedgerError> {
    let ledger = EmbeddedLedger::open(Arc::new(storage), settings, hands.clock())?;
    ledger.serve(true);
    Ok(ledger)
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

fn metric(name: &str, kind: MetricKind) -> Metric {
    let unit = "kW.h".to_owned();
    let (min, max) = (Some(-1_000_000), Some(1_000_000_000));
    Metric { name: name.into(), unit, kind, scale: 3, min, max, max_rate: None, personal: false }
}

pub fn model() -> Model {
    Model {
        name: "meter".into(),
        sources: Vec::new(),
        metrics: vec![
            metric("energy", MetricKind::Counter { resets_to_zero: true }),
            metric("power", MetricKind::Gauge),
        ],
        cadence_ms: 60_000,
        reorder_horizon_ms: 0,
        checks: vec![Check {
            reason: "Plausible".into(),
            scope: CheckScope::Reading,
            expression: "reading.value != 13".into(),
        }],
        minimum_attestation: Attestation::Agent,
        capabilities: Vec::new(),
    }
}

pub fn key(agent: u8) -> PublicKey {
    PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![agent; 32] }
}

pub fn agent_id(agent: u8) -> AgentId {
    AgentId::of("energy", &format!("agent-{agent}"))
}

pub fn device_id(device: u32) -> DeviceId {
    DeviceId::of("energy", &format!("meter-{device}"))
}

/// Who is paid for a device: each has its own owner.
pub fn owner_of(device: u32) -> Account {
    let mut account = Account([0; 20]);
    account.0[..4].copy_from_slice(&device.to_be_bytes());
    account
}

pub fn device(device: u32, agent: u8) -> Change {
    Change::Device(DeviceEntry {
        id: device_id(device),
        namespace: "energy".into(),
        name: format!("meter-{device}"),
        fleet: "energy/meters".into(),
        agent: agent_id(agent),
        serial: format!("SN{device}"),
        key: None,
        hardware_key: false,
        shares: vec![OwnerShare { account: owner_of(device).to_string(), basis_points: 10_000 }],
        location: None,
        suspended: false,
        since: Timestamp(0),
    })
}

pub fn program() -> Change {
    program_of(PROGRAM, &["energy/meters"], 0)
}

/// A program for these fleets, whose spec rules from an epoch on.
pub fn program_of(id: &str, fleets: &[&str], from_epoch: u64) -> Change {
    let spec = ProgramSpec {
        fleets: fleets.iter().map(|fleet| (*fleet).into()).collect(),
        token: Token { symbol: "WATT".into(), decimals: 0 },
        chain: None,
        epoch: EpochGrid { length_ms: HOUR, genesis: Timestamp(0) },
        grace_ms: 0,
        emission: Emission::Fixed { amount: Amount(1_000) },
        split: Split::default(),
        features: vec![Feature { name: "energy".into(), metric: "energy".into(), aggregate: Aggregate::Delta }],
        gates: vec![],
        limits: vec![],
        weight: "energy".into(),
        late: Late { basis_points: 1_000, late_until_ms: 2 * HOUR },
        hold_epochs: 2,
        suspend: false,
    };
    let text = String::from_utf8(spec.canonical().unwrap()).unwrap();
    Change::Program(ProgramEntry { id: id.into(), digest: Digest::of(text.as_bytes()), spec: text, from_epoch })
}

/// Model, fleet, agents 1 to `agents`, four devices each, the program.
pub fn changes(agents: u8) -> Vec<Change> {
    let model = model();
    let digest = model.digest().unwrap();
    let mut changes = vec![
        Change::Model(ModelEntry { digest, model, effective_from: Timestamp(0) }),
        Change::Fleet(FleetEntry { id: "energy/meters".into(), model: "meter".into(), grain_ms: HOUR }),
        program(),
    ];
    for agent in 1..=agents {
        changes.push(Change::Agent(AgentEntry {
            id: agent_id(agent),
            namespace: "energy".into(),
            name: format!("agent-{agent}"),
            key: key(agent),
            fleets: vec!["meters".into()],
            reinstate_key: false,
        }));
        changes.extend((0..4).map(|number| device(u32::from(agent) * 4 + number, agent)));
    }
    changes
}

pub fn bytes(changes: &[Change]) -> Vec<bytes::Bytes> {
    changes.iter().map(|change| canonical::to_vec(change).unwrap().into()).collect()
}

/// Takes the writer token and writes the network.
pub async fn found(ledger: &dyn Ledger, agents: u8) -> Result<v1::WriterToken, LedgerError> {
    let writer = ledger.acquire_writer("test".into()).await?;
    let version = ledger.info().await?.registry_version;
    let request =
        v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(&changes(agents)), expected_version: version };
    ledger.write_registry(request).await?;
    Ok(writer)
}

/// An agent that seals.
#[derive(Clone, Debug)]
pub struct Sealer {
    pub agent: u8,
    pub incarnation: u64,
    pub sequence: u64,
    pub previous: Digest,
    pub registry_incarnation: u64,
    pub registry_version: u64,
    pub declared: Option<u64>,
}

impl Sealer {
    pub fn new(agent: u8) -> Self {
        Self {
            agent,
            incarnation: 1,
            sequence: 0,
            previous: Digest::default(),
            registry_incarnation: 1,
            registry_version: 1,
            declared: None,
        }
    }

    pub fn key(&self) -> KeyId {
        key(self.agent).id()
    }

    /// Seals readings of devices: (device, metric, time, value).
    pub fn seal(&mut self, readings: &[(u32, &str, i64, i64)]) -> Submission {
        let mut sections: Vec<Section> = Vec::new();
        for (number, metric, at, value) in readings {
            let id = device_id(*number);
            let place = sections.iter().position(|section| section.device == id).unwrap_or_else(|| {
                let model = model().digest().unwrap();
                sections.push(Section { device: id, model, attestation: Attestation::Agent, series: Vec::new() });
                sections.len() - 1
            });
            let series = &mut sections[place].series;
            let at = Reading { at: Timestamp(*at), value: *value };
            match series.iter_mut().find(|series| series.metric == *metric) {
                Some(series) => series.readings.push(at),
                None => series.push(Series { metric: (*metric).into(), readings: vec![at] }),
            }
            series.sort_by(|a, b| a.metric.cmp(&b.metric));
        }
        let times = || readings.iter().map(|reading| reading.2);
        let window = Window {
            start: Timestamp(times().min().unwrap_or(0)),
            end: Timestamp(times().max().map_or(0, |last| last + 1)),
        };
        let encoded: Vec<bytes::Bytes> =
            sections.iter().map(|section| envelope::encode_section(section).unwrap().into()).collect();
        self.sequence += 1;
        let header = Header {
            key: self.key(),
            incarnation: self.incarnation,
            sequence: self.sequence,
            previous: if self.sequence == 1 { Digest::default() } else { self.previous },
            registry_incarnation: self.registry_incarnation,
            registry_version: self.registry_version,
            sealed_at: window.end,
            window,
            drops: Vec::new(),
            sections: encoded.len() as u32,
            body: if encoded.is_empty() { Digest::default() } else { envelope::body_root(&encoded) },
        };
        let header = envelope::encode_header(&header).unwrap();
        self.previous = Digest::of(&header);
        let opened = envelope::open_proof(&header, &encoded).unwrap();
        let proof = v1::SignedProof {
            header: header.into(),
            signature: vec![0; 64].into(),
            algorithm: 1,
            key_id: self.key().0.to_vec().into(),
            sections: encoded,
            traceparent: String::new(),
        };
        Submission { proof, opened, agent: agent_id(self.agent), declared: self.declared }
    }
}

pub fn close_request(writer: v1::WriterToken, number: u64, matured: &[u64]) -> v1::CloseEpochRequest {
    let window = |number: u64| v1::EpochWindow { number, start: number as i64 * HOUR, end: (number as i64 + 1) * HOUR };
    v1::CloseEpochRequest {
        writer: Some(writer),
        program: PROGRAM.into(),
        number,
        start: window(number).start,
        end: window(number).end,
        grace_ms: 0,
        matured: matured.iter().map(|number| window(*number)).collect(),
    }
}

/// The frozen statistics of an epoch.
pub async fn frozen(ledger: &dyn Ledger, number: u64, of: u64) -> Result<Vec<v1::GrainStatistic>, LedgerError> {
    let request = v1::ReadStatisticsRequest { program: PROGRAM.into(), number, of_number: of };
    let mut pages = ledger.read_statistics(request).await?;
    let mut statistics = Vec::new();
    while let Some(page) = pages.recv().await {
        statistics.extend(page?.statistics);
    }
    Ok(statistics)
}

pub async fn submit(ledger: &dyn Ledger, submission: Submission) -> Outcome {
    ledger.append(vec![submission]).await.unwrap().remove(0)
}

/// Accepted readings of a judged outcome, and whether it was repeated.
pub fn judged(outcome: &Outcome) -> (u64, bool) {
    match outcome {
        Outcome::Judged { verdict, repeated, .. } => (verdict.accepted, *repeated),
        other => panic!("not judged: {other:?}"),
    }
}

fn store(storage: &SimulatedStorage) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(Arc::new(storage.clone()), "the backup's directory"))
}

/// Backs a ledger up to a directory; generations of a month stay.
pub async fn back_up(ledger: &EmbeddedLedger, target: &SimulatedStorage) -> Result<Done, BackupError> {
    Backups::new(store(target), Recipients::default(), 30 * 24 * HOUR).run(ledger, None).await
}

/// Makes a ledger of the newest backup.
pub async fn bring_back(
    source: &SimulatedStorage,
    target: &SimulatedStorage,
    settings: &Settings,
    hands: &Hands,
) -> Result<Restored, BackupError> {
    let store = store(source);
    let newest = choose(&Generation::list(&*store).await?, None)?;
    let target: Arc<dyn Storage> = Arc::new(target.clone());
    restore(&*store, newest, &Identities::default(), &target, settings, &hands.clock()).await
}
