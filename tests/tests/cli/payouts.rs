//! From a device's readings to who got what and why, and the same again from what was handed out.

use std::{fs, path::Path};

use depin_domain::rewards::merkle;
use depin_tests::workspace;
use serde_json::Value;

use crate::{
    STATION_OWNER,
    tool::{Tool, word},
};

/// The factors that are told give the amount that is told.
pub(crate) fn explaining(tool: &Tool, epoch: &Value) {
    let number = epoch["number"].as_u64().unwrap();
    let told = tool.json(&format!("explain ws-0001 -n weather --epoch {number}"));
    let text = told.to_string();
    assert!(text.contains("\"share\""), "{text}");
    let text = tool.text(&format!("explain weather/ws-0001 --epoch {number}"));
    for said in ["Share", "floor(", "Paid", STATION_OWNER, epoch["root"].as_str().unwrap()] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let line = text.lines().find(|line| line.starts_with("Share")).unwrap();
    let numbers: Vec<u128> =
        line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    assert_eq!(numbers[3], numbers[0] * numbers[1] / numbers[2], "{line}");
    tool.text("explain ws-0001 -n weather");
    tool.fails("explain ws-9999 -n weather", 3, &["ws-9999", "kubectl depin devices"]);
    tool.fails("explain ws-0001 -n weather --epoch 999999999", 3, &["999999999"]);
}

/// What `proof` prints is what a contract takes.
pub(crate) fn claiming(tool: &Tool, epoch: &Value) {
    let claims = tool.json(&format!("proof {STATION_OWNER} -n weather --program observations"));
    let claim = &claims[0];
    let root = merkle::from_text(claim["root"].as_str().unwrap()).unwrap();
    let proof: Vec<_> = claim["proof"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| merkle::from_text(node.as_str().unwrap()).unwrap())
        .collect();
    let (account, amount) = (STATION_OWNER.parse().unwrap(), claim["cumulative"].as_str().unwrap().parse().unwrap());
    assert!(merkle::verify(&root, &merkle::leaf(&account, amount), &proof), "{claim}");
    assert!(claim["epoch"].as_u64().unwrap() >= epoch["number"].as_u64().unwrap());
    tool.fails("proof 0x0000000000000000000000000000000000000009", 3, &["nothing to claim"]);
    tool.fails("proof bob", 1, &["bob", "EVM address"]);
}

/// Proofs that were kept verify offline; one changed letter does not.
pub(crate) fn verifying(tool: &Tool, dir: &Path) {
    let file = dir.join("proofs.txt");
    let kept = tool.json(&format!("proofs ws-0001 -n weather --out {}", word(&file)));
    assert!(kept["proofs"].as_u64().unwrap() > 0);
    let offline = Tool::bare();
    let found = offline.json(&format!("verify {}", word(&file)));
    assert_eq!(found["faults"], serde_json::json!([]));
    assert!(found["receipts"].as_u64().unwrap() > 0);
    let status = tool.json("status");
    let field = status["agents"].as_array().unwrap().iter().find(|agent| agent["agent"] == "weather/field").unwrap();
    let (agent, gateway) = (field["key"].as_str().unwrap(), status["ledger"]["gatewayKey"].as_str().unwrap());
    offline.text(&format!("verify {} --trusted {agent} --trusted {gateway}", word(&file)));
    offline.fails(&format!("verify {} --trusted {gateway}", word(&file)), 4, &[agent, "none of the trusted keys"]);
    assert!(tool.text("proofs ws-0001 -n weather").contains("ACCEPTED"));

    let text = fs::read_to_string(&file).unwrap();
    let middle = text.find('\n').unwrap() + 120;
    let letter = if &text[middle..=middle] == "a" { "b" } else { "a" };
    let tampered = dir.join("tampered.txt");
    fs::write(&tampered, [&text[..middle], letter, &text[middle + 1..]].concat()).unwrap();
    let run = offline.run(&format!("verify {}", word(&tampered)));
    assert!(matches!(run.code, 1 | 4), "{run:?}");
    offline.fails(&format!("verify {}", word(&workspace().join("README.md"))), 1, &["kubectl depin proofs --out"]);
    offline.fails("verify /nowhere", 1, &["/nowhere", "check the path"]);
}

