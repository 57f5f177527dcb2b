//! How far the readings of each fleet are settled for good, and what may be forgotten with that.
//!
//! A boundary is a record of its own: whoever reads the log afterwards judges by it and forgets by it at the same place, whatever the
//! settings are then. It follows what programs have settled; where no program pays for a fleet, it follows the fleet's newest reading at
//! a distance, so that nothing grows without end. A boundary never goes back: what lies before it is gone.

use std::collections::{BTreeMap, BTreeSet};

use depin_domain::{
    registry::{Device, Program, Registry},
    rewards::ProgramSpec,
    time::Timestamp,
};

use crate::{
    core::{Core, Journal},
    error::LedgerError,
    record::{BoundaryRecord, Entry, FleetBoundary},
    state::State,
};

/// How often fleets that no program pays for are looked at, by the ledger's clock.
const UNCLAIMED_EVERY_MS: i64 = 24 * 3_600_000;

/// Boundaries by fleet.
pub(crate) type Boundaries = BTreeMap<String, Timestamp>;

/// By fleet that a program pays for: before when every such program has settled all; `None` where one has settled nothing yet.
///
/// A fleet that a program once paid for stays claimed until the epochs of that time are settled.
pub(crate) fn claims(state: &State) -> BTreeMap<String, Option<Timestamp>> {
    let mut claims: BTreeMap<String, Option<Timestamp>> = BTreeMap::new();
    for (id, program) in state.registry.programs().filter(|(id, program)| !is_over(state, id, program)) {
        let settled = settled(state, id);
        let entries = program.entries();
        for (place, entry) in entries.iter().enumerate() {
            // A spec that cannot be read pays nothing, so it keeps nothing open.
            let Ok(spec) = serde_json::from_str::<ProgramSpec>(&entry.spec) else { continue };
            let next = entries.get(place + 1).and_then(|next| spec.epoch.window(next.from_epoch));
            if next.zip(settled).is_some_and(|(next, settled)| next.start <= settled) {
                continue;
            }
            for fleet in spec.fleets {
                let claim = claims.entry(fleet).or_insert(settled);
                *claim = claim.zip(settled).map(|(one, other)| one.min(other));
            }
        }
    }
    claims
}

/// Before when all closed epochs of the program are settled for good: the start of the oldest one that late readings may still change, at most that
/// of the newest. `None` where none is settled yet.
///
/// An epoch is settled once it has matured. One without a bucket never does: it is settled by the first later close that would have matured
/// it. Epochs may mature out of their order (`late.until` may change), so the newest that has tells nothing of those before.
pub(crate) fn settled(state: &State, id: &str) -> Option<Timestamp> {
    let (program, epochs) = (state.registry.program(id)?, state.epochs.get(id)?);
    let closes = || epochs.values().filter_map(|epoch| epoch.closed.close.as_ref());
    let matured: BTreeSet<u64> = closes().flat_map(|close| &close.matured).map(|window| window.number).collect();
    let newest = closes().filter_map(|close| close.window).max_by_key(|window| window.number)?;
    let mut specs = BTreeMap::new();
    let (mut any, mut oldest) = (false, newest.start);
    for window in closes().filter_map(|close| close.window).filter(|window| window.number < newest.number) {
        let spec = program.ruling(window.number).and_then(|entry| {
            let read = || serde_json::from_str::<ProgramSpec>(&entry.spec).ok();
            specs.entry(entry.digest).or_insert_with(read).as_ref()
        });
        // A suspended epoch has nothing to share. Of a spec that cannot be read only a maturity tells.
        let is_past =
            |spec: &ProgramSpec| spec.suspend || window.end.saturating_add(spec.late.late_until_ms) <= newest.end;
        if matured.contains(&window.number) || spec.is_some_and(is_past) {
            any = true;
        } else {
            oldest = oldest.min(window.start);
        }
    }
    any.then_some(Timestamp(oldest))
}

/// Whether a removed program needs nothing any more: the epochs before its removal are closed and settled.
pub(crate) fn is_over(state: &State, id: &str, program: &Program) -> bool {
    if !program.is_removed() {
        return false;
    }
    // Of a spec that cannot be read nothing can be closed.
    let Some(gone) = program.removed_from() else { return true };
    if program.entries().first().is_none_or(|first| gone <= first.from_epoch) {
        return true;
    }
    let closes = state.epochs.get(id).into_iter().flat_map(|epochs| epochs.values());
    let windows = closes.filter_map(|epoch| epoch.closed.close.as_ref()?.window);
    let newest = windows.max_by_key(|window| window.number).filter(|window| window.number >= gone);
    newest.is_some_and(|newest| settled(state, id) == Some(Timestamp(newest.start)))
}

