//! Who may ask for backups, and what of the authorities is taken.

use std::sync::Arc;

use depin_backup::{FaultyStore, StoreOptions};
use depin_domain::ids::Digest;
use depin_gateway::{
    Backups,
    backup::{BackupOptions, BackupTask},
};
use depin_identity::{PeerIdentity, SigningKey};
use depin_ledger::{Clock, EmbeddedLedger, Settings};
use depin_log::DiskStorage;
use depin_proto::v1;
use prometheus_client::registry::Registry;
use tonic::Code;

use crate::network::{Network, issue};

const ASK: v1::RequestBackupRequest = v1::RequestBackupRequest { wait: false };
const READ: v1::ReadBackupsRequest = v1::ReadBackupsRequest { generations: false };

#[tokio::test]
async fn a_gateway_that_makes_no_backups_says_who_does_or_what_to_give_it() {
    let network = Network::start().await;
    let mut client = network.operator.clone();
    assert!(!client.read_backups(READ).await.unwrap().into_inner().configured);
    let refused = client.request_backup(ASK).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("--backup-dir"), "{refused}");
    let mut client = network.telling(Backups::OfDatabase).await;
    let told = client.read_backups(READ).await.unwrap().into_inner();
    assert!(told.of_database && !told.configured);
    let refused = client.request_backup(ASK).await.unwrap_err();
    assert!(refused.message().contains("pg_dump") && refused.message().contains("ca export"), "{refused}");
    network.stop().await;
}

#[tokio::test]
async fn only_the_operator_asks_and_the_authorities_are_taken_sealed_or_not_at_all() {
    let network = Network::start().await;
    let storage = Arc::new(DiskStorage::open(network.directory.path().join("other")).unwrap());
    let ledger = Arc::new(EmbeddedLedger::open(storage, Settings::default(), Clock::system()).unwrap());
    let hour = std::time::Duration::from_secs(3_600);
    let options = BackupOptions {
        store: StoreOptions::default(),
        backup_every: hour,
        backup_keep: hour,
        backup_recipient: Vec::new(),
    };
    let store = Arc::new(FaultyStore::default());
    let task = BackupTask::new(&ledger, store, &options, &mut Registry::default()).unwrap();
    let mut client = network.telling(Backups::Made(task.control())).await;
    let viewer = PeerIdentity::Viewer { namespace: "grid".into() };
    let viewer = issue(&network.ca, &viewer, SigningKey::generate().unwrap());
    let mut viewer = network.ledger_client(Some(&viewer));
    assert_eq!(viewer.read_backups(READ).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(viewer.request_backup(ASK).await.unwrap_err().code(), Code::PermissionDenied);

    let keep = v1::KeepAuthorityRequest {
        writer: Some(network.writer),
        sealed: b"age-encryption.org/v1\nand so on".to_vec().into(),
        content_sha256: vec![7; 32].into(),
        recipients: vec!["age1somebody".into()],
    };
    assert_eq!(viewer.keep_authority(keep.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    let stale = v1::WriterToken { token: network.writer.token - 1, ..network.writer };
    for (wrong, code) in [
        (v1::KeepAuthorityRequest { writer: Some(stale), ..keep.clone() }, Code::PermissionDenied),
        (v1::KeepAuthorityRequest { sealed: b"{\"data\": {}}".to_vec().into(), ..keep.clone() }, Code::InvalidArgument),
        (v1::KeepAuthorityRequest { recipients: Vec::new(), ..keep.clone() }, Code::InvalidArgument),
        (v1::KeepAuthorityRequest { content_sha256: vec![7].into(), ..keep.clone() }, Code::InvalidArgument),
    ] {
        assert_eq!(client.keep_authority(wrong).await.unwrap_err().code(), code);
    }
    assert!(client.read_backups(READ).await.unwrap().into_inner().authority_sha256.is_empty());
    client.keep_authority(keep).await.unwrap();
    let told = client.read_backups(READ).await.unwrap().into_inner();
    assert_eq!((told.authority_sha256[..].to_vec(), told.configured), (Digest([7; 32]).0.to_vec(), true));
    assert_eq!(told.authority_recipients, ["age1somebody"]);
    network.stop().await;
}
