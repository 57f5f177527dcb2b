//! Which readings of a proof count.
//!
//! [`judge`] reads; [`apply`] enters what counts into marks and statistics and needs no rule, only the recorded verdict, so that a
//! replay and a scan of the ledger give what was kept at ingest. Both must see the registry and the statistics as of the
//! proof's place in the ledger.
//!
//! A reading gets the first reason that holds of: `InFuture`; `NotApproved`, `NotYours`, `Suspended`, `WrongModel`, `ModelNotInForce`,
//! `LateBeyondUntil` as of its time; `OutOfRange`; `Duplicate`, `OutOfOrder`, `SlotTaken`; `RateExceeded`; `CheckFailed`,
//! `CheckError`. Before that a whole section may fail by `NotApproved`, `UnknownModel` or `AttestationTooLow`, a series by
//! `UnknownMetric`; after it a check of section scope may reject all that was left. A rejected reading never moves a mark, so
//! it never decides about another.

use std::collections::{BTreeMap, BTreeSet, HashMap, hash_map::RandomState};
use std::hash::BuildHasher;

use super::{
    Header, Reading, Reason, Rejection, Section, Series, Verdict,
    checks::{CompiledCheck, CompiledModel, Models, ReadingScope, SectionScope, Totals},
    facts::{Facts, Inquiry, Standing},
};
use crate::{
    ids::{AgentId, DeviceId, Digest},
    model::{Attestation, Metric, MetricKind},
    registry::{DeviceEntry, Holder, Registry},
    statistics::{self, DeviceStatistics, GrainStatistic, MetricStatistics},
    time::{Timestamp, Window},
};

/// What judging goes by besides the statistics.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// As of the proof's place in the ledger.
    pub registry: &'a Registry,
    /// The registry's models, compiled.
    pub models: &'a Models,
    /// Whose stream brought the proof.
    pub agent: AgentId,
    /// When this agent first confirmed each model.
    pub confirmed: &'a BTreeMap<Digest, Timestamp>,
    /// By fleet (`namespace/name`): readings before this time were settled for good.
    pub late_boundaries: &'a BTreeMap<String, Timestamp>,
    /// When the proof was received, by the ledger's clock.
    pub received_at: Timestamp,
    /// How far a reading may lie beyond the time of sealing, and of receipt: whoever seals may have set any clock.
    pub max_skew_ms: i64,
}

/// Where the statistics of devices are found.
pub trait Accounts {
    /// Those of one device; absent: none of its readings ever counted.
    fn device(&self, device: &DeviceId) -> Option<&DeviceStatistics>;
}

/// Where the statistics of devices are kept.
pub trait AccountsMut {
    /// Those of one device, made empty where there are none.
    fn device_mut(&mut self, device: &DeviceId) -> &mut DeviceStatistics;
}

impl<S: BuildHasher> Accounts for HashMap<DeviceId, DeviceStatistics, S> {
    fn device(&self, device: &DeviceId) -> Option<&DeviceStatistics> {
        self.get(device)
    }
}

impl<S: BuildHasher> AccountsMut for HashMap<DeviceId, DeviceStatistics, S> {
    fn device_mut(&mut self, device: &DeviceId) -> &mut DeviceStatistics {
        self.entry(*device).or_default()
    }
}

/// A recorded verdict does not fit its sections or the registry: one of them is not as it was when it was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Another number of readings is left than the verdict accepted.
    #[error("the verdict accepts {recorded} readings, but its rejections leave {left}; verify the ledger's files")]
    Count {
        /// What the verdict says.
        recorded: u64,
        /// What is left.
        left: u64,
    },
    /// The registry knows no assignment, fleet or metric for an accepted reading.
    #[error(
        "section {section}: the registry has no place for the accepted reading at {at:?}; replay records and proofs in the ledger's order"
    )]
    NoPlace {
        /// Index of the section.
        section: u32,
        /// The reading's time.
        at: Timestamp,
    },
}

