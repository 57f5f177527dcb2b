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

/// What CONNACK tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Taken, or why not.
    pub welcome: Welcome,
    /// The session is known: what the client did not see acknowledged it may send again.
    pub present: bool,
    /// The name of an MQTT 5 client that came without one.
    pub assigned: Option<&'a str>,
    /// Messages that may wait for their acknowledgement.
    pub receive_maximum: u16,
}

/// CONNACK.
pub fn connack(out: &mut Vec<u8>, version: Version, answer: &Answer<'_>) {
    let present = u8::from(answer.present && answer.welcome == Welcome::Accepted);
    match version {
        Version::V4 => {
            let code = match answer.welcome {
                Welcome::Accepted => 0,
                Welcome::BadClient => 2,
                Welcome::TooMany => 3,
                Welcome::BadCredentials => 4,
            };
            out.extend([0x20, 2, present, code]);
        }
        Version::V5 => {
            let code = match answer.welcome {
                Welcome::Accepted => 0,
                Welcome::BadClient => 0x85,
                Welcome::TooMany => 0x97,
                Welcome::BadCredentials => 0x86,
            };
            // Receive maximum, maximum QoS 1, no retained messages, no topic aliases, no subscriptions of any special kind. No maximum packet
            // size: a client would keep what is larger, and nobody would hear of it.
            let mut properties = vec![0x21];
            properties.extend(answer.receive_maximum.to_be_bytes());
            properties.extend([0x24, 1, 0x25, 0, 0x28, 0, 0x29, 0, 0x2a, 0]);
            if let Some((name, length)) = answer.assigned.and_then(|name| Some((name, u8::try_from(name.len()).ok()?)))
            {
                properties.extend([0x12, 0, length]);
                properties.extend(name.as_bytes());
            }
            let mut body = vec![present, code];
            variable(&mut body, properties.len());
            body.extend(properties);
            out.push(0x20);
            variable(out, body.len());
            out.extend(body);
        }
    }
}

/// A variable byte integer.
fn variable(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f).to_le_bytes()[0];
        value >>= 7;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            break;
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
    variable(out, 2 + properties + count);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_welcome_tells_whether_the_session_is_known_and_what_the_client_is_called() {
        let of = |version, welcome, present, assigned| {
            let mut out = Vec::new();
            connack(&mut out, version, &Answer { welcome, present, assigned, receive_maximum: 1_000 });
            out
        };
        assert_eq!(of(Version::V4, Welcome::Accepted, true, None), [0x20, 2, 1, 0]);
        assert_eq!(of(Version::V4, Welcome::BadCredentials, true, None), [0x20, 2, 0, 4]);
        let plain = [0x21, 3, 232, 0x24, 1, 0x25, 0, 0x28, 0, 0x29, 0, 0x2a, 0];
        let expected = [&[0x20, 16, 1, 0, 13][..], &plain].concat();
        assert_eq!(of(Version::V5, Welcome::Accepted, true, None), expected);
        let expected = [&[0x20, 21, 0, 0, 18][..], &plain, &[0x12, 0, 2], b"me"].concat();
        assert_eq!(of(Version::V5, Welcome::Accepted, false, Some("me")), expected);
        let long = "x".repeat(200);
        let answer = of(Version::V5, Welcome::Accepted, false, Some(&long));
        // Both lengths need two bytes.
        assert_eq!((&answer[..7], answer.len()), (&[0x20, 220, 1, 0, 0, 216, 1][..], 223));
    }
}
