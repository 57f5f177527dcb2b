//! Devices that nobody let in yet: their readings wait, and what made them known outlives a restart.

use depin_domain::ids::Digest;

use super::*;
use crate::sighting::FirstHeard;

#[test]
fn readings_of_unapproved_devices_wait_until_their_device_is_approved() {
    let mut world = World::new(StoreOptions::default());
    world.append("new", 10).unwrap();
    world.append("d0", 5).unwrap();
    world.connect(|| false, false).unwrap();
    assert_eq!((world.ledger.counted.len(), world.store().state().parked.len()), (5, 10));
    let disk = world.disk.after_kill();
    world.restart(disk);
    world.view.insert("new".to_owned(), relayed("new"));
    world.check();
    assert_eq!((world.ledger.counted.len(), world.store().state().parked.len()), (15, 0));
}

#[test]
fn readings_of_devices_that_are_never_approved_are_given_up_and_told() {
    let mut world = World::new(StoreOptions::default());
    world.sealing.keep_parked_ms = 1_000;
    world.append("new", 10).unwrap();
    world.connect(|| false, false).unwrap();
    world.advance(2_000);
    world.connect(|| false, false).unwrap();
    world.connect(|| false, false).unwrap();
    assert_eq!((world.ledger.told, world.store().state().parked.len()), (10, 0));
}

/// What a restart finds of the serial's first sighting.
fn found_after_restart(world: &mut World, serial: &str) -> Option<FirstHeard> {
    let disk = world.disk.after_kill();
    world.store = None;
    world.disk = disk;
    let (store, found) = open(&world.disk, world.options).unwrap();
    world.store = Some(store);
    found.serials.get(serial).and_then(|left| left.first)
}

#[test]
fn a_sighting_is_derived_again_from_what_waits_in_spool_or_journal() {
    let mut world = World::new(StoreOptions::default());
    world.advance(50);
    let first = world.now;
    world.append("new", 10).unwrap();
    world.advance(3_600_000);
    world.append("new", 10).unwrap();
    let heard = found_after_restart(&mut world, "new").unwrap();
    assert_eq!(heard, FirstHeard { model: model(), stamp: first, oldest: Timestamp(START), device_time: true });
    let seen = |heard: FirstHeard, world: &World| heard.first_seen(&BTreeMap::new(), &world.now);
    assert_eq!(seen(heard, &world), Some(Timestamp(START)));
    // Parked in the journal, the same; and readings that come after in the spool change nothing.
    world.connect(|| false, false).unwrap();
    assert_eq!((world.store().waiting(), world.store().state().parked.len()), (0, 20));
    world.append("new", 10).unwrap();
    let heard = found_after_restart(&mut world, "new").unwrap();
    assert_eq!((heard.model, seen(heard, &world)), (model(), Some(Timestamp(START))));
    assert_eq!(found_after_restart(&mut world, "d0"), None, "nothing of it waits");
}

#[test]
fn a_parked_sighting_keeps_when_it_came_however_late_it_was_parked() {
    let mut world = World::new(StoreOptions::default());
    let came = world.now.wall;
    world.append("new", 1).unwrap();
    world.advance(5 * 86_400_000);
    world.connect(|| false, false).unwrap();
    assert_eq!(world.store().state().parked[0].received, Some(came));
    let heard = found_after_restart(&mut world, "new").unwrap();
    assert_eq!(heard.first_seen(&BTreeMap::new(), &world.now), Some(came), "not when the agent was online again");
}

#[test]
fn journals_without_the_time_of_receipt_are_still_read() {
    let old = r#"{"serial":"s","model":"MODEL","metric":"m","at":5,"value":1,"since":9}"#;
    let old = old.replace("MODEL", &Digest::default().to_string());
    let parked: crate::sealer::journal::Parked = serde_json::from_str(&old).unwrap();
    assert_eq!((parked.received, parked.received()), (None, Timestamp(9)));
}
