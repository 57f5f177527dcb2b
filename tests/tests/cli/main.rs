//! `kubectl depin` against a real network: every command that a person has, its JSON, its exit codes and what it says when
//! something is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod asking;
mod helping;
mod payouts;
mod tool;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use depin_domain::time::{Timestamp, Window};
use depin_identity::{CertificateAuthority, JoinToken};
use depin_tests::{Cluster, Stack, now_ms, programs, tools::Tools, workspace};
use payouts::{claiming, explaining, recomputing, verifying};
use serde_json::Value;
use tool::{Tool, word};
use xtask::admin::{http_get, metric};
use xtask::demo::{
    networks::{self, Networks},
    showcase,
};

const LIMIT: Duration = Duration::from_secs(240);
const STATION_OWNER: &str = "0x111a000000000000000000000000000000000005";

/// Looks again and again until `look` finds something.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come within {LIMIT:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// A network with meters that come in by themselves, inverters that wait for a person, and stations; and what the cluster had before.
fn start(dir: &Path) -> (Cluster, Stack, Networks) {
    fs::create_dir_all(dir.join("control-plane")).unwrap();
    let cluster = Cluster::start(&dir.join("control-plane")).unwrap();
    let before = Networks::before(&cluster).unwrap();
    let mut stack = Stack::new(dir, &programs().unwrap()).unwrap();
    stack.start_center(&cluster).unwrap();
    networks::apply_fleets(&cluster).unwrap();
    let manual = r#"{"spec": {"enrollment": {"policy": "Manual"}}}"#;
    cluster.kubectl(&["patch", "efleet", "inverters", "-n", "energy", "--type=merge", "-p", manual]).unwrap();
    stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false).unwrap();
    stack.start_agent(&cluster, "weather", "field", &["stations"], false).unwrap();
    networks::apply_devices(&cluster).unwrap();
    networks::apply_programs(&cluster, u64::try_from(now_ms()).unwrap()).unwrap();
    let (home, field) = (stack.agents[0].mqtt.clone(), stack.agents[1].mqtt.clone());
    let with = |network, devices| ["--network", network, "--devices", devices, "--world-hour", "14"];
    let impossible = [&with("meters", "3")[..], &["--impossible", "0.1", "--tampering", "0.1"]].concat();
    stack.start_simulator("meters", &home, &impossible).unwrap();
    stack.start_simulator("pv", &home, &with("pv", "3")).unwrap();
    stack.start_simulator("weather", &field, &with("weather", "3")).unwrap();
    (cluster, stack, before)
}

#[test]
fn every_command_does_what_it_says() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (cluster, mut stack, before) = start(dir.path());
    let tool = Tool::administrator(&cluster, &stack);

    people_decide(&tool, &cluster);
    suspensions(&tool, &cluster);
    tokens(&tool, &cluster);
    let epoch = eventually("two epochs of each program", || {
        let epochs = tool.json("epochs -A");
        let of = |program: &str| epochs.as_array().unwrap().iter().filter(|epoch| epoch["program"] == program).count();
        (of("weather/observations") >= 2 && of("energy/kilowatts") >= 2).then(|| {
            let mut newest =
                epochs.as_array().unwrap().iter().filter(|epoch| epoch["program"] == "weather/observations");
            newest.next().unwrap().clone()
        })
    });
    looking(&tool);
    the_operator_tells_its_health(&stack);
    explaining(&tool, &epoch);
    claiming(&tool, &epoch);
    verifying(&tool, dir.path());
    recomputing(&tool, dir.path(), &epoch);
    decoding(&tool, dir.path());
    checking(&tool, &stack, dir.path());
    usual_flags(&cluster, &stack, &tool, &epoch);
    a_tenant_reads_with_a_certificate(&tool, &stack, dir.path());
    asking::people_ask_the_operator(&cluster, &stack, &tool, dir.path());
    helping::whoever_helps_sees(&cluster, &tool, dir.path());
    the_demos_commands_work_as_they_are_printed(&cluster, &stack, dir.path());
    authorities(&tool, &cluster, dir.path());
    stack.stop().unwrap();
    the_cluster_is_left_as_it_was(&cluster, &before);
}

