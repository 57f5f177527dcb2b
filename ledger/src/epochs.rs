//! Closing epochs and recording what was computed for them.
//!
//! A close stands in the log's order: everything appended before it is durable and counts, nothing after it does. What it freezes is
//! written first, under a name that only this close uses; the record that names it makes it count.

use depin_domain::{
    canonical,
    ids::{DeviceId, Digest},
    registry::Registry,
    rewards::ProgramSpec,
    statistics::GrainStatistic,
    time::{Timestamp, Window},
};
use depin_proto::v1;
use prost::Message as _;

use crate::{
    api::EpochRecord,
    core::{Core, Journal},
    error::LedgerError,
    files::{self, Kind, Writer},
    record::{ClosedRecord, Entry, FileRecord, ResultRecord},
    state::State,
};

/// Statistics of a page.
const PAGE: usize = 512;
/// Lines of a page, and at how many bytes one ends with fewer.
const LINES: usize = 256;
const LINES_BYTES: usize = files::MAX_FRAME / 2;

fn invalid(field: &'static str, message: impl Into<String>) -> LedgerError {
    LedgerError::Invalid { field, message: message.into() }
}

/// A statistic as the protocol has it.
pub(crate) fn to_proto(
    device: &DeviceId,
    assignment: u32,
    metric: &str,
    grain_ms: i64,
    grain: &GrainStatistic,
) -> v1::GrainStatistic {
    v1::GrainStatistic {
        device_id: bytes::Bytes::copy_from_slice(device.as_ref()),
        assignment,
        metric: metric.to_owned(),
        grain_start: grain.start.0,
        grain_ms,
        count: grain.count,
        sum: grain.sum.to_string(),
        min: grain.min,
        max: grain.max,
        first_at: grain.first.at.0,
        first_value: grain.first.value,
        last_at: grain.last.at.0,
        last_value: grain.last.value,
        increase: grain.increase.to_string(),
        reset_increase: grain.reset_increase.to_string(),
        slots: grain.slots.to_bytes().into(),
        cadence_ms: grain.cadence_ms,
    }
}

/// Fleets of the program's spec that rules an epoch.
pub(crate) fn fleets(registry: &Registry, program: &str, number: u64) -> Result<Vec<String>, LedgerError> {
    let known = registry.program(program).ok_or_else(|| LedgerError::NotFound(format!("program {program}")))?;
    let entry = known.ruling(number).or_else(|| known.newest());
    let entry = entry.ok_or_else(|| LedgerError::NotFound(format!("a spec of program {program}")))?;
    let spec: ProgramSpec = serde_json::from_str(&entry.spec).map_err(|error| {
        invalid("program", format!("the spec of {program} cannot be read ({error}): apply it again"))
    })?;
    Ok(spec.fleets)
}

/// Statistics of the fleets' devices whose grain starts in the window, in pages, ascending by device.
pub(crate) fn statistics_pages(
    state: &State,
    fleets: &[String],
    window: Window,
    mut page: impl FnMut(&v1::StatisticsPage) -> Result<(), LedgerError>,
) -> Result<(), LedgerError> {
    let mut statistics = Vec::new();
    for (id, device) in state.registry.devices() {
        let Some(entry) = device.in_epoch(window, fleets) else { continue };
        let Some(account) = state.accounts.get(id) else { continue };
        let grain_ms = state.registry.fleet(&entry.fleet).and_then(|fleet| fleet.grain_ms()).unwrap_or(0);
        for (assignment, metric, grain) in account.within(window) {
            statistics.push(to_proto(id, assignment, metric, grain_ms, grain));
        }
        if statistics.len() >= PAGE {
            page(&v1::StatisticsPage { statistics: std::mem::take(&mut statistics) })?;
        }
    }
    if statistics.is_empty() { Ok(()) } else { page(&v1::StatisticsPage { statistics }) }
}

