//! The embedded ledger with a crash at every write boundary: nothing receipted is lost, nothing counts twice.
//!
//! A script is run once without a crash; then again and again with a crash at each operation of the disk in turn, after which the driver opens
//! what survived and repeats what was not answered, as agents and operators do. The end must be the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::{collections::BTreeMap, sync::Arc};

use depin_ledger::{EmbeddedLedger, EpochRecord, Ledger, LedgerError, OpenChain, Outcome, Submission, verify};
use depin_log::{Storage, simulated::SimulatedStorage};
use depin_proto::v1;
use depin_trials::{Rng, below, one_in};
use network::*;

#[derive(Clone, Debug)]
enum Step {
    Submit(Vec<Submission>),
    Register(u32, u8),
    Close(u64),
    Record(u64),
    Compact,
    Restart,
}

/// What must come out the same, crash or no crash.
#[derive(Debug, Default, PartialEq)]
struct Ending {
    accepted: u64,
    proofs: u64,
    rejected: Vec<v1::DropCount>,
    registry_version: u64,
    heads: Vec<(u64, u64, String)>,
    verdicts: BTreeMap<(u8, u64), (u64, u64)>,
    frozen: Vec<Vec<v1::GrainStatistic>>,
    results: usize,
}

fn script(rng: &mut Rng) -> Vec<Step> {
    let mut sealers: Vec<Sealer> = (1..=2).map(Sealer::new).collect();
    let (mut steps, mut at, mut closed, mut clock) = (Vec::new(), 0i64, 0u64, 0i64);
    for _ in 0..6 + below(rng, 8) {
        match below(rng, 10) {
            0..=5 => {
                let batch = (0..1 + below(rng, 3)).map(|_| {
                    let sealer = &mut sealers[below(rng, 2) as usize];
                    let device = u32::from(sealer.agent) * 4;
                    let readings: Vec<_> = (0..1 + below(rng, 3))
                        .map(|_| {
                            at += below(rng, 20) as i64 * 60_000 + 1;
                            let metric = if one_in(rng, 2) { "energy" } else { "power" };
                            (device + below(rng, 4) as u32, metric, at, below(rng, 40) as i64)
                        })
                        .collect();
                    sealer.seal(&readings)
                });
                steps.push(Step::Submit(batch.collect()));
            }
            6 => steps.push(Step::Register(20 + below(rng, 3) as u32, 1)),
            7 | 8 => {
                steps.push(Step::Close(closed));
                if one_in(rng, 2) {
                    steps.push(Step::Record(closed));
                }
                closed += 1;
                clock = clock.max(closed as i64 * HOUR);
                if one_in(rng, 3) {
                    steps.push(Step::Compact);
                }
            }
            _ => steps.push(Step::Restart),
        }
    }
    steps
}

/// Runs a script over a disk that may crash once.
struct Driver<'a> {
    storage: SimulatedStorage,
    hands: Hands,
    ledger: Option<EmbeddedLedger>,
    rng: &'a mut Rng,
    receipts: BTreeMap<(u8, u64), (u64, u64)>,
    crashes: u32,
}

