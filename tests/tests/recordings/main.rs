//! Real recordings through the real programs: mosquitto, agents, gateway with its ledger, epochs. What the ledger holds in the
//! end is what the CSV files sum up to, digit by digit, and what was impossible in them was rejected and nothing else.
//!
//! The recordings lie beside the project, their mappings and manifests in `tests/recordings`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod direct;
mod networks;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use depin_crds::{EdgeDevice, EdgeDeviceModel, EdgeFleet, RewardProgram};
use depin_domain::{
    ids::{AgentId, DeviceId},
    registry::{AgentEntry, Change, ModelEntry, ProgramEntry},
    rewards::{ProgramSpec, ProgramState},
    time::Timestamp,
};
use depin_operator::{devices, fleets, models, rewards};
use depin_proto::v1;
use depin_tests::{Center, Observer, Stack, eventually, money, programs};
use direct::{Sum, Sums};
use networks::{Network, energy, weather};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Before every recording.
const BEGINNING: &str = "2006-01-01T00:00:00Z";
/// Epochs of ten years each.
const EPOCHS: u64 = 2;
const LIMIT: Duration = Duration::from_secs(600);

/// Where the recordings of a network are; none, with a line that says so, where they are not there.
fn recordings(network: &Network) -> Option<PathBuf> {
    let folder = depin_trials::shared_data(network.namespace)?;
    let missing = network.files.iter().find(|file| !folder.join(file.name).is_file());
    if let Some(missing) = missing {
        println!("skipped: {} lacks {}: put the recording there", folder.display(), missing.name);
    }
    missing.is_none().then_some(folder)
}

fn manifests<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap();
    text.split("\n---\n").map(|document| serde_saphyr::from_str(document).unwrap()).collect()
}

fn device(network: &Network, fleet: &EdgeFleet, serial: &str) -> EdgeDevice {
    serde_json::from_value(json!({
        "apiVersion": "depin.dev/v1alpha1", "kind": "EdgeDevice",
        "metadata": {
            "name": serial.to_lowercase(), "namespace": network.namespace, "creationTimestamp": BEGINNING,
        },
        "spec": { "fleet": fleet.metadata.name, "agent": network.agent, "serial": serial },
    }))
    .unwrap()
}

/// What the operator would register, and which device has which serial.
async fn furnish(center: &mut Center, network: &Network, agent: AgentEntry) -> BTreeMap<DeviceId, String> {
    let folder = network.folder();
    let beginning: jiff::Timestamp = BEGINNING.parse().unwrap();
    let beginning = Timestamp(beginning.as_millisecond());
    let mut changes = vec![Change::Agent(agent)];
    for model in manifests::<EdgeDeviceModel>(&folder.join("models.yaml")) {
        let entry = models::validate::entry(&model, center.registry(), beginning).unwrap();
        changes.push(Change::Model(ModelEntry { effective_from: beginning, ..entry }));
    }
    let fleets: Vec<EdgeFleet> = manifests(&folder.join("fleets.yaml"));
    changes.extend(fleets.iter().map(|fleet| Change::Fleet(fleets::validate::entry(fleet).unwrap())));
    let described = describe(network);
    let mut serials = BTreeMap::new();
    for fleet in &fleets {
        let id = format!("{}/{}", network.namespace, fleet.metadata.name.as_deref().unwrap());
        for serial in described["fleets"][&id].as_array().unwrap() {
            let serial = serial.as_str().unwrap();
            let entry = devices::validate::entry(&device(network, fleet, serial), Some(fleet)).unwrap();
            serials.insert(entry.id, serial.to_owned());
            changes.push(Change::Device(entry));
        }
    }
    center.write(&changes).await.unwrap();
    for program in manifests::<RewardProgram>(&folder.join("program.yaml")) {
        let entry = rewards::validate::entry(&program, center.registry(), beginning).unwrap();
        center.write(&[Change::Program(ProgramEntry { from_epoch: 0, ..entry })]).await.unwrap();
    }
    serials
}

