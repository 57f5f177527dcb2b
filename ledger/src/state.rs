//! What the ledger knows: a fold over the log's records, the same whether they are applied as they are appended or read back.
//!
//! Nothing here decides; a record that stands in the log is applied. An error means that the log is not what this code wrote.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use depin_domain::{
    ids::{AgentId, DeviceId, Digest},
    proofs::{self, Header, Section, Verdict, checks::Models},
    registry::{Change, Record, Registry},
    statistics::DeviceStatistics,
    time::Timestamp,
};
use depin_proto::{convert, envelope};

use crate::{
    chains::Chains,
    error::LedgerError,
    inbox::Inbox,
    lateness::Boundaries,
    open_time::OpenTime,
    record::{BackupRecord, ClosedRecord, ConfirmationRecord, Entry, IncarnationRecord, ProofRecord, ResultRecord},
};

/// Statistics by device.
pub(crate) type Accounts = HashMap<DeviceId, DeviceStatistics>;

/// A registry record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) incarnation: u64,
    pub(crate) at: i64,
    pub(crate) change: Bytes,
}

/// A closed epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Epoch {
    pub(crate) closed: ClosedRecord,
    pub(crate) result: Option<ResultRecord>,
}

/// Totals since the ledger was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) proofs: u64,
    pub(crate) accepted: u64,
    /// By reason code.
    pub(crate) rejected: BTreeMap<u16, u64>,
}

/// Everything in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// Records before this position are applied.
    pub(crate) applied: u64,
    pub(crate) incarnation: u64,
    /// When the ledger was made: tells it from another one.
    pub(crate) created: Option<i64>,
    pub(crate) writer_token: u64,
    pub(crate) last_received: i64,
    pub(crate) open_time: OpenTime,
    pub(crate) registry: Registry,
    pub(crate) models: Models,
    /// Registry records; version 1 first.
    pub(crate) written: Vec<Written>,
    pub(crate) chains: Chains,
    pub(crate) accounts: Accounts,
    /// When each agent first confirmed each model.
    pub(crate) confirmed: HashMap<AgentId, BTreeMap<Digest, Timestamp>>,
    pub(crate) inbox: Inbox,
    /// By program and number.
    pub(crate) epochs: BTreeMap<String, BTreeMap<u64, Epoch>>,
    /// By fleet: readings before this time were settled for good.
    pub(crate) late_boundaries: Boundaries,
    pub(crate) counters: Counters,
    /// Position up to which a backup holds everything.
    pub(crate) archived: u64,
    /// After a restore: closing is held.
    pub(crate) held: bool,
    /// Highest feature level that was finalized; 0: none was.
    pub(crate) finalized: u32,
}

fn damaged(position: u64, what: impl std::fmt::Display) -> LedgerError {
    LedgerError::Damaged(format!("record at position {position}: {what}"))
}

/// A proof record, parsed.
pub(crate) struct ParsedProof {
    pub(crate) header: Header,
    pub(crate) digest: Digest,
    pub(crate) sections: Vec<Section>,
    pub(crate) verdict: Verdict,
}

impl ParsedProof {
    /// Parses header, sections and verdict; the signature and the body's root are taken for granted.
    pub(crate) fn of(record: &ProofRecord, position: u64) -> Result<Self, LedgerError> {
        let proof = record.proof.as_ref().ok_or_else(|| damaged(position, "no proof in it"))?;
        let sections = proof.sections.iter().map(|bytes| envelope::decode_section(bytes)).collect::<Result<_, _>>();
        Ok(Self {
            header: envelope::decode_header(&proof.header).map_err(|error| damaged(position, error))?,
            digest: Digest::of(&proof.header),
            sections: sections.map_err(|error| damaged(position, error))?,
            verdict: envelope::decode_verdict(&record.verdict).map_err(|error| damaged(position, error))?,
        })
    }
}

impl State {
    /// When the newest closed epoch of any program ended.
    pub(crate) fn closed_until(&self) -> Timestamp {
        let newest = self.epochs.values().filter_map(|epochs| epochs.last_key_value());
        let windows = newest.filter_map(|(_, epoch)| epoch.closed.close.as_ref()?.window);
        windows.map(|window| Timestamp(window.end)).max().unwrap_or(Timestamp(i64::MIN))
    }

    /// Applies the record at `position`.
    pub(crate) fn apply(&mut self, position: u64, entry: Entry) -> Result<(), LedgerError> {
        match entry {
            Entry::Proof(record) => {
                let parsed = ParsedProof::of(&record, position)?;
                self.enter(position, record.received_at, &parsed)?;
            }
            Entry::Registry(record) => {
                let change: Change =
                    serde_json::from_slice(&record.change).map_err(|error| damaged(position, error))?;
                self.change(position, record.version, record.at, change, record.change)?;
            }
            Entry::Writer(record) => self.writer_token = self.writer_token.max(record.token),
            Entry::Confirmation(record) => self.confirm(position, &record)?,
            Entry::Posted(record) => self.inbox.post(record),
            Entry::Answered(record) => self.inbox.answer(record),
            Entry::Closed(record) => self.close(position, record)?,
            Entry::Result(record) => self.record(position, record)?,
            Entry::Incarnation(record) => self.incarnate(&record),
            Entry::Tick(record) => self.open_time.tick(Timestamp(record.at), record.opens),
            Entry::Backup(record) => self.backup(position, &record),
            Entry::Released(_) => self.held = false,
            Entry::Level(record) => self.finalized = self.finalized.max(record.level),
            Entry::Boundary(record) => self.settle(record),
            Entry::Evidence(record) => {
                let header = record.proof.as_ref().map(|proof| envelope::decode_header(&proof.header));
                if let Some(Ok(header)) = header
                    && let Some(chain) = self.chains.by_key.get_mut(&header.key)
                {
                    chain.evidence = true;
                }
            }
        }
        Ok(())
    }

