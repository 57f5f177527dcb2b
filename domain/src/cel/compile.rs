//! From a tree to a typed expression: every type error is found here.

use super::{
    CompileError, Schema, Variable,
    parse::{Extreme, Kind, Node, Operator},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Integer {
    Literal(i64),
    Variable(u16),
    Negative(Box<Integer>),
    Binary(Arithmetic, Box<[Integer; 2]>),
    Choice(Box<(Truth, Integer, Integer)>),
    /// Of the first and all others.
    Extreme(Extreme, Box<(Integer, Box<[Integer]>)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Text {
    Literal(Box<str>),
    Variable(u16),
    Choice(Box<(Truth, Text, Text)>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Literal(bool),
    Variable(u16),
    /// Whether the optional object is there.
    Present(u16),
    /// `has(a.b.c)` where `a.b` may be absent: without it there is no answer.
    PresentWithin(u16, Box<Truth>),
    Not(Box<Truth>),
    And(Box<[Truth; 2]>),
    Or(Box<[Truth; 2]>),
    Integers(Comparison, Box<[Integer; 2]>),
    Texts(Comparison, Box<[Text; 2]>),
    /// True: equal.
    Truths(bool, Box<[Truth; 2]>),
    IntegerIn(Box<Integer>, Box<[i64]>),
    TextIn(Box<Text>, Box<[Box<str>]>),
    Choice(Box<(Truth, Truth, Truth)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

enum Typed {
    Integer(Integer),
    Text(Text),
    Truth(Truth),
    Null,
    /// An object, and its number if it may be `null`.
    Object(Option<u16>),
}

impl Typed {
    fn name(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Text(_) => "a text",
            Self::Truth(_) => "a truth value",
            Self::Null => "null",
            Self::Object(_) => "an object",
        }
    }
}

fn mismatch<T>(at: usize, expected: &str, got: &Typed) -> Result<T, CompileError> {
    Err(CompileError::new(at, format!("expected {expected}, got {}", got.name())))
}

pub(super) fn truth(node: &Node, schema: &Schema) -> Result<Truth, CompileError> {
    match typed(node, schema)? {
        Typed::Truth(truth) => Ok(truth),
        other => mismatch(node.at, "a truth value", &other),
    }
}

pub(super) fn integer(node: &Node, schema: &Schema) -> Result<Integer, CompileError> {
    match typed(node, schema)? {
        Typed::Integer(integer) => Ok(integer),
        other => mismatch(node.at, "an integer", &other),
    }
}

fn typed(node: &Node, schema: &Schema) -> Result<Typed, CompileError> {
    Ok(match &node.kind {
        Kind::Integer(value) => Typed::Integer(Integer::Literal(*value)),
        Kind::Text(text) => Typed::Text(Text::Literal(text.as_str().into())),
        Kind::Truth(value) => Typed::Truth(Truth::Literal(*value)),
        Kind::Null => Typed::Null,
        Kind::Path(path) => variable(node.at, path, schema)?,
        Kind::Has(path) => Typed::Truth(presence(node.at, path, schema)?),
        Kind::Extreme(which, operands) => Typed::Integer(extreme(node.at, *which, operands, schema)?),
        Kind::List(_) => return Err(CompileError::new(node.at, "a list stands only to the right of \"in\"")),
        Kind::Not(operand) => Typed::Truth(Truth::Not(Box::new(truth(operand, schema)?))),
        Kind::Negative(operand) => Typed::Integer(Integer::Negative(Box::new(integer(operand, schema)?))),
        Kind::Binary(operator, operands) => binary(*operator, operands, schema)?,
        Kind::Choice(parts) => {
            let [condition, yes, no] = &**parts;
            let condition = truth(condition, schema)?;
            match (typed(yes, schema)?, typed(no, schema)?) {
                (Typed::Integer(yes), Typed::Integer(no)) => {
                    Typed::Integer(Integer::Choice(Box::new((condition, yes, no))))
                }
                (Typed::Text(yes), Typed::Text(no)) => Typed::Text(Text::Choice(Box::new((condition, yes, no)))),
                (Typed::Truth(yes), Typed::Truth(no)) => Typed::Truth(Truth::Choice(Box::new((condition, yes, no)))),
                (yes, other) => return mismatch(no.at, &format!("{} as before the colon", yes.name()), &other),
            }
        }
    })
}

fn extreme(at: usize, which: Extreme, operands: &[Node], schema: &Schema) -> Result<Integer, CompileError> {
    let name = which.name();
    if !schema.extremes {
        return Err(CompileError::new(
            at,
            format!("{name}() is not part of the language here; of functions it has has()"),
        ));
    }
    let [first, rest @ ..] = operands else {
        return Err(CompileError::new(at, format!("{name}() takes at least one integer")));
    };
    let rest = rest.iter().map(|operand| integer(operand, schema)).collect::<Result<_, _>>()?;
    Ok(Integer::Extreme(which, Box::new((integer(first, schema)?, rest))))
}

fn variable(at: usize, path: &str, schema: &Schema) -> Result<Typed, CompileError> {
    Ok(match schema.get(path) {
        Some(Variable::Integer(number)) => Typed::Integer(Integer::Variable(number)),
        Some(Variable::Text(number)) => Typed::Text(Text::Variable(number)),
        Some(Variable::Truth(number)) => Typed::Truth(Truth::Variable(number)),
        Some(Variable::Object) => Typed::Object(None),
        Some(Variable::Optional { number, nullable }) => Typed::Object(nullable.then_some(number)),
        None => return unknown(at, path, schema),
    })
}

fn unknown<T>(at: usize, path: &str, schema: &Schema) -> Result<T, CompileError> {
    let known = path.rsplit_once('.').map_or("", |(parent, _)| parent);
    let known = if known.is_empty() || schema.get(known).is_some() { known } else { "" };
    Err(CompileError::new(at, format!("{path:?} is not known here; there is {}", schema.below(known))))
}

/// `has(path)`: true for members that are always there, a question for optional ones.
fn presence(at: usize, path: &str, schema: &Schema) -> Result<Truth, CompileError> {
    let own = match schema.get(path) {
        Some(Variable::Optional { number, nullable: false }) => Truth::Present(number),
        Some(_) => Truth::Literal(true),
        None => return unknown(at, path, schema),
    };
    let parent = path.rsplit_once('.').and_then(|(parent, _)| schema.get(parent));
    Ok(match parent {
        Some(Variable::Optional { number, .. }) => Truth::PresentWithin(number, Box::new(own)),
        _ => own,
    })
}

fn binary(operator: Operator, operands: &[Node; 2], schema: &Schema) -> Result<Typed, CompileError> {
    let [left, right] = operands;
    let arithmetic = match operator {
        Operator::Or => return Ok(Typed::Truth(Truth::Or(Box::new([truth(left, schema)?, truth(right, schema)?])))),
        Operator::And => return Ok(Typed::Truth(Truth::And(Box::new([truth(left, schema)?, truth(right, schema)?])))),
        Operator::In => return member(left, right, schema).map(Typed::Truth),
        Operator::Equal => return compare(Comparison::Equal, left, right, schema).map(Typed::Truth),
        Operator::NotEqual => return compare(Comparison::NotEqual, left, right, schema).map(Typed::Truth),
        Operator::Less => return compare(Comparison::Less, left, right, schema).map(Typed::Truth),
        Operator::LessOrEqual => return compare(Comparison::LessOrEqual, left, right, schema).map(Typed::Truth),
        Operator::Greater => return compare(Comparison::Greater, left, right, schema).map(Typed::Truth),
        Operator::GreaterOrEqual => return compare(Comparison::GreaterOrEqual, left, right, schema).map(Typed::Truth),
        Operator::Add => Arithmetic::Add,
        Operator::Subtract => Arithmetic::Subtract,
        Operator::Multiply => Arithmetic::Multiply,
        Operator::Divide => Arithmetic::Divide,
        Operator::Remainder => Arithmetic::Remainder,
    };
    Ok(Typed::Integer(Integer::Binary(arithmetic, Box::new([integer(left, schema)?, integer(right, schema)?]))))
}

fn compare(comparison: Comparison, left: &Node, right: &Node, schema: &Schema) -> Result<Truth, CompileError> {
    let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
    let equal = comparison == Comparison::Equal;
    Ok(match (typed(left, schema)?, typed(right, schema)?) {
        (Typed::Integer(left), Typed::Integer(right)) => Truth::Integers(comparison, Box::new([left, right])),
        (Typed::Text(left), Typed::Text(right)) => Truth::Texts(comparison, Box::new([left, right])),
        (Typed::Truth(left), Typed::Truth(right)) if equality => Truth::Truths(equal, Box::new([left, right])),
        (Typed::Object(Some(number)), Typed::Null) | (Typed::Null, Typed::Object(Some(number))) if equality => {
            let present = Truth::Present(number);
            if equal { Truth::Not(Box::new(present)) } else { present }
        }
        (Typed::Object(None), Typed::Null) | (Typed::Null, Typed::Object(None)) => {
            return Err(CompileError::new(left.at, "this is never null; of a section's metrics has() tells"));
        }
        (first, second) => {
            let message = format!("{} and {} cannot be compared so", first.name(), second.name());
            return Err(CompileError::new(right.at, message));
        }
    })
}

fn member(left: &Node, right: &Node, schema: &Schema) -> Result<Truth, CompileError> {
    let Kind::List(elements) = &right.kind else {
        return Err(CompileError::new(right.at, "expected a list of literals, as in [\"a\", \"b\"]"));
    };
    match typed(left, schema)? {
        Typed::Integer(value) => {
            let literals = elements.iter().map(|element| match &element.kind {
                Kind::Integer(value) => Ok(*value),
                _ => Err(CompileError::new(element.at, "expected an integer literal")),
            });
            Ok(Truth::IntegerIn(Box::new(value), literals.collect::<Result<_, _>>()?))
        }
        Typed::Text(value) => {
            let literals = elements.iter().map(|element| match &element.kind {
                Kind::Text(text) => Ok(text.as_str().into()),
                _ => Err(CompileError::new(element.at, "expected a text literal")),
            });
            Ok(Truth::TextIn(Box::new(value), literals.collect::<Result<_, _>>()?))
        }
        other => mismatch(left.at, "an integer or a text", &other),
    }
}
