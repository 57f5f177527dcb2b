//! Judges again what an export shows, by the very rules by which the ledger judged, and says where a verdict is another one.
//!
//! A reading of an epoch is judged exactly: every section of a device with a reading in the epoch is in the export, in the log's order, and with it
//! the newest accepted reading before it. Readings of the same sections outside the epoch are other epochs' matter and are not compared.
//! What only the ledger knows (when a proof came, who brought it, what was confirmed and settled by then) is taken as told, and said to be.

use std::collections::{BTreeMap, HashMap, VecDeque};

use depin_domain::{
    ids::{AgentId, DeviceId, Digest},
    model::{CheckScope, MetricKind},
    proofs::{self, Context, Header, Reading, Rejection, Section, Verdict, checks::Models},
    registry::{Change, Record, Registry},
    rewards::public::Difference,
    statistics::{AssignmentStatistics, DeviceStatistics, MetricStatistics},
    time::{Timestamp, Window},
};

use super::bundle::Cells;

/// What a section was judged by, as its row tells it.
pub(super) struct By {
    position: i64,
    received_at: Timestamp,
    agent: AgentId,
    registry_version: i64,
    max_skew_ms: i64,
    /// Assignment, metric, time and value of the newest accepted reading before it.
    marks: Vec<(u32, String, i64, i64)>,
}

impl By {
    pub(super) fn of(row: &Cells) -> Result<Self, String> {
        Ok(Self {
            position: row.number("position")?,
            received_at: Timestamp(row.number("receivedAt")?),
            agent: row.parse("agent")?,
            registry_version: row.number("registryVersion")?,
            max_skew_ms: row.number("maxSkewMs")?,
            marks: row.json("marks")?,
        })
    }
}

/// What came into force in the log's order, with versions or positions.
#[derive(Default)]
pub(super) struct Told {
    pub(super) changes: VecDeque<(i64, Timestamp, Change)>,
    pub(super) confirmations: VecDeque<(i64, AgentId, Digest, Timestamp)>,
    pub(super) boundaries: VecDeque<(i64, String, Timestamp)>,
}

/// How far judging went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    /// Readings of the epochs that were judged again.
    pub(super) readings: u64,
    /// Sections that were judged by a newer or earlier reading which the export does not show.
    pub(super) beside: u64,
    /// Sections whose checks go by readings that the export cannot place.
    pub(super) unsure: u64,
}

/// Judging in the log's order.
pub(super) struct Judge<'a> {
    /// As of the close: who took part.
    known: &'a Registry,
    /// The epochs' windows and fleets.
    epochs: Vec<(Window, Vec<String>)>,
    told: Told,
    /// As of the section that comes.
    registry: Registry,
    models: Models,
    confirmed: HashMap<AgentId, BTreeMap<Digest, Timestamp>>,
    boundaries: BTreeMap<String, Timestamp>,
    accounts: HashMap<DeviceId, DeviceStatistics>,
    pub(super) judged: Judged,
}

impl<'a> Judge<'a> {
    pub(super) fn new(known: &'a Registry, epochs: Vec<(Window, Vec<String>)>, told: Told) -> Self {
        Self {
            known,
            epochs,
            told,
            registry: Registry::default(),
            models: Models::default(),
            confirmed: HashMap::new(),
            boundaries: BTreeMap::new(),
            accounts: HashMap::new(),
            judged: Judged::default(),
        }
    }

    /// As of the newest section.
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Judges the section that comes next, says where the verdict that was recorded for it is another one, and goes on by the recorded one.
    pub(super) fn section(
        &mut self,
        by: &By,
        header: &Header,
        section: &Section,
        index: u32,
        verdict: &Verdict,
    ) -> Result<Vec<Difference>, String> {
        self.advance(by)?;
        let windows = self.windows(&section.device);
        let place = format!("section {index} of the proof at {}", by.position);
        let mut differences = self.take_marks(by, section, &windows, &place);
        let nothing = BTreeMap::new();
        let context = Context {
            registry: &self.registry,
            models: &self.models,
            agent: by.agent,
            confirmed: self.confirmed.get(&by.agent).unwrap_or(&nothing),
            late_boundaries: &self.boundaries,
            received_at: by.received_at,
            max_skew_ms: by.max_skew_ms,
        };
        let sections = std::slice::from_ref(section);
        let again = proofs::judge(&context, header, sections, &self.accounts);
        let (compared, difference) = compare(section, &windows, verdict, &again, &place);
        self.judged.readings += compared;
        match difference {
            Some(_) if self.is_unsure(by, section, &windows) => self.judged.unsure += 1,
            difference => differences.extend(difference),
        }
        proofs::apply(&self.registry, sections, verdict, &mut self.accounts).map_err(|error| error.to_string())?;
        Ok(differences)
    }

    /// Brings everything to what it was when the row's proof was judged.
    fn advance(&mut self, by: &By) -> Result<(), String> {
        let mut models = false;
        while let Some((_, at, change)) = self.told.changes.pop_front_if(|change| change.0 <= by.registry_version) {
            models |= matches!(change, Change::Model(_));
            go_on(&mut self.registry, at, change)?;
        }
        if models {
            self.models.update(&self.registry);
        }
        while let Some((_, agent, model, at)) = self.told.confirmations.pop_front_if(|told| told.0 < by.position) {
            self.confirmed.entry(agent).or_default().entry(model).or_insert(at);
        }
        while let Some((_, fleet, before)) = self.told.boundaries.pop_front_if(|told| told.0 < by.position) {
            let known = self.boundaries.entry(fleet).or_insert(before);
            *known = (*known).max(before);
        }
        Ok(())
    }

