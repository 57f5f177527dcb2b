//! What a ledger decides, whatever it is made of: each method looks at the state, appends to a [`Journal`] and applies what it appended.
//!
//! Nothing is durable before the journal's owner says so: the embedded ledger syncs its log, the PostgreSQL ledger commits.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use depin_domain::{
    ids::{Digest, KeyId},
    proofs::{
        self, Context, Reason,
        chain::{self, Declared, Known, Place},
        reason::Stage,
    },
    registry::Holder,
    time::Timestamp,
};
use depin_log::Storage;
use depin_proto::{envelope, v1};

use crate::{
    api::{Confirmation, Outcome, Submission},
    chains::{Chains, Links},
    error::LedgerError,
    level::may_write,
    record::{ConfirmationRecord, Entry, EvidenceRecord, IncarnationRecord, ProofRecord, TickRecord},
    settings::{Clock, Settings},
    state::{ParsedProof, State},
};

/// Ticks no closer than this beside other records.
const TICK_MS: i64 = 1_000;

/// A recorded proof, as far as repeating its outcome and walking its chain needs.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) sequence: u64,
    pub(crate) digest: Digest,
    pub(crate) links: Links,
    pub(crate) outcome: Outcome,
}

/// Where records are appended, in order.
pub(crate) trait Journal: Debug {
    /// Appends a record, which need not be durable yet. Its position.
    fn append(&mut self, entry: &Entry) -> Result<u64, LedgerError>;

    /// The position behind the newest record.
    fn end(&self) -> u64;

    /// Makes sure that what was appended is not lost to what is frozen of it.
    fn secure(&mut self) -> Result<(), LedgerError>;

    /// The recorded proof of a chain's newest incarnation with this sequence; `None` where there is none or retention removed it.
    fn find(&self, chains: &Chains, key: &KeyId, sequence: u64) -> Result<Option<Found>, LedgerError>;

    /// Keeps a proof that was just appended at `position` for as long as it cannot be read back.
    fn keep(&mut self, key: KeyId, position: u64, found: Found);

    /// A record was appended that could not be applied: record and memory differ, and nothing more may be taken before both were read anew.
    fn spoil(&mut self, why: String);
}

/// State and journal together.
#[derive(Debug)]
pub(crate) struct Core<J> {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    /// Where frozen statistics and results go.
    pub(crate) files: Arc<dyn Storage>,
    pub(crate) journal: J,
    pub(crate) state: State,
    /// Chains that reported since a restore, with the head that their agent has: incarnation and sequence.
    pub(crate) reported: HashMap<KeyId, (u64, u64)>,
    /// Proofs can reach the ledger: only then time counts as grace.
    pub(crate) serving: Arc<AtomicBool>,
    /// A span of open time has begun since the ledger was opened and serving began.
    pub(crate) span_open: bool,
    /// When fleets that no program pays for are looked at again.
    pub(crate) unclaimed_due: i64,
    /// The inbox changed in this group.
    pub(crate) inbox_touched: bool,
}

impl<J: Journal> Core<J> {
    pub(crate) fn new(
        settings: Settings,
        clock: Clock,
        files: Arc<dyn Storage>,
        journal: J,
        state: State,
        serving: Arc<AtomicBool>,
    ) -> Self {
        Self {
            settings,
            clock,
            files,
            journal,
            state,
            reported: HashMap::new(),
            serving,
            span_open: false,
            unclaimed_due: i64::MIN,
            inbox_touched: false,
        }
    }

    /// The first records of a ledger that was made, opened or opened anew.
    pub(crate) fn begin(&mut self) -> Result<(), LedgerError> {
        let at = self.now().0;
        if self.state.incarnation == 0 {
            self.put(Entry::Incarnation(IncarnationRecord { incarnation: 1, hold: false, at }))?;
        }
        // The time until now was none in which proofs were taken.
        self.span_open = false;
        // A crash may have come between a close and what followed from it.
        self.bound_lateness()
    }

