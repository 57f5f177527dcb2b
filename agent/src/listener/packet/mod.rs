//! MQTT 3.1.1 and 5 packets, as far as hardware that only publishes needs them.
//!
//! Pure and incremental: [`parse`] looks at the bytes that are there and says what packet begins them, how many more are needed, or what
//! is wrong. Nothing is copied; nothing larger than the limit is waited for. Of a message that is larger only the head is read: it is to be
//! passed over, but acknowledged.

mod answer;
mod reader;

use std::ops::Range;

pub use answer::{Answer, Welcome, connack, disconnect, pingresp, puback, suback, unsuback};
use reader::{Reader, Result, nonzero};

/// Protocol level of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1.
    V4,
    /// MQTT 5.
    V5,
}

/// A packet's bytes are not MQTT, or not what is taken here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Not MQTT.
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// Larger than the limit.
    #[error("a packet of {0} bytes is larger than the limit")]
    TooLarge(usize),
    /// A protocol version that is not spoken here.
    #[error("protocol version {0} is not spoken; use MQTT 3.1.1 or 5")]
    Version(u8),
}

/// What the first bytes of a connection's buffer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Incomplete,
    /// A whole packet of `length` bytes.
    Packet {
        /// What it is; ranges count from the buffer's start.
        packet: Packet,
        /// Its length in bytes.
        length: usize,
    },
    /// The head of a message that is larger than the limit; the rest need not be there.
    Oversize {
        /// Where the topic stands.
        topic: Range<usize>,
        /// 0, 1 or 2.
        qos: u8,
        /// Packet identifier; 0 with QoS 0.
        packet: u16,
        /// Length of the whole packet in bytes.
        length: usize,
    },
}

/// A packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT.
    Connect(Connect),
    /// PUBLISH.
    Publish(Publish),
    /// SUBSCRIBE with so many filters.
    Subscribe {
        /// Packet identifier.
        packet: u16,
        /// How many filters.
        filters: usize,
    },
    /// UNSUBSCRIBE with so many filters.
    Unsubscribe {
        /// Packet identifier.
        packet: u16,
        /// How many filters.
        filters: usize,
    },
    /// PINGREQ.
    Ping,
    /// DISCONNECT, with the session's expiry in seconds where it is to be another one.
    Disconnect(Option<u32>),
    /// PUBACK and the like: there is nothing that they could answer.
    Ignored,
}

/// CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol is spoken.
    pub version: Version,
    /// Client identifier.
    pub client: String,
    /// Clean session or clean start.
    pub clean: bool,
    /// Seconds for which the session is to outlive the connection; `u32::MAX`: for ever.
    pub expiry: u32,
    /// Seconds; 0: none.
    pub keep_alive: u16,
    /// User name, if any.
    pub user: Option<String>,
    /// Password, if any.
    pub password: Option<Vec<u8>>,
}

/// PUBLISH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where the topic stands; empty in MQTT 5 with a topic alias.
    pub topic: Range<usize>,
    /// Where the payload stands.
    pub payload: Range<usize>,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Delivered before.
    pub duplicate: bool,
    /// Packet identifier; 0 with QoS 0.
    pub packet: u16,
    /// MQTT 5 topic alias; 0: none.
    pub alias: u16,
}

