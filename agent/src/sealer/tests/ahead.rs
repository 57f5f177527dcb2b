//! A clock that ran ahead.

use super::*;

#[test]
fn what_an_earlier_boot_stamped_with_a_time_to_come_holds_nothing_up() {
    let mut world = World::new(StoreOptions::default());
    world.view.models.insert(model(), ("meter".to_owned(), 10_000));
    // A boot in which the clock showed 2099.
    world.now = Stamp { boot: 1, uptime: 5_000, wall: Timestamp(4_070_908_800_000) };
    world.append("d0", 3).unwrap();
    world.now = Stamp { boot: 2, uptime: 1_000, wall: Timestamp(START) };
    world.append("d0", 2).unwrap();
    world.connect(|| false, false).unwrap();
    assert_eq!(world.ledger.counted.len(), 3, "nothing of that boot is still on its way");
    world.advance(10_000);
    world.check();
    assert_eq!((world.ledger.counted.len(), world.ledger.told), (5, 0));
}
