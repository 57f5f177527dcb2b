//! RewardProgram → program spec and registry entry. Pure.

use depin_crds::{RewardProgram, program as spec};
use depin_domain::{
    ids::Digest,
    model::Model,
    registry::{ProgramEntry, Registry},
    rewards::{
        Account, Amount, Program, ProgramSpec,
        spec::{Aggregate, Emission, EpochGrid, Feature, Gate, Late, Limit, Recipient, Split, SplitPart, Token},
        validate::{faults_between_models, faults_with_model},
    },
    time::Timestamp,
};
use kube::ResourceExt;

use crate::{
    fleets,
    invalid::{Invalid, NotReady},
    quantities::{duration_ms, timestamp},
};

/// The registry's entry for `program`: checked by itself, against the models of its fleets, and dated.
///
/// A new program starts with the epoch that holds its creation (or with epoch 0), a changed one with the epoch after `now`, one that was
/// deleted and made again with the epoch that holds `now`: those before passed without it.
pub fn entry(program: &RewardProgram, registry: &Registry, now: Timestamp) -> Result<ProgramEntry, NotReady> {
    let namespace = program.namespace().unwrap_or_default();
    let id = fleets::id(&namespace, &program.name_any());
    let spec = program_spec(&namespace, &program.spec)?;
    Program::compile(&spec).map_err(|faults| joined(&faults))?;
    check_fleets(&spec, registry)?;
    let text = spec
        .canonical()
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| Invalid::new("spec", "has no canonical form", "use integers and plain text"))?;
    let digest = Digest::of(text.as_bytes());
    let known = registry.program(&id);
    let registered = known.filter(|program| !program.is_removed()).and_then(|program| program.newest());
    let from_epoch = match registered {
        Some(newest) if newest.digest == digest => newest.from_epoch,
        Some(newest) => next_epoch(&spec.epoch, now).max(newest.from_epoch),
        None => {
            let created = program.metadata.creation_timestamp.as_ref().map_or(now, timestamp);
            // Of a program that was there before, epochs may be closed up to the ledger's time.
            let from = if known.is_some() { created.max(now).max(registry.updated_at()) } else { created };
            let before = known.and_then(|program| program.newest()).map_or(0, |newest| newest.from_epoch);
            spec.epoch.number_at(from).unwrap_or(0).max(before)
        }
    };
    Ok(ProgramEntry { id, digest, spec: text, from_epoch })
}

fn next_epoch(grid: &EpochGrid, now: Timestamp) -> u64 {
    grid.number_at(now).map_or(0, |number| number.saturating_add(1))
}

fn joined(faults: &[depin_domain::rewards::SpecError]) -> NotReady {
    let first = faults.first();
    let field = first.map_or_else(String::new, |fault| format!("spec.{}", fault.field));
    let remedy = first.map_or_else(String::new, |fault| fault.remedy.clone());
    let mut reason = first.map_or_else(String::new, |fault| fault.reason.clone());
    for fault in faults.iter().skip(1) {
        reason.push_str(&format!("; spec.{}: {}", fault.field, fault.reason));
    }
    Invalid::new(field, reason, remedy).into()
}

fn check_fleets(spec: &ProgramSpec, registry: &Registry) -> Result<(), NotReady> {
    let mut faults = Vec::new();
    let mut models: Vec<(&str, &Model)> = Vec::new();
    for (index, id) in spec.fleets.iter().enumerate() {
        let waiting = |target: String| NotReady::Waiting { field: format!("spec.fleets[{index}]"), target };
        let fleet =
            registry.fleet(id).and_then(|fleet| fleet.current()).ok_or_else(|| waiting(format!("EdgeFleet {id}")))?;
        let model = registry
            .model_chain(&fleet.model)
            .and_then(|chain| chain.newest())
            .ok_or_else(|| waiting(format!("EdgeDeviceModel {}", fleet.model)))?;
        faults.extend(faults_with_model(spec, id, &model.model, fleet.grain_ms));
        models.push((id, &model.model));
    }
    faults.extend(faults_between_models(spec, &models));
    // Suspended it mints nothing, and it must be possible to suspend what a model's change made wrong.
    if spec.suspend {
        return Ok(());
    }
    if faults.is_empty() { Ok(()) } else { Err(joined(&faults)) }
}

/// The domain's form of a program's spec.
pub fn program_spec(namespace: &str, spec: &spec::RewardProgramSpec) -> Result<ProgramSpec, Invalid> {
    Ok(ProgramSpec {
        fleets: spec.fleets.iter().map(|fleet| fleets::id(namespace, fleet)).collect(),
        token: Token {
            symbol: spec.token.symbol.clone(),
            decimals: narrow("spec.token.decimals", spec.token.decimals.into())?,
        },
        chain: spec.chain.clone(),
        epoch: EpochGrid {
            length_ms: duration_ms("spec.epoch.length", &spec.epoch.length)?,
            genesis: timestamp(&spec.epoch.genesis),
        },
        grace_ms: duration_ms("spec.grace", &spec.grace)?,
        emission: emission(&spec.emission)?,
        split: spec.split.as_ref().map(split).transpose()?.unwrap_or_default(),
        features: spec.features.iter().map(feature).collect(),
        gates: spec.gates.iter().map(gate).collect(),
        limits: spec.limits.iter().enumerate().map(limit).collect::<Result<_, _>>()?,
        weight: spec.weight.clone(),
        late: Late {
            basis_points: narrow("spec.late.basisPoints", spec.late.basis_points.into())?,
            late_until_ms: duration_ms("spec.late.until", &spec.late.until)?,
        },
        hold_epochs: narrow("spec.holdEpochs", spec.hold_epochs)?,
        suspend: spec.suspend,
    })
}

