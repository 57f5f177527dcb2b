//! The whole spine as real processes: hardware that duplicates, reorders, misbehaves and disconnects; a gateway and an agent
//! that are killed under load, and a cluster whose etcd is lost and whose specs are applied again. Every reading that was acknowledged is
//! counted exactly once, in exactly the sums that the hardware reports, and the roots recompute with another implementation.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use depin_tests::{
    Cluster, Observer, Stack, eventually, money, now_ms,
    observer::Sums,
    promised::{known_devices, promised, promised_key},
    start_networks,
    tools::Tools,
};
use serde_json::Value;
use xtask::{demo::networks, stack::NAMESPACE};

const PROGRAMS: [&str; 2] = ["energy/kilowatts", "weather/observations"];
const LIMIT: Duration = Duration::from_secs(300);
/// Messages of each device, one a second: over an epoch's end.
const MESSAGES: &str = "25";

fn start(dir: &Path) -> (Cluster, Stack, u64) {
    let (cluster, stack) = start_networks(dir).unwrap();
    networks::apply_devices(&cluster).unwrap();
    let genesis = u64::try_from(now_ms()).unwrap();
    apply_programs(&cluster, genesis);
    // Readings from before the first epoch would count nowhere.
    eventually("the first epoch", LIMIT, || now_ms() > i64::try_from(genesis).unwrap() + 6_000);
    (cluster, stack, genesis)
}

/// Etcd is lost with all that was in it. Specs come back from where people keep them, the authority's Secret from its backup; agents and
/// devices that came in by themselves have no spec anywhere, and stay known to the ledger.
fn lose_the_cluster(cluster: &mut Cluster, stack: &mut Stack, genesis: u64) {
    let secret = cluster.get(&["secret", "depin-ca", "-n", NAMESPACE]).unwrap();
    cluster.own().unwrap().lose_etcd().unwrap();
    stack.operator.take().unwrap().kill();
    stack.gateway.take().unwrap().kill();
    assert!(cluster.get(&["namespace", NAMESPACE]).is_err(), "nothing is left");

    cluster.apply(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}")).unwrap();
    let metadata = serde_json::json!({"name": "depin-ca", "namespace": NAMESPACE});
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": secret["type"], "data": secret["data"],
    });
    cluster.apply(&secret.to_string()).unwrap();
    stack.start_center(cluster).unwrap();
    networks::apply_fleets(cluster).unwrap();
    networks::apply_devices(cluster).unwrap();
    apply_programs(cluster, genesis);
}

/// The examples' programs with time enough to come back: whoever is later than their two seconds, after a crash on a busy machine, is
/// rightly late.
fn apply_programs(cluster: &Cluster, genesis: u64) {
    let own = tempfile::tempdir().unwrap();
    for network in ["energy", "weather"] {
        let program = xtask::workspace().join("examples/networks").join(network).join("program.yaml");
        let program = fs::read_to_string(program).unwrap();
        assert!(program.contains("grace: 2s"), "{program}");
        fs::create_dir(own.path().join(network)).unwrap();
        fs::write(own.path().join(network).join("program.yaml"), program.replace("grace: 2s", "grace: 30s")).unwrap();
    }
    networks::Manifests::with(Some(own.path())).apply_programs(cluster, genesis).unwrap();
}

fn start_hardware(stack: &mut Stack) {
    let (home, field) = (stack.agents[0].mqtt.clone(), stack.agents[1].mqtt.clone());
    let common = ["--messages", MESSAGES, "--world-hour", "14", "--devices", "3"];
    let faults = ["--duplicates", "0.1", "--impossible", "0.02", "--tampering", "0.02", "--disconnects", "0.01"];
    let with = |network| [&["--network", network][..], &common].concat();
    stack.start_simulator("meters", &home, &[with("meters"), faults.to_vec()].concat()).unwrap();
    stack.start_simulator("pv", &home, &with("pv")).unwrap();
    let faults = ["--reordering", "0.1", "--skewed", "0.05", "--stuck", "0.1"];
    stack.start_simulator("weather", &field, &[with("weather"), faults.to_vec()].concat()).unwrap();
}

#[test]
fn what_hardware_was_promised_is_counted_once_in_exact_sums() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut cluster, mut stack, genesis) = start(dir.path());
    start_hardware(&mut stack);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // Channels are made outside of `block_on`, but need the runtime.
    let _entered = runtime.enter();

    // The gateway loses its power in the middle, and comes back on what its disk has.
    eventually("the first accepted readings", LIMIT, || {
        runtime
            .block_on(Observer::of(&stack).unwrap().readings())
            .is_ok_and(|readings| readings["accepted"].as_u64() > Some(50))
    });
    stack.gateway.take().unwrap().kill();
    stack.start_gateway().unwrap();
    // And the agent that hardware speaks to directly.
    stack.agents[0].process.crash();
    stack.restart_agent(0).unwrap();
    let mut devices = BTreeMap::new();
    eventually("each device", LIMIT, || {
        devices = known_devices(&cluster);
        devices.len() == 9
    });
    lose_the_cluster(&mut cluster, &mut stack, genesis);

    eventually("the end of the hardware's plan", LIMIT, || {
        stack.simulators.iter_mut().all(|(_, simulator)| simulator.exited().unwrap().is_some())
    });
    let reports: Vec<Value> =
        ["meters", "pv", "weather"].iter().map(|name| stack.simulator_report(name).unwrap()).collect();
    for report in &reports {
        assert_eq!(report["published"], report["acknowledged"], "{report}");
    }
    for (report, fault) in [(0, "duplicates"), (2, "reordering"), (2, "skewed"), (2, "stuck")] {
        assert!(reports[report]["faults"][fault].as_u64() > Some(0), "{fault}: {}", reports[report]["faults"]);
    }
    let ended = now_ms();
    let promised = promised(&reports);

    // Epochs until one begins after the hardware's end hold everything that was promised in time.
    let mut watching = Observer::of(&stack).unwrap();
    for program in PROGRAMS {
        eventually("the epoch after the hardware's end", LIMIT, || {
            let epochs = runtime.block_on(watching.epochs(program)).unwrap();
            epochs.iter().any(|epoch| epoch["start"].as_i64().unwrap() > ended)
        });
    }
    let mut counted = Sums::new();
    for program in PROGRAMS {
        for epoch in runtime.block_on(watching.epochs(program)).unwrap() {
            money::check(&epoch);
            let number = epoch["number"].as_u64().unwrap();
            for ((device, metric), (count, sum)) in runtime.block_on(watching.statistics(program, number)).unwrap() {
                let (namespace, serial) = &devices[&device];
                if !program.starts_with(namespace.as_str()) {
                    continue;
                }
                let entry = counted.entry(promised_key(&promised, serial, &metric)).or_default();
                entry.0 += count;
                entry.1 += sum;
            }
        }
    }
    let readings = runtime.block_on(watching.readings()).unwrap();
    assert_eq!(counted, promised, "judged: {readings}");
    assert_eq!(readings["accepted"].as_u64().unwrap(), promised.values().map(|(count, _)| count).sum::<u64>());
    stack.stop().unwrap();
}
