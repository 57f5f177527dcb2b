//! The Ledger service over the ledger's trait.

use std::sync::Arc;

use depin_domain::{
    canonical,
    ids::DeviceId,
    registry::{Record, Registry},
    time::{Timestamp, Window},
};
use depin_ledger::{Ledger, ProofFilter, StoredProof};
use depin_proto::{
    convert::{FieldError, device_id, key_id, path_to_proto, verdict_to_proto},
    envelope::{ReceiptBody, decode_header, decode_section, encode_receipt, section_path, verdict_digest},
    v1::{self, ledger_server},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{sight::Sight, status};
use crate::{backup::Backups, clock::Clock, metrics::Metrics, peer, presence::Presence, proofs::ReceiptSigner};

/// Answers that may wait for a slow reader.
pub(super) const WAITING: usize = 16;
/// Records or proofs read at a time.
const PAGE: usize = 512;
/// Agents or devices of one page.
const PRESENCE_PAGE: usize = 1_000;
/// Most chains of a hold that are listed.
const HOLD_CHAINS: usize = 1_000;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct LedgerService {
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) receipts: ReceiptSigner,
    pub(crate) stop: CancellationToken,
    pub(crate) backups: Backups,
}

pub(super) type Stream<T> = ReceiverStream<Result<T, Status>>;
pub(super) type Sender<T> = mpsc::Sender<Result<T, Status>>;

impl LedgerService {
    pub(super) fn sight<T>(&self, request: &Request<T>) -> Result<Sight, Status> {
        Ok(Sight::new(peer::reader(request, self.clock.now())?))
    }

    /// The operator's request.
    fn write<T>(&self, request: Request<T>) -> Result<T, Status> {
        self.sight(&request)?.must_write()?;
        Ok(request.into_inner())
    }

