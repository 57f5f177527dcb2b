//! Rot and truncation, at every byte; locking; checkpoints; the real disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;

use depin_log::{DiskStorage, Log, LogError, OnDamage, Options, Storage, checkpoint, simulated::SimulatedStorage};

fn options(on_damage: OnDamage) -> Options {
    Options { tag: 7, segment_size: 150, max_record: 4096, on_damage }
}

fn payload(index: u32) -> Vec<u8> {
    index.to_le_bytes().repeat(5)
}

const RECORDS: u32 = 14;

fn written() -> SimulatedStorage {
    let storage = SimulatedStorage::new();
    let (mut log, _) = Log::open(Arc::new(storage.clone()), options(OnDamage::Refuse)).unwrap();
    for index in 0..RECORDS {
        log.append(1, &payload(index)).unwrap();
        if index % 2 == 0 {
            log.sync().unwrap();
        }
    }
    log.close().unwrap();
    storage
}

fn segments(storage: &SimulatedStorage) -> Vec<String> {
    storage.files().into_iter().filter(|file| file.ends_with(".seg")).collect()
}

/// All records, or the first error.
fn read(storage: &SimulatedStorage) -> Result<(Vec<Vec<u8>>, bool), LogError> {
    let (log, recovery) = Log::open(Arc::new(storage.clone()), options(OnDamage::Refuse))?;
    let records =
        log.read_from(log.front())?.map(|record| record.map(|record| record.payload)).collect::<Result<_, _>>()?;
    Ok((records, recovery.cut_off.is_some()))
}

