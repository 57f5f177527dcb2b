//! The demo's report: what `--report FILE` holds.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::view::condition;

/// From what the ledger told, the hardware's reports and the EdgeDevices.
#[must_use]
pub fn build(observed: &Value, hardware: &[Value], devices: &Value) -> Value {
    let sum = |field: &str| hardware.iter().filter_map(|report| report[field].as_u64()).sum::<u64>();
    let epochs: Vec<Value> = items(&observed["epochs"]).map(|epoch| self::epoch(&epoch["summary"])).collect();
    let devices: Vec<Value> = items(&devices["items"]).map(device).collect();
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (fault, count) in hardware.iter().filter_map(|report| report["faults"].as_object()).flatten() {
        *faults.entry(fault).or_default() += count.as_u64().unwrap_or(0);
    }
    json!({
        "epochs": epochs,
        "readings": {
            "published": sum("readingsPublished"),
            "acknowledged": sum("readings"),
            "accepted": observed["readings"]["accepted"],
            "rejected": observed["readings"]["rejected"],
        },
        "messages": { "published": sum("published"), "acknowledged": sum("acknowledged"), "faults": faults },
        "devices": devices,
    })
}

fn epoch(summary: &Value) -> Value {
    let fields =
        ["program", "number", "start", "end", "root", "minted", "carriedIn", "carriedOut", "unallocated", "payouts"];
    fields.iter().map(|field| ((*field).to_owned(), summary[*field].clone())).collect()
}

fn device(object: &Value) -> Value {
    json!({
        "namespace": object["metadata"]["namespace"],
        "name": object["metadata"]["name"],
        "serial": object["spec"]["serial"],
        "fleet": object["spec"]["fleet"],
        "agent": object["spec"]["agent"],
        "ready": condition(object, "Ready"),
        "online": condition(object, "Online"),
    })
}

pub(super) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_the_promised_fields() {
        let observed = json!({
            "epochs": [{"summary": {
                "program": "energy/kilowatts", "number": 0, "start": 0, "end": 20_000, "root": "0xab", "minted": "10",
                "carriedIn": "0", "carriedOut": "1", "unallocated": "0", "pool": "9",
                "payouts": [{"account": "0x01", "amount": "0", "cumulative": "5"}],
            }}],
            "readings": {"accepted": 7, "rejected": {"OutOfRange": 1}},
        });
        let hardware =
            [json!({"readingsPublished": 9, "readings": 8, "published": 4, "acknowledged": 4, "faults": {"stuck": 2}})];
        let report =
            build(&observed, &hardware, &json!({"items": [{"metadata": {"name": "m"}, "spec": {"serial": "s"}}]}));
        assert_eq!(
            report["readings"],
            json!({"published": 9, "acknowledged": 8, "accepted": 7, "rejected": {"OutOfRange": 1}})
        );
        assert_eq!(report["epochs"][0]["payouts"][0]["cumulative"], "5");
        assert_eq!(report["epochs"][0].get("pool"), None);
        assert_eq!(report["devices"][0]["online"], false);
    }
}
