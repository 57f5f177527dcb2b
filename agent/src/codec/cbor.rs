//! CBOR (RFC 8949) in one pass over the bytes.
//!
//! Map keys are texts or integers, which a path names by their digits. Half, single and double floats, bignums up to 127 bits and
//! decimal fractions are numbers, exactly. Texts in chunks are skipped.

use depin_domain::{
    proofs::Reason,
    quantity::{Number, NumberError},
};

use super::{
    capture::{Captures, Flaw, Kind, Span},
    path::{NOWHERE, PathTree, ROOT},
};

/// Sets the wanted spans of `payload`.
pub(super) fn scan(payload: &[u8], tree: &PathTree, depth: usize, captures: &mut Captures) -> Result<(), Flaw> {
    let mut scanner = Scanner { reader: Reader { bytes: payload, at: 0 }, tree, captures };
    scanner.item(ROOT, depth)?;
    if scanner.reader.at == payload.len() { Ok(()) } else { Err(Flaw::Malformed) }
}

/// The first bytes of an item.
#[derive(Clone, Copy)]
struct Head {
    major: u8,
    info: u8,
    argument: u64,
}

impl Head {
    fn indefinite(self) -> bool {
        self.info == 31
    }

    /// The argument as a count of bytes; beyond the address space nothing can follow.
    fn length(self) -> Result<usize, Flaw> {
        usize::try_from(self.argument).map_err(|_| Flaw::Malformed)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Flaw> {
        let end = self.at.checked_add(length).ok_or(Flaw::Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Flaw::Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, Flaw> {
        let first = *self.take(1)?.first().ok_or(Flaw::Malformed)?;
        let (major, info) = (first >> 5, first & 31);
        let argument = match info {
            0..=23 => u64::from(info),
            24..=27 => self.take(1 << (info - 24))?.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
            31 if matches!(major, 2..=5 | 7) => 0,
            _ => return Err(Flaw::Malformed),
        };
        Ok(Head { major, info, argument })
    }

    /// Moves past the break of an indefinite item, if it is next.
    fn at_break(&mut self) -> bool {
        let found = self.bytes.get(self.at) == Some(&0xff);
        self.at += usize::from(found);
        found
    }
}

struct Scanner<'a> {
    reader: Reader<'a>,
    tree: &'a PathTree,
    captures: &'a mut Captures,
}

impl Scanner<'_> {
    fn item(&mut self, node: u32, depth: usize) -> Result<(), Flaw> {
        let start = self.reader.at;
        let head = self.reader.head()?;
        let deeper = || depth.checked_sub(1).ok_or(Flaw::TooDeep);
        let mut span = Span { kind: Kind::Other, start, end: 0 };
        match head.major {
            0 | 1 => span.kind = Kind::CborNumber,
            2 | 3 if head.indefinite() => {
                while !self.reader.at_break() {
                    let chunk = self.reader.head()?;
                    if chunk.major != head.major || chunk.indefinite() {
                        return Err(Flaw::Malformed);
                    }
                    self.reader.take(chunk.length()?)?;
                }
            }
            2 | 3 => {
                let content = self.reader.take(head.length()?)?;
                if head.major == 3 {
                    std::str::from_utf8(content).map_err(|_| Flaw::Malformed)?;
                    span = Span { kind: Kind::Text, start: self.reader.at - content.len(), end: 0 };
                }
            }
            4 => self.array(node, head, deeper()?)?,
            5 => self.map(node, head, deeper()?)?,
            6 => {
                // A tag before a text or number (times) leaves it what it is; bignums and decimal fractions are read whole.
                let compound = matches!(head.argument, 2..=4);
                self.item(if compound { NOWHERE } else { node }, deeper()?)?;
                if !compound {
                    return Ok(());
                }
                span.kind = Kind::CborNumber;
            }
            _ => span.kind = simple(head)?,
        }
        span.end = self.reader.at;
        if node != NOWHERE {
            for slot in self.tree.slots_at(node) {
                self.captures.set(*slot, span);
            }
        }
        Ok(())
    }

    fn array(&mut self, node: u32, head: Head, depth: usize) -> Result<(), Flaw> {
        let each = self.tree.each_at(node);
        if each.is_some() {
            self.captures.found_array = true;
        }
        let mut index = 0;
        loop {
            if head.indefinite() {
                if self.reader.at_break() {
                    return Ok(());
                }
            } else if index == head.argument {
                return Ok(());
            }
            match each {
                Some(element) => {
                    let wanted = self.captures.begin_element();
                    self.item(if wanted { element } else { NOWHERE }, depth)?;
                    self.captures.end_element();
                }
                None => self.item(self.tree.element(node, index), depth)?,
            }
            index += 1;
        }
    }

    fn map(&mut self, node: u32, head: Head, depth: usize) -> Result<(), Flaw> {
        let mut index = 0;
        loop {
            if head.indefinite() {
                if self.reader.at_break() {
                    return Ok(());
                }
            } else if index == head.argument {
                return Ok(());
            }
            let member = self.key(node, depth)?;
            self.item(member, depth)?;
            index += 1;
        }
    }

    fn key(&mut self, node: u32, depth: usize) -> Result<u32, Flaw> {
        let start = self.reader.at;
        let head = self.reader.head()?;
        let member = match head.major {
            0 | 1 if node == NOWHERE => NOWHERE,
            0 => self.tree.member(node, head.argument.to_string().as_bytes()),
            1 => self.tree.member(node, (-1 - i128::from(head.argument)).to_string().as_bytes()),
            3 if !head.indefinite() => {
                let key = self.reader.take(head.length()?)?;
                let member = self.tree.member(node, key);
                if member == NOWHERE && key.ends_with(b"_") && self.tree.is_strict(node) {
                    return Err(Flaw::Malformed);
                }
                member
            }
            _ => {
                self.reader.at = start;
                self.item(NOWHERE, depth)?;
                NOWHERE
            }
        };
        Ok(member)
    }
}

fn simple(head: Head) -> Result<Kind, Flaw> {
    match head.info {
        22 | 23 => Ok(Kind::Null),
        25..=27 => Ok(if float(head).is_finite() { Kind::CborNumber } else { Kind::NotFinite }),
        31 => Err(Flaw::Malformed),
        _ => Ok(Kind::Other),
    }
}

/// The float of a major type 7 head; every half and single is a double.
fn float(head: Head) -> f64 {
    match head.info {
        25 => half(head.argument),
        26 => f64::from(f32::from_bits(u32::try_from(head.argument).unwrap_or(u32::MAX))),
        _ => f64::from_bits(head.argument),
    }
}

/// IEEE 754 binary16: RFC 8949, appendix D.
fn half(bits: u64) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = u32::try_from(bits & 0x3ff).unwrap_or(0);
    let magnitude = match i32::try_from((bits >> 10) & 0x1f).unwrap_or(31) {
        0 => f64::from(fraction) * 2_f64.powi(-24),
        31 if fraction == 0 => f64::INFINITY,
        31 => f64::NAN,
        exponent => f64::from(fraction + 1024) * 2_f64.powi(exponent - 25),
    };
    sign * magnitude
}

