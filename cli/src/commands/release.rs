//! `release`: a person's word that what a restored ledger waits for will not come.
//!
//! Without `--yes` it only tells what is waited for. The writer token is the leading operator's, as the ledger tells it: a release takes
//! nothing over from it.

use depin_domain::ids::KeyId;
use depin_proto::v1::{AwaitedChain, ClosingHold};
use serde_json::json;

use crate::{
    fault::Fault,
    ledger::Ledger,
    output::{Report, Table},
};

pub(super) async fn run(ledger: &Ledger, yes: bool) -> Result<Report, Fault> {
    let hold = ledger.hold().await?;
    if !hold.held {
        return Ok(Report::new(json!({"held": false, "released": false}), "closing is not held: nothing to release"));
    }
    let mut json = describe(&hold);
    if !yes {
        json["released"] = false.into();
        let text = format!(
            "{}\n\nNothing closes until these chains have reported and resent. If they never will, let epochs close without them: what they\n\
             still send counts as late.\n  kubectl depin release --yes",
            table(&hold)
        );
        return Ok(Report { right: false, ..Report::new(json, text) });
    }
    let awaited = ledger.release_hold().await?;
    json["released"] = true.into();
    let text = format!("{}\n\nreleased: epochs close again without the {awaited} chains", table(&hold));
    Ok(Report::new(json, text))
}

fn describe(hold: &ClosingHold) -> serde_json::Value {
    let chains: Vec<_> = hold
        .chains
        .iter()
        .map(|chain| {
            json!({
                "holder": holder(chain), "key": key(chain),
                "ledger": {"incarnation": chain.incarnation, "sequence": chain.sequence},
                "reported": reported(chain).map(|(incarnation, sequence)| json!({"incarnation": incarnation, "sequence": sequence})),
            })
        })
        .collect();
    json!({"held": true, "incarnation": hold.incarnation, "awaited": hold.awaited, "chains": chains})
}

fn table(hold: &ClosingHold) -> String {
    let mut table = Table::new(["WAITED FOR", "LEDGER HAS", "IT REPORTED", "KEY"]);
    for chain in &hold.chains {
        let reported =
            reported(chain).map_or("nothing".to_owned(), |(incarnation, sequence)| format!("{incarnation}/{sequence}"));
        table.row([holder(chain), format!("{}/{}", chain.incarnation, chain.sequence), reported, key(chain)]);
    }
    let more = hold.awaited.saturating_sub(hold.chains.len() as u64);
    let more = if more > 0 { format!("\n… and {more} more") } else { String::new() };
    format!("{}{more}", table.or("no chain").trim_end())
}

fn holder(chain: &AwaitedChain) -> String {
    match (chain.agent.as_str(), chain.device.as_str()) {
        ("", "") => "unknown".to_owned(),
        ("", device) => format!("device {device}"),
        (agent, _) => format!("agent {agent}"),
    }
}

/// What its agent said that it has; nothing where it was not heard of since the gateway's start.
fn reported(chain: &AwaitedChain) -> Option<(u64, u64)> {
    (chain.reported_incarnation > 0).then_some((chain.reported_incarnation, chain.reported_sequence))
}

fn key(chain: &AwaitedChain) -> String {
    depin_proto::convert::key_id("key_id", &chain.key_id).map_or("unreadable".to_owned(), |key: KeyId| key.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_whose_chain_is_waited_for_and_how_far_it_is() {
        let chain = AwaitedChain { key_id: vec![7; 32].into(), incarnation: 1, sequence: 9, ..Default::default() };
        let hold = ClosingHold {
            held: true,
            incarnation: 3,
            awaited: 5,
            chains: vec![
                AwaitedChain {
                    agent: "grid/site-1".into(),
                    reported_incarnation: 1,
                    reported_sequence: 12,
                    ..chain.clone()
                },
                AwaitedChain { device: "grid/meter-1".into(), ..chain },
            ],
        };
        let text = table(&hold);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..4], ["agent", "grid/site-1", "1/9", "1/12"]);
        assert_eq!(lines[2][..4], ["device", "grid/meter-1", "1/9", "nothing"]);
        assert_eq!(lines[3], ["…", "and", "3", "more"]);
        let json = describe(&hold);
        assert_eq!(json["chains"][0]["reported"]["sequence"], 12);
        assert!(json["chains"][1]["reported"].is_null());
        assert_eq!(json["chains"][1]["holder"], "device grid/meter-1");
    }
}
