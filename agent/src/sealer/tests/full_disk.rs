//! A disk that the spool itself fills: the agent empties it without anybody's help.

use std::sync::Arc;

use depin_log::DiskStorage;
use depin_trials::SmallDisk;

use super::*;

/// The spool's own limit is beyond the disk of 4 MiB.
fn options() -> StoreOptions {
    StoreOptions { limit: 8 << 20, journal_segment: 64 << 10, reserve: 512 << 10, ..StoreOptions::default() }
}

fn crowded(options: StoreOptions) -> World {
    let mut world = World::new(options);
    world.sealing.limits = ProofLimits { bytes: 64 << 10, sections: 8, readings: 4_000 };
    world.sealing.budget = 4_000;
    world
}

fn is_full(error: &impl std::fmt::Display) -> bool {
    let text = error.to_string().to_lowercase();
    text.contains("space") || text.contains("full")
}

fn fill(world: &mut World) {
    for offered in 0.. {
        assert!(offered < 10_000, "the disk never fills");
        if let Err(error) = world.append("d0", 1_000) {
            assert!(is_full(&error), "{error}");
            break;
        }
    }
    assert!(world.acknowledged.len() > 100_000);
    world.store().recover().unwrap();
}

/// Connects as the uplink does: after a failure everything begins anew, from what is durable.
fn connect(world: &mut World) {
    for _ in 0..8 {
        match world.connect(|| false, false) {
            Ok(()) if world.store().waiting() == 0 => return,
            Ok(()) => {}
            Err(error) => {
                assert!(is_full(&error), "{error}");
                assert!(!world.store().has_room(1), "the spool must not take the room that is there for emptying it");
                world.store().recover().unwrap();
            }
        }
    }
    panic!("{} readings cannot leave the spool", world.store().waiting());
}

fn fill_and_empty(world: &mut World) {
    for _ in 0..2 {
        fill(world);
        connect(world);
        assert_eq!(world.missing(), BTreeSet::new());
        assert!(world.store().has_room(8_000), "the reserve is back, and there is room");
        world.append("d1", 10).unwrap();
    }
    world.check();
    assert_eq!((world.ledger.again, world.ledger.told, world.ledger.disordered), (0, 0, 0));
}

#[test]
fn a_disk_that_the_spool_filled_is_emptied_by_connecting() {
    let mut world = crowded(options());
    world.disk.set_capacity(Some(4 << 20));
    fill_and_empty(&mut world);
    assert_eq!(world.disk.content("journal/reserve").map(|reserve| reserve.len()), Some(512 << 10));
}

#[test]
fn room_that_others_give_back_is_enough_while_the_gateway_is_away() {
    let mut world = crowded(options());
    world.disk.set_capacity(Some(4 << 20));
    fill(&mut world);
    assert!(world.store().make_room());
    assert!(!world.store().has_room(1), "what the reserve gave is for emptying the spool");
    world.disk.set_capacity(Some(6 << 20));
    assert!(world.store().has_room(1));
    assert_eq!(world.disk.content("journal/reserve").map(|reserve| reserve.len()), Some(512 << 10));
    world.append("d0", 10).unwrap();
    connect(&mut world);
    assert_eq!(world.missing(), BTreeSet::new());
}

#[test]
fn a_spool_that_was_removed_beside_its_journal_is_refused() {
    let mut world = World::new(StoreOptions::default());
    world.append("d0", 10).unwrap();
    world.connect(|| false, false).unwrap();
    world.store = None;
    let journal = world.disk.directory("journal").unwrap();
    let opened = Store::open(Arc::new(SimulatedStorage::new()), journal, world.options);
    let error = opened.unwrap_err();
    assert!(matches!(error, StoreError::SpoolBehind { end, taken } if end < taken), "{error}");
    assert!(error.to_string().contains("remove spool and journal together"), "{error}");
}

#[test]
fn what_the_reserve_is_for() {
    let mut world = crowded(StoreOptions { reserve: 0, ..options() });
    world.disk.set_capacity(Some(4 << 20));
    fill(&mut world);
    for _ in 0..8 {
        assert!(world.connect(|| false, false).is_err_and(|error| is_full(&error)));
        world.store().recover().unwrap();
    }
    assert!(world.ledger.counted.is_empty(), "nothing leaves the spool");
}

#[test]
fn without_the_room_for_a_reserve_nothing_is_acknowledged() {
    let mut world = crowded(options());
    world.store = None;
    world.disk = SimulatedStorage::new();
    world.disk.set_capacity(Some(100 << 10));
    world.store = Some(open(&world.disk, world.options).unwrap().0);
    assert!(!world.store().has_room(1));
    assert_eq!(world.disk.content("journal/reserve"), None, "what there is stays free");
    world.disk.set_capacity(Some(4 << 20));
    assert!(world.store().has_room(1));
    fill_and_empty(&mut world);
}

#[test]
fn a_real_disk_that_the_spool_filled_is_emptied_by_connecting() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk");
    let Some(_small) = SmallDisk::mount(&path, 4).unwrap() else { return };
    let mut world = crowded(options());
    let part = |name: &str| Arc::new(DiskStorage::open(path.join(name)).unwrap());
    world.store = Some(Store::open(part("spool"), part("journal"), options()).unwrap().0);
    fill_and_empty(&mut world);
    assert_eq!(std::fs::metadata(path.join("journal/reserve")).unwrap().len(), 512 << 10);
    world.store = None;
}
