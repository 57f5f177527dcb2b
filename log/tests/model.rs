//! The log against a plain vector, with a crash at every write boundary.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use depin_log::{Log, LogError, OnDamage, Options, simulated::SimulatedStorage};
use depin_trials::{Rng, below, one_in};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    position: u64,
    kind: u8,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Step {
    Append(u8, Vec<u8>),
    Sync,
    Roll,
    TruncateFront(u64),
    Close,
}

/// What must be there, and how much of it is promised.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: Vec<Entry>,
    durable: usize,
}

impl Model {
    /// Opens the log; `None` where the crash came. What survived is durable from then on.
    fn open(&mut self, storage: &SimulatedStorage) -> Option<Log> {
        match Log::open(Arc::new(storage.clone()), options()) {
            Ok((log, recovery)) => {
                self.entries.retain(|entry| entry.position < recovery.end);
                assert!(self.entries.len() >= self.durable, "lost: {} of {}", self.entries.len(), self.durable);
                self.durable = self.entries.len();
                Some(log)
            }
            Err(LogError::Damaged(damage)) => panic!("damage where there is none: {damage}"),
            Err(_) => None,
        }
    }

    /// Runs the steps until one fails. `true`: all went well.
    fn run(&mut self, storage: &SimulatedStorage, steps: &[Step]) -> bool {
        let Some(open) = self.open(storage) else { return false };
        let mut log = Some(open);
        for step in steps {
            let Some(mut open) = log.take().or_else(|| self.open(storage)) else { return false };
            let result = match step {
                Step::Append(kind, payload) => open.append(*kind, payload).map(|position| {
                    self.entries.push(Entry { position, kind: *kind, payload: payload.clone() });
                }),
                Step::Sync => open.sync().map(|_| self.durable = self.entries.len()),
                Step::Roll => open.roll().map(|()| self.durable = self.entries.len()),
                Step::TruncateFront(share) => {
                    let position = open.front() + (open.end() - open.front()) * share / 4;
                    open.truncate_front(position).map(|_| ())
                }
                Step::Close => {
                    let result = open.close().map(|()| self.durable = self.entries.len());
                    match result {
                        Ok(()) => continue,
                        Err(_) => return false,
                    }
                }
            };
            if result.is_err() {
                return false;
            }
            log = Some(open);
        }
        true
    }

    /// Opens the disk and compares; what survived beyond the promise becomes part of it.
    fn check(&mut self, storage: &SimulatedStorage) {
        let (log, recovery) = Log::open(Arc::new(storage.clone()), options()).unwrap();
        let read: Vec<Entry> = log
            .read_from(log.front())
            .unwrap()
            .map(|record| {
                record.map(|record| Entry { position: record.position, kind: record.kind, payload: record.payload })
            })
            .collect::<Result<_, _>>()
            .unwrap();
        let kept: Vec<&Entry> = self.entries.iter().filter(|entry| entry.position >= recovery.front).collect();
        let removed = self.entries.len() - kept.len();
        assert!(read.len() <= kept.len(), "records that were never written");
        assert!(removed + read.len() >= self.durable, "lost: {} of {}", removed + read.len(), self.durable);
        for (read, written) in read.iter().zip(&kept) {
            assert_eq!(read, *written);
            assert_eq!(log.reader().read(read.position).unwrap().unwrap().payload, read.payload);
        }
        let survived = removed + read.len();
        self.entries.truncate(survived);
        self.durable = survived;
    }
}

fn options() -> Options {
    Options { tag: 7, segment_size: 220, max_record: 4096, on_damage: OnDamage::Refuse }
}

fn steps(rng: &mut Rng) -> Vec<Step> {
    (0..4 + below(rng, 12))
        .map(|_| match below(rng, 12) {
            0..=5 => {
                let length = if one_in(rng, 8) { below(rng, 600) } else { below(rng, 40) };
                Step::Append(1 + below(rng, 3) as u8, (0..length).map(|_| below(rng, 256) as u8).collect())
            }
            6..=8 => Step::Sync,
            9 => Step::TruncateFront(below(rng, 5)),
            10 => Step::Roll,
            _ => Step::Close,
        })
        .collect()
}

/// Another disk with the same content, nothing pending lost.
fn crash(storage: &SimulatedStorage, rng: &mut Rng) -> SimulatedStorage {
    if one_in(rng, 4) { storage.after_kill() } else { storage.after_power_failure(&mut |bound| below(rng, bound)) }
}

#[test]
fn a_crash_at_every_boundary_loses_nothing_that_was_synced() {
    depin_trials::run("log crash", |rng| {
        let (first, second) = (steps(rng), steps(rng));
        let whole = SimulatedStorage::new();
        assert!(Model::default().run(&whole, &first));
        for boundary in 0..whole.operations() {
            let storage = SimulatedStorage::new();
            storage.crash_at(boundary);
            let mut model = Model::default();
            model.run(&storage, &first);
            assert!(storage.crashed());
            let mut storage = crash(&storage, rng);
            // A second life, which crashes too: mostly in the midst of the recovery.
            if one_in(rng, 2) {
                storage.crash_at(below(rng, 12));
                model.run(&storage, &second);
                storage = crash(&storage, rng);
            }
            model.check(&storage);
            assert!(model.run(&storage, &second));
            model.check(&storage);
            let storage = crash(&storage, rng);
            model.check(&storage);
        }
    });
}

#[test]
fn a_failed_sync_poisons_and_reopening_keeps_what_was_durable() {
    depin_trials::run("log failing sync", |rng| {
        let storage = SimulatedStorage::new();
        let (mut log, _) = Log::open(Arc::new(storage.clone()), options()).unwrap();
        let mut promised = Vec::new();
        for _ in 0..8 {
            let mut batch = Vec::new();
            let mut failed = one_in(rng, 2);
            if failed {
                match below(rng, 3) {
                    0 => storage.fail_syncs(1),
                    1 => storage.set_capacity(Some(storage.used() + below(rng, 30))),
                    _ => storage.set_read_only(true),
                }
            }
            let mut outcome = Ok(());
            for _ in 0..1 + below(rng, 4) {
                let payload = vec![below(rng, 256) as u8; below(rng, 60) as usize];
                outcome = log.append(1, &payload).map(|position| batch.push((position, payload)));
                if outcome.is_err() {
                    break;
                }
            }
            let outcome = outcome.and_then(|()| log.sync().map(|_| ()));
            match outcome {
                Ok(()) => {
                    promised.extend(batch);
                    failed = false;
                }
                Err(_) => {
                    assert!(failed, "failed without a fault");
                    assert!(matches!(log.append(1, b"x"), Err(LogError::Poisoned(_))));
                    assert!(matches!(log.sync(), Err(LogError::Poisoned(_))));
                    // A roll within the batch may have made its first records durable: these stay.
                    let durable = log.durable();
                    promised.extend(batch.into_iter().filter(|(position, _)| *position < durable));
                }
            }
            storage.fail_syncs(0);
            storage.set_capacity(None);
            storage.set_read_only(false);
            if failed {
                log.reopen().unwrap();
            }
        }
        let expected: Vec<_> = promised.clone();
        let read = |log: &Log| -> Vec<(u64, Vec<u8>)> {
            log.read_from(0).unwrap().map(|record| record.map(|r| (r.position, r.payload)).unwrap()).collect()
        };
        assert_eq!(read(&log), expected);
        drop(log);
        let storage = storage.after_power_failure(&mut |bound| below(rng, bound));
        let (log, _) = Log::open(Arc::new(storage), options()).unwrap();
        assert_eq!(read(&log), expected);
    });
}
