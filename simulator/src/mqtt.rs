//! As much of MQTT 3.1.1 as hardware needs that only publishes: CONNECT, PUBLISH QoS 1, PUBACK, PING, DISCONNECT.
//!
//! Written here and not taken from a client library because the simulator must know exactly which publishes were
//! acknowledged, and must be able to misbehave.

/// What a broker sends to a publisher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The connection is accepted, or refused with a code.
    ConnAck(u8),
    /// The publish with this packet id is acknowledged.
    PubAck(u16),
    /// The answer to a ping.
    PingResp,
}

/// The peer sent something that is not MQTT, or nothing that a publisher expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the broker sent a packet that a publisher does not expect (first byte {0:#04x})")]
pub struct Unexpected(pub u8);

/// A CONNECT with a persistent session, so that a broker keeps what it owes us over a disconnect.
#[must_use]
pub fn connect(client_id: &str, keep_alive_seconds: u16) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, "MQTT");
    body.extend([4, 0]);
    body.extend(keep_alive_seconds.to_be_bytes());
    text(&mut body, client_id);
    packet(0x10, &body)
}

/// A PUBLISH with QoS 1.
#[must_use]
pub fn publish(topic: &str, payload: &[u8], id: u16, duplicate: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    text(&mut body, topic);
    body.extend(id.to_be_bytes());
    body.extend(payload);
    packet(if duplicate { 0x3A } else { 0x32 }, &body)
}

/// A PINGREQ.
pub const PING: [u8; 2] = [0xC0, 0];
/// A DISCONNECT.
pub const DISCONNECT: [u8; 2] = [0xE0, 0];

/// Takes the first complete packet off `buffer`; `None` if it is not complete yet.
///
/// # Errors
/// When it is a packet that no broker sends to a publisher.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Incoming>, Unexpected> {
    let [first, length, ..] = buffer.as_slice() else { return Ok(None) };
    let (first, length) = (*first, usize::from(*length));
    let expected = match first {
        0x20 | 0x40 => 2,
        0xD0 => 0,
        _ => return Err(Unexpected(first)),
    };
    if length != expected {
        return Err(Unexpected(first));
    }
    if buffer.len() < 2 + length {
        return Ok(None);
    }
    let body: Vec<u8> = buffer.drain(..2 + length).skip(2).collect();
    Ok(match (first, body.as_slice()) {
        (0x20, [_, code]) => Some(Incoming::ConnAck(*code)),
        (0x40, [high, low]) => Some(Incoming::PubAck(u16::from_be_bytes([*high, *low]))),
        _ => Some(Incoming::PingResp),
    })
}

fn text(body: &mut Vec<u8>, text: &str) {
    // Longer than a topic may be; what does not fit is cut rather than sent malformed.
    let bytes = text.as_bytes().get(..text.len().min(usize::from(u16::MAX))).unwrap_or_default();
    body.extend((bytes.len() as u16).to_be_bytes());
    body.extend(bytes);
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut rest = body.len();
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        packet.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_those_of_the_specification() {
        assert_eq!(connect("a", 60), [0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 0, 0, 60, 0, 1, b'a']);
        assert_eq!(publish("t", b"p", 258, false), [0x32, 6, 0, 1, b't', 1, 2, b'p']);
        assert_eq!(publish("t", &[0; 200], 1, true).get(..3), Some([0x3A, 0xCD, 0x01].as_slice()));
    }

    #[test]
    fn packets_are_taken_whole_from_a_stream() {
        let stream = [0x20, 2, 0, 0, 0x40, 2, 1, 2, 0xD0, 0, 0x40];
        let mut buffer = Vec::new();
        let mut taken = Vec::new();
        for byte in stream {
            buffer.push(byte);
            while let Some(packet) = take(&mut buffer).unwrap() {
                taken.push(packet);
            }
        }
        assert_eq!(taken, [Incoming::ConnAck(0), Incoming::PubAck(258), Incoming::PingResp]);
        assert_eq!(take(&mut vec![0x30, 2]), Err(Unexpected(0x30)));
    }
}
