//! Identifiers: digests of what they name, so that they survive the loss of the cluster that first gave them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A text is not the hexadecimal form of an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} bytes in hexadecimal, got {text:?}")]
pub struct ParseIdError {
    expected: usize,
    text: String,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $size]);

        impl $name {
            /// Takes the bytes, if there are exactly as many as this identifier has.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $size];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| ParseIdError { expected: $size, text: text.chars().take(80).collect() })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

identifier!(
    /// A device: the first 16 bytes of SHA-256(`depin.v1.Device` 0 namespace 0 name).
    DeviceId, 16
);
identifier!(
    /// An agent: the first 16 bytes of SHA-256(`depin.v1.Agent` 0 namespace 0 name).
    AgentId, 16
);
identifier!(
    /// A signing key: SHA-256(algorithm byte, public key bytes).
    KeyId, 32
);
identifier!(
    /// SHA-256 of something.
    Digest, 32
);

fn named(domain: &str, namespace: &str, name: &str) -> [u8; 16] {
    let hash = Sha256::new()
        .chain_update(domain)
        .chain_update([0])
        .chain_update(namespace)
        .chain_update([0])
        .chain_update(name)
        .finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    id
}

impl DeviceId {
    /// The id of the EdgeDevice `namespace/name`.
    #[must_use]
    pub fn of(namespace: &str, name: &str) -> Self {
        Self(named("depin.v1.Device", namespace, name))
    }

    /// The device's decentralized identifier, `did:depin:<hex>`.
    #[must_use]
    pub fn did(&self) -> String {
        format!("did:depin:{self}")
    }
}

impl AgentId {
    /// The id of the EdgeAgent `namespace/name`.
    #[must_use]
    pub fn of(namespace: &str, name: &str) -> Self {
        Self(named("depin.v1.Agent", namespace, name))
    }
}

impl Digest {
    /// SHA-256 of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519, verified by the ZIP-215 rules.
    Ed25519,
    /// ECDSA over P-256 with SHA-256; for secure elements.
    P256,
}

impl Algorithm {
    /// The byte that names the algorithm in key ids and envelopes.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Ed25519 => 1,
            Self::P256 => 2,
        }
    }

    /// The algorithm that `code` names.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Ed25519),
            2 => Some(Self::P256),
            _ => None,
        }
    }
}

/// A public key: Ed25519 32 bytes, P-256 33 bytes (compressed point).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey {
    /// How its signatures are verified.
    pub algorithm: Algorithm,
    /// The encoded point, in hexadecimal where it is text.
    #[serde(with = "hex_bytes")]
    pub bytes: Vec<u8>,
}

impl PublicKey {
    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(Sha256::new().chain_update([self.algorithm.code()]).chain_update(&self.bytes).finalize().into())
    }
}

mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}
