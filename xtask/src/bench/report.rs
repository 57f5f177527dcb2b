//! What was measured, as JSON with every run, tables, and plots.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    figures::{Runs, STAMP, Spread},
    machine::Machine,
    plot::{Chart, Row, number_text},
};

/// What is wanted of a figure.
struct Target {
    what: &'static str,
    /// Of one measurement, or the sum over steps that follow each other.
    names: &'static [&'static str],
    figure: &'static str,
    /// At least, else at most.
    least: bool,
    bound: f64,
    unit: &'static str,
}

const fn least(
    what: &'static str,
    names: &'static [&'static str],
    figure: &'static str,
    bound: f64,
    unit: &'static str,
) -> Target {
    Target { what, names, figure, least: true, bound, unit }
}

const fn most(
    what: &'static str,
    names: &'static [&'static str],
    figure: &'static str,
    bound: f64,
    unit: &'static str,
) -> Target {
    Target { least: false, ..least(what, names, figure, bound, unit) }
}

const RATE: &str = "readingsPerSecond";
const AGENT: &str = "agentCpuPerMillion";

const TARGETS: [Target; 18] = [
    least("End to end behind mosquitto", &["agent/broker-full"], RATE, 25_000.0, "readings/s"),
    least("End to end on its own listener", &["agent/listener-full"], RATE, 25_000.0, "readings/s"),
    most("Agent behind mosquitto at 20,000/s", &["agent/broker-20k"], AGENT, 16.0, "CPU s per million"),
    most("Agent draining the broker's backlog", &["agent/drain-broker"], AGENT, 12.0, "CPU s per million"),
    most("Agent's memory behind mosquitto", &["agent/broker-20k"], "agentPeakMb", 20.0, "MB"),
    most("Agent's memory on its own listener, 1,000 connections", &["agent/listener-20k"], "agentPeakMb", 20.0, "MB"),
    least("Gateway on one core, one CEL check a reading", &["gateway/readings"], RATE, 200_000.0, "readings/s"),
    most("Agent's memory draining the broker's backlog", &["agent/drain-broker"], "agentPeakMb", 20.0, "MB"),
    least(
        "Verification on one core, in the gateway's batches of 1,024",
        &["signatures/batch-1024-keys-1024"],
        "perSecond",
        60_000.0,
        "proofs/s",
    ),
    most("Close of 1,000,000 devices: the engine, on given statistics", &["rewards/close"], "seconds", 5.0, "s"),
    most("Close of 1,000,000 devices: the engine, on what the ledger froze", &["epoch/compute"], "seconds", 5.0, "s"),
    most(
        "Close of 1,000,000 devices from the log alone: scan, gather, compute",
        &["epoch/scan", "epoch/gather", "epoch/compute"],
        "seconds",
        5.0,
        "s",
    ),
    most("Merkle tree of 1,000,000 leaves", &["rewards/merkle"], "seconds", 1.2, "s"),
    least("10,000 devices created to Ready", &["scale/devices-create"], "partOfRaw", 0.5, "of the API server's rate"),
    most("Operator's memory, 10,000 devices", &["scale/devices-steady-10k"], "operatorMb", 400.0, "MB"),
    most("Operator's memory, 100,000 devices", &["scale/devices-steady-100k"], "operatorMb", 400.0, "MB"),
    most(
        "API writes, 10,000 devices, nothing flips",
        &["scale/devices-steady-10k"],
        "writesPerMinute",
        10.0,
        "a minute",
    ),
    most(
        "API writes, 100,000 devices, nothing flips",
        &["scale/devices-steady-100k"],
        "writesPerMinute",
        10.0,
        "a minute",
    ),
];