/// Judges the sections of a proof whose chain and signature are in order.
#[must_use]
pub fn judge(context: &Context<'_>, header: &Header, sections: &[Section], accounts: &impl Accounts) -> Verdict {
    let mut verdict = Verdict::default();
    let repeated = repeated_devices(sections);
    // A second section of a device is judged by what the first one left.
    let mut own: HashMap<DeviceId, DeviceStatistics, RandomState> = HashMap::default();
    for (section, index) in sections.iter().zip(0_u32..) {
        let statistics = own.get(&section.device).or_else(|| accounts.device(&section.device));
        let before = verdict.rejections.len();
        verdict.accepted += judge_section(context, header, section, index, statistics, &mut verdict.rejections);
        if repeated.contains(&section.device) {
            let mut after = statistics.cloned().unwrap_or_default();
            // What was just judged has its place: the error cannot arise.
            let entered = enter(context.registry, section, index, &verdict.rejections[before..], &mut after);
            if entered.is_ok() {
                own.insert(section.device, after);
            }
        }
    }
    verdict
}

/// Enters what a verdict accepted. On an error part of it may be entered: the accounts are to be rebuilt.
pub fn apply(
    registry: &Registry,
    sections: &[Section],
    verdict: &Verdict,
    accounts: &mut impl AccountsMut,
) -> Result<(), ApplyError> {
    let mut rest = verdict.rejections.as_slice();
    let mut left = 0;
    for (section, index) in sections.iter().zip(0_u32..) {
        let own = rest.partition_point(|rejection| rejection.section <= index);
        let (rejections, after) = rest.split_at(own);
        rest = after;
        if rejections.iter().any(|rejection| rejection.series.is_none()) {
            continue;
        }
        left += enter(registry, section, index, rejections, accounts.device_mut(&section.device))?;
    }
    if left == verdict.accepted { Ok(()) } else { Err(ApplyError::Count { recorded: verdict.accepted, left }) }
}

fn repeated_devices(sections: &[Section]) -> BTreeSet<DeviceId> {
    let mut repeated = BTreeSet::new();
    if !sections.is_sorted_by(|a, b| a.device < b.device) {
        let mut seen = BTreeSet::new();
        repeated.extend(sections.iter().map(|section| section.device).filter(|device| !seen.insert(*device)));
    }
    repeated
}

/// Enters the readings of a section that its rejections leave. Returns how many.
fn enter(
    registry: &Registry,
    section: &Section,
    index: u32,
    rejections: &[Rejection],
    account: &mut DeviceStatistics,
) -> Result<u64, ApplyError> {
    if rejections.iter().any(|rejection| rejection.series.is_none()) {
        return Ok(0);
    }
    let mut entered = 0;
    for (series, place) in section.series.iter().zip(0_u32..) {
        let own: Vec<_> = rejections.iter().filter(|rejection| rejection.series == Some(place)).collect();
        if own.iter().any(|rejection| rejection.readings.is_empty()) {
            continue;
        }
        let rejected: BTreeSet<u32> = own.iter().flat_map(|rejection| rejection.readings.iter().copied()).collect();
        let counted = series.readings.iter().zip(0_u32..).filter(|(_, number)| !rejected.contains(number));
        let mut entering = Entering::new(registry, section, series);
        for (reading, _) in counted {
            let placed = entering.enter(*reading, account);
            placed.ok_or(ApplyError::NoPlace { section: index, at: reading.at })?;
            entered += 1;
        }
    }
    Ok(entered)
}

/// Enters readings of one series, remembering what neighbours share.
struct Entering<'a> {
    registry: &'a Registry,
    section: &'a Section,
    series: &'a Series,
    kind: Option<MetricKind>,
    /// Assignment, grain width, slot width, and the grain for which they were found.
    found: Option<(statistics::Entry<'a>, Timestamp)>,
}

impl<'a> Entering<'a> {
    fn new(registry: &'a Registry, section: &'a Section, series: &'a Series) -> Self {
        let metric = registry.model(&section.model).and_then(|model| model.model.metric(&series.metric));
        Self { registry, section, series, kind: metric.map(|metric| metric.kind), found: None }
    }

