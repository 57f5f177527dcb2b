//! Bytes from hardware on the agent's own listener: a packet within the buffer, the need for more, or an error.
#![no_main]

use depin_agent::listener::packet::{Packet, Parsed, Version, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for version in [None, Some(Version::V4), Some(Version::V5)] {
        let parsed = parse(bytes, version, 1_000);
        if let Ok(Parsed::Oversize { topic, length, .. }) = &parsed {
            assert!(topic.end <= bytes.len() && *length > 1_000);
        }
        let Ok(Parsed::Packet { packet, length }) = parsed else { continue };
        assert!(length <= bytes.len() && length >= 2);
        if let Packet::Publish(publish) = &packet {
            assert!(publish.topic.end <= publish.payload.start && publish.payload.end == length);
        }
        // Nothing behind a packet decides about it, and without its last byte it is not whole.
        let again = parse(&bytes[..length], version, 1_000);
        assert_eq!(again, Ok(Parsed::Packet { packet, length }));
        assert_eq!(parse(&bytes[..length - 1], version, 1_000), Ok(Parsed::Incomplete));
    }
});