/// Under the Manual policy two inverters ask; one is let in, one is turned away.
fn people_decide(tool: &Tool, cluster: &Cluster) {
    let asking = eventually("two inverters ask", || {
        let status = tool.json("status -n energy");
        let waiting = status["waiting"].as_array().unwrap().clone();
        (waiting.len() == 2).then_some(waiting)
    });
    let name = |place: usize| asking[place]["name"].as_str().unwrap().to_owned();
    let table = tool.text("status -A");
    assert!(table.contains(&format!("kubectl depin approve -n energy {}", name(0))), "{table}");

    let made = tool.json(&format!("approve {} -n energy --owner {STATION_OWNER} --object-name pv-roof", name(0)));
    assert_eq!(made["created"], "edgedevice/pv-roof");
    eventually("the approved inverter is ready", || {
        let device = cluster.get(&["edgedevice", "pv-roof", "-n", "energy"]).unwrap();
        condition(&device, "Ready").filter(|ready| ready["status"] == "True")
    });
    eventually("the request of the approved inverter is gone", || {
        let left = cluster.kubectl(&["get", "ee", &name(0), "-n", "energy", "--ignore-not-found"]).unwrap();
        left.is_empty().then_some(())
    });
    tool.text(&format!("deny {} -n energy --reason not-ours", name(1)));
    let denied = cluster.get(&["ee", &name(1), "-n", "energy"]).unwrap();
    assert_eq!(condition(&denied, "Denied").unwrap()["message"], "not-ours");
    assert_eq!(tool.json("status -n energy")["waiting"], serde_json::json!([]));
    tool.fails("approve nobody -n energy", 3, &["nobody", "not found", "check name and namespace"]);
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind).cloned()
}

fn suspensions(tool: &Tool, cluster: &Cluster) {
    let suspended = |status: &'static str| {
        eventually("the suspension", || {
            let device = cluster.get(&["edgedevice", "meter-0001", "-n", "energy"]).unwrap();
            condition(&device, "Suspended").filter(|suspended| suspended["status"] == status)
        })
    };
    tool.text("suspend meter-0001 -n energy --reason moving-house");
    assert!(suspended("True")["message"].as_str().unwrap().contains("moving-house"));
    tool.text("resume device/meter-0001 -n energy");
    suspended("False");
    let program = || cluster.get(&["rewardprogram", "kilowatts", "-n", "energy"]).unwrap();
    tool.text("suspend program/kilowatts -n energy --reason audit");
    assert_eq!(program()["spec"]["suspend"], true);
    assert_eq!(program()["metadata"]["annotations"]["depin.dev/suspend-reason"], "audit");
    tool.text("resume program/kilowatts -n energy --reason done");
    assert_eq!(program()["spec"]["suspend"], false);
    tool.fails("suspend fleet/meters -n energy --reason x", 1, &["cannot be suspended", "device/NAME or program/NAME"]);
    tool.fails("suspend meter-0001 -n energy", 2, &["--reason"]);
    tool.fails("suspend nothing -n energy --reason x", 3, &["nothing"]);
}

fn tokens(tool: &Tool, cluster: &Cluster) {
    let made = tool.json("token create --fleet meters --agent shed -n energy --hours 1");
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    let enrollment = made["enrollment"].as_str().unwrap();
    let enrollment = eventually("the invitation admits", || {
        let enrollment = cluster.get(&["ee", enrollment, "-n", "energy"]).unwrap();
        condition(&enrollment, "Ready").is_some_and(|ready| ready["status"] == "True").then_some(enrollment)
    });
    assert_eq!(enrollment["spec"]["token"]["sha256"], token.hash().to_string(), "only the hash is kept");
    assert_eq!(enrollment["spec"]["token"]["agent"], "shed");
    let plain = tool.text("token create --fleet meters -n energy");
    assert!(plain.trim().parse::<JoinToken>().is_ok(), "the token alone is printed, for a pipe: {plain}");
    tool.fails("token create -n energy", 2, &["--fleet"]);
}