/// Before when the statistics of a device may be forgotten: all fleets that it was ever in have settled that, and the grain that holds the
/// boundary stays whole. No reading of that time is accepted any more.
pub(crate) fn forgettable(registry: &Registry, boundaries: &Boundaries, device: &Device) -> Option<Timestamp> {
    let mut settled: Option<Timestamp> = None;
    for entry in device.states().iter().filter_map(|state| state.entry.as_ref()) {
        let boundary = *boundaries.get(&entry.fleet)?;
        let grain = registry.fleet(&entry.fleet)?.grain_ms()?.max(1);
        let boundary = boundary.floor_to(grain);
        settled = Some(settled.map_or(boundary, |settled| settled.min(boundary)));
    }
    settled
}

/// By fleet that no program pays for: `keep_ms` before its newest reading, or before now if it was removed.
///
/// The newest reading is that of the devices that are in the fleet; where these all left it, that of the devices that once were in it: what
/// they left there is settled too, or nothing of them would ever be forgotten.
fn unclaimed(state: &State, now: Timestamp, keep_ms: i64) -> Boundaries {
    let claims = claims(state);
    let mut newest: BTreeMap<&str, (bool, Timestamp)> = BTreeMap::new();
    for (id, statistics) in &state.accounts {
        let Some(device) = state.registry.device(id) else { continue };
        let marks = statistics.assignments.iter().flat_map(|assignment| &assignment.metrics);
        let Some(mark) = marks.map(|metric| metric.mark.at).max() else { continue };
        let own = device.newest().map(|entry| entry.fleet.as_str());
        let entries = device.states().iter().filter_map(|state| state.entry.as_ref());
        for fleet in entries.map(|entry| entry.fleet.as_str()).filter(|fleet| !claims.contains_key(*fleet)) {
            // A reading of a device that stayed counts before all those of devices that left.
            let mark = (own == Some(fleet), mark);
            let known = newest.entry(fleet).or_insert(mark);
            *known = (*known).max(mark);
        }
    }
    let removed = |fleet: &str| state.registry.fleet(fleet).is_none_or(|fleet| fleet.current().is_none());
    let boundary = |(fleet, (_, mark)): (&str, (bool, Timestamp))| {
        let from = if removed(fleet) { now } else { mark.min(now) };
        (fleet.to_owned(), Timestamp(from.0.saturating_sub(keep_ms.max(0))))
    };
    newest.into_iter().map(boundary).collect()
}

impl State {
    /// The fold's step: these times are settled; what no reading can change any more and no epoch will ask for is forgotten.
    pub(crate) fn settle(&mut self, record: BoundaryRecord) {
        for FleetBoundary { fleet, before } in record.fleets {
            let known = self.late_boundaries.entry(fleet).or_insert(Timestamp(before));
            *known = (*known).max(Timestamp(before));
        }
        for (id, statistics) in &mut self.accounts {
            let device = self.registry.device(id);
            if let Some(before) = device.and_then(|device| forgettable(&self.registry, &self.late_boundaries, device)) {
                statistics.forget_before(before);
            }
        }
    }
}

impl<J: Journal> Core<J> {
    /// Records the boundaries that rise by what programs have settled.
    pub(crate) fn bound_lateness(&mut self) -> Result<(), LedgerError> {
        let claims = claims(&self.state);
        self.put_boundaries(claims.into_iter().filter_map(|(fleet, settled)| Some((fleet, settled?))).collect())
    }

    /// Records the boundaries of fleets that no program pays for, once a day.
    pub(crate) fn bound_unclaimed(&mut self) -> Result<(), LedgerError> {
        let now = self.now();
        if now.0 < self.unclaimed_due {
            return Ok(());
        }
        self.unclaimed_due = now.0.saturating_add(UNCLAIMED_EVERY_MS);
        self.put_boundaries(unclaimed(&self.state, now, self.settings.unclaimed_ms))
    }

    fn put_boundaries(&mut self, wanted: Boundaries) -> Result<(), LedgerError> {
        let known = &self.state.late_boundaries;
        let rising = wanted.into_iter().filter(|(fleet, at)| known.get(fleet).is_none_or(|known| known < at));
        let fleets: Vec<_> = rising.map(|(fleet, at)| FleetBoundary { fleet, before: at.0 }).collect();
        if !fleets.is_empty() {
            self.put(Entry::Boundary(BoundaryRecord { at: self.now().0, fleets }))?;
        }
        Ok(())
    }
}
