//! How fast the embedded ledger judges and appends, and how fast it reads everything back. Plain timing, figures as JSON lines.
//!
//! `cargo bench -p depin-ledger -- [--proofs N] [--readings N] [--dir DIR]`: 100 chains of 10 devices; each proof has 10 sections with one
//! series; one CEL check a reading; every group is synced before it is answered. Proofs are sealed beforehand; their signatures are not
//! part of this. The cold scan rebuilds everything without a checkpoint from files that the kernel may still cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a benchmark that cannot measure stops")]

#[path = "../tests/network/mod.rs"]
mod network;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use depin_ledger::{Clock, EmbeddedLedger, Ledger, Outcome, Settings, Submission, verify};
use depin_log::DiskStorage;
use depin_proto::v1;
use network::*;

const CHAINS: u8 = 100;
const DEVICES: u32 = 10;
const IN_FLIGHT: usize = 32;

struct Arguments {
    proofs: usize,
    readings: i64,
    directory: Option<PathBuf>,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments { proofs: 4_000, readings: 50, directory: None };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        match (name.as_str(), given.next()) {
            ("--proofs", Some(value)) => arguments.proofs = value.parse().expect("--proofs takes a number"),
            ("--readings", Some(value)) => arguments.readings = value.parse().expect("--readings takes a number"),
            ("--dir", Some(value)) => arguments.directory = Some(value.into()),
            // `cargo bench` adds its own.
            _ => {}
        }
    }
    arguments
}

/// CPU seconds of this process, user and system.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks: f64 =
        fields.get(11..13).map_or(0.0, |times| times.iter().filter_map(|time| time.parse::<f64>().ok()).sum());
    ticks / 100.0
}

fn report(what: &str, readings: u64, proofs: usize, wall: Duration, cpu: f64) {
    let (seconds, million) = (wall.as_secs_f64(), readings as f64 / 1e6);
    println!(
        "{{\"case\":\"{what}\",\"readings\":{readings},\"proofs\":{proofs},\"seconds\":{seconds:.3},\
         \"readingsPerSecond\":{:.0},\"proofsPerSecond\":{:.0},\"cpuSecondsPerMillion\":{:.3}}}",
        readings as f64 / seconds,
        proofs as f64 / seconds,
        cpu / million
    );
}

/// Proofs of all chains in turn, so that neighbours in a batch are of different chains.
fn seal(arguments: &Arguments) -> Vec<Submission> {
    let mut sealers: Vec<Sealer> = (1..=CHAINS).map(Sealer::new).collect();
    let mut at = vec![0_i64; usize::from(CHAINS)];
    (0..arguments.proofs)
        .map(|number| {
            let chain = number % sealers.len();
            let begin = at[chain];
            at[chain] += arguments.readings;
            let device = u32::try_from(chain).unwrap() * DEVICES;
            let readings: Vec<_> = (0..DEVICES)
                .flat_map(|one| {
                    (begin..begin + arguments.readings)
                        .map(move |n| (1_000 + device + one, "energy", 1 + n * 60_000, 20 + n * 7))
                })
                .collect();
            sealers[chain].seal(&readings)
        })
        .collect()
}

async fn network(ledger: &EmbeddedLedger) {
    let writer = found(ledger, CHAINS).await.expect("found the network");
    let devices: Vec<_> = (0..u32::from(CHAINS) * DEVICES)
        .map(|number| device(1_000 + number, u8::try_from(number / DEVICES).unwrap() + 1))
        .collect();
    let expected_version = ledger.info().await.expect("info").registry_version;
    let request = v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(&devices), expected_version };
    ledger.write_registry(request).await.expect("devices");
}

/// Hands batches over from several tasks, each waiting for its answer; chains stay in order within a task.
async fn append(ledger: Arc<EmbeddedLedger>, proofs: Vec<Submission>) -> u64 {
    let mut lanes: Vec<Vec<Submission>> = (0..IN_FLIGHT).map(|_| Vec::new()).collect();
    for (number, proof) in proofs.into_iter().enumerate() {
        lanes[number % usize::from(CHAINS) % IN_FLIGHT].push(proof);
    }
    let mut tasks = Vec::new();
    for lane in lanes {
        let ledger = Arc::clone(&ledger);
        tasks.push(tokio::spawn(async move {
            let mut accepted = 0;
            for batch in lane.chunks(4) {
                for outcome in ledger.append(batch.to_vec()).await.expect("append") {
                    match outcome {
                        Outcome::Judged { verdict, .. } => accepted += verdict.accepted,
                        other => panic!("{other:?}"),
                    }
                }
            }
            accepted
        }));
    }
    let mut accepted = 0;
    for task in tasks {
        accepted += task.await.expect("a lane ended");
    }
    accepted
}

fn main() {
    let arguments = arguments();
    let temporary = tempfile::tempdir().expect("a directory");
    let directory = arguments.directory.clone().unwrap_or_else(|| temporary.path().join("ledger"));
    let open = || {
        let storage = Arc::new(DiskStorage::open(&directory).expect("open the directory"));
        EmbeddedLedger::open(storage, Settings::default(), Clock::system()).expect("open the ledger")
    };
    let proofs = seal(&arguments);
    let (count, readings) = (proofs.len(), proofs.iter().map(|proof| proof.opened.readings()).sum::<u64>());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("runtime");
    let ledger = Arc::new(open());
    runtime.block_on(network(&ledger));
    let (begun, before) = (Instant::now(), cpu());
    let accepted = runtime.block_on(append(Arc::clone(&ledger), proofs));
    assert_eq!(accepted, readings, "every reading counts");
    report("append: judge, one CEL check a reading, group sync", readings, count, begun.elapsed(), cpu() - before);

    Arc::into_inner(ledger).expect("one owner").close();
    let (begun, before) = (Instant::now(), cpu());
    drop(open());
    report("start from a checkpoint", readings, count, begun.elapsed(), cpu() - before);
    for slot in ["checkpoint.0", "checkpoint.1"] {
        // Either may not be there yet.
        drop(std::fs::remove_file(directory.join(slot)));
    }
    let (begun, before) = (Instant::now(), cpu());
    let ledger = open();
    report("cold scan without a checkpoint", readings, count, begun.elapsed(), cpu() - before);
    ledger.close();
    let storage = Arc::new(DiskStorage::open(&directory).expect("open the directory"));
    let (begun, before) = (Instant::now(), cpu());
    let found = verify(storage, &Settings::default(), None).expect("verify");
    assert_eq!(found.findings, Vec::<String>::new());
    report("verify: scan, paths, verdicts, statistics", readings, count, begun.elapsed(), cpu() - before);
}
