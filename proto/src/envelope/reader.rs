//! A cursor over envelope bytes, and its counterpart for varints.

use super::error::{EnvelopeError, Problem};

/// What is left to read.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the magic number, which must be `magic`.
    pub(super) fn new(bytes: &'a [u8], magic: &[u8; 4], field: &'static str) -> Result<Self, EnvelopeError> {
        let mut reader = Self::bare(bytes);
        if reader.array::<4>(field)? == *magic { Ok(reader) } else { Err(Problem::WrongMagic.at(field)) }
    }

    /// Starts without a magic number.
    pub(super) fn bare(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left: no count of entries can be larger than this.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn slice(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], EnvelopeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Problem::Truncated.at(field))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], EnvelopeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Problem::Truncated.at(field))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, EnvelopeError> {
        self.array(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, EnvelopeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, EnvelopeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, EnvelopeError> {
        self.array(field).map(u64::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, EnvelopeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    /// A flag: 0 or 1.
    pub(super) fn flag(&mut self, field: &'static str) -> Result<bool, EnvelopeError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            code => Err(Problem::UnknownCode(code.into()).at(field)),
        }
    }

    /// An LEB128 varint in its shortest form.
    pub(super) fn varint(&mut self, field: &'static str) -> Result<u64, EnvelopeError> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(Problem::Overflow.at(field));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 { Err(Problem::NotMinimal.at(field)) } else { Ok(value) };
            }
        }
        Err(Problem::Overflow.at(field))
    }

    /// A zigzag varint.
    pub(super) fn zigzag(&mut self, field: &'static str) -> Result<i64, EnvelopeError> {
        let raw = self.varint(field)?;
        Ok((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed())
    }

    /// Nothing may be left.
    pub(super) fn end(self, field: &'static str) -> Result<(), EnvelopeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(Problem::TrailingBytes(self.rest.len()).at(field)) }
    }
}

/// Appends `value` as an LEB128 varint.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends `value` as a zigzag varint.
pub(super) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}
