//! The reference of metrics, from the programs' own registries.

use std::{collections::BTreeMap, fmt::Write as _};

use prometheus_client::{encoding::text, registry::Registry};

use crate::{MARK, cell};

/// What is told of one metric.
#[derive(Default)]
struct Metric {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// The whole document.
///
/// # Errors
/// When a metric has no example and would be missing.
pub(crate) fn reference() -> Result<String, Box<dyn std::error::Error>> {
    let mut document = format!(
        "{MARK}# Metrics\n\nWhat each program shows at `/metrics` of its `--admin-listen`. Counters end in `_total`, histograms in `_bucket`, \
         `_sum` and `_count`. A series\nwith labels appears with its first event. No label names a single device; what to look at says \
         [monitoring](../monitoring.md).\n"
    );
    let programs = [
        ("depin-agent", depin_agent::metrics::Metrics::described()),
        ("depin-gateway", depin_gateway::described_metrics()),
        ("depin-operator", depin_operator::metrics::Metrics::described()),
    ];
    for (program, registry) in programs {
        write!(document, "\n## {program}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n")?;
        for (name, metric) in metrics(program, &registry)? {
            let suffix = if metric.kind == "counter" { "_total" } else { "" };
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let help = cell(metric.help.trim_end_matches('.'));
            writeln!(document, "| `{name}{suffix}` | {} | {} | {help} |", metric.kind, labels.join(", "))?;
        }
    }
    Ok(document)
}

/// All metrics of a registry by name.
fn metrics(program: &str, registry: &Registry) -> Result<BTreeMap<String, Metric>, Box<dyn std::error::Error>> {
    let mut told = String::new();
    text::encode(&mut told, registry)?;
    let mut found: BTreeMap<String, Metric> = BTreeMap::new();
    let mut newest = String::new();
    for line in told.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next()) {
            (Some("#"), Some(word @ ("HELP" | "TYPE"))) => {
                newest = words.next().unwrap_or_default().to_owned();
                let entry = found.entry(newest.clone()).or_default();
                let text = words.next().unwrap_or_default().to_owned();
                *(if word == "HELP" { &mut entry.help } else { &mut entry.kind }) = text;
            }
            (Some("#"), _) | (None, _) => {}
            (Some(_), _) => {
                let labels =
                    line.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map_or("", |(labels, _)| labels);
                let names =
                    labels.split(',').filter_map(|label| label.split_once('=')).map(|(name, _)| name.to_owned());
                let names = names.filter(|name| name != "le").collect();
                found.entry(newest.clone()).or_default().labels = names;
            }
        }
    }
    // A family without an example is left out of the text; the registry knows it all the same.
    let registered = format!("{registry:?}").matches("Descriptor {").count();
    if found.len() != registered {
        return Err(format!(
            "{program} registers {registered} metrics and describes {}: give each family an example where it is described",
            found.len()
        )
        .into());
    }
    Ok(found)
}
