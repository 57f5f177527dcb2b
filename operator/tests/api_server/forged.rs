//! Tokens of ServiceAccounts as nobody issues them: made of a good one with the API server's own key.

use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::Value;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url without padding.
fn encode(bytes: &[u8]) -> String {
    let digits = |group: &[u8]| {
        let word = group.iter().chain([&0; 2]).take(3).fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
        (0..=group.len()).map(move |place| char::from(ALPHABET[(word >> (18 - 6 * place)) as usize & 63])).collect()
    };
    bytes.chunks(3).map(|group| -> String { digits(group) }).collect()
}

fn decode(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for group in text.as_bytes().chunks(4) {
        let word = group
            .iter()
            .fold(0_u32, |word, letter| word << 6 | ALPHABET.iter().position(|digit| digit == letter).unwrap() as u32);
        let word = word << (6 * (4 - group.len()));
        out.extend_from_slice(&word.to_be_bytes()[1..group.len()]);
    }
    out
}

fn signed(token: &str, key: &str, change: impl Fn(&mut Value)) -> String {
    let (header, rest) = token.split_once('.').unwrap();
    let mut claims: Value = serde_json::from_slice(&decode(rest.split_once('.').unwrap().0)).unwrap();
    change(&mut claims);
    let text = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let key = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der(), &random).unwrap();
    let signature = pair.sign(&random, text.as_bytes()).unwrap();
    format!("{text}.{}", encode(signature.as_ref()))
}

/// The same token, signed once more: that it is good shows that the others are refused for what was changed.
pub(crate) fn again(token: &str, key: &str) -> String {
    signed(token, key, |_| {})
}

/// The same token as it was issued an hour and a half ago for an hour.
pub(crate) fn expired(token: &str, key: &str) -> String {
    signed(token, key, |claims| {
        for (claim, earlier) in [("iat", 5400), ("nbf", 5400), ("exp", 2400)] {
            claims[claim] = (claims[claim].as_i64().unwrap() - earlier).into();
        }
    })
}

/// The same token with another's signature.
pub(crate) fn unsigned(token: &str) -> String {
    let (text, _) = token.rsplit_once('.').unwrap();
    format!("{text}.{}", encode(&[7; 64]))
}
