//! Where the wanted parts of a payload are, and what they are.

use std::borrow::Cow;

use depin_domain::{proofs::Reason, quantity::Number};

use super::{cbor, json, path::PathTree};

/// What stands at a wanted path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the path is not in the payload.
    #[default]
    Missing,
    /// `null` or undefined.
    Null,
    /// A truth value, a byte string, a container: never a number.
    Other,
    /// JSON digits.
    JsonNumber,
    /// A CBOR integer, float, bignum or decimal fraction.
    CborNumber,
    /// NaN or infinite.
    NotFinite,
    /// Text as it stands.
    Text,
    /// JSON text with escapes.
    EscapedText,
}

/// A wanted part: `payload[start..end]`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Span {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    fn bytes<'a>(&self, payload: &'a [u8]) -> &'a [u8] {
        payload.get(self.start..self.end).unwrap_or_default()
    }

    /// The number that stands here, as digits or as numeric text.
    pub(super) fn number(&self, payload: &[u8]) -> Result<Number, Reason> {
        match self.kind {
            Kind::Missing | Kind::Null => Err(Reason::MissingField),
            Kind::JsonNumber => parse(self.bytes(payload)),
            Kind::CborNumber => cbor::number(self.bytes(payload)),
            Kind::Text => parse(self.bytes(payload).trim_ascii()),
            Kind::Other | Kind::NotFinite | Kind::EscapedText => Err(Reason::NotANumber),
        }
    }

    /// The text that stands here; an integer counts as its digits.
    pub(super) fn text<'a>(&self, payload: &'a [u8]) -> Option<Cow<'a, str>> {
        match self.kind {
            Kind::Text => std::str::from_utf8(self.bytes(payload)).ok().map(Cow::Borrowed),
            Kind::EscapedText => json::unescape(self.bytes(payload)).map(Cow::Owned),
            Kind::JsonNumber => {
                let digits = self.bytes(payload);
                let integer = digits.iter().all(|byte| byte.is_ascii_digit() || *byte == b'-');
                integer.then(|| std::str::from_utf8(digits).ok().map(Cow::Borrowed)).flatten()
            }
            Kind::CborNumber => cbor::integer_text(self.bytes(payload)).map(Cow::Owned),
            Kind::Missing | Kind::Null | Kind::Other | Kind::NotFinite => None,
        }
    }

    pub(super) fn present(&self) -> bool {
        !matches!(self.kind, Kind::Missing | Kind::Null)
    }
}

/// Numbers that cannot be held are well-formed but not representable; all else is no number.
pub(super) fn parse(text: &[u8]) -> Result<Number, Reason> {
    use depin_domain::quantity::NumberError;
    Number::parse(text).map_err(|error| match error {
        NumberError::TooPrecise | NumberError::ExponentTooLarge => Reason::NotRepresentable,
        NumberError::NotDecimal | NumberError::NotFinite => Reason::NotANumber,
    })
}

/// What a scan found. `root` has a span for each slot of the tree; `elements` as many again for each element of the `each` array.
#[derive(Debug, Default)]
pub(super) struct Captures {
    pub(super) root: Vec<Span>,
    pub(super) elements: Vec<Span>,
    /// Elements seen; at most the limit.
    pub(super) count: usize,
    /// Whether the payload had more elements than the limit.
    pub(super) truncated: bool,
    /// Whether the `each` path led to an array.
    pub(super) found_array: bool,
    slots: usize,
    limit: usize,
    in_element: bool,
}

impl Captures {
    pub(super) fn begin(&mut self, tree: &PathTree, element_limit: usize) {
        self.slots = tree.slots;
        self.limit = element_limit;
        self.root.clear();
        self.root.resize(tree.slots, Span::default());
        self.elements.clear();
        self.count = 0;
        self.truncated = false;
        self.found_array = false;
        self.in_element = false;
    }

    /// The element's spans are captured from now on; `false`: it is beyond the limit and only skipped.
    pub(super) fn begin_element(&mut self) -> bool {
        self.found_array = true;
        if self.count >= self.limit {
            self.truncated = true;
            return false;
        }
        self.count += 1;
        self.elements.resize(self.count * self.slots, Span::default());
        self.in_element = true;
        true
    }

    pub(super) fn end_element(&mut self) {
        self.in_element = false;
    }

    pub(super) fn set(&mut self, slot: usize, span: Span) {
        let slots = if self.in_element {
            let start = self.count.saturating_sub(1) * self.slots;
            self.elements.get_mut(start..).unwrap_or_default()
        } else {
            &mut self.root
        };
        if let Some(place) = slots.get_mut(slot) {
            *place = span;
        }
    }

    pub(super) fn element(&self, index: usize) -> &[Span] {
        self.elements.get(index * self.slots..(index + 1) * self.slots).unwrap_or_default()
    }
}

/// Why a scan gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// Not what the codec expects.
    Malformed,
    /// Nested deeper than the limit.
    TooDeep,
}

impl From<Flaw> for Reason {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::Malformed => Self::MalformedPayload,
            Flaw::TooDeep => Self::TooDeep,
        }
    }
}

/// A codec's scanner: one pass over the payload that sets the wanted spans.
pub(super) type Scan = fn(&[u8], &PathTree, usize, &mut Captures) -> Result<(), Flaw>;
