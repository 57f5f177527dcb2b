//! Under one name a metric keeps its unit, kind and scale wherever its readings are added up: in a model, in a fleet whatever models
//! it has one after the other, and in a device whatever fleets it is in.
//!
//! Marks and statistics are kept by assignment and metric name, and an epoch adds up all assignments of a device. What is new is
//! compared with the models that were in force while they were used, so that a version which nobody measured by binds nobody.

use std::collections::BTreeSet;

use super::{ChangeError, Checked, Registry};
use crate::{
    model::{Metric, Model},
    registry::{Device, DeviceEntry, Fleet, FleetEntry, ModelEntry},
    time::{Timestamp, Window},
};

impl Registry {
    /// The next model of a name, against all that the name ever stood for and all that its fleets and their devices measured.
    pub(super) fn check_model_meaning(&self, entry: &ModelEntry) -> Checked {
        let model = &entry.model;
        let Some(chain) = self.model_chain(&model.name) else { return Ok(()) };
        for old in chain.entries() {
            let metrics = old.model.metrics.iter();
            let same = metrics.filter_map(|old| Some((old, model.metric(&old.name)?)));
            for (old, new) in same {
                if let Some(difference) = old.difference(new) {
                    return Err(ChangeError::Immutable {
                        field: format!("metrics/{}/{}", old.name, difference.part),
                        reason: "earlier readings of the metric are in it".into(),
                        old: difference.ours,
                        remedy: "give the new metric another name".into(),
                    });
                }
            }
        }
        // Metrics of the newest one were compared when that came.
        let known = |metric: &Metric| chain.newest().is_some_and(|newest| newest.model.metric(&metric.name).is_some());
        let fresh: Vec<_> = metrics(model).filter(|(_, metric)| !known(metric)).collect();
        if fresh.is_empty() {
            return Ok(());
        }
        // A removed fleet's devices are judged by its last model until they are removed too.
        let uses = |fleet: &Fleet| fleet.at(Timestamp::MAX).is_some_and(|last| last.model == model.name);
        let fleets: BTreeSet<_> = self.fleets().filter(|(_, fleet)| uses(fleet)).map(|(id, _)| id.as_str()).collect();
        self.check_fleets_meaning(&|metric| format!("metrics/{metric}"), &fleets, &fresh)
    }

    /// Another model of a fleet, against what the fleet and its devices measured.
    pub(super) fn check_fleet_meaning(&self, entry: &FleetEntry) -> Checked {
        let Some(known) = self.fleet(&entry.id) else { return Ok(()) };
        if known.current().is_some_and(|now| now.model == entry.model) {
            return Ok(());
        }
        let from_now = Window { start: self.updated_at(), end: Timestamp::MAX };
        let chain = self.model_chain(&entry.model);
        let models = chain.into_iter().flat_map(|chain| chain.within(from_now));
        let new: Vec<_> = models.flat_map(|entry| metrics(&entry.model)).collect();
        self.check_fleets_meaning(&|_| "model".to_owned(), &BTreeSet::from([entry.id.as_str()]), &new)
    }

    /// Another fleet of a device, against what the device measured, also before it was removed: an epoch adds up both.
    pub(super) fn check_device_meaning(&self, entry: &DeviceEntry) -> Checked {
        let Some(known) = self.device(&entry.id) else { return Ok(()) };
        let now = self.updated_at();
        let from = match known.current() {
            Some(current) if current.fleet == entry.fleet => return Ok(()),
            Some(_) => now,
            None => entry.since.min(now),
        };
        let new = self.models_of(&entry.fleet, Window { start: from, end: Timestamp::MAX });
        let new: Vec<_> = new.into_iter().flat_map(metrics).collect();
        let remedy = |_: &str, _: &str| {
            "move it to a fleet where the metric is the same, or make a device of another name".to_owned()
        };
        check_kept(&|_| "fleet".to_owned(), "the device", &self.measured_by(known), &new, &remedy)
    }

    /// `new` are to be measured in `fleets` from now on.
    fn check_fleets_meaning(
        &self,
        field: &dyn Fn(&str) -> String,
        fleets: &BTreeSet<&str>,
        new: &[(&Model, &Metric)],
    ) -> Checked {
        let remedy = |metric: &str, model: &str| format!("give metric {metric} another name in model {model}");
        for fleet in fleets {
            let until_now = Window { start: Timestamp::MIN, end: self.just_after_now() };
            check_kept(field, &format!("fleet {fleet}"), &self.models_of(fleet, until_now), new, &remedy)?;
        }
        for (id, device) in self.devices() {
            let Some(now) = device.current().filter(|now| fleets.contains(now.fleet.as_str())) else { continue };
            let mut entries = device.states().iter().filter_map(|state| state.entry.as_ref());
            if entries.any(|entry| entry.fleet != now.fleet) {
                check_kept(field, &self.device_name(id), &self.measured_by(device), new, &remedy)?;
            }
        }
        Ok(())
    }

    /// The models that were, or are to be, in force in a fleet over a span.
    fn models_of(&self, fleet: &str, window: Window) -> Vec<&Model> {
        let spans = self.fleet(fleet).into_iter().flat_map(|fleet| fleet.models_within(window));
        let chains = spans.filter_map(|(model, span)| Some((self.model_chain(model)?, span)));
        chains.flat_map(|(chain, span)| chain.within(span)).map(|entry| &entry.model).collect()
    }

    /// Where a window ends that has the present in it and nothing of what is still to come in force.
    fn just_after_now(&self) -> Timestamp {
        Timestamp(self.updated_at().0.saturating_add(1))
    }

    /// The models that a device's readings were decoded by.
    fn measured_by(&self, device: &Device) -> Vec<&Model> {
        let states = device.states();
        let ends = states.iter().skip(1).map(|next| next.from).chain([self.just_after_now()]);
        let spans = states.iter().zip(ends).filter_map(|(state, end)| Some((state.entry.as_ref()?, state.from, end)));
        spans.flat_map(|(entry, start, end)| self.models_of(&entry.fleet, Window { start, end })).collect()
    }
}

fn metrics(model: &Model) -> impl Iterator<Item = (&Model, &Metric)> {
    model.metrics.iter().map(move |metric| (model, metric))
}

/// Whether metrics of `new` are what they were by the models of `old`, by which `whose` has readings.
fn check_kept(
    field: &dyn Fn(&str) -> String,
    whose: &str,
    old: &[&Model],
    new: &[(&Model, &Metric)],
    remedy: &dyn Fn(&str, &str) -> String,
) -> Checked {
    for (model, metric) in new {
        for before in old {
            let Some(difference) = before.metric(&metric.name).and_then(|old| old.difference(metric)) else { continue };
            return Err(ChangeError::Immutable {
                field: field(&metric.name),
                reason: format!(
                    "the {} of metric {} is {} in model {}, and {whose} has readings of it by model {}",
                    difference.part, metric.name, difference.theirs, model.name, before.name
                ),
                old: difference.ours,
                remedy: remedy(&metric.name, &model.name),
            });
        }
    }
    Ok(())
}
