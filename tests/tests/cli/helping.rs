//! What somebody who helps asks for: trees, Events, logs, upgrades, and a report in which nothing is secret.

use std::{fs, path::Path};

use depin_tests::Cluster;
use serde_json::Value;

use crate::tool::{Tool, word};

/// Secrets that are planted wherever the report looks.
const PLANTED: [&str; 9] = [
    "depin1.00112233445566778899aabbccddeeff.00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
    "hunter2-planted",
    "aHVudGVyMi1wbGFudGVk",
    "planted-env-secret",
    "planted-url-secret",
    "planted-arg-secret",
    "MIGHAgEAplantedPEM",
    "eyJhbGciOiJFUzI1NiJ9.eyJwbGFudGVkIjoxfQ.cGxhbnRlZA",
    "planted-config-secret",
];

pub(crate) fn whoever_helps_sees(cluster: &Cluster, tool: &Tool, dir: &Path) {
    trees(tool);
    events(tool);
    logs(tool);
    upgrades(tool);
    a_report_tells_no_secret(cluster, tool, dir);
}

fn trees(tool: &Tool) {
    let tree = tool.json("tree program/kilowatts -n energy");
    assert_eq!((&tree["kind"], &tree["ready"]), (&"RewardProgram".into(), &"True".into()), "{tree}");
    let fleets: Vec<&Value> = tree["below"].as_array().unwrap().iter().filter(|it| it["kind"] == "EdgeFleet").collect();
    let devices: Vec<&Value> = fleets.iter().flat_map(|fleet| fleet["below"].as_array().unwrap()).collect();
    assert!(devices.iter().any(|device| device["name"] == "meter-0001"), "{tree}");
    assert!(tree["below"].as_array().unwrap().iter().any(|it| it["kind"] == "RewardEpoch"), "{tree}");
    let text = tool.text("tree agent/home -n energy");
    for said in ["Namespace energy", "EdgeAgent/home", "─EdgeDevice/meter-0002", "READY"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(tool.text("tree meters -n energy").contains("EdgeFleet/meters"), "a name alone will do");
    tool.fails("tree program/nothing -n energy", 3, &["nothing", "kubectl get depin"]);
    tool.fails("tree secret/depin-ca -n depin-system", 2, &["no kind that others hang from"]);
}

/// meter-0001 was suspended before; what hangs below its fleet tells of it.
fn events(tool: &Tool) {
    let of = |line: &str| tool.json(line).as_array().unwrap().clone();
    let own = of("events --for device/meter-0001 -n energy");
    let told = |events: &[Value]| {
        events.iter().any(|it| it["reason"] == "Suspended" && it["object"] == "EdgeDevice/meter-0001")
    };
    assert!(told(&own), "{own:?}");
    assert!(own.iter().all(|event| event["object"] == "EdgeDevice/meter-0001"), "{own:?}");
    let fleet = of("events --for fleet/meters -n energy");
    assert!(told(&fleet) && fleet.len() >= own.len(), "{fleet:?}");
    let other = of("events --for fleet/inverters -n energy");
    assert!(!told(&other), "{other:?}");
    assert!(told(&of("events -n energy")));
    assert!(tool.text("events --for device/meter-0001 -n energy").contains("Suspended"));
}

/// There is no Pod here: what a person is told then.
fn logs(tool: &Tool) {
    tool.fails("logs operator", 3, &["no Pod of \"operator\"", "--operator-namespace"]);
    tool.fails("logs home -n energy", 3, &["names no node", "outside the cluster"]);
    tool.fails("logs nobody -n energy", 3, &["nobody"]);
}

fn upgrades(tool: &Tool) {
    let status = tool.json("upgrade status");
    assert_eq!((&status["levelInUse"], &status["levelAvailable"]), (&1.into(), &1.into()), "{status}");
    assert_eq!(status["gateway"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["agents"][env!("CARGO_PKG_VERSION")], 2, "{status}");
    assert!(tool.text("upgrade finalize --yes").contains("Nothing is to be finalized"));
}

fn a_report_tells_no_secret(cluster: &Cluster, tool: &Tool, dir: &Path) {
    let [token, password, encoded, environment, url, argument, pem, jwt, config] = PLANTED;
    let pem = format!("-----BEGIN PRIVATE KEY-----\\n{pem}\\n-----END PRIVATE KEY-----");
    cluster
        .apply(&format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: default, namespace: depin-system}}\n---\n\
             apiVersion: v1\nkind: Secret\nmetadata:\n  name: planted\n  namespace: depin-system\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: '{{\"data\":{{\"password\":\"{encoded}\"}}}}'\ndata: {{password: {encoded}}}\n---\n\
             apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: planted, namespace: depin-system}}\ndata: {{mosquitto.conf: 'plain {config}'}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata:\n  name: planted\n  namespace: depin-system\n  labels: {{app.kubernetes.io/part-of: depin}}\n  annotations: {{note: 'enroll with {token}'}}\nspec:\n  containers:\n  - name: main\n    image: nothing\n    args: ['--password', '{argument}', '--url=postgres://depin:{url}@db/ledger']\n    env:\n    - {{name: DB_PASSWORD, value: {environment}}}\n    - {{name: KEY, value: \"{pem}\"}}\n"
        ))
        .unwrap();
    for (name, value) in
        [("example.com/token", password), ("example.com/note", &format!("Authorization: Bearer {jwt}"))]
    {
        cluster
            .kubectl(&["annotate", "rewardprogram", "kilowatts", "-n", "energy", &format!("{name}={value}")])
            .unwrap();
    }
    let folder = dir.join("report");
    let made = tool.json(&format!("report --out {}", word(&folder)));
    let files = made["files"].as_array().unwrap();
    assert!(files.len() > 20, "{made}");
    let mut whole = String::new();
    for file in files {
        let text = fs::read_to_string(folder.join(file.as_str().unwrap())).unwrap();
        for secret in PLANTED {
            assert!(!text.contains(secret), "{secret} is in {file}");
        }
        assert!(!text.contains("planted-") && !text.contains("PRIVATE KEY-----\\n"), "{file}: {text}");
        whole.push_str(&text);
    }
    let read = |name: &str| serde_json::from_str::<Value>(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    let secrets = read("depin-system/secrets.json");
    assert!(secrets["rows"].as_array().unwrap().iter().any(|row| row[0] == "planted"), "{secrets}");
    assert!(secrets["rows"].as_array().unwrap().iter().any(|row| row[0] == "depin-ca"), "{secrets}");
    assert!(
        read("resources/edgedevices.json").as_array().unwrap().iter().any(|it| it["metadata"]["name"] == "meter-0001")
    );
    assert!(read("status.json")["ledger"].is_object() && read("check.json")["sections"].is_array());
    assert!(read("resources/rewardprograms.json").to_string().contains("[redacted]") && whole.contains("@db/ledger"));
    // What could not be had is told, not passed over: nothing runs in Pods here.
    assert!(
        made["missing"].as_array().unwrap().iter().any(|it| it["what"] == "depin-system/metrics/planted"),
        "{made}"
    );
    tool.fails(&format!("report --out {}", word(&folder)), 1, &["report", "check the path"]);
    let archive = dir.join("report.tar.gz");
    tool.text(&format!("report --out {}", word(&archive)));
    assert!(fs::metadata(&archive).unwrap().len() > 1_000);
    cluster
        .kubectl(&[
            "delete",
            "secret/planted",
            "configmap/planted",
            "pod/planted",
            "-n",
            "depin-system",
            "--grace-period=0",
            "--force",
        ])
        .unwrap();
}
