//! `epochs`: totals and roots.

use depin_domain::rewards::{Amount, EpochSummary, ProgramSpec};
use serde_json::json;

use crate::{
    fault::Fault,
    ledger::{Ledger, find_programs},
    output::{Report, Table, short, tokens, when},
};

pub(super) async fn run(
    ledger: &Ledger,
    namespace: &str,
    program: Option<&str>,
    limit: usize,
) -> Result<Report, Fault> {
    let registry = ledger.registry().await?;
    let programs = find_programs(&registry, namespace, program, |_| true)?;
    let mut table = Table::new(["PROGRAM", "EPOCH", "END", "DEVICES", "PAID", "MINTED", "PAYOUTS", "CARRIED", "ROOT"]);
    let mut values = Vec::new();
    for id in &programs {
        for computed in ledger.epochs(id).await?.iter().rev().take(limit) {
            let summary = &computed.summary;
            let spec = registry.program(id).and_then(|program| program.ruling(summary.number));
            let decimals = spec
                .and_then(|entry| serde_json::from_str::<ProgramSpec>(&entry.spec).ok())
                .map_or(0, |spec| spec.token.decimals);
            let amount = |amount| tokens(amount, decimals);
            table.row([
                id.clone(),
                summary.number.to_string(),
                when(summary.end),
                summary.devices.total.to_string(),
                summary.devices.paid.to_string(),
                amount(summary.minted),
                amount(paid(summary)),
                amount(summary.carried_out),
                summary.root.as_deref().map_or("-".into(), short),
            ]);
            values.push(json!(summary));
        }
    }
    Ok(Report::new(values.into(), table.or("No epoch was computed yet.")))
}

/// Σ payouts, by the conservation equation: the summary may leave the list to the state.
fn paid(summary: &EpochSummary) -> Amount {
    let into = summary.minted.plus(summary.carried_in).unwrap_or_default();
    into.minus(summary.carried_out).and_then(|rest| rest.minus(summary.unallocated)).unwrap_or_default()
}
