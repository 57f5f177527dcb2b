//! Faults after which everything goes on without hands, with the real programs as processes: a site that was dark for longer than its
//! certificate, and a ledger's volume that is full. What hardware was promised is counted once, in exact sums.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{fs, io::Write as _, path::Path, time::Duration};

use depin_domain::time::{Timestamp, Window};
use depin_identity::{CertificateAuthority, CertificateInfo, CertificateRequest, PeerIdentity, SigningKey};
use depin_tests::{
    Cluster, Observer, Stack, eventually, now_ms,
    observer::Sums,
    promised::{known_devices, promised, promised_key},
    start_fleets,
    tools::Tools,
};
use depin_trials::SmallDisk;
use tokio::runtime::Runtime;
use xtask::{
    admin::{http_get, is_ready, metric},
    demo::networks,
};

const LIMIT: Duration = Duration::from_secs(180);
const DAY_MS: i64 = 24 * 3_600_000;
/// The ledger's volume: it fits what a short test needs.
const DISK_MB: u32 = 24;
const METERS: [&str; 7] = ["--network", "meters", "--devices", "3", "--world-hour", "14", "--messages"];

/// What counts of the hardware's devices, under the names that its report has for them.
fn counted(cluster: &Cluster, stack: &Stack, runtime: &Runtime, promised: &Sums) -> Sums {
    let _entered = runtime.enter();
    let mut observer = Observer::of(stack).unwrap();
    let (_, accepted) = runtime.block_on(observer.accepted_after(0)).unwrap();
    let devices = known_devices(cluster);
    let mut sums = Sums::new();
    for one in accepted {
        let (_, serial) = &devices[&one.device.to_string()];
        let entry = sums.entry(promised_key(promised, serial, &one.metric)).or_default();
        entry.0 += 1;
        entry.1 += i128::from(one.reading.value);
    }
    sums
}

fn accepted(stack: &Stack, runtime: &Runtime) -> Option<u64> {
    let _entered = runtime.enter();
    let mut observer = Observer::of(stack).unwrap();
    runtime.block_on(observer.readings()).ok()?["accepted"].as_u64()
}

/// Waits until the hardware has come to its end, and all that it was promised counts.
fn until_all_counts(cluster: &Cluster, stack: &mut Stack, runtime: &Runtime) {
    eventually("the end of the hardware's plan", LIMIT, || {
        stack.simulators.iter_mut().all(|(_, simulator)| simulator.exited().unwrap().is_some())
    });
    let report = stack.simulator_report("meters").unwrap();
    assert_eq!(report["published"], report["acknowledged"], "{report}");
    let promised = promised(&[report]);
    let count: u64 = promised.values().map(|(count, _)| count).sum();
    eventually("all that was promised", LIMIT, || accepted(stack, runtime) >= Some(count));
    assert_eq!(counted(cluster, stack, runtime, &promised), promised);
}

/// Puts a certificate in the place of the agent's that ended yesterday.
fn end_certificate(stack: &Stack, state: &Path) {
    let read = |name: &str| fs::read_to_string(stack.authority().join(name)).unwrap();
    let authority = CertificateAuthority::from_pem(&read("tls.crt"), &read("tls.key")).unwrap();
    let key = SigningKey::load_or_create(&state.join("agent.key")).unwrap();
    let request = CertificateRequest::from_der(&CertificateRequest::make(&key).unwrap()).unwrap();
    let peer = PeerIdentity::Agent { namespace: "energy".to_owned(), name: "home".to_owned() };
    let validity = Window { start: Timestamp(now_ms() - 31 * DAY_MS), end: Timestamp(now_ms() - DAY_MS) };
    fs::write(state.join("agent.crt"), authority.issue(&request, &peer, &[], validity).unwrap()).unwrap();
}