/// The number that the item `bytes` is.
pub(super) fn number(bytes: &[u8]) -> Result<Number, Reason> {
    let mut reader = Reader { bytes, at: 0 };
    read_number(&mut reader).map_err(|_| Reason::NotANumber)?.map_err(|error| match error {
        NumberError::TooPrecise | NumberError::ExponentTooLarge => Reason::NotRepresentable,
        NumberError::NotDecimal | NumberError::NotFinite => Reason::NotANumber,
    })
}

fn read_number(reader: &mut Reader<'_>) -> Result<Result<Number, NumberError>, Flaw> {
    let head = reader.head()?;
    Ok(match head.major {
        0 | 1 | 6 => match (head.major, head.argument) {
            (6, 4) => {
                let pair = reader.head()?;
                if pair.major != 4 || pair.argument != 2 {
                    return Err(Flaw::Malformed);
                }
                let exponent = read_integer(reader)?;
                let mantissa = read_integer(reader)?;
                match (exponent, mantissa) {
                    (Some(exponent), Some(mantissa)) => i64::try_from(exponent)
                        .map_err(|_| NumberError::ExponentTooLarge)
                        .and_then(|exponent| Number::from_decimal(mantissa, exponent)),
                    _ => Err(NumberError::TooPrecise),
                }
            }
            _ => {
                reader.at = 0;
                match read_integer(reader)? {
                    Some(integer) => Number::from_decimal(integer, 0),
                    None => Err(NumberError::TooPrecise),
                }
            }
        },
        7 if matches!(head.info, 25..=27) => Number::from_f64(float(head)),
        _ => return Err(Flaw::Malformed),
    })
}

/// An integer or bignum; `None` where it has more than 127 bits.
fn read_integer(reader: &mut Reader<'_>) -> Result<Option<i128>, Flaw> {
    let head = reader.head()?;
    Ok(match (head.major, head.argument) {
        (0, value) => Some(i128::from(value)),
        (1, value) => Some(-1 - i128::from(value)),
        (6, tag @ (2 | 3)) => {
            let content = reader.head()?;
            if content.major != 2 || content.indefinite() {
                return Err(Flaw::Malformed);
            }
            let magnitude = reader.take(content.length()?)?;
            let significant = magnitude.iter().skip_while(|byte| **byte == 0);
            if significant.clone().count() > 15 {
                return Ok(None);
            }
            let magnitude = significant.fold(0_i128, |sum, byte| (sum << 8) | i128::from(*byte));
            Some(if tag == 2 { magnitude } else { -1 - magnitude })
        }
        _ => return Err(Flaw::Malformed),
    })
}

/// The digits of the item `bytes`, if it is an integer.
pub(super) fn integer_text(bytes: &[u8]) -> Option<String> {
    let mut reader = Reader { bytes, at: 0 };
    read_integer(&mut reader).ok()?.map(|integer| integer.to_string())
}