/// The public export gives weights, amounts and root; the audit export everything; a changed file is no export.
pub(crate) fn recomputing(tool: &Tool, dir: &Path, epoch: &Value) {
    let number = epoch["number"].as_u64().unwrap();
    let (public, audit) = (dir.join("public"), dir.join("audit"));
    let offline = Tool::bare();
    for (folder, more) in [(&public, ""), (&audit, " --audit")] {
        tool.text(&format!("export observations -n weather --epoch {number} --out {}{more}", word(folder)));
        let again = offline.json(&format!("recompute {}", word(folder)));
        assert_eq!(again["differences"], serde_json::json!([]), "{again}");
        assert_eq!(again["root"], epoch["root"]);
    }
    let text = offline.text(&format!("recompute {}", word(&audit)));
    assert!(text.contains("From signatures to root") && text.contains("not checked: "), "{text}");
    // Each epoch that is there, also those in which others matured.
    for epoch in tool.json("epochs --program weather/observations").as_array().unwrap() {
        let folder = dir.join(format!("audit-{}", epoch["number"]));
        let arguments = format!("--epoch {} --audit --out {}", epoch["number"], word(&folder));
        tool.text(&format!("export weather/observations {arguments}"));
        let again = offline.json(&format!("recompute {}", word(&folder)));
        assert_eq!((&again["differences"], &again["root"]), (&serde_json::json!([]), &epoch["root"]));
        assert!(again["judged"].as_u64().unwrap() > 0 && again["notChecked"].is_array(), "{again}");
    }

    of_an_owner(tool, dir, epoch);

    let file = audit.join("lines.parquet");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    offline.fails(&format!("recompute {}", word(&audit)), 4, &["lines.parquet", "SHA-256"]);
    // A manifest that claims more than its lines give is found out by arithmetic.
    let manifest = public.join("manifest.json");
    let claimed = fs::read_to_string(&manifest).unwrap().replacen("\"cumulative\":\"", "\"cumulative\":\"9", 1);
    fs::write(&manifest, claimed).unwrap();
    offline.fails(&format!("recompute {}", word(&public)), 4, &["root"]);
    tool.fails("export weather/observations --epoch 999999999 --out /tmp/never", 3, &["999999999"]);
}

/// An owner's export proves his devices' features from signatures, and his amount to the root, without another's readings.
fn of_an_owner(tool: &Tool, dir: &Path, epoch: &Value) {
    let (number, folder, offline) = (epoch["number"].as_u64().unwrap(), dir.join("owner"), Tool::bare());
    let export =
        |owner: &str| format!("export weather/observations --epoch {number} --owner {owner} --out {}", word(&folder));
    tool.fails(
        &export("0x0000000000000000000000000000000000000009"),
        3,
        &["0x0000000000000000000000000000000000000009"],
    );
    tool.fails(&export("bob"), 2, &["bob"]);
    tool.text(&export(STATION_OWNER));
    let again = offline.json(&format!("recompute {}", word(&folder)));
    assert_eq!(again["differences"], serde_json::json!([]), "{again}");
    assert_eq!(again["root"], epoch["root"]);
    let payouts = epoch["payouts"].as_array().unwrap();
    let payout = payouts.iter().find(|payout| payout["account"] == STATION_OWNER).unwrap();
    assert_eq!((&again["amount"], &again["cumulative"]), (&payout["amount"], &payout["cumulative"]));
    assert!(again["sections"].as_u64().unwrap() > 0);
    assert!(
        offline.text(&format!("recompute {}", word(&folder))).contains("From what your devices signed to the root")
    );
    // A reading that is left out is missed in the features.
    let kept = folder.join("manifest.json");
    let manifest = fs::read_to_string(&kept).unwrap();
    let mut told: Value = serde_json::from_str(&manifest).unwrap();
    told["files"].as_array_mut().unwrap().retain(|file| !file["name"].as_str().unwrap().starts_with("sections-"));
    fs::write(&kept, told.to_string()).unwrap();
    offline.fails(&format!("recompute {}", word(&folder)), 4, &["features"]);
}
