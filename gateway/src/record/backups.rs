//! Backups, as the ledger's service tells of them.

use depin_backup::Authority;
use depin_domain::ids::Digest;
use depin_proto::v1;
use tonic::Status;

use super::{service::LedgerService, status};
use crate::backup::{BackupControl, Backups};

/// No sealed authority is larger.
const LARGEST: usize = 64 << 10;

impl LedgerService {
    fn backups(&self) -> Result<&BackupControl, Status> {
        match &self.backups {
            Backups::Made(control) => Ok(control),
            Backups::None => Err(Status::failed_precondition(
                "no backup is configured: start the gateway with --backup-dir or --backup-s3",
            )),
            Backups::OfDatabase => Err(Status::failed_precondition(
                "the ledger is in PostgreSQL, which is backed up by its own tools (pg_dump, or base backups with archived WAL): tell of them \
                 with `depin-gateway ledger backup-begins` and `backup-completed`, and save the certificate authority with \
                 `kubectl depin ca export`",
            )),
        }
    }

    pub(super) async fn backup_status(&self, generations: bool) -> Result<v1::BackupStatus, Status> {
        let mut told = match &self.backups {
            Backups::Made(control) => control.status(),
            Backups::None => v1::BackupStatus::default(),
            Backups::OfDatabase => v1::BackupStatus { of_database: true, ..v1::BackupStatus::default() },
        };
        told.position = self.ledger.info().await.map_err(status)?.position;
        if let (true, Backups::Made(control)) = (generations, &self.backups) {
            told.generations = control.generations().await.map_err(|error| Status::unavailable(error.to_string()))?;
        }
        Ok(told)
    }

    pub(super) async fn make_backup(&self, wait: bool) -> Result<v1::BackupStatus, Status> {
        tokio::select! {
            () = self.stop.cancelled() => Err(Status::unavailable("the gateway stops")),
            made = self.backups()?.request(wait) => {
                made.map_err(|error| Status::unavailable(format!("the backup failed: {error}")))?;
                self.backup_status(false).await
            }
        }
    }

    pub(super) async fn keep_sealed(
        &self,
        request: v1::KeepAuthorityRequest,
    ) -> Result<v1::KeepAuthorityResponse, Status> {
        let backups = self.backups()?;
        let newest = self.ledger.info().await.map_err(status)?;
        let writer = request.writer.unwrap_or_default();
        if (writer.incarnation, writer.token) != (newest.incarnation, newest.writer_token) {
            return Err(Status::permission_denied("the writer token is not the newest: another operator leads"));
        }
        let invalid = |why: &str| Status::invalid_argument(why.to_owned());
        let content = <[u8; 32]>::try_from(&request.content_sha256[..])
            .map_err(|_| invalid("content_sha256: has not 32 bytes"))?;
        if request.recipients.is_empty() || !depin_backup::is_sealed(&request.sealed) {
            return Err(invalid("sealed: is no age file with recipients; the authority is only taken encrypted"));
        }
        if request.sealed.len() > LARGEST {
            return Err(invalid("sealed: is larger than any authority"));
        }
        backups.keep(Authority { sealed: request.sealed, content: Digest(content), recipients: request.recipients });
        Ok(v1::KeepAuthorityResponse {})
    }
}
