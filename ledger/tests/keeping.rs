//! Backup, restore, retention, verification, races: what keeps the record over years.
//!
//! What is about files (backups, segments, bases, damage on the disk) is about the embedded ledger alone: a database has tools of its own for them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::sync::Arc;

use depin_backup::{BackupError, StoreError};
use depin_domain::{
    rewards::{Account, Line},
    time::Timestamp,
};
use depin_ledger::{EmbeddedLedger, EpochRecord, Export, Ledger, LedgerError, OpenChain, Outcome, Settings, verify};
use depin_log::{Storage, simulated::SimulatedStorage};
use depin_proto::{envelope, v1};
use network::*;

crate::in_places! {
    embedded: super::network::place::OnDisk;
    postgresql: super::network::InDatabase;
    => {
        an_owners_export_shows_what_was_signed_about_the_owners_devices_and_no_other
        the_public_export_names_no_device_and_the_audit_export_proves_itself
        a_close_amid_appends_counts_exactly_what_stands_before_it
    }
}

fn shared(storage: &SimulatedStorage) -> Arc<dyn Storage> {
    Arc::new(storage.clone())
}

#[test]
fn a_restored_older_backup_ends_in_exact_sums_once_agents_resend() {
    runtime().block_on(async {
        let hands = Hands::at(HOUR / 2);
        let keep = Settings { backup_configured: true, ..settings() };
        let storage = SimulatedStorage::new();
        let ledger = EmbeddedLedger::open(shared(&storage), keep.clone(), hands.clock()).unwrap();
        let writer = found(&ledger, 2).await.unwrap();
        let mut sealer = Sealer::new(1);
        let proofs: Vec<_> = (1..=20).map(|n| sealer.seal(&[(4, "energy", n * 1_000, n * 10)])).collect();
        let other = Sealer::new(2).seal(&[(8, "energy", 5, 5), (8, "energy", 6, 9)]);
        ledger.append(proofs[..10].to_vec()).await.unwrap();
        let outcome = submit(&ledger, other).await;
        assert!(matches!(outcome, Outcome::Judged { archived: false, .. }));
        let target = SimulatedStorage::new();
        let made = back_up(&ledger, &target).await.unwrap().generation;
        let chain = |key| OpenChain { key, incarnation: 1, next_sequence: 21, sealed_sequence: 20 };
        let heads = ledger.open_chains(vec![chain(sealer.key())]).await.unwrap();
        assert_eq!((heads[0].head.sequence, heads[0].archived_sequence), (10, 10));
        ledger.append(proofs[10..].to_vec()).await.unwrap();
        let heads = ledger.open_chains(vec![chain(sealer.key())]).await.unwrap();
        assert_eq!((heads[0].head.sequence, heads[0].archived_sequence), (20, 10), "the rest is only durable");
        let repeated = submit(&ledger, proofs[9].clone()).await;
        assert!(matches!(repeated, Outcome::Judged { archived: true, repeated: true, .. }));
        drop(ledger);

        let fresh = SimulatedStorage::new();
        let incarnation = bring_back(&target, &fresh, &keep, &hands).await.unwrap().incarnation;
        assert!(incarnation > made.incarnation);
        assert!(matches!(
            bring_back(&target, &fresh, &keep, &hands).await,
            Err(BackupError::Ledger(LedgerError::Invalid { field: "target", .. }))
        ));
        let ledger = EmbeddedLedger::open(shared(&fresh), keep.clone(), hands.clock()).unwrap();
        assert!(ledger.info().await.unwrap().closing_held);
        let fenced = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap_err();
        assert!(matches!(fenced, LedgerError::Fenced { .. }), "tokens of the lost ledger are void: {fenced}");
        let writer = ledger.acquire_writer("after".into()).await.unwrap();
        hands.set(HOUR + 1);
        let hold = ledger.read_hold(10).await.unwrap();
        assert_eq!((hold.held, hold.awaited, hold.incarnation), (true, 2, incarnation));
        assert_eq!(
            hold.chains.iter().map(|one| (one.sequence, one.reported_sequence)).collect::<Vec<_>>(),
            [(10, 0), (1, 0)]
        );
        assert!(hold.chains.iter().all(|one| !one.agent.is_empty() && one.device.is_empty()), "{hold:?}");
        let heads = ledger.open_chains(vec![chain(sealer.key())]).await.unwrap();
        assert_eq!(heads[0].head.sequence, 10, "the agent sees what is missing");
        let held = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap_err();
        assert_eq!(held, LedgerError::ClosingHeld { missing: 2 });
        // The other agent has nothing to resend; this one is known to have, and nothing closes before it did.
        let other = OpenChain { sealed_sequence: 1, next_sequence: 2, ..chain(key(2).id()) };
        ledger.open_chains(vec![other]).await.unwrap();
        for outcome in ledger.append(proofs[5..19].to_vec()).await.unwrap() {
            assert_eq!(judged(&outcome).0, 1);
        }
        let held = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap_err();
        assert_eq!(held, LedgerError::ClosingHeld { missing: 1 });
        let hold = ledger.read_hold(10).await.unwrap();
        assert_eq!((hold.awaited, hold.chains[0].sequence, hold.chains[0].reported_sequence), (1, 19, 20));
        assert_eq!((hold.chains[0].incarnation, hold.chains[0].reported_incarnation), (1, 1));
        assert_eq!(judged(&submit(&ledger, proofs[19].clone()).await).0, 1);
        assert_eq!(ledger.read_hold(10).await.unwrap(), v1::ClosingHold { incarnation, ..Default::default() });
        assert_eq!(ledger.release_closing(writer).await.unwrap(), 0, "nothing is held any more");
        ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap();
        let statistics = frozen(&ledger, 0, 0).await.unwrap();
        let device = |number: u32| statistics.iter().find(|one| one.device_id[..] == device_id(number).0).unwrap();
        assert_eq!((device(4).count, device(4).sum.as_str(), device(4).increase.as_str()), (20, "2100", "190"));
        assert_eq!((device(8).count, device(8).increase.as_str()), (2, "4"));
        drop(ledger);
        assert_eq!(verify(shared(&fresh), &keep, None).unwrap().findings, Vec::<String>::new());
    });
}

