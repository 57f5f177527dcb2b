//! From a close to its result: everything is read from the ledger as of that close, so that the result is the same whoever computes it, and when.

use depin_domain::{
    registry::{Record, Registry},
    rewards::{
        EpochInput, EpochResult, Line, MaturedInput, ProgramSpec, ProgramState, assemble::Assembly, close_epoch,
    },
    time::Timestamp,
};
use depin_proto::v1::{
    EpochClose, EpochHeader, EpochLines, EpochState, ReadEpochRequest, ReadRegistryRequest, ReadStatisticsRequest,
    RecordEpochRequest, RecordEpochResponse, epoch_page, record_epoch_request::Message,
};

use super::epochs::EpochError;
use crate::ledger::Ledger;

/// Lines of one message.
const LINES: usize = 2000;
/// Bytes of the state in one message.
const CHUNK: usize = 1 << 20;

/// Computes what `close` froze.
///
/// # Errors
/// When the ledger cannot be read, or what it says cannot be computed.
pub async fn compute(
    ledger: &Ledger,
    at_hand: Registry,
    close: &EpochClose,
    state: ProgramState,
) -> Result<EpochResult, EpochError> {
    let registry = registry_at(ledger, at_hand, close.registry_version).await?;
    let number = close.window.as_ref().map_or(0, |window| window.number);
    let (spec, devices) = gather(ledger, &registry, close, number, number).await?;
    let mut matured = Vec::new();
    for window in &close.matured {
        let (spec, devices) = gather(ledger, &registry, close, number, window.number).await?;
        let lines = lines(ledger, &close.program, window.number).await?;
        matured.push(MaturedInput { number: window.number, spec, devices, lines });
    }
    let input = EpochInput { program: close.program.clone(), number, spec, devices, matured, state };
    // Up to seconds of computing: off the threads that answer leases and streams.
    let computed = tokio::task::spawn_blocking(move || close_epoch(&input)).await;
    Ok(computed.map_err(|error| EpochError::Interrupted(error.to_string()))??)
}

type Devices = (ProgramSpec, Vec<depin_domain::rewards::DeviceInput>);

async fn gather(
    ledger: &Ledger,
    registry: &Registry,
    close: &EpochClose,
    number: u64,
    of: u64,
) -> Result<Devices, EpochError> {
    let spec = ruling_spec(registry, &close.program, of)?;
    let mut assembly = Assembly::new(registry, &spec, of)?;
    let request = ReadStatisticsRequest { program: close.program.clone(), number, of_number: of };
    let failed = |status| EpochError::ledger("ReadStatistics", status);
    let mut pages = ledger.client().read_statistics(request).await.map_err(failed)?.into_inner();
    while let Some(page) = pages.message().await.map_err(failed)? {
        for raw in &page.statistics {
            let (device, statistic) = super::statistics::from_wire(raw)?;
            assembly.add(&device, &raw.metric, &statistic);
        }
    }
    Ok((spec, assembly.finish()))
}

/// The spec that rules epoch `number`.
///
/// # Errors
/// When the registry has no such program or its spec cannot be read.
pub fn ruling_spec(registry: &Registry, program: &str, number: u64) -> Result<ProgramSpec, EpochError> {
    let entry = registry
        .program(program)
        .and_then(|known| known.ruling(number))
        .ok_or_else(|| EpochError::Unknown { program: program.to_owned(), number })?;
    serde_json::from_str(&entry.spec).map_err(|source| EpochError::Spec { program: program.to_owned(), source })
}

/// The registry as it was at the close: what came after must not change the result.
async fn registry_at(ledger: &Ledger, at_hand: Registry, version: u64) -> Result<Registry, EpochError> {
    let mut registry = if at_hand.version() <= version { at_hand } else { Registry::default() };
    if registry.version() == version {
        return Ok(registry);
    }
    let request = ReadRegistryRequest { after_version: registry.version(), until_version: version, follow: false };
    let failed = |status| EpochError::ledger("ReadRegistry", status);
    let mut records = ledger.client().read_registry(request).await.map_err(failed)?.into_inner();
    while let Some(raw) = records.message().await.map_err(failed)? {
        if raw.version > version {
            break;
        }
        let change = serde_json::from_slice(&raw.change)
            .map_err(|source| EpochError::Record { version: raw.version, source })?;
        registry.apply(Record { version: raw.version, at: Timestamp(raw.at), change })?;
    }
    Ok(registry)
}

/// The recorded lines of an epoch.
async fn lines(ledger: &Ledger, program: &str, number: u64) -> Result<Vec<Line>, EpochError> {
    let request = ReadEpochRequest { program: program.to_owned(), number, lines: true, ..Default::default() };
    let failed = |status| EpochError::ledger("ReadEpoch", status);
    let mut pages = ledger.client().read_epoch(request).await.map_err(failed)?.into_inner();
    let mut lines = Vec::new();
    while let Some(page) = pages.message().await.map_err(failed)? {
        if let Some(epoch_page::Message::Lines(page)) = page.message {
            for line in &page.lines {
                lines.push(serde_json::from_slice(line).map_err(|source| EpochError::Result { number, source })?);
            }
        }
    }
    Ok(lines)
}

/// The state that epoch `number` left.
///
/// # Errors
/// When the ledger cannot be read or the state is malformed.
pub async fn state_after(ledger: &Ledger, program: &str, number: u64) -> Result<ProgramState, EpochError> {
    let request = ReadEpochRequest { program: program.to_owned(), number, state: true, ..Default::default() };
    let failed = |status| EpochError::ledger("ReadEpoch", status);
    let mut pages = ledger.client().read_epoch(request).await.map_err(failed)?.into_inner();
    let mut text = Vec::new();
    while let Some(page) = pages.message().await.map_err(failed)? {
        if let Some(epoch_page::Message::State(state)) = page.message {
            text.extend_from_slice(&state.chunk);
        }
    }
    serde_json::from_slice(&text).map_err(|source| EpochError::Result { number, source })
}

/// Hands the result to the ledger, which keeps the first one.
///
/// # Errors
/// When the ledger refuses: another result stands, or another operator leads.
pub async fn record(ledger: &Ledger, result: &EpochResult) -> Result<RecordEpochResponse, EpochError> {
    let summary = depin_domain::canonical::to_vec(&result.summary)?;
    let state = result.state.canonical()?;
    let lines = result.lines.iter().map(Line::canonical).collect::<Result<Vec<_>, _>>()?;
    let header = EpochHeader {
        writer: ledger.writer(),
        program: result.summary.program.clone(),
        number: result.summary.number,
        summary: summary.into(),
    };
    let mut messages = vec![Message::Header(header)];
    messages.extend(
        lines
            .chunks(LINES)
            .map(|lines| Message::Lines(EpochLines { lines: lines.iter().cloned().map(Into::into).collect() })),
    );
    messages.extend(state.chunks(CHUNK).map(|chunk| Message::State(EpochState { chunk: chunk.to_vec().into() })));
    let requests = messages.into_iter().map(|message| RecordEpochRequest { message: Some(message) });
    let answer = ledger.client().record_epoch(futures::stream::iter(requests.collect::<Vec<_>>())).await;
    Ok(answer.map_err(|status| EpochError::ledger("RecordEpoch", status))?.into_inner())
}
