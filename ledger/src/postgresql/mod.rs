//! The ledger in a PostgreSQL database: any number of gateways over one, none with a state of its own that it could lose.
//!
//! The same core decides as in the embedded ledger, over what a transaction read and locked for it. Facts (registry, tokens, confirmations, inbox,
//! closes, boundaries) are few and kept in each process's memory, read on before each transaction; chains, marks and grains are rows. Nothing is
//! answered before its transaction is committed. See `docs/decisions/0016-postgresql-ledger.md`.

mod board;
mod connection;
mod files;
mod loading;
mod migrating;
mod pending;
mod queue;
mod records;
mod schema;
mod session;
mod storing;
mod tls;
mod upkeep;
mod writer;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

pub use board::{Board, GatewayId, Heard, Note};
use connection::Pool;
pub use connection::Server;
use depin_domain::{ids::DeviceId, proofs::Reason, registry::Record, statistics::DeviceStatistics};
use depin_log::Storage;
use depin_proto::v1;
use files::Stored;
use loading::Need;
pub use migrating::{Migration, migrate};
use queue::Task;
use tokio::{
    runtime::Handle,
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
};
pub use upkeep::CheckSignatures;
use writer::{Mode, Told, Writer, Writing};

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
    snapshot,
    state::{Epoch, State},
};

/// Registry records of a page, proofs of a page.
const PAGE: usize = 1_000;
/// Name of the file with the state before the journal's front.
const BASE: &str = "base";
/// For how long what reads is waited for at the end.
const LAST_READS: Duration = Duration::from_secs(5);

/// A ledger in a database, as one of any number of processes sees it.
pub struct PostgresqlLedger {
    tasks: mpsc::Sender<Task>,
    thread: Option<JoinHandle<()>>,
    runtime: Handle,
    pool: Arc<Pool>,
    registry: watch::Receiver<Arc<RegistrySnapshot>>,
    inbox: watch::Receiver<u64>,
    trouble: watch::Receiver<Option<String>>,
    serving: Arc<AtomicBool>,
    settings: Settings,
}