/// Looks at the start of `buffer`. `version` is `None` before CONNECT.
pub fn parse(buffer: &[u8], version: Option<Version>, limit: usize) -> Result<Parsed> {
    let Some(first) = buffer.first().copied() else { return Ok(Parsed::Incomplete) };
    let mut remaining = 0;
    let mut header = 1;
    loop {
        let Some(byte) = buffer.get(header).copied() else { return Ok(Parsed::Incomplete) };
        remaining |= usize::from(byte & 0x7f) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if header > 4 {
            return Err(PacketError::Malformed("a length of more than four bytes"));
        }
    }
    let length = header + remaining;
    if length > limit {
        return match (first >> 4, version) {
            (3, Some(_)) => oversize(buffer, header, length, first & 15),
            _ => Err(PacketError::TooLarge(length)),
        };
    }
    if buffer.len() < length {
        return Ok(Parsed::Incomplete);
    }
    let mut reader = Reader { bytes: buffer, at: header, end: length };
    let (kind, flags) = (first >> 4, first & 15);
    let packet = match (kind, version) {
        (1, None) if flags == 0 => Packet::Connect(connect(&mut reader)?),
        (_, None) => return Err(PacketError::Malformed("the first packet is not CONNECT")),
        (3, Some(version)) => Packet::Publish(publish(&mut reader, flags, version)?),
        (8, Some(version)) if flags == 2 => {
            let (packet, filters) = filters(&mut reader, version, 1)?;
            Packet::Subscribe { packet, filters }
        }
        (10, Some(version)) if flags == 2 => {
            let (packet, filters) = filters(&mut reader, version, 0)?;
            Packet::Unsubscribe { packet, filters }
        }
        (12, Some(_)) if flags == 0 && remaining == 0 => Packet::Ping,
        (14, Some(version)) if flags == 0 => Packet::Disconnect(disconnect_expiry(&mut reader, version)?),
        (4, Some(_)) if flags == 0 => Packet::Ignored,
        _ => return Err(PacketError::Malformed("a packet that a client may not send here")),
    };
    Ok(Parsed::Packet { packet, length })
}

fn connect(reader: &mut Reader<'_>) -> Result<Connect> {
    if reader.text()? != "MQTT" {
        return Err(PacketError::Malformed("the protocol's name is not MQTT"));
    }
    let version = match reader.u8()? {
        4 => Version::V4,
        5 => Version::V5,
        other => return Err(PacketError::Version(other)),
    };
    let flags = reader.u8()?;
    if flags & 1 != 0 || (flags >> 3) & 3 == 3 {
        return Err(PacketError::Malformed("reserved connect flags"));
    }
    let clean = flags & 2 != 0;
    let keep_alive = reader.u16()?;
    let expiry = match version {
        Version::V4 if clean => 0,
        Version::V4 => u32::MAX,
        Version::V5 => reader.properties()?.expiry.unwrap_or(0),
    };
    let client = reader.text()?.to_owned();
    if flags & 4 != 0 {
        // The last will is not kept: an agent has nobody to tell it to.
        if version == Version::V5 {
            reader.properties()?;
        }
        reader.text()?;
        reader.prefixed()?;
    }
    let user = if flags & 0x80 != 0 { Some(reader.text()?.to_owned()) } else { None };
    let password = if flags & 0x40 != 0 {
        let range = reader.prefixed()?;
        reader.bytes.get(range).map(<[u8]>::to_vec)
    } else {
        None
    };
    if reader.at != reader.end {
        return Err(PacketError::Malformed("bytes after CONNECT"));
    }
    Ok(Connect { version, client, clean, expiry, keep_alive, user, password })
}

/// QoS, topic and packet identifier of a PUBLISH.
fn head(reader: &mut Reader<'_>, flags: u8) -> Result<(u8, Range<usize>, u16)> {
    let qos = (flags >> 1) & 3;
    if qos == 3 {
        return Err(PacketError::Malformed("QoS 3"));
    }
    let topic = reader.prefixed()?;
    let text = reader.bytes.get(topic.clone()).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let text = text.ok_or(PacketError::Malformed("the topic is not UTF-8"))?;
    if text.contains(['+', '#', '\0']) {
        return Err(PacketError::Malformed("a wildcard in a topic"));
    }
    let packet = if qos > 0 { nonzero(reader.u16()?)? } else { 0 };
    Ok((qos, topic, packet))
}

fn publish(reader: &mut Reader<'_>, flags: u8, version: Version) -> Result<Publish> {
    let (qos, topic, packet) = head(reader, flags)?;
    let alias = if version == Version::V5 { reader.properties()?.alias } else { 0 };
    if topic.is_empty() && alias == 0 {
        return Err(PacketError::Malformed("an empty topic"));
    }
    Ok(Publish { topic, payload: reader.at..reader.end, qos, duplicate: flags & 8 != 0, packet, alias })
}

