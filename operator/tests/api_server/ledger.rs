//! A ledger in memory, behind the real service: it keeps the rules that the operator rests on (writer token, versions, first close and
//! first result stand) and nothing else.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use depin_domain::{
    registry::{Change, Record, Registry},
    time::Timestamp,
};
use depin_proto::v1::{
    self, AcquireWriterRequest, AnswerInboxRequest, AnswerInboxResponse, CloseEpochRequest, EpochClose, EpochEntry,
    EpochLines, EpochPage, EpochState, EpochWindow, FileChunk, GetInfoRequest, GrainStatistic, InboxEntry, LedgerInfo,
    ListEpochsRequest, ListEpochsResponse, PresencePage, ProofRecord, ReadEpochRequest, ReadExportRequest,
    ReadPresenceRequest, ReadProofsRequest, ReadRegistryRequest, ReadStatisticsRequest, RecordEpochRequest,
    RecordEpochResponse, RegistryRecord, StatisticsPage, WatchInboxRequest, WriteRegistryRequest,
    WriteRegistryResponse, WriterToken, epoch_page, inbox_entry,
    ledger_server::{Ledger, LedgerServer},
    record_epoch_request,
};
use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// As the real one: what the operator's own checks let pass may still be too large.
const MAX_CHANGE: usize = 1 << 20;

#[derive(Default)]
struct State {
    records: Vec<RegistryRecord>,
    registry: Registry,
    writer: u64,
    writes: u64,
    attempts: u64,
    inbox: BTreeMap<u64, InboxEntry>,
    answers: BTreeMap<u64, Option<v1::EnrollResponse>>,
    epochs: BTreeMap<(String, u64), Epoch>,
    statistics: Vec<GrainStatistic>,
    presence: PresencePage,
    presence_reads: u64,
    refuse_records: u32,
    away: bool,
}

#[derive(Clone, Default)]
struct Epoch {
    close: EpochClose,
    summary: Vec<u8>,
    lines: Vec<Vec<u8>>,
    state: Vec<u8>,
}

/// The ledger; clones share it.
#[derive(Clone)]
pub(crate) struct FakeLedger {
    state: Arc<Mutex<State>>,
    inbox: Arc<watch::Sender<u64>>,
}

fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

impl FakeLedger {
    /// Serves on a free port until the runtime ends.
    pub(crate) async fn serve() -> (Self, SocketAddr) {
        let ledger = Self { state: Arc::default(), inbox: Arc::new(watch::Sender::new(0)) };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = LedgerServer::new(ledger.clone());
        tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        (ledger, address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn registry(&self) -> Registry {
        self.state().registry.clone()
    }

    /// Names of the registry's changes after `version`.
    pub(crate) fn changes_after(&self, version: u64) -> Vec<String> {
        let state = self.state();
        let records = state.records.iter().filter(|record| record.version > version);
        let name = |record: &RegistryRecord| {
            let change: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&record.change).unwrap();
            change.keys().next().unwrap().clone()
        };
        records.map(name).collect()
    }

    /// How many writes there were.
    pub(crate) fn writes(&self) -> u64 {
        self.state().writes
    }

    /// How many writes there were, refused ones included.
    pub(crate) fn attempts(&self) -> u64 {
        self.state().attempts
    }

    pub(crate) fn writer(&self) -> u64 {
        self.state().writer
    }

    /// Puts an entry into the inbox.
    pub(crate) fn post(&self, entry: inbox_entry::Entry) -> u64 {
        let mut state = self.state();
        let id = state
            .inbox
            .keys()
            .next_back()
            .copied()
            .unwrap_or(0)
            .max(state.answers.keys().next_back().copied().unwrap_or(0))
            + 1;
        state.inbox.insert(id, InboxEntry { id, received_at: now(), entry: Some(entry) });
        drop(state);
        self.inbox.send_replace(id);
        id
    }

    pub(crate) fn answer(&self, id: u64) -> Option<Option<v1::EnrollResponse>> {
        self.state().answers.get(&id).cloned()
    }

    pub(crate) fn set_statistics(&self, statistics: Vec<GrainStatistic>) {
        self.state().statistics = statistics;
    }

    /// The next `count` results are not taken, as if the operator had died before it handed them in.
    pub(crate) fn refuse_records(&self, count: u32) {
        self.state().refuse_records = count;
    }

    /// Whether it answers that it is not there.
    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    pub(crate) fn set_presence(&self, presence: PresencePage) {
        self.state().presence = presence;
    }

    /// How often somebody asked who is there.
    pub(crate) fn presence_reads(&self) -> u64 {
        self.state().presence_reads
    }

    /// Numbers of the recorded epochs of a program.
    pub(crate) fn recorded(&self, program: &str) -> Vec<u64> {
        let state = self.state();
        let of_program = state.epochs.iter().filter(|((of, _), epoch)| of == program && !epoch.summary.is_empty());
        of_program.map(|((_, number), _)| *number).collect()
    }

    pub(crate) fn summary(&self, program: &str, number: u64) -> serde_json::Value {
        serde_json::from_slice(&self.state().epochs[&(program.to_owned(), number)].summary).unwrap()
    }
}

impl State {
    fn check_there(&self) -> Result<(), Status> {
        if self.away { Err(Status::unavailable("away for a test")) } else { Ok(()) }
    }