impl<J: Journal> Core<J> {
    pub(crate) fn close_epoch(&mut self, request: &v1::CloseEpochRequest) -> Result<v1::EpochClose, LedgerError> {
        self.check_writer(request.writer.as_ref())?;
        let window = Window { start: Timestamp(request.start), end: Timestamp(request.end) };
        if let Some(epoch) = self.state.epoch(&request.program, request.number) {
            return repeated(epoch.closed.close.as_ref(), request);
        }
        if window.is_empty() {
            return Err(invalid("end", "is not after start"));
        }
        self.check_apart(request)?;
        if self.state.held {
            return Err(LedgerError::ClosingHeld { missing: self.unreported() });
        }
        let mine = fleets(&self.state.registry, &request.program, request.number)?;
        self.tick(true)?;
        self.check_grace(request)?;
        // What was appended before counts and must not be lost to what is frozen of it.
        self.journal.secure()?;
        let what = format!("token{}", self.state.writer_token);
        let mut frozen = vec![self.freeze(request, request.number, window, &mine, &what)?];
        for earlier in &request.matured {
            let fleets = fleets(&self.state.registry, &request.program, earlier.number)?;
            let window = Window { start: Timestamp(earlier.start), end: Timestamp(earlier.end) };
            frozen.push(self.freeze(request, earlier.number, window, &fleets, &what)?);
        }
        let close = v1::EpochClose {
            program: request.program.clone(),
            window: Some(v1::EpochWindow { number: request.number, start: request.start, end: request.end }),
            registry_version: self.state.registry.version(),
            position: self.journal.end(),
            closed_at: self.now().0,
            matured: request.matured.clone(),
            writer_token: self.state.writer_token,
        };
        self.put(Entry::Closed(ClosedRecord { close: Some(close.clone()), frozen, fleets: mine }))?;
        self.bound_lateness()?;
        Ok(close)
    }

    /// Whether a close would come so far as to freeze statistics, as of now.
    pub(crate) fn would_freeze(&self, request: &v1::CloseEpochRequest) -> bool {
        let closed = self.state.epoch(&request.program, request.number).is_some();
        let due = self.now().0 >= request.end;
        !closed && due && !self.state.held && self.check_writer(request.writer.as_ref()).is_ok()
    }

    /// The window overlaps no other closed epoch of the program, and what matures was closed before with that very window.
    fn check_apart(&self, request: &v1::CloseEpochRequest) -> Result<(), LedgerError> {
        let closed = self.state.epochs.get(&request.program);
        let windows = closed.into_iter().flatten().filter_map(|(_, epoch)| epoch.closed.close.as_ref()?.window);
        for other in windows {
            if request.start < other.end && other.start < request.end {
                return Err(invalid("start", format!("epoch {} was closed and overlaps", other.number)));
            }
        }
        for earlier in &request.matured {
            let known = self.state.epoch(&request.program, earlier.number);
            let known = known.and_then(|epoch| epoch.closed.close.as_ref()).and_then(|close| close.window.as_ref());
            if known != Some(earlier) {
                return Err(invalid("matured", format!("epoch {} was not closed with this window", earlier.number)));
            }
        }
        Ok(())
    }

    fn check_grace(&self, request: &v1::CloseEpochRequest) -> Result<(), LedgerError> {
        let (end, grace_ms) = (Timestamp(request.end), request.grace_ms.max(0));
        let open = self.state.open_time.since(end);
        let to_come = end.since(self.now()).max(0);
        let remaining_ms = to_come.saturating_add(grace_ms - open.min(grace_ms));
        if remaining_ms > 0 {
            let (program, number) = (request.program.clone(), request.number);
            return Err(LedgerError::TooEarly { program, number, end, grace_ms, remaining_ms });
        }
        Ok(())
    }

    fn freeze(
        &self,
        request: &v1::CloseEpochRequest,
        of: u64,
        window: Window,
        fleets: &[String],
        what: &str,
    ) -> Result<FileRecord, LedgerError> {
        let name = files::name(&request.program, request.number, &format!("{what}-statistics-{of:010}"));
        let mut writer = Writer::create(self.files.clone(), name, Kind::Statistics)?;
        statistics_pages(&self.state, fleets, window, |page| writer.frame(&page.encode_to_vec()))?;
        writer.finish(of)
    }

    /// Stores what was computed for a close. The first result stands.
    pub(crate) fn record_epoch(
        &mut self,
        writer: &v1::WriterToken,
        program: &str,
        number: u64,
        result: &EpochRecord,
    ) -> Result<v1::RecordEpochResponse, LedgerError> {
        self.check_writer(Some(writer))?;
        let not_closed = || LedgerError::NotFound(format!("a close of epoch {number} of {program}"));
        let epoch = self.state.epoch(program, number).ok_or_else(not_closed)?;
        check_canonical("summary", &result.summary)?;
        check_canonical("state", &result.state)?;
        let name = files::name(program, number, &format!("token{}-result", self.state.writer_token));
        if let Some(known) = epoch.result.as_ref().and_then(|known| known.file.clone()) {
            let digest = write_result(Writer::dry(self.files.clone(), name, kind_of(result)), number, result)?.digest;
            if known.digest == digest {
                return Ok(v1::RecordEpochResponse { digest, repeated: true });
            }
            let recorded = Digest::from_slice(&known.digest).unwrap_or_default().to_string();
            return Err(LedgerError::Conflict { what: format!("epoch {number} of {program}"), recorded });
        }
        let file = write_result(Writer::create(self.files.clone(), name, kind_of(result))?, number, result)?;
        let digest = file.digest.clone();
        let record = ResultRecord {
            program: program.to_owned(),
            number,
            file: Some(file),
            writer_token: self.state.writer_token,
            at: self.now().0,
        };
        self.put(Entry::Result(record))?;
        Ok(v1::RecordEpochResponse { digest, repeated: false })
    }
}

