//! What a ledger does, whatever it is made of. Mirrors `proto/depin/v1/ledger.proto`, plus what only a gateway needs.
//!
//! Messages of the protocol are used where they are the schema; proofs come parsed and with verified signatures, judged here. Every write
//! is durable when its future resolves. A future that is dropped may still take effect.

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

use depin_domain::{
    ids::{AgentId, DeviceId, Digest, KeyId},
    proofs::{ChainHead, Reason, Verdict},
    registry::{Record, Registry},
    rewards::Account,
    time::{Timestamp, Window},
};
use depin_proto::{envelope::OpenedProof, v1};
use tokio::sync::{mpsc, watch};

use crate::error::LedgerError;

/// What a ledger's method resolves to.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, LedgerError>> + Send + 'a>>;

/// A proof as a gateway hands it over: parsed, its body checked, its signature verified.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The bytes that were signed, stored as they are. `traceparent` is not stored.
    pub proof: v1::SignedProof,
    /// The same, parsed.
    pub opened: OpenedProof,
    /// The agent whose stream brought it.
    pub agent: AgentId,
    /// `next_sequence` that the stream declared for this chain and incarnation (a declared gap), if it did.
    pub declared: Option<u64>,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Recorded, now or before.
    Judged {
        /// Incarnation of the ledger that recorded it.
        ledger_incarnation: u64,
        /// Where.
        position: u64,
        /// When it was received, as recorded.
        received_at: Timestamp,
        /// What counts and what does not.
        verdict: Verdict,
        /// Readings that do not count.
        rejected: u64,
        /// It was recorded before; this is the first verdict.
        repeated: bool,
        /// It lies in a backup, or no backup is configured.
        archived: bool,
    },
    /// Not recorded; the same proof may be sent again.
    Deferred {
        /// Why.
        reason: Reason,
        /// What exactly.
        message: String,
    },
    /// Not recorded and never will be.
    Refused {
        /// Why.
        reason: Reason,
        /// What exactly.
        message: String,
    },
}

/// A chain that a stream opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenChain {
    /// Which.
    pub key: KeyId,
    /// The incarnation that the agent holds.
    pub incarnation: u64,
    /// What it will send next.
    pub next_sequence: u64,
    /// The newest that it sealed in this incarnation: its head. After a restore the ledger closes nothing before it has that.
    pub sealed_sequence: u64,
}

/// Where a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which chain.
    pub key: KeyId,
    /// Highest incarnation, its newest judged sequence and that proof's digest; all zero where nothing is known.
    pub head: ChainHead,
    /// Everything up to this sequence of that incarnation is archived.
    pub archived_sequence: u64,
}

/// What an agent tells to have applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// Which agent.
    pub agent: AgentId,
    /// Incarnation of the ledger whose registry it applied.
    pub registry_incarnation: u64,
    /// Newest registry version that it applied.
    pub registry_version: u64,
    /// Models that it uses from now on.
    pub models: Vec<Digest>,
}

/// The registry at one version.
#[derive(Clone, Debug, Default)]
pub struct RegistrySnapshot {
    /// The ledger's incarnation.
    pub incarnation: u64,
    /// Everything up to `registry.version()`.
    pub registry: Registry,
}

/// What comes into the inbox.
#[derive(Clone, Debug, PartialEq)]
pub enum InboxRequest {
    /// A stranger with a join token. The same CSR again is the same entry.
    Enroll(v1::EnrollRequest),
    /// An agent whose certificate runs out. The same CSR again is the same entry.
    Renew {
        /// What it sent.
        request: v1::RenewRequest,
        /// Whose certificate.
        agent: AgentId,
        /// Whose key.
        key: KeyId,
    },
    /// Serials without a device.
    Sightings {
        /// Who saw them.
        agent: AgentId,
        /// What.
        sightings: Vec<v1::Sighting>,
    },
}

/// An entry of the inbox as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Posted {
    /// Its id.
    pub id: u64,
    /// The operator's answer, once there is one.
    pub response: Option<v1::EnrollResponse>,
    /// Sightings that were not waiting already.
    pub recorded: u32,
}

/// Which proofs are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofFilter {
    /// Only with a section of this device.
    pub device: Option<DeviceId>,
    /// Only of this chain.
    pub key: Option<KeyId>,
    /// Only whose readings touch this window; empty: all.
    pub window: Window,
    /// Only after this position.
    pub after: u64,
    /// At most so many; 0: a page of the ledger's choice.
    pub limit: usize,
}

/// Some of the recorded proofs that fit a filter.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProofPage {
    /// In log order.
    pub proofs: Vec<StoredProof>,
    /// There may be more: go on after this position. Absent: the log's end was reached.
    pub next: Option<u64>,
}

/// A recorded proof.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredProof {
    /// Where.
    pub position: u64,
    /// Incarnation of the ledger that recorded it.
    pub ledger_incarnation: u64,
    /// When it was received.
    pub received_at: Timestamp,
    /// Who brought it.
    pub agent: AgentId,
    /// The signed bytes. Sections are absent where retention removed them.
    pub proof: v1::SignedProof,
    /// What counts and what does not.
    pub verdict: Verdict,
    /// Readings that do not count.
    pub rejected: u64,
    /// It lies in a backup, or no backup is configured.
    pub archived: bool,
}

