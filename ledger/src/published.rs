//! Closed epochs as they are told to others: entries, frozen statistics, exports.

use std::sync::Arc;

use depin_log::Storage;
use depin_proto::v1;
use prost::Message as _;
use tokio::sync::mpsc;

use crate::{
    api::{EpochRecord, Export, FileStream, Ledger},
    epochs,
    error::LedgerError,
    export::{self, Source},
    files::{Kind, Reader},
    state::Epoch,
};

/// Bytes after which a page of epochs ends: a summary of many accounts takes more than a megabyte.
const EPOCHS_BYTES: usize = 16 << 20;

/// Runs blocking `work` away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|error| Err(LedgerError::Unavailable(format!("a reading thread ended: {error}"))))
}

/// The first of the epochs as entries, as many as a page may hold: at least one.
pub(crate) fn page(files: &dyn Storage, epochs: &[Epoch]) -> Result<Vec<v1::EpochEntry>, LedgerError> {
    let (mut page, mut bytes) = (Vec::new(), 0_usize);
    for epoch in epochs {
        let entry = entry(files, epoch)?;
        bytes = bytes.saturating_add(entry.encoded_len());
        if bytes > EPOCHS_BYTES && !page.is_empty() {
            break;
        }
        page.push(entry);
    }
    Ok(page)
}

fn entry(files: &dyn Storage, epoch: &Epoch) -> Result<v1::EpochEntry, LedgerError> {
    let mut entry = v1::EpochEntry { close: epoch.closed.close.clone(), ..Default::default() };
    if let Some(file) = epoch.result.as_ref().and_then(|result| result.file.as_ref()) {
        entry.summary = epochs::read_summary(files, file)?.into();
        entry.result_digest = file.digest.clone();
    }
    Ok(entry)
}

/// An epoch and, where it is recorded, its result.
pub(crate) fn epoch(files: &dyn Storage, epoch: &Epoch) -> Result<(v1::EpochEntry, Option<EpochRecord>), LedgerError> {
    let file = epoch.result.as_ref().and_then(|result| result.file.as_ref());
    let result = file.map(|file| epochs::read_result(files, file)).transpose()?;
    Ok((entry(files, epoch)?, result))
}

/// Pages of the frozen statistics that are asked for.
pub(crate) fn statistics(
    files: Arc<dyn Storage>,
    epoch: Epoch,
    request: &v1::ReadStatisticsRequest,
) -> Result<mpsc::Receiver<Result<v1::StatisticsPage, LedgerError>>, LedgerError> {
    let missing = || {
        let v1::ReadStatisticsRequest { program, number, of_number } = request;
        LedgerError::NotFound(format!("statistics of epoch {of_number} in the close of {number} of {program}"))
    };
    let frozen = epoch.closed.frozen;
    let file = frozen.into_iter().find(|file| file.number == request.of_number).ok_or_else(missing)?;
    let (pages, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let send = |page| pages.blocking_send(page).is_ok();
        let mut reader = match Reader::open(&*files, &file, Kind::Statistics) {
            Ok(reader) => reader,
            Err(error) => {
                send(Err(error));
                return;
            }
        };
        loop {
            let page = reader.frame().and_then(|frame| {
                let page = frame.map(v1::StatisticsPage::decode).transpose();
                page.map_err(|error| LedgerError::Damaged(format!("{}: {error}", file.name)))
            });
            let last = page.is_err();
            let Some(page) = page.transpose() else { return };
            if !send(page) || last {
                return;
            }
        }
    });
    Ok(receiver)
}

/// Results that stand beside an epoch: of the one before it, and of those that matured with it.
pub(crate) type Neighbours = (Option<EpochRecord>, Vec<(u64, EpochRecord)>);

/// What an export of an epoch shows of its neighbours.
pub(crate) async fn neighbours(ledger: &dyn Ledger, epoch: &Epoch) -> Result<Neighbours, LedgerError> {
    let close = epoch.closed.close.clone().unwrap_or_default();
    let (program, number) = (close.program, close.window.unwrap_or_default().number);
    let mut matured = Vec::new();
    for window in &close.matured {
        let (_, result) = ledger.read_epoch(program.clone(), window.number).await?;
        matured.extend(result.map(|result| (window.number, result)));
    }
    let previous = match number.checked_sub(1) {
        Some(before) => match ledger.read_epoch(program, before).await {
            Ok((_, result)) => result,
            // A program's first epoch need not have the number 0.
            Err(LedgerError::NotFound(_)) => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    Ok((previous, matured))
}

/// Streams an export, away from the async threads.
pub(crate) fn export(
    export: Export,
    source: impl FnOnce() -> Result<Source, LedgerError> + Send + 'static,
) -> FileStream {
    let (chunks, receiver) = mpsc::channel(8);
    tokio::task::spawn_blocking(move || {
        let cut = |mut source: Source| {
            // The registry's records up to the close.
            let version = source.epoch.closed.close.as_ref().map_or(0, |close| close.registry_version);
            source.written.truncate(usize::try_from(version).unwrap_or(usize::MAX));
            source
        };
        let result = source().map(cut).and_then(|source| export::write(&source, export, &chunks));
        if let Err(error) = result {
            // A receiver that is gone wants no error either.
            drop(chunks.blocking_send(Err(error)));
        }
    });
    receiver
}
