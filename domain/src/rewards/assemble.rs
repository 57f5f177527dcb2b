//! From the registry and frozen statistics to an epoch's devices.
//!
//! Facts are those that [`crate::registry::Device::for_epoch`] gives: at the epoch's start, or at approval within it. The statistics may
//! come page by page and in any order; each (device, assignment, metric, grain) once.

use std::collections::HashMap;

use super::{
    amount::Account,
    input::{DeviceInput, Place, Share, Total},
    program::Program,
    validate::SpecError,
};
use crate::{
    ids::DeviceId,
    model::MetricKind,
    registry::{Device, DeviceEntry, Location, Registry},
    statistics::{GrainStatistic, Slots},
    time::{Timestamp, Window},
};

/// The devices of an epoch cannot be gathered.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    /// A program that should have been refused long ago.
    #[error("the program is invalid: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Program(Vec<SpecError>),
    /// Time does not reach this epoch.
    #[error("epoch {0} has no window: its number is beyond representable time")]
    Window(u64),
}

/// The devices of one epoch while their statistics come in.
pub struct Assembly {
    window: Window,
    /// Metrics that the program's features use.
    metrics: Vec<String>,
    members: HashMap<DeviceId, Member>,
    fleets: Vec<FleetFacts>,
}

struct Member {
    input: DeviceInput,
    fleet: usize,
    /// Slots by (metric, grain), for a device that more than one assignment spoke for: a slot that both filled counts once.
    shared: Option<HashMap<(usize, Timestamp), Slots>>,
}

struct FleetFacts {
    id: String,
    /// Cadence slots of the whole epoch for a device that is in no other fleet meanwhile.
    slots: u64,
    /// For each metric of the program: whether it counts from zero after a reset.
    resets_to_zero: Vec<bool>,
}

impl Assembly {
    /// The devices of epoch `number` with their facts, still without readings.
    pub fn new(registry: &Registry, spec: &super::ProgramSpec, number: u64) -> Result<Self, AssemblyError> {
        let program = Program::compile(spec).map_err(AssemblyError::Program)?;
        let window = spec.epoch.window(number).ok_or(AssemblyError::Window(number))?;
        let mut metrics: Vec<String> = spec.features.iter().map(|feature| feature.metric.clone()).collect();
        metrics.sort_unstable();
        metrics.dedup();
        let mut assembly = Self { window, metrics, members: HashMap::new(), fleets: Vec::new() };
        for (id, device) in registry.devices() {
            let Some(entry) = device.in_epoch(window, &spec.fleets) else { continue };
            let fleet = assembly.fleet(registry, entry);
            let slots = if device.leaves_fleet(entry, window) {
                slots(registry, device, entry, window)
            } else {
                assembly.fleets[fleet].slots
            };
            let input = DeviceInput {
                id: *id,
                since: entry.since,
                suspended: entry.suspended,
                shares: shares(entry),
                place: place(&program, entry.location.as_ref()),
                slots,
                totals: Vec::new(),
            };
            let speakers = device.assignments().iter().filter(|assignment| assignment.window.overlaps(&window));
            let shared = (speakers.count() > 1).then(HashMap::new);
            assembly.members.insert(*id, Member { input, fleet, shared });
        }
        Ok(assembly)
    }

    /// Adds a statistic; what is not of this epoch, its devices or its program's metrics is passed over.
    pub fn add(&mut self, device: &DeviceId, metric: &str, grain: &GrainStatistic) {
        let Ok(place) = self.metrics.binary_search_by(|known| known.as_str().cmp(metric)) else { return };
        let Some(member) = self.members.get_mut(device).filter(|_| self.window.contains(grain.start)) else { return };
        if grain.count == 0 {
            return;
        }
        let resets = self.fleets.get(member.fleet).is_some_and(|fleet| fleet.resets_to_zero[place]);
        let filled = match &mut member.shared {
            None => grain.slots.count(),
            Some(shared) => {
                let slots = shared.entry((place, grain.start)).or_default();
                let before = slots.count();
                slots.union(&grain.slots);
                slots.count() - before
            }
        };
        merge(&mut member.input.totals, metric, grain, resets, filled);
    }

    /// The devices, ascending by id.
    #[must_use]
    pub fn finish(self) -> Vec<DeviceInput> {
        let mut devices: Vec<_> = self.members.into_values().map(|member| member.input).collect();
        devices.sort_unstable_by_key(|device| device.id);
        devices
    }

