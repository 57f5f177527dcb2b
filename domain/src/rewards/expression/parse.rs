//! From text to a typed expression: recursive descent along CEL's grammar, bounded in length, nodes and depth.

use super::{Arithmetic, Comparison, CompileError, Extreme, Integer, MAX_DEPTH, MAX_LENGTH, MAX_NODES, Truth};

/// The integer expression that `text` is.
pub(super) fn integer(text: &str, features: &[&str]) -> Result<Integer, CompileError> {
    if text.len() > MAX_LENGTH {
        return Err(CompileError { at: MAX_LENGTH, message: format!("longer than {MAX_LENGTH} bytes") });
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, end: text.len(), features, nodes: 0, depth: 0 };
    let at = parser.at();
    let typed = parser.choice()?;
    if parser.next < parser.tokens.len() {
        return parser.fail("expected an operator or the end");
    }
    typed.integer(at)
}

#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    /// Value without sign; one more than `i64::MAX` only after a minus.
    Number(u64),
    Name(&'a str),
    Sign(&'static str),
}

/// Longest first, so that `<=` is not read as `<`.
const SIGNS: &[&str] =
    &["&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, CompileError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        if blank > 0 {
            at += blank;
            continue;
        }
        let word = &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())];
        let (length, token) = if word.starts_with(|c: char| c.is_ascii_digit()) {
            (word.len(), Token::Number(number(word).ok_or_else(|| not_a_number(at, word))?))
        } else if !word.is_empty() {
            (word.len(), Token::Name(word))
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (sign.len(), Token::Sign(sign))
        } else {
            let what = rest.chars().next().unwrap_or_default();
            return Err(CompileError { at, message: format!("{what:?} is not part of the integer subset of CEL") });
        };
        found.push((at, token));
        at += length;
    }
    Ok(found)
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
}

fn not_a_number(at: usize, word: &str) -> CompileError {
    CompileError {
        at,
        message: format!("{word:?} is not an integer of 64 bits; quantities are integers at the metric's scale"),
    }
}

enum Typed {
    Integer(Integer),
    Truth(Truth),
}

impl Typed {
    fn integer(self, at: usize) -> Result<Integer, CompileError> {
        match self {
            Self::Integer(integer) => Ok(integer),
            Self::Truth(_) => Err(CompileError { at, message: "expected an integer, got a truth value".into() }),
        }
    }

    fn truth(self, at: usize) -> Result<Truth, CompileError> {
        match self {
            Self::Truth(truth) => Ok(truth),
            Self::Integer(_) => Err(CompileError { at, message: "expected a truth value, got an integer".into() }),
        }
    }
}

struct Parser<'a> {
    tokens: Vec<(usize, Token<'a>)>,
    next: usize,
    end: usize,
    features: &'a [&'a str],
    nodes: usize,
    depth: usize,
}

