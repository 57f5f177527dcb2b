//! A damaged segment file: is read or the damage is reported; never more than was written.
#![no_main]

use std::sync::Arc;

use depin_log::{Log, Options, simulated::SimulatedStorage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let storage = Arc::new(SimulatedStorage::new());
    let options = Options { tag: 7, ..Options::default() };
    let Ok((mut log, _)) = Log::open(storage.clone(), options.clone()) else { return };
    let records = [&b"first"[..], b"second", &[7; 300]];
    for record in records {
        if log.append(1, record).is_err() {
            return;
        }
    }
    if log.sync().is_err() || log.close().is_err() {
        return;
    }
    let Some(file) = storage.files().into_iter().find(|file| file.ends_with(".seg")) else { return };
    let mut content = storage.content(&file).unwrap_or_default();
    // The input says where which bytes are changed; what is left over is appended.
    let (damage, tail) = bytes.split_at(bytes.len().min(30) / 3 * 3);
    for change in damage.chunks(3) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if let Some(byte) = content.get_mut(place) {
            *byte ^= change[2];
        }
    }
    content.extend(tail);
    storage.set_content(&file, content);
    let Ok((log, _)) = Log::open(storage, options) else { return };
    let Ok(mut cursor) = log.read_from(log.front()) else { return };
    let mut read = 0;
    while let Ok(Some(record)) = cursor.next_record() {
        read += 1;
        assert!(read <= records.len() + tail.len());
        assert!(record.payload.len() <= 1 << 24);
    }
});
