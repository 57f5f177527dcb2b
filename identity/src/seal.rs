//! Sealing a secret to the operator: who passes it on, and who stores it, cannot read it.
//!
//! HPKE (RFC 9180) in base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305, one message for each encapsulation.
//! The operator's key is derived from its certificate authority's: it is there as long as the authority is, and nothing more has to be kept.

use curve25519_dalek::MontgomeryPoint;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use zeroize::Zeroizing;

use crate::keys::KeyError;

/// `"KEM" ‖ 0x0020`.
const KEM_SUITE: &[u8] = b"KEM\x00\x20";
/// `"HPKE" ‖ KEM 0x0020 ‖ KDF 0x0001 ‖ AEAD 0x0003`.
const HPKE_SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
const VERSION: &[u8] = b"HPKE-v1";
const DERIVATION: &[u8] = b"depin.dev sealing key v1";
/// Bytes of an X25519 key, public or secret, and of an encapsulated one.
pub const KEY_BYTES: usize = 32;

/// Something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The system gives no random numbers.
    #[error(transparent)]
    Random(#[from] KeyError),
    /// The public key is none (a point of small order), or has another length.
    #[error("the sealing key is not a usable X25519 public key")]
    BadKey,
    /// What was sealed was sealed to another key, for another purpose, or was changed.
    #[error("it was not sealed to this key and for this purpose, or it was changed on its way")]
    NotForUs,
}

/// The key that opens.
pub struct SealingKey {
    secret: Zeroizing<[u8; KEY_BYTES]>,
    public: [u8; KEY_BYTES],
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SealingKey({})", hex::encode(self.public))
    }
}

impl SealingKey {
    /// The key that follows from another secret.
    #[must_use]
    pub fn derive(secret: &[u8]) -> Self {
        Self::of(&extract(DERIVATION, secret))
    }

    fn of(secret: &[u8; KEY_BYTES]) -> Self {
        Self { secret: Zeroizing::new(*secret), public: MontgomeryPoint::mul_base_clamped(*secret).to_bytes() }
    }

    /// To whom others seal.
    #[must_use]
    pub fn public(&self) -> [u8; KEY_BYTES] {
        self.public
    }

    /// Opens what was sealed to this key for `purpose` and bound to `bound`.
    ///
    /// # Errors
    /// Where it was not.
    pub fn open(&self, purpose: &[u8], bound: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (encapsulated, ciphertext) = sealed.split_first_chunk::<KEY_BYTES>().ok_or(SealError::NotForUs)?;
        let shared = agree(&self.secret, encapsulated).ok_or(SealError::NotForUs)?;
        let (key, nonce) = schedule(&shared, encapsulated, &self.public, purpose).ok_or(SealError::NotForUs)?;
        let mut text = Zeroizing::new(ciphertext.to_vec());
        let length =
            key.open_in_place(nonce, Aad::from(bound), text.as_mut_slice()).map_err(|_| SealError::NotForUs)?.len();
        text.truncate(length);
        Ok(text)
    }
}

/// Seals `text` to the holder of `key`: 32 bytes of encapsulated key, then the ciphertext. It opens only for the same `purpose` and
/// beside the same `bound`.
///
/// # Errors
/// Where the key is none or the system gives no random numbers.
pub fn seal(key: &[u8], purpose: &[u8], bound: &[u8], text: &[u8]) -> Result<Vec<u8>, SealError> {
    let key: &[u8; KEY_BYTES] = key.try_into().map_err(|_| SealError::BadKey)?;
    let mut ephemeral = Zeroizing::new([0; KEY_BYTES]);
    getrandom::fill(ephemeral.as_mut_slice()).map_err(KeyError::Random)?;
    seal_by(&SealingKey::of(&ephemeral), key, purpose, bound, text)
}

fn seal_by(
    ephemeral: &SealingKey,
    key: &[u8; KEY_BYTES],
    purpose: &[u8],
    bound: &[u8],
    text: &[u8],
) -> Result<Vec<u8>, SealError> {
    let shared = agree(&ephemeral.secret, key).ok_or(SealError::BadKey)?;
    let (sealing, nonce) = schedule(&shared, &ephemeral.public, key, purpose).ok_or(SealError::BadKey)?;
    let mut sealed = Zeroizing::new(text.to_vec());
    sealing.seal_in_place_append_tag(nonce, Aad::from(bound), &mut *sealed).map_err(|_| SealError::BadKey)?;
    Ok([&ephemeral.public, sealed.as_slice()].concat())
}

/// The public key that a text of 64 hexadecimal digits tells.
#[must_use]
pub fn public_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    hex::decode_to_slice(text.trim(), &mut key).ok().map(|()| key)
}

/// Fields one after the other, each behind its length: what a sealed text is bound to.
#[must_use]
pub fn binding(fields: &[&[u8]]) -> Vec<u8> {
    fields.iter().flat_map(|field| [&(field.len() as u64).to_be_bytes(), *field].concat()).collect()
}

