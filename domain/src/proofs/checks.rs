//! A model ready for judging: metrics by name and its checks compiled, once per digest.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::Reading;
use crate::{
    cel::{CompileError, Rule, Schema, Values, Variable},
    ids::Digest,
    model::{CheckScope, Metric, Model},
    registry::{DeviceEntry, ModelEntry, Registry},
};

/// Most checks of a model.
pub const MAX_CHECKS: usize = 32;
/// Longest name of a check.
pub const MAX_CHECK_NAME: usize = 64;

/// A check of a model cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// Too many.
    #[error("{0} are more than {MAX_CHECKS}")]
    TooMany(usize),
    /// The name that a rejection would carry.
    #[error("{reason:?} is not a CamelCase name that stands once")]
    Name {
        /// Which check.
        index: usize,
        /// Its name.
        reason: String,
    },
    /// Its expression.
    #[error("{reason}: {error}")]
    Expression {
        /// Which check.
        index: usize,
        /// Its name.
        reason: String,
        /// What is wrong.
        error: CompileError,
    },
}

impl CheckError {
    /// The part of the model, as a path.
    #[must_use]
    pub fn field(&self) -> String {
        match self {
            Self::TooMany(_) => "checks".to_owned(),
            Self::Name { index, .. } => format!("checks/{index}/reason"),
            Self::Expression { index, .. } => format!("checks/{index}/expression"),
        }
    }

    /// What to do.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::TooMany(_) => "join some with &&".to_owned(),
            Self::Name { .. } => {
                format!("use an upper-case letter and then letters and digits, at most {MAX_CHECK_NAME}")
            }
            Self::Expression { .. } => "correct the expression".to_owned(),
        }
    }
}

/// Whether all checks of `model` can be used.
pub fn validate(model: &Model) -> Result<(), CheckError> {
    if model.checks.len() > MAX_CHECKS {
        return Err(CheckError::TooMany(model.checks.len()));
    }
    for (index, check) in model.checks.iter().enumerate() {
        let reason = check.reason.clone();
        let good = (1..=MAX_CHECK_NAME).contains(&reason.len())
            && reason.starts_with(|c: char| c.is_ascii_uppercase())
            && reason.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && model.checks.iter().take(index).all(|before| before.reason != reason);
        if !good {
            return Err(CheckError::Name { index, reason });
        }
        if let Err(error) = compile(model, check.scope, &check.expression) {
            return Err(CheckError::Expression { index, reason, error });
        }
    }
    Ok(())
}

fn compile(model: &Model, scope: CheckScope, expression: &str) -> Result<Rule, CompileError> {
    let schema = match scope {
        CheckScope::Reading => reading_schema(),
        CheckScope::Section => section_schema(model),
    };
    Rule::compile(expression, &schema)
}

/// A check, compiled.
#[derive(Clone, Debug)]
pub(super) struct CompiledCheck {
    pub(super) reason: Box<str>,
    /// Absent where an older version of the rules let in what cannot be compiled: nothing satisfies it.
    pub(super) rule: Option<Rule>,
}

/// A model ready for judging.
#[derive(Clone, Debug)]
pub struct CompiledModel {
    pub(super) entry: Arc<ModelEntry>,
    pub(super) reading_checks: Vec<CompiledCheck>,
    pub(super) section_checks: Vec<CompiledCheck>,
}

impl CompiledModel {
    /// Compiles the checks of a model.
    #[must_use]
    pub fn new(entry: Arc<ModelEntry>) -> Self {
        let of = |scope| {
            let checks = entry.model.checks.iter().filter(|check| check.scope == scope);
            let compiled = checks.map(|check| CompiledCheck {
                reason: check.reason.as_str().into(),
                rule: compile(&entry.model, scope, &check.expression).ok(),
            });
            compiled.collect()
        };
        Self { reading_checks: of(CheckScope::Reading), section_checks: of(CheckScope::Section), entry }
    }

    /// The metric `name` and its place in the model.
    pub(super) fn metric(&self, name: &str) -> Option<(usize, &Metric)> {
        let metrics = &self.entry.model.metrics;
        let place = metrics.binary_search_by(|metric| metric.name.as_str().cmp(name)).ok()?;
        metrics.get(place).map(|metric| (place, metric))
    }
}

/// Compiled models by digest.
#[derive(Clone, Debug, Default)]
pub struct Models {
    by_digest: HashMap<Digest, Arc<CompiledModel>>,
}

impl Models {
    /// All models of a registry.
    #[must_use]
    pub fn of(registry: &Registry) -> Self {
        let mut models = Self::default();
        models.update(registry);
        models
    }

    /// Adds what is new in `registry`. Returns whether anything was.
    pub fn update(&mut self, registry: &Registry) -> bool {
        let mut added = false;
        for entry in registry.model_chains().flat_map(|(_, chain)| chain.entries()) {
            if let Entry::Vacant(place) = self.by_digest.entry(entry.digest) {
                place.insert(Arc::new(CompiledModel::new(Arc::clone(entry))));
                added = true;
            }
        }
        added
    }