impl Parser<'_> {
    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, CompileError> {
        Err(CompileError { at: self.at(), message: message.into() })
    }

    fn take(&mut self, signs: &[&'static str]) -> Option<&'static str> {
        match self.tokens.get(self.next) {
            Some((_, Token::Sign(sign))) if signs.contains(sign) => {
                self.next += 1;
                Some(sign)
            }
            _ => None,
        }
    }

    fn expect(&mut self, sign: &'static str) -> Result<(), CompileError> {
        match self.take(&[sign]) {
            Some(_) => Ok(()),
            None => self.fail(format!("expected {sign:?}")),
        }
    }

    fn node(&mut self, typed: Typed) -> Result<Typed, CompileError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return self.fail(format!("more than {MAX_NODES} operators and operands"));
        }
        Ok(typed)
    }

    /// Goes one level deeper. Every recursion of the parser, and so of the evaluation, passes here.
    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, CompileError>) -> Result<T, CompileError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("nested deeper than {MAX_DEPTH}"));
        }
        let parsed = parse(self)?;
        self.depth -= 1;
        Ok(parsed)
    }

    fn choice(&mut self) -> Result<Typed, CompileError> {
        self.deeper(|parser| {
            let at = parser.at();
            let first = parser.or()?;
            if parser.take(&["?"]).is_none() {
                return Ok(first);
            }
            let condition = Box::new(first.truth(at)?);
            let yes = parser.deeper(Self::or)?;
            parser.expect(":")?;
            let at = parser.at();
            let no = parser.choice()?;
            let typed = match yes {
                Typed::Integer(yes) => {
                    Typed::Integer(Integer::Choice(condition, Box::new(yes), Box::new(no.integer(at)?)))
                }
                Typed::Truth(yes) => Typed::Truth(Truth::Choice(condition, Box::new(yes), Box::new(no.truth(at)?))),
            };
            parser.node(typed)
        })
    }

    fn or(&mut self) -> Result<Typed, CompileError> {
        let mut at = self.at();
        let mut left = self.and()?;
        while self.take(&["||"]).is_some() {
            let right_at = self.at();
            let right = self.and()?.truth(right_at)?;
            left = self.node(Typed::Truth(Truth::Or(Box::new(left.truth(at)?), Box::new(right))))?;
            at = right_at;
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Typed, CompileError> {
        let mut at = self.at();
        let mut left = self.relation()?;
        while self.take(&["&&"]).is_some() {
            let right_at = self.at();
            let right = self.relation()?.truth(right_at)?;
            left = self.node(Typed::Truth(Truth::And(Box::new(left.truth(at)?), Box::new(right))))?;
            at = right_at;
        }
        Ok(left)
    }

    fn relation(&mut self) -> Result<Typed, CompileError> {
        let mut at = self.at();
        let mut left = self.sum()?;
        while let Some(sign) = self.take(&["==", "!=", "<=", ">=", "<", ">"]) {
            let right_at = self.at();
            let right = self.sum()?;
            let truth = match (left, right) {
                (Typed::Truth(left), Typed::Truth(right)) if matches!(sign, "==" | "!=") => {
                    Truth::Same(sign == "==", Box::new(left), Box::new(right))
                }
                (left, right) => {
                    Truth::Compare(comparison(sign), Box::new(left.integer(at)?), Box::new(right.integer(right_at)?))
                }
            };
            left = self.node(Typed::Truth(truth))?;
            at = right_at;
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Typed, CompileError> {
        self.chain(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Result<Typed, CompileError> {
        self.chain(&["*", "/", "%"], Self::unary)
    }

    fn chain(
        &mut self,
        signs: &[&'static str],
        operand: impl Fn(&mut Self) -> Result<Typed, CompileError>,
    ) -> Result<Typed, CompileError> {
        let at = self.at();
        let mut left = operand(self)?;
        while let Some(sign) = self.take(signs) {
            let right_at = self.at();
            let right = operand(self)?.integer(right_at)?;
            let binary = Integer::Binary(arithmetic(sign), Box::new(left.integer(at)?), Box::new(right));
            left = self.node(Typed::Integer(binary))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Typed, CompileError> {
        if self.take(&["!"]).is_some() {
            let at = self.at();
            let operand = self.deeper(Self::unary)?.truth(at)?;
            return self.node(Typed::Truth(Truth::Not(Box::new(operand))));
        }
        if self.take(&["-"]).is_some() {
            // The smallest integer has no positive counterpart: the minus belongs to the literal.
            if let Some((_, Token::Number(magnitude))) = self.tokens.get(self.next) {
                let Some(value) = 0_i64.checked_sub_unsigned(*magnitude) else {
                    return self.fail("the number is below the smallest of 64 bits");
                };
                self.next += 1;
                return self.node(Typed::Integer(Integer::Literal(value)));
            }
            let at = self.at();
            let operand = self.deeper(Self::unary)?.integer(at)?;
            return self.node(Typed::Integer(Integer::Negative(Box::new(operand))));
        }
        self.primary()
    }

    fn primary(&mut self) -> Result<Typed, CompileError> {
        if self.take(&["("]).is_some() {
            let inner = self.choice()?;
            self.expect(")")?;
            return Ok(inner);
        }
        let Some((_, token)) = self.tokens.get(self.next).cloned() else {
            return self.fail("expected a number, a feature or a parenthesis");
        };
        let typed = match token {
            Token::Number(magnitude) => match i64::try_from(magnitude) {
                Ok(value) => Typed::Integer(Integer::Literal(value)),
                Err(_) => return self.fail("the number is above the largest of 64 bits"),
            },
            Token::Name("true") => Typed::Truth(Truth::Literal(true)),
            Token::Name("false") => Typed::Truth(Truth::Literal(false)),
            Token::Name("min") => return self.extreme(Extreme::Smallest),
            Token::Name("max") => return self.extreme(Extreme::Largest),
            Token::Name(name) => match self.features.iter().position(|feature| *feature == name) {
                Some(index) => Typed::Integer(Integer::Feature(index)),
                None => {
                    return self
                        .fail(format!("{name:?} is no feature of this program; it has {}", self.features.join(", ")));
                }
            },
            Token::Sign(_) => return self.fail("expected a number, a feature or a parenthesis"),
        };
        self.next += 1;
        self.node(typed)
    }

    fn extreme(&mut self, which: Extreme) -> Result<Typed, CompileError> {
        self.next += 1;
        self.expect("(")?;
        let mut operands = Vec::new();
        loop {
            let at = self.at();
            operands.push(self.choice()?.integer(at)?);
            if self.take(&[","]).is_none() {
                break;
            }
        }
        self.expect(")")?;
        self.node(Typed::Integer(Integer::Extreme(which, operands)))
    }
}

fn comparison(sign: &str) -> Comparison {
    match sign {
        "==" => Comparison::Equal,
        "!=" => Comparison::NotEqual,
        "<" => Comparison::Less,
        "<=" => Comparison::LessOrEqual,
        ">" => Comparison::Greater,
        _ => Comparison::GreaterOrEqual,
    }
}

fn arithmetic(sign: &str) -> Arithmetic {
    match sign {
        "+" => Arithmetic::Add,
        "-" => Arithmetic::Subtract,
        "*" => Arithmetic::Multiply,
        "/" => Arithmetic::Divide,
        _ => Arithmetic::Remainder,
    }
}
