//! Signature verification on one core: single, in batches of distinct keys, and in batches of few keys.

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use depin_identity::{Claim, SigningKey, VerifyingKey, verify_batch};
use serde_json::json;

use crate::processes::cpu_seconds;

/// Bytes of a message: about those of a proof's header.
const MESSAGE: usize = 180;
const DOMAIN: &[u8] = b"depin.v1.Proof\0";

/// What is verified.
#[derive(Args)]
pub(crate) struct Options {
    /// Signatures of each measurement
    #[arg(long, default_value_t = 32_768)]
    signatures: usize,
}

struct Signed {
    key: usize,
    message: [u8; MESSAGE],
    signature: [u8; 64],
}

/// Prints a line for each size and number of keys.
pub(crate) fn run(options: &Options) -> Result<()> {
    let single = signed(options.signatures.min(8_192), 1_024)?;
    let begun = (Instant::now(), cpu_seconds("self")?);
    let good = single.1.iter().filter(|one| {
        let claim = claim(&single.0, one);
        claim.key.verify(claim.domain, claim.message, claim.signature)
    });
    let good = good.count();
    report("single", 1, 1_024, good, begun)?;
    ensure!(good == single.1.len(), "a good signature was not accepted");
    for (batch, keys) in [(16, 1_024), (64, 1_024), (256, 1_024), (1_024, 1_024), (256, 8), (1_024, 8)] {
        let (verifying, all) = signed(options.signatures, keys)?;
        let claims: Vec<Claim<'_>> = all.iter().map(|one| claim(&verifying, one)).collect();
        let begun = (Instant::now(), cpu_seconds("self")?);
        let good =
            claims.chunks(batch).map(|batch| verify_batch(batch, [7; 32]).into_iter().filter(|good| *good).count());
        let good: usize = good.sum();
        report("batch", batch, keys, good, begun)?;
        ensure!(good == claims.len(), "a good signature was not accepted");
    }
    Ok(())
}

fn report(how: &str, batch: usize, keys: usize, count: usize, (begun, before): (Instant, f64)) -> Result<()> {
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let micros = (cpu_seconds("self")? - before) / count as f64 * 1e6;
    println!(
        "{}",
        json!({"case": "signatures", "how": how, "batch": batch, "keys": keys, "perSecond": rate, "cpuMicros": micros})
    );
    Ok(())
}

fn claim<'a>(keys: &'a [VerifyingKey], one: &'a Signed) -> Claim<'a> {
    Claim { key: &keys[one.key], domain: DOMAIN, message: &one.message, signature: &one.signature }
}

fn signed(count: usize, keys: usize) -> Result<(Vec<VerifyingKey>, Vec<Signed>)> {
    let signers: Vec<SigningKey> = (0..keys)
        .map(|number| {
            let mut seed = [1; 32];
            seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
            SigningKey::from_seed(&seed)
        })
        .collect();
    let verifying = signers.iter().map(|key| VerifyingKey::new(key.public())).collect::<Result<_, _>>()?;
    let signed = (0..count).map(|number| {
        let mut message = [0; MESSAGE];
        message[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let key = number % keys;
        let input = [DOMAIN, &message[..]].concat();
        Signed { key, message, signature: signers[key].sign(&input) }
    });
    Ok((verifying, signed.collect()))
}
