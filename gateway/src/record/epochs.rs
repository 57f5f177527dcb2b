//! Epochs over the wire: pages out, one result in.

use depin_domain::ids::DeviceId;
use depin_ledger::{EpochRecord, Export, LedgerError};
use depin_proto::{
    convert::device_id,
    v1::{self, epoch_page, read_export_request::Kind, record_epoch_request::Message},
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{
    service::{LedgerService, Sender, send},
    status,
};

/// Lines of one page, and bytes of one chunk of a state.
const LINES: usize = 1_000;
const CHUNK: usize = 1 << 20;
/// A result of a million devices takes about 400 MB; more than this is refused.
const MAX_RESULT_BYTES: usize = 2 << 30;

impl LedgerService {
    /// Collects a result and stores it.
    pub(super) async fn record(
        &self,
        mut stream: Streaming<v1::RecordEpochRequest>,
    ) -> Result<v1::RecordEpochResponse, Status> {
        let mut header: Option<v1::EpochHeader> = None;
        let mut result = EpochRecord::default();
        let mut bytes = 0_usize;
        while let Some(request) = stream.message().await? {
            match request.message {
                Some(Message::Header(it)) if header.is_none() => {
                    bytes = bytes.saturating_add(it.summary.len());
                    header = Some(it);
                }
                Some(Message::Header(_)) => return Err(Status::invalid_argument("header: comes twice")),
                Some(Message::Lines(it)) => {
                    bytes = bytes.saturating_add(it.lines.iter().map(|line| line.len()).sum());
                    result.lines.extend(it.lines.into_iter().map(Vec::from));
                }
                Some(Message::State(it)) => {
                    bytes = bytes.saturating_add(it.chunk.len());
                    result.state.extend_from_slice(&it.chunk);
                }
                None => return Err(Status::invalid_argument("RecordEpochRequest.message: is missing")),
            }
            if bytes > MAX_RESULT_BYTES {
                return Err(Status::resource_exhausted(format!("the result has more than {MAX_RESULT_BYTES} bytes")));
            }
        }
        let header = header.ok_or_else(|| Status::invalid_argument("header: is missing"))?;
        let writer = header.writer.ok_or_else(|| Status::invalid_argument("header.writer: is missing"))?;
        result.summary = header.summary.into();
        self.ledger.record_epoch(writer, header.program, header.number, result).await.map_err(status)
    }

    /// The epoch's entry, then its lines and state as far as they are wanted.
    pub(super) async fn epoch_pages(
        self,
        request: v1::ReadEpochRequest,
        sender: Sender<v1::EpochPage>,
    ) -> Result<(), Status> {
        let device = match request.device_id.as_ref() {
            [] => None,
            bytes => Some(device_id("device_id", bytes).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        let (entry, result) = self.ledger.read_epoch(request.program, request.number).await.map_err(status)?;
        send(&sender, page(epoch_page::Message::Entry(entry))).await?;
        let Some(result) = result else { return Ok(()) };
        if request.lines {
            let wanted = |line: &&Vec<u8>| device.is_none_or(|device| names(line, &device));
            let lines: Vec<&Vec<u8>> = result.lines.iter().filter(wanted).collect();
            for lines in lines.chunks(LINES) {
                let lines = lines.iter().map(|line| (*line).clone().into()).collect();
                send(&sender, page(epoch_page::Message::Lines(v1::EpochLines { lines }))).await?;
            }
        }
        if request.state {
            for chunk in result.state.chunks(CHUNK) {
                let state = v1::EpochState { chunk: chunk.to_vec().into() };
                send(&sender, page(epoch_page::Message::State(state))).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn statistics_pages(
        self,
        request: v1::ReadStatisticsRequest,
        sender: Sender<v1::StatisticsPage>,
    ) -> Result<(), Status> {
        forward(self.ledger.read_statistics(request).await.map_err(status)?, sender).await
    }

    pub(super) async fn export_chunks(
        self,
        request: v1::ReadExportRequest,
        sender: Sender<v1::FileChunk>,
    ) -> Result<(), Status> {
        let export = match request.kind() {
            Kind::Public => Export::Public,
            Kind::Audit => Export::Audit,
            Kind::Owner => {
                let account = request.account.parse();
                Export::Owner(account.map_err(|error| Status::invalid_argument(format!("account: {error}")))?)
            }
            Kind::Unspecified => return Err(Status::invalid_argument("kind: is none of PUBLIC, AUDIT and OWNER")),
        };
        let chunks = self.ledger.read_export(request.program, request.number, export).await.map_err(status)?;
        forward(chunks, sender).await
    }
}

fn page(message: epoch_page::Message) -> v1::EpochPage {
    v1::EpochPage { message: Some(message) }
}

/// Whether a line is this device's. Canonical JSON writes the id in one way only.
fn names(line: &[u8], device: &DeviceId) -> bool {
    let needle = format!("\"device\":\"{device}\"");
    line.windows(needle.len()).any(|part| part == needle.as_bytes())
}

async fn forward<T>(mut pages: mpsc::Receiver<Result<T, LedgerError>>, sender: Sender<T>) -> Result<(), Status> {
    while let Some(page) = pages.recv().await {
        send(&sender, page.map_err(status)?).await?;
    }
    Ok(())
}
