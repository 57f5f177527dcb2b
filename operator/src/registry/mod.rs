//! The registry writer: the one task through which every wanted change goes to the ledger's registry.
//!
//! It knows the registry by having read all of it, writes only what says something new, many changes at a time, and each write
//! names the version that it rests on. What it wrote it reads back, so that its snapshot is always the ledger's.

pub mod batch;
pub mod evidence;
pub mod removal;
pub mod roll_call;

use std::time::Duration;

use depin_domain::{
    canonical,
    registry::{Change, Record, Registry},
    time::Timestamp,
};
use depin_proto::v1::{ReadRegistryRequest, RegistryRecord, WriteRegistryRequest};
use depin_telemetry::Check;
use tokio::sync::{mpsc, oneshot, watch};

pub use batch::Outcome;

use crate::{
    clock::Clock,
    ledger::{Ledger, is_fenced},
};

/// Most changes of one write.
const BATCH: usize = 1000;
/// Wanted changes that wait; beyond it reconciles wait, which bounds memory.
const QUEUE: usize = 4096;
/// How long the first change of a batch waits for company.
const GATHER: Duration = Duration::from_millis(20);
/// Pause after a failed attempt.
const RETRY: Duration = Duration::from_secs(1);

/// Why the registry cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The ledger answers with an error.
    #[error("the ledger answers {} to {call}: {}; check that the gateway runs and that --ledger names it", .source.code(), .source.message())]
    Ledger {
        /// What was asked.
        call: &'static str,
        /// Its answer.
        source: Box<tonic::Status>,
    },
    /// Another operator writes.
    #[error("another operator took the writer token: {0}")]
    Fenced(String),
    /// A record cannot be understood.
    #[error("registry record {version}: {reason}; run the operator in at least the version that wrote it")]
    Unreadable {
        /// Which.
        version: u64,
        /// Why.
        reason: String,
    },
    /// The writer has stopped.
    #[error("the registry writer has stopped")]
    Stopped,
}

impl RegistryError {
    fn ledger(call: &'static str, source: tonic::Status) -> Self {
        if is_fenced(&source) {
            return Self::Fenced(source.message().to_owned());
        }
        Self::Ledger { call, source: Box::new(source) }
    }
}

struct Wanted {
    change: Change,
    answer: oneshot::Sender<Outcome>,
}

/// Where changes are handed in, and the registry as it is.
#[derive(Clone)]
pub struct RegistryHandle {
    wanted: mpsc::Sender<Wanted>,
    snapshot: watch::Receiver<Registry>,
}

impl RegistryHandle {
    /// The registry as the ledger last told it.
    #[must_use]
    pub fn snapshot(&self) -> Registry {
        self.snapshot.borrow().clone()
    }

    /// Hands in a change and waits until it is written, known already, or refused.
    ///
    /// # Errors
    /// When the writer has stopped.
    pub async fn submit(&self, change: Change) -> Result<Outcome, RegistryError> {
        let (answer, told) = oneshot::channel();
        self.wanted.send(Wanted { change, answer }).await.map_err(|_| RegistryError::Stopped)?;
        told.await.map_err(|_| RegistryError::Stopped)
    }

    /// Waits for the next change of the registry.
    pub async fn changed(&mut self) -> Result<(), RegistryError> {
        self.snapshot.changed().await.map_err(|_| RegistryError::Stopped)
    }
}

/// The writer; [`RegistryWriter::run`] is its life.
pub struct RegistryWriter {
    ledger: Ledger,
    clock: Clock,
    wanted: mpsc::Receiver<Wanted>,
    snapshot: watch::Sender<Registry>,
    ready: Check,
}