    /// Runs `produce` in a task of its own until it ends, the reader leaves, or the gateway drains.
    pub(super) fn stream<T, F>(&self, produce: impl FnOnce(Self, Sender<T>) -> F) -> Response<Stream<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(WAITING);
        let produced = produce(self.clone(), sender.clone());
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sender.closed() => {}
                produced = produced => if let Err(status) = produced {
                    // The reader may be gone already.
                    let _unheard = sender.send(Err(status)).await;
                },
            }
        });
        Response::new(ReceiverStream::new(receiver))
    }

    async fn registry_records(
        self,
        request: v1::ReadRegistryRequest,
        sight: Sight,
        sender: Sender<v1::RegistryRecord>,
    ) -> Result<(), Status> {
        let mut changes = self.ledger.registry();
        let mut after = request.after_version;
        loop {
            let snapshot = Arc::clone(&changes.borrow_and_update());
            let newest = snapshot.registry.version();
            let until = if request.until_version == 0 { newest } else { request.until_version.min(newest) };
            while after < until {
                let records = self.ledger.read_registry(after, PAGE).await.map_err(status)?;
                let Some(last) = records.last() else { break };
                after = last.version;
                for record in records.iter().filter(|record| record.version <= until) {
                    if sight.change(&record.change, &snapshot.registry) {
                        send(&sender, registry_record(record, snapshot.incarnation)?).await?;
                    }
                }
            }
            let done = request.until_version != 0 && after >= request.until_version;
            if !request.follow || done || changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn inbox_entries(self, sender: Sender<v1::InboxEntry>) -> Result<(), Status> {
        let mut changes = self.ledger.inbox_changes();
        let mut after = 0;
        loop {
            changes.mark_unchanged();
            for entry in self.ledger.read_inbox(after).await.map_err(status)? {
                after = entry.id;
                send(&sender, entry).await?;
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn proof_records(
        self,
        request: v1::ReadProofsRequest,
        sight: Sight,
        sender: Sender<v1::ProofRecord>,
    ) -> Result<(), Status> {
        let device = optional(&request.device_id, |bytes| device_id("device_id", bytes))?;
        let key = optional(&request.key_id, |bytes| key_id("key_id", bytes))?;
        sight.proofs(device.as_ref(), key.as_ref(), &self.ledger.registry().borrow().registry)?;
        let window = Window { start: Timestamp(request.start), end: Timestamp(request.end) };
        let wanted = match request.limit {
            0 => usize::MAX,
            limit => limit as usize,
        };
        let alone = request.sections_only || sight.sections_only();
        let (mut sent, mut after) = (0, request.after_position);
        while sent < wanted {
            let limit = PAGE.min(wanted - sent);
            let filter = ProofFilter { device, key, window, after, limit };
            let page = self.ledger.read_proofs(filter).await.map_err(status)?;
            // Much of the log was read for nothing: whoever wants more of it asks again.
            let silent = page.proofs.is_empty();
            for stored in page.proofs {
                sent += 1;
                let registry = Arc::clone(&self.ledger.registry().borrow());
                let shown =
                    |id: &DeviceId| device.is_none_or(|wanted| wanted == *id) && sight.device(id, &registry.registry);
                send(&sender, self.proof_record(stored, alone.then_some(&shown))?).await?;
            }
            let Some(next) = page.next else { break };
            after = next;
            if silent {
                send(&sender, v1::ProofRecord { scanned_to: next, ..Default::default() }).await?;
                break;
            }
        }
        Ok(())
    }

    /// A recorded proof with its receipt, whole or with the sections that `shown` admits and their paths.
    fn proof_record(
        &self,
        stored: StoredProof,
        shown: Option<&impl Fn(&DeviceId) -> bool>,
    ) -> Result<v1::ProofRecord, Status> {
        let receipt = Some(self.receipt(&stored)?);
        let mut proof = stored.proof;
        let mut paths = Vec::new();
        if let Some(shown) = shown {
            let sections = std::mem::take(&mut proof.sections);
            for (index, section) in sections.iter().enumerate() {
                if decode_section(section).is_ok_and(|section| shown(&section.device)) {
                    let path = u32::try_from(index).ok().and_then(|index| section_path(&sections, index));
                    paths.extend(path.as_ref().map(path_to_proto));
                    proof.sections.push(section.clone());
                }
            }
        }
        Ok(v1::ProofRecord {
            position: stored.position,
            received_at: stored.received_at.0,
            proof: Some(proof),
            verdict: Some(verdict_to_proto(&stored.verdict)),
            receipt,
            paths,
            scanned_to: 0,
        })
    }

    /// The receipt, signed anew: the record holds all that it says.
    fn receipt(&self, stored: &StoredProof) -> Result<v1::Receipt, Status> {
        let unreadable = |error: depin_proto::envelope::EnvelopeError| {
            Status::data_loss(format!("the proof at {} is unreadable: {error}", stored.position))
        };
        let header = decode_header(&stored.proof.header).map_err(unreadable)?;
        let key = self.receipts.key();
        let body = encode_receipt(&ReceiptBody {
            gateway: key.id(),
            key: header.key,
            incarnation: header.incarnation,
            sequence: header.sequence,
            digest: depin_domain::ids::Digest::of(&stored.proof.header),
            ledger_incarnation: stored.ledger_incarnation,
            position: stored.position,
            received_at: stored.received_at,
            accepted: stored.verdict.accepted,
            rejected: stored.rejected,
            verdict: verdict_digest(&stored.verdict).map_err(unreadable)?,
            durable: true,
            archived: stored.archived,
        });
        Ok(crate::proofs::sign_receipt(&key, body))
    }

    async fn presence_pages(self, sight: Sight, sender: Sender<v1::PresencePage>) -> Result<(), Status> {
        let pages = {
            let snapshot = Arc::clone(&self.ledger.registry().borrow());
            let registry: &Registry = &snapshot.registry;
            self.presence.pages(PRESENCE_PAGE, |id| sight.agent(id, registry), |id| sight.device(id, registry))
        };
        for page in pages {
            send(&sender, page).await?;
        }
        Ok(())
    }
}

fn registry_record(record: &Record, incarnation: u64) -> Result<v1::RegistryRecord, Status> {
    let change = canonical::to_vec(&record.change)
        .map_err(|error| Status::internal(format!("registry version {}: {error}", record.version)))?;
    Ok(v1::RegistryRecord { incarnation, version: record.version, at: record.at.0, change: change.into() })
}

fn optional<T>(bytes: &[u8], parse: impl Fn(&[u8]) -> Result<T, FieldError>) -> Result<Option<T>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    parse(bytes).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
}

pub(super) async fn send<T>(sender: &Sender<T>, message: T) -> Result<(), Status> {
    sender.send(Ok(message)).await.map_err(|_| Status::cancelled("the reader is gone"))
}

#[tonic::async_trait]
impl ledger_server::Ledger for LedgerService {
    async fn get_info(&self, request: Request<v1::GetInfoRequest>) -> Result<Response<v1::LedgerInfo>, Status> {
        self.sight(&request)?;
        let mut info = self.ledger.info().await.map_err(status)?;
        info.proofs_refused = self
            .metrics
            .refusals()
            .into_iter()
            .map(|(reason, count)| v1::DropCount { reason: reason.into(), count })
            .collect();
        let key = self.receipts.key();
        info.gateway_algorithm = key.public().algorithm.code().into();
        info.gateway_key = key.public().bytes.clone().into();
        info.gateway_version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(info))
    }

    async fn acquire_writer(
        &self,
        request: Request<v1::AcquireWriterRequest>,
    ) -> Result<Response<v1::WriterToken>, Status> {
        let holder = self.write(request)?.holder;
        let token = self.ledger.acquire_writer(holder.clone()).await.map_err(status)?;
        tracing::info!(%holder, token = token.token, "the writer token was taken");
        Ok(Response::new(token))
    }

    async fn write_registry(
        &self,
        request: Request<v1::WriteRegistryRequest>,
    ) -> Result<Response<v1::WriteRegistryResponse>, Status> {
        let version = self.ledger.write_registry(self.write(request)?).await.map_err(status)?;
        Ok(Response::new(v1::WriteRegistryResponse { version }))
    }

    type ReadRegistryStream = Stream<v1::RegistryRecord>;

    async fn read_registry(
        &self,
        request: Request<v1::ReadRegistryRequest>,
    ) -> Result<Response<Self::ReadRegistryStream>, Status> {
        let sight = self.sight(&request)?;
        let request = request.into_inner();
        Ok(self.stream(|service, sender| service.registry_records(request, sight, sender)))
    }

    type WatchInboxStream = Stream<v1::InboxEntry>;

    async fn watch_inbox(
        &self,
        request: Request<v1::WatchInboxRequest>,
    ) -> Result<Response<Self::WatchInboxStream>, Status> {
        self.sight(&request)?.must_see_all()?;
        Ok(self.stream(Self::inbox_entries))
    }

    async fn answer_inbox(
        &self,
        request: Request<v1::AnswerInboxRequest>,
    ) -> Result<Response<v1::AnswerInboxResponse>, Status> {
        self.ledger.answer_inbox(self.write(request)?).await.map_err(status)?;
        Ok(Response::new(v1::AnswerInboxResponse {}))
    }

    async fn close_epoch(&self, request: Request<v1::CloseEpochRequest>) -> Result<Response<v1::EpochClose>, Status> {
        let close = self.ledger.close_epoch(self.write(request)?).await.map_err(status)?;
        Ok(Response::new(close))
    }

    type ReadStatisticsStream = Stream<v1::StatisticsPage>;

    async fn read_statistics(
        &self,
        request: Request<v1::ReadStatisticsRequest>,
    ) -> Result<Response<Self::ReadStatisticsStream>, Status> {
        self.sight(&request)?.program(&request.get_ref().program)?;
        let request = request.into_inner();
        Ok(self.stream(|service, sender| service.statistics_pages(request, sender)))
    }

    async fn record_epoch(
        &self,
        request: Request<Streaming<v1::RecordEpochRequest>>,
    ) -> Result<Response<v1::RecordEpochResponse>, Status> {
        let stream = self.write(request)?;
        self.record(stream).await.map(Response::new)
    }

    async fn list_epochs(
        &self,
        request: Request<v1::ListEpochsRequest>,
    ) -> Result<Response<v1::ListEpochsResponse>, Status> {
        self.sight(&request)?.program(&request.get_ref().program)?;
        let v1::ListEpochsRequest { program, from_number, limit } = request.into_inner();
        let limit = if limit == 0 { PAGE } else { PAGE.min(limit as usize) };
        let epochs = self.ledger.list_epochs(program, from_number, limit).await.map_err(status)?;
        Ok(Response::new(v1::ListEpochsResponse { epochs }))
    }

    type ReadEpochStream = Stream<v1::EpochPage>;

    async fn read_epoch(
        &self,
        request: Request<v1::ReadEpochRequest>,
    ) -> Result<Response<Self::ReadEpochStream>, Status> {
        self.sight(&request)?.program(&request.get_ref().program)?;
        let request = request.into_inner();
        Ok(self.stream(|service, sender| service.epoch_pages(request, sender)))
    }

    type ReadExportStream = Stream<v1::FileChunk>;

    async fn read_export(
        &self,
        request: Request<v1::ReadExportRequest>,
    ) -> Result<Response<Self::ReadExportStream>, Status> {
        let sight = self.sight(&request)?;
        sight.program(&request.get_ref().program)?;
        let request = request.into_inner();
        Ok(self.stream(|service, sender| service.export_chunks(request, sender)))
    }

    async fn read_hold(&self, request: Request<v1::ReadHoldRequest>) -> Result<Response<v1::ClosingHold>, Status> {
        self.sight(&request)?.must_see_all()?;
        let limit = match request.into_inner().limit {
            0 => HOLD_CHAINS,
            limit => HOLD_CHAINS.min(limit as usize),
        };
        Ok(Response::new(self.ledger.read_hold(limit).await.map_err(status)?))
    }

    async fn release_hold(
        &self,
        request: Request<v1::ReleaseHoldRequest>,
    ) -> Result<Response<v1::ReleaseHoldResponse>, Status> {
        let writer = self.write(request)?.writer.unwrap_or_default();
        let awaited = self.ledger.release_closing(writer).await.map_err(status)?;
        tracing::warn!(awaited, "a person released the hold on closing after the restore");
        Ok(Response::new(v1::ReleaseHoldResponse { awaited }))
    }

    async fn finalize(&self, request: Request<v1::FinalizeRequest>) -> Result<Response<v1::FinalizeResponse>, Status> {
        let writer = self.write(request)?.writer.unwrap_or_default();
        let feature_level = self.ledger.finalize(writer).await.map_err(status)?;
        tracing::warn!(feature_level, "a person finalized the upgrade: older versions refuse the ledger from now on");
        Ok(Response::new(v1::FinalizeResponse { feature_level }))
    }

    async fn read_backups(
        &self,
        request: Request<v1::ReadBackupsRequest>,
    ) -> Result<Response<v1::BackupStatus>, Status> {
        self.sight(&request)?.must_see_all()?;
        self.backup_status(request.into_inner().generations).await.map(Response::new)
    }

    async fn request_backup(
        &self,
        request: Request<v1::RequestBackupRequest>,
    ) -> Result<Response<v1::BackupStatus>, Status> {
        let wait = self.write(request)?.wait;
        self.make_backup(wait).await.map(Response::new)
    }

    async fn keep_authority(
        &self,
        request: Request<v1::KeepAuthorityRequest>,
    ) -> Result<Response<v1::KeepAuthorityResponse>, Status> {
        let request = self.write(request)?;
        self.keep_sealed(request).await.map(Response::new)
    }

    type ReadProofsStream = Stream<v1::ProofRecord>;

    async fn read_proofs(
        &self,
        request: Request<v1::ReadProofsRequest>,
    ) -> Result<Response<Self::ReadProofsStream>, Status> {
        let sight = self.sight(&request)?;
        let request = request.into_inner();
        Ok(self.stream(|service, sender| service.proof_records(request, sight, sender)))
    }

    type ReadPresenceStream = Stream<v1::PresencePage>;

    async fn read_presence(
        &self,
        request: Request<v1::ReadPresenceRequest>,
    ) -> Result<Response<Self::ReadPresenceStream>, Status> {
        let sight = self.sight(&request)?;
        Ok(self.stream(|service, sender| service.presence_pages(sight, sender)))
    }
}

#[cfg(test)]
mod tests {
    use depin_domain::ids::KeyId;
    use depin_ledger::LedgerError;

    use super::*;

    #[test]
    fn an_empty_id_asks_for_everything_and_a_short_one_is_refused() {
        let parse = |bytes: &[u8]| optional(bytes, |bytes| key_id("key_id", bytes));
        assert_eq!(parse(&[]).unwrap(), None::<KeyId>);
        assert_eq!(parse(&[1; 32]).unwrap(), Some(KeyId([1; 32])));
        assert_eq!(parse(&[1; 31]).unwrap_err().message(), "key_id: has 31 bytes instead of 32");
    }

    #[test]
    fn status_codes_are_those_of_the_protocol() {
        let too_early = LedgerError::TooEarly {
            program: "grid/energy".into(),
            number: 1,
            end: Timestamp(0),
            grace_ms: 1,
            remaining_ms: 1,
        };
        assert_eq!(status(too_early).code(), tonic::Code::FailedPrecondition);
        assert_eq!(status(LedgerError::VersionConflict { expected: 1, newest: 2 }).code(), tonic::Code::Aborted);
        let fenced = LedgerError::Fenced { incarnation: 1, token: 1, newest_incarnation: 1, newest: 2 };
        assert_eq!(status(fenced).code(), tonic::Code::PermissionDenied);
    }
}