    /// The model with this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&Arc<CompiledModel>> {
        self.by_digest.get(digest)
    }
}

const AT: u16 = 0;
const VALUE: u16 = 1;
const PREVIOUS_AT: u16 = 2;
const PREVIOUS_VALUE: u16 = 3;
const METRIC: u16 = 0;
const PREVIOUS_METRIC: u16 = 1;
const NAMESPACE: u16 = 2;
const NAME: u16 = 3;
const FLEET: u16 = 4;
const SERIAL: u16 = 5;
/// `count`, `first`, `last`, `min`, `max`.
const TOTALS: u16 = 5;

fn with_device(schema: Schema) -> Schema {
    schema
        .with("device", Variable::Object)
        .with("device.namespace", Variable::Text(NAMESPACE))
        .with("device.name", Variable::Text(NAME))
        .with("device.fleet", Variable::Text(FLEET))
        .with("device.serial", Variable::Text(SERIAL))
}

fn reading_schema() -> Schema {
    with_device(Schema::default())
        .with("reading", Variable::Object)
        .with("reading.metric", Variable::Text(METRIC))
        .with("reading.at", Variable::Integer(AT))
        .with("reading.value", Variable::Integer(VALUE))
        .with("previous", Variable::Optional { number: 0, nullable: true })
        .with("previous.metric", Variable::Text(PREVIOUS_METRIC))
        .with("previous.at", Variable::Integer(PREVIOUS_AT))
        .with("previous.value", Variable::Integer(PREVIOUS_VALUE))
}

fn section_schema(model: &Model) -> Schema {
    let mut schema = with_device(Schema::default()).with("section", Variable::Object);
    for (metric, number) in model.metrics.iter().zip(0_u16..) {
        let path = format!("section.{}", metric.name);
        for (part, offset) in ["count", "first", "last", "min", "max"].into_iter().zip(0..) {
            schema = schema.with(format!("{path}.{part}"), Variable::Integer(number.saturating_mul(TOTALS) + offset));
        }
        schema = schema.with(path, Variable::Optional { number, nullable: false });
    }
    schema
}

fn device_text(device: &DeviceEntry, number: u16) -> Option<&str> {
    match number {
        NAMESPACE => Some(&device.namespace),
        NAME => Some(&device.name),
        FLEET => Some(&device.fleet),
        SERIAL => Some(&device.serial),
        _ => None,
    }
}

/// What a check of reading scope sees.
pub(super) struct ReadingScope<'a> {
    pub(super) metric: &'a str,
    pub(super) reading: Reading,
    pub(super) previous: Option<Reading>,
    pub(super) device: &'a DeviceEntry,
}

impl Values for ReadingScope<'_> {
    fn integer(&self, number: u16) -> Option<i64> {
        match number {
            AT => Some(self.reading.at.0),
            VALUE => Some(self.reading.value),
            PREVIOUS_AT => self.previous.map(|previous| previous.at.0),
            PREVIOUS_VALUE => self.previous.map(|previous| previous.value),
            _ => None,
        }
    }

    fn text(&self, number: u16) -> Option<&str> {
        match number {
            METRIC => Some(self.metric),
            PREVIOUS_METRIC => self.previous.map(|_| self.metric),
            _ => device_text(self.device, number),
        }
    }

    fn truth(&self, _: u16) -> Option<bool> {
        None
    }

    fn present(&self, _: u16) -> bool {
        self.previous.is_some()
    }
}

/// The accepted readings of one metric in a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    count: i64,
    first: i64,
    last: i64,
    min: i64,
    max: i64,
}

impl Totals {
    /// With one reading more, later than those before.
    pub(super) fn with(before: Option<Self>, value: i64) -> Self {
        match before {
            None => Self { count: 1, first: value, last: value, min: value, max: value },
            Some(Self { count, first, min, max, .. }) => {
                Self { count: count.saturating_add(1), first, last: value, min: min.min(value), max: max.max(value) }
            }
        }
    }
}

/// What a check of section scope sees.
pub(super) struct SectionScope<'a> {
    /// By the metric's place in the model.
    pub(super) totals: &'a [Option<Totals>],
    pub(super) device: &'a DeviceEntry,
}

impl Values for SectionScope<'_> {
    fn integer(&self, number: u16) -> Option<i64> {
        let totals = self.totals.get(usize::from(number / TOTALS))?.as_ref()?;
        Some(match number % TOTALS {
            0 => totals.count,
            1 => totals.first,
            2 => totals.last,
            3 => totals.min,
            _ => totals.max,
        })
    }

    fn text(&self, number: u16) -> Option<&str> {
        device_text(self.device, number)
    }

    fn truth(&self, _: u16) -> Option<bool> {
        None
    }

    fn present(&self, number: u16) -> bool {
        self.totals.get(usize::from(number)).is_some_and(Option::is_some)
    }
}