/// A PUBLISH of which only the head is wanted.
fn oversize(buffer: &[u8], header: usize, length: usize, flags: u8) -> Result<Parsed> {
    let Some(&[high, low]) = buffer.get(header..header + 2) else { return Ok(Parsed::Incomplete) };
    let identifier = if (flags >> 1) & 3 > 0 { 2 } else { 0 };
    let end = header + 2 + usize::from(u16::from_be_bytes([high, low])) + identifier;
    if end > length {
        return Err(PacketError::Malformed("a field is longer than the packet"));
    }
    if buffer.len() < end {
        return Ok(Parsed::Incomplete);
    }
    let (qos, topic, packet) = head(&mut Reader { bytes: buffer, at: header, end }, flags)?;
    Ok(Parsed::Oversize { topic, qos, packet, length })
}

/// A reason code, then properties: both may be left out.
fn disconnect_expiry(reader: &mut Reader<'_>, version: Version) -> Result<Option<u32>> {
    if version == Version::V4 || reader.end - reader.at < 2 {
        return Ok(None);
    }
    reader.u8()?;
    Ok(reader.properties()?.expiry)
}

fn filters(reader: &mut Reader<'_>, version: Version, options: usize) -> Result<(u16, usize)> {
    let packet = nonzero(reader.u16()?)?;
    if version == Version::V5 {
        reader.properties()?;
    }
    let mut filters = 0;
    while reader.at < reader.end {
        reader.text()?;
        reader.take(options)?;
        filters += 1;
    }
    if filters == 0 { Err(PacketError::Malformed("no topic filter")) } else { Ok((packet, filters)) }
}

#[cfg(test)]
mod tests {
    use depin_trials::{RngCore as _, below};

    use super::*;

    const PUBLISH: &[u8] = b"\x32\x0b\x00\x03a/b\x00\x07{\"}\"";

    #[test]
    fn a_packet_is_taken_only_when_it_is_whole() {
        for end in 0..PUBLISH.len() {
            assert_eq!(parse(&PUBLISH[..end], Some(Version::V4), 100), Ok(Parsed::Incomplete), "{end}");
        }
        let Ok(Parsed::Packet { packet: Packet::Publish(publish), length }) = parse(PUBLISH, Some(Version::V4), 100)
        else {
            panic!("no packet")
        };
        assert_eq!((length, publish.qos, publish.packet, publish.duplicate), (PUBLISH.len(), 1, 7, false));
        assert_eq!(&PUBLISH[publish.topic], b"a/b");
        assert_eq!(&PUBLISH[publish.payload], b"{\"}\"");
    }