fn repeated(close: Option<&v1::EpochClose>, request: &v1::CloseEpochRequest) -> Result<v1::EpochClose, LedgerError> {
    let close = close.ok_or_else(|| LedgerError::Damaged("a close without content".into()))?;
    let window = v1::EpochWindow { number: request.number, start: request.start, end: request.end };
    if close.window.as_ref() != Some(&window) {
        let recorded =
            close.window.as_ref().map(|window| format!("[{}, {})", window.start, window.end)).unwrap_or_default();
        return Err(LedgerError::Conflict {
            what: format!("epoch {} of {}", request.number, request.program),
            recorded,
        });
    }
    Ok(close.clone())
}

fn check_canonical(field: &'static str, bytes: &[u8]) -> Result<(), LedgerError> {
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|error| invalid(field, format!("is not JSON: {error}")))?;
    let canonical = canonical::to_vec(&value).map_err(|error| invalid(field, error.to_string()))?;
    if canonical == bytes { Ok(()) } else { Err(invalid(field, "is not canonical JSON")) }
}

/// A state that fits into one frame is written as ever, so that a result that is recorded again has the digest that it had.
fn kind_of(result: &EpochRecord) -> Kind {
    if result.state.len() > files::MAX_FRAME { Kind::LongResult } else { Kind::Result }
}

fn write_result(mut writer: Writer, number: u64, result: &EpochRecord) -> Result<FileRecord, LedgerError> {
    writer.frame(&result.summary)?;
    if kind_of(result) == Kind::LongResult {
        let frames = result.state.chunks(files::MAX_FRAME);
        writer.frame(&(frames.len() as u32).to_le_bytes())?;
        frames.into_iter().try_for_each(|frame| writer.frame(frame))?;
    } else {
        writer.frame(&result.state)?;
    }
    let mut page = v1::EpochLines::default();
    let mut bytes = 0;
    for line in &result.lines {
        if page.lines.len() == LINES || (bytes + line.len() > LINES_BYTES && !page.lines.is_empty()) {
            writer.frame(&std::mem::take(&mut page).encode_to_vec())?;
            bytes = 0;
        }
        bytes += line.len();
        page.lines.push(line.clone().into());
    }
    if !page.lines.is_empty() {
        writer.frame(&page.encode_to_vec())?;
    }
    writer.finish(number)
}

/// A recorded summary alone.
pub(crate) fn read_summary(storage: &dyn depin_log::Storage, file: &FileRecord) -> Result<Vec<u8>, LedgerError> {
    let mut reader = files::Reader::open(storage, file, Kind::Result)?;
    let cut = || LedgerError::Damaged(format!("{}: has no summary", file.name));
    Ok(reader.frame()?.ok_or_else(cut)?.to_vec())
}

/// A recorded result.
pub(crate) fn read_result(storage: &dyn depin_log::Storage, file: &FileRecord) -> Result<EpochRecord, LedgerError> {
    let damaged = |what: &str| LedgerError::Damaged(format!("{}: {what}", file.name));
    let mut reader = files::Reader::open(storage, file, Kind::Result)?;
    let summary = reader.frame()?.ok_or_else(|| damaged("has no summary"))?.to_vec();
    let cut = || damaged("has no state");
    let mut state = reader.frame()?.ok_or_else(cut)?.to_vec();
    if reader.kind == Kind::LongResult {
        let frames = <[u8; 4]>::try_from(&state[..]).map(u32::from_le_bytes).map_err(|_| cut())?;
        state.clear();
        for _ in 0..frames {
            state.extend_from_slice(&reader.frame()?.ok_or_else(cut)?);
        }
    }
    let mut lines = Vec::new();
    while let Some(frame) = reader.frame()? {
        let page = v1::EpochLines::decode(frame).map_err(|error| damaged(&error.to_string()))?;
        lines.extend(page.lines.into_iter().map(|line| line.to_vec()));
    }
    Ok(EpochRecord { summary, lines, state })
}
