//! The sealer: from spooled readings to signed proofs, and from receipts to forgetting.
//!
//! Decisions are pure: [`chain`] says how a stream begins, [`assemble`] makes sections and proofs, [`clock`] dates readings, [`journal`] says what
//! the durable records mean. [`Store`] does the I/O: two logs, the spool and the journal. What [`Store::append`] returned for is either
//! in the spool, in a sealed proof that is kept until its receipt, or told as dropped; a reading leaves the spool and enters a
//! proof in one durable write.

pub mod assemble;
pub mod chain;
pub mod clock;
pub mod journal;
mod store;
mod view;

pub use journal::GivenUp;
pub(crate) use store::wants_room;
pub use store::{Answered, Collected, Found, Left, RESERVE, Store, StoreError, StoreOptions, Taken};
pub use view::{Relayed, View};

#[cfg(test)]
mod tests;
