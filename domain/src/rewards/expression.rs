//! The weight's expression: [`crate::cel`] over a program's features, with `min` and `max`.
//!
//! Every feature is a 64-bit integer or absent. An expression without a value (overflow, division by zero, an absent feature that
//! decides) weighs nothing. `&&` and `||` are decided by either side, so an error on one side does not matter where the other decides. An
//! own evaluator rather than a CEL library, because money may not depend on a library's version; a test compares both.

use crate::cel::{CompileError, Fault, Formula, Schema, Values, Variable};

/// Words that a feature cannot have as its name: CEL's own, and those of the functions.
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
    formula: Formula,
}

/// A device's features by number.
struct Features<'a>(&'a [Option<i64>]);

impl Values for Features<'_> {
    fn integer(&self, number: u16) -> Option<i64> {
        self.0.get(usize::from(number)).copied().flatten()
    }

    fn text(&self, _: u16) -> Option<&str> {
        None
    }

    fn truth(&self, _: u16) -> Option<bool> {
        None
    }

    fn present(&self, _: u16) -> bool {
        false
    }
}

impl Expression {
    /// Compiles `text`; `features` are the names in the order in which values are given later.
    pub fn compile(text: &str, features: &[&str]) -> Result<Self, CompileError> {
        let mut schema = Schema::default().with_extremes();
        // Of features with one name the first counts; a program has far fewer than the numbers suffice for.
        let numbered: Vec<_> = features.iter().zip(0_u16..).collect();
        for (name, number) in numbered.into_iter().rev() {
            schema = schema.with(*name, Variable::Integer(number));
        }
        Ok(Self { formula: Formula::compile(text, &schema)? })
    }

    /// The value for these features.
    pub fn evaluate(&self, features: &[Option<i64>]) -> Result<i64, Fault> {
        self.formula.evaluate(&Features(features))
    }
}

#[cfg(test)]
mod tests;