impl fmt::Debug for PostgresqlLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresqlLedger").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl PostgresqlLedger {
    /// Opens the ledger of a database, making it where there is none. Blocks while facts are read.
    ///
    /// Without a `clock` the server's is taken, so that all gateways agree.
    ///
    /// # Errors
    /// Where the server cannot be reached, may lose what it acknowledges, or has a newer schema.
    pub fn open(server: Server, settings: Settings, clock: Option<Clock>) -> Result<Self, LedgerError> {
        Self::open_as(server, settings, clock, false)
    }

    /// `migrating`: into this database a ledger is being copied, by the caller.
    fn open_as(server: Server, settings: Settings, clock: Option<Clock>, migrating: bool) -> Result<Self, LedgerError> {
        let (tasks, queue) = mpsc::channel(settings.queue.max(1));
        let told = Told {
            registry: watch::Sender::new(Arc::default()),
            inbox: watch::Sender::new(0),
            trouble: watch::Sender::new(None),
        };
        let (registry, inbox, trouble) = (told.registry.subscribe(), told.inbox.subscribe(), told.trouble.subscribe());
        let serving = Arc::<AtomicBool>::default();
        let pool = Arc::new(Pool::new(server.clone()));
        let (opened, open) = std::sync::mpsc::channel();
        let (own, served, readers) = (settings.clone(), Arc::clone(&serving), Arc::clone(&pool));
        let work = move || {
            // Two: while one judges, the other one talks to the database.
            let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = match built {
                Ok(runtime) => runtime,
                Err(error) => {
                    let error = LedgerError::Unavailable(format!("start the ledger's runtime: {error}"));
                    // Whoever opened it is gone then.
                    drop(opened.send(Err(error)));
                    return;
                }
            };
            let idle = Duration::from_millis(own.idle_tick_ms.max(1));
            let writing = async move {
                if !migrating && let Err(error) = schema::check(&server).await {
                    drop(opened.send(Err(error)));
                    return;
                }
                match Writer::open(server, readers, own, clock, served, told).await {
                    Ok(writer) => {
                        drop(opened.send(Ok(Handle::current())));
                        let running = tokio::spawn(writer.run(queue, idle));
                        if running.await.is_err() {
                            tracing::error!("the ledger's writer ended before it was asked to");
                        }
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            };
            runtime.block_on(writing);
            runtime.shutdown_timeout(LAST_READS);
        };
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(work)
            .map_err(|error| LedgerError::Unavailable(format!("start the writer's thread: {error}")))?;
        let runtime = open.recv().unwrap_or_else(|_| Err(LedgerError::stopped()))?;
        Ok(Self { tasks, thread: Some(thread), runtime, pool, registry, inbox, trouble, serving, settings })
    }

    /// Works off what waits and ends the sessions. Also done on drop.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let mut last = Task::Stop;
            // Full: the writer makes room. It cannot be awaited here.
            while let Err(TrySendError::Full(task)) = self.tasks.try_send(last) {
                last = task;
                std::thread::yield_now();
            }
            if thread.join().is_err() {
                tracing::error!("the ledger's thread had ended before it was asked to");
            }
        }
    }

    /// Does `work` in the writer's turn; resolves when everything it appended is committed.
    fn call<T: Send + 'static>(
        &self,
        mode: fn(&State) -> Mode,
        needs: impl FnOnce(&Writing) -> Need + Send + 'static,
        work: impl FnOnce(&mut Writing) -> Result<T, LedgerError> + Send + 'static,
    ) -> Answer<'static, T> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move |core: Result<&mut Writing, LedgerError>| {
            let outcome = core.and_then(work);
            let done: Box<dyn FnOnce(Result<u64, LedgerError>) + Send> = Box::new(move |committed| {
                let result = match (outcome, committed) {
                    (Ok(value), Ok(_)) => Ok(value),
                    (Err(error), _) | (_, Err(error)) => Err(error),
                };
                // A caller that is gone wants no answer.
                drop(answer.send(result));
            });
            done
        });
        let sent = self.tasks.try_send(Task::Do { mode, needs: Box::new(needs), job });
        Box::pin(async move {
            match sent {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Err(LedgerError::Overloaded),
                Err(TrySendError::Closed(_)) => return Err(LedgerError::stopped()),
            }
            answered.await.unwrap_or_else(|_| Err(LedgerError::stopped()))
        })
    }

    /// Looks at facts and totals of one moment.
    fn look<T: Send + 'static>(
        &self,
        need: Need,
        work: impl FnOnce(&mut Writing) -> Result<T, LedgerError> + Send + 'static,
    ) -> Answer<'static, T> {
        self.call(|_| Mode::Read, move |_| need, work)
    }

    /// Changes facts, alone.
    fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writing) -> Result<T, LedgerError> + Send + 'static,
    ) -> Answer<'static, T> {
        self.call(|_| Mode::Exclusive, |_| Need::default(), work)
    }

    /// Why nothing is taken now (the database cannot be reached, or does not commit); none: all is well.
    #[must_use]
    pub fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.trouble.clone()
    }

    /// What is kept of a device's accepted readings; absent: none ever counted.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn statistics(&self, device: DeviceId) -> Result<Option<DeviceStatistics>, LedgerError> {
        let span = (i64::MIN, i64::MAX);
        let need = Need { devices: [(device, span)].into(), ..Need::default() };
        self.look(need, move |core| Ok(core.state.accounts.get(&device).cloned())).await
    }

    /// Where gateways that share the database tell each other of who was heard.
    #[must_use]
    pub fn board(&self) -> Board {
        Board { runtime: self.runtime.clone(), pool: Arc::clone(&self.pool) }
    }

    fn files(&self) -> Arc<dyn Storage> {
        Arc::new(Stored { runtime: self.runtime.clone(), pool: Arc::clone(&self.pool) })
    }

    /// The records, from where what is kept begins.
    async fn records(&self) -> Result<records::Journal, LedgerError> {
        let front = self.base().await?.applied;
        Ok(records::Journal { runtime: self.runtime.clone(), pool: Arc::clone(&self.pool), front })
    }

    /// The state before the journal's front.
    async fn base(&self) -> Result<State, LedgerError> {
        let pool = Arc::clone(&self.pool);
        let read = self.runtime.spawn(async move { Stored::read(&pool, BASE).await }).await;
        match read.map_err(|_| LedgerError::stopped())?? {
            Some(bytes) => snapshot::decode(bytes.into()),
            None => Ok(State::default()),
        }
    }

    fn epoch(&self, program: String, number: u64) -> Answer<'static, Epoch> {
        self.look(Need::default(), move |core| core.state.closed_epoch(&program, number).cloned())
    }
}