/// Readings and rejections by reason, agents, devices, epochs.
fn looking(tool: &Tool) {
    let status = tool.json("status -A");
    assert!(status["ledger"]["readingsAccepted"].as_u64().unwrap() > 0, "{status}");
    assert!(status["ledger"]["readingsRejected"]["OutOfRange"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["agents"].as_array().unwrap().len(), 2);
    let home = eventually("what the codec rejected", || {
        let status = tool.json("status");
        let agents = status["agents"].as_array().unwrap().clone();
        let home = agents.into_iter().find(|agent| agent["agent"] == "energy/home").unwrap();
        (home["status"]["messagesRejected"]["MalformedPayload"].as_u64() > Some(0)).then_some(home)
    });
    assert_eq!((&home["status"]["clockSet"], &home["connected"]), (&true.into(), &true.into()), "{home}");
    let text = tool.text("status");
    let told = |line: &str| line.contains("message rejected by energy/home") && line.contains("MalformedPayload");
    assert!(text.lines().any(told), "{text}");
    for said in ["OutOfRange", "energy/home", "weather/field", "readings accepted", "SPOOLED", "kubectl depin decode"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let devices = tool.json("devices -n energy");
    let meter = devices.as_array().unwrap().iter().find(|device| device["name"] == "meter-0002").unwrap();
    assert_eq!((&meter["ready"], &meter["online"]), (&"True".into(), &"True".into()), "{meter}");
    assert!(meter["accepted"].as_u64().unwrap() > 0);
    assert!(devices.as_array().unwrap().iter().all(|device| device["namespace"] == "energy"));
    let table = tool.text("devices -A");
    for said in ["SERIAL", "meter-0001", "ws-0003", "REASON"] {
        assert!(table.contains(said), "{said}: {table}");
    }
    assert_eq!(tool.json("release"), serde_json::json!({"held": false, "released": false}), "nothing was restored");
    tool.fails("backup", 4, &["no backup is configured", "--backup-s3"]);
    tool.fails("backup now --wait", 1, &["no backup is configured", "--backup-dir"]);
    tool.fails("backup list --backup-dir /nonexistent/backup", 1, &["is no directory here"]);
    tool.fails("backup verify", 2, &["--backup-dir DIR or --backup-s3 URL"]);
    let table = tool.text("epochs --program weather/observations --limit 1");
    assert_eq!(table.lines().count(), 2, "{table}");
    tool.fails("epochs --program weather/nothing", 3, &["weather/nothing", "kubectl get rewardprograms"]);
}

/// For whoever watches the operator: health, and metrics under the names that dashboards know.
fn the_operator_tells_its_health(stack: &Stack) {
    let get = |path: &str| http_get(&stack.operator_admin(), path).unwrap();
    for path in ["/healthz", "/readyz"] {
        assert!(get(path).starts_with("HTTP/1.1 200"), "{path}: {}", get(path));
    }
    let metrics = get("/metrics");
    let controller = "{controller=\"devices\"";
    for (name, at_least) in [
        (format!("controller_runtime_reconcile_total{controller}"), 1.0),
        (format!("controller_runtime_reconcile_time_seconds_count{controller}"), 1.0),
        (format!("controller_runtime_max_concurrent_reconciles{controller}"), 1.0),
        (format!("controller_runtime_reconcile_errors_total{controller}"), 0.0),
        (format!("controller_runtime_active_workers{controller}"), 0.0),
        ("leader_election_master_status".to_owned(), 1.0),
        ("depin_operator_status_writes_total{kind=\"EdgeDevice\"}".to_owned(), 1.0),
        ("depin_operator_epochs_total".to_owned(), 4.0),
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(&name)), "{name}: {metrics}");
        assert!(metric(&metrics, &name) >= at_least, "{name}: {metrics}");
    }
}