#[test]
fn a_damaged_backup_is_not_restored() {
    runtime().block_on(async {
        let hands = Hands::at(1);
        let ledger = open(SimulatedStorage::new(), &hands).unwrap();
        found(&ledger, 1).await.unwrap();
        let target = SimulatedStorage::new();
        back_up(&ledger, &target).await.unwrap();
        let segment = target.files().into_iter().find(|file| file.contains(".seg.")).unwrap();
        let mut content = target.content(&segment).unwrap();
        let last = content.len() - 1;
        content[last] ^= 1;
        target.set_content(&segment, content);
        let restored = bring_back(&target, &SimulatedStorage::new(), &settings(), &hands).await;
        assert!(matches!(restored, Err(BackupError::Store(StoreError::Damaged(_)))));
    });
}

#[test]
fn a_backups_place_is_left_alone_by_another_ledger_and_follows_retention() {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(0));
        let (ledger, _) = aged(&InMemory(storage.clone()), &hands).await;
        let target = SimulatedStorage::new();
        back_up(&ledger, &target).await.unwrap();
        let objects = || target.files().into_iter().filter(|file| file.starts_with("data/")).collect::<Vec<_>>();
        let whole = objects();
        ledger.compact(Timestamp(i64::MAX)).await.unwrap();
        // So much later that the first generation goes.
        hands.set(hands.now() + 40 * 24 * HOUR);
        let thinned = back_up(&ledger, &target).await.unwrap();
        assert_eq!((thinned.pruned, thinned.pruning.clone()), (1, None));
        let gone = whole.iter().filter(|object| !objects().contains(object)).count();
        assert!(gone > 0 && gone < whole.len(), "what retention removed is not kept in the backup, all else is");
        assert_eq!(target.files().iter().filter(|file| file.starts_with("manifests/")).count(), 1);
        let fresh = SimulatedStorage::new();
        bring_back(&target, &fresh, &settings(), &hands).await.unwrap();
        assert_eq!(verify(shared(&fresh), &settings(), None).unwrap().findings, Vec::<String>::new());

        // The disk was lost and the gateway begins anew without a restore: the backup is not overwritten.
        let before = target.files();
        hands.set(hands.now() + 1);
        let anew = open(SimulatedStorage::new(), &hands).unwrap();
        found(&anew, 1).await.unwrap();
        let refused = back_up(&anew, &target).await.unwrap_err();
        assert!(matches!(refused, BackupError::Foreign { .. }) && refused.to_string().contains("beyond"), "{refused}");
        let mut sealer = Sealer::new(1);
        for n in 0..400 {
            submit(&anew, sealer.seal(&[(4, "energy", n * 60_000, n)])).await;
        }
        assert!(anew.info().await.unwrap().position > thinned.generation.position);
        let refused = back_up(&anew, &target).await.unwrap_err();
        assert!(refused.to_string().contains("another"), "{refused}");
        assert_eq!(target.files(), before);

        // The restored ledger goes on in the same place, and sends only what is new.
        let restored = open(fresh.clone(), &hands).unwrap();
        restored.acquire_writer("after".into()).await.unwrap();
        let next = back_up(&restored, &target).await.unwrap();
        assert!(next.generation > thinned.generation && next.generation.incarnation > thinned.generation.incarnation);
        assert!(next.sent < next.stored, "{next:?}");
        let again = SimulatedStorage::new();
        bring_back(&target, &again, &settings(), &hands).await.unwrap();
        assert_eq!(verify(shared(&again), &settings(), None).unwrap().findings, Vec::<String>::new());
        // The ledger from before the restore, had it only been away, may not go on there.
        assert!(back_up(&ledger, &target).await.unwrap_err().to_string().contains("beyond"));
    });
}

