//! The simulator against a small broker of the test's own that cuts connections and forgets acknowledgements: every message
//! is acknowledged in the end, and the report says exactly what the broker took.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it cannot go on")]

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use clap::Parser as _;
use depin_sim::Options;

/// Payloads taken, and how many publishes came.
#[derive(Default)]
struct Taken {
    payloads: BTreeSet<Vec<u8>>,
    publishes: u64,
}

fn serve(mut stream: TcpStream, taken: &Mutex<Taken>) -> std::io::Result<()> {
    loop {
        let mut first = [0; 1];
        stream.read_exact(&mut first)?;
        let (mut length, mut shift) = (0, 0);
        loop {
            let mut byte = [0; 1];
            stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7F) << shift;
            shift += 7;
            if byte[0] < 0x80 {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        match first[0] & 0xF0 {
            0x10 => stream.write_all(&[0x20, 2, 0, 0])?,
            0x30 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let mut taken = taken.lock().unwrap();
                taken.publishes += 1;
                taken.payloads.insert(body[topic + 4..].to_vec());
                // Each eleventh publish is taken but its acknowledgement lost with the connection.
                if taken.publishes.is_multiple_of(11) {
                    return Ok(());
                }
                stream.write_all(&[0x40, 2, body[topic + 2], body[topic + 3]])?;
            }
            0xC0 => stream.write_all(&[0xD0, 0])?,
            _ => return Ok(()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_acknowledged_once_in_spite_of_a_bad_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = Arc::new(Mutex::new(Taken::default()));
    let shared = taken.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let taken = shared.clone();
            thread::spawn(move || serve(stream, &taken));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let options = Options::parse_from([
        "depin-sim",
        "--network=meters",
        "--devices=5",
        "--messages=40",
        "--unpaced",
        "--connections=2",
        "--window=10",
        "--disconnects=0.02",
        &format!("--mqtt={address}"),
        &format!("--report={}", report.display()),
    ]);
    depin_sim::run(options).await.unwrap();

    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["published"], 200);
    assert_eq!(report["acknowledged"], 200);
    assert_eq!(report["readings"], 400);
    assert!(report["reconnects"].as_u64().unwrap() > 0);
    let taken = taken.lock().unwrap();
    assert_eq!(taken.payloads.len(), 200, "each message arrived");
    assert!(taken.publishes > 200, "some arrived twice");
    let mut sum = 0;
    for payload in &taken.payloads {
        let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
        sum += payload["power_w"].as_i64().unwrap();
    }
    let reported: i64 = report["devices"]
        .as_object()
        .unwrap()
        .values()
        .map(|device| device["metrics"]["power_w"]["sum"].as_str().unwrap().parse::<i64>().unwrap())
        .sum();
    assert_eq!(reported, sum);
}

#[test]
fn the_example_recordings_fit_their_mapping() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/recordings/village");
    let described = depin_sim::replay::Recordings::read(&folder, None, &[]).unwrap().describe();
    let fleets: Vec<(&str, usize)> =
        described.fleets.iter().map(|(fleet, serials)| (fleet.as_str(), serials.len())).collect();
    assert_eq!(fleets, [("energy/inverters", 4), ("energy/meters", 4), ("weather/stations", 2)]);
    assert_eq!((described.messages, described.readings), (2 * 960 + 480, 4 * 960 + 4 * 480));
}
