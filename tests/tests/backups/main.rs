//! Backups into a real S3-compatible store, and a gateway that lost its volume.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

mod lost_volume;
mod s3;
mod server;

use std::path::{Path, PathBuf};

/// A new age key: its public part, and a file as age-keygen writes it.
fn identity(directory: &Path) -> (String, PathBuf) {
    use age::secrecy::ExposeSecret as _;
    let identity = age::x25519::Identity::generate();
    let file = directory.join("identity.txt");
    let text = format!("# public key: {}\n{}\n", identity.to_public(), identity.to_string().expose_secret());
    std::fs::write(&file, text).unwrap();
    (identity.to_public().to_string(), file)
}
