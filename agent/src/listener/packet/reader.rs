//! Reading the fields of a packet.

use std::ops::Range;

use super::PacketError;

/// Fields in their order, within one packet.
pub(super) struct Reader<'a> {
    /// The connection's buffer.
    pub(super) bytes: &'a [u8],
    /// Where the next field begins.
    pub(super) at: usize,
    /// Where the packet ends.
    pub(super) end: usize,
}

/// The properties that matter here.
#[derive(Debug, Default)]
pub(super) struct Properties {
    /// Topic alias; 0: none.
    pub(super) alias: u16,
    /// Session expiry in seconds.
    pub(super) expiry: Option<u32>,
}

pub(super) type Result<T> = std::result::Result<T, PacketError>;

impl<'a> Reader<'a> {
    fn range(&mut self, length: usize) -> Result<Range<usize>> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.end);
        let end = end.ok_or(PacketError::Malformed("a field is longer than the packet"))?;
        Ok(std::mem::replace(&mut self.at, end)..end)
    }

    fn skip(&mut self, length: usize) -> Result<()> {
        self.range(length).map(|_| ())
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let range = self.range(length)?;
        self.bytes.get(range).ok_or(PacketError::Malformed("a field is longer than the packet"))
    }

    pub(super) fn u8(&mut self) -> Result<u8> {
        self.take(1)?.first().copied().ok_or(PacketError::Malformed("a byte is missing"))
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        let bytes = self.take(2)?.try_into().map_err(|_| PacketError::Malformed("an integer is missing"))?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?.try_into().map_err(|_| PacketError::Malformed("an integer is missing"))?;
        Ok(u32::from_be_bytes(bytes))
    }

    pub(super) fn prefixed(&mut self) -> Result<Range<usize>> {
        let length = usize::from(self.u16()?);
        self.range(length)
    }

    pub(super) fn text(&mut self) -> Result<&'a str> {
        let range = self.prefixed()?;
        let text = self.bytes.get(range).and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.filter(|text| !text.contains('\0')).ok_or(PacketError::Malformed("a text is not UTF-8"))
    }

    /// MQTT 5 properties.
    pub(super) fn properties(&mut self) -> Result<Properties> {
        let length = self.varint()?;
        let range = self.range(length)?;
        let mut properties = Reader { bytes: self.bytes, at: range.start, end: range.end };
        let mut found = Properties::default();
        while properties.at < properties.end {
            match properties.varint()? {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => properties.skip(1)?,
                0x13 | 0x21 | 0x22 => properties.skip(2)?,
                0x23 => found.alias = properties.u16().and_then(nonzero)?,
                0x11 => found.expiry = Some(properties.u32()?),
                0x02 | 0x18 | 0x27 => properties.skip(4)?,
                0x0b => {
                    properties.varint()?;
                }
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                    properties.prefixed()?;
                }
                0x26 => {
                    properties.prefixed()?;
                    properties.prefixed()?;
                }
                _ => return Err(PacketError::Malformed("an unknown property")),
            }
        }
        Ok(found)
    }

    fn varint(&mut self) -> Result<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(PacketError::Malformed("a length of more than four bytes"))
    }
}

/// An identifier or alias, which is never zero.
pub(super) fn nonzero(value: u16) -> Result<u16> {
    if value == 0 { Err(PacketError::Malformed("a zero identifier or alias")) } else { Ok(value) }
}