    fn fleet(&mut self, registry: &Registry, entry: &DeviceEntry) -> usize {
        if let Some(known) = self.fleets.iter().position(|fleet| fleet.id == entry.fleet) {
            return known;
        }
        let name = registry.model_name_at(entry, self.window.start);
        let chain = name.and_then(|name| registry.model_chain(name));
        // The kind of a metric never changes under its name, so any version that has it tells.
        let resets = |metric: &String| {
            let mut versions = chain.into_iter().flat_map(|chain| chain.entries());
            let found = versions.find_map(|entry| entry.model.metric(metric));
            found.is_some_and(|metric| matches!(metric.kind, MetricKind::Counter { resets_to_zero: true }))
        };
        let resets_to_zero = self.metrics.iter().map(resets).collect();
        let slots = count_slots(registry, entry, self.window, |grain| registry.cadence_at(entry, grain.start));
        self.fleets.push(FleetFacts { id: entry.fleet.clone(), slots, resets_to_zero });
        self.fleets.len() - 1
    }
}

/// The devices of epoch `number` with everything that `statistics` holds of them.
pub fn assemble<'a>(
    registry: &Registry,
    spec: &super::ProgramSpec,
    number: u64,
    statistics: impl IntoIterator<Item = (&'a DeviceId, &'a str, &'a GrainStatistic)>,
) -> Result<Vec<DeviceInput>, AssemblyError> {
    let mut assembly = Assembly::new(registry, spec, number)?;
    for (device, metric, grain) in statistics {
        assembly.add(device, metric, grain);
    }
    Ok(assembly.finish())
}

/// Cadence slots of a device that is in several fleets within the epoch: in each grain those that judging fills. Where it was not approved,
/// those of the fleet before, or else of the first one.
fn slots(registry: &Registry, device: &Device, entry: &DeviceEntry, window: Window) -> u64 {
    let mut last = entry;
    count_slots(registry, entry, window, |grain| {
        if let Some(facts) = device.for_epoch(grain) {
            last = facts;
        }
        registry.cadence_at(last, grain.start)
    })
}

/// Slots of all grains of the epoch, each as wide as `cadence` says.
fn count_slots(
    registry: &Registry,
    entry: &DeviceEntry,
    window: Window,
    mut cadence: impl FnMut(Window) -> Option<i64>,
) -> u64 {
    let Some(width) = registry.fleet(&entry.fleet).and_then(|fleet| fleet.grain_ms()).filter(|width| *width > 0) else {
        return 0;
    };
    let mut slots = 0_u64;
    let mut start = window.start;
    while start < window.end {
        let end = start.plus(width);
        let cadence = cadence(Window { start, end }).unwrap_or(0);
        slots = slots.saturating_add(u64::try_from(width.checked_div(cadence).unwrap_or(0)).unwrap_or(0));
        start = end;
    }
    slots
}

/// Owners' shares; none where any is not a valid account.
fn shares(entry: &DeviceEntry) -> Vec<Share> {
    let parse = |share: &crate::registry::OwnerShare| {
        share.account.parse::<Account>().map(|account| Share { account, basis_points: share.basis_points })
    };
    entry.shares.iter().map(parse).collect::<Result<_, _>>().unwrap_or_default()
}

fn place(program: &Program, location: Option<&Location>) -> Option<Place> {
    let location = location.filter(|_| !program.spec().limits.is_empty())?;
    let cell = match program.resolution() {
        Some(resolution) => u64::from_str_radix(location.cells.get(usize::from(resolution))?, 16).ok()?,
        None => 0,
    };
    Some(Place { cell, unit: location.unit })
}

fn merge(totals: &mut Vec<Total>, metric: &str, grain: &GrainStatistic, resets_to_zero: bool, filled: u64) {
    let increase = grain.increase.saturating_add(if resets_to_zero { grain.reset_increase } else { 0 });
    let Some(total) = totals.iter_mut().find(|total| total.metric == metric) else {
        totals.push(Total {
            metric: metric.to_owned(),
            count: grain.count,
            sum: grain.sum,
            min: grain.min,
            max: grain.max,
            last_at: grain.last.at,
            last_value: grain.last.value,
            increase,
            slots: filled,
        });
        return;
    };
    total.count = total.count.saturating_add(grain.count);
    total.sum = total.sum.saturating_add(grain.sum);
    total.min = total.min.min(grain.min);
    total.max = total.max.max(grain.max);
    // Two assignments may have a reading of the same moment: the larger value, whichever comes first.
    (total.last_at, total.last_value) = (total.last_at, total.last_value).max((grain.last.at, grain.last.value));
    total.increase = total.increase.saturating_add(increase);
    total.slots = total.slots.saturating_add(filled);
}

#[cfg(test)]
mod tests;
