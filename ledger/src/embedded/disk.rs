//! The journal on a disk: log, checkpoints and who watches. Nothing is durable before [`Core::commit`].

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use bytes::Bytes;
use depin_domain::ids::KeyId;
use depin_log::{Log, LogError, LogReader, OnDamage, Options, Storage, checkpoint};
use tokio::sync::watch;

use super::{
    checkpoints::Checkpointing,
    loading::{CHECKPOINT, load_state},
    restore,
};
use crate::{
    api::RegistrySnapshot,
    chains::Chains,
    core::{self, Found, Journal},
    error::LedgerError,
    record::{Each, Entry, Records, TAG},
    settings::{Clock, Settings},
    snapshot,
};

/// Log and memory.
pub(crate) type Core = core::Core<Disk>;

/// The log, and what stands beside it.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) root: Arc<dyn Storage>,
    pub(crate) log: Log,
    /// Proofs of this group that are not durable yet, by position: they cannot be read back from the log.
    pub(crate) fresh: HashMap<u64, Found>,
    /// Where the newest checkpoint was begun, and one that is being written.
    checkpointed: u64,
    checkpointing: Option<Checkpointing>,
    /// Log and memory may differ: nothing is accepted until both were read anew.
    pub(crate) broken: Option<String>,
    /// Why nothing is taken, for those who watch.
    pub(crate) trouble: watch::Sender<Option<String>>,
    pub(crate) registry_changes: watch::Sender<Arc<RegistrySnapshot>>,
    pub(crate) inbox_changes: watch::Sender<u64>,
}

impl Journal for Disk {
    fn append(&mut self, entry: &Entry) -> Result<u64, LedgerError> {
        self.log.append_with(entry.kind(), |buffer| entry.encode(buffer)).map_err(from_log)
    }

    fn end(&self) -> u64 {
        self.log.end()
    }

    fn secure(&mut self) -> Result<(), LedgerError> {
        self.log.sync().map(|_| ()).map_err(from_log)
    }

    fn find(&self, chains: &Chains, key: &KeyId, sequence: u64) -> Result<Option<Found>, LedgerError> {
        self.recall(chains, key, sequence)
    }

    fn keep(&mut self, _key: KeyId, position: u64, found: Found) {
        self.fresh.insert(position, found);
    }

    fn spoil(&mut self, why: String) {
        self.broken = Some(why);
    }
}

/// The log, read without its writer.
#[derive(Debug)]
pub(super) struct LogRecords(pub(super) LogReader);

impl Records for LogRecords {
    fn front(&self) -> u64 {
        self.0.front()
    }

    fn read(&self, from: u64, each: &mut Each<'_>) -> Result<(), LedgerError> {
        let mut cursor = self.0.read_from(from).map_err(from_log)?;
        while let Some(record) = cursor.next_record().map_err(from_log)? {
            let (position, next) = (record.position, record.next);
            let entry = Entry::decode(record.kind, Bytes::copy_from_slice(record.payload), position)?;
            if !each(position, next.saturating_sub(from), entry)? {
                return Ok(());
            }
        }
        Ok(())
    }
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
        restore::check_whole(&*root)?;
        let directory = root.directory("log").map_err(unavailable)?;
        let files = root.directory("epochs").map_err(unavailable)?;
        let (log, recovery) = Log::open(directory, log_options(&settings)).map_err(from_log)?;
        if let Some(damage) = &recovery.cut_off {
            tracing::info!(%damage, "cut off the end of a write that was never acknowledged");
        }
        let state = load_state(&*root, &log, true)?;
        state.understood(settings.feature_level)?;
        let checkpointed = state.applied;
        let (registry_changes, _) = watch::channel(Arc::new(RegistrySnapshot::default()));
        let (inbox_changes, _) = watch::channel(0);
        let journal = Disk {
            root,
            log,
            fresh: HashMap::new(),
            checkpointed,
            checkpointing: None,
            broken: None,
            trouble: watch::Sender::new(None),
            registry_changes,
            inbox_changes,
        };
        let serving = Arc::<AtomicBool>::default();
        let mut core = Self::new(settings, clock, files, journal, state, serving);
        core.begin()?;
        core.commit()?;
        Ok(core)
    }

    /// Makes everything durable; on a failure all that was not is given up, in memory too.
    pub(crate) fn commit(&mut self) -> Result<(), LedgerError> {
        let result = match &self.journal.broken {
            Some(why) => Err(LedgerError::Unavailable(why.clone())),
            None => self.journal.log.sync().map(|_| ()).map_err(from_log),
        };
        self.journal.fresh.clear();
        match result {
            Ok(()) => {
                self.publish();
                self.checkpoint_if_due();
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "the ledger cannot write: nothing is acknowledged until it can");
                self.journal.broken = Some(error.to_string());
                Err(error)
            }
        }
    }

    /// After a failure: reads log and memory anew from what is durable. Stays broken where that fails.
    pub(crate) fn recover(&mut self) -> Result<(), LedgerError> {
        self.journal.log.reopen().map_err(from_log)?;
        self.state = load_state(&*self.journal.root, &self.journal.log, true)?;
        self.state.understood(self.settings.feature_level)?;
        self.journal.fresh.clear();
        self.journal.broken = None;
        let result = self.begin().and_then(|()| self.commit());
        if let Err(error) = &result {
            self.journal.broken = Some(error.to_string());
        }
        result
    }

    /// Tells those who watch whether the ledger takes anything.
    pub(crate) fn tell_trouble(&self) {
        self.journal.trouble.send_if_modified(|known| {
            let changed = *known != self.journal.broken;
            if changed {
                known.clone_from(&self.journal.broken);
            }
            changed
        });
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.inbox_touched) {
            self.journal.inbox_changes.send_modify(|changes| *changes += 1);
        }
        let (incarnation, version) = (self.state.incarnation, self.state.registry.version());
        self.journal.registry_changes.send_if_modified(|known| {
            let changed = (known.incarnation, known.registry.version()) != (incarnation, version);
            if changed {
                *known = Arc::new(RegistrySnapshot { incarnation, registry: self.state.registry.clone() });
            }
            changed
        });
    }

    /// Begins a checkpoint beside the writer, unless one is being written.
    fn checkpoint_if_due(&mut self) {
        let due = self.journal.log.end() >= self.journal.checkpointed.saturating_add(self.settings.checkpoint_bytes);
        if !due || self.journal.checkpointing.as_ref().is_some_and(|earlier| !earlier.is_finished()) {
            return;
        }
        self.journal.checkpointed = self.journal.log.end();
        match Checkpointing::start(Arc::clone(&self.journal.root), self.journal.log.reader()) {
            Ok(begun) => self.journal.checkpointing = Some(begun),
            Err(error) => tracing::warn!(%error, "the checkpoint could not be begun"),
        }
    }

    /// Writes the state, which must be durable in the log: before the end, when nobody waits.
    pub(crate) fn checkpoint(&mut self) -> Result<(), LedgerError> {
        self.journal.checkpointing = None;
        checkpoint::write(&*self.journal.root, CHECKPOINT, TAG, &snapshot::encode(&self.state)).map_err(from_log)?;
        Ok(())
    }
}
