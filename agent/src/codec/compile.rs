//! A model's sources made ready: paths as trees, units as conversions, names as indexes.

use std::sync::Arc;

use depin_domain::{
    ids::Digest,
    model::{Codec, DeviceNaming, Field, Metric, Model, Source, TimestampField, TimestampFormat},
    quantity::{Conversion, Quantizer, Unit},
};

use super::{
    path::{self, PathTree, ROOT},
    senml, topic,
};

/// Slots of a document's tree: the device's name, the time, then the fields.
pub(super) const DEVICE_SLOT: usize = 0;
/// See [`DEVICE_SLOT`].
pub(super) const TIME_SLOT: usize = 1;
/// See [`DEVICE_SLOT`].
pub(super) const FIRST_FIELD_SLOT: usize = 2;

/// A source that cannot be used as the model says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model {model}, sources[{index}].{field}: {what}")]
pub struct ModelProblem {
    /// Name of the model.
    pub model: String,
    /// Index of the source.
    pub index: usize,
    /// Which part of the source.
    pub field: String,
    /// What is wrong, and what to do.
    pub what: String,
}

#[derive(Debug)]
pub(super) struct CompiledModel {
    pub(super) digest: Digest,
    pub(super) name: String,
    pub(super) metrics: Vec<String>,
    pub(super) sources: Vec<CompiledSource>,
}

#[derive(Debug)]
pub(super) struct CompiledSource {
    pub(super) filter: String,
    pub(super) codec: Codec,
    pub(super) device: DeviceRule,
    pub(super) timestamp: Option<TimestampFormat>,
    pub(super) each: bool,
    pub(super) tree: PathTree,
    pub(super) fields: Vec<CompiledField>,
}

#[derive(Debug)]
pub(super) enum DeviceRule {
    TopicSegment(usize),
    Payload,
    Constant(String),
    /// SenML: the base name, or the whole name where there is none.
    SenmlBase,
    /// SenML: the part of the resolved name before its last separator.
    SenmlPrefix,
}

#[derive(Debug)]
pub(super) struct CompiledField {
    pub(super) path: Arc<str>,
    pub(super) metric: u16,
    pub(super) quantizer: Quantizer,
    /// What the path means to SenML's codecs.
    pub(super) senml: senml::Wanted,
    /// The units that SenML records name.
    pub(super) units: senml::UnitMemory,
}

impl CompiledModel {
    pub(super) fn new(digest: Digest, model: &Model, problems: &mut Vec<ModelProblem>) -> Self {
        let mut sources = Vec::with_capacity(model.sources.len());
        for (index, source) in model.sources.iter().enumerate() {
            match CompiledSource::new(source, &model.metrics) {
                Ok(compiled) => sources.push(compiled),
                Err((field, what)) => {
                    problems.push(ModelProblem { model: model.name.clone(), index, field, what });
                }
            }
        }
        let metrics = model.metrics.iter().map(|metric| metric.name.clone()).collect();
        Self { digest, name: model.name.clone(), metrics, sources }
    }
}

/// Which part is wrong, and what is wrong with it.
type Wrong = (String, String);

impl CompiledSource {
    fn new(source: &Source, metrics: &[Metric]) -> Result<Self, Wrong> {
        if !topic::is_filter(&source.topic) {
            return Err((
                "topic".to_owned(),
                "not a topic filter: + and # stand alone in their level, # last".to_owned(),
            ));
        }
        let fields = compile_fields(source, metrics)?;
        let (tree, device) = match source.codec {
            Codec::Json | Codec::Cbor => (document_tree(source)?, document_device(&source.device)),
            Codec::SenmlJson => (senml::tree(&senml::JSON_LABELS), senml_device(&source.device)?),
            Codec::SenmlCbor => (senml::tree(&senml::CBOR_LABELS), senml_device(&source.device)?),
            Codec::Plain => (PathTree::new(0), plain_device(source)?),
        };
        Ok(Self {
            filter: source.topic.clone(),
            codec: source.codec,
            device,
            timestamp: source.timestamp.as_ref().map(|field| field.format.clone()),
            each: source.each.is_some(),
            tree,
            fields,
        })
    }
}