impl Drop for PostgresqlLedger {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a close needs: the grains of its windows, if it will come so far.
fn needs_of_close(core: &Writing, request: &v1::CloseEpochRequest) -> Need {
    if !core.would_freeze(request) {
        // What closing waits for is told.
        return Need { all_chains: core.state.held, ..Need::default() };
    }
    let window = |start, end| depin_domain::time::Window {
        start: depin_domain::time::Timestamp(start),
        end: depin_domain::time::Timestamp(end),
    };
    let mut windows = vec![window(request.start, request.end)];
    windows.extend(request.matured.iter().map(|earlier| window(earlier.start, earlier.end)));
    Need { windows, ..Need::default() }
}

impl Ledger for PostgresqlLedger {
    fn serve(&self, serving: bool) {
        // The writer looks with its next transaction, or when it was idle: a span begins late rather than early.
        self.serving.store(serving, Ordering::Release);
    }

    fn info(&self) -> Answer<'_, Info> {
        self.look(Need { totals: true, ..Need::default() }, |core| Ok(core.info()))
    }

    fn append(&self, proofs: Vec<Submission>) -> Answer<'_, Vec<Outcome>> {
        let count = proofs.len();
        let (answer, answered) = oneshot::channel();
        let sent = self.tasks.try_send(Task::Append(proofs, answer));
        Box::pin(async move {
            let deferred = |reason, message: &str| vec![Outcome::Deferred { reason, message: message.into() }; count];
            match sent {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => return Ok(deferred(Reason::Overloaded, "the ledger's queue is full")),
                Err(TrySendError::Closed(_)) => {
                    return Ok(deferred(Reason::LedgerUnavailable, &LedgerError::stopped().to_string()));
                }
            }
            let outcomes = answered.await;
            Ok(outcomes.unwrap_or_else(|_| deferred(Reason::LedgerUnavailable, &LedgerError::stopped().to_string())))
        })
    }

    fn open_chains(&self, chains: Vec<OpenChain>) -> Answer<'_, Vec<Head>> {
        // While closing is held this is a report.
        let mode = |state: &State| if state.held { Mode::Exclusive } else { Mode::Read };
        let keys = chains.iter().map(|chain| chain.key).collect();
        let needs = move |core: &Writing| Need { keys, all_chains: core.state.held, ..Need::default() };
        self.call(mode, needs, move |core| core.open_chains(&chains))
    }

    fn confirm(&self, confirmation: Confirmation) -> Answer<'_, ()> {
        self.change(move |core| core.confirm(&confirmation))
    }

    fn registry(&self) -> watch::Receiver<Arc<RegistrySnapshot>> {
        self.registry.clone()
    }

    fn read_registry(&self, after_version: u64, limit: usize) -> Answer<'_, Vec<Record>> {
        let limit = if limit == 0 { PAGE } else { limit.min(10 * PAGE) };
        self.look(Need::default(), move |core| core.read_registry(after_version, limit))
    }

    fn acquire_writer(&self, holder: String) -> Answer<'_, v1::WriterToken> {
        self.change(move |core| core.acquire_writer(holder))
    }

    fn write_registry(&self, request: v1::WriteRegistryRequest) -> Answer<'_, u64> {
        self.change(move |core| core.write_registry(request))
    }

    fn post_inbox(&self, request: InboxRequest) -> Answer<'_, Posted> {
        self.change(move |core| core.post_inbox(request))
    }

    fn read_inbox(&self, after: u64) -> Answer<'_, Vec<v1::InboxEntry>> {
        self.look(Need::default(), move |core| Ok(core.state.inbox.unanswered(after, core.now())))
    }

    fn inbox_changes(&self) -> watch::Receiver<u64> {
        self.inbox.clone()
    }

    fn answer_inbox(&self, request: v1::AnswerInboxRequest) -> Answer<'_, ()> {
        self.change(move |core| core.answer_inbox(request))
    }

    fn close_epoch(&self, request: v1::CloseEpochRequest) -> Answer<'_, v1::EpochClose> {
        let asked = request.clone();
        let needs = move |core: &Writing| needs_of_close(core, &asked);
        self.call(|_| Mode::Exclusive, needs, move |core| core.close_epoch(&request))
    }

    fn read_statistics(
        &self,
        request: v1::ReadStatisticsRequest,
    ) -> Answer<'_, mpsc::Receiver<Result<v1::StatisticsPage, LedgerError>>> {
        let epoch = self.epoch(request.program.clone(), request.number);
        Box::pin(async move { published::statistics(self.files(), epoch.await?, &request) })
    }

    fn record_epoch(
        &self,
        writer: v1::WriterToken,
        program: String,
        number: u64,
        result: EpochRecord,
    ) -> Answer<'_, v1::RecordEpochResponse> {
        self.change(move |core| core.record_epoch(&writer, &program, number, &result))
    }

    fn list_epochs(&self, program: String, from_number: u64, limit: usize) -> Answer<'_, Vec<v1::EpochEntry>> {
        let limit = if limit == 0 { 100 } else { limit.min(PAGE) };
        let epochs = self.look(Need::default(), move |core| {
            let known = core.state.epochs.get(&program);
            let wanted = known.into_iter().flat_map(|epochs| epochs.range(from_number..));
            Ok(wanted.take(limit).map(|(_, epoch)| epoch.clone()).collect::<Vec<_>>())
        });
        Box::pin(async move {
            let (epochs, files) = (epochs.await?, self.files());
            blocking(move || published::page(&*files, &epochs)).await
        })
    }

    fn read_epoch(&self, program: String, number: u64) -> Answer<'_, (v1::EpochEntry, Option<EpochRecord>)> {
        let epoch = self.epoch(program, number);
        Box::pin(async move {
            let (epoch, files) = (epoch.await?, self.files());
            blocking(move || published::epoch(&*files, &epoch)).await
        })
    }

    fn read_export(&self, program: String, number: u64, export: Export) -> Answer<'_, FileStream> {
        let epoch = self.epoch(program, number);
        let facts = self.look(Need::default(), |core| Ok((core.state.registry.clone(), core.state.written.clone())));
        Box::pin(async move {
            let (epoch, (registry, written)) = (epoch.await?, facts.await?);
            let (previous, matured) = published::neighbours(self, &epoch).await?;
            let (records, base, files) = (Arc::new(self.records().await?), self.base().await?, self.files());
            Ok(published::export(export, move || {
                Ok(export::Source { epoch, registry, written, previous, matured, files, records, base })
            }))
        })
    }

    fn read_proofs(&self, filter: ProofFilter) -> Answer<'_, ProofPage> {
        let archived = self.look(Need::default(), |core| Ok(core.archived_mark()));
        Box::pin(async move {
            let (archived, records) = (archived.await?, self.records().await?);
            let scan_bytes = self.settings.scan_bytes;
            blocking(move || reading::proofs(&records, &filter, scan_bytes, archived)).await
        })
    }

    fn read_hold(&self, limit: usize) -> Answer<'_, v1::ClosingHold> {
        self.look(Need { all_chains: true, ..Need::default() }, move |core| Ok(core.hold(limit)))
    }

    fn release_closing(&self, writer: v1::WriterToken) -> Answer<'_, u64> {
        let need = |_: &Writing| Need { all_chains: true, ..Need::default() };
        self.call(|_| Mode::Exclusive, need, move |core| core.release_closing(Some(&writer)))
    }

    fn finalize(&self, writer: v1::WriterToken) -> Answer<'_, u32> {
        self.change(move |core| core.finalize(Some(&writer)))
    }
}
