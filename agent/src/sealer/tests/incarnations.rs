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

/// Readings of kept proofs by incarnation.
fn kept(store: &Store) -> BTreeMap<u64, u64> {
    let mut readings = BTreeMap::new();
    for held in &store.state().held {
        *readings.entry(held.incarnation).or_default() += held.readings;
    }
    readings
}

#[test]
fn much_is_sealed_anew_in_parts_and_a_crash_between_two_of_them_does_no_harm() {
    const ALL: u64 = 1_000;
    let mut base = World::new(StoreOptions::default());
    for _ in 0..10 {
        base.append("d0", 60).unwrap();
        base.append("d1", 40).unwrap();
    }
    let (sealing, now, view) = (base.sealing.clone(), base.now, base.view.clone());
    sealing.open(base.store(), None, false, &now).unwrap();
    while sealing.ripe(base.store(), &view, &now).unwrap().more {}
    assert_eq!(kept(base.store()), BTreeMap::from([(1, ALL)]));
    let mut in_parts = sealing;
    in_parts.budget = 100;
    let mut moved = BTreeSet::new();
    for boundary in 0.. {
        let mut world = World::new(StoreOptions::default());
        world.restart(base.disk.after_kill());
        (world.acknowledged, world.next) = (base.acknowledged.clone(), base.next);
        let start = world.disk.operations();
        world.disk.crash_at(start + boundary);
        let done = in_parts.open(world.store(), None, true, &now).is_ok();
        let disk = world.disk.after_kill();
        world.restart(disk);
        let kept = kept(world.store());
        assert_eq!(kept.values().sum::<u64>(), ALL, "nothing is lost on the way: {kept:?}");
        moved.insert(kept.get(&2).copied().unwrap_or_default());
        world.check();
        assert_eq!((world.ledger.counted.len() as u64, world.ledger.again, world.ledger.disordered), (ALL, 0, 0));
        if done {
            break;
        }
    }
    // Each write took at most as many readings as fit the budget, or one proof: a tenth of all or less.
    let moved: Vec<u64> = moved.into_iter().collect();
    assert!(moved[0] <= 100 && moved.last() == Some(&ALL), "{moved:?}");
    assert!(moved.windows(2).all(|pair| pair[1] - pair[0] <= 100), "{moved:?}");
}

#[test]
fn what_was_told_as_given_up_is_told_once_more_for_each_life_and_never_lost() {
    let options = StoreOptions { limit: 64 << 10, policy: LimitPolicy::DropOldest, ..StoreOptions::default() };
    let mut world = World::new(options);
    let (sealing, now, view) = (world.sealing.clone(), world.now, world.view.clone());
    sealing.open(world.store(), None, false, &now).unwrap();
    // Three times more comes than there is room for, and is told in three headers.
    for _ in 0..3 {
        for _ in 0..60 {
            world.append("d0", 1_000).unwrap();
        }
        while sealing.ripe(world.store(), &view, &now).unwrap().more {}
    }
    world.sealing.budget = 2_000;
    let in_parts = world.sealing.clone();
    in_parts.open(world.store(), None, true, &now).unwrap();
    world.check();
    assert_eq!(world.ledger.head.unwrap().incarnation, 2);
    assert!(world.ledger.given_up.len() >= 3, "{:?}", world.ledger.given_up);
    assert_eq!(world.ledger.counted.len() as u64 + world.ledger.told, 180_000, "every reading is counted or told");
}
