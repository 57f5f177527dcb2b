//! `epochs`: totals and roots.

use std::collections::BTreeSet;

use depin_crds::RewardProgram;
use depin_domain::rewards::{Amount, EpochSummary, ProgramSpec};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;

use super::{is_in, named_namespace, own_namespace};
use crate::{
    args::{Arguments, HeadingsFlag, SelectorFlag},
    cluster::Cluster,
    fault::Fault,
    ledger::{Ledger, find_programs},
    output::{Report, Table, short, tokens, when},
};

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) program: Option<&'a str>,
    pub(super) selector: &'a SelectorFlag,
    /// Epochs of each program.
    pub(super) limit: usize,
}

pub(super) async fn run(
    arguments: &Arguments,
    ledger: &Ledger,
    wanted: &Wanted<'_>,
    headings: HeadingsFlag,
) -> Result<Report, Fault> {
    let registry = ledger.registry().await?;
    let within = named_namespace(arguments);
    let labelled = match &wanted.selector.selector {
        Some(selector) => Some(labelled(&Cluster::connect(&arguments.cluster).await?, within, selector).await?),
        None => None,
    };
    let fits = |id: &str| is_in(within, id) && labelled.as_ref().is_none_or(|labelled| labelled.contains(id));
    let programs = find_programs(&registry, &own_namespace(arguments).await, wanted.program, fits)?;
    let mut table = Table::new(["PROGRAM", "EPOCH", "END", "DEVICES", "PAID", "MINTED", "PAYOUTS", "CARRIED", "ROOT"])
        .headed(headings);
    let mut values = Vec::new();
    for id in &programs {
        for computed in ledger.epochs(id).await?.iter().rev().take(wanted.limit) {
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

/// Ids of the RewardPrograms with these labels. The ledger knows no labels.
async fn labelled(cluster: &Cluster, within: Option<&str>, selector: &str) -> Result<BTreeSet<String>, Fault> {
    let api: Api<RewardProgram> = match within {
        Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
        None => Api::all(cluster.client.clone()),
    };
    let list = api.list(&ListParams::default().labels(selector)).await?;
    Ok(list
        .iter()
        .map(|program| format!("{}/{}", program.namespace().unwrap_or_default(), program.name_any()))
        .collect())
}
