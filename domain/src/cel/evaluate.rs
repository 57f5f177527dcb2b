//! The value of a compiled expression. Its depth was bounded when it was compiled.

use super::{
    compile::{Arithmetic, Comparison, Integer, Text, Truth},
    parse::Extreme,
};

/// An expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An intermediate result does not fit 64 bits.
    #[error("overflow of 64 bits")]
    Overflow,
    /// A division or remainder by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// A value, or a member of something, that is not there.
    #[error("something that is absent")]
    Absent,
}

/// What the variables of a schema are, by their numbers. What is absent has no value.
pub trait Values {
    /// The integer with this number.
    fn integer(&self, number: u16) -> Option<i64>;
    /// The text with this number.
    fn text(&self, number: u16) -> Option<&str>;
    /// The truth value with this number.
    fn truth(&self, number: u16) -> Option<bool>;
    /// Whether the optional object with this number is there.
    fn present(&self, number: u16) -> bool;
}

impl Integer {
    pub(super) fn evaluate(&self, values: &impl Values) -> Result<i64, Fault> {
        match self {
            Self::Literal(value) => Ok(*value),
            Self::Variable(number) => values.integer(*number).ok_or(Fault::Absent),
            Self::Negative(operand) => operand.evaluate(values)?.checked_neg().ok_or(Fault::Overflow),
            Self::Binary(operator, operands) => {
                let [left, right] = &**operands;
                operator.apply(left.evaluate(values)?, right.evaluate(values)?)
            }
            Self::Choice(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.evaluate(values)? { yes.evaluate(values) } else { no.evaluate(values) }
            }
            Self::Extreme(which, operands) => {
                let (first, rest) = &**operands;
                rest.iter().try_fold(first.evaluate(values)?, |so_far, operand| {
                    let value = operand.evaluate(values)?;
                    Ok(match which {
                        Extreme::Smallest => so_far.min(value),
                        Extreme::Largest => so_far.max(value),
                    })
                })
            }
        }
    }
}

impl Text {
    fn evaluate<'a>(&'a self, values: &'a impl Values) -> Result<&'a str, Fault> {
        match self {
            Self::Literal(text) => Ok(text),
            Self::Variable(number) => values.text(*number).ok_or(Fault::Absent),
            Self::Choice(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.evaluate(values)? { yes.evaluate(values) } else { no.evaluate(values) }
            }
        }
    }
}

impl Truth {
    pub(super) fn evaluate(&self, values: &impl Values) -> Result<bool, Fault> {
        match self {
            Self::Literal(value) => Ok(*value),
            Self::Variable(number) => values.truth(*number).ok_or(Fault::Absent),
            Self::Present(number) => Ok(values.present(*number)),
            Self::PresentWithin(number, inner) if values.present(*number) => inner.evaluate(values),
            Self::PresentWithin(..) => Err(Fault::Absent),
            Self::Not(operand) => operand.evaluate(values).map(|value| !value),
            Self::And(operands) => decide(operands, values, false),
            Self::Or(operands) => decide(operands, values, true),
            Self::Integers(comparison, operands) => {
                let [left, right] = &**operands;
                Ok(comparison.holds(&left.evaluate(values)?, &right.evaluate(values)?))
            }
            Self::Texts(comparison, operands) => {
                let [left, right] = &**operands;
                Ok(comparison.holds(left.evaluate(values)?, right.evaluate(values)?))
            }
            Self::Truths(equal, operands) => {
                let [left, right] = &**operands;
                Ok((left.evaluate(values)? == right.evaluate(values)?) == *equal)
            }
            Self::IntegerIn(value, list) => {
                let value = value.evaluate(values)?;
                Ok(list.contains(&value))
            }
            Self::TextIn(value, list) => {
                let value = value.evaluate(values)?;
                Ok(list.iter().any(|element| **element == *value))
            }
            Self::Choice(parts) => {
                let (condition, yes, no) = &**parts;
                if condition.evaluate(values)? { yes.evaluate(values) } else { no.evaluate(values) }
            }
        }
    }
}

/// CEL's commutative logic: `deciding` on either side is the result, whatever becomes of the other side.
fn decide(operands: &[Truth; 2], values: &impl Values, deciding: bool) -> Result<bool, Fault> {
    let [left, right] = operands;
    match left.evaluate(values) {
        Ok(value) if value == deciding => Ok(deciding),
        Ok(_) => right.evaluate(values),
        Err(fault) => match right.evaluate(values) {
            Ok(value) if value == deciding => Ok(deciding),
            _ => Err(fault),
        },
    }
}

impl Arithmetic {
    fn apply(self, left: i64, right: i64) -> Result<i64, Fault> {
        let result = match self {
            Self::Add => left.checked_add(right),
            Self::Subtract => left.checked_sub(right),
            Self::Multiply => left.checked_mul(right),
            Self::Divide | Self::Remainder if right == 0 => return Err(Fault::DivisionByZero),
            Self::Divide => left.checked_div(right),
            Self::Remainder => left.checked_rem(right),
        };
        result.ok_or(Fault::Overflow)
    }
}

impl Comparison {
    fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
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
