//! The certificate authorities in the gateway's backups: sealed here, to recipients that this operator was told.
//!
//! The gateway faces the outside and holds no key of an authority, so it gets an age file and nothing that opens it. To whom it is
//! encrypted is never what a gateway says: one that was taken over would name itself.

use std::{sync::Arc, time::Duration};

use depin_domain::ids::Digest;
use depin_proto::v1::{BackupStatus, KeepAuthorityRequest, ReadBackupsRequest};
use depin_sealing::Recipients;
use tokio::sync::watch;
use tonic::Status;

use crate::{
    certificates::{authorities::Authorities, kept},
    ledger::Ledger,
    metrics::Metrics,
};

/// How often it is looked whether the gateway has them: one that starts anew has not.
const LOOK: Duration = Duration::from_secs(20);

/// Looks after it for ever; without recipients there is nothing to do.
pub async fn run(
    ledger: &Ledger,
    mut authorities: watch::Receiver<Arc<Authorities>>,
    recipients: &Recipients,
    metrics: &Metrics,
) {
    if recipients.is_empty() {
        return std::future::pending().await;
    }
    loop {
        let known = Arc::clone(&authorities.borrow_and_update());
        let kept = keep(ledger, &known, recipients).await;
        metrics.set_authority_kept(*kept.as_ref().unwrap_or(&false));
        if let Err(status) = kept {
            tracing::warn!(
                code = %status.code(), problem = status.message(),
                "the certificate authorities could not be handed to the gateway's backups"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            changed = authorities.changed() => if changed.is_err() {
                // Who changes them is gone: the operator ends.
                return std::future::pending().await;
            },
        }
    }
}

/// Whether backups have them from now on; false: the gateway makes none.
///
/// # Errors
/// What the gateway answers.
pub async fn keep(ledger: &Ledger, authorities: &Authorities, recipients: &Recipients) -> Result<bool, Status> {
    let known = ledger.client().read_backups(ReadBackupsRequest::default()).await?.into_inner();
    if !known.configured {
        return Ok(false);
    }
    let failed = |error: &dyn std::fmt::Display| Status::internal(error.to_string());
    let (bundle, content) = kept::bundle(authorities).map_err(|error| failed(&error))?;
    if !is_there(&known, content, recipients) {
        let request = KeepAuthorityRequest {
            writer: ledger.writer(),
            sealed: bundle.seal(recipients).map_err(|error| failed(&error))?,
            content_sha256: content.0.to_vec().into(),
            recipients: recipients.names().to_vec(),
        };
        ledger.client().keep_authority(request).await?;
        tracing::info!("the certificate authorities, encrypted, are in the gateway's backups from now on");
    }
    Ok(true)
}

fn is_there(known: &BackupStatus, content: Digest, recipients: &Recipients) -> bool {
    known.authority_sha256[..] == content.0 && known.authority_recipients == recipients.names()
}
