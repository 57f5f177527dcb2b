//! `recompute`: repeats an epoch anywhere, offline, and says whether what was published is right: from its public export weights, amounts and
//! root, from its audit export everything, beginning with signatures, from an owner's the same for his devices.

use std::path::Path;

use depin_domain::rewards::{
    Account, Amount, EpochSummary, ProgramSpec,
    public::{Difference, Previous, PublicEpoch, recompute},
};
use serde::Deserialize;
use serde_json::json;

use super::{audit, bundle::Bundle, owner};
use crate::{
    fault::Fault,
    output::{Report, Table},
};

/// The format of a public export.
const PUBLIC: &str = "depin.v1.PublicExport";
/// The format of an audit export.
const AUDIT: &str = "depin.v1.AuditExport";
/// The format of an owner's export.
const OWNER: &str = "depin.v1.OwnerExport";
/// Differences that a table shows.
const SHOWN: usize = 50;

#[derive(Debug, Deserialize)]
struct Manifest {
    summary: EpochSummary,
    spec: ProgramSpec,
}

pub(super) fn run(path: &Path, previous: Option<&Path>) -> Result<Report, Fault> {
    let bundle = Bundle::open(path)?;
    match bundle.format.as_str() {
        PUBLIC => public(&bundle, previous.map(before).transpose()?.as_ref()),
        AUDIT | OWNER if previous.is_some() => Err(bundle.fault("carries all that it needs: give it alone")),
        AUDIT => audit::run(&bundle),
        OWNER => owner::run(&bundle),
        other => {
            Err(bundle.fault(format!("has the format {other:?}; this program reads {PUBLIC}, {AUDIT} and {OWNER}")))
        }
    }
}

/// What the epoch before published: its public export, or its summary alone.
fn before(path: &Path) -> Result<Previous, Fault> {
    if path.is_file() {
        let text = std::fs::read(path).map_err(|error| Fault::file(path, error))?;
        if let Ok(summary) = serde_json::from_slice::<EpochSummary>(&text) {
            return Ok(Previous { summary, accounts: Vec::new() });
        }
    }
    let bundle = Bundle::open(path)?;
    if bundle.format != PUBLIC {
        return Err(
            bundle.fault(format!("has the format {:?}; give the previous epoch's public export", bundle.format))
        );
    }
    let Manifest { summary, .. } = bundle.manifest()?;
    Ok(Previous { summary, accounts: accounts(&bundle)? })
}

fn accounts(bundle: &Bundle) -> Result<Vec<(Account, Amount)>, Fault> {
    let mut accounts = Vec::new();
    for name in bundle.names("accounts.parquet") {
        bundle.rows(&name, |row| {
            accounts.push((row.parse("account")?, row.parse("cumulative")?));
            Ok(())
        })?;
    }
    Ok(accounts)
}

/// An epoch's public lines, with program and totals.
pub(super) fn public_epoch(bundle: &Bundle) -> Result<PublicEpoch, Fault> {
    let Manifest { summary, spec } = bundle.manifest()?;
    let mut public = PublicEpoch { spec, summary, lines: Vec::new(), accounts: accounts(bundle)? };
    bundle.rows("public.parquet", |row| {
        public.lines.push(row.json("line")?);
        Ok(())
    })?;
    Ok(public)
}

fn public(bundle: &Bundle, previous: Option<&Previous>) -> Result<Report, Fault> {
    let public = public_epoch(bundle)?;
    let number = public.summary.number;
    let again = recompute(&public, previous).map_err(|error| bundle.fault(error))?;
    let root = again.root.as_deref().unwrap_or("none");
    let not_checked = unchecked(&again.not_checked);
    let text = format!(
        "{}, epoch {number}: {} devices, Σw {}, shares {} of a pool of {}\nroot {root}\n{}{not_checked}",
        public.summary.program,
        public.lines.len(),
        again.weight_sum,
        again.shares,
        public.summary.pool,
        told(&again.differences, "Every weight, every amount and the root that could be checked are as published.")
    );
    let value = json!({
        "program": public.summary.program, "epoch": number, "devices": public.lines.len(), "weightSum": again.weight_sum.to_string(),
        "shares": again.shares, "root": again.root, "differences": again.differences, "notChecked": again.not_checked,
    });
    Ok(Report { right: again.differences.is_empty(), ..Report::new(value, text) })
}

/// A table of the first differences, or `none`.
pub(super) fn told(differences: &[Difference], none: &str) -> String {
    let mut table = Table::new(["WHAT", "PUBLISHED", "RECOMPUTED"]);
    for difference in differences.iter().take(SHOWN) {
        table.row([difference.what.clone(), difference.published.clone(), difference.recomputed.clone()]);
    }
    let more = differences.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("… and {more} more\n") } else { String::new() };
    format!("{}{more}", table.or(none))
}

/// What could not be checked, a line each.
pub(super) fn unchecked(not_checked: &[String]) -> String {
    not_checked.iter().map(|told| format!("not checked: {told}\n")).collect()
}