    /// The step for a proof: marks and statistics, head, counters.
    pub(crate) fn enter(&mut self, position: u64, received_at: i64, parsed: &ParsedProof) -> Result<(), LedgerError> {
        proofs::apply(&self.registry, &parsed.sections, &parsed.verdict, &mut self.accounts)
            .map_err(|error| damaged(position, error))?;
        self.chains.advance(&parsed.header, parsed.digest, position);
        self.last_received = self.last_received.max(received_at);
        self.counters.proofs += 1;
        self.counters.accepted += parsed.verdict.accepted;
        for (reason, count) in rejected_by_reason(&parsed.sections, &parsed.verdict) {
            *self.counters.rejected.entry(reason).or_default() += count;
        }
        Ok(())
    }

    /// The step for a registry change.
    pub(crate) fn change(
        &mut self,
        position: u64,
        version: u64,
        at: i64,
        change: Change,
        bytes: Bytes,
    ) -> Result<(), LedgerError> {
        let models = matches!(change, Change::Model(_));
        self.registry.apply(Record { version, at: Timestamp(at), change }).map_err(|error| damaged(position, error))?;
        self.written.push(Written { incarnation: self.incarnation, at, change: bytes });
        if models {
            self.models.update(&self.registry);
        }
        Ok(())
    }

    fn confirm(&mut self, position: u64, record: &ConfirmationRecord) -> Result<(), LedgerError> {
        let agent = convert::agent_id("agent", &record.agent).map_err(|error| damaged(position, error))?;
        let confirmed = self.confirmed.entry(agent).or_default();
        for model in &record.models {
            let model = convert::digest("models", model).map_err(|error| damaged(position, error))?;
            confirmed.entry(model).or_insert(Timestamp(record.at));
        }
        Ok(())
    }

    fn close(&mut self, position: u64, record: ClosedRecord) -> Result<(), LedgerError> {
        let close = record.close.as_ref().ok_or_else(|| damaged(position, "no close in it"))?;
        let window = close.window.as_ref().ok_or_else(|| damaged(position, "no window in it"))?;
        let (program, number) = (close.program.clone(), window.number);
        let epoch = Epoch { closed: record, result: None };
        self.epochs.entry(program).or_default().entry(number).or_insert(epoch);
        Ok(())
    }

    fn record(&mut self, position: u64, record: ResultRecord) -> Result<(), LedgerError> {
        let epoch = self.epochs.get_mut(&record.program).and_then(|epochs| epochs.get_mut(&record.number));
        let epoch = epoch.ok_or_else(|| damaged(position, "a result of an epoch that was not closed"))?;
        epoch.result.get_or_insert(record);
        Ok(())
    }

    fn incarnate(&mut self, record: &IncarnationRecord) {
        self.incarnation = record.incarnation;
        self.created = self.created.or(Some(record.at));
        self.held = record.hold;
    }

    fn backup(&mut self, position: u64, record: &BackupRecord) {
        let begun = record.position == 0;
        for chain in self.chains.by_key.values_mut() {
            if begun {
                chain.backing_up = chain.head.sequence;
            } else {
                chain.archived = chain.backing_up;
            }
        }
        if !begun {
            self.archived = self.archived.max(record.position);
        }
        tracing::debug!(position, begun, "backup");
    }

    /// The epoch, if it was closed.
    pub(crate) fn epoch(&self, program: &str, number: u64) -> Option<&Epoch> {
        self.epochs.get(program)?.get(&number)
    }

    /// An epoch that whoever asks for it takes to be closed.
    pub(crate) fn closed_epoch(&self, program: &str, number: u64) -> Result<&Epoch, LedgerError> {
        let epoch = self.epoch(program, number);
        epoch.ok_or_else(|| LedgerError::NotFound(format!("a close of epoch {number} of {program}")))
    }
}

/// How many readings each reason (by code) rejects.
pub(crate) fn rejected_by_reason(sections: &[Section], verdict: &Verdict) -> BTreeMap<u16, u64> {
    let mut counts = BTreeMap::new();
    for rejection in &verdict.rejections {
        let Some(section) = sections.get(rejection.section as usize) else { continue };
        let count = match rejection.series {
            None => section.series.iter().map(|series| series.readings.len()).sum(),
            Some(series) if rejection.readings.is_empty() => {
                section.series.get(series as usize).map_or(0, |series| series.readings.len())
            }
            Some(_) => rejection.readings.len(),
        };
        *counts.entry(rejection.reason.code()).or_default() += count as u64;
    }
    counts
}