/// A ledger with three closed epochs of which the first is settled for good.
async fn aged<P: Place>(place: &P, hands: &Hands) -> (P::Kept, Sealer) {
    let ledger = place.open(hands);
    found(&ledger, 1).await.unwrap();
    let mut sealer = Sealer::new(1);
    for hour in 0..3 {
        hands.set(hour * HOUR + HOUR / 2);
        for minute in 0..30 {
            let at = hour * HOUR + minute * 60_000;
            let proof = sealer.seal(&[(4, "energy", at + 1, at / 1_000), (5, "power", at + 1, minute)]);
            submit(&ledger, proof).await;
        }
    }
    hands.set(3 * HOUR + 1);
    let writer = ledger.acquire_writer("closer".into()).await.unwrap();
    for number in 0..3_u64 {
        let matured: Vec<u64> = number.checked_sub(2).into_iter().collect();
        ledger.close_epoch(close_request(writer, number, &matured)).await.unwrap();
    }
    (ledger, sealer)
}

#[test]
fn retention_removes_only_what_is_old_and_settled_and_everything_else_stays() {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(0));
        let (ledger, sealer) = aged(&InMemory(storage.clone()), &hands).await;
        let before = ledger.info().await.unwrap();
        let statistics = frozen(&ledger, 2, 0).await.unwrap();
        let nothing = ledger.compact(Timestamp(0)).await.unwrap();
        assert_eq!((nothing.front, nothing.thinned), (0, 0));
        let done = ledger.compact(Timestamp(i64::MAX)).await.unwrap();
        assert!(done.front > 0);
        assert_eq!(done.thinned, 30, "the settled hour's");
        drop(ledger);
        for damage in [false, true] {
            let (storage, mut sealer) = (storage.after_kill(), sealer.clone());
            if damage {
                // Without the checkpoint the base and the rest of the log give the same; one of two bases may be lost.
                for file in storage.files().iter().filter(|file| file.starts_with("checkpoint") || *file == "base.0") {
                    storage.set_content(file, vec![0; 9]);
                }
            }
            let ledger = open(storage.clone(), &hands).unwrap();
            let info = ledger.info().await.unwrap();
            assert_eq!(
                (info.proofs, info.readings_accepted, info.registry_version),
                (before.proofs, before.readings_accepted, before.registry_version)
            );
            assert_eq!(frozen(&ledger, 2, 0).await.unwrap(), statistics);
            let next = sealer.seal(&[(4, "energy", 3 * HOUR + sealer.sequence as i64, 20_000)]);
            assert_eq!(judged(&submit(&ledger, next).await), (1, false), "the chain goes on");
            let info = ledger.info().await.unwrap();
            assert_eq!(info.proofs, before.proofs + 1);
            drop(ledger);
            assert_eq!(verify(shared(&storage), &settings(), None).unwrap().findings, Vec::<String>::new());
        }
    });
}

#[test]
fn verification_finds_what_was_changed() {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(0));
        let (ledger, _) = aged(&InMemory(storage.clone()), &hands).await;
        drop(ledger);
        let clean = verify(shared(&storage), &settings(), Some(&mut |_, _| true)).unwrap();
        assert_eq!((clean.proofs, clean.signatures, clean.epochs, clean.findings.len()), (90, 90, 3, 0));
        let forged = verify(shared(&storage), &settings(), Some(&mut |proof, _| proof.header.len() % 2 == 1)).unwrap();
        assert!(!forged.findings.is_empty());
        for file in storage.files().iter().filter(|file| file.contains("statistics")) {
            let content = storage.content(file).unwrap();
            let mut changed = content.clone();
            let middle = changed.len() / 2;
            changed[middle] ^= 1;
            storage.set_content(file, changed);
            let found = verify(shared(&storage), &settings(), None).unwrap();
            assert!(
                found.findings.iter().any(|what| file.ends_with(what.split([' ', ':']).next().unwrap_or("?"))
                    || what.contains(file.trim_start_matches("epochs/"))),
                "{:?}",
                found.findings
            );
            storage.set_content(file, content);
        }
        let segment = storage.files().into_iter().find(|file| file.ends_with(".seg")).unwrap();
        let mut content = storage.content(&segment).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        storage.set_content(&segment, content);
        assert!(matches!(verify(shared(&storage), &settings(), None), Err(LedgerError::Damaged(_))));
        assert!(verify(shared(&storage), &settings(), None).unwrap_err().to_string().contains(".seg at offset"));
    });
}

