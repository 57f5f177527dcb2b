//! Who somebody is: signing keys, signatures verified singly and in batches, certificates, join tokens, TLS settings.
//!
//! One Ed25519 key is an agent's TLS key and its chain's key: TLS 1.3 and the envelope keep their signatures apart by domain
//! tags. Secrets never appear in `Debug` output or errors. Nothing in here reads a clock but TLS itself: callers pass times.

pub mod authority;
pub mod batch;
pub mod certificates;
pub mod channel;
pub mod keys;
pub mod pass;
pub mod peer;
pub mod proxy;
pub mod seal;
pub mod tls;
pub mod token;
pub mod trust;

pub use authority::CertificateAuthority;
pub use batch::{Claim, verify_batch};
pub use certificates::{CertificateInfo, CertificateRequest};
pub use channel::{Route, ServerKey, connect_by, connect_lazy};
pub use keys::{SigningKey, VerifyingKey};
pub use pass::Pass;
pub use peer::PeerIdentity;
pub use proxy::Proxy;
pub use seal::SealingKey;
pub use tls::{ClientAuth, KeyAndChain, Trust, client_config, server_config};
pub use token::JoinToken;
