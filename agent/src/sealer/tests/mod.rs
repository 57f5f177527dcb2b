//! The store against a reference: crashes at every boundary, faults of the disk, limits, clocks, restored disks and clones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use depin_domain::{
    ids::{DeviceId, Digest},
    proofs::{
        ChainHead,
        chain::{Declared, Known, Place, place},
    },
    time::Timestamp,
};
use depin_identity::keys::SigningKey;
use depin_log::{Storage as _, simulated::SimulatedStorage};
use depin_proto::{envelope::open_proof, v1::SignedProof};
use depin_trials::{Rng, below, one_in};

use super::{assemble::ProofLimits, journal::Answer, *};
use crate::{
    codec::DecodedReading,
    spool::{BatchBuilder, LimitPolicy, Stamp},
    uplink::seal::{BUDGET, Opened, Sealing},
};

mod ahead;
mod boundaries;
mod full_disk;
mod horizon;
mod incarnations;
mod receipts;
mod strangers;

const START: i64 = 1_790_000_000_000;

/// Judges as the gateway does, as far as chains and counting go.
#[derive(Clone, Default)]
struct Ledger {
    head: Option<ChainHead>,
    judged: BTreeMap<(u64, u64), Digest>,
    /// Reading (device, metric, time) and the proof that it first came in.
    counted: BTreeMap<(DeviceId, String, Timestamp), (i64, Digest)>,
    /// Readings that came again in another proof.
    again: u64,
    told: u64,
    /// What was told as given up: how many, from when to when.
    given_up: Vec<(u64, Timestamp, Timestamp)>,
    drop_records: BTreeSet<(u64, u32)>,
    /// Newest reading of each device, and how many came after a newer one.
    marks: BTreeMap<DeviceId, Timestamp>,
    disordered: u64,
}

impl Ledger {
    /// Whether the proof is recorded now.
    fn submit(&mut self, proof: &SignedProof, declared: Declared) -> Place {
        let opened = open_proof(&proof.header, &proof.sections).unwrap();
        let header = &opened.header;
        let judged = self.judged.get(&(header.incarnation, header.sequence)).copied();
        let found = place(&Known { head: self.head, declared: Some(declared), judged }, header, &opened.digest);
        if !found.is_judged() {
            return found;
        }
        self.judged.insert((header.incarnation, header.sequence), opened.digest);
        self.head =
            Some(ChainHead { incarnation: header.incarnation, sequence: header.sequence, digest: opened.digest });
        for drop in &header.drops {
            assert!(self.drop_records.insert((header.incarnation, drop.ordinal)), "a drop record is told twice");
            self.told += drop.count;
            self.given_up.push((drop.count, drop.first, drop.last));
        }
        for section in &opened.sections {
            for series in &section.series {
                for reading in &series.readings {
                    let mark = self.marks.entry(section.device).or_insert(reading.at);
                    self.disordered += u64::from(reading.at < *mark);
                    *mark = reading.at.max(*mark);
                    let key = (section.device, series.metric.clone(), reading.at);
                    match self.counted.get(&key) {
                        Some(_) => self.again += 1,
                        None => drop(self.counted.insert(key, (reading.value, opened.digest))),
                    }
                }
            }
        }
        found
    }
}

struct World {
    disk: SimulatedStorage,
    options: StoreOptions,
    store: Option<Store>,
    ledger: Ledger,
    sealing: Sealing,
    view: View,
    now: Stamp,
    next: i64,
    /// Acknowledged readings by their value, which is unique.
    acknowledged: BTreeMap<i64, String>,
    /// Offered in a write whose outcome a crash hid.
    uncertain: BTreeSet<i64>,
}

fn model() -> Digest {
    Digest::of(b"model")
}

fn relayed(serial: &str) -> Relayed {
    Relayed { id: DeviceId::of("ns", serial), model: "meter".to_owned(), until: Timestamp::MAX }
}

fn open(disk: &SimulatedStorage, options: StoreOptions) -> Result<(Store, Found), StoreError> {
    Store::open(disk.directory("spool").unwrap(), disk.directory("journal").unwrap(), options)
}