/// What is known of why a target is missed, by measurement and figure; told only where it is.
const REASONS: [(&str, &str, &str); 6] = [
    (
        "agent/drain-broker",
        "agentPeakMb",
        "mosquitto sends a session's whole backlog without waiting for acknowledgements. What waits for one is kept in runs of packet \
         numbers, next to nothing; what is left are the batches that are written, sealed and sent at the same time.",
    ),
    (
        "agent/listener-20k",
        "agentPeakMb",
        "Each of the 1,000 connections costs about 5 KiB: its buffers, its task, and since sessions outlive connections what is known of its \
         client.",
    ),
    (
        "signatures/batch-1024-keys-1024",
        "perSecond",
        "One multiplication of a point for each key and each signature is all that is left of the equation; only another library's or \
         the CPU's wider arithmetic would make it cheaper.",
    ),
    (
        "rewards/close",
        "seconds",
        "A million lines are written as JSON and hashed, which is most of it: they are the record that anybody recomputes.",
    ),
    (
        "epoch/scan",
        "seconds",
        "A scan judges 4,000,000 readings of 1,000,000 devices again and builds every statistic anew: it is the proof that statistics are \
         right, and the way back without a checkpoint. A close takes the statistics that were kept at ingest.",
    ),
    (
        "rewards/merkle",
        "seconds",
        "Three Keccak hashes a leaf and a sort: on as many cores as there are, so two busy ones take longer.",
    ),
];

/// A measurement's key, its title, and its figures with their headings.
type Table = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// What stands in the tables.
const TABLES: [Table; 10] = [
    (
        "agent/",
        "End to end to the receipt, 1,000 devices, 200-byte JSON, QoS 1, one metric and one CEL check a message",
        &[
            (RATE, "readings/s"),
            (AGENT, "agent CPU s/M"),
            ("gatewayCpuPerMillion", "gateway CPU s/M"),
            ("brokerCpuPerMillion", "broker CPU s/M"),
            ("loadCpuPerMillion", "load CPU s/M"),
            ("agentPeakMb", "agent MB"),
            ("gatewayPeakMb", "gateway MB"),
        ],
    ),
    (
        "gateway/",
        "Gateway and ledger on one core, proofs sealed beforehand",
        &[
            (RATE, "readings/s"),
            ("proofsPerSecond", "proofs/s"),
            ("cpuSecondsPerMillionReadings", "CPU s/M readings"),
            ("receiptP50Ms", "receipt p50 ms"),
            ("receiptP99Ms", "receipt p99 ms"),
            ("p50Seconds", "half served after s"),
            ("seconds", "s"),
            ("refused", "refused"),
            ("gatewayPeakMb", "MB"),
        ],
    ),
    ("signatures/", "Ed25519 verification on one core", &[("perSecond", "signatures/s"), ("cpuMicros", "CPU µs each")]),
    (
        "ledger/",
        "Ledger: 2,000,000 readings in 4,000 proofs, one CEL check each, group sync; cold scan without a checkpoint",
        &[(RATE, "readings/s"), ("cpuSecondsPerMillionReadings", "CPU s/M"), ("seconds", "s"), ("peakMb", "MB")],
    ),
    (
        "epoch/",
        "An epoch of 1,000,000 devices and 4,000,000 readings through the ledger, step by step",
        &[("seconds", "s"), ("cpuSeconds", "CPU s"), ("peakMb", "MB")],
    ),
    (
        "postgresql/",
        "The ledger on PostgreSQL, the same proofs as above, beside plain COPY of the same records",
        &[(RATE, "readings/s"), ("seconds", "s"), ("cpuSeconds", "CPU s, server apart"), ("peakMb", "MB")],
    ),
    (
        "scale/devices-",
        "EdgeDevices in a cluster: created to Ready, and the operator once nothing flips",
        &[
            ("devices", "devices"),
            ("rawPerSecond", "API server alone, created/s"),
            ("createdPerSecond", "created/s"),
            ("readyPerSecond", "ready/s"),
            ("partOfRaw", "part of raw"),
            ("operatorMb", "operator MB"),
            ("operatorPeakMb", "at most MB"),
            ("operatorCpuPerMinute", "CPU s/min"),
            ("writesPerMinute", "writes/min"),
        ],
    ),
    (
        "scale/site-",
        "A site of 20,000 devices goes dark and comes back",
        &[
            ("offAgentSeconds", "agent told after s"),
            ("offDevicesSeconds", "all devices told after s"),
            ("offWrites", "writes"),
            ("onAgentSeconds", "agent back after s"),
            ("onDevicesSeconds", "last write after s"),
            ("onWrites", "writes"),
        ],
    ),
    ("rewards/", "The engine alone, 1,000,000 devices or leaves, all cores", &[("seconds", "s"), ("peakMb", "MB")]),
    (
        "peer/",
        "Peers, same machine, same load (they do less: see below)",
        &[
            ("rate", "messages/s"),
            ("peer_cpu_s_per_M", "peer CPU s/M"),
            ("edge_mosquitto_cpu_s_per_M", "bridge CPU s/M"),
            ("broker_cpu_s_per_M", "broker CPU s/M"),
            ("peer_rss_mb", "peer MB"),
            ("lat_ms_p99", "p99 ms"),
            ("uniq", "arrived"),
        ],
    ),
];

