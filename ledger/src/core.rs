//! The writer: log and memory together, owned by one thread. Each method appends and applies; nothing is durable before [`Core::commit`].

use std::{
    collections::{BTreeMap, HashMap},
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
use depin_log::{Log, LogError, OnDamage, Options, Storage, checkpoint};
use depin_proto::{envelope, v1};
use tokio::sync::watch;

use crate::{
    api::{Confirmation, Outcome, RegistrySnapshot, Submission},
    backup,
    checkpoints::Checkpointing,
    error::LedgerError,
    loading::{CHECKPOINT, load_state},
    recall::Found,
    record::{ConfirmationRecord, Entry, EvidenceRecord, IncarnationRecord, ProofRecord, TAG, TickRecord},
    settings::{Clock, Settings},
    snapshot,
    state::{ParsedProof, State},
};

/// Ticks no closer than this beside other records.
const TICK_MS: i64 = 1_000;

/// Log and memory.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) root: Arc<dyn Storage>,
    pub(crate) files: Arc<dyn Storage>,
    pub(crate) log: Log,
    pub(crate) state: State,
    /// Proofs of this group that are not durable yet, by position: they cannot be read back from the log.
    pub(crate) fresh: HashMap<u64, Found>,
    /// Chains that reported since a restore, with the head that their agent has: incarnation and sequence.
    pub(crate) reported: HashMap<KeyId, (u64, u64)>,
    /// Where the newest checkpoint was begun, and one that is being written.
    checkpointed: u64,
    checkpointing: Option<Checkpointing>,
    /// Proofs can reach the ledger: only then time counts as grace.
    pub(crate) serving: Arc<AtomicBool>,
    /// A span of open time has begun since the log was opened and serving began.
    span_open: bool,
    /// When fleets that no program pays for are looked at again.
    pub(crate) unclaimed_due: i64,
    /// The inbox changed in this group.
    pub(crate) inbox_touched: bool,
    /// Log and memory may differ: nothing is accepted until both were read anew.
    pub(crate) broken: Option<String>,
    /// Why nothing is taken, for those who watch.
    pub(crate) trouble: watch::Sender<Option<String>>,
    pub(crate) registry_changes: watch::Sender<Arc<RegistrySnapshot>>,
    pub(crate) inbox_changes: watch::Sender<u64>,
}

pub(crate) fn log_options(settings: &Settings) -> Options {
    Options {
        tag: TAG,
        segment_size: settings.segment_size,
        max_record: settings.max_record,
        on_damage: OnDamage::Refuse,
    }
}

pub(crate) fn from_log(error: LogError) -> LedgerError {
    match error {
        LogError::Damaged(_) | LogError::Foreign { .. } | LogError::Removed { .. } => {
            LedgerError::Damaged(error.to_string())
        }
        _ => LedgerError::Unavailable(error.to_string()),
    }
}

impl Core {
    pub(crate) fn open(root: Arc<dyn Storage>, settings: Settings, clock: Clock) -> Result<Self, LedgerError> {
        let unavailable = |error: std::io::Error| LedgerError::Unavailable(error.to_string());
        backup::check_whole(&*root)?;
        let directory = root.directory("log").map_err(unavailable)?;
        let files = root.directory("epochs").map_err(unavailable)?;
        let (log, recovery) = Log::open(directory, log_options(&settings)).map_err(from_log)?;
        if let Some(damage) = &recovery.cut_off {
            tracing::info!(%damage, "cut off the end of a write that was never acknowledged");
        }
        let state = load_state(&*root, &log, true)?;
        let checkpointed = state.applied;
        let (registry_changes, _) = watch::channel(Arc::new(RegistrySnapshot::default()));
        let (inbox_changes, _) = watch::channel(0);
        let mut core = Self {
            settings,
            clock,
            root,
            files,
            log,
            state,
            fresh: HashMap::new(),
            reported: HashMap::new(),
            checkpointed,
            checkpointing: None,
            serving: Arc::default(),
            span_open: false,
            unclaimed_due: i64::MIN,
            inbox_touched: false,
            broken: None,
            trouble: watch::Sender::new(None),
            registry_changes,
            inbox_changes,
        };
        core.begin()?;
        core.commit()?;
        Ok(core)
    }

