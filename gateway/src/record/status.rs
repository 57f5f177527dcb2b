//! Status codes for the ledger's errors, as `ledger.proto` lists them.

use depin_ledger::LedgerError;
use tonic::{Code, Status};

/// The status that tells `error`.
pub(crate) fn status(error: LedgerError) -> Status {
    let code = match &error {
        LedgerError::Unavailable(_) => Code::Unavailable,
        LedgerError::Overloaded | LedgerError::InboxFull(_) => Code::ResourceExhausted,
        LedgerError::Fenced { .. } => Code::PermissionDenied,
        LedgerError::VersionConflict { .. } => Code::Aborted,
        LedgerError::InvalidChange { .. } | LedgerError::Invalid { .. } => Code::InvalidArgument,
        LedgerError::TooEarly { .. } | LedgerError::ClosingHeld { .. } | LedgerError::NotFinalized { .. } => {
            Code::FailedPrecondition
        }
        LedgerError::NotFound(_) => Code::NotFound,
        LedgerError::Conflict { .. } => Code::AlreadyExists,
        LedgerError::Damaged(_) | LedgerError::HalfRestored | LedgerError::Newer(_) | LedgerError::Migrated => {
            Code::DataLoss
        }
    };
    Status::new(code, error.to_string())
}