/// An epoch's result as the operator computed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochRecord {
    /// Canonical JSON of the summary.
    pub summary: Vec<u8>,
    /// Canonical JSON of each line, in order.
    pub lines: Vec<Vec<u8>>,
    /// Canonical JSON of the program's state after it.
    pub state: Vec<u8>,
}

/// Which export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Export {
    /// Enough to recompute every weight, amount and root; pseudonyms, no places.
    Public,
    /// Signed headers, sections, paths and verdicts, for named recipients.
    Audit,
    /// The public one with signed headers, sections and paths of the devices in which this account has a share.
    Owner(Account),
}

/// Files in chunks; a chunk with a name begins a file.
pub type FileStream = mpsc::Receiver<Result<v1::FileChunk, LedgerError>>;

/// Counters and marks.
pub type Info = v1::LedgerInfo;

/// The durable record.
pub trait Ledger: Debug + Send + Sync {
    /// Says whether proofs can reach the ledger from now on: only that time counts as grace. A ledger that was just opened is not served.
    fn serve(&self, serving: bool);

    /// Counters and marks. `proofs_refused` is what this ledger refused itself; a gateway adds its own.
    fn info(&self) -> Answer<'_, Info>;

    /// Judges and records proofs; outcomes in the order of the submissions. All that were judged are durable when it resolves; where
    /// the disk fails they are `Deferred` with `LedgerUnavailable`.
    fn append(&self, proofs: Vec<Submission>) -> Answer<'_, Vec<Outcome>>;

    /// Tells where chains stand, in the order asked. After a restore this is also how known chains report.
    fn open_chains(&self, chains: Vec<OpenChain>) -> Answer<'_, Vec<Head>>;

    /// Records which models an agent uses from now on: older ones are no longer admissible from it.
    fn confirm(&self, confirmation: Confirmation) -> Answer<'_, ()>;

    /// The registry as it is and as it becomes.
    fn registry(&self) -> watch::Receiver<Arc<RegistrySnapshot>>;

    /// Registry records after a version, at most `limit`.
    fn read_registry(&self, after_version: u64, limit: usize) -> Answer<'_, Vec<Record>>;

    /// Takes the writer token: durable, monotone, fencing all older ones.
    fn acquire_writer(&self, holder: String) -> Answer<'_, v1::WriterToken>;

    /// Appends registry changes, all or none. Answers with the newest version.
    fn write_registry(&self, request: v1::WriteRegistryRequest) -> Answer<'_, u64>;

    /// Puts a request into the inbox, or tells what was answered to the same one.
    fn post_inbox(&self, request: InboxRequest) -> Answer<'_, Posted>;

    /// Unanswered entries with an id above `after`, ascending.
    fn read_inbox(&self, after: u64) -> Answer<'_, Vec<v1::InboxEntry>>;

    /// Changes whenever an entry is added, answered or expires.
    fn inbox_changes(&self) -> watch::Receiver<u64>;

    /// Answers an entry; the same answer again changes nothing.
    fn answer_inbox(&self, request: v1::AnswerInboxRequest) -> Answer<'_, ()>;

    /// Freezes an epoch in log order. The first close answers every later caller.
    fn close_epoch(&self, request: v1::CloseEpochRequest) -> Answer<'_, v1::EpochClose>;

    /// The frozen statistics of `of_number` as the close of `number` found them, in pages.
    fn read_statistics(
        &self,
        request: v1::ReadStatisticsRequest,
    ) -> Answer<'_, mpsc::Receiver<Result<v1::StatisticsPage, LedgerError>>>;

    /// Stores what was computed for a close; the first result stands.
    fn record_epoch(
        &self,
        writer: v1::WriterToken,
        program: String,
        number: u64,
        result: EpochRecord,
    ) -> Answer<'_, v1::RecordEpochResponse>;

    /// Closed epochs of a program from a number on, ascending: at most `limit`, fewer where their summaries are large, none only behind the last.
    fn list_epochs(&self, program: String, from_number: u64, limit: usize) -> Answer<'_, Vec<v1::EpochEntry>>;

    /// A closed epoch and, where it is recorded, its result.
    fn read_epoch(&self, program: String, number: u64) -> Answer<'_, (v1::EpochEntry, Option<EpochRecord>)>;

    /// Streams the files of an export.
    fn read_export(&self, program: String, number: u64, export: Export) -> Answer<'_, FileStream>;

    /// Recorded proofs in log order. A page ends at its limit, or once much of the log was read for it, though it holds few or none.
    fn read_proofs(&self, filter: ProofFilter) -> Answer<'_, ProofPage>;

    /// What a restore's hold on closing waits for, at most `limit` chains of it.
    fn read_hold(&self, limit: usize) -> Answer<'_, v1::ClosingHold>;

    /// Ends a restore's hold on closing, by a person's word. Answers how many chains were still waited for.
    fn release_closing(&self, writer: v1::WriterToken) -> Answer<'_, u64>;

    /// A person's word that no older version will come back: raises the feature level in use to what this version knows, see
    /// [`FEATURE_LEVEL`](crate::FEATURE_LEVEL). Answers with it.
    fn finalize(&self, writer: v1::WriterToken) -> Answer<'_, u32>;
}
