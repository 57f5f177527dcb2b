//! The operator: custom resources in, registry, certificates and epochs out.
//!
//! One leader works. It turns what people wrote into registry changes, answers what the gateways put into the inbox, closes epochs, and
//! tells in statuses and Events what became of everything. The ledger is the record; the operator remembers nothing of its own.

pub mod agents;
pub mod annotations;
pub mod authority_backup;
pub mod backoff;
pub mod certificates;
pub mod clock;
pub mod cluster;
pub mod conditions;
pub mod context;
pub mod controller;
pub mod controllers;
pub mod devices;
pub mod enrollments;
pub mod fleets;
pub mod invalid;
pub mod leader;
pub mod ledger;
pub mod metrics;
pub mod models;
pub mod options;
pub mod owners;
pub mod presence;
pub mod quantities;
pub mod query;
pub mod registry;
pub mod rewards;
pub mod run;
pub mod status;
pub mod watched;
pub mod workqueue;

pub use options::Options;
pub use run::run;