/// The shared point; none where the other side's has a small order.
fn agree(secret: &[u8; KEY_BYTES], public: &[u8; KEY_BYTES]) -> Option<Zeroizing<[u8; KEY_BYTES]>> {
    let shared = Zeroizing::new(MontgomeryPoint(*public).mul_clamped(*secret).to_bytes());
    (*shared != [0; KEY_BYTES]).then_some(shared)
}

/// RFC 9180, 4.1 (`ExtractAndExpand`) and 5.1 (`KeySchedule`).
fn schedule(
    shared: &[u8; KEY_BYTES],
    encapsulated: &[u8; KEY_BYTES],
    recipient: &[u8; KEY_BYTES],
    purpose: &[u8],
) -> Option<(LessSafeKey, Nonce)> {
    let eae = labeled_extract(KEM_SUITE, &[], b"eae_prk", shared);
    let secret = labeled_expand(KEM_SUITE, &eae, b"shared_secret", &[encapsulated.as_slice(), recipient].concat(), 32);
    let mut context = vec![0];
    context.extend_from_slice(&*labeled_extract(HPKE_SUITE, &[], b"psk_id_hash", &[]));
    context.extend_from_slice(&*labeled_extract(HPKE_SUITE, &[], b"info_hash", purpose));
    let secret = labeled_extract(HPKE_SUITE, &*secret, b"secret", &[]);
    let key = labeled_expand(HPKE_SUITE, &secret, b"key", &context, 32);
    let nonce = labeled_expand(HPKE_SUITE, &secret, b"base_nonce", &context, 12);
    let nonce = Nonce::try_assume_unique_for_key(nonce.get(..12)?).ok()?;
    Some((LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).ok()?), nonce))
}

fn labeled_extract(suite: &[u8], salt: &[u8], label: &[u8], key: &[u8]) -> Zeroizing<[u8; 32]> {
    extract(salt, &Zeroizing::new([VERSION, suite, label, key].concat()))
}

/// At most 32 bytes are ever wanted: one block of HKDF's expansion, of which the first `length` count.
fn labeled_expand(suite: &[u8], key: &[u8; 32], label: &[u8], info: &[u8], length: u8) -> Zeroizing<[u8; 32]> {
    mac(key, &[&[0, length], VERSION, suite, label, info, &[1]].concat())
}

fn extract(salt: &[u8], key: &[u8]) -> Zeroizing<[u8; 32]> {
    mac(salt, key)
}

fn mac(key: &[u8], text: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut out = Zeroizing::new([0; 32]);
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex::decode(hex).unwrap()
    }

    /// RFC 9180, A.2.1 and A.2.1.1, sequence number 0.
    #[test]
    fn the_rfcs_vector_is_met_both_ways() {
        let recipient = SealingKey::of(
            bytes("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb").as_slice().try_into().unwrap(),
        );
        assert_eq!(hex::encode(recipient.public), "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
        let ephemeral = SealingKey::of(
            bytes("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600").as_slice().try_into().unwrap(),
        );
        let (purpose, bound) = (b"Ode on a Grecian Urn", b"Count-0");
        let text = b"Beauty is truth, truth beauty";
        let sealed = seal_by(&ephemeral, &recipient.public, purpose, bound, text).unwrap();
        assert_eq!(
            hex::encode(&sealed),
            "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a\
             1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
        );
        assert_eq!(recipient.open(purpose, bound, &sealed).unwrap().as_slice(), text);
    }

    #[test]
    fn what_is_sealed_opens_for_its_key_purpose_and_binding_alone() {
        let key = SealingKey::derive(b"an authority's key");
        assert_eq!(key.public(), SealingKey::derive(b"an authority's key").public(), "it is there after a restart");
        let bound = binding(&[b"csr", b"name"]);
        let sealed = seal(&key.public(), b"pass", &bound, b"a token").unwrap();
        assert_ne!(sealed, seal(&key.public(), b"pass", &bound, b"a token").unwrap());
        assert!(!sealed.windows(7).any(|part| part == b"a token"));
        assert_eq!(key.open(b"pass", &bound, &sealed).unwrap().as_slice(), b"a token");
        assert!(SealingKey::derive(b"another").open(b"pass", &bound, &sealed).is_err());
        assert!(key.open(b"other", &bound, &sealed).is_err());
        assert!(key.open(b"pass", &binding(&[b"csrn", b"ame"]), &sealed).is_err(), "fields are told apart");
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert!(key.open(b"pass", &bound, &changed).is_err(), "byte {place}");
            assert!(key.open(b"pass", &bound, &sealed[..place]).is_err());
        }
        assert!(seal(&[0; 32], b"pass", &bound, b"a token").is_err(), "a point of small order");
        assert!(seal(&[9; 31], b"pass", &bound, b"a token").is_err());
        assert!(!format!("{key:?}").contains(&hex::encode(*key.secret)));
    }
}
