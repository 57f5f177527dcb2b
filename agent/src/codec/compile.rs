//! A model's sources made ready: paths as trees, units as conversions, names as indexes.

use std::sync::Arc;

use depin_domain::{
    ids::Digest,
    model::{
        Codec, DeviceNaming, Field, Metric, Model, Source, TimestampField, TimestampFormat, sources::SourceProblem,
    },
    quantity::Quantizer,
};

use super::{
    path::{PathTree, ROOT},
    senml,
};

/// Slots of a document's tree: the device's name, the time, then the fields.
pub(super) const DEVICE_SLOT: usize = 0;
/// See [`DEVICE_SLOT`].
pub(super) const TIME_SLOT: usize = 1;
/// See [`DEVICE_SLOT`].
pub(super) const FIRST_FIELD_SLOT: usize = 2;

/// A source that cannot be used as the model says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model {model}, sources[{index}].{problem}")]
pub struct ModelProblem {
    /// Name of the model.
    pub model: String,
    /// Index of the source.
    pub index: usize,
    /// Which part of it, what is wrong, and what to do.
    pub problem: SourceProblem,
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
                Err(problem) => problems.push(ModelProblem { model: model.name.clone(), index, problem }),
            }
        }
        let metrics = model.metrics.iter().map(|metric| metric.name.clone()).collect();
        Self { digest, name: model.name.clone(), metrics, sources }
    }
}

impl CompiledSource {
    fn new(source: &Source, metrics: &[Metric]) -> Result<Self, SourceProblem> {
        source.check(metrics)?;
        let (tree, device) = match source.codec {
            Codec::Json | Codec::Cbor => (document_tree(source)?, document_device(&source.device)),
            Codec::SenmlJson => (senml::tree(&senml::JSON_LABELS), senml_device(&source.device)),
            Codec::SenmlCbor => (senml::tree(&senml::CBOR_LABELS), senml_device(&source.device)),
            Codec::Plain => (PathTree::new(0), document_device(&source.device)),
        };
        let fields = source.fields.iter().enumerate().map(|(index, field)| {
            compile_field(field, metrics)
                .ok_or_else(|| unfit(format!("fields[{index}]"), "its metric or unit cannot be used"))
        });
        Ok(Self {
            filter: source.topic.clone(),
            codec: source.codec,
            device,
            timestamp: source.timestamp.as_ref().map(|field| field.format.clone()),
            each: source.each.is_some(),
            tree,
            fields: fields.collect::<Result<_, _>>()?,
        })
    }
}

/// For what [`Source::check`] does not let through.
fn unfit(field: String, reason: impl ToString) -> SourceProblem {
    SourceProblem { field, reason: reason.to_string(), remedy: "correct the model" }
}

fn compile_field(field: &Field, metrics: &[Metric]) -> Option<CompiledField> {
    let at = metrics.iter().position(|metric| metric.name == field.metric)?;
    let metric = metrics.get(at)?;
    let wanted = senml::Wanted::of(&field.path);
    Some(CompiledField {
        path: Arc::from(field.path.as_str()),
        metric: u16::try_from(at).ok()?,
        quantizer: field.quantizer(metric).ok()?,
        units: senml::UnitMemory::new(metric, &wanted),
        senml: wanted,
    })
}

fn document_tree(source: &Source) -> Result<PathTree, SourceProblem> {
    let mut tree = PathTree::new(FIRST_FIELD_SLOT + source.fields.len());
    let mut starts = vec![ROOT];
    if let Some(path) = &source.each {
        starts.push(tree.each(path).map_err(|error| unfit("each".to_owned(), error))?);
    }
    // Device and time may stand in the element or, for all elements, outside of it.
    for start in &starts {
        if let DeviceNaming::PayloadPath(path) = &source.device {
            tree.want(*start, path, DEVICE_SLOT).map_err(|error| unfit("device.payloadPath".to_owned(), error))?;
        }
        if let Some(TimestampField { path, .. }) = &source.timestamp {
            tree.want(*start, path, TIME_SLOT).map_err(|error| unfit("timestamp.path".to_owned(), error))?;
        }
    }
    let start = starts.last().copied().unwrap_or(ROOT);
    for (index, field) in source.fields.iter().enumerate() {
        tree.want(start, &field.path, FIRST_FIELD_SLOT + index)
            .map_err(|error| unfit(format!("fields[{index}].path"), error))?;
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

fn senml_device(naming: &DeviceNaming) -> DeviceRule {
    match naming {
        DeviceNaming::PayloadPath(path) if path == "n" => DeviceRule::SenmlPrefix,
        DeviceNaming::PayloadPath(_) => DeviceRule::SenmlBase,
        naming => document_device(naming),
    }
}

fn segment(index: u32) -> DeviceRule {
    // An index beyond the address space is beyond every topic too.
    DeviceRule::TopicSegment(usize::try_from(index).unwrap_or(usize::MAX))
}
