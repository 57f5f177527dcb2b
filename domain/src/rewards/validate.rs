//! What makes a program invalid, told so that its author can mend it. All faults at once, not only the first.

use std::{collections::BTreeSet, fmt};

use super::{
    expression::{Expression, RESERVED},
    spec::{Aggregate, Emission, Feature, Limit, ProgramSpec, Recipient},
};
use crate::{
    model::{Metric, MetricKind, Model},
    rewards::amount::BASIS_POINTS,
};

/// Largest emission of an epoch: far above any token, far enough below 2^128 that a thousand years of sums fit.
pub const MAX_EMISSION: u128 = 1 << 100;
/// Most entries in each list of a program.
pub const MAX_LIST: usize = 64;
/// Longest epoch: ten years.
pub const MAX_LENGTH_MS: i64 = 10 * 366 * 86_400_000;
/// Largest minimum distance: a thousand kilometres.
pub const MAX_METRES: u32 = 1_000_000;

/// One fault of a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct SpecError {
    /// Path of the field, as in the resource: `gates[0].feature`.
    pub field: String,
    /// What is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.field, self.reason, self.remedy)
    }
}

/// All faults that show without knowing models.
#[must_use]
pub fn faults(spec: &ProgramSpec) -> Vec<SpecError> {
    let mut faults = Faults::default();
    faults.identity(spec);
    faults.times(spec);
    faults.emission(&spec.emission);
    faults.split(spec);
    faults.features(&spec.features);
    faults.gates(spec);
    faults.limits(spec);
    faults.weight(spec);
    if spec.late.basis_points > BASIS_POINTS {
        faults.add("late.basisPoints", "more than the whole", "use at most 10000");
    }
    faults.0
}

/// The faults that show only beside the model and grain of a fleet: unknown metrics, Delta of a level, odd grains, personal metrics
/// in short epochs.
#[must_use]
pub fn faults_with_model(spec: &ProgramSpec, fleet: &str, model: &Model, grain_ms: i64) -> Vec<SpecError> {
    let mut faults = Faults::default();
    if grain_ms <= 0 || spec.epoch.length_ms % grain_ms != 0 || spec.epoch.genesis.0 % grain_ms != 0 {
        faults.add(
            "epoch",
            format!("length or genesis is no multiple of the grain of {fleet}, {grain_ms} ms"),
            "align both with the grain",
        );
    }
    for (index, feature) in spec.features.iter().enumerate() {
        let Some(metric) = model.metric(&feature.metric) else {
            let reason = format!("model {} of {fleet} has no metric {:?}", model.name, feature.metric);
            faults.add(format!("features[{index}].metric"), reason, "name one of the model's metrics");
            continue;
        };
        if feature.aggregate == Aggregate::Delta && metric.kind == MetricKind::Gauge {
            let reason = format!("{:?} is a gauge: it does not grow", feature.metric);
            faults.add(format!("features[{index}].aggregate"), reason, "use Sum, Mean, Min, Max or Last, or a counter");
        }
        if metric.personal && spec.epoch.length_ms < 86_400_000 {
            let reason = format!("{:?} is personal and the epoch is shorter than 24 hours", feature.metric);
            faults.add("epoch.length", reason, "use epochs of at least 24h");
        }
    }
    faults.0
}

/// The faults that show only between the models of the program's fleets, each with its fleet: a metric whose values are not to be compared.
#[must_use]
pub fn faults_between_models(spec: &ProgramSpec, models: &[(&str, &Model)]) -> Vec<SpecError> {
    let mut faults = Faults::default();
    for (index, feature) in spec.features.iter().enumerate() {
        // A number of readings and a share of slots have no unit.
        if matches!(feature.aggregate, Aggregate::Count | Aggregate::Uptime) {
            continue;
        }
        let mut having =
            models.iter().filter_map(|(fleet, model)| Some((fleet, &model.name, model.metric(&feature.metric)?)));
        let Some((first, by, metric)) = having.next() else { continue };
        let counts = |metric: &Metric| matches!(metric.kind, MetricKind::Counter { .. });
        let other = having.find_map(|(fleet, model, other)| {
            // How a counter's reset is counted is each device's own affair: the increases mean the same.
            let kind = if counts(metric) && counts(other) { metric.kind } else { other.kind };
            Some((fleet, model, metric.difference(&Metric { kind, ..other.clone() })?))
        });
        if let Some((fleet, model, difference)) = other {
            let reason = format!(
                "{:?} has {} {} in model {by} of {first} and {} in model {model} of {fleet}",
                feature.metric, difference.part, difference.ours, difference.theirs
            );
            let remedy = "name fleets whose models agree on it, or make a program for each";
            faults.add(format!("features[{index}].metric"), reason, remedy);
        }
    }
    faults.0
}

