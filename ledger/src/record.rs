//! What stands in the log: one kind of record for each thing that can happen, as protobuf, so that fields can be added.
//!
//! Numbers of kinds and fields are never reused. A reader that meets a kind it does not know refuses the ledger: it
//! would otherwise tell a state that is not the recorded one.

use std::fmt;

use bytes::Bytes;
use depin_proto::v1;

use crate::error::LedgerError;

/// Tag of the ledger's log files: `LDGR`.
pub(crate) const TAG: u32 = 0x5247_444C;

/// What is done with a record: its position, how many bytes were read up to its end, itself. `false`: no more.
pub(crate) type Each<'a> = dyn FnMut(u64, u64, Entry) -> Result<bool, LedgerError> + 'a;

/// The durable records in order.
pub(crate) trait Records: fmt::Debug + Send + Sync {
    /// Where what is kept begins.
    fn front(&self) -> u64;

    /// Reads on from a record's position, or from the front. Blocks.
    fn read(&self, from: u64, each: &mut Each<'_>) -> Result<(), LedgerError>;
}

/// A judged proof.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ProofRecord {
    #[prost(int64, tag = "1")]
    pub(crate) received_at: i64,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) agent: Bytes,
    #[prost(message, optional, tag = "3")]
    pub(crate) proof: Option<v1::SignedProof>,
    /// Canonical bytes of the verdict.
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) verdict: Bytes,
    #[prost(uint64, tag = "5")]
    pub(crate) rejected: u64,
    /// Sequences before it that were declared missing.
    #[prost(uint64, tag = "6")]
    pub(crate) missing: u64,
    /// Position and sequence of the chain's proof that precedes it by a power of two, see `chains`; position 0 and sequence 0: none.
    #[prost(uint64, tag = "7")]
    pub(crate) skip_position: u64,
    #[prost(uint64, tag = "8")]
    pub(crate) skip_sequence: u64,
    /// Position and sequence of the chain's proof before it.
    #[prost(uint64, tag = "9")]
    pub(crate) previous_position: u64,
    #[prost(uint64, tag = "10")]
    pub(crate) previous_sequence: u64,
    /// Registry version that it was judged by.
    #[prost(uint64, tag = "11")]
    pub(crate) registry_version: u64,
    /// Of this ledger when it was recorded.
    #[prost(uint64, tag = "12")]
    pub(crate) ledger_incarnation: u64,
    /// How far readings could lie beyond the time of sealing: a setting, kept so that judging can be repeated.
    #[prost(int64, tag = "13")]
    pub(crate) max_skew_ms: i64,
}

/// A registry change.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RegistryRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) version: u64,
    #[prost(int64, tag = "2")]
    pub(crate) at: i64,
    /// Canonical JSON.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) change: Bytes,
}

/// A writer token was taken.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WriterRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) token: u64,
    #[prost(string, tag = "2")]
    pub(crate) holder: String,
    #[prost(int64, tag = "3")]
    pub(crate) at: i64,
}

/// An agent uses these models from now on.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ConfirmationRecord {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) agent: Bytes,
    #[prost(uint64, tag = "2")]
    pub(crate) registry_version: u64,
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub(crate) models: Vec<Bytes>,
    #[prost(int64, tag = "4")]
    pub(crate) at: i64,
}

/// Something came into the inbox.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PostedRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) entry: Option<v1::InboxEntry>,
    /// Digest of the whole request, by which a repeat is known; of the CSR alone in ledgers of before that. Empty for sightings.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) request: Bytes,
}

/// An entry of the inbox was answered.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AnsweredRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(message, optional, tag = "2")]
    pub(crate) response: Option<v1::EnrollResponse>,
    #[prost(int64, tag = "3")]
    pub(crate) at: i64,
}

/// An epoch was closed.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ClosedRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) close: Option<v1::EpochClose>,
    /// The frozen statistics, one file for the epoch itself and each matured one.
    #[prost(message, repeated, tag = "2")]
    pub(crate) frozen: Vec<FileRecord>,
    /// Fleets that took part.
    #[prost(string, repeated, tag = "3")]
    pub(crate) fleets: Vec<String>,
}

/// An immutable file beside the log.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileRecord {
    /// The epoch that it is about.
    #[prost(uint64, tag = "1")]
    pub(crate) number: u64,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) digest: Bytes,
    #[prost(uint64, tag = "4")]
    pub(crate) bytes: u64,
}

/// An epoch's result was recorded.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ResultRecord {
    #[prost(string, tag = "1")]
    pub(crate) program: String,
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
    #[prost(message, optional, tag = "3")]
    pub(crate) file: Option<FileRecord>,
    #[prost(uint64, tag = "4")]
    pub(crate) writer_token: u64,
    #[prost(int64, tag = "5")]
    pub(crate) at: i64,
}