#[test]
fn a_site_that_was_dark_for_longer_than_its_certificate_comes_back_without_hands() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let (cluster, mut stack) = start_fleets(dir.path(), None).unwrap();
    stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false).unwrap();
    let mqtt = stack.agents[0].mqtt.clone();
    stack.start_simulator("meters", &mqtt, &[&METERS[..], &["15"]].concat()).unwrap();
    eventually("the first accepted readings", LIMIT, || accepted(&stack, &runtime) > Some(0));
    let before = cluster.get(&["edgeagent", "home", "-n", "energy"]).unwrap();

    // The uplink goes, hardware goes on, then the site has no power until its certificate has ended.
    stack.gateway.take().unwrap().kill();
    eventually("the end of the hardware's plan", LIMIT, || {
        stack.simulators.iter_mut().all(|(_, simulator)| simulator.exited().unwrap().is_some())
    });
    stack.agents[0].process.crash();
    let state = stack.agent_state("home").unwrap();
    end_certificate(&stack, &state);
    stack.start_gateway().unwrap();
    stack.restart_agent(0).unwrap();

    until_all_counts(&cluster, &mut stack, &runtime);
    let renewed = CertificateInfo::from_pem(&fs::read_to_string(state.join("agent.crt")).unwrap()).unwrap();
    assert!(renewed.validity.end.0 > now_ms(), "{renewed:?}");
    // It is the agent that it was: nobody invited it anew.
    let after = cluster.get(&["edgeagent", "home", "-n", "energy"]).unwrap();
    assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["status"]["publicKey"], before["status"]["publicKey"]);
    let enrollments = cluster.get(&["edgeenrollments", "-n", "energy"]).unwrap();
    assert_eq!(enrollments["items"].as_array().unwrap().len(), 1, "{enrollments}");
    stack.stop().unwrap();
}

/// Fills a disk to its last block, also with what was given free since.
fn fill(ballast: &Path) {
    let mut file = fs::File::options().create(true).append(true).open(ballast).unwrap();
    for size in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

/// Readings that the gateway has acknowledged as counting.
fn taken(stack: &Stack) -> f64 {
    let text = http_get(&stack.gateway_admin(), "/metrics").unwrap();
    metric(&text, "depin_readings_total{result=\"accepted\"")
}

fn trouble(stack: &Stack) -> f64 {
    http_get(&stack.gateway_admin(), "/metrics").map_or(0.0, |text| metric(&text, "depin_ledger_failing "))
}

#[test]
fn a_full_volume_acknowledges_nothing_and_all_goes_on_when_there_is_room() {
    if let Err(missing) = Tools::find() {
        println!("skipped: {missing}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let volume = dir.path().join("ledger");
    let Some(_disk) = SmallDisk::mount(&volume, DISK_MB).unwrap() else { return };
    let runtime = Runtime::new().unwrap();
    let (cluster, mut stack) = start_fleets(dir.path(), None).unwrap();
    stack.start_agent(&cluster, "energy", "home", &["meters", "inverters"], false).unwrap();
    let mqtt = stack.agents[0].mqtt.clone();
    stack.start_simulator("meters", &mqtt, &[&METERS[..], &["25"]].concat()).unwrap();
    eventually("the first accepted readings", LIMIT, || accepted(&stack, &runtime) > Some(0));

    let ballast = volume.join("ballast");
    fill(&ballast);
    eventually("the word of the full disk", LIMIT, || trouble(&stack) > 0.0);
    let ready = http_get(&stack.gateway_admin(), "/readyz").unwrap();
    assert!(!is_ready(&stack.gateway_admin()) && ready.contains("the ledger takes no writes"), "{ready}");
    let stood = taken(&stack);
    // Hardware is acknowledged all the same: the agent keeps what it takes. And what a person wishes meanwhile waits.
    networks::apply_devices(&cluster).unwrap();
    eventually("the end of the hardware's plan", LIMIT, || {
        fill(&ballast);
        stack.check_alive().unwrap();
        stack.simulators.iter_mut().all(|(_, simulator)| simulator.exited().unwrap().is_some())
    });
    assert_eq!(taken(&stack), stood, "nothing counts that is not durable");
    assert!(trouble(&stack) > 0.0);

    fs::remove_file(&ballast).unwrap();
    eventually("the ledger's recovery", LIMIT, || trouble(&stack) == 0.0 && is_ready(&stack.gateway_admin()));
    until_all_counts(&cluster, &mut stack, &runtime);
    eventually("what was wished meanwhile", LIMIT, || {
        let devices = cluster.get(&["edgedevices", "-A"]).unwrap();
        let ready = |device: &serde_json::Value| {
            let conditions = device["status"]["conditions"].as_array().unwrap();
            conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        devices["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|device| device["metadata"]["namespace"] == "energy")
            .all(ready)
    });
    stack.stop().unwrap();
}
