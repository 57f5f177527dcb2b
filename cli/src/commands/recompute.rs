//! `recompute`: repeats an epoch anywhere, offline, and says whether what was published is right: from its public export weights, amounts and
//! root, from its audit export everything, beginning with signatures.

use std::path::Path;

use depin_domain::rewards::{
    EpochSummary, ProgramSpec,
    public::{Difference, PublicEpoch, recompute},
};
use serde::Deserialize;
use serde_json::json;

use super::{audit, bundle::Bundle};
use crate::{
    fault::Fault,
    output::{Report, Table},
};

/// The format of a public export.
const PUBLIC: &str = "depin.v1.PublicExport";
/// The format of an audit export.
const AUDIT: &str = "depin.v1.AuditExport";
/// Differences that a table shows.
const SHOWN: usize = 50;

#[derive(Debug, Deserialize)]
struct Manifest {
    summary: EpochSummary,
    spec: ProgramSpec,
}

pub(super) fn run(path: &Path) -> Result<Report, Fault> {
    let bundle = Bundle::open(path)?;
    match bundle.format.as_str() {
        PUBLIC => public(&bundle),
        AUDIT => audit::run(&bundle),
        other => Err(bundle.fault(format!("has the format {other:?}; this program reads {PUBLIC} and {AUDIT}"))),
    }
}

fn public(bundle: &Bundle) -> Result<Report, Fault> {
    let Manifest { summary, spec } = bundle.manifest()?;
    let mut public = PublicEpoch { spec, summary, lines: Vec::new(), accounts: Vec::new() };
    bundle.rows("public.parquet", |row| {
        public.lines.push(row.json("line")?);
        Ok(())
    })?;
    for name in bundle.names("accounts.parquet") {
        bundle.rows(&name, |row| {
            public.accounts.push((row.parse("account")?, row.parse("cumulative")?));
            Ok(())
        })?;
    }
    let number = public.summary.number;
    let again = recompute(&public).map_err(|error| bundle.fault(error))?;
    let root = again.root.as_deref().unwrap_or("none");
    let text = format!(
        "{}, epoch {number}: {} devices, Σw {}, shares {} of a pool of {}\nroot {root}\n{}",
        public.summary.program,
        public.lines.len(),
        again.weight_sum,
        again.shares,
        public.summary.pool,
        told(&again.differences, "Every weight, every amount and the root are as published.")
    );
    let value = json!({
        "program": public.summary.program, "epoch": number, "devices": public.lines.len(), "weightSum": again.weight_sum.to_string(),
        "shares": again.shares, "root": again.root, "differences": again.differences,
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