/// The ledger was made or restored.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IncarnationRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) incarnation: u64,
    /// Closing is held until the known chains have reported.
    #[prost(bool, tag = "2")]
    pub(crate) hold: bool,
    #[prost(int64, tag = "3")]
    pub(crate) at: i64,
}

/// A moment at which proofs were taken: `opens` begins a span, others extend it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TickRecord {
    #[prost(int64, tag = "1")]
    pub(crate) at: i64,
    #[prost(bool, tag = "2")]
    pub(crate) opens: bool,
}

/// A backup was begun here (`position` 0), or one that was begun at `position` is complete.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BackupRecord {
    #[prost(uint64, tag = "1")]
    pub(crate) position: u64,
    #[prost(int64, tag = "2")]
    pub(crate) at: i64,
}

/// A restore's hold on closing ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReleasedRecord {
    #[prost(int64, tag = "1")]
    pub(crate) at: i64,
    /// By a person; else all chains had reported.
    #[prost(bool, tag = "2")]
    pub(crate) by_person: bool,
}

/// Two proofs of one key that cannot both be: portable, both are signed.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EvidenceRecord {
    #[prost(int64, tag = "1")]
    pub(crate) at: i64,
    /// Without its sections.
    #[prost(message, optional, tag = "2")]
    pub(crate) proof: Option<v1::SignedProof>,
    /// Digest of the header that stands in the chain.
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) judged: Bytes,
}

/// Readings of these fleets that lie before these times are settled for good: they come too late, and their statistics are forgotten.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BoundaryRecord {
    #[prost(int64, tag = "1")]
    pub(crate) at: i64,
    #[prost(message, repeated, tag = "2")]
    pub(crate) fleets: Vec<FleetBoundary>,
}

/// Before when a fleet's readings are settled.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FleetBoundary {
    #[prost(string, tag = "1")]
    pub(crate) fleet: String,
    #[prost(int64, tag = "2")]
    pub(crate) before: i64,
}

/// A person has said that no version before this level will open the ledger again. Written in one form for ever: every later version reads it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct LevelRecord {
    #[prost(uint32, tag = "1")]
    pub(crate) level: u32,
    #[prost(int64, tag = "2")]
    pub(crate) at: i64,
}

/// What a proof leaves behind when retention removed its sections.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ThinProof {
    #[prost(uint64, tag = "1")]
    pub(crate) position: u64,
    #[prost(int64, tag = "2")]
    pub(crate) received_at: i64,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) key: Bytes,
    #[prost(uint64, tag = "4")]
    pub(crate) incarnation: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) sequence: u64,
    #[prost(bytes = "bytes", tag = "6")]
    pub(crate) digest: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    pub(crate) verdict_digest: Bytes,
    #[prost(uint64, tag = "8")]
    pub(crate) accepted: u64,
    #[prost(uint64, tag = "9")]
    pub(crate) rejected: u64,
}

macro_rules! records {
    ($($code:literal $level:literal $name:ident $message:ty;)*) => {
        /// A record of the log.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) enum Entry {
            $($name($message),)*
        }

        impl Entry {
            /// The kind under which the log keeps it.
            pub(crate) fn kind(&self) -> u8 {
                match self { $(Self::$name(_) => $code,)* }
            }

            /// The feature level from which on it may be written, see `level`.
            pub(crate) fn level(&self) -> u32 {
                match self { $(Self::$name(_) => $level,)* }
            }

            /// Appends its bytes.
            pub(crate) fn encode(&self, buffer: &mut Vec<u8>) {
                match self {
                    $(Self::$name(message) => prost::Message::encode_raw(message, buffer),)*
                }
            }

            /// Reads a record back.
            pub(crate) fn decode(kind: u8, payload: Bytes, position: u64) -> Result<Self, LedgerError> {
                let damaged = |error: prost::DecodeError| LedgerError::Damaged(format!("record at {position}: {error}"));
                match kind {
                    $($code => <$message as prost::Message>::decode(payload).map(Self::$name).map_err(damaged),)*
                    _ => Err(LedgerError::Newer(format!("a record of kind {kind} at position {position}"))),
                }
            }
        }
    };
}

// Kind, feature level from which on it may be written, name, message.
records! {
    1 1 Proof ProofRecord;
    2 1 Registry RegistryRecord;
    3 1 Writer WriterRecord;
    4 1 Confirmation ConfirmationRecord;
    5 1 Posted PostedRecord;
    6 1 Answered AnsweredRecord;
    7 1 Closed ClosedRecord;
    8 1 Result ResultRecord;
    9 1 Incarnation IncarnationRecord;
    10 1 Tick TickRecord;
    11 1 Backup BackupRecord;
    12 1 Released ReleasedRecord;
    13 1 Evidence EvidenceRecord;
    14 1 Boundary BoundaryRecord;
    15 1 Level LevelRecord;
}
