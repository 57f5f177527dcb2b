//! Disks and ledgers that come back from the past, copies of a disk, and refusals: what begins a new incarnation, and what does not.

use super::*;

#[test]
fn a_restored_disk_opens_a_new_incarnation_and_doubles_nothing() {
    let mut world = World::new(StoreOptions::default());
    world.append("d0", 50).unwrap();
    world.connect(|| false, false).unwrap();
    world.store().sync().unwrap();
    world.append("d0", 30).unwrap();
    let backup = world.disk.after_kill();
    world.connect(|| false, false).unwrap();
    world.append("d1", 20).unwrap();
    world.connect(|| false, false).unwrap();
    world.restart(backup);
    world.append("d2", 10).unwrap();
    world.check();
    assert_eq!(world.ledger.head.unwrap().incarnation, 2);
    // The 30 readings come again in the new incarnation and are known by their time.
    assert_eq!((world.ledger.counted.len(), world.ledger.again), (110, 30));
}

#[test]
fn two_copies_of_one_disk_never_fork_a_chain() {
    let mut world = World::new(StoreOptions::default());
    world.append("d0", 10).unwrap();
    world.connect(|| false, false).unwrap();
    let copy = world.disk.after_kill();
    let mut twin = World::new(StoreOptions::default());
    twin.restart(copy);
    twin.next = 1_000;
    for _ in 0..3 {
        twin.append("d1", 5).unwrap();
        twin.ledger = std::mem::take(&mut world.ledger);
        twin.connect(|| false, false).unwrap();
        world.ledger = std::mem::take(&mut twin.ledger);
        world.append("d0", 5).unwrap();
        world.connect(|| false, false).unwrap();
    }
    assert_eq!(world.ledger.counted.len(), 40);
    assert_eq!(world.ledger.again, 0);
}

#[test]
fn a_restored_ledger_gets_again_what_it_lacks() {
    let mut world = World::new(StoreOptions::default());
    world.append("d0", 50).unwrap();
    world.connect(|| false, false).unwrap();
    let backup = world.ledger.clone();
    // None of these is archived, so the disk keeps them all.
    for index in 0..5 {
        world.append("d1", 7 + index).unwrap();
        world.connect(|| false, false).unwrap();
    }
    let before = world.ledger.counted.len();
    world.ledger = backup;
    world.connect(|| false, false).unwrap();
    let kept: usize = before - world.ledger.counted.len();
    // Archived ones (two of three receipts) are gone from the disk: their readings are in the ledger's other backup.
    assert!(kept < 45, "{kept}");
    assert_eq!(world.ledger.again, 0);
}

#[test]
fn refused_proofs_are_sealed_anew_and_smaller() {
    let mut world = World::new(StoreOptions::default());
    world.append("d0", 200).unwrap();
    let (sealing, now, view) = (world.sealing.clone(), world.now, world.view.clone());
    sealing.open(world.store(), None, false, &now).unwrap();
    let made = sealing.ripe(world.store(), &view, &now).unwrap();
    let largest = |store: &Store| store.state().held.iter().map(|held| held.readings).max().unwrap();
    assert!(made.proofs.len() >= 5 && largest(world.store()) == 32);
    world.sealing.limits.readings = 10;
    let sealing = world.sealing.clone();
    let opened = sealing.open(world.store(), None, true, &now).unwrap();
    assert!(opened.reopened && largest(world.store()) <= 10);
    world.check();
    assert_eq!((world.ledger.counted.len(), world.ledger.again), (200, 0));
    assert_eq!(world.ledger.head.unwrap().incarnation, 2);
}