/// How it was measured: stands in the README after the tables.
const METHOD: &str = include_str!("method.md");

/// What an earlier run wrote.
///
/// # Errors
/// When there is none.
pub fn read(out: &Path) -> Result<(Machine, Runs)> {
    let path = out.join("results.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let value: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    let machine = value.get("machine").and_then(Value::as_object).cloned().unwrap_or_default();
    Ok((Machine(machine), Runs::from_json(value.get("runs").unwrap_or(&Value::Null))))
}

/// Writes everything.
///
/// # Errors
/// When a file cannot be written.
pub fn write(out: &Path, machine: &Machine, runs: &Runs) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let results = json!({ "machine": machine.0, "runs": runs.to_json() });
    save(out, "results.json", &format!("{}\n", serde_json::to_string_pretty(&results)?))?;
    for (name, chart) in charts(runs) {
        if !chart.rows.is_empty() {
            save(out, name, &chart.svg())?;
        }
    }
    save(out, "README.md", &text(machine, runs)?)
}

fn save(out: &Path, name: &str, text: &str) -> Result<()> {
    let path = out.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn text(machine: &Machine, runs: &Runs) -> Result<String> {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `cargo xtask bench`; every run is in [results.json](results.json). Figures are medians, with least and \
         greatest in brackets.\n\n| machine | |\n|---|---|\n",
    );
    for (name, value) in &machine.0 {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(text, "| {name} | {value} |")?;
    }
    text.push_str(&busy(machine));
    text.push_str(&elsewhen(machine, runs));
    text.push_str("\n## Targets\n\n| | wanted | measured | |\n|---|---|---|---|\n");
    for target in &TARGETS {
        let wanted = format!("{} {} {}", if target.least { "≥" } else { "≤" }, number_text(target.bound), target.unit);
        let spread = runs.sum(target.names, target.figure);
        let (measured, verdict) = spread.map_or(("not measured".into(), String::new()), |spread| {
            (spread_text(spread), verdict(target, spread.median))
        });
        writeln!(text, "| {} | {wanted} | {measured} | {verdict} |", target.what)?;
    }
    for target in &TARGETS {
        let median = runs.sum(target.names, target.figure).map(|spread| spread.median);
        if let Some(reason) = median.and_then(|median| reason(target, median)) {
            write!(text, "\n**{}:** {reason}\n", target.what)?;
        }
    }
    text.push_str("\nNo reading is lost or counted twice in any run: one that was ends the benchmark with an error.\n");
    for (name, chart) in charts(runs) {
        if !chart.rows.is_empty() {
            writeln!(text, "\n![{}]({name})", chart.title)?;
        }
    }
    for (prefix, title, figures) in TABLES {
        if runs.names(prefix).next().is_some() {
            table(&mut text, runs, prefix, title, figures)?;
        }
    }
    text.push('\n');
    text.push_str(METHOD);
    Ok(text)
}

/// A warning where the machine had other work when the measurements began.
fn busy(machine: &Machine) -> String {
    let load =
        machine.0.get("load").and_then(Value::as_str).and_then(|load| load.split(' ').next()?.parse::<f64>().ok());
    let cores = machine.0.get("cores").and_then(Value::as_f64).unwrap_or(1.0);
    match load {
        Some(load) if load > cores / 2.0 => format!(
            "\n**The machine was busy with other work when this began (load {load} on {cores} cores).** Rates and times by the wall clock \
             tell what was left for us, not what the machine can do; CPU seconds are up to twice too high, because neighbours share caches \
             and core. Measure again with `cargo xtask bench` on a quiet machine.\n"
        ),
        _ => String::new(),
    }
}

