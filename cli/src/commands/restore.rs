//! `restore`: what a person takes out of a backup himself. The gateway restores the ledger on its volume; the authorities come back by
//! whoever holds the identity, before an operator starts.

use std::{path::Path, sync::Arc};

use depin_backup::{BackupError, Generation, Identities, Store, StoreError, StoreOptions, choose, unseal_authority};
use depin_domain::time::Timestamp;
use depin_ledger::{Clock, Settings};
use depin_log::{DiskStorage, Storage};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::json;

use super::ca;
use crate::{
    args::{Arguments, RestoreCommand},
    cluster::Cluster,
    fault::Fault,
    output::{Report, when},
};

pub(super) fn unusable(error: StoreError) -> Fault {
    match error {
        StoreError::NotFound(_) => Fault::not_found(error.to_string(), "list what there is: kubectl depin backup list"),
        _ => Fault::failed(error.to_string(), "check the flags of the backup's place (--backup-dir, --backup-s3…)"),
    }
}

pub(super) fn failed(error: BackupError) -> Fault {
    match error {
        BackupError::Store(error) => unusable(error),
        error => Fault::failed(error.to_string(), "see docs/operations/backup.md"),
    }
}

/// The store that was named.
pub(super) fn place(options: &StoreOptions) -> Result<Arc<dyn Store>, Fault> {
    options
        .open_existing()
        .map_err(unusable)?
        .ok_or_else(|| Fault::usage("where is the backup?", "give --backup-dir DIR or --backup-s3 URL"))
}

pub(super) async fn run(arguments: &Arguments, command: &RestoreCommand) -> Result<Report, Fault> {
    match command {
        RestoreCommand::Authority { store, identity, at, yes } => {
            authority(arguments, &*place(store)?, identity, *at, *yes).await
        }
        RestoreCommand::Ledger { store, to, identity, at } => {
            ledger(&*place(store)?, to, identity.as_deref(), *at).await
        }
    }
}

pub(super) fn identities(file: &Path) -> Result<Identities, Fault> {
    Identities::read(file).map_err(|error| Fault::file(file, error))
}

pub(super) async fn chosen(store: &dyn Store, at: Option<Timestamp>) -> Result<Generation, Fault> {
    choose(&Generation::list(store).await.map_err(unusable)?, at).map_err(unusable)
}

async fn authority(
    arguments: &Arguments,
    store: &dyn Store,
    identity: &Path,
    at: Option<Timestamp>,
    yes: bool,
) -> Result<Report, Fault> {
    let identities = identities(identity)?;
    let generation = chosen(store, at).await?;
    let bundle = unseal_authority(store, generation, &identities).await.map_err(failed)?;
    let cluster = Cluster::connect(&arguments.cluster).await?;
    let secrets: Api<Secret> = Api::namespaced(cluster.client, &arguments.cluster.operator_namespace);
    ca::restore(&secrets, &format!("the backup of {}", when(generation.at)), &bundle, yes).await
}

async fn ledger(store: &dyn Store, to: &Path, identity: Option<&Path>, at: Option<Timestamp>) -> Result<Report, Fault> {
    let identities = identity.map(identities).transpose()?.unwrap_or_default();
    let generation = chosen(store, at).await?;
    std::fs::create_dir_all(to).map_err(|error| Fault::file(to, error))?;
    let target: Arc<dyn Storage> = Arc::new(DiskStorage::open(to).map_err(|error| Fault::file(to, error))?);
    let (settings, clock) = (Settings::default(), Clock::system());
    let made = depin_backup::restore(store, generation, &identities, &target, &settings, &clock);
    let made = made.await.map_err(failed)?;
    let (shown, at) = (to.display(), when(generation.at));
    Ok(Report::new(
        json!({
            "directory": to, "at": at, "position": generation.position, "incarnation": made.incarnation, "files": made.files,
            "bytes": made.bytes,
        }),
        format!(
            "{shown} is the ledger as of {at}; look through it: depin-gateway ledger --data-dir {shown} verify\nIts gateway lets no epoch close \
             before every known chain has reported what it has."
        ),
    ))
}