fn compile_fields(source: &Source, metrics: &[Metric]) -> Result<Vec<CompiledField>, Wrong> {
    let mut fields: Vec<CompiledField> = Vec::with_capacity(source.fields.len());
    for (index, field) in source.fields.iter().enumerate() {
        let wrong = |part: &str, what: String| (format!("fields[{index}].{part}"), what);
        let found = metrics.iter().position(|metric| metric.name == field.metric);
        let (metric, rules) = found
            .and_then(|at| Some((u16::try_from(at).ok()?, metrics.get(at)?)))
            .ok_or_else(|| wrong("metric", format!("the model has no metric {:?}", field.metric)))?;
        if fields.iter().any(|other| other.metric == metric) {
            return Err(wrong("metric", format!("{:?} is filled by an earlier field of this source", field.metric)));
        }
        let quantizer = quantizer(field, rules).map_err(|what| wrong("unit", what))?;
        let wanted = senml::Wanted::of(&field.path);
        let units = senml::UnitMemory::new(rules, &wanted);
        fields.push(CompiledField { path: Arc::from(field.path.as_str()), metric, quantizer, senml: wanted, units });
    }
    Ok(fields)
}

fn quantizer(field: &Field, metric: &Metric) -> Result<Quantizer, String> {
    // Without a unit of its own the field has the metric's, even one that is no UCUM code: nothing is converted.
    let Some(unit) = field.unit.as_ref().filter(|unit| **unit != metric.unit) else {
        return Ok(Quantizer::plain(metric.scale));
    };
    let convert = || Conversion::between(&Unit::parse(unit)?, &Unit::parse(&metric.unit)?);
    convert().map(|conversion| Quantizer::new(conversion, metric.scale)).map_err(|error| error.to_string())
}

fn document_tree(source: &Source) -> Result<PathTree, Wrong> {
    let mut tree = PathTree::new(FIRST_FIELD_SLOT + source.fields.len());
    let mut starts = vec![ROOT];
    if let Some(path) = &source.each {
        starts.push(tree.each(path).map_err(|error| ("each".to_owned(), error.to_string()))?);
    }
    // Device and time may stand in the element or, for all elements, outside of it.
    for start in &starts {
        if let DeviceNaming::PayloadPath(path) = &source.device {
            tree.want(*start, path, DEVICE_SLOT)
                .map_err(|error| ("device.payloadPath".to_owned(), error.to_string()))?;
        }
        if let Some(TimestampField { path, .. }) = &source.timestamp {
            tree.want(*start, path, TIME_SLOT).map_err(|error| ("timestamp.path".to_owned(), error.to_string()))?;
        }
    }
    let start = starts.last().copied().unwrap_or(ROOT);
    for (index, field) in source.fields.iter().enumerate() {
        tree.want(start, &field.path, FIRST_FIELD_SLOT + index)
            .map_err(|error: path::PathError| (format!("fields[{index}].path"), error.to_string()))?;
    }
    Ok(tree)
}

fn document_device(naming: &DeviceNaming) -> DeviceRule {
    match naming {
        DeviceNaming::TopicSegment(index) => segment(*index),
        DeviceNaming::Constant(serial) => DeviceRule::Constant(serial.clone()),
        DeviceNaming::PayloadPath(_) => DeviceRule::Payload,
    }
}

fn plain_device(source: &Source) -> Result<DeviceRule, Wrong> {
    if source.fields.len() != 1 || source.fields.iter().any(|field| !field.path.is_empty()) {
        return Err((
            "fields".to_owned(),
            "a plain payload is one number: exactly one field, with an empty path".to_owned(),
        ));
    }
    if source.timestamp.is_some() {
        return Err(("timestamp".to_owned(), "a plain payload holds no time; leave it out".to_owned()));
    }
    match &source.device {
        DeviceNaming::PayloadPath(_) => {
            Err(("device".to_owned(), "a plain payload names no device; use topicSegment or constant".to_owned()))
        }
        naming => Ok(document_device(naming)),
    }
}

fn senml_device(naming: &DeviceNaming) -> Result<DeviceRule, Wrong> {
    match naming {
        DeviceNaming::TopicSegment(index) => Ok(segment(*index)),
        DeviceNaming::Constant(serial) => Ok(DeviceRule::Constant(serial.clone())),
        DeviceNaming::PayloadPath(path) if path.is_empty() || path == "bn" => Ok(DeviceRule::SenmlBase),
        DeviceNaming::PayloadPath(path) if path == "n" => Ok(DeviceRule::SenmlPrefix),
        DeviceNaming::PayloadPath(_) => Err((
            "device.payloadPath".to_owned(),
            "SenML names devices by `bn` (the base name) or `n` (the name up to its last separator)".to_owned(),
        )),
    }
}

fn segment(index: u32) -> DeviceRule {
    // An index beyond the address space is beyond every topic too.
    DeviceRule::TopicSegment(usize::try_from(index).unwrap_or(usize::MAX))
}
