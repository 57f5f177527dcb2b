//! Closed epochs: which spec rules them, and how they are listed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use depin_domain::registry::Change;
use depin_ledger::{EpochRecord, Ledger};
use depin_proto::v1;
use network::*;

crate::in_places! {
    embedded: super::network::InMemory;
    postgresql: super::network::InDatabase;
    => {
        a_spec_rules_no_epoch_that_is_closed_already
        a_page_of_epochs_ends_before_it_is_too_large_for_a_message_and_the_next_goes_on
    }
}

fn a_spec_rules_no_epoch_that_is_closed_already<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(1);
        let ledger = place.open(&hands);
        let writer = found(&ledger, 1).await.unwrap();
        let write = async |change: Change| {
            let expected_version = ledger.info().await.unwrap().registry_version;
            let request =
                v1::WriteRegistryRequest { writer: Some(writer), changes: bytes(&[change]), expected_version };
            ledger.write_registry(request).await.unwrap()
        };
        let ruling = |number| {
            let snapshot = ledger.registry().borrow().clone();
            snapshot.registry.program(PROGRAM).unwrap().ruling(number).unwrap().digest
        };
        let first = ruling(0);
        hands.set(2 * HOUR);
        for number in 0..2 {
            ledger.close_epoch(close_request(writer, number, &[])).await.unwrap();
        }
        // The clocks are set back by two hours: whoever writes takes epoch 1 for one that is to come.
        hands.set(1);
        let edited = program_of(PROGRAM, &["energy/meters", "energy/others"], 1);
        let version = write(edited.clone()).await;
        assert_eq!((ruling(0), ruling(1)), (first, first));
        let second = ruling(2);
        assert_ne!(second, first);
        let read = ledger.read_registry(version - 1, 10).await.unwrap();
        assert!(matches!(&read[0].change, Change::Program(entry) if entry.from_epoch == 2), "{read:?}");
        // Asked for once more, as after an answer that was lost: it is said already.
        let registry = ledger.registry().borrow().registry.clone();
        assert!(!registry.would_change(&edited));
        // It goes after what is closed, too.
        write(Change::ProgramRemoved { id: PROGRAM.into() }).await;
        assert_eq!((ruling(0), ruling(1)), (first, first));
        assert_ne!(ruling(2), second, "suspended from the first open epoch on");
    });
}

fn a_page_of_epochs_ends_before_it_is_too_large_for_a_message_and_the_next_goes_on<P: Place>(place: &P) {
    runtime().block_on(async {
        let hands = Hands::at(60 * HOUR);
        let ledger = place.open(&hands);
        let writer = found(&ledger, 1).await.unwrap();
        let summary =
            |number: u64, bytes: usize| format!("{{\"a\":{number},\"b\":\"{}\"}}", "x".repeat(bytes)).into_bytes();
        for number in 0..30 {
            ledger.close_epoch(close_request(writer, number, &[])).await.unwrap();
            // As of ten thousand accounts; one is larger than a whole page.
            let bytes = if number == 20 { 17 << 20 } else { 1_300_000 };
            let result =
                EpochRecord { summary: summary(number, bytes), state: b"{}".to_vec(), ..EpochRecord::default() };
            ledger.record_epoch(writer, PROGRAM.into(), number, result).await.unwrap();
        }
        // The last one is closed, not computed.
        ledger.close_epoch(close_request(writer, 30, &[])).await.unwrap();
        let (mut read, mut pages) = (Vec::new(), Vec::new());
        loop {
            let from = read.len() as u64;
            let page = ledger.list_epochs(PROGRAM.into(), from, 500).await.unwrap();
            if page.is_empty() {
                break;
            }
            let bytes: usize = page.iter().map(|entry| entry.summary.len()).sum();
            assert!(bytes <= 16 << 20 || page.len() == 1, "{bytes} bytes from {from} on");
            pages.push(page.len());
            read.extend(page.into_iter().map(|entry| entry.close.unwrap().window.unwrap().number));
        }
        assert_eq!(read, (0..=30).collect::<Vec<_>>());
        assert_eq!(pages, [12, 8, 1, 10]);
    });
}
