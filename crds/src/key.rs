//! Public keys as they stand in specs.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A public key that signs proofs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    cel,
    validation = ("self.algorithm == 'Ed25519' ? size(self.key) == 64 : size(self.key) == 66",
        "an Ed25519 key is 32 bytes (64 hexadecimal digits), a P256 key 33 bytes (66 digits, compressed point)")
)]
pub struct PublicKey {
    /// How its signatures are verified.
    pub algorithm: KeyAlgorithm,
    /// The encoded public point, in lower-case hexadecimal.
    #[schemars(length(min = 64, max = 66), regex(pattern = r"^[0-9a-f]+$"))]
    pub key: String,
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum KeyAlgorithm {
    /// Ed25519, verified by the rules of ZIP-215.
    Ed25519,
    /// ECDSA over P-256 with SHA-256, for secure elements.
    P256,
}
