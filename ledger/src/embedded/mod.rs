//! The embedded ledger: one thread owns log and memory and works through a queue; what is asked together is made durable together.

pub(crate) mod backup;
mod checkpoints;
mod compact;
pub(crate) mod disk;
pub(crate) mod loading;
mod recall;
pub(crate) mod restore;
mod verify;
mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use depin_domain::{ids::DeviceId, proofs::Reason, registry::Record, statistics::DeviceStatistics};
use depin_log::{LogReader, Storage};
use depin_proto::v1;
use tokio::sync::{mpsc, oneshot, watch};

pub use backup::{LedgerFile, Snapshot};
pub use compact::Compaction;
use disk::{Core, LogRecords};
use loading::load_base;
pub use restore::{Restoration, Restored, is_empty, release};
pub use verify::verify;
use writer::{Job, Task, run};

use crate::{
    api::{
        Answer, Confirmation, EpochRecord, Export, FileStream, Head, InboxRequest, Info, Ledger, OpenChain, Outcome,
        Posted, ProofFilter, ProofPage, RegistrySnapshot, Submission,
    },
    error::LedgerError,
    export,
    published::{self, blocking},
    reading,
    settings::{Clock, Settings},
    state::{Epoch, State},
};

/// Registry records of a page, proofs of a page.
const PAGE: usize = 1_000;

/// A ledger in a directory of this machine.
pub struct EmbeddedLedger {
    tasks: SyncSender<Task>,
    thread: Option<JoinHandle<()>>,
    registry: watch::Receiver<Arc<RegistrySnapshot>>,
    inbox: watch::Receiver<u64>,
    trouble: watch::Receiver<Option<String>>,
    serving: Arc<AtomicBool>,
    reader: LogReader,
    root: Arc<dyn Storage>,
    files: Arc<dyn Storage>,
    /// Held by a backup or a compaction.
    upkeep: tokio::sync::Mutex<()>,
    settings: Settings,
}

impl fmt::Debug for EmbeddedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLedger").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl EmbeddedLedger {
    /// Opens the ledger in `storage`, making it where there is none. Blocks while the log behind the newest checkpoint is read.
    pub fn open(storage: Arc<dyn Storage>, settings: Settings, clock: Clock) -> Result<Self, LedgerError> {
        let core = Core::open(storage, settings.clone(), clock)?;
        let (tasks, queue) = sync_channel(settings.queue);
        let (registry, inbox) = (core.journal.registry_changes.subscribe(), core.journal.inbox_changes.subscribe());
        let (trouble, serving) = (core.journal.trouble.subscribe(), Arc::clone(&core.serving));
        let (reader, root, files) =
            (core.journal.log.reader(), Arc::clone(&core.journal.root), Arc::clone(&core.files));
        let idle = Duration::from_millis(settings.idle_tick_ms.max(1));
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || run(core, &queue, idle))
            .map_err(|error| LedgerError::Unavailable(format!("start the writer's thread: {error}")))?;
        Ok(Self {
            tasks,
            thread: Some(thread),
            registry,
            inbox,
            trouble,
            serving,
            reader,
            root,
            files,
            upkeep: tokio::sync::Mutex::default(),
            settings,
        })
    }

    /// Works off what waits, writes a checkpoint and closes the log. Also done on drop.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Where the thread is gone already there is nothing to stop; its panic was printed.
            let (sent, joined) = (self.tasks.send(Task::Stop), thread.join());
            if sent.is_err() || joined.is_err() {
                tracing::error!("the ledger's writer had ended before it was asked to");
            }
        }
    }

    /// Does `work` in the writer's turn; resolves when everything it appended is durable.
    pub(crate) fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> Result<T, LedgerError> + Send + 'static,
    ) -> Answer<'static, T> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |core| {
            let outcome = core.and_then(work);
            Box::new(move |committed| {
                let result = match (outcome, committed) {
                    (Ok(value), Ok(())) => Ok(value),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
                // A caller that is gone wants no answer.
                drop(answer.send(result));
            })
        });
        let sent = self.tasks.try_send(Task::Do(job));
        Box::pin(async move {
            match sent {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Err(LedgerError::Overloaded),
                Err(TrySendError::Disconnected(_)) => return Err(LedgerError::stopped()),
            }
            answered.await.unwrap_or_else(|_| Err(LedgerError::stopped()))
        })
    }

    /// Why nothing is taken now (a full, read-only or failing disk); none: all is well.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// What is kept of a device's accepted readings; absent: none ever counted.
    pub async fn statistics(&self, device: DeviceId) -> Result<Option<DeviceStatistics>, LedgerError> {
        self.call(move |core| Ok(core.state.accounts.get(&device).cloned())).await
    }

    /// The turn of a backup or a compaction: each needs the other one's files to stay as they are.
    pub(crate) async fn upkeep(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.upkeep.lock().await
    }

    fn epoch(&self, program: String, number: u64) -> Answer<'static, Epoch> {
        self.call(move |core| core.state.closed_epoch(&program, number).cloned())
    }
}