fn a_close_amid_appends_counts_exactly_what_stands_before_it<P: Place>(place: &P) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let hands = Hands::at(HOUR + 1);
        let ledger = Arc::new(place.open(&hands));
        let writer = found(&*ledger, 4).await.unwrap();
        let mut agents = Vec::new();
        for agent in 1..=4 {
            let ledger = Arc::clone(&ledger);
            agents.push(tokio::spawn(async move {
                let mut sealer = Sealer::new(agent);
                let mut positions = Vec::new();
                for n in 0..60 {
                    let proof = sealer.seal(&[(u32::from(agent) * 4, "energy", n * 1_000 + 1, n)]);
                    match submit(&*ledger, proof).await {
                        Outcome::Judged { position, .. } => positions.push(position),
                        other => panic!("{other:?}"),
                    }
                }
                positions
            }));
        }
        tokio::task::yield_now().await;
        let close = ledger.close_epoch(close_request(writer, 0, &[])).await.unwrap();
        let mut positions = Vec::new();
        for agent in agents {
            positions.extend(agent.await.unwrap());
        }
        let counted: u64 = frozen(&*ledger, 0, 0).await.unwrap().iter().map(|one| one.count).sum();
        let before = positions.iter().filter(|position| **position < close.position).count() as u64;
        assert_eq!(counted, before);
    });
}

async fn files(ledger: &dyn Ledger, export: Export) -> Vec<(String, Vec<u8>)> {
    files_of(ledger, 0, export).await.unwrap()
}

async fn files_of(
    ledger: &dyn Ledger,
    number: u64,
    export: Export,
) -> Result<Vec<(String, Vec<u8>)>, depin_ledger::LedgerError> {
    let mut stream = ledger.read_export(PROGRAM.into(), number, export).await?;
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(chunk) = stream.recv().await {
        let v1::FileChunk { name, data } = chunk?;
        if !name.is_empty() {
            files.push((name, Vec::new()));
        }
        files.last_mut().unwrap().1.extend_from_slice(&data);
    }
    Ok(files)
}

/// Results with a line for each device, which no rule has made.
async fn record(ledger: &dyn Ledger, number: u64) {
    let writer = ledger.acquire_writer("recorder".into()).await.unwrap();
    let line =
        |number: u32, weight: u64| Line { device: device_id(number), weight, raw_weight: weight, ..Line::default() };
    let lines = [line(4, 7), line(5, 9)].iter().map(|line| depin_domain::canonical::to_vec(line).unwrap()).collect();
    let result =
        EpochRecord { summary: b"{\"minted\":\"1000\"}".to_vec(), lines, state: b"{\"carry\":\"0\"}".to_vec() };
    ledger.record_epoch(writer, PROGRAM.into(), number, result).await.unwrap();
}

#[test]
fn retention_ends_the_audit_of_what_it_removed_and_leaves_the_next_epochs_as_it_was() {
    runtime().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(0));
        let (ledger, _) = aged(&InMemory(storage.clone()), &hands).await;
        record(&ledger, 0).await;
        record(&ledger, 1).await;
        let before = files_of(&ledger, 1, Export::Audit).await.unwrap();
        assert!(files_of(&ledger, 0, Export::Audit).await.is_ok());
        assert!(ledger.compact(Timestamp(i64::MAX)).await.unwrap().front > 0);
        let gone = files_of(&ledger, 0, Export::Audit).await.unwrap_err();
        assert!(gone.to_string().contains("past its retention"), "{gone}");
        assert!(files_of(&ledger, 0, Export::Public).await.is_ok(), "results stay");
        let after = files_of(&ledger, 1, Export::Audit).await.unwrap();
        assert_eq!(before, after, "increases begin at the same marks");
        // Nothing more may go now, and asking costs nothing.
        let again = ledger.compact(Timestamp(i64::MAX)).await.unwrap();
        assert_eq!((again.front, again.thinned), (again.old_front, 0));
    });
}

