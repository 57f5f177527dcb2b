//! Who earned what and why, as tables; and where to look further.

use std::collections::BTreeMap;

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

/// Prints how to look around.
pub fn print_commands(cluster: &Cluster, stack: &Stack) {
    let folder = cluster.kubectl_program().parent().map(|path| path.display().to_string()).unwrap_or_default();
    println!("\nLook around (Ctrl-C here ends everything):");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  export PATH={folder}:{}:$PATH", stack.programs().display());
    println!("  kubectl get edgedevices -A");
    println!("  kubectl get rewardepochs -A");
    println!("  kubectl depin explain meter-0001 -n energy");
    println!("  curl http://{}/metrics", stack.gateway_admin());
    println!("  logs: {}", stack.dir.join("logs").display());
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
        let reasons: Vec<&str> = items(&line["reasons"])
            .map(|zero| {
                Some(text(&zero["detail"])).filter(|detail| !detail.is_empty()).unwrap_or(text(&zero["reason"]))
            })
            .collect();
        println!(
            "  {name:<14} {:<34} weight {:>7} of {:<9} share {:>16} {}",
            values.collect::<Vec<_>>().join(", "),
            line["weight"],
            plain(&epoch["summary"]["weightSum"]),
            token.shown(&line["share"]),
            reasons.join(", ")
        );
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
