//! The text of a check: compiles or is refused with its place; evaluation ends.
#![no_main]

use depin_domain::cel::{Formula, Rule, Schema, Values, Variable};
use libfuzzer_sys::fuzz_target;

struct Sample(i64, Option<i64>);

impl Values for Sample {
    fn integer(&self, number: u16) -> Option<i64> {
        if number == 0 { Some(self.0) } else { self.1 }
    }

    fn text(&self, _: u16) -> Option<&str> {
        Some("power")
    }

    fn truth(&self, _: u16) -> Option<bool> {
        None
    }

    fn present(&self, _: u16) -> bool {
        self.1.is_some()
    }
}

fuzz_target!(|text: &str| {
    let schema = Schema::default()
        .with("a", Variable::Integer(0))
        .with("t", Variable::Text(0))
        .with("p", Variable::Optional { number: 0, nullable: true })
        .with("p.v", Variable::Integer(1))
        .with("s", Variable::Object)
        .with("s.m", Variable::Optional { number: 0, nullable: false })
        .with("s.m.v", Variable::Integer(1));
    let samples = [Sample(i64::MIN, None), Sample(-1, Some(i64::MIN)), Sample(i64::MAX, Some(0))];
    match Rule::compile(text, &schema) {
        Ok(rule) => samples.iter().for_each(|sample| {
            let _ = rule.evaluate(sample);
        }),
        Err(error) => assert!(error.at <= text.len()),
    }
    if let Ok(formula) = Formula::compile(text, &schema.with_extremes()) {
        samples.iter().for_each(|sample| {
            let _ = formula.evaluate(sample);
        });
    }
});