impl RegistryWriter {
    /// Reads the whole registry, and is ready to write; `ready` tells whether the ledger takes what is written.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn open(ledger: Ledger, clock: Clock, ready: Check) -> Result<(Self, RegistryHandle), RegistryError> {
        let mut registry = Registry::default();
        read(&ledger, &mut registry, NEWEST).await?;
        let (snapshot, seen) = watch::channel(registry);
        let (sender, wanted) = mpsc::channel(QUEUE);
        ready.pass();
        Ok((Self { ledger, clock, wanted, snapshot, ready }, RegistryHandle { wanted: sender, snapshot: seen }))
    }

    /// Writes until every handle is gone, or leadership is lost.
    ///
    /// # Errors
    /// [`RegistryError::Fenced`] when another operator writes; the process must end then.
    pub async fn run(mut self) -> Result<(), RegistryError> {
        let mut batch = Vec::new();
        loop {
            if self.wanted.recv_many(&mut batch, BATCH).await == 0 {
                return Ok(());
            }
            tokio::time::sleep(GATHER).await;
            while batch.len() < BATCH
                && let Ok(more) = self.wanted.try_recv()
            {
                batch.push(more);
            }
            let changes: Vec<_> = batch.iter().map(|wanted| wanted.change.clone()).collect();
            let outcomes = self.write(&changes).await?;
            for (wanted, outcome) in batch.drain(..).zip(outcomes) {
                // Whoever asked may have been cancelled; the change stands all the same.
                let _gone = wanted.answer.send(outcome).is_err();
            }
        }
    }

    /// Writes what is wanted, together; where the ledger refuses something of it, one by one, so that only that is left out.
    async fn write(&self, wanted: &[Change]) -> Result<Vec<Outcome>, RegistryError> {
        if let Some(outcomes) = self.try_write(wanted).await? {
            return Ok(outcomes);
        }
        let mut outcomes = Vec::with_capacity(wanted.len());
        for change in wanted {
            // A single one has an outcome always.
            outcomes.extend(self.try_write(std::slice::from_ref(change)).await?.into_iter().flatten());
        }
        Ok(outcomes)
    }

    /// Writes it, however long that takes; none where the ledger refuses one of many.
    async fn try_write(&self, wanted: &[Change]) -> Result<Option<Vec<Outcome>>, RegistryError> {
        loop {
            match self.attempt(wanted).await {
                Ok(Some(outcomes)) => {
                    self.ready.pass();
                    return Ok(Some(outcomes));
                }
                Ok(None) => {}
                Err(RegistryError::Ledger { call: "WriteRegistry", source }) if refuses(&source) => {
                    self.ready.pass();
                    let [change] = wanted else { return Ok(None) };
                    let message = source.message();
                    tracing::warn!(object = %object(change), message, "the ledger refuses a registry change");
                    return Ok(Some(vec![Outcome::RefusedByLedger(message.to_owned())]));
                }
                Err(error @ (RegistryError::Fenced(_) | RegistryError::Unreadable { .. })) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, changes = wanted.len(), "registry changes wait");
                    self.ready.fail(error.to_string());
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// One attempt; none where the registry had moved on and the changes must be weighed anew.
    async fn attempt(&self, wanted: &[Change]) -> Result<Option<Vec<Outcome>>, RegistryError> {
        let mut registry = self.snapshot.borrow().clone();
        let (write, outcomes) = batch::assemble(&registry, wanted, self.clock.now());
        if write.is_empty() {
            return Ok(Some(outcomes));
        }
        let encoded = write.iter().map(canonical::to_vec).collect::<Result<Vec<_>, _>>();
        let changes = encoded
            .map_err(|error| RegistryError::Unreadable { version: registry.version(), reason: error.to_string() })?;
        let count = changes.len();
        let request = WriteRegistryRequest {
            writer: self.ledger.writer(),
            changes: changes.into_iter().map(Into::into).collect(),
            expected_version: registry.version(),
        };
        let answer = self.ledger.client().write_registry(request).await;
        let moved_on = matches!(&answer, Err(status) if status.code() == tonic::Code::Aborted);
        if !moved_on {
            answer.map_err(|status| RegistryError::ledger("WriteRegistry", status))?;
        }
        read(&self.ledger, &mut registry, NEWEST).await?;
        tracing::debug!(version = registry.version(), changes = count, moved_on, "registry written");
        self.snapshot.send_replace(registry);
        Ok((!moved_on).then_some(outcomes))
    }
}

/// Whether the ledger will never take what it was sent, however often that is tried.
fn refuses(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::InvalidArgument | tonic::Code::OutOfRange)
}

/// What a change is of, for the log.
fn object(change: &Change) -> String {
    match change {
        Change::Model(entry) => format!("EdgeDeviceModel {}", entry.model.name),
        Change::ModelRetired { name } => format!("EdgeDeviceModel {name}"),
        Change::Fleet(entry) => format!("EdgeFleet {}", entry.id),
        Change::FleetRemoved { id } => format!("EdgeFleet {id}"),
        Change::Agent(entry) => format!("EdgeAgent {}/{}", entry.namespace, entry.name),
        Change::AgentRemoved { id } => format!("EdgeAgent {id}"),
        Change::Device(entry) => format!("EdgeDevice {}/{}", entry.namespace, entry.name),
        Change::DeviceRemoved { id } => format!("EdgeDevice {id}"),
        Change::Program(entry) => format!("RewardProgram {}", entry.id),
        Change::ProgramRemoved { id } => format!("RewardProgram {id}"),
        Change::Invitation(_) | Change::InvitationRemoved { .. } => "an invitation".to_owned(),
    }
}

/// The registry as it was at `version`.
async fn as_of(ledger: &Ledger, version: u64) -> Result<Registry, RegistryError> {
    let mut registry = Registry::default();
    if version > 0 {
        read(ledger, &mut registry, version).await?;
    }
    Ok(registry)
}

/// In place of a version: up to the newest.
const NEWEST: u64 = 0;

/// Reads what is newer than `registry`, up to version `until`, and adds it.
async fn read(ledger: &Ledger, registry: &mut Registry, until: u64) -> Result<(), RegistryError> {
    let request = ReadRegistryRequest { after_version: registry.version(), until_version: until, follow: false };
    let failed = |status| RegistryError::ledger("ReadRegistry", status);
    let mut records = ledger.client().read_registry(request).await.map_err(failed)?.into_inner();
    while let Some(raw) = records.message().await.map_err(failed)? {
        let record = record(&raw)?;
        registry
            .apply(record)
            .map_err(|error| RegistryError::Unreadable { version: raw.version, reason: error.to_string() })?;
    }
    Ok(())
}

fn record(raw: &RegistryRecord) -> Result<Record, RegistryError> {
    let change = serde_json::from_slice(&raw.change)
        .map_err(|error| RegistryError::Unreadable { version: raw.version, reason: error.to_string() })?;
    Ok(Record { version: raw.version, at: Timestamp(raw.at), change })
}
