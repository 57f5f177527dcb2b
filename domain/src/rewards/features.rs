//! From an epoch's totals to the integers that a program judges by.

use super::{
    input::{DeviceInput, Total},
    program::Program,
    spec::{Aggregate, Feature},
};

/// The features of a device in the program's order; none where a feature is absent or does not fit 64 bits.
#[must_use]
pub fn features(program: &Program, device: &DeviceInput) -> Vec<Option<i64>> {
    program
        .spec()
        .features
        .iter()
        .map(|feature| {
            let total = total(device, feature);
            match feature.aggregate {
                Aggregate::Sum => i64::try_from(total.map_or(0, |total| total.sum)).ok(),
                Aggregate::Delta => i64::try_from(total.map_or(0, |total| total.increase)).ok(),
                Aggregate::Mean => total.and_then(mean),
                Aggregate::Min => total.map(|total| total.min),
                Aggregate::Max => total.map(|total| total.max),
                Aggregate::Last => total.map(|total| total.last_value),
                Aggregate::Count => i64::try_from(total.map_or(0, |total| total.count)).ok(),
                Aggregate::Uptime => Some(uptime(total.map_or(0, |total| total.slots), device.slots)),
            }
        })
        .collect()
}

/// Whether anything was accepted that the program looks at.
#[must_use]
pub fn has_data(program: &Program, device: &DeviceInput) -> bool {
    program.spec().features.iter().any(|feature| total(device, feature).is_some())
}

fn total<'a>(device: &'a DeviceInput, feature: &Feature) -> Option<&'a Total> {
    device.totals.iter().find(|total| total.metric == feature.metric && total.count > 0)
}

fn mean(total: &Total) -> Option<i64> {
    i64::try_from(total.sum.checked_div_euclid(i128::from(total.count))?).ok()
}

/// Basis points, held at the whole.
fn uptime(filled: u64, slots: u64) -> i64 {
    let part = (u128::from(filled) * 10_000).checked_div(u128::from(slots)).unwrap_or(0);
    i64::try_from(part.min(10_000)).unwrap_or(10_000)
}
