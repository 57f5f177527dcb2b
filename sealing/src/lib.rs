//! Encryption of what leaves the cluster: to recipients whose secret keys are not in it.
//!
//! Gateway and operator seal, and hold nothing that opens; a person with an identity opens.

mod authority;
mod keys;

pub use authority::AuthorityBundle;
pub use keys::{Identities, Recipients, SealError, is_sealed};