fn decoding(tool: &Tool, dir: &Path) {
    let payload = dir.join("payload.json");
    fs::write(&payload, r#"{"ts": 1700000000000, "observation": {"temperature_c": 21.37, "humidity_pct": "wet"}}"#)
        .unwrap();
    let line = |model: &str| format!("decode --model {model} --topic weather/ws-7/observation {}", word(&payload));
    let run = tool.run(&format!("{} -o json", line("weather-station")));
    assert_eq!(run.code, 4, "a field that is no number is a finding: {run:?}");
    let told: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(told["readings"][0]["device"], "ws-7");
    assert_eq!(told["readings"][0]["value"], "2137");
    assert_eq!(told["rejections"][0]["where"], "field observation.humidity_pct");
    let file = workspace().join("examples/networks/weather/models.yaml");
    fs::write(&payload, r#"{"ts": 1700000000000, "observation": {"temperature_c": 21.37}}"#).unwrap();
    let run = Tool::bare().run(&line(word(&file)));
    assert!(run.out.contains("21.37") && run.out.contains("ws-7"), "{run:?}");
    tool.fails(&line("no-such-model"), 3, &["no-such-model"]);
}

fn checking(tool: &Tool, stack: &Stack, dir: &Path) {
    let found = tool.json("check");
    assert_eq!(found["right"], true, "{found}");
    // Nothing runs in Pods here, nobody leads by a Lease, and nobody said where agents connect and what the broker's settings are.
    let elsewhere = ["operator", "leader", "gateway", "agents-port", "broker", "backup"];
    assert_eq!(of_verdict(&found, "unseen"), elsewhere, "{found}");
    assert_eq!(of_verdict(&found, "doubtful"), [""; 0], "{found}");
    let found = tool.json(&format!("check --gateway {} --wait 1m", stack.gateway()));
    assert!(!of_verdict(&found, "unseen").contains(&"agents-port".to_owned()), "{found}");
    tool.fails(
        "check --gateway https://127.0.0.1:1",
        4,
        &["×", "agents would be served", "docs/checks.md#agents-port"],
    );
    before_an_installation(tool);
    let broker = dir.join("mosquitto.conf");
    fs::write(&broker, "listener 1883\n").unwrap();
    tool.fails(
        &format!("check --broker-config {}", word(&broker)),
        4,
        &["max_queued_messages", "set persistence true"],
    );
    let alone = Tool::bare().with("KUBECONFIG", "/nowhere/kubeconfig");
    alone.fails("check --pre", 4, &["× the API server answers", "set KUBECONFIG"]);
    alone.fails("check", 4, &["API server", "set KUBECONFIG", "--ledger"]);
}

/// Identifiers of what was found so.
fn of_verdict(found: &Value, verdict: &str) -> Vec<String> {
    let checks = found["sections"].as_array().unwrap().iter().flat_map(|section| section["checks"].as_array().unwrap());
    checks.filter(|check| check["verdict"] == verdict).map(|check| check["id"].as_str().unwrap().to_owned()).collect()
}

/// This cluster has no node, no StorageClass, and kinds that were applied by hand; an administrator may create everything.
fn before_an_installation(tool: &Tool) {
    let found = tool.json("check --pre");
    assert_eq!(of_verdict(&found, "doubtful"), ["edge-nodes", "storage", "installed-before"], "{found}");
    let text = tool.text("check --pre");
    for said in [
        "rights\n------",
        "√ may create customresourcedefinitions\n",
        "√ may create daemonsets in depin-agents\n",
        "√ no other kind has our names",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    // Whoever may nothing is told so, and what he may not look at is no fault of the cluster's.
    let run = tool.run("check --pre --as nobody -o json");
    let found: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(run.code, 4, "{run:?}");
    assert!(of_verdict(&found, "wrong").iter().all(|id| id == "may-create"), "{found}");
    assert!(of_verdict(&found, "unseen").contains(&"edge-nodes".to_owned()), "{found}");
}

/// Flags of kubectl, exit codes, errors as JSON, completion.
fn usual_flags(cluster: &Cluster, stack: &Stack, tool: &Tool, epoch: &Value) {
    let (kubeconfig, ledger) = (word(cluster.kubeconfig()), stack.ledger());
    let bare = Tool::bare();
    let by_flags = bare.json(&format!("epochs --kubeconfig {kubeconfig} --context depin --ledger {ledger} -n weather"));
    assert!(by_flags.as_array().unwrap().iter().any(|known| known["root"] == epoch["root"]));
    for what in ["context", "cluster", "user"] {
        tool.fails(&format!("devices --{what} nowhere"), 1, &["nowhere", &format!("--{what}")]);
    }
    acting_as_somebody_else(cluster, tool);
    lists_for_scripts(cluster, tool);
    bare.fails(
        &format!("epochs --kubeconfig {kubeconfig}"),
        5,
        &["depin-viewer", "not found", "viewer create", "--ledger"],
    );
    let closed = format!("epochs --kubeconfig {kubeconfig} --ledger https://127.0.0.1:1");
    bare.fails(&closed, 1, &["ledger", "check --ledger"]);
    let run = tool.run("explain nobody -n weather -o json");
    let told: Value = serde_json::from_str(&run.errors).unwrap();
    assert_eq!((run.code, &told["exitCode"]), (3, &3.into()));
    assert!(!told["remedy"].as_str().unwrap().is_empty());
    bare.fails("frobnicate", 2, &["frobnicate"]);
    for shell in ["bash", "zsh", "fish"] {
        let script = bare.text(&format!("completion {shell}"));
        assert!(script.contains("kubectl-depin") && script.contains("recompute"), "{shell}");
    }
}

/// The API server decides what another person may do.
fn acting_as_somebody_else(cluster: &Cluster, tool: &Tool) {
    tool.fails("devices -n energy --as nobody", 1, &["nobody", "forbidden"]);
    tool.fails("suspend meter-0001 -n energy --reason x --as nobody", 1, &["nobody", "RBAC"]);
    tool.fails("devices --as-group system:masters", 2, &["--as USER"]);
    tool.fails("devices --request-timeout soon", 2, &["--request-timeout"]);
    let role = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: looker, namespace: weather}\n\
                rules: [{apiGroups: [depin.dev], resources: [edgedevices], verbs: [list]}]\n---\n\
                apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: looker, namespace: weather}\n\
                roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: looker}\n\
                subjects: [{kind: Group, name: lookers, apiGroup: rbac.authorization.k8s.io}]\n";
    cluster.apply(role).unwrap();
    // Who may list devices but not read the CA sees them with the ledger's columns left out.
    let looker = Tool::bare().with("KUBECONFIG", word(cluster.kubeconfig()));
    let line = "devices -n weather --as guest --as-group visitors --as-group lookers --as-uid 42 --request-timeout 1m";
    let seen = eventually("the role's effect", || {
        let run = looker.run(&format!("{line} -o json"));
        (run.code == 0).then(|| serde_json::from_str::<Value>(&run.out).unwrap())
    });
    assert_eq!(seen.as_array().unwrap().len(), 3, "{seen}");
    looker.fails(&line.replace("-n weather", "-A"), 1, &["guest"]);
}

