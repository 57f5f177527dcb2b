//! Repeats an owner's part of an epoch from his export: from what was signed about his devices follow their features; these must be those of
//! the public lines that are said to be his; and from all public lines follow weights, amounts and root.

use std::collections::BTreeMap;

use depin_domain::{
    ids::DeviceId,
    rewards::{
        Account, Amount, EpochSummary, Line, Program,
        features::features,
        public::{Difference, recompute},
    },
};
use serde::Deserialize;
use serde_json::json;

use super::{
    bundle::Bundle,
    recompute::{public_epoch, told, unchecked},
    sections::{Chain, Counted, recount},
};
use crate::{
    fault::Fault,
    output::{Report, Table},
};

/// In the program's order.
type Features = Vec<Option<i64>>;

#[derive(Debug, Deserialize)]
struct Manifest {
    owner: Account,
    summary: EpochSummary,
    matured: Vec<u64>,
    chains: Vec<Chain>,
}

pub(super) fn run(bundle: &Bundle) -> Result<Report, Fault> {
    let manifest: Manifest = bundle.manifest()?;
    let (program, number) = (&manifest.summary.program, manifest.summary.number);
    let public = public_epoch(bundle)?;
    let again = recompute(&public, None).map_err(|error| bundle.fault(error))?;
    let lines: BTreeMap<DeviceId, &Line> = public.lines.iter().map(|line| (line.device, line)).collect();
    let pseudonyms = pseudonyms(bundle)?;
    let numbers: Vec<u64> = std::iter::once(number).chain(manifest.matured.iter().copied()).collect();
    let recount = recount(bundle, &manifest.chains, program, &numbers)?;
    let mut differences = again.differences;
    let mut owned = Owned::new(&manifest);
    for counted in recount.epochs(bundle, program)? {
        for (device, own) in recounted(bundle, &counted)? {
            let line = pseudonyms.get(&device).and_then(|pseudonym| lines.get(pseudonym));
            match line {
                Some(line) => owned.device(counted.number, device, line, &own, &mut differences),
                // A device that left after the epoch that matured now has no line in this one.
                None if counted.number != number => {}
                None => differences.push(difference(format!("device {device}"), "no line".into(), "took part".into())),
            }
        }
    }
    let (judged, not_checked) = (recount.judged(), recount.not_checked());
    differences.extend(recount.differences);
    let root = again.root.as_deref().unwrap_or("none");
    let payout = manifest.summary.payouts.iter().find(|payout| payout.account == manifest.owner);
    let cumulative = payout.map(|payout| payout.cumulative).or_else(|| {
        let known = public.accounts.iter().find(|(account, _)| *account == manifest.owner);
        known.map(|(_, cumulative)| *cumulative)
    });
    let text = format!(
        "{program}, epoch {number}: {} signatures, {} sections, {judged} verdicts of {} devices of {}\n{}got now {}, in all {}\nroot {root}\n{}{}",
        recount.proofs,
        recount.sections,
        owned.devices.len(),
        manifest.owner,
        owned.table.or(""),
        owned.amount,
        cumulative.unwrap_or_default(),
        told(&differences, "From what your devices signed to the root, everything is as published."),
        unchecked(&not_checked)
    );
    let value = json!({
        "program": program, "epoch": number, "owner": manifest.owner, "proofs": recount.proofs, "sections": recount.sections,
        "judged": judged, "notChecked": not_checked, "devices": owned.devices, "amount": owned.amount, "cumulative": cumulative, "root": again.root, "differences": differences,
    });
    Ok(Report { right: differences.is_empty(), ..Report::new(value, text) })
}

/// What is shown of an owner's devices.
struct Owned<'a> {
    manifest: &'a Manifest,
    table: Table,
    devices: Vec<serde_json::Value>,
    /// What all his devices brought him in this epoch.
    amount: Amount,
}

impl<'a> Owned<'a> {
    fn new(manifest: &'a Manifest) -> Self {
        let table = Table::new(["DEVICE", "FEATURES", "WEIGHT", "AMOUNT"]);
        Self { manifest, table, devices: Vec::new(), amount: Amount::ZERO }
    }

    /// Compares a device's features with those of its public line.
    fn device(
        &mut self,
        number: u64,
        device: DeviceId,
        line: &Line,
        own: &[Option<i64>],
        differences: &mut Vec<Difference>,
    ) {
        if number != self.manifest.summary.number {
            // Nothing came late: then there is nothing to compare.
            let Some(late) = line.late.iter().find(|late| late.number == number) else { return };
            if late.features != own {
                let what = format!("device {device} features of epoch {number}");
                differences.push(difference(what, written(&late.features), written(own)));
            }
            return;
        }
        if line.features != own {
            differences.push(difference(format!("device {device} features"), written(&line.features), written(own)));
        }
        // His part of the share, of what was held for him, and of what came late.
        let released = line.released.iter().flat_map(|released| &released.owners);
        let late = line.late.iter().flat_map(|late| &late.owners);
        let parts = line.owners.iter().chain(released).chain(late);
        let amount = parts
            .filter(|part| part.account == self.manifest.owner)
            .fold(Amount::ZERO, |sum, part| sum.plus(part.amount).unwrap_or(sum));
        self.amount = self.amount.plus(amount).unwrap_or(self.amount);
        self.table.row([device.to_string(), written(own), line.weight.to_string(), amount.to_string()]);
        self.devices.push(json!({
            "device": device, "pseudonym": line.device, "features": own, "weight": line.weight, "amount": amount,
        }));
    }
}

fn difference(what: String, published: String, recomputed: String) -> Difference {
    Difference { what, published, recomputed }
}

fn written(features: &[Option<i64>]) -> String {
    let one = |feature: &Option<i64>| feature.map_or_else(|| "none".to_owned(), |value| value.to_string());
    features.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The features of an epoch's devices.
fn recounted(bundle: &Bundle, counted: &Counted) -> Result<Vec<(DeviceId, Features)>, Fault> {
    let told = |errors: Vec<depin_domain::rewards::SpecError>| {
        bundle.fault(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    };
    let program = Program::compile(&counted.spec).map_err(told)?;
    Ok(counted.devices.iter().map(|device| (device.id, features(&program, device))).collect())
}

/// What stands for each of the owner's devices in the public lines.
fn pseudonyms(bundle: &Bundle) -> Result<BTreeMap<DeviceId, DeviceId>, Fault> {
    let mut pseudonyms = BTreeMap::new();
    bundle.rows("devices.parquet", |row| {
        pseudonyms.insert(row.parse("device")?, row.parse("pseudonym")?);
        Ok(())
    })?;
    Ok(pseudonyms)
}
