//! JSON in one pass over the bytes.
//!
//! The grammar is RFC 8259's, with what devices really send let through: `NaN` and infinities as values (rejected only where they
//! are wanted), a byte order mark, and zero bytes at the end. A key that comes twice: the last one counts.

use super::{
    capture::{Captures, Flaw, Kind, Span},
    path::{NOWHERE, PathTree, ROOT},
};

/// Sets the wanted spans of `payload`.
pub(super) fn scan(payload: &[u8], tree: &PathTree, depth: usize, captures: &mut Captures) -> Result<(), Flaw> {
    std::str::from_utf8(payload).map_err(|_| Flaw::Malformed)?;
    let at = if payload.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
    let mut scanner = Scanner { bytes: payload, at, tree, captures };
    scanner.value(ROOT, depth)?;
    scanner.space();
    if payload.get(scanner.at..).unwrap_or_default().iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(Flaw::Malformed)
    }
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    tree: &'a PathTree,
    captures: &'a mut Captures,
}

impl Scanner<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    #[inline]
    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[inline]
    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, node: u32, depth: usize) -> Result<(), Flaw> {
        self.space();
        let start = self.at;
        let (kind, start, end) = match self.peek().ok_or(Flaw::Malformed)? {
            b'"' => {
                let escaped = self.string()?;
                (if escaped { Kind::EscapedText } else { Kind::Text }, start + 1, self.at - 1)
            }
            b'{' => {
                self.at += 1;
                self.object(node, depth.checked_sub(1).ok_or(Flaw::TooDeep)?)?;
                (Kind::Other, start, self.at)
            }
            b'[' => {
                self.at += 1;
                self.array(node, depth.checked_sub(1).ok_or(Flaw::TooDeep)?)?;
                (Kind::Other, start, self.at)
            }
            b'-' | b'0'..=b'9' => (self.number()?, start, self.at),
            _ => (self.literal()?, start, self.at),
        };
        if node != NOWHERE {
            for slot in self.tree.slots_at(node) {
                self.captures.set(*slot, Span { kind, start, end });
            }
        }
        Ok(())
    }

    fn object(&mut self, node: u32, depth: usize) -> Result<(), Flaw> {
        self.space();
        if self.eat(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(Flaw::Malformed);
            }
            let escaped = self.string()?;
            let key = self.bytes.get(start + 1..self.at - 1).unwrap_or_default();
            let member = if node == NOWHERE { NOWHERE } else { self.member(node, key, escaped)? };
            self.space();
            if !self.eat(b':') {
                return Err(Flaw::Malformed);
            }
            self.value(member, depth)?;
            self.space();
            if self.eat(b'}') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(Flaw::Malformed);
            }
        }
    }

    fn member(&self, node: u32, key: &[u8], escaped: bool) -> Result<u32, Flaw> {
        let unescaped;
        let key = if escaped {
            unescaped = unescape(key).ok_or(Flaw::Malformed)?;
            unescaped.as_bytes()
        } else {
            key
        };
        let member = self.tree.member(node, key);
        if member == NOWHERE && key.ends_with(b"_") && self.tree.is_strict(node) {
            return Err(Flaw::Malformed);
        }
        Ok(member)
    }

    fn array(&mut self, node: u32, depth: usize) -> Result<(), Flaw> {
        let each = self.tree.each_at(node);
        if each.is_some() {
            self.captures.found_array = true;
        }
        self.space();
        if self.eat(b']') {
            return Ok(());
        }
        let mut index = 0;
        loop {
            match each {
                Some(element) => {
                    let wanted = self.captures.begin_element();
                    self.value(if wanted { element } else { NOWHERE }, depth)?;
                    self.captures.end_element();
                }
                None => self.value(self.tree.element(node, index), depth)?,
            }
            index += 1;
            self.space();
            if self.eat(b']') {
                return Ok(());
            }
            if !self.eat(b',') {
                return Err(Flaw::Malformed);
            }
        }
    }

    /// Moves past a string; tells whether it has escapes.
    #[inline]
    fn string(&mut self) -> Result<bool, Flaw> {
        self.at += 1;
        let mut escaped = false;
        loop {
            match self.peek().ok_or(Flaw::Malformed)? {
                b'"' => {
                    self.at += 1;
                    return Ok(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.at += 2;
                }
                _ => self.at += 1,
            }
        }
    }

    fn digits(&mut self) -> Result<(), Flaw> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(Flaw::Malformed) } else { Ok(()) }
    }

    #[inline]
    fn number(&mut self) -> Result<Kind, Flaw> {
        if self.eat(b'-') && matches!(self.peek(), Some(b'I' | b'i' | b'N' | b'n')) {
            return self.not_finite();
        }
        let zero = self.peek() == Some(b'0');
        let start = self.at;
        self.digits()?;
        if zero && self.at > start + 1 {
            return Err(Flaw::Malformed);
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _ = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(Kind::JsonNumber)
    }

    fn literal(&mut self) -> Result<Kind, Flaw> {
        for (word, kind) in [(&b"true"[..], Kind::Other), (b"false", Kind::Other), (b"null", Kind::Null)] {
            if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
                self.at += word.len();
                return Ok(kind);
            }
        }
        self.not_finite()
    }

    fn not_finite(&mut self) -> Result<Kind, Flaw> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        for word in [&b"nan"[..], b"infinity", b"inf"] {
            if rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)) {
                self.at += word.len();
                return Ok(Kind::NotFinite);
            }
        }
        Err(Flaw::Malformed)
    }
}

/// The text that escaped JSON text means; `None` where an escape is not one.
pub(super) fn unescape(raw: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(raw).ok()?;
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1)?;
        rest = rest.get(at + 2..)?;
        match escape {
            b'"' | b'\\' | b'/' => out.push(char::from(*escape)),
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let (character, length) = unicode_escape(rest)?;
                out.push(character);
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
    out.push_str(rest);
    Some(out)
}

/// What stands after `\u`: four digits, or a surrogate pair's ten characters.
fn unicode_escape(rest: &str) -> Option<(char, usize)> {
    let unit = |at: usize| {
        let digits = rest.get(at..at + 4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        u16::from_str_radix(digits, 16).ok()
    };
    let first = unit(0)?;
    if let Some(character) = char::from_u32(u32::from(first)) {
        return Some((character, 4));
    }
    let second = rest.get(4..6).filter(|mark| *mark == "\\u").and_then(|_| unit(6))?;
    char::decode_utf16([first, second]).next()?.ok().map(|character| (character, 10))
}