impl World {
    fn new(options: StoreOptions) -> Self {
        let disk = SimulatedStorage::new();
        let store = Some(open(&disk, options).unwrap().0);
        let mut view = View::new(HashMap::from([(model(), ("meter".to_owned(), 0))]));
        for index in 0..3 {
            let serial = format!("d{index}");
            view.insert(serial.clone(), relayed(&serial));
        }
        let limits = ProofLimits { bytes: 4_096, sections: 2, readings: 40 };
        let sealing = Sealing {
            key: SigningKey::from_seed(&[7; 32]),
            registry: (1, 1),
            limits,
            budget: BUDGET,
            keep_parked_ms: i64::MAX,
        };
        let now = Stamp { boot: 1, uptime: 0, wall: Timestamp(START) };
        Self {
            disk,
            options,
            store,
            ledger: Ledger::default(),
            sealing,
            view,
            now,
            next: 0,
            acknowledged: BTreeMap::new(),
            uncertain: BTreeSet::new(),
        }
    }

    fn store(&mut self) -> &mut Store {
        self.store.as_mut().unwrap()
    }

    fn advance(&mut self, ms: i64) {
        self.now.uptime += ms;
        self.now.wall = self.now.wall.plus(ms);
    }

    /// A batch of `count` readings of the device; acknowledged only if the append returned well.
    fn append(&mut self, serial: &str, count: i64) -> Result<(), StoreError> {
        let mut builder = BatchBuilder::default();
        let now = self.now;
        builder.stamp(|| now);
        let values: Vec<i64> = (self.next..self.next + count).collect();
        self.next += count;
        let readings: Vec<_> = values
            .iter()
            .map(|value| DecodedReading { metric: 0, at: Timestamp(START + value), value: *value })
            .collect();
        builder.push(&model(), &["energy".to_owned()], true, serial, &readings);
        let record = builder.finish();
        let result = self.store().append(&record, u64::try_from(count).unwrap(), now.wall);
        match &result {
            Ok(()) => self.acknowledged.extend(values.into_iter().map(|value| (value, serial.to_owned()))),
            Err(_) => self.uncertain.extend(values),
        }
        result
    }

    /// One connection: opens the chain, seals, submits, and loses some receipts on the way.
    fn connect(&mut self, mut lose: impl FnMut() -> bool, refused: bool) -> Result<(), uplink_seal::SealError> {
        let (sealing, now, mut refused) = (self.sealing.clone(), self.now, refused);
        let queue = loop {
            let head = self.ledger.head;
            let Opened { held, reopened } = sealing.open(self.store(), head.as_ref(), refused, &now)?;
            refused = false;
            if !reopened {
                break held;
            }
        };
        let mut queue: Vec<_> = queue;
        let declared = Declared {
            incarnation: self.store().state().incarnation,
            next_sequence: queue.first().map_or(self.store().state().next_sequence, |held| held.sequence),
        };
        loop {
            for held in std::mem::take(&mut queue) {
                let proof = self.store().proof(&held)?;
                let found = self.ledger.submit(&proof, declared);
                assert!(found.is_judged() || found == Place::Repeat, "{found:?}");
                if lose() {
                    return Ok(());
                }
                self.store().receipt(receipts::answered(&held, one_way(held.sequence)))?;
            }
            let view = self.view.clone();
            let made = sealing.ripe(self.store(), &view, &now)?;
            if made.proofs.is_empty() {
                self.store().tidy()?;
                return Ok(());
            }
            let incarnation = self.store().state().incarnation;
            let fresh = self.store().state().held.iter().filter(|held| {
                held.incarnation == incarnation && made.proofs.iter().any(|sealed| sealed.digest == held.digest)
            });
            queue = fresh.copied().collect();
        }
    }

    fn restart(&mut self, disk: SimulatedStorage) {
        self.store = None;
        self.disk = disk;
        self.store = Some(open(&self.disk, self.options).unwrap().0);
    }

    /// Acknowledged readings that are neither counted nor wait for approval.
    fn missing(&mut self) -> BTreeSet<i64> {
        let counted: BTreeSet<i64> = self.ledger.counted.values().map(|(value, _)| *value).collect();
        let parked: BTreeSet<i64> = self.store().state().parked.iter().map(|parked| parked.value).collect();
        self.acknowledged.keys().filter(|value| !counted.contains(value) && !parked.contains(value)).copied().collect()
    }