    /// The clock, never before what was recorded.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp(self.clock.now().0.max(self.state.last_received))
    }

    /// Appends a record and applies it.
    pub(crate) fn put(&mut self, entry: Entry) -> Result<u64, LedgerError> {
        may_write(entry.level(), self.state.level())?;
        let position = self.journal.append(&entry)?;
        self.applied(position, |state| state.apply(position, entry))?;
        Ok(position)
    }

    /// Applies what was appended at `position`. Where that fails, log and memory differ: nothing more is taken.
    fn applied(
        &mut self,
        position: u64,
        apply: impl FnOnce(&mut State) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let result = apply(&mut self.state);
        self.state.applied = self.journal.end();
        if let Err(error) = &result {
            tracing::error!(position, %error, "a record could not be applied: giving up what is not durable");
            self.journal.spoil(error.to_string());
        }
        result
    }

    /// Records that proofs are taken now, if they are. `force`: even if that was recorded a moment ago.
    pub(crate) fn tick(&mut self, force: bool) -> Result<(), LedgerError> {
        let newest = self.state.open_time.newest().unwrap_or(i64::MIN);
        let at = self.now().0;
        if let Some(opens) = self.due_tick(newest, force) {
            self.put(Entry::Tick(TickRecord { at, opens }))?;
        }
        self.span_open = self.serving.load(Ordering::Acquire);
        self.bound_unclaimed()
    }

    /// Whether [`Core::tick`] would do anything, where the newest tick was at `newest`.
    pub(crate) fn tick_is_due(&self, newest: i64) -> bool {
        let turned = self.span_open != self.serving.load(Ordering::Acquire);
        turned || self.due_tick(newest, false).is_some() || self.now().0 >= self.unclaimed_due
    }

    /// Whether a tick is to be recorded, and whether it opens a span.
    fn due_tick(&self, newest: i64, force: bool) -> Option<bool> {
        let (at, serving) = (self.now().0, self.serving.load(Ordering::Acquire));
        let paused = at.saturating_sub(newest) > self.settings.max_pause_ms;
        let opens = serving && (paused || !self.span_open);
        let goes_on = serving && at > newest && (force || at >= newest.saturating_add(TICK_MS));
        (opens || goes_on).then_some(opens)
    }

    /// Counters and marks.
    pub(crate) fn info(&self) -> v1::LedgerInfo {
        let state = &self.state;
        let rejected = state.counters.rejected.iter();
        v1::LedgerInfo {
            incarnation: state.incarnation,
            registry_version: state.registry.version(),
            writer_token: state.writer_token,
            position: self.journal.end(),
            now: self.now().0,
            open_ms: state.open_time.total(),
            proofs: state.counters.proofs,
            readings_accepted: state.counters.accepted,
            readings_rejected: rejected
                .map(|(reason, count)| v1::DropCount { reason: u32::from(*reason), count: *count })
                .collect(),
            closing_held: state.held,
            feature_level: state.level(),
            feature_level_available: self.settings.feature_level,
            ..v1::LedgerInfo::default()
        }
    }

    /// What stands before this position lies in a backup, or none is configured.
    pub(crate) fn archived_mark(&self) -> u64 {
        if self.settings.backup_configured { self.state.archived } else { u64::MAX }
    }

    /// Refuses all but the newest writer token.
    pub(crate) fn check_writer(&self, writer: Option<&v1::WriterToken>) -> Result<(), LedgerError> {
        let shown = writer.cloned().unwrap_or_default();
        let (newest_incarnation, newest) = (self.state.incarnation, self.state.writer_token);
        if (shown.incarnation, shown.token) == (newest_incarnation, newest) && newest > 0 {
            return Ok(());
        }
        Err(LedgerError::Fenced { incarnation: shown.incarnation, token: shown.token, newest_incarnation, newest })
    }

    /// Judges and records one proof.
    pub(crate) fn submit(&mut self, submission: Submission) -> Result<Outcome, LedgerError> {
        let header = &submission.opened.header;
        if let Some(outcome) = self.turn_away(&submission) {
            return Ok(outcome);
        }
        let head = self.state.chains.head(&header.key);
        let passed =
            head.is_some_and(|head| head.incarnation == header.incarnation && header.sequence <= head.sequence);
        let found = if passed { self.journal.find(&self.state.chains, &header.key, header.sequence)? } else { None };
        let declared =
            submission.declared.map(|next_sequence| Declared { incarnation: header.incarnation, next_sequence });
        let known = Known { head, declared, judged: found.as_ref().map(|found| found.digest) };
        let place = chain::place(&known, header, &submission.opened.digest);
        match place {
            Place::Next => self.record(submission, 0),
            Place::NextAfterGap { missing } | Place::OpensIncarnation { missing } => self.record(submission, missing),
            Place::Repeat => Ok(match found.map(|found| found.outcome) {
                Some(Outcome::Judged { ledger_incarnation, position, received_at, verdict, rejected, .. }) => {
                    let archived = self.is_archived(position);
                    let repeated = true;
                    Outcome::Judged { ledger_incarnation, position, received_at, verdict, rejected, repeated, archived }
                }
                _ => refused(Reason::SequencePassed, "it was judged, and retention removed it"),
            }),
            Place::Equivocation { judged } => {
                self.keep_evidence(submission, judged)?;
                Ok(refused(Reason::Equivocation, format!("the chain has {judged} there")))
            }
            place => {
                let reason = place.reason().unwrap_or(Reason::Malformed);
                let message = format!("{place:?}");
                Ok(match reason.stage() {
                    Stage::Deferred => Outcome::Deferred { reason, message },
                    _ => refused(reason, message),
                })
            }
        }
    }

    /// What can be said of a proof before its place in the chain is looked at.
    fn turn_away(&self, submission: &Submission) -> Option<Outcome> {
        let (header, registry) = (&submission.opened.header, &self.state.registry);
        match registry.signer(&header.key).map(|signer| &signer.holder) {
            None => {
                let message = "the registry does not have the key yet".to_owned();
                return Some(Outcome::Deferred { reason: Reason::KeyNotYetRegistered, message });
            }
            Some(Holder::Revoked(_)) => return Some(refused(Reason::KeyRevoked, "")),
            Some(Holder::Agent(_) | Holder::Devices(_)) => {}
        }
        if !registry.may_relay(&submission.agent, &header.key) {
            return Some(refused(Reason::NotYourKey, ""));
        }
        if header.registry_incarnation == self.state.incarnation && header.registry_version > registry.version() {
            let message = format!("this ledger is at version {}", registry.version());
            return Some(Outcome::Deferred { reason: Reason::RegistryNewer, message });
        }
        None
    }

    fn record(&mut self, submission: Submission, missing: u64) -> Result<Outcome, LedgerError> {
        let Submission { mut proof, opened, agent, .. } = submission;
        let state = &self.state;
        let nothing = BTreeMap::new();
        let received_at = self.now();
        let context = Context {
            received_at,
            registry: &state.registry,
            models: &state.models,
            agent,
            confirmed: state.confirmed.get(&agent).unwrap_or(&nothing),
            late_boundaries: &state.late_boundaries,
            max_skew_ms: self.settings.max_skew_ms,
        };
        let verdict = proofs::judge(&context, &opened.header, &opened.sections, &state.accounts);
        let rejected = opened.readings() - verdict.accepted;
        let links = state.chains.links(&opened.header);
        proof.traceparent.clear();
        let record = ProofRecord {
            received_at: received_at.0,
            agent: Bytes::copy_from_slice(agent.as_ref()),
            proof: Some(proof),
            verdict: envelope::encode_verdict(&verdict)
                .map_err(|error| LedgerError::Invalid { field: "verdict", message: error.to_string() })?
                .into(),
            rejected,
            missing,
            skip_position: links.skip.position,
            skip_sequence: links.skip.sequence,
            previous_position: links.previous.position,
            previous_sequence: links.previous.sequence,
            registry_version: state.registry.version(),
            ledger_incarnation: state.incarnation,
            max_skew_ms: self.settings.max_skew_ms,
        };
        let entry = Entry::Proof(record);
        let position = self.journal.append(&entry)?;
        let parsed = ParsedProof { header: opened.header, digest: opened.digest, sections: opened.sections, verdict };
        let awaited = self.state.held && !self.is_complete(&parsed.header.key);
        self.applied(position, |state| state.enter(position, received_at.0, &parsed))?;
        let ParsedProof { header, digest, verdict, .. } = parsed;
        if awaited && self.is_complete(&header.key) {
            self.release_if_complete()?;
        }
        let outcome = Outcome::Judged {
            ledger_incarnation: self.state.incarnation,
            position,
            received_at,
            verdict,
            rejected,
            repeated: false,
            archived: self.is_archived(position),
        };
        let found = Found { sequence: header.sequence, digest, links, outcome: outcome.clone() };
        self.journal.keep(header.key, position, found);
        Ok(outcome)
    }

    fn keep_evidence(&mut self, submission: Submission, judged: Digest) -> Result<(), LedgerError> {
        let known = self.state.chains.get(&submission.opened.header.key);
        if known.is_none_or(|chain| chain.evidence) {
            return Ok(());
        }
        let mut proof = submission.proof;
        proof.sections.clear();
        let (at, judged) = (self.now().0, Bytes::copy_from_slice(judged.as_ref()));
        self.put(Entry::Evidence(EvidenceRecord { at, proof: Some(proof), judged }))?;
        Ok(())
    }

    /// Whether a backup holds what stands at `position`, or none is configured.
    pub(crate) fn is_archived(&self, position: u64) -> bool {
        !self.settings.backup_configured || position < self.state.archived
    }

    /// Records the models that an agent uses, as far as that is new.
    pub(crate) fn confirm(&mut self, confirmation: &Confirmation) -> Result<(), LedgerError> {
        let known = self.state.confirmed.get(&confirmation.agent);
        let news = confirmation.models.iter().filter(|model| known.is_none_or(|known| !known.contains_key(model)));
        // Models that nobody registered are not kept: an agent could name any number of them.
        let news = news.filter(|model| self.state.registry.model(model).is_some());
        let models: Vec<_> = news.map(|model| Bytes::copy_from_slice(model.as_ref())).collect();
        if models.is_empty() {
            return Ok(());
        }
        let record = ConfirmationRecord {
            agent: Bytes::copy_from_slice(confirmation.agent.as_ref()),
            registry_version: confirmation.registry_version,
            models,
            at: self.now().0,
        };
        self.put(Entry::Confirmation(record))?;
        Ok(())
    }
}

pub(crate) fn refused(reason: Reason, message: impl Into<String>) -> Outcome {
    Outcome::Refused { reason, message: message.into() }
}