/// What the simulator says of the recordings.
fn describe(network: &Network) -> Value {
    let folder = recordings(network).unwrap();
    let output = std::process::Command::new(programs().unwrap().join("depin-sim"))
        .args(["--network", "replay", "--describe", "--replay"])
        .arg(folder)
        .arg("--mapping")
        .arg(network.folder().join("mapping.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn play(stack: &mut Stack, network: &Network, index: usize) {
    let (folder, mapping) = (recordings(network).unwrap(), network.folder().join("mapping.yaml"));
    let arguments = ["--network", "replay", "--recorded-time", "--unpaced", "--drain", "300", "--replay"];
    let arguments = [&arguments[..], &[folder.to_str().unwrap(), "--mapping", mapping.to_str().unwrap()]].concat();
    let mqtt = stack.agents[index].mqtt.clone();
    stack.start_simulator(network.namespace, &mqtt, &arguments).unwrap();
}

/// Accepted and rejected readings.
fn judged(readings: &Value) -> (u64, u64) {
    let rejected = readings["rejected"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
    (readings["accepted"].as_u64().unwrap(), rejected)
}

/// The ledger's statistics of the programs' closed epochs, added up.
async fn counted(center: &Center, programs: &[String], serials: &BTreeMap<DeviceId, String>) -> Sums {
    let mut grains: BTreeMap<(String, String, i64), v1::GrainStatistic> = BTreeMap::new();
    for (program, number) in programs.iter().flat_map(|program| (0..EPOCHS).map(move |number| (program, number))) {
        let request = v1::ReadStatisticsRequest { program: program.clone(), number, of_number: number };
        let mut pages = center.ledger().client().read_statistics(request).await.unwrap().into_inner();
        while let Some(page) = pages.message().await.unwrap() {
            for grain in page.statistics {
                let serial = serials[&DeviceId::from_slice(&grain.device_id).unwrap()].clone();
                let key = (serial, grain.metric.clone(), grain.grain_start);
                assert!(grains.insert(key, grain).is_none(), "each grain comes once");
            }
        }
    }
    let mut sums = Sums::new();
    for ((serial, metric, _), grain) in grains {
        let new = Sum { min: grain.min, max: grain.max, first: grain.first_value, ..Sum::default() };
        let sum = sums.entry((serial, metric)).or_insert(new);
        sum.count += grain.count;
        sum.sum += grain.sum.parse::<i128>().unwrap();
        sum.min = sum.min.min(grain.min);
        sum.max = sum.max.max(grain.max);
        sum.last = grain.last_value;
        sum.increase += grain.increase.parse::<i128>().unwrap();
        assert_eq!(grain.reset_increase, "0", "no recorded counter falls");
    }
    sums
}

/// Closes, computes and checks a program's epochs.
async fn close(center: &Center, program: &str) {
    let known = center.registry().program(program).unwrap().newest().unwrap().clone();
    let spec: ProgramSpec = serde_json::from_str(&known.spec).unwrap();
    let mut state = ProgramState::default();
    for number in 0..EPOCHS {
        let window = spec.epoch.window(number).unwrap();
        let result = center.close_epoch(program, number, window, state).await.unwrap();
        money::check(&serde_json::to_value(&result.summary).unwrap());
        state = result.state;
    }
}

/// After all epochs are closed nothing that was recorded may be missing or too much. Gives back how many values were impossible.
async fn check(center: &Center, network: &Network, serials: &BTreeMap<DeviceId, String>) -> u64 {
    let programs: Vec<String> = manifests::<RewardProgram>(&network.folder().join("program.yaml"))
        .iter()
        .map(|program| format!("{}/{}", network.namespace, program.metadata.name.as_deref().unwrap()))
        .collect();
    for program in &programs {
        close(center, program).await;
    }
    let folder = recordings(network).unwrap();
    let mut expected = Sums::new();
    let outside = network.files.iter().map(|file| direct::sums(&folder, file, &mut expected)).sum();
    let counted = counted(center, &programs, serials).await;
    for (key, sum) in &expected {
        assert_eq!(counted.get(key), Some(sum), "{key:?}");
    }
    assert_eq!(counted.len(), expected.len(), "nothing else is counted");
    outside
}

#[test]
fn recordings_end_in_the_sums_of_their_files() {
    let networks = [energy(), weather()];
    if networks.iter().any(|network| recordings(network).is_none()) {
        return;
    }
    if xtask::packages::MOSQUITTO.find().is_none() {
        println!("skipped: mosquitto is missing: apt-get install mosquitto");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let mut stack = Stack::new(dir.path(), &programs().unwrap()).unwrap();
    let mut center = runtime.block_on(Center::start(&mut stack)).unwrap();
    stack.start_broker().unwrap();
    let mut serials = Vec::new();
    for network in &networks {
        let state = stack.agent_state(network.agent).unwrap();
        let key = center.certify_agent(&state, network.namespace, network.agent).unwrap();
        let agent = AgentEntry {
            id: AgentId::of(network.namespace, network.agent),
            namespace: network.namespace.to_owned(),
            name: network.agent.to_owned(),
            key,
            reinstate_key: false,
            fleets: manifests::<EdgeFleet>(&network.folder().join("fleets.yaml"))
                .into_iter()
                .filter_map(|fleet| fleet.metadata.name)
                .collect(),
        };
        serials.push(runtime.block_on(furnish(&mut center, network, agent)));
        stack.start_enrolled_agent(network.namespace, network.agent, true, &[]).unwrap();
    }
    let started = Instant::now();
    for (index, network) in networks.iter().enumerate() {
        play(&mut stack, network, index);
    }
    eventually("the recordings' end", LIMIT, || {
        stack.simulators.iter_mut().all(|(_, simulator)| simulator.exited().unwrap().is_some())
    });
    let reports = stack.stop_simulators().unwrap();
    let promised: u64 = reports.iter().map(|report| report["readings"].as_u64().unwrap()).sum();
    let mut observer = Observer::of(&stack).unwrap();
    eventually("the last reading", LIMIT, || {
        let (accepted, rejected) = judged(&runtime.block_on(observer.readings()).unwrap());
        stack.check_alive().unwrap();
        accepted + rejected >= promised
    });
    println!("{promised} readings replayed in {:.1} s", started.elapsed().as_secs_f64());
    let mut outside = 0;
    for (network, serials) in networks.iter().zip(&serials) {
        outside += runtime.block_on(check(&center, network, serials));
    }
    let readings = runtime.block_on(observer.readings()).unwrap();
    assert_eq!(readings["rejected"], json!({ "OutOfRange": outside }));
    assert_eq!(judged(&readings), (promised - outside, outside));
    assert!(outside > 0, "the recordings hold impossible values");
    stack.stop().unwrap();
}