/// Which measurements are of other code than the machine's facts tell: `--only` keeps the rest as it was.
fn elsewhen(machine: &Machine, runs: &Runs) -> String {
    let commit = machine.0.get("commit").and_then(Value::as_str).unwrap_or_default();
    let mut others: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in runs.names("") {
        let [of, date] = STAMP.map(|fact| runs.text(name, fact).unwrap_or_default());
        if !of.is_empty() && of != commit {
            others.entry(format!("{of}, {date}")).or_default().push(name);
        }
    }
    let line = |(when, names): (&String, &Vec<&str>)| format!("\nMeasured earlier ({when}): {}.\n", names.join(", "));
    others.iter().map(line).collect()
}

fn table(text: &mut String, runs: &Runs, prefix: &str, title: &str, figures: &[(&str, &str)]) -> Result<()> {
    let names: Vec<&str> = runs.names(prefix).collect();
    let shown: Vec<_> =
        figures.iter().filter(|(figure, _)| names.iter().any(|name| runs.spread(name, figure).is_some())).collect();
    write!(text, "\n## {title}\n\n| | runs |")?;
    shown.iter().try_for_each(|(_, heading)| write!(text, " {heading} |"))?;
    write!(text, "\n|---|---|{}\n", "---|".repeat(shown.len()))?;
    for name in names {
        let count = shown.iter().filter_map(|(figure, _)| runs.spread(name, figure)).map(|spread| spread.runs).max();
        write!(text, "| {} | {} |", name.trim_start_matches(prefix), count.unwrap_or_default())?;
        for (figure, _) in &shown {
            write!(text, " {} |", runs.spread(name, figure).map_or_else(|| "-".into(), spread_text))?;
        }
        text.push('\n');
    }
    Ok(())
}

fn spread_text(spread: Spread) -> String {
    let Spread { least, median, greatest, .. } = spread;
    if number_text(least) == number_text(greatest) {
        return number_text(median);
    }
    format!("{} [{}–{}]", number_text(median), number_text(least), number_text(greatest))
}

fn is_met(target: &Target, median: f64) -> bool {
    if target.least { median >= target.bound } else { median <= target.bound }
}

/// What is known of why a target is missed; nothing where it is met.
fn reason(target: &Target, median: f64) -> Option<&'static str> {
    let known = REASONS.iter().find(|(name, figure, _)| target.names.first() == Some(name) && *figure == target.figure);
    known.map(|(_, _, reason)| *reason).filter(|_| !is_met(target, median))
}

fn verdict(target: &Target, median: f64) -> String {
    let good = is_met(target, median);
    let apart = (median / target.bound - 1.0) * 100.0;
    if good { "met".into() } else { format!("**missed by {:.0} %**", apart.abs()) }
}

