//! From the embedded ledger into a database: everything comes along, or the next run begins anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::sync::Arc;

use depin_domain::{canonical, rewards::Line, time::Timestamp};
use depin_ledger::{
    EmbeddedLedger, EpochRecord, Export, Ledger, LedgerError, Migration, PostgresqlLedger, ProofFilter, Server, migrate,
};
use depin_log::simulated::SimulatedStorage;
use network::*;

/// A ledger with four hours of proofs, three closed epochs and their results; the first hour's proofs are past their retention where `compacted`.
async fn aged(storage: &SimulatedStorage, hands: &Hands, compacted: bool) -> (EmbeddedLedger, Vec<Sealer>) {
    let ledger = open(storage.clone(), hands).unwrap();
    found(&ledger, 2).await.unwrap();
    let mut sealers = vec![Sealer::new(1), Sealer::new(2)];
    for hour in 0..4 {
        hands.set(hour * HOUR + HOUR / 2);
        for minute in 0..30 {
            let at = hour * HOUR + minute * 60_000 + 1;
            for sealer in &mut sealers {
                let device = u32::from(sealer.agent) * 4;
                submit(
                    &ledger,
                    sealer.seal(&[(device, "energy", at, at / 1_000), (device + 1, "power", at, 13 + minute % 3)]),
                )
                .await;
            }
        }
    }
    hands.set(4 * HOUR);
    let writer = ledger.acquire_writer("closer".into()).await.unwrap();
    for number in 0..3_u64 {
        let matured: Vec<u64> = number.checked_sub(2).into_iter().collect();
        ledger.close_epoch(close_request(writer, number, &matured)).await.unwrap();
        let line = |device: u32| Line { device: device_id(device), weight: 7, ..Line::default() };
        let lines = [4, 5, 8].iter().map(|device| canonical::to_vec(&line(*device)).unwrap()).collect();
        let result = EpochRecord { summary: b"{\"a\":1}".to_vec(), lines, state: b"{}".to_vec() };
        ledger.record_epoch(writer, PROGRAM.into(), number, result).await.unwrap();
    }
    if compacted {
        assert!(ledger.compact(Timestamp(i64::MAX)).await.unwrap().front > 0);
    }
    (ledger, sealers)
}

/// Everything that can be read, positions included.
async fn read(ledger: &dyn Ledger) -> Vec<String> {
    let info = ledger.info().await.unwrap();
    let mut all = vec![
        format!("{:?}", (info.incarnation, info.registry_version, info.writer_token, info.proofs, info.open_ms)),
        format!("{:?}", (info.readings_accepted, info.readings_rejected)),
        format!("{:?}", ledger.read_registry(0, 0).await),
        format!("{:?}", ledger.list_epochs(PROGRAM.into(), 0, 0).await),
        format!("{:?}", frozen(ledger, 2, 0).await),
    ];
    let mut filter = ProofFilter::default();
    loop {
        let page = ledger.read_proofs(filter).await.unwrap();
        all.extend(page.proofs.iter().map(|proof| format!("{proof:?}")));
        let Some(next) = page.next else { break };
        filter.after = next;
    }
    for (number, export) in
        [(1, Export::Public), (1, Export::Audit), (2, Export::Owner(owner_of(4))), (0, Export::Audit)]
    {
        match ledger.read_export(PROGRAM.into(), number, export).await {
            Ok(mut stream) => {
                while let Some(chunk) = stream.recv().await {
                    all.push(format!("{chunk:?}"));
                }
            }
            Err(error) => all.push(error.to_string()),
        }
    }
    all
}

async fn moved(storage: &SimulatedStorage, place: &InDatabase, hands: &Hands) -> Result<Migration, LedgerError> {
    let server = Server::new(&place.url, None)?;
    migrate(Arc::new(storage.clone()), server, settings(), hands.clock()).await
}

/// With the drivers of a database.
fn driven() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn moves_whole(compacted: bool) {
    let Some(place) = InDatabase::fresh() else { return };
    driven().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(0));
        let (ledger, mut sealers) = aged(&storage, &hands, compacted).await;
        let before = read(&ledger).await;
        let busy = moved(&storage, &place, &hands).await.unwrap_err();
        assert!(matches!(busy, LedgerError::Unavailable(_)), "a running ledger holds its lock: {busy}");
        drop(ledger);
        let done = moved(&storage, &place, &hands).await.unwrap();
        assert_eq!((done.proofs > 100, done.files), (true, 7), "{done:?}");
        let again = open(storage.clone(), &hands).unwrap_err();
        assert_eq!(again, LedgerError::Migrated);

        let ledger = place.open(&hands);
        assert_eq!(read(&ledger).await, before, "to the last byte");
        // The chains go on, and what was judged is repeated.
        for sealer in &mut sealers {
            let proof = sealer.seal(&[(u32::from(sealer.agent) * 4, "energy", 4 * HOUR - 5, 100_000)]);
            assert_eq!(judged(&submit(&ledger, proof.clone()).await), (1, false));
            assert_eq!(judged(&submit(&ledger, proof).await), (1, true));
        }
        let writer = ledger.acquire_writer("after".into()).await.unwrap();
        let close = ledger.close_epoch(close_request(writer, 3, &[1])).await.unwrap();
        assert!(close.position > done.position);
        assert_eq!(ledger.list_epochs(PROGRAM.into(), 0, 0).await.unwrap().len(), 4);
        drop(ledger);
        assert_eq!(place.verify(&hands).await.findings, Vec::<String>::new());
    });
}

#[test]
fn a_ledger_moves_whole_and_goes_on_where_it_was() {
    moves_whole(false);
}

#[test]
fn a_migration_that_is_cut_short_is_served_by_nobody_and_begins_anew() {
    let Some(place) = InDatabase::fresh() else { return };
    driven().block_on(async {
        let (storage, hands) = (SimulatedStorage::new(), Hands::at(0));
        let (ledger, _) = aged(&storage, &hands, false).await;
        drop(ledger);
        // It fails once the records were copied.
        let file = storage.files().into_iter().find(|file| file.contains("statistics")).unwrap();
        let content = storage.content(&file).unwrap();
        storage.set_content(&file, vec![0; content.len()]);
        let failed = moved(&storage, &place, &hands).await.unwrap_err();
        assert!(matches!(failed, LedgerError::Damaged(_)), "{failed}");
        let served = PostgresqlLedger::open(Server::new(&place.url, None).unwrap(), settings(), None).unwrap_err();
        assert!(served.to_string().contains("cut short"), "{served}");
        drop(open(storage.clone(), &hands).unwrap());
        storage.set_content(&file, content);
        let done = moved(&storage, &place, &hands).await.unwrap();
        let ledger = place.open(&hands);
        assert_eq!(ledger.info().await.unwrap().proofs, done.proofs);
        drop(ledger);
        // Another ledger does not move in beside it.
        let other = SimulatedStorage::new();
        drop(aged(&other, &Hands::at(7), false).await);
        let refused = moved(&other, &place, &hands).await.unwrap_err();
        assert!(matches!(refused, LedgerError::Invalid { .. }), "{refused}");
    });
}