fn an_owners_export_shows_what_was_signed_about_the_owners_devices_and_no_other<P: Place>(place: &P) {
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::RowAccessor,
    };
    runtime().block_on(async {
        let hands = Hands::at(0);
        let (ledger, _) = aged(place, &hands).await;
        record(&ledger, 0).await;
        let nobody = Account([9; 20]);
        let none = files_of(&ledger, 0, Export::Owner(nobody)).await.unwrap_err();
        assert!(none.to_string().contains(&nobody.to_string()), "{none}");
        let all = files(&ledger, Export::Audit).await;
        let own = files(&ledger, Export::Owner(owner_of(4))).await;
        let column = |files: &[(String, Vec<u8>)], name: &str, at: usize| -> Vec<String> {
            let file = files.iter().find(|(known, _)| known == name).unwrap();
            let reader = SerializedFileReader::new(bytes::Bytes::from(file.1.clone())).unwrap();
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().get_string(at).unwrap().clone()).collect()
        };
        let mine = device_id(4).to_string();
        let of_all = column(&all, "sections-00000.parquet", 7);
        let of_mine = column(&own, "sections-00000.parquet", 7);
        assert!(of_all.iter().any(|device| *device != mine), "the audit shows the neighbour");
        assert_eq!(of_mine, of_all.iter().filter(|device| **device == mine).cloned().collect::<Vec<_>>());
        assert_eq!(column(&own, "devices.parquet", 0), std::slice::from_ref(&mine));
        let pseudonym = column(&own, "devices.parquet", 1);
        assert!(column(&own, "public.parquet", 0).contains(&pseudonym[0]));
        let neighbour = device_id(5).to_string();
        assert!(column(&all, "registry.parquet", 2).iter().any(|change| change.contains(&neighbour)));
        assert!(column(&own, "registry.parquet", 2).iter().all(|change| !change.contains(&neighbour)));
        assert!(column(&own, "marks.parquet", 1).iter().all(|device| *device == mine));
    });
}

fn the_public_export_names_no_device_and_the_audit_export_proves_itself<P: Place>(place: &P) {
    use parquet::{
        file::reader::{FileReader, SerializedFileReader},
        record::RowAccessor,
    };
    runtime().block_on(async {
        let hands = Hands::at(0);
        let (ledger, _) = aged(place, &hands).await;
        record(&ledger, 0).await;

        let public = files(&ledger, Export::Public).await;
        assert_eq!(
            public.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["public.parquet", "manifest.json"]
        );
        let manifest: serde_json::Value = serde_json::from_slice(&public[1].1).unwrap();
        let sha256 = depin_domain::ids::Digest::of(&public[0].1).to_string();
        assert_eq!(
            (manifest["files"][0]["sha256"].as_str(), manifest["files"][0]["rows"].as_u64()),
            (Some(sha256.as_str()), Some(2))
        );
        assert_eq!(manifest["spec"]["weight"], "energy");
        let rows = SerializedFileReader::new(bytes::Bytes::from(public[0].1.clone())).unwrap();
        let mut weights: Vec<i64> =
            rows.get_row_iter(None).unwrap().map(|row| row.unwrap().get_long(3).unwrap()).collect();
        weights.sort_unstable();
        assert_eq!(weights, [7, 9]);
        for row in rows.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let (pseudonym, line) = (row.get_string(0).unwrap().clone(), row.get_string(5).unwrap().clone());
            let line: Line = serde_json::from_str(&line).unwrap();
            assert_eq!(line.device.to_string(), pseudonym);
            assert!((0..20).all(|number| device_id(number) != line.device));
        }

        let audit = files(&ledger, Export::Audit).await;
        let sections = audit.iter().find(|(name, _)| name == "sections-00000.parquet").unwrap();
        let sections = SerializedFileReader::new(bytes::Bytes::from(sections.1.clone())).unwrap();
        let mut count = 0;
        for row in sections.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let field = |at| row.get_bytes(at).unwrap().data().to_vec();
            let header = envelope::decode_header(&field(2)).unwrap();
            let siblings = field(9).chunks(32).map(|one| depin_domain::ids::Digest::from_slice(one).unwrap()).collect();
            let path = envelope::Path {
                index: row.get_int(5).unwrap() as u32,
                count: row.get_int(6).unwrap() as u32,
                siblings,
            };
            assert!(path.verify(&field(8), &header.body));
            count += 1;
        }
        assert_eq!(count, 60, "30 proofs of two devices lie in the epoch");
    });
}