    /// The epochs in which the device took part.
    fn windows(&self, device: &DeviceId) -> Vec<Window> {
        let Some(device) = self.known.device(device) else { return Vec::new() };
        let takes_part = |(window, fleets): &&(Window, Vec<String>)| device.in_epoch(*window, fleets).is_some();
        self.epochs.iter().filter(takes_part).map(|(window, _)| *window).collect()
    }

    /// The newest accepted readings before the section: those that sections of the export left, or others of other times.
    fn take_marks(&mut self, by: &By, section: &Section, windows: &[Window], place: &str) -> Vec<Difference> {
        let mut differences = Vec::new();
        let mut differ = |metric: &str, published: String, recomputed: String| {
            let what = format!("newest {metric} before {place}");
            differences.push(Difference { what, published, recomputed });
        };
        let account = self.accounts.entry(section.device).or_default();
        let mut beside = false;
        for (assignment, metric, at, value) in &by.marks {
            let told = Reading { at: Timestamp(*at), value: *value };
            let mark = mark_of(account, *assignment, metric);
            let shown = mark.as_ref().is_some_and(|own| own.mark.at >= told.at);
            if windows.iter().any(|window| window.contains(told.at)) || shown {
                if mark.as_ref().map(|own| own.mark) != Some(told) {
                    differ(metric, written(Some(told)), written(mark.map(|own| own.mark)));
                }
                continue;
            }
            beside = true;
            set_mark(account, *assignment, metric, told);
        }
        for series in &section.series {
            let told = |number: u32| by.marks.iter().any(|mark| mark.0 == number && mark.1 == series.metric);
            let own = account.assignments.iter().filter(|assignment| !told(assignment.number));
            for metric in own.filter_map(|assignment| assignment.metric(&series.metric)) {
                differ(&series.metric, written(None), written(Some(metric.mark)));
            }
        }
        self.judged.beside += u64::from(beside);
        differences
    }

    /// Whether a check of the whole section goes by a late reading outside the epochs: whether that one's slot was free the export does not show.
    fn is_unsure(&self, by: &By, section: &Section, windows: &[Window]) -> bool {
        let Some(entry) = self.registry.model(&section.model) else { return false };
        let checked = entry.model.checks.iter().any(|check| check.scope == CheckScope::Section);
        checked
            && section.series.iter().any(|series| {
                let gauge = entry.model.metric(&series.metric).is_some_and(|metric| metric.kind == MetricKind::Gauge);
                let marks = by.marks.iter().filter(|mark| mark.1 == series.metric);
                let newest = marks.map(|mark| mark.2).max();
                let late = |reading: &Reading| newest.is_some_and(|newest| reading.at.0 < newest);
                let outside = |reading: &Reading| !windows.iter().any(|window| window.contains(reading.at));
                gauge && series.readings.iter().any(|reading| late(reading) && outside(reading))
            })
    }
}

/// The registry's next change. Other namespaces' versions are left out, so they are counted anew.
pub(super) fn go_on(registry: &mut Registry, at: Timestamp, change: Change) -> Result<(), String> {
    let version = registry.version().saturating_add(1);
    registry.apply(Record { version, at, change }).map_err(|error| error.to_string())
}

fn written(mark: Option<Reading>) -> String {
    mark.map_or_else(|| "none".to_owned(), |mark| format!("{} at {}", mark.value, mark.at.0))
}

fn mark_of<'a>(account: &'a DeviceStatistics, assignment: u32, metric: &str) -> Option<&'a MetricStatistics> {
    account.assignment(assignment)?.metric(metric)
}

/// Lets an account know a newest reading, where increases begin, and nothing of its grain.
pub(super) fn set_mark(account: &mut DeviceStatistics, assignment: u32, metric: &str, mark: Reading) {
    let assignments = &mut account.assignments;
    let place = assignments.partition_point(|known| known.number < assignment);
    if assignments.get(place).is_none_or(|known| known.number != assignment) {
        assignments.insert(place, AssignmentStatistics { number: assignment, metrics: Vec::new() });
    }
    let Some(AssignmentStatistics { metrics, .. }) = assignments.get_mut(place) else { return };
    match metrics.binary_search_by(|known| (*known.metric).cmp(metric)) {
        Ok(place) => metrics[place].mark = mark,
        Err(place) => metrics.insert(place, MetricStatistics { metric: metric.into(), mark, grains: Vec::new() }),
    }
}

/// How many readings lie in the windows, and the first on which two verdicts of the section are not of one mind.
fn compare(
    section: &Section,
    windows: &[Window],
    verdict: &Verdict,
    again: &Verdict,
    place: &str,
) -> (u64, Option<Difference>) {
    let (mut compared, mut first, mut others) = (0, None, 0_u64);
    for (series, number) in section.series.iter().zip(0_u32..) {
        for (reading, at) in series.readings.iter().zip(0_u32..) {
            if !windows.iter().any(|window| window.contains(reading.at)) {
                continue;
            }
            compared += 1;
            let (published, recomputed) = (said(verdict, number, at), said(again, number, at));
            if published == recomputed {
                continue;
            }
            if first.is_some() {
                others += 1;
                continue;
            }
            let what = format!("verdict on {} at {} in {place}", series.metric, reading.at.0);
            first = Some(Difference { what, published, recomputed });
        }
    }
    if let Some(first) = first.as_mut().filter(|_| others > 0) {
        first.what = format!("{} (and {others} more)", first.what);
    }
    (compared, first)
}

/// What the verdict of a single section says of a reading.
fn said(verdict: &Verdict, series: u32, reading: u32) -> String {
    verdict.rejection(0, series, reading).map_or_else(|| "counts".to_owned(), Rejection::label)
}

#[cfg(test)]
mod tests;
