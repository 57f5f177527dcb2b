//! Who earned what and why, as tables; and where to look further.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::report::items;
use crate::{cluster::Cluster, stack::Stack};

/// Prints each program's epochs, accounts and, of its newest epoch, every device's factors.
pub fn print(observed: &Value, devices: &Value, programs: &Value) {
    let names: BTreeMap<String, String> = items(&devices["items"])
        .filter_map(|device| {
            let id = device["status"]["did"].as_str()?.trim_start_matches("did:depin:").to_owned();
            Some((id, device["metadata"]["name"].as_str()?.to_owned()))
        })
        .collect();
    for program in items(&programs["items"]) {
        let name = format!("{}/{}", text(&program["metadata"]["namespace"]), text(&program["metadata"]["name"]));
        let epochs: Vec<&Value> =
            items(&observed["epochs"]).filter(|epoch| epoch["summary"]["program"] == *name).collect();
        let token = &program["spec"]["token"];
        let token =
            Token { symbol: text(&token["symbol"]), decimals: token["decimals"].as_u64().unwrap_or(0) as usize };
        println!("\n== {name}");
        for epoch in &epochs {
            let summary = &epoch["summary"];
            println!(
                "epoch {:>3}  minted {:>14}  carried on {:>14}  root {}",
                summary["number"],
                token.shown(&summary["minted"]),
                token.shown(&summary["carriedOut"]),
                text(&summary["root"])
            );
        }
        if let Some(last) = epochs.last() {
            print_payouts(&last["summary"], &token);
            print_lines(last, program, &names, &token);
        }
    }
}

/// Prints what became of the readings.
pub fn print_readings(readings: &Value) {
    println!(
        "\nreadings: {} published, {} acknowledged to hardware, {} accepted, rejected {}",
        readings["published"], readings["acknowledged"], readings["accepted"], readings["rejected"]
    );
}

/// Writes `env`, a file that a shell reads, and prints how to look around with it; `examples`: among the examples' devices.
///
/// # Errors
/// When the file cannot be written.
pub fn print_commands(cluster: &Cluster, stack: &Stack, examples: bool) -> Result<()> {
    let env = stack.dir.join("env");
    std::fs::write(&env, environment(cluster, stack)).with_context(|| format!("cannot write {}", env.display()))?;
    println!("\nLook around from another shell (Ctrl-C here ends everything):");
    println!("  . {}", env.display());
    // Recordings have other devices and owners.
    for (command, what) in
        COMMANDS.iter().filter(|(command, _)| examples || !OF_EXAMPLES.iter().any(|word| command.contains(word)))
    {
        println!("  {command:<58} # {what}");
    }
    println!("  {:<58} # the gateway's metrics", format!("curl http://{}/metrics", stack.gateway_admin()));
    println!("  {:<58} # what each program says", format!("ls {}", stack.dir.join("logs").display()));
    Ok(())
}

/// What only the examples have.
const OF_EXAMPLES: [&str; 2] = ["ws-0001", "0x111a000000000000000000000000000000000005"];

/// Each works as it is printed, in a shell that has read [`environment`].
pub const COMMANDS: [(&str, &str); 6] = [
    ("kubectl get edgedevices -A", "who is there"),
    ("kubectl get rewardepochs -A", "what was paid, with the roots"),
    ("kubectl depin status", "the network at a glance, what was rejected and why"),
    ("kubectl depin explain ws-0001 -n weather", "every factor of one device's reward"),
    ("kubectl depin proof 0x111a000000000000000000000000000000000005", "what this owner needs to claim"),
    ("kubectl depin --help", "and more"),
];

/// Where cluster, ledger and programs are, as a shell's assignments: `kubectl depin` is `kubectl-depin` on the PATH.
#[must_use]
pub fn environment(cluster: &Cluster, stack: &Stack) -> String {
    let kubectl = cluster.kubectl_program().parent().map(|path| path.display().to_string()).unwrap_or_default();
    let programs = stack.programs();
    // Seen from the caller's directory, a relative path would lead nowhere elsewhere.
    let programs = programs.canonicalize().unwrap_or_else(|_| programs.to_path_buf());
    format!(
        "export KUBECONFIG='{}'\nexport DEPIN_LEDGER='{}'\nexport PATH='{kubectl}:{}':\"$PATH\"\n",
        cluster.kubeconfig().display(),
        stack.ledger(),
        programs.display()
    )
}

struct Token<'a> {
    symbol: &'a str,
    decimals: usize,
}

impl Token<'_> {
    /// An amount in whole tokens.
    fn shown(&self, amount: &Value) -> String {
        let digits = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
        let digits = format!("{digits:0>width$}", width = self.decimals + 1);
        let (whole, part) = digits.split_at(digits.len() - self.decimals);
        if part.is_empty() { format!("{whole} {}", self.symbol) } else { format!("{whole}.{part} {}", self.symbol) }
    }
}

fn print_payouts(summary: &Value, token: &Token<'_>) {
    println!("{:<44} {:>18} {:>18}", "account", "this epoch", "in all");
    for payout in items(&summary["payouts"]) {
        println!(
            "{:<44} {:>18} {:>18}",
            text(&payout["account"]),
            token.shown(&payout["amount"]),
            token.shown(&payout["cumulative"])
        );
    }
}

fn print_lines(epoch: &Value, program: &Value, names: &BTreeMap<String, String>, token: &Token<'_>) {
    let features: Vec<&str> = items(&program["spec"]["features"]).map(|feature| text(&feature["name"])).collect();
    println!("why, device by device (weight = {}):", text(&program["spec"]["weight"]));
    let mut lines: Vec<(&str, &Value)> = items(&epoch["lines"])
        .map(|line| {
            let id = text(&line["device"]);
            (names.get(id).map_or(id, String::as_str), line)
        })
        .collect();
    lines.sort_by_key(|(name, _)| *name);
    for (name, line) in lines {
        let values = features.iter().zip(items(&line["features"])).map(|(feature, value)| match value {
            Value::Null => format!("{feature} –"),
            Value::String(value) => format!("{feature} {value}"),
            other => format!("{feature} {other}"),
        });
        println!(
            "  {name:<14} {:<34} weight {:>7} of {:<9} share {:>16}",
            values.collect::<Vec<_>>().join(", "),
            line["weight"],
            plain(&epoch["summary"]["weightSum"]),
            token.shown(&line["share"])
        );
        for reason in items(&line["reasons"]) {
            println!("  {:<14} {}", "", text(&reason["text"]));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_shown_in_whole_tokens() {
        let token = Token { symbol: "KWT", decimals: 6 };
        assert_eq!(token.shown(&json!("100000000")), "100.000000 KWT");
        assert_eq!(token.shown(&json!("7")), "0.000007 KWT");
        assert_eq!(Token { symbol: "W", decimals: 0 }.shown(&json!("12")), "12 W");
    }
}