    /// Everything acknowledged is counted, told as dropped, or waits for approval; nothing that was never offered is there.
    fn check(&mut self) {
        self.connect(|| false, false).unwrap();
        let waiting = self.store().waiting();
        assert_eq!(waiting, 0, "something stays in the spool");
        let counted: BTreeSet<i64> = self.ledger.counted.values().map(|(value, _)| *value).collect();
        let parked: BTreeSet<i64> = self.store().state().parked.iter().map(|parked| parked.value).collect();
        assert!(counted.is_disjoint(&parked));
        let missing = self.missing().len() as u64;
        let pending: u64 = self.store().state().drops.iter().map(|drop| drop.count).sum();
        let told = self.ledger.told + pending;
        assert!(missing <= told, "{missing} acknowledged readings are missing, {told} are told as dropped");
        for value in counted.iter().chain(&parked) {
            assert!(
                self.acknowledged.contains_key(value) || self.uncertain.contains(value),
                "{value} came from nowhere"
            );
        }
        assert!(self.store().state().held.iter().all(|held| held.answer == Answer::Receipt), "all are answered");
        receipts::check(self.store());
    }
}

use crate::uplink::seal as uplink_seal;

/// Some receipts say that the proof is archived, some not.
fn one_way(sequence: u64) -> bool {
    !sequence.is_multiple_of(3)
}

/// A day of an agent with a crash somewhere; then the power comes back and everything must add up.
fn live(world: &mut World, rng: &mut Rng, steps: u64) {
    for _ in 0..steps {
        world.advance(i64::try_from(below(rng, 1_000)).unwrap());
        let serial = format!("d{}", below(rng, 4));
        let ok = match below(rng, 6) {
            0 | 1 => world.append(&serial, i64::try_from(below(rng, 30)).unwrap() + 1).is_ok(),
            2 => {
                let mut odds = || one_in(rng, 8);
                world.connect(&mut odds, false).is_ok()
            }
            3 => world.store().tidy().is_ok(),
            4 if one_in(rng, 4) => {
                world.view.insert("d3".to_owned(), relayed("d3"));
                true
            }
            _ => world.store().sync().is_ok(),
        };
        if !ok {
            return;
        }
    }
}

#[test]
fn a_crash_at_any_boundary_loses_and_doubles_nothing() {
    depin_trials::run("agent store crashes", |rng| {
        let mut world = World::new(StoreOptions { limit: 1 << 20, retained: 4_096, ..StoreOptions::default() });
        for _ in 0..3 {
            let at = world.disk.operations() + below(rng, 80);
            world.disk.crash_at(at);
            live(&mut world, rng, 40);
            let disk = if one_in(rng, 4) {
                world.disk.after_kill()
            } else {
                world.disk.after_power_failure(&mut |n| below(rng, n))
            };
            world.restart(disk);
        }
        world.check();
        assert_eq!(world.ledger.again, 0, "a reading is in two proofs");
        assert!(
            world.ledger.head.is_none_or(|head| head.incarnation == 1),
            "a crash alone never needs a new incarnation"
        );
    });
}

#[test]
fn a_failed_sync_acknowledges_nothing_and_is_recovered_from() {
    let mut world = World::new(StoreOptions::default());
    world.append("d0", 5).unwrap();
    world.disk.fail_syncs(1);
    assert!(world.append("d0", 5).is_err());
    assert!(world.append("d0", 5).is_err(), "poisoned until it is recovered");
    world.store().recover().unwrap();
    world.append("d0", 5).unwrap();
    world.disk.set_read_only(true);
    assert!(world.append("d0", 5).is_err());
    world.disk.set_read_only(false);
    world.store().recover().unwrap();
    world.append("d0", 5).unwrap();
    world.check();
    assert_eq!(world.ledger.counted.len(), 15);
}

#[test]
fn at_its_limit_the_spool_stops_taking() {
    let mut world = World::new(StoreOptions { limit: 64 << 10, ..StoreOptions::default() });
    let mut batches = 0;
    while world.store().has_room(8_000) {
        world.append("d0", 1_000).unwrap();
        batches += 1;
        assert!(batches < 100);
    }
    assert!(world.store().spool_bytes() <= 64 << 10);
    let before = world.acknowledged.len();
    world.check();
    assert_eq!((world.ledger.counted.len(), world.ledger.told), (before, 0));
    assert!(world.store().has_room(8_000), "sealing made room");
}