    /// The first records of a new or reopened log.
    fn begin(&mut self) -> Result<(), LedgerError> {
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
        let position = self.log.append_with(entry.kind(), |buffer| entry.encode(buffer)).map_err(from_log)?;
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
        self.state.applied = self.log.end();
        if let Err(error) = &result {
            tracing::error!(position, %error, "a record could not be applied: giving up what is not durable");
            self.broken = Some(error.to_string());
        }
        result
    }

    /// Makes everything durable; on a failure all that was not is given up, in memory too.
    pub(crate) fn commit(&mut self) -> Result<(), LedgerError> {
        let result = match &self.broken {
            Some(why) => Err(LedgerError::Unavailable(why.clone())),
            None => self.log.sync().map(|_| ()).map_err(from_log),
        };
        self.fresh.clear();
        match result {
            Ok(()) => {
                self.publish();
                self.checkpoint_if_due();
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the ledger cannot write: nothing is acknowledged until it can");
                self.broken = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// After a failure: reads log and memory anew from what is durable. Stays broken where that fails.
    pub(crate) fn recover(&mut self) -> Result<(), LedgerError> {
        self.log.reopen().map_err(from_log)?;
        self.state = load_state(&*self.root, &self.log, true)?;
        self.fresh.clear();
        self.broken = None;
        let result = self.begin().and_then(|()| self.commit());
        if let Err(error) = &result {
            self.broken = Some(error.to_string());
        }
        result
    }

    /// Tells those who watch whether the ledger takes anything.
    pub(crate) fn tell_trouble(&self) {
        self.trouble.send_if_modified(|known| {
            let changed = *known != self.broken;
            if changed {
                known.clone_from(&self.broken);
            }
            changed
        });
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.inbox_touched) {
            self.inbox_changes.send_modify(|changes| *changes += 1);
        }
        let (incarnation, version) = (self.state.incarnation, self.state.registry.version());
        self.registry_changes.send_if_modified(|known| {
            let changed = (known.incarnation, known.registry.version()) != (incarnation, version);
            if changed {
                *known = Arc::new(RegistrySnapshot { incarnation, registry: self.state.registry.clone() });
            }
            changed
        });
    }

    /// Begins a checkpoint beside the writer, unless one is being written.
    fn checkpoint_if_due(&mut self) {
        let due = self.log.end() >= self.checkpointed.saturating_add(self.settings.checkpoint_bytes);
        if !due || self.checkpointing.as_ref().is_some_and(|earlier| !earlier.is_finished()) {
            return;
        }
        self.checkpointed = self.log.end();
        match Checkpointing::start(Arc::clone(&self.root), self.log.reader()) {
            Ok(begun) => self.checkpointing = Some(begun),
            Err(error) => tracing::warn!(%error, "the checkpoint could not be begun"),
        }
    }

    /// Writes the state, which must be durable in the log: before the end, when nobody waits.
    pub(crate) fn checkpoint(&mut self) -> Result<(), LedgerError> {
        self.checkpointing = None;
        checkpoint::write(&*self.root, CHECKPOINT, TAG, &snapshot::encode(&self.state)).map_err(from_log)?;
        Ok(())
    }

    /// Records that proofs are taken now, if they are. `force`: even if that was recorded a moment ago.
    pub(crate) fn tick(&mut self, force: bool) -> Result<(), LedgerError> {
        let at = self.now().0;
        let newest = self.state.open_time.newest().unwrap_or(i64::MIN);
        let serving = self.serving.load(Ordering::Acquire);
        let paused = at.saturating_sub(newest) > self.settings.max_pause_ms;
        let opens = serving && (paused || !self.span_open);
        if opens || (serving && at > newest && (force || at >= newest.saturating_add(TICK_MS))) {
            self.put(Entry::Tick(TickRecord { at, opens }))?;
        }
        self.span_open = serving;
        self.bound_unclaimed()
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
        let found = if passed { self.find(&header.key, header.sequence)? } else { None };
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
        let position = self.log.append_with(entry.kind(), |buffer| entry.encode(buffer)).map_err(from_log)?;
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
        self.fresh.insert(position, Found { sequence: header.sequence, digest, links, outcome: outcome.clone() });
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

fn refused(reason: Reason, message: impl Into<String>) -> Outcome {
    Outcome::Refused { reason, message: message.into() }
}
