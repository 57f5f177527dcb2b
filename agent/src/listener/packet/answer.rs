//! What the listener writes: acknowledgements, refusals, farewells.

use super::Version;

/// What CONNACK says: taken, or why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Welcome {
    /// Go on.
    Accepted,
    /// MQTT 5 code 0x86, 3.1.1 code 4.
    BadCredentials,
    /// MQTT 5 code 0x97, 3.1.1 code 3.
    TooMany,
    /// A client identifier that is empty without a clean session.
    BadClient,
}

/// CONNACK.
pub fn connack(out: &mut Vec<u8>, version: Version, welcome: Welcome, max_packet: u32, receive_maximum: u16) {
    match version {
        Version::V4 => {
            let code = match welcome {
                Welcome::Accepted => 0,
                Welcome::BadClient => 2,
                Welcome::TooMany => 3,
                Welcome::BadCredentials => 4,
            };
            out.extend([0x20, 2, 0, code]);
        }
        Version::V5 => {
            let code = match welcome {
                Welcome::Accepted => 0,
                Welcome::BadClient => 0x85,
                Welcome::TooMany => 0x97,
                Welcome::BadCredentials => 0x86,
            };
            // Receive maximum, maximum QoS 1, no retained messages, maximum packet size, no topic aliases, no subscriptions of any special kind.
            let mut properties = vec![0x21];
            properties.extend(receive_maximum.to_be_bytes());
            properties.extend([0x24, 1, 0x25, 0, 0x27]);
            properties.extend(max_packet.to_be_bytes());
            properties.extend([0x28, 0, 0x29, 0, 0x2a, 0]);
            let length = u8::try_from(properties.len()).unwrap_or(0);
            out.extend([0x20, 3 + length, 0, code, length]);
            out.extend(properties);
        }
    }
}

/// PUBACK: the short form means success in both versions.
pub fn puback(out: &mut Vec<u8>, packet: u16) {
    let [high, low] = packet.to_be_bytes();
    out.extend([0x40, 2, high, low]);
}

/// SUBACK that refuses every filter.
pub fn suback(out: &mut Vec<u8>, version: Version, packet: u16, filters: usize) {
    let (code, properties) = match version {
        Version::V4 => (0x80, 0),
        // Implementation specific error: there is nothing to subscribe to.
        Version::V5 => (0x83, 1),
    };
    answers(out, 0x90, packet, properties, code, filters);
}

/// UNSUBACK.
pub fn unsuback(out: &mut Vec<u8>, version: Version, packet: u16, filters: usize) {
    match version {
        Version::V4 => answers(out, 0xb0, packet, 0, 0, 0),
        // No subscription existed.
        Version::V5 => answers(out, 0xb0, packet, 1, 0x11, filters),
    }
}

fn answers(out: &mut Vec<u8>, kind: u8, packet: u16, properties: usize, code: u8, count: usize) {
    out.push(kind);
    let mut remaining = 2 + properties + count;
    loop {
        let low = (remaining & 0x7f).to_le_bytes()[0];
        remaining >>= 7;
        out.push(if remaining > 0 { low | 0x80 } else { low });
        if remaining == 0 {
            break;
        }
    }
    out.extend(packet.to_be_bytes());
    out.extend(std::iter::repeat_n(0, properties));
    out.extend(std::iter::repeat_n(code, count));
}

/// PINGRESP.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend([0xd0, 0]);
}

/// DISCONNECT with a reason; 3.1.1 has no way to say it.
pub fn disconnect(out: &mut Vec<u8>, version: Version, code: u8) {
    if version == Version::V5 {
        out.extend([0xe0, 2, code, 0]);
    }
}