/// Selectors, and rows without headings.
fn lists_for_scripts(cluster: &Cluster, tool: &Tool) {
    cluster.kubectl(&["label", "edgedevice", "ws-0002", "-n", "weather", "roof=flat"]).unwrap();
    cluster.kubectl(&["label", "rewardprogram", "observations", "-n", "weather", "team=sky"]).unwrap();
    let plain = tool.text("devices -A -l roof=flat --no-headers");
    assert_eq!(plain.lines().count(), 1, "{plain}");
    assert!(plain.starts_with("weather   ws-0002"), "{plain}");
    let others = tool.json("devices -n weather -l roof!=flat");
    assert_eq!(others.as_array().unwrap().len(), 2, "{others}");
    tool.fails("devices -l roof=(", 1, &["refuses"]);
    let selected = tool.json("epochs -l team=sky");
    let selected = selected.as_array().unwrap();
    assert!(!selected.is_empty() && selected.iter().all(|epoch| epoch["program"] == "weather/observations"));
    let of_namespace = tool.json("epochs -n energy");
    assert!(of_namespace.as_array().unwrap().iter().all(|epoch| epoch["program"] == "energy/kilowatts"));
    assert_eq!(tool.json("epochs -n energy -l team=sky"), serde_json::json!([]));
    let rows = tool.text("epochs --program weather/observations --limit 1 --no-headers");
    assert_eq!(rows.lines().count(), 1, "{rows}");
}

