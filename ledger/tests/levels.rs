//! Feature levels: until a person finalizes an upgrade the version before opens the ledger, afterwards it refuses it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{path::Path, sync::Arc};

use depin_ledger::{Clock, EmbeddedLedger, FEATURE_LEVEL, Ledger as _, LedgerError, Settings};
use depin_log::DiskStorage;
use depin_proto::v1::WriterToken;

/// The version to come, which knows one level more.
fn next() -> Settings {
    Settings { feature_level: FEATURE_LEVEL + 1, ..Settings::default() }
}

fn open(dir: &Path, settings: Settings) -> Result<EmbeddedLedger, LedgerError> {
    EmbeddedLedger::open(Arc::new(DiskStorage::open(dir).unwrap()), settings, Clock::system())
}

async fn levels(ledger: &EmbeddedLedger) -> (u32, u32) {
    let info = ledger.info().await.unwrap();
    (info.feature_level, info.feature_level_available)
}

async fn writer(ledger: &EmbeddedLedger) -> WriterToken {
    ledger.acquire_writer("a test".into()).await.unwrap()
}

#[tokio::test]
async fn there_is_a_way_back_until_a_person_finalizes() {
    let dir = tempfile::tempdir().unwrap();
    let old = open(dir.path(), Settings::default()).unwrap();
    assert_eq!(levels(&old).await, (FEATURE_LEVEL, FEATURE_LEVEL));
    drop(old);

    let new = open(dir.path(), next()).unwrap();
    assert_eq!(levels(&new).await, (FEATURE_LEVEL, FEATURE_LEVEL + 1), "nothing is used that was not finalized");
    writer(&new).await;
    drop(new);
    let old = open(dir.path(), Settings::default()).unwrap();
    let token = writer(&old).await;
    assert_eq!(old.finalize(token).await.unwrap(), FEATURE_LEVEL, "to finalize what is in use changes nothing");
    drop(old);

    let new = open(dir.path(), next()).unwrap();
    let stale = WriterToken { token: token.token, ..writer(&new).await };
    assert!(
        matches!(new.finalize(stale).await, Err(LedgerError::Fenced { .. })),
        "only beside the operator that leads"
    );
    let newest = writer(&new).await;
    for _ in 0..2 {
        assert_eq!(new.finalize(newest).await.unwrap(), FEATURE_LEVEL + 1);
    }
    assert_eq!(levels(&new).await, (FEATURE_LEVEL + 1, FEATURE_LEVEL + 1));
    drop(new);

    let refused = open(dir.path(), Settings::default()).unwrap_err();
    assert!(matches!(refused, LedgerError::Newer(_)), "{refused}");
    for said in ["feature level 2", "this version knows 1", "run that version, or a newer one"] {
        assert!(refused.to_string().contains(said), "{said}: {refused}");
    }
    let new = open(dir.path(), next()).unwrap();
    assert_eq!(levels(&new).await.0, FEATURE_LEVEL + 1, "it stands in the log");
}

/// A checkpoint takes the place of the records before it.
#[tokio::test]
async fn a_checkpoint_keeps_the_level() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { checkpoint_bytes: 1, ..next() };
    let new = open(dir.path(), settings.clone()).unwrap();
    let token = writer(&new).await;
    new.finalize(token).await.unwrap();
    for _ in 0..20 {
        writer(&new).await;
    }
    drop(new);
    assert!(
        std::fs::read_dir(dir.path()).unwrap().any(|entry| entry
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with("checkpoint"))
    );
    let new = open(dir.path(), settings).unwrap();
    assert_eq!(levels(&new).await.0, FEATURE_LEVEL + 1);
    drop(new);
    assert!(matches!(open(dir.path(), Settings::default()), Err(LedgerError::Newer(_))));
}
