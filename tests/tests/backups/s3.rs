//! What a store does to us: wrong credentials, wrong clocks, no bucket, silence, an end in the middle.

use std::{path::Path, sync::Arc, time::Duration};

use depin_backup::{
    BackupError, Backups, Generation, Identities, Recipients, Store, StoreError, restore,
    store::s3::{S3Store, Settings},
};
use depin_ledger::{Clock, EmbeddedLedger, Ledger as _, verify};
use depin_log::{DiskStorage, Storage};

use crate::{
    identity,
    server::{ACCESS_KEY, Line, Server, write_credentials},
};

/// So that there are many objects.
const PART: usize = 20_000;

fn ledger_settings() -> depin_ledger::Settings {
    depin_ledger::Settings { segment_size: 64 << 10, ..depin_ledger::Settings::default() }
}

fn open(path: &Path) -> EmbeddedLedger {
    EmbeddedLedger::open(Arc::new(DiskStorage::open(path).unwrap()), ledger_settings(), Clock::system()).unwrap()
}

async fn grow(ledger: &EmbeddedLedger, records: u32) {
    for number in 0..records {
        ledger.acquire_writer(format!("HOLDER-{number:0>2000}")).await.unwrap();
    }
}

fn backups(store: Arc<dyn Store>, recipients: &Recipients) -> Backups {
    Backups::new(store, recipients.clone(), 24 * 3_600_000).with_parts(PART)
}

/// Restores into a new directory; what is there then is whole, and its newest token is told.
async fn check(store: &dyn Store, generation: Generation, identities: &Identities, path: &Path) -> u64 {
    let target: Arc<dyn Storage> = Arc::new(DiskStorage::open(path).unwrap());
    restore(store, generation, identities, &target, &ledger_settings(), &Clock::system()).await.unwrap();
    let ledger = open(path);
    let token = ledger.info().await.unwrap().writer_token;
    ledger.close();
    let found = verify(target, &ledger_settings(), None).unwrap();
    assert_eq!(found.findings, Vec::<String>::new());
    token
}

fn refusal(error: &BackupError) -> &str {
    match error {
        BackupError::Store(StoreError::Refused(why)) => why,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_encrypted_ledger_goes_into_a_bucket_and_comes_back_exactly_as_of_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path()) else { return };
    let (recipient, file) = identity(directory.path());
    let (recipients, identities) = (Recipients::parse(&[recipient]).unwrap(), Identities::read(&file).unwrap());
    let ledger = open(&directory.path().join("data"));
    let store = server.store();
    let mut task = backups(store.clone(), &recipients);
    let mut made = Vec::new();
    for _ in 0..3 {
        grow(&ledger, 100).await;
        let done = task.run(&ledger, None).await.unwrap();
        assert_eq!(done.pruning, None);
        made.push((done.generation, ledger.info().await.unwrap().writer_token));
    }
    assert_eq!(Generation::list(&*store).await.unwrap(), made.iter().map(|(one, _)| *one).collect::<Vec<_>>());
    for (number, (generation, token)) in made.iter().enumerate() {
        let path = directory.path().join(format!("restored-{number}"));
        assert_eq!(check(&*store, *generation, &identities, &path).await, *token);
    }
    // A manifest is never written over another one.
    let key = made[0].0.key();
    let again = store.put(&key, b"other".to_vec().into(), true).await;
    assert_eq!(again, Err(StoreError::Exists(key)));
    // A listing of many pages: more objects than one answer tells.
    for number in 0..1_005 {
        store.put(&format!("many/{number:05}"), vec![0; 1].into(), false).await.unwrap();
    }
    assert_eq!(store.list("many/").await.unwrap().len(), 1_005);
    store.remove("many/00000").await.unwrap();
    store.remove("many/00000").await.unwrap();
    assert_eq!(store.list("many/0000").await.unwrap().len(), 9);
    assert!(matches!(store.get("many/00000").await, Err(StoreError::NotFound(_))));
}