/// Without a cluster, with a certificate for one namespace.
fn a_tenant_reads_with_a_certificate(tool: &Tool, stack: &Stack, dir: &Path) {
    let folder = dir.join("viewer");
    let made = tool.json(&format!("viewer create -n weather --days 1 --out {}", word(&folder)));
    assert_eq!(made["namespace"], "weather");
    let file = |name: &str| word(&folder.join(name)).to_owned();
    let tenant = Tool::bare()
        .with("DEPIN_LEDGER", &stack.ledger())
        .with("DEPIN_LEDGER_CERT", &file("viewer.crt"))
        .with("DEPIN_LEDGER_KEY", &file("viewer.key"))
        .with("DEPIN_LEDGER_CA", &file("ca.crt"));
    assert!(!tenant.json("epochs --program weather/observations").as_array().unwrap().is_empty());
    assert!(tenant.text("explain weather/ws-0001").contains("Share"));
    assert!(tenant.text(&format!("proof {STATION_OWNER}")).contains("Root"));
    // Another tenant's is not even known to exist.
    tenant.fails("epochs --program energy/kilowatts", 3, &["energy/kilowatts"]);
    tenant.fails("explain energy/meter-0001", 3, &["meter-0001"]);
    let half = Tool::bare().with("DEPIN_LEDGER", &stack.ledger()).with("DEPIN_LEDGER_CERT", "viewer.crt");
    half.fails("epochs", 1, &["belong together"]);
}

