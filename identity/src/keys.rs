//! Keys: an Ed25519 key that signs and is kept in a file, and public keys made ready for verification.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use curve25519_dalek::{
    edwards::{CompressedEdwardsY, EdwardsPoint},
    scalar::Scalar,
    traits::IsIdentity as _,
};
use depin_domain::ids::{Algorithm, KeyId, PublicKey};
use ed25519_dalek::Signer as _;
use p256::ecdsa::signature::Verifier as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

/// PKCS#8 (RFC 8410) of an Ed25519 key without its last 32 bytes, which are the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A key cannot be made, read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gives no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    /// A key file cannot be read or written.
    #[error("key file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not a private key of a kind that is used here.
    #[error("{0} holds no Ed25519 private key in PKCS#8 PEM; make one with `openssl genpkey -algorithm ed25519`")]
    NotEd25519(String),
    /// The bytes are no point of the algorithm's curve.
    #[error("publicKey: the bytes are no {0:?} public key")]
    NotAKey(Algorithm),
}

/// An Ed25519 key that signs.
#[derive(Clone)]
pub struct SigningKey {
    inner: ed25519_dalek::SigningKey,
    public: PublicKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public.id())
    }
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// Where the system gives no random numbers.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(KeyError::Random)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let inner = ed25519_dalek::SigningKey::from_bytes(seed);
        let bytes = inner.verifying_key().to_bytes().to_vec();
        Self { inner, public: PublicKey { algorithm: Algorithm::Ed25519, bytes } }
    }

    /// The key in PKCS#8 PEM text; `origin` names it in errors.
    ///
    /// # Errors
    /// Where the text holds no Ed25519 key.
    pub fn from_pem(pem: &str, origin: &str) -> Result<Self, KeyError> {
        let wrong = || KeyError::NotEd25519(origin.to_owned());
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| wrong())?;
        Self::from_pkcs8(key.secret_pkcs8_der()).ok_or_else(wrong)
    }

    /// Both forms in use: RFC 8410's version 1, and version 2, which the public key follows.
    fn from_pkcs8(der: &[u8]) -> Option<Self> {
        let marker = &PKCS8_PREFIX[5..];
        let body = der.get(5..)?.strip_prefix(marker)?;
        let seed: &[u8; 32] = body.first_chunk()?;
        Some(Self::from_seed(seed))
    }

    /// PKCS#8 PEM text.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::certificates::pem("PRIVATE KEY", &self.pkcs8()))
    }

    fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([PKCS8_PREFIX.as_slice(), self.inner.as_bytes()].concat())
    }

    /// The key for TLS settings.
    #[must_use]
    pub fn to_tls(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8().to_vec()).into()
    }

    /// The key for making certificates and requests.
    pub(crate) fn to_rcgen(&self) -> Result<rcgen::KeyPair, rcgen::Error> {
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(self.pkcs8().as_slice()),
            &rcgen::PKCS_ED25519,
        )
    }

    /// Reads the key from a file, or makes one and keeps it there, on disk before this returns, readable by its owner only.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or holds something else; it is never overwritten.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        let at = |source| KeyError::File { path: path.to_owned(), source };
        match fs::read_to_string(path) {
            Ok(pem) => Self::from_pem(&Zeroizing::new(pem), &path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::generate()?;
                write_private(path, key.to_pem().as_bytes()).map_err(at)?;
                Ok(key)
            }
            Err(error) => Err(at(error)),
        }
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.public.id()
    }

    /// Signs `message`. The caller puts a domain tag in front: `depin_proto::envelope::proof_signing_input`.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.inner.sign(message).to_bytes()
    }
}

/// Writes a file that only its owner may read. Complete or not there: written beside, synced, then renamed.
///
/// # Errors
/// Where the file system refuses.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let beside = directory.join(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(directory)?.sync_all()
}

/// A public key, decoded once for many verifications.
#[derive(Clone)]
pub struct VerifyingKey {
    public: PublicKey,
    id: KeyId,
    pub(crate) point: Point,
}

/// A decoded key.
#[derive(Clone)]
pub(crate) enum Point {
    /// The encoding that is hashed, and the point.
    Ed25519([u8; 32], EdwardsPoint),
    P256(Box<p256::ecdsa::VerifyingKey>),
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.id)
    }
}

impl VerifyingKey {
    /// Decodes a public key. Ed25519 by the ZIP-215 rules: any encoding of any point, canonical or not; P-256 compressed.
    ///
    /// # Errors
    /// Where the bytes are no point of the curve.
    pub fn new(public: &PublicKey) -> Result<Self, KeyError> {
        let wrong = || KeyError::NotAKey(public.algorithm);
        let point = match public.algorithm {
            Algorithm::Ed25519 => {
                let bytes: [u8; 32] = public.bytes.as_slice().try_into().map_err(|_| wrong())?;
                Point::Ed25519(bytes, CompressedEdwardsY(bytes).decompress().ok_or_else(wrong)?)
            }
            Algorithm::P256 if public.bytes.len() == 33 => {
                Point::P256(Box::new(p256::ecdsa::VerifyingKey::from_sec1_bytes(&public.bytes).map_err(|_| wrong())?))
            }
            Algorithm::P256 => return Err(wrong()),
        };
        Ok(Self { public: public.clone(), id: public.id(), point })
    }

    /// The key's id.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The key as it was given.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Whether `signature` is this key's over `domain ‖ message`.
    #[must_use]
    pub fn verify(&self, domain: &[u8], message: &[u8], signature: &[u8]) -> bool {
        match &self.point {
            Point::Ed25519(bytes, point) => verify_ed25519(bytes, point, domain, message, signature),
            Point::P256(key) => p256::ecdsa::Signature::from_slice(signature)
                .is_ok_and(|signature| key.verify(&[domain, message].concat(), &signature).is_ok()),
        }
    }
}

/// The parts of an Ed25519 signature that the equation needs; none where `s` is not canonical or `R` is no point.
pub(crate) struct Parts {
    pub(crate) r: EdwardsPoint,
    pub(crate) s: Scalar,
    /// SHA-512(R ‖ A ‖ domain ‖ message) mod L.
    pub(crate) k: Scalar,
}

pub(crate) fn parts(key: &[u8; 32], domain: &[u8], message: &[u8], signature: &[u8]) -> Option<Parts> {
    let signature: &[u8; 64] = signature.try_into().ok()?;
    let (r, s) = signature.split_first_chunk::<32>()?;
    let s = Option::from(Scalar::from_canonical_bytes(s.try_into().ok()?))?;
    let hash = Sha512::new().chain_update(r).chain_update(key).chain_update(domain).chain_update(message).finalize();
    let k = Scalar::from_bytes_mod_order_wide(&hash.into());
    Some(Parts { r: CompressedEdwardsY(*r).decompress()?, s, k })
}

/// ZIP-215: `[8][s]B = [8]R + [8][k]A`.
fn verify_ed25519(key: &[u8; 32], point: &EdwardsPoint, domain: &[u8], message: &[u8], signature: &[u8]) -> bool {
    parts(key, domain, message, signature).is_some_and(|Parts { r, s, k }| {
        let difference = EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &-point, &s) - r;
        difference.mul_by_cofactor().is_identity()
    })
}