#[test]
fn at_its_limit_the_spool_drops_the_oldest_and_tells_exactly_how_many() {
    let options = StoreOptions { limit: 256 << 10, policy: LimitPolicy::DropOldest, ..StoreOptions::default() };
    let mut world = World::new(options);
    for _ in 0..200 {
        world.append("d0", 1_000).unwrap();
    }
    assert!(world.store().spool_bytes() <= 300 << 10);
    world.check();
    let counted = world.ledger.counted.len() as u64;
    assert!(world.ledger.told > 0);
    assert_eq!(counted + world.ledger.told, 200_000, "every reading is counted or told");
    let oldest = world.ledger.counted.values().map(|(value, _)| *value).min().unwrap();
    assert_eq!(u64::try_from(oldest).unwrap(), world.ledger.told, "what is missing is the oldest");
    // Told once, also after a restart.
    let disk = world.disk.after_kill();
    world.restart(disk);
    world.append("d0", 1).unwrap();
    world.check();
    assert_eq!(world.ledger.counted.len() as u64 + world.ledger.told, 200_001);
}

#[test]
fn drops_under_crashes_are_told_at_least_once_and_readings_never_doubled() {
    depin_trials::run("agent store drops", |rng| {
        let options = StoreOptions { limit: 64 << 10, policy: LimitPolicy::DropOldest, ..StoreOptions::default() };
        let mut world = World::new(options);
        let at = world.disk.operations() + below(rng, 120);
        world.disk.crash_at(at);
        for _ in 0..60 {
            if world.append("d1", 1_000).is_err() || (one_in(rng, 20) && world.connect(|| false, false).is_err()) {
                break;
            }
        }
        let disk = world.disk.after_power_failure(&mut |n| below(rng, n));
        world.restart(disk);
        world.check();
        assert_eq!(world.ledger.again, 0);
    });
}

#[test]
fn stragglers_within_the_horizon_are_sealed_in_order() {
    let mut world = World::new(StoreOptions::default());
    world.view.models.insert(model(), ("meter".to_owned(), 10_000));
    world.append("d0", 3).unwrap();
    world.advance(9_000);
    world.append("d0", 3).unwrap();
    world.connect(|| false, false).unwrap();
    assert_eq!(world.ledger.counted.len(), 0, "nothing is ripe yet");
    world.advance(1_000);
    world.connect(|| false, false).unwrap();
    assert_eq!(world.ledger.counted.len(), 3);
    world.advance(10_000);
    world.check();
    assert_eq!(world.ledger.counted.len(), 6);
}

#[test]
fn what_came_before_the_clock_was_set_is_dated_when_it_is() {
    let mut world = World::new(StoreOptions::default());
    let undated = |world: &mut World, value: i64| {
        let mut builder = BatchBuilder::default();
        let now = world.now;
        builder.stamp(|| now);
        builder.push(
            &model(),
            &["energy".to_owned()],
            false,
            "d0",
            &[DecodedReading { metric: 0, at: now.wall, value }],
        );
        world.store().append(&builder.finish(), 1, now.wall).unwrap();
    };
    // A boot in which the clock was never set, then one in which it is set after a minute.
    world.now = Stamp { boot: 1, uptime: 500, wall: Timestamp(500) };
    undated(&mut world, 1);
    world.now = Stamp { boot: 2, uptime: 10_000, wall: Timestamp(10_000) };
    undated(&mut world, 2);
    world.now = Stamp { boot: 2, uptime: 60_000, wall: Timestamp(START) };
    let now = world.now;
    world.store().clock_agreed(&now).unwrap();
    world.connect(|| false, false).unwrap();
    world.connect(|| false, false).unwrap();
    let found: Vec<_> = world.ledger.counted.iter().map(|((_, _, at), (value, _))| (at.0, *value)).collect();
    assert_eq!(found, [(START - 50_000, 2)]);
    assert_eq!(world.ledger.told, 1, "of the other boot nobody knows when it was");
}

#[test]
fn flipped_bits_are_noticed_and_told() {
    let mut world = World::new(StoreOptions::default());
    for _ in 0..20 {
        world.append("d0", 100).unwrap();
    }
    let disk = world.disk.after_kill();
    let file = disk.files().into_iter().find(|file| file.starts_with("spool") && file.ends_with(".seg")).unwrap();
    let mut content = disk.content(&file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    disk.set_content(&file, content);
    world.store = None;
    world.disk = disk;
    let (store, found) = open(&world.disk, world.options).unwrap();
    world.store = Some(store);
    assert!(!found.damaged.is_empty());
    world.connect(|| false, false).unwrap();
    assert_eq!(world.ledger.counted.len(), 1_900, "only the damaged record is lost");
}
