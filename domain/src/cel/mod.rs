//! The part of CEL that rules and weights are written in, compiled once and evaluated for every reading or device.
//!
//! Integers (64 bits, decimal and hexadecimal), truth values, texts, `null`; `+ - * / %`, unary minus, `== != < <= > >=`, `in` with a
//! list of literals, `&& || !`, `c ? a : b`, `has(a.b)`, members as `a.b` or `a["b"]`; where the schema says so (weights),
//! `min(a, …)` and `max(a, …)`, which CEL itself does not have. Every expression is typed when it is
//! compiled against a [`Schema`], so that a rule fails when it is applied and not when it is used; what is left to fail later is
//! [`Fault`]. Length, nodes and depth are bounded; nothing in here panics or allocates while it evaluates. What the
//! language has beyond that is refused with its place. Each result is what CEL's definition says: a test compares with the
//! library that API servers' clients use.

mod compile;
mod evaluate;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use evaluate::{Fault, Values};

/// Longest text, in bytes.
pub const MAX_LENGTH: usize = 2_048;
/// Most operators, operands and list elements.
pub const MAX_NODES: usize = 256;
/// Deepest nesting; a parenthesis to the right of an operator is two levels.
pub const MAX_DEPTH: usize = 64;

/// The text is not an expression of this language, or not of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {message}")]
pub struct CompileError {
    /// Offset in bytes.
    pub at: usize,
    /// What is wrong there, and what would be right.
    pub message: String,
}

impl CompileError {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// What a name stands for. The numbers are the caller's: [`Values`] is asked by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// An integer.
    Integer(u16),
    /// A text.
    Text(u16),
    /// A truth value.
    Truth(u16),
    /// Something with members that is always there.
    Object,
    /// Something with members that may be absent: then it equals `null` where `nullable`, and its members have no value.
    Optional {
        /// Its number.
        number: u16,
        /// Whether it is there as `null`; otherwise only `has()` tells.
        nullable: bool,
    },
}

/// The names that an expression may use, members joined by dots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    names: BTreeMap<String, Variable>,
    extremes: bool,
}

impl Schema {
    /// With one name more.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, variable: Variable) -> Self {
        self.names.insert(name.into(), variable);
        self
    }

    /// With the functions `min` and `max`.
    #[must_use]
    pub fn with_extremes(mut self) -> Self {
        self.extremes = true;
        self
    }

    fn get(&self, name: &str) -> Option<Variable> {
        self.names.get(name).copied()
    }

    /// Names that begin with `prefix` and have one part more, for an error's text.
    fn below(&self, prefix: &str) -> String {
        let inside = |name: &&String| {
            let rest = name.strip_prefix(prefix);
            let rest = if prefix.is_empty() { rest } else { rest.and_then(|rest| rest.strip_prefix('.')) };
            rest.is_some_and(|rest| !rest.contains('.'))
        };
        let names: Vec<_> = self.names.keys().filter(inside).take(12).map(String::as_str).collect();
        names.join(", ")
    }
}

/// A compiled expression whose result is a truth value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    root: compile::Truth,
}

impl Rule {
    /// Compiles `text` against the names of `schema`.
    pub fn compile(text: &str, schema: &Schema) -> Result<Self, CompileError> {
        Ok(Self { root: compile::truth(&parse::parse(text)?, schema)? })
    }

    /// The result for `values`.
    pub fn evaluate(&self, values: &impl Values) -> Result<bool, Fault> {
        self.root.evaluate(values)
    }
}

/// A compiled expression whose result is an integer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formula {
    root: compile::Integer,
}

impl Formula {
    /// Compiles `text` against the names of `schema`.
    pub fn compile(text: &str, schema: &Schema) -> Result<Self, CompileError> {
        Ok(Self { root: compile::integer(&parse::parse(text)?, schema)? })
    }

    /// The result for `values`.
    pub fn evaluate(&self, values: &impl Values) -> Result<i64, Fault> {
        self.root.evaluate(values)
    }
}
