//! The newest accepted readings as of a place in the log: where increases begin, and what order and rates were judged by.

use std::collections::{BTreeMap, BTreeSet};

use depin_domain::{
    ids::DeviceId,
    proofs::{Reading, Section, Verdict},
    registry::Device,
};

use crate::{reading::accepted, state::Accounts};

/// By device, assignment and metric.
#[derive(Debug)]
pub(super) struct Marks(BTreeMap<(DeviceId, u32, String), Reading>);

impl Marks {
    /// Those that `accounts` hold of the devices.
    pub(super) fn of(accounts: &Accounts, devices: &BTreeSet<DeviceId>) -> Self {
        let mut newest = BTreeMap::new();
        for device in devices {
            for assignment in accounts.get(device).into_iter().flat_map(|known| &known.assignments) {
                let marks = assignment.metrics.iter().map(|metric| (metric.metric.to_string(), metric.mark));
                newest.extend(marks.map(|(metric, mark)| ((*device, assignment.number, metric), mark)));
            }
        }
        Self(newest)
    }

    /// Goes on over a section of the device: those of its readings that count and are `wanted` are newer, or are not.
    pub(super) fn go_on(
        &mut self,
        device: &Device,
        section: &Section,
        index: u32,
        verdict: &Verdict,
        wanted: impl Fn(&Reading) -> bool,
    ) {
        for (metric, reading) in accepted(section, index, verdict).filter(|(_, reading)| wanted(reading)) {
            let Some(assignment) = device.assignment_at(reading.at) else { continue };
            let known = self.0.entry((section.device, assignment.number, metric.to_owned())).or_insert(reading);
            if known.at < reading.at {
                *known = reading;
            }
        }
    }

    /// All: device, assignment, metric, reading.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&DeviceId, u32, &str, Reading)> {
        self.0.iter().map(|((device, number, metric), mark)| (device, *number, metric.as_str(), *mark))
    }

    /// A device's: assignment, metric, reading.
    pub(super) fn of_device(&self, device: DeviceId) -> impl Iterator<Item = (u32, &str, Reading)> {
        let marks = self.0.range((device, 0, String::new())..=(device, u32::MAX, String::new()));
        marks.map(|((_, number, metric), mark)| (*number, metric.as_str(), *mark))
    }
}