impl Drop for EmbeddedLedger {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What an export needs of what came before the log's front.
fn base(export: Export, root: &dyn Storage, front: u64) -> Result<State, LedgerError> {
    match export {
        Export::Public => Ok(State::default()),
        Export::Audit | Export::Owner(_) => load_base(root, front),
    }
}

impl Ledger for EmbeddedLedger {
    fn serve(&self, serving: bool) {
        // The writer looks with its next request, or when it was idle: a span begins late rather than early.
        self.serving.store(serving, Ordering::Release);
    }

    fn info(&self) -> Answer<'_, Info> {
        self.call(|core| Ok(core.info()))
    }

    fn append(&self, proofs: Vec<Submission>) -> Answer<'_, Vec<Outcome>> {
        let count = proofs.len();
        let judged = self.call(move |core| proofs.into_iter().map(|proof| core.submit(proof)).collect());
        Box::pin(async move {
            let deferred = |reason, message: &str| vec![Outcome::Deferred { reason, message: message.into() }; count];
            match judged.await {
                Ok(outcomes) => Ok(outcomes),
                Err(LedgerError::Overloaded) => Ok(deferred(Reason::Overloaded, "the ledger's queue is full")),
                Err(error) => Ok(deferred(Reason::LedgerUnavailable, &error.to_string())),
            }
        })
    }

    fn open_chains(&self, chains: Vec<OpenChain>) -> Answer<'_, Vec<Head>> {
        self.call(move |core| core.open_chains(&chains))
    }

    fn confirm(&self, confirmation: Confirmation) -> Answer<'_, ()> {
        self.call(move |core| core.confirm(&confirmation))
    }

    fn registry(&self) -> watch::Receiver<Arc<RegistrySnapshot>> {
        self.registry.clone()
    }

    fn read_registry(&self, after_version: u64, limit: usize) -> Answer<'_, Vec<Record>> {
        let limit = if limit == 0 { PAGE } else { limit.min(10 * PAGE) };
        self.call(move |core| core.read_registry(after_version, limit))
    }

    fn acquire_writer(&self, holder: String) -> Answer<'_, v1::WriterToken> {
        self.call(move |core| core.acquire_writer(holder))
    }

    fn write_registry(&self, request: v1::WriteRegistryRequest) -> Answer<'_, u64> {
        self.call(move |core| core.write_registry(request))
    }

    fn post_inbox(&self, request: InboxRequest) -> Answer<'_, Posted> {
        self.call(move |core| core.post_inbox(request))
    }

    fn read_inbox(&self, after: u64) -> Answer<'_, Vec<v1::InboxEntry>> {
        self.call(move |core| Ok(core.state.inbox.unanswered(after, core.now())))
    }

    fn inbox_changes(&self) -> watch::Receiver<u64> {
        self.inbox.clone()
    }

    fn answer_inbox(&self, request: v1::AnswerInboxRequest) -> Answer<'_, ()> {
        self.call(move |core| core.answer_inbox(request))
    }

    fn close_epoch(&self, request: v1::CloseEpochRequest) -> Answer<'_, v1::EpochClose> {
        self.call(move |core| core.close_epoch(&request))
    }

    fn read_statistics(
        &self,
        request: v1::ReadStatisticsRequest,
    ) -> Answer<'_, mpsc::Receiver<Result<v1::StatisticsPage, LedgerError>>> {
        let epoch = self.epoch(request.program.clone(), request.number);
        let files = Arc::clone(&self.files);
        Box::pin(async move { published::statistics(files, epoch.await?, &request) })
    }

    fn record_epoch(
        &self,
        writer: v1::WriterToken,
        program: String,
        number: u64,
        result: EpochRecord,
    ) -> Answer<'_, v1::RecordEpochResponse> {
        self.call(move |core| core.record_epoch(&writer, &program, number, &result))
    }

    fn list_epochs(&self, program: String, from_number: u64, limit: usize) -> Answer<'_, Vec<v1::EpochEntry>> {
        let limit = if limit == 0 { 100 } else { limit.min(PAGE) };
        let epochs = self.call(move |core| {
            let known = core.state.epochs.get(&program);
            let wanted = known.into_iter().flat_map(|epochs| epochs.range(from_number..));
            Ok(wanted.take(limit).map(|(_, epoch)| epoch.clone()).collect::<Vec<_>>())
        });
        let files = Arc::clone(&self.files);
        Box::pin(async move {
            let epochs = epochs.await?;
            blocking(move || published::page(&*files, &epochs)).await
        })
    }

    fn read_epoch(&self, program: String, number: u64) -> Answer<'_, (v1::EpochEntry, Option<EpochRecord>)> {
        let epoch = self.epoch(program, number);
        let files = Arc::clone(&self.files);
        Box::pin(async move {
            let epoch = epoch.await?;
            blocking(move || published::epoch(&*files, &epoch)).await
        })
    }

    fn read_export(&self, program: String, number: u64, export: Export) -> Answer<'_, FileStream> {
        let epoch = self.epoch(program.clone(), number);
        let registry = self.registry.borrow().registry.clone();
        let written = self.call(|core| Ok(core.state.written.clone()));
        let (root, files, log) = (Arc::clone(&self.root), Arc::clone(&self.files), self.reader.clone());
        Box::pin(async move {
            let (epoch, written) = (epoch.await?, written.await?);
            let (previous, matured) = published::neighbours(self, &epoch).await?;
            Ok(published::export(export, move || {
                let base = base(export, &*root, log.front())?;
                let records = Arc::new(LogRecords(log));
                Ok(export::Source { epoch, registry, written, previous, matured, files, records, base })
            }))
        })
    }

    fn read_proofs(&self, filter: ProofFilter) -> Answer<'_, ProofPage> {
        let (reader, scan_bytes) = (self.reader.clone(), self.settings.scan_bytes);
        let archived = self.call(|core| Ok(core.archived_mark()));
        Box::pin(async move {
            let archived = archived.await?;
            blocking(move || reading::proofs(&LogRecords(reader), &filter, scan_bytes, archived)).await
        })
    }

    fn read_hold(&self, limit: usize) -> Answer<'_, v1::ClosingHold> {
        self.call(move |core| Ok(core.hold(limit)))
    }

    fn release_closing(&self, writer: v1::WriterToken) -> Answer<'_, u64> {
        self.call(move |core| core.release_closing(Some(&writer)))
    }

    fn finalize(&self, writer: v1::WriterToken) -> Answer<'_, u32> {
        self.call(move |core| core.finalize(Some(&writer)))
    }
}
