//! Repeats an epoch from its audit export: from the signed sections, counted again, and the registry follow features, limits, weights, amounts,
//! state and root, by the very rules by which the operator computed them.

use std::collections::BTreeMap;

use depin_domain::{
    ids::DeviceId,
    rewards::{
        EpochInput, EpochResult, EpochSummary, Line, MaturedInput, ProgramSpec, ProgramState, close_epoch,
        public::Difference,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    bundle::Bundle,
    recompute::{told, unchecked},
    sections::{Chain, Counted, Recount, recount},
};
use crate::{fault::Fault, output::Report};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    summary: EpochSummary,
    state: ProgramState,
    spec: ProgramSpec,
    previous_state: Option<ProgramState>,
    matured: Vec<u64>,
    chains: Vec<Chain>,
}

pub(super) fn run(bundle: &Bundle) -> Result<Report, Fault> {
    let manifest: Manifest = bundle.manifest()?;
    let number = manifest.summary.number;
    let numbers: Vec<u64> = std::iter::once(number).chain(manifest.matured.iter().copied()).collect();
    let recount = recount(bundle, &manifest.chains, &manifest.summary.program, &numbers)?;
    let input = input(bundle, &recount, &manifest)?;
    let (judged, not_checked) = (recount.judged(), recount.not_checked());
    let Recount { proofs, sections, mut differences, .. } = recount;
    let again = close_epoch(&input).map_err(|error| bundle.fault(error))?;
    compare(bundle, &manifest, &again, &mut differences)?;
    let root = again.summary.root.as_deref().unwrap_or("none");
    let text = format!(
        "{}, epoch {number}: {proofs} signatures, {sections} sections, {judged} verdicts, {} devices\nroot {root}\n{}{}",
        again.summary.program,
        again.lines.len(),
        told(&differences, "From signatures to root, everything is as published."),
        unchecked(&not_checked)
    );
    let value = json!({
        "program": again.summary.program, "epoch": number, "devices": again.lines.len(), "proofs": proofs, "sections": sections,
        "judged": judged, "notChecked": not_checked, "weightSum": again.summary.weight_sum.to_string(), "root": again.summary.root, "differences": differences,
    });
    Ok(Report { right: differences.is_empty(), ..Report::new(value, text) })
}

fn input(bundle: &Bundle, recount: &Recount, manifest: &Manifest) -> Result<EpochInput, Fault> {
    let (program, own) = (&manifest.summary.program, manifest.summary.number);
    let mut input = EpochInput {
        program: program.clone(),
        number: own,
        spec: manifest.spec.clone(),
        devices: Vec::new(),
        matured: Vec::new(),
        state: manifest.previous_state.clone().unwrap_or_default(),
    };
    for Counted { number, spec, devices } in recount.epochs(bundle, program)? {
        if number == own {
            input.devices = devices;
        } else {
            let lines = lines(bundle, &format!("lines-{number:010}.parquet"))?;
            input.matured.push(MaturedInput { number, spec, devices, lines });
        }
    }
    Ok(input)
}

fn lines(bundle: &Bundle, name: &str) -> Result<Vec<Line>, Fault> {
    let mut lines = Vec::new();
    bundle.rows(name, |row| {
        lines.push(row.json("line")?);
        Ok(())
    })?;
    Ok(lines)
}

/// Everything that was published beside what came out.
fn compare(
    bundle: &Bundle,
    manifest: &Manifest,
    again: &EpochResult,
    differences: &mut Vec<Difference>,
) -> Result<(), Fault> {
    fields("summary", &manifest.summary, &again.summary, differences);
    fields("state", &manifest.state, &again.state, differences);
    let published: BTreeMap<DeviceId, Line> =
        lines(bundle, "lines.parquet")?.into_iter().map(|line| (line.device, line)).collect();
    let ours: BTreeMap<DeviceId, &Line> = again.lines.iter().map(|line| (line.device, line)).collect();
    for (device, line) in &published {
        match ours.get(device) {
            Some(own) => fields(&format!("device {device}"), line, own, differences),
            None => differences.push(Difference {
                what: format!("device {device}"),
                published: "a line".into(),
                recomputed: "took no part".into(),
            }),
        }
    }
    let missing = ours.keys().filter(|device| !published.contains_key(device));
    differences.extend(missing.map(|device| Difference {
        what: format!("device {device}"),
        published: "no line".into(),
        recomputed: "took part".into(),
    }));
    Ok(())
}

/// The fields in which two values of one type differ.
fn fields<T: Serialize>(what: &str, published: &T, ours: &T, differences: &mut Vec<Difference>) {
    let (published, ours) = (json!(published), json!(ours));
    if published == ours {
        return;
    }
    let names = published.as_object().into_iter().chain(ours.as_object()).flat_map(|fields| fields.keys());
    let names: std::collections::BTreeSet<_> = names.collect();
    for name in names.into_iter().filter(|name| published.get(name) != ours.get(name)) {
        let text = |value: &serde_json::Value| value.get(name).map_or("absent".into(), ToString::to_string);
        differences.push(Difference {
            what: format!("{what} {name}"),
            published: text(&published),
            recomputed: text(&ours),
        });
    }
}
