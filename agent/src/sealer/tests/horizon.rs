//! Reorder horizons: what is not ripe waits, and is not read again and again meanwhile.

use super::*;

fn other() -> Digest {
    Digest::of(b"another model")
}

/// A batch with one reading of each of these models.
fn append(world: &mut World, models: &[Digest]) {
    let mut builder = BatchBuilder::default();
    let now = world.now;
    builder.stamp(|| now);
    for (index, digest) in models.iter().enumerate() {
        let value = world.next;
        world.next += 1;
        let reading = DecodedReading { metric: 0, at: Timestamp(START + value), value };
        builder.push(digest, &["energy".to_owned()], true, &format!("d{index}"), &[reading]);
        world.acknowledged.insert(value, format!("d{index}"));
    }
    let record = builder.finish();
    world.store().append(&record, models.len() as u64, now.wall).unwrap();
}

/// Records that a pass looks at, and readings that it takes.
fn pass(world: &mut World) -> (u64, u64) {
    let (view, now) = (world.view.clone(), world.now);
    let collected = world.store().collect(&view, &now, BUDGET, i64::MAX).unwrap();
    (collected.looked_at, collected.taken.readings)
}

fn world(own: i64, others: i64) -> World {
    let mut world = World::new(StoreOptions::default());
    world.view.models.insert(model(), ("meter".to_owned(), own));
    world.view.models.insert(other(), ("pump".to_owned(), others));
    world
}

#[test]
fn what_is_not_ripe_is_looked_at_once_also_beside_a_model_that_says_nothing() {
    let mut world = world(60_000, 60_000);
    for _ in 0..500 {
        append(&mut world, &[model()]);
    }
    assert_eq!(pass(&mut world), (500, 0));
    assert_eq!(pass(&mut world), (1, 0), "the first of what waits");
    append(&mut world, &[model(), other()]);
    assert_eq!(pass(&mut world), (2, 0), "the first of what waits, and what is new");
    assert_eq!(pass(&mut world), (2, 0), "one record for each model");
    world.advance(60_000);
    world.check();
    assert_eq!(world.ledger.counted.len(), 502);
}

#[test]
fn a_model_with_a_long_horizon_costs_one_with_a_short_one_nothing() {
    let mut world = world(60_000, 10_000);
    for _ in 0..300 {
        append(&mut world, &[model(), other()]);
        world.advance(100);
    }
    // 200 of the other one are ripe.
    world.connect(|| false, false).unwrap();
    assert_eq!((world.ledger.counted.len(), world.store().waiting()), (201, 399));
    assert_eq!(pass(&mut world), (2, 0));
    for _ in 0..5 {
        world.advance(100);
        world.connect(|| false, false).unwrap();
    }
    assert_eq!(world.ledger.counted.len(), 206);
    assert_eq!(pass(&mut world), (2, 0));
    // What a new process knows is what is durable: it looks at everything once, and takes nothing twice.
    let disk = world.disk.after_kill();
    world.restart(disk);
    assert_eq!(pass(&mut world), (300, 0));
    assert_eq!(pass(&mut world), (2, 0));
    world.advance(60_000);
    world.check();
    assert_eq!((world.ledger.counted.len(), world.ledger.again, world.ledger.disordered), (600, 0, 0));
}

#[test]
fn a_model_that_was_followed_by_another_leaves_nothing_behind() {
    let mut world = world(0, 60_000);
    append(&mut world, &[model()]);
    append(&mut world, &[other(), model()]);
    world.connect(|| false, false).unwrap();
    assert_eq!(world.store().state().cursors.keys().copied().collect::<Vec<_>>(), [model()], "its second is taken");
    world.view.models.remove(&model());
    for _ in 0..100 {
        append(&mut world, &[other()]);
    }
    assert_eq!(pass(&mut world), (101, 0));
    assert_eq!(pass(&mut world), (1, 0));
    world.advance(60_000);
    world.check();
    assert_eq!(world.store().state().cursors, BTreeMap::new());
    assert_eq!(world.ledger.counted.len(), 103);
}

#[test]
fn a_seal_that_did_not_happen_is_made_from_the_same_readings() {
    let mut world = world(0, 0);
    for _ in 0..10 {
        append(&mut world, &[model(), other()]);
    }
    assert_eq!(pass(&mut world), (10, 20));
    assert_eq!(pass(&mut world), (10, 20));
    world.check();
    assert_eq!(world.ledger.counted.len(), 20);
}
