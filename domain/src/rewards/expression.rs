//! The weight's expression: the integer subset of CEL, compiled once and evaluated for every device.
//!
//! Literals (decimal, hexadecimal, `true`, `false`), features by name, `+ - * / %` and unary minus on 64-bit integers, `== != <
//! <= > >=`, `&& || !`, `c ? a : b`, parentheses, and `min(a, …)`, `max(a, …)`. Division truncates toward zero and `%`
//! has the dividend's sign, as CEL says. `&&` and `||` are decided by either side, so an error on one side does not matter where
//! the other decides. Everything is typed when it is compiled; what can fail later is overflow, division by zero and
//! an absent feature. An own evaluator rather than a CEL library, because money may not depend on a
//! library's version; a test compares both.

mod parse;

/// Longest text.
pub const MAX_LENGTH: usize = 2_048;
/// Most nodes.
pub const MAX_NODES: usize = 256;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 32;

/// Words that a feature cannot have as its name: CEL's own.
pub const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "max",
    "min",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];

/// A compiled expression whose result is an integer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    root: Integer,
}

/// The text is not an expression of the subset.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {message}")]
pub struct CompileError {
    /// Offset in bytes.
    pub at: usize,
    /// What is wrong there.
    pub message: String,
}

/// The expression has no value for these features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// An intermediate result does not fit 64 bits.
    #[error("overflow of 64 bits")]
    Overflow,
    /// A division or remainder by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A feature that the device does not have.
    #[error("feature {0} is absent")]
    Absent(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Integer {
    Literal(i64),
    Feature(usize),
    Negative(Box<Integer>),
    Binary(Arithmetic, Box<Integer>, Box<Integer>),
    Choice(Box<Truth>, Box<Integer>, Box<Integer>),
    Extreme(Extreme, Vec<Integer>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Truth {
    Literal(bool),
    Not(Box<Truth>),
    And(Box<Truth>, Box<Truth>),
    Or(Box<Truth>, Box<Truth>),
    Compare(Comparison, Box<Integer>, Box<Integer>),
    Same(bool, Box<Truth>, Box<Truth>),
    Choice(Box<Truth>, Box<Truth>, Box<Truth>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extreme {
    Smallest,
    Largest,
}

impl Expression {
    /// Compiles `text`; `features` are the names in the order in which values are given later.
    pub fn compile(text: &str, features: &[&str]) -> Result<Self, CompileError> {
        Ok(Self { root: parse::integer(text, features)? })
    }

    /// The value for these features.
    pub fn evaluate(&self, features: &[Option<i64>]) -> Result<i64, EvaluationError> {
        self.root.evaluate(features)
    }
}

impl Integer {
    fn evaluate(&self, features: &[Option<i64>]) -> Result<i64, EvaluationError> {
        match self {
            Self::Literal(value) => Ok(*value),
            Self::Feature(index) => features.get(*index).copied().flatten().ok_or(EvaluationError::Absent(*index)),
            Self::Negative(operand) => operand.evaluate(features)?.checked_neg().ok_or(EvaluationError::Overflow),
            Self::Binary(operator, left, right) => operator.apply(left.evaluate(features)?, right.evaluate(features)?),
            Self::Choice(condition, yes, no) => {
                if condition.evaluate(features)? {
                    yes.evaluate(features)
                } else {
                    no.evaluate(features)
                }
            }
            Self::Extreme(which, operands) => {
                let mut found: Option<i64> = None;
                for operand in operands {
                    let value = operand.evaluate(features)?;
                    found = Some(match (found, which) {
                        (None, _) => value,
                        (Some(so_far), Extreme::Smallest) => so_far.min(value),
                        (Some(so_far), Extreme::Largest) => so_far.max(value),
                    });
                }
                // The parser takes no empty list.
                found.ok_or(EvaluationError::Overflow)
            }
        }
    }
}

impl Truth {
    fn evaluate(&self, features: &[Option<i64>]) -> Result<bool, EvaluationError> {
        match self {
            Self::Literal(value) => Ok(*value),
            Self::Not(operand) => Ok(!operand.evaluate(features)?),
            Self::And(left, right) => decide(left.evaluate(features), || right.evaluate(features), false),
            Self::Or(left, right) => decide(left.evaluate(features), || right.evaluate(features), true),
            Self::Compare(comparison, left, right) => {
                Ok(comparison.holds(left.evaluate(features)?, right.evaluate(features)?))
            }
            Self::Same(wanted, left, right) => Ok((left.evaluate(features)? == right.evaluate(features)?) == *wanted),
            Self::Choice(condition, yes, no) => {
                if condition.evaluate(features)? {
                    yes.evaluate(features)
                } else {
                    no.evaluate(features)
                }
            }
        }
    }
}

/// CEL's commutative logic: `deciding` on either side is the result, whatever the other side is.
fn decide(
    left: Result<bool, EvaluationError>,
    right: impl FnOnce() -> Result<bool, EvaluationError>,
    deciding: bool,
) -> Result<bool, EvaluationError> {
    match left {
        Ok(value) if value == deciding => Ok(deciding),
        Ok(_) => right(),
        Err(error) => match right() {
            Ok(value) if value == deciding => Ok(deciding),
            _ => Err(error),
        },
    }
}

impl Arithmetic {
    fn apply(self, left: i64, right: i64) -> Result<i64, EvaluationError> {
        let result = match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide | Self::Remainder if right == 0 => return Err(EvaluationError::DivisionByZero),
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
        };
        result.ok_or(EvaluationError::Overflow)
    }
}

impl Comparison {
    fn holds(self, left: i64, right: i64) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[cfg(test)]
mod tests;