#[derive(Default)]
struct Faults(Vec<SpecError>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(SpecError { field: field.into(), reason: reason.into(), remedy: remedy.into() });
    }

    fn size(&mut self, field: &str, length: usize) {
        if length > MAX_LIST {
            self.add(field, format!("{length} entries"), format!("use at most {MAX_LIST}"));
        }
    }

    fn identity(&mut self, spec: &ProgramSpec) {
        if spec.fleets.is_empty() {
            self.add("fleets", "empty", "name at least one fleet");
        }
        self.size("fleets", spec.fleets.len());
        let mut seen = BTreeSet::new();
        for (index, fleet) in spec.fleets.iter().enumerate() {
            if !seen.insert(fleet) {
                self.add(format!("fleets[{index}]"), format!("{fleet:?} stands twice"), "name each fleet once");
            }
        }
        if spec.token.symbol.is_empty() || spec.token.symbol.len() > 32 {
            self.add("token.symbol", "empty or longer than 32 bytes", "use the token's short symbol");
        }
        if spec.token.decimals > 36 {
            self.add("token.decimals", "more than 36", "use the token's own decimals, usually 18 or fewer");
        }
    }

    fn times(&mut self, spec: &ProgramSpec) {
        if !(1..=MAX_LENGTH_MS).contains(&spec.epoch.length_ms) {
            self.add("epoch.length", "not between 1 ms and ten years", "use for example 24h");
        }
        if !(0..=MAX_LENGTH_MS).contains(&spec.grace_ms) {
            self.add("grace", "negative or above ten years", "use for example 5m");
        }
        if !(0..=MAX_LENGTH_MS).contains(&spec.late.late_until_ms) {
            self.add("late.until", "negative or above ten years", "use for example 336h");
        }
    }

    fn emission(&mut self, emission: &Emission) {
        let (field, amount, every) = match emission {
            Emission::Fixed { amount } => ("fixed", amount, None),
            Emission::Halving { amount, every_epochs } => ("halving", amount, Some(every_epochs)),
            Emission::Decay { amount, every_epochs, .. } => ("decay", amount, Some(every_epochs)),
        };
        if amount.0 > MAX_EMISSION {
            self.add(format!("emission.{field}.amount"), "above 2^100", "check the number of decimals");
        }
        if every == Some(&0) {
            self.add(format!("emission.{field}.everyEpochs"), "zero", "use at least 1");
        }
        if let Emission::Decay { keep_basis_points, .. } = emission
            && *keep_basis_points >= BASIS_POINTS
        {
            self.add("emission.decay.keepBasisPoints", "does not decay", "use at most 9999, or emission.fixed");
        }
    }

    fn split(&mut self, spec: &ProgramSpec) {
        let parts = &spec.split.parts;
        self.size("split.parts", parts.len());
        let total: u64 = parts.iter().map(|part| u64::from(part.basis_points)).sum();
        if total != u64::from(BASIS_POINTS) {
            self.add("split.parts", format!("basis points sum to {total}"), "make them sum to 10000");
        }
        if parts.iter().filter(|part| part.to == Recipient::Devices).count() != 1 {
            self.add("split.parts", "not exactly one part goes to the devices", "give exactly one part `to: devices`");
        }
        let mut names = BTreeSet::new();
        for (index, part) in parts.iter().enumerate() {
            if part.name.is_empty() || part.name.len() > 63 || !names.insert(&part.name) {
                self.add(
                    format!("split.parts[{index}].name"),
                    "empty, longer than 63 bytes or used twice",
                    "name each part",
                );
            }
        }
        if !names.contains(&spec.split.residual) {
            self.add(
                "split.residual",
                format!("{:?} is no part", spec.split.residual),
                "name the part that gets what rounding leaves",
            );
        }
    }

    fn features(&mut self, features: &[Feature]) {
        if features.is_empty() {
            self.add("features", "empty", "define at least one feature");
        }
        self.size("features", features.len());
        let mut names = BTreeSet::new();
        for (index, feature) in features.iter().enumerate() {
            let field = format!("features[{index}].name");
            if !feature_name(&feature.name) {
                self.add(
                    &field,
                    format!("{:?} is no feature name", feature.name),
                    "use [a-z][a-zA-Z0-9_]{0,62}, no word of CEL",
                );
            }
            if !names.insert(&feature.name) {
                self.add(&field, format!("{:?} stands twice", feature.name), "name each feature once");
            }
            if feature.metric.is_empty() || feature.metric.len() > 64 {
                self.add(
                    format!("features[{index}].metric"),
                    "empty or longer than 64 bytes",
                    "name a metric of the fleets' models",
                );
            }
        }
    }

    fn known(&mut self, spec: &ProgramSpec, field: String, name: &str) {
        if !spec.features.iter().any(|feature| feature.name == name) {
            self.add(field, format!("{name:?} is no feature"), "name a feature of this program");
        }
    }

    fn gates(&mut self, spec: &ProgramSpec) {
        self.size("gates", spec.gates.len());
        for (index, gate) in spec.gates.iter().enumerate() {
            self.known(spec, format!("gates[{index}].feature"), &gate.feature);
            let camel = gate.reason.starts_with(|c: char| c.is_ascii_uppercase())
                && gate.reason.len() <= 63
                && gate.reason.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if !camel {
                self.add(
                    format!("gates[{index}].reason"),
                    format!("{:?} is not CamelCase", gate.reason),
                    "use a name such as LowUptime",
                );
            }
            match (gate.minimum, gate.maximum) {
                (None, None) => self.add(format!("gates[{index}]"), "neither minimum nor maximum", "set at least one"),
                (Some(minimum), Some(maximum)) if minimum > maximum => {
                    self.add(
                        format!("gates[{index}].minimum"),
                        "is above the maximum",
                        "nothing could pass: swap them",
                    );
                }
                _ => {}
            }
        }
    }

    fn limits(&mut self, spec: &ProgramSpec) {
        let (mut hex, mut distance) = (0, 0);
        for (index, limit) in spec.limits.iter().enumerate() {
            let (name, by) = match limit {
                Limit::HexCapacity { resolution, capacity, by } => {
                    hex += 1;
                    if *resolution > 15 {
                        self.add(
                            format!("limits[{index}].hexCapacity.resolution"),
                            "above 15",
                            "use an H3 resolution, 0 to 15",
                        );
                    }
                    if *capacity == 0 {
                        self.add(format!("limits[{index}].hexCapacity.capacity"), "zero", "use at least 1");
                    }
                    ("hexCapacity", by)
                }
                Limit::MinimumDistance { metres, by } => {
                    distance += 1;
                    if !(1..=MAX_METRES).contains(metres) {
                        let reason = format!("not between 1 and {MAX_METRES}");
                        self.add(format!("limits[{index}].minimumDistance.metres"), reason, "use metres");
                    }
                    ("minimumDistance", by)
                }
            };
            if let Some(by) = by {
                self.known(spec, format!("limits[{index}].{name}.by"), by);
            }
        }
        if hex > 1 || distance > 1 {
            self.add("limits", "a kind stands twice", "use each kind of limit at most once");
        }
    }

    fn weight(&mut self, spec: &ProgramSpec) {
        let names: Vec<_> = spec.features.iter().map(|feature| feature.name.as_str()).collect();
        if let Err(error) = Expression::compile(&spec.weight, &names) {
            self.add(
                "weight",
                error.to_string(),
                "write the weight in micro-units as an integer CEL expression over the features",
            );
        }
    }
}

fn feature_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !RESERVED.contains(&name)
}

#[cfg(test)]
mod tests;