fn charts(runs: &Runs) -> Vec<(&'static str, Chart<'static>)> {
    let rows = |wanted: &[(&str, &str, &str)]| {
        let row = |(name, figure, label): &(&str, &str, &str)| {
            let spread = runs.spread(name, figure)?;
            Some(Row { label: (*label).to_owned(), spread, peer: name.starts_with("peer/") })
        };
        wanted.iter().filter_map(row).collect::<Vec<_>>()
    };
    let end_to_end = rows(&[
        ("agent/broker-full", RATE, "agent behind mosquitto, live"),
        ("agent/listener-full", RATE, "agent's own listener, live"),
        ("agent/drain-broker", RATE, "agent, backlog in the broker"),
        ("agent/drain-spool", RATE, "agent, backlog in its spool"),
        ("peer/rumqttc-manual-full", "rate", "rumqttc alone, only counts"),
        ("peer/benthos-http-batch-full", "rate", "Benthos to HTTP, no fsync"),
        ("peer/benthos-http-batch+drain-full", "rate", "Benthos, backlog in the broker"),
        ("peer/benthos-sqlite-batched-http-batch-full", "rate", "Benthos with SQLite buffer"),
    ]);
    let cpu = rows(&[
        ("agent/broker-20k", AGENT, "agent behind mosquitto, 20,000/s"),
        ("agent/listener-20k", AGENT, "agent's own listener, 20,000/s"),
        ("agent/drain-broker", AGENT, "agent, backlog in the broker"),
        ("peer/rumqttc-manual-20k", "peer_cpu_s_per_M", "rumqttc alone, 20,000/s"),
        ("peer/raw-durable-hold1000us-20k", "peer_cpu_s_per_M", "raw socket and fsync, 20,000/s"),
        ("peer/bridge-20k", "edge_mosquitto_cpu_s_per_M", "mosquitto bridge, 20,000/s"),
        ("peer/benthos-http-batch-20k", "peer_cpu_s_per_M", "Benthos to HTTP, 20,000/s"),
        ("peer/benthos-http-batch+drain-full", "peer_cpu_s_per_M", "Benthos, backlog in the broker"),
        ("peer/telegraf-http-20k", "peer_cpu_s_per_M", "Telegraf to HTTP, 20,000/s"),
    ]);
    let centre = rows(&[
        ("gateway/readings", RATE, "gateway, 1,000 readings a proof"),
        ("ledger/append", RATE, "ledger append, judged and synced"),
        ("ledger/scan", RATE, "ledger cold scan"),
        ("ledger/verify", RATE, "ledger verify, everything again"),
    ]);
    let signatures = rows(&[
        ("signatures/single-1-keys-1024", "perSecond", "one by one"),
        ("signatures/batch-16-keys-1024", "perSecond", "batches of 16"),
        ("signatures/batch-64-keys-1024", "perSecond", "batches of 64"),
        ("signatures/batch-256-keys-1024", "perSecond", "batches of 256"),
        ("signatures/batch-1024-keys-1024", "perSecond", "batches of 1,024"),
        ("signatures/batch-1024-keys-8", "perSecond", "batches of 1,024, eight keys"),
    ]);
    let chart = |title, note, rows, bound| Chart { title, note, rows, bound };
    vec![
        (
            "end-to-end.svg",
            chart(
                "Readings a second, all on two cores",
                "more is better; ours end with a receipt, peers with delivery",
                end_to_end,
                Some(25_000.0),
            ),
        ),
        (
            "agent-cpu.svg",
            chart("CPU seconds of the receiving process per million messages", "less is better", cpu, Some(16.0)),
        ),
        (
            "centre.svg",
            chart("Readings a second on one core", "more is better; one CEL check a reading", centre, Some(200_000.0)),
        ),
        (
            "signatures.svg",
            chart(
                "Ed25519 verifications a second on one core",
                "more is better; 1,024 keys unless said otherwise",
                signatures,
                Some(60_000.0),
            ),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(name: &str, figure: &str, values: &[f64]) -> Runs {
        let mut runs = Runs::default();
        for value in values {
            runs.add(name, json!({ figure: value }).as_object().cloned().unwrap_or_default());
        }
        runs
    }

    #[test]
    fn a_missed_target_says_by_how_much() {
        let text = text(&Machine::default(), &runs("rewards/merkle", "seconds", &[1.5, 1.8, 2.0])).unwrap();
        assert!(text.contains("| ≤ 1.20 s | 1.80 [1.50–2.00] | **missed by 50 %** |"), "{text}");
        assert!(text.contains("**Merkle tree of 1,000,000 leaves:** Three Keccak"), "{text}");
        let text = super::text(&Machine::default(), &runs("rewards/merkle", "seconds", &[1.0])).unwrap();
        assert!(text.contains("| ≤ 1.20 s | 1.00 | met |") && !text.contains("Keccak hashes a leaf"), "{text}");
    }

    #[test]
    fn what_was_measured_of_other_code_says_so() {
        let facts =
            |commit: &str| json!({ "commit": commit, "date": "2026-01-01" }).as_object().cloned().unwrap_or_default();
        let mut all = runs("rewards/merkle", "seconds", &[1.0]);
        all.stamp(&facts("new"), &facts("old"));
        all.add("rewards/close", json!({ "seconds": 4.0 }).as_object().cloned().unwrap_or_default());
        let text = text(&Machine(facts("new")), &all).unwrap();
        assert!(text.contains("Measured earlier (old, 2026-01-01): rewards/merkle.\n"), "{text}");
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let measured = runs("agent/broker-full", RATE, &[30_000.0, 31_000.0]);
        write(dir.path(), &Machine::default(), &measured).unwrap();
        let (_, again) = read(dir.path()).unwrap();
        assert_eq!(again.to_json(), measured.to_json());
        assert!(dir.path().join("end-to-end.svg").exists());
        assert!(!dir.path().join("signatures.svg").exists(), "nothing was measured for it");
    }
}
