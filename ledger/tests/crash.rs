//! The embedded ledger with a crash at every write boundary: nothing receipted is lost, nothing counts twice.
//!
//! A script is run once without a crash; then again and again with a crash at each operation of the disk in turn, after which the driver opens
//! what survived and repeats what was not answered, as agents and operators do. The end must be the same.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::{collections::BTreeMap, sync::Arc};

use depin_backup::BackupError;
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
    /// The disk is replaced: the ledger moves to a new one by a backup.
    Restore,
}

/// Here only the ledger's disk fails.
fn of_ledger(error: BackupError) -> LedgerError {
    match error {
        BackupError::Ledger(error) => error,
        other => panic!("{other}"),
    }
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
            _ => steps.push(if one_in(rng, 2) { Step::Restart } else { Step::Restore }),
        }
    }
    steps
}

fn shared(storage: &SimulatedStorage) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

/// Runs a script over a disk that may crash once.
struct Driver<'a> {
    storage: SimulatedStorage,
    hands: Hands,
    ledger: Option<EmbeddedLedger>,
    rng: &'a mut Rng,
    receipts: BTreeMap<(u8, u64), (u64, u64)>,
    crashes: u32,
    /// The operation that crashes, counted over all disks; and how many there were on disks that were replaced.
    crash_at: Option<u64>,
    spent: u64,
    /// What is being restored.
    backup: Option<SimulatedStorage>,
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
            let done = match step {
                Step::Restore => self.restore().await,
                step => {
                    self.ledger();
                    self.attempt(step).await
                }
            };
            match done {
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
            Step::Restart | Step::Restore => {
                self.ledger = None;
            }
        }
        Ok(())
    }

    /// Goes on with an empty disk.
    fn replace_disk(&mut self) {
        self.ledger = None;
        let old = std::mem::replace(&mut self.storage, SimulatedStorage::new());
        if old.crashed() {
            self.crashes += 1;
        }
        self.spent += old.operations();
        if let (Some(operation), 0) = (self.crash_at, self.crashes) {
            self.storage.crash_at(operation - self.spent);
        }
    }

    async fn restore(&mut self) -> Result<(), LedgerError> {
        if self.backup.is_none() {
            let backup = SimulatedStorage::new();
            back_up(self.ledger(), &backup).await.map_err(of_ledger)?;
            self.replace_disk();
            self.backup = Some(backup);
        }
        if self.storage.files().iter().any(|file| file == "restoring") {
            let half = open(self.storage.clone(), &self.hands).unwrap_err();
            assert_eq!(half, LedgerError::HalfRestored, "nobody takes it for a ledger");
            assert_eq!(verify(shared(&self.storage), &settings(), None).unwrap_err(), LedgerError::HalfRestored);
        }
        let backup = self.backup.clone().unwrap();
        match bring_back(&backup, &self.storage, &settings(), &self.hands).await.map_err(of_ledger) {
            Ok(_) => {}
            // Only the end of it was not answered.
            Err(LedgerError::Invalid { field: "target", .. }) if self.crashes > 0 => {}
            Err(error) => return Err(error),
        }
        self.backup = None;
        let ledger = self.ledger();
        let info = ledger.info().await?;
        assert!(info.closing_held && info.incarnation > 1, "whatever opens is a restored ledger");
        let writer = ledger.acquire_writer("restored".into()).await?;
        ledger.release_closing(writer).await.map(|_| ())
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
        let crash_at = crash_at.map(|operation| begun + operation);
        if let Some(operation) = crash_at {
            storage.crash_at(operation);
        }
        let mut driver = Driver {
            storage,
            hands,
            ledger: Some(ledger),
            rng,
            receipts: BTreeMap::new(),
            crashes: 0,
            crash_at,
            spent: 0,
            backup: None,
        };
        for (number, step) in steps.iter().enumerate() {
            driver.until_done(step, number).await;
        }
        let operations = if driver.crashes == 0 { driver.spent + driver.storage.operations() - begun } else { 0 };
        // A checkpoint beside the writer may leave fewer operations than the script had without a crash.
        driver.storage.crash_at(u64::MAX);
        if driver.storage.crashed() {
            driver.recover();
        }
        (driver.ending().await, operations)
    })
}

/// Runs the script with a crash at each operation in turn.
fn crash_everywhere(steps: &[Step], rng: &mut Rng) {
    let (expected, operations) = run(steps, None, rng);
    let total: u64 = expected.verdicts.values().map(|(accepted, _)| accepted).sum();
    assert_eq!(total, expected.accepted, "every receipted reading counts once");
    for boundary in 0..operations {
        let (ending, _) = run(steps, Some(boundary), rng);
        assert_eq!(ending, expected, "crash at operation {boundary} of {operations}");
    }
}

#[test]
fn a_crash_at_every_boundary_changes_no_sum() {
    depin_trials::run("ledger crash", |rng| {
        let steps = script(rng);
        crash_everywhere(&steps, rng);
    });
}

#[test]
fn a_restore_that_is_cut_short_anywhere_is_no_ledger_until_it_was_done_again() {
    depin_trials::run("ledger restore crash", |rng| {
        let mut sealer = Sealer::new(1);
        let mut batch = |hour: i64| {
            let proofs = (0..15).map(|n| sealer.seal(&[(4, "energy", hour * HOUR + n * 60_000, hour * 100 + n)]));
            Step::Submit(proofs.collect())
        };
        let (before, after) = (batch(0), batch(1));
        let steps = [before, Step::Close(0), Step::Record(0), Step::Restore, after, Step::Close(1)];
        crash_everywhere(&steps, rng);
    });
}
