//! What the registry says of a device's readings at a time: who may speak, whether they may count at all.
//!
//! The answer holds for a span of time, so that it is found once for many readings.

use std::sync::Arc;

use super::{Context, Header, Reason, Section, checks::CompiledModel};
use crate::{
    registry::{Device, DeviceEntry, Holder, ModelChain},
    statistics::{AssignmentStatistics, DeviceStatistics},
    time::{Timestamp, Window},
};

/// An answer of the registry, and the span over which it is the same.
pub(super) struct Facts<'a> {
    pub(super) window: Window,
    pub(super) standing: Result<Standing<'a>, Reason>,
}

/// What is known of a device whose readings may count.
#[derive(Clone, Copy)]
pub(super) struct Standing<'a> {
    pub(super) device: &'a DeviceEntry,
    pub(super) assignment: u32,
    pub(super) grain_ms: i64,
    pub(super) statistics: Option<&'a AssignmentStatistics>,
}

/// The part of judging that asks the registry, for one section.
pub(super) struct Inquiry<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) header: &'a Header,
    pub(super) section: &'a Section,
    pub(super) model: &'a CompiledModel,
    pub(super) device: &'a Device,
    pub(super) statistics: Option<&'a DeviceStatistics>,
}

/// Narrows a window around a time to where nothing changes.
struct Span {
    at: Timestamp,
    window: Window,
}

impl Span {
    /// Something changes at `boundary`.
    fn cut(&mut self, boundary: Timestamp) {
        if boundary <= self.at {
            self.window.start = self.window.start.max(boundary);
        } else {
            self.window.end = self.window.end.min(boundary);
        }
    }
}

impl<'a> Inquiry<'a> {
    /// The facts at `at`.
    pub(super) fn at(&self, at: Timestamp) -> Facts<'a> {
        let mut span = Span { at, window: Window { start: Timestamp::MIN, end: Timestamp::MAX } };
        let standing = self.standing(&mut span);
        Facts { window: span.window, standing }
    }

    fn standing(&self, span: &mut Span) -> Result<Standing<'a>, Reason> {
        let at = span.at;
        let device = self.device;
        let states = device.states();
        let after = states.partition_point(|state| state.from <= at);
        let around = after.checked_sub(1).into_iter().chain([after]);
        around.filter_map(|place| states.get(place)).for_each(|state| span.cut(state.from));
        let entry: &'a Arc<DeviceEntry> = device.at(at).ok_or(Reason::NotApproved)?;
        // Assignments begin and end only where the facts change too.
        let assignment = device.assignment_at(at).ok_or(Reason::NotApproved)?;
        let (key, agent) = (&self.header.key, &self.context.agent);
        let signer = self.context.registry.signer(key).map(|signer| &signer.holder);
        if !assignment.admits(key, agent, signer == Some(&Holder::Agent(*agent))) {
            return Err(Reason::NotYours);
        }
        if entry.suspended {
            return Err(Reason::Suspended);
        }
        let fleet = self.context.registry.fleet(&entry.fleet).ok_or(Reason::NotApproved)?;
        fleet.changes().for_each(|change| span.cut(change));
        let fleet = fleet.at(at).ok_or(Reason::NotApproved)?;
        let model = &self.model.entry.model;
        if fleet.model != model.name {
            return Err(Reason::WrongModel);
        }
        let chain = self.context.registry.model_chain(&model.name).ok_or(Reason::UnknownModel)?;
        if !self.admissible(chain, span) {
            return Err(Reason::ModelNotInForce);
        }
        if let Some(boundary) = self.context.late_boundaries.get(&entry.fleet) {
            span.cut(*boundary);
            if at < *boundary {
                return Err(Reason::LateBeyondUntil);
            }
        }
        let number = assignment.number;
        let statistics = self.statistics.and_then(|statistics| statistics.assignment(number));
        Ok(Standing { device: entry, assignment: number, grain_ms: fleet.grain_ms, statistics })
    }

    /// Whether the section's model is in force, or was and is the last one that the agent had confirmed.
    fn admissible(&self, chain: &ModelChain, span: &mut Span) -> bool {
        let at = span.at;
        let digest = &self.section.model;
        let entries = chain.entries();
        let Some(place) = entries.iter().rposition(|entry| entry.digest == *digest) else { return false };
        entries.iter().for_each(|entry| span.cut(entry.effective_from));
        if chain.at(at).is_some_and(|entry| entry.digest == *digest) {
            return true;
        }
        if entries[place].effective_from > at {
            return false;
        }
        let confirmed = &self.context.confirmed;
        let own = confirmed.get(digest);
        let later = entries[place + 1..].iter().filter_map(|entry| confirmed.get(&entry.digest));
        // A model that was confirmed before this one, and came back after it, is no successor by that confirmation.
        let later: Vec<Timestamp> = later.filter(|time| own.is_none_or(|own| *time > own)).copied().collect();
        later.iter().for_each(|time| span.cut(*time));
        later.iter().all(|time| at < *time)
    }
}
