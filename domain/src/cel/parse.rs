//! From text to a tree: precedence climbing along CEL's grammar, bounded in length, nodes and depth.

use super::{CompileError, MAX_DEPTH, MAX_LENGTH, MAX_NODES};

/// A node with the place where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer(i64),
    Text(String),
    Truth(bool),
    Null,
    /// Members joined by dots.
    Path(String),
    Has(String),
    /// `min` or `max` of at least one operand.
    Extreme(Extreme, Vec<Node>),
    List(Vec<Node>),
    Not(Box<Node>),
    Negative(Box<Node>),
    Binary(Operator, Box<[Node; 2]>),
    Choice(Box<[Node; 3]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extreme {
    Smallest,
    Largest,
}

impl Extreme {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Smallest => "min",
            Self::Largest => "max",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Or,
    And,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

impl Operator {
    /// How strongly it binds.
    fn strength(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And => 2,
            Self::Equal
            | Self::NotEqual
            | Self::Less
            | Self::LessOrEqual
            | Self::Greater
            | Self::GreaterOrEqual
            | Self::In => 3,
            Self::Add | Self::Subtract => 4,
            Self::Multiply | Self::Divide | Self::Remainder => 5,
        }
    }

    fn of(token: &Token) -> Option<Self> {
        Some(match token {
            Token::Name(name) if name == "in" => Self::In,
            Token::Sign("||") => Self::Or,
            Token::Sign("&&") => Self::And,
            Token::Sign("==") => Self::Equal,
            Token::Sign("!=") => Self::NotEqual,
            Token::Sign("<") => Self::Less,
            Token::Sign("<=") => Self::LessOrEqual,
            Token::Sign(">") => Self::Greater,
            Token::Sign(">=") => Self::GreaterOrEqual,
            Token::Sign("+") => Self::Add,
            Token::Sign("-") => Self::Subtract,
            Token::Sign("*") => Self::Multiply,
            Token::Sign("/") => Self::Divide,
            Token::Sign("%") => Self::Remainder,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Without its sign: 2^63 is possible only after a minus.
    Number(u64),
    Text(String),
    Name(String),
    Sign(&'static str),
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: &[&str] = &[
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")", "[", "]", ",", ".",
];

/// Words that CEL keeps for itself.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

pub(super) fn parse(text: &str) -> Result<Node, CompileError> {
    if text.len() > MAX_LENGTH {
        return Err(CompileError::new(MAX_LENGTH, format!("longer than {MAX_LENGTH} bytes; split the rule")));
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.len(), nodes: 0, depth: 0 };
    let root = parser.expression()?;
    if parser.next < parser.tokens.len() {
        return parser.fail("expected an operator or the end");
    }
    Ok(root)
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, CompileError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        if blank > 0 {
            at += blank;
            continue;
        }
        let (length, token) = token(rest, at)?;
        found.push((at, token));
        at += length;
    }
    Ok(found)
}

fn token(rest: &str, at: usize) -> Result<(usize, Token), CompileError> {
    let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
    let (word, behind) = rest.split_at(length);
    if let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        return quoted(rest, quote, at);
    }
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        let fraction = behind.strip_prefix('.').is_some_and(|behind| behind.starts_with(|c: char| c.is_ascii_digit()));
        let number = if fraction { None } else { number(word) };
        let wrong = || {
            let message =
                format!("{word:?}… is not an integer of 64 bits; quantities are integers at the metric's scale");
            CompileError::new(at, message)
        };
        return Ok((length, Token::Number(number.ok_or_else(wrong)?)));
    }
    if behind.starts_with(['"', '\'']) && !word.is_empty() {
        return Err(CompileError::new(
            at,
            format!("{word:?} before a quote is not part of the language; use a plain text"),
        ));
    }
    if !word.is_empty() {
        return match RESERVED.contains(&word) {
            true => Err(CompileError::new(at, format!("{word:?} is a reserved word"))),
            false => Ok((length, Token::Name(word.to_owned()))),
        };
    }
    let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
    let sign = sign.ok_or_else(|| {
        CompileError::new(at, format!("{:?} is not part of the language", rest.chars().next().unwrap_or_default()))
    })?;
    Ok((sign.len(), Token::Sign(sign)))
}

fn number(word: &str) -> Option<u64> {
    let value = match word.strip_prefix("0x") {
        // `from_str_radix` would take a sign.
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_hexdigit()) => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => word.parse().ok(),
    };
    value.filter(|value| *value <= i64::MIN.unsigned_abs())
}

/// A text in quotes, with its length there.
fn quoted(rest: &str, quote: char, at: usize) -> Result<(usize, Token), CompileError> {
    let mut text = String::new();
    let mut characters = rest.char_indices().skip(1);
    while let Some((place, character)) = characters.next() {
        match character {
            _ if character == quote => return Ok((place + 1, Token::Text(text))),
            '\n' | '\r' => break,
            '\\' => match characters.next() {
                Some((_, escaped @ ('\\' | '"' | '\'' | '`' | '?'))) => text.push(escaped),
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                _ => {
                    return Err(CompileError::new(
                        at + place,
                        "this escape is not part of the language; write the character",
                    ));
                }
            },
            _ => text.push(character),
        }
    }
    Err(CompileError::new(at, format!("the text has no closing {quote}")))
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    end: usize,
    nodes: usize,
    depth: usize,
}

type Parsed = Result<Node, CompileError>;

impl Parser {
    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError::new(self.at(), message))
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn take(&mut self, sign: &'static str) -> bool {
        let found = self.peek() == Some(&Token::Sign(sign));
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), CompileError> {
        if self.take(sign) { Ok(()) } else { self.fail(format!("expected {sign:?}")) }
    }

    fn node(&mut self, at: usize, kind: Kind) -> Parsed {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.fail(format!("more than {MAX_NODES} operators and operands; split the rule"));
        }
        Ok(Node { at, kind })
    }

    /// Goes one level deeper. Every recursion of the parser passes here.
    fn deeper(&mut self, parse: impl FnOnce(&mut Self) -> Parsed) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH}; split the rule"));
        }
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    fn expression(&mut self) -> Parsed {
        self.deeper(|parser| {
            let at = parser.at();
            let condition = parser.binary(1)?;
            if !parser.take("?") {
                return Ok(condition);
            }
            let yes = parser.deeper(|parser| parser.binary(1))?;
            parser.expect(":")?;
            let no = parser.expression()?;
            parser.node(at, Kind::Choice(Box::new([condition, yes, no])))
        })
    }

    /// Operators that bind at least as strongly as `weakest`, from left to right.
    fn binary(&mut self, weakest: u8) -> Parsed {
        let at = self.at();
        let mut left = self.unary()?;
        while let Some(operator) = self.peek().and_then(Operator::of).filter(|operator| operator.strength() >= weakest)
        {
            self.next += 1;
            let right = self.deeper(|parser| parser.binary(operator.strength() + 1))?;
            left = self.node(at, Kind::Binary(operator, Box::new([left, right])))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        if self.take("!") {
            let operand = self.deeper(Self::unary)?;
            return self.node(at, Kind::Not(Box::new(operand)));
        }
        if self.take("-") {
            // The sign is part of a literal: the smallest integer has no positive counterpart.
            if let Some(Token::Number(value)) = self.peek() {
                let value = 0_i64.wrapping_sub_unsigned(*value);
                self.next += 1;
                return self.node(at, Kind::Integer(value));
            }
            let operand = self.deeper(Self::unary)?;
            return self.node(at, Kind::Negative(Box::new(operand)));
        }
        self.primary()
    }

    fn primary(&mut self) -> Parsed {
        let at = self.at();
        let Some(token) = self.peek().cloned() else { return self.fail("expected a value") };
        let kind = match token {
            Token::Number(value) => match i64::try_from(value) {
                Ok(value) => Kind::Integer(value),
                Err(_) => return self.fail("above the largest integer of 64 bits"),
            },
            Token::Text(text) => Kind::Text(text),
            Token::Sign("(") => {
                self.next += 1;
                let inner = self.expression()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => return self.list(at),
            Token::Sign(_) => return self.fail("expected a value"),
            Token::Name(name) => match name.as_str() {
                "true" => Kind::Truth(true),
                "false" => Kind::Truth(false),
                "null" => Kind::Null,
                "in" => return self.fail("expected a value before \"in\""),
                "has" if self.calls() => return self.has(at),
                "min" if self.calls() => return self.extreme(at, Extreme::Smallest),
                "max" if self.calls() => return self.extreme(at, Extreme::Largest),
                _ => return self.path(at, name),
            },
        };
        self.next += 1;
        self.node(at, kind)
    }

    /// Whether the name that is next is followed by a parenthesis.
    fn calls(&self) -> bool {
        self.tokens.get(self.next + 1).is_some_and(|(_, token)| *token == Token::Sign("("))
    }

    fn extreme(&mut self, at: usize, which: Extreme) -> Parsed {
        self.next += 2;
        let mut operands = vec![self.expression()?];
        while self.take(",") {
            operands.push(self.expression()?);
        }
        self.expect(")")?;
        self.node(at, Kind::Extreme(which, operands))
    }

    fn list(&mut self, at: usize) -> Parsed {
        self.next += 1;
        let mut elements = Vec::new();
        while !self.take("]") {
            elements.push(self.expression()?);
            if !self.take(",") {
                self.expect("]")?;
                break;
            }
        }
        self.node(at, Kind::List(elements))
    }

    fn has(&mut self, at: usize) -> Parsed {
        self.next += 1;
        self.expect("(")?;
        let argument = self.expression()?;
        self.expect(")")?;
        match argument.kind {
            Kind::Path(path) if path.contains('.') => self.node(at, Kind::Has(path)),
            _ => Err(CompileError::new(argument.at, "has() takes a member, as in has(section.power)")),
        }
    }

    fn path(&mut self, at: usize, first: String) -> Parsed {
        self.next += 1;
        let mut path = first;
        loop {
            if self.take(".") {
                let Some(Token::Name(name)) = self.peek().cloned() else {
                    return self.fail("expected a member's name");
                };
                path.push('.');
                path.push_str(&name);
                self.next += 1;
            } else if self.take("[") {
                let Some(Token::Text(name)) = self.peek().cloned() else {
                    return self.fail("expected a member's name as a text");
                };
                if name.contains('.') {
                    return self.fail("no member's name has a dot");
                }
                path.push('.');
                path.push_str(&name);
                self.next += 1;
                self.expect("]")?;
            } else {
                break;
            }
        }
        if self.peek() == Some(&Token::Sign("(")) {
            return Err(CompileError::new(
                at,
                format!("{path}() is not part of the language; of functions it has has()"),
            ));
        }
        self.node(at, Kind::Path(path))
    }
}