    #[test]
    fn connect_is_read_in_both_versions() {
        let four = b"\x10\x15\x00\x04MQTT\x04\xc2\x00\x3c\x00\x02me\x00\x01u\x00\x02pw";
        let Ok(Parsed::Packet { packet: Packet::Connect(connect), .. }) = parse(four, None, 100) else { panic!() };
        let expected = Connect {
            version: Version::V4,
            client: "me".to_owned(),
            clean: true,
            expiry: 0,
            keep_alive: 60,
            user: Some("u".to_owned()),
            password: Some(b"pw".to_vec()),
        };
        assert_eq!(connect, expected);
        let five = b"\x10\x14\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x00\x05\x00\x02me";
        assert!(
            matches!(parse(five, None, 100), Ok(Parsed::Packet { packet: Packet::Connect(connect), .. }) if connect.version == Version::V5 && connect.expiry == 5)
        );
        let kept = b"\x10\x0e\x00\x04MQTT\x04\x00\x00\x3c\x00\x02me";
        assert!(
            matches!(parse(kept, None, 100), Ok(Parsed::Packet { packet: Packet::Connect(connect), .. }) if connect.expiry == u32::MAX)
        );
        let disconnect = |bytes: &[u8], version| match parse(bytes, Some(version), 100) {
            Ok(Parsed::Packet { packet: Packet::Disconnect(expiry), .. }) => expiry,
            other => panic!("{other:?}"),
        };
        assert_eq!(disconnect(b"\xe0\x00", Version::V4), None);
        assert_eq!(disconnect(b"\xe0\x01\x00", Version::V5), None);
        assert_eq!(disconnect(b"\xe0\x07\x00\x05\x11\x00\x00\x00\x07", Version::V5), Some(7));
        assert_eq!(
            parse(b"\x10\x0e\x00\x06MQIsdp\x03\x02\x00\x00\x00\x00", None, 100),
            Err(PacketError::Malformed("the protocol's name is not MQTT"))
        );
        assert_eq!(parse(b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x00\x00\x00", None, 100), Err(PacketError::Version(6)));
    }

    #[test]
    fn what_no_client_may_send_is_refused() {
        let cases: [&[u8]; 8] = [
            b"\x36\x07\x00\x01a\x00\x01xx",
            b"\x32\x05\x00\x01a\x00\x00",
            b"\x30\x03\x00\x01+",
            b"\x30\x02\x00\x00",
            b"\x82\x02\x00\x01",
            b"\x10\x00",
            b"\x20\x02\x00\x00",
            b"\x30\xff\xff\xff\xff\x01",
        ];
        for bytes in cases {
            assert!(parse(bytes, Some(Version::V4), 1 << 30).is_err(), "{bytes:?}");
        }
        assert_eq!(parse(b"\x82\xff\x01", Some(Version::V4), 100), Err(PacketError::TooLarge(258)));
        assert_eq!(parse(b"\x10\xff\x01", None, 100), Err(PacketError::TooLarge(258)));
        assert!(parse(PUBLISH, None, 100).is_err(), "before CONNECT");
    }

    #[test]
    fn of_a_message_that_is_too_large_the_head_is_read() {
        let large = b"\x32\xff\x01\x00\x03a/b\x00\x07{";
        for end in 0..large.len() - 1 {
            assert_eq!(parse(&large[..end], Some(Version::V5), 100), Ok(Parsed::Incomplete), "{end}");
        }
        let head = Ok(Parsed::Oversize { topic: 5..8, qos: 1, packet: 7, length: 258 });
        assert_eq!(parse(&large[..large.len() - 1], Some(Version::V5), 100), head);
        assert_eq!(parse(large, Some(Version::V4), 100), head);
        for bad in [
            &b"\x32\xff\x01\x00\x01+\x00\x07"[..],
            b"\x32\xff\x01\x00\x01a\x00\x00",
            b"\x36\xff\x01\x00\x01a\x00\x01",
            b"\x30\xff\x01\xff\xff",
        ] {
            assert!(parse(bad, Some(Version::V4), 100).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        depin_trials::run("mqtt packets", |rng| {
            let seeds: [&[u8]; 4] = [
                PUBLISH,
                b"\x10\x14\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x00\x05\x00\x02me",
                b"\x82\x09\x00\x01\x00\x00\x03a/b\x01",
                b"\x32\x10\x00\x00\x00\x07\x09\x23\x00\x01\x26\x00\x01a\x00\x00xx",
            ];
            let mut bytes = seeds[usize::try_from(below(rng, 4)).unwrap()].to_vec();
            for _ in 0..below(rng, 4) {
                let at = usize::try_from(below(rng, bytes.len() as u64)).unwrap();
                bytes[at] = rng.next_u64().to_le_bytes()[0];
            }
            for version in [None, Some(Version::V4), Some(Version::V5)] {
                if let Ok(Parsed::Packet { packet, length }) = parse(&bytes, version, 1 << 20) {
                    assert!(length <= bytes.len());
                    if let Packet::Publish(publish) = packet {
                        assert!(publish.topic.end <= publish.payload.start && publish.payload.end == length);
                    }
                }
            }
        });
    }
}