impl Driver<'_> {
    /// Opens what is there; a crash in the midst of it makes it try again on what survived.
    fn ledger(&mut self) -> &EmbeddedLedger {
        while self.ledger.is_none() {
            match open(self.storage.clone(), &self.hands) {
                Ok(ledger) => self.ledger = Some(ledger),
                Err(error) => {
                    assert!(self.storage.crashed(), "{error}");
                    self.recover();
                }
            }
        }
        self.ledger.as_ref().unwrap()
    }

    fn recover(&mut self) {
        self.ledger = None;
        self.crashes += 1;
        let rng = &mut *self.rng;
        self.storage = if one_in(rng, 4) {
            self.storage.after_kill()
        } else {
            self.storage.after_power_failure(&mut |bound| below(rng, bound))
        };
    }

    /// Does a step until it is answered.
    async fn until_done(&mut self, step: &Step, number: usize) {
        loop {
            self.hands.set(HOUR * 40 + number as i64 * 10_000);
            self.ledger();
            match self.attempt(step).await {
                Ok(()) => return,
                Err(error) => {
                    assert!(self.storage.crashed(), "step {number} {step:?}: {error}");
                    self.recover();
                }
            }
        }
    }

    async fn attempt(&mut self, step: &Step) -> Result<(), LedgerError> {
        let ledger = self.ledger.as_ref().unwrap();
        match step {
            Step::Submit(batch) => {
                let mut judged = Vec::new();
                for (proof, outcome) in batch.iter().zip(ledger.append(batch.clone()).await?) {
                    let header = &proof.opened.header;
                    match outcome {
                        Outcome::Judged { verdict, rejected, .. } => {
                            let agent = (1..=2).find(|agent| key(*agent).id() == header.key).unwrap();
                            judged.push(((agent, header.sequence), (verdict.accepted, rejected)));
                        }
                        Outcome::Deferred { message, .. } => return Err(LedgerError::Unavailable(message)),
                        Outcome::Refused { reason, message } => panic!("refused: {reason:?} {message}"),
                    }
                }
                self.receipts.extend(judged);
            }
            Step::Register(device_number, agent) => {
                let writer = ledger.acquire_writer("again".into()).await?;
                let expected_version = ledger.info().await?.registry_version;
                let changes = bytes(&[device(*device_number, *agent)]);
                let request = v1::WriteRegistryRequest { writer: Some(writer), changes, expected_version };
                ledger.write_registry(request).await?;
            }
            Step::Close(number) => {
                let writer = ledger.acquire_writer("closer".into()).await?;
                let matured: Vec<u64> = number.checked_sub(2).into_iter().collect();
                ledger.close_epoch(close_request(writer, *number, &matured)).await?;
            }
            Step::Record(number) => {
                let writer = ledger.acquire_writer("recorder".into()).await?;
                let summary = format!("{{\"number\":{number}}}").into_bytes();
                let result = EpochRecord { summary, lines: vec![b"{}".to_vec()], state: b"{}".to_vec() };
                ledger.record_epoch(writer, PROGRAM.into(), *number, result).await?;
            }
            Step::Compact => {
                ledger.compact(depin_domain::time::Timestamp(i64::MAX)).await?;
            }
            Step::Restart => {
                self.ledger = None;
            }
        }
        Ok(())
    }

    async fn ending(&mut self) -> Ending {
        self.ledger();
        let ledger = self.ledger.take().unwrap();
        let info = ledger.info().await.unwrap();
        let chains = (1..=2)
            .map(|agent| OpenChain { key: key(agent).id(), incarnation: 1, next_sequence: 1, sealed_sequence: 0 })
            .collect();
        let heads = ledger.open_chains(chains).await.unwrap();
        let epochs = ledger.list_epochs(PROGRAM.into(), 0, 100).await.unwrap();
        let mut all = Vec::new();
        for entry in &epochs {
            let close = entry.close.as_ref().unwrap();
            let number = close.window.as_ref().unwrap().number;
            all.push(frozen(&ledger, number, number).await.unwrap());
            for matured in &close.matured {
                all.push(frozen(&ledger, number, matured.number).await.unwrap());
            }
        }
        drop(ledger);
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let scan = verify(storage, &settings(), None).unwrap();
        assert_eq!(scan.findings, Vec::<String>::new());
        // A checkpoint only saves time.
        for file in self.storage.files().iter().filter(|file| file.starts_with("checkpoint")) {
            self.storage.set_content(file, vec![1, 2, 3]);
        }
        let again = open(self.storage.clone(), &self.hands).unwrap().info().await.unwrap();
        assert_eq!((again.proofs, again.readings_accepted), (info.proofs, info.readings_accepted));
        Ending {
            accepted: info.readings_accepted,
            proofs: info.proofs,
            rejected: info.readings_rejected,
            registry_version: info.registry_version,
            heads: heads
                .iter()
                .map(|head| (head.head.incarnation, head.head.sequence, head.head.digest.to_string()))
                .collect(),
            verdicts: std::mem::take(&mut self.receipts),
            frozen: all,
            results: epochs.iter().filter(|entry| !entry.summary.is_empty()).count(),
        }
    }
}

/// Runs the script with a crash at an operation; tells how it ends and how many operations there were.
fn run(steps: &[Step], crash_at: Option<u64>, rng: &mut Rng) -> (Ending, u64) {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(HOUR * 40));
        let ledger = open(storage.clone(), &hands).unwrap();
        found(&ledger, 2).await.unwrap();
        let begun = storage.operations();
        if let Some(operation) = crash_at {
            storage.crash_at(begun + operation);
        }
        let mut driver = Driver { storage, hands, ledger: Some(ledger), rng, receipts: BTreeMap::new(), crashes: 0 };
        for (number, step) in steps.iter().enumerate() {
            driver.until_done(step, number).await;
        }
        let operations = driver.storage.operations() - if driver.crashes == 0 { begun } else { 0 };
        if driver.storage.crashed() {
            driver.recover();
        }
        (driver.ending().await, operations)
    })
}

#[test]
fn a_crash_at_every_boundary_changes_no_sum() {
    depin_trials::run("ledger crash", |rng| {
        let steps = script(rng);
        let (expected, operations) = run(&steps, None, rng);
        let total: u64 = expected.verdicts.values().map(|(accepted, _)| accepted).sum();
        assert_eq!(total, expected.accepted, "every receipted reading counts once");
        for boundary in 0..operations {
            let (ending, _) = run(&steps, Some(boundary), rng);
            assert_eq!(ending, expected, "crash at operation {boundary} of {operations}");
        }
    });
}
