//! The same day, cut short at every single operation of the disk, and recovered from in every way: each reading is accounted for by itself.

use super::*;

type Ended = Result<(), String>;

fn step<T, E: std::fmt::Display>(result: Result<T, E>) -> Ended {
    result.map(drop).map_err(|error| error.to_string())
}

/// Loses the answer to the proof with this number, and everything after it.
fn after(count: u32) -> impl FnMut() -> bool {
    let mut answered = 0;
    move || {
        answered += 1;
        answered >= count
    }
}

/// Everything that the store does, in one day of an agent that acknowledges only what it has room for.
fn day(world: &mut World) -> Ended {
    step(world.append("d0", 10))?;
    step(world.append("d3", 6))?;
    step(world.connect(|| false, false))?;
    let now = world.now;
    step(world.store().clock_agreed(&now))?;
    world.advance(1_000);
    step(world.append("d1", 90))?;
    step(world.append("d0", 40))?;
    step(world.connect(after(2), false))?;
    step(world.store().sync())?;
    // What was parked goes out, and more comes.
    world.view.insert("d3".to_owned(), relayed("d3"));
    step(world.append("d3", 5))?;
    step(world.connect(|| false, false))?;
    step(world.store().tidy())?;
    step(world.append("d2", 100))?;
    let (sealing, now, view) = (world.sealing.clone(), world.now, world.view.clone());
    step(sealing.ripe(world.store(), &view, &now))?;
    // Refused: what is sealed and not judged is sealed anew, in parts.
    world.sealing.budget = 40;
    step(world.connect(after(3), true))?;
    world.sealing.budget = BUDGET;
    step(world.store().archived(1, 3))?;
    step(world.append("d0", 30))?;
    step(world.connect(|| false, false))?;
    step(world.store().tidy())?;
    step(world.append("d1", 20))?;
    step(world.store().tidy())
}

/// A day in which more comes than there is room for, and the oldest goes.
fn flood(world: &mut World) -> Ended {
    step(world.append("d0", 50))?;
    step(world.connect(after(1), false))?;
    for _ in 0..10 {
        step(world.append("d1", 200))?;
    }
    step(world.append("d0", 100))?;
    step(world.connect(after(4), false))?;
    for _ in 0..10 {
        step(world.append("d2", 200))?;
    }
    step(world.connect(|| false, false))?;
    step(world.store().tidy())
}

/// A day on a disk that the spool fills, and that nobody but the agent makes room on.
fn crowded(world: &mut World) -> Ended {
    world.disk.set_capacity(Some(32 << 10));
    world.sealing.limits = ProofLimits { bytes: 64 << 10, sections: 8, readings: 400 };
    world.sealing.budget = 400;
    while world.append("d0", 100).is_ok() {}
    step(world.store().recover())?;
    for _ in 0..8 {
        if world.connect(|| false, false).is_err() {
            step(world.store().recover())?;
        }
    }
    if world.store().waiting() > 0 || !world.store().has_room(100) {
        return Err("the spool is not emptied".to_owned());
    }
    step(world.append("d1", 20))?;
    step(world.connect(|| false, false))
}

/// What a disk has after the crash.
fn recovered(world: &World, way: u64, boundary: u64) -> SimulatedStorage {
    match way {
        0 => world.disk.after_kill(),
        1 => world.disk.after_power_failure(&mut |_| 0),
        2 => world.disk.after_power_failure(&mut |n| n - 1),
        _ => {
            // Neither all nor nothing, another share at each boundary.
            let mut seed = boundary.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            world.disk.after_power_failure(&mut |n| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) % n
            })
        }
    }
}

/// Crashes at each boundary in turn until the day ends without; `account` looks at what became of every reading. Gives how many were told as given up
/// on the day that ended well.
fn at_every_boundary(options: StoreOptions, day: fn(&mut World) -> Ended, account: fn(&mut World, &str)) -> u64 {
    let mut told = 0;
    for way in 0..4 {
        let mut boundary = 0;
        loop {
            let mut world = World::new(options);
            let start = world.disk.operations();
            world.disk.crash_at(start + boundary);
            let ended = day(&mut world);
            assert_eq!(ended.is_err(), world.disk.crashed(), "{ended:?} at boundary {boundary}");
            let mut disk = recovered(&world, way, boundary);
            // The power fails once more while it starts.
            disk.crash_at(disk.operations() + boundary % 5);
            if let Err(error) = open(&disk, options) {
                assert!(disk.crashed(), "{error}");
            }
            disk = disk.after_kill();
            world.sealing.budget = BUDGET;
            world.restart(disk);
            world.check();
            let place = format!("boundary {boundary}, way {way}");
            assert_eq!(world.ledger.again, 0, "twice at {place}");
            account(&mut world, &place);
            if ended.is_ok() {
                told = world.ledger.told;
                break;
            }
            boundary += 1;
        }
        assert!(boundary > 40, "{boundary} boundaries are no day");
    }
    told
}

#[test]
fn at_every_boundary_each_acknowledged_reading_is_there_once() {
    let options = StoreOptions { retained: 8 << 10, journal_segment: 4 << 10, ..StoreOptions::default() };
    let told = at_every_boundary(options, day, |world, place| {
        assert_eq!(world.missing(), BTreeSet::new(), "missing at {place}");
        assert_eq!(world.ledger.disordered, 0, "out of order at {place}");
        let pending: u64 = world.store().state().drops.iter().map(|drop| drop.count).sum();
        assert_eq!(world.ledger.told + pending, 0, "told as given up at {place}");
    });
    assert_eq!(told, 0);
}

#[test]
fn at_every_boundary_of_a_full_disk_each_acknowledged_reading_is_there_once() {
    let options =
        StoreOptions { limit: 64 << 10, journal_segment: 2 << 10, reserve: 8 << 10, ..StoreOptions::default() };
    at_every_boundary(options, crowded, |world, place| {
        assert_eq!(world.missing(), BTreeSet::new(), "missing at {place}");
        assert_eq!(world.ledger.told, 0, "told as given up at {place}");
    });
}

#[test]
fn at_every_boundary_each_missing_reading_is_among_those_that_are_told() {
    let options = StoreOptions {
        limit: 4 << 10,
        policy: LimitPolicy::DropOldest,
        retained: 8 << 10,
        journal_segment: 4 << 10,
        ..StoreOptions::default()
    };
    let told = at_every_boundary(options, flood, |world, place| {
        let pending: Vec<_> =
            world.store().state().drops.iter().map(|drop| (drop.count, drop.first, drop.last)).collect();
        let told: Vec<_> = world.ledger.given_up.iter().copied().chain(pending).collect();
        let missing = world.missing();
        for value in &missing {
            let at = Timestamp(START + value);
            assert!(told.iter().any(|(_, first, last)| (*first..=*last).contains(&at)), "{value} at {place}: {told:?}");
        }
        // Told are the missing ones, and of those whose acknowledgement the crash cut off as many as are gone too.
        let counted: BTreeSet<i64> = world.ledger.counted.values().map(|(value, _)| *value).collect();
        let unsure = world.uncertain.iter().filter(|value| !counted.contains(value)).count() as u64;
        let (missing, told) = (missing.len() as u64, told.iter().map(|(count, ..)| count).sum::<u64>());
        assert!((missing..=missing + unsure).contains(&told), "{missing} missing, {told} told at {place}");
    });
    assert!(told > 0, "there was room for all");
}
