//! A disk that is really full: a small tmpfs. Needs root on Linux; elsewhere it says so and passes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod network;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use depin_domain::proofs::Reason;
use depin_ledger::{EmbeddedLedger, Ledger, Outcome, Settings, verify};
use depin_log::{DiskStorage, Storage};
use depin_trials::SmallDisk;
use network::*;

#[test]
fn a_full_disk_acknowledges_nothing_and_goes_on_where_it_was_once_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    let Some(_small) = SmallDisk::mount(&disk, 1).unwrap() else { return };
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![0; 900 << 10]).unwrap();
    let hands = Hands::at(HOUR);
    // A checkpoint that replaces an older one would make room in between.
    let keep = Settings { idle_tick_ms: 20, checkpoint_bytes: u64::MAX, ..settings() };
    let storage = || -> Arc<dyn Storage> { Arc::new(DiskStorage::open(disk.join("ledger")).unwrap()) };
    runtime().block_on(async {
        let ledger = EmbeddedLedger::open(storage(), keep.clone(), hands.clock()).unwrap();
        found(&ledger, 1).await.unwrap();
        let mut sealer = Sealer::new(1);
        let (mut receipted, mut n) = (0, 0);
        let refused = loop {
            n += 1;
            assert!(n < 5_000, "the disk never fills");
            let proof = sealer.seal(&[(4, "energy", n, n), (5, "power", n * 60_000, 500)]);
            match submit(&ledger, proof.clone()).await {
                Outcome::Judged { .. } => receipted += 1,
                Outcome::Deferred { reason, message } => {
                    assert_eq!(reason, Reason::LedgerUnavailable);
                    assert!(message.to_lowercase().contains("space"), "the error names the cause: {message}");
                    break proof;
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(receipted > 10);
        assert!(ledger.trouble().borrow().is_some());
        assert!(matches!(submit(&ledger, refused.clone()).await, Outcome::Deferred { .. }), "still full");
        std::fs::remove_file(&ballast).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while ledger.trouble().borrow().is_some() {
            assert!(Instant::now() < deadline, "it does not recover");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(matches!(submit(&ledger, refused).await, Outcome::Judged { repeated: false, .. }));
        assert_eq!(ledger.info().await.unwrap().proofs, receipted + 1);
        ledger.close();
    });
    let found = verify(storage(), &keep, None).unwrap();
    assert_eq!(found.findings, Vec::<String>::new());
}