fn narrow<T: TryFrom<i64>>(field: &str, number: i64) -> Result<T, Invalid> {
    T::try_from(number).map_err(|_| {
        Invalid::new(field, format!("{number} is out of range"), "use a number within the schema's bounds")
    })
}

fn amount(field: &str, text: &str) -> Result<Amount, Invalid> {
    text.parse().map_err(|_| {
        Invalid::new(field, format!("{text:?} is not an amount"), "write the amount in the token's smallest unit")
    })
}

fn emission(emission: &spec::Emission) -> Result<Emission, Invalid> {
    match (&emission.fixed, &emission.halving, &emission.decay) {
        (Some(fixed), None, None) => {
            Ok(Emission::Fixed { amount: amount("spec.emission.fixed.amount", &fixed.amount)? })
        }
        (None, Some(halving), None) => Ok(Emission::Halving {
            amount: amount("spec.emission.halving.amount", &halving.amount)?,
            every_epochs: narrow("spec.emission.halving.everyEpochs", halving.every_epochs)?,
        }),
        (None, None, Some(decay)) => Ok(Emission::Decay {
            amount: amount("spec.emission.decay.amount", &decay.amount)?,
            keep_basis_points: narrow("spec.emission.decay.keepBasisPoints", decay.keep_basis_points.into())?,
            every_epochs: narrow("spec.emission.decay.everyEpochs", decay.every_epochs)?,
        }),
        _ => Err(Invalid::new("spec.emission", "not exactly one rule", "set one of fixed, halving and decay")),
    }
}

fn split(split: &spec::Split) -> Result<Split, Invalid> {
    let parts = split.parts.iter().enumerate().map(|(index, part)| {
        let field = format!("spec.split.parts[{index}]");
        let to = match (part.to, &part.account) {
            (spec::Recipient::Devices, _) => Recipient::Devices,
            (spec::Recipient::Unallocated, _) => Recipient::Unallocated,
            (spec::Recipient::Account, Some(account)) => Recipient::Account(parse_account(&field, account)?),
            (spec::Recipient::Account, None) => {
                return Err(Invalid::new(format!("{field}.account"), "missing", "give the account that is paid"));
            }
        };
        let basis_points = narrow(&format!("{field}.basisPoints"), part.basis_points.into())?;
        Ok(SplitPart { name: part.name.clone(), basis_points, to })
    });
    Ok(Split { parts: parts.collect::<Result<_, _>>()?, residual: split.residual.clone() })
}

fn parse_account(field: &str, text: &str) -> Result<Account, Invalid> {
    text.to_ascii_lowercase().parse().map_err(|_| {
        Invalid::new(
            format!("{field}.account"),
            format!("{text:?} is not an account"),
            "use 0x and 40 hexadecimal digits",
        )
    })
}

fn feature(feature: &spec::Feature) -> Feature {
    Feature {
        name: feature.name.clone(),
        metric: feature.metric.clone(),
        aggregate: match feature.aggregate {
            spec::Aggregate::Sum => Aggregate::Sum,
            spec::Aggregate::Delta => Aggregate::Delta,
            spec::Aggregate::Mean => Aggregate::Mean,
            spec::Aggregate::Min => Aggregate::Min,
            spec::Aggregate::Max => Aggregate::Max,
            spec::Aggregate::Last => Aggregate::Last,
            spec::Aggregate::Count => Aggregate::Count,
            spec::Aggregate::Uptime => Aggregate::Uptime,
        },
    }
}

fn gate(gate: &spec::Gate) -> Gate {
    Gate { reason: gate.reason.clone(), feature: gate.feature.clone(), minimum: gate.minimum, maximum: gate.maximum }
}

fn limit((index, limit): (usize, &spec::Limit)) -> Result<Limit, Invalid> {
    let field = format!("spec.limits[{index}]");
    match (&limit.hex_capacity, &limit.minimum_distance) {
        (Some(hex), None) => Ok(Limit::HexCapacity {
            resolution: narrow(&format!("{field}.hexCapacity.resolution"), hex.resolution.into())?,
            capacity: narrow(&format!("{field}.hexCapacity.capacity"), hex.capacity)?,
            by: hex.by.clone(),
        }),
        (None, Some(distance)) => {
            let metres = narrow(&format!("{field}.minimumDistance.metres"), distance.metres)?;
            Ok(Limit::MinimumDistance { metres, by: distance.by.clone() })
        }
        _ => Err(Invalid::new(field, "not exactly one kind", "set one of hexCapacity and minimumDistance")),
    }
}