/// Rotated, exported and put back; each word is the operator's to carry out.
fn authorities(tool: &Tool, cluster: &Cluster, dir: &Path) {
    let states = || {
        let all = tool.json("ca status")["authorities"].as_array().unwrap().clone();
        let state =
            |one: &Value| (one["state"].as_str().unwrap().to_owned(), one["sha256"].as_str().unwrap().to_owned());
        all.iter().map(state).collect::<Vec<_>>()
    };
    let first = states();
    assert!(first.len() == 1 && first[0].0 == "Issuing", "{first:?}");
    let file = dir.join("depin-ca.json");
    let warned = tool.text(&format!("ca export --out {}", word(&file)));
    assert!(warned.contains("not encrypted"), "{warned}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(tool.text(&format!("ca restore {}", word(&file))).contains("there already"));
    sealed(tool, dir);
    tool.fails("ca retire --yes", 1, &["no authority is retired"]);

    // One that somebody brings: made known, and issuing in an hour.
    let validity = Window { start: Timestamp(now_ms() - 60_000), end: Timestamp(now_ms() + 86_400_000) };
    let brought = CertificateAuthority::create(validity).unwrap();
    let (certificate, key) = (dir.join("brought.crt"), dir.join("brought.key"));
    fs::write(&certificate, brought.certificate_pem()).unwrap();
    fs::write(&key, brought.key_pem().as_bytes()).unwrap();
    tool.fails(&format!("ca rotate --certificate {}", word(&certificate)), 2, &["--private-key"]);
    let both = format!("ca rotate --certificate {} --private-key", word(&certificate));
    tool.fails(&format!("{both} {}", word(&certificate)), 1, &["PKCS#8"]);
    tool.text(&format!("{both} {}", word(&key)));
    let told = eventually("the introduction", || Some(states()).filter(|states| states.len() == 2));
    assert_eq!(told[1], ("Introduced".to_owned(), brought.hash().to_string()));
    tool.fails("ca rotate", 1, &["under way"]);
    let published = eventually("both, published", || {
        let map = cluster.get(&["configmap", "depin-ca", "-n", "depin-system"]).unwrap();
        let bundle = map["data"]["ca.crt"].as_str().unwrap().to_owned();
        (bundle.matches("BEGIN CERTIFICATE").count() == 2).then_some(bundle)
    });
    assert!(published.contains(&brought.certificate_pem()));

    // What is no export is told; a Secret that was deleted comes back from the operator's memory.
    tool.fails(&format!("ca restore {}", word(&key)), 1, &["brought.key"]);
    cluster.kubectl(&["delete", "secret", "depin-ca", "-n", "depin-system"]).unwrap();
    eventually("the Secret", || (tool.run("ca status").code == 0).then_some(()));
    assert_eq!(states().len(), 2);
}

/// An export for whoever holds a key, and nobody else.
fn sealed(tool: &Tool, dir: &Path) {
    use age::secrecy::ExposeSecret as _;
    let (file, own, other) = (dir.join("depin-ca.age"), dir.join("own.identity"), dir.join("other.identity"));
    let (mine, theirs) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    fs::write(&own, mine.to_string().expose_secret()).unwrap();
    fs::write(&other, theirs.to_string().expose_secret()).unwrap();
    let export = format!("ca export --out {} --recipient", word(&file));
    tool.fails(&format!("{export} age1nothing"), 2, &["age1nothing", "age-keygen"]);
    assert!(tool.text(&format!("{export} {}", mine.to_public())).contains("is encrypted to age1"));
    assert!(fs::read(&file).unwrap().starts_with(b"age-encryption.org/v1\n"));
    let restore = format!("ca restore {}", word(&file));
    tool.fails(&restore, 1, &["--identity"]);
    tool.fails(&format!("{restore} --identity {}", word(&other)), 1, &["none of the keys in --identity"]);
    assert!(tool.text(&format!("{restore} --identity {}", word(&own))).contains("there already"));
}

/// As a plugin of kubectl, in a shell that has read the demo's file.
fn the_demos_commands_work_as_they_are_printed(cluster: &Cluster, stack: &Stack, dir: &Path) {
    let file = dir.join("env");
    fs::write(&file, showcase::environment(cluster, stack)).unwrap();
    for (command, _) in showcase::COMMANDS {
        let run = Tool::bare().shell(&format!(". {}; {command}", word(&file)));
        assert_eq!(run.code, 0, "{command}: {run:?}");
        assert!(!run.out.trim().is_empty(), "{command}");
    }
    let run = Tool::bare().shell(&format!(". {}; kubectl plugin list", word(&file)));
    assert!(run.out.contains("kubectl-depin"), "{run:?}");
}

/// What the demo removes from a cluster that is not its own: all that it, the operator and the agents made.
fn the_cluster_is_left_as_it_was(cluster: &Cluster, before: &Networks) {
    let refused = Networks::before(cluster).unwrap_err().to_string();
    assert!(refused.contains("kubectl delete namespace depin-system"), "{refused}");
    before.remove(cluster).unwrap();
    eventually("the end of the definitions", || {
        let left = cluster.kubectl(&["get", "customresourcedefinitions", "-o", "name"]).unwrap();
        (!left.contains("depin.dev")).then_some(())
    });
    let roles = cluster.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]).unwrap();
    assert!(!roles.contains("depin-operator"), "{roles}");
    let kept =
        cluster.kubectl(&["get", "secrets,leases,configmaps,roles,rolebindings", "-n", "depin-system", "-o", "name"]);
    assert_eq!(kept.unwrap(), "");
    // Without a controller manager a namespace stays on its way out.
    let phases = "-o=jsonpath={range .items[*]}{.metadata.name}={.status.phase} {end}";
    let phases = cluster.kubectl(&["get", "namespaces", phases]).unwrap();
    for namespace in ["depin-system", "energy", "weather"] {
        assert!(phases.contains(&format!("{namespace}=Terminating")), "{phases}");
    }
}