/// What is readable, and how many damages were told.
fn salvage(storage: &SimulatedStorage) -> (Vec<Vec<u8>>, usize) {
    let (log, recovery) = Log::open(Arc::new(storage.clone()), options(OnDamage::Skip)).unwrap();
    let (mut records, mut damages) = (Vec::new(), usize::from(recovery.cut_off.is_some()) + recovery.damaged.len());
    let mut cursor = log.read_from(log.front()).unwrap();
    loop {
        match cursor.next_record() {
            Ok(Some(record)) => records.push(record.payload.to_vec()),
            Ok(None) => return (records, damages),
            Err(LogError::Damaged(_)) => damages += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_detected_and_costs_at_most_its_record() {
    let whole = written();
    assert!(segments(&whole).len() > 3);
    let all: Vec<_> = (0..RECORDS).map(payload).collect();
    assert_eq!(read(&whole).unwrap(), (all.clone(), false));
    for file in segments(&whole) {
        let content = whole.content(&file).unwrap();
        for at in 0..content.len() {
            for bit in [0, 3, 7] {
                let mut flipped = content.clone();
                flipped[at] ^= 1 << bit;
                let storage = whole.after_kill();
                storage.set_content(&file, flipped.clone());
                match read(&storage) {
                    Err(LogError::Damaged(damage)) => assert_eq!(damage.file, file, "byte {at}"),
                    // Only the closing mark is not covered by a later one: nothing is lost then, and it is told.
                    Ok((records, cut_off)) => assert!(cut_off && records == all, "{file} byte {at} undetected"),
                    Err(LogError::Foreign { .. }) => panic!("a damaged header taken for a foreign one"),
                    Err(error) => panic!("{error}"),
                }
                let storage = whole.after_kill();
                storage.set_content(&file, flipped);
                let (records, damages) = salvage(&storage);
                assert!(damages > 0, "{file} byte {at} not told");
                assert!(records.len() + 1 >= all.len(), "{file} byte {at}: {} of {}", records.len(), all.len());
                assert!(records.iter().all(|record| all.contains(record)));
            }
        }
    }
}

#[test]
fn every_truncation_is_detected_or_leaves_a_clean_beginning() {
    let whole = written();
    let all: Vec<_> = (0..RECORDS).map(payload).collect();
    let files = segments(&whole);
    for (index, file) in files.iter().enumerate() {
        let content = whole.content(file).unwrap();
        for length in 0..content.len() {
            let storage = whole.after_kill();
            storage.set_content(file, content[..length].to_vec());
            match read(&storage) {
                Err(LogError::Damaged(damage)) => assert_eq!(&damage.file, file),
                Ok((records, cut_off)) => {
                    // Only the last segment can look as if its end had never been written.
                    assert_eq!(index, files.len() - 1, "{file} cut at {length}");
                    assert_eq!(records, all[..records.len()]);
                    assert!(cut_off || records.len() <= all.len());
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
}

#[test]
fn a_missing_segment_is_detected() {
    let files = segments(&written());
    for file in &files[1..files.len() - 1] {
        let storage = written();
        storage.remove(file).unwrap();
        assert!(matches!(read(&storage), Err(LogError::Damaged(_))));
    }
}

#[test]
fn a_log_for_something_else_is_not_opened() {
    let storage = written();
    let options = Options { tag: 8, ..options(OnDamage::Skip) };
    assert!(matches!(Log::open(Arc::new(storage), options), Err(LogError::Foreign { .. })));
}

#[test]
fn the_newest_whole_checkpoint_wins_at_every_boundary_and_every_flipped_byte() {
    let whole = SimulatedStorage::new();
    for generation in 1..=3 {
        assert_eq!(checkpoint::write(&whole, "state", 1, &[generation; 40]).unwrap(), u64::from(generation));
    }
    let before = whole.operations();
    checkpoint::write(&whole, "state", 1, &[4; 40]).unwrap();
    let operations = whole.operations() - before;
    for boundary in 0..operations {
        let storage = SimulatedStorage::new();
        for generation in 1..=3 {
            checkpoint::write(&storage, "state", 1, &[generation; 40]).unwrap();
        }
        storage.crash_at(before + boundary);
        checkpoint::write(&storage, "state", 1, &[4; 40]).unwrap_err();
        for seed in 0..20 {
            let mut state: u64 = seed;
            let after = storage.after_power_failure(&mut |bound| {
                state = 6364136223846793005u64.wrapping_mul(state).wrapping_add(1442695040888963407);
                (state >> 33) % bound
            });
            let (generation, bytes) = checkpoint::load(&after, "state", 1).unwrap().newest.unwrap();
            assert!(generation >= 3 && bytes == vec![generation as u8; 40]);
        }
    }
    for file in ["state.0", "state.1"] {
        let content = whole.content(file).unwrap();
        for at in 0..content.len() {
            let storage = whole.after_kill();
            let mut flipped = content.clone();
            flipped[at] ^= 4;
            storage.set_content(file, flipped);
            let loaded = checkpoint::load(&storage, "state", 1).unwrap();
            assert_eq!(loaded.damaged.len(), 1);
            let (generation, bytes) = loaded.newest.unwrap();
            assert_eq!(bytes, vec![generation as u8; 40]);
        }
    }
}

#[test]
fn on_a_real_disk_one_writer_appends_and_readers_follow() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Arc::new(DiskStorage::open(directory.path().join("log")).unwrap());
    let (mut log, recovery) = Log::open(storage.clone(), options(OnDamage::Refuse)).unwrap();
    assert_eq!(recovery.end, 0);
    assert!(matches!(Log::open(storage.clone(), options(OnDamage::Refuse)), Err(LogError::Locked(_))));
    let mut follower = log.read_from(0).unwrap();
    let mut positions = Vec::new();
    for index in 0..RECORDS {
        positions.push(log.append(2, &payload(index)).unwrap());
        assert!(follower.next_record().unwrap().is_none(), "a reader saw what was not durable");
        log.sync().unwrap();
        assert_eq!(follower.next_record().unwrap().unwrap().payload, payload(index));
    }
    assert!(positions.is_sorted());
    let front = log.truncate_front(positions[7]).unwrap();
    assert!(front > 0 && front <= positions[7]);
    assert!(matches!(log.read_from(0), Err(LogError::Removed { .. })));
    assert!(matches!(log.append(1, &[0; 5000]), Err(LogError::TooLarge { .. })));
    log.close().unwrap();
    let (log, recovery) = Log::open(storage, options(OnDamage::Refuse)).unwrap();
    assert_eq!((recovery.front, recovery.cut_off), (front, None));
    assert_eq!(log.reader().read(positions[9]).unwrap().unwrap().payload, payload(9));
    assert_eq!(log.read_from(positions[7]).unwrap().count(), RECORDS as usize - 7);
}
