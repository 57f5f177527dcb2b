//! Receipts beside the proofs that they are for.

use depin_domain::ids::{Algorithm, PublicKey};
use depin_proto::v1::Receipt;

use super::*;
use crate::sealer::journal::Held;

fn gateway() -> PublicKey {
    PublicKey { algorithm: Algorithm::Ed25519, bytes: vec![3; 32] }
}

fn receipt(held: &Held) -> Receipt {
    Receipt {
        body: held.digest.0.to_vec().into(),
        signature: vec![held.sequence.to_le_bytes()[0]; 64].into(),
        ..Default::default()
    }
}

/// The gateway's answer to the proof.
pub(super) fn answered(held: &Held, archived: bool) -> Answered {
    let (incarnation, sequence) = (held.incarnation, held.sequence);
    Answered { incarnation, sequence, archived, receipt: receipt(held), gateway: gateway() }
}

/// Every answered proof that is kept has its own receipt.
pub(super) fn check(store: &mut Store) {
    store.sync().unwrap();
    let store = &*store;
    for held in store.state().held.iter().filter(|held| held.answer == Answer::Receipt) {
        assert_eq!(store.receipt_of(held).unwrap(), Some(receipt(held)));
    }
    let answered = store.state().held.iter().any(|held| held.receipt.is_some());
    assert!(!answered || store.state().gateways == [gateway()], "the key that signed them is kept, once");
}

#[test]
fn a_receipt_is_kept_as_long_as_its_proof_and_no_longer() {
    let mut world = World::new(StoreOptions::default());
    for _ in 0..9 {
        world.append("d0", 1).unwrap();
        world.connect(|| false, false).unwrap();
    }
    // Every third proof is in no backup yet.
    let kept = |world: &mut World| world.store().state().held.iter().map(|held| held.sequence).collect::<Vec<_>>();
    assert_eq!(kept(&mut world), [3, 6, 9]);
    world.store().sync().unwrap();
    let disk = world.disk.after_kill();
    world.restart(disk);
    check(world.store());
    assert_eq!(world.store().state().held.iter().filter(|held| held.receipt.is_some()).count(), 3);
    world.store().archived(1, 6).unwrap();
    assert_eq!(kept(&mut world), [9]);
    check(world.store());
}

#[test]
fn receipts_count_towards_the_limit_of_what_is_kept() {
    let mut world = World::new(StoreOptions::default());
    for _ in 0..30 {
        world.append("d0", 1).unwrap();
        world.connect(|| false, false).unwrap();
    }
    let bytes = |store: &Store| store.state().held.iter().map(Held::kept_bytes).sum::<u64>();
    let proofs: u64 = world.store().state().held.iter().map(|held| held.bytes).sum();
    assert!(bytes(world.store()) > proofs + 10 * 96);
    // So much that the proofs alone would fit.
    world.options.retained = proofs;
    let disk = world.disk.after_kill();
    world.restart(disk);
    world.store().tidy().unwrap();
    assert!(bytes(world.store()) <= proofs && world.store().state().held.len() < 10);
    check(world.store());
}

#[test]
fn receipts_outlive_the_snapshot_that_cuts_the_journal() {
    let mut world = World::new(StoreOptions { retained: 4_000, ..StoreOptions::default() });
    world.sealing.limits = ProofLimits { bytes: 1 << 20, sections: 8, readings: 20_000 };
    // Parked readings stand in the journal as text: three times 20,000 of them are more than what it keeps behind.
    for stranger in ["s0", "s1", "s2"] {
        world.append(stranger, 20_000).unwrap();
        world.connect(|| false, false).unwrap();
        world.view.insert(stranger.to_owned(), relayed(stranger));
        for _ in 0..9 {
            world.append("d0", 1).unwrap();
            world.connect(|| false, false).unwrap();
        }
    }
    let disk = world.disk.after_kill();
    world.restart(disk);
    let held = world.store().state().held.front().copied().unwrap();
    assert!(held.position > 4 << 20 && held.receipt.is_some(), "{held:?}");
    check(world.store());
}

#[test]
fn journals_of_before_receipts_were_kept_are_still_read() {
    let digest = Digest::default();
    let old = format!(
        r#"{{"incarnation":1,"sequence":2,"digest":"{digest}","position":3,"bytes":4,"readings":5,"answer":"Receipt"}}"#
    );
    let held: Held = serde_json::from_str(&old).unwrap();
    assert_eq!((held.answer, held.receipt, held.kept_bytes()), (Answer::Receipt, None, 4));
}