#[tokio::test]
async fn each_refusal_of_a_store_says_what_to_correct_and_shows_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path()) else { return };
    let ledger = open(&directory.path().join("data"));
    grow(&ledger, 10).await;
    let plain = Recipients::default();
    let try_with = async |store: S3Store| backups(Arc::new(store), &plain).run(&ledger, None).await.unwrap_err();

    write_credentials(&directory.path().join("wrong"), ACCESS_KEY, "not-the-secret");
    let wrong = Settings { credentials: directory.path().join("wrong"), ..server.settings() };
    let error = try_with(S3Store::new(&wrong).unwrap()).await;
    assert!(refusal(&error).contains("--backup-s3-credentials-dir"), "{error}");
    assert!(!error.to_string().contains("not-the-secret") && !error.to_string().contains("X-Amz"), "{error}");

    let absent = Settings { credentials: directory.path().join("absent"), ..server.settings() };
    let error = try_with(S3Store::new(&absent).unwrap()).await;
    assert!(refusal(&error).contains("access-key-id"), "{error}");

    // Behind: the signature is over. This server takes one from the future, which others refuse with the same answer.
    let error = try_with(S3Store::new(&server.settings()).unwrap().with_skew(-7_200)).await;
    assert!(refusal(&error).contains("clock is") && refusal(&error).contains("NTP"), "{error}");

    let missing = Settings { url: server.url("nowhere").parse().unwrap(), ..server.settings() };
    let error = try_with(S3Store::new(&missing).unwrap()).await;
    assert!(refusal(&error).contains("make the bucket"), "{error}");

    let foreign = tempfile::tempdir().unwrap();
    let Some(other) = Server::start(foreign.path()) else { return };
    let untrusted = Settings { ca: Some(other.file("ca.crt")), ..server.settings() };
    let error = try_with(S3Store::new(&untrusted).unwrap()).await;
    assert!(
        matches!(&error, BackupError::Store(StoreError::Unavailable(why)) if why.contains("certificate")),
        "{error}"
    );
    assert!(Generation::list(&*server.store()).await.unwrap().is_empty(), "nothing was written");
    backups(server.store(), &plain).run(&ledger, None).await.unwrap();
}

#[tokio::test]
async fn a_store_that_dies_in_the_middle_has_no_half_backup_and_gets_the_rest_later() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut server) = Server::start(directory.path()) else { return };
    let line = Line::to(server.address()).await;
    let store: Arc<dyn Store> =
        Arc::new(S3Store::new(&Settings { url: line.url().parse().unwrap(), ..server.settings() }).unwrap());
    let ledger = open(&directory.path().join("data"));
    grow(&ledger, 200).await;
    let first = backups(Arc::clone(&store), &Recipients::default()).run(&ledger, None).await.unwrap();
    let whole = line.sent();
    grow(&ledger, 200).await;
    line.cut_at(whole * 3 / 2);
    let error = backups(Arc::clone(&store), &Recipients::default()).run(&ledger, None).await.unwrap_err();
    assert!(matches!(error, BackupError::Store(StoreError::Unavailable(_))), "{error}");
    server.kill();
    let error = backups(Arc::clone(&store), &Recipients::default()).run(&ledger, None).await.unwrap_err();
    assert!(matches!(error, BackupError::Store(StoreError::Unavailable(_))), "{error}");
    server.run();
    line.mend();
    assert_eq!(Generation::list(&*store).await.unwrap(), [first.generation], "it was no backup");
    let rest = backups(Arc::clone(&store), &Recipients::default()).run(&ledger, None).await.unwrap();
    assert_eq!(rest.pruning, None);
    let token = ledger.info().await.unwrap().writer_token;
    let path = directory.path().join("restored");
    assert_eq!(check(&*store, rest.generation, &Identities::default(), &path).await, token);
    assert_eq!(check(&*store, first.generation, &Identities::default(), &directory.path().join("older")).await, 200);
}

#[tokio::test]
async fn a_silent_store_is_given_up_and_used_again_when_it_speaks() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::start(directory.path()) else { return };
    let line = Line::to(server.address()).await;
    let settings = Settings { url: line.url().parse().unwrap(), patience: Duration::from_secs(1), ..server.settings() };
    let store: Arc<dyn Store> = Arc::new(S3Store::new(&settings).unwrap());
    let ledger = open(&directory.path().join("data"));
    grow(&ledger, 10).await;
    line.be_silent(true);
    let error = backups(Arc::clone(&store), &Recipients::default()).run(&ledger, None).await.unwrap_err();
    assert!(error.to_string().contains("no answer within 1 s"), "{error}");
    line.be_silent(false);
    let settings = Settings { patience: Duration::from_secs(20), ..settings };
    let store: Arc<dyn Store> = Arc::new(S3Store::new(&settings).unwrap());
    backups(Arc::clone(&store), &Recipients::default()).run(&ledger, None).await.unwrap();
}