    fn enter(&mut self, reading: Reading, account: &mut DeviceStatistics) -> Option<()> {
        let device = self.registry.device(&self.section.device)?;
        let assignment = device.assignment_at(reading.at)?.number;
        let known = self
            .found
            .filter(|(entry, grain)| entry.assignment == assignment && *grain == reading.at.floor_to(entry.grain_ms));
        let (entry, grain) = match known {
            Some(known) => known,
            None => {
                let facts = device.at(reading.at)?;
                let grain_ms = self.registry.fleet(&facts.fleet)?.grain_ms()?.max(1);
                let grain = reading.at.floor_to(grain_ms);
                let cadence_ms = self.registry.slot_ms(device, Window { start: grain, end: grain.plus(grain_ms) })?;
                let metric = self.series.metric.as_str();
                (statistics::Entry { assignment, metric, kind: self.kind?, grain_ms, cadence_ms }, grain)
            }
        };
        self.found = Some((entry, grain));
        account.add(entry, reading);
        Some(())
    }
}

/// Judges one section, adds its rejections in order, and returns how many readings count.
fn judge_section(
    context: &Context<'_>,
    header: &Header,
    section: &Section,
    index: u32,
    statistics: Option<&DeviceStatistics>,
    rejections: &mut Vec<Rejection>,
) -> u64 {
    let whole = |reason, detail: &str| Rejection {
        section: index,
        series: None,
        readings: Vec::new(),
        reason,
        detail: clip(detail),
    };
    let Some(device) = context.registry.device(&section.device) else {
        rejections.push(whole(Reason::NotApproved, ""));
        return 0;
    };
    let Some(model) = context.models.get(&section.model) else {
        rejections.push(whole(Reason::UnknownModel, ""));
        return 0;
    };
    let strongest = strongest_attestation(context, header, section);
    if section.attestation > strongest || section.attestation < model.entry.model.minimum_attestation {
        rejections.push(whole(Reason::AttestationTooLow, ""));
        return 0;
    }
    let inquiry = Inquiry { context, header, section, model, device, statistics };
    let mut judging = Judging {
        inquiry,
        latest: header.sealed_at.min(context.received_at).plus(context.max_skew_ms),
        facts: None,
        totals: vec![None; if model.section_checks.is_empty() { 0 } else { model.entry.model.metrics.len() }],
        seen: None,
    };
    let before = rejections.len();
    let mut accepted = 0;
    for (series, place) in section.series.iter().zip(0_u32..) {
        accepted += judging.series(series, index, place, rejections);
    }
    if let (true, Some(device)) = (accepted > 0, judging.seen)
        && let Some((reason, detail)) = judging.section_checks(device)
    {
        rejections.truncate(before);
        rejections.push(whole(reason, &detail));
        return 0;
    }
    if let Some(reason) = gather(&rejections[before..], section) {
        rejections.truncate(before);
        rejections.push(whole(reason, ""));
    }
    accepted
}

/// The one reason for which all series of a section were rejected as a whole.
fn gather(rejections: &[Rejection], section: &Section) -> Option<Reason> {
    let first = rejections.first()?;
    let same = |rejection: &Rejection| {
        rejection.readings.is_empty() && rejection.reason == first.reason && rejection.detail.is_empty()
    };
    (rejections.len() == section.series.len() && rejections.iter().all(same)).then_some(first.reason)
}

/// What the key that signed can honestly claim for the device.
fn strongest_attestation(context: &Context<'_>, header: &Header, section: &Section) -> Attestation {
    match context.registry.signer(&header.key).map(|signer| &signer.holder) {
        Some(Holder::Devices(_)) => {
            let states =
                context.registry.device(&section.device).into_iter().flat_map(|device| device.states().iter().rev());
            let mut entries = states.filter_map(|state| state.entry.as_ref());
            let signed = entries.find(|entry| entry.key.as_ref().is_some_and(|key| key.id() == header.key));
            signed.map_or(Attestation::Device, |entry| entry.attestation())
        }
        Some(Holder::Agent(_) | Holder::Revoked(_)) | None => Attestation::Agent,
    }
}

