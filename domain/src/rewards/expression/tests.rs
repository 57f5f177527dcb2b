//! The subset by example, its limits, and agreement with a CEL library.

use super::*;
use crate::cel::MAX_LENGTH;

fn value(text: &str) -> Result<i64, Fault> {
    Expression::compile(text, &["a", "b", "none"]).unwrap().evaluate(&[Some(7), Some(-3), None])
}

#[test]
fn it_computes_as_cel_says() {
    for (text, expected) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("10 - 4 - 3", 3),
        ("a / 2", 3),
        ("b / 2", -1),
        ("b % 2", -1),
        ("-a * b", 21),
        ("a > 5 ? 1 : 0", 1),
        ("a > 5 && b > 0 ? 1 : b < 0 || a == 7 ? 2 : 3", 2),
        ("!(a == 7) ? 1 : 2", 2),
        ("min(a, b, 100)", -3),
        ("max(a, b, 0x10)", 16),
        ("max(-(a), min(none > 0 && false ? 1 : 5, 6) * 2)", 10),
        ("a in [1, 7] ? 1 : 2", 1),
        ("-9223372036854775808", i64::MIN),
        ("true == (a != b) ? 4 : 5", 4),
        ("none > 0 && false ? 1 : 2", 2),
        ("true || none > 0 ? 1 : 2", 1),
    ] {
        assert_eq!(value(text), Ok(expected), "{text}");
    }
}

#[test]
fn what_has_no_value_is_an_error() {
    for (text, expected) in [
        ("9223372036854775807 + 1", Fault::Overflow),
        ("-(-9223372036854775808)", Fault::Overflow),
        ("-9223372036854775808 / -1", Fault::Overflow),
        ("-9223372036854775808 % -1", Fault::Overflow),
        ("a / 0", Fault::DivisionByZero),
        ("a % (b + 3)", Fault::DivisionByZero),
        ("a + none", Fault::Absent),
        ("none > 0 && true ? 1 : 2", Fault::Absent),
    ] {
        assert_eq!(value(text), Err(expected), "{text}");
    }
}

#[test]
fn what_is_not_of_the_subset_is_refused_with_its_place() {
    for (text, at, part) in [
        ("", 0, "expected a value"),
        ("a +", 3, "expected a value"),
        ("a b", 2, "expected an operator"),
        ("a + 1.5", 4, "not an integer"),
        ("1e3", 0, "not an integer"),
        ("energy * 2", 0, "is not known here; there is a, b"),
        ("a > 1", 0, "expected an integer"),
        ("a ? 1 : 2", 0, "expected a truth value"),
        ("true ? 1 : false", 11, "expected an integer"),
        ("size(a)", 0, "not part of"),
        ("99999999999999999999", 0, "not an integer"),
        ("9223372036854775808", 0, "above the largest"),
        ("min()", 4, "expected a value"),
        ("min(a, true)", 7, "expected an integer"),
        ("max", 0, "not known here"),
        ("a in [1] ? 1.0 : 2", 11, "not an integer"),
        ("a.b", 0, "not known here"),
        ("ä", 0, "not part of"),
    ] {
        let error = Expression::compile(text, &["a", "b"]).unwrap_err();
        assert!(error.at == at && error.message.contains(part), "{text}: {error}");
    }
}

#[test]
fn depth_and_size_are_bounded() {
    for text in [
        "(".repeat(2_000),
        "-".repeat(2_000),
        "!".repeat(2_000),
        vec!["1"; 500].join("+"),
        "a?".repeat(1_000),
        "min(".repeat(500),
    ] {
        assert!(Expression::compile(&text, &["a"]).is_err());
    }
    assert!(Expression::compile(&" ".repeat(MAX_LENGTH + 1), &[]).is_err());
}

#[test]
fn a_cel_library_agrees() {
    depin_trials::run("expression against a CEL library", |rng| {
        let text = random(rng, 4, true);
        let features = [
            Some(depin_trials::below(rng, 1_000) as i64 - 500),
            Some([0, 1, -1, i64::MAX, i64::MIN][depin_trials::below(rng, 5) as usize]),
        ];
        let ours = Expression::compile(&text, &["a", "b"]).unwrap().evaluate(&features);
        let mut context = cel::Context::default();
        context.add_variable_from_value("a", features[0].unwrap());
        context.add_variable_from_value("b", features[1].unwrap());
        match (cel::Program::compile(&text).unwrap().execute(&context), ours) {
            (Ok(cel::Value::Int(theirs)), ours) => assert_eq!(Ok(theirs), ours, "{text} {features:?}"),
            (Ok(other), ours) => panic!("{text}: {other:?} {ours:?}"),
            // The library does not let the right side decide where the left one fails.
            (Err(_), Ok(_)) => assert!(text.contains("&&") || text.contains("||"), "{text} {features:?}"),
            (Err(_), Err(_)) => {}
        }
    });
}

fn random(rng: &mut depin_trials::Rng, depth: u64, integer: bool) -> String {
    let pick = |rng: &mut depin_trials::Rng, list: &[&str]| {
        list[depin_trials::below(rng, list.len() as u64) as usize].to_owned()
    };
    if depth == 0 || depin_trials::one_in(rng, 6) {
        return if integer {
            pick(rng, &["a", "b", "0", "1", "2", "10000", "-5", "4611686018427387904"])
        } else {
            pick(rng, &["true", "false"])
        };
    }
    let kind = depin_trials::below(rng, 4);
    let mut inner = |integer| random(rng, depth - 1, integer);
    match (integer, kind) {
        (true, 0) => format!("({} ? {} : {})", inner(false), inner(true), inner(true)),
        // The library panics where a negation overflows: a difference does not.
        (true, 1) => format!("(0 - {})", inner(true)),
        (true, _) => {
            let (left, right) = (inner(true), inner(true));
            format!("({left} {} {right})", pick(rng, &["+", "-", "*", "/", "%"]))
        }
        (false, 0) => format!("!({})", inner(false)),
        (false, 1) => {
            let (left, right) = (inner(false), inner(false));
            format!("({left} {} {right})", pick(rng, &["&&", "||"]))
        }
        (false, _) => {
            let (left, right) = (inner(true), inner(true));
            format!("({left} {} {right})", pick(rng, &["==", "!=", "<", "<=", ">", ">="]))
        }
    }
}
