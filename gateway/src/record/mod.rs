//! The ledger's own service, for the operator and the CLI: the record as gRPC, with what each caller may see.

mod backups;
mod epochs;
mod service;
mod sight;
mod status;

pub(crate) use service::LedgerService;
pub(crate) use status::status;