fn clip(detail: &str) -> String {
    let mut end = detail.len().min(255);
    while !detail.is_char_boundary(end) {
        end -= 1;
    }
    detail[..end].to_owned()
}

/// The judging of one section.
struct Judging<'a> {
    inquiry: Inquiry<'a>,
    /// Later readings are in the future.
    latest: Timestamp,
    /// The newest answer of the registry.
    facts: Option<Facts<'a>>,
    /// Accepted readings by the metric's place in the model; empty where no check asks for them.
    totals: Vec<Option<Totals>>,
    /// The device's facts as of an accepted reading.
    seen: Option<&'a DeviceEntry>,
}

/// Where the judging of a series stands in one assignment.
struct Cursor<'a> {
    assignment: u32,
    statistics: Option<&'a MetricStatistics>,
    /// The newest accepted reading, of the statistics or of this series.
    mark: Option<Reading>,
    /// Grain and slot of the newest reading that was accepted below the mark.
    late: Option<(Timestamp, u32)>,
}

/// Why a reading does not count; the detail names a check.
type Refusal<'a> = (Reason, &'a str);

impl<'a> Judging<'a> {
    /// Judges one series and returns how many of its readings count.
    fn series(&mut self, series: &'a Series, section: u32, place: u32, rejections: &mut Vec<Rejection>) -> u64 {
        let model: &'a CompiledModel = self.inquiry.model;
        let Some((number, metric)) = model.metric(&series.metric) else {
            let (series, detail) = (Some(place), clip(&series.metric));
            rejections.push(Rejection { section, series, readings: Vec::new(), reason: Reason::UnknownMetric, detail });
            return 0;
        };
        let mut refused: Vec<(Refusal<'a>, Vec<u32>)> = Vec::new();
        let mut cursor = None;
        for (reading, index) in series.readings.iter().zip(0_u32..) {
            match self.reading(metric, *reading, &mut cursor) {
                Ok(()) => {
                    if let Some(totals) = self.totals.get_mut(number) {
                        *totals = Some(Totals::with(*totals, reading.value));
                    }
                }
                Err(refusal) => match refused.iter_mut().find(|(known, _)| *known == refusal) {
                    Some((_, readings)) => readings.push(index),
                    None => refused.push((refusal, vec![index])),
                },
            }
        }
        let count = series.readings.len();
        let lost: usize = refused.iter().map(|(_, readings)| readings.len()).sum();
        rejections.extend(refused.into_iter().map(|((reason, detail), readings)| {
            let readings = if readings.len() == count { Vec::new() } else { readings };
            Rejection { section, series: Some(place), readings, reason, detail: clip(detail) }
        }));
        (count - lost) as u64
    }

    fn reading(
        &mut self,
        metric: &'a Metric,
        reading: Reading,
        cursor: &mut Option<Cursor<'a>>,
    ) -> Result<(), Refusal<'a>> {
        if reading.at > self.latest {
            return Err((Reason::InFuture, ""));
        }
        let standing = self.standing(reading.at).map_err(|reason| (reason, ""))?;
        let low = metric.min.is_some_and(|min| reading.value < min);
        let high = metric.max.is_some_and(|max| reading.value > max);
        if low || high {
            return Err((Reason::OutOfRange, ""));
        }
        if cursor.as_ref().is_none_or(|cursor| cursor.assignment != standing.assignment) {
            let statistics = standing.statistics.and_then(|statistics| statistics.metric(&metric.name));
            let mark = statistics.map(|statistics| statistics.mark);
            *cursor = Some(Cursor { assignment: standing.assignment, statistics, mark, late: None });
        }
        let Some(cursor) = cursor else { return Err((Reason::NotApproved, "")) };
        let late = self.order(metric, reading, standing, cursor).map_err(|reason| (reason, ""))?;
        let previous = if late.is_some() { None } else { cursor.mark };
        if let (Some(rate), Some(previous)) = (metric.max_rate, previous)
            && exceeds(rate, metric.kind, previous, reading)
        {
            return Err((Reason::RateExceeded, ""));
        }
        let model: &'a CompiledModel = self.inquiry.model;
        let scope = ReadingScope { metric: &metric.name, reading, previous, device: standing.device };
        model.reading_checks.iter().try_for_each(|check| satisfied(check, &scope))?;
        match late {
            Some(slot) => cursor.late = Some(slot),
            None => cursor.mark = Some(reading),
        }
        self.seen = Some(standing.device);
        Ok(())
    }

