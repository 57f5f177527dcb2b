//! Signatures: single, in batches, and against other implementations and published vectors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use depin_domain::ids::{Algorithm, PublicKey};
use depin_identity::{Claim, SigningKey, VerifyingKey, verify_batch};
use depin_trials::{Rng, RngCore as _, below, one_in, run};

struct Case {
    key: VerifyingKey,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Case {
    fn claim(&self) -> Claim<'_> {
        Claim { key: &self.key, domain: b"", message: &self.message, signature: &self.signature }
    }

    fn single(&self) -> bool {
        self.key.verify(b"", &self.message, &self.signature)
    }
}

fn batch_agrees_with_single(cases: &[Case], seed: u8) -> Vec<bool> {
    let claims: Vec<_> = cases.iter().map(Case::claim).collect();
    let together = verify_batch(&claims, [seed; 32]);
    let singly: Vec<bool> = cases.iter().map(Case::single).collect();
    assert_eq!(together, singly);
    together
}

fn ed25519(bytes: &[u8]) -> Option<VerifyingKey> {
    VerifyingKey::new(&PublicKey { algorithm: Algorithm::Ed25519, bytes: bytes.to_vec() }).ok()
}

fn consensus(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let key = ed25519_consensus::VerificationKey::try_from(key);
    let signature = ed25519_consensus::Signature::try_from(signature);
    matches!((key, signature), (Ok(key), Ok(signature)) if key.verify(&signature, message).is_ok())
}

/// A file of the test vectors, where they are there.
fn shared(name: &str) -> Option<String> {
    depin_trials::shared_data(&format!("crypto/{name}")).map(|path| std::fs::read_to_string(path).unwrap())
}

fn unhex(value: &serde_json::Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

#[test]
fn rfc_8032_vectors_verify_and_are_what_we_sign() {
    let Some(text) = shared("ed25519_sign_vectors.jsonl") else { return };
    let mut cases = Vec::new();
    for line in text.lines() {
        let vector: serde_json::Value = serde_json::from_str(line).unwrap();
        let signer = SigningKey::from_seed(&unhex(&vector["seed"]).try_into().unwrap());
        let message = unhex(&vector["message"]);
        assert_eq!(signer.public().bytes, unhex(&vector["public_key"]));
        assert_eq!(signer.sign(&message).to_vec(), unhex(&vector["signature"]));
        let key = VerifyingKey::new(signer.public()).unwrap();
        cases.push(Case { key, message, signature: unhex(&vector["signature"]) });
    }
    assert!(cases.len() > 100);
    assert!(batch_agrees_with_single(&cases, 1).iter().all(|good| *good));
}

#[test]
fn wycheproof_vectors_give_the_same_singly_in_a_batch_and_elsewhere() {
    let Some(text) = shared("wycheproof_ed25519.json") else { return };
    let vectors: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut cases = Vec::new();
    let mut expected = Vec::new();
    for group in vectors["testGroups"].as_array().unwrap() {
        let public = unhex(&group["publicKey"]["pk"]);
        for test in group["tests"].as_array().unwrap() {
            let (message, signature) = (unhex(&test["msg"]), unhex(&test["sig"]));
            let Some(key) = ed25519(&public) else {
                assert!(!consensus(&public, &message, &signature));
                continue;
            };
            let good = consensus(&public, &message, &signature);
            // ZIP-215 takes more than RFC 8032, never less.
            assert!(good || test["result"] == "invalid", "{test}");
            expected.push(good);
            cases.push(Case { key, message, signature });
        }
    }
    assert!(cases.len() > 100);
    assert_eq!(batch_agrees_with_single(&cases, 2), expected);
}

/// The eight points of small order in all their encodings, canonical or not (as listed with ZIP-215).
const SMALL_ORDER: [&str; 14] = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
];

#[test]
fn all_pairs_of_small_order_encodings_verify_as_zip_215_says() {
    let mut cases = Vec::new();
    for key in SMALL_ORDER {
        for r in SMALL_ORDER {
            let key = ed25519(&hex::decode(key).unwrap()).expect("ZIP-215 takes every encoding");
            let signature = [hex::decode(r).unwrap(), vec![0; 32]].concat();
            assert!(consensus(&key.public().bytes, b"Zcash", &signature));
            cases.push(Case { key, message: b"Zcash".to_vec(), signature });
        }
    }
    assert!(batch_agrees_with_single(&cases, 3).iter().all(|good| *good));
}