    fn check_writer(&self, token: Option<WriterToken>) -> Result<(), Status> {
        match token {
            Some(token) if token.token == self.writer => Ok(()),
            _ => Err(Status::permission_denied("another operator leads")),
        }
    }
}

type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn list<T: Send + 'static>(items: Vec<T>) -> Response<Answers<T>> {
    Response::new(Box::pin(tokio_stream::iter(items.into_iter().map(Ok))))
}

#[tonic::async_trait]
impl Ledger for FakeLedger {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<LedgerInfo>, Status> {
        let state = self.state();
        state.check_there()?;
        let info = LedgerInfo {
            incarnation: 1,
            registry_version: state.registry.version(),
            writer_token: state.writer,
            ..Default::default()
        };
        Ok(Response::new(info))
    }

    async fn acquire_writer(&self, _: Request<AcquireWriterRequest>) -> Result<Response<WriterToken>, Status> {
        let mut state = self.state();
        state.writer += 1;
        Ok(Response::new(WriterToken { incarnation: 1, token: state.writer }))
    }

    async fn write_registry(
        &self,
        request: Request<WriteRegistryRequest>,
    ) -> Result<Response<WriteRegistryResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.check_there()?;
        state.check_writer(request.writer)?;
        if request.expected_version != state.registry.version() {
            return Err(Status::aborted("the registry has gone on"));
        }
        state.attempts += 1;
        if let Some(index) = request.changes.iter().position(|change| change.len() > MAX_CHANGE) {
            return Err(Status::invalid_argument(format!("changes[{index}]: more than {MAX_CHANGE} bytes")));
        }
        let mut ahead = state.registry.clone();
        let mut records = Vec::new();
        for bytes in request.changes {
            let change: Change =
                serde_json::from_slice(&bytes).map_err(|error| Status::invalid_argument(error.to_string()))?;
            ahead.check(&change).map_err(|error| Status::invalid_argument(error.to_string()))?;
            let (version, at) = (ahead.version() + 1, now());
            ahead.apply(Record { version, at: Timestamp(at), change }).unwrap();
            records.push(RegistryRecord { incarnation: 1, version, at, change: bytes });
        }
        state.records.extend(records);
        state.registry = ahead;
        state.writes += 1;
        Ok(Response::new(WriteRegistryResponse { version: state.registry.version() }))
    }

    type ReadRegistryStream = Answers<RegistryRecord>;
    async fn read_registry(
        &self,
        request: Request<ReadRegistryRequest>,
    ) -> Result<Response<Self::ReadRegistryStream>, Status> {
        let request = request.into_inner();
        let until = if request.until_version == 0 { u64::MAX } else { request.until_version };
        let wanted = |record: &&RegistryRecord| record.version > request.after_version && record.version <= until;
        Ok(list(self.state().records.iter().filter(wanted).cloned().collect()))
    }

    type WatchInboxStream = Answers<InboxEntry>;
    async fn watch_inbox(&self, _: Request<WatchInboxRequest>) -> Result<Response<Self::WatchInboxStream>, Status> {
        let ledger = self.clone();
        let mut told = 0;
        let changes = tokio_stream::wrappers::WatchStream::new(self.inbox.subscribe());
        let entries = changes.map(move |_| {
            let open: Vec<_> = ledger.state().inbox.range(told + 1..).map(|(_, entry)| entry.clone()).collect();
            told = open.last().map_or(told, |entry| entry.id);
            tokio_stream::iter(open)
        });
        Ok(Response::new(Box::pin(futures::StreamExt::flatten(entries).map(Ok))))
    }

    async fn answer_inbox(
        &self,
        request: Request<AnswerInboxRequest>,
    ) -> Result<Response<AnswerInboxResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.check_writer(request.writer)?;
        state.inbox.remove(&request.id).ok_or_else(|| Status::not_found("no such entry"))?;
        state.answers.insert(request.id, request.response);
        Ok(Response::new(AnswerInboxResponse {}))
    }

    async fn close_epoch(&self, request: Request<CloseEpochRequest>) -> Result<Response<EpochClose>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.check_writer(request.writer)?;
        if now() < request.end + request.grace_ms {
            return Err(Status::failed_precondition("too early"));
        }
        let close = EpochClose {
            program: request.program.clone(),
            window: Some(EpochWindow { number: request.number, start: request.start, end: request.end }),
            registry_version: state.registry.version(),
            position: 7,
            closed_at: now(),
            matured: request.matured,
            writer_token: state.writer,
        };
        let epoch = state
            .epochs
            .entry((request.program, request.number))
            .or_insert_with(|| Epoch { close, ..Epoch::default() });
        Ok(Response::new(epoch.close.clone()))
    }

    type ReadStatisticsStream = Answers<StatisticsPage>;
    async fn read_statistics(
        &self,
        _: Request<ReadStatisticsRequest>,
    ) -> Result<Response<Self::ReadStatisticsStream>, Status> {
        Ok(list(vec![StatisticsPage { statistics: self.state().statistics.clone() }]))
    }

    async fn record_epoch(
        &self,
        request: Request<Streaming<RecordEpochRequest>>,
    ) -> Result<Response<RecordEpochResponse>, Status> {
        let mut messages = request.into_inner();
        let (mut header, mut lines, mut result) = (None, Vec::new(), Vec::new());
        while let Some(message) = messages.next().await {
            match message?.message {
                Some(record_epoch_request::Message::Header(told)) => header = Some(told),
                Some(record_epoch_request::Message::Lines(told)) => {
                    lines.extend(told.lines.iter().map(|line| line.to_vec()))
                }
                Some(record_epoch_request::Message::State(told)) => result.extend_from_slice(&told.chunk),
                None => {}
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("no header"))?;
        let mut state = self.state();
        state.check_writer(header.writer)?;
        if state.refuse_records > 0 {
            state.refuse_records -= 1;
            return Err(Status::unavailable("interrupted"));
        }
        let epoch =
            state.epochs.get_mut(&(header.program, header.number)).ok_or_else(|| Status::not_found("not closed"))?;
        let repeated = !epoch.summary.is_empty();
        if repeated && epoch.summary != header.summary {
            return Err(Status::already_exists("another result stands"));
        }
        (epoch.summary, epoch.lines, epoch.state) = (header.summary.to_vec(), lines, result);
        Ok(Response::new(RecordEpochResponse { digest: vec![1; 32].into(), repeated }))
    }

    async fn read_backups(&self, _: Request<v1::ReadBackupsRequest>) -> Result<Response<v1::BackupStatus>, Status> {
        Ok(Response::new(v1::BackupStatus::default()))
    }

    async fn request_backup(&self, _: Request<v1::RequestBackupRequest>) -> Result<Response<v1::BackupStatus>, Status> {
        Err(Status::failed_precondition("no backup is configured"))
    }

    async fn keep_authority(
        &self,
        _: Request<v1::KeepAuthorityRequest>,
    ) -> Result<Response<v1::KeepAuthorityResponse>, Status> {
        Err(Status::failed_precondition("no backup is configured"))
    }

    async fn read_hold(&self, _: Request<v1::ReadHoldRequest>) -> Result<Response<v1::ClosingHold>, Status> {
        Ok(Response::new(v1::ClosingHold::default()))
    }

    async fn release_hold(
        &self,
        _: Request<v1::ReleaseHoldRequest>,
    ) -> Result<Response<v1::ReleaseHoldResponse>, Status> {
        Ok(Response::new(v1::ReleaseHoldResponse { awaited: 0 }))
    }

    async fn finalize(&self, _: Request<v1::FinalizeRequest>) -> Result<Response<v1::FinalizeResponse>, Status> {
        Ok(Response::new(v1::FinalizeResponse { feature_level: 1 }))
    }

    async fn list_epochs(&self, request: Request<ListEpochsRequest>) -> Result<Response<ListEpochsResponse>, Status> {
        let request = request.into_inner();
        let state = self.state();
        let from = (request.program.clone(), request.from_number);
        let of_program = state.epochs.range(from..).filter(|((program, _), _)| *program == request.program);
        let epochs = of_program.take(request.limit as usize).map(|(_, epoch)| entry(epoch)).collect();
        Ok(Response::new(ListEpochsResponse { epochs }))
    }

    type ReadEpochStream = Answers<EpochPage>;
    async fn read_epoch(&self, request: Request<ReadEpochRequest>) -> Result<Response<Self::ReadEpochStream>, Status> {
        let request = request.into_inner();
        let state = self.state();
        let epoch =
            state.epochs.get(&(request.program, request.number)).ok_or_else(|| Status::not_found("no such epoch"))?;
        let mut pages = vec![epoch_page::Message::Entry(entry(epoch))];
        if request.lines {
            pages.push(epoch_page::Message::Lines(EpochLines {
                lines: epoch.lines.iter().cloned().map(Into::into).collect(),
            }));
        }
        if request.state {
            pages.push(epoch_page::Message::State(EpochState { chunk: epoch.state.clone().into() }));
        }
        Ok(list(pages.into_iter().map(|message| EpochPage { message: Some(message) }).collect()))
    }

    type ReadExportStream = Answers<FileChunk>;
    async fn read_export(&self, _: Request<ReadExportRequest>) -> Result<Response<Self::ReadExportStream>, Status> {
        Ok(list(Vec::new()))
    }

    type ReadProofsStream = Answers<ProofRecord>;
    async fn read_proofs(&self, _: Request<ReadProofsRequest>) -> Result<Response<Self::ReadProofsStream>, Status> {
        Ok(list(Vec::new()))
    }

    type ReadPresenceStream = Answers<PresencePage>;
    async fn read_presence(
        &self,
        _: Request<ReadPresenceRequest>,
    ) -> Result<Response<Self::ReadPresenceStream>, Status> {
        let mut state = self.state();
        state.presence_reads += 1;
        Ok(list(vec![state.presence.clone()]))
    }
}

fn entry(epoch: &Epoch) -> EpochEntry {
    EpochEntry {
        close: Some(epoch.close.clone()),
        summary: epoch.summary.clone().into(),
        result_digest: vec![1; 32].into(),
    }
}