    fn standing(&mut self, at: Timestamp) -> Result<Standing<'a>, Reason> {
        match &self.facts {
            Some(facts) if facts.window.contains(at) => facts.standing,
            _ => self.facts.insert(self.inquiry.at(at)).standing,
        }
    }

    /// Whether the reading has its place in the order: above the mark, or, for a gauge, in an empty slot below it (which is returned).
    fn order(
        &self,
        metric: &Metric,
        reading: Reading,
        standing: Standing<'_>,
        cursor: &Cursor<'_>,
    ) -> Result<Option<(Timestamp, u32)>, Reason> {
        match cursor.mark {
            None => return Ok(None),
            Some(mark) if reading.at > mark.at => return Ok(None),
            Some(mark) if reading.at == mark.at => return Err(Reason::Duplicate),
            Some(_) => {}
        }
        if matches!(metric.kind, MetricKind::Counter { .. }) {
            return Err(Reason::OutOfOrder);
        }
        let grain_ms = standing.grain_ms.max(1);
        let start = reading.at.floor_to(grain_ms);
        let known = cursor.statistics.and_then(|statistics| statistics.grain(start));
        let Inquiry { context, device, .. } = &self.inquiry;
        let fresh = || context.registry.slot_ms(device, Window { start, end: start.plus(grain_ms) });
        let cadence = known.map(|known| known.cadence_ms).or_else(fresh);
        let slot = statistics::slot_of(start, cadence.unwrap_or(1), reading.at);
        let same = |known: &GrainStatistic| known.first.at == reading.at || known.last.at == reading.at;
        if known.is_some_and(same) {
            return Err(Reason::Duplicate);
        }
        if cursor.late == Some((start, slot)) || known.is_some_and(|known| known.slots.contains(slot)) {
            return Err(Reason::SlotTaken);
        }
        Ok(Some((start, slot)))
    }

    fn section_checks(&self, device: &DeviceEntry) -> Option<(Reason, String)> {
        let scope = SectionScope { totals: &self.totals, device };
        let checks = &self.inquiry.model.section_checks;
        let failed = checks.iter().find_map(|check| satisfied(check, &scope).err());
        failed.map(|(reason, detail)| (reason, detail.to_owned()))
    }
}

fn satisfied<'a>(check: &'a CompiledCheck, scope: &impl crate::cel::Values) -> Result<(), Refusal<'a>> {
    match check.rule.as_ref().map(|rule| rule.evaluate(scope)) {
        Some(Ok(true)) => Ok(()),
        Some(Ok(false)) => Err((Reason::CheckFailed, &check.reason)),
        Some(Err(_)) | None => Err((Reason::CheckError, &check.reason)),
    }
}

/// Whether the value changed by more than `rate` a second since `previous`, which is earlier.
fn exceeds(rate: i64, kind: MetricKind, previous: Reading, reading: Reading) -> bool {
    let change = i128::from(reading.value) - i128::from(previous.value);
    if change < 0 && matches!(kind, MetricKind::Counter { .. }) {
        return false;
    }
    let elapsed = i128::from(reading.at.0) - i128::from(previous.at.0);
    change.abs() * 1_000 > i128::from(rate) * elapsed
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trials;