fn random_case(rng: &mut Rng, signers: &[SigningKey]) -> Case {
    let mut message = vec![0; below(rng, 300) as usize];
    rng.fill_bytes(&mut message);
    let signer = &signers[below(rng, signers.len() as u64) as usize];
    let mut signature = signer.sign(&message).to_vec();
    let mut key = VerifyingKey::new(signer.public()).unwrap();
    let small = |rng: &mut Rng| hex::decode(SMALL_ORDER[below(rng, 14) as usize]).unwrap();
    match below(rng, 12) {
        0 => signature[below(rng, 64) as usize] ^= 1 << below(rng, 8),
        1 => message.push(0),
        2 => signature.truncate(below(rng, 64) as usize),
        3 => signature[..32].copy_from_slice(&small(rng)),
        4 => key = ed25519(&small(rng)).unwrap(),
        5 => {
            key = ed25519(&small(rng)).unwrap();
            signature[..32].copy_from_slice(&small(rng));
            if one_in(rng, 2) {
                signature[32..].fill(0);
            }
        }
        _ => {}
    }
    Case { key, message, signature }
}

#[test]
fn random_batches_agree_with_single_verification_and_with_another_implementation() {
    run("batch verification", |rng| {
        let signers: Vec<SigningKey> = (0..=below(rng, 5))
            .map(|_| {
                let mut seed = [0; 32];
                rng.fill_bytes(&mut seed);
                SigningKey::from_seed(&seed)
            })
            .collect();
        let cases: Vec<Case> = (0..below(rng, 40)).map(|_| random_case(rng, &signers)).collect();
        let results = batch_agrees_with_single(&cases, rng.next_u64() as u8);
        for (case, good) in cases.iter().zip(results) {
            assert_eq!(good, consensus(&case.key.public().bytes, &case.message, &case.signature));
        }
    });
}

#[test]
fn one_bad_signature_spoils_no_other() {
    let signer = SigningKey::from_seed(&[7; 32]);
    let key = VerifyingKey::new(signer.public()).unwrap();
    let mut cases: Vec<Case> = (0..256_u32)
        .map(|number| {
            let message = number.to_be_bytes().to_vec();
            Case { key: key.clone(), signature: signer.sign(&message).to_vec(), message }
        })
        .collect();
    cases[100].signature[40] ^= 1;
    let results = batch_agrees_with_single(&cases, 4);
    assert_eq!(results.iter().filter(|good| !**good).count(), 1);
    assert!(!results[100]);
}

#[test]
fn p256_signatures_stand_beside_ed25519_ones() {
    use p256::ecdsa::signature::Signer as _;
    let secret = p256::ecdsa::SigningKey::from_slice(&[5; 32]).unwrap();
    let bytes = secret.verifying_key().to_sec1_point(true).as_bytes().to_vec();
    let key = VerifyingKey::new(&PublicKey { algorithm: Algorithm::P256, bytes }).unwrap();
    let signature: p256::ecdsa::Signature = secret.sign(b"depin.v1.Proof\0header");
    let signature = signature.to_bytes().to_vec();
    assert!(key.verify(b"depin.v1.Proof\0", b"header", &signature));
    assert!(!key.verify(b"depin.v1.Proof\0", b"Header", &signature));
    let other = SigningKey::from_seed(&[8; 32]);
    let edwards = Case {
        key: VerifyingKey::new(other.public()).unwrap(),
        message: b"m".to_vec(),
        signature: other.sign(b"m").to_vec(),
    };
    let weierstrass = Case { key, message: b"depin.v1.Proof\0header".to_vec(), signature };
    assert_eq!(batch_agrees_with_single(&[edwards, weierstrass], 5), [true, true]);
}

#[test]
fn what_is_no_point_is_no_key() {
    let key = |algorithm, bytes: &[u8]| VerifyingKey::new(&PublicKey { algorithm, bytes: bytes.to_vec() });
    let error = key(Algorithm::Ed25519, &[2; 31]).unwrap_err().to_string();
    assert_eq!(error, "publicKey: the bytes are no Ed25519 public key");
    // y = 2 is on no point of the curve.
    let mut two = [0; 32];
    two[0] = 2;
    assert!(key(Algorithm::Ed25519, &two).is_err());
    assert!(key(Algorithm::P256, &[4; 65]).is_err());
    assert!(key(Algorithm::P256, &[0; 33]).is_err());
}
